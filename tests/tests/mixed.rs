//! Workers of the Node.js original beside ours, on a table with ownership: they know none of its columns.

use std::time::Duration;

use jobd_tests::witness::WitnessLog;
use jobd_tests::{Database, Ini, Jobd, Scratch, Server, until};
use sqlx::{AssertSqlSafe, Connection as _, MySqlConnection, Row as _};

/// Rows that the original claims at a time.
const FETCH: usize = 3;

async fn full_table() -> Database {
    let database = Server::shared().await.database().await;
    database.run(include_str!("../../sql/mysql/jobs.sql")).await;
    database
}

/// The statements of the original's worker, one round of them: lock, accept, start, end. What it ran.
async fn original_works(connection: &mut MySqlConnection) -> Vec<u64> {
    let mut claim = connection.begin().await.expect("a transaction");
    let sql = format!(
        "SELECT CAST(id AS UNSIGNED) AS id FROM jobs WHERE status = 'waiting' AND target = 'a' ORDER BY id LIMIT {FETCH} FOR UPDATE"
    );
    let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(&mut *claim).await;
    let ids: Vec<u64> = rows
        .expect("rows")
        .iter()
        .map(|row| row.get("id"))
        .collect();
    for id in &ids {
        let sql = format!("UPDATE jobs SET status = 'accepted' WHERE id = {id}");
        let done = sqlx::query(AssertSqlSafe(sql)).execute(&mut *claim).await;
        done.expect("accept a row");
    }
    claim.commit().await.expect("a commit");
    for id in &ids {
        for sql in [
            format!(
                "UPDATE jobs SET status = 'running', time_started = UNIX_TIMESTAMP() WHERE id = {id}"
            ),
            format!(
                "UPDATE jobs SET status = 'done', result = 'ok', return_code = 0, stdout = 'node', stderr = '', \
                 time_finished = UNIX_TIMESTAMP() WHERE id = {id}"
            ),
        ] {
            let done = sqlx::query(AssertSqlSafe(sql))
                .execute(&mut *connection)
                .await;
            done.expect("a row goes on");
        }
    }
    ids
}

#[tokio::test]
async fn both_kinds_of_workers_run_each_job_once() {
    let (scratch, database) = (Scratch::new(), full_table().await);
    let witness = WitnessLog::new(&scratch);
    let ini = Ini::worker(&database)
        .set("poll_interval", "0.1")
        .set("launcher", witness.launcher("ours", 5, 1))
        .target("a", 4);
    let ids = database.insert(400, "a", "waiting").await;
    let pool = database.pool.clone();
    let original = tokio::spawn(async move {
        let mut connection = pool.acquire().await.expect("a connection").detach();
        let mut ran = Vec::new();
        loop {
            let more = original_works(&mut connection).await;
            if more.is_empty() {
                return ran;
            }
            ran.extend(more);
        }
    });
    let _jobd = Jobd::ready(&scratch, &ini).await;
    database.all_done(Duration::from_mins(1)).await;
    let theirs = original.await.expect("the original's work");
    let ours = ids.iter().copied().filter(|id| !theirs.contains(id));
    let ours: Vec<u64> = ours.collect();
    assert!(!ours.is_empty() && !theirs.is_empty(), "both had work");
    witness.assert_each_once(ours);
    assert_eq!(witness.runs().len() + theirs.len(), ids.len());
    for id in theirs {
        assert_eq!(database.row(id).await.out(), "node");
    }
}

#[tokio::test]
async fn what_an_original_worker_holds_is_nobody_elses() {
    let (scratch, database) = (Scratch::new(), full_table().await);
    let held = database.insert(2, "a", "waiting").await;
    let orphan = database.insert_one("a", "waiting").await;
    // Of a worker of ours that is gone: when it is rescued, the others could have been as well.
    for sql in [
        format!("UPDATE jobs SET status = 'accepted' WHERE id = {}", held[0]),
        format!("UPDATE jobs SET status = 'running' WHERE id = {}", held[1]),
        format!(
            "UPDATE jobs SET status = 'accepted', worker = 'w9@gone/1/1', lease_until = 5 WHERE id = {orphan}"
        ),
    ] {
        database.run(&sql).await;
    }
    let ini = Ini::worker(&database)
        .set("lease", 1)
        .set("state_dir", scratch.join("").display())
        .set("poll_interval", "0.1")
        .set("launcher", "true")
        .target("a", 2);
    let jobd = Jobd::ready(&scratch, &ini).await;
    database.done(orphan).await;
    // A second one: a whole round of looking has passed since.
    let second = database.insert_one("a", "waiting").await;
    database
        .run(&format!("UPDATE jobs SET status = 'accepted', worker = 'w9@gone/1/2', lease_until = 6 WHERE id = {second}"))
        .await;
    database.done(second).await;
    let statuses = [held[0], held[1]].map(async |id| database.row(id).await.status);
    let [accepted, running] = statuses;
    assert_eq!(
        (accepted.await, running.await),
        ("accepted".into(), "running".into())
    );
    let said = until(
        "two rescues in the log",
        Duration::from_secs(5),
        async || {
            let log = jobd.process.log();
            (log.matches("rescued a row").count() == 2).then_some(log)
        },
    );
    said.await;
}
