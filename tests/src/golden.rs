//! Golden bytes: what a daemon answers to raw input, to the letter.

use std::collections::BTreeMap;

use crate::programs::Daemon;
use crate::wire::{EOT, Wire};

/// What is sent (without its EOT) and the answer (without its EOT). An answer that ends in `…`
/// gives only its beginning.
pub type Case<'a> = (&'a str, &'a str);

/// Sends each message byte by byte, and again in one write, and compares the answers.
pub async fn check_each(daemon: &Daemon, cases: &[Case<'_>]) {
    let mut wire = daemon.wire().await;
    for (sent, answer) in cases {
        for byte in sent.as_bytes().iter().chain(&[EOT]) {
            wire.send([*byte]).await;
        }
        compare(sent, &wire.frame().await, answer);
        wire.say(sent).await;
        compare(sent, &wire.frame().await, answer);
    }
    assert_eq!(wire.unread(), "", "more than was asked for");
}

/// Sends all messages in one write; the answers may come in any order.
pub async fn check_pipelined(daemon: &Daemon, cases: &[Case<'_>]) {
    let mut wire = daemon.wire().await;
    check_all_at_once(&mut wire, cases).await;
}

/// The same on a connection that exists.
pub async fn check_all_at_once(wire: &mut Wire, cases: &[Case<'_>]) {
    let mut bytes = Vec::new();
    let mut open: BTreeMap<&str, usize> = BTreeMap::new();
    for (sent, answer) in cases {
        bytes.extend_from_slice(sent.as_bytes());
        bytes.push(EOT);
        *open.entry(answer).or_default() += 1;
    }
    wire.send(&bytes).await;
    for _ in cases {
        let frame = wire.frame().await;
        let answer = open.keys().find(|answer| matches(&frame, answer)).copied();
        let answer = answer.unwrap_or_else(|| panic!("unexpected {frame}, awaiting {open:#?}"));
        let count = open.get_mut(answer).expect("just found");
        *count -= 1;
        if *count == 0 {
            open.remove(answer);
        }
    }
}

/// Sends each message once, in turn, and compares the answers: for requests that change something.
pub async fn check_in_turn(daemon: &Daemon, cases: &[Case<'_>]) {
    let mut wire = daemon.wire().await;
    for (sent, answer) in cases {
        wire.say(sent).await;
        compare(sent, &wire.frame().await, answer);
    }
}

fn matches(frame: &str, answer: &str) -> bool {
    match answer.strip_suffix('…') {
        Some(beginning) => frame.starts_with(beginning),
        None => frame == answer,
    }
}

fn compare(sent: &str, frame: &str, answer: &str) {
    assert!(
        matches(frame, answer),
        "to {sent}\n  came {frame}\nexpected {answer}"
    );
}

/// What both daemons answer to messages that are no request they know.
pub const MESSAGES: &[Case<'_>] = &[
    ("[2]", "[3]"),
    ("{}", r#"[1,{"no":0,"error":"JSON array expected, got: …"#),
    ("5", r#"[1,{"no":0,"error":"JSON array expected, got: …"#),
    ("null", r#"[1,{"no":0,"error":"JSON array expected, got: …"#),
    ("[9]", r#"[1,{"no":0,"error":"unexpected type 9"}]"#),
    (
        "[0]",
        r#"[1,{"no":0,"error":"malformed REQUEST message: data is not an object"}]"#,
    ),
    (
        "[0,7]",
        r#"[1,{"no":0,"error":"malformed REQUEST message: data is not an object"}]"#,
    ),
    (
        "[0,{}]",
        r#"[1,{"no":0,"error":"malformed REQUEST message: missing required field type"}]"#,
    ),
    (
        r#"[0,{"type":"status"}]"#,
        r#"[1,{"no":0,"error":"malformed REQUEST message: missing required field no"}]"#,
    ),
    (
        r#"[0,{"no":"1","type":"status"}]"#,
        r#"[1,{"no":0,"error":"malformed REQUEST message: 'no' must be integer"}]"#,
    ),
    (
        r#"[0,{"no":1.5,"type":"status"}]"#,
        r#"[1,{"no":0,"error":"malformed REQUEST message: 'no' must be integer"}]"#,
    ),
    (
        r#"[0,{"no":1,"type":5}]"#,
        r#"[1,{"no":0,"error":"malformed REQUEST message: 'type' must be string"}]"#,
    ),
    (
        r#"[0,{"no":1,"type":"status","data":true}]"#,
        r#"[1,{"no":0,"error":"malformed REQUEST message: 'data' must be any of: string, number, object, array"}]"#,
    ),
    ("nonsense", r#"[1,{"no":0,"error":"…"#),
    (
        r#"[0,{"no":7,"type":"nope"}]"#,
        r#"[1,{"no":7,"error":"unknown request type: 'nope'"}]"#,
    ),
    // Whatever integer came is echoed.
    (
        r#"[0,{"no":3.0,"type":"nope"}]"#,
        r#"[1,{"no":3,"error":"unknown request type: 'nope'"}]"#,
    ),
    (
        r#"[0,{"no":-5,"type":"nope"}]"#,
        r#"[1,{"no":-5,"error":"unknown request type: 'nope'"}]"#,
    ),
    (
        r#"[0,{"no":4000000000,"type":"nope"}]"#,
        r#"[1,{"no":4000000000,"error":"unknown request type: 'nope'"}]"#,
    ),
];
