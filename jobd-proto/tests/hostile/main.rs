//! Peers that mean harm: nothing grows, nobody else notices. Memory is measured, so that these
//! tests run one after the other, in a process without others.

#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "../wire/ground.rs"]
#[expect(dead_code, reason = "the tests of the wire use the rest")]
mod ground;

use jobd_proto::Secret;
use jobd_proto::connection::CloseReason;
use jobd_proto::listener::{Access, ListenerOptions};
use jobd_proto::memory::MemoryUsage;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use ground::{Client, Role, Server, echo, patient, soon};

/// Held by the test that runs.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

async fn assert_serves(client: &mut Client) {
    client
        .send(b"[2]\x04[0,{\"no\":1,\"type\":\"poll\"}]\x04")
        .await;
    client
        .expect("[3]\x04[1,{\"no\":1,\"data\":\"ok\"}]\x04")
        .await;
}

#[tokio::test]
async fn a_gigabyte_without_an_end_is_stopped_at_the_limit() {
    const PIECE: usize = 1 << 20;
    let _alone = ALONE.lock().await;
    for (password, limit) in [(None, 16 << 20), (Some(Secret::new("sesame")), 1 << 20)] {
        let guarded = password.is_some();
        let access = Access {
            password,
            always_allow_localhost: false,
        };
        let mut server = Server::start(
            Role::Worker,
            ListenerOptions {
                access,
                ..patient()
            },
        )
        .await;
        let mut other = server.client().await;
        server.accepted.recv().await.unwrap();
        let before = MemoryUsage::of_this_process().rss;
        let (mut reader, mut writer) = server.client().await.stream.into_split();
        let piece = vec![b'x'; PIECE];
        let sending = async {
            let mut sent = 0;
            while sent < 1 << 30 && writer.write_all(&piece).await.is_ok() {
                sent += PIECE;
            }
            sent
        };
        let mut answer = Vec::new();
        let reading = async {
            // A reset after the answer is an end too.
            let _ = reader.read_to_end(&mut answer).await;
        };
        let (sent, ()) = soon("it is stopped", async { tokio::join!(sending, reading) }).await;
        assert!(sent < 200 << 20, "{sent}");
        let expected =
            format!("[1,{{\"no\":0,\"error\":\"message is longer than {limit} bytes\"}}]\x04");
        assert_eq!(String::from_utf8_lossy(&answer), expected);
        let connection = server.accepted.recv().await.unwrap();
        assert_eq!(connection.closed().await, CloseReason::FrameTooLong(limit));
        let grown = MemoryUsage::of_this_process().rss.saturating_sub(before);
        assert!(grown < 64 << 20, "{grown} bytes more");
        if !guarded {
            assert_serves(&mut other).await;
        }
        server.stopped().await;
    }
}

#[tokio::test]
async fn deep_nesting_is_refused_and_the_connection_goes_on() {
    let _alone = ALONE.lock().await;
    let server = Server::start(Role::Worker, patient()).await;
    for open in ["[", "{\"a\":", "[0,{\"data\":["] {
        let mut client = server.client().await;
        client
            .send(open.repeat((1 << 20) / open.len()).as_bytes())
            .await;
        client.send(b"\x04").await;
        let answer = client.message().await;
        let expected = r#"[1,{"no":0,"error":"message is not valid JSON: recursion limit exceeded"#;
        assert!(answer.starts_with(expected), "{answer}");
        assert_serves(&mut client).await;
    }
    server.stopped().await;
}

#[tokio::test]
async fn a_message_that_would_grow_eightyfold_is_refused() {
    let _alone = ALONE.lock().await;
    let server = Server::start(Role::Worker, patient()).await;
    let before = MemoryUsage::of_this_process().rss;
    let mut client = server.client().await;
    client
        .send(b"[0,{\"no\":1,\"type\":\"poll\",\"data\":[")
        .await;
    client.send(&br#"{"a":0},"#.repeat(2_000_000)).await;
    client.send(b"0]}]\x04").await;
    let answer = client.message().await;
    assert!(
        answer.contains("too many values in one message"),
        "{answer}"
    );
    let grown = MemoryUsage::of_this_process().rss.saturating_sub(before);
    assert!(grown < 200 << 20, "{grown} bytes more");
    assert_serves(&mut client).await;
    server.stopped().await;
}

/// A small generator of its own: a printed seed repeats the noise.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Bytes with an end now and then, and JSON-like ones more often than chance would have it.
    fn bytes(&mut self, length: usize) -> Vec<u8> {
        const LIKELY: &[u8] = b"[0123,{}\"no type data\\:\x04[2]\x04";
        (0..length)
            .map(|_| {
                let random = self.next();
                match random % 3 {
                    0 => LIKELY[usize::try_from(random >> 8).unwrap() % LIKELY.len()],
                    _ => u8::try_from(random >> 56).unwrap(),
                }
            })
            .collect()
    }
}

#[tokio::test]
async fn noise_gets_errors_and_everybody_else_is_served() {
    let _alone = ALONE.lock().await;
    let seed = u64::from(std::process::id()) * 0x9e37_79b9 + 1;
    println!("seed {seed}");
    let mut noise = Noise(seed);
    let server = Server::start(Role::Worker, patient()).await;
    let mut other = server.client().await;
    for _ in 0..50 {
        let mut client = server.client().await;
        let length = usize::try_from(noise.next() % 50_000).unwrap();
        let bytes = noise.bytes(length);
        let (mut reader, mut writer) = client.stream.split();
        let sending = async {
            writer.write_all(&bytes).await.unwrap();
            writer.write_all(b"\x04").await.unwrap();
            writer.shutdown().await.unwrap();
        };
        let mut answers = Vec::new();
        let ((), read) = soon("noise is answered", async {
            tokio::join!(sending, reader.read_to_end(&mut answers))
        })
        .await;
        read.unwrap();
        let answers = String::from_utf8(answers).unwrap();
        assert!(
            answers.is_empty() || answers.ends_with('\x04'),
            "{answers:?}"
        );
        for answer in answers.split_terminator('\x04') {
            let refused = answer.starts_with(r#"[1,{"no":"#);
            assert!(refused || answer == "[3]", "{answer:?}");
        }
        assert_serves(&mut other).await;
    }
    server.stopped().await;
}

#[tokio::test]
async fn a_flood_of_messages_whose_answers_nobody_reads_is_not_taken() {
    let _alone = ALONE.lock().await;
    let server = Server::start(Role::Worker, patient()).await;
    let mut other = server.client().await;
    let before = MemoryUsage::of_this_process().rss;
    let mut flooder = server.client().await;
    let pings = b"[9]\x04".repeat(1 << 18);
    let flood = async {
        for _ in 0..200 {
            flooder.stream.write_all(&pings).await.unwrap();
        }
    };
    // Each megabyte asks for fifteen; the socket fills and the server stops reading. It looks again
    // after two seconds, and must not be fooled then either.
    let taken = tokio::time::timeout(std::time::Duration::from_secs(4), flood).await;
    assert!(
        taken.is_err(),
        "200 MB of questions were taken without an answer being read"
    );
    let grown = MemoryUsage::of_this_process().rss.saturating_sub(before);
    assert!(grown < 16 << 20, "{grown} bytes more");
    assert_serves(&mut other).await;
    drop(flooder);
    server.stopped().await;
}

#[tokio::test]
async fn two_thousand_idle_connections_cost_little() {
    let _alone = ALONE.lock().await;
    let server = Server::serve(patient(), echo).await;
    let before = MemoryUsage::of_this_process().rss;
    let mut idle = Vec::new();
    for _ in 0..2_000 {
        let mut client = server.client().await;
        client.send(b"[0,{\"no\":1,\"type\":\"poll\"}]\x04").await;
        client.expect("[1,{\"no\":1,\"data\":null}]\x04").await;
        idle.push(client);
    }
    let each = MemoryUsage::of_this_process().rss.saturating_sub(before) / 2_000;
    println!("{each} bytes for a connection and its client");
    assert!(each < 16 << 10, "{each} bytes for a connection");
    for client in idle.iter_mut().step_by(100) {
        client.send(b"[2]\x04").await;
        client.expect("[3]\x04").await;
    }
    drop(idle);
    server.stopped().await;
}
