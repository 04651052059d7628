//! A daemon that answers what a test tells it to, over `jobd_proto::listener`.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use jobd_proto::listener::{self, Access, ListenerOptions};
use jobd_proto::master::MasterRequest;
use jobd_proto::worker::WorkerRequest;
use jobd_proto::{IncomingRequest, RequestError, Secret};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What a daemon of one kind makes of a request.
type Check = fn(&str, &Value) -> Result<(), RequestError>;

/// Of a check: the request is left without an answer.
const NO_ANSWER: &str = "no answer";

/// The status of a worker that serves `mail`.
pub(crate) fn serves_mail() -> Value {
    let mail = json!({"paused": false, "concurrency": 1, "length": 0});
    json!({"targets": {"mail": mail}, "jobPromisesCount": 0, "memoryUsage": {}})
}

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
            watch::channel(options).1,
            CancellationToken::new(),
            serve,
        ));
        Self { address, asked }
    }

    /// A worker of this status with one job, of which it tells those who follow it or have it run what the test says.
    pub(crate) async fn teller(status: Value) -> (Self, Job) {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (job, told) = watch::channel(Told::default());
        let written = Arc::clone(&asked);
        let serve = move |mut session: listener::Session| {
            let (told, written) = (told.clone(), Arc::clone(&written));
            let status = status.clone();
            async move {
                while let Some(incoming) = session.next().await {
                    let request = &incoming.request;
                    let asked = (request.kind.clone(), request.data.clone());
                    written.lock().unwrap().push(asked);
                    if request.kind == "status" {
                        incoming.respond(Ok(status.clone()));
                    } else {
                        tokio::spawn(tell(told.clone(), incoming));
                    }
                }
            }
        };
        tokio::spawn(listener::run(
            socket,
            watch::channel(ListenerOptions::default()).1,
            CancellationToken::new(),
            serve,
        ));
        (Self { address, asked }, Job(job))
    }

    /// What it was asked so far, in order.
    pub(crate) fn asked(&self) -> Vec<(String, Value)> {
        self.asked.lock().unwrap().clone()
    }
}

/// What a teller has told so far.
#[derive(Default)]
struct Told {
    messages: Vec<Value>,
    /// Where the messages of the present stream begin, if there was one before.
    from: usize,
    /// The last message, and the answer to `run-manual`.
    end: Option<(Value, Value)>,
}

/// The job of a teller.
pub(crate) struct Job(watch::Sender<Told>);

impl Job {
    /// Tells a message of `follow`.
    pub(crate) fn tells(&self, message: Value) {
        self.0.send_modify(|told| told.messages.push(message));
    }

    /// Tells the last one of a stream, with which the job is not over.
    pub(crate) fn breaks_off(&self, state: Value) {
        self.0.send_modify(|told| {
            told.messages.push(state);
            told.from = told.messages.len();
        });
    }

    /// Tells the last one, and answers `run-manual`.
    pub(crate) fn ends(&self, state: Value, outcome: Value) {
        self.0.send_modify(|told| told.end = Some((state, outcome)));
    }
}

async fn tell(mut told: watch::Receiver<Told>, incoming: IncomingRequest) {
    if incoming.request.kind != "follow" {
        let ended = told.wait_for(|told| told.end.is_some()).await;
        let end = ended.ok().and_then(|told| told.end.clone());
        if let Some((_, answer)) = end {
            incoming.respond(Ok(answer));
        }
        return;
    }
    let responses = incoming.stream();
    let begun = told.borrow().from;
    let mut at = begun;
    loop {
        let is_news = |told: &Told| told.messages.len() > at || told.end.is_some();
        let news = told.wait_for(is_news).await;
        let Ok(news) = news.map(|told| {
            let breaks_off = told.from > begun && told.from == at + 1;
            (told.messages.get(at).cloned(), breaks_off, told.end.clone())
        }) else {
            return;
        };
        match news {
            (Some(message), true, _) => return responses.end(Ok(message)),
            (Some(message), false, _) => {
                let Some(turn) = responses.ready().await else {
                    return;
                };
                responses.send(turn, &message);
                at += 1;
            }
            (None, _, Some((last, _))) => return responses.end(Ok(last)),
            (None, _, None) => {}
        }
    }
}
