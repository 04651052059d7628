//! Arguments of every request: what is taken and how the rest is refused.

use crate::ground::{Role, Server, check, patient};

/// Rows of type, data and answer, which is `ok` or an error text.
async fn check_rows(role: Role, rows: &[(&str, &str, &str)]) {
    let server = Server::start(role, patient()).await;
    for (kind, data, answer) in rows {
        let request = format!(r#"[0,{{"no":7,"type":"{kind}","data":{data}}}]␄"#);
        let answer = match *answer {
            "ok" => r#""data":"ok""#.to_owned(),
            error => format!(r#""error":{}"#, serde_json::to_string(error).unwrap()),
        };
        check(&server, &request, &format!(r#"[1,{{"no":7,{answer}}}]␄"#)).await;
    }
    server.stopped().await;
}

#[tokio::test]
async fn an_unknown_type_is_named() {
    for role in [Role::Worker, Role::Master] {
        check_rows(
            role,
            &[
                ("nope", "{}", "unknown request type: 'nope'"),
                ("", "{}", "unknown request type: ''"),
                ("Poll", "{}", "unknown request type: 'Poll'"),
            ],
        )
        .await;
    }
    check_rows(
        Role::Worker,
        &[("poke", "{}", "unknown request type: 'poke'")],
    )
    .await;
    check_rows(
        Role::Master,
        &[("poll", "{}", "unknown request type: 'poll'")],
    )
    .await;
}

#[tokio::test]
async fn targets_are_an_array_of_strings_or_absent() {
    let cases = [
        ("{}", "ok"),
        (r#"{"targets":["a"]}"#, "ok"),
        (r#"{"targets":["a","1/low","a"]}"#, "ok"),
        (r#"{"targets":null}"#, "targets must be array"),
        (r#"{"targets":"a"}"#, "targets must be array"),
        (r#"{"targets":{"0":"a"}}"#, "targets must be array"),
        (r#"{"targets":[]}"#, "targets are empty"),
        (
            r#"{"targets":["a",5]}"#,
            "all targets must be strings, number given",
        ),
        (
            r#"{"targets":[true]}"#,
            "all targets must be strings, boolean given",
        ),
        (
            r#"{"targets":[null]}"#,
            "all targets must be strings, object given",
        ),
        (
            r#"{"targets":[["a"]]}"#,
            "all targets must be strings, object given",
        ),
    ];
    for (role, kinds) in [
        (Role::Worker, ["poll", "pause", "continue"]),
        (Role::Master, ["poke", "pause", "continue"]),
    ] {
        for kind in kinds {
            let rows: Vec<_> = cases
                .iter()
                .map(|(data, answer)| (kind, *data, *answer))
                .collect();
            check_rows(role, &rows).await;
        }
    }
}

#[tokio::test]
async fn a_workers_manual_run_takes_numbers() {
    check_rows(
        Role::Worker,
        &[
            (
                "run-manual",
                r#"{"ids":[1,2,2.0,9223372036854775807]}"#,
                "ok",
            ),
            ("run-manual", r#"{"ids":[]}"#, "ok"),
            (
                "run-manual",
                r#"{"ids":[1,"2"]}"#,
                "all ids must be numbers, got string",
            ),
            (
                "run-manual",
                r#"{"ids":[null]}"#,
                "all ids must be numbers, got object",
            ),
            (
                "run-manual",
                r#"{"ids":[true]}"#,
                "all ids must be numbers, got boolean",
            ),
            (
                "run-manual",
                r#"{"ids":[-1]}"#,
                "all ids must be positive integers, got -1",
            ),
            (
                "run-manual",
                r#"{"ids":[1.5]}"#,
                "all ids must be positive integers, got 1.5",
            ),
            (
                "run-manual",
                r#"{"ids":[9223372036854775808]}"#,
                "all ids must be positive integers, got 9223372036854775808",
            ),
            ("run-manual", "{}", "ids must be array"),
            ("run-manual", r#"{"ids":5}"#, "ids must be array"),
        ],
    )
    .await;
}

#[tokio::test]
async fn a_workers_signals_are_a_map_of_numbers() {
    check_rows(
        Role::Worker,
        &[
            ("send-signal", r#"{"jobs":{"1":15,"2":9.0}}"#, "ok"),
            ("send-signal", r#"{"jobs":{}}"#, "ok"),
            ("send-signal", r#"{"jobs":[]}"#, "ok"),
            ("send-signal", r#"{"jobs":[15]}"#, "jobs must be object"),
            ("send-signal", "{}", "jobs must be object"),
            ("send-signal", r#"{"jobs":{"x":15}}"#, "invalid job id 'x'"),
            (
                "send-signal",
                r#"{"jobs":{"1":"TERM"}}"#,
                "all signals must be numbers, got string",
            ),
            ("send-signal", r#"{"jobs":{"1":0}}"#, "invalid signal 0"),
            ("send-signal", r#"{"jobs":{"1":65}}"#, "invalid signal 65"),
        ],
    )
    .await;
}

#[tokio::test]
async fn targets_are_added_changed_and_removed_by_checked_fields() {
    for kind in ["add-target", "set-target-concurrency"] {
        check_rows(
            Role::Worker,
            &[
                (kind, r#"{"target":"n1","concurrency":1}"#, "ok"),
                (kind, r#"{"target":"n1","concurrency":3.0}"#, "ok"),
                (kind, "{}", "missing required field target"),
                (
                    kind,
                    r#"{"concurrency":1}"#,
                    "missing required field target",
                ),
                (
                    kind,
                    r#"{"target":"n1"}"#,
                    "missing required field concurrency",
                ),
                (
                    kind,
                    r#"{"target":5,"concurrency":1}"#,
                    "'target' must be string",
                ),
                (
                    kind,
                    r#"{"target":"n1","concurrency":"1"}"#,
                    "'concurrency' must be integer",
                ),
                (
                    kind,
                    r#"{"target":"n1","concurrency":1.5}"#,
                    "'concurrency' must be integer",
                ),
                (
                    kind,
                    r#"{"target":"n1","concurrency":0}"#,
                    "Invalid concurrency value.",
                ),
                (
                    kind,
                    r#"{"target":"n1","concurrency":-2}"#,
                    "Invalid concurrency value.",
                ),
                (
                    kind,
                    r#"{"target":"n1","concurrency":4294967296}"#,
                    "Invalid concurrency value.",
                ),
                (
                    kind,
                    r#"{"target":"null","concurrency":1}"#,
                    "'null' cannot name a target",
                ),
                (
                    kind,
                    r#"{"target":"","concurrency":1}"#,
                    "target name is empty",
                ),
            ],
        )
        .await;
    }
    check_rows(
        Role::Worker,
        &[
            ("remove-target", r#"{"target":"n1"}"#, "ok"),
            (
                "remove-target",
                r#"{"target":"n1","concurrency":"ignored"}"#,
                "ok",
            ),
            ("remove-target", "[]", "missing required field target"),
            (
                "remove-target",
                r#"{"target":null}"#,
                "'target' must be string",
            ),
        ],
    )
    .await;
}

#[tokio::test]
async fn a_worker_registers_with_a_name_and_targets() {
    check_rows(
        Role::Master,
        &[
            (
                "register-worker",
                r#"{"targets":["a","b"],"name":"w1"}"#,
                "ok",
            ),
            (
                "register-worker",
                r#"{"targets":["a"]}"#,
                "name is missing or invalid",
            ),
            (
                "register-worker",
                r#"{"targets":["a"],"name":5}"#,
                "name is missing or invalid",
            ),
            (
                "register-worker",
                r#"{"targets":["a"],"name":""}"#,
                "name is missing or invalid",
            ),
            (
                "register-worker",
                r#"{"name":"w1"}"#,
                "targets must be array",
            ),
            (
                "register-worker",
                r#"{"targets":[],"name":"w1"}"#,
                "targets are empty",
            ),
            (
                "register-worker",
                r#"{"targets":[1],"name":"w1"}"#,
                "all targets must be strings, number given",
            ),
        ],
    )
    .await;
}

#[tokio::test]
async fn a_master_sets_the_limit_of_a_target_with_or_without_a_worker() {
    let kind = "set-target-concurrency";
    check_rows(
        Role::Master,
        &[
            (kind, r#"{"target":"a","concurrency":5}"#, "ok"),
            (kind, r#"{"target":"a","concurrency":5,"worker":"w"}"#, "ok"),
            (
                kind,
                r#"{"target":"a","concurrency":5,"worker":null}"#,
                "ok",
            ),
            (
                kind,
                r#"{"target":"a","concurrency":5,"worker":7}"#,
                "'worker' must be string",
            ),
            (
                kind,
                r#"{"target":"a"}"#,
                "missing required field concurrency",
            ),
            (
                kind,
                r#"{"concurrency":5}"#,
                "missing required field target",
            ),
            (
                kind,
                r#"{"target":"a","concurrency":0}"#,
                "Invalid concurrency value.",
            ),
        ],
    )
    .await;
}

#[tokio::test]
async fn a_masters_jobs_have_ids_and_targets() {
    for kind in ["run-manual", "send-signal"] {
        check_rows(
            Role::Master,
            &[
                (
                    kind,
                    r#"{"jobs":[{"id":1,"target":"a","signal":15}]}"#,
                    "ok",
                ),
                (
                    kind,
                    r#"{"jobs":[{"id":1.0,"target":"","signal":15}]}"#,
                    "ok",
                ),
                (kind, r#"{"jobs":[]}"#, "ok"),
                (kind, "{}", "jobs must be array"),
                (kind, r#"{"jobs":{}}"#, "jobs must be array"),
                (
                    kind,
                    r#"{"jobs":[5]}"#,
                    "all jobs must be objects, number given",
                ),
                (
                    kind,
                    r#"{"jobs":[{"target":"a","signal":1}]}"#,
                    "missing required field id",
                ),
                (
                    kind,
                    r#"{"jobs":[{"id":"1","target":"a","signal":1}]}"#,
                    "'id' must be integer",
                ),
                (
                    kind,
                    r#"{"jobs":[{"id":1.5,"target":"a","signal":1}]}"#,
                    "'id' must be integer",
                ),
                (
                    kind,
                    r#"{"jobs":[{"id":-1,"target":"a","signal":1}]}"#,
                    "'id' must be positive integer, got -1",
                ),
                (
                    kind,
                    r#"{"jobs":[{"id":1,"signal":1}]}"#,
                    "missing required field target",
                ),
                (
                    kind,
                    r#"{"jobs":[{"id":1,"target":5,"signal":1}]}"#,
                    "'target' must be string",
                ),
            ],
        )
        .await;
    }
    check_rows(
        Role::Master,
        &[
            (
                "send-signal",
                r#"{"jobs":[{"id":1,"target":"a"}]}"#,
                "missing required field signal",
            ),
            (
                "send-signal",
                r#"{"jobs":[{"id":1,"target":"a","signal":"KILL"}]}"#,
                "'signal' must be integer",
            ),
            (
                "send-signal",
                r#"{"jobs":[{"id":1,"target":"a","signal":99}]}"#,
                "invalid signal 99",
            ),
        ],
    )
    .await;
}

#[tokio::test]
async fn a_status_takes_flags_as_php_writes_them() {
    check_rows(
        Role::Master,
        &[
            ("status", "{}", "ok"),
            ("status", r#"{"poll_workers":true}"#, "ok"),
            ("status", r#"{"poll_workers":1}"#, "ok"),
        ],
    )
    .await;
    check_rows(Role::Worker, &[("status", "[]", "ok")]).await;
}
