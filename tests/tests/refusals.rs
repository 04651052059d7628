//! A server that answers and says no: for a while, for one row, or for a size. The worker keeps what it
//! has to write, whole, and everybody else's jobs go on.

use std::time::{Duration, Instant};

use jobd_tests::database::FULL;
use jobd_tests::programs::Daemon;
use jobd_tests::server::{Durability, Server};
use jobd_tests::{Database, Ini, Jobd, Scratch, until};
use serde_json::json;

const PATIENCE: Duration = Duration::from_secs(40);

/// A job that writes `precious` and ends when a file is there.
fn waits_for(scratch: &Scratch, file: &str) -> String {
    let script = format!(
        "#!/bin/sh\necho precious\nwhile [ ! -e {} ]; do sleep 0.05; done\n",
        scratch.join(file).display()
    );
    let path = scratch.write("job.sh", script);
    format!("/bin/sh {} {{id}}", path.display())
}

/// An account that may do what a worker has to do, and nothing else.
async fn worker_account(database: &Database, ini: Ini) -> Ini {
    let user = format!("w_{}", database.name);
    let user = &user[..user.len().min(32)];
    for sql in [
        format!("CREATE USER '{user}'@'127.0.0.1' IDENTIFIED BY 'p'"),
        format!(
            "GRANT SELECT, UPDATE ON {}.jobs TO '{user}'@'127.0.0.1'",
            database.name
        ),
    ] {
        database.run(&sql).await;
    }
    ini.set("mysql_user", user).set("mysql_password", "p")
}

#[tokio::test]
async fn output_outlives_a_privilege_that_is_taken_away_for_a_while() {
    let scratch = Scratch::new();
    let server = Server::start(Durability::ThrowAway, &[]).await;
    let database = server.database().await;
    database.minimal_table().await;
    let ini = Ini::worker(&database)
        .set("launcher", waits_for(&scratch, "go"))
        .target("a", 1);
    let ini = worker_account(&database, ini).await;
    let user = ini.get("mysql_user").expect("a user").to_owned();
    let jobd = Jobd::start(&scratch, &ini).await;
    let id = database.insert_one("a", "waiting").await;
    database.reaches(id, "running").await;
    let on = format!("{}.jobs", database.name);
    database
        .run(&format!("REVOKE UPDATE ON {on} FROM '{user}'@'127.0.0.1'"))
        .await;
    scratch.write("go", "");
    until("a refusal in the log", PATIENCE, async || {
        jobd.process
            .log()
            .contains("cannot write to the table")
            .then_some(())
    })
    .await;
    database
        .run(&format!("GRANT UPDATE ON {on} TO '{user}'@'127.0.0.1'"))
        .await;
    let row = database.done(id).await;
    assert_eq!(
        (row.verdict(), row.out()),
        (("done", Some("ok"), Some(0), None), "precious\n")
    );
    assert!(jobd.stop().await.success());
}

#[tokio::test]
async fn a_row_that_is_refused_stops_no_other() {
    let scratch = Scratch::new();
    let server = Server::start(
        Durability::ThrowAway,
        &["--log-bin-trust-function-creators=1"],
    )
    .await;
    let database = server.database().await;
    database.minimal_table().await;
    database
        .run(
            "CREATE TRIGGER refuse BEFORE UPDATE ON jobs FOR EACH ROW \
             IF NEW.id = 1 AND NEW.status = 'done' THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'not this one'; END IF",
        )
        .await;
    let ini = Ini::worker(&database)
        .set("poll_interval", "0.2")
        .set("launcher", "echo {id}")
        .target("a", 2)
        .target("b", 1);
    let jobd = Jobd::start(&scratch, &ini).await;
    let mut ids = database.insert(6, "a", "waiting").await;
    ids.extend(database.insert(6, "b", "waiting").await);
    for id in &ids[1..] {
        database.done(*id).await;
    }
    assert_eq!(database.row(ids[0]).await.status, "running");
    database.run("DROP TRIGGER refuse").await;
    let row = database.done(ids[0]).await;
    assert_eq!(
        (row.verdict(), row.out()),
        (("done", Some("ok"), Some(0), None), "1\n")
    );
    assert!(jobd.stop().await.success());
}

/// One that refuses to let the first rows be something, so many of them; six stand behind them.
async fn refusing(
    status: &str,
    poll_interval: &str,
    rows: usize,
) -> (Scratch, Database, Vec<u64>, Daemon) {
    let scratch = Scratch::new();
    let database = Server::shared().await.database().await;
    database.minimal_table().await;
    database
        .run(&format!(
            "CREATE TRIGGER refuse BEFORE UPDATE ON jobs FOR EACH ROW \
             IF NEW.id <= {rows} AND NEW.status = '{status}' THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'not this one'; END IF",
        ))
        .await;
    let ids = database.insert(rows + 6, "a", "waiting").await;
    let ini = Ini::worker(&database)
        .set("poll_interval", poll_interval)
        .set("launcher", "echo {id}")
        .target("a", 1);
    let jobd = Jobd::start(&scratch, &ini).await;
    (scratch, database, ids, jobd)
}

#[tokio::test]
async fn a_row_that_cannot_be_claimed_stops_no_other_of_its_target() {
    // It looks at its start, and hardly ever again.
    let (_scratch, database, ids, jobd) = refusing("accepted", "600", 3).await;
    for id in &ids[3..] {
        database.done(*id).await;
    }
    for id in &ids[..3] {
        assert_eq!(database.row(*id).await.status, "waiting");
    }
    let log = jobd.process.log();
    assert_eq!(log.matches("not this one").count(), 3, "{log}");
    assert!(!log.contains("cannot claim jobs"), "{log}");
    assert!(jobd.stop().await.success());
}

#[tokio::test]
async fn a_row_that_cannot_be_started_stops_no_other_of_its_target() {
    let (_scratch, database, ids, jobd) = refusing("running", "0.2", 200).await;
    let begun = Instant::now();
    for id in &ids[200..] {
        database.done(*id).await;
    }
    let took = begun.elapsed();
    assert!(took < Duration::from_mins(1), "they cost {took:?}");
    let log = jobd.process.log();
    let warned = |line: &&str| line.contains(" WARN ") && line.contains("not this one");
    assert_eq!(log.lines().filter(warned).count(), 16, "{log}");
    assert!(!log.contains(" ERROR "), "{log}");
    database.run("DROP TRIGGER refuse").await;
    database.done(ids[199]).await;
    assert!(jobd.stop().await.success());
}

/// For a reason that is none of its row's, so that claims do not pass over it: also where a target on demand has gone by the
/// time that its row goes back.
#[tokio::test]
async fn a_cancellation_that_fails_for_good_goes_round_once_a_second() {
    let scratch = Scratch::new();
    let database = Server::shared().await.database().await;
    database.run(FULL).await;
    for target in ["a", "user/7"] {
        database.insert_one(target, "waiting").await;
    }
    database.run("UPDATE jobs SET cancel_requested = 1").await;
    database
        .run(
            "CREATE TRIGGER refuse BEFORE UPDATE ON jobs FOR EACH ROW \
             IF NEW.status = 'done' THEN SIGNAL SQLSTATE '42000' SET MYSQL_ERRNO = 1143; END IF",
        )
        .await;
    let ini = Ini::worker(&database).target("a", 1).target("user/*", 1);
    let begun = Instant::now();
    let jobd = Jobd::start(&scratch, &ini).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let log = jobd.process.log();
    let most = usize::try_from(begun.elapsed().as_secs()).unwrap() + 2;
    for target in ["a", "user/7"] {
        let brought = format!("claimed target={target} rows=1");
        let claims = log.matches(&brought).count();
        assert!((2..=most).contains(&claims), "{target}: {claims}\n{log}");
    }
    database.run("DROP TRIGGER refuse").await;
    for id in [1, 2] {
        assert_eq!(database.done(id).await.result.as_deref(), Some("fail"));
    }
    assert!(jobd.stop().await.success());
}

#[tokio::test]
async fn a_packet_limit_that_shrinks_shortens_the_output() {
    let scratch = Scratch::new();
    let server = Server::start(Durability::ThrowAway, &["--max-allowed-packet=16M"]).await;
    let database = server.database().await;
    database.minimal_table().await;
    let ini = Ini::worker(&database)
        .set(
            "launcher",
            r#"sh -c "head -c 6000000 /dev/zero | tr '\\0' x""#,
        )
        .target("loud", 1);
    let jobd = Jobd::ready(&scratch, &ini).await;
    database
        .run("SET GLOBAL max_allowed_packet = 1048576")
        .await;
    let id = database.insert_one("loud", "waiting").await;
    assert_eq!(jobd.ask("poll", json!({})).await, "ok");
    let row = database.done(id).await;
    let out = row.out();
    assert_eq!(row.verdict(), ("done", Some("ok"), Some(0), None));
    assert!(
        out.contains("bytes left out") && out.len() < 1_048_576,
        "{} bytes",
        out.len()
    );
    assert!(jobd.stop().await.success());
}

#[tokio::test]
async fn rows_given_back_by_a_pause_are_found_again_without_a_poke() {
    let scratch = Scratch::new();
    let database = Server::shared().await.database().await;
    database.minimal_table().await;
    let ini = Ini::worker(&database)
        .set("poll_interval", 0)
        .set("launcher", "sleep 0.02")
        .target("a", 3);
    let jobd = Jobd::ready(&scratch, &ini).await;
    database.insert(200, "a", "waiting").await;
    jobd.ask("poll", json!({})).await;
    for _ in 0..12 {
        jobd.ask("pause", json!({})).await;
        jobd.ask("continue", json!({})).await;
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    database.all_done(PATIENCE).await;
    assert!(jobd.stop().await.success());
}
