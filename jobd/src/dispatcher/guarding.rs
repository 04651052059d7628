//! Keeps a guard standing, and told until when our jobs may live without us.

use std::collections::HashSet;
use std::io;
use std::time::Duration;

use jobd_proto::daemon::notify;
use tokio::time::Instant as Deadline;

use super::{Dispatcher, Event, Table};
use crate::host::{Guard, Word};
use crate::ledger::Claim;
use crate::rescuer;

/// Between two starts of a guard: one that cannot be started, or ends again at once, costs no more than that.
const GUARD_PAUSE: Duration = Duration::from_secs(1);

/// A guard that has not come to the end of its strike by then is stuck: longer than it tries itself.
const STRIKE_LIMIT: Duration = Duration::from_secs(10);

/// What jobs are told in their `stderr`.
const STRUCK: &str = "stopped because this worker was frozen for most of a lease, and another worker may start the job again";

/// Where the guard stands.
#[derive(Default)]
pub(super) struct Post {
    watch: Option<Watch>,
    /// Guards that were started so far, or tried to be.
    started: u64,
    /// No other one is started before.
    pause: Option<Deadline>,
    /// It was said that none can be started.
    missed: bool,
    /// A strike is under way, and nothing may be launched; until then at most.
    striking: Option<Deadline>,
}

/// A guard and its deadline, which lives and dies with it.
struct Watch {
    number: u64,
    guard: Box<dyn Guard>,
    /// What it was told last, unless it has struck.
    deadline: Option<Duration>,
}

impl Watch {
    fn tell(&mut self, deadline: Option<Duration>) -> io::Result<()> {
        if deadline != self.deadline {
            self.guard.set_deadline(deadline)?;
            self.deadline = deadline;
        }
        Ok(())
    }

    fn strike(&mut self) -> io::Result<()> {
        self.deadline = None;
        self.guard.strike()
    }
}

impl Post {
    /// When to look after it, whatever else happens.
    pub(super) fn next_look(&self) -> Option<Deadline> {
        let vacant = self.pause.filter(|_| self.watch.is_none());
        vacant.into_iter().chain(self.striking).min()
    }

    /// Nothing is left to guard.
    pub(super) fn dismiss(self) {
        if let Some(watch) = self.watch {
            watch.guard.dismiss();
        }
    }
}

impl Dispatcher {
    /// Sees to it that a guard stands there: starts one, and another one where that has ended or is stuck.
    pub(super) fn keep_guard(&mut self) {
        let now = Deadline::now();
        let stuck = self.post.striking.take_if(|limit| *limit <= now).is_some();
        let ended = |watch: &mut Watch| !watch.guard.is_alive();
        if stuck {
            self.leave_guard("did not come to the end of its strike");
        } else if self.post.watch.as_mut().is_some_and(ended) {
            self.leave_guard("has ended");
        }
        if self.post.watch.is_some() || self.post.pause.is_some_and(|until| now < until) {
            return;
        }
        self.post.pause = Some(now + GUARD_PAUSE);
        self.start_guard();
    }

    fn leave_guard(&mut self, why: &str) {
        if let Some(watch) = self.post.watch.take() {
            tracing::warn!("the guard {why}, starting another one");
            watch.guard.end();
        }
    }

    fn start_guard(&mut self) {
        self.post.started += 1;
        let (number, sender) = (self.post.started, self.sender.clone());
        let told = Box::new(move |word| drop(sender.send(Event::Guard(number, word))));
        let lock = self.settings.lock.as_deref();
        match self.host.guard(self.tokens.worker(), lock, told) {
            Ok(guard) => {
                self.post.watch = Some(Watch {
                    number,
                    guard,
                    deadline: None,
                });
                if std::mem::take(&mut self.post.missed) {
                    tracing::info!("started a guard");
                    notify::status("running with a guard again");
                }
                if self.is_striking() {
                    self.order(Watch::strike);
                }
                self.tell_guard();
            }
            Err(error) => {
                let error = format!("{error:#}");
                if std::mem::replace(&mut self.post.missed, true) {
                    tracing::debug!(error, "still cannot start the guard");
                    return;
                }
                tracing::error!(
                    error,
                    "cannot start the guard, trying again: until then, if this worker dies, its jobs go on"
                );
                notify::status("running without a guard");
            }
        }
    }

    /// Tells the guard something. One that cannot be told is gone, or has been frozen for long: another one takes its
    /// place.
    fn order(&mut self, order: impl FnOnce(&mut Watch) -> io::Result<()>) {
        let told = self.post.watch.as_mut().map(order);
        if let Some(Err(error)) = told {
            self.leave_guard(&format!("does not listen ({error})"));
            self.keep_guard();
        }
    }

    /// Names the moment at which jobs that others may start again must be gone, if we are frozen until
    /// then. No such job, no deadline.
    pub(super) fn tell_guard(&mut self) {
        let Some(keeper) = &self.keeper else { return };
        let risky = self.holding.values();
        let risky = risky.filter(|held| held.job.again && held.attempt.is_some());
        let deadline = risky.map(|held| keeper.deadline(held.job.id)).min();
        // A moment that has passed is not worth saying: these jobs are being stopped already. So are all while the guard
        // strikes.
        let passed = deadline.is_some_and(|deadline| deadline <= self.host.since_boot());
        if !passed && !self.is_striking() {
            self.order(|watch| watch.tell(deadline));
        }
    }

    /// Notes that a deadline has passed while we did not look: the guard kills what runs, and these ends are not
    /// the jobs' own. Nothing is launched before it says that it is done, as it would kill that too.
    pub(super) fn note_strike(&mut self) {
        let now = self.host.since_boot();
        let passed = |watch: &&mut Watch| watch.deadline.is_some_and(|deadline| now >= deadline);
        let Some(watch) = self.post.watch.as_mut().filter(passed) else {
            return;
        };
        let alive = watch.guard.is_alive();
        let mut struck = 0;
        for held in self
            .holding
            .values_mut()
            .filter(|held| held.attempt.is_some())
        {
            // Nobody knows how far a guard came that has ended.
            held.struck = true;
            if alive {
                held.stop(STRUCK, Some(Duration::ZERO));
                struck += 1;
            }
        }
        if !alive {
            return self.keep_guard();
        }
        tracing::error!(
            jobs = struck,
            "this worker was frozen for most of a lease: its guard has killed what ran"
        );
        self.post.striking = Some(Deadline::now() + STRIKE_LIMIT);
        self.order(Watch::strike);
    }

    /// Whether the guard is killing whatever runs.
    pub(super) fn is_striking(&self) -> bool {
        self.post.striking.is_some()
    }

    pub(super) fn guard_said(&mut self, number: u64, word: Word) {
        // What one says that was replaced counts no more.
        if self
            .post
            .watch
            .as_ref()
            .is_none_or(|watch| watch.number != number)
        {
            return;
        }
        match word {
            Word::Locked(predecessors) => self.lock_had(predecessors),
            Word::Struck => {
                self.post.striking = None;
                self.tell_guard();
            }
            Word::Ended => {
                self.leave_guard("has ended");
                self.keep_guard();
            }
        }
    }

    /// The guard has the lock; it says whose rows are not resolved yet.
    fn lock_had(&mut self, predecessors: Vec<String>) {
        self.locked = true;
        self.predecessors = predecessors;
        self.inherit();
    }

    /// Takes over from the predecessors, once there is a table: their journal first.
    pub(super) fn inherit(&mut self) {
        if self.locked && matches!(self.table, Table::Ready(_)) {
            self.ledger.use_journal();
        }
    }

    /// Resolves what the predecessors left, but for the rows whose ends still wait to be written: those are
    /// true. Comes again when none waits any more.
    pub(super) fn resolve(&mut self, waiting: HashSet<Claim>) {
        if self.predecessors.is_empty() {
            return;
        }
        let (store, sender) = (self.store.clone(), self.sender.clone());
        let predecessors = if waiting.is_empty() {
            std::mem::take(&mut self.predecessors)
        } else {
            self.predecessors.clone()
        };
        tokio::spawn(async move {
            for predecessor in predecessors {
                rescuer::inherit(&*store, predecessor, &waiting).await;
            }
            if waiting.is_empty() {
                drop(sender.send(Event::Inherited));
            }
        });
    }

    /// Nobody needs to look after them again.
    pub(super) fn inherited(&mut self) {
        self.order(|watch| watch.guard.resolved());
    }
}
