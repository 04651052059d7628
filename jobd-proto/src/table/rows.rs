//! What an application may do with the job table: add rows and read them. `jobctl` does it through
//! this; the daemons must not (they never INSERT).

use std::fmt::Write as _;
use std::time::Duration;

use futures::TryStreamExt as _;
use serde::{Serialize, Serializer};
use sqlx::mysql::MySqlConnection;
use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, Connection as _, Row as _};

use super::cell::Cell;
use super::columns::{Column, Columns, Kind};
use super::name::{TableName, quote};
use super::patience::Patience;
use super::settings::DatabaseSettings;
use super::{connect_mysql, connect_sqlite};
use crate::JobId;

/// A row to insert. Columns left out take the table's defaults.
#[derive(Clone, Debug, Default)]
pub struct NewJob {
    /// The target (queue) that shall run it.
    pub target: String,
    /// `manual` instead of `waiting`: it runs only when a client asks for it by id.
    pub manual: bool,
    /// For the column `data`.
    pub data: Option<String>,
    /// For columns of the application's own, as name and value.
    pub others: Vec<(String, String)>,
}

/// A row as text and numbers; what is no text is kept as it is. `stdout`, `stderr` and `others` are empty in lists.
#[derive(Clone, Debug, Default, Serialize)]
pub struct JobRow {
    /// Primary key.
    pub id: JobId,
    /// Target (queue).
    pub target: String,
    /// `waiting`, `manual`, `accepted`, `running`, `done` or `ignored`.
    pub status: String,
    /// `ok` or `fail` once done.
    pub result: Option<String>,
    /// Exit code, if the process exited.
    pub return_code: Option<i64>,
    /// Name of the signal that ended it, if one did.
    pub sig: Option<String>,
    /// Seconds since 1970.
    pub time_created: i64,
    /// Seconds since 1970; 0 before.
    pub time_started: i64,
    /// Seconds since 1970; 0 before.
    pub time_finished: i64,
    /// Captured output; while a job is claimed, jobd may keep its claim token in `stderr`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stdout: Option<Cell>,
    /// See `stdout`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stderr: Option<Cell>,
    /// Every further column of the table, in its order; as JSON an object.
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "as_object")]
    pub others: Vec<(String, Option<Cell>)>,
}

fn as_object<S: Serializer>(
    pairs: &[(String, Option<Cell>)],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(pairs.iter().map(|(name, value)| (name, value)))
}

/// An open job table.
pub struct Connection {
    pub(super) driver: Driver,
    pub(super) columns: Columns,
    pub(super) table: TableName,
    pub(super) quoted: String,
    pub(super) patience: Patience,
}

pub(super) enum Driver {
    MySql(MySqlConnection),
    Sqlite(SqliteConnection),
}

/// What went wrong between an application and the table.
#[derive(Debug, thiserror::Error)]
pub enum RowError {
    /// The database refused or could not be reached.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    /// The table is not there (or the account may not see it).
    #[error("table {0} not found, or this account may not see it")]
    NoTable(String),
    /// A column that the table does not have.
    #[error("table {table} has no column `{column}`; it has {known}")]
    NoColumn {
        /// The table.
        table: String,
        /// The missing column.
        column: String,
        /// Those that are there.
        known: String,
    },
    /// Two values for one column.
    #[error("column `{0}` is given twice; target, status and data are set by options")]
    Repeated(String),
    /// The database took longer than anybody waits.
    #[error("no answer within {} s", .0.as_secs())]
    NoAnswer(Duration),
    /// A column holds what cannot be read as expected.
    #[error("row of table {0} cannot be read: {1}")]
    Unreadable(String, String),
}

impl RowError {
    /// Whether a unique index refused what was asked for.
    pub fn is_repeated_key(&self) -> bool {
        matches!(self, Self::Database(sqlx::Error::Database(error)) if error.is_unique_violation())
    }
}

/// The columns of the minimal table, which every worker needs and [`JobRow`] names itself.
pub const REQUIRED: [&str; 11] = [
    "id",
    "target",
    "status",
    "result",
    "return_code",
    "sig",
    "time_created",
    "time_started",
    "time_finished",
    "stdout",
    "stderr",
];

/// How many of [`REQUIRED`], from the first, a list shows.
const LISTED: usize = 9;

pub(super) type TextRow = Vec<Option<Cell>>;

impl Connection {
    /// Connects and reads the table's columns.
    pub async fn open(settings: &DatabaseSettings, patience: Patience) -> Result<Self, RowError> {
        let opened = patience
            .connecting(Box::pin(Self::connect(settings)))
            .await?;
        Ok(Self { patience, ..opened })
    }

    async fn connect(settings: &DatabaseSettings) -> Result<Self, RowError> {
        let (driver, columns, table) = match settings {
            DatabaseSettings::MySql(mysql) => {
                let mut connection = connect_mysql(mysql).await?;
                let columns =
                    Columns::of_mysql(&mut connection, &mysql.database, &mysql.table).await?;
                (Driver::MySql(connection), columns, mysql.table.clone())
            }
            DatabaseSettings::Sqlite(sqlite) => {
                let mut connection = connect_sqlite(sqlite).await?;
                let columns = Columns::of_sqlite(&mut connection, &sqlite.table).await?;
                (Driver::Sqlite(connection), columns, sqlite.table.clone())
            }
        };
        if columns.is_empty() {
            return Err(RowError::NoTable(table.to_string()));
        }
        Ok(Self {
            driver,
            columns,
            quoted: table.quoted(),
            table,
            patience: Patience::default(),
        })
    }

    /// The table's columns.
    pub fn columns(&self) -> &Columns {
        &self.columns
    }

    /// Inserts `count` rows like `job` in one transaction and returns their ids.
    pub async fn insert(&mut self, job: &NewJob, count: u32) -> Result<Vec<JobId>, RowError> {
        let (names, values) = self.insert_values(job)?;
        let now = match self.driver {
            Driver::MySql(_) => "UNIX_TIMESTAMP()",
            Driver::Sqlite(_) => "unixepoch()",
        };
        let columns: String = names.iter().fold(quote("time_created"), |mut list, name| {
            let _ = write!(list, ", {}", quote(name));
            list
        });
        let marks = ", ?".repeat(values.len());
        let sql = format!(
            "INSERT INTO {} ({columns}) VALUES ({now}{marks})",
            self.quoted
        );
        let patience = self.patience.clone();
        self.driver.insert(&sql, &values, count, &patience).await
    }

    fn insert_values(&self, job: &NewJob) -> Result<(Vec<String>, Vec<String>), RowError> {
        let status = if job.manual { "manual" } else { "waiting" };
        let mut pairs = vec![
            ("target".to_owned(), job.target.clone()),
            ("status".to_owned(), status.to_owned()),
        ];
        pairs.extend(job.data.clone().map(|data| ("data".to_owned(), data)));
        pairs.extend(job.others.iter().cloned());
        for (at, (column, _)) in pairs.iter().enumerate() {
            if pairs[..at]
                .iter()
                .any(|(earlier, _)| earlier.eq_ignore_ascii_case(column))
            {
                return Err(RowError::Repeated(column.clone()));
            }
            self.known(column)?;
        }
        Ok(pairs.into_iter().unzip())
    }

    /// The lower-case name of a column that must be there.
    pub fn known(&self, column: &str) -> Result<String, RowError> {
        let name = column.to_lowercase();
        if self.columns.has(&name) {
            return Ok(name);
        }
        let known = self.columns.iter().map(|known| known.name.as_str());
        Err(RowError::NoColumn {
            table: self.table.to_string(),
            column: column.to_owned(),
            known: known.collect::<Vec<_>>().join(", "),
        })
    }

    /// One row with everything that it holds; `None` where there is none of that id.
    pub async fn show(&mut self, id: JobId) -> Result<Option<JobRow>, RowError> {
        let others = self.other_columns();
        let select = self.select(true, &others);
        let sql = format!("SELECT {select} FROM {} WHERE `id` = {id}", self.quoted);
        let row = self.fetch(&sql, &[]).await?.into_iter().next();
        row.map(|row| self.job_row(row, true, &others)).transpose()
    }

    /// The columns that [`JobRow`] does not name, in the table's order.
    pub fn other_columns(&self) -> Vec<String> {
        let names = self.columns.iter().map(|column| column.name.clone());
        names
            .filter(|name| !REQUIRED.contains(&name.as_str()))
            .collect()
    }

    /// What a SELECT lists for [`Self::job_row`]: the named columns, with outputs if asked for, and `others`.
    pub(super) fn select(&self, outputs: bool, others: &[String]) -> String {
        let named = if outputs {
            &REQUIRED[..]
        } else {
            &REQUIRED[..LISTED]
        };
        let all = named
            .iter()
            .copied()
            .chain(others.iter().map(String::as_str));
        all.map(|name| self.as_text(name))
            .collect::<Vec<_>>()
            .join(", ")
    }

    /// A column as text, whatever its type; NULL where the table lacks it.
    pub(super) fn as_text(&self, name: &str) -> String {
        let quoted = quote(name);
        match (self.columns.get(name), &self.driver) {
            (None, _) => "NULL".to_owned(),
            (
                Some(Column {
                    kind: Kind::Binary { .. },
                    ..
                }),
                Driver::MySql(_),
            ) => quoted,
            (Some(_), Driver::MySql(_)) => format!("CAST({quoted} AS CHAR)"),
            (Some(_), Driver::Sqlite(_)) => format!("CAST({quoted} AS TEXT)"),
        }
    }

    /// Reads a row of [`Self::select`] with the same arguments.
    pub(super) fn job_row(
        &self,
        row: TextRow,
        outputs: bool,
        others: &[String],
    ) -> Result<JobRow, RowError> {
        job_row(&self.table, row, outputs, others)
    }
}

/// See [`Connection::job_row`].
pub(super) fn job_row(
    table: &TableName,
    row: TextRow,
    outputs: bool,
    others: &[String],
) -> Result<JobRow, RowError> {
    let mut values = row.into_iter();
    let mut next = || values.next().flatten();
    let number = |name: &str, value: Option<Cell>| -> Result<Option<i64>, RowError> {
        value
            .map(|text| {
                text.parse().map_err(|_| {
                    RowError::Unreadable(table.to_string(), format!("{name} is {:?}", &*text))
                })
            })
            .transpose()
    };
    let id = number("id", next())?
        .and_then(|id| u64::try_from(id).ok())
        .unwrap_or_default();
    Ok(JobRow {
        id: JobId(id),
        target: next().unwrap_or_default().into(),
        status: next().unwrap_or_default().into(),
        result: next().map(String::from),
        return_code: number("return_code", next())?,
        sig: next().map(String::from),
        time_created: number("time_created", next())?.unwrap_or(0),
        time_started: number("time_started", next())?.unwrap_or(0),
        time_finished: number("time_finished", next())?.unwrap_or(0),
        stdout: outputs.then(&mut next).flatten(),
        stderr: outputs.then(&mut next).flatten(),
        others: others.iter().cloned().map(|name| (name, next())).collect(),
    })
}

impl Connection {
    /// Rows of text columns.
    pub(super) async fn fetch(
        &mut self,
        sql: &str,
        binds: &[String],
    ) -> Result<Vec<TextRow>, RowError> {
        self.patience.statement(self.driver.fetch(sql, binds)).await
    }
}

impl Driver {
    async fn insert(
        &mut self,
        sql: &str,
        values: &[String],
        count: u32,
        patience: &Patience,
    ) -> Result<Vec<JobId>, RowError> {
        let mut ids = Vec::new();
        match self {
            Self::MySql(connection) => {
                let mut transaction = patience.statement(connection.begin()).await?;
                for _ in 0..count {
                    let mut query = sqlx::query(AssertSqlSafe(sql.to_owned()));
                    for value in values {
                        query = query.bind(value);
                    }
                    let done = patience.statement(query.execute(&mut *transaction)).await?;
                    ids.push(JobId(done.last_insert_id()));
                }
                patience.statement(transaction.commit()).await?;
            }
            Self::Sqlite(connection) => {
                let begin = connection.begin_with("BEGIN IMMEDIATE");
                let mut transaction = patience.statement(begin).await?;
                for _ in 0..count {
                    let mut query = sqlx::query(AssertSqlSafe(sql.to_owned()));
                    for value in values {
                        query = query.bind(value);
                    }
                    let done = patience.statement(query.execute(&mut *transaction)).await?;
                    ids.push(JobId(done.last_insert_rowid().unsigned_abs()));
                }
                patience.statement(transaction.commit()).await?;
            }
        }
        Ok(ids)
    }

    /// Rows of text columns.
    pub(super) async fn fetch(
        &mut self,
        sql: &str,
        binds: &[String],
    ) -> Result<Vec<TextRow>, sqlx::Error> {
        let mut found = Vec::new();
        match self {
            Self::MySql(connection) => {
                let mut query = sqlx::query(AssertSqlSafe(sql.to_owned()));
                for bind in binds {
                    query = query.bind(bind);
                }
                for row in query.fetch_all(connection).await? {
                    let cells = (0..row.len()).map(|index| row.try_get_unchecked(index).map(cell));
                    found.push(cells.collect::<Result<TextRow, _>>()?);
                }
            }
            Self::Sqlite(connection) => {
                let mut query = sqlx::query(AssertSqlSafe(sql.to_owned()));
                for bind in binds {
                    query = query.bind(bind);
                }
                for row in query.fetch_all(connection).await? {
                    let cells = (0..row.len()).map(|index| row.try_get_unchecked(index).map(cell));
                    found.push(cells.collect::<Result<TextRow, _>>()?);
                }
            }
        }
        Ok(found)
    }

    /// The same, each row handed on as it comes; each may take as long as a statement.
    pub(super) async fn fetch_each<E: From<RowError>>(
        &mut self,
        sql: &str,
        binds: &[String],
        patience: &Patience,
        mut take: impl FnMut(TextRow) -> Result<(), E>,
    ) -> Result<(), E> {
        // The driver that serves both cannot decode these columns.
        macro_rules! each {
            ($connection:expr) => {{
                let mut query = sqlx::query(AssertSqlSafe(sql.to_owned()));
                for bind in binds {
                    query = query.bind(bind);
                }
                let mut rows = query.fetch($connection);
                while let Some(row) = patience.statement(rows.try_next()).await? {
                    let read = |index| row.try_get_unchecked(index).map(cell);
                    let cells = (0..row.len()).map(read).collect::<Result<TextRow, _>>();
                    take(cells.map_err(RowError::from)?)?;
                }
            }};
        }
        match self {
            Self::MySql(connection) => each!(connection),
            Self::Sqlite(connection) => each!(connection),
        }
        Ok(())
    }
}

fn cell(bytes: Option<Vec<u8>>) -> Option<Cell> {
    bytes.map(Cell::from)
}
