//! A worker's surroundings: its machine, its processes and its line to the database, all of which only add to
//! the agenda what is to happen.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep};

use super::agenda::{Agenda, Clockwork, Event, GuardEvent, Incarnation};
use super::plan::{MS, SECOND, Time};
use crate::host::{Guard, Host, Told};
use crate::job::Job;
use crate::launcher::{Executor, Order, Outcome};
use crate::store::model::{Reply, Say, Session, Wire};

/// See the module.
#[derive(Clone)]
pub(super) struct Site {
    pub(super) agenda: Arc<Agenda>,
    pub(super) clock: Clockwork,
    pub(super) incarnation: Incarnation,
    /// Whether the machine has no room for another process.
    pub(super) full: Flag,
}

/// A fact that the world and a worker's surroundings share.
#[derive(Clone, Debug, Default)]
pub(super) struct Flag(Arc<AtomicBool>);

impl Flag {
    pub(super) fn set(&self, is: bool) {
        self.0.store(is, Ordering::Relaxed);
    }

    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Whether both are the same one.
    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// Set when a guard has ended.
pub(super) type Life = Flag;

impl Site {
    /// Adds an event at the worker's own time, or later.
    pub(super) fn add(&self, after: Time, event: Event) {
        let mut agenda = self.agenda.lock();
        let now = if agenda.running {
            self.clock.world(Instant::now())
        } else {
            agenda.now
        };
        agenda.add(now + after, event);
    }
}

impl Wire for Site {
    fn connection(&self) -> Session {
        u32::try_from(self.agenda.lock().number()).unwrap()
    }

    fn send(&self, session: Session, say: Say, reply: Option<Reply>) {
        let after = {
            let mut agenda = self.agenda.lock();
            let slow = agenda.slow;
            agenda.random.between(MS, 3 * MS)
                + if slow > 0 {
                    agenda.random.below(slow)
                } else {
                    0
                }
        };
        let from = self.incarnation;
        self.add(
            after,
            Event::Arrive {
                from,
                session,
                say,
                reply,
            },
        );
    }
}

impl Host for Site {
    fn since_boot(&self) -> Duration {
        self.clock.boot(Instant::now())
    }

    fn random(&self) -> f64 {
        let number = u32::try_from(self.agenda.lock().random.below(1 << 20)).unwrap();
        f64::from(number) / f64::from(1 << 20)
    }

    fn guard(
        &self,
        worker: &str,
        lock: Option<&Path>,
        told: Told,
    ) -> anyhow::Result<Box<dyn Guard>> {
        anyhow::ensure!(!self.full.is_set(), "no room");
        let guard = Sentry {
            site: self.clone(),
            ended: Flag::default(),
        };
        guard.tell(0, GuardEvent::Stands(guard.ended.clone(), told))?;
        if lock.is_some() {
            let lock = GuardEvent::Lock(guard.ended.clone(), worker.to_owned());
            guard.tell(5 * MS, lock)?;
        }
        Ok(Box::new(guard))
    }
}

/// The guard of a simulated worker.
struct Sentry {
    site: Site,
    ended: Life,
}

impl Sentry {
    fn tell(&self, after: Time, event: GuardEvent) -> io::Result<()> {
        if self.ended.is_set() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let event = Event::Guard(self.site.incarnation, event);
        self.site.add(after, event);
        Ok(())
    }
}

impl Guard for Sentry {
    fn set_deadline(&mut self, deadline: Option<Duration>) -> io::Result<()> {
        let at = deadline.map(|deadline| self.site.clock.at_boot(deadline));
        self.tell(0, GuardEvent::Deadline(at))
    }

    fn resolved(&mut self) -> io::Result<()> {
        self.tell(0, GuardEvent::Resolved)
    }

    fn dismiss(self: Box<Self>) {
        let _ = self.tell(0, GuardEvent::Gone);
    }

    fn strike(&mut self) -> io::Result<()> {
        self.tell(0, GuardEvent::Strike)
    }

    fn end(self: Box<Self>) {
        let _ = self.tell(0, GuardEvent::Gone);
        self.ended.set(true);
    }

    fn is_alive(&mut self) -> bool {
        !self.ended.is_set()
    }
}

/// The time that jobs get to end.
pub(super) const KILL_GRACE: Duration = Duration::from_millis(500);

impl Executor for Site {
    /// It begins at once, or when a thread comes to it: then it may be too late.
    fn run(
        &self,
        job: Job,
        until: Option<Duration>,
        mut orders: mpsc::Receiver<Order>,
    ) -> BoxFuture<'static, Outcome> {
        let site = self.clone();
        async move {
            let (pid, wait) = {
                let mut agenda = site.agenda.lock();
                let slow = agenda.random.percent(5);
                let wait = if slow { agenda.random.below(5 * SECOND) } else { 0 };
                (agenda.number(), wait)
            };
            if wait > 0 {
                sleep(Duration::from_micros(wait)).await;
            }
            if until.is_some_and(|until| site.since_boot() >= until) {
                return Outcome::NoRoom(io::Error::other("too late"));
            }
            let (done, mut ended) = oneshot::channel();
            let from = site.incarnation;
            site.add(0, Event::Begin { from, pid, job, done });
            loop {
                tokio::select! {
                    biased;
                    outcome = &mut ended => return outcome.expect("a process ends before its world"),
                    Some(order) = orders.recv() => match order {
                        Order::Signal(_, answer) => drop(answer),
                        Order::Follow(feed) => drop(feed),
                        Order::Stop { within, .. } => {
                            let grace = within.unwrap_or(KILL_GRACE).min(KILL_GRACE);
                            let grace = Time::try_from(grace.as_micros()).unwrap();
                            site.add(0, Event::Stop(pid, grace));
                        }
                    },
                }
            }
        }
        .boxed()
    }
}
