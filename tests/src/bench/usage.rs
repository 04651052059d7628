//! What processes cost, as the kernel accounts it in `/proc`.

use std::collections::BTreeMap;
use std::fs;

/// The kernel counts CPU time for user space in hundredths of a second on every architecture that Debian
/// knows (proc(5), `USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

/// Seconds of CPU time that process `pid` has used by itself, in user space and in the kernel; children do not count.
pub fn cpu(pid: u32) -> f64 {
    let fields = stat(pid);
    // utime and stime are the fields 14 and 15; the third one is the first behind the name.
    ticks(&fields[11]) + ticks(&fields[12])
}

/// The same with all children that it has reaped.
pub fn cpu_with_children(pid: u32) -> f64 {
    // cutime and cstime follow utime and stime.
    stat(pid)[11..15].iter().map(|field| ticks(field)).sum()
}

/// Seconds of CPU time that all cores have spent on anything, since the machine's start.
pub fn busy() -> f64 {
    let text = fs::read_to_string("/proc/stat").expect("/proc/stat");
    let line = text.lines().next().expect("the line of all cores");
    let times: Vec<&str> = line.split_whitespace().skip(1).collect();
    // user nice system idle iowait irq softirq; what follows is other machines' or counted twice.
    [0, 1, 2, 5, 6].map(|at| ticks(times[at])).into_iter().sum()
}

/// CPU time and wake-ups of each thread of a process that hardly does anything: to the nanosecond, which nothing tells of the
/// process.
#[derive(Debug)]
pub struct Threads(BTreeMap<String, (u64, u64)>);

impl Threads {
    /// Of process `pid`, until now.
    pub fn now(pid: u32) -> Self {
        let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("the program runs");
        // A thread may end between two looks.
        let threads = threads.flatten().filter_map(|thread| {
            let read = |name| fs::read_to_string(thread.path().join(name)).ok();
            let (schedstat, status) = (read("schedstat")?, read("status")?);
            let nanoseconds = schedstat.split(' ').next()?.parse().ok()?;
            let wake_ups = number_after(&status, "voluntary_ctxt_switches:");
            let name = thread.file_name().to_string_lossy().into_owned();
            Some((name, (nanoseconds, wake_ups)))
        });
        Self(threads.collect())
    }

    /// Seconds of CPU time and wake-ups since then. Of a thread that has ended meanwhile nothing is known, and
    /// nothing is taken away.
    #[expect(clippy::cast_precision_loss, reason = "far less than 2^52")]
    pub fn since(&self, before: &Self) -> (f64, f64) {
        let (mut cpu, mut wake_ups) = (0, 0);
        for (thread, now) in &self.0 {
            let then = before.0.get(thread).copied().unwrap_or_default();
            cpu += now.0.saturating_sub(then.0);
            wake_ups += now.1.saturating_sub(then.1);
        }
        (cpu as f64 / 1e9, wake_ups as f64)
    }
}

/// Resident memory of process `pid` in KiB.
pub fn rss_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the program runs");
    number_after(&status, "VmRSS:")
}

/// The processes that `pid` has started and not reaped.
pub fn children(pid: u32) -> Vec<u32> {
    files_of_threads(pid, "children")
        .flat_map(|list| {
            let numbers = list.split_whitespace().map(str::parse);
            numbers
                .map(|number| number.expect("a process number"))
                .collect::<Vec<_>>()
        })
        .collect()
}

/// A file of `/proc` about each of a process's threads.
fn files_of_threads(pid: u32, name: &str) -> impl Iterator<Item = String> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("the program runs");
    // A thread may end between the two looks.
    threads
        .flatten()
        .filter_map(move |thread| fs::read_to_string(thread.path().join(name)).ok())
}

fn stat(pid: u32) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the program runs");
    let (_, fields) = text.rsplit_once(')').expect("a name in parentheses");
    fields.split_whitespace().map(str::to_owned).collect()
}

fn ticks(field: &str) -> f64 {
    let ticks: f64 = field.parse().expect("a number of ticks");
    ticks / TICKS_PER_SECOND
}

fn number_after(status: &str, field: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let number = line.and_then(|line| line.split_whitespace().next());
    number
        .and_then(|number| number.parse().ok())
        .expect("a number")
}
