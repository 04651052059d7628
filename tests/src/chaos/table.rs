//! The job table of a scripted scene, on a server or in an SQLite file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sqlx::mysql::{MySqlPool, MySqlRow};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqlitePool, SqliteRow};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Row as _};

use super::checker::Ownership;
use super::options::Table;
use super::stage;
use crate::database::{Database, Row, sqlite};
use crate::wait::PATIENCE;
use crate::{Ini, Scratch};

/// Where the rows of a scene stand.
#[derive(Debug)]
pub enum Jobs {
    /// On a server.
    Server(Database),
    /// In a file.
    Sqlite(PathBuf, SqlitePool),
}

impl Jobs {
    /// A new table on a server.
    pub async fn on_server(database: Database, table: Table) -> Self {
        database.run(stage::table(table)).await;
        Self::Server(database)
    }

    /// A new table in a file in `scratch`.
    pub async fn in_file(scratch: &Scratch, table: Table) -> Self {
        let file = scratch.join("jobs.db");
        let pool = sqlite(&file);
        let jobs = Self::Sqlite(file, pool);
        jobs.run(match table {
            Table::Minimal => include_str!("../../../sql/sqlite/jobs-minimal.sql"),
            Table::Full => concat!(
                include_str!("../../../sql/sqlite/jobs.sql"),
                include_str!("../../../sql/sqlite/add-unique.sql")
            ),
        })
        .await;
        jobs
    }

    /// The database on a server.
    ///
    /// # Panics
    /// When the rows stand in a file.
    pub fn database(&self) -> &Database {
        match self {
            Self::Server(database) => database,
            Self::Sqlite(file, _) => panic!("{} is on no server", file.display()),
        }
    }

    /// A worker on this table.
    pub fn ini(&self) -> Ini {
        match self {
            Self::Server(database) => Ini::worker(database),
            Self::Sqlite(file, _) => Ini::sqlite_worker(file),
        }
    }

    /// Has the file for oneself until this is dropped.
    ///
    /// # Panics
    /// When the rows stand on a server.
    pub async fn lock(&self) -> SqliteConnection {
        let Self::Sqlite(file, _) = self else {
            panic!("a server has no file to lock");
        };
        let options = SqliteConnectOptions::new().filename(file);
        let mut lock = options
            .busy_timeout(PATIENCE)
            .connect()
            .await
            .expect("open the file");
        let begun = sqlx::raw_sql("BEGIN EXCLUSIVE").execute(&mut lock).await;
        begun.expect("lock the file");
        lock
    }

    /// Runs one statement; returns how many rows it changed.
    pub async fn run(&self, sql: &str) -> u64 {
        match self {
            Self::Server(database) => database.run(sql).await,
            Self::Sqlite(_, pool) => {
                let done = sqlx::raw_sql(AssertSqlSafe(sql)).execute(pool).await;
                let done = done.unwrap_or_else(|error| panic!("{sql}: {error}"));
                done.rows_affected()
            }
        }
    }

    /// Inserts jobs one by one and returns their ids. `columns` and `values` are further ones, each with a
    /// comma before it.
    pub async fn insert(
        &self,
        count: usize,
        target: &str,
        status: &str,
        (columns, values): (&str, &str),
    ) -> Vec<u64> {
        let sql = format!(
            "INSERT INTO jobs (target, status, time_created{columns}) VALUES ('{target}', '{status}', 1{values})"
        );
        let mut ids = Vec::with_capacity(count);
        for _ in 0..count {
            let sql = AssertSqlSafe(sql.clone());
            ids.push(match self {
                Self::Server(database) => {
                    let done = sqlx::raw_sql(sql).execute(&database.pool).await;
                    done.expect("insert a job").last_insert_id()
                }
                Self::Sqlite(_, pool) => {
                    let done = sqlx::raw_sql(sql).execute(pool).await;
                    let id = done.expect("insert a job").last_insert_rowid();
                    id.unsigned_abs()
                }
            });
        }
        ids
    }

    /// Ids of the rows that meet a condition.
    pub async fn ids(&self, condition: &str) -> Vec<u64> {
        let sql = format!("SELECT id FROM jobs WHERE {condition} ORDER BY id");
        match self {
            Self::Server(database) => {
                let sql = sql.replacen("id", "CAST(id AS UNSIGNED) AS id", 1);
                let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(&database.pool);
                let rows = rows.await.expect("read ids");
                rows.iter().map(|row| row.get("id")).collect()
            }
            Self::Sqlite(_, pool) => {
                let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(pool).await;
                let id = |row: &SqliteRow| row.get::<i64, _>("id").unsigned_abs();
                rows.expect("read ids").iter().map(id).collect()
            }
        }
    }

    /// All rows.
    pub async fn rows(&self) -> BTreeMap<u64, Row> {
        let rows = match self {
            Self::Server(database) => database.rows().await,
            Self::Sqlite(_, pool) => {
                let rows = sqlx::query("SELECT * FROM jobs").fetch_all(pool).await;
                rows.expect("read jobs").iter().map(row_of_file).collect()
            }
        };
        rows.into_iter().map(|row| (row.id, row)).collect()
    }

    /// What the full table says beside.
    pub async fn ownership(&self, table: Table) -> BTreeMap<u64, Ownership> {
        if table == Table::Minimal {
            return BTreeMap::new();
        }
        match self {
            Self::Server(database) => ownership(&database.pool).await,
            Self::Sqlite(_, pool) => {
                let rows = sqlx::query(AssertSqlSafe(further("INTEGER", "TEXT"))).fetch_all(pool);
                let read = |row: &SqliteRow| {
                    one(
                        NUMBERS.map(|name| row.get(name)),
                        TEXTS.map(|name| row.get(name)),
                    )
                };
                rows.await
                    .expect("the columns of the full table")
                    .iter()
                    .map(read)
                    .collect()
            }
        }
    }
}

/// What a full table on a server says beside.
pub async fn ownership(pool: &MySqlPool) -> BTreeMap<u64, Ownership> {
    let rows = sqlx::query(AssertSqlSafe(further("SIGNED", "CHAR"))).fetch_all(pool);
    let read = |row: &MySqlRow| {
        one(
            NUMBERS.map(|name| row.get(name)),
            TEXTS.map(|name| row.get(name)),
        )
    };
    let rows = rows.await.expect("the columns of the full table");
    rows.iter().map(read).collect()
}

/// What is read of the full table, as numbers and as text.
const NUMBERS: [&str; 6] = [
    "id",
    "attempts",
    "interruptions",
    "max_attempts",
    "cpu_ms",
    "peak_kib",
];
const TEXTS: [&str; 4] = ["reason", "errors", "progress", "unique_key"];

fn further(number: &str, text: &str) -> String {
    let as_it = |kind: &str, name: &&str| format!("CAST({name} AS {kind}) AS {name}");
    let numbers = NUMBERS.iter().map(|name| as_it(number, name));
    let all = numbers.chain(TEXTS.iter().map(|name| as_it(text, name)));
    format!("SELECT {} FROM jobs", all.collect::<Vec<_>>().join(", "))
}

fn one(
    [id, attempts, interruptions, max_attempts, cpu_ms, peak_kib]: [Option<i64>; 6],
    [reason, errors, progress, unique_key]: [Option<String>; 4],
) -> (u64, Ownership) {
    let few = |number: i64| u32::try_from(number).expect("few attempts");
    let ownership = Ownership {
        attempts: attempts.map_or(0, few),
        interruptions: interruptions.map_or(0, few),
        max_attempts: max_attempts.map(few),
        reason,
        errors,
        progress,
        cpu_ms,
        peak_kib,
        unique_key,
    };
    (id.expect("a key").unsigned_abs(), ownership)
}

fn row_of_file(row: &SqliteRow) -> Row {
    Row {
        id: row.get::<i64, _>("id").unsigned_abs(),
        target: row.get("target"),
        status: row.get("status"),
        result: row.get("result"),
        return_code: row.get("return_code"),
        sig: row.get("sig"),
        stdout: row.get("stdout"),
        stderr: row.get("stderr"),
        time_started: row.get("time_started"),
        time_finished: row.get("time_finished"),
    }
}

/// The folder of a worker's state, made where it is missing.
pub fn state_dir(scratch: &Scratch, worker: &str) -> PathBuf {
    let folder: &Path = &scratch.join(&format!("state-{worker}"));
    std::fs::create_dir_all(folder).expect("a state folder");
    folder.to_owned()
}
