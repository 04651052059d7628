//! The store on MySQL and MariaDB.
//!
//! One row's way: `claim` (select and lock, mark, commit), `record` (start), `record` (finish). A
//! COMMIT whose answer is lost is never guessed about: the rows are asked who holds them.

mod look;
mod session;
mod statements;

use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use jobd_proto::table::MySqlSettings;
use jobd_proto::{JobId, TargetName};
use sqlx::mysql::{MySqlArguments, MySqlConnection, MySqlRow};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, MySql, Row as _};

use self::session::{Session, Unit, execute};
use self::statements::{PROBES, Statements};
use super::inspect::Inspection;
use super::lists::{MAX_LIST, key};
use super::{Batch, Claimed, Finish, OutputText, Recorded, Store, StoreError, back_to, manual};
use crate::job::{ClaimToken, Job};

/// Between two tries to learn what became of a COMMIT: a restarting server is back within seconds.
const RESOLVE_PAUSE: Duration = Duration::from_millis(500);

/// See the module.
pub(super) struct MySqlStore {
    settings: MySqlSettings,
    claims: Arc<Session>,
    ledger: Arc<Session>,
    desk: Arc<Session>,
    statements: RwLock<Option<Arc<Statements>>>,
}

impl MySqlStore {
    pub(super) fn new(settings: MySqlSettings) -> Self {
        let session = || Session::new(settings.clone());
        Self {
            claims: session(),
            ledger: session(),
            desk: session(),
            statements: RwLock::new(None),
            settings,
        }
    }

    fn statements(&self) -> Arc<Statements> {
        let statements = self
            .statements
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        statements
            .clone()
            .expect("a store is inspected before it is used")
    }

    /// Looks at the table again where a claim was refused: somebody may have changed its columns, or
    /// dropped the index that the claim names. The next try goes by what is found.
    async fn refreshed<T>(&self, outcome: Result<T, StoreError>) -> Result<T, StoreError> {
        if let Err(StoreError::Refused(_)) = &outcome
            && let Ok(inspection) = self.inspect().await
        {
            for problem in inspection.problems {
                tracing::debug!("{problem}");
            }
        }
        outcome
    }

    /// Which of `ids` carry `token`, once the server answers: the truth about a claim whose COMMIT
    /// got none. The locking read waits for a transaction that still holds the rows.
    async fn resolve(
        &self,
        session: &Arc<Session>,
        token: &ClaimToken,
        ids: &[JobId],
    ) -> Vec<JobId> {
        let statements = self.statements();
        loop {
            let (statements, token, ids) = (statements.clone(), token.clone(), ids.to_vec());
            let read = session.run(move || {
                let (statements, token, ids) = (statements.clone(), token.clone(), ids.clone());
                unit(move |connection| {
                    async move { holding(connection, &statements, &token, &ids).await }.boxed()
                })
            });
            match read.await {
                Ok(held) => return held,
                Err(error) => {
                    tracing::warn!(%error, "the outcome of a claim is not known yet, asking again");
                }
            }
            tokio::time::sleep(RESOLVE_PAUSE).await;
        }
    }

    /// Runs a claim. Its unit leaves in the cell what it is about to commit.
    async fn claimed(
        &self,
        session: &Arc<Session>,
        token: &ClaimToken,
        make: impl Fn(Arc<OnceLock<Claimed>>) -> Unit<Claimed>,
    ) -> Result<Claimed, StoreError> {
        // A repeated unit begins with a new cell: the try before it was rolled back.
        let committing = Mutex::new(Arc::default());
        let outcome = session
            .run(|| {
                let cell = Arc::new(OnceLock::new());
                *committing.lock().unwrap_or_else(PoisonError::into_inner) = cell.clone();
                make(cell)
            })
            .await;
        let error = match outcome {
            Ok(claimed) => return Ok(claimed),
            Err(error) => error,
        };
        let cell: Arc<OnceLock<Claimed>> = committing
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        let Some(mut claimed) = cell.get().cloned() else {
            return Err(error);
        };
        let held = self.resolve(session, token, &claimed.ids()).await;
        if held.is_empty() {
            return Err(error);
        }
        claimed.jobs.retain(|(id, _)| held.contains(id));
        Ok(claimed)
    }
}

/// Names the closure's type, which inference does not find by itself.
fn unit<T, F>(run: F) -> Unit<T>
where
    F: for<'c> FnOnce(&'c mut MySqlConnection) -> BoxFuture<'c, Result<T, sqlx::Error>>
        + Send
        + 'static,
{
    Box::new(run)
}

fn query(sql: &Arc<str>) -> Query<'_, MySql, MySqlArguments> {
    sqlx::query(AssertSqlSafe(sql.clone()))
}

fn bind_ids<'q>(
    mut query: Query<'q, MySql, MySqlArguments>,
    ids: &[i64],
) -> Query<'q, MySql, MySqlArguments> {
    for id in ids {
        query = query.bind(*id);
    }
    query
}

fn id_of(row: &MySqlRow) -> Result<JobId, sqlx::Error> {
    row.try_get::<i64, _>(0).map(|id| JobId(id.unsigned_abs()))
}

async fn holding(
    connection: &mut MySqlConnection,
    statements: &Statements,
    token: &ClaimToken,
    ids: &[JobId],
) -> Result<Vec<JobId>, sqlx::Error> {
    let mut held = Vec::with_capacity(ids.len());
    for ids in ids.chunks(MAX_LIST) {
        let (sql, ids) = statements.accepted.for_ids(ids);
        for row in bind_ids(query(&sql).bind(token.as_str()), &ids)
            .fetch_all(&mut *connection)
            .await?
        {
            held.push(id_of(&row)?);
        }
    }
    Ok(held)
}

async fn claim(
    connection: &mut MySqlConnection,
    statements: &Statements,
    token: &ClaimToken,
    target: &TargetName,
    limit: u32,
    committing: &OnceLock<Claimed>,
) -> Result<Claimed, sqlx::Error> {
    execute(connection, "START TRANSACTION").await?;
    let rows = query(&statements.claim_select)
        .bind(target.as_str())
        .bind(limit)
        .fetch_all(&mut *connection)
        .await?;
    let mut ids = rows.iter().map(id_of).collect::<Result<Vec<_>, _>>()?;
    let mut changed = 0;
    for ids in ids.chunks(MAX_LIST) {
        let (sql, ids) = statements.accept.for_ids(ids);
        changed += bind_ids(query(&sql).bind(token.as_str()), &ids)
            .execute(&mut *connection)
            .await?
            .rows_affected();
    }
    if changed < ids.len() as u64 {
        // Without SKIP LOCKED others may have been faster: what carries the token is ours.
        ids = holding(connection, statements, token, &ids).await?;
    }
    let claimed = Claimed::of(target, ids);
    let _ = committing.set(claimed.clone());
    execute(connection, "COMMIT").await?;
    Ok(claimed)
}

async fn claim_manual(
    connection: &mut MySqlConnection,
    statements: &Statements,
    token: &ClaimToken,
    wanted: &[JobId],
    served: &[TargetName],
    committing: &OnceLock<Claimed>,
) -> Result<Claimed, sqlx::Error> {
    let mut found = Vec::new();
    execute(connection, "START TRANSACTION").await?;
    for ids in wanted.chunks(MAX_LIST) {
        let (sql, ids) = statements.manual_select.for_ids(ids);
        for row in bind_ids(query(&sql), &ids)
            .fetch_all(&mut *connection)
            .await?
        {
            found.push(manual::Found {
                id: id_of(&row)?,
                status: row.try_get(1)?,
                target: row.try_get(2)?,
            });
        }
    }
    let claimed = manual::sort(wanted, found, served, statements.target_ignores_case);
    for ids in claimed.ids().chunks(MAX_LIST) {
        let (sql, ids) = statements.accept_manual.for_ids(ids);
        bind_ids(query(&sql).bind(token.as_str()), &ids)
            .execute(&mut *connection)
            .await?;
    }
    let _ = committing.set(claimed.clone());
    execute(connection, "COMMIT").await?;
    Ok(claimed)
}

async fn record(
    connection: &mut MySqlConnection,
    statements: &Statements,
    batch: &Batch,
) -> Result<Recorded, sqlx::Error> {
    let mut recorded = Recorded::default();
    execute(connection, "START TRANSACTION").await?;
    for finish in &batch.finishes {
        recorded
            .finished
            .push(write_finish(connection, statements, finish).await?);
    }
    for jobs in batch
        .starts
        .chunk_by(|a, b| a.token == b.token)
        .flat_map(|claim| claim.chunks(MAX_LIST))
    {
        recorded
            .started
            .extend(start(connection, statements, jobs).await?);
    }
    for jobs in batch
        .releases
        .chunk_by(|a, b| a.token == b.token)
        .flat_map(|claim| claim.chunks(MAX_LIST))
    {
        let (sql, ids) = statements.release.for_ids(&ids_of(jobs));
        let query = query(&sql)
            .bind(back_to(&jobs[0]))
            .bind(jobs[0].token.as_str());
        bind_ids(query, &ids).execute(&mut *connection).await?;
    }
    execute(connection, "COMMIT").await?;
    Ok(recorded)
}

fn ids_of(jobs: &[Job]) -> Vec<JobId> {
    jobs.iter().map(|job| job.id).collect()
}

/// Starts jobs of one claim.
async fn start(
    connection: &mut MySqlConnection,
    statements: &Statements,
    jobs: &[Job],
) -> Result<Vec<bool>, sqlx::Error> {
    let token = jobs[0].token.as_str();
    let (sql, ids) = statements.start.for_ids(&ids_of(jobs));
    let changed = bind_ids(query(&sql).bind(token), &ids)
        .execute(&mut *connection)
        .await?
        .rows_affected();
    if changed == jobs.len() as u64 {
        return Ok(vec![true; jobs.len()]);
    }
    // Some were started by this batch's first try, whose answer was lost, or taken from us.
    let (sql, ids) = statements.started.for_ids(&ids_of(jobs));
    let rows = bind_ids(query(&sql).bind(token), &ids)
        .fetch_all(connection)
        .await?;
    let running = rows.iter().map(id_of).collect::<Result<Vec<_>, _>>()?;
    Ok(jobs.iter().map(|job| running.contains(&job.id)).collect())
}

async fn write_finish(
    connection: &mut MySqlConnection,
    statements: &Statements,
    finish: &Finish,
) -> Result<bool, sqlx::Error> {
    let (least, most) = statements.code_range;
    let code = finish.code.map(|code| i64::from(code).clamp(least, most));
    let changed = query(&statements.finish)
        .bind(finish.result.as_str())
        .bind(code)
        .bind(&finish.signal)
        .bind(&finish.stdout)
        .bind(&finish.stderr)
        .bind(i64::try_from(finish.ended.elapsed().as_secs()).unwrap_or(0))
        .bind(key(finish.job.id))
        .bind(finish.job.token.as_str())
        .execute(&mut *connection)
        .await?
        .rows_affected();
    if changed == 1 {
        return Ok(true);
    }
    let same: i64 = query(&statements.finished)
        .bind(key(finish.job.id))
        .bind(finish.result.as_str())
        .bind(code)
        .bind(&finish.signal)
        .bind(&finish.stdout)
        .bind(&finish.stderr)
        .fetch_one(connection)
        .await?
        .try_get(0)?;
    Ok(same == 1)
}

impl Store for MySqlStore {
    fn inspect(&self) -> BoxFuture<'_, Result<Inspection, StoreError>> {
        async move {
            let settings = self.settings.clone();
            let found = self
                .desk
                .run(move || {
                    let settings = settings.clone();
                    unit(move |connection| {
                        async move { look::look(connection, &settings).await }.boxed()
                    })
                })
                .await?;
            if let Some(statements) = found.statements {
                let mut known = self
                    .statements
                    .write()
                    .unwrap_or_else(PoisonError::into_inner);
                *known = Some(Arc::new(statements));
            }
            Ok(found.inspection)
        }
        .boxed()
    }

    fn pending(
        &self,
        targets: Vec<TargetName>,
    ) -> BoxFuture<'_, Result<Vec<TargetName>, StoreError>> {
        async move {
            let statements = self.statements();
            let found = self
                .claims
                .run(move || {
                    let (statements, targets) = (statements.clone(), targets.clone());
                    unit(move |connection| {
                        async move { pending(connection, &statements, &targets).await }.boxed()
                    })
                })
                .await;
            self.refreshed(found).await
        }
        .boxed()
    }

    fn claim(
        &self,
        token: ClaimToken,
        target: TargetName,
        limit: u32,
    ) -> BoxFuture<'_, Result<Claimed, StoreError>> {
        async move {
            let statements = self.statements();
            let claimed = self
                .claimed(&self.claims, &token, |committing| {
                    let (statements, token, target) =
                        (statements.clone(), token.clone(), target.clone());
                    unit(move |connection| {
                        async move {
                            claim(connection, &statements, &token, &target, limit, &committing)
                                .await
                        }
                        .boxed()
                    })
                })
                .await;
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
            let statements = self.statements();
            self.claimed(&self.desk, &token, |committing| {
                let (statements, token, ids, served) = (
                    statements.clone(),
                    token.clone(),
                    ids.clone(),
                    served.clone(),
                );
                unit(move |connection| {
                    async move {
                        claim_manual(connection, &statements, &token, &ids, &served, &committing)
                            .await
                    }
                    .boxed()
                })
            })
            .await
        }
        .boxed()
    }

    fn record(&self, batch: Arc<Batch>) -> BoxFuture<'_, Result<Recorded, StoreError>> {
        async move {
            let statements = self.statements();
            self.ledger
                .run(move || {
                    let (statements, batch) = (statements.clone(), batch.clone());
                    unit(move |connection| {
                        async move { record(connection, &statements, &batch).await }.boxed()
                    })
                })
                .await
        }
        .boxed()
    }

    fn output_text(&self) -> OutputText {
        self.statements().output_text.clone()
    }
}

async fn pending(
    connection: &mut MySqlConnection,
    statements: &Statements,
    targets: &[TargetName],
) -> Result<Vec<TargetName>, sqlx::Error> {
    let mut found = Vec::new();
    for targets in targets.chunks(PROBES) {
        let last = targets.last().expect("chunks are not empty");
        let mut query = query(&statements.pending);
        for target in targets.iter().chain(std::iter::repeat(last)).take(PROBES) {
            query = query.bind(target.as_str());
        }
        for row in query.fetch_all(&mut *connection).await? {
            let at = usize::try_from(row.try_get::<i64, _>(0)?).unwrap_or(usize::MAX);
            // Probes beyond the list repeat its last target.
            found.extend(targets.get(at).cloned());
        }
    }
    Ok(found)
}
