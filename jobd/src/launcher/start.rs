//! Starts a process, and looks after it for its first moments.
//!
//! A job that is over soon is read and reaped by the thread that has started it: to have the reactor watch two
//! pipes and a pidfd for a millisecond costs more (docs/PERFORMANCE.md).

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::process::{ChildStderr, ChildStdin, ChildStdout};
use std::time::{Duration, Instant};

use jobd_proto::follow::Stream as Name;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::process::{Child, Program, Spawned};
use super::stream::Stream;
use super::usage::{Ended, forget_own_peak, reap};
use crate::faults::crash_point;
use crate::follow::Feed;

/// How long a thread stays with a process. Orders wait that long.
const STAY: Duration = Duration::from_millis(10);

/// A process that was started, and what it has written so far.
pub(super) struct Started {
    pub(super) child: Child,
    /// Where it is a pipe.
    pub(super) stdin: Option<ChildStdin>,
    pub(super) stdout: Stream<ChildStdout>,
    pub(super) stderr: Stream<ChildStderr>,
    /// Where the shim says why there is no program.
    pub(super) failure: Option<OwnedFd>,
    /// Where it says how far it has come, and who wants to hear of that.
    pub(super) reports: Option<OwnedFd>,
    pub(super) followers: Vec<Feed>,
    /// How and when it ended, where it is over and reaped.
    pub(super) over: Option<(Ended, Instant)>,
}

/// Starts a process whose outputs are pipes, of each of which at most `limit` bytes are kept. Told to stay,
/// returns as soon as it is over or has run for [`STAY`]. `accounted` asks for what it uses. An error is that of
/// [`Program::spawn`]: nothing was started.
pub(super) fn start(
    program: &mut Program<'_>,
    limit: usize,
    stay: bool,
    accounted: bool,
) -> io::Result<Started> {
    if accounted {
        forget_own_peak();
    }
    let Spawned {
        child,
        stdin,
        stdout,
        stderr,
    } = program.spawn()?;
    crash_point!("spawn-after");
    let mut started = Started {
        stdin,
        stdout: Stream::new(Some(stdout), limit),
        stderr: Stream::new(Some(stderr), limit),
        child,
        failure: None,
        reports: None,
        followers: Vec::new(),
        over: None,
    };
    if stay {
        let ended = started.stay(Instant::now() + STAY, accounted);
        started.over = ended.map(|ended| (ended, Instant::now()));
    }
    Ok(started)
}

impl Started {
    /// The process, and its group.
    pub(super) fn pid(&self) -> Pid {
        self.child.pid()
    }

    /// Shows both outputs to a follower.
    pub(super) fn show(&mut self, feed: &Feed) {
        self.stdout.show(Name::Stdout, feed.clone());
        self.stderr.show(Name::Stderr, feed.clone());
        self.followers.push(feed.clone());
    }

    /// Reads both outputs to their end, and reaps. `None` where that takes longer.
    fn stay(&mut self, until: Instant, accounted: bool) -> Option<Ended> {
        while self.stdout.is_open() || self.stderr.is_open() {
            let [stdout, stderr] = wait([self.stdout.fd(), self.stderr.fd()], until)?;
            self.stdout.read_now(stdout);
            self.stderr.read_now(stderr);
        }
        // A process closes its outputs a moment before it has ended; or it lives on without them.
        if let Some(ended) = reap(&mut self.child, accounted).ok()? {
            return Some(ended);
        }
        let end = pidfd_open(self.pid(), PidfdFlags::empty()).ok()?;
        wait([Some(end.as_fd())], until)?;
        reap(&mut self.child, accounted).ok()?
    }
}

/// Waits until one of these files is ready, and says in what way each is; `None` where none is in time.
fn wait<const N: usize>(
    files: [Option<BorrowedFd<'_>>; N],
    until: Instant,
) -> Option<[PollFlags; N]> {
    // Somebody who never stops writing is always ready.
    let left = until.checked_duration_since(Instant::now())?;
    let timeout = Timespec {
        tv_sec: 0,
        tv_nsec: left.subsec_nanos().into(),
    };
    let polled = |file| PollFd::from_borrowed_fd(file, PollFlags::IN);
    let mut polled: Vec<_> = files.iter().copied().flatten().map(polled).collect();
    // An interruption, which nobody causes, is as good as being late.
    let ready = poll(&mut polled, Some(&timeout))
        .ok()
        .filter(|ready| *ready > 0);
    let mut flags = polled.iter().map(PollFd::revents);
    let mut flags_of = |file: Option<_>| file.and_then(|_| flags.next());
    ready.map(|_| files.map(|file| flags_of(file).unwrap_or(PollFlags::empty())))
}

#[cfg(test)]
mod tests {
    use rustix::process::{Signal, WaitOptions, kill_process_group, waitpid};

    use super::*;

    fn begin(line: &str) -> (Started, Duration) {
        let mut program = Program::shell(line);
        let begun = Instant::now();
        let started = start(&mut program, 1_000, true, false).unwrap();
        (started, begun.elapsed())
    }

    #[test]
    fn who_never_stops_writing_or_lives_on_in_silence_keeps_no_thread() {
        let lines = [
            "while :; do echo loud; done",
            "while :; do echo loud >&2; done",
            "exec >&- 2>&-; sleep 60",
            "sleep 60",
        ];
        for line in lines {
            let (started, took) = begin(line);
            let over = started.over;
            kill_process_group(started.pid(), Signal::KILL).unwrap();
            waitpid(Some(started.pid()), WaitOptions::empty()).unwrap();
            assert_eq!(over, None, "{line}");
            assert!(took < Duration::from_secs(5), "{line}: {took:?}");
        }
    }
}
