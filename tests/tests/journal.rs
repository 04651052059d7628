//! Ends of jobs that the database did not take outlive the worker: with `state_dir` its successor writes them,
//! and the true result wins over what is said of rows whose worker has died.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jobd_tests::disk::Disk;
use jobd_tests::programs::{self, Daemon};
use jobd_tests::server::Durability;
use jobd_tests::wait::PATIENCE;
use jobd_tests::{Database, Ini, Jobd, Row, Scratch, Server, WitnessLog, until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

/// The line that begins a journal: what an empty one holds.
const EMPTY: &[u8] = b"jobd journal 1\n";

/// How long the jobs run: long enough to take the database away meanwhile.
const MILLIS: u32 = 1_500;

/// The jobs of a test; each has a slot.
const JOBS: usize = 6;

const LIMIT: Duration = Duration::from_mins(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Table {
    Minimal,
    Full,
}

/// A database of one's own, and what a worker on it needs.
struct Ground {
    server: Server,
    database: Database,
    witness: WitnessLog,
    ini: Ini,
    state: PathBuf,
    scratch: Scratch,
}

impl Ground {
    async fn new(table: Table) -> Self {
        let scratch = Scratch::new();
        let witness = WitnessLog::new(&scratch);
        let server = Server::start(Durability::Real, &["--innodb-lock-wait-timeout=1"]).await;
        let database = server.database().await;
        match table {
            Table::Minimal => database.minimal_table().await,
            Table::Full => {
                database.run(include_str!("../../sql/mysql/jobs.sql")).await;
                // Whoever does not know their ends lets them run again.
                let twice = "ALTER TABLE jobs ALTER max_attempts SET DEFAULT 2";
                database.run(twice).await;
            }
        }
        let state = scratch.join("state");
        fs::create_dir(&state).expect("a folder");
        let ini = Ini::worker(&database)
            .set("name", "w1")
            .set("state_dir", state.display())
            .set("poll_interval", "0.2")
            // These fail for good: they run again where nobody knows their ends, and not otherwise.
            .set("retry_on", "timeout")
            .set("launcher", witness.launcher("w1", MILLIS, 3))
            .target("a", u32::try_from(JOBS).expect("a few"));
        Self {
            server,
            database,
            witness,
            ini,
            state,
            scratch,
        }
    }

    fn journal(&self) -> PathBuf {
        self.state.join("w1.journal")
    }

    async fn start(&self) -> Daemon {
        Jobd::start(&self.scratch, &self.ini).await
    }

    /// Lets `jobd` run all jobs, one of them by hand, and calls `away` before they end. Returns their ids, once
    /// they have ended.
    async fn run_jobs(&mut self, jobd: &Daemon, away: impl AsyncFnOnce(&mut Self)) -> Vec<u64> {
        let mut ids = self.database.insert(JOBS - 1, "a", "waiting").await;
        let by_hand = self.database.insert_one("a", "manual").await;
        let ask = format!(r#"[0,{{"no":1,"type":"run-manual","data":{{"ids":[{by_hand}]}}}}]"#);
        jobd.wire().await.say(&ask).await;
        ids.push(by_hand);
        until("all jobs to run", PATIENCE, async || {
            (self.witness.running() == JOBS).then_some(())
        })
        .await;
        away(self).await;
        until("all jobs to end", PATIENCE, async || {
            (self.witness.running() == 0).then_some(())
        })
        .await;
        ids
    }

    /// Every job ran once, and its row says how.
    async fn check_all_true(&self, ids: &[u64]) {
        self.database.all_done(LIMIT).await;
        for row in self.database.rows().await {
            check_true(&row);
        }
        self.witness.assert_each_once(ids.iter().copied());
    }
}

/// A launcher whose jobs also write dots, more than the space left in a page of a full disk.
fn loud(ground: &Ground) -> String {
    let witness = ground.witness.launcher("w1", MILLIS, 3);
    let (witness, _) = witness.split_once(" {id}").expect("a launcher");
    let script = format!(
        "#!/bin/sh\n{witness} \"$@\"\ncode=$?\nhead -c 9000 /dev/zero | tr '\\0' .\nexit $code\n"
    );
    let path = ground.scratch.write("loud.sh", script);
    format!("/bin/sh {} {{id}} {{target}}", path.display())
}

/// Jobs end with their id modulo 3.
fn check_true(row: &Row) {
    let code = i64::try_from(row.id % 3).expect("a small number");
    let result = if code == 0 { "ok" } else { "fail" };
    let verdict = ("done", Some(result), Some(code), None);
    assert_eq!(row.verdict(), verdict, "job {}: {}", row.id, row.err());
    assert_eq!(row.out().trim_end_matches('.'), format!("out {}\n", row.id));
    assert_eq!(row.err(), format!("err {}\n", row.id));
}

/// Waits until `count` ends wait in the journal of `jobd`.
async fn journaled(jobd: &Daemon, count: usize) {
    until("the ends in the journal", PATIENCE, async || {
        let status = jobd.ask("status", json!({})).await;
        (status["journaledEnds"] == count).then_some(())
    })
    .await;
}

/// The power fails: worker and guard are gone at once. (The guard would be started again by a worker that runs.)
async fn power_fails(mut jobd: Daemon) {
    let id = jobd.process.id();
    until("a guard", PATIENCE, async || guard_of(id)).await;
    jobd.process.signal(Signal::STOP);
    kill_process(guard_of(id).expect("a guard"), Signal::KILL).expect("kill the guard");
    jobd.process.kill();
}

fn guard_of(parent: u32) -> Option<Pid> {
    let tasks = fs::read_dir(format!("/proc/{parent}/task")).expect("it runs");
    let children: Vec<String> = tasks
        .flatten()
        .filter_map(|task| fs::read_to_string(task.path().join("children")).ok())
        .collect();
    let is_guard = |pid: &&str| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains("--guard")
    };
    let guard = children
        .iter()
        .flat_map(|list| list.split_whitespace())
        .find(is_guard);
    guard.and_then(|pid| Pid::from_raw(pid.parse().ok()?))
}

async fn check_outlives_an_outage_and_two_deaths(table: Table) {
    let mut ground = Ground::new(table).await;
    let jobd = ground.start().await;
    let ids = ground
        .run_jobs(&jobd, async |ground| ground.server.kill())
        .await;
    journaled(&jobd, JOBS).await;
    power_fails(jobd).await;
    // Once more, before the database is back.
    let jobd = ground.start().await;
    assert!(fs::read(ground.journal()).expect("a journal").len() > EMPTY.len());
    power_fails(jobd).await;

    ground.server.start_again().await;
    let jobd = ground.start().await;
    ground.check_all_true(&ids).await;
    until("an empty journal", PATIENCE, async || {
        (fs::read(ground.journal()).expect("a journal") == EMPTY).then_some(())
    })
    .await;
    journaled(&jobd, 0).await;
    assert!(jobd.stop().await.success());
}

#[tokio::test]
async fn ends_in_an_outage_outlive_worker_and_guard_on_the_minimal_table() {
    check_outlives_an_outage_and_two_deaths(Table::Minimal).await;
}

#[tokio::test]
async fn ends_in_an_outage_outlive_worker_and_guard_with_ownership() {
    check_outlives_an_outage_and_two_deaths(Table::Full).await;
}

#[tokio::test]
async fn ends_are_kept_while_a_write_hangs() {
    let mut ground = Ground::new(Table::Full).await;
    let jobd = ground.start().await;
    let ids = ground
        .run_jobs(&jobd, async |ground| ground.server.freeze())
        .await;
    // No error has come: the server answers nothing.
    journaled(&jobd, JOBS).await;
    power_fails(jobd).await;
    ground.server.thaw();
    let _jobd = ground.start().await;
    ground.check_all_true(&ids).await;
}

#[tokio::test]
async fn a_shutdown_without_database_leaves_the_ends_to_the_next_start() {
    let mut ground = Ground::new(Table::Minimal).await;
    let mut jobd = ground.start().await;
    let ids = ground
        .run_jobs(&jobd, async |ground| ground.server.kill())
        .await;
    journaled(&jobd, JOBS).await;
    jobd.process.signal(Signal::TERM);
    let status = jobd.process.wait(LIMIT).await;
    assert_eq!(status.code(), Some(1));
    let log = jobd.process.log();
    assert!(log.contains("6 of them are in the journal"), "{log}");
    ground.server.start_again().await;
    let _jobd = ground.start().await;
    ground.check_all_true(&ids).await;
}

#[tokio::test]
async fn a_torn_journal_costs_the_torn_end_alone_and_is_reported() {
    let mut ground = Ground::new(Table::Minimal).await;
    let jobd = ground.start().await;
    let ids = ground
        .run_jobs(&jobd, async |ground| ground.server.kill())
        .await;
    journaled(&jobd, JOBS).await;
    power_fails(jobd).await;
    let bytes = fs::read(ground.journal()).expect("a journal");
    fs::write(ground.journal(), &bytes[..bytes.len() - 3]).expect("tear it");
    ground.server.start_again().await;
    let jobd = ground.start().await;
    ground.database.all_done(LIMIT).await;
    let rows = ground.database.rows().await;
    let (lost, kept): (Vec<&Row>, Vec<&Row>) =
        rows.iter().partition(|row| row.err().contains("orphaned"));
    assert_eq!((lost.len(), kept.len()), (1, JOBS - 1));
    kept.into_iter().for_each(check_true);
    assert_eq!(lost[0].verdict(), ("done", Some("fail"), None, None));
    ground.witness.assert_each_once(ids);
    let log = jobd.process.log();
    let told = log.lines().any(|line| {
        let file = ground.journal().display().to_string();
        line.contains("the journal is damaged") && line.contains(&file) && line.contains("offset=")
    });
    assert!(told, "{log}");
}

#[tokio::test]
async fn an_end_whose_row_was_given_away_meanwhile_is_superseded() {
    let mut ground = Ground::new(Table::Full).await;
    let jobd = ground.start().await;
    let ids = ground
        .run_jobs(&jobd, async |ground| ground.server.kill())
        .await;
    journaled(&jobd, JOBS).await;
    power_fails(jobd).await;
    ground.server.start_again().await;
    let again = format!(
        "UPDATE jobs SET status = 'waiting', worker = NULL, lease_until = NULL WHERE id = {}",
        ids[0]
    );
    ground.database.run(&again).await;
    let jobd = ground.start().await;
    ground.database.all_done(LIMIT).await;
    for row in ground.database.rows().await {
        check_true(&row);
    }
    let runs = ground.witness.runs();
    assert!(
        ids.iter()
            .all(|id| runs[id] == if *id == ids[0] { 2 } else { 1 }),
        "{runs:?}"
    );
    let log = jobd.process.log();
    assert!(log.contains("its result is superseded"), "{log}");
}

#[tokio::test]
async fn a_kept_end_replaces_the_verdict_that_others_came_to() {
    let mut ground = Ground::new(Table::Full).await;
    let once = "ALTER TABLE jobs ALTER max_attempts SET DEFAULT 1";
    ground.database.run(once).await;
    ground.ini = ground.ini.clone().set("lease", 3);
    let jobd = ground.start().await;
    let ids = ground
        .run_jobs(&jobd, async |ground| ground.server.kill())
        .await;
    journaled(&jobd, JOBS).await;
    power_fails(jobd).await;
    ground.server.start_again().await;
    let other = Ini::worker(&ground.database)
        .set("name", "w2")
        .set("lease", 3);
    let _other = Jobd::start(&ground.scratch, &other).await;
    ground.database.all_done(LIMIT).await;
    for row in ground.database.rows().await {
        assert!(row.err().contains("orphaned"), "{}", row.err());
    }
    let _jobd = ground.start().await;
    until("the true ends", PATIENCE, async || {
        let rows = ground.database.rows().await;
        let replaced = rows.iter().all(|row| !row.err().contains("orphaned"));
        replaced.then_some(())
    })
    .await;
    ground.check_all_true(&ids).await;
}

#[tokio::test]
async fn a_second_worker_of_the_name_leaves_the_journal_of_a_live_one_alone() {
    let mut ground = Ground::new(Table::Minimal).await;
    let jobd = ground.start().await;
    let mut locks = ground.database.pool.begin().await.expect("a transaction");
    let ids = ground
        .run_jobs(&jobd, async |_| {
            sqlx::raw_sql("SELECT id FROM jobs FOR UPDATE")
                .execute(&mut *locks)
                .await
                .expect("lock every row");
        })
        .await;
    journaled(&jobd, JOBS).await;
    let before = fs::read(ground.journal()).expect("a journal");
    let other = ground.ini.clone().set("port", Ini::listen().port());
    let second = Jobd::ready(&ground.scratch, &other).await;
    journaled(&second, 0).await;
    assert!(second.stop().await.success());
    assert_eq!(fs::read(ground.journal()).expect("a journal"), before);
    locks.rollback().await.expect("let go");
    ground.check_all_true(&ids).await;
    assert!(jobd.stop().await.success());
}

/// A journal that cannot be written costs what a dead worker always cost, and nothing else: no job fails for it, and
/// no row says something wrong.
#[tokio::test]
async fn without_room_for_the_journal_ends_are_lost_with_the_worker_and_none_is_wrong() {
    let mut ground = Ground::new(Table::Minimal).await;
    let disk = Disk::mount(&ground.state, &ground.scratch).await;
    let program = if let Some(disk) = &disk {
        disk.program("jobd")
    } else {
        // What nobody can write to, not even root.
        fs::create_dir(ground.journal()).expect("a folder in its place");
        programs::path("jobd")
    };
    ground.ini = ground.ini.clone().set("launcher", loud(&ground));
    let mut jobd = Daemon::launch(&program, &ground.scratch, &ground.ini);
    jobd.listening().await;
    let ids = ground
        .run_jobs(&jobd, async |ground| {
            disk.iter().for_each(Disk::fill);
            ground.server.kill();
        })
        .await;
    until("a word about it", PATIENCE, async || {
        let file = ground.journal().display().to_string();
        let log = jobd.process.log();
        let told = log
            .lines()
            .filter(|line| line.contains("cannot use the journal") && line.contains(&file));
        (told.count() == 1).then_some(())
    })
    .await;
    journaled(&jobd, 0).await;
    // Alive, it loses nothing.
    ground.server.start_again().await;
    ground.check_all_true(&ids).await;
    ground.database.run("DELETE FROM jobs").await;

    let more = ground
        .run_jobs(&jobd, async |ground| ground.server.kill())
        .await;
    journaled(&jobd, 0).await;
    power_fails(jobd).await;
    ground.server.start_again().await;
    let mut jobd = Daemon::launch(&program, &ground.scratch, &ground.ini);
    jobd.listening().await;
    ground.database.all_done(LIMIT).await;
    for row in ground.database.rows().await {
        assert_eq!(row.verdict(), ("done", Some("fail"), None, None));
        assert!(row.err().contains("orphaned"), "{}", row.err());
    }
    ground.witness.assert_each_once(ids.into_iter().chain(more));
    assert!(Path::new(&ground.state).exists() && jobd.stop().await.success());
}
