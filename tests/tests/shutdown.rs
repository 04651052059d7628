//! The end of a daemon: what runs may finish, what did not start is given back, nothing stays
//! `accepted` or `running`, and the exit code is 0.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use jobd_tests::programs::Daemon;
use jobd_tests::server::Durability;
use jobd_tests::{Database, Ini, Jobd, Master, Scratch, Server, WitnessLog, until};
use rustix::process::Signal;
use serde_json::json;

struct World {
    scratch: Scratch,
    witness: WitnessLog,
    database: Database,
}

impl World {
    async fn new() -> Self {
        Self::on(&*Server::shared().await).await
    }

    async fn on(server: &Server) -> Self {
        let scratch = Scratch::new();
        let database = server.database().await;
        database.minimal_table().await;
        Self {
            witness: WitnessLog::new(&scratch),
            scratch,
            database,
        }
    }

    fn ini(&self, millis: u32) -> Ini {
        Ini::worker(&self.database)
            .set("poll_interval", 0)
            .set("launcher", self.witness.launcher("w", millis, 1))
            .target("a", 2)
    }

    /// Starts a worker and waits until two of its jobs run.
    async fn busy(&self, ini: &Ini) -> Daemon {
        let jobd = Jobd::start(&self.scratch, ini).await;
        jobd.ask("poll", json!({})).await;
        until("two running jobs", Duration::from_secs(20), async || {
            (self.witness.running() == 2).then_some(())
        })
        .await;
        jobd
    }
}

fn counts(expected: &[(&str, u64)]) -> BTreeMap<String, u64> {
    expected
        .iter()
        .map(|(status, n)| ((*status).to_owned(), *n))
        .collect()
}

#[tokio::test]
async fn running_jobs_end_and_unstarted_rows_go_back() {
    for signal in [Signal::TERM, Signal::INT] {
        let world = World::new().await;
        world.database.insert(10, "a", "waiting").await;
        let mut jobd = world.busy(&world.ini(1_500)).await;
        jobd.process.signal(signal);
        let status = jobd.process.wait(Duration::from_secs(20)).await;
        assert_eq!(status.code(), Some(0), "{signal:?}");
        assert_eq!(
            world.database.counts().await,
            counts(&[("done", 2), ("waiting", 8)])
        );
        for row in world
            .database
            .rows()
            .await
            .iter()
            .filter(|row| row.status == "done")
        {
            assert_eq!(row.verdict(), ("done", Some("ok"), Some(0), None));
            assert_eq!(row.out(), format!("out {}\n", row.id));
        }
        // What was given back is as it was inserted.
        for row in world
            .database
            .rows()
            .await
            .iter()
            .filter(|row| row.status == "waiting")
        {
            assert_eq!(
                (row.time_started, row.stderr.as_deref()),
                (0, None),
                "{row:?}"
            );
        }
        assert_eq!(world.witness.runs().len(), 2);
    }
}

#[tokio::test]
async fn a_waiting_client_gets_its_answer_and_unstarted_manual_rows_stay_manual() {
    unstarted_manual_rows_stay_manual(World::new().await).await;
}

/// What is written behind a COMMIT must not wait for another one, which never comes.
#[tokio::test]
async fn the_same_on_a_server_that_begins_transactions_by_itself() {
    let settings = ["--completion-type=CHAIN"];
    let server = Server::start(Durability::ThrowAway, &settings).await;
    unstarted_manual_rows_stay_manual(World::on(&server).await).await;
}

async fn unstarted_manual_rows_stay_manual(world: World) {
    world.database.insert(4, "a", "manual").await;
    let mut jobd = Jobd::ready(&world.scratch, &world.ini(1_500)).await;
    let mut client = jobd.wire().await;
    client
        .say(r#"[0,{"no":1,"type":"run-manual","data":{"ids":[1,2,3,4]}}]"#)
        .await;
    until("two running jobs", Duration::from_secs(20), async || {
        (world.witness.running() == 2).then_some(())
    })
    .await;
    jobd.process.signal(Signal::TERM);
    let reply = client.response(1).await;
    let results = reply["data"]["jobs"].as_object().expect("two results");
    assert_eq!(results.len(), 2, "{reply}");
    assert!(results.values().all(|job| job["result"] == "ok"), "{reply}");
    let errors = reply["data"]["errors"].as_object().expect("two errors");
    assert_eq!(errors.len(), 2, "{reply}");
    assert_eq!(
        jobd.process.wait(Duration::from_secs(20)).await.code(),
        Some(0)
    );
    assert_eq!(
        world.database.counts().await,
        counts(&[("done", 2), ("manual", 2)])
    );
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let world = World::new().await;
    world.database.insert(5, "a", "waiting").await;
    let mut jobd = world.busy(&world.ini(100_000)).await;
    jobd.process.signal(Signal::TERM);
    // Two that come at once would be one.
    until(
        "the first signal to be heard",
        Duration::from_secs(20),
        async || jobd.process.log().contains("draining").then_some(()),
    )
    .await;
    until(
        "the rows that did not start to be back",
        Duration::from_secs(20),
        async || (world.database.counts().await.get("waiting") == Some(&3)).then_some(()),
    )
    .await;
    assert!(
        jobd.process.ended().is_none(),
        "it did not wait for its jobs"
    );
    let begun = Instant::now();
    jobd.process.signal(Signal::TERM);
    let status = jobd.process.wait(Duration::from_secs(20)).await;
    assert_eq!(status.code(), Some(0));
    assert!(
        begun.elapsed() < Duration::from_secs(12),
        "{:?}",
        begun.elapsed()
    );
    assert_nothing_is_left(&world).await;
}

#[tokio::test]
async fn the_drain_has_a_limit() {
    let world = World::new().await;
    world.database.insert(5, "a", "waiting").await;
    let ini = world.ini(100_000).set("drain_timeout", 1);
    let mut jobd = world.busy(&ini).await;
    let begun = Instant::now();
    jobd.process.signal(Signal::TERM);
    let status = jobd.process.wait(Duration::from_secs(20)).await;
    assert_eq!(status.code(), Some(0));
    assert!(
        begun.elapsed() >= Duration::from_secs(1),
        "{:?}",
        begun.elapsed()
    );
    assert_nothing_is_left(&world).await;
}

/// No row pretends that somebody has it, and no process of a job is left.
async fn assert_nothing_is_left(world: &World) {
    let counts = world.database.counts().await;
    assert!(
        !counts.contains_key("accepted") && !counts.contains_key("running"),
        "{counts:?}"
    );
    for event in world.witness.events() {
        let gone = async || {
            (!std::path::Path::new(&format!("/proc/{}", event.pid)).exists()).then_some(())
        };
        until("the job's process to be gone", Duration::from_secs(5), gone).await;
    }
}

#[tokio::test]
async fn an_idle_worker_and_a_master_end_at_once() {
    let world = World::new().await;
    for signal in [Signal::TERM, Signal::INT] {
        let jobd = Jobd::start(&world.scratch, &world.ini(1)).await;
        let master = Master::start(&world.scratch, &Ini::listen()).await;
        for mut daemon in [jobd, master] {
            // An idle client does not hold it.
            let mut client = daemon.wire().await;
            assert_eq!(
                client.ask("status", json!({})).await["memoryUsage"]["external"],
                0
            );
            let begun = Instant::now();
            daemon.process.signal(signal);
            let status = daemon.process.wait(Duration::from_secs(20)).await;
            assert_eq!(status.code(), Some(0));
            assert!(
                begun.elapsed() < Duration::from_secs(5),
                "{:?}",
                begun.elapsed()
            );
            client.closed().await;
        }
    }
}
