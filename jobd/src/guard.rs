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
//! nothing before it says so. It finds the jobs by their environment, `JOBD_WORKER` ([`marked`]), so a job's start
//! costs nothing here.
//!
//! It holds a lock in `state_dir` until the last of them is gone, so that a restarted worker which gets the lock
//! knows that its predecessors' jobs are over. The file names every run of the worker whose rows nobody has
//! resolved yet: a run that dies before it has done so leaves them to the next.
//!
//! It must stay small: no runtime, no database, no config.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, PipeWriter, Read as _, Seek as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, flock};
use rustix::io::{Errno, ioctl_fionbio};
use rustix::process::setsid;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::unix::pipe;
use tokio::time::sleep;

use crate::clock;
use crate::host::{Guard, Told, Word};
use crate::marked;

/// A scan that finds nothing is repeated for this long: a process that is just being started still
/// shows jobd's environment.
const QUIET: Duration = Duration::from_millis(200);

/// Between two scans.
const PAUSE: Duration = Duration::from_millis(10);

/// So many scans follow each other closely once a deadline has passed; then a frozen jobd is looked after this often.
const SWIFT_SCANS: u32 = 100;
const SLOW_PAUSE: Duration = Duration::from_secs(1);

/// A guard that does not end when it is told to is frozen, and killed.
const FAREWELL: Duration = Duration::from_secs(2);

/// Killed processes that cannot end (in an uninterruptible wait) are not waited for longer.
const PATIENCE: Duration = Duration::from_mins(1);

/// The same while jobd waits to launch other jobs.
const STRIKE_PATIENCE: Duration = Duration::from_secs(5);

/// Between two looks whether a guard that was killed has ended.
const REAP_PAUSE: Duration = Duration::from_millis(100);

/// How often the lock is tried while another guard holds it.
const LOCK_PAUSE: Duration = Duration::from_millis(100);

/// Runs that the lock's file names at most: more, and a worker has died again and again without ever reaching
/// its database. The oldest are kept, as the others held nothing.
const MAX_RUNS: usize = 1_000;

/// jobd's side of the guard.
#[derive(Debug)]
pub struct Process {
    child: Child,
    orders: PipeWriter,
}

impl Process {
    /// See [`Host::guard`](crate::host::Host::guard).
    pub fn start(worker: &str, lock: Option<&Path>, told: Told) -> anyhow::Result<Self> {
        // Before anything is claimed: if both of us die before the guard gets the lock, which a predecessor's may
        // still hold, the next run must know of this one.
        if let Some(lock) = lock
            && let Err(error) = sign(lock, worker)
        {
            tracing::warn!(%error, file = %lock.display(), "cannot write this run's name for the next one");
        }
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

/// Adds a run to those that the lock's file names.
fn sign(path: &Path, worker: &str) -> io::Result<()> {
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
                std::thread::sleep(PAUSE);
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

/// The guard's own process.
pub fn run(worker: &str, lock: Option<&Path>) -> ExitCode {
    // A session of its own, so that a terminal's Ctrl-C or a kill of jobd's group leaves it standing.
    let _ = setsid();
    match watch(worker, lock) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("jobd's guard: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn watch(worker: &str, lock: Option<&Path>) -> anyhow::Result<()> {
    let mut lock = lock.map(Lock::open).transpose()?;
    let stdin = io::stdin();
    let mut unread = Vec::new();
    let mut deadline: Option<Duration> = None;
    let ours = [mark(worker)];
    let mut scans = 0;
    loop {
        if let Some(waiting) = lock.as_mut().filter(|lock| !lock.held)
            && let Some(predecessors) = waiting.take(worker)?
        {
            // Their own guards have ended their jobs, unless those were killed too.
            let theirs: Vec<Vec<u8>> = predecessors.iter().map(|run| mark(run)).collect();
            if !theirs.is_empty() && marked::kill(&theirs) > 0 {
                kill_until_quiet(&theirs, PATIENCE);
            }
            // A jobd that has died meanwhile needs no answer, but its jobs must be ended below.
            let _ = writeln!(io::stdout(), "predecessors {}", predecessors.join(" "));
        }
        let now = clock::since_boot();
        let overdue = deadline.is_some_and(|deadline| now >= deadline);
        let wait = if overdue {
            let swift = scans < SWIFT_SCANS;
            Some(if swift { PAUSE } else { SLOW_PAUSE })
        } else {
            let lock_pause = lock.as_ref().filter(|lock| !lock.held).map(|_| LOCK_PAUSE);
            let until = deadline.map(|deadline| deadline.saturating_sub(now));
            [lock_pause, until].into_iter().flatten().min()
        };
        let mut fds = [PollFd::new(&stdin, PollFlags::IN)];
        match poll(&mut fds, wait.and_then(timespec).as_ref()) {
            // Only when jobd has nothing to say: a guard that was frozen itself knows an old deadline. And until
            // jobd says otherwise: what it launches meanwhile may not live either.
            Ok(0) if overdue => {
                marked::kill(&ours);
                scans += 1;
                continue;
            }
            Ok(0) | Err(rustix::io::Errno::INTR) => continue,
            Ok(_) => {}
            Err(error) => return Err(error).context("cannot wait for jobd"),
        }
        let mut chunk = [0; 512];
        match rustix::io::read(stdin.as_fd(), &mut chunk) {
            // jobd is gone.
            Ok(0) | Err(_) => {
                kill_until_quiet(&ours, PATIENCE);
                return Ok(());
            }
            Ok(read) => unread.extend_from_slice(&chunk[..read]),
        }
        while let Some(end) = unread.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = unread.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            scans = 0;
            let held = lock.as_mut().filter(|lock| lock.held);
            if obey(line.trim_end(), worker, held, &mut deadline) {
                return Ok(());
            }
        }
    }
}

/// Does what jobd says; `true` where that was the last word.
fn obey(
    line: &str,
    worker: &str,
    lock: Option<&mut Lock>,
    deadline: &mut Option<Duration>,
) -> bool {
    match (line, lock) {
        // Nothing is left to resolve, and what a job has started in the background may live on.
        ("bye", Some(lock)) => lock.write(None),
        ("resolved", Some(lock)) => {
            lock.before.clear();
            lock.write(Some(worker));
        }
        ("bye" | "resolved", None) => {}
        ("strike", _) => {
            kill_until_quiet(&[mark(worker)], STRIKE_PATIENCE);
            *deadline = None;
            // A jobd that has died meanwhile needs no answer.
            let _ = writeln!(io::stdout(), "struck");
        }
        _ => {
            let ms = line
                .strip_prefix("deadline ")
                .and_then(|ms| ms.parse().ok());
            *deadline = ms.map(Duration::from_millis);
        }
    }
    line == "bye"
}

fn timespec(wait: Duration) -> Option<Timespec> {
    Timespec::try_from(wait).ok()
}

/// What stands in the environment of every process of a run.
fn mark(run: &str) -> Vec<u8> {
    format!("JOBD_WORKER={run}").into_bytes()
}

/// Kills every process that carries one of the marks, until there is none or patience ends.
fn kill_until_quiet(marks: &[Vec<u8>], patience: Duration) {
    let began = Instant::now();
    let mut quiet_since = began;
    while quiet_since.elapsed() < QUIET && began.elapsed() < patience {
        if marked::kill(marks) > 0 {
            quiet_since = Instant::now();
        }
        std::thread::sleep(PAUSE);
    }
}

/// The lock of one worker's name, and the names of its runs: those that may have left rows, and the one that
/// holds it.
struct Lock {
    file: File,
    path: PathBuf,
    held: bool,
    /// It was said that it cannot be had.
    told: bool,
    /// Former runs whose rows nobody has resolved yet.
    before: Vec<String>,
}

impl Lock {
    fn open(path: &Path) -> anyhow::Result<Self> {
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false);
        let file = options
            .open(path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        Ok(Self {
            file,
            path: path.to_owned(),
            held: false,
            told: false,
            before: Vec::new(),
        })
    }

    /// Tries to get it; then adds our name and returns those of the others.
    fn take(&mut self, worker: &str) -> anyhow::Result<Option<Vec<String>>> {
        if let Err(error) = flock(&self.file, FlockOperation::NonBlockingLockExclusive) {
            if error != Errno::WOULDBLOCK && !std::mem::replace(&mut self.told, true) {
                let path = self.path.display();
                eprintln!(
                    "jobd's guard: cannot lock {path}, trying again: {error}; put state_dir on a local disk"
                );
            }
            return Ok(None);
        }
        self.held = true;
        let mut before = String::new();
        self.file
            .read_to_string(&mut before)
            .with_context(|| format!("cannot read {}", self.path.display()))?;
        // Ours is there already, and once more for each guard of this run that was replaced.
        let others = before.split_whitespace().filter(|run| *run != worker);
        // In the order of their starts, which their names have.
        let others: BTreeSet<&str> = others.collect();
        self.before = others
            .into_iter()
            .take(MAX_RUNS)
            .map(str::to_owned)
            .collect();
        self.write(Some(worker));
        Ok(Some(self.before.clone()))
    }

    /// Writes who may have left rows behind, and whose jobs live.
    fn write(&mut self, worker: Option<&str>) {
        let runs = self.before.iter().map(String::as_str).chain(worker);
        let text: String = runs.flat_map(|run| [run, "\n"]).collect();
        // Cut off last: at no moment is a name missing.
        let mut write = || {
            self.file.rewind()?;
            self.file.write_all(text.as_bytes())?;
            self.file.set_len(text.len() as u64)?;
            self.file.sync_all()
        };
        // The lock counts, and the jobs are guarded: without our name in it, leases decide what becomes of the
        // rows that we may leave.
        if let Err(error) = write() {
            let path = self.path.display();
            eprintln!("jobd's guard: cannot write {path}: {error}");
        }
    }
}
