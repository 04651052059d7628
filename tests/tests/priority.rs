//! Priorities: of a target's waiting jobs the highest goes first, whenever it came.

#![allow(clippy::unwrap_used, reason = "tests")]

use jobd_tests::database::sqlite;
use jobd_tests::wait::PATIENCE;
use jobd_tests::{Ini, Jobd, Scratch, Server, WitnessLog, until};
use serde_json::json;
use sqlx::Row as _;

/// The jobs in the order of their beginnings.
fn order(witness: &WitnessLog) -> Vec<u64> {
    let events = witness.events().into_iter();
    events
        .filter(|event| event.begins)
        .map(|event| event.id)
        .collect()
}

#[tokio::test]
async fn the_highest_priority_goes_first() {
    let scratch = Scratch::new();
    let database = Server::shared().await.database().await;
    database.run(include_str!("../../sql/mysql/jobs.sql")).await;
    let witness = WitnessLog::new(&scratch);
    database.insert(5, "a", "waiting").await;
    database
        .run("UPDATE jobs SET priority = CASE id WHEN 2 THEN 9 WHEN 4 THEN 9 WHEN 5 THEN -1 ELSE 0 END")
        .await;
    let ini = Ini::worker(&database)
        .set("poll_interval", "0.2")
        .set("launcher", witness.launcher("w", 50, 1))
        .target("a", 1);
    let worker = Jobd::start(&scratch, &ini).await;
    database.all_done(PATIENCE).await;
    assert_eq!(order(&witness), [2, 4, 1, 3, 5]);
    let log = worker.process.log();
    assert!(!log.contains("no index"), "{log}");
    assert!(worker.stop().await.success());
}

#[tokio::test]
async fn without_its_index_the_order_is_right_and_a_start_warns() {
    let scratch = Scratch::new();
    let database = Server::shared().await.database().await;
    database
        .run(include_str!("../../sql/mysql/jobs-minimal.sql"))
        .await;
    database
        .run("ALTER TABLE jobs ADD COLUMN priority smallint NOT NULL DEFAULT 0")
        .await;
    let witness = WitnessLog::new(&scratch);
    database.insert(4, "a", "waiting").await;
    database.run("UPDATE jobs SET priority = id % 3").await;
    let ini = Ini::worker(&database)
        .set("poll_interval", "0.2")
        .set("launcher", witness.launcher("w", 50, 1))
        .target("a", 1);
    let worker = Jobd::start(&scratch, &ini).await;
    database.all_done(PATIENCE).await;
    assert_eq!(order(&witness), [2, 1, 4, 3]);
    let log = worker.process.log();
    assert!(
        log.contains("no index of jobs goes by status, target, priority DESC, id")
            && log.contains("(`status`, `target`, `priority` DESC, `id`);"),
        "{log}"
    );
    assert!(worker.stop().await.success());
    // With what the warning names, or the file, it is gone.
    database.run("ALTER TABLE jobs DROP COLUMN priority").await;
    database
        .run(include_str!("../../sql/mysql/add-priority.sql"))
        .await;
    let worker = Jobd::ready(&scratch, &ini).await;
    let log = worker.process.log();
    assert!(!log.contains("no index of jobs"), "{log}");
    assert!(worker.stop().await.success());
}

#[tokio::test]
async fn the_highest_priority_goes_first_on_sqlite() {
    let scratch = Scratch::new();
    let file = scratch.join("jobs.db");
    let pool = sqlite(&file);
    for sql in [
        include_str!("../../sql/sqlite/jobs.sql"),
        "INSERT INTO jobs (target, time_created, priority) VALUES ('a', 0, 0), ('a', 0, 5), ('a', 0, -5), ('a', 0, 5)",
    ] {
        sqlx::raw_sql(sql).execute(&pool).await.unwrap();
    }
    let witness = WitnessLog::new(&scratch);
    let ini = Ini::sqlite_worker(&file)
        .set("launcher", witness.launcher("w", 50, 1))
        .target("a", 1);
    let worker = Jobd::start(&scratch, &ini).await;
    until("all to be done", PATIENCE, async || {
        let sql = "SELECT COUNT(*) FROM jobs WHERE status = 'done'";
        let done: i64 = sqlx::query(sql).fetch_one(&pool).await.unwrap().get(0);
        (done == 4).then_some(())
    })
    .await;
    assert_eq!(order(&witness), [2, 4, 1, 3]);
    assert_eq!(worker.ask("status", json!({})).await["databaseAway"], false);
    assert!(worker.stop().await.success());
}
