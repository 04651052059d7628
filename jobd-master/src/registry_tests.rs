//! The registry driven by random events, its invariants asserted after each.

#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::random::Random;

fn target(number: u64) -> TargetName {
    TargetName::new(format!("t{number}")).unwrap()
}

fn names(names: &[&str]) -> Targets {
    Targets::Named(names.iter().map(|name| (*name).to_owned()).collect())
}

fn manual(id: u64, target: &str) -> ManualJob {
    ManualJob {
        id: JobId(id),
        target: target.to_owned(),
    }
}

fn ids(split: &Split<ManualJob>, worker: u64) -> Vec<u64> {
    let part = split.parts.get(&WorkerId(worker));
    part.into_iter().flatten().map(|job| job.id.0).collect()
}

/// Three workers: 1 serves t1, 2 serves t1 and t2, 3 serves t2.
fn three() -> Registry<()> {
    let mut registry = Registry::default();
    for (id, targets) in [(1, vec![1]), (2, vec![1, 2]), (3, vec![2])] {
        let targets = targets.into_iter().map(target).collect();
        registry.register(WorkerId(id), targets, ());
    }
    registry
}

#[test]
fn a_request_about_targets_gives_each_worker_its_own_subset() {
    let registry = three();
    assert_eq!(
        registry.split_targets(&names(&["t2", "t1", "nobody", "t2"])),
        [
            (WorkerId(1), names(&["t1"])),
            (WorkerId(2), names(&["t2", "t1"])),
            (WorkerId(3), names(&["t2"])),
        ]
    );
    assert_eq!(registry.split_targets(&names(&["nobody"])), []);
    let all = registry.split_targets(&Targets::All);
    assert!(all.iter().all(|(_, targets)| *targets == Targets::All));
    assert_eq!(all.len(), 3);
}

#[test]
fn manual_jobs_go_to_the_least_busy_worker_then_round() {
    let mut registry = three();
    let jobs = |from: u64| (from..from + 4).map(|id| manual(id, "t1")).collect();
    let split = registry.split_manual(jobs(10));
    assert_eq!(
        (ids(&split, 1), ids(&split, 2)),
        (vec![10, 12], vec![11, 13])
    );
    registry.answered(WorkerId(2), 2);
    let split = registry.split_manual(vec![manual(20, "t1"), manual(21, "t1")]);
    assert_eq!((ids(&split, 1), ids(&split, 2)), (vec![], vec![20, 21]));
    registry.answered(WorkerId(1), 2);
    registry.answered(WorkerId(2), 2);
    // With nothing to do for anybody the turn goes round.
    let mut turns = Vec::new();
    for id in 30..34 {
        let split = registry.split_manual(vec![manual(id, "t1")]);
        let worker = *split.parts.keys().next().unwrap();
        registry.answered(worker, 1);
        turns.push(worker.0);
    }
    assert!(turns == [1, 2, 1, 2] || turns == [2, 1, 2, 1], "{turns:?}");
}

#[test]
fn manual_jobs_are_taken_once_and_those_nobody_serves_come_back() {
    let mut registry = three();
    let split = registry.split_manual(vec![
        manual(5, "t2"),
        manual(5, "t1"),
        manual(6, "x"),
        manual(5, "t2"),
    ]);
    assert_eq!(split.parts.values().map(Vec::len).sum::<usize>(), 1);
    assert_eq!(split.unserved, [(JobId(6), "x".to_owned())]);
}

#[test]
fn a_retired_worker_gets_manual_jobs_only_where_nobody_else_can() {
    let mut registry = three();
    registry.retire(WorkerId(2));
    let split = registry.split_manual((0..5).map(|id| manual(id, "t1")).collect());
    assert_eq!(ids(&split, 1).len(), 5);
    registry.remove(WorkerId(1));
    let split = registry.split_manual(vec![manual(9, "t1")]);
    assert_eq!(ids(&split, 2), [9]);
}

#[test]
fn a_signal_goes_to_every_worker_of_its_target() {
    let registry = three();
    let signal = |id, signal, target: &str| SignalJob {
        id: JobId(id),
        signal,
        target: target.to_owned(),
    };
    let split = registry.split_signals(vec![
        signal(1, 15, "t1"),
        signal(2, 9, "t2"),
        signal(3, 9, "x"),
    ]);
    let (one, two) = ((JobId(1), 15), (JobId(2), 9));
    assert_eq!(
        split.parts.into_iter().collect::<Vec<_>>(),
        [
            (WorkerId(1), vec![one]),
            (WorkerId(2), vec![one, two]),
            (WorkerId(3), vec![two]),
        ]
    );
    assert_eq!(split.unserved, [(JobId(3), "x".to_owned())]);
}

#[test]
fn a_pattern_serves_every_name_that_matches() {
    let mut registry = Registry::default();
    let named = |names: &[&str]| names.iter().map(|name| name.parse().unwrap()).collect();
    registry.register(WorkerId(1), named(&["user/*", "mail"]), ());
    registry.register(WorkerId(2), named(&["user/7"]), ());
    let ids = |registry: &Registry<()>, name: &str| -> Vec<u64> {
        registry.serving(name).iter().map(|id| id.0).collect()
    };
    assert_eq!(ids(&registry, "user/7"), [1, 2]);
    assert_eq!(ids(&registry, "user/8"), [1]);
    assert_eq!(ids(&registry, "user/*"), [1], "by its own text");
    assert_eq!(registry.served("user/9").unwrap().as_str(), "user/9");
    assert_eq!(
        registry.split_targets(&names(&["user/7", "mail"])),
        [
            (WorkerId(1), names(&["user/7", "mail"])),
            (WorkerId(2), names(&["user/7"])),
        ]
    );
    assert_eq!(
        registry.split_manual(vec![manual(1, "user/8")]).unserved,
        []
    );
    registry.register(WorkerId(3), named(&["user/*"]), ());
    registry.remove(WorkerId(1));
    assert_eq!(ids(&registry, "user/8"), [3]);
    registry.remove(WorkerId(3));
    assert!(ids(&registry, "user/8").is_empty());
    assert_eq!(registry.served("user/8"), None);
}

#[test]
fn random_events_keep_the_registry_whole() {
    for seed in Random::seeds(200) {
        let mut random = Random::new(seed);
        let mut registry: Registry<u64> = Registry::default();
        let mut model: BTreeMap<WorkerId, Vec<TargetName>> = BTreeMap::new();
        let mut loads: BTreeMap<WorkerId, usize> = BTreeMap::new();
        for _ in 0..150 {
            let id = WorkerId(random.below(6));
            match random.below(6) {
                0 | 1 => {
                    let targets: Vec<_> = (0..=random.below(3))
                        .map(|_| target(random.below(4)))
                        .collect();
                    registry.register(id, targets.clone(), id.0);
                    loads.entry(id).or_default();
                    model.insert(id, targets);
                }
                2 => {
                    let removed = registry.remove(id).is_some();
                    assert_eq!(removed, model.remove(&id).is_some(), "seed {seed}");
                    loads.remove(&id);
                }
                3 => {
                    let done = usize::try_from(random.below(4)).unwrap();
                    registry.answered(id, done);
                    if let Some(load) = loads.get_mut(&id) {
                        *load = load.saturating_sub(done);
                    }
                }
                _ => split_and_check(&mut registry, &mut random, &model, &mut loads, seed),
            }
            check(&registry, &model, &loads, seed);
        }
    }
}

/// Each job goes to exactly one worker that serves it, and no worker gets one while another of
/// the target has fewer.
fn split_and_check(
    registry: &mut Registry<u64>,
    random: &mut Random,
    model: &BTreeMap<WorkerId, Vec<TargetName>>,
    loads: &mut BTreeMap<WorkerId, usize>,
    seed: u64,
) {
    let wanted = target(random.below(4));
    let count = random.below(8);
    let jobs = (0..count).map(|id| manual(id, wanted.as_str())).collect();
    let split = registry.split_manual(jobs);
    let given: usize = split.parts.values().map(Vec::len).sum();
    assert_eq!(
        given + split.unserved.len(),
        usize::try_from(count).unwrap(),
        "seed {seed}"
    );
    for (id, part) in &split.parts {
        assert!(
            model[id].contains(&wanted),
            "seed {seed}: {id:?} does not serve it"
        );
        *loads.get_mut(id).unwrap() += part.len();
    }
    let serving = |id: &WorkerId| model.get(id).is_some_and(|t| t.contains(&wanted));
    let least = loads
        .iter()
        .filter(|(id, _)| serving(id))
        .map(|(_, load)| *load)
        .min();
    for id in split.parts.keys() {
        assert!(
            loads[id] <= least.unwrap() + 1,
            "seed {seed}: unfair {loads:?}"
        );
    }
    assert_eq!(
        split.unserved.is_empty() || count == 0,
        least.is_some() || count == 0,
        "seed {seed}"
    );
}

fn check(
    registry: &Registry<u64>,
    model: &BTreeMap<WorkerId, Vec<TargetName>>,
    loads: &BTreeMap<WorkerId, usize>,
    seed: u64,
) {
    assert_eq!(registry.len(), model.len(), "seed {seed}");
    for (id, worker) in registry.iter() {
        assert_eq!(
            worker.link, id.0,
            "seed {seed}: the link is the first one's"
        );
        assert_eq!(worker.manual_jobs, loads[&id], "seed {seed}");
        let served: BTreeSet<_> = worker.targets.iter().collect();
        assert_eq!(
            served.len(),
            worker.targets.len(),
            "seed {seed}: a target twice"
        );
        assert_eq!(served, model[&id].iter().collect(), "seed {seed}");
        assert!(
            worker
                .targets
                .iter()
                .all(|t| registry.serving(t.as_str()).contains(&id))
        );
    }
    for target in registry.targets() {
        assert!(
            !registry.serving(target.as_str()).is_empty(),
            "seed {seed}: empty set"
        );
        for id in registry.serving(target.as_str()) {
            assert!(model[&id].contains(target), "seed {seed}: stale index");
        }
    }
}
