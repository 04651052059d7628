//! A table of its own for each test, seen from both sides, and what goes into a batch.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jobd_proto::table::{
    Connection, DatabaseSettings, JobRow, MySqlAddress, MySqlSettings, NewJob, Patience,
    SqliteSettings, TableName, Tls,
};
use jobd_proto::{JobId, JobResult, Secret, TargetName};
use jobd_tests::{Scratch, Server, server};
use sqlx::{AssertSqlSafe, Connection as _};

use crate::fate::Reason;
use crate::job::{Job, Origin, Tokens};
use crate::launcher::Usage;
use crate::store::{Ability, Batch, Finish, Recorded, Store, open};

/// The tables that people have: the least that works, and the one with every ability.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Table {
    Minimal,
    Full,
}

pub(super) const LEASE: Duration = Duration::from_secs(30);

/// A table of its own, seen from both sides.
pub(super) struct Ground {
    pub(super) store: Arc<dyn Store>,
    pub(super) table: Connection,
    pub(super) settings: DatabaseSettings,
    pub(super) tokens: Tokens,
    pub(super) shape: Table,
    _scratch: Scratch,
}

/// How the worker reaches a test's database.
pub(in crate::store) fn settings(port: u16, database: &str) -> MySqlSettings {
    MySqlSettings {
        address: MySqlAddress::Tcp {
            host: "127.0.0.1".into(),
            port,
        },
        user: server::USER.into(),
        password: Some(Secret::new(server::PASSWORD)),
        database: database.into(),
        table: TableName::parse("jobs").unwrap(),
        tls: Tls::Preferred,
    }
}

impl Ground {
    async fn over(settings: DatabaseSettings, shape: Table, scratch: Scratch) -> Self {
        let store = open(&settings, LEASE);
        let inspection = store.inspect().await.unwrap();
        assert!(inspection.problems.is_empty(), "{:?}", inspection.problems);
        assert_eq!(
            inspection.abilities.has(Ability::Ownership),
            shape == Table::Full
        );
        let table = Connection::open(&settings, Patience::default())
            .await
            .unwrap();
        Self {
            store,
            table,
            settings,
            tokens: Tokens::new("w", "h", 1),
            shape,
            _scratch: scratch,
        }
    }

    pub(super) async fn mysql(shape: Table) -> Self {
        let server = Server::shared().await;
        let database = server.database().await;
        let create = match shape {
            Table::Minimal => include_str!("../../../../sql/mysql/jobs-minimal.sql"),
            Table::Full => include_str!("../../../../sql/mysql/jobs.sql"),
        };
        database.run(create).await;
        let settings = settings(database.port, &database.name);
        Self::over(DatabaseSettings::MySql(settings), shape, Scratch::new()).await
    }

    pub(super) async fn sqlite(shape: Table) -> Self {
        let create = match shape {
            Table::Minimal => include_str!("../../../../sql/sqlite/jobs-minimal.sql"),
            Table::Full => include_str!("../../../../sql/sqlite/jobs.sql"),
        };
        let scratch = Scratch::new();
        let path = scratch.write("jobs.db", "");
        let settings = SqliteSettings {
            path,
            table: TableName::parse("jobs").unwrap(),
        };
        let mut connection = jobd_proto::table::connect_sqlite(&settings).await.unwrap();
        sqlx::raw_sql(create)
            .execute(&mut connection)
            .await
            .unwrap();
        connection.close().await.unwrap();
        Self::over(DatabaseSettings::Sqlite(settings), shape, scratch).await
    }

    pub(super) async fn run(&self, sql: &str) {
        match &self.settings {
            DatabaseSettings::MySql(settings) => {
                let mut connection = jobd_proto::table::connect_mysql(settings).await.unwrap();
                sqlx::raw_sql(AssertSqlSafe(sql))
                    .execute(&mut connection)
                    .await
                    .unwrap();
            }
            DatabaseSettings::Sqlite(settings) => {
                let mut connection = jobd_proto::table::connect_sqlite(settings).await.unwrap();
                sqlx::raw_sql(AssertSqlSafe(sql))
                    .execute(&mut connection)
                    .await
                    .unwrap();
            }
        }
    }

    pub(super) async fn insert(&mut self, target: &str, manual: bool, count: u32) -> Vec<JobId> {
        let job = NewJob {
            target: target.into(),
            manual,
            ..NewJob::default()
        };
        self.table.insert(&job, count).await.unwrap()
    }

    /// The claim's name in a row.
    pub(super) fn token<'a>(&self, row: &'a JobRow) -> Option<&'a str> {
        match self.shape {
            Table::Minimal => row.stderr.as_deref(),
            Table::Full => other(row, "worker"),
        }
    }

    pub(super) async fn row(&mut self, id: JobId) -> JobRow {
        self.table.show(id).await.unwrap().unwrap()
    }

    pub(super) async fn claim(&mut self, target: &str, limit: u32) -> Vec<Job> {
        let token = self.tokens.next(Origin::Background);
        let claimed = self
            .store
            .claim(token, name(target), limit, 1)
            .await
            .unwrap();
        claimed.jobs
    }

    pub(super) async fn record(&self, batch: Batch) -> Recorded {
        self.store.record(Arc::new(batch)).await.unwrap()
    }
}

pub(super) fn other<'a>(row: &'a JobRow, column: &str) -> Option<&'a str> {
    let found = row.others.iter().find(|(name, _)| name == column);
    found.and_then(|(_, value)| value.as_deref())
}

pub(super) fn name(target: &str) -> TargetName {
    TargetName::new(target).unwrap()
}

pub(super) fn ids(jobs: &[Job]) -> Vec<JobId> {
    let mut ids: Vec<JobId> = jobs.iter().map(|job| job.id).collect();
    ids.sort();
    ids
}

pub(super) fn starts(jobs: &[Job]) -> Batch {
    Batch {
        starts: jobs.to_vec(),
        ..Batch::default()
    }
}

pub(super) fn finish(job: &Job) -> Finish {
    Finish {
        job: job.clone(),
        result: JobResult::Fail,
        code: Some(3),
        signal: None,
        reason: Some(Reason::Exit),
        again: None,
        usage: Some(Usage {
            cpu_ms: 1_500,
            peak_kib: u64::MAX,
        }),
        stdout: "out\0 é".into(),
        stderr: String::new(),
        ended: Instant::now(),
    }
}

pub(super) fn finishes(jobs: &[Job]) -> Batch {
    Batch {
        finishes: jobs.iter().map(finish).collect(),
        ..Batch::default()
    }
}
