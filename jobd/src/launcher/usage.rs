//! What a process has used, as the kernel tells whoever reaps it (wait4(2)): nothing else tells the memory of one
//! that is over, as /proc forgets it before anybody can look.
//!
//! Only for jobs whose table has the columns: others cost no system call more.

use std::fs;
use std::io;
use std::process::{Child, ExitStatus};
use std::time::Duration;

use rustix::process::{WaitId, WaitIdOptions, waitid};
use serde::{Deserialize, Serialize};
use wait4::{ResourceUsage, Wait4 as _};

use super::start::pid;

/// What a job's process, and those of its descendants that were waited for, have used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Usage {
    /// CPU time in milliseconds: of all of them together, in user and kernel mode.
    pub cpu_ms: u64,
    /// Memory in KiB: what the largest of them had resident at its peak.
    pub peak_kib: u64,
}

impl Usage {
    fn of(used: &ResourceUsage) -> Self {
        let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Self {
            cpu_ms: milliseconds(used.utime + used.stime),
            peak_kib: used.maxrss / 1024,
        }
    }
}

/// How a process ended, and what it had used, where that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) status: ExitStatus,
    pub(super) usage: Option<Usage>,
}

/// Reaps a process that is over; `None` while it is not. An error: it is not ours to wait for.
pub(super) fn reap(child: &mut Child, accounted: bool) -> io::Result<Option<Ended>> {
    if !accounted {
        let usage = None;
        return Ok(child.try_wait()?.map(|status| Ended { status, usage }));
    }
    // wait4 blocks as long as it lives.
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    if waitid(WaitId::Pid(pid(child)), look)?.is_none() {
        return Ok(None);
    }
    let over = child.wait4()?;
    Ok(Some(Ended {
        status: over.status,
        usage: Some(Usage::of(&over.rusage)),
    }))
}

/// Linux counts what jobd has had resident at its peak to each process that it starts, as that shares its memory until
/// its program begins (setmax_mm_hiwater_rss in exec_mmap). With its peak forgotten (proc(5), `clear_refs`) it is
/// what jobd has at that moment.
pub(super) fn forget_own_peak() {
    // Without that the figures of small jobs are too large, and nothing else happens.
    let _ = fs::write("/proc/self/clear_refs", "5");
}
