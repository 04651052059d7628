//! Whether a worker's pace, and the time of a claim, depend on what else stands in the table.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::json;
use sqlx::mysql::MySqlConnection;
use sqlx::{AssertSqlSafe, Connection as _};
use tokio::time::sleep;

use crate::bench::options::Options;
use crate::bench::results::{Curve, Results, Series, Unit};
use crate::bench::slow_log;
use crate::bench::stage::{Run, SLOTS, Stage, TARGET, Table, Usage, fill, one, quantile};
use crate::programs::Daemon;
use crate::wait::PATIENCE;
use crate::{Database, Jobd, until};

/// What stands in a table beside the jobs that are run.
struct Case {
    name: &'static str,
    table: Table,
    /// Rows of whom, in which status.
    rows: usize,
    target: &'static str,
    status: &'static str,
    /// Whether somebody has had a transaction open since before the jobs came, so that the server must
    /// keep every old version of their rows.
    transaction: bool,
}

const fn case(name: &'static str, rows: usize, target: &'static str, status: &'static str) -> Case {
    Case {
        name,
        table: Table::Minimal,
        rows,
        target,
        status,
        transaction: false,
    }
}

/// Nothing but the jobs of the measurement.
const EMPTY: Case = case("empty", 0, TARGET, "waiting");

/// What is compared with [`EVERY_COLUMN`].
const WAITING: Case = case("waiting-1m", 1_000_000, TARGET, "waiting");

const FULL: &[Case] = &[
    EMPTY,
    case("waiting-100k", 100_000, TARGET, "waiting"),
    WAITING,
    case("waiting-10m", 10_000_000, TARGET, "waiting"),
    case("done-10m", 10_000_000, TARGET, "done"),
    case("foreign-1m", 1_000_000, "other", "waiting"),
    Case {
        transaction: true,
        ..case("transaction", 0, TARGET, "waiting")
    },
    EVERY_COLUMN,
    Case {
        table: Table::Full,
        transaction: true,
        ..case("every-column-transaction", 0, TARGET, "waiting")
    },
];

/// [`WAITING`] with every ability.
const EVERY_COLUMN: Case = Case {
    table: Table::Full,
    ..case("every-column-1m", WAITING.rows, TARGET, "waiting")
};

const QUICK: &[Case] = &[EMPTY, case("waiting-100k", 100_000, TARGET, "waiting")];

/// How long a worker's pace is measured, and how long its claims are.
const WINDOW: (Duration, Duration) = (Duration::from_secs(4), Duration::from_millis(1_500));

/// Rows for a window: more than any worker on two cores can run in it, start included.
const ROWS: (usize, usize) = (20_000, 8_000);

/// Jobs that are done before the measurement begins.
const WARM_UP: i64 = 200;

pub(super) async fn measure(options: &Options, results: &mut Results) {
    let cases = options.size(FULL, QUICK);
    let stage = stage(options).await;
    let mut tables = Vec::new();
    for case in cases {
        tables.push((case, table(&stage, case).await));
    }
    for _ in 0..options.turns() {
        for (case, database) in &tables {
            let run = pace(&stage, database, case, options).await;
            results.add(&figure(case.name), Unit::PerSecond, run.rate);
            results.add(&cpu(case.name), Unit::Micros, run.total_us);
            let claims = claims(&stage, database, case, options).await;
            for (what, share) in [("p50", 0.5), ("p99", 0.99)] {
                let name = format!("{}-claim-{what}", figure(case.name));
                results.add(&name, Unit::Millis, quantile(&claims, share) * 1e3);
            }
        }
    }
    for case in &cases[1..] {
        results.ratio(&figure(case.name), &figure(EMPTY.name));
        results.ratio(&cpu(case.name), &cpu(EMPTY.name));
        let claim = |name: &str| format!("{}-claim-p99", figure(name));
        results.ratio(&claim(case.name), &claim(EMPTY.name));
    }
    if cases.iter().any(|case| case.name == EVERY_COLUMN.name) {
        for what in ["", "-claim-p50", "-claim-p99"] {
            let of = |case: &Case| format!("{}{what}", figure(case.name));
            results.ratio(&of(&EVERY_COLUMN), &of(&WAITING));
        }
    }
    let waiting = |case: &&Case| case.name.starts_with("waiting") || case.name == EMPTY.name;
    let least = options.size(ROWS.0, ROWS.1);
    #[expect(clippy::cast_precision_loss, reason = "ten million")]
    let point = |case: &Case| (case.rows.max(least) as f64, figure(case.name));
    results.curves.push(Curve {
        name: "throughput-over-backlog",
        title: "/bin/true a second over waiting rows",
        x: "rows waiting in the same target",
        series: vec![Series {
            name: "jobd, 10 slots".to_owned(),
            points: cases.iter().filter(waiting).map(point).collect(),
        }],
    });
}

fn figure(name: &str) -> String {
    format!("backlog/{name}")
}

fn cpu(name: &str) -> String {
    format!("{}-total-cpu", figure(name))
}

/// A server whose files are kept, if that was asked for.
async fn stage(options: &Options) -> Stage {
    let folder: Option<&PathBuf> = options.keep.as_ref();
    let Some(folder) = folder else {
        return Stage::start().await;
    };
    Stage::start_in(folder).await
}

/// The table of a case, filled now or by an earlier run.
async fn table(stage: &Stage, case: &Case) -> Database {
    let name = format!("backlog_{}", case.name.replace('-', "_"));
    let mut connection = stage.server.connection().await;
    let known = format!(
        "SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_SCHEMA = '{name}' AND TABLE_COMMENT = 'filled'"
    );
    let filled = one(&mut connection, &known).await == 1;
    if !filled {
        let again = format!("DROP DATABASE IF EXISTS {name}; CREATE DATABASE {name}");
        sqlx::raw_sql(AssertSqlSafe(again))
            .execute(&mut connection)
            .await
            .expect("a database");
    }
    let database = stage.server.open(&name);
    if !filled {
        eprintln!("  filling in {}", case.name);
        database.run(case.table.ddl()).await;
        let mut connection = stage.connection(&database).await;
        if case.rows > 0 {
            fill(&mut connection, case.rows, case.target, case.status).await;
        }
        write_out(&mut connection).await;
        // Statistics of a table that was small a moment ago mislead every planner.
        database.run("ANALYZE TABLE jobs").await;
        database.run("ALTER TABLE jobs COMMENT 'filled'").await;
    }
    database
}

/// Has the server write what was changed: it would do so in the next measurement, of another table.
async fn write_out(connection: &mut MySqlConnection) {
    let flush = "FLUSH TABLES jobs FOR EXPORT; UNLOCK TABLES";
    let flushed = sqlx::raw_sql(flush).execute(connection).await;
    flushed.expect("the server writes a table out");
}

/// How a fresh worker does.
async fn pace(stage: &Stage, database: &Database, case: &Case, options: &Options) -> Run {
    let mut connection = stage.connection(database).await;
    let work = Work::begin(stage, database, case, options, &mut connection).await;
    let (before, begun) = (work.done(&mut connection).await, Instant::now());
    let used = Usage::now(stage, &[&work.worker]);
    sleep(options.size(WINDOW.0, WINDOW.1)).await;
    let used = Usage::now(stage, &[&work.worker]).since(&used);
    let (after, elapsed) = (work.done(&mut connection).await, begun.elapsed());
    work.end(&mut connection).await;
    let count = usize::try_from(after - before).expect("ended jobs do not come back");
    Run::of(count, elapsed, &used)
}

/// How long its claims took, as the server's slow log tells: all statements from the beginning of the
/// transaction to the end of its commit. The log costs time, so that this is a run of its own.
async fn claims(stage: &Stage, database: &Database, case: &Case, options: &Options) -> Vec<f64> {
    let mut connection = stage.connection(database).await;
    let path = stage.scratch.join("slow.log");
    slow_log::begin(&mut connection, &path).await;
    let work = Work::begin(stage, database, case, options, &mut connection).await;
    sleep(options.size(WINDOW.0, WINDOW.1)).await;
    work.end(&mut connection).await;
    slow_log::end(&mut connection).await;
    let claims = slow_log::claims(&path);
    std::fs::remove_file(&path).expect("remove the slow log");
    assert!(
        claims.len() >= 10,
        "only {} claims in the slow log",
        claims.len()
    );
    claims
}

/// Inserts what the last measurement has used up; of millions it has used next to nothing.
async fn top_up(connection: &mut MySqlConnection, case: &Case, least: usize) {
    let is_backlog = case.target == TARGET && case.status == "waiting";
    let wanted = if is_backlog {
        case.rows.max(least)
    } else {
        least
    };
    if wanted > 1_000_000 {
        return;
    }
    let waiting = format!(
        "SELECT COUNT(*) FROM jobs FORCE INDEX (status_target_idx) WHERE status = 'waiting' AND target = '{TARGET}'"
    );
    let waiting = usize::try_from(one(connection, &waiting).await).expect("a count");
    if waiting < wanted {
        fill(connection, wanted - waiting, TARGET, "waiting").await;
    }
}

/// A worker that is at it.
struct Work {
    worker: Daemon,
    first: i64,
    transaction: Option<MySqlConnection>,
}

impl Work {
    /// Sees to it that there is enough to do, starts a worker and waits until it is on its way.
    async fn begin(
        stage: &Stage,
        database: &Database,
        case: &Case,
        options: &Options,
        connection: &mut MySqlConnection,
    ) -> Self {
        top_up(connection, case, options.size(ROWS.0, ROWS.1)).await;
        let mut transaction = None;
        if case.transaction {
            let mut other = stage.connection(database).await;
            let begin = "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ; START TRANSACTION WITH CONSISTENT SNAPSHOT";
            sqlx::raw_sql(begin)
                .execute(&mut other)
                .await
                .expect("a snapshot");
            transaction = Some(other);
        }
        let first = format!(
            "SELECT CAST(MIN(id) AS SIGNED) FROM jobs FORCE INDEX (status_target_idx) WHERE status = 'waiting' AND target = '{TARGET}'"
        );
        let first = one(connection, &first).await;
        let ini = Stage::ini(database, SLOTS);
        let worker = Jobd::ready(&stage.scratch, &ini).await;
        let work = Self {
            worker,
            first,
            transaction,
        };
        work.worker.ask("poll", json!({})).await;
        until("the first jobs", PATIENCE, async || {
            (work.done(connection).await >= WARM_UP).then_some(())
        })
        .await;
        work
    }

    /// Jobs that are done, of those that were waiting: they are claimed by id, so an index range holds
    /// them.
    async fn done(&self, connection: &mut MySqlConnection) -> i64 {
        let sql = format!(
            "SELECT COUNT(*) FROM jobs FORCE INDEX (status_target_idx) \
             WHERE status = 'done' AND target = '{TARGET}' AND id >= {}",
            self.first
        );
        one(connection, &sql).await
    }

    /// Stops the worker; there must have been enough to do until now.
    async fn end(self, connection: &mut MySqlConnection) {
        let waiting = format!(
            "SELECT EXISTS(SELECT 1 FROM jobs FORCE INDEX (status_target_idx) WHERE status = 'waiting' AND target = '{TARGET}')"
        );
        assert_eq!(
            one(connection, &waiting).await,
            1,
            "the worker ran out of jobs: raise ROWS"
        );
        self.worker.stop().await;
        if let Some(transaction) = self.transaction {
            transaction.close().await.expect("close a connection");
        }
        write_out(connection).await;
    }
}
