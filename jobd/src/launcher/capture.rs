//! What a process writes, in raw bytes, within a bound: the head, the tail, and how much between
//! them was dropped. Pure.

use std::collections::VecDeque;

/// One stream of a process, while it runs.
#[derive(Debug)]
pub struct Capture {
    head: Vec<u8>,
    tail: VecDeque<u8>,
    head_limit: usize,
    tail_limit: usize,
    dropped: u64,
}

/// One stream of a process that has ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Captured {
    /// The first bytes; everything, where nothing was omitted and `tail` is empty.
    pub head: Vec<u8>,
    /// The last bytes.
    pub tail: Vec<u8>,
    /// Bytes between them that are gone.
    pub omitted: u64,
}

impl Capture {
    /// Keeps at most `limit` bytes: the first half and the last.
    pub fn new(limit: usize) -> Self {
        let head_limit = limit - limit / 2;
        Self {
            head: Vec::new(),
            tail: VecDeque::new(),
            head_limit,
            tail_limit: limit / 2,
            dropped: 0,
        }
    }

    /// Takes what was read.
    pub fn push(&mut self, bytes: &[u8]) {
        let (head, rest) = bytes.split_at(bytes.len().min(self.head_limit - self.head.len()));
        self.head.extend_from_slice(head);
        let kept = &rest[rest.len().saturating_sub(self.tail_limit)..];
        let room = self.tail_limit - self.tail.len();
        let pushed_out = kept.len().saturating_sub(room);
        self.tail.drain(..pushed_out);
        self.tail.extend(kept);
        self.dropped += (rest.len() - kept.len() + pushed_out) as u64;
    }

    /// Bytes that came so far.
    pub fn written(&self) -> u64 {
        (self.head.len() + self.tail.len()) as u64 + self.dropped
    }

    /// Of the last `length` bytes those that are left, in up to three runs, each with its place.
    pub fn last(&self, length: usize) -> impl Iterator<Item = (u64, &[u8])> {
        let from = self.written().saturating_sub(length as u64);
        let (first, second) = self.tail.as_slices();
        let behind = self.written() - self.tail.len() as u64;
        let runs = [
            (0, &*self.head),
            (behind, first),
            (behind + first.len() as u64, second),
        ];
        runs.into_iter().filter_map(move |(at, bytes)| {
            let skipped = from.saturating_sub(at);
            let bytes = bytes.get(usize::try_from(skipped).ok()?..)?;
            (!bytes.is_empty()).then_some((at + skipped, bytes))
        })
    }

    /// The stream has ended.
    pub fn finish(self) -> Captured {
        Captured {
            head: self.head,
            tail: self.tail.into(),
            omitted: self.dropped,
        }
    }
}

impl Captured {
    /// A text as if it had been captured.
    pub fn whole(text: &str) -> Self {
        Self {
            head: text.as_bytes().to_vec(),
            ..Self::default()
        }
    }

    /// Adds a line of jobd's own to the end.
    pub fn note(&mut self, line: &str) {
        let end = if self.tail.is_empty() && self.omitted == 0 {
            &mut self.head
        } else {
            &mut self.tail
        };
        if end.last().is_some_and(|byte| *byte != b'\n') {
            end.push(b'\n');
        }
        end.extend_from_slice(b"jobd: ");
        end.extend_from_slice(line.as_bytes());
        end.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn head_and_tail_are_the_ends_of_what_was_written(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..40),
            limit in 0_usize..64,
            last in 0_usize..80,
        ) {
            let mut capture = Capture::new(limit);
            for chunk in &chunks {
                capture.push(chunk);
            }
            let written = chunks.concat();
            prop_assert_eq!(capture.written(), written.len() as u64);
            let mut seen = written.len().saturating_sub(last);
            for (at, bytes) in capture.last(last) {
                let at = usize::try_from(at).unwrap();
                prop_assert!(at >= seen && !bytes.is_empty());
                prop_assert_eq!(bytes, &written[at..at + bytes.len()]);
                seen = at + bytes.len();
            }
            prop_assert!(last > limit / 2 || seen == written.len());
            let captured = capture.finish();
            prop_assert!(captured.head.len() + captured.tail.len() <= limit);
            prop_assert_eq!(captured.head.len() as u64 + captured.omitted + captured.tail.len() as u64, written.len() as u64);
            prop_assert!(written.starts_with(&captured.head));
            prop_assert!(written.ends_with(&captured.tail));
            prop_assert!(captured.omitted == 0 || captured.head.len() + captured.tail.len() == limit);
        }
    }
}
