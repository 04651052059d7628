//! Workers that die, freeze or lose their database, on the table with ownership: nothing runs twice
//! at a time, and nothing stays behind.

mod notes;

use std::time::{Duration, Instant};

use jobd_tests::chaos::line::Line;
use jobd_tests::left::lives;
use jobd_tests::programs::{Daemon, path};
use jobd_tests::watchdog::Frozen;
use jobd_tests::{Database, Ini, Jobd, Scratch, Server, until};
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal};

use self::notes::{children, kill, noting, running, runs};

const PATIENCE: Duration = Duration::from_secs(40);

async fn full_table() -> Database {
    let database = Server::shared().await.database().await;
    database
        .run(include_str!("../../../sql/mysql/jobs.sql"))
        .await;
    database
}

fn worker(database: &Database, name: &str, launcher: &str) -> Ini {
    Ini::worker(database)
        .set("name", name)
        .set("poll_interval", "0.2")
        .set("lease", 3)
        .set("drain_timeout", "0.1")
        .set("kill_grace", "0.1")
        .set("launcher", launcher)
        .target("a", 2)
}

#[tokio::test]
async fn a_worker_killed_and_started_again_resolves_what_it_left_within_two_seconds() {
    let scratch = Scratch::new();
    let database = full_table().await;
    let (launcher, notes) = noting(&scratch, 60);
    let state = scratch.join("state");
    std::fs::create_dir(&state).expect("a folder");
    // A lease that has no part in this.
    let ini = worker(&database, "w1", &launcher)
        .set("lease", 600)
        .set("state_dir", state.display());
    let mut first = Jobd::start(&scratch, &ini).await;
    let ids = database.insert(2, "a", "waiting").await;
    database
        .run("UPDATE jobs SET max_attempts = 2 WHERE id = 2")
        .await;
    running(&first, &notes, 2).await;
    let before = runs(&notes).concat();
    // A process shows no command line while it is being replaced by its program.
    until("every process of the runs", PATIENCE, async || {
        before.iter().copied().all(lives).then_some(())
    })
    .await;
    first.process.kill();
    let killed = Instant::now();
    let second = Jobd::start(&scratch, &ini).await;
    let row = database.done(ids[0]).await;
    assert_eq!(row.verdict(), ("done", Some("fail"), None, None));
    assert!(row.err().contains("orphaned"), "{}", row.err());
    running(&second, &notes, 3).await;
    assert!(
        killed.elapsed() < Duration::from_secs(2),
        "{:?}",
        killed.elapsed()
    );
    assert!(
        !before.iter().copied().any(lives),
        "the guard has ended the jobs and their children"
    );
}

#[tokio::test]
async fn a_guard_that_is_killed_is_replaced_and_touches_nothing_that_runs() {
    let scratch = Scratch::new();
    let database = full_table().await;
    let (launcher, notes) = noting(&scratch, 60);
    let state = scratch.join("state");
    std::fs::create_dir(&state).expect("a folder");
    let ini = worker(&database, "w1", &launcher)
        .set("state_dir", state.display())
        .target("a", 3);
    // As an upgrade does it.
    let program = scratch.join("jobd");
    std::fs::copy(path("jobd"), &program).expect("copy jobd");
    let mut jobd = Daemon::launch(&program, &scratch, &ini);
    jobd.listening().await;
    std::fs::remove_file(&program).expect("remove jobd");
    database
        .run("INSERT INTO jobs (target, time_created, max_attempts) VALUES ('a', 1, 5)")
        .await;
    running(&jobd, &notes, 1).await;
    let guard = || children(jobd.process.id(), "--guard").pop();
    let first = guard().expect("a guard");
    kill(first);
    // The next launch wants a guard beside it.
    database.insert(1, "a", "waiting").await;
    running(&jobd, &notes, 2).await;
    until("another guard with the lock", PATIENCE, async || {
        let lock = std::fs::File::open(state.join("w1.lock")).expect("the lock's file");
        let held = flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err();
        (held && guard().is_some_and(|pid| pid != first)).then_some(())
    })
    .await;
    database.insert(1, "a", "waiting").await;
    running(&jobd, &notes, 3).await;
    let rows = database.rows().await;
    let open = rows.iter().filter(|row| row.status == "running");
    assert_eq!(open.count(), 3, "{}", jobd.process.log());
}

#[tokio::test]
async fn a_guard_that_is_killed_while_nothing_is_launched_is_replaced_and_costs_no_job() {
    let scratch = Scratch::new();
    let database = full_table().await;
    // Longer than two leases.
    let (launcher, notes) = noting(&scratch, 7);
    let jobd = Jobd::start(&scratch, &worker(&database, "w1", &launcher)).await;
    database
        .run("INSERT INTO jobs (target, time_created, max_attempts) VALUES ('a', 1, 5)")
        .await;
    running(&jobd, &notes, 1).await;
    let first = children(jobd.process.id(), "--guard");
    kill(first[0]);
    until("another guard", PATIENCE, async || {
        let present = children(jobd.process.id(), "--guard");
        (present.len() == 1 && present != first).then_some(())
    })
    .await;
    let row = database.done(1).await;
    assert_eq!(row.verdict(), ("done", Some("ok"), Some(0), None));
    assert_eq!(runs(&notes).len(), 1, "{}", jobd.process.log());
}

#[tokio::test]
async fn a_lock_that_cannot_be_had_costs_the_lock_and_not_the_guard() {
    let scratch = Scratch::new();
    let database = full_table().await;
    let (launcher, notes) = noting(&scratch, 60);
    let lock = scratch.join("state/w1.lock");
    std::fs::create_dir_all(&lock).expect("a folder in the place of the lock's file");
    let ini = worker(&database, "w1", &launcher).set("state_dir", scratch.join("state").display());
    let jobd = Jobd::start(&scratch, &ini).await;
    let guard = async |line: &str| {
        until("the guard's words", PATIENCE, async || {
            jobd.process.log().contains(line).then_some(())
        })
        .await;
        children(jobd.process.id(), "--guard")
    };
    let first = guard("cannot lock").await;
    assert_eq!(first.len(), 1);
    let name = std::fs::read_to_string(format!("/proc/{}/comm", first[0])).expect("its name");
    assert_eq!(name, "jobd-guard\n");
    for count in 1..=2 {
        database.insert(1, "a", "waiting").await;
        running(&jobd, &notes, count).await;
    }
    // Nobody's names, and not even text.
    std::fs::remove_dir(&lock).expect("remove the folder");
    std::fs::write(&lock, b"\xff\xfe\n").expect("write the lock's file");
    until("its run's name in the lock's file", PATIENCE, async || {
        let names = std::fs::read(&lock).expect("the lock's file");
        names.starts_with(b"w1@").then_some(())
    })
    .await;
    assert_eq!(children(jobd.process.id(), "--guard"), first);
    assert_eq!(jobd.process.log().matches("cannot lock").count(), 1);
}

#[tokio::test]
async fn a_guard_that_was_frozen_goes_by_what_it_was_told_meanwhile() {
    let scratch = Scratch::new();
    let database = full_table().await;
    let (launcher, notes) = noting(&scratch, 6);
    let jobd = Jobd::start(&scratch, &worker(&database, "w1", &launcher)).await;
    database
        .run("INSERT INTO jobs (target, time_created, max_attempts) VALUES ('a', 1, 5)")
        .await;
    running(&jobd, &notes, 1).await;
    let guard = children(jobd.process.id(), "--guard")[0];
    let frozen = Frozen::new(Pid::from_raw(guard).expect("a pid"));
    // The deadline that it knows has passed.
    tokio::time::sleep(Duration::from_secs(4)).await;
    drop(frozen);
    let row = database.done(1).await;
    assert_eq!(row.verdict(), ("done", Some("ok"), Some(0), None));
    assert_eq!(runs(&notes).len(), 1);
}

#[tokio::test]
async fn jobs_of_a_worker_that_was_killed_with_its_guard_are_over_before_their_rows_are_resolved() {
    let scratch = Scratch::new();
    let database = full_table().await;
    let (launcher, notes) = noting(&scratch, 60);
    let state = scratch.join("state");
    std::fs::create_dir(&state).expect("a folder");
    let ini = worker(&database, "w1", &launcher).set("state_dir", state.display());
    let mut first = Jobd::start(&scratch, &ini).await;
    let id = database.insert_one("a", "waiting").await;
    running(&first, &notes, 1).await;
    let before = runs(&notes).concat();
    kill(children(first.process.id(), "--guard")[0]);
    first.process.kill();
    let _second = Jobd::start(&scratch, &ini).await;
    let row = database.done(id).await;
    assert!(row.err().contains("orphaned"), "{}", row.err());
    assert!(!before.iter().copied().any(lives), "{before:?}");
}

#[tokio::test]
async fn rows_of_a_worker_that_died_before_its_guard_had_the_lock_are_resolved_by_the_next() {
    let scratch = Scratch::new();
    let database = Server::shared().await.database().await;
    database.minimal_table().await;
    let (launcher, notes) = noting(&scratch, 60);
    let state = scratch.join("state");
    std::fs::create_dir(&state).expect("a folder");
    let ini = worker(&database, "w1", &launcher)
        .unset("lease")
        .set("state_dir", state.display());
    // As the guard of a predecessor does that is not quite done.
    let path = scratch.write("state/w1.lock", "");
    let lock = std::fs::File::open(path).expect("the lock's file");
    flock(&lock, FlockOperation::NonBlockingLockExclusive).expect("the lock");
    let mut first = Jobd::start(&scratch, &ini).await;
    let id = database.insert_one("a", "waiting").await;
    running(&first, &notes, 1).await;
    first.process.kill();
    drop(lock);
    let _second = Jobd::start(&scratch, &ini).await;
    assert!(database.done(id).await.err().contains("orphaned"));
}

#[tokio::test]
async fn a_frozen_worker_has_no_job_left_when_another_runs_it_again() {
    let scratch = Scratch::new();
    let database = full_table().await;
    let (launcher, notes) = noting(&scratch, 60);
    let mut first = Jobd::start(&scratch, &worker(&database, "w1", &launcher)).await;
    database
        .run("INSERT INTO jobs (target, time_created, max_attempts) VALUES ('a', UNIX_TIMESTAMP(), 3)")
        .await;
    running(&first, &notes, 1).await;
    let before = runs(&notes).concat();
    let second = Jobd::start(&scratch, &worker(&database, "w2", &launcher)).await;
    first.process.signal(Signal::STOP);
    let mut overlapped = false;
    until("the second run", PATIENCE, async || {
        let count = runs(&notes).len();
        overlapped |= count > 1 && before.iter().copied().any(lives);
        (count > 1).then_some(())
    })
    .await;
    assert!(!overlapped, "{}", second.process.log());
    let guard = children(first.process.id(), "--guard");
    first.process.signal(Signal::CONT);
    // The thawed worker finds that the row is not its own any more, and leaves it alone.
    until("the thawed worker to look", PATIENCE, async || {
        let log = first.process.log();
        let looked = ["leases renewed", "its guard has killed"];
        looked.iter().any(|line| log.contains(line)).then_some(())
    })
    .await;
    assert_eq!(runs(&notes).len(), 2);
    assert_eq!(database.row(1).await.status, "running");
    // The guard is through with it: what is launched now is not meant. There is room for one of them elsewhere.
    database.insert(3, "a", "waiting").await;
    running(&first, &notes, 5).await;
    // It looks for processes once a second for as long as it strikes.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let later = runs(&notes)[2..].concat();
    assert!(later.iter().copied().all(lives), "{}", first.process.log());
    assert_eq!(children(first.process.id(), "--guard"), guard);
}

#[tokio::test]
async fn a_job_on_its_only_attempt_goes_on_after_a_verdict_and_its_end_replaces_that() {
    let scratch = Scratch::new();
    let database = full_table().await;
    let (launcher, notes) = noting(&scratch, 12);
    let mut first = Jobd::start(&scratch, &worker(&database, "w1", &launcher)).await;
    database
        .run("INSERT INTO jobs (target, time_created) VALUES ('a', UNIX_TIMESTAMP())")
        .await;
    running(&first, &notes, 1).await;
    let _second = Jobd::start(&scratch, &worker(&database, "w2", &launcher)).await;
    first.process.signal(Signal::STOP);
    let row = database.done(1).await;
    assert!(row.err().contains("orphaned"), "{}", row.err());
    first.process.signal(Signal::CONT);
    until("the job's own end", PATIENCE, async || {
        let row = database.row(1).await;
        let ok = ("done", Some("ok"), Some(0), None);
        (row.verdict() == ok).then_some(())
    })
    .await;
    assert_eq!(runs(&notes).len(), 1);
}

#[tokio::test]
async fn a_locked_row_costs_its_own_lease_and_no_other() {
    locked_row(6).await;
}

/// A renewal that waited for the row once would come too late.
#[tokio::test]
async fn a_locked_row_costs_no_other_lease_of_few_seconds() {
    locked_row(3).await;
}

async fn locked_row(lease: u32) {
    let scratch = Scratch::new();
    let database = full_table().await;
    let (launcher, notes) = noting(&scratch, 60);
    let worker = |name| worker(&database, name, &launcher).set("lease", lease);
    let jobd = Jobd::start(&scratch, &worker("w1")).await;
    let _other = Jobd::start(&scratch, &worker("w2")).await;
    let insert =
        "INSERT INTO jobs (target, time_created, max_attempts) VALUES ('a', UNIX_TIMESTAMP(), 3)";
    database.run(insert).await;
    running(&jobd, &notes, 1).await;
    let locked = runs(&notes)[0][0];
    database.run(insert).await;
    running(&jobd, &notes, 2).await;
    let free = runs(&notes)[1].clone();
    let mut lock = database.pool.begin().await.expect("a transaction");
    sqlx::raw_sql("SELECT id FROM jobs WHERE id = 1 FOR UPDATE")
        .execute(&mut *lock)
        .await
        .expect("lock a row");
    // Longer than two leases.
    tokio::time::sleep(Duration::from_secs((2 * lease + 2).into())).await;
    assert!(free.iter().copied().all(lives), "{}", jobd.process.log());
    assert!(
        !lives(locked),
        "others may run it as soon as the lock is gone"
    );
    lock.rollback().await.expect("let go");
    running(&jobd, &notes, 3).await;
    assert!(free.iter().copied().all(lives), "{}", jobd.process.log());
    let attempts = "SELECT GROUP_CONCAT(attempts ORDER BY id) FROM jobs";
    let attempts: String = sqlx::query_scalar(attempts)
        .fetch_one(&database.pool)
        .await
        .expect("the counts");
    assert_eq!(attempts, "2,1");
}

#[tokio::test]
async fn a_line_that_swallows_what_goes_over_old_connections_costs_no_lease() {
    let scratch = Scratch::new();
    let database = full_table().await;
    let line = Line::start(([127, 0, 0, 1], database.port).into()).await;
    let (launcher, notes) = noting(&scratch, 60);
    let ini = worker(&database, "w1", &launcher)
        .set("mysql_port", line.port)
        .set("mysql_tls", "off")
        .set("lease", 9);
    let jobd = Jobd::start(&scratch, &ini).await;
    database
        .run("INSERT INTO jobs (target, time_created, max_attempts) VALUES ('a', UNIX_TIMESTAMP(), 3)")
        .await;
    running(&jobd, &notes, 1).await;
    let row = "SELECT CAST(COALESCE(lease_until, 0) AS SIGNED) FROM jobs";
    let lease = || async {
        let lease = sqlx::query_scalar::<_, i64>(row).fetch_one(&database.pool);
        lease.await.expect("the lease")
    };
    let renewed = async |by: i64| {
        let before = lease().await;
        let beyond = async || (lease().await >= before + by).then_some(());
        until("renewals", PATIENCE, beyond).await;
    };
    renewed(2).await;
    line.forget();
    renewed(7).await;
    assert!(lives(runs(&notes)[0][0]), "{}", jobd.process.log());
    // What waits for an answer over the others would wait for half a minute.
    line.cut_once();
    assert!(jobd.stop().await.success());
}

#[tokio::test]
async fn rows_of_a_host_that_lost_its_power_are_rescued_within_a_lease_and_ten_seconds() {
    let scratch = Scratch::new();
    let database = full_table().await;
    let (launcher, notes) = noting(&scratch, 60);
    let mut first = Jobd::start(&scratch, &worker(&database, "w1", &launcher)).await;
    let ids = database.insert(3, "a", "waiting").await;
    running(&first, &notes, 2).await;
    // jobd and guard in one blow; the jobs are left, as nobody can pull the plug here.
    let guards = children(first.process.id(), "--guard");
    assert_eq!(guards.len(), 1);
    for guard in guards {
        kill(guard);
    }
    first.process.kill();
    let killed = Instant::now();
    let quick = worker(&database, "w2", "true");
    let _second = Jobd::start(&scratch, &quick).await;
    for id in &ids {
        database.done(*id).await;
    }
    assert!(
        killed.elapsed() < Duration::from_secs(13),
        "{:?}",
        killed.elapsed()
    );
}

/// Puts a row under a claim that the worker never made, as a database does that takes a commit back.
async fn gives_back_what_it_knows_nothing_of(database: Database, token_column: &str) {
    let scratch = Scratch::new();
    let (launcher, notes) = noting(&scratch, 60);
    let daemon = Jobd::start(&scratch, &worker(&database, "w1", &launcher)).await;
    let known = database.insert_one("a", "waiting").await;
    running(&daemon, &notes, 1).await;
    let stray = database.insert_one("a", "manual").await;
    let token = format!("SUBSTRING_INDEX({token_column}, '/', 2)");
    database
        .run(&format!(
            "UPDATE jobs, (SELECT {token} AS own FROM jobs WHERE id = {known}) AS known \
             SET status = 'accepted', {token_column} = CONCAT(own, '/99') WHERE id = {stray}"
        ))
        .await;
    if token_column == "worker" {
        database
            .run(&format!(
                "UPDATE jobs SET lease_until = 5 WHERE id = {stray}"
            ))
            .await;
    }
    // The other one runs for longer than a lease too.
    running(&daemon, &notes, 2).await;
    for id in [known, stray] {
        assert_eq!(database.row(id).await.status, "running");
    }
    assert_eq!(daemon.process.log().matches("rescued a row").count(), 1);
}

#[tokio::test]
async fn a_claim_of_its_own_that_a_worker_knows_nothing_of_goes_back() {
    gives_back_what_it_knows_nothing_of(full_table().await, "worker").await;
}

#[tokio::test]
async fn a_claim_of_its_own_that_a_worker_knows_nothing_of_goes_back_on_the_minimal_table() {
    let database = Server::shared().await.database().await;
    database.minimal_table().await;
    gives_back_what_it_knows_nothing_of(database, "stderr").await;
}

#[tokio::test]
async fn a_worker_says_what_missing_columns_cost() {
    let scratch = Scratch::new();
    let minimal = Server::shared().await.database().await;
    minimal.minimal_table().await;
    let lacks = async |ini: Ini| {
        let jobd = Jobd::ready(&scratch, &ini).await;
        let status = jobd.ask("status", serde_json::json!({})).await;
        status["tableLacks"].clone()
    };
    let said = lacks(worker(&minimal, "w1", "true")).await.to_string();
    for words in [
        "worker, lease_until, attempts, interruptions",
        "until somebody puts them back",
    ] {
        assert!(said.contains(words), "{said}");
    }
    let with_state = worker(&minimal, "w1", "true").set("state_dir", scratch.join("").display());
    let said = lacks(with_state).await.to_string();
    assert!(
        said.contains("until it is started again on its host"),
        "{said}"
    );
    let full = full_table().await;
    assert_eq!(
        lacks(worker(&full, "w1", "true")).await,
        serde_json::json!([])
    );
}
