//! What really ran, as told by the jobs themselves and by nobody else.
//!
//! The launcher of a test is the program `witness`: it appends one line to a file when it begins
//! and one when it ends, with the boot clock's time. Lines are short enough that an appending
//! write is whole. The checks here need nothing from the database or the daemons.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use rustix::process::getppid;
use rustix::time::{ClockId, clock_gettime};

use crate::programs;
use crate::scratch::Scratch;

/// The witness's file.
#[derive(Debug)]
pub struct WitnessLog {
    path: PathBuf,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Whether the job began (else it ended).
    pub begins: bool,
    /// The job's id.
    pub id: u64,
    /// The worker, as the test calls it.
    pub worker: String,
    /// The job's target.
    pub target: String,
    /// The process.
    pub pid: u32,
    /// Boot clock in nanoseconds.
    pub at_ns: u64,
    /// What the job was told in `JOBD_ATTEMPT`; 0 where it was told nothing.
    pub attempt: u32,
    /// The worker's process that started it; 0 where that one had died before the job said a word.
    pub parent: u32,
}

/// Nanoseconds of a second.
pub const NANOS: u64 = 1_000_000_000;

/// Nanoseconds since 1970, by the clock that databases go by.
pub fn since_1970() -> u64 {
    let now = clock_gettime(ClockId::Realtime);
    now.tv_sec.unsigned_abs() * NANOS + now.tv_nsec.unsigned_abs()
}

/// The boot clock in nanoseconds: it goes on through a sleep of the machine, and nobody sets it.
pub fn boot_ns() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    now.tv_sec.unsigned_abs() * NANOS + now.tv_nsec.unsigned_abs()
}

/// What a job says about itself: appends one line to `file`. `what` is `begin` or `end`.
pub fn tell(file: &mut File, what: &str, id: &str, worker: &str, target: &str) {
    let pid = std::process::id();
    let parent = getppid().map_or(0, |parent| parent.as_raw_nonzero().get());
    // Whoever takes in the orphans of a worker that has died meanwhile is no worker.
    let name = std::fs::read_to_string(format!("/proc/{parent}/comm")).unwrap_or_default();
    let parent = if name.starts_with("jobd") { parent } else { 0 };
    let attempt = std::env::var("JOBD_ATTEMPT").unwrap_or_else(|_| "0".to_owned());
    let at_ns = boot_ns();
    let line = format!("{what} {id} {worker} {target} {pid} {at_ns} {attempt} {parent}\n");
    // One write: lines of many jobs must not mix.
    file.write_all(line.as_bytes()).expect("append a line");
}

impl WitnessLog {
    /// A new, empty one.
    pub fn new(scratch: &Scratch) -> Self {
        Self {
            path: scratch.write("witness.log", ""),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The `launcher` of `worker`: jobs take `millis`, and end with the code `id % codes`.
    pub fn launcher(&self, worker: &str, millis: u32, codes: u32) -> String {
        format!(
            "{} {} {worker} {millis} {codes} {{id}} {{target}}",
            programs::path("witness").display(),
            self.path.display()
        )
    }

    /// All lines so far, in the order of the clock.
    pub fn events(&self) -> Vec<Event> {
        let text = std::fs::read_to_string(&self.path).expect("the witness's file");
        let mut events: Vec<Event> = text.lines().map(parse).collect();
        events.sort_by_key(|event| event.at_ns);
        events
    }

    /// How often each job began.
    pub fn runs(&self) -> BTreeMap<u64, usize> {
        let mut runs = BTreeMap::new();
        for event in self.events().iter().filter(|event| event.begins) {
            *runs.entry(event.id).or_default() += 1;
        }
        runs
    }

    /// How many jobs began and have not ended.
    pub fn running(&self) -> usize {
        let events = self.events();
        let begun = events.iter().filter(|event| event.begins).count();
        begun - (events.len() - begun)
    }

    /// The most jobs that ran at one moment, for each worker and target.
    pub fn most_at_once(&self) -> BTreeMap<(String, String), u32> {
        let mut now: BTreeMap<(String, String), u32> = BTreeMap::new();
        let mut most = BTreeMap::new();
        for event in self.events() {
            let key = (event.worker, event.target);
            let count = now.entry(key.clone()).or_default();
            *count = if event.begins { *count + 1 } else { *count - 1 };
            let most = most.entry(key).or_default();
            *most = (*count).max(*most);
        }
        most
    }

    /// Asserts that exactly the jobs `ids` began, and each of them once.
    pub fn assert_each_once(&self, ids: impl IntoIterator<Item = u64>) {
        let expected: BTreeMap<u64, usize> = ids.into_iter().map(|id| (id, 1)).collect();
        let runs = self.runs();
        let odd: Vec<_> = runs
            .iter()
            .filter(|run| expected.get(run.0) != Some(run.1))
            .collect();
        assert!(
            odd.is_empty(),
            "ran more than once or unasked (id, runs): {odd:?}"
        );
        let missing: Vec<_> = expected
            .keys()
            .filter(|id| !runs.contains_key(id))
            .collect();
        assert!(missing.is_empty(), "never ran: {missing:?}");
    }
}

/// Reads one line.
pub(crate) fn parse(line: &str) -> Event {
    let parts: Vec<&str> = line.split(' ').collect();
    let [what, id, worker, target, pid, at_ns, attempt, parent] = parts[..] else {
        panic!("not a line of the witness: {line:?}");
    };
    Event {
        begins: what == "begin",
        id: id.parse().expect("an id"),
        worker: worker.to_owned(),
        target: target.to_owned(),
        pid: pid.parse().expect("a process number"),
        at_ns: at_ns.parse().expect("a time"),
        attempt: attempt.parse().expect("an attempt"),
        parent: parent.parse().expect("a process number"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(scratch: &Scratch, lines: &str) -> WitnessLog {
        let log = WitnessLog::new(scratch);
        std::fs::write(log.path(), lines).unwrap();
        log
    }

    #[test]
    fn counts_overlaps_per_worker_and_target() {
        let scratch = Scratch::new();
        let log = log(
            &scratch,
            "begin 1 w1 a 10 100 1 9\nbegin 2 w1 a 11 110 1 9\nbegin 3 w2 a 12 111 1 9\nend 1 w1 a 10 120 1 9\n\
             begin 4 w1 a 13 121 1 9\n",
        );
        let most = log.most_at_once();
        assert_eq!(most[&("w1".to_owned(), "a".to_owned())], 2);
        assert_eq!(most[&("w2".to_owned(), "a".to_owned())], 1);
        assert_eq!(log.running(), 3);
        log.assert_each_once(1..=4);
    }

    #[test]
    #[should_panic(expected = "ran more than once")]
    fn notices_a_second_run() {
        let scratch = Scratch::new();
        log(
            &scratch,
            "begin 1 w1 a 10 100 1 9\nbegin 1 w2 a 11 200 1 9\n",
        )
        .assert_each_once([1]);
    }

    #[test]
    #[should_panic(expected = "never ran: [2]")]
    fn notices_a_missing_run() {
        let scratch = Scratch::new();
        log(&scratch, "begin 1 w1 a 10 100 1 9\n").assert_each_once([1, 2]);
    }
}
