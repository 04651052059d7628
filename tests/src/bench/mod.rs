//! The benchmark: how fast jobd is, next to what it can be compared with on the same machine in the
//! same minutes. `tests/bench/run` builds and starts it.
//!
//! - [`options`] what was asked for;
//! - [`stage`] the durable server, the tables and the workers; [`usage`] what processes cost;
//!   [`fleet`] thousands of connections; [`slow_log`] how long claims take; [`yardsticks`] what jobd is compared with;
//! - [`scenarios`] one page per question;
//! - [`results`] figures and ratios of a run, its JSON and its tables; [`machine`] where it ran;
//!   [`plot`] curves; [`check`] the comparison with what is kept in the repository.
//!
//! Everything is measured from outside: by the table, by `/proc`, and by the jobs themselves. A figure is
//! measured in turns with its yardstick, and a ratio is formed within each turn, so that a machine that
//! changes its pace spoils neither.

pub mod check;
pub mod fleet;
pub mod machine;
pub mod options;
pub mod plot;
pub mod results;
pub mod scenarios;
pub mod slow_log;
pub mod stage;
pub mod usage;
pub mod yardsticks;
