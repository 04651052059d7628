//! What a client or worker asks of the master: parse, act, answer. One short handler per request;
//! those that wait for workers run in a task of their own, so that a client may send more
//! meanwhile and may leave.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use jobd_proto::codec::MAX_FRAME_WORKER;
use jobd_proto::connection::Peer;
use jobd_proto::follow::Follow;
use jobd_proto::listener::Session;
use jobd_proto::master::{ManualJob, MasterRequest, MasterStatus};
use jobd_proto::memory::MemoryUsage;
use jobd_proto::worker::WorkerRequest;
use jobd_proto::{CloseReason, IncomingRequest, RequestError, TargetName};
use serde_json::{Map, Value};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::follow::Followers;
use crate::hub::{Hub, Stopped};
use crate::registry::WorkerId;
use crate::{cancel, fan_out, manual};

/// Requests to all workers that run at a time; the next ones wait. Each ends within the deadline
/// of a worker and holds an answer of every worker until then.
const MAX_FAN_OUTS: usize = 256;

/// Manual runs that may wait for their workers at a time, their clients still there or not; as
/// many as one worker may have been asked for.
const MAX_MANUAL_RUNS: usize = 16_384;

/// Serves sessions; cheap to clone.
#[derive(Clone, Debug)]
pub struct Control {
    hub: Hub,
    /// Fires when manual runs are to be answered with what is known.
    stopping: CancellationToken,
    /// Fires when followers are to be let go: before that, as their jobs go on without them.
    draining: CancellationToken,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    sessions: AtomicU64,
    fan_outs: Semaphore,
    manual_runs: Semaphore,
    followers: Followers,
}

impl From<Stopped> for RequestError {
    fn from(stopped: Stopped) -> Self {
        Self(stopped.to_string())
    }
}

impl Control {
    /// Serves with this hub.
    pub fn new(hub: Hub, stopping: CancellationToken, draining: CancellationToken) -> Self {
        Self {
            hub,
            stopping,
            draining,
            shared: Arc::new(Shared {
                sessions: AtomicU64::new(0),
                fan_outs: Semaphore::new(MAX_FAN_OUTS),
                manual_runs: Semaphore::new(MAX_MANUAL_RUNS),
                followers: Followers::default(),
            }),
        }
    }

    /// Serves one connection until it ends.
    pub async fn serve(self, mut session: Session) {
        let id = WorkerId(self.shared.sessions.fetch_add(1, Ordering::Relaxed));
        let mut registered = None;
        while let Some(request) = session.next().await {
            match MasterRequest::parse(&request.request.kind, &request.request.data) {
                Err(error) => request.respond(Err(error)),
                Ok(MasterRequest::RegisterWorker { name, targets }) => {
                    registered = Some(name.clone());
                    self.register(id, name, targets, &session, request).await;
                }
                Ok(MasterRequest::Poke(targets)) => {
                    let poked = self.hub.poke(targets).await;
                    request.respond(poked.map(|()| "ok".into()).map_err(Into::into));
                }
                Ok(MasterRequest::Follow(follow)) => {
                    let control = self.clone();
                    tokio::spawn(async move { control.follow(follow, request).await });
                }
                Ok(slow) => {
                    let control = self.clone();
                    tokio::spawn(async move { request.respond(control.answer(slow).await) });
                }
            }
        }
        if let Some(name) = registered {
            let reason = session.connection.closed().await;
            note_end(&name, session.connection.peer(), &reason);
            // Without a hub there is no registry to leave.
            let _ = self.hub.leave(id).await;
        }
    }

    async fn register(
        &self,
        id: WorkerId,
        name: String,
        targets: Vec<TargetName>,
        session: &Session,
        request: IncomingRequest,
    ) {
        let connection = session.connection.clone();
        connection.pin();
        connection.set_max_frame(MAX_FRAME_WORKER);
        // A hub that has stopped drops the request, which answers it with an error.
        let _ = self
            .hub
            .register(id, name, targets, connection, request)
            .await;
    }

    async fn follow(&self, follow: Follow, request: IncomingRequest) {
        let responses = request.stream();
        let followers = &self.shared.followers;
        let served = followers.serve(&self.hub, follow, &responses, &self.draining);
        let last = served.await;
        responses.end(last);
    }

    async fn answer(&self, request: MasterRequest) -> Result<Value, RequestError> {
        if let MasterRequest::RunManual { jobs } = request {
            return self.run_manual(jobs).await;
        }
        // Never closed, so there always is a turn to come.
        let _turn = self.shared.fan_outs.acquire().await;
        match request {
            MasterRequest::Pause(targets) => {
                fan_out::tell(&self.hub, targets, WorkerRequest::Pause).await
            }
            MasterRequest::Continue(targets) => {
                fan_out::tell(&self.hub, targets, WorkerRequest::Continue).await
            }
            MasterRequest::SetTargetConcurrency {
                target,
                concurrency,
                worker,
            } => fan_out::limit(&self.hub, target, concurrency, worker.as_deref()).await,
            MasterRequest::Status { poll_workers } => self.status(poll_workers).await,
            MasterRequest::Cancel { ids } => to_value(&cancel::run(&self.hub, ids).await?),
            MasterRequest::SendSignal { jobs } => {
                to_value(&fan_out::signal(&self.hub, jobs).await?)
            }
            other => Err(RequestError::unknown_type(other.kind())),
        }
    }

    async fn status(&self, poll_workers: bool) -> Result<Value, RequestError> {
        let mut extra = Map::new();
        extra.insert("version".to_owned(), env!("CARGO_PKG_VERSION").into());
        to_value(&MasterStatus {
            workers: fan_out::list(&self.hub, poll_workers).await?,
            memory_usage: MemoryUsage::of_this_process(),
            extra,
        })
    }

    async fn run_manual(&self, jobs: Vec<ManualJob>) -> Result<Value, RequestError> {
        let _turn = self.shared.manual_runs.try_acquire().map_err(|_| {
            RequestError(format!(
                "{MAX_MANUAL_RUNS} manual runs wait for their workers: try again later"
            ))
        })?;
        Ok(manual::run(&self.hub, jobs, &self.stopping).await?.into())
    }
}

fn to_value(reply: &impl serde::Serialize) -> Result<Value, RequestError> {
    serde_json::to_value(reply).map_err(|error| RequestError(format!("internal error: {error}")))
}

/// A worker that went by itself is no news for an operator; one that was dropped is.
fn note_end(name: &str, peer: &Peer, reason: &CloseReason) {
    match reason {
        CloseReason::Here | CloseReason::Peer => {
            tracing::info!("worker '{name}' ({peer}) left: {reason}");
        }
        _ => tracing::warn!("worker '{name}' ({peer}) is gone: {reason}"),
    }
}
