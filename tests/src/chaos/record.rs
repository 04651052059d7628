//! The suite's own books: which inserts the database acknowledged, what waiters were answered, and
//! which processes ran, told by the witness and, where a process was killed, by the kernel.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tokio::task::JoinSet;

use super::checker::Outputs;
use crate::witness::{self, boot_ns};

/// How often the open runs are looked at: an overlap that is shorter than this and in which the
/// first run was killed could be missed.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What a client that waited for a manual job was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// `result`
    pub result: String,
    /// `code`
    pub code: Option<i64>,
    /// `signal`
    pub signal: Option<String>,
    /// `stdout`
    pub stdout: String,
    /// `stderr`
    pub stderr: String,
}

/// What the applications know.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Target of each job whose INSERT was acknowledged.
    pub acknowledged: BTreeMap<u64, &'static str>,
    /// Answers to manual runs.
    pub answers: Vec<(u64, Answer)>,
    /// What followers of jobs were told of their standard output.
    pub followed: Vec<(u64, String)>,
    /// Refusals and lost answers of manual runs, which were asked again.
    pub asked_again: u64,
    /// INSERTs that were refused, as another job with the same key waited.
    pub duplicates: u64,
    /// INSERTs that ended in an error: their rows may exist.
    pub unacknowledged: u64,
    /// Jobs that an application has set to `ignored` by hand while a worker held them, and when that was
    /// acknowledged, by the boot clock: nobody may touch them any more.
    pub withdrawn: BTreeMap<u64, u64>,
    /// Jobs that clients ask for: they run once, whatever comes of it.
    pub manual: BTreeSet<u64>,
    /// Jobs that somebody wanted to be cancelled; whether that came in time, their rows say.
    pub cancels: BTreeSet<u64>,
    /// Jobs for later: when they were inserted, and before when they may not begin, both by the boot clock.
    pub due: BTreeMap<u64, (u64, u64)>,
    /// Those of which the row itself asks for it, and when that was acknowledged, by the boot clock.
    pub asked: BTreeMap<u64, u64>,
    /// The most rows of a target that the table called `running` at once, where one worker alone serves it.
    pub most_running: BTreeMap<&'static str, u32>,
}

impl Ledger {
    /// Takes in the answer to a `run-manual`; returns how many jobs it speaks of.
    pub fn note_answers(&mut self, answer: &Value) -> usize {
        let Some(jobs) = answer["data"]["jobs"].as_object() else {
            return 0;
        };
        for (id, job) in jobs {
            let text = |key: &str| job[key].as_str().map(str::to_owned);
            let answer = Answer {
                result: text("result").unwrap_or_default(),
                code: job["code"].as_i64(),
                signal: text("signal"),
                stdout: text("stdout").unwrap_or_default(),
                stderr: text("stderr").unwrap_or_default(),
            };
            let id = id.parse().expect("ids are numbers");
            self.answers.push((id, answer));
        }
        jobs.len()
    }
}

/// Reads the files of jobs whose output goes to one.
///
/// # Panics
/// When a file has another name than [`OUTPUT_FILE`](super::job::OUTPUT_FILE) gives it, or cannot be read.
pub fn outputs(folder: &Path) -> Outputs {
    let mut found = Outputs::new();
    // Where no such job ran there is none.
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let (id, attempt) = name.split_once('-').expect("an id and an attempt");
        let key = id.parse().ok().zip(attempt.parse().ok());
        let text = std::fs::read_to_string(entry.path()).expect("what a job printed");
        found.insert(key.expect("two numbers"), text);
    }
    found
}

/// The ledger, shared by the inserters.
pub type SharedLedger = Arc<Mutex<Ledger>>;

/// When workers may have lost what they held; what happened to that is not theirs. All times are the boot clock's.
#[derive(Clone, Debug, Default)]
pub struct Troubles {
    /// How long before that an end may have come that its worker could not tell, as the database was away.
    untold_ns: u64,
    /// By process of a worker: from when until when it may lose what it runs.
    lost: BTreeMap<u32, Vec<(u64, u64)>>,
    /// When the database was out of reach, or slow to answer.
    outages: Vec<(u64, u64)>,
    /// When its clock was wrong.
    wrong_clocks: Vec<(u64, u64)>,
}

/// A process is looked at so often at least, also on a machine that is busy.
const LOOKED_AT_NS: u64 = 1_000_000_000;

/// So long after an outage a lease may end that could not be renewed in it.
const AFTERMATH_NS: u64 = 8_000_000_000;

impl Troubles {
    /// None yet. An end may have come so long before its worker was lost, and be untold.
    pub fn new(untold_ns: u64) -> Self {
        Self {
            untold_ns,
            ..Self::default()
        }
    }

    /// The worker with process `pid` was killed, frozen, cut off, or told to hurry.
    pub fn lose(&mut self, pid: u32, from_ns: u64, until_ns: u64) {
        self.lost.entry(pid).or_default().push((from_ns, until_ns));
    }

    /// The database was out of reach, for some worker at least.
    pub fn add_outage(&mut self, from_ns: u64, until_ns: u64) {
        self.outages.push((from_ns, until_ns));
    }

    /// The database's clock was wrong.
    pub fn add_wrong_clock(&mut self, from_ns: u64, until_ns: u64) {
        self.wrong_clocks.push((from_ns, until_ns));
    }

    /// Whether the database's clock was right all the time between these moments.
    pub fn clock_was_right(&self, from_ns: u64, until_ns: u64) -> bool {
        let during = |(from, until): &(u64, u64)| from_ns <= *until && until_ns >= *from;
        !self.wrong_clocks.iter().any(during)
    }

    /// Whether no worker was ever lost.
    pub fn nobody_was_lost(&self) -> bool {
        self.lost.is_empty()
    }

    /// Whether the worker of `run` may have been unable to tell how it ended.
    pub fn is_lost(&self, run: &Run) -> bool {
        self.is_lost_within(run, self.untold_ns)
    }

    fn is_lost_within(&self, run: &Run, before_ns: u64) -> bool {
        let times = self.lost.get(&run.parent).map_or(&[][..], Vec::as_slice);
        let during = |(from, until): &(u64, u64)| {
            run.until_ns >= from.saturating_sub(before_ns) && run.begin_ns <= *until
        };
        run.parent == 0 || times.iter().any(during)
    }

    /// Whether the worker of `run` may have had to end it, as others could soon run it.
    pub fn may_cut_short(&self, run: &Run) -> bool {
        let during = |(from, until): &(u64, u64)| {
            (*from..=until.saturating_add(AFTERMATH_NS)).contains(&run.until_ns)
        };
        self.is_lost_within(run, LOOKED_AT_NS) || self.outages.iter().any(during)
    }
}

/// One process that ran a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The job.
    pub id: u64,
    /// `JOBD_ATTEMPT`.
    pub attempt: u32,
    /// The worker's name.
    pub worker: String,
    /// The worker's process that started it; 0 where that one had died before the job said a word.
    pub parent: u32,
    /// The job's target.
    pub target: String,
    /// The process.
    pub pid: u32,
    /// When it began, by the boot clock.
    pub begin_ns: u64,
    /// Until when it is known to have lived: its own last line, or the last time that it was seen.
    pub until_ns: u64,
    /// Whether it came to its own end.
    pub ended: bool,
}

/// Reads the witness's file while it grows, and looks after processes that say nothing more.
#[derive(Debug)]
pub struct Observer {
    seen: Arc<Mutex<Seen>>,
    _task: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Seen {
    path: PathBuf,
    read: u64,
    half_line: String,
    runs: Vec<Run>,
    /// Runs without an end, by their process, and when that process started by the kernel.
    open: HashMap<u32, (usize, Option<String>)>,
    last_begin: HashMap<String, u64>,
}

impl Observer {
    /// Watches the witness's file at `path`.
    pub fn start(path: PathBuf) -> Self {
        let seen = Arc::new(Mutex::new(Seen {
            path,
            ..Seen::default()
        }));
        let mut task = JoinSet::new();
        let shared = seen.clone();
        task.spawn(async move {
            loop {
                shared.lock().expect("the observer's notes").look();
                tokio::time::sleep(LOOK_EVERY).await;
            }
        });
        Self { seen, _task: task }
    }

    /// Everything that ran so far.
    pub fn runs(&self) -> Vec<Run> {
        let mut seen = self.seen.lock().expect("the observer's notes");
        seen.look();
        seen.runs.clone()
    }

    /// How many jobs run now.
    pub fn running(&self) -> usize {
        let mut seen = self.seen.lock().expect("the observer's notes");
        seen.look();
        seen.open.len()
    }

    /// When a job of `worker` began last, by the boot clock.
    pub fn last_begin(&self, worker: &str) -> u64 {
        let seen = self.seen.lock().expect("the observer's notes");
        seen.last_begin.get(worker).copied().unwrap_or(0)
    }
}

impl Seen {
    fn look(&mut self) {
        // The processes first: one that ends now still has its last line read below.
        let mut dead = Vec::new();
        for (pid, (run, started)) in &mut self.open {
            match started_at(*pid) {
                Some(at) if started.get_or_insert_with(|| at.clone()) == &at => {
                    self.runs[*run].until_ns = boot_ns();
                }
                _ => dead.push(*pid),
            }
        }
        self.read_lines();
        for pid in dead {
            self.open.remove(&pid);
        }
    }

    fn read_lines(&mut self) {
        let mut text = std::mem::take(&mut self.half_line);
        let mut file = File::open(&self.path).expect("the witness's file");
        file.seek(SeekFrom::Start(self.read)).expect("seek");
        self.read += file.read_to_string(&mut text).expect("lines") as u64;
        let whole = text.rfind('\n').map_or(0, |at| at + 1);
        self.half_line = text.split_off(whole);
        for line in text.lines() {
            let event = witness::parse(line);
            if event.begins {
                self.last_begin.insert(event.worker.clone(), event.at_ns);
                self.open.insert(event.pid, (self.runs.len(), None));
                self.runs.push(Run {
                    id: event.id,
                    attempt: event.attempt,
                    worker: event.worker,
                    parent: event.parent,
                    target: event.target,
                    pid: event.pid,
                    begin_ns: event.at_ns,
                    until_ns: event.at_ns,
                    ended: false,
                });
            } else if let Some((run, _)) = self.open.remove(&event.pid) {
                let run = &mut self.runs[run];
                assert_eq!((run.id, run.pid), (event.id, event.pid), "a mixed line");
                run.until_ns = event.at_ns;
                run.ended = true;
            } else {
                panic!("the end of a run without a beginning: {line}");
            }
        }
    }
}

/// When process `pid` started (field 22 of its stat), or `None` where it does not run any more.
fn started_at(pid: u32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything; state and the rest stand behind it.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    let started = fields.nth(18)?;
    (!matches!(state, "Z" | "X")).then(|| started.to_owned())
}
