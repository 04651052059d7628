//! Framing, and errors about the message itself.

use crate::ground::{Role, Server, check, patient};

async fn check_worker(rows: &[(&str, &str)]) {
    let server = Server::start(Role::Worker, patient()).await;
    for (sent, expected) in rows {
        check(&server, sent, expected).await;
    }
    server.stopped().await;
}

/// Rows of a message and the error text that comes back numbered 0.
async fn check_refused(rows: &[(&str, &str)]) {
    let server = Server::start(Role::Worker, patient()).await;
    for (sent, error) in rows {
        let error = serde_json::to_string(error).unwrap();
        check(
            &server,
            &format!("{sent}␄"),
            &format!(r#"[1,{{"no":0,"error":{error}}}]␄"#),
        )
        .await;
    }
    server.stopped().await;
}

#[tokio::test]
async fn a_ping_is_answered_by_a_pong_and_a_pong_by_nothing() {
    check_worker(&[
        ("[2]␄", "[3]␄"),
        ("[2,{}]␄", "[3]␄"),
        (" [ 2.0 ] ␄", "[3]␄"),
        ("[2]␄[2]␄", "[3]␄[3]␄"),
        ("[3]␄[2]␄", "[3]␄"),
    ])
    .await;
}

#[tokio::test]
async fn empty_frames_and_white_space_get_no_answer() {
    check_worker(&[
        ("␄␄[2]␄", "[3]␄"),
        ("\r\n␄[2]␄", "[3]␄"),
        ("[2]␄\n", "[3]␄"),
    ])
    .await;
}

#[tokio::test]
async fn a_request_is_answered_with_its_own_number() {
    check_worker(&[
        (
            r#"[0,{"no":1,"type":"poll"}]␄"#,
            r#"[1,{"no":1,"data":"ok"}]␄"#,
        ),
        (
            r#"[0,{"type":"poll","no":999999}]␄"#,
            r#"[1,{"no":999999,"data":"ok"}]␄"#,
        ),
        (
            r#"[0,{"no":3.0,"type":"poll"}]␄"#,
            r#"[1,{"no":3,"data":"ok"}]␄"#,
        ),
        (
            r#"[0,{"no":0,"type":"poll"}]␄"#,
            r#"[1,{"no":0,"data":"ok"}]␄"#,
        ),
        (
            r#"[0,{"no":-7,"type":"poll"}]␄"#,
            r#"[1,{"no":-7,"data":"ok"}]␄"#,
        ),
        (
            r#"[0,{"no":9007199254740993,"type":"poll"}]␄"#,
            r#"[1,{"no":9007199254740993,"data":"ok"}]␄"#,
        ),
    ])
    .await;
}

#[tokio::test]
async fn no_arguments_may_be_written_in_many_ways() {
    let ok = r#"[1,{"no":5,"data":"ok"}]␄"#;
    check_worker(&[
        (r#"[0,{"no":5,"type":"poll","data":{}}]␄"#, ok),
        (r#"[0,{"no":5,"type":"poll","data":[]}]␄"#, ok),
        (r#"[0,{"no":5,"type":"poll","data":null}]␄"#, ok),
        (r#"[0,{"no":5,"type":"poll","data":"x"}]␄"#, ok),
        (r#"[0,{"no":5,"type":"poll","data":7}]␄"#, ok),
        (
            r#"[0,{"no":5,"type":"poll","data":{},"password":"unasked","more":[]}]␄"#,
            ok,
        ),
        (r#"[0,{"no":5,"type":"poll","password":null}]␄"#, ok),
    ])
    .await;
}

#[tokio::test]
async fn pipelined_requests_are_each_answered() {
    check_worker(&[(
        r#"[2]␄[0,{"no":1,"type":"poll"}]␄[0,{"no":2,"type":"nope"}]␄"#,
        r#"[3]␄[1,{"no":1,"data":"ok"}]␄[1,{"no":2,"error":"unknown request type: 'nope'"}]␄"#,
    )])
    .await;
}

#[tokio::test]
async fn what_is_no_array_is_refused() {
    check_refused(&[
        ("{}", "JSON array expected, got: object"),
        (
            r#"{"no":1,"type":"poll"}"#,
            "JSON array expected, got: object",
        ),
        ("5", "JSON array expected, got: number"),
        (r#""poll""#, "JSON array expected, got: string"),
        ("null", "JSON array expected, got: object"),
        ("true", "JSON array expected, got: boolean"),
    ])
    .await;
}

#[tokio::test]
async fn what_is_of_no_known_type_is_refused() {
    check_refused(&[
        ("[9]", "unexpected type 9"),
        ("[-1,{}]", "unexpected type -1"),
        ("[1.5]", "unexpected type 1.5"),
        ("[]", "unexpected type undefined"),
        (r#"["0"]"#, "unexpected type string"),
        ("[[0]]", "unexpected type object"),
    ])
    .await;
}

#[tokio::test]
async fn malformed_requests_are_refused() {
    const DATA: &str =
        "malformed REQUEST message: 'data' must be any of: string, number, object, array";
    check_refused(&[
        ("[0]", "malformed REQUEST message: data is not an object"),
        (
            "[0,null]",
            "malformed REQUEST message: data is not an object",
        ),
        ("[0,[]]", "malformed REQUEST message: data is not an object"),
        ("[0,5]", "malformed REQUEST message: data is not an object"),
        (
            "[0,{}]",
            "malformed REQUEST message: missing required field type",
        ),
        (
            r#"[0,{"no":1}]"#,
            "malformed REQUEST message: missing required field type",
        ),
        (
            r#"[0,{"type":"poll"}]"#,
            "malformed REQUEST message: missing required field no",
        ),
        (
            r#"[0,{"no":"1","type":"poll"}]"#,
            "malformed REQUEST message: 'no' must be integer",
        ),
        (
            r#"[0,{"no":1.5,"type":"poll"}]"#,
            "malformed REQUEST message: 'no' must be integer",
        ),
        (
            r#"[0,{"no":null,"type":"poll"}]"#,
            "malformed REQUEST message: 'no' must be integer",
        ),
        (
            r#"[0,{"no":1e300,"type":"poll"}]"#,
            "malformed REQUEST message: 'no' must be integer",
        ),
        (
            r#"[0,{"no":1,"type":5}]"#,
            "malformed REQUEST message: 'type' must be string",
        ),
        (
            r#"[0,{"no":1,"type":null}]"#,
            "malformed REQUEST message: 'type' must be string",
        ),
        (r#"[0,{"no":1,"type":"poll","data":true}]"#, DATA),
        (r#"[0,{"no":1,"type":"poll","data":false}]"#, DATA),
    ])
    .await;
}

#[tokio::test]
async fn malformed_responses_are_refused_and_unasked_ones_ignored() {
    check_refused(&[
        ("[1]", "malformed RESPONSE message: data is not an object"),
        (
            "[1,{}]",
            "malformed RESPONSE message: missing required field no",
        ),
        (
            r#"[1,{"no":"1"}]"#,
            "malformed RESPONSE message: 'no' must be integer",
        ),
        (
            r#"[1,{"no":1,"error":5}]"#,
            "malformed RESPONSE message: 'error' must be string",
        ),
    ])
    .await;
    check_worker(&[
        (r#"[1,{"no":1,"data":"ok"}]␄[2]␄"#, "[3]␄"),
        (r#"[1,{"no":0,"error":"what?"}]␄[2]␄"#, "[3]␄"),
    ])
    .await;
}

#[tokio::test]
async fn what_is_no_json_is_refused_with_the_place() {
    check_refused(&[
        (
            "x",
            "message is not valid JSON: expected value at line 1 column 1",
        ),
        (
            "[0,{no:0,type:'poll'}]",
            "message is not valid JSON: key must be a string at line 1 column 5",
        ),
        (
            "[2",
            "message is not valid JSON: EOF while parsing a list at line 1 column 2",
        ),
        (
            "[2] [2]",
            "message is not valid JSON: trailing characters at line 1 column 5",
        ),
    ])
    .await;
}

#[tokio::test]
async fn what_is_no_utf8_is_refused() {
    let server = Server::start(Role::Worker, patient()).await;
    let mut client = server.client().await;
    client
        .send(b"[0,{\"no\":1,\"type\":\"\xff\"}]\x04[2]\x04")
        .await;
    let error = "message is not valid JSON: invalid unicode code point at line 1 column 20";
    client
        .expect(&format!(
            "[1,{{\"no\":0,\"error\":\"{error}\"}}]\x04[3]\x04"
        ))
        .await;
    server.stopped().await;
}
