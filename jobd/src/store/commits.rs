//! What a lost answer means. A COMMIT whose answer is lost is never guessed about: a start, an end or a release is simply
//! written again; for a claim the rows are asked who holds them.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use jobd_proto::JobId;

use super::backend::{Backend, Lane};
use super::sql::SqlStore;
use super::statements::Statements;
use super::{Claimed, StoreError, units};
use crate::job::ClaimToken;

/// Between two tries to learn what became of a COMMIT: a restarting server is back within seconds.
const RESOLVE_PAUSE: Duration = Duration::from_millis(500);

/// How often a claim that was undone at its COMMIT is tried before its target rests: on a cluster that several
/// nodes write to, the first of two claims of a row wins there.
const CLAIM_TRIES: u32 = 4;

impl<B: Backend> SqlStore<B> {
    /// Runs a claim. It leaves in the cell what it is about to commit.
    ///
    /// A COMMIT that ended in an error of any kind is asked about, also where the server calls it a
    /// conflict: a cluster's node that loses the others in the middle of it does not know either.
    pub(super) async fn claimed(
        &self,
        lane: Lane,
        token: &ClaimToken,
        work: impl for<'c> Fn(
            &'c mut B::Connection,
            Arc<Statements>,
            Arc<OnceLock<Claimed>>,
        ) -> BoxFuture<'c, Result<Claimed, sqlx::Error>>
        + Clone
        + Send
        + 'static,
    ) -> Result<Claimed, StoreError> {
        let mut tries = 0;
        loop {
            tries += 1;
            let cell = Arc::new(Mutex::new(Arc::<OnceLock<Claimed>>::default()));
            let committing = || {
                let cell = cell.lock().unwrap_or_else(PoisonError::into_inner);
                cell.get().cloned()
            };
            let (cells, work) = (cell.clone(), work.clone());
            let outcome = self.unit(
                lane,
                || committing().is_some(),
                move |connection, statements| {
                    // A repeated unit begins with a new cell: the try before it was rolled back.
                    let cell = Arc::new(OnceLock::new());
                    *cells.lock().unwrap_or_else(PoisonError::into_inner) = cell.clone();
                    work(connection, statements, cell)
                },
            );
            let error = match outcome.await {
                Ok(claimed) => return Ok(claimed),
                Err(error) => error,
            };
            let Some(mut claimed) = committing().filter(|claimed| !claimed.jobs.is_empty()) else {
                return Err(error);
            };
            let ids = claimed.jobs.iter().map(|job| job.id).collect();
            let held = self.resolve(lane, token, ids).await;
            if !held.is_empty() {
                claimed.jobs.retain(|job| held.contains(&job.id));
                return Ok(claimed);
            }
            if tries == CLAIM_TRIES {
                return Err(error);
            }
            tracing::debug!(%error, tries, "a claim was undone at its commit, repeating");
        }
    }

    /// Which of `ids` carry `token`, for good, once the server answers.
    async fn resolve(&self, lane: Lane, token: &ClaimToken, ids: Vec<JobId>) -> Vec<JobId> {
        let mut told = false;
        loop {
            let (token, ids) = (token.clone(), ids.clone());
            let read = self.unit(
                lane,
                || false,
                move |connection, statements| {
                    let (token, ids) = (token.clone(), ids.clone());
                    async move { units::settle(connection, &statements, &token, &ids).await }
                        .boxed()
                },
            );
            match read.await {
                Ok(held) => return held,
                Err(error) if told => tracing::debug!(%error, "still not known"),
                Err(error) => {
                    tracing::warn!(%error, "the outcome of a claim is not known yet, asking until it is");
                    told = true;
                }
            }
            tokio::time::sleep(RESOLVE_PAUSE).await;
        }
    }
}
