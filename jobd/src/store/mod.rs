//! The job table as the worker uses it: claim, start, finish, give back.
//!
//! Every write is a guarded UPDATE: it names the status that it expects and, after the claim, the
//! claim's token. What it did not change, its caller must not act on. Nothing here inserts or
//! deletes a row, and no transaction outlives a call.

mod abilities;
mod advance;
mod backend;
mod cancel;
mod charset;
mod commits;
#[cfg(test)]
mod conformance;
mod connection;
mod counts;
mod ddl;
mod dialect;
mod errors;
mod floors;
mod glance;
mod history;
mod inspect;
mod later;
mod lists;
mod manual;
#[cfg(test)]
pub(crate) mod model;
mod mysql;
mod progress;
mod record;
mod refusals;
mod sql;
mod sqlite;
mod statements;
mod text;
mod units;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use jobd_proto::table::DatabaseSettings;
use jobd_proto::{JobId, JobResult, TargetName};

use crate::fate::{Again, Reason};
use crate::job::{ClaimToken, Job, Origin};
use crate::launcher::Usage;
use crate::leases::Lease;

pub use abilities::{Abilities, Ability};
pub use cancel::{Cancelled, NOTE as CANCEL_NOTE, REQUESTS, Wish};
pub use inspect::Inspection;
pub use progress::Report;
pub use refusals::Refused;
pub use text::OutputText;

/// A database that holds the job table. Calls run to their end even if their caller goes away.
pub trait Store: Send + Sync + 'static {
    /// Reads what the table is like. Must have succeeded once, without a fatal problem, before
    /// any other call.
    fn inspect(&self) -> BoxFuture<'_, Result<Inspection, StoreError>>;

    /// Which of `targets` have a `waiting` row right now. Takes no lock.
    fn pending(
        &self,
        targets: Vec<TargetName>,
    ) -> BoxFuture<'_, Result<Vec<TargetName>, StoreError>>;

    /// Names of targets that have a `waiting` row, of those that begin with `prefix` and come behind `after` in
    /// the table's order: a bounded number, at a cost that does not depend on how many rows they have. Takes no
    /// lock. Which of them a pattern serves is the caller's to say.
    fn names(
        &self,
        prefix: String,
        after: Option<String>,
    ) -> BoxFuture<'_, Result<Names, StoreError>>;

    /// `waiting` → `accepted` for the first rows of `target`, at most `limit`; returns what now
    /// carries `token`. An error means that no row carries it. `most` is how often a job may run whose row does not say so: with
    /// retries, more than once is written into the row, so that everybody goes by the same number.
    fn claim(
        &self,
        token: ClaimToken,
        target: TargetName,
        limit: u32,
        most: u32,
    ) -> BoxFuture<'_, Result<Claimed, StoreError>>;

    /// `manual` → `accepted` for the rows of `ids` whose target is one of `served`.
    fn claim_manual(
        &self,
        token: ClaimToken,
        ids: Vec<JobId>,
        served: Vec<TargetName>,
    ) -> BoxFuture<'_, Result<Claimed, StoreError>>;

    /// Ends rows that nobody runs, and asks for the end of those that others have, where the table can say so. May
    /// be repeated. `patient` waits for rows that somebody has locked.
    fn cancel(
        &self,
        wishes: Vec<Wish>,
        patient: bool,
    ) -> BoxFuture<'_, Result<BTreeMap<JobId, Cancelled>, StoreError>>;

    /// What has come up in rows without a poke, on tables where anything can.
    fn glance(&self) -> BoxFuture<'_, Result<Vec<Sight>, StoreError>>;

    /// Rows for which a cancellation was asked and that were not seen to, at most [`REQUESTS`], without those that others
    /// than `worker` have. On tables with [`Ability::Cancel`].
    fn requests(&self, worker: String) -> BoxFuture<'_, Result<Vec<Lease>, StoreError>>;

    /// `scheduled` → `waiting` for rows of any target whose time has come, so many at a time at most. For tables with rows
    /// for later.
    fn promote(&self) -> BoxFuture<'_, Result<Promoted, StoreError>>;

    /// Writes a batch in one transaction. May be repeated after an error, whatever became of the
    /// first try: each entry changes its row once.
    fn record(&self, batch: Arc<Batch>) -> BoxFuture<'_, Result<Recorded, StoreError>>;

    /// Renews the leases of rows that carry a token of `worker`; returns those of `ids` whose leases it could not
    /// renew. For tables with ownership, like the next.
    fn renew(
        &self,
        worker: String,
        ids: Vec<JobId>,
    ) -> BoxFuture<'_, Result<Unrenewed, StoreError>>;

    /// Every claimed row of the table that somebody has a lease on.
    fn leases(&self) -> BoxFuture<'_, Result<Vec<Lease>, StoreError>>;

    /// Every claimed row that carries a token of `worker` (`name@host/instance`).
    fn leftovers(&self, worker: String) -> BoxFuture<'_, Result<Vec<Lease>, StoreError>>;

    /// Takes a row from a holder that is gone: back to where it was claimed from, or `done` where
    /// it ran and must not run again. Says what became of it; `None` where the row, or its lease, has changed since.
    fn rescue(&self, orphan: Lease) -> BoxFuture<'_, Result<Option<&'static str>, StoreError>>;

    /// What stands in `data` of a row that is `running` with the job's token; `None` where there is nothing, or no such
    /// row any more.
    fn data(&self, job: Job) -> BoxFuture<'_, Result<Option<Vec<u8>>, StoreError>>;

    /// Writes how far jobs have come into those of their rows that still run with their tokens; returns those that
    /// somebody else has locked. On a table without [`Ability::Progress`] does nothing.
    fn progress(&self, reports: Vec<Report>) -> BoxFuture<'_, Result<Vec<JobId>, StoreError>>;

    /// What the row of a job says, to the worker `worker` (`name@host/instance`); `None` where there is none.
    fn row(&self, id: JobId, worker: String)
    -> BoxFuture<'_, Result<Option<RowState>, StoreError>>;

    /// Makes captured output fit the row's `stdout` and `stderr`, so that the answer to a waiter
    /// and the row say the same.
    fn output_text(&self) -> OutputText;
}

/// The store of a configuration. `lease` is how long a claim is good for without a renewal, on tables
/// with ownership.
pub fn open(settings: &DatabaseSettings, lease: Duration) -> Arc<dyn Store> {
    match settings {
        DatabaseSettings::MySql(settings) => {
            let backend = mysql::MySql::new(settings.clone(), lease);
            Arc::new(sql::SqlStore::new(backend, lease))
        }
        DatabaseSettings::Sqlite(settings) => {
            let backend = sqlite::Sqlite::new(settings.clone(), lease);
            Arc::new(sql::SqlStore::new(backend, lease))
        }
    }
}

/// Names of targets with waiting rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// In the table's order.
    pub names: Vec<String>,
    /// Whether there may be others behind the last.
    pub more: bool,
}

/// What a claim took.
#[derive(Clone, Debug, Default)]
pub struct Claimed {
    /// Rows that now carry the token.
    pub jobs: Vec<Job>,
    /// Of a manual claim: why the others were left alone, in the words of the protocol.
    pub errors: BTreeMap<JobId, String>,
    /// Rows that the database did not let it take, and that the next claims pass over: there may be others behind them.
    pub refused: Vec<Refused>,
}

/// What comes up in rows without anybody's poke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    /// The time of some has come: for [`Store::promote`].
    Due,
    /// Some ask to be cancelled: for [`Store::requests`].
    Requests,
}

/// What a look for rows whose time has come has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Promoted {
    /// The targets of the rows that are `waiting` now, each once, as the rows have them.
    pub targets: BTreeSet<String>,
    /// There may be more.
    pub more: bool,
}

/// State changes to write together. An id stands in it once at most.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// `accepted` → `running`.
    pub starts: Vec<Job>,
    /// `running` → `done`.
    pub finishes: Vec<Finish>,
    /// `running` → `scheduled`: those that run again, later.
    pub retries: Vec<Finish>,
    /// `accepted` or `running` → back to where the claim took it from.
    pub releases: Vec<Job>,
}

/// The end of a job.
#[derive(Clone, Debug)]
pub struct Finish {
    /// The job.
    pub job: Job,
    /// `ok` for exit code 0.
    pub result: JobResult,
    /// Exit code, where the process exited.
    pub code: Option<i32>,
    /// Signal name, where a signal ended it.
    pub signal: Option<String>,
    /// Why it did not end well, for tables that have a column for it.
    pub reason: Option<Reason>,
    /// It is not the end of the job: it runs again, later.
    pub again: Option<Again>,
    /// What it has used, for tables that have columns for that.
    pub usage: Option<Usage>,
    /// Fit for the column.
    pub stdout: String,
    /// Fit for the column.
    pub stderr: String,
    /// When the process ended; the row's `time_finished` is the database's clock less what has
    /// passed since.
    pub ended: Instant,
}

/// Bytes that are kept of an output that a server does not take, before it gets none at all.
const NARROWED: usize = 16 << 10;

impl Finish {
    /// Whether its size may be what somebody on the way does not take.
    pub fn is_large(&self) -> bool {
        self.stdout.len() + self.stderr.len() > 4 * NARROWED
    }

    /// Makes the output smaller and plainer: the ends in ASCII, then nothing. `false` where nothing is left to take away.
    pub fn narrow(&mut self) -> bool {
        let before = self.stdout.len() + self.stderr.len();
        let plain = before > 2 * NARROWED || !self.stdout.is_ascii() || !self.stderr.is_ascii();
        for text in [&mut self.stdout, &mut self.stderr] {
            *text = if plain {
                text::ascii(text, NARROWED)
            } else {
                String::new()
            };
        }
        before > 0
    }
}

/// What a batch did, entry by entry, in the batch's order.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Recorded {
    /// Whether the row is `running` for us now.
    pub started: Vec<bool>,
    /// Whether the row is `done` with these values; otherwise somebody else changed it.
    pub finished: Vec<bool>,
    /// Whether the row was `scheduled` by this; otherwise somebody else changed it, or it has run again since.
    pub retried: Vec<bool>,
    /// Of a start alone: why the database does not let its row be `running`, and whether claims pass over the row for a while.
    /// Nothing was written.
    pub refused: Option<(String, bool)>,
}

/// Rows whose leases a renewal did not renew.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Unrenewed {
    /// They carry no token of the worker any more.
    pub lost: Vec<JobId>,
    /// They do, but somebody else has them locked, or the database refuses the change.
    pub locked: Vec<JobId>,
}

/// What a row says about where its job stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowState {
    /// `status`.
    pub status: String,
    /// Whose claim it carries, where it is claimed: `name@host`, or what somebody else's worker wrote.
    pub holder: Option<String>,
    /// Whether that is the very worker that asks.
    pub ours: bool,
    /// `result`.
    pub result: Option<JobResult>,
    /// `return_code`.
    pub code: Option<i32>,
    /// `sig`.
    pub signal: Option<String>,
}

impl RowState {
    /// Whether its job may still start.
    pub fn is_pending(&self) -> bool {
        matches!(
            self.status.as_str(),
            "waiting" | "manual" | "scheduled" | "accepted"
        )
    }
}

/// Why a call did nothing that counts.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// Not reachable, lost, read-only or too busy: the same call will do later.
    #[error("database not available: {0}")]
    Unavailable(String),
    /// Somebody else has a row, or the table, locked for longer than this call may wait: others may get through.
    #[error("locked by somebody else: {0}")]
    Locked(String),
    /// The server answered and said no: a privilege, a trigger, a table that is not there. It may be
    /// mended from outside.
    #[error("database refused: {0}")]
    Refused(String),
    /// The values are the matter: too long, too large for a packet, not in the character set.
    #[error("database cannot take the values: {0}")]
    Unfit(String),
}

/// The status that a released row takes.
fn back_to(job: &Job) -> &'static str {
    match job.origin {
        Origin::Background => "waiting",
        Origin::Manual => "manual",
    }
}
