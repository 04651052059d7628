//! The end of a worker: give back, wait, stop, write, leave.

use std::time::Duration;

use jobd_proto::daemon::notify;
use tokio::time::Instant as Deadline;

use super::{Dispatcher, Held};
use crate::faults::planted;
use crate::store::Ability;

/// How long writing may take once no process is left: a database that is away that long is not
/// waited for.
const WRITING_TIME: Duration = Duration::from_secs(30);

/// What killed jobs are told in their `stderr`.
const CUT_SHORT: &str = "stopped because the worker is shutting down";

/// What clients are told.
pub(super) const SHUTTING_DOWN: &str = "worker is shutting down";

/// How far a shutdown has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DrainState {
    Working,
    /// Running jobs may go on until then.
    Until(Deadline),
    /// No process is to be left, and the ledger may write until then.
    Writing(Deadline),
}

/// A shutdown had to leave rows as they were; each is in the log.
#[derive(Debug, thiserror::Error)]
#[error(
    "could not write to the table in time: {ends} ends ({journaled} of them are in the journal, and written by the next start), {starts} starts, {releases} rows to give back, {claims} claims are left as they are"
)]
pub struct Unwritten {
    ends: usize,
    journaled: usize,
    starts: usize,
    releases: usize,
    claims: usize,
}

impl Dispatcher {
    pub(super) fn begin_drain(&mut self) {
        self.drain = DrainState::Until(Deadline::now() + self.settings.limits.drain_timeout);
        self.next_poll = None;
        if !self.abilities().has(Ability::Cancel) {
            self.looks.next = None;
        }
        let mut unstarted = self.targets.drain();
        if planted!("drain-forgets-accepted-rows") {
            unstarted.clear();
        }
        let running = self.processes();
        tracing::info!(running, given_back = unstarted.len(), "draining");
        notify::stopping(&format!("waiting for {running} jobs to end"));
        for job in unstarted {
            self.back_out(job, SHUTTING_DOWN);
        }
    }

    /// Where no process is left to wait for, only writing is.
    pub(super) fn end_wait(&mut self) {
        if matches!(self.drain, DrainState::Until(_)) && self.processes() == 0 {
            self.drain = DrainState::Writing(Deadline::now() + WRITING_TIME);
        }
    }

    pub(super) fn stop_jobs(&mut self) {
        self.drain = DrainState::Writing(Deadline::now() + self.longest_kill() + WRITING_TIME);
        let told = self
            .holding
            .values_mut()
            .map(|held| held.stop(CUT_SHORT, None));
        let running = told.filter(|told| *told).count();
        if running > 0 {
            tracing::warn!(running, "stopping the jobs that still run");
        }
    }

    /// How long a job may take to be stopped.
    pub(super) fn longest_kill(&self) -> Duration {
        let settings = self.settings.per_target.all();
        let times = settings.map(|settings| settings.launcher.kill.duration());
        times.fold(self.former_kill, Duration::max)
    }

    pub(super) fn is_done(&self) -> bool {
        self.targets.is_idle()
            && self.holding.is_empty()
            && self.releasing == 0
            && self.cancelling.is_empty()
            && self.manual_claims == 0
    }

    /// Logs what is left, row by row: whoever mends it by hand needs to know.
    pub(super) fn unwritten(&self) -> Unwritten {
        let held = self.holding.values().filter(|held| !held.leaving);
        let (ended, unstarted): (Vec<&Held>, Vec<&Held>) =
            held.partition(|held| held.ended.is_some());
        for held in &ended {
            if let Some((code, signal)) = held.ended {
                tracing::error!(job = %held.job.id, target = %held.job.target, code, signal, "the end of a job is not written, its row stays running");
            }
        }
        for held in &unstarted {
            tracing::error!(job = %held.job.id, target = %held.job.target, "a job that never ran keeps its row");
        }
        Unwritten {
            ends: ended.len(),
            journaled: self.ledger.journaled(),
            starts: unstarted.len(),
            releases: self.releasing,
            claims: self.targets.claiming() + self.manual_claims,
        }
    }

    fn processes(&self) -> usize {
        self.holding
            .values()
            .filter(|held| held.attempt.is_some())
            .count()
    }
}
