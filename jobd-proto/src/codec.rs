//! Where one message ends and the next begins. Must not look into a frame.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use tokio_util::codec::{Decoder, Encoder};

use crate::message::{EOT, Message};

/// Longest frame taken before a required password: enough for any first request, little enough
/// for somebody who may be anybody. Bytes.
pub const MAX_FRAME_BEFORE_PASSWORD: usize = 1 << 20;
/// Longest frame taken from a client: a list of a million job ids. Bytes.
pub const MAX_FRAME_CLIENT: usize = 16 << 20;
/// Longest frame taken from a worker, whose reply to `run-manual` carries whole outputs. Bytes.
pub const MAX_FRAME_WORKER: usize = 256 << 20;

/// A buffer that grew beyond this for one frame is given back after it.
const KEEP_BUFFER: usize = 64 << 10;

/// Cuts a stream of bytes into frames at EOT. White space before a frame and empty frames are
/// skipped. A byte is looked at once, however small the pieces are that it comes in.
#[derive(Debug)]
pub struct EotCodec {
    max_frame: usize,
    /// Bytes at the start of the buffer that are known to hold no EOT.
    scanned: usize,
}

/// Why a stream cannot be cut any further.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// No EOT within the limit; what follows cannot be told apart from this frame.
    #[error("message is longer than {limit} bytes")]
    TooLong {
        /// Bytes that were allowed.
        limit: usize,
    },
    /// The stream itself failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl EotCodec {
    /// A codec for frames of at most `max_frame` bytes, EOT not counted.
    pub fn new(max_frame: usize) -> Self {
        Self {
            max_frame,
            scanned: 0,
        }
    }

    /// Bytes that a frame may have, from the next one on.
    pub fn max_frame(&self) -> usize {
        self.max_frame
    }

    /// Changes the limit; holds for a frame that is already on its way too.
    pub fn set_max_frame(&mut self, max_frame: usize) {
        self.max_frame = max_frame;
    }

    fn skip_white_space(&mut self, source: &mut BytesMut) {
        if self.scanned == 0 {
            let blank = source
                .iter()
                .take_while(|byte| byte.is_ascii_whitespace())
                .count();
            source.advance(blank);
        }
    }
}

impl Decoder for EotCodec {
    type Item = Bytes;
    type Error = FrameError;

    fn decode(&mut self, source: &mut BytesMut) -> Result<Option<Bytes>, FrameError> {
        loop {
            self.skip_white_space(source);
            let fresh = source.get(self.scanned..).unwrap_or_default();
            let end = memchr::memchr(EOT, fresh).map(|at| self.scanned + at);
            if end.unwrap_or(source.len()) > self.max_frame {
                return Err(FrameError::TooLong {
                    limit: self.max_frame,
                });
            }
            let Some(end) = end else {
                self.scanned = source.len();
                return Ok(None);
            };
            self.scanned = 0;
            let frame = source.split_to(end).freeze();
            source.advance(1);
            if frame.len() > KEEP_BUFFER {
                // The rest would keep the whole large buffer alive as long as the connection.
                *source = BytesMut::from(&source[..]);
            }
            if !frame.is_empty() {
                return Ok(Some(frame));
            }
        }
    }

    fn decode_eof(&mut self, source: &mut BytesMut) -> Result<Option<Bytes>, FrameError> {
        // What comes without an EOT was never finished: nobody may act on it.
        self.decode(source)
    }
}

impl Encoder<Message> for EotCodec {
    type Error = FrameError;

    fn encode(&mut self, message: Message, out: &mut BytesMut) -> Result<(), FrameError> {
        message.encode(out);
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_long_frame_leaves_no_long_buffer_behind() {
        let mut codec = EotCodec::new(MAX_FRAME_CLIENT);
        let mut buffer = BytesMut::new();
        buffer.extend_from_slice(&vec![b'x'; 8 << 20]);
        buffer.extend_from_slice(b"\x04[2]");
        assert_eq!(codec.decode(&mut buffer).unwrap().unwrap().len(), 8 << 20);
        assert_eq!(&buffer[..], b"[2]");
        buffer.reserve(1);
        assert!(buffer.capacity() < 1024, "{}", buffer.capacity());
    }

    #[test]
    fn an_unfinished_frame_is_never_handed_out() {
        let mut codec = EotCodec::new(100);
        let mut buffer = BytesMut::from(&b"[2]\x04[3"[..]);
        assert_eq!(codec.decode_eof(&mut buffer).unwrap().unwrap(), "[2]");
        assert!(codec.decode_eof(&mut buffer).unwrap().is_none());
    }
}
