//! A server with a small handler behind the real listener, and a client that knows bytes alone.

use std::time::Duration;

use jobd_proto::RequestError;
use jobd_proto::connection::{Connection, ConnectionOptions, IncomingRequest};
use jobd_proto::listener::{self, ListenerOptions, Session};
use jobd_proto::master::MasterRequest;
use jobd_proto::worker::WorkerRequest;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Nothing here takes a tenth of this; only a hang does.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for something that has to happen.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .unwrap_or_else(|_| panic!("never happened: {what}"))
}

/// Waits until a condition holds.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    soon(what, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

#[derive(Clone, Copy)]
pub(crate) enum Role {
    Worker,
    Master,
}

/// A listener on a port of its own.
pub(crate) struct Server {
    pub(crate) port: u16,
    role: Role,
    pub(crate) stop: CancellationToken,
    /// Every connection that was accepted, in order.
    pub(crate) accepted: mpsc::UnboundedReceiver<Connection>,
    task: JoinHandle<()>,
}

impl Server {
    pub(crate) async fn start(role: Role, options: ListenerOptions) -> Self {
        let server = Self::serve(options, move |request| answer(role, request)).await;
        Self { role, ..server }
    }

    /// Calls `handler` with every request.
    pub(crate) async fn serve(
        options: ListenerOptions,
        handler: impl Fn(IncomingRequest) + Clone + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let stop = CancellationToken::new();
        let (accept, accepted) = mpsc::unbounded_channel();
        let serve = move |mut session: Session| {
            let (accept, handler) = (accept.clone(), handler.clone());
            async move {
                let _ = accept.send(session.connection.clone());
                while let Some(request) = session.next().await {
                    handler(request);
                }
            }
        };
        let task = tokio::spawn(listener::run(
            listener,
            watch::channel(options).1,
            stop.clone(),
            serve,
        ));
        Self {
            port,
            role: Role::Worker,
            stop,
            accepted,
            task,
        }
    }

    pub(crate) async fn client(&self) -> Client {
        Client::connect(self.port).await
    }

    pub(crate) async fn stopped(self) {
        self.stop.cancel();
        soon("the listener stops", self.task).await.unwrap();
    }
}

/// Says `"ok"` to every request that can be read, and the status of nobody in particular.
fn answer(role: Role, incoming: IncomingRequest) {
    let request = &incoming.request;
    let parsed = match role {
        Role::Worker => WorkerRequest::parse(&request.kind, &request.data).map(|_| ()),
        Role::Master => MasterRequest::parse(&request.kind, &request.data).map(|_| ()),
    };
    incoming.respond(parsed.map(|()| json!("ok")));
}

/// Says what it was asked.
pub(crate) fn echo(incoming: IncomingRequest) {
    let data = incoming.request.data.clone();
    incoming.respond(Ok::<Value, RequestError>(data));
}

/// Options with deadlines that no test reaches by accident.
pub(crate) fn patient() -> ListenerOptions {
    let connection = ConnectionOptions {
        half_close: true,
        ..ConnectionOptions::default()
    };
    ListenerOptions {
        connection,
        ..ListenerOptions::default()
    }
}

/// A client made of bytes.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
}

impl Client {
    pub(crate) async fn connect(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream }
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        soon("bytes are taken", self.stream.write_all(bytes))
            .await
            .unwrap();
    }

    /// Reads as many bytes as are expected and compares them.
    pub(crate) async fn expect(&mut self, expected: &str) {
        let mut got = vec![0; expected.len()];
        let read = soon(
            &format!("the answer {expected:?}"),
            self.stream.read_exact(&mut got),
        )
        .await;
        read.unwrap_or_else(|error| panic!("{expected:?}: {error}"));
        assert_eq!(String::from_utf8_lossy(&got), expected);
    }

    /// Reads one message.
    pub(crate) async fn message(&mut self) -> String {
        let mut got = Vec::new();
        loop {
            match soon("a message", self.stream.read_u8()).await.unwrap() {
                4 => return String::from_utf8(got).unwrap(),
                byte => got.push(byte),
            }
        }
    }

    /// Reads to the end, which has to be exactly this.
    pub(crate) async fn expect_end(&mut self, expected: &str) {
        let mut got = Vec::new();
        // A reset after the bytes is an end too.
        let _ = soon("the end", self.stream.read_to_end(&mut got)).await;
        assert_eq!(String::from_utf8_lossy(&got), expected);
    }
}

/// Sends a text with its EOTs in one write, in two at every place, and byte by byte; expects the
/// answer each time and nothing unasked in the end.
pub(crate) async fn check(server: &Server, sent: &str, expected: &str) {
    let (sent, expected) = (sent.replace('␄', "\x04"), expected.replace('␄', "\x04"));
    let bytes = sent.as_bytes();
    let mut client = server.client().await;
    client.send(bytes).await;
    client.expect(&expected).await;
    for at in 1..bytes.len() {
        client.send(&bytes[..at]).await;
        tokio::task::yield_now().await;
        client.send(&bytes[at..]).await;
        client.expect(&expected).await;
    }
    for byte in bytes {
        client.send(&[*byte]).await;
        tokio::task::yield_now().await;
    }
    client.expect(&expected).await;
    client.stream.shutdown().await.unwrap();
    client.expect_end("").await;
    check_single_bytes(server.role, bytes, &expected).await;
}

/// The same where every read is sure to bring a single byte.
async fn check_single_bytes(role: Role, sent: &[u8], expected: &str) {
    let (near, far) = tokio::io::duplex(1);
    let peer = jobd_proto::connection::Peer::named("single bytes");
    let options = ConnectionOptions {
        half_close: true,
        ..ConnectionOptions::default()
    };
    let (_connection, mut incoming) = Connection::open(far, peer, options);
    let serving = tokio::spawn(async move {
        while let Some(request) = incoming.next().await {
            answer(role, request);
        }
    });
    let (mut reader, mut writer) = tokio::io::split(near);
    let write = async {
        writer.write_all(sent).await.unwrap();
        writer.shutdown().await.unwrap();
    };
    let mut got = Vec::new();
    let (read, ()) = soon("single bytes", async {
        tokio::join!(reader.read_to_end(&mut got), write)
    })
    .await;
    read.unwrap();
    serving.abort();
    assert_eq!(String::from_utf8_lossy(&got), expected);
}
