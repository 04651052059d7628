//! What a process has used, as the kernel tells whoever reaps it (wait4(2)): nothing else tells the memory of one
//! that is over, as /proc forgets it before anybody can look.
//!
//! Only for jobs whose table has the columns: others cost no system call more.

use std::fs::File;
use std::io::{self, Write as _};
use std::process::ExitStatus;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use super::process::{Child, Used};

/// What a job's process, and those of its descendants that were waited for, have used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Usage {
    /// CPU time in milliseconds: of all of them together, in user and kernel mode.
    pub cpu_ms: u64,
    /// Memory in KiB: what the largest of them had resident at its peak.
    pub peak_kib: u64,
}

impl Usage {
    fn of(used: &Used) -> Self {
        Self {
            cpu_ms: u64::try_from(used.cpu.as_millis()).unwrap_or(u64::MAX),
            peak_kib: used.peak_kib,
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
    Ok(child.try_wait()?.map(|(status, used)| Ended {
        status,
        usage: accounted.then(|| Usage::of(&used)),
    }))
}

/// Linux counts what jobd has had resident at its peak to each process that it starts, as that shares its memory until
/// its program begins (setmax_mm_hiwater_rss in exec_mmap). With its peak forgotten (proc(5), `clear_refs`) it is
/// what jobd has at that moment.
pub(super) fn forget_own_peak() {
    // Kept open: to open it for each job would cost as much as a pipe.
    static PEAK: OnceLock<Option<File>> = OnceLock::new();
    let peak = PEAK.get_or_init(|| {
        let mut options = File::options();
        options.write(true).open("/proc/self/clear_refs").ok()
    });
    if let Some(mut peak) = peak.as_ref() {
        // Without that the figures of small jobs are too large, and nothing else happens.
        let _ = peak.write_all(b"5");
    }
}
