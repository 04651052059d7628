//! Which ends go into the journal, and when it is emptied. Pure: `now` and the outcome of each step come
//! from the caller.
//!
//! An end that is written at once never goes there. One does whose first write fails, or that has waited for
//! [`PATIENCE`]: behind a database that hangs, too. The journal is emptied when no end in it waits any more. Its
//! ends are those that hold a slot, or that a predecessor left: it is as bounded as they are, at twice their
//! size and [`SLACK`].

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use jobd_proto::JobId;

use super::backlog::Backlog;
use crate::job::ClaimToken;
use crate::store::Finish;

/// How long an end may wait to be written before it goes into the journal: a healthy database needs
/// milliseconds, and each visit to the journal costs a sync.
pub const PATIENCE: Duration = Duration::from_millis(250);

/// Between two tries of a journal that fails: people make room, or mend what is broken.
const RETRY: Duration = Duration::from_secs(5);

/// Output that goes into the journal at a time: it is copied for that.
const MAX_BYTES: usize = 16 << 20;

/// Bytes of ends that were written since, beyond as many as still wait, before the journal is replaced by a
/// smaller one.
const SLACK: u64 = 1 << 20;

/// What an end takes beside its output, roughly.
const HEAD: usize = 300;

/// Names an end.
pub type Claim = (JobId, ClaimToken);

/// Something to do with the journal; then tell [`Keeping::done`] what became of it.
#[derive(Debug)]
pub enum Step {
    /// Open it, and read what it holds.
    Open,
    /// Add these.
    Append(Vec<Finish>),
    /// Replace it by one with these.
    Replace(Vec<Finish>),
    /// Empty it.
    Clear,
    /// Nothing until then; nothing until an end comes or is written, where there is no time.
    Wait(Option<Instant>),
}

/// See the module.
#[derive(Debug, Default)]
pub struct Keeping {
    state: State,
    /// The ends in the journal that wait to be written, or are on their way into it, with their size.
    kept: HashMap<Claim, usize>,
    /// Those of them that a predecessor left.
    inherited: HashSet<Claim>,
    /// What is under way.
    busy: Option<Vec<Claim>>,
    /// Nothing is tried before.
    rest: Option<Instant>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// There is none, or it is not ours to use yet.
    #[default]
    Off,
    /// It is ours, and not open yet.
    Closed,
    /// Open, with so many bytes of ends.
    Open(u64),
}

impl Keeping {
    /// The journal is ours from now on.
    pub fn allow(&mut self) {
        if self.state == State::Off {
            self.state = State::Closed;
        }
    }

    /// Whether ends may have to be kept.
    pub fn is_on(&self) -> bool {
        self.state != State::Off
    }

    /// How many ends wait in the journal.
    pub fn waiting(&self) -> usize {
        self.kept.len() - self.busy.as_ref().map_or(0, Vec::len)
    }

    /// Whether nothing is left to do once nothing is left to write.
    pub fn is_clear(&self) -> bool {
        !matches!(self.state, State::Open(bytes) if bytes > 0)
    }

    /// What to do at `now` about the ends that wait in `backlog`.
    pub fn next(&mut self, now: Instant, backlog: &Backlog) -> Step {
        if self.busy.is_some() || self.state == State::Off {
            return Step::Wait(None);
        }
        if let Some(rest) = self.rest.filter(|rest| *rest > now) {
            return Step::Wait(Some(rest));
        }
        let State::Open(bytes) = self.state else {
            self.busy = Some(Vec::new());
            return Step::Open;
        };
        if self.kept.is_empty() && bytes > 0 {
            self.busy = Some(Vec::new());
            return Step::Clear;
        }
        let (due, later) = self.due(now, backlog);
        if due.is_empty() {
            return Step::Wait(later);
        }
        let live: usize = self.kept.values().sum();
        let crowded = bytes > 2 * live as u64 + SLACK;
        let claims: Vec<Claim> = due.iter().map(claim).collect();
        let sizes = due.iter().map(size);
        self.kept.extend(claims.iter().cloned().zip(sizes));
        self.busy = Some(claims);
        if crowded {
            let all = backlog.ends().flat_map(|ends| ends.finishes);
            let kept = all.filter(|end| self.kept.contains_key(&claim(end)));
            return Step::Replace(kept.cloned().collect());
        }
        Step::Append(due)
    }

    /// The last step is done: the journal holds `bytes` of ends.
    pub fn done(&mut self, bytes: u64) {
        self.busy = None;
        self.rest = None;
        self.state = State::Open(bytes);
    }

    /// The last step failed: none of it counts.
    pub fn failed(&mut self, now: Instant) {
        for claim in self.busy.take().into_iter().flatten() {
            self.kept.remove(&claim);
        }
        self.rest = Some(now + RETRY);
    }

    /// An end that the journal held when it was opened. `false` where it waits already.
    pub fn inherit(&mut self, end: &Finish) -> bool {
        self.inherited.insert(claim(end)) && self.kept.insert(claim(end), size(end)).is_none()
    }

    /// An end waits no more. Whether a predecessor had left it.
    pub fn written(&mut self, end: &Finish) -> bool {
        if self.kept.is_empty() {
            return false;
        }
        let claim = claim(end);
        self.kept.remove(&claim);
        if let Some(busy) = &mut self.busy {
            busy.retain(|other| *other != claim);
        }
        self.inherited.remove(&claim)
    }

    /// The ends of a predecessor that still wait.
    pub fn inherited(&self) -> &HashSet<Claim> {
        &self.inherited
    }

    /// The ends to keep now, as far as one step goes, and when there will be others.
    fn due(&self, now: Instant, backlog: &Backlog) -> (Vec<Finish>, Option<Instant>) {
        let (mut due, mut bytes, mut later) = (Vec::new(), 0, None::<Instant>);
        for ends in backlog.ends() {
            let at = ends.since + PATIENCE;
            if !ends.failed && at > now {
                later = Some(later.map_or(at, |later| later.min(at)));
                continue;
            }
            for end in ends.finishes {
                if bytes < MAX_BYTES && !self.kept.contains_key(&claim(end)) {
                    bytes += size(end);
                    due.push(end.clone());
                }
            }
        }
        (due, later)
    }
}

fn claim(end: &Finish) -> Claim {
    (end.job.id, end.job.token.clone())
}

fn size(end: &Finish) -> usize {
    end.stdout.len() + end.stderr.len() + HEAD
}

#[cfg(test)]
mod tests;
