//! The wire as bytes: what docs/PROTOCOL.md promises to clients that never heard of this crate.

#![allow(clippy::unwrap_used, reason = "tests")]

mod arguments;
mod connection;
mod gate;
mod ground;
mod limits;
mod messages;
mod properties;
mod replies;
mod streams;
