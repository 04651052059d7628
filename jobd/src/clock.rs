//! The clocks: of leases, and of everything else.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// This moment, by the clock of the runtime's timers.
pub fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Time since this host was booted (CLOCK_BOOTTIME of clock_gettime(2)): nobody sets it, and it goes on
/// while the machine is suspended, as other hosts do.
pub fn since_boot() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(now.tv_nsec).unwrap_or_default())
}
