//! What people rely on, case by case.

use jobd_proto::TargetName;

use super::*;
use crate::job::{Origin, Terms, Tokens};
use crate::launcher::Captured;

fn job(id: u64) -> Job {
    Job {
        id: JobId(id),
        target: TargetName::new("t").unwrap(),
        origin: Origin::Background,
        token: Tokens::new("w", "h", id).next(Origin::Background),
        attempt: 1,
        interruptions: 0,
        again: false,
        terms: Terms::default(),
    }
}

fn finish(id: u64, bytes: usize, now: Instant) -> Entry {
    let captured = |head| Captured {
        head,
        ..Captured::default()
    };
    let end = End {
        code: Some(0),
        signal: None,
        stdout: captured(vec![b'x'; bytes]),
        stderr: Captured::default(),
        ended: now,
        cause: None,
        usage: None,
    };
    Entry::Finish(job(id), end, None)
}

fn away() -> StoreError {
    StoreError::Unavailable("gone".to_owned())
}

/// A backlog, its clock, and a server that does as the test says.
struct World {
    backlog: Backlog,
    now: Instant,
    text: OutputText,
}

impl World {
    fn new() -> Self {
        Self {
            backlog: Backlog::default(),
            now: Instant::now(),
            text: OutputText::of_any_size(64 << 20),
        }
    }

    fn push(&mut self, entry: Entry) {
        self.backlog.push(self.now, entry, &self.text);
    }

    fn step(&mut self) -> Step {
        self.backlog.next(self.now, || self.text.clone())
    }

    /// The next batch, once its time has come.
    fn batch(&mut self) -> Arc<Batch> {
        loop {
            match self.step() {
                Step::Write(batch) => return batch,
                Step::Wait(until) => self.now = until.expect("something to write"),
            }
        }
    }

    fn written(&mut self, outcome: Result<(), StoreError>, batch: &Batch) -> usize {
        let recorded = outcome.map(|()| Recorded {
            started: vec![true; batch.starts.len()],
            finished: vec![true; batch.finishes.len()],
            retried: vec![true; batch.retries.len()],
            refused: None,
        });
        self.backlog.written(self.now, recorded).len()
    }

    /// Writes everything on a server that answers so; returns the sizes of the batches that were taken.
    fn settle(&mut self, answer: impl Fn(&Batch) -> Result<(), StoreError>) -> Vec<usize> {
        let mut taken = Vec::new();
        for _ in 0..1000 {
            match self.step() {
                Step::Write(batch) => taken.extend(match self.written(answer(&batch), &batch) {
                    0 => None,
                    notes => Some(notes),
                }),
                Step::Wait(None) => return taken,
                Step::Wait(Some(until)) => self.now = until,
            }
        }
        panic!("a thousand steps settle nothing: {:?}", self.backlog);
    }
}

#[test]
fn what_gathers_while_one_batch_is_written_goes_into_the_next() {
    let mut world = World::new();
    world.push(Entry::Start(job(1)));
    let first = world.batch();
    (2..=200).for_each(|id| world.push(Entry::Start(job(id))));
    world.push(Entry::Release(job(2)));
    assert_eq!(world.written(Ok(()), &first), 1);
    // The row that comes twice begins the batch after the one it stands in.
    assert_eq!(world.settle(|_| Ok(())), [MAX_BATCH, 72]);
}

#[test]
fn no_batch_holds_a_row_twice_or_much_more_output_than_one_transaction_may() {
    let mut world = World::new();
    world.push(finish(1, 1, world.now));
    world.push(Entry::Start(job(1)));
    (2..=4).for_each(|id| world.push(finish(id, MAX_BATCH_BYTES - 1, world.now)));
    assert_eq!(world.settle(|_| Ok(())), [1, 3, 1]);
}

#[test]
fn a_database_that_is_away_is_asked_less_and_less_often_and_gets_everything_in_the_end() {
    let mut world = World::new();
    (1..=3).for_each(|id| world.push(Entry::Start(job(id))));
    let began = world.now;
    let back = began + Duration::from_mins(10);
    let mut tries = 0;
    while world.now < back {
        let batch = world.batch();
        tries += 1;
        assert_eq!(world.written(Err(away()), &batch), 0);
    }
    assert!((300..1000).contains(&tries), "{tries}");
    assert_eq!(world.settle(|_| Ok(())).iter().sum::<usize>(), 3);
    assert!(
        world.now <= back + 2 * PAUSE.1,
        "late by {:?}",
        world.now - back
    );
}

#[test]
fn an_entry_that_is_refused_stops_nobody_else() {
    let mut world = World::new();
    (1..=5).for_each(|id| world.push(finish(id, 10, world.now)));
    let bad = |batch: &Batch| {
        batch
            .finishes
            .iter()
            .any(|finish| finish.job.id == JobId(3))
    };
    for _ in 0..5 {
        let batch = world.batch();
        let refused = StoreError::Refused("a trigger".to_owned());
        let outcome = if bad(&batch) { Err(refused) } else { Ok(()) };
        world.written(outcome, &batch);
    }
    assert!(matches!(world.step(), Step::Write(_)), "the fifth alone");
    let fifth = world.backlog.current.as_ref().unwrap().batch.clone();
    world.written(Ok(()), &fifth);
    assert!(matches!(world.step(), Step::Wait(Some(until)) if until == world.now + ASIDE));
    // New ones pass it by.
    world.push(Entry::Start(job(6)));
    assert_eq!(world.batch().starts.len(), 1);
}

#[test]
fn a_row_that_somebody_has_locked_is_tried_alone_until_it_is_free() {
    let mut world = World::new();
    (1..=3).for_each(|id| world.push(finish(id, 1 << 20, world.now)));
    let free_at = world.now + Duration::from_mins(1);
    let (mut taken, mut locked) = (0, 0);
    while taken < 3 {
        let batch = world.batch();
        let has_it = batch.finishes.iter().any(|end| end.job.id == JobId(2));
        let outcome = if has_it && world.now < free_at {
            locked += 1;
            Err(StoreError::Locked("by a report".to_owned()))
        } else {
            Ok(())
        };
        assert!(
            batch.finishes.iter().all(Finish::is_large),
            "nothing is cut"
        );
        taken += world.written(outcome, &batch);
        assert!(taken >= 2 || locked < 3, "the others do not wait for it");
    }
    assert!(locked < 15, "{locked} waits for a lock in a minute");
}

#[test]
fn a_start_that_is_refused_is_handed_back_with_the_reason() {
    let mut world = World::new();
    world.push(Entry::Start(job(1)));
    let mut notes = Vec::new();
    while notes.is_empty() {
        world.batch();
        let refused = Err(StoreError::Refused("no".to_owned()));
        notes = world.backlog.written(world.now, refused);
    }
    assert!(
        matches!(&notes[..], [Note::Unstartable { job: Job { id: JobId(1), .. }, error, passed: false }] if error == "no")
    );
    assert!(matches!(world.step(), Step::Wait(None)));
}

#[test]
fn a_start_alone_whose_row_is_refused_is_handed_back_at_once_and_fails_nothing() {
    let mut world = World::new();
    world.push(Entry::Start(job(1)));
    world.batch();
    let refused = Recorded {
        refused: Some(("no".to_owned(), true)),
        ..Recorded::default()
    };
    let notes = world.backlog.written(world.now, Ok(refused));
    assert!(
        matches!(&notes[..], [Note::Unstartable { job: Job { id: JobId(1), .. }, error, passed: true }] if error == "no")
    );
    assert!(world.backlog.failing.is_none());
    assert!(matches!(world.step(), Step::Wait(None)));
}

#[test]
fn output_that_the_server_cannot_take_is_narrowed_until_it_can() {
    let mut world = World::new();
    world.push(finish(1, 1 << 20, world.now));
    let unfit = || Err(StoreError::Unfit("too long".to_owned()));
    let large = |batch: &Batch| batch.finishes.iter().any(Finish::is_large);
    let taken = world.settle(|batch| if large(batch) { unfit() } else { Ok(()) });
    assert_eq!(taken, [1]);
}

#[test]
fn output_that_loses_the_connection_is_found_out_by_what_passes_between() {
    let mut world = World::new();
    world.push(finish(1, 1 << 20, world.now));
    let mut id = 1;
    for _ in 0..1000 {
        match world.step() {
            Step::Wait(None) => return,
            Step::Wait(Some(until)) => {
                world.now = until;
                id += 1;
                world.push(Entry::Start(job(id)));
            }
            Step::Write(batch) => {
                let large = batch.finishes.iter().any(Finish::is_large);
                world.written(if large { Err(away()) } else { Ok(()) }, &batch);
            }
        }
    }
    panic!("never written: {:?}", world.backlog);
}

#[test]
fn outputs_that_lose_the_connection_are_found_out_on_an_idle_worker() {
    let mut world = World::new();
    (1..=3).for_each(|id| world.push(finish(id, 1 << 20, world.now)));
    let large = |batch: &Batch| batch.finishes.iter().any(Finish::is_large);
    let taken = world.settle(|batch| if large(batch) { Err(away()) } else { Ok(()) });
    assert_eq!(taken, [1, 1, 1], "no note comes of a probe");
}

#[test]
fn nothing_is_narrowed_because_everything_is_lost() {
    let mut world = World::new();
    (1..=3).for_each(|id| world.push(finish(id, 1 << 20, world.now)));
    for _ in 0..200 {
        let batch = world.batch();
        assert!(batch.finishes.iter().all(Finish::is_large));
        world.written(Err(away()), &batch);
    }
}
