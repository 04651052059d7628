//! Which workers are there, what each serves, and which of them gets what.
//!
//! Pure: it knows no sockets, no tasks and no clock. What reaches a worker is `L`, which the hub
//! fills with a connection and tests with nothing.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};

use jobd_proto::master::{ManualJob, SignalJob};
use jobd_proto::{JobId, Pattern, TargetName, Targets};

/// A registration, by the connection that it came on. Never used twice in a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerId(pub u64);

/// One registered worker.
#[derive(Debug)]
pub struct Worker<L> {
    /// What it serves, each once, in the order it said.
    pub targets: Vec<TargetName>,
    /// The way to it.
    pub link: L,
    /// Manual jobs that it was given and has not answered for.
    manual_jobs: usize,
    /// The turn at which it was last given one; the lowest has waited longest.
    last_turn: u64,
    /// It is closing this connection: nothing more is given to it where others can take it.
    retired: bool,
}

/// Every registered worker.
#[derive(Debug)]
pub struct Registry<L> {
    workers: BTreeMap<WorkerId, Worker<L>>,
    /// Exactly the targets of `workers`; no set is empty.
    by_target: HashMap<TargetName, BTreeSet<WorkerId>>,
    /// Those of `by_target` that serve more names than their own.
    patterns: Vec<Pattern>,
    turn: u64,
}

/// What each worker gets of a request about several jobs.
#[derive(Debug, PartialEq, Eq)]
pub struct Split<T> {
    /// By worker, in the order of the request within each.
    pub parts: BTreeMap<WorkerId, Vec<T>>,
    /// Jobs of targets that nobody serves, with their target.
    pub unserved: Vec<(JobId, String)>,
}

impl<T> Default for Split<T> {
    fn default() -> Self {
        Self {
            parts: BTreeMap::new(),
            unserved: Vec::new(),
        }
    }
}

impl<L> Default for Registry<L> {
    fn default() -> Self {
        Self {
            workers: BTreeMap::new(),
            by_target: HashMap::new(),
            patterns: Vec::new(),
            turn: 0,
        }
    }
}

impl<L> Registry<L> {
    /// Adds a worker. One that registers again on its connection gets new targets and keeps its
    /// link and its jobs.
    pub fn register(&mut self, id: WorkerId, targets: Vec<TargetName>, link: L) {
        let former = self.remove(id);
        let mut seen = BTreeSet::new();
        let mut targets = targets;
        targets.retain(|target| seen.insert(target.clone()));
        for target in &targets {
            let serving = self.by_target.entry(target.clone()).or_default();
            if serving.is_empty() {
                self.patterns.extend(Pattern::of(target));
            }
            serving.insert(id);
        }
        let worker = match former {
            Some(former) => Worker { targets, ..former },
            None => Worker {
                targets,
                link,
                manual_jobs: 0,
                last_turn: 0,
                retired: false,
            },
        };
        self.workers.insert(id, worker);
    }

    /// Takes a worker out; `None` where it is out already.
    pub fn remove(&mut self, id: WorkerId) -> Option<Worker<L>> {
        let worker = self.workers.remove(&id)?;
        for target in &worker.targets {
            if let Some(serving) = self.by_target.get_mut(target) {
                serving.remove(&id);
                if serving.is_empty() {
                    self.by_target.remove(target);
                    self.patterns.retain(|pattern| pattern.name() != target);
                }
            }
        }
        Some(worker)
    }

    /// Gives this worker no more manual jobs where another one serves their target.
    pub fn retire(&mut self, id: WorkerId) {
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.retired = true;
        }
    }

    /// The worker, if it is still there.
    pub fn get(&self, id: WorkerId) -> Option<&Worker<L>> {
        self.workers.get(&id)
    }

    /// The worker, if it is still there.
    pub fn get_mut(&mut self, id: WorkerId) -> Option<&mut Worker<L>> {
        self.workers.get_mut(&id)
    }

    /// Every worker, longest registered first.
    pub fn iter(&self) -> impl Iterator<Item = (WorkerId, &Worker<L>)> {
        self.workers.iter().map(|(id, worker)| (*id, worker))
    }

    /// How many workers there are.
    pub fn len(&self) -> usize {
        self.workers.len()
    }

    /// Every target that somebody serves, in no order; patterns as they were registered.
    pub fn targets(&self) -> impl ExactSizeIterator<Item = &TargetName> {
        self.by_target.keys()
    }

    /// The name of a target that somebody serves.
    pub fn served(&self, target: &str) -> Option<TargetName> {
        if let Some((name, _)) = self.by_target.get_key_value(target) {
            return Some(name.clone());
        }
        let mut patterns = self.patterns.iter();
        patterns
            .any(|pattern| pattern.matches(target))
            .then(|| TargetName::new(target).ok())?
    }

    /// Who serves a target, by its name or by a pattern.
    pub fn serving(&self, target: &str) -> BTreeSet<WorkerId> {
        let patterns = self.patterns.iter();
        let matching = patterns.filter(|pattern| pattern.matches(target));
        let names = matching.map(|pattern| pattern.name().as_str());
        let serving = names
            .chain([target])
            .filter_map(|name| self.by_target.get(name));
        serving.flatten().copied().collect()
    }

    /// For a request about targets: each worker that serves one of them, with those of the named
    /// ones that it serves.
    pub fn split_targets(&self, targets: &Targets) -> Vec<(WorkerId, Targets)> {
        let Targets::Named(names) = targets else {
            return self.workers.keys().map(|id| (*id, Targets::All)).collect();
        };
        let mut parts: BTreeMap<WorkerId, Vec<String>> = BTreeMap::new();
        let mut seen = BTreeSet::new();
        for name in names.iter().filter(|name| seen.insert(name.as_str())) {
            for id in self.serving(name) {
                parts.entry(id).or_default().push(name.clone());
            }
        }
        parts
            .into_iter()
            .map(|(id, names)| (id, Targets::Named(names)))
            .collect()
    }

    /// Gives each job to the worker of its target with the fewest manual jobs, of equals to the
    /// one that was given none for longest. An id that comes twice counts once. The jobs are
    /// counted until [`Registry::answered`].
    pub fn split_manual(&mut self, jobs: Vec<ManualJob>) -> Split<ManualJob> {
        let mut seen = BTreeSet::new();
        let mut by_target: BTreeMap<String, Vec<ManualJob>> = BTreeMap::new();
        for job in jobs.into_iter().filter(|job| seen.insert(job.id)) {
            by_target.entry(job.target.clone()).or_default().push(job);
        }
        let mut split = Split::default();
        for (target, jobs) in by_target {
            let mut order = self.order_of_choice(&target);
            for job in jobs {
                let Some(mut best) = order.peek_mut() else {
                    split.unserved.push((job.id, job.target));
                    continue;
                };
                self.turn += 1;
                let Reverse((_, load, turn, id)) = &mut *best;
                (*load, *turn) = (*load + 1, self.turn);
                if let Some(worker) = self.workers.get_mut(id) {
                    (worker.manual_jobs, worker.last_turn) = (*load, self.turn);
                }
                split.parts.entry(*id).or_default().push(job);
            }
        }
        split
    }

    /// A worker has answered for, or will never answer for, so many manual jobs.
    pub fn answered(&mut self, id: WorkerId, jobs: usize) {
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.manual_jobs = worker.manual_jobs.saturating_sub(jobs);
        }
    }

    /// Gives each signal to every worker of its target. Of an id that comes twice the last one
    /// counts.
    pub fn split_signals(&self, jobs: Vec<SignalJob>) -> Split<(JobId, i32)> {
        let jobs: BTreeMap<JobId, SignalJob> = jobs.into_iter().map(|job| (job.id, job)).collect();
        let mut split = Split::default();
        for (id, job) in jobs {
            if self.served(&job.target).is_none() {
                split.unserved.push((id, job.target));
                continue;
            }
            for worker in self.serving(&job.target) {
                split
                    .parts
                    .entry(worker)
                    .or_default()
                    .push((id, job.signal));
            }
        }
        split
    }

    /// The workers of a target, the one to choose next on top.
    fn order_of_choice(&self, target: &str) -> BinaryHeap<Reverse<(bool, usize, u64, WorkerId)>> {
        self.serving(target)
            .into_iter()
            .filter_map(|id| {
                let worker = self.get(id)?;
                Some(Reverse((
                    worker.retired,
                    worker.manual_jobs,
                    worker.last_turn,
                    id,
                )))
            })
            .collect()
    }
}

#[cfg(test)]
#[path = "registry_tests.rs"]
mod tests;
