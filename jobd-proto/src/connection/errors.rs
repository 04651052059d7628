//! Why a request got no answer, and why a connection ended. For logs and for people.

use std::time::Duration;

/// Why a request got no data.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The peer answered with this error.
    #[error("{0}")]
    Refused(String),
    /// The connection ended before the answer came.
    #[error("connection closed: {0}")]
    Closed(CloseReason),
}

/// Why a connection ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CloseReason {
    /// This side asked for it.
    #[error("closed by this side")]
    Here,
    /// The peer ended it.
    #[error("closed by the peer")]
    Peer,
    /// The peer ended it after an error about no request in particular.
    #[error("closed by the peer: {0}")]
    PeerError(String),
    /// The stream failed.
    #[error("{0}")]
    Io(String),
    /// Nothing came for three ping intervals.
    #[error("peer was silent for {0:?}")]
    Silent(Duration),
    /// A frame without an end.
    #[error("message is longer than {0} bytes")]
    FrameTooLong(usize),
    /// A message that cannot be read; see [`ConnectionOptions::strict`](super::ConnectionOptions::strict).
    #[error("message cannot be read: {0}")]
    Unreadable(String),
    /// A frame that was begun and not finished.
    #[error("message was not finished in time")]
    FrameDeadline,
    /// A peer that does not read.
    #[error("peer takes no data")]
    WriteDeadline,
    /// The first request had no or the wrong password.
    #[error("invalid password")]
    InvalidPassword,
    /// It was idle, and others needed the room.
    #[error("closed to make room for other connections")]
    Evicted,
}
