//! A running master, and workers and clients that a test plays.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use jobd_proto::codec::MAX_FRAME_WORKER;
use jobd_proto::worker::WorkerRequest;
use jobd_proto::{CallError, Connection, ConnectionOptions, Incoming, IncomingRequest};
use jobd_tests::programs::Daemon;
use jobd_tests::wait::PATIENCE;
use jobd_tests::{Ini, Scratch, until};
use serde_json::{Value, json};

/// The program under test; `JOBD_MASTER` measures another build of it.
pub(crate) fn program() -> PathBuf {
    std::env::var_os("JOBD_MASTER").map_or_else(
        || PathBuf::from(env!("CARGO_BIN_EXE_jobd-master")),
        PathBuf::from,
    )
}

/// A master and its scratch folder.
pub(crate) struct Master {
    pub(crate) daemon: Daemon,
    _scratch: Scratch,
}

impl Master {
    /// One that listens, with the usual settings.
    pub(crate) async fn start() -> Self {
        Self::with(&Ini::listen()).await
    }

    pub(crate) async fn with(ini: &Ini) -> Self {
        let scratch = Scratch::new();
        let mut daemon = Daemon::launch(&program(), &scratch, ini);
        daemon.listening().await;
        Self {
            daemon,
            _scratch: scratch,
        }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.daemon.addr
    }

    pub(crate) async fn client(&self) -> Client {
        Client::connect(self.addr()).await
    }

    /// A worker that has registered.
    pub(crate) async fn worker(&self, name: &str, targets: &[&str]) -> Worker {
        let worker = Worker::connect(self.addr()).await;
        worker.register(name, targets).await;
        worker
    }

    /// Waits until exactly these workers are listed, longest registered first.
    pub(crate) async fn lists(&self, names: &[&str]) {
        let client = self.client().await;
        until(&format!("the workers {names:?}"), PATIENCE, async || {
            (client.listed().await == names).then_some(())
        })
        .await;
    }
}

/// Somebody who asks the master.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) connection: Connection,
}

impl Client {
    pub(crate) async fn connect(addr: SocketAddr) -> Self {
        let (connection, _) = dial(addr).await;
        Self { connection }
    }

    /// The whole answer, in time.
    pub(crate) async fn try_ask(&self, kind: &str, data: Value) -> Result<Value, CallError> {
        let answer = self.connection.request(kind, data, None);
        tokio::time::timeout(PATIENCE, answer)
            .await
            .unwrap_or_else(|_| panic!("no answer to {kind}"))
    }

    pub(crate) async fn ask(&self, kind: &str, data: Value) -> Value {
        let answer = self.try_ask(kind, data).await;
        answer.unwrap_or_else(|error| panic!("{kind}: {error}"))
    }

    pub(crate) async fn refused(&self, kind: &str, data: Value) -> String {
        match self.try_ask(kind, data).await {
            Err(CallError::Refused(error)) => error,
            other => panic!("{kind}: {other:?}"),
        }
    }

    pub(crate) async fn poke(&self, targets: &[&str]) {
        assert_eq!(self.ask("poke", json!({ "targets": targets })).await, "ok");
    }

    /// The names of all workers.
    pub(crate) async fn listed(&self) -> Vec<String> {
        let status = self.ask("status", Value::Null).await;
        let workers = status["workers"].as_array().unwrap();
        workers
            .iter()
            .map(|worker| worker["name"].as_str().unwrap().to_owned())
            .collect()
    }
}

/// A played worker: it does what a test says, or hangs.
pub(crate) struct Worker {
    pub(crate) connection: Connection,
    incoming: Incoming,
}

impl Worker {
    pub(crate) async fn connect(addr: SocketAddr) -> Self {
        let (connection, incoming) = dial(addr).await;
        Self {
            connection,
            incoming,
        }
    }

    pub(crate) async fn register(&self, name: &str, targets: &[&str]) {
        let data = json!({ "name": name, "targets": targets });
        let answer = self.connection.request("register-worker", data, None).await;
        assert_eq!(answer, Ok("ok".into()));
    }

    /// The next request of the master, checked.
    pub(crate) async fn next(&mut self) -> (WorkerRequest, IncomingRequest) {
        let next = tokio::time::timeout(PATIENCE, self.incoming.next()).await;
        let incoming = next.expect("a request in time").expect("still connected");
        let request = &incoming.request;
        let parsed = WorkerRequest::parse(&request.kind, &request.data).unwrap();
        (parsed, incoming)
    }

    /// Takes the next request, which has to be this one, and answers "ok".
    pub(crate) async fn expect(&mut self, kind: &str, data: Value) {
        let (_, incoming) = self.next().await;
        assert_eq!(incoming.request.kind, kind);
        assert_eq!(incoming.request.data, data, "data of {kind}");
        incoming.respond(Ok("ok".into()));
    }

    /// Answers everything with what `answer` says, until the connection ends.
    pub(crate) fn serve(
        mut self,
        answer: impl Fn(WorkerRequest) -> Value + Send + 'static,
    ) -> Connection {
        let connection = self.connection.clone();
        tokio::spawn(async move {
            while let Some(incoming) = self.incoming.next().await {
                let request = &incoming.request;
                let request = WorkerRequest::parse(&request.kind, &request.data).unwrap();
                incoming.respond(Ok(answer(request)));
            }
        });
        connection
    }
}

/// Nothing more has come to any of these, which are all workers that there are: the next thing
/// that each sees is what the master is asked now.
pub(crate) async fn saw_nothing_more(workers: &mut [&mut Worker], client: &Client) {
    let status = tokio::spawn({
        let client = client.clone();
        async move { client.ask("status", json!({ "poll_workers": true })).await }
    });
    for worker in workers {
        let (request, incoming) = worker.next().await;
        assert_eq!(request, WorkerRequest::Status);
        incoming.respond(Ok(status_of_a_worker()));
    }
    status.await.unwrap();
}

pub(crate) fn status_of_a_worker() -> Value {
    json!({ "targets": {}, "jobPromisesCount": 0, "memoryUsage": {} })
}

async fn dial(addr: SocketAddr) -> (Connection, Incoming) {
    let options = ConnectionOptions {
        max_frame: MAX_FRAME_WORKER,
        ..ConnectionOptions::default()
    };
    let deadline = Duration::from_secs(10);
    Connection::dial(&addr.ip().to_string(), addr.port(), deadline, options)
        .await
        .unwrap()
}
