//! The targets that this worker serves: slots, queues, pauses, remembered polls. Pure: it names no
//! clock, no database and no process, and takes `now` from its caller.
//!
//! It decides what to claim and what to start; the dispatcher does it and tells what came of it.

mod pace;
mod target;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use jobd_proto::worker::TargetStatus;
use jobd_proto::{JobId, TargetName, Targets as Selection};

use self::target::Target;
use crate::job::Job;

/// A claimed row that waited this long for a slot goes back to the table, where another worker may
/// have one free. A look-ahead is meant to cover a claim's round trip, not a long job.
const LOOK_AHEAD_TIME: Duration = Duration::from_secs(5);

/// The most rows of one claim where `mysql_fetch_limit` sets no limit: one claim must not lock and
/// carry more than a moment's work.
const MAX_CLAIM: usize = 1000;

/// Every target by name.
#[derive(Debug)]
pub struct Targets {
    by_name: BTreeMap<TargetName, Target>,
    fetch_limit: usize,
    draining: bool,
}

/// Why a request about targets is refused; the texts are the protocol's.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TargetError {
    /// A poll, pause or continue names a target that is not served.
    #[error("invalid target '{0}'")]
    Invalid(String),
    /// A change names a target that is not served.
    #[error("target '{0}' not found")]
    NotFound(TargetName),
    /// `add-target` of a served target.
    #[error("target '{0}' already added")]
    Exists(TargetName),
    /// `remove-target` with jobs queued, running or being claimed.
    #[error("queue is not empty")]
    Busy,
}

impl Targets {
    /// None yet. `fetch_limit` bounds one claim; 0 leaves it to a constant.
    pub fn new(fetch_limit: u32) -> Self {
        let mut targets = Self {
            by_name: BTreeMap::new(),
            fetch_limit: 0,
            draining: false,
        };
        targets.set_fetch_limit(fetch_limit);
        targets
    }

    /// Bounds one claim; 0 leaves it to a constant.
    pub fn set_fetch_limit(&mut self, fetch_limit: u32) {
        self.fetch_limit = match fetch_limit {
            0 => MAX_CLAIM,
            limit => MAX_CLAIM.min(limit as usize),
        };
    }

    /// Serves one more target, from its first rows on.
    pub fn add(&mut self, name: TargetName, concurrency: u32) -> Result<(), TargetError> {
        match self.by_name.get_mut(&name) {
            Some(target) if target.leaving => {
                target.concurrency = concurrency as usize;
                (target.leaving, target.paused, target.wanted) = (false, false, true);
            }
            Some(_) => return Err(TargetError::Exists(name)),
            None => {
                self.by_name.insert(name, Target::new(concurrency as usize));
            }
        }
        Ok(())
    }

    /// How many jobs of a target may run at a time, where it is served.
    pub fn concurrency(&self, name: &TargetName) -> Option<usize> {
        self.served(name).map(|target| target.concurrency)
    }

    /// Stops serving a target that need not be idle: hands back what it had claimed ahead, and says how many
    /// jobs are left to end. Manual jobs that wait for a slot still get one. `None` where it is not served.
    pub fn retire(&mut self, name: &TargetName) -> Option<(Vec<Job>, usize)> {
        let target = self.by_name.get_mut(name).filter(|t| !t.leaving)?;
        target.leaving = true;
        let back = target.queue.drain(..).map(|(_, job)| job).collect();
        let left = target.length();
        self.part(name);
        Some((back, left))
    }

    /// Stops serving a target that is idle.
    pub fn remove(&mut self, name: &TargetName) -> Result<(), TargetError> {
        let target = self
            .served(name)
            .ok_or_else(|| TargetError::NotFound(name.clone()))?;
        if target.claiming || target.length() > 0 {
            return Err(TargetError::Busy);
        }
        self.by_name.remove(name);
        Ok(())
    }

    /// Changes a limit. Running jobs above a lowered limit go on.
    pub fn set_concurrency(
        &mut self,
        name: &TargetName,
        concurrency: u32,
    ) -> Result<(), TargetError> {
        let target = self
            .by_name
            .get_mut(name)
            .filter(|target| !target.leaving)
            .ok_or_else(|| TargetError::NotFound(name.clone()))?;
        // A raised limit has room for rows that nobody pokes about again.
        target.wanted |= concurrency as usize > target.concurrency;
        target.concurrency = concurrency as usize;
        Ok(())
    }

    /// The served targets that a request selects.
    pub fn select(&self, selection: &Selection) -> Result<Vec<TargetName>, TargetError> {
        match selection {
            Selection::All => Ok(self.names()),
            Selection::Named(names) => names
                .iter()
                .map(|name| match self.by_name.get_key_value(name.as_str()) {
                    Some((name, target)) if !target.leaving => Ok(name.clone()),
                    _ => Err(TargetError::Invalid(name.clone())),
                })
                .collect(),
        }
    }

    /// Every served target.
    pub fn names(&self) -> Vec<TargetName> {
        let served = self.by_name.iter().filter(|(_, target)| !target.leaving);
        served.map(|(name, _)| name.clone()).collect()
    }

    /// Targets that a periodic look at the table should ask about.
    pub fn hungry(&self, now: Instant) -> Vec<TargetName> {
        let hungry = |target: &Target| !target.claiming && !target.wanted && target.room(now) > 0;
        self.by_name
            .iter()
            .filter(|(_, target)| !self.draining && hungry(target))
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// Remembers that rows of these targets may be waiting.
    pub fn want(&mut self, names: &[TargetName]) {
        self.each(names, |target| target.wanted = true);
    }

    /// Pauses targets and hands back what they had claimed ahead. Running and manual jobs go on.
    pub fn pause(&mut self, names: &[TargetName]) -> Vec<Job> {
        let mut back = Vec::new();
        self.each(names, |target| {
            target.paused = true;
            back.extend(target.queue.drain(..).map(|(_, job)| job));
        });
        back
    }

    /// Ends a pause, and looks for rows at once.
    pub fn resume(&mut self, names: &[TargetName]) {
        self.each(names, |target| {
            target.paused = false;
            target.wanted = true;
        });
    }

    /// The claims to make now, each with the most rows to take. One claim per target at a time.
    pub fn claims(&mut self, now: Instant) -> Vec<(TargetName, u32)> {
        if self.draining {
            return Vec::new();
        }
        let limit = self.fetch_limit;
        let due = self
            .by_name
            .iter_mut()
            .filter(|(_, target)| target.wants_claim(now));
        due.map(|(name, target)| {
            target.claiming = true;
            target.wanted = false;
            (
                name.clone(),
                u32::try_from(target.room(now).min(limit)).unwrap_or(u32::MAX),
            )
        })
        .collect()
    }

    /// Takes in what a claim brought and returns what must go back, because the target was paused
    /// or the worker drains. A full claim means that there may be more.
    pub fn claimed(
        &mut self,
        name: &TargetName,
        asked: u32,
        jobs: Vec<Job>,
        now: Instant,
    ) -> Vec<Job> {
        let Some(target) = self.by_name.get_mut(name) else {
            return jobs;
        };
        target.claiming = false;
        target.wanted |= jobs.len() >= asked as usize;
        if target.paused || target.leaving || self.draining {
            self.part(name);
            return jobs;
        }
        target.queue.extend(jobs.into_iter().map(|job| (now, job)));
        Vec::new()
    }

    /// A claim did not succeed: it is wanted again, after a rest.
    pub fn claim_failed(&mut self, name: &TargetName, rest_until: Instant) {
        if let Some(target) = self.by_name.get_mut(name) {
            target.claiming = false;
            target.wanted = true;
            target.rest_until = Some(rest_until);
        }
        self.part(name);
    }

    /// Queues a manual job; gives it back where the target is gone or the worker drains.
    pub fn push_manual(&mut self, job: Job) -> Result<(), Job> {
        match self.by_name.get_mut(&job.target) {
            Some(target) if !target.leaving && !self.draining => {
                target.manual.push_back(job);
                Ok(())
            }
            _ => Err(job),
        }
    }

    /// Jobs that have a slot now; the slots count as taken from here on.
    pub fn startable(&mut self, now: Instant) -> Vec<Job> {
        let mut jobs = Vec::new();
        for target in self
            .by_name
            .values_mut()
            .filter(|target| !target.resting(now))
        {
            while target.busy() < target.concurrency && target.running < 2 * target.concurrency {
                let next = target
                    .manual
                    .pop_front()
                    .or_else(|| target.queue.pop_front().map(|(_, job)| job));
                let Some(job) = next else { break };
                target.running += 1;
                jobs.push(job);
            }
        }
        jobs
    }

    /// A job is over and its end is handed to the ledger, which writes it before any start that comes
    /// after it.
    pub fn ending(&mut self, name: &TargetName) {
        if let Some(target) = self.by_name.get_mut(name) {
            target.ending += 1;
        }
    }

    /// The end of a job is written, after [`Self::ending`].
    pub fn written(&mut self, name: &TargetName, now: Instant) {
        if let Some(target) = self.by_name.get_mut(name) {
            target.ending = target
                .ending
                .checked_sub(1)
                .expect("an end is written once");
        }
        self.ended(name, now);
    }

    /// A job is over and its end is written, or there is none to write: its slot is free.
    pub fn ended(&mut self, name: &TargetName, now: Instant) {
        if let Some(target) = self.by_name.get_mut(name) {
            target.running = target
                .running
                .checked_sub(1)
                .expect("a slot is freed once per start");
            target.pace.note(now);
        }
        self.part(name);
    }

    /// The system has no room for a process: no claim and no start for a moment.
    pub fn rest(&mut self, name: &TargetName, until: Instant) {
        if let Some(target) = self.by_name.get_mut(name) {
            target.rest_until = Some(until);
            target.wanted = true;
        }
    }

    /// When [`Self::wake`] or [`Self::stale`] next have something to do.
    pub fn next_wake(&self) -> Option<Instant> {
        let stale = |target: &Target| {
            target
                .queue
                .front()
                .map(|(since, _)| *since + LOOK_AHEAD_TIME)
        };
        self.by_name
            .values()
            .flat_map(|target| [target.rest_until, stale(target)])
            .flatten()
            .min()
    }

    /// Forgets rests that are over.
    pub fn wake(&mut self, now: Instant) {
        for target in self
            .by_name
            .values_mut()
            .filter(|target| !target.resting(now))
        {
            target.rest_until = None;
        }
    }

    /// Rows claimed ahead that have waited too long for a slot.
    pub fn stale(&mut self, now: Instant) -> Vec<Job> {
        let mut back = Vec::new();
        for target in self.by_name.values_mut() {
            while target
                .queue
                .front()
                .is_some_and(|(since, _)| now.duration_since(*since) >= LOOK_AHEAD_TIME)
            {
                back.extend(target.queue.pop_front().map(|(_, job)| job));
                target.wanted = true;
            }
        }
        back
    }

    /// The rows that are claimed and have no slot yet.
    pub fn queued(&self) -> impl Iterator<Item = JobId> {
        let queues = self.by_name.values();
        queues.flat_map(|target| {
            let ahead = target.queue.iter().map(|(_, job)| job.id);
            ahead.chain(target.manual.iter().map(|job| job.id))
        })
    }

    /// Takes a row out of its queue, because it is not ours any more.
    pub fn forget(&mut self, id: JobId) -> Vec<Job> {
        let mut gone = Vec::new();
        for target in self.by_name.values_mut() {
            while let Some(at) = target.queue.iter().position(|(_, job)| job.id == id) {
                gone.extend(target.queue.remove(at).map(|(_, job)| job));
            }
            while let Some(at) = target.manual.iter().position(|job| job.id == id) {
                gone.extend(target.manual.remove(at));
            }
        }
        for job in &gone {
            self.part(&job.target);
        }
        gone
    }

    /// Takes nothing any more and hands back everything that has not started.
    pub fn drain(&mut self) -> Vec<Job> {
        self.draining = true;
        let queues = self.by_name.values_mut();
        queues
            .flat_map(|target| {
                target
                    .manual
                    .drain(..)
                    .chain(target.queue.drain(..).map(|(_, job)| job))
                    .collect::<Vec<_>>()
            })
            .collect()
    }

    /// Claims under way.
    pub fn claiming(&self) -> usize {
        self.by_name
            .values()
            .filter(|target| target.claiming)
            .count()
    }

    /// Whether nothing is queued, running or being claimed.
    pub fn is_idle(&self) -> bool {
        self.by_name
            .values()
            .all(|target| !target.claiming && target.length() == 0)
    }

    /// What `status` tells.
    pub fn status(&self) -> BTreeMap<String, TargetStatus> {
        self.by_name
            .iter()
            .map(|(name, target)| (name.to_string(), target.status()))
            .collect()
    }

    fn served(&self, name: &TargetName) -> Option<&Target> {
        self.by_name.get(name).filter(|target| !target.leaving)
    }

    /// Forgets a target that is leaving and has nothing left.
    fn part(&mut self, name: &TargetName) {
        let gone = |target: &Target| target.leaving && !target.claiming && target.length() == 0;
        if self.by_name.get(name).is_some_and(gone) {
            self.by_name.remove(name);
        }
    }

    fn each(&mut self, names: &[TargetName], mut change: impl FnMut(&mut Target)) {
        for name in names {
            if let Some(target) = self.by_name.get_mut(name) {
                change(target);
            }
        }
    }
}

#[cfg(test)]
mod tests;
