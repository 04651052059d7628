//! Every request that a worker serves, as raw bytes and golden answers (docs/PROTOCOL.md).

use jobd_tests::golden::{MESSAGES, check_each, check_in_turn, check_pipelined};
use jobd_tests::programs::Daemon;
use jobd_tests::wire::{Wire, php_request};
use jobd_tests::{Database, Ini, Jobd, Scratch, Server};
use serde_json::json;

/// Jobs print, and end with their id as the code.
const LAUNCHER: &str = r#"sh -c "echo out {id}\; echo err {id} >&2\; exit {id}""#;

struct World {
    scratch: Scratch,
    database: Database,
    ini: Ini,
}

impl World {
    async fn new() -> Self {
        let database = Server::shared().await.database().await;
        database.minimal_table().await;
        let ini = Ini::worker(&database)
            .set("poll_interval", 0)
            .set("launcher", LAUNCHER)
            .target("a", 2)
            .target("1/low", 1);
        Self {
            scratch: Scratch::new(),
            database,
            ini,
        }
    }

    async fn jobd(&self) -> Daemon {
        Jobd::ready(&self.scratch, &self.ini).await
    }
}

#[tokio::test]
async fn messages_that_are_no_request() {
    let world = World::new().await;
    let jobd = world.jobd().await;
    check_each(&jobd, MESSAGES).await;
    check_pipelined(&jobd, MESSAGES).await;
}

#[tokio::test]
async fn empty_frames_and_pongs_get_no_answer() {
    let world = World::new().await;
    let jobd = world.jobd().await;
    let mut wire = jobd.wire().await;
    wire.send(b"\x04\x04[3]\x04\x04[2]\x04").await;
    assert_eq!(wire.frame().await, "[3]");
    assert_eq!(wire.unread(), "");
}

#[tokio::test]
async fn arguments_that_are_refused() {
    let world = World::new().await;
    let jobd = world.jobd().await;
    let mut cases = Vec::new();
    for kind in ["poll", "pause", "continue"] {
        for (targets, error) in [
            (r#""a""#, "targets must be array"),
            ("null", "targets must be array"),
            ("{}", "targets must be array"),
            ("[]", "targets are empty"),
            (r#"["a",1]"#, "all targets must be strings, number given"),
            (r#"["a","zz"]"#, "invalid target 'zz'"),
        ] {
            cases.push((kind, format!(r#"{{"targets":{targets}}}"#), error));
        }
    }
    let fields = [
        (
            "run-manual",
            r#"{"ids":["1"]}"#,
            "all ids must be numbers, got string",
        ),
        (
            "add-target",
            r#"{"concurrency":1}"#,
            "missing required field target",
        ),
        (
            "add-target",
            r#"{"target":"n1"}"#,
            "missing required field concurrency",
        ),
        (
            "add-target",
            r#"{"target":5,"concurrency":1}"#,
            "'target' must be string",
        ),
        (
            "add-target",
            r#"{"target":"n1","concurrency":"1"}"#,
            "'concurrency' must be integer",
        ),
        (
            "add-target",
            r#"{"target":"n1","concurrency":0}"#,
            "Invalid concurrency value.",
        ),
        (
            "add-target",
            r#"{"target":"a","concurrency":1}"#,
            "target 'a' already added",
        ),
        ("remove-target", "{}", "missing required field target"),
        (
            "remove-target",
            r#"{"target":"n1"}"#,
            "target 'n1' not found",
        ),
        (
            "set-target-concurrency",
            r#"{"target":"n1","concurrency":3}"#,
            "target 'n1' not found",
        ),
        (
            "set-target-concurrency",
            r#"{"target":"a","concurrency":-1}"#,
            "Invalid concurrency value.",
        ),
        (
            "set-target-concurrency",
            r#"{"target":"a","concurrency":1.5}"#,
            "'concurrency' must be integer",
        ),
        (
            "set-target-concurrency",
            r#"{"target":"a"}"#,
            "missing required field concurrency",
        ),
    ];
    cases.extend(fields.map(|(kind, data, error)| (kind, data.to_owned(), error)));

    let cases: Vec<(String, String)> = (1..)
        .zip(cases)
        .map(|(no, (kind, data, error))| {
            (
                format!(r#"[0,{{"no":{no},"type":"{kind}","data":{data}}}]"#),
                format!(r#"[1,{{"no":{no},"error":"{error}"}}]"#),
            )
        })
        .collect();
    let cases: Vec<_> = cases
        .iter()
        .map(|(s, a)| (s.as_str(), a.as_str()))
        .collect();
    check_each(&jobd, &cases).await;
    check_pipelined(&jobd, &cases).await;
}

#[tokio::test]
async fn no_arguments_in_every_spelling() {
    let world = World::new().await;
    let jobd = world.jobd().await;
    let mut cases = Vec::new();
    for kind in ["poll", "pause", "continue"] {
        for data in [
            "",
            r#","data":{}"#,
            r#","data":[]"#,
            r#","data":null"#,
            r#","data":"","x":1"#,
        ] {
            cases.push(format!(r#"[0,{{"no":12,"type":"{kind}"{data}}}]"#));
        }
    }
    let ok = r#"[1,{"no":12,"data":"ok"}]"#;
    let cases: Vec<_> = cases.iter().map(|sent| (sent.as_str(), ok)).collect();
    check_each(&jobd, &cases).await;
    check_pipelined(&jobd, &cases).await;
}

#[tokio::test]
async fn targets_come_change_and_go() {
    let world = World::new().await;
    let jobd = world.jobd().await;
    check_in_turn(
        &jobd,
        &[
            (
                r#"[0,{"no":1,"type":"add-target","data":{"target":"n1","concurrency":3}}]"#,
                r#"[1,{"no":1,"data":"ok"}]"#,
            ),
            (
                r#"[0,{"no":2,"type":"add-target","data":{"target":"n1","concurrency":3}}]"#,
                r#"[1,{"no":2,"error":"target 'n1' already added"}]"#,
            ),
            (
                r#"[0,{"no":3,"type":"set-target-concurrency","data":{"target":"n1","concurrency":5.0}}]"#,
                r#"[1,{"no":3,"data":"ok"}]"#,
            ),
        ],
    )
    .await;
    let status = jobd.ask("status", json!({})).await;
    assert_eq!(status["targets"]["n1"]["concurrency"], 5);

    let id = world.database.insert_one("n1", "waiting").await;
    assert_eq!(jobd.ask("poll", json!({"targets": ["n1"]})).await, "ok");
    world.database.done(id).await;
    until_idle(&jobd).await;
    check_in_turn(
        &jobd,
        &[
            (
                r#"[0,{"no":4,"type":"remove-target","data":{"target":"n1"}}]"#,
                r#"[1,{"no":4,"data":"ok"}]"#,
            ),
            (
                r#"[0,{"no":5,"type":"poll","data":{"targets":["n1"]}}]"#,
                r#"[1,{"no":5,"error":"invalid target 'n1'"}]"#,
            ),
        ],
    )
    .await;
}

#[tokio::test]
async fn a_busy_target_is_not_removed() {
    let world = World::new().await;
    let ini = world.ini.clone().set("launcher", "sleep 60");
    let jobd = Jobd::start(&world.scratch, &ini).await;
    let id = world.database.insert_one("a", "waiting").await;
    jobd.ask("poll", json!({})).await;
    world.database.reaches(id, "running").await;
    let mut wire = jobd.wire().await;
    let error = wire.refused("remove-target", json!({"target": "a"})).await;
    assert_eq!(error, "queue is not empty");
    assert_eq!(
        wire.ask("send-signal", json!({"jobs": {"1": 9}})).await,
        json!({"1": true})
    );
    assert_eq!(
        world.database.done(id).await.verdict(),
        ("done", Some("fail"), None, Some("SIGKILL"))
    );
}

#[tokio::test]
async fn status_has_every_key_of_the_original() {
    let world = World::new().await;
    let jobd = world.jobd().await;
    jobd.ask("pause", json!({"targets": ["1/low"]})).await;
    let status = jobd.ask("status", json!({})).await;
    for (target, paused, concurrency) in [("a", false, 2), ("1/low", true, 1)] {
        let target = &status["targets"][target];
        assert_eq!(target["paused"], paused);
        assert_eq!(target["concurrency"], concurrency);
        assert_eq!(target["length"], 0);
    }
    assert_eq!(status["jobPromisesCount"], 0);
    for key in ["rss", "heapTotal", "heapUsed", "external", "arrayBuffers"] {
        assert!(status["memoryUsage"][key].is_u64(), "{key} in {status}");
    }
    let rss = status["memoryUsage"]["rss"].as_u64().unwrap() / 1024;
    assert!(rss.abs_diff(jobd.process.rss_kib()) < rss / 2, "{rss} KiB");
}

#[tokio::test]
async fn a_paused_target_claims_nothing_until_it_continues() {
    let world = World::new().await;
    let jobd = world.jobd().await;
    jobd.ask("pause", json!({"targets": ["a"]})).await;
    let held = world.database.insert_one("a", "waiting").await;
    let other = world.database.insert_one("1/low", "waiting").await;
    jobd.ask("poll", json!({})).await;
    // The other target's job comes later in the table and was claimed by the same poll.
    world.database.done(other).await;
    assert_eq!(world.database.row(held).await.status, "waiting");
    jobd.ask("continue", json!({"targets": ["a"]})).await;
    world.database.done(held).await;
}

#[tokio::test]
async fn a_manual_run_answers_with_the_results() {
    let world = World::new().await;
    let jobd = world.jobd().await;
    let database = &world.database;
    let fine = database.insert_one("a", "manual").await;
    // Not `waiting`: the worker may have looked for such rows when it started.
    let ignored = database.insert_one("a", "ignored").await;
    let elsewhere = database.insert_one("x", "manual").await;
    let upper = database.insert_one("A", "manual").await;
    let second = database.insert_one("1/low", "manual").await;
    assert_eq!((fine, ignored, elsewhere, upper, second), (1, 2, 3, 4, 5));

    // Doubled ids count once; a paused target runs manual jobs too.
    jobd.ask("pause", json!({})).await;
    let request = r#"[0,{"no":31,"type":"run-manual","data":{"ids":[1,1.0,2,3,5,99999,5]}}]"#;
    let response = php_request(jobd.addr, request).await;
    assert_eq!(
        response,
        json!([1, {"no": 31, "data": {
            "jobs": {
                "1": {"result": "fail", "code": 1, "signal": null, "stdout": "out 1\n", "stderr": "err 1\n"},
                "5": {"result": "fail", "code": 5, "signal": null, "stdout": "out 5\n", "stderr": "err 5\n"},
            },
            "errors": {
                "2": "status = ignored != manual",
                "3": "target 'x' not found (job id=3)",
                "99999": "job 99999 not found",
            },
        }}])
    );
    // The row was done before the answer came, and the refused ones were left alone.
    assert_eq!(
        database.row(fine).await.verdict(),
        ("done", Some("fail"), Some(1), None)
    );
    assert_eq!(database.row(ignored).await.status, "ignored");
    assert_eq!(database.row(elsewhere).await.status, "manual");

    let again = jobd.ask("run-manual", json!({"ids": [1]})).await;
    assert_eq!(again, json!({"errors": {"1": "status = done != manual"}}));
    let none = jobd.ask("run-manual", json!({"ids": [7]})).await;
    assert_eq!(none, json!({"errors": {"7": "job 7 not found"}}));
    // A target that differs only in case: never `ignored`.
    jobd.ask("run-manual", json!({"ids": [upper]})).await;
    assert_ne!(database.row(upper).await.status, "ignored");
}

#[tokio::test]
async fn an_id_that_another_client_waits_for_refuses_the_request() {
    let world = World::new().await;
    let ini = world
        .ini
        .clone()
        .set("launcher", "sleep 60")
        .set("poll_interval", 0);
    let jobd = Jobd::ready(&world.scratch, &ini).await;
    let ids = world.database.insert(2, "a", "manual").await;
    let mut first = jobd.wire().await;
    first
        .say(r#"[0,{"no":1,"type":"run-manual","data":{"ids":[1]}}]"#)
        .await;
    world.database.reaches(ids[0], "running").await;
    let status = jobd.ask("status", json!({})).await;
    assert_eq!(status["jobPromisesCount"], 1);
    assert_eq!(status["targets"]["a"]["length"], 1);
    let error = jobd
        .wire()
        .await
        .refused("run-manual", json!({"ids": [2, 1]}))
        .await;
    assert_eq!(error, "another client is already waiting for job 1");
    assert_eq!(world.database.row(ids[1]).await.status, "manual");
    jobd.ask("send-signal", json!({"jobs": {"1": 15}})).await;
    assert_eq!(
        first.response(1).await["data"]["jobs"]["1"],
        json!({"result": "fail", "code": null, "signal": "SIGTERM", "stdout": "", "stderr": ""})
    );
}

#[tokio::test]
async fn signals_reach_running_jobs_only() {
    let world = World::new().await;
    let ini = world.ini.clone().set("launcher", "sleep 60");
    let jobd = Jobd::start(&world.scratch, &ini).await;
    let id = world.database.insert_one("a", "waiting").await;
    jobd.ask("poll", json!({})).await;
    world.database.reaches(id, "running").await;
    let reply = jobd
        .ask("send-signal", json!({"jobs": {"1": 10, "77": 9}}))
        .await;
    assert_eq!(reply, json!({"1": true, "77": false}));
    let row = world.database.done(id).await;
    assert_eq!(row.verdict(), ("done", Some("fail"), None, Some("SIGUSR1")));
}

#[tokio::test]
async fn the_first_request_needs_the_password() {
    let world = World::new().await;
    let ini = world.ini.clone().set("password", "s3cret");
    let jobd = Jobd::start(&world.scratch, &ini).await;
    for password in ["", r#","password":"wrong""#, r#","password":"s3cret ""#] {
        let mut wire = jobd.wire().await;
        // A ping is answered before any password.
        wire.say("[2]").await;
        assert_eq!(wire.frame().await, "[3]");
        wire.say(&format!(r#"[0,{{"no":5,"type":"status"{password}}}]"#))
            .await;
        assert_eq!(
            wire.frame().await,
            r#"[1,{"no":5,"error":"invalid password"}]"#
        );
        wire.closed().await;
    }
    let mut wire = jobd.wire().await;
    wire.say(r#"[0,{"no":5,"type":"poll","password":"s3cret"}]"#)
        .await;
    assert_eq!(wire.frame().await, r#"[1,{"no":5,"data":"ok"}]"#);
    wire.say(r#"[0,{"no":6,"type":"poll"}]"#).await;
    assert_eq!(wire.frame().await, r#"[1,{"no":6,"data":"ok"}]"#);
    assert!(
        !jobd.process.log().contains("s3cret"),
        "the password stands in the log"
    );
}

#[tokio::test]
async fn localhost_may_come_in_without_a_password() {
    let world = World::new().await;
    let ini = world
        .ini
        .clone()
        .set("password", "s3cret")
        .set("always_allow_localhost", "1");
    let jobd = Jobd::start(&world.scratch, &ini).await;
    assert_eq!(jobd.ask("poll", json!({})).await, "ok");
}

#[tokio::test]
async fn answers_come_as_they_are_ready() {
    let world = World::new().await;
    let ini = world.ini.clone().set("launcher", "sleep 60");
    let jobd = Jobd::ready(&world.scratch, &ini).await;
    let id = world.database.insert_one("a", "manual").await;
    let mut wire = jobd.wire().await;
    wire.send(
        "[0,{\"no\":1,\"type\":\"run-manual\",\"data\":{\"ids\":[1]}}]\x04\
         [0,{\"no\":2,\"type\":\"poll\"}]\x04",
    )
    .await;
    assert_eq!(wire.response(2).await["data"], "ok");
    world.database.reaches(id, "running").await;
    jobd.ask("send-signal", json!({"jobs": {"1": 9}})).await;
    let response = wire.response(1).await;
    assert_eq!(response["data"]["jobs"]["1"]["signal"], "SIGKILL");
}

/// Waits until nothing is queued or running: the row is done a moment before the slot is free.
async fn until_idle(jobd: &Daemon) {
    let mut wire: Wire = jobd.wire().await;
    jobd_tests::until("an idle worker", jobd_tests::wait::PATIENCE, async || {
        let status = wire.ask("status", json!({})).await;
        let targets = status["targets"].as_object().expect("targets");
        targets
            .values()
            .all(|target| target["length"] == 0)
            .then_some(())
    })
    .await;
}
