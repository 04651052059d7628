//! A job table in an SQLite file, and the application and the worker that change it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, Connection as _};

use crate::jobctl::{Run, run};

const SCHEMA: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../sql/sqlite/jobs-minimal.sql"
);

/// A table with a column of the application's own, and a config that names it.
pub(crate) struct Table {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) config: PathBuf,
}

impl Table {
    pub(crate) async fn new(daemon: Option<SocketAddr>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("jobctl.conf");
        // Port 1 is nobody's.
        let port = daemon.map_or(1, |address| address.port());
        let text = format!(
            "sqlite_path = {}\nport = {port}\n",
            folder.path().join("jobs.db").display()
        );
        std::fs::write(&config, text).unwrap();
        let table = Self { folder, config };
        let schema = std::fs::read_to_string(SCHEMA).unwrap();
        table.execute(&schema).await;
        table.execute("ALTER TABLE jobs ADD COLUMN name TEXT").await;
        table
    }

    pub(crate) async fn connection(&self) -> SqliteConnection {
        let options = SqliteConnectOptions::new()
            .filename(self.folder.path().join("jobs.db"))
            .create_if_missing(true);
        SqliteConnection::connect_with(&options).await.unwrap()
    }

    pub(crate) async fn execute(&self, sql: &str) -> u64 {
        let mut connection = self.connection().await;
        let done = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
            .execute(&mut connection)
            .await;
        done.unwrap().rows_affected()
    }

    /// Adds the columns of ownership.
    pub(crate) async fn owned(&self) {
        for column in [
            "worker TEXT",
            "lease_until INTEGER",
            "attempts INTEGER NOT NULL DEFAULT 0",
            "interruptions INTEGER NOT NULL DEFAULT 0",
        ] {
            let sql = format!("ALTER TABLE jobs ADD COLUMN {column}");
            self.execute(&sql).await;
        }
    }

    pub(crate) async fn jobctl(&self, arguments: &[&str]) -> Run {
        let config = ["--config", self.config.to_str().unwrap()];
        run(config.into_iter().chain(arguments.iter().copied())).await
    }

    /// A command to this table, as people are told to enter it: with these options and the config.
    pub(crate) fn line(&self, command: &str) -> String {
        format!("jobctl --config {} {command}", self.config.display())
    }

    /// Ends `count` waiting jobs as a worker would, as soon as they are there.
    pub(crate) async fn work(&self, count: u64, ends: &str) {
        let sql = format!(
            "UPDATE jobs SET status = 'done', time_started = time_created, time_finished = time_created + 5, {ends} \
             WHERE status = 'waiting'"
        );
        let mut ended = 0;
        while ended < count {
            ended += self.execute(&sql).await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
