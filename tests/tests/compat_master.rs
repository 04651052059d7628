//! Every request that a master serves, as raw bytes and golden answers (docs/PROTOCOL.md). Most
//! workers here are played by the tests themselves, so that they can misbehave.

use std::time::{Duration, Instant};

use jobd_tests::golden::{MESSAGES, check_each, check_pipelined};
use jobd_tests::programs::Daemon;
use jobd_tests::wait::PATIENCE;
use jobd_tests::wire::php_request;
use jobd_tests::{Ini, Jobd, Master, Scratch, Server, Wire, until};
use serde_json::{Value, json};

async fn master(scratch: &Scratch) -> Daemon {
    Master::start(scratch, &Ini::listen()).await
}

/// A worker of the test's own: it registered, and sees what the master sends.
async fn played_worker(master: &Daemon, name: &str, targets: &[&str]) -> Wire {
    let mut wire = master.wire().await;
    let data = json!({"targets": targets, "name": name});
    assert_eq!(wire.ask("register-worker", data).await, "ok");
    wire
}

/// The next request that the master sends to a played worker; pings on the way are answered.
async fn asked(worker: &mut Wire) -> Value {
    loop {
        let message: Value = serde_json::from_str(&worker.frame().await).expect("JSON");
        match message[0].as_i64() {
            Some(0) => return message[1].clone(),
            Some(2) => worker.say("[3]").await,
            _ => panic!("unexpected {message}"),
        }
    }
}

async fn answer(worker: &mut Wire, request: &Value, data: Value) {
    worker
        .say(&json!([1, {"no": request["no"], "data": data}]).to_string())
        .await;
}

/// Pauses everything: each worker is asked next for this and for nothing else.
async fn pause_all(client: &mut Wire, one: &mut Wire, two: &mut Wire) {
    let pauses = async |worker: &mut Wire| {
        let request = asked(worker).await;
        assert_eq!(request["type"], "pause");
        answer(worker, &request, json!("ok")).await;
    };
    let (reply, (), ()) = tokio::join!(client.ask("pause", json!({})), pauses(one), pauses(two));
    assert_eq!(reply, "ok");
}

#[tokio::test]
async fn messages_that_are_no_request() {
    let scratch = Scratch::new();
    let master = master(&scratch).await;
    check_each(&master, MESSAGES).await;
    check_pipelined(&master, MESSAGES).await;
}

#[tokio::test]
async fn arguments_that_are_refused_or_served() {
    let scratch = Scratch::new();
    let master = master(&scratch).await;
    let mut cases = Vec::new();
    for kind in ["poke", "pause", "continue"] {
        for (targets, error) in [
            (r#""a""#, "targets must be array"),
            ("null", "targets must be array"),
            ("[]", "targets are empty"),
            (r#"["a",null]"#, "all targets must be strings, object given"),
            ("[1]", "all targets must be strings, number given"),
        ] {
            cases.push((kind, format!(r#"{{"targets":{targets}}}"#), error));
        }
    }
    let fields = [
        (
            "register-worker",
            r#"{"targets":["a"]}"#,
            "name is missing or invalid",
        ),
        (
            "register-worker",
            r#"{"targets":["a"],"name":""}"#,
            "name is missing or invalid",
        ),
        (
            "register-worker",
            r#"{"targets":["a"],"name":5}"#,
            "name is missing or invalid",
        ),
        (
            "register-worker",
            r#"{"targets":[],"name":"w"}"#,
            "targets are empty",
        ),
        ("run-manual", r#"{"jobs":{"1":"a"}}"#, "jobs must be array"),
        ("run-manual", "{}", "jobs must be array"),
        (
            "run-manual",
            r#"{"jobs":[{"id":"1","target":"a"}]}"#,
            "'id' must be integer",
        ),
        ("send-signal", "{}", "jobs must be array"),
    ];
    cases.extend(fields.map(|(kind, data, error)| (kind, data.to_owned(), error)));
    let mut cases: Vec<(String, String)> = (1..)
        .zip(cases)
        .map(|(no, (kind, data, error))| {
            (
                format!(r#"[0,{{"no":{no},"type":"{kind}","data":{data}}}]"#),
                format!(r#"[1,{{"no":{no},"error":"{error}"}}]"#),
            )
        })
        .collect();
    for kind in ["poke", "pause", "continue"] {
        for data in [
            "",
            r#","data":{}"#,
            r#","data":[]"#,
            r#","data":null"#,
            r#","data":{"targets":["nobody"]}"#,
        ] {
            cases.push((
                format!(r#"[0,{{"no":77,"type":"{kind}"{data}}}]"#),
                r#"[1,{"no":77,"data":"ok"}]"#.to_owned(),
            ));
        }
    }
    cases.push((
        r#"[0,{"no":78,"type":"run-manual","data":{"jobs":[{"id":5,"target":"x"}]}}]"#.to_owned(),
        r#"[1,{"no":78,"data":{"errors":{"5":"worker serving target 'x' not found"}}}]"#.to_owned(),
    ));
    let cases: Vec<_> = cases
        .iter()
        .map(|(s, a)| (s.as_str(), a.as_str()))
        .collect();
    check_each(&master, &cases).await;
    check_pipelined(&master, &cases).await;
}

#[tokio::test]
async fn status_lists_workers_and_asks_them_when_told_to() {
    let scratch = Scratch::new();
    let master = master(&scratch).await;
    let mut worker = played_worker(&master, "w1", &["a", "b"]).await;
    let status = php_request(master.addr, r#"[0,{"no":1,"type":"status","data":[]}]"#).await;
    let listed = &status[1]["data"]["workers"][0];
    assert_eq!(listed["name"], "w1");
    assert_eq!(listed["targets"], json!(["a", "b"]));
    assert_eq!(listed["remoteAddr"], "127.0.0.1");
    assert!(listed["remotePort"].is_u64());
    assert!(listed.get("workerStatus").is_none());
    for key in ["rss", "heapTotal", "heapUsed", "external", "arrayBuffers"] {
        assert!(
            status[1]["data"]["memoryUsage"][key].is_u64(),
            "{key} in {status}"
        );
    }

    // What the worker says is handed on, keys that nobody knows too.
    let said = json!({
        "targets": {"a": {"paused": false, "concurrency": 1, "length": 0}},
        "jobPromisesCount": 0,
        "memoryUsage": {"rss": 1, "heapTotal": 2, "heapUsed": 3, "external": 4, "arrayBuffers": 5},
        "newKey": [1, 2],
    });
    let mut client = master.wire().await;
    let (status, ()) = tokio::join!(client.ask("status", json!({"poll_workers": true})), async {
        let request = asked(&mut worker).await;
        assert_eq!(request["type"], "status");
        answer(&mut worker, &request, said.clone()).await;
    });
    assert_eq!(status["workers"][0]["workerStatus"], said);
}

#[tokio::test]
async fn a_worker_that_hangs_costs_only_its_own_part_of_a_status() {
    let scratch = Scratch::new();
    let master = master(&scratch).await;
    let _hangs = played_worker(&master, "hangs", &["a"]).await;
    let mut works = played_worker(&master, "works", &["a"]).await;
    let mut client = master.wire().await;
    let (status, ()) = tokio::join!(client.ask("status", json!({"poll_workers": true})), async {
        let request = asked(&mut works).await;
        answer(
            &mut works,
            &request,
            json!({"targets": {}, "jobPromisesCount": 0, "memoryUsage": {}}),
        )
        .await;
    });
    let worker = |name: &str| {
        let workers = status["workers"].as_array().expect("workers");
        workers
            .iter()
            .find(|w| w["name"] == name)
            .expect("listed")
            .clone()
    };
    assert!(worker("hangs")["workerStatusError"].is_string(), "{status}");
    assert!(worker("works")["workerStatus"].is_object(), "{status}");
}

#[tokio::test]
async fn a_poke_polls_who_serves_the_target_at_once_and_throttled() {
    let scratch = Scratch::new();
    let ini = Ini::listen().set("poke_throttle_interval", "0.7");
    let master = Master::start(&scratch, &ini).await;
    let mut serves = played_worker(&master, "serves", &["a"]).await;
    let mut other = played_worker(&master, "other", &["b"]).await;
    // The registrations themselves may have polled; what counts comes after.
    let mut client = master.wire().await;
    let begun = Instant::now();
    for _ in 0..20 {
        assert_eq!(client.ask("poke", json!({"targets": ["a"]})).await, "ok");
    }
    let first = asked(&mut serves).await;
    assert!(
        begun.elapsed() < Duration::from_millis(600),
        "the first poke waits for nothing"
    );
    assert_eq!(first["type"], "poll");
    assert_eq!(first["data"]["targets"], json!(["a"]));
    answer(&mut serves, &first, json!("ok")).await;
    // The other nineteen are one poll, when the interval is over.
    let second = asked(&mut serves).await;
    assert!(begun.elapsed() >= Duration::from_millis(600), "throttled");
    answer(&mut serves, &second, json!("ok")).await;
    // Nothing else is under way: the next request that each sees is the one that we cause.
    pause_all(&mut client, &mut serves, &mut other).await;
}

#[tokio::test]
async fn a_poke_for_a_target_that_nobody_serves_is_remembered() {
    let scratch = Scratch::new();
    let master = master(&scratch).await;
    assert_eq!(master.ask("poke", json!({"targets": ["late"]})).await, "ok");
    let mut worker = played_worker(&master, "w", &["late", "x"]).await;
    let request = asked(&mut worker).await;
    assert_eq!(request["type"], "poll");
    assert_eq!(request["data"]["targets"], json!(["late"]));
}

#[tokio::test]
async fn pause_and_continue_reach_the_workers_and_answer() {
    let scratch = Scratch::new();
    let master = master(&scratch).await;
    let mut one = played_worker(&master, "one", &["a", "b"]).await;
    let mut two = played_worker(&master, "two", &["b"]).await;
    for kind in ["pause", "continue"] {
        let request = format!(r#"[0,{{"no":9,"type":"{kind}","data":{{"targets":["a"]}}}}]"#);
        let (reply, ()) = tokio::join!(php_request(master.addr, &request), async {
            let request = asked(&mut one).await;
            assert_eq!(request["type"], kind);
            assert_eq!(request["data"]["targets"], json!(["a"]));
            answer(&mut one, &request, json!("ok")).await;
        });
        assert_eq!(reply, json!([1, {"no": 9, "data": "ok"}]));
    }
    let mut client = master.wire().await;
    pause_all(&mut client, &mut one, &mut two).await;
}

#[tokio::test]
async fn a_manual_run_is_split_by_target_and_merged() {
    let scratch = Scratch::new();
    let master = master(&scratch).await;
    let mut one = played_worker(&master, "one", &["a"]).await;
    let mut two = played_worker(&master, "two", &["b"]).await;
    let mut client = master.wire().await;
    let outcome = |text: &str| json!({"result": "ok", "code": 0, "signal": null, "stdout": text, "stderr": ""});
    let jobs = json!({"jobs": [
        {"id": 1, "target": "a"}, {"id": 2, "target": "b"}, {"id": 3, "target": "a"}, {"id": 4, "target": "c"},
    ]});
    let (merged, (), ()) = tokio::join!(
        client.ask("run-manual", jobs),
        async {
            let request = asked(&mut one).await;
            assert_eq!(request["data"]["ids"], json!([1, 3]));
            let data =
                json!({"jobs": {"1": outcome("é")}, "errors": {"3": "status = done != manual"}});
            answer(&mut one, &request, data).await;
        },
        async {
            let request = asked(&mut two).await;
            assert_eq!(request["data"]["ids"], json!([2]));
            answer(&mut two, &request, json!({"jobs": {"2": outcome("two")}})).await;
        }
    );
    assert_eq!(
        merged,
        json!({
            "jobs": {"1": outcome("é"), "2": outcome("two")},
            "errors": {"3": "status = done != manual", "4": "worker serving target 'c' not found"},
        })
    );
}

#[tokio::test]
async fn a_worker_that_dies_costs_only_its_own_part_of_a_manual_run() {
    let scratch = Scratch::new();
    let master = master(&scratch).await;
    let mut dies = played_worker(&master, "dies", &["a"]).await;
    let mut works = played_worker(&master, "works", &["b"]).await;
    let mut client = master.wire().await;
    let jobs = json!({"jobs": [{"id": 1, "target": "a"}, {"id": 2, "target": "b"}]});
    let outcome = json!({"result": "ok", "code": 0, "signal": null, "stdout": "", "stderr": ""});
    let (merged, (), ()) = tokio::join!(
        client.ask("run-manual", jobs),
        async move {
            asked(&mut dies).await;
            drop(dies);
        },
        async {
            let request = asked(&mut works).await;
            answer(
                &mut works,
                &request,
                json!({"jobs": {"2": outcome.clone()}}),
            )
            .await;
        }
    );
    assert_eq!(merged["jobs"], json!({"2": outcome}));
    assert!(merged["errors"]["1"].is_string(), "{merged}");
}

#[tokio::test]
async fn a_signal_is_sent_through_every_worker_of_the_target() {
    let scratch = Scratch::new();
    let master = master(&scratch).await;
    let mut has_it = played_worker(&master, "has it", &["a"]).await;
    let mut has_not = played_worker(&master, "has not", &["a"]).await;
    let mut client = master.wire().await;
    let jobs = json!({"jobs": [
        {"id": 1, "signal": 15, "target": "a"}, {"id": 2, "signal": 9, "target": "nobody"},
    ]});
    let (merged, (), ()) = tokio::join!(
        client.ask("send-signal", jobs),
        async {
            let request = asked(&mut has_it).await;
            assert_eq!(request["data"]["jobs"], json!({"1": 15}));
            answer(&mut has_it, &request, json!({"1": true})).await;
        },
        async {
            let request = asked(&mut has_not).await;
            answer(&mut has_not, &request, json!({"1": false})).await;
        }
    );
    assert_eq!(
        merged,
        json!({"1": true, "errors": {"2": "worker serving target 'nobody' not found"}})
    );
}

#[tokio::test]
async fn registered_workers_are_pinged_and_dropped_when_silent_and_nobody_else_is() {
    let scratch = Scratch::new();
    let ini = Ini::listen().set("ping_interval", 1);
    let master = Master::start(&scratch, &ini).await;
    let mut silent = played_worker(&master, "silent", &["a"]).await;
    let mut client = master.wire().await;
    assert_eq!(silent.frame().await, "[2]");
    until("the silent worker to be dropped", PATIENCE, async || {
        let status = master.ask("status", json!({})).await;
        status["workers"]
            .as_array()
            .expect("workers")
            .is_empty()
            .then_some(())
    })
    .await;
    // A client that said nothing all the while is still served, and was sent nothing.
    assert_eq!(client.ask("poke", json!({})).await, "ok");
    assert_eq!(client.unread(), "");
}

#[tokio::test]
async fn a_real_worker_registers_with_the_password_and_again_when_its_targets_change() {
    let scratch = Scratch::new();
    let database = Server::shared().await.database().await;
    database.minimal_table().await;
    let ini = Ini::listen().set("password", "both know it");
    let master = Master::start(&scratch, &ini).await;
    let worker = Ini::worker(&database)
        .set("name", "w1")
        .set("password", "both know it")
        .set("master_host", "127.0.0.1")
        .set("master_port", ini.port())
        .set("master_reconnect_timeout", 1)
        .target("a", 1);
    let jobd = Jobd::start(&scratch, &worker).await;
    let listed = async |addr| {
        let request = r#"[0,{"no":1,"type":"status","password":"both know it"}]"#;
        php_request(addr, request).await[1]["data"]["workers"].clone()
    };
    until("the worker to register", PATIENCE, async || {
        let workers = listed(master.addr).await;
        (workers[0]["name"] == "w1" && workers[0]["targets"] == json!(["a"])).then_some(())
    })
    .await;
    let request = r#"[0,{"no":1,"type":"add-target","data":{"target":"b","concurrency":1},"password":"both know it"}]"#;
    assert_eq!(php_request(jobd.addr, request).await[1]["data"], "ok");
    until("the worker to register both", PATIENCE, async || {
        let workers = listed(master.addr).await;
        let one = workers.as_array().expect("workers").len() == 1;
        (one && workers[0]["targets"] == json!(["a", "b"])).then_some(())
    })
    .await;
    // A master that dies and returns finds its workers again.
    drop(master);
    let master = Master::start(&scratch, &ini).await;
    until("the worker to come back", PATIENCE, async || {
        (listed(master.addr).await[0]["targets"] == json!(["a", "b"])).then_some(())
    })
    .await;
}
