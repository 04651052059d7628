//! SQLite: one held connection to one file of this host.
//!
//! There is one writer at a time by SQLite's own rules, so one connection serves all lanes, and a
//! transaction that reads before it writes begins IMMEDIATE.

#[cfg(test)]
mod plans;

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use jobd_proto::table::{Columns, SqliteSettings, connect_sqlite, quote};
use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, Row as _};
use tokio::sync::Mutex;
use tokio::task::JoinError;

use super::StoreError;
use super::abilities;
use super::backend::{Backend, Lane, Unit, cut_short};
use super::ddl::{self, Ddl};
use super::dialect::Dialect;
use super::inspect::{self, Index, Inspection};
use super::later;
use super::statements::Statements;

/// What one row may take (SQLite's default limit, SQLITE_MAX_LENGTH), halved for two outputs.
const MAX_PACKET: u64 = 500_000_000;

/// See the module.
pub(super) struct Sqlite {
    settings: SqliteSettings,
    lease: Duration,
    live: Arc<Mutex<Option<SqliteConnection>>>,
}

impl Sqlite {
    pub(super) fn new(settings: SqliteSettings, lease: Duration) -> Self {
        Self {
            settings,
            lease,
            live: Arc::default(),
        }
    }
}

impl Backend for Sqlite {
    type Connection = SqliteConnection;

    /// After an error the connection is closed, which rolls back, and opened anew.
    async fn run<T: Send + 'static>(
        &self,
        _: Lane,
        make: impl Fn() -> Unit<SqliteConnection, T> + Send,
        _: impl Fn() -> bool + Send,
    ) -> Result<T, StoreError> {
        let (live, settings, unit) = (self.live.clone(), self.settings.clone(), make());
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
        let outcome: Result<Result<T, sqlx::Error>, JoinError> = task.await;
        match outcome {
            Ok(outcome) => outcome.map_err(|error| sorted(&error)),
            Err(error) => Err(StoreError::Unavailable(cut_short(&error))),
        }
    }

    fn max_packet(&self) -> u64 {
        MAX_PACKET
    }

    fn look(
        &self,
        known: Option<Arc<[String]>>,
    ) -> Unit<SqliteConnection, (Inspection, Option<Statements>)> {
        let (settings, lease) = (self.settings.clone(), self.lease);
        Box::new(move |connection| {
            async move { look(connection, &settings, known.as_deref(), lease).await }.boxed()
        })
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
    // The low byte is the primary code. TOOBIG and MISMATCH are about values; ERROR, CONSTRAINT, AUTH and
    // NOTADB will not pass by themselves.
    match code & 0xFF {
        18 | 20 => StoreError::Unfit(text),
        1 | 19 | 23 | 26 => StoreError::Refused(text),
        _ => StoreError::Unavailable(text),
    }
}

async fn look(
    connection: &mut SqliteConnection,
    settings: &SqliteSettings,
    known: Option<&[String]>,
    lease: Duration,
) -> Result<(Inspection, Option<Statements>), sqlx::Error> {
    let mut columns = Columns::of_sqlite(connection, &settings.table).await?;
    if let Some(known) = known {
        columns.keep(known);
    }
    let mut indexes = Vec::new();
    let list = format!("PRAGMA index_list({})", quote(settings.table.table()));
    for row in sqlx::query(AssertSqlSafe(list))
        .fetch_all(&mut *connection)
        .await?
    {
        let name: String = row.try_get("name")?;
        let info = format!("PRAGMA index_xinfo({})", quote(&name));
        let rows = sqlx::query(AssertSqlSafe(info))
            .fetch_all(&mut *connection)
            .await?;
        let mut columns = Vec::new();
        for row in rows {
            let column: Option<String> = row.try_get("name")?;
            let column = column.unwrap_or_default();
            match (row.try_get("key")?, row.try_get("desc")?) {
                (false, _) => {}
                (true, true) => columns.push(ddl::descending(&column)),
                (true, false) => columns.push(column),
            }
        }
        indexes.push(Index { name, columns });
    }
    // Those of constraints have no statement.
    let created = sqlx::query_as::<_, (String, String)>(
        "SELECT name, sql FROM sqlite_schema WHERE type = 'index' AND tbl_name = ? AND sql IS NOT NULL",
    );
    let created = created.bind(settings.table.table());
    let created = created.fetch_all(&mut *connection).await?;
    let version: String = sqlx::query("SELECT sqlite_version()")
        .fetch_one(&mut *connection)
        .await?
        .try_get(0)?;
    let ddl = Ddl::Sqlite(&created);
    let mut inspection = inspect::table(&settings.table, &columns, &indexes, ddl);
    inspection.server = format!("SQLite {version}");
    let dialect = Dialect {
        begin: "BEGIN IMMEDIATE",
        now: "unixepoch()",
        same: "IS",
        // A row's id is no index there, but the table's own order. Otherwise it may go by the status, and read every row
        // that has the same.
        id_index: match inspect::id_index(&indexes) {
            None => "NOT INDEXED".to_owned(),
            Some(_) => String::new(),
        },
        // The same here.
        run_at_index: abilities::index_on("run_at", &indexes).map_or_else(String::new, |index| {
            format!("INDEXED BY {}", quote(&index.name))
        }),
        unranged: "+",
        max_packet: MAX_PACKET,
        ..Dialect::default()
    };
    if inspection.is_fatal() {
        return Ok((inspection, None));
    }
    let abilities = inspection.abilities;
    let statements = Statements::new(&settings.table, &columns, abilities, &dialect, lease);
    let in_the_way = later::in_the_way(connection, &statements, &settings.table);
    inspection.problems.extend(in_the_way.await?);
    Ok((inspection, Some(statements)))
}
