//! What has to be written, in order. Small messages are joined into large writes, large ones are
//! never copied. Knows no sockets.

use std::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};
use tokio::sync::OwnedSemaphorePermit;

/// A message of this size is worth a write of its own.
const LARGE: usize = 16 << 10;

#[derive(Default)]
pub(super) struct Outbox {
    /// Goes first.
    chunks: VecDeque<Bytes>,
    /// Goes after the chunks.
    tail: BytesMut,
    bytes: usize,
    /// Bytes that were ever pushed, since it was last empty.
    pushed: u64,
    /// What to give back when so many of them are written, in order.
    tracked: VecDeque<(u64, OwnedSemaphorePermit)>,
}

impl Outbox {
    pub(super) fn push(&mut self, message: Bytes) {
        if message.len() < LARGE {
            self.push_slice(&message);
        } else {
            self.count(message.len());
            self.seal();
            self.chunks.push_back(message);
        }
    }

    /// Keeps `permit` until the message is written.
    pub(super) fn push_tracked(&mut self, message: Bytes, permit: OwnedSemaphorePermit) {
        self.push(message);
        self.tracked.push_back((self.pushed, permit));
    }

    pub(super) fn push_slice(&mut self, message: &[u8]) {
        self.count(message.len());
        self.tail.extend_from_slice(message);
    }

    /// What to write next; empty when there is nothing. Whoever has written a part of it says so
    /// by [`Outbox::written`].
    pub(super) fn front(&mut self) -> &[u8] {
        if self.chunks.is_empty() {
            self.seal();
        }
        self.chunks.front().map_or(&[], |chunk| chunk.as_ref())
    }

    pub(super) fn written(&mut self, bytes: usize) {
        self.bytes -= bytes;
        if let Some(front) = self.chunks.front_mut() {
            front.advance(bytes);
            if front.is_empty() {
                self.chunks.pop_front();
            }
        }
        if self.bytes == 0 {
            // Idle connections are many: they keep no buffers.
            *self = Self::default();
        }
        let written = self.pushed - self.bytes as u64;
        while self.tracked.front().is_some_and(|(end, _)| *end <= written) {
            self.tracked.pop_front();
        }
    }

    fn count(&mut self, bytes: usize) {
        self.bytes += bytes;
        self.pushed += bytes as u64;
    }

    pub(super) fn len(&self) -> usize {
        self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    fn seal(&mut self) {
        if !self.tail.is_empty() {
            self.chunks.push_back(self.tail.split().freeze());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_order_of_small_and_large_messages() {
        let mut outbox = Outbox::default();
        let mut expected = Vec::new();
        let mut written = Vec::new();
        for round in 0..200_usize {
            let message = vec![u8::try_from(round).unwrap_or(0); (round % 7) * 4_000];
            expected.extend_from_slice(&message);
            outbox.push(message.into());
            let part = outbox.front().len().min(5_000);
            written.extend_from_slice(&outbox.front()[..part]);
            outbox.written(part);
        }
        while !outbox.is_empty() {
            let part = outbox.front().to_vec();
            outbox.written(part.len());
            written.extend(part);
        }
        assert_eq!(written, expected);
        assert!(outbox.front().is_empty());
    }
}
