//! When a poke becomes polls: the first at once, all that follow within the interval together at
//! its end. Also the pokes for targets that nobody serves yet.
//!
//! Pure: the time comes in as `now`, which must not go back. It does not know who serves what.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

use jobd_proto::{Pattern, TargetName};

/// Targets without a worker whose pokes are remembered: far more than any application names, and
/// with the longest names 4 MiB that a confused one can take.
pub const MAX_REMEMBERED: usize = 4096;

/// At most one poll per target and interval, and none that is lost.
#[derive(Debug)]
pub struct Throttle {
    interval: Duration,
    /// Targets polled less than one interval ago; true where they were poked since.
    resting: HashMap<TargetName, bool>,
    /// When each of `resting` ends, soonest first.
    ends: VecDeque<(Instant, TargetName)>,
    /// Poked and not polled yet.
    ready: Vec<TargetName>,
    remembered: BTreeSet<TargetName>,
}

impl Throttle {
    /// A throttle that lets each target through once per `interval`; zero lets through all.
    pub fn new(interval: Duration) -> Self {
        Self {
            interval,
            resting: HashMap::new(),
            ends: VecDeque::new(),
            ready: Vec::new(),
            remembered: BTreeSet::new(),
        }
    }

    /// Changes the interval. No target rests longer from `now` on than it says, and none that rests already
    /// rests longer than it would have.
    pub fn set_interval(&mut self, interval: Duration, now: Instant) {
        self.interval = interval;
        for (end, _) in &mut self.ends {
            *end = (*end).min(now + interval);
        }
        if interval.is_zero() {
            let poked = self.resting.drain().filter(|(_, poked)| *poked);
            self.ready.extend(poked.map(|(target, _)| target));
            self.ends.clear();
        }
    }

    /// Notes a poke; [`Throttle::due`] says when it becomes a poll.
    pub fn poke(&mut self, target: &TargetName, now: Instant) {
        if let Some(poked) = self.resting.get_mut(target) {
            *poked = true;
        } else {
            self.rest(target.clone(), now);
            self.ready.push(target.clone());
        }
    }

    /// Takes the targets that are to be polled now, each once.
    pub fn due(&mut self, now: Instant) -> Vec<TargetName> {
        while self.ends.front().is_some_and(|(end, _)| *end <= now) {
            let Some((_, target)) = self.ends.pop_front() else {
                break;
            };
            // Those poked a moment ago, at an interval of zero, are in `ready` already.
            if self.resting.remove(&target) == Some(true) && !self.interval.is_zero() {
                self.rest(target.clone(), now);
                self.ready.push(target);
            }
        }
        std::mem::take(&mut self.ready)
    }

    /// When to ask [`Throttle::due`] again at the latest; `None` while nothing rests.
    pub fn next_end(&self) -> Option<Instant> {
        self.ends.front().map(|(end, _)| *end)
    }

    /// Keeps the poke of a target that nobody serves; `false` where too many are kept already.
    pub fn remember(&mut self, target: TargetName) -> bool {
        if self.remembered.len() >= MAX_REMEMBERED && !self.remembered.contains(&target) {
            return false;
        }
        self.remembered.insert(target);
        true
    }

    /// Pokes those of `targets` that were remembered: somebody serves them now.
    pub fn recall(&mut self, targets: &[TargetName], now: Instant) {
        for target in targets {
            if self.remembered.remove(target) {
                self.poke(target, now);
            }
            if let Some(pattern) = Pattern::of(target) {
                let names = &mut self.remembered;
                let served = names.extract_if(.., |name| pattern.matches(name.as_str()));
                for name in served.collect::<Vec<_>>() {
                    self.poke(&name, now);
                }
            }
        }
    }

    fn rest(&mut self, target: TargetName, now: Instant) {
        self.resting.insert(target.clone(), false);
        self.ends.push_back((now + self.interval, target));
    }
}

#[cfg(test)]
#[path = "throttle_tests.rs"]
mod tests;
