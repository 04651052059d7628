//! Finds processes by what each of them has from the job that has started it, however many processes lie between; and kills
//! them.
//!
//! That is a variable in the environment, and a number for a limit: `RLIMIT_LOCKS`, which Linux keeps, hands on and shows
//! (/proc/PID/limits) and has not obeyed since 2.4.25 (getrlimit(2)). Another environment, a session of its own or a parent that
//! has gone shed neither the limit nor, all but the first, the variable. Both, as a worker that is started within a job and is
//! not root cannot raise what that job has.
//!
//! What cannot be found: a process that sets this limit itself and has another environment; nor killed: one of another
//! user, by a jobd that is not root. No runtime, no database, no config: the guard has none.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, getpid, pidfd_open, pidfd_send_signal, test_kill_process_group,
};

/// Bytes of /proc/PID/limits, which has sixteen lines, and of /proc/PID/stat, which has one.
const MAX_LIMITS: u64 = 4 << 10;
const MAX_STAT: u64 = 4 << 10;

/// What is read of a process's environment: the most that Linux passes at a start is larger, but ours
/// is set by jobd and shells keep it near the front.
const MAX_ENVIRONMENT: u64 = 1 << 20;

/// Lists of the processes that one look takes, at the most: on a machine where they come and go all the time there is always
/// somebody new.
const MAX_LISTS: usize = 50;

/// So long a look waits altogether where no file can be opened: what it does not see lives on.
const SCARCITY: Duration = Duration::from_secs(5);

/// Between two tries then.
const PAUSE: Duration = Duration::from_millis(20);

/// The variable of [`Mark::of_claim`].
pub const CLAIM: &str = "JOBD_CLAIM";

/// The variable of [`Mark::of_worker`].
pub const WORKER: &str = "JOBD_WORKER";

/// What all processes of a job, or of a worker, have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// `NAME=value` in their environment.
    pub variable: String,
    /// Their limit.
    pub limit: u64,
}

impl Mark {
    /// Of a run of a job: the soft limit, which is never above the hard one.
    pub fn of_claim(run: &str) -> Self {
        Self {
            variable: format!("{CLAIM}={run}"),
            limit: hash(run) >> 1,
        }
    }

    /// Of a run of a worker: the hard limit.
    pub fn of_worker(run: &str) -> Self {
        Self {
            variable: format!("{WORKER}={run}"),
            limit: hash(run) >> 1 | 1 << 63,
        }
    }
}

/// FNV-1a. It stays as it is: a guard finds what a worker of an earlier version has left.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Kills every process, but for this one, that has one of `marks`; says how many there were.
///
/// A list of /proc is of one moment, and who forks and ends all the time is another one when it is looked at. So there is another
/// list as long as somebody in the last one may have been followed by others.
pub fn kill(marks: &[Mark]) -> usize {
    let until = Instant::now() + SCARCITY;
    let mut known = HashSet::from([getpid()]);
    let mut killed = 0;
    for _ in 0..MAX_LISTS {
        let Ok(pids) = pids(until) else { break };
        let new: Vec<Pid> = pids.filter(|pid| known.insert(*pid)).collect();
        let found: Vec<Found> = new.iter().map(|pid| strike(*pid, marks, until)).collect();
        killed += found
            .iter()
            .filter(|found| **found == Found::Killed)
            .count();
        if found.iter().all(|found| *found == Found::Stranger) {
            break;
        }
    }
    killed
}

/// Whether a process of this group lives. Those that have ended and that nobody has reaped (an init that does not,
/// as in some containers, never will) do not.
pub fn group_lives(group: Pid) -> bool {
    if test_kill_process_group(group).is_err() {
        return false;
    }
    let until = Instant::now() + SCARCITY;
    let Ok(mut pids) = pids(until) else {
        return true;
    };
    pids.any(|pid| living_in(pid, until) == Some(group.as_raw_nonzero().get()))
}

/// All processes.
fn pids(until: Instant) -> io::Result<impl Iterator<Item = Pid>> {
    let processes = patiently(until, || fs::read_dir("/proc"))?.flatten();
    Ok(processes.filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)))
}

/// The group of a process that lives: of proc_pid_stat(5) what stands behind the name, which may hold anything: state, parent and
/// group.
fn living_in(pid: Pid, until: Instant) -> Option<i32> {
    let stat = read(pid, "stat", MAX_STAT, until);
    let stat = String::from_utf8_lossy(&stat);
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let (state, group) = (fields.next()?, fields.nth(1)?);
    (!matches!(state, "Z" | "X")).then(|| group.parse().ok())?
}

/// What a process turned out to be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Found {
    /// It has none of the marks.
    Stranger,
    /// It is over, or could not be killed.
    Over,
    Killed,
}

/// Kills by a descriptor, and looks again once it is held: the number may have gone to a stranger.
fn strike(pid: Pid, marks: &[Mark], until: Instant) -> Found {
    match is_marked(pid, marks, until) {
        Some(false) => return Found::Stranger,
        None => return Found::Over,
        Some(true) => {}
    }
    let open = || pidfd_open(pid, PidfdFlags::empty()).map_err(io::Error::from);
    let Ok(process) = patiently(until, open) else {
        return Found::Over;
    };
    // What has ended keeps its limit until it is reaped. A process whose first thread has ended looks the same, and gets the
    // signal too.
    let lives = living_in(pid, until).is_some();
    let killed = is_marked(pid, marks, until) == Some(true)
        && pidfd_send_signal(&process, Signal::KILL).is_ok();
    if killed && lives {
        Found::Killed
    } else {
        Found::Over
    }
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

/// Whether it has one of the marks, however many; `None` where it is gone.
fn is_marked(pid: Pid, marks: &[Mark], until: Instant) -> Option<bool> {
    let limits = read(pid, "limits", MAX_LIMITS, until);
    let limits = String::from_utf8_lossy(&limits);
    let mut lines = limits.lines();
    let limits = lines.find_map(|line| line.strip_prefix("Max file locks"))?;
    let limits = limits.split_whitespace().map(str::parse);
    let limits: Vec<u64> = limits.filter_map(Result::ok).collect();
    if marks.iter().any(|mark| limits.contains(&mark.limit)) {
        return Some(true);
    }
    let environment = read(pid, "environ", MAX_ENVIRONMENT, until);
    let mut variables = environment.split(|byte| *byte == 0);
    let is_ours = |variable| {
        let mut marks = marks.iter();
        marks.any(|mark| mark.variable.as_bytes() == variable)
    };
    Some(variables.any(is_ours))
}

/// Reads a file of a process, or as much of it as can be had.
fn read(pid: Pid, file: &str, most: u64, until: Instant) -> Vec<u8> {
    let mut text = Vec::new();
    let path = format!("/proc/{}/{file}", pid.as_raw_nonzero());
    // One that has ended, or is another user's, has nothing to read.
    if let Ok(file) = patiently(until, || File::open(&path)) {
        let _ = file.take(most).read_to_end(&mut text);
    }
    text
}
