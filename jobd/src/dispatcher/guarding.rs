//! Keeps the guard standing and told until when our jobs may live without us.

use std::collections::HashSet;

use jobd_proto::daemon::notify;

use super::{Dispatcher, Event, Table};
use crate::ledger::Claim;
use crate::rescuer;

impl Dispatcher {
    /// Starts the guard, and starts it again where somebody ended it.
    pub(super) fn keep_guard(&mut self) {
        if self.guard.as_mut().is_some_and(|guard| guard.is_alive()) {
            return;
        }
        let sender = self.sender.clone();
        let told =
            Box::new(move |predecessors| drop(sender.send(Event::Predecessors(predecessors))));
        match self
            .host
            .guard(self.tokens.worker(), self.settings.lock.as_deref(), told)
        {
            Ok(guard) => {
                if self.guard.replace(guard).is_some() {
                    tracing::warn!("the guard had ended, started another one");
                }
                self.guard_deadline = None;
                self.tell_guard();
            }
            Err(error) => {
                tracing::error!(
                    error = format!("{error:#}"),
                    "cannot start the guard: if this worker dies, its jobs go on"
                );
                notify::status("running without a guard");
            }
        }
    }

    /// Names the moment at which jobs that others may start again must be gone, if we are frozen until
    /// then. No such job, no deadline.
    pub(super) fn tell_guard(&mut self) {
        let Some(keeper) = &self.keeper else { return };
        let risky = self.holding.values();
        let risky = risky.filter(|held| held.job.again && held.attempt.is_some());
        let deadline = risky.map(|held| keeper.deadline(held.job.id)).min();
        // A moment that has passed is not worth saying: these jobs are being stopped already.
        let passed = deadline.is_some_and(|deadline| deadline <= self.host.since_boot());
        if passed || deadline == self.guard_deadline {
            return;
        }
        if let Some(guard) = &mut self.guard {
            match guard.set_deadline(deadline) {
                Ok(()) => self.guard_deadline = deadline,
                Err(error) => tracing::warn!(%error, "the guard does not listen"),
            }
        }
    }

    /// Notes that a deadline has passed while we did not look: the guard has killed what ran then, and
    /// these ends are not the jobs' own. Another one takes its place, as it may still be at it: what is launched from now on
    /// is not meant.
    pub(super) fn note_strike(&mut self) {
        if self
            .guard_deadline
            .is_some_and(|deadline| self.host.since_boot() >= deadline)
        {
            let held = self
                .holding
                .values_mut()
                .filter(|held| held.attempt.is_some());
            let struck = held.map(|held| held.struck = true).count();
            tracing::error!(
                jobs = struck,
                "this worker was frozen for most of a lease: its guard has killed what ran"
            );
            if let Some(guard) = self.guard.take() {
                guard.strike();
            }
            self.keep_guard();
        }
    }

    /// The guard has the lock; it says whose rows are not resolved yet.
    pub(super) fn lock_had(&mut self, predecessors: Vec<String>) {
        self.locked = true;
        self.predecessors = predecessors;
        self.inherit();
    }

    /// Takes over from the predecessors, once there is a table: their journal first.
    pub(super) fn inherit(&mut self) {
        if self.locked && matches!(self.table, Table::Ready(_)) {
            self.ledger.use_journal();
        }
    }

    /// Resolves what the predecessors left, but for the rows whose ends still wait to be written: those are
    /// true. Comes again when none waits any more.
    pub(super) fn resolve(&mut self, waiting: HashSet<Claim>) {
        if self.predecessors.is_empty() {
            return;
        }
        let (store, sender) = (self.store.clone(), self.sender.clone());
        let predecessors = if waiting.is_empty() {
            std::mem::take(&mut self.predecessors)
        } else {
            self.predecessors.clone()
        };
        tokio::spawn(async move {
            for predecessor in predecessors {
                rescuer::inherit(&*store, predecessor, &waiting).await;
            }
            if waiting.is_empty() {
                drop(sender.send(Event::Inherited));
            }
        });
    }

    /// Nobody needs to look after them again.
    pub(super) fn inherited(&mut self) {
        if let Some(guard) = &mut self.guard
            && let Err(error) = guard.resolved()
        {
            tracing::warn!(%error, "the guard does not listen");
        }
    }
}
