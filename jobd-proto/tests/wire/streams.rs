//! Answers of several messages: their bytes, their flow control, their ends.

use jobd_proto::RequestError;
use jobd_proto::connection::{
    CallError, Connection, ConnectionOptions, Incoming, Peer, Replies, Reply, Responses,
};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use crate::ground::{echo, soon};

/// Messages that a peer sends of itself before it waits to be asked for more.
const WINDOW: u64 = 8;

async fn read_message(stream: &mut DuplexStream) -> String {
    let mut message = Vec::new();
    loop {
        match soon("a message", stream.read_u8()).await.unwrap() {
            4 => return String::from_utf8(message).unwrap(),
            byte => message.push(byte),
        }
    }
}

fn pair(capacity: usize) -> [(Connection, Incoming); 2] {
    let (near, far) = tokio::io::duplex(capacity);
    let open =
        |stream, name| Connection::open(stream, Peer::named(name), ConnectionOptions::default());
    [open(near, "near"), open(far, "far")]
}

/// A typed peer, and the other end as bytes.
fn half() -> (Connection, Incoming, DuplexStream) {
    let (near, far) = tokio::io::duplex(1 << 16);
    let (connection, incoming) =
        Connection::open(near, Peer::named("near"), ConnectionOptions::default());
    (connection, incoming, far)
}

/// Answers `count` with numbers, for ever; `echo` with what it was asked.
fn serve(mut incoming: Incoming) {
    tokio::spawn(async move {
        while let Some(request) = incoming.next().await {
            match request.request.kind.as_str() {
                "count" => drop(tokio::spawn(count(request.stream()))),
                _ => echo(request),
            }
        }
    });
}

async fn count(responses: Responses) {
    let mut number = 0;
    while let Some(turn) = responses.ready().await {
        responses.send(turn, &json!(number));
        number += 1;
    }
    responses.end(Ok(json!("stopped")));
}

async fn next(replies: &mut Replies) -> Result<Reply, CallError> {
    soon("a reply", replies.next()).await
}

#[tokio::test]
async fn a_stream_is_these_bytes() {
    let (connection, _incoming, mut far) = half();
    let asked = connection.request_stream("count", json!({"id": 7}), None);
    let mut replies = asked.await.unwrap();
    let request: Value = serde_json::from_str(&read_message(&mut far).await).unwrap();
    let no = request[1]["no"].as_i64().unwrap();
    let expected = json!([0, {"no": no, "type": "count", "data": {"id": 7, "window": 8}}]);
    assert_eq!(request, expected);
    for number in 0..4 {
        let message = format!("[1,{{\"no\":{no},\"more\":true,\"data\":{number}}}]\x04");
        far.write_all(message.as_bytes()).await.unwrap();
        assert_eq!(next(&mut replies).await, Ok(Reply::More(json!(number))));
    }
    let last = format!("[1,{{\"no\":{no},\"data\":\"over\"}}]\x04");
    far.write_all(last.as_bytes()).await.unwrap();
    assert_eq!(next(&mut replies).await, Ok(Reply::Last(json!("over"))));
    let wider: Value = serde_json::from_str(&read_message(&mut far).await).unwrap();
    assert_eq!(wider[1]["type"], "stream");
    assert_eq!(wider[1]["data"], json!({"no": no, "more": 4}));

    let (_connection, mut incoming, mut far) = half();
    let asked = b"[0,{\"no\":5,\"type\":\"count\",\"data\":{\"window\":1}}]\x04";
    far.write_all(asked).await.unwrap();
    let responses = soon("a request", incoming.next()).await.unwrap().stream();
    let turn = soon("a turn", responses.ready()).await.unwrap();
    responses.send(turn, &json!("a"));
    assert_eq!(
        read_message(&mut far).await,
        r#"[1,{"no":5,"more":true,"data":"a"}]"#
    );
    responses.end(Err(RequestError::new("over")));
    assert_eq!(
        read_message(&mut far).await,
        r#"[1,{"no":5,"error":"over"}]"#
    );
}

#[tokio::test]
async fn a_reader_that_stops_holds_back_its_own_stream_alone() {
    let [(near, _near), (_far, far)] = pair(4096);
    let (made, mut streams) = tokio::sync::mpsc::unbounded_channel();
    let mut far = far;
    tokio::spawn(async move {
        while let Some(request) = far.next().await {
            match request.request.kind.as_str() {
                "count" => made.send(request.stream()).unwrap(),
                _ => echo(request),
            }
        }
    });
    let _unread = near.request_stream("count", json!({}), None).await.unwrap();
    let stalled = soon("a stream", streams.recv()).await.unwrap();
    for number in 0..WINDOW {
        let turn = soon("a turn", stalled.ready()).await.unwrap();
        stalled.send(turn, &json!(number));
    }
    let mut read = near.request_stream("count", json!({}), None).await.unwrap();
    let flowing = soon("a stream", streams.recv()).await.unwrap();
    tokio::spawn(count(flowing));
    for number in 0..1000 {
        assert_eq!(next(&mut read).await, Ok(Reply::More(json!(number))));
    }
    let answer = near.request("echo", json!("here"), None);
    assert_eq!(soon("an answer", answer).await, Ok(json!("here")));
    let ninth = futures::FutureExt::now_or_never(stalled.ready());
    assert!(ninth.is_none(), "nobody asked for a ninth message");
}

#[tokio::test]
async fn a_stream_that_nobody_listens_to_is_stopped() {
    let [(near, _near), (_far, mut far)] = pair(4096);
    let replies = near.request_stream("count", json!({}), None).await.unwrap();
    let responses = soon("a stream", far.next()).await.unwrap().stream();
    drop(replies);
    soon("the stop", responses.stopped()).await;
    assert!(responses.ready().await.is_none());
    responses.end(Ok(json!("too late")));
    let gone = near.request_stream("count", json!({}), None).await.unwrap();
    let responses = soon("a stream", far.next()).await.unwrap().stream();
    near.close();
    soon("the end", responses.stopped()).await;
    drop(gone);
}

#[tokio::test]
async fn a_stream_whose_connection_ends_says_so() {
    let [(near, _near), (far, incoming)] = pair(4096);
    serve(incoming);
    let mut replies = near.request_stream("count", json!({}), None).await.unwrap();
    assert_eq!(next(&mut replies).await, Ok(Reply::More(json!(0))));
    far.close();
    let ended = loop {
        match next(&mut replies).await {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    // Of the stream's end it may learn by what it was just about to write.
    assert!(matches!(ended, CallError::Closed(_)), "{ended}");
}

#[tokio::test]
async fn a_peer_that_sends_more_than_was_asked_for_is_cut_off() {
    let (connection, _incoming, mut far) = half();
    let asked = connection.request_stream("count", json!({}), None);
    let mut replies = asked.await.unwrap();
    let request: Value = serde_json::from_str(&read_message(&mut far).await).unwrap();
    let no = &request[1]["no"];
    let flood = format!("[1,{{\"no\":{no},\"more\":true,\"data\":0}}]\x04").repeat(1000);
    far.write_all(flood.as_bytes()).await.unwrap();
    far.write_all(b"[2]\x04").await.unwrap();
    while read_message(&mut far).await != "[3]" {}
    let mut messages = 0;
    let error = loop {
        match next(&mut replies).await {
            Ok(_) => messages += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(messages, WINDOW);
    assert!(
        matches!(&error, CallError::Refused(text) if text.contains("more messages")),
        "{error}"
    );
}

#[tokio::test]
async fn steering_what_is_no_stream_harms_nothing() {
    let (_connection, mut incoming, mut far) = half();
    for (sent, answer) in [
        (r#"{"no":1,"more":3}"#, r#""data":"ok""#),
        (r#"{"no":9,"more":0}"#, r#""data":"ok""#),
        ("null", r#""error":"missing required field no""#),
        (
            r#"{"no":"9","more":1}"#,
            r#""error":"'no' must be integer""#,
        ),
        (
            r#"{"no":9,"more":-1}"#,
            r#""error":"'more' must not be negative""#,
        ),
    ] {
        let request = format!("[0,{{\"no\":9,\"type\":\"stream\",\"data\":{sent}}}]\x04");
        far.write_all(request.as_bytes()).await.unwrap();
        let expected = format!("[1,{{\"no\":9,{answer}}}]");
        assert_eq!(read_message(&mut far).await, expected);
    }
    // Two streams of one number, and a window that makes no sense.
    for window in ["-5", "1e300", "\"x\"", "9223372036854775807"] {
        let request =
            format!("[0,{{\"no\":9,\"type\":\"count\",\"data\":{{\"window\":{window}}}}}]\x04");
        far.write_all(request.as_bytes()).await.unwrap();
        soon("a request", incoming.next())
            .await
            .unwrap()
            .stream()
            .end(Ok(json!(window)));
        assert!(read_message(&mut far).await.contains("\"data\""));
    }
}
