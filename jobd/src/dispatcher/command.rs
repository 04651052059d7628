//! What clients ask of the dispatcher, and how they are answered.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::join_all;
use jobd_proto::follow::Follow;
use jobd_proto::worker::{CancelReply, RunManualReply, WorkerRequest, WorkerStatus};
use jobd_proto::{JobId, RequestError, TargetName};
use tokio::sync::{mpsc, oneshot, watch};

use super::following::{FollowReply, Place};
use super::{Dispatcher, DrainState, Event, Reload, Table};
use crate::follow::Follower;
use crate::job::Origin;
use crate::launcher::Order;
use crate::store::{Inspection, RowState, StoreError};
use crate::targets::TargetError;

/// A request with the way to answer it.
#[derive(Debug)]
pub enum Command {
    /// `poll`, `pause`, `continue`, `add-target`, `remove-target`, `set-target-concurrency`.
    Change(WorkerRequest, oneshot::Sender<Result<(), TargetError>>),
    /// `status`.
    Status(oneshot::Sender<WorkerStatus>),
    /// `run-manual`.
    RunManual(Vec<JobId>, ManualReply),
    /// Which of these rows nothing is known of.
    Unknown(Vec<JobId>, oneshot::Sender<Vec<JobId>>),
    /// `cancel`, and whether only of what this worker has.
    Cancel(Vec<JobId>, bool, oneshot::Sender<CancelReply>),
    /// `send-signal`.
    SendSignal(Vec<(JobId, i32)>, oneshot::Sender<BTreeMap<JobId, bool>>),
    /// `follow`.
    Follow(Follow, FollowReply),
    /// What a row says.
    Row(JobId, oneshot::Sender<Result<Option<RowState>, StoreError>>),
    /// A config that was read again; answered with what has changed about targets.
    Reload(Box<Reload>, oneshot::Sender<Vec<String>>),
}

/// Answers a `run-manual`. A client that went away misses its answer; its jobs run on.
#[derive(Debug)]
pub struct ManualReply(oneshot::Sender<Result<RunManualReply, RequestError>>);

impl ManualReply {
    pub(super) fn send(self, reply: Result<RunManualReply, RequestError>) {
        let _ = self.0.send(reply);
    }
}

/// The way to the dispatcher; cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    events: mpsc::UnboundedSender<Event>,
    served: watch::Receiver<Vec<TargetName>>,
}

/// What a request gets when the loop has ended.
fn gone() -> RequestError {
    RequestError("worker is shutting down".to_owned())
}

impl Handle {
    pub(super) fn new(
        events: mpsc::UnboundedSender<Event>,
        served: watch::Receiver<Vec<TargetName>>,
    ) -> Self {
        Self { events, served }
    }

    /// The table is fit to work on: claiming may begin. `None`: its server cannot be reached yet.
    pub fn table_seen(&self, inspection: Option<Inspection>) {
        drop(self.events.send(Event::Table(inspection)));
    }

    /// The served targets, and a way to see them change.
    pub fn served(&self) -> watch::Receiver<Vec<TargetName>> {
        self.served.clone()
    }

    /// Carries out a request that changes something and answers nothing.
    pub async fn change(&self, request: WorkerRequest) -> Result<(), RequestError> {
        let changed = self.ask(|answer| Command::Change(request, answer)).await?;
        changed.map_err(|error| RequestError(error.to_string()))
    }

    /// What the worker is doing.
    pub async fn status(&self) -> Result<WorkerStatus, RequestError> {
        self.ask(Command::Status).await
    }

    /// Runs manual rows and waits until the last has ended.
    pub async fn run_manual(&self, ids: Vec<JobId>) -> Result<RunManualReply, RequestError> {
        self.ask(|answer| Command::RunManual(ids, ManualReply(answer)))
            .await?
    }

    /// Cancels jobs, `held` only those that this worker has; says what becomes of each.
    pub async fn cancel(&self, ids: Vec<JobId>, held: bool) -> Result<CancelReply, RequestError> {
        self.ask(|answer| Command::Cancel(ids, held, answer)).await
    }

    /// Sends signals to processes; says for each whether it was delivered.
    pub async fn send_signal(
        &self,
        jobs: Vec<(JobId, i32)>,
    ) -> Result<BTreeMap<JobId, bool>, RequestError> {
        self.ask(|answer| Command::SendSignal(jobs, answer)).await
    }

    /// Where a job is, and the way to hear from it.
    pub async fn follow(&self, follow: Follow) -> Result<(Place, Follower), RequestError> {
        self.ask(|answer| Command::Follow(follow, answer)).await?
    }

    /// What the row of a job says; `None` where there is none.
    pub async fn row(&self, id: JobId) -> Result<Option<RowState>, RequestError> {
        let row = self.ask(|answer| Command::Row(id, answer)).await?;
        row.map_err(|error| RequestError(error.to_string()))
    }

    /// Goes on with other settings; says what has changed about targets. Running jobs are not touched.
    pub async fn reload(&self, reload: Reload) -> Result<Vec<String>, RequestError> {
        self.ask(|answer| Command::Reload(Box::new(reload), answer))
            .await
    }

    /// Those of `ids` that the worker neither runs nor is about to.
    pub async fn unknown(&self, ids: Vec<JobId>) -> Result<Vec<JobId>, RequestError> {
        self.ask(|answer| Command::Unknown(ids, answer)).await
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, RequestError> {
        let (answer, answered) = oneshot::channel();
        self.events
            .send(Event::Command(command(answer)))
            .map_err(|_| gone())?;
        answered.await.map_err(|_| gone())
    }
}

impl Dispatcher {
    pub(super) fn command(&mut self, command: Command) {
        // A client that has gone away needs no answer.
        match command {
            Command::Change(request, answer) => drop(answer.send(self.change(request))),
            Command::Status(answer) => drop(answer.send(self.status())),
            Command::RunManual(ids, reply) => self.run_manual(ids, reply),
            Command::Unknown(mut ids, answer) => {
                let held = self.held_rows();
                ids.retain(|id| held.binary_search(id).is_err());
                drop(answer.send(ids));
            }
            Command::Cancel(ids, held, answer) => self.cancel(ids, held, answer),
            Command::SendSignal(jobs, answer) => self.send_signal(jobs, answer),
            Command::Follow(follow, answer) => self.follow(follow, answer),
            Command::Row(id, answer) => self.row(id, answer),
            Command::Reload(reload, answer) => drop(answer.send(self.reload(*reload))),
        }
    }

    fn change(&mut self, request: WorkerRequest) -> Result<(), TargetError> {
        match request {
            WorkerRequest::Poll(selection) => self.targets.poll(&selection)?,
            WorkerRequest::Pause(selection) => {
                let names = self.targets.select(&selection)?;
                for job in self.targets.pause(&names) {
                    self.release(job);
                }
            }
            WorkerRequest::Continue(selection) => {
                let names = self.targets.select(&selection)?;
                self.targets.resume(&names);
            }
            WorkerRequest::AddTarget {
                target,
                concurrency,
            } => {
                self.targets.add(target, concurrency)?;
                self.served.send_replace(self.targets.names());
            }
            WorkerRequest::RemoveTarget { target } => {
                self.targets.remove(&target)?;
                self.served.send_replace(self.targets.names());
            }
            WorkerRequest::SetTargetConcurrency {
                target,
                concurrency,
            } => self.targets.set_concurrency(&target, concurrency)?,
            // These have commands of their own, because they answer with something.
            WorkerRequest::Status
            | WorkerRequest::RunManual { .. }
            | WorkerRequest::Cancel { .. }
            | WorkerRequest::SendSignal { .. }
            | WorkerRequest::Follow(_) => {}
        }
        Ok(())
    }

    pub(super) fn run_manual(&mut self, ids: Vec<JobId>, reply: ManualReply) {
        if self.drain != DrainState::Working {
            return reply.send(Err(gone()));
        }
        match self.table {
            Table::Ready(_) => {}
            Table::Looking => return self.early.push((ids, reply)),
            Table::Away => {
                let error = "the database was not reached yet, try again later";
                return reply.send(Err(RequestError(error.to_owned())));
            }
        }
        if ids.is_empty() {
            return reply.send(Ok(RunManualReply::default()));
        }
        let ticket = match self.waiters.reserve(&ids, reply) {
            Ok(ticket) => ticket,
            Err((reply, id)) => {
                return reply.send(Err(RequestError(format!(
                    "another client is already waiting for job {id}"
                ))));
            }
        };
        self.manual_claims += 1;
        let token = self.tokens.next(Origin::Manual);
        let served = self.targets.names();
        let (store, sender) = (Arc::clone(&self.store), self.sender.clone());
        tokio::spawn(async move {
            let claimed = store.claim_manual(token, ids.clone(), served).await;
            drop(sender.send(Event::ManualClaimed {
                ticket,
                ids,
                claimed,
            }));
        });
    }

    fn row(&self, id: JobId, answer: oneshot::Sender<Result<Option<RowState>, StoreError>>) {
        let (store, worker) = (Arc::clone(&self.store), self.tokens.worker().to_owned());
        tokio::spawn(async move { answer.send(store.row(id, worker).await) });
    }

    /// Looks at each running job once, however many ids are named.
    fn send_signal(&self, jobs: Vec<(JobId, i32)>, answer: oneshot::Sender<BTreeMap<JobId, bool>>) {
        let mut wanted: BTreeMap<JobId, i32> = jobs.into_iter().collect();
        let mut deliveries = Vec::new();
        for held in self.holding.values() {
            if let Some(attempt) = &held.attempt
                && let Some(number) = wanted.remove(&held.job.id)
            {
                let (delivered, told) = oneshot::channel();
                attempt.order(Order::Signal(number, delivered));
                let id = held.job.id;
                deliveries.push(async move { (id, told.await.unwrap_or(false)) });
            }
        }
        let mut told: BTreeMap<JobId, bool> = wanted.into_keys().map(|id| (id, false)).collect();
        tokio::spawn(async move {
            told.extend(join_all(deliveries).await);
            answer.send(told)
        });
    }
}
