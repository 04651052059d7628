//! What both daemons do alike on their host: logs, signals, the service manager, limits.
//!
//! Nothing here knows jobs, targets or requests.

pub mod limits;
pub mod logs;
pub mod notify;
mod rotate;
pub mod signals;
