//! What comes up in rows without anybody's poke: looks every second whether the time of some has come, whoever
//! serves their targets, and whether some ask to be cancelled.

use std::time::Duration;

use tokio::time::Instant as Deadline;

use super::{Dispatcher, DrainState, Event, REFUSED_REST};
use crate::leases::Lease;
use crate::store::{Ability, Promoted, Sight, Store, StoreError};

/// Between two looks at most: rows are late by no more.
const LOOK_INTERVAL: Duration = Duration::from_millis(950);

/// The looks of a worker.
#[derive(Debug, Default)]
pub(super) struct Looks {
    /// When the next one is due, on a table where anything comes up.
    pub(super) next: Option<Deadline>,
    /// The last one failed.
    failing: bool,
}

impl Dispatcher {
    /// Plans the next look, a little sooner than need be so that many workers do not look in step.
    pub(super) fn schedule_look(&mut self) {
        let (later, cancel) = (Ability::Later, Ability::Cancel);
        let able = |ability| self.abilities().has(ability);
        let wanted = match self.drain {
            DrainState::Working => able(later) || able(cancel),
            // Jobs that go on may still be cancelled.
            DrainState::Until(_) => able(cancel),
            DrainState::Writing(_) => false,
        };
        if wanted {
            let early = 0.25 * self.host.random();
            self.looks.next = Some(Deadline::now() + LOOK_INTERVAL.mul_f64(1.0 - early));
        }
    }

    /// Looks again without a pause, where looks are made.
    pub(super) fn look_at_once(&mut self) {
        self.looks.next = self.looks.next.map(|_| Deadline::now());
    }

    /// Looks; the next look is planned when this one has ended.
    pub(super) fn look_around(&mut self) {
        self.looks.next = None;
        let (store, sender) = (self.store.clone(), self.sender.clone());
        let worker = self.tokens.worker().to_owned();
        let promote = self.drain == DrainState::Working;
        tokio::spawn(async move {
            let (requests, promoted) = see(&*store, worker, promote).await;
            drop(sender.send(Event::Looked(requests, promoted)));
        });
    }

    pub(super) fn looked(&mut self, requests: Vec<Lease>, promoted: Result<Promoted, StoreError>) {
        self.schedule_look();
        self.requests(requests);
        match promoted {
            Ok(promoted) => {
                // The failed ones may have promoted rows, by a COMMIT whose answer was lost.
                if std::mem::take(&mut self.looks.failing) {
                    self.look();
                }
                self.promoted(promoted);
            }
            Err(error) => {
                if std::mem::replace(&mut self.looks.failing, true) {
                    tracing::debug!(%error, "still cannot look for rows whose time has come or that are to be cancelled");
                } else {
                    tracing::warn!(%error, "cannot look for rows whose time has come or that are to be cancelled, trying again until it works");
                }
                if matches!(error, StoreError::Refused(_)) && self.looks.next.is_some() {
                    self.looks.next = Some(Deadline::now() + REFUSED_REST);
                }
            }
        }
    }

    fn promoted(&mut self, Promoted { targets, more }: Promoted) {
        if more {
            self.look_at_once();
        }
        if targets.is_empty() {
            return;
        }
        tracing::debug!(?targets, "rows whose time has come are waiting");
        let others: Vec<String> = targets
            .into_iter()
            .filter(|target| !self.targets.told_of(target))
            .collect();
        // Without a master, or with too much for it to do, these are found by whoever serves them.
        if !others.is_empty() {
            let _ = self.settings.pokes.try_send(others);
        }
    }
}

/// One look, and what is to be done at once about what it shows: the rows whose time has come are left to others by who is
/// to stop. Requests are seen to whatever becomes of the rest.
async fn see(
    store: &dyn Store,
    worker: String,
    promote: bool,
) -> (Vec<Lease>, Result<Promoted, StoreError>) {
    let mut requests = Vec::new();
    let promoted = async {
        let sights = store.glance().await?;
        if sights.contains(&Sight::Requests) {
            requests = store.requests(worker).await?;
        }
        if promote && sights.contains(&Sight::Due) {
            return store.promote().await;
        }
        Ok(Promoted::default())
    };
    let promoted = promoted.await;
    (requests, promoted)
}
