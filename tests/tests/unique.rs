//! Jobs of which only one may wait at a time: a plain INSERT is refused, and what cannot go back ends.

use jobd_tests::database::{FULL, MINIMAL};
use jobd_tests::ground::Ground;
use jobd_tests::wait::PATIENCE;
use jobd_tests::{Ini, Jobd, until};
use rustix::process::Signal;
use serde_json::json;

const UNIQUE: &str = include_str!("../../sql/mysql/add-unique.sql");
const LATER: &str = include_str!("../../sql/mysql/add-later.sql");
/// As docs/abilities/unique.md has it.
const DROP_INDEX: &str = "ALTER TABLE jobs DROP KEY pending_idx";
const SQLITE_FULL: &str = include_str!("../../sql/sqlite/jobs.sql");
const SQLITE_MINIMAL: &str = include_str!("../../sql/sqlite/jobs-minimal.sql");
const SQLITE_UNIQUE: &str = include_str!("../../sql/sqlite/add-unique.sql");

/// Every ability.
async fn full() -> [Ground; 2] {
    [
        Ground::mysql_made_by(&[FULL, UNIQUE]).await,
        Ground::sqlite_made_by(&format!("{SQLITE_FULL} {SQLITE_UNIQUE}")).await,
    ]
}

/// Nothing but the index.
async fn minimal() -> [Ground; 2] {
    [
        Ground::mysql_made_by(&[MINIMAL, UNIQUE]).await,
        Ground::sqlite_made_by(&format!("{SQLITE_MINIMAL} {SQLITE_UNIQUE}")).await,
    ]
}

/// The index, and after it the columns of later; MariaDB lets none in at once beside the index.
async fn later() -> [Ground; 2] {
    let add_index = UNIQUE.find("ALTER TABLE `jobs` ADD UNIQUE KEY");
    let add_index = &UNIQUE[add_index.expect("the last statement")..];
    let minimal = SQLITE_MINIMAL.replace("'ignored'", "'ignored', 'scheduled'");
    let add =
        "ALTER TABLE jobs ADD COLUMN run_at INTEGER; CREATE INDEX run_at_idx ON jobs (run_at);";
    [
        Ground::mysql_made_by(&[MINIMAL, UNIQUE, DROP_INDEX, LATER, add_index]).await,
        Ground::sqlite_made_by(&format!("{minimal} {SQLITE_UNIQUE} {add}")).await,
    ]
}

fn worker(ground: &Ground) -> Ini {
    ground
        .ini()
        .set("lease", 3)
        .set("drain_timeout", "0.1")
        .set("kill_grace", "0.1")
        .set("launcher", "sleep 600")
        .target("a", 1)
}

/// Inserts another job with the key that all of them have.
async fn insert(ground: &Ground) -> u64 {
    ground.insert("a", &[("unique_key", "'report'")]).await
}

async fn ends_for_another(ground: &Ground, id: u64) {
    ground.reaches(id, "done").await;
    let verdict = ground.words(id, &["status", "result", "return_code"]).await;
    assert_eq!(verdict, "done fail -");
    let err = ground.text(id, "stderr").await.unwrap_or_default();
    assert!(
        err.contains("another job with the same unique key waits"),
        "{err}"
    );
}

#[tokio::test]
async fn an_insert_of_what_waits_already_is_refused_and_a_shutdown_ends_what_cannot_go_back() {
    for ground in full().await {
        let first = insert(&ground).await;
        let again = "INSERT INTO jobs (target, time_created, unique_key) VALUES ('a', 0, 'report')";
        let refused = ground.refused(again).await;
        assert!(
            refused.contains("Duplicate entry") || refused.contains("UNIQUE"),
            "{refused}"
        );
        let ignore = ground.insert_ignore();
        ground.run(&again.replacen("INSERT", ignore, 1)).await;
        assert_eq!(ground.number(1, "(SELECT COUNT(*) FROM jobs)").await, 1);
        let jobd = Jobd::start(&ground.scratch, &worker(&ground)).await;
        ground.reaches(first, "running").await;
        // It runs: another one may wait for its turn.
        let second = insert(&ground).await;
        assert!(jobd.stop().await.success(), "a shutdown writes everything");
        ends_for_another(&ground, first).await;
        assert_eq!(
            ground.text(first, "reason").await.as_deref(),
            Some("drained")
        );
        assert_eq!(
            ground.text(second, "status").await.as_deref(),
            Some("waiting")
        );
    }
}

#[tokio::test]
async fn a_rescue_ends_what_cannot_go_back() {
    for ground in full().await {
        let id = insert(&ground).await;
        ground.run("UPDATE jobs SET max_attempts = 3").await;
        let mut first = Jobd::start(&ground.scratch, &worker(&ground)).await;
        ground.reaches(id, "running").await;
        first.process.kill();
        insert(&ground).await;
        // It serves another target, so that the one that waits goes on waiting.
        let ini = ground.ini().set("lease", 3).target("b", 1);
        let second = Jobd::start(&ground.scratch, &ini).await;
        ends_for_another(&ground, id).await;
        assert_eq!(ground.text(id, "reason").await.as_deref(), Some("orphaned"));
        assert!(second.stop().await.success());
    }
}

/// A job that has been claimed and waits for its slot: no table is too small for it to go back, but for its successor.
#[tokio::test]
async fn on_the_minimal_table_too_a_shutdown_and_a_restart_end_what_cannot_go_back() {
    for killed in [false, true] {
        for ground in minimal().await {
            let state = ground.scratch.join("state");
            std::fs::create_dir(&state).expect("a folder");
            let ini = worker(&ground)
                .set("name", "w1")
                .set("state_dir", state.display());
            // What waits goes on waiting.
            let elsewhere = ground
                .ini()
                .set("name", "w1")
                .set("state_dir", state.display())
                .target("b", 1);
            let mut jobd = Jobd::ready(&ground.scratch, &ini).await;
            let running = ground.insert("a", &[]).await;
            ground.reaches(running, "running").await;
            let manual = ("status", "'manual'");
            let ids = [
                ground
                    .insert("a", &[manual, ("unique_key", "'report'")])
                    .await,
                ground
                    .insert("a", &[manual, ("unique_key", "'other'")])
                    .await,
            ];
            let mut client = jobd.wire().await;
            let ask = json!([0, {"no": 1, "type": "run-manual", "data": {"ids": ids}}]);
            client.say(&ask.to_string()).await;
            for id in ids {
                ground.reaches(id, "accepted").await;
            }
            insert(&ground).await;
            if killed {
                jobd.process.kill();
                jobd = Jobd::ready(&ground.scratch, &elsewhere).await;
            } else {
                jobd.process.signal(Signal::TERM);
            }
            ends_for_another(&ground, ids[0]).await;
            ground.reaches(ids[1], "manual").await;
            assert!(jobd.stop().await.success(), "a shutdown writes everything");
        }
    }
}

/// Jobs that are to run again by themselves, for exit code 75 and for a retry: with a successor they end as they ended.
#[tokio::test]
async fn what_would_run_again_ends_as_it_ended_if_another_one_waits() {
    for (code, tables) in [(75, later().await), (75, full().await), (4, full().await)] {
        for ground in tables {
            let go = ground.scratch.join("go");
            let script = format!(
                "[ $1 = 1 ] || exit 0\nwhile [ ! -e {} ]; do sleep 0.02; done\necho no >&2; exit {code}\n",
                go.display()
            );
            let script = ground.scratch.write("job.sh", script);
            let ini = worker(&ground)
                .set("retry", 5)
                .set("retry_backoff", "0.1s")
                .set("launcher", format!("sh {} {{id}}", script.display()));
            let jobd = Jobd::ready(&ground.scratch, &ini).await;
            let id = insert(&ground).await;
            ground.reaches(id, "running").await;
            // What has been claimed already would not be in its way.
            jobd.ask("pause", json!({})).await;
            let second = insert(&ground).await;
            ground.scratch.write("go", "");
            ground.reaches(id, "done").await;
            let end = ground.words(id, &["result", "return_code", "stderr"]).await;
            assert_eq!(end, format!("fail {code} no\n"));
            jobd.ask("continue", json!({})).await;
            ground.reaches(second, "done").await;
            assert_eq!(ground.text(second, "result").await.as_deref(), Some("ok"));
            // Without a successor it runs again.
            std::fs::remove_file(&go).expect("remove a file");
            ground
                .run("UPDATE jobs SET status = 'waiting', stderr = NULL WHERE id = 1")
                .await;
            ground.reaches(id, "running").await;
            ground.scratch.write("go", "");
            until("the job to be put off", PATIENCE, async || {
                let log = jobd.process.log();
                log.contains("it runs again later").then_some(())
            })
            .await;
            assert!(jobd.stop().await.success());
        }
    }
}
