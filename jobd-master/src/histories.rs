//! Short histories of a master's pure parts together, each from a seed: workers come and go, pokes become polls,
//! manual runs and signals are split, answered in any order or not at all, and merged.
//!
//! The model is what people rely on: which pokes nobody was polled for yet, and what each worker said.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use jobd_proto::connection::CloseReason;
use jobd_proto::master::{ManualJob, MasterSignalReply, SignalJob};
use jobd_proto::worker::RunManualReply;
use jobd_proto::{JobId, TargetName, Targets};
use serde_json::{Value, json};

use crate::member::Trouble;
use crate::merge;
use crate::random::Random;
use crate::registry::{Registry, WorkerId};
use crate::throttle::Throttle;

/// In an ordinary run of the tests.
const HISTORIES: u64 = 25_000;

/// What happens in each.
const EVENTS: u64 = 40;

fn target(number: u64) -> TargetName {
    TargetName::new(format!("t{number}")).unwrap()
}

struct World {
    random: Random,
    registry: Registry<()>,
    throttle: Throttle,
    interval: Duration,
    now: Instant,
    /// Who serves what.
    workers: BTreeMap<WorkerId, BTreeSet<TargetName>>,
    /// Pokes that no poll has followed yet, and when they came.
    open: BTreeMap<TargetName, Instant>,
    /// Pokes of targets that nobody served.
    kept: BTreeSet<TargetName>,
    runs: Vec<ManualRun>,
    last: u64,
}

/// A manual run that some workers have not answered for.
struct ManualRun {
    asked: BTreeSet<JobId>,
    parts: Vec<(WorkerId, Vec<ManualJob>)>,
    reply: RunManualReply,
    /// What workers said of the jobs that ran.
    told: BTreeMap<JobId, String>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let interval = Duration::from_millis(random.below(4) * 50);
        Self {
            random,
            registry: Registry::default(),
            throttle: Throttle::new(interval),
            interval,
            now: Instant::now(),
            workers: BTreeMap::new(),
            open: BTreeMap::new(),
            kept: BTreeSet::new(),
            runs: Vec::new(),
            last: 0,
        }
    }

    fn step(&mut self) {
        match self.random.below(9) {
            0 => self.register(),
            1 => {
                let id = WorkerId(self.random.below(5));
                assert_eq!(
                    self.registry.remove(id).is_some(),
                    self.workers.remove(&id).is_some()
                );
            }
            2 => self.registry.retire(WorkerId(self.random.below(5))),
            3 | 4 => self.poke(),
            5 => self.now += Duration::from_millis(self.random.below(80)),
            6 => self.run_manual(),
            7 => self.answer(),
            _ => self.signal(),
        }
        self.poll();
    }

    fn register(&mut self) {
        let id = WorkerId(self.random.below(5));
        let targets: Vec<TargetName> = (0..=self.random.below(3))
            .map(|_| target(self.random.below(4)))
            .collect();
        self.throttle.recall(&targets, self.now);
        for target in &targets {
            if self.kept.remove(target) {
                self.open.entry(target.clone()).or_insert(self.now);
            }
        }
        self.workers.insert(id, targets.iter().cloned().collect());
        self.registry.register(id, targets, ());
    }

    fn poke(&mut self) {
        let target = target(self.random.below(4));
        if self.registry.served(target.as_str()).is_some() {
            self.throttle.poke(&target, self.now);
            self.open.entry(target).or_insert(self.now);
        } else {
            assert!(self.throttle.remember(target.clone()));
            self.kept.insert(target);
        }
    }

    /// As the hub does after each event, and when the throttle asks for it.
    fn poll(&mut self) {
        let due = self.throttle.due(self.now);
        let names = due.iter().map(ToString::to_string).collect();
        let polled: BTreeMap<WorkerId, Targets> = self
            .registry
            .split_targets(&Targets::Named(names))
            .into_iter()
            .collect();
        for target in &due {
            assert!(self.open.remove(target).is_some(), "a poll for no poke");
            let serving = self
                .workers
                .iter()
                .filter(|(_, targets)| targets.contains(target));
            for (id, _) in serving.clone() {
                let Some(Targets::Named(names)) = polled.get(id) else {
                    panic!("{id:?} serves {target} and is not polled");
                };
                assert!(names.iter().any(|name| name == target.as_str()));
            }
            if serving.count() == 0 {
                assert!(self.throttle.remember(target.clone()));
                self.kept.insert(target.clone());
            }
        }
        for (id, targets) in &polled {
            let Targets::Named(names) = targets else {
                panic!("a poll for named targets names them");
            };
            let served = |name: &String| {
                self.workers[id]
                    .iter()
                    .any(|target| target.as_str() == name)
            };
            assert!(
                names.iter().all(served),
                "{id:?} is polled for what it does not serve"
            );
        }
        for (target, since) in &self.open {
            assert!(self.now < *since + self.interval, "{target} waits too long");
            assert!(
                self.throttle.next_end().is_some(),
                "nobody would wake for {target}"
            );
        }
    }

    fn run_manual(&mut self) {
        let count = self.random.below(6);
        let mut jobs = Vec::new();
        for _ in 0..count {
            // Now and then an id comes twice.
            self.last += self.random.below(4).min(1);
            let target = target(self.random.below(5)).to_string();
            jobs.push(ManualJob {
                id: JobId(self.last),
                target,
            });
        }
        let asked = jobs.iter().map(|job| job.id).collect();
        let split = self.registry.split_manual(jobs);
        let mut reply = RunManualReply::default();
        for (id, target) in split.unserved {
            assert!(
                self.workers
                    .values()
                    .all(|targets| targets.iter().all(|served| served.as_str() != target))
            );
            reply.errors.insert(id, merge::unserved(&target));
        }
        for (id, jobs) in &split.parts {
            let serves = |job: &ManualJob| {
                self.workers[id]
                    .iter()
                    .any(|target| target.as_str() == job.target)
            };
            assert!(
                jobs.iter().all(serves),
                "{id:?} does not serve what it is given"
            );
        }
        let parts = split.parts.into_iter().collect();
        self.runs.push(ManualRun {
            asked,
            parts,
            reply,
            told: BTreeMap::new(),
        });
    }

    /// Some worker answers for its part of some run, or never will.
    fn answer(&mut self) {
        let Some(at) = self.pick(self.runs.len()) else {
            return;
        };
        let run = &mut self.runs[at];
        if run.parts.is_empty() {
            return self.check(at);
        }
        let last = run.parts.len() - 1;
        let part = usize::try_from(self.random.below(1 + last as u64)).unwrap();
        let (id, jobs) = run.parts.swap_remove(part);
        let name = format!("worker {}", id.0);
        let answer = match self.random.below(8) {
            0 => Err(Trouble::Closing),
            1 => Err(Trouble::Gone(CloseReason::Peer)),
            2 => Err(Trouble::Late(Duration::from_secs(5))),
            3 => Ok(json!("what is this")),
            _ => Ok(said(&jobs, &name, &mut self.random, &mut run.told)),
        };
        merge::add_jobs(&mut run.reply, &jobs, &name, answer);
        self.registry.answered(id, jobs.len());
        if run.parts.is_empty() {
            self.check(at);
        }
    }

    /// Every job that was asked for is told of once, and as its worker said.
    fn check(&mut self, at: usize) {
        let run = self.runs.swap_remove(at);
        let RunManualReply { jobs, errors } = &run.reply;
        let told: BTreeSet<JobId> = jobs.keys().chain(errors.keys()).copied().collect();
        assert_eq!(told, run.asked);
        assert_eq!(
            told.len(),
            jobs.len() + errors.len(),
            "told of twice: {:?}",
            run.reply
        );
        let outcomes: BTreeMap<JobId, String> = jobs
            .iter()
            .map(|(id, outcome)| (*id, outcome.stdout.clone()))
            .collect();
        assert_eq!(outcomes, run.told);
    }

    fn signal(&mut self) {
        let jobs: Vec<SignalJob> = (0..self.random.below(4))
            .map(|id| SignalJob {
                id: JobId(id),
                signal: 15,
                target: target(self.random.below(5)).to_string(),
            })
            .collect();
        let asked: BTreeSet<JobId> = jobs.iter().map(|job| job.id).collect();
        let split = self.registry.split_signals(jobs);
        let mut reply = MasterSignalReply::default();
        for (id, target) in split.unserved {
            reply.errors.insert(id, merge::unserved(&target));
        }
        let mut delivered = BTreeSet::new();
        for (worker, signals) in split.parts {
            let ids: Vec<JobId> = signals.iter().map(|(id, _)| *id).collect();
            let answer = if self.random.below(3) == 0 {
                Err(Trouble::Gone(CloseReason::Peer))
            } else {
                let mut say = |id: &JobId| (id.to_string(), Value::Bool(self.random.below(2) == 0));
                let said: serde_json::Map<String, Value> = ids.iter().map(&mut say).collect();
                delivered.extend(
                    ids.iter()
                        .filter(|id| said[&id.to_string()] == true)
                        .copied(),
                );
                Ok(Value::Object(said))
            };
            merge::add_signals(&mut reply, &ids, &format!("worker {}", worker.0), answer);
        }
        merge::forgive_delivered(&mut reply);
        for id in asked {
            let told = reply.delivered.get(&id.to_string()).copied();
            assert_eq!(told == Some(true), delivered.contains(&id), "{reply:?}");
            assert!(
                told.is_some() || reply.errors.contains_key(&id),
                "{id} is not told of: {reply:?}"
            );
        }
    }

    fn pick(&mut self, count: usize) -> Option<usize> {
        (count > 0).then(|| usize::try_from(self.random.below(count as u64)).unwrap())
    }
}

/// A worker's answer: some jobs ran, some did not, some it forgets.
fn said(
    jobs: &[ManualJob],
    name: &str,
    random: &mut Random,
    told: &mut BTreeMap<JobId, String>,
) -> Value {
    let (mut ran, mut errors) = (serde_json::Map::new(), serde_json::Map::new());
    for job in jobs {
        match random.below(4) {
            0 => drop(errors.insert(job.id.to_string(), json!("no"))),
            1 => {}
            _ => {
                let outcome = json!({"result": "ok", "code": 0, "signal": null, "stdout": name, "stderr": ""});
                ran.insert(job.id.to_string(), outcome);
                told.insert(job.id, name.to_owned());
            }
        }
    }
    json!({"jobs": ran, "errors": errors})
}

#[test]
fn in_any_history_pokes_become_polls_and_jobs_are_answered_for_once() {
    let histories = std::env::var("JOBD_HISTORIES").ok();
    let histories = histories.map_or(HISTORIES, |number| number.parse().unwrap());
    for seed in Random::seeds(histories) {
        let broken = std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            for _ in 0..EVENTS {
                world.step();
            }
            while !world.runs.is_empty() {
                world.answer();
            }
        });
        assert!(
            broken.is_ok(),
            "repeat this history with JOBD_TEST_SEED={seed}"
        );
    }
}
