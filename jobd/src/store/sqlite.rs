//! The store on SQLite: the same guards on one file of this host.
//!
//! There is one writer at a time by SQLite's own rules, so one held connection serves all lanes. A
//! transaction that reads before it writes begins IMMEDIATE. A COMMIT that fails is asked about
//! like a lost one.

use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use jobd_proto::table::{Columns, SqliteSettings, TableName, connect_sqlite, quote};
use jobd_proto::{JobId, TargetName};
use sqlx::query::Query;
use sqlx::sqlite::{SqliteArguments, SqliteConnection, SqliteRow};
use sqlx::{AssertSqlSafe, Row as _, Sqlite};
use tokio::sync::Mutex;

use super::inspect::{self, Dialect, Index, Inspection};
use super::lists::{ListStatement, MAX_LIST, key};
use super::manual::{self, Found};
use super::{Batch, Claimed, Finish, OutputText, Recorded, Store, StoreError, back_to};
use crate::job::{ClaimToken, Job};

/// What one row may take (SQLite's default limit, SQLITE_MAX_LENGTH).
const MAX_ROW: u64 = 1_000_000_000;

/// Between two tries to learn what became of a COMMIT.
const RESOLVE_PAUSE: Duration = Duration::from_millis(200);

/// See the module.
pub(super) struct SqliteStore {
    settings: SqliteSettings,
    live: Arc<Mutex<Option<SqliteConnection>>>,
    statements: RwLock<Option<Arc<Statements>>>,
}

struct Statements {
    claim_select: Arc<str>,
    accept: ListStatement,
    accepted: ListStatement,
    manual_select: ListStatement,
    accept_manual: ListStatement,
    start: ListStatement,
    started: ListStatement,
    finish: Arc<str>,
    finished: Arc<str>,
    release: ListStatement,
    pending: Arc<str>,
    output_text: OutputText,
}

impl Statements {
    fn new(table: &TableName, columns: &Columns) -> Self {
        let t = table.quoted();
        let token = inspect::token_column(columns);
        let list = |template: String| ListStatement::new(&template);
        Self {
            claim_select: format!("SELECT `id` FROM {t} WHERE `status` = 'waiting' AND `target` = ? ORDER BY `id` LIMIT ?").into(),
            accept: list(format!("UPDATE {t} SET `status` = 'accepted', `{token}` = ? WHERE `status` = 'waiting' AND `id` IN ({{list}})")),
            accepted: list(format!("SELECT `id` FROM {t} WHERE `{token}` = ? AND `status` = 'accepted' AND `id` IN ({{list}})")),
            manual_select: list(format!("SELECT `id`, `status`, `target` FROM {t} WHERE `id` IN ({{list}})")),
            accept_manual: list(format!("UPDATE {t} SET `status` = 'accepted', `{token}` = ? WHERE `status` = 'manual' AND `id` IN ({{list}})")),
            start: list(format!(
                "UPDATE {t} SET `status` = 'running', `time_started` = unixepoch() \
                 WHERE `{token}` = ? AND `status` = 'accepted' AND `id` IN ({{list}})"
            )),
            started: list(format!("SELECT `id` FROM {t} WHERE `{token}` = ? AND `status` = 'running' AND `id` IN ({{list}})")),
            finish: format!(
                "UPDATE {t} SET `status` = 'done', `result` = ?, `return_code` = ?, `sig` = ?, `stdout` = ?, `stderr` = ?, \
                 `time_finished` = unixepoch() - ? WHERE `id` = ? AND `status` = 'running' AND `{token}` = ?"
            )
            .into(),
            finished: format!(
                "SELECT COUNT(*) FROM {t} WHERE `id` = ? AND `status` = 'done' AND `result` IS ? AND `return_code` IS ? \
                 AND `sig` IS ? AND `stdout` IS ? AND `stderr` IS ?"
            )
            .into(),
            release: list(format!(
                "UPDATE {t} SET `status` = ?, `time_started` = 0, `{token}` = NULL \
                 WHERE `{token}` = ? AND `status` IN ('accepted', 'running') AND `id` IN ({{list}})"
            )),
            pending: format!("SELECT EXISTS (SELECT 1 FROM {t} WHERE `status` = 'waiting' AND `target` = ?)").into(),
            output_text: OutputText::new(columns, MAX_ROW / 2),
        }
    }
}

type Unit<T> = Box<
    dyn for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T, sqlx::Error>> + Send,
>;

fn unit<T, F>(run: F) -> Unit<T>
where
    F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T, sqlx::Error>>
        + Send
        + 'static,
{
    Box::new(run)
}

impl SqliteStore {
    pub(super) fn new(settings: SqliteSettings) -> Self {
        Self {
            settings,
            live: Arc::default(),
            statements: RwLock::new(None),
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

    /// Runs a unit to its end in a task of its own; after an error the connection is opened anew.
    async fn run<T: Send + 'static>(&self, unit: Unit<T>) -> Result<T, StoreError> {
        let (live, settings) = (self.live.clone(), self.settings.clone());
        let task = tokio::spawn(async move {
            let mut live = live.lock().await;
            let mut connection = match live.take() {
                Some(connection) => connection,
                None => connect_sqlite(&settings)
                    .await
                    .map_err(|error| named(&error, &settings))?,
            };
            let value = unit(&mut connection).await?;
            *live = Some(connection);
            Ok(value)
        });
        let outcome: Result<T, sqlx::Error> = task
            .await
            .unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
        outcome.map_err(|error| sorted(&error))
    }

    async fn claimed(
        &self,
        token: &ClaimToken,
        make: impl FnOnce(Arc<OnceLock<Claimed>>) -> Unit<Claimed>,
    ) -> Result<Claimed, StoreError> {
        let committing = Arc::new(OnceLock::new());
        let error = match self.run(make(committing.clone())).await {
            Ok(claimed) => return Ok(claimed),
            Err(error) => error,
        };
        let Some(mut claimed) = committing.get().cloned() else {
            return Err(error);
        };
        let held = self.resolve(token, &claimed.ids()).await;
        if held.is_empty() {
            return Err(error);
        }
        claimed.jobs.retain(|(id, _)| held.contains(id));
        Ok(claimed)
    }

    /// Which of `ids` carry `token`.
    async fn resolve(&self, token: &ClaimToken, ids: &[JobId]) -> Vec<JobId> {
        loop {
            let (statements, token, ids) = (self.statements(), token.clone(), ids.to_vec());
            let read = self.run(unit(move |connection| {
                async move { holding(connection, &statements.accepted, &token, &ids).await }.boxed()
            }));
            match read.await {
                Ok(held) => return held,
                Err(error) => {
                    tracing::warn!(%error, "the outcome of a claim is not known yet, asking again");
                }
            }
            tokio::time::sleep(RESOLVE_PAUSE).await;
        }
    }
}

/// "unable to open database file" does not say which.
fn named(error: &sqlx::Error, settings: &SqliteSettings) -> sqlx::Error {
    let text = format!("{}: {error}", settings.path.display());
    sqlx::Error::Io(std::io::Error::other(text))
}

/// Result codes of SQLite's manual that a later try may not meet again.
fn sorted(error: &sqlx::Error) -> StoreError {
    let text = error.to_string();
    let Some(code) = error
        .as_database_error()
        .and_then(|error| error.code()?.parse::<u32>().ok())
    else {
        return StoreError::Unavailable(text);
    };
    // The low byte is the primary code. ERROR, CONSTRAINT, MISMATCH, TOOBIG, AUTH, NOTADB will not pass by themselves.
    match code & 0xFF {
        1 | 18 | 19 | 20 | 23 | 26 => StoreError::Refused(text),
        _ => StoreError::Unavailable(text),
    }
}

fn query(sql: &Arc<str>) -> Query<'_, Sqlite, SqliteArguments> {
    sqlx::query(AssertSqlSafe(sql.clone()))
}

fn bind_ids<'q>(
    mut query: Query<'q, Sqlite, SqliteArguments>,
    ids: &[i64],
) -> Query<'q, Sqlite, SqliteArguments> {
    for id in ids {
        query = query.bind(*id);
    }
    query
}

fn id_of(row: &SqliteRow) -> Result<JobId, sqlx::Error> {
    row.try_get::<i64, _>(0).map(|id| JobId(id.unsigned_abs()))
}

async fn execute(connection: &mut SqliteConnection, sql: &'static str) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(sql).execute(connection).await.map(|_| ())
}

/// The ids among `ids` for which `statement` finds a row with the token.
async fn holding(
    connection: &mut SqliteConnection,
    statement: &ListStatement,
    token: &ClaimToken,
    ids: &[JobId],
) -> Result<Vec<JobId>, sqlx::Error> {
    let mut held = Vec::with_capacity(ids.len());
    for ids in ids.chunks(MAX_LIST) {
        let (sql, ids) = statement.for_ids(ids);
        for row in bind_ids(query(&sql).bind(token.as_str()), &ids)
            .fetch_all(&mut *connection)
            .await?
        {
            held.push(id_of(&row)?);
        }
    }
    Ok(held)
}

async fn mark(
    connection: &mut SqliteConnection,
    statement: &ListStatement,
    token: &ClaimToken,
    ids: &[JobId],
) -> Result<(), sqlx::Error> {
    for ids in ids.chunks(MAX_LIST) {
        let (sql, ids) = statement.for_ids(ids);
        bind_ids(query(&sql).bind(token.as_str()), &ids)
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

async fn claim(
    connection: &mut SqliteConnection,
    statements: &Statements,
    token: &ClaimToken,
    target: &TargetName,
    limit: u32,
    committing: &OnceLock<Claimed>,
) -> Result<Claimed, sqlx::Error> {
    execute(connection, "BEGIN IMMEDIATE").await?;
    let rows = query(&statements.claim_select)
        .bind(target.as_str())
        .bind(limit)
        .fetch_all(&mut *connection)
        .await?;
    let ids = rows.iter().map(id_of).collect::<Result<Vec<_>, _>>()?;
    mark(connection, &statements.accept, token, &ids).await?;
    let claimed = Claimed::of(target, ids);
    let _ = committing.set(claimed.clone());
    execute(connection, "COMMIT").await?;
    Ok(claimed)
}

async fn claim_manual(
    connection: &mut SqliteConnection,
    statements: &Statements,
    token: &ClaimToken,
    wanted: &[JobId],
    served: &[TargetName],
    committing: &OnceLock<Claimed>,
) -> Result<Claimed, sqlx::Error> {
    let mut found = Vec::new();
    execute(connection, "BEGIN IMMEDIATE").await?;
    for ids in wanted.chunks(MAX_LIST) {
        let (sql, ids) = statements.manual_select.for_ids(ids);
        for row in bind_ids(query(&sql), &ids)
            .fetch_all(&mut *connection)
            .await?
        {
            found.push(Found {
                id: id_of(&row)?,
                status: row.try_get(1)?,
                target: row.try_get(2)?,
            });
        }
    }
    let claimed = manual::sort(wanted, found, served, false);
    mark(connection, &statements.accept_manual, token, &claimed.ids()).await?;
    let _ = committing.set(claimed.clone());
    execute(connection, "COMMIT").await?;
    Ok(claimed)
}

async fn record(
    connection: &mut SqliteConnection,
    statements: &Statements,
    batch: &Batch,
) -> Result<Recorded, sqlx::Error> {
    let mut recorded = Recorded::default();
    execute(connection, "BEGIN IMMEDIATE").await?;
    for finish in &batch.finishes {
        recorded
            .finished
            .push(write_finish(connection, statements, finish).await?);
    }
    for jobs in batch.starts.chunk_by(|a, b| a.token == b.token) {
        let ids: Vec<JobId> = jobs.iter().map(|job| job.id).collect();
        mark(connection, &statements.start, &jobs[0].token, &ids).await?;
        let running = holding(connection, &statements.started, &jobs[0].token, &ids).await?;
        recorded
            .started
            .extend(ids.iter().map(|id| running.contains(id)));
    }
    for jobs in batch
        .releases
        .chunk_by(|a, b| a.token == b.token)
        .flat_map(|claim| claim.chunks(MAX_LIST))
    {
        release(connection, statements, jobs).await?;
    }
    execute(connection, "COMMIT").await?;
    Ok(recorded)
}

async fn release(
    connection: &mut SqliteConnection,
    statements: &Statements,
    jobs: &[Job],
) -> Result<(), sqlx::Error> {
    let ids: Vec<JobId> = jobs.iter().map(|job| job.id).collect();
    let (sql, ids) = statements.release.for_ids(&ids);
    let query = query(&sql)
        .bind(back_to(&jobs[0]))
        .bind(jobs[0].token.as_str());
    bind_ids(query, &ids).execute(connection).await.map(|_| ())
}

async fn write_finish(
    connection: &mut SqliteConnection,
    statements: &Statements,
    finish: &Finish,
) -> Result<bool, sqlx::Error> {
    let changed = query(&statements.finish)
        .bind(finish.result.as_str())
        .bind(finish.code)
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
        .bind(finish.code)
        .bind(&finish.signal)
        .bind(&finish.stdout)
        .bind(&finish.stderr)
        .fetch_one(connection)
        .await?
        .try_get(0)?;
    Ok(same == 1)
}

async fn pending(
    connection: &mut SqliteConnection,
    statements: &Statements,
    targets: &[TargetName],
) -> Result<Vec<TargetName>, sqlx::Error> {
    let mut found = Vec::new();
    for target in targets {
        let row = query(&statements.pending)
            .bind(target.as_str())
            .fetch_one(&mut *connection)
            .await?;
        if row.try_get::<bool, _>(0)? {
            found.push(target.clone());
        }
    }
    Ok(found)
}

async fn look(
    connection: &mut SqliteConnection,
    settings: &SqliteSettings,
) -> Result<(Inspection, Option<Statements>), sqlx::Error> {
    let columns = Columns::of_sqlite(connection, &settings.table).await?;
    let mut indexes = Vec::new();
    let list = format!("PRAGMA index_list({})", quote(settings.table.table()));
    for row in sqlx::query(AssertSqlSafe(list))
        .fetch_all(&mut *connection)
        .await?
    {
        let name: String = row.try_get("name")?;
        let info = format!("PRAGMA index_info({})", quote(&name));
        let rows = sqlx::query(AssertSqlSafe(info))
            .fetch_all(&mut *connection)
            .await?;
        let columns = rows.iter().map(|row| {
            row.try_get::<Option<String>, _>("name")
                .map(Option::unwrap_or_default)
        });
        indexes.push(Index {
            columns: columns.collect::<Result<_, _>>()?,
            name,
        });
    }
    let version: String = sqlx::query("SELECT sqlite_version()")
        .fetch_one(connection)
        .await?
        .try_get(0)?;
    let mut inspection = inspect::table(&settings.table, &columns, &indexes, Dialect::Sqlite);
    inspection.server = format!("SQLite {version}");
    let statements = (!inspection.is_fatal()).then(|| Statements::new(&settings.table, &columns));
    Ok((inspection, statements))
}

impl Store for SqliteStore {
    fn inspect(&self) -> BoxFuture<'_, Result<Inspection, StoreError>> {
        async move {
            let settings = self.settings.clone();
            let look = self.run(unit(move |connection| {
                async move { look(connection, &settings).await }.boxed()
            }));
            let (inspection, statements) = look.await?;
            *self
                .statements
                .write()
                .unwrap_or_else(PoisonError::into_inner) = statements.map(Arc::new);
            Ok(inspection)
        }
        .boxed()
    }

    fn pending(
        &self,
        targets: Vec<TargetName>,
    ) -> BoxFuture<'_, Result<Vec<TargetName>, StoreError>> {
        let statements = self.statements();
        self.run(unit(move |connection| {
            async move { pending(connection, &statements, &targets).await }.boxed()
        }))
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
            self.claimed(&token.clone(), |committing| {
                unit(move |connection| {
                    async move {
                        claim(connection, &statements, &token, &target, limit, &committing).await
                    }
                    .boxed()
                })
            })
            .await
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
            self.claimed(&token.clone(), |committing| {
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
        let statements = self.statements();
        self.run(unit(move |connection| {
            async move { record(connection, &statements, &batch).await }.boxed()
        }))
        .boxed()
    }

    fn output_text(&self) -> OutputText {
        self.statements().output_text.clone()
    }
}
