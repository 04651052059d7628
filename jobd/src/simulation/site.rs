//! A worker's surroundings: its machine, its processes and its line to the database, all of which only add to
//! the agenda what is to happen.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::agenda::{Agenda, Clockwork, Event, GuardEvent, Incarnation};
use super::plan::{MS, Time};
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
}

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
        if lock.is_some() {
            let (from, worker) = (self.incarnation, worker.to_owned());
            self.add(
                5 * MS,
                Event::Guard(from, GuardEvent::Lock { worker, told }),
            );
        }
        Ok(Box::new(Sentry(self.clone())))
    }
}

/// The guard of a simulated worker.
struct Sentry(Site);

impl Guard for Sentry {
    fn set_deadline(&mut self, deadline: Option<Duration>) -> io::Result<()> {
        let at = deadline.map(|deadline| self.0.clock.at_boot(deadline));
        self.0.add(
            0,
            Event::Guard(self.0.incarnation, GuardEvent::Deadline(at)),
        );
        Ok(())
    }

    fn resolved(&mut self) -> io::Result<()> {
        self.0
            .add(0, Event::Guard(self.0.incarnation, GuardEvent::Resolved));
        Ok(())
    }

    fn dismiss(self: Box<Self>) {
        self.0
            .add(0, Event::Guard(self.0.incarnation, GuardEvent::Gone));
    }

    /// The next one stands in the same place.
    fn strike(mut self: Box<Self>) {
        let _ = self.set_deadline(None);
    }

    fn is_alive(&mut self) -> bool {
        true
    }
}

impl Executor for Site {
    fn run(&self, job: Job, mut orders: mpsc::Receiver<Order>) -> BoxFuture<'static, Outcome> {
        let site = self.clone();
        async move {
            let pid = site.agenda.lock().number();
            let (done, mut ended) = oneshot::channel();
            let from = site.incarnation;
            site.add(0, Event::Begin { from, pid, job, done });
            loop {
                tokio::select! {
                    biased;
                    outcome = &mut ended => return outcome.expect("a process ends before its world"),
                    Some(order) = orders.recv() => match order {
                        Order::Signal(_, answer) => drop(answer),
                        Order::Stop { grace, .. } => {
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
