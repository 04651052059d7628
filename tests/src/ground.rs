//! A job table on either storage, for a test that is the same on each.

use std::path::PathBuf;

use sqlx::sqlite::SqlitePool;
use sqlx::{AssertSqlSafe, Row as _};

use crate::database::{Database, FULL, sqlite};
use crate::ini::Ini;
use crate::scratch::Scratch;
use crate::server::Server;
use crate::wait::{PATIENCE, until};

const SQLITE_FULL: &str = include_str!("../../sql/sqlite/jobs.sql");

/// A table with every ability, and a folder beside it.
#[derive(Debug)]
pub struct Ground {
    /// For whatever the test writes.
    pub scratch: Scratch,
    table: Storage,
}

#[derive(Debug)]
enum Storage {
    MySql(Database),
    Sqlite(PathBuf, SqlitePool),
}

impl Ground {
    /// One on the shared server.
    pub async fn mysql() -> Self {
        Self::mysql_made_by(&[FULL]).await
    }

    /// One on the shared server, of a table made by these statements.
    pub async fn mysql_made_by(statements: &[&str]) -> Self {
        let database = Server::shared().await.database().await;
        for statement in statements {
            database.run(statement).await;
        }
        Self {
            scratch: Scratch::new(),
            table: Storage::MySql(database),
        }
    }

    /// One in an SQLite file.
    pub async fn sqlite() -> Self {
        Self::sqlite_made_by(SQLITE_FULL).await
    }

    /// One in an SQLite file, of a table made by these statements.
    pub async fn sqlite_made_by(statements: &str) -> Self {
        let scratch = Scratch::new();
        let file = scratch.join("jobs.db");
        let pool = sqlite(&file);
        let ground = Self {
            scratch,
            table: Storage::Sqlite(file, pool),
        };
        ground.run(statements).await;
        ground
    }

    /// One on each.
    pub async fn each() -> [Self; 2] {
        [Self::mysql().await, Self::sqlite().await]
    }

    /// A worker on it that looks for rows all the time; it has no targets yet.
    pub fn ini(&self) -> Ini {
        let ini = match &self.table {
            Storage::MySql(database) => Ini::worker(database),
            Storage::Sqlite(file, _) => Ini::sqlite_worker(file),
        };
        ini.set("poll_interval", "0.05")
    }

    /// A file for what its jobs note.
    pub fn notes(&self) -> PathBuf {
        self.scratch.join("notes")
    }

    /// Runs one statement, whatever it is.
    pub async fn run(&self, sql: &str) {
        let done = match &self.table {
            Storage::MySql(database) => {
                database.run(sql).await;
                return;
            }
            Storage::Sqlite(_, pool) => {
                // A read first: a connection of the pool may still know the indexes of before.
                let sql = format!("SELECT 1 FROM sqlite_schema; {sql}");
                sqlx::raw_sql(AssertSqlSafe(sql)).execute(pool).await
            }
        };
        done.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// Inserts a job of `target` with more columns, given in SQL: `[("timeout", "5")]`.
    pub async fn insert(&self, target: &str, more: &[(&str, &str)]) -> u64 {
        self.insert_with(target, more, None).await
    }

    /// Inserts a job with something in `data`.
    pub async fn insert_data(&self, target: &str, data: &[u8]) -> u64 {
        self.insert_with(target, &[], Some(data)).await
    }

    async fn insert_with(&self, target: &str, more: &[(&str, &str)], data: Option<&[u8]>) -> u64 {
        let columns: String = more.iter().flat_map(|(name, _)| [", ", name]).collect();
        let values: String = more.iter().flat_map(|(_, value)| [", ", value]).collect();
        // Not every table has the column.
        let (column, value) = if data.is_some() {
            (", data", ", ?")
        } else {
            ("", "")
        };
        let sql = format!(
            "INSERT INTO jobs (target, time_created{columns}{column}) VALUES (?, 1{values}{value})"
        );
        let sql = AssertSqlSafe(sql);
        match &self.table {
            Storage::MySql(database) => {
                let mut insert = sqlx::query(sql).bind(target);
                if let Some(data) = data {
                    insert = insert.bind(data);
                }
                let done = insert.execute(&database.pool).await;
                done.expect("insert a job").last_insert_id()
            }
            Storage::Sqlite(_, pool) => {
                let mut insert = sqlx::query(sql).bind(target);
                if let Some(data) = data {
                    insert = insert.bind(data);
                }
                let done = insert.execute(pool).await.expect("insert a job");
                done.last_insert_rowid().unsigned_abs()
            }
        }
    }

    /// What stands in a column of a job, as text.
    pub async fn text(&self, id: u64, column: &str) -> Option<String> {
        let sql = |kind: &str| {
            AssertSqlSafe(format!(
                "SELECT CAST({column} AS {kind}) FROM jobs WHERE id = {id}"
            ))
        };
        let row = match &self.table {
            Storage::MySql(database) => {
                let row = sqlx::query(sql("CHAR")).fetch_one(&database.pool).await;
                row.map(|row| row.get(0))
            }
            Storage::Sqlite(_, pool) => {
                let row = sqlx::query(sql("TEXT")).fetch_one(pool).await;
                row.map(|row| row.get(0))
            }
        };
        row.expect("read a job")
    }

    /// What stands in a column of a job, as a number.
    pub async fn number(&self, id: u64, column: &str) -> i64 {
        let text = self.text(id, column).await;
        let number = text.as_deref().and_then(|text| text.parse().ok());
        number.unwrap_or_else(|| panic!("{column} of job {id} is {text:?}"))
    }

    /// The database's time, as SQL.
    pub fn now(&self) -> &'static str {
        match &self.table {
            Storage::MySql(_) => "UNIX_TIMESTAMP()",
            Storage::Sqlite(..) => "unixepoch()",
        }
    }

    /// Runs a statement that the database refuses; what it says.
    ///
    /// # Panics
    /// When it does not refuse it.
    pub async fn refused(&self, sql: &str) -> String {
        let sql = AssertSqlSafe(sql.to_owned());
        let refusal = match &self.table {
            Storage::MySql(database) => sqlx::raw_sql(sql).execute(&database.pool).await.err(),
            Storage::Sqlite(_, pool) => sqlx::raw_sql(sql).execute(pool).await.err(),
        };
        refusal.expect("a refusal").to_string()
    }

    /// An INSERT that leaves out what is refused.
    pub fn insert_ignore(&self) -> &'static str {
        match &self.table {
            Storage::MySql(_) => "INSERT IGNORE",
            Storage::Sqlite(..) => "INSERT OR IGNORE",
        }
    }

    /// The statement that drops an index of the table.
    pub fn drop_index(&self, name: &str) -> String {
        match &self.table {
            Storage::MySql(_) => format!("DROP INDEX {name} ON jobs"),
            Storage::Sqlite(..) => format!("DROP INDEX {name}"),
        }
    }

    /// So many seconds later, as SQL.
    pub fn in_seconds(&self, seconds: u64) -> String {
        format!("{} + {seconds}", self.now())
    }

    /// Several columns of a job, with `-` for NULL, and a blank between: `done fail 1`.
    pub async fn words(&self, id: u64, columns: &[&str]) -> String {
        let mut words = Vec::new();
        for column in columns {
            let word = self.text(id, column).await;
            words.push(word.unwrap_or_else(|| "-".to_owned()));
        }
        words.join(" ")
    }

    /// Waits until a job has this status.
    pub async fn reaches(&self, id: u64, status: &str) {
        until(&format!("job {id} to be {status}"), PATIENCE, async || {
            let now = self.text(id, "status").await;
            (now.as_deref() == Some(status)).then_some(())
        })
        .await;
    }

    /// Waits until a job is done; its status, result, code, signal and reason.
    pub async fn verdict(&self, id: u64) -> String {
        self.reaches(id, "done").await;
        self.words(id, &["result", "return_code", "sig", "reason"])
            .await
    }
}
