//! Who is let in, who is pinged, who is dropped, and what a registration changes.

use std::time::{Duration, Instant};

use jobd_proto::{CallError, CloseReason, Secret};
use jobd_tests::wait::PATIENCE;
use jobd_tests::{Ini, Wire, until};
use serde_json::{Value, json};

use crate::played::{Client, Master, Worker};

#[tokio::test]
async fn a_worker_that_is_silent_for_three_intervals_is_dropped_and_nobody_else() {
    let master = Master::with(&Ini::listen().set("ping_interval", 1)).await;
    // The library answers pings by itself; these two answer none.
    let mut silent = Wire::connect(master.addr()).await;
    let idle = Wire::connect(master.addr()).await;
    let begun = Instant::now();
    silent
        .ask(
            "register-worker",
            json!({"name": "silent", "targets": ["a"]}),
        )
        .await;
    let _lives = master.worker("lives", &["a"]).await;
    master.lists(&["silent", "lives"]).await;
    master.lists(&["lives"]).await;
    let took = begun.elapsed();
    assert!(
        took > Duration::from_millis(2_500),
        "dropped after {took:?}"
    );
    assert_eq!(silent.next().await.as_deref(), Some("[2]"), "it was pinged");
    // Those who answer stay, and a client that said nothing all the while still is served and was
    // sent nothing.
    tokio::time::sleep(Duration::from_secs(4).saturating_sub(took)).await;
    master.lists(&["lives"]).await;
    let mut idle = idle;
    assert_eq!(idle.ask("poke", json!({})).await, "ok");
    assert_eq!(idle.unread(), "");
    let log = master.daemon.process.log();
    assert!(log.contains("worker 'silent' (127.0.0.1:"), "{log}");
    assert!(log.contains("is gone: peer was silent for 3s"), "{log}");
}

#[tokio::test]
async fn a_registration_replaces_the_former_one_of_its_connection() {
    let master = Master::start().await;
    let mut worker = master.worker("before", &["a", "b"]).await;
    worker.register("after", &["b", "c"]).await;
    let client = master.client().await;
    let status = client.ask("status", Value::Null).await;
    let workers = status["workers"].as_array().unwrap();
    assert_eq!(workers.len(), 1, "{status}");
    assert_eq!(workers[0]["name"], "after");
    assert_eq!(workers[0]["targets"], json!(["b", "c"]));
    client.poke(&["a", "c"]).await;
    worker.expect("poll", json!({"targets": ["c"]})).await;
    // The poke for the target that it serves no longer is remembered.
    worker.register("after", &["a"]).await;
    worker.expect("poll", json!({"targets": ["a"]})).await;
}

#[tokio::test]
async fn a_registration_on_a_new_connection_lists_both_until_the_old_one_is_closed() {
    let master = Master::start().await;
    let old = master.worker("w", &["a"]).await;
    let _new = master.worker("w", &["a", "b"]).await;
    master.lists(&["w", "w"]).await;
    old.connection.close_when_idle();
    master.lists(&["w"]).await;
    let status = master.client().await.ask("status", Value::Null).await;
    assert_eq!(status["workers"][0]["targets"], json!(["a", "b"]));
}

#[tokio::test]
async fn the_first_request_needs_the_password_and_a_worker_needs_no_other() {
    let master = Master::with(&Ini::listen().set("password", "both know it")).await;
    let stranger = master.client().await;
    let error = stranger.refused("status", Value::Null).await;
    assert_eq!(error, "invalid password");
    until("the connection to be closed", PATIENCE, async || {
        stranger.connection.is_closed().then_some(())
    })
    .await;
    let impostor = Worker::connect(master.addr()).await;
    let data = json!({"name": "impostor", "targets": ["a"]});
    let answer = impostor
        .connection
        .request("register-worker", data, None)
        .await;
    assert_eq!(
        answer,
        Err(CallError::Refused("invalid password".to_owned()))
    );

    let password = Secret::new("both know it");
    let mut worker = Worker::connect(master.addr()).await;
    let data = json!({"name": "w", "targets": ["a"]});
    let answer = worker
        .connection
        .request("register-worker", data, Some(&password))
        .await;
    assert_eq!(answer, Ok("ok".into()));
    let client = Client::connect(master.addr()).await;
    let status = client
        .connection
        .request("status", Value::Null, Some(&password))
        .await
        .unwrap();
    assert_eq!(status["workers"].as_array().unwrap().len(), 1);
    client.poke(&["a"]).await;
    worker.expect("poll", json!({"targets": ["a"]})).await;
    let log = master.daemon.process.log();
    assert!(!log.contains("both know it"), "{log}");
}

#[tokio::test]
async fn registered_workers_are_never_closed_to_make_room() {
    let master = Master::with(&Ini::listen().set("max_connections", 3)).await;
    let worker = master.worker("w", &["a"]).await;
    let first = master.client().await;
    first.poke(&["x"]).await;
    for _ in 0..5 {
        // Each makes room for the next one.
        master.client().await.poke(&["x"]).await;
    }
    assert_eq!(first.connection.closed().await, CloseReason::Peer);
    assert!(!worker.connection.is_closed());
    master.lists(&["w"]).await;
}
