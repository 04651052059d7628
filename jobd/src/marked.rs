//! Finds processes by what stands in their environment, which each process inherits that a job starts, also one in
//! a session of its own; and kills them.
//!
//! What cannot be found: a process that was started with another environment, or as another user by a jobd that is
//! not root. No runtime, no database, no config: the guard has none.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, getpid, pidfd_open, pidfd_send_signal, test_kill_process_group,
};

/// What is read of a process's environment: the most that Linux passes at a start is larger, but ours
/// is set by jobd and shells keep it near the front.
const MAX_ENVIRONMENT: u64 = 1 << 20;

/// So long a look waits altogether where no file can be opened: what it does not see lives on.
const SCARCITY: Duration = Duration::from_secs(5);

/// Between two tries then.
const PAUSE: Duration = Duration::from_millis(20);

/// Kills every process, but for this one, that has one of `marks` (each `NAME=value`) in its environment; says how
/// many there were. Processes that are being started meanwhile may be missed.
pub fn kill(marks: &[Vec<u8>]) -> usize {
    let until = Instant::now() + SCARCITY;
    let Ok(processes) = patiently(until, || fs::read_dir("/proc")) else {
        return 0;
    };
    let pids = processes
        .flatten()
        .filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?));
    pids.filter(|pid| *pid != getpid() && is_marked(*pid, marks, until))
        .filter(|pid| kill_one(*pid, marks, until))
        .count()
}

/// Whether a process of this group lives. Those that have ended and that nobody has reaped (an init that does not,
/// as in some containers, never will) do not.
pub fn group_lives(group: Pid) -> bool {
    if test_kill_process_group(group).is_err() {
        return false;
    }
    let until = Instant::now() + SCARCITY;
    let Ok(processes) = patiently(until, || fs::read_dir("/proc")) else {
        return true;
    };
    let mut stats = processes.flatten().filter_map(|entry| {
        let path = entry.path().join("stat");
        patiently(until, || fs::read_to_string(&path)).ok()
    });
    stats.any(|stat| is_alive_in(&stat, group))
}

/// Reads a line of proc_pid_stat(5): behind the name, which may hold anything, stand state, parent and group.
fn is_alive_in(stat: &str, group: Pid) -> bool {
    let Some((_, rest)) = stat.rsplit_once(')') else {
        return false;
    };
    let mut fields = rest.split_whitespace();
    let (state, number) = (fields.next(), fields.nth(1));
    let group = group.as_raw_nonzero().get();
    !matches!(state, Some("Z" | "X"))
        && number.and_then(|number| number.parse().ok()) == Some(group)
}

/// Kills by a descriptor, and looks again once it is held: the number may have gone to a stranger.
fn kill_one(pid: Pid, marks: &[Vec<u8>], until: Instant) -> bool {
    let open = || pidfd_open(pid, PidfdFlags::empty()).map_err(io::Error::from);
    let Ok(process) = patiently(until, open) else {
        return false;
    };
    is_marked(pid, marks, until) && pidfd_send_signal(&process, Signal::KILL).is_ok()
}

/// Opens a file, at the limit of open files again and again.
fn patiently<T>(until: Instant, open: impl Fn() -> io::Result<T>) -> io::Result<T> {
    loop {
        let opened = open();
        let is_scarce = opened.as_ref().is_err_and(|error| {
            let errno = Errno::from_io_error(error);
            matches!(errno, Some(Errno::MFILE | Errno::NFILE))
        });
        if !is_scarce || Instant::now() >= until {
            return opened;
        }
        thread::sleep(PAUSE);
    }
}

fn is_marked(pid: Pid, marks: &[Vec<u8>], until: Instant) -> bool {
    let mut environment = Vec::new();
    let path = format!("/proc/{}/environ", pid.as_raw_nonzero());
    let read = patiently(until, || File::open(&path))
        .and_then(|file| file.take(MAX_ENVIRONMENT).read_to_end(&mut environment));
    read.is_ok()
        && environment
            .split(|byte| *byte == 0)
            .any(|variable| marks.iter().any(|mark| mark == variable))
}
