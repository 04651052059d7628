//! The password of a connection.

use std::io::Write;
use std::sync::{Arc, Mutex};

use jobd_proto::Secret;
use jobd_proto::connection::CallError;
use jobd_proto::connection::{Connection, ConnectionOptions, Peer};
use jobd_proto::listener::{Access, ListenerOptions};

use crate::ground::{PATIENCE, Role, Server, patient, soon};

fn guarded(always_allow_localhost: bool) -> ListenerOptions {
    let password = Some(Secret::new("sesame"));
    ListenerOptions {
        access: Access {
            password,
            always_allow_localhost,
        },
        ..patient()
    }
}

#[tokio::test]
async fn the_first_request_needs_the_password_and_later_ones_do_not() {
    let server = Server::start(Role::Worker, guarded(false)).await;
    let mut client = server.client().await;
    client
        .send(b"[0,{\"no\":1,\"type\":\"poll\",\"password\":\"sesame\"}]\x04")
        .await;
    client.expect("[1,{\"no\":1,\"data\":\"ok\"}]\x04").await;
    client.send(b"[0,{\"no\":2,\"type\":\"poll\"}]\x04").await;
    client.expect("[1,{\"no\":2,\"data\":\"ok\"}]\x04").await;
    client
        .send(b"[0,{\"no\":3,\"type\":\"poll\",\"password\":\"wrong\"}]\x04")
        .await;
    client.expect("[1,{\"no\":3,\"data\":\"ok\"}]\x04").await;
    server.stopped().await;
}

#[tokio::test]
async fn a_wrong_or_missing_password_is_answered_once_and_the_connection_closed() {
    let server = Server::start(Role::Worker, guarded(false)).await;
    for password in [
        "",
        r#","password":"Sesame""#,
        r#","password":"""#,
        r#","password":null"#,
        r#","password":5"#,
    ] {
        let mut client = server.client().await;
        let first = format!("[0,{{\"no\":9,\"type\":\"poll\"{password}}}]\x04");
        // What follows in the same write gets no second chance.
        let second = "[0,{\"no\":10,\"type\":\"poll\",\"password\":\"sesame\"}]\x04[2]\x04";
        client.send(format!("{first}{second}").as_bytes()).await;
        client
            .expect_end("[1,{\"no\":9,\"error\":\"invalid password\"}]\x04")
            .await;
    }
    server.stopped().await;
}

#[tokio::test]
async fn pings_and_errors_come_before_any_password() {
    let server = Server::start(Role::Worker, guarded(false)).await;
    let mut client = server.client().await;
    client.send(b"[2]\x04[9]\x04[2]\x04").await;
    client
        .expect("[3]\x04[1,{\"no\":0,\"error\":\"unexpected type 9\"}]\x04[3]\x04")
        .await;
    client
        .send(b"[0,{\"no\":1,\"type\":\"poll\",\"password\":\"sesame\"}]\x04")
        .await;
    client.expect("[1,{\"no\":1,\"data\":\"ok\"}]\x04").await;
    server.stopped().await;
}

#[tokio::test]
async fn localhost_comes_in_where_it_is_always_allowed() {
    let server = Server::start(Role::Worker, guarded(true)).await;
    let mut client = server.client().await;
    client.send(b"[0,{\"no\":1,\"type\":\"poll\"}]\x04").await;
    client.expect("[1,{\"no\":1,\"data\":\"ok\"}]\x04").await;
    client
        .send(b"[0,{\"no\":2,\"type\":\"poll\",\"password\":\"wrong\"}]\x04")
        .await;
    client.expect("[1,{\"no\":2,\"data\":\"ok\"}]\x04").await;
    server.stopped().await;
}

#[test]
fn only_addresses_of_this_host_are_local() {
    let gate = |addr: &str| {
        guarded(true)
            .access
            .gate_for(&Peer::from(addr.parse::<std::net::SocketAddr>().unwrap()))
    };
    for local in ["127.0.0.1:5", "[::1]:5", "[::ffff:127.0.0.1]:5"] {
        assert!(gate(local).is_none(), "{local}");
    }
    for remote in [
        "10.0.0.1:5",
        "[fe80::1]:5",
        "[::ffff:10.0.0.1]:5",
        "0.0.0.0:5",
    ] {
        assert!(gate(remote).is_some(), "{remote}");
    }
}

#[tokio::test]
async fn frames_are_short_before_the_password_and_long_right_behind_it() {
    let server = Server::start(Role::Worker, guarded(false)).await;
    let mut client = server.client().await;
    let long = "x".repeat(2 << 20);
    let first = "[0,{\"no\":1,\"type\":\"poll\",\"password\":\"sesame\"}]\x04";
    client
        .send(
            format!("{first}[0,{{\"no\":2,\"type\":\"poll\",\"data\":\"{long}\"}}]\x04").as_bytes(),
        )
        .await;
    client
        .expect("[1,{\"no\":1,\"data\":\"ok\"}]\x04[1,{\"no\":2,\"data\":\"ok\"}]\x04")
        .await;

    let mut stranger = server.client().await;
    stranger
        .send(
            format!(
                "[0,{{\"no\":1,\"type\":\"poll\",\"password\":\"sesame\",\"data\":\"{long}\"}}]\x04"
            )
            .as_bytes(),
        )
        .await;
    stranger
        .expect_end("[1,{\"no\":0,\"error\":\"message is longer than 1048576 bytes\"}]\x04")
        .await;
    server.stopped().await;
}

#[tokio::test]
async fn the_typed_client_sends_its_password_and_learns_of_a_refusal() {
    let server = Server::start(Role::Worker, guarded(false)).await;
    let dial = || {
        Connection::dial(
            "127.0.0.1",
            server.port,
            PATIENCE,
            ConnectionOptions::default(),
        )
    };
    let (connection, _incoming) = dial().await.unwrap();
    let asked = connection
        .request(
            "poll",
            serde_json::Value::Null,
            Some(&Secret::new("sesame")),
        )
        .await;
    assert_eq!(asked, Ok("ok".into()));
    let (connection, _incoming) = dial().await.unwrap();
    let asked = connection
        .request(
            "poll",
            serde_json::Value::Null,
            Some(&Secret::new("simsim")),
        )
        .await;
    assert_eq!(
        asked,
        Err(CallError::Refused("invalid password".to_owned()))
    );
    soon("the server closes", connection.closed()).await;
    server.stopped().await;
}

/// Collects everything that is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn no_password_is_logged_at_any_level() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    // This test and everything it starts run on one thread.
    let _logging = tracing::subscriber::set_default(subscriber);
    let server = Server::start(Role::Worker, guarded(false)).await;
    let mut client = server.client().await;
    client
        .send(b"\"sesame\"\x04{\"password\":\"sesame\"}\x04[\"sesame\"]\x04")
        .await;
    client
        .send(b"[0,{\"password\":\"sesame\"}]\x04[sesame]\x04[1,{\"no\":0,\"error\":5}]\x04")
        .await;
    client
        .send(b"[0,{\"no\":1,\"type\":\"sesame\",\"password\":\"opensesame\"}]\x04")
        .await;
    for _ in 0..7 {
        client.message().await;
    }
    client.expect_end("").await;
    let (connection, _incoming) = Connection::dial(
        "127.0.0.1",
        server.port,
        PATIENCE,
        ConnectionOptions::default(),
    )
    .await
    .unwrap();
    let password = Secret::new("sesame");
    connection
        .request("poll", serde_json::Value::Null, Some(&password))
        .await
        .unwrap();
    connection.close();
    server.stopped().await;
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(
        log.contains("invalid password") && log.contains("message refused"),
        "{log}"
    );
    assert!(!log.contains("sesame"), "{log}");
}
