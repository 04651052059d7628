//! The targets that this worker serves: slots, queues, pauses, remembered polls. Pure: it names no
//! clock, no database and no process, and takes `now` from its caller.
//!
//! It decides what to claim and what to start; the dispatcher does it and tells what came of it.

mod pace;
mod patterns;
mod requests;
mod target;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use jobd_proto::worker::TargetStatus;
use jobd_proto::{JobId, Pattern, TargetName};

use self::patterns::{Full, Patterns};
use self::target::{Target, Want};
use crate::job::Job;

pub use self::patterns::Search;

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
    patterns: Patterns,
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
    /// `remove-target` of a name that a pattern serves.
    #[error("target '{0}' belongs to the pattern '{1}': pause the name, or remove the pattern")]
    OnDemand(TargetName, TargetName),
    /// A change names a target that a pattern would serve, if there were not too many.
    #[error("too many targets at a time, try again later")]
    TooMany,
}

impl From<Full> for TargetError {
    fn from(_: Full) -> Self {
        Self::TooMany
    }
}

impl Targets {
    /// None yet. `fetch_limit` bounds one claim; 0 leaves it to a constant.
    pub fn new(fetch_limit: u32) -> Self {
        let mut targets = Self {
            by_name: BTreeMap::new(),
            patterns: Patterns::default(),
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

    /// Serves one more target, from its first rows on; or every name that matches, where it is a pattern.
    pub fn add(&mut self, name: TargetName, concurrency: u32) -> Result<(), TargetError> {
        let concurrency = concurrency as usize;
        if let Some(pattern) = Pattern::of(&name) {
            return self.add_pattern(pattern, concurrency);
        }
        match self.by_name.get_mut(&name) {
            Some(target) if target.leaving || target.pattern.is_some() => {
                if target.pattern.take().is_some() {
                    self.patterns.no_longer();
                }
                target.concurrency = concurrency;
                (target.leaving, target.paused, target.want) = (false, false, Want::Rows);
            }
            Some(_) => return Err(TargetError::Exists(name)),
            None => {
                self.note_spelling(&name);
                self.by_name.insert(name, Target::new(concurrency));
            }
        }
        Ok(())
    }

    /// How many jobs of a target, or of each name of a pattern, may run at a time, where it is served by its own
    /// name.
    pub fn concurrency(&self, name: &TargetName) -> Option<usize> {
        let pattern = self.patterns.get(name).map(|served| served.concurrency);
        let target = self.served(name).filter(|t| t.pattern.is_none());
        pattern.or(target.map(|target| target.concurrency))
    }

    /// Stops serving a target that need not be idle: hands back what it had claimed ahead, and says how many
    /// jobs are left to end. Manual jobs that wait for a slot still get one. `None` where it is not served.
    pub fn retire(&mut self, name: &TargetName) -> Option<(Vec<Job>, usize)> {
        if self.patterns.get(name).is_some() {
            return self.drop_pattern(name);
        }
        let target = self.by_name.get_mut(name);
        let target = target.filter(|t| !t.leaving && t.pattern.is_none())?;
        target.leaving = true;
        let back = target.queue.drain(..).map(|(_, job)| job).collect();
        let left = target.length();
        self.part(name);
        Some((back, left))
    }

    /// Stops serving a target, or a pattern with all its names, that is idle.
    pub fn remove(&mut self, name: &TargetName) -> Result<(), TargetError> {
        if self.patterns.get(name).is_some() {
            if self.is_pattern_busy(name) {
                return Err(TargetError::Busy);
            }
            self.drop_pattern(name);
            return Ok(());
        }
        let target = self
            .served(name)
            .ok_or_else(|| TargetError::NotFound(name.clone()))?;
        if let Some(pattern) = &target.pattern {
            return Err(TargetError::OnDemand(name.clone(), pattern.clone()));
        }
        if target.claiming || target.length() > 0 {
            return Err(TargetError::Busy);
        }
        self.forget_target(name);
        Ok(())
    }

    /// Changes a limit. Running jobs above a lowered limit go on.
    pub fn set_concurrency(
        &mut self,
        name: &TargetName,
        concurrency: u32,
    ) -> Result<(), TargetError> {
        if self.set_pattern_concurrency(name, concurrency as usize) {
            self.part_with_idle(name);
            return Ok(());
        }
        let name = self
            .demand(name.as_str())?
            .ok_or_else(|| TargetError::NotFound(name.clone()))?;
        self.each(std::slice::from_ref(&name), |target| {
            target.limit(concurrency as usize);
        });
        self.part(&name);
        Ok(())
    }

    /// Targets that a periodic look at the table should ask about.
    pub fn hungry(&self, now: Instant) -> Vec<TargetName> {
        let hungry = |target: &Target| {
            !target.claiming && target.want == Want::Nothing && target.room(now) > 0
        };
        self.by_name
            .iter()
            .filter(|(_, target)| !self.draining && hungry(target))
            .map(|(name, _)| name.clone())
            .collect()
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
            target.claim();
            (
                name.clone(),
                u32::try_from(target.room(now).min(limit)).unwrap_or(u32::MAX),
            )
        })
        .collect()
    }

    /// Takes in what a claim brought and returns what must go back, because the target was paused
    /// or the worker drains.
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
        target.claimed(asked, jobs.len(), now);
        if target.paused || target.leaving || self.draining {
            self.part(name);
            return jobs;
        }
        target.queue.extend(jobs.into_iter().map(|job| (now, job)));
        self.part(name);
        Vec::new()
    }

    /// A claim did not succeed: it is wanted again, after a rest.
    pub fn claim_failed(&mut self, name: &TargetName, rest_until: Instant) {
        if let Some(target) = self.by_name.get_mut(name) {
            target.claiming = false;
            target.want = Want::Rows;
            target.rest_until = Some(rest_until);
        }
        self.part(name);
    }

    /// Queues a manual job; gives it back where the target is gone or the worker drains.
    pub fn push_manual(&mut self, mut job: Job) -> Result<(), Job> {
        if self.draining {
            return Err(job);
        }
        self.demand_for(&mut job);
        match self.by_name.get_mut(&job.target) {
            Some(target) if !target.leaving => {
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

    /// What was claimed could not begin, and would be claimed again: no claim and no start for a moment.
    pub fn rest(&mut self, name: &TargetName, until: Instant) {
        if !self.by_name.contains_key(name) {
            // One on demand has gone with its last job, and would be made anew. Where there is no room for it, it rests anyway.
            let _ = self.demand(name.as_str());
        }
        if let Some(target) = self.by_name.get_mut(name) {
            target.rest_until = Some(until);
            target.want = Want::Rows;
        }
        // Where its pattern is paused it claims nothing anyway.
        self.part(name);
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
            .flat_map(|target| [target.next_wake(), stale(target)])
            .flatten()
            .min()
    }

    /// Forgets rests that are over, and claims again where that is due.
    pub fn wake(&mut self, now: Instant) {
        (self.by_name.values_mut()).for_each(|target| target.wake(now));
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
                target.want = Want::Rows;
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
        let mut back = Vec::new();
        for target in self.by_name.values_mut() {
            back.extend(target.manual.drain(..));
            back.extend(target.queue.drain(..).map(|(_, job)| job));
        }
        let names: Vec<TargetName> = self.by_name.keys().cloned().collect();
        for name in &names {
            self.part(name);
        }
        back
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

    /// What `status` tells. A pattern has no jobs of its own; its names have.
    pub fn status(&self) -> BTreeMap<String, TargetStatus> {
        let targets = self.by_name.iter();
        let targets = targets.map(|(name, target)| (name.to_string(), target.status()));
        let patterns = self.patterns.list().map(|served| {
            let name = served.pattern.name();
            (name.to_string(), served.status(self.names_of(name)))
        });
        targets.chain(patterns).collect()
    }

    fn served(&self, name: &TargetName) -> Option<&Target> {
        self.by_name.get(name).filter(|target| !target.leaving)
    }

    /// Forgets a target that is leaving, or was made on demand, and has nothing left.
    fn part(&mut self, name: &TargetName) {
        let gone = |target: &Target| {
            (target.leaving || self.is_needless(target)) && !target.claiming && target.length() == 0
        };
        if self.by_name.get(name).is_some_and(gone) {
            self.forget_target(name);
        }
    }

    fn forget_target(&mut self, name: &TargetName) {
        if let Some(target) = self.by_name.remove(name) {
            self.gone(name, &target);
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
