//! Faults of the database and of the line to it.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Row as _};
use tokio::time::{Instant, sleep, timeout};

use super::{Outcome, outage};
use crate::chaos::line::Mode;
use crate::chaos::load::open_jobs;
use crate::chaos::options::Table;
use crate::chaos::random::Random;
use crate::chaos::stage::{ACCOUNT, Stage};
use crate::wait::{PATIENCE, until};

/// How wrong the clock gets.
const HOUR_S: i64 = 3_600;

/// For how long a thread of the server may go by a time that it was told before; see `FAKETIME_CACHE_DURATION`.
const CLOCK_CACHE: Duration = Duration::from_millis(1_500);

/// So many COMMITs are spoiled at a time, or what comes within [`COMMITS_LIMIT`].
const COMMITS: u32 = 6;
const COMMITS_LIMIT: Duration = Duration::from_secs(3);

pub(super) async fn killed(stage: &Stage, random: &mut Random) -> Outcome {
    let mut server = stage.server.lock().await;
    server.kill();
    sleep(stage.hold.unwrap_or(random.millis(0, 2_000))).await;
    server.start_again().await;
    Outcome::default()
}

pub(super) async fn frozen(stage: &Stage, random: &mut Random) -> Outcome {
    let mut server = stage.server.lock().await;
    server.freeze();
    sleep(outage(stage, random)).await;
    server.thaw();
    Outcome::default()
}

pub(super) async fn read_only(stage: &Stage, random: &mut Random) -> Outcome {
    let _server = stage.server.lock().await;
    stage.database.run("SET GLOBAL read_only = 1").await;
    sleep(random.millis(500, 3_000)).await;
    stage.database.run("SET GLOBAL read_only = 0").await;
    Outcome::default()
}

/// Kills connections or statements of workers for a while, one of them every few milliseconds.
pub(super) async fn kills(stage: &Stage, random: &mut Random, how: &str) -> Outcome {
    let _server = stage.server.lock().await;
    let pool = &stage.pools[random.index(stage.pools.len())];
    let end = Instant::now() + random.millis(500, 2_000);
    let mut killed = 0;
    while Instant::now() < end {
        let sql = format!(
            "SELECT CAST(ID AS UNSIGNED) AS id FROM information_schema.PROCESSLIST WHERE USER = '{ACCOUNT}'"
        );
        let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(pool).await;
        let rows = rows.expect("the list of connections");
        if !rows.is_empty() {
            let id: u64 = rows[random.index(rows.len())].get("id");
            // It may be gone by now.
            let sql = format!("{how} {id}");
            let done = sqlx::raw_sql(AssertSqlSafe(sql)).execute(pool).await;
            killed += u64::from(done.is_ok());
        }
        sleep(random.millis(5, 60)).await;
    }
    Outcome {
        provoked: Some((killed, "killed")),
        ..Outcome::default()
    }
}

/// An application's transaction holds every open row.
pub(super) async fn rows_locked(stage: &Stage, random: &mut Random) -> Outcome {
    let _server = stage.server.lock().await;
    let mut locks = stage.database.pool.begin().await.expect("a transaction");
    let sql = "SELECT id FROM jobs WHERE status IN ('waiting', 'accepted', 'running') FOR UPDATE";
    let locked = sqlx::query(sql).fetch_all(&mut *locks).await;
    // A worker may have been faster in the opposite order: then this one is rolled back.
    let count = locked.map_or(0, |rows| rows.len() as u64);
    // In one of eight cases for longer than a worker's statement waits; but not than a lease, which
    // somebody who cannot renew it loses.
    let time = if stage.table == Table::Minimal && random.one_in(8) {
        random.millis(10_500, 12_000)
    } else {
        random.millis(300, 3_000)
    };
    sleep(time).await;
    // A node of a cluster has rolled it back where another node changed such a row.
    let let_go = locks.rollback().await;
    assert!(let_go.is_ok() || stage.cluster.is_some(), "{let_go:?}");
    Outcome {
        provoked: Some((count, "rows locked")),
        ..Outcome::default()
    }
}

/// An application changes open rows from the last to the first, where workers go the other way.
/// Its transactions change more rows, so the server chooses the workers' to be rolled back.
pub(super) async fn deadlocks(stage: &Stage, random: &mut Random) -> Outcome {
    let _server = stage.server.lock().await;
    let pool = &stage.database.pool;
    let before = deadlock_count(stage).await;
    let end = Instant::now() + random.millis(1_000, 3_000);
    while Instant::now() < end {
        let mut open = open_jobs(pool).await.expect("the open jobs");
        open.sort_unstable_by(|a, b| b.cmp(a));
        let mut transaction = pool.begin().await.expect("a transaction");
        for id in open.iter().take(40) {
            let sql = "UPDATE jobs SET time_created = time_created ^ 1 WHERE id = ?";
            let changed = sqlx::query(sql).bind(id).execute(&mut *transaction).await;
            if changed.is_err() {
                break;
            }
            sleep(Duration::from_millis(1)).await;
        }
        let _ = transaction.commit().await;
        sleep(random.millis(1, 20)).await;
    }
    Outcome {
        provoked: Some((deadlock_count(stage).await - before, "deadlocks")),
        ..Outcome::default()
    }
}

async fn deadlock_count(stage: &Stage) -> u64 {
    let sql = "SELECT CAST(COUNT AS SIGNED) AS n FROM information_schema.INNODB_METRICS WHERE NAME = 'lock_deadlocks'";
    let row = sqlx::query(sql).fetch_one(&stage.database.pool).await;
    let count: i64 = row.expect("the number of deadlocks").get("n");
    count.unsigned_abs()
}

pub(super) async fn clock_moved(stage: &Stage, random: &mut Random) -> Outcome {
    let _server = stage.server.lock().await;
    let clock = stage.clock.as_ref().expect("only where there is one");
    let wrong_by = if random.one_in(2) { HOUR_S } else { -HOUR_S };
    clock.set(wrong_by);
    clock_shows(stage, wrong_by).await;
    sleep(random.millis(500, 2_000)).await;
    clock.set(0);
    clock_shows(stage, 0).await;
    if stage.table == Table::Full {
        // What was put off by a clock that was ahead is an hour late. Every thread of the server must have seen the
        // other time first.
        sleep(CLOCK_CACHE).await;
        let back = "UPDATE jobs SET run_at = UNIX_TIMESTAMP() WHERE status = 'scheduled' AND run_at > UNIX_TIMESTAMP() + 600";
        until("rows for later to be put right", PATIENCE, async || {
            let done = sqlx::raw_sql(back).execute(&stage.database.pool).await;
            done.ok()
        })
        .await;
    }
    Outcome::default()
}

/// Waits until the server's clock is wrong by so much.
async fn clock_shows(stage: &Stage, wrong_by: i64) {
    let what = format!("the server's clock to be {wrong_by} s off");
    until(&what, PATIENCE, async || {
        let sql = "SELECT CAST(UNIX_TIMESTAMP() AS SIGNED) AS n";
        let row = sqlx::query(sql)
            .fetch_one(&stage.database.pool)
            .await
            .ok()?;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let now = i64::try_from(now.expect("after 1970").as_secs()).expect("seconds");
        (row.get::<i64, _>("n") - now - wrong_by)
            .abs()
            .lt(&60)
            .then_some(())
    })
    .await;
}

pub(super) async fn line_cut(stage: &Stage, random: &mut Random) -> Outcome {
    let cuts = random.between(1, 8);
    for _ in 0..cuts {
        stage.database_line.cut_once();
        sleep(random.millis(1, 300)).await;
    }
    Outcome {
        provoked: Some((cuts, "cuts")),
        ..Outcome::default()
    }
}

pub(super) async fn line(stage: &Stage, random: &mut Random, mode: Mode) -> Outcome {
    stage.database_line.set(mode);
    sleep(outage(stage, random)).await;
    stage.database_line.set(Mode::Open);
    Outcome::default()
}

pub(super) async fn commits(
    stage: &Stage,
    random: &mut Random,
    mode: Mode,
    what: &'static str,
) -> Outcome {
    let line = &stage.database_line;
    let before = line.lost();
    let enough = before + 1 + u32::try_from(random.index(COMMITS as usize)).expect("few");
    line.set(mode);
    let all = async {
        while line.lost() < enough {
            sleep(Duration::from_millis(1)).await;
        }
    };
    let _ = timeout(COMMITS_LIMIT, all).await;
    line.set(Mode::Open);
    Outcome {
        provoked: Some(((line.lost() - before).into(), what)),
        ..Outcome::default()
    }
}
