//! Rescues rows whose worker has died: looks at every claimed row of the table, and acts on those that
//! have not been renewed for a full lease while it watched.
//!
//! It must not hurry: a worker that is only slow, or cut off for less than a lease, keeps its rows.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::faults::crash_point;
use crate::host::Host;
use crate::leases::{Lease, Observer};
use crate::store::Store;

/// The longest pause between two looks: what a rescue may be late at most, beyond the lease.
const LOOK_PAUSE: Duration = Duration::from_secs(5);

/// Watches until `shutdown` fires. `own` begins the tokens of this very run, which are not
/// rescued by itself: it renews them, or knows that it does not hold them.
pub async fn run(
    store: Arc<dyn Store>,
    host: Arc<dyn Host>,
    lease: Duration,
    own: String,
    shutdown: CancellationToken,
) {
    let mut observer = Observer::new(lease);
    let pause = LOOK_PAUSE.min(lease / 3);
    let mut away = false;
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        let began = host.since_boot();
        match store.leases().await {
            Ok(leases) => {
                let others = leases
                    .into_iter()
                    .filter(|lease| !lease.worker.starts_with(&own))
                    .collect();
                let orphans = observer.look(began, host.since_boot(), others);
                rescue(
                    &*store,
                    orphans,
                    "its worker was not seen alive for a full lease",
                )
                .await;
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

/// Resolves what a predecessor on this host left, once its guard says that its jobs are over; ends when
/// nothing of it is left.
pub async fn inherit(store: &dyn Store, predecessor: String) {
    loop {
        match store.leftovers(predecessor.clone()).await {
            Ok(leftovers) => {
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
