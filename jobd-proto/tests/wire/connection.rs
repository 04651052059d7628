//! The typed peer: requests both ways, giving up, closing.

use std::time::{Duration, Instant};

use jobd_proto::connection::{
    CallError, CloseReason, Connection, ConnectionOptions, Incoming, Peer,
};
use jobd_proto::{RequestError, Secret};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::JoinSet;

use crate::ground::{PATIENCE, Server, echo, patient, soon, until};

/// Two typed peers on a pipe that holds a few bytes at a time.
fn pair(capacity: usize, options: ConnectionOptions) -> [(Connection, Incoming); 2] {
    let (near, far) = tokio::io::duplex(capacity);
    [
        Connection::open(near, Peer::named("near"), options.clone()),
        Connection::open(far, Peer::named("far"), options),
    ]
}

/// A typed peer, and the other end as bytes.
fn half(options: ConnectionOptions) -> (Connection, Incoming, DuplexStream) {
    let (near, far) = tokio::io::duplex(1 << 16);
    let (connection, incoming) = Connection::open(near, Peer::named("near"), options);
    (connection, incoming, far)
}

async fn read_message(stream: &mut DuplexStream) -> String {
    let mut message = Vec::new();
    loop {
        match soon("a message", stream.read_u8()).await.unwrap() {
            4 => return String::from_utf8(message).unwrap(),
            byte => message.push(byte),
        }
    }
}

fn serve_echo(mut incoming: Incoming) {
    tokio::spawn(async move {
        while let Some(request) = incoming.next().await {
            echo(request);
        }
    });
}

#[tokio::test]
async fn a_request_is_these_bytes() {
    let (connection, _incoming, mut far) = half(ConnectionOptions::default());
    let asking = tokio::spawn({
        let connection = connection.clone();
        async move {
            let password = Secret::new("se\"same");
            connection
                .request("poll", json!({"targets": ["a"]}), Some(&password))
                .await?;
            connection.request("poll", Value::Null, None).await
        }
    });
    let first = read_message(&mut far).await;
    let (head, rest) = first.split_once(',').unwrap();
    assert_eq!(head, "[0");
    let no: i64 = rest
        .strip_prefix("{\"no\":")
        .unwrap()
        .split(',')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    assert!((1..=999_999).contains(&no), "{no}");
    let expected = format!(
        r#"[0,{{"no":{no},"type":"poll","data":{{"targets":["a"]}},"password":"se\"same"}}]"#
    );
    assert_eq!(first, expected);
    far.write_all(format!("[1,{{\"no\":{no},\"data\":\"ok\"}}]\x04").as_bytes())
        .await
        .unwrap();
    let next = no % 999_999 + 1;
    assert_eq!(
        read_message(&mut far).await,
        format!(r#"[0,{{"no":{next},"type":"poll"}}]"#)
    );
    far.write_all(format!("[1,{{\"no\":{next},\"error\":\"no\"}}]\x04").as_bytes())
        .await
        .unwrap();
    let answer = soon("the answer", asking).await.unwrap();
    assert_eq!(answer, Err(CallError::Refused("no".to_owned())));
}

#[tokio::test]
async fn answers_may_come_in_any_order() {
    let (connection, _incoming, mut far) = half(ConnectionOptions::default());
    let mut asking = JoinSet::new();
    for _ in 0..20 {
        let connection = connection.clone();
        asking.spawn(async move { connection.request("poll", Value::Null, None).await });
    }
    let mut numbers = Vec::new();
    for _ in 0..20 {
        let message: Value = serde_json::from_str(&read_message(&mut far).await).unwrap();
        numbers.push(message[1]["no"].as_i64().unwrap());
    }
    for no in numbers.iter().rev() {
        far.write_all(format!("[1,{{\"no\":{no},\"data\":{no}}}]\x04").as_bytes())
            .await
            .unwrap();
    }
    let mut answers = Vec::new();
    while let Some(answer) = soon("the answers", asking.join_next()).await {
        answers.push(answer.unwrap().unwrap().as_i64().unwrap());
    }
    answers.sort_unstable();
    numbers.sort_unstable();
    assert_eq!(answers, numbers);
}

#[tokio::test]
async fn two_peers_that_send_each_other_much_do_not_block() {
    let [(near, near_incoming), (far, far_incoming)] = pair(4096, ConnectionOptions::default());
    serve_echo(near_incoming);
    serve_echo(far_incoming);
    let much = json!("x\u{4}é".repeat(1 << 19));
    let exchange = async {
        tokio::join!(
            near.request("a", much.clone(), None),
            far.request("b", much.clone(), None),
            near.request("c", json!(1), None),
        )
    };
    let (a, b, c) = soon("both are answered", exchange).await;
    assert!(a.as_ref() == Ok(&much) && b.as_ref() == Ok(&much));
    assert_eq!(c, Ok(json!(1)));
}

#[tokio::test]
async fn closing_fails_what_waits_and_what_comes_later() {
    let [(near, _near_incoming), (far, _far_incoming)] = pair(4096, ConnectionOptions::default());
    let (one, two, ()) = soon("both fail", async {
        tokio::join!(
            near.request("a", Value::Null, None),
            near.request("b", Value::Null, None),
            async {
                until("the peer has them", || far.pending_incoming() == 2).await;
                far.close();
            },
        )
    })
    .await;
    assert_eq!(one, Err(CallError::Closed(CloseReason::Peer)));
    assert_eq!(two, one);
    assert_eq!(near.request("c", Value::Null, None).await, one);
    assert_eq!(near.closed().await, CloseReason::Peer);
    assert_eq!(far.closed().await, CloseReason::Here);
    assert!(near.is_closed() && far.is_closed());
}

#[tokio::test]
async fn a_request_given_up_leaves_nothing_and_its_late_answer_harms_nobody() {
    let [(near, _near_incoming), (_far, mut far_incoming)] =
        pair(4096, ConnectionOptions::default());
    let given_up = tokio::time::timeout(
        Duration::from_millis(20),
        near.request("a", Value::Null, None),
    );
    assert!(given_up.await.is_err());
    let late = soon("the request", far_incoming.next()).await.unwrap();
    late.respond(Ok(json!("late")));
    serve_echo(far_incoming);
    assert_eq!(
        soon("the answer", near.request("b", json!(2), None)).await,
        Ok(json!(2))
    );
    near.close_when_idle();
    assert_eq!(
        soon("nothing is pending", near.closed()).await,
        CloseReason::Here
    );
}

#[tokio::test]
async fn a_request_that_nobody_answers_is_answered() {
    let [(near, _near_incoming), (_far, mut far_incoming)] =
        pair(4096, ConnectionOptions::default());
    let (answer, ()) = soon("the answer", async {
        tokio::join!(near.request("a", Value::Null, None), async {
            drop(far_incoming.next().await);
        })
    })
    .await;
    assert_eq!(
        answer,
        Err(CallError::Refused(
            "internal error: request dropped".to_owned()
        ))
    );
    drop(far_incoming);
    let answer = soon("the answer", near.request("a", Value::Null, None)).await;
    assert_eq!(
        answer,
        Err(CallError::Refused("unknown request type: 'a'".to_owned()))
    );
}

#[tokio::test]
async fn closing_when_idle_answers_what_was_taken_and_refuses_the_rest() {
    let [(near, _near_incoming), (far, mut far_incoming)] =
        pair(4096, ConnectionOptions::default());
    let asking = tokio::spawn({
        let near = near.clone();
        async move { near.request("slow", Value::Null, None).await }
    });
    let slow = soon("the request", far_incoming.next()).await.unwrap();
    far.close_when_idle();
    let refused = soon("the refusal", near.request("next", Value::Null, None)).await;
    assert!(
        matches!(refused, Err(CallError::Refused(text)) if text.starts_with("connection is closing"))
    );
    assert!(!far.is_closed());
    slow.respond(Ok(json!("done")));
    assert_eq!(soon("the answer", asking).await.unwrap(), Ok(json!("done")));
    assert_eq!(soon("the end", far.closed()).await, CloseReason::Here);
    assert_eq!(soon("the end", near.closed()).await, CloseReason::Peer);
    assert!(
        soon("no more requests", far_incoming.next())
            .await
            .is_none()
    );
}

#[tokio::test]
async fn closing_when_idle_does_not_wait_for_a_request_that_is_given_up() {
    let [(near, _near_incoming), (far, mut far_incoming)] =
        pair(4096, ConnectionOptions::default());
    let asking = tokio::spawn({
        let near = near.clone();
        async move { near.request("slow", Value::Null, None).await }
    });
    let _unanswered = soon("the request", far_incoming.next()).await.unwrap();
    near.close_when_idle();
    assert!(matches!(
        soon("the refusal", far.request("a", Value::Null, None)).await,
        Err(CallError::Refused(_))
    ));
    assert!(!near.is_closed(), "it waits for the answer");
    asking.abort();
    assert_eq!(soon("the end", near.closed()).await, CloseReason::Here);
}

#[tokio::test]
async fn dropping_every_handle_flushes_and_closes() {
    let (connection, mut incoming, mut far) = half(ConnectionOptions::default());
    far.write_all(b"[0,{\"no\":1,\"type\":\"a\"}]\x04")
        .await
        .unwrap();
    let request = soon("the request", incoming.next()).await.unwrap();
    drop((connection, incoming));
    let long = "x".repeat(1 << 20);
    request.respond(Ok(json!(long)));
    let mut said = String::new();
    soon("the end", far.read_to_string(&mut said))
        .await
        .unwrap();
    assert_eq!(said, format!("[1,{{\"no\":1,\"data\":\"{long}\"}}]\x04"));
}

#[tokio::test]
async fn a_silent_peer_is_pinged_and_given_up() {
    let every = Duration::from_millis(50);
    let options = ConnectionOptions {
        ping: Some(every),
        ..ConnectionOptions::default()
    };
    let (connection, _incoming, mut far) = half(options);
    let begin = Instant::now();
    for _ in 0..5 {
        assert_eq!(read_message(&mut far).await, "[2]");
        far.write_all(b"[3]\x04").await.unwrap();
    }
    assert!(begin.elapsed() >= every * 4);
    let silence = Instant::now();
    assert_eq!(
        soon("it is given up", connection.closed()).await,
        CloseReason::Silent(every * 3)
    );
    assert!(silence.elapsed() >= every * 2);
}

#[tokio::test]
async fn a_peer_that_answers_pings_is_kept() {
    let options = ConnectionOptions {
        // Long enough for a loaded machine to answer within three of them.
        ping: Some(Duration::from_millis(200)),
        ..ConnectionOptions::default()
    };
    let [(near, _near_incoming), (far, far_incoming)] = pair(64, ConnectionOptions::default());
    near.set_ping(options.ping);
    // As long as a peer that does not answer would be kept, and more.
    tokio::time::sleep(Duration::from_secs(1)).await;
    serve_echo(far_incoming);
    assert_eq!(
        soon("the answer", near.request("a", json!(1), None)).await,
        Ok(json!(1))
    );
    assert!(!near.is_closed() && !far.is_closed());
}

#[tokio::test]
async fn an_error_about_no_request_tells_why_the_peer_closed() {
    let (connection, _incoming, mut far) = half(ConnectionOptions::default());
    far.write_all(b"[1,{\"no\":0,\"error\":\"too many connections\"}]\x04")
        .await
        .unwrap();
    drop(far);
    let answer = soon("the failure", connection.request("poll", Value::Null, None)).await;
    let reason = CloseReason::PeerError("too many connections".to_owned());
    assert_eq!(answer, Err(CallError::Closed(reason.clone())));
    assert_eq!(
        reason.to_string(),
        "closed by the peer: too many connections"
    );
}

#[tokio::test]
async fn a_client_that_ends_its_side_first_gets_its_answers() {
    let server = Server::serve(patient(), |request| {
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(50)).await;
            echo(request);
        });
    })
    .await;
    let mut client = server.client().await;
    client
        .send(b"[0,{\"no\":1,\"type\":\"a\",\"data\":5}]\x04")
        .await;
    client.stream.shutdown().await.unwrap();
    client.expect_end("[1,{\"no\":1,\"data\":5}]\x04").await;
    server.stopped().await;
}

#[tokio::test]
async fn many_clients_at_a_time_get_their_own_answers() {
    let server = Server::serve(patient(), echo).await;
    let mut clients = JoinSet::new();
    for client in 0..200 {
        let port = server.port;
        clients.spawn(async move {
            let dial = Connection::dial("127.0.0.1", port, PATIENCE, ConnectionOptions::default());
            let (connection, _incoming) = dial.await.unwrap();
            for round in 0..50 {
                let data = json!([client, round]);
                let answer = connection.request("echo", data.clone(), None).await;
                assert_eq!(answer, Ok(data));
            }
        });
    }
    while let Some(client) = soon("every client", clients.join_next()).await {
        client.unwrap();
    }
    server.stopped().await;
}

#[tokio::test]
async fn stopping_the_listener_waits_for_the_answers() {
    let (taken, mut requests) = tokio::sync::mpsc::unbounded_channel();
    let server = Server::serve(patient(), move |request| taken.send(request).unwrap()).await;
    let mut client = server.client().await;
    let mut idle = server.client().await;
    client.send(b"[0,{\"no\":1,\"type\":\"a\"}]\x04").await;
    idle.send(b"[2]\x04").await;
    idle.expect("[3]\x04").await;
    let request = soon("the request", requests.recv()).await.unwrap();
    let stop = server.stop.clone();
    let stopped = tokio::spawn(server.stopped());
    stop.cancelled().await;
    idle.expect_end("").await;
    assert!(!stopped.is_finished());
    request.respond(Err(RequestError::new("too late")));
    client
        .expect_end("[1,{\"no\":1,\"error\":\"too late\"}]\x04")
        .await;
    soon("the listener stops", stopped).await.unwrap();
}
