//! Who is seen alive, and for how long we may call a row ours. Pure: `now` comes from the caller, as
//! the time since this host was booted (a clock that nobody sets, and that runs on while a machine is suspended).
//!
//! Nobody compares clocks. A rescuer calls a row orphaned when it has itself seen the same worker and
//! the same `lease_until` for a full lease; a holder stops in time by its own clock, counted from
//! before its renewal was sent. What the database's clock says never matters, only that a value changes.

use std::collections::HashMap;
use std::time::Duration;

use jobd_proto::JobId;

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
}

#[derive(Debug)]
struct Seen {
    worker: String,
    until: i64,
    since: Duration,
}

impl Observer {
    /// Has seen nothing yet.
    pub fn new(lease: Duration) -> Self {
        Self {
            lease,
            seen: HashMap::new(),
        }
    }

    /// Takes in every claimed row there is, and returns those whose holder has not been seen alive
    /// for a full lease. `began` is when the look began: what it shows may be that old, so that a
    /// slow answer counts against the rescue, never for it.
    pub fn look(&mut self, began: Duration, ended: Duration, leases: Vec<Lease>) -> Vec<Lease> {
        let mut seen = HashMap::with_capacity(leases.len());
        let mut orphans = Vec::new();
        for lease in leases {
            let since = match self.seen.remove(&lease.id) {
                Some(before) if before.worker == lease.worker && before.until == lease.until => {
                    before.since
                }
                _ => ended,
            };
            let found = Seen {
                worker: lease.worker.clone(),
                until: lease.until,
                since,
            };
            seen.insert(lease.id, found);
            if began.saturating_sub(since) >= self.lease {
                orphans.push(lease);
            }
        }
        self.seen = seen;
        orphans
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

    #[test]
    fn only_a_lease_that_was_seen_unchanged_for_its_full_length_is_orphaned() {
        let mut observer = Observer::new(LEASE);
        assert!(observer.look(s(0), s(1), vec![lease(5)]).is_empty());
        assert!(
            observer.look(s(30), s(30), vec![lease(5)]).is_empty(),
            "seen since 1, not 0"
        );
        assert!(
            observer.look(s(31), s(31), vec![lease(6)]).is_empty(),
            "renewed"
        );
        assert!(
            observer.look(s(60), s(99), vec![lease(6)]).is_empty(),
            "the look began before"
        );
        assert_eq!(observer.look(s(61), s(61), vec![lease(6)]).len(), 1);
        let other = Lease {
            worker: "v".into(),
            ..lease(6)
        };
        assert!(
            observer.look(s(90), s(90), vec![other]).is_empty(),
            "claimed by another"
        );
    }

    #[test]
    fn a_row_that_was_out_of_sight_is_seen_anew() {
        let mut observer = Observer::new(LEASE);
        observer.look(s(0), s(0), vec![lease(5)]);
        observer.look(s(10), s(10), vec![]);
        assert!(observer.look(s(31), s(31), vec![lease(5)]).is_empty());
        assert_eq!(observer.look(s(61), s(61), vec![lease(5)]).len(), 1);
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
