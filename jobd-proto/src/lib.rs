//! What jobd's daemons, its command line and its applications agree on.
//!
//! - [`message`], [`codec`]: one message of the wire, and where it ends.
//! - [`worker`], [`master`]: the typed requests and replies of each daemon; [`follow`]: the one that is answered by
//!   a stream; [`progress`]: what jobs say of themselves.
//! - [`connection`], [`listener`]: one symmetric peer, and the door for many.
//! - [`settings`]: config files; `table`: the job table; `daemon`: what both daemons do alike.
//!
//! The wire is described for people who write clients in docs/PROTOCOL.md.

pub mod arguments;
pub mod codec;
pub mod connection;
#[cfg(feature = "daemon")]
pub mod daemon;
pub mod follow;
pub mod job;
mod json;
pub mod listener;
pub mod master;
pub mod memory;
pub mod message;
pub mod pattern;
pub mod progress;
pub mod secret;
pub mod settings;
pub mod signal;
#[cfg(feature = "table")]
pub mod table;
pub mod targets;
pub mod worker;

pub use arguments::RequestError;
pub use connection::{
    CallError, CloseReason, Connection, ConnectionOptions, Incoming, IncomingRequest,
};
pub use job::{JobId, JobResult, TargetName};
pub use pattern::Pattern;
pub use progress::Progress;
pub use secret::Secret;
pub use targets::Targets;
