//! What both daemons do alike on their host: logs, signals, the service manager, limits, threads,
//! reading a config again.
//!
//! Nothing here knows jobs, targets or requests.

pub mod limits;
pub mod logs;
pub mod notify;
pub mod reload;
mod rotate;
pub mod signals;
pub mod threads;
