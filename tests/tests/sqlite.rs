//! The same worker on one SQLite file: nothing to install, the same answers and rows.

use std::path::PathBuf;
use std::time::Duration;

use jobd_tests::database::sqlite;
use jobd_tests::wait::PATIENCE;
use jobd_tests::{Ini, Jobd, Scratch, WitnessLog, until};
use serde_json::json;
use sqlx::sqlite::SqlitePool;
use sqlx::{AssertSqlSafe, Row as _};

const MINIMAL: &str = include_str!("../../sql/sqlite/jobs-minimal.sql");

struct World {
    scratch: Scratch,
    file: PathBuf,
    pool: SqlitePool,
}

impl World {
    async fn new() -> Self {
        let scratch = Scratch::new();
        let file = scratch.join("jobs.db");
        let pool = sqlite(&file);
        sqlx::raw_sql(MINIMAL)
            .execute(&pool)
            .await
            .expect("create the table");
        Self {
            scratch,
            file,
            pool,
        }
    }

    async fn insert(&self, count: usize, target: &str, status: &str) {
        for _ in 0..count {
            sqlx::query(
                "INSERT INTO jobs (target, status, time_created) VALUES (?, ?, unixepoch())",
            )
            .bind(target)
            .bind(status)
            .execute(&self.pool)
            .await
            .expect("insert a job");
        }
    }

    async fn count(&self, condition: &'static str) -> i64 {
        let sql = format!("SELECT COUNT(*) FROM jobs WHERE {condition}");
        let row = sqlx::query(AssertSqlSafe(sql)).fetch_one(&self.pool).await;
        row.expect("count jobs").get(0)
    }

    async fn all_done(&self, limit: Duration) {
        until("every job to be done", limit, async || {
            (self.count("status <> 'done'").await == 0).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn background_and_manual_jobs_and_their_rows() {
    let world = World::new().await;
    let ini = Ini::sqlite_worker(&world.file)
        .set("poll_interval", 0)
        .set("launcher", r#"sh -c "echo out {id} 😀\; exit {id}""#)
        .target("a", 2);
    let jobd = Jobd::ready(&world.scratch, &ini).await;
    world.insert(3, "a", "waiting").await;
    world.insert(1, "a", "manual").await;
    world.insert(1, "x", "manual").await;
    jobd.ask("poll", json!({})).await;
    let reply = jobd.ask("run-manual", json!({"ids": [4, 5, 1, 6]})).await;
    assert_eq!(
        reply["jobs"],
        json!({"4": {"result": "fail", "code": 4, "signal": null, "stdout": "out 4 😀\n", "stderr": ""}})
    );
    assert_eq!(reply["errors"]["5"], "target 'x' not found (job id=5)");
    assert_eq!(reply["errors"]["6"], "job 6 not found");
    until("the background jobs to be done", PATIENCE, async || {
        (world.count("status = 'done'").await == 4).then_some(())
    })
    .await;
    let right = "return_code = id AND stdout = 'out ' || id || ' 😀' || char(10) \
                 AND time_started > 0 AND time_finished >= time_started AND result = 'fail'";
    assert_eq!(world.count(right).await, 4);
    assert!(jobd.stop().await.success());
}

#[tokio::test]
async fn two_workers_on_one_file_run_each_job_once_under_load() {
    let world = World::new().await;
    let witness = WitnessLog::new(&world.scratch);
    let worker = |name: &str| {
        Ini::sqlite_worker(&world.file)
            .set("name", name)
            .set("log_level_console", "info")
            .set("poll_interval", "0.2")
            .set("launcher", witness.launcher(name, 2, 1))
            .target("a", 3)
    };
    let one = Jobd::start(&world.scratch, &worker("w1")).await;
    let two = Jobd::start(&world.scratch, &worker("w2")).await;
    for _ in 0..10 {
        world.insert(30, "a", "waiting").await;
        one.ask("poll", json!({})).await;
        two.ask("poll", json!({})).await;
    }
    world.all_done(Duration::from_mins(1)).await;
    witness.assert_each_once(1..=300);
    for ((worker, _), most) in witness.most_at_once() {
        assert!(most <= 3, "{worker} ran {most} at once");
    }
    assert_eq!(
        world
            .count("result = 'ok' AND stdout = 'out ' || id || char(10)")
            .await,
        300
    );
    assert!(one.stop().await.success());
    assert!(two.stop().await.success());
}
