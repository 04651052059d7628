//! What is measured: a durable server, tables full of jobs, workers.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;
use sqlx::mysql::MySqlConnection;
use sqlx::{AssertSqlSafe, Connection as _};

use super::usage;
use crate::database::MINIMAL;
use crate::programs::Daemon;
use crate::server::Durability;
use crate::template::{self, Flavour, ServerProgram};
use crate::wait::PATIENCE;
use crate::{Database, Ini, Jobd, Scratch, Server};

/// The target of the jobs that are measured.
pub const TARGET: &str = "bench";

/// What a job does: the least that a process can.
pub const JOB: &str = "/bin/true";

/// Slots, unless the scenario is about them.
pub const SLOTS: u32 = 10;

/// Jobs that a worker runs before it is measured: connections are made, statements prepared.
const WARM_UP: usize = 100;

/// Between two looks at the table.
const PROBE: Duration = Duration::from_millis(10);

/// Memory and redo log of a small production server; the test ground's are those of a test. A commit
/// is flushed, and so is a torn page's copy (`innodb_flush_log_at_trx_commit=1`, doublewrite: defaults
/// that nobody relaxes here).
const SERVER_OPTIONS: [&str; 4] = [
    "--innodb-buffer-pool-size=1G",
    "--max-connections=1000",
    "--innodb-flush-log-at-trx-commit=1",
    "--innodb-doublewrite=1",
];

/// The table that jobs stand in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// `sql/mysql/jobs-minimal.sql`.
    Minimal,
    /// `sql/mysql/jobs.sql`: with every ability.
    Full,
}

impl Table {
    /// In the names of figures.
    pub fn name(self) -> &'static str {
        match self {
            Self::Minimal => "minimal",
            Self::Full => "full",
        }
    }

    /// Its definition.
    pub fn ddl(self) -> &'static str {
        match self {
            Self::Minimal => MINIMAL,
            Self::Full => include_str!("../../../sql/mysql/jobs.sql"),
        }
    }
}

/// How a number of jobs went.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// Jobs a second.
    pub rate: f64,
    /// CPU time that the workers used for each job, without the job's own, in µs.
    pub worker_us: f64,
    /// The same of the database server.
    pub server_us: f64,
    /// The same of workers, server and the jobs themselves.
    pub total_us: f64,
    /// How much of all cores was used meanwhile, by whomever, in percent.
    pub busy: f64,
}

/// A server, and a folder for what is started beside it.
#[derive(Debug)]
pub struct Stage {
    /// The server.
    pub server: Server,
    /// Configs, logs.
    pub scratch: Scratch,
}

impl Stage {
    /// Starts a durable server.
    pub async fn start() -> Self {
        let server = Server::start(Durability::Real, &server_options()).await;
        Self::with(server)
    }

    /// The same with its files in a folder below `keep`, where the next run finds them.
    pub async fn start_in(keep: &Path) -> Self {
        // Servers of two versions do not share their files.
        let template = template::folder(&ServerProgram::find());
        let folder = keep.join(template.file_name().expect("a template has a name"));
        std::fs::create_dir_all(keep).expect("the folder to keep tables in");
        let server = Server::start_in(&folder, Durability::Real, &server_options()).await;
        Self::with(server)
    }

    fn with(server: Server) -> Self {
        Self {
            server,
            scratch: Scratch::new(),
        }
    }

    /// An empty table in a database of its own.
    pub async fn table(&self, table: Table) -> Database {
        let database = self.server.database().await;
        database.run(table.ddl()).await;
        database
    }

    /// The config of a worker that only works when it is poked and says little.
    pub fn ini(database: &Database, slots: u32) -> Ini {
        Ini::worker(database)
            .set("launcher", JOB)
            .set("log_level_console", "warn")
            .set("poll_interval", 0)
            .target(TARGET, slots)
    }

    /// A worker that has done some jobs.
    pub async fn worker(&self, database: &Database, ini: &Ini) -> Daemon {
        let worker = Jobd::ready(&self.scratch, ini).await;
        self.work(database, &[&worker], WARM_UP).await;
        worker
    }

    /// Inserts so many jobs, pokes the workers once, and waits for the end of the last job.
    pub async fn work(&self, database: &Database, workers: &[&Daemon], count: usize) -> Run {
        let mut connection = self.connection(database).await;
        let first = fill(&mut connection, count, TARGET, "waiting").await;
        let mut wires = Vec::new();
        for worker in workers {
            wires.push(worker.wire().await);
        }
        let before = Usage::now(self, workers);
        let begun = Instant::now();
        for wire in &mut wires {
            wire.ask("poll", json!({"targets": [TARGET]})).await;
        }
        all_done(&mut connection, &format!("'{TARGET}'"), count).await;
        let elapsed = begun.elapsed();
        let used = Usage::now(self, workers).since(&before);
        let good = format!(
            "SELECT COUNT(*) FROM jobs WHERE id >= {first} AND target = '{TARGET}' AND status = 'done' AND result = 'ok'"
        );
        assert_eq!(
            usize::try_from(one(&mut connection, &good).await),
            Ok(count),
            "every job is done once"
        );
        Run::of(count, elapsed, &used)
    }

    /// A connection to a database, outside its pool.
    pub async fn connection(&self, database: &Database) -> MySqlConnection {
        let options = self.server.options().database(&database.name);
        MySqlConnection::connect_with(&options)
            .await
            .expect("connect")
    }
}

/// Seconds of CPU time that were used by some moment, or between two.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// By the workers themselves.
    pub workers: f64,
    /// By the jobs that they have reaped.
    pub jobs: f64,
    /// By the database server.
    pub server: f64,
    /// By everybody, on all cores.
    pub busy: f64,
}

impl Usage {
    /// Until now.
    pub fn now(stage: &Stage, workers: &[&Daemon]) -> Self {
        let sum = |usage: fn(u32) -> f64| -> f64 {
            workers
                .iter()
                .map(|worker| usage(worker.process.id()))
                .sum()
        };
        let own = sum(usage::cpu);
        Self {
            workers: own,
            jobs: sum(usage::cpu_with_children) - own,
            server: usage::cpu(stage.server.process_id()),
            busy: usage::busy(),
        }
    }

    /// What was used since then.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        Self {
            workers: self.workers - before.workers,
            jobs: self.jobs - before.jobs,
            server: self.server - before.server,
            busy: self.busy - before.busy,
        }
    }
}

impl Run {
    /// So many jobs in this time at this cost.
    #[expect(clippy::cast_precision_loss, reason = "far fewer jobs than 2^52")]
    pub fn of(count: usize, elapsed: Duration, used: &Usage) -> Self {
        let count = count as f64;
        let cores = std::thread::available_parallelism().map_or(1, usize::from) as f64;
        Self {
            rate: count / elapsed.as_secs_f64(),
            worker_us: used.workers * 1e6 / count,
            server_us: used.server * 1e6 / count,
            total_us: (used.workers + used.jobs + used.server) * 1e6 / count,
            busy: used.busy / elapsed.as_secs_f64() / cores * 100.0,
        }
    }
}

/// MySQL's binary log is on by default, MariaDB's is not; the test ground turns it off, the benchmark
/// leaves each server its own way.
fn server_options() -> Vec<&'static str> {
    let mut options = SERVER_OPTIONS.to_vec();
    match ServerProgram::find().flavour {
        Flavour::MariaDb => options.push("--innodb-log-file-size=256M"),
        Flavour::MySql => options.extend(["--innodb-redo-log-capacity=256M", "--log-bin=binlog"]),
    }
    options
}

/// Waits until no job of these targets, a quoted list, is left to do.
pub async fn all_done(connection: &mut MySqlConnection, targets: &str, count: usize) {
    let left = format!(
        "SELECT EXISTS(SELECT 1 FROM jobs FORCE INDEX (status_target_idx) \
         WHERE status IN ('waiting', 'accepted', 'running') AND target IN ({targets}))"
    );
    // Even GNU parallel does ten a second.
    let limit = PATIENCE + Duration::from_millis(100) * u32::try_from(count).expect("jobs");
    // Jobs go by id: while the last one is not done there is no need for a look that walks over what is not purged.
    let last = one(connection, "SELECT CAST(MAX(id) AS SIGNED) FROM jobs").await;
    let last = format!("SELECT COUNT(*) FROM jobs WHERE id = {last} AND status <> 'done'");
    let begun = Instant::now();
    for look in [last, left] {
        while one(connection, &look).await != 0 {
            assert!(
                begun.elapsed() < limit,
                "{count} jobs are not done after {limit:?}"
            );
            tokio::time::sleep(PROBE).await;
        }
    }
}

/// The value below which this share of the values lies.
pub fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a place in a list"
    )]
    let at = (sorted.len() as f64 * share) as usize;
    sorted[at.min(sorted.len() - 1)]
}

/// The one number that a query finds.
pub async fn one(connection: &mut MySqlConnection, sql: &str) -> i64 {
    sqlx::query_scalar(AssertSqlSafe(sql))
        .fetch_one(connection)
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error}"))
}

/// Inserts so many jobs quickly and returns the first id.
pub async fn fill(
    connection: &mut MySqlConnection,
    count: usize,
    target: &str,
    status: &str,
) -> u64 {
    /// Rows of a statement: what a redo log of the benchmark's size takes at a time.
    const CHUNK: usize = 100_000;
    let digits = "(SELECT 0 UNION ALL SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3 UNION ALL SELECT 4 \
                  UNION ALL SELECT 5 UNION ALL SELECT 6 UNION ALL SELECT 7 UNION ALL SELECT 8 UNION ALL SELECT 9)";
    let rows = ["a", "b", "c", "d", "e"]
        .map(|name| format!("{digits} AS {name}"))
        .join(", ");
    let mut first = None;
    let mut left = count;
    while left > 0 {
        let now = left.min(CHUNK);
        let sql = format!(
            "INSERT INTO jobs (target, status, time_created) \
             SELECT '{target}', '{status}', UNIX_TIMESTAMP() FROM {rows} LIMIT {now}"
        );
        let done = sqlx::raw_sql(AssertSqlSafe(sql))
            .execute(&mut *connection)
            .await;
        let done = done.expect("insert jobs");
        first.get_or_insert(done.last_insert_id());
        left -= now;
    }
    first.expect("at least one job")
}
