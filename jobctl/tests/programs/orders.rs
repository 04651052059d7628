//! Orders: what goes over the wire for them, and what is said.

use serde_json::{Value, json};

use crate::daemon::Daemon;
use crate::jobctl::ask;

/// Gives the order and checks the request that arrived and what people and programs are told.
async fn check(daemon: Daemon, arguments: &[&str], kind: &str, data: Value, said: &str) {
    let plain = ask(daemon.address, arguments).await;
    let said = said.replace("ADDRESS", &daemon.address.to_string());
    assert_eq!((plain.code, plain.stdout), (0, said), "{arguments:?}");
    let json: Vec<&str> = arguments.iter().copied().chain(["--json"]).collect();
    let json = ask(daemon.address, &json).await;
    assert_eq!((json.code, json.json()), (0, json!({"ok": true})));
    let request = (kind.to_owned(), data);
    let mut asked = daemon.asked();
    // Who serves what is looked up before a master is told of targets.
    asked.retain(|(kind, _)| kind != "status");
    assert_eq!(asked, [request.clone(), request], "{arguments:?}");
}

async fn worker() -> Daemon {
    Daemon::worker(Ok("ok".into())).await
}

async fn master() -> Daemon {
    let worker = json!({"remoteAddr": "10.0.0.1", "remotePort": 1, "name": "web1", "targets": ["a", "mail", "user/*"]});
    Daemon::master(Ok(json!({"workers": [worker], "memoryUsage": {}}))).await
}

#[tokio::test]
async fn orders_to_a_worker() {
    let ab = json!({"targets": ["a", "1/low"]});
    check(
        worker().await,
        &["poll"],
        "poll",
        Value::Null,
        "polled all targets on the worker at ADDRESS\n",
    )
    .await;
    check(
        worker().await,
        &["poll", "a", "1/low"],
        "poll",
        ab.clone(),
        "polled a, 1/low on the worker at ADDRESS\n",
    )
    .await;
    check(
        worker().await,
        &["pause"],
        "pause",
        Value::Null,
        "paused all targets on the worker at ADDRESS\n",
    )
    .await;
    check(
        worker().await,
        &["continue", "a", "1/low"],
        "continue",
        ab,
        "continued a, 1/low on the worker at ADDRESS\n",
    )
    .await;
    let set = json!({"target": "a", "concurrency": 8});
    check(
        worker().await,
        &["set-target-concurrency", "a", "8"],
        "set-target-concurrency",
        set,
        "a runs 8 jobs at a time on the worker at ADDRESS\n",
    )
    .await;
    let add = json!({"target": "a", "concurrency": 1});
    check(
        worker().await,
        &["add-target", "a", "1"],
        "add-target",
        add,
        "a runs 1 job at a time on the worker at ADDRESS\n",
    )
    .await;
    check(
        worker().await,
        &["remove-target", "a"],
        "remove-target",
        json!({"target": "a"}),
        "a is no longer served by the worker at ADDRESS\n",
    )
    .await;
}

#[tokio::test]
async fn orders_to_a_master() {
    let a = json!({"targets": ["a"]});
    check(
        master().await,
        &["--master", "poke"],
        "poke",
        Value::Null,
        "poked all targets on all workers of the master at ADDRESS\n",
    )
    .await;
    check(
        master().await,
        &["--master", "poke", "a"],
        "poke",
        a.clone(),
        "poked a on all workers of the master at ADDRESS\n",
    )
    .await;
    check(
        master().await,
        &["--master", "pause", "a"],
        "pause",
        a,
        "paused a on all workers of the master at ADDRESS\n",
    )
    .await;
    check(
        master().await,
        &["--master", "continue"],
        "continue",
        Value::Null,
        "continued all targets on all workers of the master at ADDRESS\n",
    )
    .await;
}

#[tokio::test]
async fn a_limit_is_set_through_a_master_on_all_workers_or_on_one() {
    let kind = "set-target-concurrency";
    check(
        master().await,
        &["--master", kind, "a", "8"],
        kind,
        json!({"target": "a", "concurrency": 8}),
        "a runs 8 jobs at a time on each worker that serves it\n",
    )
    .await;
    check(
        master().await,
        &["--master", kind, "user/7", "1", "--on", "web1"],
        kind,
        json!({"target": "user/7", "concurrency": 1, "worker": "web1"}),
        "user/7 runs 1 job at a time on web1\n",
    )
    .await;
    let to_worker = ask(worker().await.address, &[kind, "a", "8", "--on", "web1"]).await;
    to_worker.failed(2, &["--on names a worker of a master: add --master"]);
    let slip = ask(master().await.address, &["--master", kind, "mial", "8"]).await;
    slip.failed(1, &["(did you mean mail?), and nothing was changed"]);
    let served =
        json!({"remoteAddr": "10.0.0.1", "remotePort": 1, "name": "web1", "targets": ["a"]});
    let old = Daemon::old_master(Ok(json!({"workers": [served], "memoryUsage": {}}))).await;
    let refused = ask(old.address, &["--master", kind, "a", "8"]).await;
    refused.failed(
        1,
        &[
            "unknown request type",
            "ask each worker, jobctl --worker --port 7080 --host HOST",
        ],
    );
}

#[tokio::test]
async fn what_no_worker_serves_is_not_said_to_be_paused() {
    let master = master().await;
    let pause = ask(master.address, &["--master", "pause", "a", "mial"]).await;
    pause.failed(
        1,
        &[
            "no worker serves mial (did you mean mail?), and nothing was changed",
            "list-workers",
        ],
    );
    let orders = |asked: Vec<(String, Value)>| {
        asked
            .into_iter()
            .filter(|(kind, _)| kind != "status")
            .count()
    };
    assert_eq!(orders(master.asked()), 0);
    let poke = ask(master.address, &["--master", "poke", "mial"]).await;
    assert_eq!((poke.code, poke.stdout.as_str()), (0, ""));
    let warning = "jobctl: warning: no worker serves mial (did you mean mail?)
";
    assert_eq!(poke.stderr, warning);
    let poke = ask(master.address, &["--master", "poke", "mial", "a"]).await;
    let poked = format!(
        "poked a on all workers of the master at {}
",
        master.address
    );
    assert_eq!((poke.stdout, poke.stderr.as_str()), (poked, warning));
    let pattern = ask(master.address, &["--master", "pause", "user/7"]).await;
    assert_eq!((pattern.code, pattern.stderr.as_str()), (0, ""));
    assert_eq!(orders(master.asked()), 3);
}

#[tokio::test]
async fn refusals_end_with_1_and_advice() {
    for (arguments, text, advice) in [
        (&["poll", "zz"][..], "invalid target 'zz'", "list-targets"),
        (
            &["remove-target", "a"],
            "queue is not empty",
            "pause the target",
        ),
        (
            &["add-target", "a", "1"],
            "target 'a' already added",
            "set-target-concurrency",
        ),
    ] {
        let daemon = Daemon::worker(Err(text)).await;
        let refused = ask(daemon.address, arguments).await;
        refused.failed(1, &[text, advice]);
        assert_eq!(refused.stdout, "");
    }
}
