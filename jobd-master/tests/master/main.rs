//! The real jobd-master, with workers and clients played through the same library that the real
//! ones use.

#![allow(clippy::unwrap_used, reason = "tests")]

mod cancel;
mod fan_out;
mod liveness;
mod manual;
mod played;
mod pokes;
mod process;
mod scale;
