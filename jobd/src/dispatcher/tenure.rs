//! Keeps our claims ours: renews the leases of everything that we hold, and stops in time what others
//! may start again.

use std::collections::BTreeMap;

use jobd_proto::JobId;
use tokio::time::Instant as Deadline;

use super::{Dispatcher, Event, Held};
use crate::fate::Reason;
use crate::faults::planted;
use crate::launcher::Order;
use crate::leases::Tenure;
use crate::store::{StoreError, Unrenewed};

/// Ticks of a lease: how finely its end is met, and how soon a failed renewal is tried again.
const TICKS: u32 = 12;

/// What jobs are told in their `stderr`.
const LEASE_ENDED: &str =
    "stopped because the database could not be reached, and another worker may start the job again";

/// What jobs are told in their `stderr`.
const ROW_LOCKED: &str = "stopped because its row could not be written for most of a lease (locked by somebody else, or refused by the database), and another worker may start the job again";

/// What jobs are told in their `stderr`.
const ROW_LOST: &str = "stopped because its row was taken from this worker";

/// Our hold on the rows of this worker, on a table with ownership.
#[derive(Debug)]
pub(super) struct Keeper {
    tenure: Tenure,
    /// When the last renewal was sent that succeeded, or when nothing was held.
    renewed: std::time::Duration,
    renewing: bool,
    /// Rows that the last renewal found locked by somebody else, or that the database refused, with our hold on each.
    locked: BTreeMap<JobId, Tenure>,
    /// Whether claiming is off because the lease is ending.
    pub(super) suspended: bool,
    pub(super) next_tick: Deadline,
}

/// A renewal that has ended.
#[derive(Debug)]
pub(super) struct Renewal {
    sent: std::time::Duration,
    unrenewed: Result<Unrenewed, StoreError>,
}

impl Keeper {
    pub(super) fn new(lease: std::time::Duration, now: std::time::Duration) -> Self {
        Self {
            tenure: Tenure::new(lease, now),
            renewed: now,
            renewing: false,
            locked: BTreeMap::new(),
            suspended: false,
            next_tick: Deadline::now(),
        }
    }
}

impl Keeper {
    /// When the guard has to act for a row: after our own stops have done their work, before a rescuer may.
    pub(super) fn deadline(&self, id: JobId) -> std::time::Duration {
        self.locked.get(&id).unwrap_or(&self.tenure).deadline()
    }
}

impl Dispatcher {
    /// Renews what is due, and looks whether the lease is ending.
    pub(super) fn lease_tick(&mut self) {
        self.keep_guard();
        let ids = self.held_rows();
        let Some(keeper) = &mut self.keeper else {
            return;
        };
        keeper.next_tick = Deadline::now() + self.settings.lease / TICKS;
        let now = self.host.since_boot();
        if ids.is_empty() {
            keeper.tenure.confirm(now);
            keeper.renewed = now;
            keeper.suspended = false;
            return;
        }
        let ending = keeper.tenure.is_ending(now);
        let due = !keeper.renewing && now >= keeper.renewed + keeper.tenure.interval();
        if due {
            keeper.renewing = true;
            let (store, sender, host, worker) = (
                self.store.clone(),
                self.sender.clone(),
                self.host.clone(),
                self.tokens.worker().to_owned(),
            );
            tokio::spawn(async move {
                let mut sent = host.since_boot();
                let unrenewed = store.renew(worker, ids).await;
                if planted!("renewal-measured-from-the-answer") {
                    sent = host.since_boot();
                }
                drop(sender.send(Event::Renewed(Renewal { sent, unrenewed })));
            });
        }
        if ending {
            self.end_tenure();
        }
        self.stop_locked();
        self.tell_guard();
    }

    pub(super) fn renewed(&mut self, renewal: Renewal) {
        let Some(keeper) = &mut self.keeper else {
            return;
        };
        keeper.renewing = false;
        match renewal.unrenewed {
            Ok(Unrenewed { lost, locked }) => {
                // Our hold on these is what it was before.
                let former = std::mem::take(&mut keeper.locked);
                let hold = |id| (id, *former.get(&id).unwrap_or(&keeper.tenure));
                keeper.locked = locked.into_iter().map(hold).collect();
                keeper.tenure.confirm(renewal.sent);
                // A row that is locked is tried again with the next tick: mostly it was for a moment only.
                if keeper.locked.is_empty() {
                    keeper.renewed = renewal.sent;
                }
                // An answer that took most of a lease says nothing about the rest of it: ask again.
                if keeper.tenure.is_ending(self.host.since_boot()) {
                    keeper.next_tick = Deadline::now();
                } else if std::mem::take(&mut keeper.suspended) {
                    tracing::info!("leases renewed, claiming again");
                }
                self.tell_guard();
                for id in lost {
                    self.row_lost(id);
                }
            }
            Err(error) => tracing::warn!(%error, "cannot renew leases, trying again"),
        }
    }

    /// Whether nothing may be begun, because what we hold may soon be another's.
    pub(super) fn is_ending(&self) -> bool {
        let ending = |keeper: &Keeper| keeper.tenure.is_ending(self.host.since_boot());
        self.keeper.as_ref().is_some_and(ending)
    }

    /// Every row that carries a token of ours, as far as we know.
    pub(super) fn held_rows(&self) -> Vec<JobId> {
        let mut ids: Vec<JobId> = self.holding.keys().map(|(id, _)| *id).collect();
        ids.extend(self.targets.queued());
        ids.extend(self.cancelling.iter().map(|(id, _)| *id));
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// Claims nothing more, and stops the jobs that a rescuer would let run again.
    fn end_tenure(&mut self) {
        let Some(keeper) = &mut self.keeper else {
            return;
        };
        let grace = keeper.tenure.grace();
        if !std::mem::replace(&mut keeper.suspended, true) {
            tracing::error!(
                "leases could not be renewed for two thirds of their time: claiming nothing, stopping jobs that others may start again"
            );
        }
        for held in self.holding.values_mut().filter(|held| held.job.again) {
            held.stop(LEASE_ENDED, Some(grace));
        }
    }

    /// Stops the jobs whose rows somebody else has had locked for so long that a rescuer may soon let them run again.
    fn stop_locked(&mut self) {
        let Some(keeper) = &self.keeper else {
            return;
        };
        let now = self.host.since_boot();
        for held in self.holding.values_mut().filter(|held| held.job.again) {
            // Sooner than the guard, which would kill the others too.
            if let Some(hold) = keeper.locked.get(&held.job.id)
                && hold.is_ending(now)
                && held.stop(ROW_LOCKED, Some(hold.grace() / 2))
            {
                tracing::error!(job = %held.job.id, target = %held.job.target, "lease could not be renewed, because somebody else has the row locked, or the database refuses the change: stopping the job");
            }
        }
    }

    /// A row that we believed ours carries another's token, or none. Ends and releases that are under
    /// way look the same for a moment: only what is queued or runs is meant.
    fn row_lost(&mut self, id: JobId) {
        for job in self.targets.forget(id) {
            tracing::warn!(job = %id, target = %job.target, "row was taken from us while it waited for a slot");
            self.fail_waiter(&job, "was changed while it waited to start");
        }
        for held in self.holding.values_mut().filter(|held| held.job.id == id) {
            if held.stop(ROW_LOST, None) {
                tracing::warn!(job = %id, target = %held.job.target, "row was taken from us while its job ran: stopping the job");
            }
        }
    }
}

impl Held {
    /// Tells the process to stop because this worker cannot keep it, once; it is gone `within` that time. One that is
    /// stopping already, for however long its target lets it, is told to be faster, once. `false` where there is none,
    /// or it was told before.
    pub(super) fn stop(&mut self, note: &'static str, within: Option<std::time::Duration>) -> bool {
        self.stop_for(Reason::Drained, note, within)
    }

    /// The same for another reason.
    pub(super) fn stop_for(
        &mut self,
        reason: Reason,
        note: &'static str,
        within: Option<std::time::Duration>,
    ) -> bool {
        let hurry = within.is_some() && !self.hurried;
        let needed = !self.stopping || hurry;
        let Some(attempt) = self.attempt.as_ref().filter(|_| needed) else {
            return false;
        };
        attempt.order(Order::Stop {
            reason,
            note,
            within,
        });
        self.stopping = true;
        self.hurried |= within.is_some();
        true
    }
}
