//! The ground that the end-to-end tests stand on: private database servers, the real programs
//! started as processes, a raw client for the wire, and an outside witness of what ran.
//!
//! A map:
//! - [`watchdog`] ends what a test started, also when the test itself is killed;
//! - [`process`] one started program, its log, its memory, its end;
//! - [`server`], [`template`] a private MariaDB or MySQL, [`proxy`] a bad line to it;
//!   [`database`] one database per test; [`galera`] a cluster;
//! - [`ground`] the same table on either storage; [`left`] which processes of jobs are there;
//! - [`programs`] jobd, jobd-master and jobctl from the build, [`ini`] their configs;
//! - [`wire`] bytes over TCP, [`golden`] the answers they must get;
//! - [`witness`] who ran when, as the jobs themselves tell it;
//! - [`chaos`] load, faults and a checker: the suite that tests/chaos/run starts;
//! - [`bench`](mod@bench) how fast jobd is, beside its yardsticks: what tests/bench/run starts;
//! - [`scratch`], [`ports`], [`wait`] folders, ports and conditions.
//!
//! It must not know how the programs work inside: they are started, spoken to and killed.

#![allow(
    clippy::unwrap_used,
    clippy::missing_fields_in_debug,
    reason = "a broken test ground must stop the test at once"
)]

pub mod bench;
pub mod chaos;
pub mod database;
pub mod disk;
pub mod galera;
pub mod golden;
pub mod ground;
pub mod ini;
pub mod left;
pub mod ports;
pub mod process;
pub mod programs;
pub mod proxy;
pub mod scratch;
pub mod server;
pub mod template;
pub mod wait;
pub mod watchdog;
pub mod wire;
pub mod witness;

pub use database::{Database, Row};
pub use ini::Ini;
pub use programs::{Jobd, Master};
pub use scratch::Scratch;
pub use server::Server;
pub use wait::until;
pub use wire::Wire;
pub use witness::WitnessLog;
