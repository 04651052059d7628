//! The guard's own process.

use std::io::{self, Stdin, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::setsid;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};

use super::complain;
use super::lock::Lock;
use crate::clock;
use crate::marked::{self, Mark};

/// What `top` and `pgrep` show of it, whose program is the same as jobd's.
const NAME: &str = "jobd-guard";

/// A scan that finds nothing is repeated for this long: a process that is just being started still
/// shows jobd's environment.
const QUIET: Duration = Duration::from_millis(200);

/// Between two scans.
const PAUSE: Duration = Duration::from_millis(10);

/// So many scans follow each other closely once a deadline has passed; then a frozen jobd is looked after this often.
const SWIFT_SCANS: u32 = 100;
const SLOW_PAUSE: Duration = Duration::from_secs(1);

/// Killed processes that cannot end (in an uninterruptible wait) are not waited for longer.
const PATIENCE: Duration = Duration::from_mins(1);

/// The same while jobd waits to launch other jobs.
const STRIKE_PATIENCE: Duration = Duration::from_secs(5);

/// Watches over the jobs of `worker` until jobd is gone or needs no guard any more.
pub fn run(worker: &str, lock: Option<&Path>) -> ExitCode {
    // A session of its own, so that a terminal's Ctrl-C or a kill of jobd's group leaves it standing.
    let _ = setsid();
    // Only for people: without it, it is called after the link that it was started by.
    let _ = std::fs::write("/proc/self/comm", NAME);
    match Sentry::new(worker, lock).and_then(|sentry| sentry.watch(&io::stdin())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(format_args!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

struct Sentry<'a> {
    worker: &'a str,
    ours: [Mark; 1],
    lock: Option<Lock>,
    deadline: Option<Duration>,
    /// Wakes it at the deadline. Its clock goes on while the machine is suspended, unlike that of poll(2).
    timer: OwnedFd,
    /// Since jobd said something last.
    scans: u32,
}

impl<'a> Sentry<'a> {
    fn new(worker: &'a str, lock: Option<&Path>) -> anyhow::Result<Self> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer =
            timerfd_create(TimerfdClockId::Boottime, flags).context("cannot make a timer")?;
        Ok(Self {
            worker,
            ours: [Mark::of_worker(worker)],
            lock: lock.map(Lock::new),
            deadline: None,
            timer,
            scans: 0,
        })
    }

    fn watch(mut self, stdin: &Stdin) -> anyhow::Result<()> {
        let mut unread = Vec::new();
        loop {
            self.take_lock();
            let now = clock::since_boot();
            let overdue = self.deadline.is_some_and(|deadline| now >= deadline);
            let told = match self.wait(stdin, overdue) {
                Ok(told) => told,
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error).context("cannot wait for jobd"),
            };
            if !told {
                // Only when jobd has nothing to say: a guard that was frozen itself knows an old deadline. And until
                // jobd says otherwise: what it launches meanwhile may not live either.
                if overdue {
                    marked::kill(&self.ours);
                    self.scans += 1;
                }
                continue;
            }
            let mut chunk = [0; 512];
            match rustix::io::read(stdin.as_fd(), &mut chunk) {
                // jobd is gone.
                Ok(0) | Err(_) => {
                    kill_until_quiet(&self.ours, PATIENCE);
                    return Ok(());
                }
                Ok(read) => unread.extend_from_slice(&chunk[..read]),
            }
            while let Some(end) = unread.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = unread.drain(..=end).collect();
                self.scans = 0;
                if self.obey(String::from_utf8_lossy(&line).trim_end())? {
                    return Ok(());
                }
            }
        }
    }

    /// Waits for a word of jobd, or until there is something else to do. Whether jobd has said something, or is gone.
    fn wait(&self, stdin: &Stdin, overdue: bool) -> Result<bool, Errno> {
        let wait = if overdue {
            let swift = self.scans < SWIFT_SCANS;
            Some(if swift { PAUSE } else { SLOW_PAUSE })
        } else {
            self.lock.as_ref().and_then(Lock::pause)
        };
        let wait = wait.and_then(|wait| Timespec::try_from(wait).ok());
        let mut fds = [
            PollFd::new(stdin, PollFlags::IN),
            PollFd::new(&self.timer, PollFlags::IN),
        ];
        // The timer has nothing more to say then.
        let count = if overdue { 1 } else { 2 };
        poll(&mut fds[..count], wait.as_ref())?;
        Ok(!fds[0].revents().is_empty())
    }

    fn take_lock(&mut self) {
        let lock = self.lock.as_mut();
        let Some(predecessors) = lock.and_then(|lock| lock.take(self.worker)) else {
            return;
        };
        // Their own guards have ended their jobs, unless those were killed too.
        let theirs: Vec<Mark> = predecessors
            .iter()
            .map(|run| Mark::of_worker(run))
            .collect();
        if !theirs.is_empty() && marked::kill(&theirs) > 0 {
            kill_until_quiet(&theirs, PATIENCE);
        }
        // A jobd that has died meanwhile needs no answer, but its jobs must be ended.
        let _ = writeln!(io::stdout(), "predecessors {}", predecessors.join(" "));
    }

    /// Does what jobd says; `true` where that was the last word.
    fn obey(&mut self, line: &str) -> anyhow::Result<bool> {
        match (line, &mut self.lock) {
            // Nothing is left to resolve, and what a job has started in the background may live on.
            ("bye", Some(lock)) => lock.leave(),
            ("resolved", Some(lock)) => lock.resolved(self.worker),
            ("bye" | "resolved", None) => {}
            ("strike", _) => {
                kill_until_quiet(&self.ours, STRIKE_PATIENCE);
                self.set_deadline(None)?;
                let _ = writeln!(io::stdout(), "struck");
            }
            _ => {
                let ms = line.strip_prefix("deadline ");
                let ms = ms.and_then(|ms| ms.parse().ok());
                self.set_deadline(ms.map(Duration::from_millis))?;
            }
        }
        Ok(line == "bye")
    }

    fn set_deadline(&mut self, deadline: Option<Duration>) -> anyhow::Result<()> {
        self.deadline = deadline;
        // Zero turns the timer off.
        let at = deadline.unwrap_or_default();
        let at = Itimerspec {
            it_interval: Timespec::default(),
            it_value: Timespec::try_from(at).context("cannot set the timer")?,
        };
        timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &at)
            .context("cannot set the timer")?;
        Ok(())
    }
}

/// Kills every process that carries one of the marks, until there is none or patience ends.
fn kill_until_quiet(marks: &[Mark], patience: Duration) {
    let began = Instant::now();
    let mut quiet_since = began;
    while quiet_since.elapsed() < QUIET && began.elapsed() < patience {
        if marked::kill(marks) > 0 {
            quiet_since = Instant::now();
        }
        sleep(PAUSE);
    }
}
