//! The real `jobctl` against servers that speak the real wire, and on a real SQLite table.
//! The servers play daemons: what they answer is fixed, what they are asked is written down.

#![allow(clippy::unwrap_used, reason = "tests")]

mod arguments;
mod between;
mod clusters;
mod daemon;
mod doctor;
mod jobctl;
mod manuals;
mod masters;
mod orders;
mod pipes;
mod ranges;
mod retries;
mod rows;
mod runs;
mod scans;
mod screens;
mod shells;
mod statuses;
mod stops;
mod stored;
mod strangers;
mod table;
mod terminal;
mod terminals;
mod tops;
mod unwell;
mod work;
