//! Thousands of connections to a master: workers that register and answer polls, clients that poke. And
//! the yardstick for both, a server that does nothing but read and write the same bytes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;

use super::stage::TARGET;
use crate::Wire;
use crate::wait::PATIENCE;
use crate::wire::EOT;

/// Connections that are made at a time: what a listener's queue holds.
const AT_ONCE: usize = 100;

/// Connected workers that count the polls that they get.
#[derive(Debug)]
pub struct Fleet {
    polls: Arc<Polls>,
    count: usize,
    tasks: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Polls {
    seen: AtomicUsize,
    /// Told when everybody was polled.
    all: Notify,
}

impl Fleet {
    /// Connects and registers so many workers.
    pub async fn register(addr: SocketAddr, count: usize) -> Self {
        let mut fleet = Self {
            polls: Arc::default(),
            count,
            tasks: JoinSet::new(),
        };
        for first in (0..count).step_by(AT_ONCE) {
            let batch = first..(first + AT_ONCE).min(count);
            let wires =
                futures::future::join_all(batch.map(|number| registered(addr, number))).await;
            for wire in wires {
                fleet
                    .tasks
                    .spawn(answer_polls(wire, fleet.polls.clone(), count));
            }
        }
        fleet
    }

    /// The time from `poke` to the moment in which the last worker has its poll.
    pub async fn fan_out(&mut self, poke: impl AsyncFnOnce()) -> Duration {
        self.polls.seen.store(0, Ordering::Relaxed);
        let begun = Instant::now();
        poke().await;
        let all = tokio::time::timeout(PATIENCE, self.polls.all.notified()).await;
        let seen = &self.polls.seen;
        assert!(all.is_ok(), "{seen:?} of {} were polled", self.count);
        begun.elapsed()
    }
}

async fn registered(addr: SocketAddr, number: usize) -> Wire {
    let mut wire = Wire::connect(addr).await;
    let data = json!({"name": format!("w{number}"), "targets": [TARGET]});
    wire.ask("register-worker", data).await;
    wire
}

/// Answers whatever comes until the connection ends.
async fn answer_polls(mut wire: Wire, polls: Arc<Polls>, count: usize) {
    while let Some(frame) = wire.next().await {
        let message: serde_json::Value = serde_json::from_str(&frame).expect("messages are JSON");
        if message[0] == 2 {
            wire.say("[3]").await;
            continue;
        }
        let data = match message[1]["type"].as_str() {
            Some("poll") => {
                if polls.seen.fetch_add(1, Ordering::Relaxed) + 1 == count {
                    polls.all.notify_one();
                }
                json!("ok")
            }
            _ => json!({"targets": {}, "jobPromisesCount": 0, "memoryUsage": {"rss": 1}}),
        };
        wire.say(&json!([1, {"no": message[1]["no"], "data": data}]).to_string())
            .await;
    }
}

/// Clients that have connected and not yet said anything.
pub async fn clients(addr: SocketAddr, count: usize) -> Vec<Wire> {
    let mut all = Vec::new();
    for first in (0..count).step_by(AT_ONCE) {
        let batch = first..(first + AT_ONCE).min(count);
        all.extend(futures::future::join_all(batch.map(|_| Wire::connect(addr))).await);
    }
    all
}

/// Pokes by all clients at once: how long each waited for its answer, and the time until the last.
pub async fn poke(clients: &mut [Wire]) -> (Vec<f64>, Duration) {
    let begun = Instant::now();
    let waits = clients.iter_mut().map(async |client| {
        client.ask("poke", json!({"targets": [TARGET]})).await;
        begun.elapsed().as_secs_f64()
    });
    let waits = futures::future::join_all(waits).await;
    (waits, begun.elapsed())
}

/// The yardstick: a server that answers every request with the bytes of "ok", and on demand writes the bytes
/// of a poll to all who are connected.
#[derive(Debug)]
pub struct Bare {
    /// Where it listens.
    pub addr: SocketAddr,
    polls: mpsc::Sender<()>,
    tasks: JoinSet<()>,
}

impl Bare {
    /// Starts it.
    pub async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("listen");
        let addr = listener.local_addr().expect("an address");
        let (polls, mut wanted) = mpsc::channel(1);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connected = Vec::new();
            let mut answers = JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        let (stream, _) = accepted.expect("accept");
                        stream.set_nodelay(true).expect("nodelay");
                        let stream = Arc::new(stream);
                        answers.spawn(answer(stream.clone()));
                        connected.push(stream);
                    }
                    Some(()) = wanted.recv() => {
                        for (number, stream) in connected.iter().enumerate() {
                            let poll = json!([0, {"no": number + 1, "type": "poll", "data": {"targets": [TARGET]}}]);
                            write(stream, &poll.to_string()).await;
                        }
                    }
                }
            }
        });
        Self { addr, polls, tasks }
    }

    /// Writes a poll to everybody.
    pub async fn poll_all(&self) {
        self.polls.send(()).await.expect("the server runs");
    }

    /// Ends it.
    pub async fn stop(mut self) {
        self.tasks.shutdown().await;
    }
}

/// Answers requests; answers of others are passed over.
async fn answer(stream: Arc<TcpStream>) {
    let mut buffer = Vec::new();
    loop {
        let readable = stream.readable().await;
        let count = match readable.and_then(|()| stream.try_read_buf(&mut buffer)) {
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
            Err(_) => return,
        };
        if count == 0 {
            return;
        }
        while let Some(end) = buffer.iter().position(|byte| *byte == EOT) {
            let frame: Vec<u8> = buffer.drain(..=end).collect();
            let message: serde_json::Value = serde_json::from_slice(&frame[..end]).expect("JSON");
            if message[0] == 0 {
                write(
                    &stream,
                    &json!([1, {"no": message[1]["no"], "data": "ok"}]).to_string(),
                )
                .await;
            }
        }
    }
}

async fn write(stream: &TcpStream, text: &str) {
    let mut bytes = text.as_bytes().to_vec();
    bytes.push(EOT);
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        let writable = stream.writable().await;
        match writable.and_then(|()| stream.try_write(rest)) {
            Ok(count) => rest = &rest[count..],
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}
