//! Who is polled for a poke, when, and with which targets.

use std::time::{Duration, Instant};

use jobd_tests::Ini;
use serde_json::{Value, json};

use crate::played::{Master, saw_nothing_more};

#[tokio::test]
async fn a_poke_reaches_exactly_those_who_serve_one_of_its_targets() {
    let master = Master::start().await;
    let mut one = master.worker("one", &["a", "b"]).await;
    let mut two = master.worker("two", &["b", "c"]).await;
    let mut three = master.worker("three", &["d"]).await;
    let client = master.client().await;
    client.poke(&["a", "b"]).await;
    one.expect("poll", json!({"targets": ["a", "b"]})).await;
    two.expect("poll", json!({"targets": ["b"]})).await;
    client.poke(&["d"]).await;
    three.expect("poll", json!({"targets": ["d"]})).await;
    saw_nothing_more(&mut [&mut one, &mut two, &mut three], &client).await;
}

#[tokio::test]
async fn a_poke_without_targets_polls_everybody_for_everything() {
    let master = Master::start().await;
    let mut one = master.worker("one", &["a", "b"]).await;
    let mut two = master.worker("two", &["b"]).await;
    let client = master.client().await;
    assert_eq!(client.ask("poke", Value::Null).await, "ok");
    one.expect("poll", Value::Null).await;
    two.expect("poll", Value::Null).await;
}

#[tokio::test]
async fn any_number_of_pokes_is_one_poll_at_once_and_one_after_the_interval() {
    let master = Master::with(&Ini::listen().set("poke_throttle_interval", "1.5")).await;
    let mut worker = master.worker("w", &["a", "b"]).await;
    let client = master.client().await;
    let begun = Instant::now();
    for _ in 0..100 {
        client.poke(&["a"]).await;
    }
    assert!(
        begun.elapsed() < Duration::from_millis(1_200),
        "too slow to tell"
    );
    worker.expect("poll", json!({"targets": ["a"]})).await;
    assert!(
        begun.elapsed() < Duration::from_millis(1_200),
        "the first is not throttled"
    );
    // Another target is throttled on its own.
    client.poke(&["b"]).await;
    worker.expect("poll", json!({"targets": ["b"]})).await;
    assert!(begun.elapsed() < Duration::from_millis(1_400));
    worker.expect("poll", json!({"targets": ["a"]})).await;
    assert!(
        begun.elapsed() >= Duration::from_millis(1_500),
        "the trailing one waits"
    );
    saw_nothing_more(&mut [&mut worker], &client).await;
}

#[tokio::test]
async fn zero_throttles_nothing() {
    let master = Master::with(&Ini::listen().set("poke_throttle_interval", "0")).await;
    let mut worker = master.worker("w", &["a"]).await;
    let client = master.client().await;
    for _ in 0..20 {
        client.poke(&["a"]).await;
        worker.expect("poll", json!({"targets": ["a"]})).await;
    }
    saw_nothing_more(&mut [&mut worker], &client).await;
}

#[tokio::test]
async fn pokes_for_targets_that_nobody_serves_wait_for_their_worker() {
    let master = Master::start().await;
    let client = master.client().await;
    client.poke(&["late", "later", "late"]).await;
    // Neither of these can ever be registered; they are not worth an error to the application.
    client.poke(&["", "null"]).await;
    let mut first = master.worker("first", &["x", "late"]).await;
    first.expect("poll", json!({"targets": ["late"]})).await;
    let mut second = master.worker("second", &["late", "later"]).await;
    second.expect("poll", json!({"targets": ["later"]})).await;
    saw_nothing_more(&mut [&mut first, &mut second], &client).await;
}

#[tokio::test]
async fn a_worker_with_a_pattern_is_polled_for_every_name_that_matches() {
    let master = Master::start().await;
    let client = master.client().await;
    client.poke(&["user/1", "users", "user/2"]).await;
    let mut pattern = master.worker("pattern", &["user/*", "mail"]).await;
    let (_, remembered) = pattern.next().await;
    assert_eq!(
        remembered.request.data,
        json!({"targets": ["user/1", "user/2"]}),
        "pokes that were remembered"
    );
    remembered.respond(Ok("ok".into()));
    let mut exact = master.worker("exact", &["user/7"]).await;
    client.poke(&["user/7", "other"]).await;
    pattern.expect("poll", json!({"targets": ["user/7"]})).await;
    exact.expect("poll", json!({"targets": ["user/7"]})).await;
    client.poke(&["user/*"]).await;
    pattern.expect("poll", json!({"targets": ["user/*"]})).await;
    let pause = tokio::spawn({
        let client = client.clone();
        async move { client.ask("pause", json!({"targets": ["user/8"]})).await }
    });
    pattern
        .expect("pause", json!({"targets": ["user/8"]}))
        .await;
    assert_eq!(pause.await.unwrap(), "ok");
    saw_nothing_more(&mut [&mut pattern, &mut exact], &client).await;
}

#[tokio::test]
async fn a_throttled_poke_survives_the_worker_it_was_meant_for() {
    let master = Master::with(&Ini::listen().set("poke_throttle_interval", "0.3")).await;
    let mut worker = master.worker("before", &["a"]).await;
    let client = master.client().await;
    client.poke(&["a"]).await;
    worker.expect("poll", json!({"targets": ["a"]})).await;
    client.poke(&["a"]).await;
    worker.connection.close();
    master.lists(&[]).await;
    // The interval ends while nobody serves the target.
    tokio::time::sleep(Duration::from_millis(350)).await;
    let mut worker = master.worker("after", &["a"]).await;
    worker.expect("poll", json!({"targets": ["a"]})).await;
}

#[tokio::test]
async fn a_poll_that_was_cut_off_is_repeated_by_whoever_serves_the_target_next() {
    let master = Master::with(&Ini::listen().set("poke_throttle_interval", "0.2")).await;
    let mut worker = master.worker("dies", &["a"]).await;
    let client = master.client().await;
    client.poke(&["a"]).await;
    let (_, unanswered) = worker.next().await;
    worker.connection.close();
    drop(unanswered);
    master.lists(&[]).await;
    let mut worker = master.worker("lives", &["a"]).await;
    worker.expect("poll", json!({"targets": ["a"]})).await;
}

#[tokio::test]
async fn a_worker_that_hangs_delays_no_poll_of_the_others() {
    let master = Master::with(&Ini::listen().set("poke_throttle_interval", "0")).await;
    let _hangs = master.worker("hangs", &["a"]).await;
    let mut works = master.worker("works", &["a"]).await;
    let client = master.client().await;
    let begun = Instant::now();
    // More than may wait for the answer of the one that hangs.
    for _ in 0..200 {
        client.poke(&["a"]).await;
        works.expect("poll", json!({"targets": ["a"]})).await;
    }
    assert!(
        begun.elapsed() < Duration::from_secs(4),
        "nobody waited for a deadline"
    );
}
