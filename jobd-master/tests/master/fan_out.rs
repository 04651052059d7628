//! Requests to several workers: each gets its own part, and costs only its own part.

use std::time::{Duration, Instant};

use jobd_proto::RequestError;
use jobd_proto::worker::WorkerRequest;
use serde_json::{Value, json};

use crate::played::{Master, status_of_a_worker};

#[tokio::test]
async fn pause_and_continue_give_each_worker_its_own_targets() {
    let master = Master::start().await;
    let mut one = master.worker("one", &["a", "b"]).await;
    let mut two = master.worker("two", &["b", "c"]).await;
    let client = master.client().await;
    for kind in ["pause", "continue"] {
        let (answer, (), ()) = tokio::join!(
            client.ask(kind, json!({"targets": ["b", "a", "nobody"]})),
            one.expect(kind, json!({"targets": ["b", "a"]})),
            two.expect(kind, json!({"targets": ["b"]})),
        );
        assert_eq!(answer, "ok");
        let (answer, ()) = tokio::join!(
            client.ask(kind, json!({"targets": ["c"]})),
            two.expect(kind, json!({"targets": ["c"]})),
        );
        assert_eq!(answer, "ok");
        let (answer, (), ()) = tokio::join!(
            client.ask(kind, json!({})),
            one.expect(kind, Value::Null),
            two.expect(kind, Value::Null),
        );
        assert_eq!(answer, "ok");
        assert_eq!(client.ask(kind, json!({"targets": ["nobody"]})).await, "ok");
    }
}

#[tokio::test]
async fn a_limit_is_set_on_all_workers_of_a_target_or_on_those_of_one_name() {
    let master = Master::start().await;
    let mut one = master.worker("one", &["a", "user/*"]).await;
    let mut two = master.worker("two", &["a", "c"]).await;
    let client = master.client().await;
    let kind = "set-target-concurrency";
    let data = json!({"target": "a", "concurrency": 5});
    let (answer, (), ()) = tokio::join!(
        client.ask(kind, data.clone()),
        one.expect(kind, data.clone()),
        two.expect(kind, data.clone()),
    );
    assert_eq!(answer, "ok");
    let on_two = json!({"target": "a", "concurrency": 5, "worker": "two"});
    let (answer, ()) = tokio::join!(client.ask(kind, on_two.clone()), two.expect(kind, data));
    assert_eq!(answer, "ok");
    // A name of a pattern is served, too.
    let name = json!({"target": "user/7", "concurrency": 2});
    let (answer, ()) = tokio::join!(client.ask(kind, name.clone()), one.expect(kind, name));
    assert_eq!(answer, "ok");
    for (data, error) in [
        (
            json!({"target": "x", "concurrency": 5}),
            "worker serving target 'x' not found",
        ),
        (
            json!({"target": "c", "concurrency": 5, "worker": "one"}),
            "worker 'one' serving target 'c' not found",
        ),
    ] {
        assert_eq!(client.refused(kind, data).await, error);
    }
    let (error, ()) = tokio::join!(client.refused(kind, on_two), async {
        let (_, incoming) = two.next().await;
        let refusal = RequestError::new("unknown request type: 'set-target-concurrency'");
        incoming.respond(Err(refusal));
    });
    assert!(
        error.starts_with("done on 0 of 1 workers; worker 'two' (127.0.0.1:"),
        "{error}"
    );
    assert!(
        error.ends_with(": unknown request type: 'set-target-concurrency'"),
        "{error}"
    );
}

#[tokio::test]
async fn a_pause_that_some_did_not_do_says_on_how_many_it_worked() {
    let master = Master::start().await;
    let hangs = master.worker("hangs", &["a"]).await;
    let _works = master.worker("works", &["a"]).await.serve(|_| "ok".into());
    let mut refuses = master.worker("refuses", &["a"]).await;
    let mut dies = master.worker("dies", &["a"]).await;
    let client = master.client().await;
    let begun = Instant::now();
    let (error, (), ()) = tokio::join!(
        client.refused("pause", json!({"targets": ["a"]})),
        async {
            let (_, incoming) = refuses.next().await;
            incoming.respond(Err(RequestError::new("invalid target 'a'")));
        },
        async {
            dies.next().await;
            dies.connection.close();
        },
    );
    let took = begun.elapsed();
    assert!(
        took > Duration::from_secs(4) && took < Duration::from_secs(9),
        "{took:?}"
    );
    assert!(error.starts_with("done on 1 of 4 workers; "), "{error}");
    let hangs_at = hangs.connection.clone();
    for part in [
        "worker 'hangs' (127.0.0.1:",
        "did not answer within 5 s",
        "worker 'refuses' (127.0.0.1:",
        ": invalid target 'a'",
        "worker 'dies' (127.0.0.1:",
        "disconnected before answering",
    ] {
        assert!(error.contains(part), "{part:?} in {error}");
    }
    assert!(
        !hangs_at.is_closed(),
        "it may be busy, it is not dropped for that"
    );
}

#[tokio::test]
async fn a_worker_that_is_closing_its_old_connection_does_not_spoil_a_pause() {
    let master = Master::start().await;
    let mut old = master.worker("w", &["a"]).await;
    // A request of the master keeps the old connection open while it closes.
    let client = master.client().await;
    client.poke(&["a"]).await;
    let (_, unanswered) = old.next().await;
    let mut new = master.worker("w", &["a", "b"]).await;
    master.lists(&["w", "w"]).await;
    old.connection.close_when_idle();
    let (answer, ()) = tokio::join!(
        client.ask("pause", json!({"targets": ["a"]})),
        new.expect("pause", json!({"targets": ["a"]})),
    );
    assert_eq!(answer, "ok");
    unanswered.respond(Ok("ok".into()));
    master.lists(&["w"]).await;
}

#[tokio::test]
async fn status_shows_each_worker_and_why_one_says_nothing() {
    let master = Master::start().await;
    let said = json!({
        "targets": {"a": {"paused": true, "concurrency": 2, "length": 3, "later": 1}},
        "jobPromisesCount": 4,
        "memoryUsage": {"rss": 1, "heapTotal": 2, "heapUsed": 3, "external": 4, "arrayBuffers": 5},
        "unknownYet": [1],
    });
    let answer = said.clone();
    let _works = master
        .worker("works", &["b", "a"])
        .await
        .serve(move |_| answer.clone());
    let _babbles = master.worker("babbles", &["a"]).await.serve(|_| 5.into());
    let hangs = master.worker("hangs", &["c"]).await;
    let client = master.client().await;

    let status = client.ask("status", json!({})).await;
    assert_eq!(status["workers"].as_array().unwrap().len(), 3);
    assert_eq!(status["workers"][0]["targets"], json!(["b", "a"]));
    assert_eq!(status["workers"][2]["remoteAddr"], "127.0.0.1");
    assert!(status["workers"][2]["remotePort"].is_u64());
    assert_eq!(status["workers"][0].get("workerStatus"), None);
    assert!(status["memoryUsage"]["rss"].as_u64().unwrap() > 100_000);

    let status = client.ask("status", json!({"poll_workers": true})).await;
    assert_eq!(status["workers"][0]["workerStatus"], said);
    assert_eq!(status["workers"][0].get("workerStatusError"), None);
    let error = |at: usize| status["workers"][at]["workerStatusError"].as_str().unwrap();
    assert!(error(1).contains("'babbles'") && error(1).contains("unreadable reply"));
    assert!(
        error(2).contains("did not answer within 5 s"),
        "{}",
        error(2)
    );
    drop(hangs);
}

#[tokio::test]
async fn a_signal_counts_as_sent_where_any_worker_sent_it() {
    let master = Master::start().await;
    let answers = |answer: Value| {
        move |request: WorkerRequest| match request {
            WorkerRequest::SendSignal { .. } => answer.clone(),
            _ => status_of_a_worker(),
        }
    };
    let _has_one = master
        .worker("has 1", &["a"])
        .await
        .serve(answers(json!({"1": true, "2": false, "99": true})));
    let _has_none = master
        .worker("has none", &["a", "b"])
        .await
        .serve(answers(json!({"1": false, "2": false, "3": false})));
    let mut dies = master.worker("dies", &["b", "c"]).await;
    let client = master.client().await;
    let jobs = json!({"jobs": [
        {"id": 1, "signal": 15, "target": "a"},
        {"id": 2, "signal": 9, "target": "a"},
        {"id": 3, "signal": 9, "target": "b"},
        {"id": 4, "signal": 9, "target": "c"},
        {"id": 5, "signal": 9, "target": "nobody"},
    ]});
    let (merged, ()) = tokio::join!(client.ask("send-signal", jobs), async {
        let (_, incoming) = dies.next().await;
        assert_eq!(incoming.request.data, json!({"jobs": {"3": 9, "4": 9}}));
        dies.connection.close();
    });
    let error = |id: &str| merged["errors"][id].as_str().unwrap_or_default();
    assert_eq!((&merged["1"], &merged["2"]), (&json!(true), &json!(false)));
    assert_eq!(merged["3"], false);
    assert!(error("3").contains("worker 'dies' (127.0.0.1:"), "{merged}");
    assert_eq!(merged.get("4"), None, "nobody knows");
    assert!(error("4").contains("disconnected before answering"));
    assert_eq!(error("5"), "worker serving target 'nobody' not found");
    assert_eq!(merged.get("99"), None, "nobody asked");
}
