//! Everything is bounded: frames, deadlines, unanswered requests, connections.

use std::time::Duration;

use jobd_proto::connection::{CallError, CloseReason, Connection, ConnectionOptions};
use jobd_proto::listener::ListenerOptions;

use crate::ground::{PATIENCE, Role, Server, echo, patient, soon, until};

fn limited(change: impl FnOnce(&mut ConnectionOptions)) -> ListenerOptions {
    let mut options = patient();
    change(&mut options.connection);
    options
}

#[tokio::test]
async fn a_frame_may_be_as_long_as_the_limit_and_no_longer() {
    let server = Server::start(Role::Worker, limited(|options| options.max_frame = 100)).await;
    let frame = |length: usize| {
        let frame = format!(
            r#"[0,{{"no":1,"type":"poll","data":"{}"}}]"#,
            "x".repeat(length - 36)
        );
        assert_eq!(frame.len(), length);
        frame + "\x04"
    };
    let mut client = server.client().await;
    client.send(frame(100).as_bytes()).await;
    client.expect("[1,{\"no\":1,\"data\":\"ok\"}]\x04").await;
    let refusal = "[1,{\"no\":0,\"error\":\"message is longer than 100 bytes\"}]\x04";
    client.send(frame(101).as_bytes()).await;
    client.expect_end(refusal).await;
    let mut client = server.client().await;
    // Its end need not come for this to be known.
    client.send(&[b'x'; 101]).await;
    client.expect_end(refusal).await;
    server.stopped().await;
}

#[tokio::test]
async fn a_caller_whose_request_is_too_long_learns_so() {
    let server = Server::start(Role::Worker, limited(|options| options.max_frame = 1 << 20)).await;
    let (connection, _incoming) = Connection::dial(
        "127.0.0.1",
        server.port,
        PATIENCE,
        ConnectionOptions::default(),
    )
    .await
    .unwrap();
    // Far more than the sockets hold: it is refused while most of it is still to be sent.
    let long = serde_json::Value::from("x".repeat(100 << 20));
    let answer = soon("the refusal", connection.request("poll", long, None)).await;
    let reason = CloseReason::PeerError("message is longer than 1048576 bytes".to_owned());
    assert_eq!(answer, Err(CallError::Closed(reason)));
    server.stopped().await;
}

#[tokio::test]
async fn a_frame_that_is_begun_has_to_be_finished() {
    let deadline = Duration::from_millis(100);
    let mut server = Server::start(
        Role::Worker,
        limited(|options| options.frame_deadline = deadline),
    )
    .await;
    let mut idle = server.client().await;
    let mut client = server.client().await;
    client.send(b"[2]\x04[0,{\"no\"").await;
    client.expect("[3]\x04").await;
    client
        .expect_end("[1,{\"no\":0,\"error\":\"message was not finished in time\"}]\x04")
        .await;

    // Drop by drop is no better than not at all.
    let mut slow = server.client().await;
    let dripping = async {
        use tokio::io::AsyncWriteExt;
        while slow.stream.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon("the slow one is cut off", dripping).await;

    // Whoever has begun nothing may wait as long as they like.
    idle.send(b"[2]\x04").await;
    idle.expect("[3]\x04").await;
    let (_, second) = (
        server.accepted.recv().await,
        server.accepted.recv().await.unwrap(),
    );
    assert_eq!(second.closed().await, CloseReason::FrameDeadline);
    server.stopped().await;
}

#[tokio::test]
async fn a_peer_that_takes_no_answers_is_cut_off() {
    let deadline = Duration::from_millis(200);
    let options = limited(|options| options.write_deadline = deadline);
    let long = serde_json::Value::from("x".repeat(1 << 20));
    let mut server = Server::serve(options, move |request| request.respond(Ok(long.clone()))).await;
    let mut client = server.client().await;
    client
        .send(b"[0,{\"no\":1,\"type\":\"a\"}]\x04".repeat(50).as_slice())
        .await;
    let connection = server.accepted.recv().await.unwrap();
    assert_eq!(
        soon("it is cut off", connection.closed()).await,
        CloseReason::WriteDeadline
    );
    server.stopped().await;
}

#[tokio::test]
async fn ten_thousand_pipelined_requests_are_slowed_down_and_all_answered() {
    let server = Server::serve(limited(|options| options.max_pending = 8), |request| {
        tokio::spawn(async move {
            tokio::task::yield_now().await;
            echo(request);
        });
    })
    .await;
    let mut client = server.client().await;
    let requests: Vec<_> = (1..=10_000)
        .map(|no| format!("[0,{{\"no\":{no},\"type\":\"a\",\"data\":{no}}}]\x04"))
        .collect();
    client.send(requests.concat().as_bytes()).await;
    let mut answered = vec![false; 10_001];
    for _ in 1..=10_000 {
        let answer: serde_json::Value = serde_json::from_str(&client.message().await).unwrap();
        let no = answer[1]["no"].as_u64().unwrap();
        assert_eq!(answer[1]["data"].as_u64(), Some(no));
        assert!(
            !std::mem::replace(&mut answered[usize::try_from(no).unwrap()], true),
            "{no} twice"
        );
    }
    server.stopped().await;
}

#[tokio::test]
async fn a_link_full_of_long_requests_still_answers_pings_and_refuses_more() {
    let (taken, mut requests) = tokio::sync::mpsc::unbounded_channel();
    let server = Server::serve(limited(|options| options.max_pending = 3), move |request| {
        taken.send(request).unwrap();
    })
    .await;
    let mut client = server.client().await;
    for no in 1..=4 {
        client
            .send(format!("[0,{{\"no\":{no},\"type\":\"a\",\"data\":{no}}}]\x04").as_bytes())
            .await;
    }
    client.send(b"[2]\x04").await;
    client
        .expect(
            "[1,{\"no\":4,\"error\":\"3 requests are unanswered: wait for an answer\"}]\x04[3]\x04",
        )
        .await;
    echo(requests.recv().await.unwrap());
    client.expect("[1,{\"no\":1,\"data\":1}]\x04").await;
    client
        .send(b"[0,{\"no\":5,\"type\":\"a\",\"data\":5}]\x04")
        .await;
    for no in [2, 3, 5] {
        echo(soon("the request", requests.recv()).await.unwrap());
        client
            .expect(&format!("[1,{{\"no\":{no},\"data\":{no}}}]\x04"))
            .await;
    }
    server.stopped().await;
}

#[tokio::test]
async fn the_connection_that_is_idle_longest_makes_room() {
    let options = ListenerOptions {
        max_connections: 4,
        ..patient()
    };
    let (taken, mut requests) = tokio::sync::mpsc::unbounded_channel();
    let mut server = Server::serve(options, move |request| taken.send(request).unwrap()).await;

    let mut waiting = server.client().await;
    waiting
        .send(b"[0,{\"no\":1,\"type\":\"a\",\"data\":1}]\x04")
        .await;
    let request = soon("the request", requests.recv()).await.unwrap();
    server.accepted.recv().await.unwrap();
    let mut registered = server.client().await;
    server.accepted.recv().await.unwrap().pin();
    let mut oldest = server.client().await;
    let mut younger = server.client().await;
    for client in [&mut oldest, &mut younger] {
        tokio::time::sleep(Duration::from_millis(5)).await;
        client.send(b"[2]\x04").await;
        client.expect("[3]\x04").await;
    }

    let mut newcomer = server.client().await;
    newcomer.send(b"[2]\x04").await;
    newcomer.expect("[3]\x04").await;
    oldest.expect_end("").await;
    for client in [&mut waiting, &mut registered, &mut younger] {
        client.send(b"[2]\x04").await;
        client.expect("[3]\x04").await;
    }
    echo(request);
    waiting.expect("[1,{\"no\":1,\"data\":1}]\x04").await;
    server.stopped().await;
}

#[tokio::test]
async fn a_newcomer_is_refused_where_everybody_is_busy() {
    let options = ListenerOptions {
        max_connections: 2,
        ..patient()
    };
    let mut server = Server::start(Role::Worker, options).await;
    let mut busy = Vec::new();
    for _ in 0..2 {
        busy.push(server.client().await);
        server.accepted.recv().await.unwrap().pin();
    }
    let refusal = "[1,{\"no\":0,\"error\":\"too many connections\"}]\x04";
    server.client().await.expect_end(refusal).await;
    for client in &mut busy {
        client.send(b"[2]\x04").await;
        client.expect("[3]\x04").await;
    }
    // One that has gone leaves its place to the next.
    drop(busy.pop());
    let next_one = async {
        loop {
            let mut client = server.client().await;
            client.send(b"[2]\x04").await;
            if client.message().await == "[3]" {
                break;
            }
        }
    };
    soon("a place becomes free", next_one).await;
    server.stopped().await;
}

#[tokio::test]
async fn a_handler_that_panics_ends_its_own_connection_only() {
    let mut server = Server::serve(patient(), |request| {
        assert!(request.request.kind != "bug", "a bug in a handler");
        echo(request);
    })
    .await;
    let mut other = server.client().await;
    let mut client = server.client().await;
    client.send(b"[0,{\"no\":1,\"type\":\"bug\"}]\x04").await;
    let mut ended = vec![
        server.accepted.recv().await.unwrap(),
        server.accepted.recv().await.unwrap(),
    ];
    until("its connection ends", || {
        ended.retain(|connection| !connection.is_closed());
        ended.len() == 1
    })
    .await;
    other
        .send(b"[0,{\"no\":2,\"type\":\"a\",\"data\":2}]\x04")
        .await;
    other.expect("[1,{\"no\":2,\"data\":2}]\x04").await;
    server.stopped().await;
}
