//! What processes cost, as the kernel accounts it in `/proc`.

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

/// The same to the nanosecond, of the threads that live now: for processes that hardly do anything.
pub fn cpu_of_threads(pid: u32) -> f64 {
    let of_thread = |schedstat: String| -> f64 {
        let nanoseconds = schedstat
            .split(' ')
            .next()
            .and_then(|number| number.parse().ok());
        nanoseconds.expect("nanoseconds on a core")
    };
    let total: f64 = files_of_threads(pid, "schedstat").map(of_thread).sum();
    total / 1e9
}

/// How often process `pid` has slept and was woken, all its threads together.
pub fn wake_ups(pid: u32) -> u64 {
    let statuses = files_of_threads(pid, "status");
    statuses
        .map(|status| number_after(&status, "voluntary_ctxt_switches:"))
        .sum()
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
