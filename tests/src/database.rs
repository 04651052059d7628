//! One database of a test on a server, with its job table. The tests play the application here:
//! they insert jobs and read what became of them.

use std::collections::BTreeMap;
use std::path::Path;

use sqlx::mysql::{MySqlPool, MySqlPoolOptions, MySqlRow};
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool, SqlitePoolOptions};
use sqlx::{AssertSqlSafe, Row as _};

use crate::server::Server;
use crate::wait::{PATIENCE, until};

/// The minimal table, as it is shipped.
pub const MINIMAL: &str = include_str!("../../sql/mysql/jobs-minimal.sql");

/// The table with every ability, as it is shipped.
pub const FULL: &str = include_str!("../../sql/mysql/jobs.sql");

/// Connections to an SQLite file, which is made if it is not there.
pub fn sqlite(file: &Path) -> SqlitePool {
    let options = SqliteConnectOptions::new()
        .filename(file)
        .create_if_missing(true)
        .busy_timeout(PATIENCE);
    SqlitePoolOptions::new()
        .max_connections(2)
        .connect_lazy_with(options)
}

/// What inserts rows with these columns, on any server.
pub fn insertion(columns: &str, rows: &str) -> String {
    format!("INSERT INTO jobs ({columns}) VALUES {rows}")
}

/// What inserts ten rows for later, or a hundred … with so many `digits`, in one go on any server.
pub fn scheduled(digits: u32, run_at: &str) -> String {
    let ten = (0..10).map(|n| format!("SELECT {n} AS n"));
    let ten = ten.collect::<Vec<_>>().join(" UNION ALL ");
    let all = (0..digits).map(|at| format!("({ten}) AS d{at}"));
    format!(
        "INSERT INTO jobs (target, time_created, status, run_at) SELECT 't', 1, 'scheduled', {run_at} FROM {}",
        all.collect::<Vec<_>>().join(" CROSS JOIN ")
    )
}

/// A database, and a pool of connections to it.
#[derive(Debug)]
pub struct Database {
    /// Its name.
    pub name: String,
    /// The server's TCP port on 127.0.0.1.
    pub port: u16,
    /// The table, quoted: the target of all statements here. `` `jobs` `` unless changed.
    pub table: String,
    /// Connections over TCP.
    pub pool: MySqlPool,
}

/// The seed's columns of one job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// `id`
    pub id: u64,
    /// `target`
    pub target: String,
    /// `status`
    pub status: String,
    /// `result`
    pub result: Option<String>,
    /// `return_code`
    pub return_code: Option<i64>,
    /// `sig`
    pub sig: Option<String>,
    /// `stdout`
    pub stdout: Option<String>,
    /// `stderr`
    pub stderr: Option<String>,
    /// `time_started`, seconds since 1970
    pub time_started: i64,
    /// `time_finished`, seconds since 1970
    pub time_finished: i64,
}

impl Row {
    /// Status, result, code and signal: what most tests compare.
    pub fn verdict(&self) -> (&str, Option<&str>, Option<i64>, Option<&str>) {
        (
            &self.status,
            self.result.as_deref(),
            self.return_code,
            self.sig.as_deref(),
        )
    }

    /// What the job wrote to standard output, empty where there is nothing.
    pub fn out(&self) -> &str {
        self.stdout.as_deref().unwrap_or_default()
    }

    /// What stands in `stderr`, empty where there is nothing.
    pub fn err(&self) -> &str {
        self.stderr.as_deref().unwrap_or_default()
    }
}

impl Database {
    pub(crate) fn open(server: &Server, name: &str) -> Self {
        let options = server.options().database(name);
        let pool = MySqlPoolOptions::new()
            .max_connections(8)
            .acquire_timeout(PATIENCE)
            .connect_lazy_with(options);
        Self {
            name: name.to_owned(),
            port: server.port(),
            table: "`jobs`".to_owned(),
            pool,
        }
    }

    /// Runs one statement, whatever it is.
    pub async fn run(&self, sql: &str) -> u64 {
        sqlx::raw_sql(AssertSqlSafe(sql))
            .execute(&self.pool)
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error}"))
            .rows_affected()
    }

    /// Creates the minimal table.
    pub async fn minimal_table(&self) {
        self.run(MINIMAL).await;
    }

    /// Inserts `count` jobs and returns their ids, which follow each other.
    pub async fn insert(&self, count: usize, target: &str, status: &str) -> Vec<u64> {
        let row = "(?, ?, UNIX_TIMESTAMP())";
        let rows = vec![row; count].join(",");
        let sql = format!(
            "INSERT INTO {} (target, status, time_created) VALUES {rows}",
            self.table
        );
        let mut query = sqlx::query(AssertSqlSafe(sql)).persistent(false);
        for _ in 0..count {
            query = query.bind(target).bind(status);
        }
        let done = query.execute(&self.pool).await.expect("insert jobs");
        let first = done.last_insert_id();
        (first..first + count as u64).collect()
    }

    /// Inserts every job once more, as a new one in the status that it has.
    pub async fn double(&self) {
        let columns = "target, status, time_created";
        let sql = format!(
            "INSERT INTO {0} ({columns}) SELECT {columns} FROM {0}",
            self.table
        );
        self.run(&sql).await;
    }

    /// Inserts one job.
    pub async fn insert_one(&self, target: &str, status: &str) -> u64 {
        self.insert(1, target, status).await[0]
    }

    /// One job's row.
    pub async fn row(&self, id: u64) -> Row {
        let rows = self.rows_where(&format!("id = {id}")).await;
        rows.into_iter()
            .next()
            .unwrap_or_else(|| panic!("no row {id}"))
    }

    /// All rows, by id.
    pub async fn rows(&self) -> Vec<Row> {
        self.rows_where("1 = 1").await
    }

    /// How many rows stand in each status.
    pub async fn counts(&self) -> BTreeMap<String, u64> {
        let sql = format!(
            "SELECT CAST(status AS CHAR) AS s, COUNT(*) AS n FROM {} GROUP BY status",
            self.table
        );
        let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(&self.pool).await;
        rows.expect("count jobs")
            .iter()
            .map(|row| (row.get("s"), row.get::<i64, _>("n").unsigned_abs()))
            .collect()
    }

    /// What stands in a column of numbers of the first job.
    pub async fn number(&self, column: &str) -> Option<i64> {
        let sql = format!(
            "SELECT CAST({column} AS SIGNED) AS n FROM {} LIMIT 1",
            self.table
        );
        let row = sqlx::query(AssertSqlSafe(sql)).fetch_one(&self.pool).await;
        row.expect("read a job").get("n")
    }

    /// Waits until `id` is done and returns its row.
    pub async fn done(&self, id: u64) -> Row {
        self.reaches(id, "done").await
    }

    /// Waits until `id` has `status` and returns its row.
    pub async fn reaches(&self, id: u64, status: &str) -> Row {
        until(&format!("job {id} to be {status}"), PATIENCE, async || {
            let row = self.row(id).await;
            (row.status == status).then_some(row)
        })
        .await
    }

    /// Waits until every row is done.
    pub async fn all_done(&self, limit: std::time::Duration) {
        until("every job to be done", limit, async || {
            let counts = self.counts().await;
            counts.keys().all(|status| status == "done").then_some(())
        })
        .await;
    }

    async fn rows_where(&self, condition: &str) -> Vec<Row> {
        let sql = format!(
            "SELECT CAST(id AS UNSIGNED) AS id, CAST(target AS CHAR) AS target, \
             CAST(status AS CHAR) AS status, CAST(result AS CHAR) AS result, \
             CAST(return_code AS SIGNED) AS return_code, CAST(sig AS CHAR) AS sig, \
             stdout, stderr, CAST(time_started AS SIGNED) AS time_started, \
             CAST(time_finished AS SIGNED) AS time_finished \
             FROM {} WHERE {condition} ORDER BY id",
            self.table
        );
        let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(&self.pool).await;
        rows.expect("read jobs").iter().map(read).collect()
    }
}

fn read(row: &MySqlRow) -> Row {
    Row {
        id: row.get("id"),
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
