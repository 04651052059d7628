//! Links between worker and master whose other end is gone without a word: both sides notice within three
//! pings, and go on without each other until it is back.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use jobd_tests::chaos::line::{Line, Mode};
use jobd_tests::programs::Daemon;
use jobd_tests::wait::PATIENCE;
use jobd_tests::{Database, Ini, Jobd, Master, Scratch, Server, Wire, until};
use rustix::process::Signal;
use serde_json::json;
use tokio::net::TcpListener;

const PING: Duration = Duration::from_secs(1);

/// Three pings, and what a loaded machine may take to say so.
const LIMIT: Duration = Duration::from_millis(3_000 + 1_500);

struct World {
    scratch: Scratch,
    database: Database,
    master: Daemon,
    master_port: u16,
}

impl World {
    async fn new() -> Self {
        let scratch = Scratch::new();
        let database = Server::shared().await.database().await;
        database.minimal_table().await;
        let ini = Ini::listen().set("ping_interval", PING.as_secs());
        Self {
            master: Master::start(&scratch, &ini).await,
            scratch,
            database,
            master_port: ini.port(),
        }
    }

    async fn worker(&self, port: u16) -> Daemon {
        let jobd = Jobd::ready(&self.scratch, &worker(&self.database, port)).await;
        Master::has_workers(&self.master, 1).await;
        jobd
    }
}

fn worker(database: &Database, master_port: u16) -> Ini {
    Ini::worker(database)
        .set("poll_interval", "0.2")
        .set("master_host", "127.0.0.1")
        .set("master_port", master_port)
        .set("master_ping_interval", PING.as_secs())
        .set("master_reconnect_timeout", "0.3")
        .target("a", 1)
}

/// Waits until a daemon has said so, and returns how long that was after `since`.
async fn says(daemon: &Daemon, words: &str, since: Instant) -> Duration {
    until(&format!("the log to say {words:?}"), PATIENCE, async || {
        daemon.process.log().contains(words).then_some(())
    })
    .await;
    since.elapsed()
}

#[tokio::test]
async fn a_worker_finds_its_frozen_master_gone_within_three_pings_and_works_on_measured() {
    let mut world = World::new().await;
    let jobd = world.worker(world.master_port).await;
    world.master.process.signal(Signal::STOP);
    let frozen = Instant::now();
    let found = says(&jobd, "peer was silent for 3s", frozen).await;
    assert!(found < LIMIT, "{found:?}");
    let id = world.database.insert_one("a", "waiting").await;
    world.database.done(id).await;
    world.master.process.signal(Signal::CONT);
    // The one that it knew is gone, the new one is there.
    Master::has_workers(&world.master, 1).await;
    println!("found after {found:?}");
}

#[tokio::test]
async fn a_master_finds_a_frozen_worker_gone_within_three_pings_measured() {
    let world = World::new().await;
    let mut jobd = world.worker(world.master_port).await;
    jobd.process.signal(Signal::STOP);
    let frozen = Instant::now();
    let found = says(&world.master, "is gone: peer was silent for 3s", frozen).await;
    assert!(found < LIMIT, "{found:?}");
    Master::has_workers(&world.master, 0).await;
    jobd.process.signal(Signal::CONT);
    Master::has_workers(&world.master, 1).await;
    println!("found after {found:?}");
}

#[tokio::test]
async fn both_find_a_line_that_swallows_everything_within_three_pings_measured() {
    let world = World::new().await;
    let line = Line::start(([127, 0, 0, 1], world.master_port).into()).await;
    let jobd = world.worker(line.port).await;
    line.set(Mode::Stalled);
    let stalled = Instant::now();
    let (by_worker, by_master) = tokio::join!(
        says(&jobd, "peer was silent for 3s", stalled),
        says(&world.master, "is gone: peer was silent for 3s", stalled),
    );
    assert!(
        by_worker < LIMIT && by_master < LIMIT,
        "{by_worker:?} {by_master:?}"
    );
    line.set(Mode::Open);
    Master::has_workers(&world.master, 1).await;
    println!("found after {by_worker:?} by the worker, {by_master:?} by the master");
}

/// A played master: it answers the first registration and no other.
#[tokio::test]
async fn a_master_that_hangs_while_targets_change_is_served_on_the_old_link() {
    let scratch = Scratch::new();
    let database = Server::shared().await.database().await;
    database.minimal_table().await;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .expect("a port");
    let port = listener.local_addr().expect("its address").port();
    let ini = worker(&database, port).set("master_ping_interval", 30);
    let jobd = Jobd::start(&scratch, &ini).await;
    let accept = async || {
        let accepted = tokio::time::timeout(PATIENCE, listener.accept()).await;
        Wire::over(accepted.expect("a connection in time").expect("accept").0)
    };
    let mut first = accept().await;
    let registration = first.frame().await;
    assert!(registration.contains("register-worker"), "{registration}");
    let no = registration.split("\"no\":").nth(1).expect("a number");
    let no: String = no.chars().take_while(char::is_ascii_digit).collect();
    first
        .say(&format!(r#"[1,{{"no":{no},"data":"ok"}}]"#))
        .await;
    // Before it has read the answer, other targets end the try instead of making a second one.
    says(&jobd, "registered with the master", Instant::now()).await;
    let add = json!({"target": "b", "concurrency": 1});
    assert_eq!(jobd.ask("add-target", add).await, "ok");
    let mut second = accept().await;
    let registration = second.frame().await;
    assert!(registration.contains(r#""b""#), "{registration}");
    // It gets no answer; what comes on the old link does, at once and again.
    for _ in 0..3 {
        let asked = Instant::now();
        let status = first.ask("status", json!({})).await;
        assert!(status["targets"].get("b").is_some(), "{status}");
        assert!(
            asked.elapsed() < Duration::from_secs(5),
            "{:?}",
            asked.elapsed()
        );
    }
}
