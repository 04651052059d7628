//! A job that a worker has taken, and that waits there for a slot, followed through a master of two workers.

use std::time::Duration;

use jobd_tests::programs::Daemon;
use jobd_tests::wait::PATIENCE;
use jobd_tests::{Jobd, Master, Wire};
use rustix::process::Signal;
use serde_json::json;

use crate::client::Following;
use crate::world::World;

/// More than it takes the master to ask its workers several times.
const WHILE: Duration = Duration::from_secs(2);

/// A worker whose slot is taken, one that serves something else, and their master.
struct Full {
    world: World,
    master: Daemon,
    holder: Daemon,
    other: Daemon,
    /// Waits for the slot.
    queued: u64,
    /// Waits for that job.
    _client: Wire,
}

/// Has a worker run a job; whoever waits for that job.
async fn run(worker: &Daemon, id: u64) -> Wire {
    let mut client = worker.wire().await;
    let request = json!([0, {"no": 1, "type": "run-manual", "data": {"ids": [id]}}]);
    client.say(&request.to_string()).await;
    client
}

impl Full {
    async fn new() -> Self {
        let world = World::new().await;
        let ini = || world.script("wait $1; echo job $1");
        let first = ini().set("name", "w1").target("b", 1);
        let (master, holder) = world.with_master(first).await;
        let second = ini()
            .set("name", "w2")
            .set("master_host", "127.0.0.1")
            .set("master_port", master.addr.port())
            .target("other", 1);
        let other = Jobd::ready(&world.scratch, &second).await;
        Master::has_workers(&master, 2).await;
        let running = world.database.insert_one("b", "waiting").await;
        holder.ask("poll", json!({})).await;
        world.database.reaches(running, "running").await;
        let queued = world.database.insert_one("b", "manual").await;
        let client = run(&holder, queued).await;
        world.database.reaches(queued, "accepted").await;
        Self {
            world,
            master,
            holder,
            other,
            queued,
            _client: client,
        }
    }

    /// Somebody who waits for its start, and was told that it is in the queue.
    async fn follower(&self) -> Following {
        let data = json!({"id": self.queued, "wait": true});
        let mut follower = Following::begin(self.master.addr, data).await;
        follower.until(|seen| !seen.states.is_empty()).await;
        assert_eq!(follower.seen.states, [json!({"state": "accepted"})]);
        follower
    }
}

#[tokio::test]
async fn a_job_in_the_queue_of_one_of_two_workers_is_waited_for() {
    let full = Full::new().await;
    let mut follower = full.follower().await;
    let more = tokio::time::timeout(WHILE, follower.step()).await;
    assert!(more.is_err(), "nothing happens: {more:?}");
    full.world.go_on("1");
    full.world.go_on(&full.queued.to_string());
    assert_eq!(follower.last().await["state"], "done");
    assert_eq!(follower.seen.out(), format!("job {}\n", full.queued));
    let running = json!({"state": "running", "attempt": 1});
    assert_eq!(follower.seen.states.last(), Some(&running));
    assert!(full.other.stop().await.success());
}

#[tokio::test]
async fn the_death_of_the_worker_that_has_it_is_noticed() {
    let mut full = Full::new().await;
    let mut follower = full.follower().await;
    full.holder.process.kill();
    // Nobody knows what becomes of it, but who had it.
    let last = follower.last().await;
    let holder = last["worker"].as_str().expect("who has it");
    assert!(
        last["state"] == "accepted" && holder.starts_with("w1@"),
        "{last}"
    );
}

#[tokio::test]
async fn a_worker_that_stops_leaves_it_to_another_and_whoever_follows_sees_that_one_run_it() {
    let mut full = Full::new().await;
    let mut follower = full.follower().await;
    full.holder.process.signal(Signal::TERM);
    full.world.database.reaches(full.queued, "manual").await;
    full.world.go_on("1");
    assert!(full.holder.process.wait(PATIENCE).await.success());
    let target = json!({"target": "b", "concurrency": 1});
    full.other.ask("add-target", target).await;
    let _client = run(&full.other, full.queued).await;
    let running = json!({"state": "running", "attempt": 1});
    follower
        .until(|seen| seen.states.last() == Some(&running))
        .await;
    full.world.go_on(&full.queued.to_string());
    assert_eq!(follower.last().await["state"], "done");
    assert_eq!(follower.seen.out(), format!("job {}\n", full.queued));
}

#[tokio::test]
async fn a_look_at_its_row_that_fails_is_made_again() {
    let full = Full::new().await;
    let mut follower = full.follower().await;
    let database = &full.world.database;
    database.run("RENAME TABLE jobs TO away").await;
    // The second time because the worker that has it had to be asked again.
    follower.until(|seen| seen.states.len() == 2).await;
    database.run("RENAME TABLE away TO jobs").await;
    full.world.go_on("1");
    full.world.go_on(&full.queued.to_string());
    assert_eq!(follower.last().await["state"], "done");
    assert_eq!(follower.seen.out(), format!("job {}\n", full.queued));
}
