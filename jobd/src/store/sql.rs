//! The store over any SQL backend: which unit runs where. What a lost answer means stands in [`commits`](super::commits).

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use jobd_proto::{JobId, TargetName};

use super::backend::{Backend, Lane, Unit};
use super::floors::Floors;
use super::refusals::{Kind, Refusals};
use super::statements::Statements;
use super::{
    Batch, Cancelled, Claimed, Inspection, Names, OutputText, Promoted, Recorded, Refused, Report,
    RowState, Sight, Store, StoreError, Unrenewed, Wish, cancel, glance, later, progress, record,
    units,
};
use crate::job::{ClaimToken, Job};
use crate::leases::Lease;

/// Renewals begin after a third of a lease and a twelfth, and a wait for a lock takes a second: in a shorter lease
/// the other jobs would be stopped by then.
const LEASE_TO_WAIT_IN: Duration = Duration::from_secs(6);

/// See the module.
pub(super) struct SqlStore<B> {
    backend: B,
    statements: RwLock<Option<Arc<Statements>>>,
    /// The columns of the first look. What comes while we run has no part in it: rows that we hold do not carry their claim
    /// there, and nobody renews leases that we have not begun with.
    known: OnceLock<Arc<[String]>>,
    floors: Mutex<Floors>,
    refusals: Mutex<Refusals>,
    /// A renewal that waited for a locked row once would come too late for the others.
    hasty: bool,
    /// The last renewal met a row that somebody else had locked: the next one does not wait for it.
    met_lock: AtomicBool,
}

impl<B: Backend> SqlStore<B> {
    pub(super) fn new(backend: B, lease: Duration) -> Self {
        Self {
            hasty: lease < LEASE_TO_WAIT_IN,
            backend,
            statements: RwLock::new(None),
            known: OnceLock::new(),
            floors: Mutex::default(),
            refusals: Mutex::default(),
            met_lock: AtomicBool::new(false),
        }
    }

    /// None before the table was looked at.
    fn statements(&self) -> Option<Arc<Statements>> {
        let statements = self
            .statements
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        statements.clone()
    }

    fn floors(&self) -> MutexGuard<'_, Floors> {
        locked(&self.floors)
    }

    /// Rows that were refused and are passed over now.
    fn aside(&self, kind: Kind) -> HashSet<JobId> {
        locked(&self.refusals).aside(kind, Instant::now())
    }

    /// Passes over rows that could not be cancelled, and says of which in their fates.
    fn pass_over_uncancelled(&self, fates: &mut BTreeMap<JobId, Cancelled>, refused: Vec<Refused>) {
        for row in self.pass_over(Kind::Cancelled, refused) {
            if let Some(Cancelled::Refused { passed, .. }) = fates.get_mut(&row.id) {
                *passed = true;
            }
        }
    }

    /// Passes over these rows from now on, but for those that are too many.
    fn pass_over(&self, kind: Kind, refused: Vec<Refused>) -> Vec<Refused> {
        locked(&self.refusals).note(Instant::now(), kind, refused)
    }

    async fn look(&self) -> Result<Inspection, StoreError> {
        let (inspection, statements) = self
            .backend
            .run(
                Lane::Desk,
                || self.backend.look(self.known.get().cloned()),
                || false,
            )
            .await?;
        if let Some(statements) = statements {
            self.known.get_or_init(|| inspection.columns.clone().into());
            let mut known = self
                .statements
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            *known = Some(Arc::new(statements));
        }
        Ok(inspection)
    }

    /// Runs a unit with the table's statements.
    pub(super) async fn unit<T: Send + 'static>(
        &self,
        lane: Lane,
        committing: impl Fn() -> bool + Send,
        work: impl for<'c> Fn(
            &'c mut B::Connection,
            Arc<Statements>,
        ) -> BoxFuture<'c, Result<T, sqlx::Error>>
        + Clone
        + Send
        + 'static,
    ) -> Result<T, StoreError> {
        let statements = self
            .statements()
            .ok_or_else(|| StoreError::Unavailable("not reached yet".to_owned()))?;
        let make = move || -> Unit<B::Connection, T> {
            let (statements, work) = (statements.clone(), work.clone());
            Box::new(move |connection| work(connection, statements))
        };
        self.backend.run(lane, make, committing).await
    }

    /// Looks at the table again where something was refused: somebody may have changed its columns,
    /// or dropped the index that a claim names. The next try goes by what is found.
    async fn refreshed<T>(&self, outcome: Result<T, StoreError>) -> Result<T, StoreError> {
        if let Err(StoreError::Refused(_)) = &outcome
            && let Ok(inspection) = self.look().await
        {
            for problem in inspection.problems {
                tracing::debug!("{problem}");
            }
        }
        outcome
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A unit of a lane, with the table's statements; what it takes along is cloned for each try.
macro_rules! on {
    ($store:ident, $lane:ident, [$($taken:ident),*], |$connection:ident, $statements:ident| $work:expr) => {
        $store.unit(
            Lane::$lane,
            || false,
            move |$connection, $statements| {
                $(let $taken = $taken.clone();)*
                async move { $work.await }.boxed()
            },
        )
    };
}

impl<B: Backend> Store for SqlStore<B> {
    fn inspect(&self) -> BoxFuture<'_, Result<Inspection, StoreError>> {
        self.look().boxed()
    }

    fn pending(
        &self,
        targets: Vec<TargetName>,
    ) -> BoxFuture<'_, Result<Vec<TargetName>, StoreError>> {
        async move {
            let found = on!(self, Claims, [targets], |connection, statements| {
                units::pending(connection, &statements, &targets)
            });
            self.refreshed(found.await).await
        }
        .boxed()
    }

    fn names(
        &self,
        prefix: String,
        after: Option<String>,
    ) -> BoxFuture<'_, Result<Names, StoreError>> {
        async move {
            let found = on!(self, Claims, [prefix, after], |connection, statements| {
                units::names(connection, &statements, &prefix, after.as_deref())
            });
            self.refreshed(found.await).await
        }
        .boxed()
    }

    fn claim(
        &self,
        token: ClaimToken,
        target: TargetName,
        limit: u32,
        most: u32,
    ) -> BoxFuture<'_, Result<Claimed, StoreError>> {
        async move {
            let (named, began) = (token.clone(), Instant::now());
            let floor = self.floors().of(&target, began);
            let aside = locked(&self.refusals).of_claims(began);
            let served = target.clone();
            let claimed = self.claimed(
                Lane::Claims,
                &named,
                move |connection, statements, committing| {
                    let (token, target, aside) = (token.clone(), served.clone(), aside.clone());
                    async move {
                        let part = (floor, limit, &aside);
                        units::claim(
                            connection,
                            &statements,
                            &token,
                            &target,
                            part,
                            most,
                            &committing,
                        )
                        .await
                    }
                    .boxed()
                },
            );
            let mut claimed = claimed.await;
            if let Ok(claimed) = &mut claimed {
                let refused = std::mem::take(&mut claimed.refused);
                claimed.refused = self.pass_over(Kind::Accepted, refused);
            }
            let time = (began, Instant::now());
            match &claimed {
                Ok(claimed) => self.floors().claimed(&target, floor, limit, claimed, time),
                Err(_) => self.floors().failed(&target, floor, time),
            }
            self.refreshed(claimed).await
        }
        .boxed()
    }

    fn claim_manual(
        &self,
        token: ClaimToken,
        ids: Vec<JobId>,
        served: Vec<TargetName>,
    ) -> BoxFuture<'_, Result<Claimed, StoreError>> {
        async move {
            let named = token.clone();
            let claimed = self.claimed(
                Lane::Rows,
                &named,
                move |connection, statements, committing| {
                    let (token, ids, served) = (token.clone(), ids.clone(), served.clone());
                    async move {
                        units::claim_manual(
                            connection,
                            &statements,
                            &token,
                            &ids,
                            &served,
                            &committing,
                        )
                        .await
                    }
                    .boxed()
                },
            );
            self.refreshed(claimed.await).await
        }
        .boxed()
    }

    fn cancel(
        &self,
        wishes: Vec<Wish>,
        patient: bool,
    ) -> BoxFuture<'_, Result<BTreeMap<JobId, Cancelled>, StoreError>> {
        async move {
            let free = wishes.clone();
            let cancelled = on!(self, Desk, [free], |connection, statements| {
                cancel::cancel(connection, &statements, &free, false)
            });
            let (mut fates, refused) = self.refreshed(cancelled.await).await?;
            self.pass_over_uncancelled(&mut fates, refused);
            let locked = |(id, _): &Wish| fates.get(id) == Some(&Cancelled::Locked);
            let rest: Vec<Wish> = wishes.into_iter().filter(locked).collect();
            if patient && !rest.is_empty() {
                let cancelled = on!(self, Rows, [rest], |connection, statements| {
                    cancel::cancel(connection, &statements, &rest, true)
                });
                // What has ended in the first phase has ended.
                match self.refreshed(cancelled.await).await {
                    Ok((rest, refused)) => {
                        fates.extend(rest);
                        self.pass_over_uncancelled(&mut fates, refused);
                    }
                    Err(error) => {
                        let locked = |fate: &&mut Cancelled| **fate == Cancelled::Locked;
                        for fate in fates.values_mut().filter(locked) {
                            *fate = Cancelled::from(&error);
                        }
                    }
                }
            }
            Ok(fates)
        }
        .boxed()
    }

    fn glance(&self) -> BoxFuture<'_, Result<Vec<Sight>, StoreError>> {
        async move {
            let seen = on!(self, Look, [], |connection, statements| {
                glance::glance(connection, &statements)
            });
            self.refreshed(seen.await).await
        }
        .boxed()
    }

    fn requests(&self, worker: String) -> BoxFuture<'_, Result<Vec<Lease>, StoreError>> {
        let aside = self.aside(Kind::Cancelled);
        let requests = on!(self, Look, [worker, aside], |connection, statements| {
            units::requests(connection, &statements, &worker, &aside)
        });
        requests.boxed()
    }

    fn promote(&self) -> BoxFuture<'_, Result<Promoted, StoreError>> {
        async move {
            let aside = self.aside(Kind::Waiting);
            let promoted = on!(self, Look, [aside], |connection, statements| {
                later::promote(connection, &statements, &aside)
            });
            let (promoted, refused) = self.refreshed(promoted.await).await?;
            self.pass_over(Kind::Waiting, refused);
            Ok(promoted)
        }
        .boxed()
    }

    fn record(&self, batch: Arc<Batch>) -> BoxFuture<'_, Result<Recorded, StoreError>> {
        async move {
            let written = batch.clone();
            let recorded = on!(self, Ledger, [written], |connection, statements| {
                record::record(connection, &statements, &written)
            });
            Ok(recorded.await?.unwrap_or_else(|refused| {
                let error = refused.error.clone();
                let passed = self.pass_over(Kind::Running, vec![refused]);
                Recorded {
                    refused: Some((error, !passed.is_empty())),
                    ..Recorded::default()
                }
            }))
        }
        .boxed()
    }

    fn renew(
        &self,
        worker: String,
        ids: Vec<JobId>,
    ) -> BoxFuture<'_, Result<Unrenewed, StoreError>> {
        async move {
            let mut passing = self.hasty || self.met_lock.load(Ordering::Relaxed);
            loop {
                let (worker, ids) = (worker.clone(), ids.clone());
                let renewed = on!(self, Leases, [worker, ids], |connection, statements| {
                    units::renew(connection, &statements, (&worker, passing), &ids)
                });
                match renewed.await {
                    // One row that somebody keeps locked must not cost the others their leases.
                    Err(StoreError::Locked(_)) if !passing => passing = true,
                    outcome => {
                        let outcome = outcome.map(|(unrenewed, refused)| {
                            self.pass_over(Kind::Renewed, refused);
                            unrenewed
                        });
                        let met = |unrenewed: &Unrenewed| !unrenewed.locked.is_empty();
                        let met = outcome.as_ref().map_or(passing, met);
                        self.met_lock.store(met, Ordering::Relaxed);
                        return outcome;
                    }
                }
            }
        }
        .boxed()
    }

    fn leases(&self) -> BoxFuture<'_, Result<Vec<Lease>, StoreError>> {
        let leases = on!(self, Rescues, [], |connection, statements| {
            units::leases(connection, &statements)
        });
        leases.boxed()
    }

    fn leftovers(&self, worker: String) -> BoxFuture<'_, Result<Vec<Lease>, StoreError>> {
        let leases = on!(self, Rescues, [worker], |connection, statements| {
            units::leftovers(connection, &statements, &worker)
        });
        leases.boxed()
    }

    fn data(&self, job: Job) -> BoxFuture<'_, Result<Option<Vec<u8>>, StoreError>> {
        let data = on!(self, Desk, [job], |connection, statements| {
            units::data(connection, &statements, &job)
        });
        data.boxed()
    }

    fn rescue(&self, orphan: Lease) -> BoxFuture<'_, Result<Option<&'static str>, StoreError>> {
        let rescued = on!(self, Rescues, [orphan], |connection, statements| {
            units::rescue(connection, &statements, &orphan)
        });
        rescued.boxed()
    }

    fn row(
        &self,
        id: JobId,
        worker: String,
    ) -> BoxFuture<'_, Result<Option<RowState>, StoreError>> {
        let row = on!(self, Desk, [worker], |connection, statements| {
            units::row(connection, &statements, id, &worker)
        });
        row.boxed()
    }

    fn progress(&self, reports: Vec<Report>) -> BoxFuture<'_, Result<Vec<JobId>, StoreError>> {
        if self.statements().is_some_and(|it| it.progress.is_none()) {
            return async { Ok(Vec::new()) }.boxed();
        }
        let gone = on!(self, Desk, [reports], |connection, statements| {
            progress::write(connection, &statements, &reports)
        });
        gone.boxed()
    }

    fn output_text(&self) -> OutputText {
        let packet = self.backend.max_packet();
        let statements = self.statements();
        let statements = statements.expect("nothing runs before the table was looked at");
        statements.output_text.with_packet(packet)
    }
}
