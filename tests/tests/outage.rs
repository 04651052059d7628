//! A database that is killed delays jobs and fails none: nothing is lost and nothing runs twice.

use std::time::{Duration, Instant};

use jobd_tests::chaos::line::{Line, Mode};
use jobd_tests::proxy::FlakyProxy;
use jobd_tests::server::Durability;
use jobd_tests::wait::PATIENCE;
use jobd_tests::{Database, Ini, Jobd, Scratch, Server, WitnessLog, until};
use serde_json::json;

const JOBS: usize = 2_000;
const DOWN: Duration = Duration::from_secs(5);
const LIMIT: Duration = Duration::from_mins(2);

async fn count_done(database: &Database) -> u64 {
    database.counts().await.get("done").copied().unwrap_or(0)
}

/// Every row is `done`, `ok`, with exactly the output of its own job.
async fn all_ended_well(database: &Database) {
    for row in database.rows().await {
        assert_eq!(
            row.verdict(),
            ("done", Some("ok"), Some(0), None),
            "job {}",
            row.id
        );
        assert_eq!(row.out(), format!("out {}\n", row.id));
        assert_eq!(row.err(), format!("err {}\n", row.id));
    }
}

#[tokio::test]
async fn a_database_killed_amid_two_thousand_jobs_loses_none_and_repeats_none_under_load() {
    let scratch = Scratch::new();
    let witness = WitnessLog::new(&scratch);
    let mut server = Server::start(Durability::Real, &[]).await;
    let database = server.database().await;
    database.minimal_table().await;
    let worker = |name: &str, millis, target, slots| {
        Ini::worker(&database)
            .set("name", name)
            .set("log_level_console", "info")
            .set("launcher", witness.launcher(name, millis, 1))
            .target(target, slots)
    };
    let one = Jobd::start(&scratch, &worker("w1", 5, "quick", 6)).await;
    let two = Jobd::start(&scratch, &worker("w2", 5, "quick", 6)).await;
    // Its jobs begin before the outage and end in the middle of it.
    let slow = Jobd::start(&scratch, &worker("w3", 3_000, "slow", 4)).await;
    let quick_ids = database.insert(JOBS, "quick", "waiting").await;
    let slow_ids = database.insert(3, "slow", "waiting").await;
    let by_hand = database.insert_one("slow", "manual").await;
    one.ask("poll", json!({})).await;
    two.ask("poll", json!({})).await;
    until("a part of the jobs to be done", PATIENCE, async || {
        (count_done(&database).await > 300).then_some(())
    })
    .await;
    slow.ask("poll", json!({})).await;
    let mut waiter = slow.wire().await;
    waiter
        .say(&format!(
            r#"[0,{{"no":1,"type":"run-manual","data":{{"ids":[{by_hand}]}}}}]"#
        ))
        .await;
    for id in slow_ids.iter().chain([&by_hand]) {
        database.reaches(*id, "running").await;
    }
    let done_before = count_done(&database).await;
    assert!(
        done_before < JOBS as u64,
        "too late for an outage: {done_before} are done"
    );

    server.kill();
    tokio::time::sleep(DOWN).await;
    server.start_again().await;

    database.all_done(LIMIT).await;
    all_ended_well(&database).await;
    let all = quick_ids.into_iter().chain(slow_ids).chain([by_hand]);
    witness.assert_each_once(all);
    let reply = waiter.response(1).await;
    assert_eq!(
        reply["data"]["jobs"][by_hand.to_string()]["result"],
        "ok",
        "{reply}"
    );
    for (key, most) in witness.most_at_once() {
        assert!(
            most <= if key.1 == "quick" { 6 } else { 4 },
            "{key:?}: {most}"
        );
    }
    for worker in [one, two, slow] {
        assert!(worker.stop().await.success());
    }
}

#[tokio::test]
async fn a_worker_starts_and_listens_before_its_database_does() {
    let scratch = Scratch::new();
    let mut server = Server::start(Durability::Real, &[]).await;
    let database = server.database().await;
    database.minimal_table().await;
    let id = database.insert_one("a", "waiting").await;
    server.kill();
    let ini = Ini::worker(&database)
        .set("poll_interval", 1)
        .target("a", 1);
    let jobd = Jobd::start(&scratch, &ini).await;
    assert_eq!(jobd.ask("poll", json!({})).await, "ok");
    assert!(jobd.ask("status", json!({})).await["targets"]["a"].is_object());
    server.start_again().await;
    assert_eq!(database.done(id).await.result.as_deref(), Some("ok"));
}

#[tokio::test]
async fn a_line_that_breaks_at_every_moment_loses_nothing_and_repeats_nothing_under_load() {
    const JOBS: usize = 400;
    let seed = u64::from(std::process::id());
    let scratch = Scratch::new();
    let witness = WitnessLog::new(&scratch);
    let server = Server::shared().await;
    let database = server.database().await;
    database.minimal_table().await;
    let proxy = FlakyProxy::start(([127, 0, 0, 1], server.port()).into(), seed).await;
    let worker = |name: &str| {
        Ini::worker(&database)
            .set("name", name)
            .set("log_level_console", "info")
            .set("mysql_port", proxy.port)
            // In the clear, so that what is lost is a packet of the protocol.
            .set("mysql_tls", "off")
            .set("poll_interval", "0.3")
            .set("launcher", witness.launcher(name, 1, 1))
            .target("a", 4)
    };
    let one = Jobd::start(&scratch, &worker("w1")).await;
    let two = Jobd::start(&scratch, &worker("w2")).await;
    let ids = database.insert(JOBS, "a", "waiting").await;
    database.all_done(LIMIT).await;
    println!(
        "seed {seed}, lost (statements, answers): {:?}",
        proxy.losses()
    );
    let (requests, answers) = proxy.losses();
    assert!(requests > 3 && answers > 3, "the line was too good");
    witness.assert_each_once(ids);
    all_ended_well(&database).await;
    proxy.calm();
    assert!(one.stop().await.success());
    assert!(two.stop().await.success());
}

#[tokio::test]
async fn a_read_only_database_delays_jobs_and_fails_none() {
    let scratch = Scratch::new();
    let witness = WitnessLog::new(&scratch);
    let server = Server::start(Durability::ThrowAway, &[]).await;
    let database = server.database().await;
    database.minimal_table().await;
    // Whoever may do everything may also write to a read-only server.
    for statement in [
        "CREATE USER 'plain'@'%' IDENTIFIED BY 'x'".to_owned(),
        format!(
            "GRANT SELECT, UPDATE ON `{}`.* TO 'plain'@'%'",
            database.name
        ),
    ] {
        database.run(&statement).await;
    }
    let ini = Ini::worker(&database)
        .set("mysql_user", "plain")
        .set("mysql_password", "x")
        .set("poll_interval", "0.2")
        .set("launcher", witness.launcher("w", 700, 1))
        .target("a", 2);
    let jobd = Jobd::ready(&scratch, &ini).await;
    let ids = database.insert(6, "a", "waiting").await;
    until("two running jobs", PATIENCE, async || {
        (witness.running() == 2).then_some(())
    })
    .await;
    database.run("SET GLOBAL read_only = 1").await;
    // They end, and cannot be written.
    until("their end", PATIENCE, async || {
        (witness.running() == 0).then_some(())
    })
    .await;
    until("a word about it", PATIENCE, async || {
        let log = jobd.process.log();
        (log.contains("read-only") || log.contains("read_only")).then_some(())
    })
    .await;
    database.run("SET GLOBAL read_only = 0").await;
    database.all_done(LIMIT).await;
    witness.assert_each_once(ids);
    for row in database.rows().await {
        assert_eq!(
            row.verdict(),
            ("done", Some("ok"), Some(0), None),
            "job {}",
            row.id
        );
    }
}

#[tokio::test]
async fn rows_that_an_application_locks_are_late_and_right() {
    let scratch = Scratch::new();
    let witness = WitnessLog::new(&scratch);
    let server = Server::start(Durability::ThrowAway, &["--innodb-lock-wait-timeout=1"]).await;
    let database = server.database().await;
    database.minimal_table().await;
    let ini = Ini::worker(&database)
        .set("poll_interval", "0.2")
        .set("launcher", witness.launcher("w", 300, 1))
        .target("a", 2);
    let jobd = Jobd::ready(&scratch, &ini).await;
    let ids = database.insert(2, "a", "waiting").await;
    until("two running jobs", PATIENCE, async || {
        (witness.running() == 2).then_some(())
    })
    .await;
    let mut locks = database.pool.begin().await.expect("a transaction");
    sqlx::raw_sql("SELECT id FROM jobs FOR UPDATE")
        .execute(&mut *locks)
        .await
        .expect("lock every row");
    // The jobs end; their rows stay locked for longer than a statement waits.
    until("their end", PATIENCE, async || {
        (witness.running() == 0).then_some(())
    })
    .await;
    until("a statement that waited in vain", PATIENCE, async || {
        jobd.process.log().contains("1205").then_some(())
    })
    .await;
    locks.rollback().await.expect("let go");
    database.all_done(LIMIT).await;
    witness.assert_each_once(ids);
    for row in database.rows().await {
        assert_eq!(
            row.verdict(),
            ("done", Some("ok"), Some(0), None),
            "job {}",
            row.id
        );
    }
}

/// An application that holds one row: a job that writes to its own row within a transaction, say.
#[tokio::test]
async fn a_row_that_stays_locked_holds_up_no_other() {
    let scratch = Scratch::new();
    let witness = WitnessLog::new(&scratch);
    let database = Server::shared().await.database().await;
    database.minimal_table().await;
    let ini = Ini::worker(&database)
        .set("poll_interval", "0.2")
        .set("launcher", witness.launcher("w", 300, 1))
        .target("a", 4);
    let jobd = Jobd::ready(&scratch, &ini).await;
    let mut ids = database.insert(2, "a", "waiting").await;
    until("two running jobs", PATIENCE, async || {
        (witness.running() == 2).then_some(())
    })
    .await;
    let mut lock = database.pool.begin().await.expect("a transaction");
    sqlx::raw_sql("SELECT id FROM jobs WHERE id = 1 FOR UPDATE")
        .execute(&mut *lock)
        .await
        .expect("lock a row");
    ids.extend(database.insert(20, "a", "waiting").await);
    let began = Instant::now();
    for id in &ids[1..] {
        database.done(*id).await;
    }
    let took = began.elapsed();
    println!("the others were done after {took:?}");
    assert_eq!(database.row(1).await.status, "running");
    lock.rollback().await.expect("let go");
    database.done(1).await;
    assert!(
        took < Duration::from_secs(15),
        "{took:?}\n{}",
        jobd.process.log()
    );
    witness.assert_each_once(ids);
}

/// An application that has a row locked at the very moment of the one poke about it.
#[tokio::test]
async fn a_row_that_was_locked_for_a_moment_is_found_without_another_poke() {
    const TRIES: usize = 10;
    let scratch = Scratch::new();
    let database = Server::shared().await.database().await;
    database.minimal_table().await;
    let ini = Ini::worker(&database)
        .set("poll_interval", 0)
        .set("launcher", "true")
        .target("a", 4);
    let jobd = Jobd::ready(&scratch, &ini).await;
    let claims = || {
        jobd.process
            .log()
            .matches("claimed target=a rows=0")
            .count()
    };
    let one_more = async |than: usize| {
        let more = || (claims() > than).then_some(());
        until("a claim in vain", PATIENCE, async || more()).await;
    };
    // The first one of all, made at the start.
    one_more(0).await;
    for attempt in 1.. {
        let id = database.insert(1, "a", "waiting").await[0];
        let mut lock = database.pool.begin().await.expect("a transaction");
        sqlx::raw_sql("SELECT id FROM jobs WHERE status = 'waiting' FOR UPDATE")
            .execute(&mut *lock)
            .await
            .expect("lock a row");
        let before = claims();
        jobd.ask("poll", json!({})).await;
        one_more(before).await;
        lock.rollback().await.expect("let go");
        let began = Instant::now();
        while database.row(id).await.status != "done" && began.elapsed() < Duration::from_secs(1) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        if database.row(id).await.status == "done" {
            break;
        }
        // The lock was let go too late, on a busy machine.
        assert!(attempt < TRIES, "{}", jobd.process.log());
    }
    assert!(jobd.stop().await.success());
}

/// A transaction that the server still holds open when its client has long gone: of a claim, and then of
/// ends. A wait for its locks would take seconds, again and again.
#[tokio::test]
async fn a_transaction_that_a_lost_line_leaves_open_is_ended_at_once() {
    const OUTPUT: usize = 200_000;
    let scratch = Scratch::new();
    let witness = WitnessLog::new(&scratch);
    let server = Server::shared().await;
    let database = server.database().await;
    database.minimal_table().await;
    let line = Line::start(([127, 0, 0, 1], server.port()).into()).await;
    let launcher = witness.launcher("w", 200, 1);
    let ini = Ini::worker(&database)
        .set("mysql_port", line.port)
        .set("mysql_tls", "off")
        .set("poll_interval", "0.2")
        // So much that the ends of two jobs take two statements, and with them a transaction.
        .set("launcher", format!("{launcher} && yes | head -c {OUTPUT}"))
        .set("launcher.shell", "always")
        .target("a", 3);
    let jobd = Jobd::ready(&scratch, &ini).await;
    // Connections that are made while COMMITs are stranded lead nowhere: here are those for claims and ends.
    let mut ids = database.insert(1, "a", "waiting").await;
    database.done(ids[0]).await;
    for round in ["the COMMIT of a claim", "the COMMIT of ends"] {
        let before = line.lost();
        let new = if round.ends_with("ends") {
            let new = database.insert(3, "a", "waiting").await;
            for id in &new {
                database.reaches(*id, "running").await;
            }
            // What ends while the answer to another end is awaited is written together.
            line.set(Mode::HoldsAnswers);
            until("the end of every job", PATIENCE, async || {
                let ended = jobd.process.log().matches("job ended").count();
                (ended == ids.len() + new.len()).then_some(())
            })
            .await;
            line.set(Mode::StrandsCommits);
            new
        } else {
            line.set(Mode::StrandsCommits);
            database.insert(3, "a", "waiting").await
        };
        until(round, PATIENCE, async || {
            (line.lost() > before).then_some(())
        })
        .await;
        assert!(locks(&database, &new).await > 0, "{round} holds no row");
        line.set(Mode::Open);
        let stranded = Instant::now();
        for id in &new {
            database.done(*id).await;
        }
        let took = stranded.elapsed();
        println!("{round}: done after {took:?}");
        assert!(took < Duration::from_secs(6), "{round}: {took:?}");
        ids.extend(new);
    }
    let ended = jobd
        .process
        .log()
        .matches("ended a former connection")
        .count();
    assert_eq!(ended, 2, "once a round");
    witness.assert_each_once(ids);
    for row in database.rows().await {
        let verdict = ("done", Some("ok"), Some(0), None);
        assert_eq!(row.verdict(), verdict, "job {}", row.id);
        let out = format!("out {}\n", row.id);
        assert!(row.out().starts_with(&out), "job {}", row.id);
        assert_eq!(row.out().len(), out.len() + OUTPUT, "job {}", row.id);
    }
}

/// How many of the rows somebody holds locked.
async fn locks(database: &Database, ids: &[u64]) -> usize {
    let mut locked = 0;
    for id in ids {
        let sql = format!("SELECT id FROM jobs WHERE id = {id} FOR UPDATE NOWAIT");
        let read = sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).fetch_all(&database.pool);
        locked += usize::from(read.await.is_err());
    }
    locked
}
