//! Jobs of a worker that has been told to stop and waits for them.

use jobd_tests::programs::Daemon;
use jobd_tests::wait::PATIENCE;
use jobd_tests::{Ini, Jobd, Master, until};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::client::Following;
use crate::world::World;

/// What the master says of a job to somebody who begins to follow it now.
async fn last(master: &Daemon, id: u64) -> Value {
    let mut follower = Following::begin(master.addr, json!({"id": id})).await;
    follower.last().await
}

#[tokio::test]
async fn who_follows_sees_the_end_and_who_comes_later_is_told_who_has_the_job() {
    let world = World::new().await;
    let script = world
        .script("echo one; wait go; echo two")
        .set("name", "w1");
    let (master, mut jobd) = world.with_master(script).await;
    let other = Ini::worker(&world.database)
        .set("name", "w2")
        .set("master_host", "127.0.0.1")
        .set("master_port", master.addr.port())
        .target("other", 1);
    let other = Jobd::ready(&world.scratch, &other).await;
    Master::has_workers(&master, 2).await;
    let id = world.running(&jobd).await;
    let mut through = Following::begin(master.addr, json!({"id": id})).await;
    let mut direct = Following::begin(jobd.addr, json!({"id": id})).await;
    for follower in [&mut through, &mut direct] {
        follower.until(|seen| seen.out() == "one\n").await;
    }
    jobd.process.signal(Signal::TERM);
    until("the worker to wait for its job", PATIENCE, async || {
        jobd.process.log().contains("draining").then_some(())
    })
    .await;
    let said = last(&master, id).await;
    let holder = said["worker"].as_str().unwrap_or_default();
    assert!(
        said["state"] == "running" && holder.starts_with("w1@"),
        "{said}"
    );
    // The worker itself can still be asked.
    let mut late = Following::begin(jobd.addr, json!({"id": id})).await;
    late.until(|seen| seen.out() == "one\n").await;
    world.go_on("go");
    for follower in [&mut through, &mut direct, &mut late] {
        let done = json!({"state": "done", "result": "ok", "code": 0});
        assert_eq!(follower.last().await, done);
        assert_eq!(follower.seen.out(), "one\ntwo\n");
    }
    assert!(jobd.process.wait(PATIENCE).await.success());
    until("the row", PATIENCE, async || {
        (last(&master, id).await["state"] == "done").then_some(())
    })
    .await;
    assert!(other.stop().await.success());
}
