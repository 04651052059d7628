//! The guard: a small process of jobd's own that ends jobs which jobd cannot end any more.
//!
//! ```text
//!   jobd ──"deadline MS" | "none" | "strike" | "resolved" | "bye"──> guard (stdin)
//!        <──────"predecessors NAME NAME…"──────── guard (stdout), once it has the lock of `state_dir`
//!        <──"struck"───────────────────────────── guard (stdout), when a strike that jobd asked for is over
//! ```
//!
//! When jobd dies, its end of the pipe closes; when jobd is frozen, a deadline passes: either way the guard
//! kills every job. A jobd that finds that a deadline has passed lets it strike until nothing is left, and launches
//! nothing before it says so. It finds the jobs by the mark that each of their processes has
//! ([`marked`](crate::marked)), so it knows of none before.
//!
//! It holds a lock in `state_dir` until the last of them is gone, so that a restarted worker which gets the lock
//! knows that its predecessors' jobs are over. The file names every run of the worker whose rows nobody has
//! resolved yet: a run that dies before it has done so leaves them to the next.
//!
//! It must stay small: no runtime, no database, no config.

mod lock;
mod sentry;

use std::fmt;
use std::fs::File;
use std::io::{self, PipeWriter, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use jobd_proto::daemon::threads::OwnThread;
use rustix::io::ioctl_fionbio;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::unix::pipe;
use tokio::time::{sleep, timeout};

use crate::host::{Guard, Told, Word};

pub use sentry::run;

/// A guard that does not end when it is told to is frozen, and killed.
const FAREWELL: Duration = Duration::from_secs(2);

/// Between two looks whether it has ended.
const FAREWELL_PAUSE: Duration = Duration::from_millis(10);

/// Between two looks whether a guard that was killed has ended.
const REAP_PAUSE: Duration = Duration::from_millis(100);

/// A disk may take so long to write a name; then rows are claimed all the same.
const SIGNING_TIME: Duration = Duration::from_secs(10);

/// jobd's side of the guard.
#[derive(Debug)]
pub struct Process {
    child: Child,
    orders: PipeWriter,
}

impl Process {
    /// See [`Host::guard`](crate::host::Host::guard).
    pub fn start(worker: &str, lock: Option<&Path>, told: Told) -> anyhow::Result<Self> {
        // Also after an upgrade has replaced the file of this program.
        let mut command = Command::new("/proc/self/exe");
        command.arg0("jobd").arg("--guard").arg(worker);
        if let Some(lock) = lock {
            command.arg("--guard-lock").arg(lock);
        }
        // Everything that can fail comes before there is a guard: one whose pipe closes again would end our jobs.
        let (stdin, orders) = io::pipe().context("cannot make a pipe")?;
        // A guard that does not read must not stop jobd.
        ioctl_fionbio(&orders, true).context("cannot set up a pipe")?;
        let (answers, stdout) = io::pipe().context("cannot make a pipe")?;
        let answers =
            pipe::Receiver::from_owned_fd(answers.into()).context("cannot set up a pipe")?;
        command
            .env_clear()
            .stdin(stdin)
            .stdout(stdout)
            .current_dir("/");
        let child = command.spawn()?;
        tokio::spawn(listen(answers, told));
        Ok(Self { child, orders })
    }

    /// A pipe takes a short line at once and whole. Where it does not, the guard is gone, or has been frozen for long.
    fn tell(&mut self, line: &str) -> io::Result<()> {
        self.orders.write_all(line.as_bytes())
    }
}

/// Passes on what the guard says, and that it says nothing more.
async fn listen(answers: pipe::Receiver, mut told: Told) {
    let mut lines = BufReader::new(answers).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        match line.strip_prefix("predecessors") {
            Some(names) => {
                let names = names.split_whitespace().map(str::to_owned);
                told(Word::Locked(names.collect()));
            }
            None => told(Word::Struck),
        }
    }
    told(Word::Ended);
}

/// Adds a run of a worker to those that the lock's file names. To be done before it claims anything: if it dies
/// together with its guard before that gets the lock, which a predecessor's may still hold, the next run must know
/// of this one. Trouble is logged.
pub async fn sign(lock: PathBuf, worker: String) {
    let file = lock.display().to_string();
    // A disk that hangs must not stop jobd.
    let signed = OwnThread::start("jobd-sign").map(|own| own.run(move || append(&lock, &worker)));
    let signed = match signed {
        Ok(signed) => timeout(SIGNING_TIME, signed).await,
        Err(error) => Ok(Ok(Err(error))),
    };
    let error = match signed {
        Ok(Ok(Ok(()))) => return,
        Ok(Ok(Err(error))) => error,
        Ok(Err(_)) | Err(_) => io::ErrorKind::TimedOut.into(),
    };
    tracing::error!(%error, file, "cannot write this run's name for the next one, which may leave alone what this one leaves: mend state_dir");
}

fn append(path: &Path, worker: &str) -> io::Result<()> {
    let mut file = File::options().append(true).create(true).open(path)?;
    file.write_all(format!("{worker}\n").as_bytes())?;
    file.sync_data()
}

impl Guard for Process {
    fn set_deadline(&mut self, deadline: Option<Duration>) -> io::Result<()> {
        let line = match deadline {
            Some(deadline) => format!("deadline {}\n", deadline.as_millis()),
            None => "none\n".to_owned(),
        };
        self.tell(&line)
    }

    fn resolved(&mut self) -> io::Result<()> {
        self.tell("resolved\n")
    }

    fn dismiss(mut self: Box<Self>) {
        let begun = Instant::now();
        if self.tell("bye\n").is_ok() {
            while self.is_alive() && begun.elapsed() < FAREWELL {
                thread::sleep(FAREWELL_PAUSE);
            }
        }
        self.end();
    }

    fn strike(&mut self) -> io::Result<()> {
        self.tell("strike\n")
    }

    fn end(self: Box<Self>) {
        let Self { mut child, orders } = *self;
        // Before the pipe closes: it must not take us for dead.
        let _ = child.kill();
        drop(orders);
        tokio::spawn(async move {
            while let Ok(None) = child.try_wait() {
                sleep(REAP_PAUSE).await;
            }
        });
    }

    fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

/// Says something where jobd's own words go, if anybody still listens there.
fn complain(what: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "jobd's guard: {what}");
}
