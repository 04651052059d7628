//! Jobs of which only one may wait at a time: a plain INSERT is refused, and what cannot go back ends.

#![allow(clippy::unwrap_used, reason = "tests")]

use jobd_tests::database::sqlite;
use jobd_tests::wait::PATIENCE;
use jobd_tests::{Database, Ini, Jobd, Scratch, Server, until};
use sqlx::Row as _;

const INSERT: &str =
    "INSERT INTO jobs (target, time_created, unique_key) VALUES ('a', 0, 'report')";

async fn table() -> Database {
    let database = Server::shared().await.database().await;
    database.run(include_str!("../../sql/mysql/jobs.sql")).await;
    database
        .run(include_str!("../../sql/mysql/add-unique.sql"))
        .await;
    database
}

fn worker(database: &Database) -> Ini {
    Ini::worker(database)
        .set("poll_interval", "0.2")
        .set("lease", 3)
        .set("drain_timeout", "0.1")
        .set("kill_grace", "0.1")
        .set("launcher", "sleep 600")
        .target("a", 1)
}

async fn reason(database: &Database, id: u64) -> Option<String> {
    let sql = format!("SELECT CAST(reason AS CHAR) FROM jobs WHERE id = {id}");
    let row = sqlx::query(sqlx::AssertSqlSafe(sql))
        .fetch_one(&database.pool)
        .await;
    row.unwrap().get(0)
}

#[tokio::test]
async fn an_insert_of_what_waits_already_is_refused_and_a_shutdown_ends_what_cannot_go_back() {
    let (scratch, database) = (Scratch::new(), table().await);
    database.run(INSERT).await;
    let refused = sqlx::query(INSERT)
        .execute(&database.pool)
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("Duplicate entry"), "{refused}");
    let ignored = INSERT.replacen("INSERT", "INSERT IGNORE", 1);
    assert_eq!(database.run(Box::leak(ignored.into_boxed_str())).await, 0);
    let jobd = Jobd::start(&scratch, &worker(&database)).await;
    let first = database.rows().await[0].id;
    database.reaches(first, "running").await;
    // It runs: another one may wait for its turn.
    database.run(INSERT).await;
    assert!(jobd.stop().await.success(), "a shutdown writes everything");
    let row = database.row(first).await;
    assert_eq!(
        (row.status.as_str(), row.result.as_deref()),
        ("done", Some("fail"))
    );
    assert!(
        row.err()
            .contains("another job with the same unique key waits"),
        "{row:?}"
    );
    assert_eq!(reason(&database, first).await.as_deref(), Some("drained"));
    let waiting = database.rows().await.pop().unwrap();
    assert_eq!(waiting.status, "waiting");
}

#[tokio::test]
async fn a_rescue_ends_what_cannot_go_back() {
    let (scratch, database) = (Scratch::new(), table().await);
    database.run(INSERT).await;
    database.run("UPDATE jobs SET max_attempts = 3").await;
    let mut first = Jobd::start(&scratch, &worker(&database)).await;
    let id = database.rows().await[0].id;
    database.reaches(id, "running").await;
    first.process.kill();
    database.run(INSERT).await;
    // It serves another target, so that the one that waits goes on waiting.
    let ini = Ini::worker(&database).set("lease", 3).target("b", 1);
    let second = Jobd::start(&scratch, &ini).await;
    let row = database.done(id).await;
    assert!(
        row.err()
            .contains("another job with the same unique key waits"),
        "{row:?}"
    );
    assert_eq!(reason(&database, id).await.as_deref(), Some("orphaned"));
    assert!(second.stop().await.success());
}

#[tokio::test]
async fn jobs_are_unique_on_sqlite() {
    let scratch = Scratch::new();
    let file = scratch.join("jobs.db");
    let pool = sqlite(&file);
    for sql in [
        include_str!("../../sql/sqlite/jobs.sql"),
        include_str!("../../sql/sqlite/add-unique.sql"),
        INSERT,
    ] {
        sqlx::raw_sql(sql).execute(&pool).await.unwrap();
    }
    let refused = sqlx::query(INSERT).execute(&pool).await.unwrap_err();
    assert!(refused.to_string().contains("UNIQUE"), "{refused}");
    let ini = Ini::sqlite_worker(&file)
        .set("drain_timeout", "0.1")
        .set("kill_grace", "0.1")
        .set("launcher", "sleep 600")
        .target("a", 1);
    let jobd = Jobd::start(&scratch, &ini).await;
    let status = async |id: i64| -> String {
        let row = sqlx::query("SELECT status FROM jobs WHERE id = ?").bind(id);
        row.fetch_one(&pool).await.unwrap().get(0)
    };
    until("the job to run", PATIENCE, async || {
        (status(1).await == "running").then_some(())
    })
    .await;
    sqlx::query(INSERT).execute(&pool).await.unwrap();
    assert!(jobd.stop().await.success());
    assert_eq!(
        (status(1).await, status(2).await),
        ("done".into(), "waiting".into())
    );
}
