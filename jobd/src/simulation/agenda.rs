//! What will happen when: the one queue of the simulated world, which its workers add to while they run.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use jobd_proto::worker::RunManualReply;
use jobd_proto::{JobId, RequestError};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::plan::{MS, Time};
use super::random::Random;
use super::site::Life;
use crate::host::Told;
use crate::job::Job;
use crate::launcher::Outcome;
use crate::store::model::{Answer, Failure, Reply, Say, Session};

/// One run of a worker, from its start to its death.
pub(super) type Incarnation = u64;

/// A simulated process.
pub(super) type Pid = u64;

/// Something that will happen.
pub(super) enum Event {
    Deed(usize),
    /// A fault is over.
    Over(Fault),
    Start(usize),
    Thaw(usize),
    SecondSignal(Incarnation),
    /// Every fault ends here.
    Heal,
    /// Every worker is asked to end.
    Finale,
    /// A request reaches the server.
    Arrive {
        from: Incarnation,
        session: Session,
        say: Say,
        reply: Option<Reply>,
    },
    /// An answer reaches its worker.
    Answer(Reply, Result<Answer, Failure>),
    LockTimeout(Session, u64),
    /// The server notices that a client has hung up.
    HangUp(Session),
    Begin {
        from: Incarnation,
        pid: Pid,
        job: Job,
        done: oneshot::Sender<Outcome>,
    },
    Exit(Pid),
    Stop(Pid, Time),
    Kill(Pid, i32),
    /// Something about the guard of a run.
    Guard(Incarnation, GuardEvent),
    /// The dispatcher has returned; whether everything is written.
    Ended(Incarnation, bool),
    /// A client got its answer.
    Answered(
        Incarnation,
        Vec<JobId>,
        Result<RunManualReply, RequestError>,
    ),
    /// A target of a host is paused, if it was not continued since it had been so many times.
    Paused(usize, usize, Incarnation, u32),
}

/// What happens to guards.
pub(super) enum GuardEvent {
    /// It is started.
    Stands(Life, Told),
    /// It tries to get the lock of its worker's name.
    Lock(Life, String),
    /// It is told a deadline, or none.
    Deadline(Option<Time>),
    /// The deadline of that number has come: it looks for processes, again and again.
    Strikes(u64),
    /// It is told to strike.
    Strike,
    /// It looks whether its strike of that number has left anything.
    Struck(u64),
    /// What the former runs left is resolved.
    Resolved,
    /// It has been dismissed, or has ended every job of a dead worker.
    Gone,
}

/// Faults that end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    NoRoom(usize),
    Away,
    CutOff(usize),
    Slow,
    SlowAnswers,
    Lossy,
    Conflicts,
    Refusals,
}

/// See the module.
pub(super) struct Agenda(Mutex<Inner>);

pub(super) struct Inner {
    events: BTreeMap<(Time, u64), Event>,
    added: u64,
    /// The world's time, while no worker runs.
    pub(super) now: Time,
    /// Whether a worker runs, and goes by its own clock.
    pub(super) running: bool,
    /// Wakes the worker that runs, when something was added.
    pub(super) waker: Option<Waker>,
    pub(super) random: Random,
    /// The most that a request takes beside the usual.
    pub(super) slow: Time,
    pub(super) last: u64,
}

impl Agenda {
    pub(super) fn new(seed: u64) -> Self {
        Self(Mutex::new(Inner {
            events: BTreeMap::new(),
            added: 0,
            now: 0,
            running: false,
            waker: None,
            random: Random::new(seed),
            slow: 0,
            last: 0,
        }))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// When the next event is.
    pub(super) fn first(&self) -> Option<Time> {
        self.events.first_key_value().map(|((at, _), _)| *at)
    }

    pub(super) fn pop(&mut self) -> Option<(Time, Event)> {
        let ((at, _), event) = self.events.pop_first()?;
        Some((at, event))
    }

    pub(super) fn add(&mut self, at: Time, event: Event) {
        self.added += 1;
        self.events.insert((at.max(self.now), self.added), event);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// A number that was not given before.
    pub(super) fn number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }
}

/// How the clocks of one run of a worker go. The runtime's clock moves in milliseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clockwork {
    pub(super) began: Time,
    pub(super) base: Instant,
    /// Millionths beside the truth.
    pub(super) drift: i64,
    /// Of the host, when the history began.
    pub(super) booted: Duration,
}

impl Clockwork {
    fn rate(self) -> u64 {
        u64::try_from(1_000_000 + self.drift).unwrap()
    }

    /// The runtime's clock at a time of the world.
    pub(super) fn local(self, at: Time) -> Instant {
        let since = (at - self.began) * self.rate() / 1_000_000;
        self.base + Duration::from_millis(since / MS)
    }

    /// The time of the world at which the runtime's clock shows `local`.
    pub(super) fn world(self, local: Instant) -> Time {
        let since = u64::try_from((local - self.base).as_micros()).unwrap();
        self.began + since * 1_000_000 / self.rate()
    }

    /// The clock of leases at the runtime's time.
    pub(super) fn boot(self, local: Instant) -> Duration {
        self.booted
            + Duration::from_micros(self.began * self.rate() / 1_000_000)
            + (local - self.base)
    }

    /// When the clock of leases shows `boot`.
    pub(super) fn at_boot(self, boot: Duration) -> Time {
        let since = u64::try_from(boot.saturating_sub(self.booted).as_micros()).unwrap();
        since * 1_000_000 / self.rate()
    }
}
