//! What a kind of database server is to a store: units, and the lanes that they run in.

use std::sync::Arc;

use futures::future::BoxFuture;
use tokio::task::JoinError;

use super::connection::Connection;
use super::statements::Statements;
use super::{Inspection, StoreError};

/// A database unit: a few statements, in a transaction if it begins one.
pub(super) type Unit<C, T> =
    Box<dyn for<'c> FnOnce(&'c mut C) -> BoxFuture<'c, Result<T, sqlx::Error>> + Send>;

/// Units of one lane run one after the other; lanes do not wait for each other where the backend
/// has a connection for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    /// Background claims, and looks for waiting rows.
    Claims,
    /// Starts, ends, releases.
    Ledger,
    /// Renewals, which must not wait behind anything.
    Leases,
    /// Looks for orphans, which may take long on a large table, and their rescues.
    Rescues,
    /// Looks at what comes up by itself, and promotions.
    Look,
    /// Manual claims, and cancellations of rows that somebody has locked: what is asked for by id waits for these rows.
    Rows,
    /// Everything else. Waits for no row, where the server has `SKIP LOCKED`.
    Desk,
}

impl Lane {
    /// How many there are.
    #[cfg(test)]
    pub(super) const COUNT: usize = Self::Desk as usize + 1;
}

/// A kind of database server.
pub(super) trait Backend: Send + Sync + 'static {
    /// Its connection.
    type Connection: Connection;

    /// Runs a unit to its end, whatever becomes of the caller; after an error nothing of it stays,
    /// unless its COMMIT was already under way. `make` builds the unit anew where it is repeated, which
    /// it may be unless `committing` says that its COMMIT was sent and must be asked about.
    fn run<T: Send + 'static>(
        &self,
        lane: Lane,
        make: impl Fn() -> Unit<Self::Connection, T> + Send,
        committing: impl Fn() -> bool + Send,
    ) -> impl Future<Output = Result<T, StoreError>> + Send;

    /// The largest statement with its values, in bytes.
    fn max_packet(&self) -> u64;

    /// Reads what the table is like, going by no columns but `known` ones, where there are such; the statements for it, where
    /// it is fit to work on.
    fn look(
        &self,
        known: Option<Arc<[String]>>,
    ) -> Unit<Self::Connection, (Inspection, Option<Statements>)>;
}

/// What is said of a unit that came to no outcome. It ended with its runtime, and so does whoever waits; or by a
/// panic, its own or one of the libraries below: its connection is gone, and whoever asked for it asks again.
pub(super) fn cut_short(error: &JoinError) -> String {
    if error.is_panic() {
        tracing::error!(%error, "a database unit panicked, its connection is given up: please report this");
    }
    error.to_string()
}
