//! The chaos suite: real daemons and a real database under load and faults, judged from outside.
//!
//! ```text
//! load ──INSERT──> database <──line── jobd ×3 ──> chaos-job ──> witness's file
//!   └──poke, run-manual──> jobd-master <──line──┘                     │
//!   └──> ledger ───────────────> checker <──────── observer <─────────┘
//! ```
//!
//! - [`options`] what was asked for, [`random`] the seed's numbers;
//! - [`stage`] the server, the daemons and the [`line`](mod@line)s between them; [`load`] the applications;
//!   [`balancer`] what leads them to the nodes of a cluster;
//! - [`faults`] what is done to them;
//! - [`record`] what was seen, [`checker`] (pure) what of it must not be; [`history`] what a cluster's own
//!   records show that it took back, [`taken_back`] the part of a verdict that rests on it;
//! - [`suite`] one run from start to verdict, [`report`] its table;
//! - [`in_file`] a smaller run, on an SQLite file;
//! - [`scene`] the same judges for a scripted test of one fault, [`table`] its rows.
//!
//! It must not ask jobd what happened: it believes the witness, the kernel and the table.

pub mod balancer;
pub mod checker;
pub mod faults;
pub mod footprint;
pub mod history;
pub mod in_file;
pub mod job;
pub mod line;
pub mod load;
pub mod options;
pub mod random;
pub mod record;
pub mod report;
pub mod scene;
pub mod stage;
pub mod suite;
pub mod table;
pub mod taken_back;
