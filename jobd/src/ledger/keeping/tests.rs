//! Random ends, outages and disks from a printed seed, and what people rely on.

use std::collections::BTreeSet;

use jobd_proto::TargetName;
use proptest::prelude::*;

use super::*;
use crate::job::{Job, Origin, Terms, Tokens};
use crate::launcher::{Captured, End};
use crate::ledger::{Entry, Note, backlog};
use crate::store::{OutputText, Recorded, StoreError};

/// Keeping, the backlog that it looks at, a database and a disk.
struct World {
    keeping: Keeping,
    backlog: Backlog,
    now: Instant,
    text: OutputText,
    tokens: Tokens,
    /// What is in rows, and what the file holds.
    rows: BTreeSet<JobId>,
    file: Vec<Finish>,
    bytes: u64,
    pushed: u64,
}

#[derive(Clone, Copy, Debug)]
enum Event {
    /// A job ends, with so much output.
    End(usize),
    /// So much time passes, in milliseconds.
    Pass(u64),
    /// The database answers the write that is under way, or breaks it.
    Write(bool),
    /// The disk does what it is told, or fails.
    Disk(bool),
    /// jobd dies and is started again.
    Die,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            keeping: Keeping::default(),
            backlog: Backlog::default(),
            now: Instant::now(),
            text: OutputText::of_any_size(64 << 20),
            tokens: Tokens::new("w", "h", 1),
            rows: BTreeSet::new(),
            file: Vec::new(),
            bytes: 0,
            pushed: 0,
        };
        world.keeping.allow();
        world
    }

    fn end(&mut self, bytes: usize) {
        self.pushed += 1;
        let job = Job {
            id: JobId(self.pushed),
            target: TargetName::new("t").unwrap(),
            origin: Origin::Background,
            token: self.tokens.next(Origin::Background),
            attempt: 1,
            interruptions: 0,
            again: false,
            terms: Terms::default(),
        };
        let stdout = Captured {
            head: vec![b'x'; bytes],
            ..Captured::default()
        };
        let end = End {
            code: Some(0),
            signal: None,
            stdout,
            stderr: Captured::default(),
            ended: self.now,
            cause: None,
            usage: None,
        };
        self.backlog
            .push(self.now, Entry::Finish(job, end, None), &self.text);
    }

    /// One write to the table, if one is due.
    fn write(&mut self, works: bool) {
        let backlog::Step::Write(batch) = self.backlog.next(self.now, || self.text.clone()) else {
            return;
        };
        // Breaking a connection does not say whether the batch got through: here it did not.
        let outcome = if works {
            Ok(Recorded {
                started: Vec::new(),
                finished: vec![true; batch.finishes.len()],
                retried: vec![true; batch.retries.len()],
                refused: None,
            })
        } else {
            Err(StoreError::Unavailable("gone".to_owned()))
        };
        for note in self.backlog.written(self.now, outcome) {
            let Note::Finished(end) = note else {
                panic!("{note:?}")
            };
            assert!(self.rows.insert(end.job.id), "written twice");
            self.keeping.written(&end);
        }
    }

    /// One visit to the disk, if one is due. Whether there was one.
    fn disk(&mut self, works: bool) -> bool {
        let step = self.keeping.next(self.now, &self.backlog);
        if let Step::Wait(_) = step {
            return false;
        }
        if !works {
            self.keeping.failed(self.now);
            return true;
        }
        match step {
            Step::Open => {
                for end in self.file.clone() {
                    if self.keeping.inherit(&end) {
                        self.backlog.push_end(self.now, end);
                    }
                }
            }
            Step::Append(ends) => {
                self.bytes += ends.iter().map(size).sum::<usize>() as u64;
                self.file.extend(ends);
            }
            Step::Replace(ends) => {
                self.bytes = ends.iter().map(size).sum::<usize>() as u64;
                self.file = ends;
            }
            Step::Clear => {
                self.bytes = 0;
                self.file.clear();
            }
            Step::Wait(_) => {}
        }
        self.keeping.done(self.bytes);
        true
    }

    fn die(&mut self) {
        let waiting: BTreeSet<JobId> = self.waiting().collect();
        // What is neither in a row nor in the file is lost; the rest is there.
        let kept: BTreeSet<JobId> = self.file.iter().map(|end| end.job.id).collect();
        let claimed: BTreeSet<JobId> = self.keeping.kept.keys().map(|(id, _)| *id).collect();
        assert!(claimed.is_subset(&kept), "said to be kept, and is not");
        self.rows.extend(waiting.difference(&kept));
        (self.keeping, self.backlog) = <(Keeping, Backlog)>::default();
        self.keeping.allow();
        // The file may hold ends that are in rows already: writing them again changes nothing.
        for end in &self.file {
            self.rows.remove(&end.job.id);
        }
    }

    fn waiting(&self) -> impl Iterator<Item = JobId> {
        let ends = self.backlog.ends().flat_map(|ends| ends.finishes);
        ends.map(|end| end.job.id)
    }

    fn check(&self) {
        let waiting: BTreeSet<JobId> = self.waiting().collect();
        for (id, _) in self.keeping.kept.keys() {
            assert!(waiting.contains(id), "{id} is kept and waits no more");
            let held = self.file.iter().any(|end| end.job.id == *id);
            assert!(held, "{id} is kept, and the file does not hold it");
        }
        assert_eq!(self.keeping.waiting(), self.keeping.kept.len());
        // Not even a disk that works now and then lets the file grow beyond what still waits.
        let live: usize = self.keeping.kept.values().sum();
        let most = 2 * live as u64 + SLACK + 2 * MAX_BYTES as u64;
        assert!(self.bytes <= most, "{} bytes for {live}", self.bytes);
    }
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => (0_usize..200_000).prop_map(Event::End),
        3 => (0_u64..400).prop_map(Event::Pass),
        1 => (1_000_u64..10_000).prop_map(Event::Pass),
        4 => prop::bool::weighted(0.4).prop_map(Event::Write),
        4 => prop::bool::weighted(0.8).prop_map(Event::Disk),
        1 => Just(Event::Die),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn what_is_kept_outlives_a_death_and_is_forgotten_once_it_is_written(
        events in prop::collection::vec(event(), 1..150)
    ) {
        let mut world = World::new();
        for event in events {
            match event {
                Event::End(bytes) => world.end(bytes),
                Event::Pass(ms) => world.now += Duration::from_millis(ms),
                Event::Write(works) => world.write(works),
                Event::Disk(works) => drop(world.disk(works)),
                Event::Die => world.die(),
            }
            world.check();
        }
        // A disk that works keeps everything that waits for long.
        world.now += RETRY.max(PATIENCE);
        while world.disk(true) {}
        world.check();
        prop_assert_eq!(world.keeping.waiting(), world.waiting().count());
        // A database that works gets everything; then the file is empty.
        for _ in 0..1_000 {
            world.now += Duration::from_secs(1);
            world.write(true);
            world.disk(true);
        }
        prop_assert!(world.keeping.is_clear());
        prop_assert_eq!(world.rows.len() as u64, world.pushed);
        prop_assert!(world.file.is_empty());
    }
}

#[test]
fn an_end_that_is_written_at_once_costs_no_visit_to_the_disk() {
    let mut world = World::new();
    assert!(world.disk(true), "it is opened");
    for _ in 0..50 {
        world.end(10);
        world.now += PATIENCE / 2;
        world.write(true);
        assert!(!world.disk(true));
    }
}

#[test]
fn an_end_is_kept_when_its_write_fails_and_when_it_hangs() {
    let mut world = World::new();
    world.disk(true);
    world.end(10);
    world.write(false);
    assert!(world.disk(true));
    assert_eq!(world.keeping.waiting(), 1, "its write has failed");
    world.now += Duration::from_secs(1);
    let backlog::Step::Write(_) = world.backlog.next(world.now, || world.text.clone()) else {
        panic!("it is tried again")
    };
    // Behind a write that hangs.
    world.end(10);
    assert!(!world.disk(true));
    world.now += PATIENCE;
    assert!(world.disk(true));
    assert_eq!(world.keeping.waiting(), 2);
}

#[test]
fn a_disk_that_fails_is_left_alone_for_a_while() {
    let mut world = World::new();
    world.disk(true);
    world.end(10);
    world.now += PATIENCE;
    assert!(world.disk(false));
    assert_eq!(world.keeping.waiting(), 0);
    assert!(
        matches!(world.keeping.next(world.now, &world.backlog), Step::Wait(Some(at)) if at == world.now + RETRY)
    );
    world.now += RETRY;
    assert!(world.disk(true));
    assert_eq!(world.keeping.waiting(), 1);
}
