//! The one task that owns the registry and the throttle, and the handle to it.
//!
//! ```text
//!  sessions ── register, leave, poke, questions ──> events ──> Owner ──> a task per poll ─┐
//!                                                     ^                                   │
//!                                                     └───────────── polled ──────────────┘
//! ```
//!
//! Here are the handle and the events; `owner` has the state.

mod owner;

use std::time::Duration;

use jobd_proto::connection::IncomingRequest;
use jobd_proto::master::{ManualJob, SignalJob};
use jobd_proto::{Connection, JobId, TargetName, Targets};
use tokio::sync::{mpsc, oneshot};

use crate::config::Config;
use crate::member::{Member, Trouble};
use crate::registry::WorkerId;

pub use self::owner::{new, summary};

/// A worker and its part of a request.
pub type Part<T> = (Member, T);

/// Every reason for the hub to wake, beside time.
#[derive(Debug)]
enum Event {
    Register {
        id: WorkerId,
        name: String,
        targets: Vec<TargetName>,
        connection: Connection,
        request: IncomingRequest,
    },
    SetIntervals(Intervals),
    Leave(WorkerId),
    Retire(WorkerId),
    Poke(Targets),
    Polled {
        id: WorkerId,
        targets: Targets,
        trouble: Option<Trouble>,
    },
    Answered {
        id: WorkerId,
        jobs: usize,
    },
    List(oneshot::Sender<Vec<Part<Vec<TargetName>>>>),
    SplitTargets(Targets, oneshot::Sender<Vec<Part<Targets>>>),
    SplitManual(Vec<ManualJob>, oneshot::Sender<Shares<ManualJob>>),
    SplitSignals(Vec<SignalJob>, oneshot::Sender<Shares<(JobId, i32)>>),
}

/// What may change while it runs.
#[derive(Clone, Copy, Debug)]
pub struct Intervals {
    /// `ping_interval`.
    pub ping: Duration,
    /// `poke_throttle_interval`.
    pub poke_throttle: Duration,
}

impl Intervals {
    /// Those of a config.
    pub fn of(config: &Config) -> Self {
        Self {
            ping: config.ping_interval,
            poke_throttle: config.poke_throttle_interval,
        }
    }
}

/// A request about several jobs, split by worker.
#[derive(Debug)]
pub struct Shares<T> {
    /// What each worker gets.
    pub parts: Vec<Part<Vec<T>>>,
    /// Jobs of targets that nobody serves, with their target.
    pub unserved: Vec<(JobId, String)>,
}

/// The handle to the hub; cheap to clone.
#[derive(Clone, Debug)]
pub struct Hub {
    events: mpsc::Sender<Event>,
}

/// The hub has ended, which only a bug of ours does before the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("internal error: the registry has stopped")]
pub struct Stopped;

impl Hub {
    /// Registers the worker on `connection`, answers its request, then polls it for the pokes
    /// that were remembered.
    pub async fn register(
        &self,
        id: WorkerId,
        name: String,
        targets: Vec<TargetName>,
        connection: Connection,
        request: IncomingRequest,
    ) -> Result<(), Stopped> {
        self.tell(Event::Register {
            id,
            name,
            targets,
            connection,
            request,
        })
        .await
    }

    /// Goes on with other intervals.
    pub async fn set_intervals(&self, intervals: Intervals) -> Result<(), Stopped> {
        self.tell(Event::SetIntervals(intervals)).await
    }

    /// The worker's connection has ended.
    pub async fn leave(&self, id: WorkerId) -> Result<(), Stopped> {
        self.tell(Event::Leave(id)).await
    }

    /// The worker is closing its connection: it gets no manual jobs where others can take them.
    pub async fn retire(&self, id: WorkerId) -> Result<(), Stopped> {
        self.tell(Event::Retire(id)).await
    }

    /// Has the workers of these targets poll, throttled.
    pub async fn poke(&self, targets: Targets) -> Result<(), Stopped> {
        self.tell(Event::Poke(targets)).await
    }

    /// A worker has answered for so many manual jobs, or never will.
    pub async fn answered(&self, id: WorkerId, jobs: usize) -> Result<(), Stopped> {
        self.tell(Event::Answered { id, jobs }).await
    }

    /// Every worker with its targets, longest registered first.
    pub async fn list(&self) -> Result<Vec<Part<Vec<TargetName>>>, Stopped> {
        self.ask(Event::List).await
    }

    /// Who serves one of these targets, each with those that it serves.
    pub async fn split_targets(&self, targets: Targets) -> Result<Vec<Part<Targets>>, Stopped> {
        self.ask(|reply| Event::SplitTargets(targets, reply)).await
    }

    /// Who shall run which of these jobs; each part is to be followed by [`Hub::answered`].
    pub async fn split_manual(&self, jobs: Vec<ManualJob>) -> Result<Shares<ManualJob>, Stopped> {
        self.ask(|reply| Event::SplitManual(jobs, reply)).await
    }

    /// Who may be running which of these jobs.
    pub async fn split_signals(
        &self,
        jobs: Vec<SignalJob>,
    ) -> Result<Shares<(JobId, i32)>, Stopped> {
        self.ask(|reply| Event::SplitSignals(jobs, reply)).await
    }

    async fn tell(&self, event: Event) -> Result<(), Stopped> {
        self.events.send(event).await.map_err(|_| Stopped)
    }

    async fn ask<T>(&self, event: impl FnOnce(oneshot::Sender<T>) -> Event) -> Result<T, Stopped> {
        let (reply, answer) = oneshot::channel();
        self.tell(event(reply)).await?;
        answer.await.map_err(|_| Stopped)
    }
}
