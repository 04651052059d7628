//! Who is seen alive, and for how long we may call a row ours. Pure: `now` comes from the caller, as
//! the time since this host was booted (a clock that nobody sets, and that runs on while a machine is suspended).
//!
//! Nobody compares clocks. A rescuer calls a row orphaned when it has itself seen the same worker and
//! the same `lease_until` for a full lease; a holder stops in time by its own clock, counted from
//! before its renewal was sent. What the database's clock says never matters, only that a value changes.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use jobd_proto::JobId;

use crate::faults::planted;

/// A claimed row as anybody sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The row.
    pub id: JobId,
    /// `accepted` or `running`.
    pub status: String,
    /// The claim's token.
    pub worker: String,
    /// `lease_until`.
    pub until: i64,
    /// Whether attempts are left after the one that runs.
    pub again: bool,
}

/// Watches the leases of others.
#[derive(Debug)]
pub struct Observer {
    lease: Duration,
    seen: HashMap<JobId, Seen>,
    /// When the last look ended.
    looked: Duration,
    /// Workers that were told of as slow, by name, host and instance.
    told: HashSet<String>,
    slow: Vec<Slow>,
}

#[derive(Debug)]
struct Seen {
    worker: String,
    until: i64,
    since: Duration,
    /// When the last look began that showed it so.
    last: Duration,
}

/// A worker that renewed a lease so late that one of our length had nearly passed: as if it had a longer one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slow {
    /// Its name, host and instance.
    pub worker: String,
    /// For how long its lease was seen unchanged.
    pub unchanged: Duration,
}

/// So many workers are told of as slow; more than a table has, but for those that start again and again.
const MAX_TOLD: usize = 1_000;

impl Observer {
    /// Has seen nothing yet.
    pub fn new(lease: Duration) -> Self {
        Self {
            lease,
            seen: HashMap::new(),
            looked: Duration::ZERO,
            told: HashSet::new(),
            slow: Vec::new(),
        }
    }

    /// Workers that renew more slowly than our own `lease` allows, each once. A holder of the same lease would
    /// have stopped its jobs by then.
    pub fn slow(&mut self) -> Vec<Slow> {
        std::mem::take(&mut self.slow)
    }

    /// Begins anew, because a look has failed: where we cannot read, others cannot renew.
    pub fn forget(&mut self) {
        self.seen.clear();
    }

    /// Takes in every claimed row there is, and returns those whose holder has not been seen alive
    /// for a full lease. `began` is when the look began: what it shows may be that old, so that a
    /// slow answer counts against the rescue, never for it.
    pub fn look(&mut self, began: Duration, ended: Duration, leases: Vec<Lease>) -> Vec<Lease> {
        // Who did not look for long cannot say what happened meanwhile: the database may have been away
        // from everybody, and the holders are about to renew.
        if began.saturating_sub(self.looked) > self.lease / 2 {
            self.forget();
        }
        self.looked = ended;
        let mut seen = HashMap::with_capacity(leases.len());
        let mut orphans = Vec::new();
        for lease in leases {
            let since = match self.seen.remove(&lease.id) {
                Some(before) if before.worker == lease.worker && before.until == lease.until => {
                    before.since
                }
                Some(before) if before.worker == lease.worker => {
                    self.note_renewal(&before);
                    ended
                }
                _ => ended,
            };
            let found = Seen {
                worker: lease.worker.clone(),
                until: lease.until,
                since,
                last: began,
            };
            seen.insert(lease.id, found);
            if began.saturating_sub(since) >= self.lease || planted!("rescue-before-a-full-lease") {
                orphans.push(lease);
            }
        }
        self.seen = seen;
        orphans
    }

    fn note_renewal(&mut self, before: &Seen) {
        let unchanged = before.last.saturating_sub(before.since);
        let worker = before
            .worker
            .rsplit_once('/')
            .map_or("", |(worker, _)| worker);
        if unchanged > self.lease * 2 / 3
            && self.told.len() < MAX_TOLD
            && self.told.insert(worker.to_owned())
        {
            self.slow.push(Slow {
                worker: worker.to_owned(),
                unchanged,
            });
        }
    }
}

/// Our own hold on the rows that we claimed: good for a lease from the last renewal that succeeded,
/// counted from before it was sent.
#[derive(Clone, Copy, Debug)]
pub struct Tenure {
    lease: Duration,
    confirmed: Duration,
}

impl Tenure {
    /// Begins now: nothing is held yet.
    pub fn new(lease: Duration, now: Duration) -> Self {
        Self {
            lease,
            confirmed: now,
        }
    }

    /// A renewal of everything, or a claim while nothing was held, was sent at `sent` and succeeded.
    pub fn confirm(&mut self, sent: Duration) {
        self.confirmed = self.confirmed.max(sent);
    }

    /// Between two renewals.
    pub fn interval(&self) -> Duration {
        self.lease / 3
    }

    /// How long a job that has to stop may take: it must be gone before the lease is.
    pub fn grace(&self) -> Duration {
        self.lease / 6
    }

    /// When somebody else must have stopped what we could not: a twelfth of the lease before it ends, and
    /// as much after our own stops are over.
    pub fn deadline(&self) -> Duration {
        self.confirmed + self.lease * 11 / 12
    }

    /// Whether to stop what others may start again: after two thirds of the lease.
    pub fn is_ending(&self, now: Duration) -> bool {
        now >= self.confirmed + self.lease * 2 / 3
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(30);

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn lease(until: i64) -> Lease {
        Lease {
            id: JobId(1),
            status: "running".into(),
            worker: "w".into(),
            until,
            again: true,
        }
    }

    /// Looks every ten seconds from `from` to `to`; whether the last look found an orphan.
    fn watch(observer: &mut Observer, from: u64, to: u64, lease: &Lease) -> bool {
        let looks = (from..=to).step_by(10);
        looks
            .map(|at| !observer.look(s(at), s(at), vec![lease.clone()]).is_empty())
            .last()
            == Some(true)
    }

    #[test]
    fn only_a_lease_that_was_seen_unchanged_for_its_full_length_is_orphaned() {
        let mut observer = Observer::new(LEASE);
        assert!(!watch(&mut observer, 100, 120, &lease(5)));
        assert!(!watch(&mut observer, 130, 150, &lease(6)), "renewed");
        let other = Lease {
            worker: "v".into(),
            ..lease(6)
        };
        assert!(
            !watch(&mut observer, 160, 180, &other),
            "claimed by another"
        );
        assert!(watch(&mut observer, 190, 190, &other));
    }

    #[test]
    fn a_slow_answer_counts_against_a_rescue() {
        let mut observer = Observer::new(LEASE);
        observer.look(s(100), s(105), vec![lease(5)]);
        assert!(!watch(&mut observer, 110, 130, &lease(5)), "seen since 105");
        assert!(
            observer.look(s(134), s(140), vec![lease(5)]).is_empty(),
            "the look began before 135"
        );
        assert_eq!(observer.look(s(141), s(141), vec![lease(5)]).len(), 1);
    }

    #[test]
    fn what_was_out_of_sight_is_seen_anew() {
        let mut observer = Observer::new(LEASE);
        watch(&mut observer, 100, 120, &lease(5));
        assert!(
            !watch(&mut observer, 136, 156, &lease(5)),
            "nobody looked for more than half a lease"
        );
        observer.look(s(160), s(160), vec![]);
        assert!(
            !watch(&mut observer, 166, 186, &lease(5)),
            "the row was not there"
        );
        observer.forget();
        assert!(
            !watch(&mut observer, 196, 216, &lease(5)),
            "a look has failed"
        );
        assert!(watch(&mut observer, 226, 226, &lease(5)));
    }

    #[test]
    fn a_worker_that_renews_as_if_its_lease_were_longer_is_told_of_once() {
        let of = |until| Lease {
            worker: "w@h/1/2".into(),
            ..lease(until)
        };
        let mut observer = Observer::new(LEASE);
        watch(&mut observer, 100, 120, &of(5));
        watch(&mut observer, 130, 130, &of(6));
        assert_eq!(observer.slow(), [], "20 of 30 seconds are in order");
        watch(&mut observer, 140, 155, &of(6));
        watch(&mut observer, 160, 160, &of(7));
        assert_eq!(observer.slow(), [], "each lease by itself");
        watch(&mut observer, 165, 185, &of(7));
        watch(&mut observer, 186, 186, &of(8));
        let slow = Slow {
            worker: "w@h/1".into(),
            unchanged: s(25),
        };
        assert_eq!(observer.slow(), [slow]);
        watch(&mut observer, 190, 210, &of(8));
        watch(&mut observer, 211, 211, &of(9));
        assert_eq!(observer.slow(), [], "once is enough");
        // Another claim of the row says nothing about renewals.
        watch(&mut observer, 220, 240, &of(9));
        let mut other = Observer::new(LEASE);
        watch(&mut other, 100, 120, &of(5));
        watch(
            &mut other,
            125,
            125,
            &Lease {
                worker: "v@h/1/2".into(),
                ..of(6)
            },
        );
        assert_eq!(other.slow(), []);
    }

    #[test]
    fn a_holder_stops_before_a_rescuer_may_act() {
        let mut tenure = Tenure::new(LEASE, s(0));
        tenure.confirm(s(10));
        tenure.confirm(s(7));
        assert!(!tenure.is_ending(s(29)) && tenure.is_ending(s(30)));
        // A rescuer may have seen the renewal of second 10 the moment it was written, and acts a full
        // lease later at the earliest; by then the job is killed.
        assert!(s(30) + tenure.grace() < tenure.deadline() && tenure.deadline() < s(10) + LEASE);
    }
}
