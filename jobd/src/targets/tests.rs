//! Random events from a printed seed, and the rules that people rely on.

mod on_demand;

use jobd_proto::{JobId, Targets as Selection};
use proptest::prelude::*;

use super::target::SECOND_LOOK;
use super::*;
use crate::job::{Origin, Terms, Tokens};

/// Three targets, a pattern, and a name that it serves.
fn name(index: u8) -> TargetName {
    let name = ["t0", "t1", "t2", "p/*", "p/1"][usize::from(index)];
    TargetName::new(name).unwrap()
}

fn job(id: u64, target: TargetName, origin: Origin) -> Job {
    Job {
        id: JobId(id),
        target,
        origin,
        token: Tokens::new("w", "h", id).next(origin),
        attempt: 1,
        interruptions: 0,
        again: false,
        terms: Terms::default(),
    }
}

/// A targets machine with everything that is under way around it.
struct World {
    targets: Targets,
    now: Instant,
    claims: Vec<(TargetName, u32)>,
    running: Vec<Job>,
    ending: Vec<Job>,
    back: usize,
    ended: usize,
    made: u64,
    drained: bool,
}

impl World {
    fn new() -> Self {
        let mut targets = Targets::new(10);
        (0..4).for_each(|index| targets.add(name(index), u32::from(index) * 2 + 1).unwrap());
        Self {
            targets,
            now: Instant::now(),
            claims: Vec::new(),
            running: Vec::new(),
            ending: Vec::new(),
            back: 0,
            ended: 0,
            made: 0,
            drained: false,
        }
    }

    fn act(&mut self, action: u8, pick: u8) {
        let target = name(pick % 5);
        match action {
            0 => self.targets.want(&[target]),
            1 => self.back += self.targets.pause(&[target]).len(),
            2 => self.targets.resume(&[target]),
            3 => {
                let by = if target == name(4) { &name(3) } else { &target };
                let names = self.targets.names();
                let served = names.contains(by) || names.contains(&target);
                let set = self
                    .targets
                    .set_concurrency(&target, u32::from(pick % 5) + 1);
                assert_eq!(set.is_ok(), served, "what is not served is not found");
            }
            4 => self.now += Duration::from_millis(u64::from(pick) * 20),
            5 => {
                self.made += 1;
                let manual = job(self.made, target, Origin::Manual);
                self.back += usize::from(self.targets.push_manual(manual).is_err());
            }
            6 | 7 => self.end_claim(action == 7, pick),
            8 if pick < 100 => {
                if let Some(job) = self.running.pop() {
                    self.targets.ended(&job.target, self.now);
                    self.ended += 1;
                }
            }
            8 if pick < 200 => {
                if let Some(job) = self.running.pop() {
                    self.targets.ending(&job.target);
                    self.ending.push(job);
                }
            }
            8 => {
                if let Some(job) = self.ending.pop() {
                    self.targets.written(&job.target, self.now);
                    self.ended += 1;
                }
            }
            9 => self.targets.rest(&target, self.now + REST),
            10 => {
                self.targets.wake(self.now);
                self.back += self.targets.stale(self.now).len();
            }
            11 if pick > 200 => {
                if let Some((back, _)) = self.targets.retire(&target) {
                    self.back += back.len();
                }
            }
            12 => {
                // Served again, or served already.
                let _ = self.targets.add(target, u32::from(pick % 5) + 1);
            }
            13 => self.targets.search(),
            14 => {
                for search in self.targets.searches() {
                    assert_eq!(search.pattern, name(3));
                    let names = vec![name(4).to_string(), "other".into()];
                    self.targets.found(&search, names, false);
                }
            }
            _ if pick > 250 => {
                self.back += self.targets.drain().len();
                self.drained = true;
            }
            _ => {}
        }
        let claims = self.targets.claims(self.now);
        assert!(
            claims.is_empty() || !self.drained,
            "a draining worker claims nothing"
        );
        self.claims.extend(claims);
        self.running.extend(self.targets.startable(self.now));
    }

    fn end_claim(&mut self, fails: bool, pick: u8) {
        let Some((target, asked)) = self.claims.pop() else {
            return;
        };
        if fails {
            return self.targets.claim_failed(&target, self.now + REST);
        }
        let rows = u64::from(asked.min(u32::from(pick % 12)));
        let jobs = (0..rows)
            .map(|row| job(self.made + row + 1, target.clone(), Origin::Background))
            .collect();
        self.made += rows;
        self.back += self.targets.claimed(&target, asked, jobs, self.now).len();
    }

    fn check(&self, limits: &BTreeMap<TargetName, usize>) {
        let mut held = 0;
        for (name, target) in &self.targets.by_name {
            assert!(
                target.busy() <= limits[name],
                "no more jobs than a limit that was in force since they started"
            );
            assert!(
                !target.leaving || target.claiming || target.length() > 0,
                "a target that leaves with nothing left is gone"
            );
            assert!(
                !self.targets.is_needless(target) || target.claiming || target.length() > 0,
                "a target on demand with nothing left is gone"
            );
            held += target.length();
        }
        assert_eq!(
            held + self.back + self.ended,
            usize::try_from(self.made).unwrap(),
            "every job is somewhere"
        );
        for (target, asked) in &self.claims {
            assert_eq!(
                self.claims
                    .iter()
                    .filter(|(other, _)| other == target)
                    .count(),
                1,
                "one claim per target"
            );
            assert!((1..=10).contains(asked));
        }
    }
}

const REST: Duration = Duration::from_millis(500);

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_order_of_events_keeps_the_limits(events in prop::collection::vec((0_u8..16, any::<u8>()), 1..120)) {
        let mut world = World::new();
        let mut limits = BTreeMap::new();
        for (action, pick) in events {
            world.act(action, pick);
            let sum = |of: fn(&Target) -> usize| world.targets.by_name.values().map(of).sum::<usize>();
            prop_assert_eq!(world.running.len(), sum(Target::busy));
            prop_assert_eq!(world.ending.len(), sum(|target| target.ending));
            let former = std::mem::take(&mut limits);
            for (name, target) in &world.targets.by_name {
                // A lowered limit holds once the jobs above it have ended.
                let before = former.get(name).copied().unwrap_or(usize::MAX);
                limits.insert(name.clone(), target.concurrency.max(target.busy().min(before)));
            }
            world.check(&limits);
        }
    }
}

#[test]
fn look_ahead_follows_the_pace() {
    let mut targets = Targets::new(0);
    let now = Instant::now();
    targets.add(name(0), 10).unwrap();
    assert_eq!(
        targets.claims(now),
        [(name(0), 10)],
        "free slots alone while nothing has ended"
    );
    let jobs = |ids: std::ops::Range<u64>| {
        ids.map(|id| job(id, name(0), Origin::Background))
            .collect::<Vec<_>>()
    };
    assert!(targets.claimed(&name(0), 10, jobs(0..10), now).is_empty());
    assert_eq!(targets.startable(now).len(), 10);
    assert!(
        targets.claims(now).is_empty(),
        "no slot is free, and none is about to be"
    );
    (0..10).for_each(|_| targets.ended(&name(0), now));
    assert_eq!(
        targets.claims(now),
        [(name(0), 20)],
        "ten ended within a second: ten ahead"
    );
    assert!(targets.claimed(&name(0), 20, jobs(10..30), now).is_empty());
    assert_eq!(targets.startable(now).len(), 10);
    let later = now + LOOK_AHEAD_TIME;
    assert_eq!(
        targets.stale(later).len(),
        10,
        "they do not wait behind long jobs"
    );
}

#[test]
fn a_short_claim_is_made_once_more_in_a_moment() {
    let mut targets = Targets::new(0);
    let mut now = Instant::now();
    targets.add(name(0), 5).unwrap();
    let rows = |ids: std::ops::Range<u64>| ids.map(|id| job(id, name(0), Origin::Background));
    // What comes behind a poke, a claim that brings as many rows as said, and each that follows without a poke.
    for claims in [vec![0, 0], vec![2, 1, 0], vec![2, 0]] {
        targets.want(&[name(0)]);
        for (at, brought) in claims.iter().enumerate() {
            let claimed = targets.claims(now);
            assert_eq!(claimed.len(), 1, "{claims:?}, {at}");
            targets.claimed(&name(0), claimed[0].1, rows(0..*brought).collect(), now);
            let started = targets.startable(now);
            (0..started.len()).for_each(|_| targets.ended(&name(0), now));
            targets.wake(now);
            assert!(targets.claims(now).is_empty(), "not at once");
            let next = (at + 1 < claims.len()).then_some(now + SECOND_LOOK);
            assert_eq!(targets.next_wake(), next, "{claims:?}, {at}");
            now += SECOND_LOOK;
            targets.wake(now);
        }
        assert!(targets.claims(now).is_empty(), "{claims:?}");
        assert_eq!(targets.hungry(now), [name(0)]);
    }
    // A poke in between begins anew.
    targets.want(&[name(0)]);
    targets.claims(now);
    targets.want(&[name(0)]);
    targets.claimed(&name(0), 5, Vec::new(), now);
    assert_eq!(targets.claims(now).len(), 1);
    targets.claimed(&name(0), 5, Vec::new(), now);
    assert_eq!(targets.next_wake(), Some(now + SECOND_LOOK));
}

#[test]
fn a_start_stands_behind_the_end_that_makes_room_for_it() {
    let mut targets = Targets::new(0);
    let now = Instant::now();
    targets.add(name(0), 2).unwrap();
    let rows = (0..9)
        .map(|id| job(id, name(0), Origin::Background))
        .collect();
    assert!(targets.claimed(&name(0), 9, rows, now).is_empty());
    assert_eq!(targets.startable(now).len(), 2);
    assert!(targets.startable(now).is_empty(), "the slots are taken");
    targets.ending(&name(0));
    assert_eq!(targets.startable(now).len(), 1, "one end, one start");
    targets.ending(&name(0));
    targets.ending(&name(0));
    assert_eq!(
        targets.startable(now).len(),
        1,
        "ends that cannot be written hold the slots once more, and then nothing starts"
    );
    targets.written(&name(0), now);
    assert_eq!(targets.startable(now).len(), 1);
}

#[test]
fn a_target_that_leaves_keeps_its_jobs_and_takes_no_more() {
    let mut targets = Targets::new(0);
    let now = Instant::now();
    let (a, b) = (name(0), name(1));
    targets.add(a.clone(), 1).unwrap();
    targets.add(b.clone(), 1).unwrap();
    assert_eq!(targets.claims(now).len(), 2);
    let rows =
        |ids: std::ops::Range<u64>| ids.map(|id| job(id, name(0), Origin::Background)).collect();
    assert!(targets.claimed(&a, 2, rows(0..2), now).is_empty());
    targets
        .push_manual(job(7, a.clone(), Origin::Manual))
        .unwrap();
    assert_eq!(targets.startable(now).len(), 1, "one slot");
    let (back, left) = targets.retire(&a).unwrap();
    assert_eq!((back.len(), left), (2, 1), "the manual job has the slot");
    assert!(targets.retire(&a).is_none());
    // Nobody is told of it any more, but for `status`.
    assert_eq!(targets.names(), std::slice::from_ref(&b));
    assert!(targets.status().contains_key("t0"));
    let selected = Selection::Named(vec!["t0".into()]);
    assert_eq!(
        targets.select(&selected),
        Err(TargetError::Invalid("t0".into()))
    );
    assert_eq!(targets.remove(&a), Err(TargetError::NotFound(a.clone())));
    targets
        .push_manual(job(8, a.clone(), Origin::Manual))
        .unwrap_err();
    targets.want(std::slice::from_ref(&a));
    assert!(targets.claims(now).is_empty());
    targets.ended(&a, now);
    assert!(!targets.status().contains_key("t0"), "it is gone");
    // With a claim under way it stays until that has ended, and its rows go back.
    assert_eq!(
        targets.retire(&b).map(|(back, left)| (back.len(), left)),
        Some((0, 0))
    );
    assert!(targets.status().contains_key("t1"));
    let late = vec![job(9, b.clone(), Origin::Background)];
    assert_eq!(targets.claimed(&b, 1, late, now).len(), 1);
    assert!(targets.status().is_empty());
}

#[test]
fn a_paused_target_holds_no_rows_and_runs_manual_jobs() {
    let mut targets = Targets::new(0);
    let now = Instant::now();
    targets.add(name(0), 1).unwrap();
    targets.pause(&[name(0)]);
    assert!(targets.claims(now).is_empty());
    targets
        .push_manual(job(1, name(0), Origin::Manual))
        .unwrap();
    assert_eq!(targets.startable(now).len(), 1);
    assert_eq!(targets.remove(&name(0)), Err(TargetError::Busy));
    targets.ended(&name(0), now);
    targets.resume(&[name(0)]);
    assert_eq!(
        targets.claims(now),
        [(name(0), 2)],
        "one slot, and one ahead as one has just ended"
    );
    assert_eq!(targets.claimed(&name(0), 2, vec![], now).len(), 0);
    assert_eq!(targets.remove(&name(0)), Ok(()));
}
