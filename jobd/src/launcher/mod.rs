//! Starts a process for a job and brings back how it ended.
//!
//! Each process leads a group of its own, so that a job can be stopped with all its children. It
//! must not know tables, targets or clients: it is given a job and answers with an [`Outcome`].

mod attempt;
mod capture;
mod environment;
mod exit;
mod input;
mod ladder;
mod output_file;
mod process;
mod reporter;
mod spawner;
mod start;
mod stream;
mod template;
mod usage;

use std::borrow::Cow;
use std::ffi::{CString, OsString};
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use rustix::process::Signal;
use tokio::sync::mpsc;

use self::environment::Environment;
use self::output_file::Writers;
use self::process::Program;
use self::spawner::Spawner;
use self::stream::Leaks;
use crate::fate::Reason;
use crate::job::Job;
use crate::marked::Mark;
use crate::per_target::{PerTarget, TargetSettings};
use crate::reports::Reports;
use crate::shim::Setup;

pub use attempt::{Attempt, Order};
pub use capture::Captured;
pub use input::Payloads;
pub use ladder::{KillSequence, MAX_DURATION as MAX_KILL};
pub use output_file::FileTemplate;
pub use process::keep_children;
pub use template::Template;
pub use usage::Usage;

/// Names a run to its job, which is marked by it: the claim and the job, as a claim is of many jobs. Unlike its id and
/// attempt no other run ever had it.
fn run_name(job: &Job) -> String {
    format!("{}/{}", job.token.as_str(), job.id)
}

/// The `launcher*` settings, and what belongs to them.
#[derive(Clone, Debug)]
pub struct LauncherSettings {
    /// `launcher`.
    pub template: Template,
    /// `launcher.cwd`; jobd's own working directory if unset.
    pub cwd: Option<PathBuf>,
    /// `launcher.env.*`.
    pub env: Vec<(String, String)>,
    /// `max_output_buffer`: bytes kept of each stream. By default what a MEDIUMTEXT holds, and a bound on memory
    /// per slot.
    pub max_output: usize,
    /// `output_file`: where output goes beside the columns.
    pub output_file: Option<FileTemplate>,
    /// `output_file_max`: how many bytes of a run go there.
    pub output_file_max: u64,
    /// `output_file_only`: in place of the columns.
    pub output_file_only: bool,
    /// `progress`: whether jobs can say how far they have come; as a rule where their rows have a column for that.
    pub progress: Option<bool>,
    /// `leak_timeout`: how long output is awaited after the process has exited.
    pub leak_timeout: Duration,
    /// `launcher.stdin`: whether `data` goes to the standard input.
    pub data_on_stdin: bool,
    /// `user`, `group`, `umask`, `nice`, `limit.*`: what the shim is needed for.
    pub setup: Setup,
    /// `timeout`: how long a job may take.
    pub timeout: Option<Duration>,
    /// `idle_timeout`: how long it may write nothing.
    pub idle_timeout: Option<Duration>,
    /// `kill_sequence`, or `kill_grace`: how jobs are stopped.
    pub kill: KillSequence,
}

impl LauncherSettings {
    /// What counts where nothing but the launcher is set.
    pub fn new(template: Template) -> Self {
        Self {
            template,
            cwd: None,
            env: Vec::new(),
            max_output: 16 << 20,
            output_file: None,
            output_file_max: 1 << 30,
            output_file_only: false,
            progress: None,
            leak_timeout: Duration::from_millis(200),
            data_on_stdin: true,
            setup: Setup::default(),
            timeout: None,
            idle_timeout: None,
            kill: KillSequence::with_grace(Duration::from_secs(5)),
        }
    }
}

/// Starts jobs of one configuration.
#[derive(Clone)]
pub struct Launcher {
    inner: Arc<Inner>,
}

struct Inner {
    /// Looked up once for each launch.
    ways: PerTarget<Arc<Way>>,
    worker: String,
    payloads: Payloads,
    reports: Reports,
    leaks: Leaks,
    writers: Writers,
    spawner: Spawner,
}

/// How the jobs of a target are launched.
struct Way {
    settings: LauncherSettings,
    environment: Environment,
    /// `launcher.cwd` as a program takes it.
    cwd: Option<CString>,
    /// The argument of the shim, where it is needed.
    shim: Option<String>,
    /// For `output_file`.
    writers: Writers,
}

/// What carries out attempts; processes are its first kind. A seam: the simulation has processes of its own.
pub trait Executor: Send + Sync + 'static {
    /// Runs a job to its end, obeying orders meanwhile. Nothing is begun before the future is polled, nor when
    /// the machine has been up for longer than `until`.
    fn run(
        &self,
        job: Job,
        until: Option<Duration>,
        orders: mpsc::Receiver<Order>,
    ) -> BoxFuture<'static, Outcome>;

    /// The same for a table that takes 'Mail' for 'mail'; `None` where that makes no difference.
    fn ignoring_case(&self) -> Option<Arc<dyn Executor>> {
        None
    }
}

/// How an attempt ended.
#[derive(Debug)]
pub enum Outcome {
    /// The job is over.
    Ended(End),
    /// The system had no room for a process (EAGAIN, ENOMEM, EMFILE), or all that start processes are held up, or it was
    /// too late: nothing ran, and it may be tried again.
    NoRoom(io::Error),
}

/// The end of a job's process, or the reason why it could never have begun.
#[derive(Debug)]
pub struct End {
    /// Exit code; 127 and 126, as shells say it, for a command that does not exist or cannot be run.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// What it wrote.
    pub stdout: Captured,
    /// What it wrote.
    pub stderr: Captured,
    /// When it ended.
    pub ended: Instant,
    /// Why, where the process did not end by itself: it was told to stop before, or could never be started.
    pub cause: Option<Reason>,
    /// What its process has used, where its row has columns for that.
    pub usage: Option<Usage>,
}

impl Launcher {
    /// `worker` names this worker to jobs (`JOBD_WORKER`), `payloads` is where their `data` is read, `reports` where
    /// it is told how far they have come.
    pub fn new(
        settings: &PerTarget,
        inherited: impl Iterator<Item = (OsString, OsString)>,
        worker: &str,
        payloads: Payloads,
        reports: Reports,
    ) -> Self {
        let writers = Writers::default();
        Self {
            inner: Arc::new(Inner {
                ways: ways(settings, inherited, &writers),
                worker: worker.to_owned(),
                payloads,
                reports,
                leaks: Leaks::default(),
                writers,
                spawner: Spawner::default(),
            }),
        }
    }

    /// The launcher of other settings in the same process.
    pub fn with(
        &self,
        settings: &PerTarget,
        inherited: impl Iterator<Item = (OsString, OsString)>,
    ) -> Self {
        self.with_ways(ways(settings, inherited, &self.inner.writers))
    }

    fn with_ways(&self, ways: PerTarget<Arc<Way>>) -> Self {
        Self {
            inner: Arc::new(Inner {
                ways,
                worker: self.inner.worker.clone(),
                payloads: self.inner.payloads.clone(),
                reports: self.inner.reports.clone(),
                leaks: self.inner.leaks.clone(),
                writers: self.inner.writers.clone(),
                spawner: self.inner.spawner.clone(),
            }),
        }
    }

    /// Why programs could not be started right now, for warnings at start, each once.
    pub fn missing_programs(&self) -> Vec<String> {
        let Inner { ways, .. } = &*self.inner;
        let mut warnings: Vec<String> = ways.default().missing_program().into_iter().collect();
        for (target, way) in ways.named() {
            let warning = way.missing_program();
            if let Some(warning) = warning.filter(|warning| !warnings.contains(warning)) {
                warnings.push(format!("target {target}: {warning}"));
            }
        }
        warnings
    }

    fn way(&self, job: &Job) -> &Arc<Way> {
        self.inner.ways.of(&job.target)
    }
}

fn ways(
    settings: &PerTarget,
    inherited: impl Iterator<Item = (OsString, OsString)>,
    writers: &Writers,
) -> PerTarget<Arc<Way>> {
    let inherited: Vec<_> = inherited.collect();
    settings.map(|TargetSettings { launcher, .. }| {
        Arc::new(Way {
            shim: (!launcher.setup.is_empty()).then(|| launcher.setup.argument()),
            environment: Environment::new(
                inherited.iter().cloned(),
                launcher.setup.variables().chain(&launcher.env),
            ),
            // A path with a zero in it is no directory, which is said when a job is launched.
            cwd: launcher
                .cwd
                .as_ref()
                .map(|cwd| CString::new(cwd.as_os_str().as_bytes()).unwrap_or_default()),
            settings: launcher.clone(),
            writers: writers.of_others(),
        })
    })
}

impl Way {
    /// Why the program could not be started right now. Programs whose name depends on the job cannot be told.
    fn missing_program(&self) -> Option<String> {
        if let Some(cwd) = self.missing_cwd() {
            return Some(cwd);
        }
        let Template::Words(words) = &self.settings.template else {
            return None;
        };
        let program = words.first().filter(|program| !program.contains('{'))?;
        match self.environment.find(program) {
            None => Some(format!("launcher: {program} is in no directory of PATH")),
            Some(file) if self.settings.cwd.is_none() && !file.exists() => {
                Some(format!("launcher: {program} does not exist"))
            }
            Some(_) => None,
        }
    }

    /// The system says "no such file" of a missing working directory too.
    fn missing_cwd(&self) -> Option<String> {
        let cwd = self.settings.cwd.as_ref().filter(|cwd| !cwd.is_dir())?;
        Some(format!("launcher.cwd: {} is no directory", cwd.display()))
    }

    /// Lets a file system that hangs do so while there is no process yet. One that waits for its program looks like
    /// jobd: if that ended meanwhile, nobody would find it, and it would begin when its job has long been another's.
    fn await_files(&self, program: &Path) {
        // What is wrong with them, the launch says.
        let cwd = self.settings.cwd.as_deref().filter(|cwd| cwd.is_dir());
        let program = cwd.map_or(Cow::Borrowed(program), |cwd| cwd.join(program).into());
        if program.is_file() {
            drop(File::open(program));
        }
    }

    /// The program of a job, or why there is none. `worker` is its `JOBD_WORKER`, `fed` whether it gets something to read.
    fn program(&self, job: &Job, worker: &str, fed: bool) -> Result<Program<'_>, String> {
        let argv = self.settings.template.argv(job);
        let (name, arguments) = argv.split_first().expect("a template has a program");
        let file = self.environment.find(name);
        let file = file.ok_or_else(|| format!("{name}: command not found in PATH"))?;
        self.await_files(&file);
        let file = file.as_os_str().as_bytes();
        let before: Vec<&[u8]> = match &self.shim {
            None => vec![file],
            Some(setup) => vec![b"jobd", b"--launch", setup.as_bytes(), b"--", file],
        };
        let arguments = arguments.iter().map(String::as_bytes);
        let text = |bytes| CString::new(bytes).map_err(|error| format!("{name}: {error}"));
        let marks = [Mark::of_claim(&run_name(job)), Mark::of_worker(worker)];
        let limits = marks.each_ref().map(|mark| mark.limit);
        let [claim, worker] = marks.map(|mark| mark.variable);
        let own = [
            format!("JOBD_ID={}", job.id),
            format!("JOBD_TARGET={}", job.target),
            format!("JOBD_ATTEMPT={}", job.attempt),
            worker,
            claim,
        ];
        Ok(Program {
            file: match &self.shim {
                None => text(file.to_vec())?,
                // Also after an upgrade has replaced the file of this program.
                Some(_) => c"/proc/self/exe".into(),
            },
            argv: before
                .into_iter()
                .chain(arguments)
                .map(|word| text(word.to_vec()))
                .collect::<Result<_, _>>()?,
            variables: (
                self.environment.shared(),
                own.map(|variable| text(variable.into_bytes()))
                    .into_iter()
                    .collect::<Result<_, _>>()?,
            ),
            limits,
            cwd: self.cwd.as_deref(),
            fed,
            reports: None,
            teller: None,
        })
    }
}

/// The exit code of a shell whose child was ended by SIGKILL.
const SHELL_KILLED: i32 = 128 + 9;

impl End {
    /// Whether it looks like the guard's work; a job that ended by itself just before does not.
    pub fn is_killed(&self) -> bool {
        self.signal == Some(Signal::KILL.as_raw()) || self.code == Some(SHELL_KILLED)
    }

    /// A job that ended before it was launched.
    pub fn before_launch(cause: Reason, note: &str) -> Self {
        Self {
            code: None,
            signal: None,
            stdout: Captured::default(),
            stderr: Captured {
                head: note.into(),
                ..Captured::default()
            },
            ended: Instant::now(),
            cause: Some(cause),
            usage: None,
        }
    }

    /// A job that could not be started, ever: its own failure.
    fn never_started(code: i32, reason: &str) -> Self {
        let mut stderr = Captured::default();
        stderr.note(&format!("cannot launch: {reason}"));
        Self {
            code: Some(code),
            signal: None,
            stdout: Captured::default(),
            stderr,
            ended: Instant::now(),
            cause: Some(Reason::Spawn),
            usage: None,
        }
    }
}
