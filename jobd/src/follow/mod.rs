//! The way from a job to somebody who follows it: a bounded buffer with a [`Feed`] at the job's end and a
//! [`Follower`] at the other.
//!
//! ```text
//!  process ──bytes──> Feed ─┐
//!                           ├─> Shared ──> Follower ──> serve ──> connection
//!  dispatcher ──its end───> ┘
//! ```
//!
//! The job's end never waits: what does not fit is dropped, and seen at the other end by its place in the stream.
//! A job that nobody follows has no feed, and pays nothing.

pub mod serve;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jobd_proto::follow::{MAX_TAIL, Output, Stream};
use jobd_proto::{JobResult, Progress};
use tokio::sync::Notify;

/// Followers of one job: people and a page or two.
pub const MAX_PER_JOB: usize = 16;

/// Bytes of one message: what a window of eight needs for a fast link, and little enough to be made between two reads
/// of the job's output.
const CHUNK: usize = 32 << 10;

/// Bytes that wait for one follower: both tails, and what a job writes while they are on their way.
const BUFFER: usize = 2 * MAX_TAIL + CHUNK;

/// What a piece costs beside its bytes.
const PIECE: usize = 64;

/// What a follower is told.
#[derive(Debug, PartialEq, Eq)]
pub enum Item {
    /// The job runs now, its attempt of this number.
    Started(u32),
    /// How far it has come, as it said last.
    Progress(Progress),
    /// What it wrote, and what of that is missing before.
    Output(Output),
    /// Nothing more will come.
    Ended(Ending),
}

/// How the following ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The job is done, and its row says so.
    Done {
        result: JobResult,
        code: Option<i32>,
        signal: Option<String>,
    },
    /// The attempt is over without that: the row says what becomes of the job.
    Over,
    /// The worker is going.
    Stopping,
}

/// The job's end; cheap to clone. When the last one is gone, so is the worker.
#[derive(Clone, Debug)]
pub struct Feed {
    end: Arc<FeedEnd>,
    /// Bytes of each stream that the follower wants of what was written before it came.
    pub tail: usize,
}

#[derive(Debug)]
struct FeedEnd(Arc<Shared>);

/// The follower's end.
#[derive(Debug)]
pub struct Follower {
    shared: Arc<Shared>,
    /// Bytes of each stream that it has seen or was told that it missed.
    seen: [u64; 2],
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Notify,
    /// Nobody listens any more.
    gone: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    started: Option<u32>,
    /// The last that it said; what it said before that, and nobody has read, is of no interest.
    progress: Option<Progress>,
    pieces: VecDeque<Piece>,
    /// Of all pieces.
    cost: usize,
    /// Bytes that the job has written to each stream.
    written: [u64; 2],
    /// The beginning of a character whose rest is still to come, with its place.
    split: [Option<Piece>; 2],
    ending: Option<Ending>,
}

#[derive(Debug)]
struct Piece {
    stream: Stream,
    at: u64,
    bytes: Vec<u8>,
}

/// A new buffer.
pub fn new(tail: usize) -> (Feed, Follower) {
    let shared = Arc::new(Shared::default());
    let feed = Feed {
        end: Arc::new(FeedEnd(shared.clone())),
        tail,
    };
    let follower = Follower {
        shared,
        seen: [0; 2],
    };
    (feed, follower)
}

impl Feed {
    /// An attempt of this number runs.
    pub fn started(&self, attempt: u32) {
        self.change(|state| state.started = Some(attempt));
    }

    /// The same for a process that is about to be started: it may have written much by the time it hears of this.
    pub fn with_all(&self) -> Self {
        Self {
            tail: usize::MAX,
            ..self.clone()
        }
    }

    /// The job has written these bytes to a stream, the first of them at this place.
    pub fn push(&self, stream: Stream, at: u64, bytes: &[u8]) {
        if self.is_gone() {
            return;
        }
        self.change(|state| {
            let mut at = at;
            state.written[stream as usize] = at + bytes.len() as u64;
            for bytes in bytes.chunks(CHUNK) {
                state.push(stream, at, bytes);
                at += bytes.len() as u64;
            }
        });
    }

    /// The job has come so far.
    pub fn progress(&self, progress: Progress) {
        self.change(|state| state.progress = Some(progress));
    }

    /// Nothing more will come.
    pub fn end(&self, ending: Ending) {
        self.change(|state| {
            state.ending.get_or_insert(ending);
        });
    }

    /// Whether nobody listens any more.
    pub fn is_gone(&self) -> bool {
        self.end.0.gone.load(Ordering::Relaxed)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.end.0.lock());
        self.end.0.changed.notify_one();
    }
}

impl Drop for FeedEnd {
    fn drop(&mut self) {
        self.0.lock().ending.get_or_insert(Ending::Stopping);
        self.0.changed.notify_one();
    }
}

impl Follower {
    /// The next that there is to tell. Not to be asked again after the end. Cancel-safe.
    pub async fn next(&mut self) -> Item {
        loop {
            let item = self.shared.lock().next(&mut self.seen);
            match item {
                Some(item) => return item,
                None => self.shared.changed.notified().await,
            }
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.shared.gone.store(true, Ordering::Relaxed);
        *self.shared.lock() = State::default();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that can panic runs under this lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn push(&mut self, stream: Stream, at: u64, bytes: &[u8]) {
        let room = BUFFER.saturating_sub(self.cost + PIECE);
        let bytes = &bytes[..bytes.len().min(room)];
        if bytes.is_empty() {
            return;
        }
        self.cost += bytes.len();
        match self.pieces.back_mut() {
            Some(last) if last.takes(stream, at, bytes) => last.bytes.extend_from_slice(bytes),
            _ => {
                self.cost += PIECE;
                self.pieces.push_back(Piece {
                    stream,
                    at,
                    bytes: bytes.to_vec(),
                });
            }
        }
    }

    fn next(&mut self, seen: &mut [u64; 2]) -> Option<Item> {
        if let Some(attempt) = self.started.take() {
            return Some(Item::Started(attempt));
        }
        if let Some(progress) = self.progress.take() {
            return Some(Item::Progress(progress));
        }
        while let Some(piece) = self.pieces.pop_front() {
            self.cost -= PIECE + piece.bytes.len();
            if let Some(piece) = self.whole_characters(piece) {
                return Some(Item::Output(piece.output(seen)));
            }
        }
        let ending = self.ending.clone()?;
        for (stream, split) in [Stream::Stdout, Stream::Stderr]
            .into_iter()
            .zip(&mut self.split)
        {
            // Nothing more will complete it.
            if let Some(piece) = split.take() {
                return Some(Item::Output(piece.output(seen)));
            }
            let at = self.written[stream as usize];
            if seen[stream as usize] < at {
                let nothing = Piece {
                    stream,
                    at,
                    bytes: Vec::new(),
                };
                return Some(Item::Output(nothing.output(seen)));
            }
        }
        Some(Item::Ended(ending))
    }

    /// Keeps a character that the end of a piece has cut for the piece that goes on with it, so that text stays text.
    fn whole_characters(&mut self, mut piece: Piece) -> Option<Piece> {
        let split = &mut self.split[piece.stream as usize];
        if let Some(mut before) = split.take() {
            if before.takes(piece.stream, piece.at, &piece.bytes) {
                before.bytes.append(&mut piece.bytes);
                piece = before;
            } else {
                // What would complete it was dropped.
                self.cost += PIECE + piece.bytes.len();
                self.pieces.push_front(piece);
                return Some(before);
            }
        }
        let whole = piece.bytes.len() - cut_character(&piece.bytes);
        if whole < piece.bytes.len() {
            let bytes = piece.bytes.split_off(whole);
            *split = Some(Piece {
                at: piece.at + whole as u64,
                bytes,
                ..piece
            });
        }
        (whole > 0).then_some(piece)
    }
}

impl Piece {
    /// Whether these bytes go on where it ends, and fit one message together with it.
    fn takes(&self, stream: Stream, at: u64, bytes: &[u8]) -> bool {
        let length = self.bytes.len();
        // A cut character may come on top.
        self.stream == stream
            && self.at + length as u64 == at
            && (length + bytes.len() <= CHUNK || length < 4)
    }

    fn output(self, seen: &mut [u64; 2]) -> Output {
        let seen = &mut seen[self.stream as usize];
        let missed = self.at - *seen;
        *seen = self.at + self.bytes.len() as u64;
        Output::new(self.stream, self.at, missed, self.bytes)
    }
}

/// Bytes at the end that begin a character of UTF-8 and do not finish it.
fn cut_character(bytes: &[u8]) -> usize {
    for length in 1..=bytes.len().min(3) {
        let needed = match bytes[bytes.len() - length] {
            0x80..0xC0 => continue,
            0xC2..0xE0 => 2,
            0xE0..0xF0 => 3,
            0xF0..0xF5 => 4,
            _ => 0,
        };
        return if needed > length { length } else { 0 };
    }
    0
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use proptest::prelude::*;

    use super::*;

    fn next(follower: &mut Follower) -> Option<Item> {
        follower.next().now_or_never()
    }

    #[test]
    fn a_follower_is_told_in_this_order() {
        let (feed, mut follower) = new(0);
        feed.push(Stream::Stdout, 5, b"out");
        feed.push(Stream::Stdout, 8, b"put");
        feed.push(Stream::Stderr, 0, b"err");
        feed.started(2);
        let output = |stream, at, missed, bytes: &str| {
            Some(Item::Output(Output::new(stream, at, missed, bytes.into())))
        };
        assert_eq!(next(&mut follower), Some(Item::Started(2)));
        assert_eq!(next(&mut follower), output(Stream::Stdout, 5, 5, "output"));
        assert_eq!(next(&mut follower), output(Stream::Stderr, 0, 0, "err"));
        assert_eq!(next(&mut follower), None);
        feed.end(Ending::Over);
        feed.end(Ending::Stopping);
        assert_eq!(next(&mut follower), Some(Item::Ended(Ending::Over)));
    }

    #[test]
    fn a_worker_that_goes_ends_it_and_a_follower_that_goes_keeps_nothing() {
        let (feed, mut follower) = new(0);
        drop(feed.clone());
        assert_eq!(next(&mut follower), None);
        drop(feed);
        assert_eq!(next(&mut follower), Some(Item::Ended(Ending::Stopping)));
        let (feed, follower) = new(0);
        feed.push(Stream::Stdout, 0, &[b'x'; 5000]);
        drop(follower);
        feed.push(Stream::Stdout, 5000, &[b'x'; 5000]);
        assert!(feed.is_gone() && feed.end.0.lock().pieces.is_empty());
    }

    #[test]
    fn memory_is_bounded_whatever_a_job_writes() {
        for size in [1, 100, 16 << 10] {
            let (feed, mut follower) = new(0);
            let bytes = vec![b'x'; size];
            let mut at = 0;
            for round in 0..3 * BUFFER / size / 2 * 2 {
                let stream = [Stream::Stdout, Stream::Stderr][round % 2];
                feed.push(stream, at, &bytes);
                at += if round % 2 == 1 { size as u64 } else { 0 };
            }
            let held: usize = {
                let state = feed.end.0.lock();
                let pieces = state.pieces.iter();
                pieces.map(|piece| piece.bytes.len() + PIECE).sum()
            };
            assert!(held <= BUFFER, "{held} with pieces of {size}");
            feed.end(Ending::Over);
            let mut counted = 0;
            loop {
                match next(&mut follower).unwrap() {
                    Item::Output(output) => {
                        counted += output.missed;
                        let bytes = output.into_bytes();
                        assert!(bytes.len() <= CHUNK);
                        counted += bytes.len() as u64;
                    }
                    Item::Ended(_) => break,
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!(counted, 2 * at, "every byte is seen or counted as missed");
        }
    }

    proptest! {
        #[test]
        fn what_is_read_in_time_comes_whole_and_text_as_text(
            text in "\\PC{0,60}",
            broken in prop::collection::vec(any::<u8>(), 0..6),
            cuts in prop::collection::vec(0_usize..9, 1..40),
            reads in prop::collection::vec(any::<bool>(), 1..40),
        ) {
            let written = [text.as_bytes(), &broken].concat();
            let (feed, mut follower) = new(0);
            let mut read = Vec::new();
            let mut text_only = true;
            let mut take = |item: Option<Item>| {
                if let Some(Item::Output(output)) = item {
                    assert_eq!((output.at, output.missed), (read.len() as u64, 0));
                    let bytes = output.into_bytes();
                    text_only &= std::str::from_utf8(&bytes).is_ok();
                    read.extend(bytes);
                    true
                } else {
                    false
                }
            };
            let (mut at, mut steps) = (0, cuts.iter().cycle().zip(reads.iter().cycle()));
            while at < written.len() {
                let (cut, reads) = steps.next().unwrap();
                let end = (at + cut + 1).min(written.len());
                feed.push(Stream::Stdout, at as u64, &written[at..end]);
                at = end;
                while *reads && take(next(&mut follower)) {}
            }
            feed.end(Ending::Over);
            while take(next(&mut follower)) {}
            prop_assert_eq!(&read, &written);
            prop_assert!(text_only || !broken.is_empty());
        }
    }
}
