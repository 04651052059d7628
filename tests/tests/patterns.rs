//! Targets on demand: a pattern in the config serves every name that matches, each with a limit of its own,
//! poked about or not.

#![allow(clippy::unwrap_used, reason = "tests")]

use jobd_tests::database::sqlite;
use jobd_tests::wait::PATIENCE;
use jobd_tests::{Database, Ini, Jobd, Master, Scratch, Server, WitnessLog, until};
use serde_json::json;
use sqlx::Row as _;

async fn table() -> Database {
    let database = Server::shared().await.database().await;
    database.run(include_str!("../../sql/mysql/jobs.sql")).await;
    database
}

async fn count(database: &Database, condition: &str) -> i64 {
    let sql = format!("(SELECT COUNT(*) FROM jobs WHERE {condition})");
    database.number(&sql).await.unwrap()
}

#[tokio::test]
async fn each_name_has_a_queue_and_a_limit_of_its_own_without_a_poke() {
    let (scratch, database) = (Scratch::new(), table().await);
    let witness = WitnessLog::new(&scratch);
    let mut rows = 0;
    for name in ["user/1", "user/2", "user/3", "mail", "user/1/low"] {
        database.insert(4, name, "waiting").await;
        rows += 4;
    }
    database.insert(1, "other", "waiting").await;
    let ini = Ini::worker(&database)
        .set("poll_interval", "0.2")
        .set("launcher", witness.launcher("w", 100, 1))
        .target("user/*", 1)
        .target("user/3", 2)
        .target("mail", 1);
    let worker = Jobd::start(&scratch, &ini).await;
    until("every row but one to be done", PATIENCE, async || {
        (count(&database, "status = 'done'").await == rows).then_some(())
    })
    .await;
    database.insert(1, "user/9", "waiting").await;
    until("a name that nobody poked about", PATIENCE, async || {
        let done = "status = 'done' AND target = 'user/9'";
        (count(&database, done).await == 1).then_some(())
    })
    .await;
    let most = witness.most_at_once();
    let most: Vec<(&str, u32)> = most
        .iter()
        .map(|((_, target), count)| (target.as_str(), *count))
        .collect();
    assert!(
        most.iter()
            .all(|(name, count)| *count <= 1 + u32::from(*name == "user/3")),
        "{most:?}"
    );
    assert!(
        witness
            .events()
            .windows(2)
            .any(|pair| pair[0].begins && pair[1].begins),
        "they run side by side"
    );
    until("the targets to be gone", PATIENCE, async || {
        let status = worker.ask("status", json!({})).await;
        let names: Vec<String> = status["targets"]
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect();
        (names == ["mail", "user/*", "user/3"]).then_some(())
    })
    .await;
    assert!(worker.stop().await.success());
}

#[tokio::test]
async fn pokes_and_manual_runs_through_the_master_reach_a_pattern() {
    let (scratch, database) = (Scratch::new(), table().await);
    let master = Master::start(&scratch, &Ini::listen()).await;
    let ini = Ini::worker(&database)
        .set("poll_interval", 0)
        .set("master_host", "127.0.0.1")
        .set("master_port", master.addr.port())
        .set("launcher", "/bin/echo {target}")
        .target("user/*", 1);
    let worker = Jobd::ready(&scratch, &ini).await;
    Master::has_workers(&master, 1).await;
    let status = master.ask("status", json!({})).await;
    assert_eq!(status["workers"][0]["targets"], json!(["user/*"]));
    // The first look has found nothing by then; from now on there are pokes only.
    database.insert(2, "user/7", "waiting").await;
    master.ask("poke", json!({"targets": ["user/7"]})).await;
    database.all_done(PATIENCE).await;
    database.insert(1, "user/8", "waiting").await;
    master.ask("poke", json!({"targets": ["user/*"]})).await;
    database.all_done(PATIENCE).await;
    database.insert(1, "user/9", "waiting").await;
    master.ask("poke", json!({})).await;
    database.all_done(PATIENCE).await;
    let id = database.insert(1, "user/10", "manual").await[0];
    let job = json!({"jobs": [{"id": id, "target": "user/10"}]});
    let reply = master.ask("run-manual", job).await;
    assert_eq!(
        reply["jobs"][id.to_string()]["stdout"],
        "user/10\n",
        "{reply}"
    );
    // A pause by name is kept until it ends; a row of another name goes on.
    master.ask("pause", json!({"targets": ["user/1"]})).await;
    database.insert(1, "user/1", "waiting").await;
    let other = database.insert(1, "user/2", "waiting").await[0];
    master.ask("poke", json!({})).await;
    until("the other name's job", PATIENCE, async || {
        (database.row(other).await.status == "done").then_some(())
    })
    .await;
    let left = "target = 'user/1' AND status = 'waiting'";
    assert_eq!(count(&database, left).await, 1);
    master.ask("continue", json!({"targets": ["user/1"]})).await;
    database.all_done(PATIENCE).await;
    let mut wire = worker.wire().await;
    assert_eq!(
        wire.refused("poll", json!({"targets": ["users"]})).await,
        "invalid target 'users'"
    );
    assert!(worker.stop().await.success());
}

#[tokio::test]
async fn a_thousand_names_are_served_and_gone() {
    let (scratch, database) = (Scratch::new(), table().await);
    database
        .run(
            "INSERT INTO jobs (target, time_created) WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n \
             WHERE n < 1000) SELECT CONCAT('user/', n), UNIX_TIMESTAMP() FROM n",
        )
        .await;
    let ini = Ini::worker(&database)
        .set("poll_interval", 1)
        .target("user/*", 1);
    let worker = Jobd::start(&scratch, &ini).await;
    database.all_done(2 * PATIENCE).await;
    until("the names to be gone", PATIENCE, async || {
        let status = worker.ask("status", json!({})).await;
        (status["targets"]["user/*"]["names"] == 0).then_some(())
    })
    .await;
    assert!(worker.stop().await.success());
}

#[tokio::test]
async fn names_are_found_on_sqlite() {
    let scratch = Scratch::new();
    let file = scratch.join("jobs.db");
    let pool = sqlite(&file);
    for sql in [
        include_str!("../../sql/sqlite/jobs.sql"),
        "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 70) \
         INSERT INTO jobs (target, time_created) SELECT 'user/' || n, unixepoch() FROM n",
    ] {
        sqlx::raw_sql(sql).execute(&pool).await.unwrap();
    }
    let ini = Ini::sqlite_worker(&file)
        .set("poll_interval", 1)
        .target("user/*", 1);
    let worker = Jobd::start(&scratch, &ini).await;
    until("the rows of seventy names", 2 * PATIENCE, async || {
        let status = worker.ask("status", json!({})).await;
        let names = status["targets"]["user/*"]["names"].as_u64().unwrap();
        let done = "SELECT COUNT(*) FROM jobs WHERE status = 'done'";
        let done: i64 = sqlx::query(done).fetch_one(&pool).await.unwrap().get(0);
        (done == 70 && names == 0).then_some(())
    })
    .await;
    assert!(worker.stop().await.success());
}

#[tokio::test]
async fn a_poke_through_the_master_reaches_a_name_of_a_pattern_on_sqlite() {
    let scratch = Scratch::new();
    let file = scratch.join("jobs.db");
    let pool = sqlite(&file);
    let create = include_str!("../../sql/sqlite/jobs.sql");
    sqlx::raw_sql(create).execute(&pool).await.unwrap();
    let master = Master::start(&scratch, &Ini::listen()).await;
    let ini = Ini::sqlite_worker(&file)
        .set("poll_interval", 0)
        .set("master_host", "127.0.0.1")
        .set("master_port", master.addr.port())
        .set("launcher", "/bin/echo {target}")
        .target("user/*", 1);
    let worker = Jobd::ready(&scratch, &ini).await;
    Master::has_workers(&master, 1).await;
    // The first look has found nothing by then.
    for name in ["user/7", "user/8"] {
        let insert = "INSERT INTO jobs (target, time_created) VALUES (?, unixepoch())";
        let insert = sqlx::query(insert).bind(name).execute(&pool);
        insert.await.unwrap();
    }
    master.ask("poke", json!({"targets": ["user/7"]})).await;
    let done = async || {
        let sql = "SELECT target, stdout FROM jobs WHERE status = 'done'";
        let rows = sqlx::query(sql).fetch_all(&pool).await.unwrap();
        let row = |row: &sqlx::sqlite::SqliteRow| (row.get(0), row.get(1));
        rows.iter().map(row).collect::<Vec<(String, String)>>()
    };
    let found = until("the job that was poked about", PATIENCE, async || {
        let done = done().await;
        (!done.is_empty()).then_some(done)
    });
    assert_eq!(found.await, [("user/7".to_owned(), "user/7\n".to_owned())]);
    until("its target to be gone", PATIENCE, async || {
        let status = worker.ask("status", json!({})).await;
        (status["targets"]["user/*"]["names"] == 0).then_some(())
    })
    .await;
    assert_eq!(done().await.len(), 1, "nobody poked about the other");
    assert!(worker.stop().await.success());
}

#[tokio::test]
async fn names_in_an_enum_are_found_in_whatever_case() {
    let (scratch, database) = (Scratch::new(), table().await);
    database
        .run("ALTER TABLE jobs MODIFY target ENUM('Mail', 'User/1', 'user/2') NOT NULL")
        .await;
    for name in ["Mail", "User/1", "user/2"] {
        database.insert(1, name, "waiting").await;
    }
    let ini = Ini::worker(&database)
        .set("poll_interval", "0.2")
        .target("User/*", 1);
    let worker = Jobd::start(&scratch, &ini).await;
    until("the rows of both names", PATIENCE, async || {
        let done = "status = 'done' AND target <> 'Mail'";
        (count(&database, done).await == 2).then_some(())
    })
    .await;
    assert_eq!(count(&database, "status = 'waiting'").await, 1);
    assert!(worker.stop().await.success());
}
