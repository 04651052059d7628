//! Random events from a printed seed, and the rules that people rely on.

use jobd_proto::JobId;
use proptest::prelude::*;

use super::*;
use crate::job::{Origin, Tokens};

fn name(index: u8) -> TargetName {
    TargetName::new(format!("t{index}")).unwrap()
}

fn job(id: u64, target: TargetName, origin: Origin) -> Job {
    Job {
        id: JobId(id),
        target,
        origin,
        token: Tokens::new("w", "h", id).next(origin),
        attempt: 1,
        again: false,
    }
}

/// A targets machine with everything that is under way around it.
struct World {
    targets: Targets,
    now: Instant,
    claims: Vec<(TargetName, u32)>,
    running: Vec<Job>,
    back: usize,
    ended: usize,
    made: u64,
    drained: bool,
}

impl World {
    fn new() -> Self {
        let mut targets = Targets::new(10);
        (0..3).for_each(|index| targets.add(name(index), u32::from(index) * 2 + 1).unwrap());
        Self {
            targets,
            now: Instant::now(),
            claims: Vec::new(),
            running: Vec::new(),
            back: 0,
            ended: 0,
            made: 0,
            drained: false,
        }
    }

    fn act(&mut self, action: u8, pick: u8) {
        let target = name(pick % 3);
        match action {
            0 => self.targets.want(&[target]),
            1 => self.back += self.targets.pause(&[target]).len(),
            2 => self.targets.resume(&[target]),
            3 => self
                .targets
                .set_concurrency(&target, u32::from(pick % 5) + 1)
                .unwrap(),
            4 => self.now += Duration::from_millis(u64::from(pick) * 20),
            5 => {
                self.made += 1;
                let manual = job(self.made, target, Origin::Manual);
                self.back += usize::from(self.targets.push_manual(manual).is_err());
            }
            6 | 7 => self.end_claim(action == 7, pick),
            8 => {
                if let Some(job) = self.running.pop() {
                    self.targets.ended(&job.target, self.now);
                    self.ended += 1;
                }
            }
            9 => self.targets.rest(&target, self.now + REST),
            10 => {
                self.targets.wake(self.now);
                self.back += self.targets.stale(self.now).len();
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

    fn check(&self, limits: &[usize]) {
        let mut held = 0;
        for (target, most) in self.targets.by_name.values().zip(limits) {
            assert!(
                target.running <= *most,
                "no more jobs than a limit that was in force since they started"
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
    fn any_order_of_events_keeps_the_limits(events in prop::collection::vec((0_u8..12, any::<u8>()), 1..120)) {
        let mut world = World::new();
        let mut limits: Vec<usize> = world.targets.by_name.values().map(|target| target.concurrency).collect();
        for (action, pick) in events {
            let running: usize = world.targets.by_name.values().map(|target| target.running).sum();
            world.act(action, pick);
            prop_assert!(world.running.len() == world.targets.by_name.values().map(|target| target.running).sum::<usize>());
            prop_assert!(running <= world.running.len() + 1);
            for (limit, target) in limits.iter_mut().zip(world.targets.by_name.values()) {
                // A lowered limit holds once the jobs above it have ended.
                *limit = target.concurrency.max(target.running.min(*limit));
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
