//! Manual runs: split over workers, merged, and never lost by one of them.

use std::time::Duration;

use jobd_proto::RequestError;
use jobd_proto::worker::{RunManualReply, WorkerRequest};
use serde_json::{Value, json};

use crate::played::{Master, Worker};

fn outcome(text: &str) -> Value {
    json!({"result": "ok", "code": 0, "signal": null, "stdout": text, "stderr": ""})
}

fn jobs(ids: impl IntoIterator<Item = u64>, target: &str) -> Value {
    let jobs: Vec<_> = ids
        .into_iter()
        .map(|id| json!({"id": id, "target": target}))
        .collect();
    json!({ "jobs": jobs })
}

/// Runs every job that it is asked for at once; its output is the worker's name.
fn runs_all(name: &'static str) -> impl Fn(WorkerRequest) -> Value {
    move |request| match request {
        WorkerRequest::RunManual { ids } => {
            let jobs: serde_json::Map<_, _> = ids
                .iter()
                .map(|id| (id.to_string(), outcome(name)))
                .collect();
            json!({ "jobs": jobs })
        }
        _ => "ok".into(),
    }
}

async fn asked_to_run(worker: &mut Worker) -> (Vec<u64>, jobd_proto::IncomingRequest) {
    let (request, incoming) = worker.next().await;
    let WorkerRequest::RunManual { ids } = request else {
        panic!("{request:?}");
    };
    (ids.iter().map(|id| id.0).collect(), incoming)
}

#[tokio::test]
async fn jobs_are_spread_over_the_workers_of_their_target() {
    let master = Master::start().await;
    for name in ["one", "two", "three"] {
        master.worker(name, &["a"]).await.serve(runs_all(name));
    }
    master
        .worker("other", &["b"])
        .await
        .serve(runs_all("other"));
    let client = master.client().await;
    let merged = client.ask("run-manual", jobs(1..=9, "a")).await;
    assert_eq!(merged.get("errors"), None);
    let merged: RunManualReply = serde_json::from_value(merged).unwrap();
    for name in ["one", "two", "three"] {
        let ran = merged.jobs.values().filter(|job| job.stdout == name);
        assert_eq!(ran.count(), 3, "{merged:?}");
    }
    assert_eq!(
        client.ask("run-manual", json!({"jobs": []})).await,
        json!({})
    );
}

#[tokio::test]
async fn what_the_workers_say_is_merged_job_by_job() {
    let master = Master::start().await;
    let mut one = master.worker("one", &["a"]).await;
    let mut two = master.worker("two", &["b"]).await;
    let mut refuses = master.worker("refuses", &["c"]).await;
    let client = master.client().await;
    let wanted = json!({"jobs": [
        {"id": 1, "target": "a"}, {"id": 2, "target": "b"}, {"id": 3, "target": "a"},
        {"id": 3, "target": "a"}, {"id": 4, "target": "c"}, {"id": 5, "target": "x"},
        {"id": 6, "target": "b"}, {"id": 7, "target": "c"},
    ]});
    let (merged, (), (), ()) = tokio::join!(
        client.ask("run-manual", wanted),
        async {
            let (ids, incoming) = asked_to_run(&mut one).await;
            assert_eq!(ids, [1, 3]);
            incoming.respond(Ok(
                json!({"jobs": {"1": outcome("eins")}, "errors": {"3": "job 3 not found"}}),
            ));
        },
        async {
            let (ids, incoming) = asked_to_run(&mut two).await;
            assert_eq!(ids, [2, 6]);
            // It forgets one and brings one that it was not asked for.
            incoming.respond(Ok(
                json!({"jobs": {"2": outcome("zwei"), "99": outcome("")}}),
            ));
        },
        async {
            let (_, incoming) = asked_to_run(&mut refuses).await;
            let error = "another client is already waiting for job 7";
            incoming.respond(Err(RequestError::new(error)));
        },
    );
    assert_eq!(
        merged["jobs"],
        json!({"1": outcome("eins"), "2": outcome("zwei")})
    );
    let errors = merged["errors"].as_object().unwrap();
    assert_eq!(errors.len(), 5, "{errors:?}");
    assert_eq!(errors["3"], "job 3 not found");
    assert_eq!(errors["5"], "worker serving target 'x' not found");
    for id in ["4", "7"] {
        let error = errors[id].as_str().unwrap();
        assert!(error.starts_with("worker 'refuses' (127.0.0.1:"), "{error}");
        assert!(
            error.ends_with("): another client is already waiting for job 7"),
            "{error}"
        );
    }
    assert!(errors["6"].as_str().unwrap().contains("did not mention it"));
}

#[tokio::test]
async fn a_worker_that_disconnects_costs_its_own_jobs_alone() {
    let master = Master::start().await;
    let mut dies = master.worker("web3", &["a"]).await;
    master
        .worker("works", &["b"])
        .await
        .serve(runs_all("works"));
    let client = master.client().await;
    let wanted = json!({"jobs": [
        {"id": 1, "target": "a"}, {"id": 2, "target": "b"}, {"id": 3, "target": "a"},
    ]});
    let address = dies.connection.clone();
    let (merged, ()) = tokio::join!(client.ask("run-manual", wanted), async {
        asked_to_run(&mut dies).await;
        dies.connection.close();
    });
    drop(address);
    assert_eq!(merged["jobs"], json!({"2": outcome("works")}));
    for id in ["1", "3"] {
        let error = merged["errors"][id].as_str().unwrap();
        assert!(error.starts_with("worker 'web3' (127.0.0.1:"), "{error}");
        assert!(
            error.ends_with(") disconnected before answering; look at the row"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn jobs_refused_by_a_closing_connection_go_to_the_next_one() {
    let master = Master::start().await;
    let client = master.client().await;
    let mut old = master.worker("w", &["a"]).await;
    client.poke(&["a"]).await;
    let (_, unanswered) = old.next().await;
    let new = master.worker("w", &["a", "b"]).await;
    old.connection.close_when_idle();
    new.serve(runs_all("new"));
    let merged = client.ask("run-manual", jobs(1..=4, "a")).await;
    assert_eq!(merged.get("errors"), None, "{merged}");
    let merged: RunManualReply = serde_json::from_value(merged).unwrap();
    assert!(
        merged.jobs.values().all(|job| job.stdout == "new"),
        "{merged:?}"
    );
    assert_eq!(merged.jobs.len(), 4);
    unanswered.respond(Ok("ok".into()));
}

#[tokio::test]
async fn jobs_go_on_when_the_client_goes_away() {
    let master = Master::start().await;
    let mut worker = master.worker("w", &["a"]).await;
    let client = master.client().await;
    let waits = tokio::spawn({
        let client = client.clone();
        async move { client.try_ask("run-manual", jobs([1], "a")).await }
    });
    let (_, first) = asked_to_run(&mut worker).await;
    client.connection.close();
    waits.await.unwrap().unwrap_err();
    // The worker is not disturbed, its answer is taken, and it is asked again.
    let other = master.client().await;
    let again = tokio::spawn(async move { other.ask("run-manual", jobs([2], "a")).await });
    let (ids, second) = asked_to_run(&mut worker).await;
    assert_eq!(ids, [2]);
    first.respond(Ok(json!({"jobs": {"1": outcome("nobody reads this")}})));
    second.respond(Ok(json!({"jobs": {"2": outcome("still here")}})));
    assert_eq!(again.await.unwrap()["jobs"]["2"]["stdout"], "still here");
    assert!(!worker.connection.is_closed());
}

#[tokio::test]
async fn one_client_may_wait_for_a_run_and_ask_for_more_meanwhile() {
    let master = Master::start().await;
    let mut worker = master.worker("w", &["a"]).await;
    let client = master.client().await;
    let run = tokio::spawn({
        let client = client.clone();
        async move { client.ask("run-manual", jobs([1], "a")).await }
    });
    let (_, incoming) = asked_to_run(&mut worker).await;
    assert_eq!(client.listed().await, ["w"]);
    client.poke(&["nobody"]).await;
    incoming.respond(Ok(json!({"jobs": {"1": outcome("")}})));
    run.await.unwrap();
}

#[tokio::test]
async fn outputs_too_long_for_one_reply_are_shortened_under_load() {
    // Each takes six bytes on the wire: 132 MiB there, which two times over is too much.
    const TEXT: &str = "\u{1}";
    const LENGTH: usize = 22 << 20;
    let master = Master::start().await;
    for name in ["one", "two"] {
        master
            .worker(name, &["a"])
            .await
            .serve(|request| match request {
                WorkerRequest::RunManual { ids } => {
                    let jobs = ids
                        .iter()
                        .map(|id| (id.to_string(), outcome(&TEXT.repeat(LENGTH))));
                    json!({ "jobs": jobs.collect::<serde_json::Map<_, _>>() })
                }
                _ => "ok".into(),
            });
    }
    let mut small = master.worker("small", &["b"]).await;
    let client = master.client().await;
    let wanted = json!({"jobs": [
        {"id": 1, "target": "a"}, {"id": 2, "target": "a"}, {"id": 3, "target": "b"},
    ]});
    // A build without optimisation on a busy machine takes its time for a quarter of a gigabyte.
    let run = client.connection.request("run-manual", wanted, None);
    let run = tokio::time::timeout(Duration::from_mins(2), run);
    let (merged, ()) = tokio::join!(run, async {
        let (_, incoming) = asked_to_run(&mut small).await;
        incoming.respond(Ok(json!({"jobs": {"3": outcome("short")}})));
    });
    let merged = merged.unwrap().unwrap();
    assert_eq!(
        merged["jobs"]["3"]["stdout"], "short",
        "small ones stay whole"
    );
    for id in ["1", "2"] {
        let text = merged["jobs"][id]["stdout"].as_str().unwrap();
        assert!(
            text.len() < LENGTH && text.len() > LENGTH / 2,
            "{}",
            text.len()
        );
        assert!(text.ends_with("bytes left out of this reply; the table has them]\n"));
    }
}
