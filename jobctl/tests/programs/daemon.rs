//! A daemon that answers what a test tells it to, over `jobd_proto::listener`.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use jobd_proto::listener::{self, Access, ListenerOptions};
use jobd_proto::master::MasterRequest;
use jobd_proto::worker::WorkerRequest;
use jobd_proto::{RequestError, Secret};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// What a daemon of one kind makes of a request.
type Check = fn(&str, &Value) -> Result<(), RequestError>;

/// Of a check: the request is left without an answer.
const NO_ANSWER: &str = "no answer";

/// A listening daemon; it ends with the test.
pub(crate) struct Daemon {
    pub(crate) address: SocketAddr,
    asked: Arc<Mutex<Vec<(String, Value)>>>,
}

impl Daemon {
    /// A worker that gives this answer to every request that a worker knows.
    pub(crate) async fn worker(answer: Result<Value, &str>) -> Self {
        let check: Check = |kind, data| WorkerRequest::parse(kind, data).map(drop);
        Self::start(check, answer, None).await
    }

    /// A master that gives this answer to every request that a master knows.
    pub(crate) async fn master(answer: Result<Value, &str>) -> Self {
        let check: Check = |kind, data| MasterRequest::parse(kind, data).map(drop);
        Self::start(check, answer, None).await
    }

    /// A master of a version that knows no streams.
    pub(crate) async fn old_master(answer: Result<Value, &str>) -> Self {
        let check: Check = |kind, data| match kind {
            "follow" | "set-target-concurrency" => {
                Err(RequestError(format!("unknown request type: '{kind}'")))
            }
            _ => MasterRequest::parse(kind, data).map(drop),
        };
        Self::start(check, answer, None).await
    }

    /// A worker that never answers a pause.
    pub(crate) async fn stuck(answer: Result<Value, &str>) -> Self {
        let check: Check = |kind, data| match kind {
            "pause" => Err(RequestError::new(NO_ANSWER)),
            _ => WorkerRequest::parse(kind, data).map(drop),
        };
        Self::start(check, answer, None).await
    }

    /// A worker behind a password.
    pub(crate) async fn locked(password: &str) -> Self {
        let check: Check = |kind, data| WorkerRequest::parse(kind, data).map(drop);
        Self::start(check, Ok("ok".into()), Some(Secret::new(password))).await
    }

    async fn start(check: Check, answer: Result<Value, &str>, password: Option<Secret>) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let answer = answer.map_err(|text| RequestError(text.to_owned()));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let written = Arc::clone(&asked);
        let options = ListenerOptions {
            access: Access {
                password,
                always_allow_localhost: false,
            },
            ..ListenerOptions::default()
        };
        let serve = move |mut session: listener::Session| {
            let (answer, written) = (answer.clone(), Arc::clone(&written));
            async move {
                let mut unanswered = Vec::new();
                while let Some(incoming) = session.next().await {
                    let request = &incoming.request;
                    let answer = check(&request.kind, &request.data).and_then(|()| answer.clone());
                    let asked = (request.kind.clone(), request.data.clone());
                    written.lock().unwrap().push(asked);
                    match answer {
                        Err(RequestError(text)) if text == NO_ANSWER => unanswered.push(incoming),
                        answer => incoming.respond(answer),
                    }
                }
            }
        };
        tokio::spawn(listener::run(
            socket,
            tokio::sync::watch::channel(options).1,
            CancellationToken::new(),
            serve,
        ));
        Self { address, asked }
    }

    /// What it was asked so far, in order.
    pub(crate) fn asked(&self) -> Vec<(String, Value)> {
        self.asked.lock().unwrap().clone()
    }
}
