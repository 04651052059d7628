//! Jobs that are cancelled: queued or running, by a request or by their row; nothing of them goes on, and nothing of
//! them runs again.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jobd_tests::database::sqlite;
use jobd_tests::ground::Ground;
use jobd_tests::left::{lives, noted};
use jobd_tests::programs::{self, Daemon};
use jobd_tests::wait::PATIENCE;
use jobd_tests::{Database, Ini, Jobd, Master, Scratch, Server, until};
use rustix::process::Signal;
use serde_json::{Value, json};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Row as _};

const FULL: &str = include_str!("../../sql/mysql/jobs.sql");
const MINIMAL: &str = include_str!("../../sql/mysql/jobs-minimal.sql");

/// A launcher whose jobs ignore SIGTERM, as does a child of theirs; both note their process numbers.
fn stubborn(scratch: &Scratch) -> (String, PathBuf) {
    let notes = scratch.join("notes");
    let script = format!(
        "trap '' TERM\nsh -c 'trap \"\" TERM; sleep 600 & wait' &\necho $$ $! >> {}\nwait; sleep 600\n",
        notes.display()
    );
    let path = scratch.write("job.sh", script);
    (format!("sh {} {{id}}", path.display()), notes)
}

async fn table(create: &'static str) -> Database {
    let database = Server::shared().await.database().await;
    database.run(create).await;
    database
}

fn worker(database: &Database, launcher: &str) -> Ini {
    Ini::worker(database)
        .set("poll_interval", "0.2")
        .set("kill_grace", "0.2")
        .set("launcher", launcher)
        .target("a", 1)
}

async fn cancel(daemon: &Daemon, ids: &[u64]) -> Value {
    daemon.ask("cancel", json!({ "ids": ids })).await
}

async fn all_gone(notes: &Path) {
    until(
        "every process of the jobs to be gone",
        PATIENCE,
        async || (!noted(notes).into_iter().any(lives)).then_some(()),
    )
    .await;
}

async fn reason(database: &Database, id: u64) -> Option<String> {
    let sql = format!("SELECT CAST(reason AS CHAR) FROM jobs WHERE id = {id}");
    let row = sqlx::query(sqlx::AssertSqlSafe(sql))
        .fetch_one(&database.pool)
        .await;
    row.unwrap().get(0)
}

async fn queued_and_running_jobs_are_cancelled(create: &'static str) {
    let (scratch, database) = (Scratch::new(), table(create).await);
    let (launcher, notes) = stubborn(&scratch);
    let daemon = Jobd::ready(&scratch, &worker(&database, &launcher)).await;
    let running = database.insert_one("a", "waiting").await;
    database.reaches(running, "running").await;
    until("the job's processes", PATIENCE, async || {
        (noted(&notes).len() == 2).then_some(())
    })
    .await;
    let waiting = database.insert_one("a", "waiting").await;
    let unserved = database.insert_one("nobody", "waiting").await;
    let manual = database.insert_one("a", "manual").await;
    let mut wire = daemon.wire().await;
    // This one waits for the slot, and its client for the answer.
    wire.say(&json!([0, {"no": 1, "type": "run-manual", "data": {"ids": [manual]}}]).to_string())
        .await;
    database.reaches(manual, "accepted").await;
    let all = [running, waiting, unserved, manual, 9999];
    let said = cancel(&daemon, &all).await;
    let told = |id: u64| said["jobs"][id.to_string()].clone();
    assert_eq!(
        [running, waiting, unserved, manual].map(told),
        ["stopping", "cancelled", "cancelled", "cancelled"],
        "{said}"
    );
    assert_eq!(said["errors"], json!({"9999": "job 9999 not found"}));
    for id in [waiting, unserved, manual] {
        let row = database.row(id).await;
        assert_eq!(row.verdict(), ("done", Some("fail"), None, None));
        assert_eq!(row.err(), "jobd: cancelled while it did not run\n");
    }
    let answer = wire.response(1).await;
    let error = format!("job {manual} was cancelled");
    assert_eq!(answer["data"]["errors"][manual.to_string()], error);
    let row = database.done(running).await;
    assert_eq!(row.verdict(), ("done", Some("fail"), None, Some("SIGKILL")));
    assert!(row.err().contains("cancelled"), "{row:?}");
    all_gone(&notes).await;
    let again = cancel(&daemon, &[waiting]).await;
    assert_eq!(again["jobs"][waiting.to_string()], "cancelled", "{again}");
    // What has ended by itself stays so.
    database
        .run("UPDATE jobs SET stderr = '' WHERE status = 'done'")
        .await;
    if create == FULL {
        assert_eq!(
            reason(&database, running).await.as_deref(),
            Some("cancelled")
        );
        database.run("UPDATE jobs SET reason = 'exit'").await;
    }
    let late = cancel(&daemon, &[running]).await;
    assert_eq!(late["jobs"][running.to_string()], "too late", "{late}");
    assert!(daemon.stop().await.success());
    assert_eq!(noted(&notes).len(), 2, "nothing else ever ran");
}

#[tokio::test]
async fn queued_and_running_jobs_are_cancelled_on_the_full_table() {
    queued_and_running_jobs_are_cancelled(FULL).await;
}

#[tokio::test]
async fn queued_and_running_jobs_are_cancelled_on_the_minimal_table() {
    queued_and_running_jobs_are_cancelled(MINIMAL).await;
}

#[tokio::test]
async fn a_job_that_a_stopping_worker_waits_for_is_cancelled_by_its_row() {
    let (scratch, database) = (Scratch::new(), table(FULL).await);
    let (launcher, notes) = stubborn(&scratch);
    let ini = worker(&database, &launcher).set("drain_timeout", 60);
    let mut jobd = Jobd::ready(&scratch, &ini).await;
    let id = database.insert_one("a", "waiting").await;
    database.reaches(id, "running").await;
    jobd.process.signal(Signal::TERM);
    until("the worker to wait for its job", PATIENCE, async || {
        jobd.process.log().contains("draining").then_some(())
    })
    .await;
    let due = database.insert_one("a", "scheduled").await;
    database
        .run(&format!("UPDATE jobs SET run_at = 1 WHERE id = {due}"))
        .await;
    database
        .run(&format!(
            "UPDATE jobs SET cancel_requested = 1 WHERE id = {id}"
        ))
        .await;
    assert!(jobd.process.wait(PATIENCE).await.success());
    let row = database.row(id).await;
    assert_eq!(row.verdict(), ("done", Some("fail"), None, Some("SIGKILL")));
    assert_eq!(reason(&database, id).await.as_deref(), Some("cancelled"));
    // Rows for later are others' business by now.
    assert_eq!(database.row(due).await.status, "scheduled");
    all_gone(&notes).await;
}

#[tokio::test]
async fn a_row_that_asks_is_cancelled_by_whoever_has_it() {
    let (scratch, database) = (Scratch::new(), table(FULL).await);
    let (launcher, notes) = stubborn(&scratch);
    // Retries change nothing about it.
    let ini = |name| worker(&database, &launcher).set("name", name);
    let one = Jobd::ready(&scratch, &ini("one")).await;
    let running = database.insert_one("a", "waiting").await;
    database.run("UPDATE jobs SET max_attempts = 5").await;
    database.reaches(running, "running").await;
    let two = Jobd::ready(&scratch, &ini("two").set("poll_interval", 0)).await;
    let unserved = database.insert_one("nobody", "waiting").await;
    let manual = database.insert_one("a", "manual").await;
    let scheduled = database.insert_one("a", "scheduled").await;
    let done = database.insert_one("a", "done").await;
    let begun = Instant::now();
    database.run("UPDATE jobs SET cancel_requested = 1").await;
    for id in [unserved, manual, scheduled] {
        let row = database.done(id).await;
        assert_eq!(row.verdict(), ("done", Some("fail"), None, None));
        assert_eq!(reason(&database, id).await.as_deref(), Some("cancelled"));
    }
    let row = database.done(running).await;
    // A second, the ladder's 0.2 s, and a loaded machine.
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(row.verdict(), ("done", Some("fail"), None, Some("SIGKILL")));
    assert_eq!(
        reason(&database, running).await.as_deref(),
        Some("cancelled")
    );
    assert_eq!(reason(&database, done).await, None);
    all_gone(&notes).await;
    until("every request to be seen to", PATIENCE, async || {
        let open = "(SELECT COUNT(*) FROM jobs WHERE cancel_requested <> 0)";
        (database.number(open).await == Some(0)).then_some(())
    })
    .await;
    // A row that asked before it was claimed never begins.
    database
        .run("INSERT INTO jobs (target, time_created, cancel_requested) VALUES ('a', 0, 1)")
        .await;
    two.ask("poll", json!({})).await;
    database.all_done(PATIENCE).await;
    assert!(one.stop().await.success() && two.stop().await.success());
    assert_eq!(noted(&notes).len(), 2, "nothing else ever ran");
}

#[tokio::test]
async fn jobs_are_cancelled_through_the_master_wherever_they_run() {
    let (scratch, database) = (Scratch::new(), table(MINIMAL).await);
    let (launcher, notes) = stubborn(&scratch);
    let master = Master::start(&scratch, &Ini::listen()).await;
    let ini = |name, target| {
        let ini = Ini::worker(&database).target(target, 1);
        ini.set("name", name)
            .set("poll_interval", "0.2")
            .set("kill_grace", "0.2")
            .set("launcher", &launcher)
            .set("master_host", "127.0.0.1")
            .set("master_port", master.addr.port())
    };
    let one = Jobd::ready(&scratch, &ini("one", "a")).await;
    let two = Jobd::ready(&scratch, &ini("two", "b")).await;
    Master::has_workers(&master, 2).await;
    let ids = [
        database.insert_one("a", "waiting").await,
        database.insert_one("b", "waiting").await,
        database.insert_one("c", "waiting").await,
    ];
    database.reaches(ids[0], "running").await;
    database.reaches(ids[1], "running").await;
    // Of another's job a worker knows nothing on this table.
    let one_says = cancel(&one, &[ids[1]]).await;
    let error = &one_says["errors"][ids[1].to_string()];
    assert!(
        error
            .as_str()
            .unwrap()
            .starts_with("another worker has job"),
        "{one_says}"
    );
    let config = Ini::default()
        .set("master", 1)
        .set("port", master.addr.port());
    let config = scratch.write("jobctl.conf", config.text());
    let mut jobctl = std::process::Command::new(programs::path("jobctl"));
    jobctl
        .arg("--config")
        .arg(config)
        .arg("cancel")
        .args(ids.map(|id| id.to_string()))
        .args(["777", "--yes"]);
    let output = programs::output(&mut jobctl).await;
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        "job 1: running, its processes are being stopped\njob 2: running, its processes are being stopped\n\
         job 3: cancelled\njob 777: not found\n"
    );
    assert_eq!(output.status.code(), Some(1));
    database.all_done(PATIENCE).await;
    all_gone(&notes).await;
    assert!(one.stop().await.success() && two.stop().await.success());
}

/// On tables where rows ask for it the master reaches, through any worker, what workers have that it does not know: one
/// that waits for its jobs before it stops, and one of no master at all.
#[tokio::test]
async fn through_the_master_rows_ask_those_whom_it_cannot_ask() {
    for ground in Ground::each().await {
        let (launcher, notes) = stubborn(&ground.scratch);
        let master = Master::start(&ground.scratch, &Ini::listen()).await;
        let ini = |name: &str| {
            let ini = ground.ini().set("name", name).set("kill_grace", "0.2");
            ini.set("launcher", &launcher).target(name, 1)
        };
        let with_master = |name| {
            let ini = ini(name).set("master_host", "127.0.0.1");
            ini.set("master_port", master.addr.port())
        };
        let here = Jobd::ready(&ground.scratch, &with_master("here")).await;
        let mut leaves = Jobd::ready(&ground.scratch, &with_master("leaves")).await;
        let alone = Jobd::ready(&ground.scratch, &ini("alone")).await;
        Master::has_workers(&master, 2).await;
        let mut running = Vec::new();
        for target in ["here", "leaves", "alone"] {
            let id = ground.insert(target, &[("max_attempts", "5")]).await;
            ground.reaches(id, "running").await;
            running.push(id);
        }
        leaves.process.signal(Signal::TERM);
        Master::has_workers(&master, 1).await;
        let waiting = ground.insert("nobody", &[]).await;
        let ended = ground.insert("nobody", &[("status", "'done'")]).await;
        let said = cancel(&master, &[&running[..], &[waiting, ended, 9999]].concat()).await;
        let told = |id: u64| said["jobs"][id.to_string()].clone();
        assert_eq!(
            [running[0], running[1], running[2], waiting, ended].map(told),
            [
                "stopping",
                "requested",
                "requested",
                "cancelled",
                "too late"
            ],
            "{said}"
        );
        assert_eq!(said["errors"], json!({"9999": "job 9999 not found"}));
        for id in running {
            assert_eq!(ground.verdict(id).await, "fail - SIGKILL cancelled");
        }
        assert_eq!(ground.verdict(waiting).await, "fail - - cancelled");
        assert!(leaves.process.wait(PATIENCE).await.success());
        all_gone(&notes).await;
        assert_eq!(noted(&notes).len(), 6, "nothing else ever ran");
        assert!(here.stop().await.success() && alone.stop().await.success());
        let said = cancel(&master, &[waiting]).await;
        let error = &said["errors"][waiting.to_string()];
        assert_eq!(error, "no worker is registered", "{said}");
    }
}

#[tokio::test]
async fn a_cancelled_job_of_a_worker_that_dies_never_runs_again() {
    let (scratch, database) = (Scratch::new(), table(FULL).await);
    let (launcher, notes) = stubborn(&scratch);
    let ini = worker(&database, &launcher).set("lease", 3);
    let mut one = Jobd::ready(&scratch, &ini).await;
    let id = database.insert_one("a", "waiting").await;
    database.run("UPDATE jobs SET max_attempts = 9").await;
    until("the job's processes", PATIENCE, async || {
        (noted(&notes).len() == 2).then_some(())
    })
    .await;
    one.process.kill();
    database.run("UPDATE jobs SET cancel_requested = 1").await;
    let two = Jobd::ready(&scratch, &worker(&database, &launcher).set("lease", 3)).await;
    let row = database.done(id).await;
    assert_eq!(row.verdict(), ("done", Some("fail"), None, None));
    assert_eq!(reason(&database, id).await.as_deref(), Some("cancelled"));
    assert!(two.stop().await.success());
    assert_eq!(noted(&notes).len(), 2, "it ran once");
    all_gone(&notes).await;
}

#[tokio::test]
async fn jobs_are_cancelled_on_sqlite() {
    let scratch = Scratch::new();
    let (launcher, notes) = stubborn(&scratch);
    let file = scratch.join("jobs.db");
    let pool = sqlite(&file);
    for sql in [
        include_str!("../../sql/sqlite/jobs.sql"),
        "INSERT INTO jobs (target, time_created) VALUES ('a', 0), ('a', 0), ('b', 0)",
    ] {
        sqlx::raw_sql(sql).execute(&pool).await.unwrap();
    }
    let ini = Ini::sqlite_worker(&file)
        .set("kill_grace", "0.2")
        .set("launcher", launcher)
        .target("a", 1);
    let daemon = Jobd::ready(&scratch, &ini).await;
    until("the job's processes", PATIENCE, async || {
        (noted(&notes).len() == 2).then_some(())
    })
    .await;
    let said = cancel(&daemon, &[1, 3]).await;
    assert_eq!(said, json!({"jobs": {"1": "stopping", "3": "cancelled"}}));
    sqlx::raw_sql("UPDATE jobs SET cancel_requested = 1 WHERE id = 2")
        .execute(&pool)
        .await
        .unwrap();
    until("all to be cancelled", PATIENCE, async || {
        let sql = "SELECT COUNT(*) FROM jobs WHERE status = 'done' AND reason = 'cancelled'";
        let done: i64 = sqlx::query(sql).fetch_one(&pool).await.unwrap().get(0);
        (done == 3).then_some(())
    })
    .await;
    all_gone(&notes).await;
    assert!(daemon.stop().await.success());
}

#[tokio::test]
async fn a_job_that_is_being_cancelled_is_gone_before_its_lease_ends_and_takes_no_other_with_it() {
    let ground = Ground::sqlite().await;
    let noting = |name: &str, rest: &str| {
        let notes = ground.scratch.join(name);
        let script = format!("echo $$ >>{}\n{rest}", notes.display());
        let script = ground
            .scratch
            .write(&format!("{name}.sh"), format!("trap '' TERM\n{script}"));
        (format!("sh {} {{id}}", script.display()), notes)
    };
    let (slow, slow_notes) = noting("slow", "while :; do sleep 0.1; done");
    let (only, only_notes) = noting("only", "exec sleep 600");
    let lease = Duration::from_secs(3);
    let ini = ground
        .ini()
        .set("lease", lease.as_secs())
        .set("drain_timeout", 0)
        .set("launcher", only)
        .target("slow", 1)
        .target("only", 1)
        .own("slow", "launcher", slow)
        .own("slow", "kill_sequence", "TERM,10m,KILL")
        .own("only", "kill_sequence", "KILL");
    let daemon = Jobd::start(&ground.scratch, &ini).await;
    let id = ground.insert("slow", &[("max_attempts", "2")]).await;
    ground.insert("only", &[]).await;
    until("both jobs", PATIENCE, async || {
        let both = [&slow_notes, &only_notes].map(|notes| noted(notes).len());
        (both == [1, 1]).then_some(())
    })
    .await;
    let reply = cancel(&daemon, &[id]).await;
    assert_eq!(reply["jobs"][id.to_string()], "stopping", "{reply}");
    // From now on no lease is renewed.
    let file = PathBuf::from(ini.get("sqlite_path").unwrap());
    let options = SqliteConnectOptions::new().filename(&file);
    let mut lock = options.busy_timeout(PATIENCE).connect().await.unwrap();
    sqlx::raw_sql("BEGIN EXCLUSIVE")
        .execute(&mut lock)
        .await
        .unwrap();
    let locked = Instant::now();
    all_gone(&slow_notes).await;
    until("the lease to be over", PATIENCE, async || {
        (locked.elapsed() > lease).then_some(())
    })
    .await;
    assert!(
        noted(&only_notes).into_iter().all(lives),
        "the guard had to act, which spares no job of its worker"
    );
    sqlx::raw_sql("ROLLBACK").execute(&mut lock).await.unwrap();
    assert_eq!(ground.verdict(id).await, "fail - SIGKILL cancelled");
    assert!(daemon.stop().await.success());
}

#[tokio::test]
async fn what_nobody_knows_of_a_cancellation_is_said_and_asked_for_again() {
    let scratch = Scratch::new();
    let database = table(FULL).await;
    let id = database.insert_one("b", "waiting").await;
    let daemon = Jobd::ready(&scratch, &worker(&database, "true")).await;
    let mut lock = database.pool.begin().await.unwrap();
    sqlx::query("SELECT id FROM jobs FOR UPDATE")
        .fetch_all(&mut *lock)
        .await
        .unwrap();
    // It waits for the row, and its connection is lost with whatever it was about to do.
    let lose = until("the worker to wait for the row", PATIENCE, async || {
        let waiting = "SELECT CAST(id AS CHAR) FROM information_schema.processlist \
                       WHERE db = DATABASE() AND id <> CONNECTION_ID() AND info LIKE '%FOR UPDATE'";
        let found = sqlx::query(waiting).fetch_optional(&database.pool).await;
        let connection: String = found.unwrap()?.get(0);
        Some(connection)
    });
    let lose = async { database.run(&format!("KILL {}", lose.await)).await };
    let ids = [id];
    let (reply, _) = tokio::join!(cancel(&daemon, &ids), lose);
    let error = reply["errors"][id.to_string()].as_str().unwrap();
    let unknown = format!("nobody knows whether job {id} is cancelled (");
    assert!(error.starts_with(&unknown), "{error}");
    lock.rollback().await.unwrap();
    let reply = cancel(&daemon, &ids).await;
    assert_eq!(reply["jobs"][id.to_string()], "cancelled", "{reply}");
    assert!(daemon.stop().await.success());
}
