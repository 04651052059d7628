//! How a connection comes to its end, and what is still said then.

use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{Link, SMALL_READ};
use crate::connection::CloseReason;
use crate::connection::outbox::Outbox;

/// After a refusal: how long, and how much, the peer may go on sending before the socket is
/// closed. A socket closed with unread data resets, and the peer may never see why.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 64 << 20;
/// How long to look for what a peer said before it stopped taking data.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// How far the connection is on its way to its end.
pub(super) enum Closing {
    No,
    /// Takes no new requests; ends when all are answered.
    WhenIdle,
    /// Takes nothing more; ends when the outbox is empty.
    AfterFlush(CloseReason),
}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> Link<S> {
    pub(super) fn close_after_flush(&mut self, reason: CloseReason) {
        if !matches!(self.closing, Closing::AfterFlush(_)) {
            self.closing = Closing::AfterFlush(reason);
        }
    }

    /// Whether nothing is left to be done, and why.
    pub(super) fn finished(&self) -> Option<CloseReason> {
        let answered = self.unanswered == 0 && self.outbox.is_empty();
        let stays_for_answers =
            self.options.half_close && !self.shared.pinned.load(Ordering::Relaxed);
        match &self.closing {
            Closing::AfterFlush(reason) => self.outbox.is_empty().then(|| reason.clone()),
            // Frames that are still in the inbox wait for the answers before them.
            _ if self.ended => {
                (!stays_for_answers || (answered && !self.at_limit())).then(|| self.ended_by_peer())
            }
            Closing::WhenIdle if answered && self.shared.pending.is_empty() => {
                Some(CloseReason::Here)
            }
            _ => None,
        }
    }

    pub(super) fn ended_by_peer(&self) -> CloseReason {
        self.peer_error
            .clone()
            .map_or(CloseReason::Peer, CloseReason::PeerError)
    }

    /// After a failed write: what the peer said before it went may tell why.
    pub(super) async fn last_words(&mut self, error: &io::Error) -> CloseReason {
        self.outbox = Outbox::default();
        let listen = async {
            while self.wants_frames() {
                self.inbox.reserve(SMALL_READ);
                if !matches!(self.reader.read_buf(&mut self.inbox).await, Ok(1..)) {
                    break;
                }
                self.read_frames();
            }
        };
        // What was sent before a reset is here already.
        let _ = tokio::time::timeout(LAST_WORDS, listen).await;
        self.broken(error)
    }

    /// The peer's own explanation says more than the stream's.
    pub(super) fn broken(&self, error: &io::Error) -> CloseReason {
        match &self.peer_error {
            Some(text) => CloseReason::PeerError(text.clone()),
            None => CloseReason::Io(error.to_string()),
        }
    }
}

/// Ends the sending side and swallows what is still on its way.
pub(super) async fn linger(
    mut reader: impl AsyncRead + Unpin,
    mut writer: impl AsyncWrite + Unpin,
) {
    let swallow = async {
        writer.shutdown().await?;
        let mut waste = vec![0; 16 << 10];
        let mut left = LINGER_BYTES;
        while left > 0 {
            match reader.read(&mut waste).await? {
                0 => break,
                bytes => left = left.saturating_sub(bytes),
            }
        }
        io::Result::Ok(())
    };
    // The peer is told already; how it goes away does not matter.
    let _ = tokio::time::timeout(LINGER, swallow).await;
}
