//! What a daemon takes of the machine, so that the end of a run can be compared with its start.

use std::fs;

/// Memory that a daemon may have more at the end than at the start, in KiB: what the allocator
/// keeps of outputs that were held at one time. A leak of 100 bytes a job shows within an hour.
const MEMORY_SLACK_KIB: u64 = 16 * 1024;

/// File descriptors that may be open more: database connections are made when first needed.
const DESCRIPTOR_SLACK: usize = 4;

/// One daemon, at rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// Resident memory.
    pub rss_kib: u64,
    /// Open file descriptors.
    pub descriptors: usize,
    /// Child processes, also those that nobody has waited for.
    pub children: usize,
}

impl Footprint {
    /// Of process `pid`; `None` where it does not run.
    pub fn of(pid: u32) -> Option<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let rss_kib = rss?.split_whitespace().next()?.parse().ok()?;
        Some(Self {
            rss_kib,
            descriptors: descriptors(pid)?,
            children: children(pid),
        })
    }

    /// What of it is more than the beginning allows.
    pub fn beyond(&self, base: &Self) -> Option<String> {
        let ok = self.rss_kib <= base.rss_kib + MEMORY_SLACK_KIB
            && self.descriptors <= base.descriptors + DESCRIPTOR_SLACK
            && self.children <= base.children;
        (!ok).then(|| format!("{base:?} became {self:?}"))
    }
}

/// How many descriptors process `pid` has open.
pub fn descriptors(pid: u32) -> Option<usize> {
    fs::read_dir(format!("/proc/{pid}/fd"))
        .ok()
        .map(Iterator::count)
}

fn children(pid: u32) -> usize {
    processes()
        .filter(|child| parent(*child) == Some(pid))
        .count()
}

/// The process that started process `pid`, or that has taken it in.
pub fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields = stat.rsplit_once(')')?.1;
    fields.split_whitespace().nth(1)?.parse().ok()
}

/// The words of a process's command, each with a NUL behind it.
pub fn command_line(pid: u32) -> Vec<u8> {
    fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default()
}

/// The numbers of all processes.
pub fn processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}
