//! One attempt of a job: the handle that sends orders to it, and its way from the launch to the end.
//!
//! The task owns the process; the [`Attempt`] handle only sends orders.

mod attend;
mod begin;

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};

use self::attend::attend;
use self::begin::{Begun, begin};
use super::{Executor, Launcher, Outcome, input};
use crate::fate::Reason;
use crate::follow::{Feed, MAX_PER_JOB};
use crate::job::Job;

/// Signals in flight for one job: people send them, so a handful; beyond, they are refused.
const MAX_SIGNALS: usize = 16;

/// Orders to stop that have places which nobody else takes: the first one, and one to be faster.
const MAX_STOPS: usize = 2;

/// Places among the orders that signals leave to others.
const KEPT_PLACES: usize = MAX_PER_JOB + MAX_STOPS;

/// What a running process is told.
#[derive(Debug)]
pub enum Order {
    /// Show somebody what it writes, from the feed's tail on.
    Follow(Feed),
    /// Send this signal to the process itself, as `send-signal` does; answers whether it was delivered.
    Signal(i32, oneshot::Sender<bool>),
    /// Stop the whole group for this reason, by the target's `kill_sequence`, but faster where that would take longer
    /// than `within`. The note goes to `stderr`.
    Stop {
        reason: Reason,
        note: &'static str,
        within: Option<Duration>,
    },
}

/// A running attempt.
#[derive(Debug)]
pub struct Attempt {
    orders: mpsc::Sender<Order>,
}

impl Attempt {
    /// Starts a job, unless that would be later than `until`; `done` is called with how it ended, once.
    pub fn start(
        executor: &dyn Executor,
        job: Job,
        until: Option<Duration>,
        done: impl FnOnce(Outcome) + Send + 'static,
    ) -> Self {
        // The last places are for followers, and for orders to stop.
        let (orders, queue) = mpsc::channel(MAX_SIGNALS + KEPT_PLACES);
        let outcome = executor.run(job, until, queue);
        tokio::spawn(async move { done(outcome.await) });
        Self { orders }
    }

    /// Sends an order, which an ended process misses. `false`: it is a signal or a follower, and too many are before it.
    pub fn order(&self, order: Order) -> bool {
        let kept = match order {
            Order::Signal(..) => KEPT_PLACES,
            // Followers may come and go faster than a process is started.
            Order::Follow(_) => MAX_STOPS,
            Order::Stop { .. } => 0,
        };
        let room = self.orders.capacity() > kept;
        if room {
            // Dropping a missed signal's sender answers it with "not delivered".
            let _ = self.orders.try_send(order);
        }
        room
    }
}

impl Executor for Launcher {
    fn run(
        &self,
        job: Job,
        until: Option<Duration>,
        orders: mpsc::Receiver<Order>,
    ) -> BoxFuture<'static, Outcome> {
        let launcher = self.clone();
        async move { run(&launcher, Arc::new(job), until, orders).await }.boxed()
    }

    fn ignoring_case(&self) -> Option<Arc<dyn Executor>> {
        let ways = self.inner.ways.clone().ignoring_case();
        Some(Arc::new(self.with_ways(ways)))
    }
}

async fn run(
    launcher: &Launcher,
    job: Arc<Job>,
    until: Option<Duration>,
    mut orders: mpsc::Receiver<Order>,
) -> Outcome {
    let mut followers = Vec::new();
    let payload = if job.terms.has_data && launcher.way(&job).settings.data_on_stdin {
        match input::read(&launcher.inner.payloads, &job, &mut orders, &mut followers).await {
            Ok(payload) => Some(payload),
            Err(end) => return Outcome::Ended(end),
        }
    } else {
        None
    };
    let (its, of, fed) = (launcher.clone(), job.clone(), payload.is_some());
    let task = move || begin(&its, &of, fed, until);
    let hangs = || {
        tracing::warn!(job = %job.id, target = %job.target, "the start of a process is held up: does the file system of its program or its folder hang?");
    };
    match launcher.inner.spawner.run(task, hangs).await {
        Ok(Begun::Started(mut started)) => {
            for feed in followers {
                started.show(&feed);
            }
            attend(launcher, &job, payload, started, orders).await
        }
        Ok(Begun::Never(end)) => Outcome::Ended(end),
        Ok(Begun::NotNow(error)) | Err(error) => Outcome::NoRoom(error),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use jobd_proto::{JobId, TargetName};

    use super::*;
    use crate::job::{Origin, Terms, Tokens};

    /// A process that is being started: its orders wait.
    #[derive(Default)]
    struct Slow(Mutex<Option<mpsc::Receiver<Order>>>);

    impl Executor for Slow {
        fn run(
            &self,
            _: Job,
            _: Option<Duration>,
            orders: mpsc::Receiver<Order>,
        ) -> BoxFuture<'static, Outcome> {
            *self.0.lock().unwrap() = Some(orders);
            std::future::pending().boxed()
        }
    }

    #[tokio::test]
    async fn a_flood_of_signals_and_followers_keeps_no_job_from_being_stopped() {
        let slow = Slow::default();
        let job = Job {
            id: JobId(1),
            target: TargetName::new("t").unwrap(),
            origin: Origin::Background,
            token: Tokens::new("w", "h", 1).next(Origin::Background),
            attempt: 1,
            interruptions: 0,
            again: false,
            terms: Terms::default(),
        };
        let attempt = Attempt::start(&slow, job, None, drop);
        let mut refused = 0;
        for _ in 0..100 {
            let (delivered, mut told) = oneshot::channel();
            attempt.order(Order::Signal(15, delivered));
            refused += usize::from(told.try_recv() == Err(oneshot::error::TryRecvError::Closed));
        }
        assert_eq!(refused, 100 - MAX_SIGNALS);
        while attempt.order(Order::Follow(crate::follow::new(0).0)) {}
        for within in [None, Some(Duration::ZERO)] {
            attempt.order(Order::Stop {
                reason: Reason::Drained,
                note: "",
                within,
            });
        }
        let mut orders = slow.0.lock().unwrap().take().unwrap();
        let orders: Vec<Order> = std::iter::from_fn(|| orders.try_recv().ok()).collect();
        let stop = |order: &Order| matches!(order, Order::Stop { .. });
        assert!(orders[orders.len() - MAX_STOPS..].iter().all(stop));
        assert_eq!(orders.len(), MAX_SIGNALS + KEPT_PLACES);
    }
}
