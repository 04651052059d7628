//! Rescues rows whose worker has died: looks at every claimed row of the table, and acts on those that
//! have not been renewed for a full lease while it watched. On a table without ownership it sees the claims of
//! this very worker only.
//!
//! It must not hurry: a worker that is only slow, or cut off for less than a lease, keeps its rows.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::dispatcher::Handle;
use crate::faults::crash_point;
use crate::host::Host;
use crate::leases::{Lease, Observer};
use crate::ledger::Claim;
use crate::store::{Store, StoreError};

/// The longest pause between two looks: what a rescue may be late at most, beyond the lease.
const LOOK_PAUSE: Duration = Duration::from_secs(5);

/// Watches the claimed rows of a table.
pub struct Rescuer {
    /// The table.
    pub store: Arc<dyn Store>,
    /// Its clock counts.
    pub host: Arc<dyn Host>,
    /// `lease`.
    pub lease: Duration,
    /// Whether the table says whose a row is.
    pub ownership: bool,
    /// What the tokens of this very run begin with, `name@host/instance`.
    pub own: String,
    /// Knows what this run holds.
    pub worker: Handle,
}

impl Rescuer {
    /// Watches until `shutdown` fires.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut observer = Observer::new(self.lease);
        let pause = LOOK_PAUSE.min(self.lease / 3);
        let mut away = false;
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            let began = self.host.since_boot();
            match self.claims().await {
                Ok(claims) => {
                    let orphans = observer.look(began, self.host.since_boot(), claims);
                    for slow in observer
                        .slow()
                        .into_iter()
                        .filter(|slow| slow.worker != self.own)
                    {
                        tracing::warn!(
                            worker = slow.worker,
                            unchanged = ?slow.unchanged,
                            own = self.own,
                            lease = ?self.lease,
                            "another worker renews its leases more slowly than `lease` of this one allows: set the same `lease` for all workers of the table"
                        );
                    }
                    self.judge(orphans).await;
                    away = false;
                }
                Err(error) => {
                    observer.forget();
                    if !std::mem::replace(&mut away, true) {
                        tracing::warn!(%error, "cannot look for orphaned rows, trying again until it works");
                    }
                }
            }
        }
    }

    async fn claims(&self) -> Result<Vec<Lease>, StoreError> {
        if self.ownership {
            self.store.leases().await
        } else {
            self.store.leftovers(self.own.clone()).await
        }
    }

    /// Rescues what nobody has renewed for a lease. A claim of our own may stand there because our renewals
    /// fail, or because it was never renewed: then only what this worker knows nothing of is an orphan. A
    /// database that took back a commit which it had acknowledged leaves such rows.
    async fn judge(&self, orphans: Vec<Lease>) {
        let of_us = |lease: &Lease| {
            let rest = lease.worker.strip_prefix(&self.own);
            rest.is_some_and(|rest| rest.starts_with('/'))
        };
        let (mut ours, others): (Vec<Lease>, Vec<Lease>) = orphans.into_iter().partition(of_us);
        let reason = "its worker was not seen alive for a full lease";
        rescue(&*self.store, others, reason).await;
        if ours.is_empty() {
            return;
        }
        let ids = ours.iter().map(|lease| lease.id).collect();
        // A worker that is ending answers nothing, and leaves them to its successor.
        let unknown = self.worker.unknown(ids).await.unwrap_or_default();
        ours.retain(|lease| unknown.contains(&lease.id));
        let reason = "it names a claim of this very worker, which knows nothing of it";
        rescue(&*self.store, ours, reason).await;
    }
}

/// Resolves what a predecessor on this host left, once its guard says that its jobs are over, but for the rows
/// of the claims `except`; ends when nothing else of it is left.
pub async fn inherit(store: &dyn Store, predecessor: String, except: &HashSet<Claim>) {
    let excepted = |row: &Lease| {
        let mut claims = except.iter();
        claims.any(|(id, token)| *id == row.id && token.as_str() == row.worker)
    };
    loop {
        match store.leftovers(predecessor.clone()).await {
            Ok(mut leftovers) => {
                leftovers.retain(|row| !excepted(row));
                let reason = "its worker ended on this host without writing it";
                if rescue(store, leftovers, reason).await {
                    return;
                }
            }
            Err(error) => {
                tracing::warn!(%error, predecessor, "cannot look for what the predecessor left, trying again");
            }
        }
        tokio::time::sleep(LOOK_PAUSE).await;
    }
}

/// Rescues them one by one; `false` where the database could not say of each what became of it.
async fn rescue(store: &dyn Store, orphans: Vec<Lease>, reason: &str) -> bool {
    let mut all = true;
    for orphan in orphans {
        let (id, worker) = (orphan.id, orphan.worker.clone());
        crash_point!("rescue-before");
        let rescued = store.rescue(orphan).await;
        crash_point!("rescue-after");
        match rescued {
            Ok(Some(fate)) => {
                tracing::warn!(job = %id, worker, fate, reason, "rescued a row");
            }
            Ok(None) => tracing::debug!(job = %id, worker, "the row moved on before its rescue"),
            Err(error) => {
                tracing::warn!(job = %id, worker, %error, "cannot rescue a row, trying again");
                all = false;
            }
        }
    }
    all
}
