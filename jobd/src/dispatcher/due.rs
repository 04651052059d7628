//! Rows for later: looks every second whether the time of some has come, whoever serves their targets.

use std::time::Duration;

use tokio::time::Instant as Deadline;

use super::{Dispatcher, DrainState, Event, REFUSED_REST};
use crate::store::{Ability, Promoted, StoreError};

/// Between two looks at most: rows are late by no more.
const LOOK_INTERVAL: Duration = Duration::from_millis(950);

/// The looks of a worker.
#[derive(Debug, Default)]
pub(super) struct Looks {
    /// When the next one is due, on a table with rows for later.
    pub(super) next: Option<Deadline>,
    /// The last one failed.
    failing: bool,
}

impl Dispatcher {
    /// Plans the next look, a little sooner than need be so that many workers do not look in step.
    pub(super) fn schedule_due(&mut self) {
        if self.abilities().has(Ability::Later) && self.drain == DrainState::Working {
            let early = 0.25 * self.host.random();
            self.due.next = Some(Deadline::now() + LOOK_INTERVAL.mul_f64(1.0 - early));
        }
    }

    /// Looks; the next look is planned when this one has ended.
    pub(super) fn look_for_due(&mut self) {
        self.due.next = None;
        let (store, sender) = (self.store.clone(), self.sender.clone());
        tokio::spawn(async move {
            let promoted = store.promote().await;
            drop(sender.send(Event::Promoted(promoted)));
        });
    }

    pub(super) fn promoted(&mut self, promoted: Result<Promoted, StoreError>) {
        self.schedule_due();
        let Promoted { targets, more } = match promoted {
            Ok(promoted) => promoted,
            Err(error) => {
                if std::mem::replace(&mut self.due.failing, true) {
                    tracing::debug!(%error, "still cannot look for rows whose time has come");
                } else {
                    tracing::warn!(%error, "cannot look for rows whose time has come, trying again until it works");
                }
                if matches!(error, StoreError::Refused(_)) && self.due.next.is_some() {
                    self.due.next = Some(Deadline::now() + REFUSED_REST);
                }
                return;
            }
        };
        if more && self.due.next.is_some() {
            self.due.next = Some(Deadline::now());
        }
        // The failed ones may have promoted rows, by a COMMIT whose answer was lost.
        if std::mem::take(&mut self.due.failing) {
            self.look();
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
