//! The lives of workers: start, run, freeze, die.

use super::*;
use crate::fate::{Causes, Retries};
use crate::launcher::{KillSequence, LauncherSettings, Template};
use crate::per_target::{PerTarget, TargetSettings};
use crate::simulation::site::KILL_GRACE;

/// What is set for each target; processes are simulated, so only the time that they get to end counts.
fn per_target() -> PerTarget {
    let mut launcher = LauncherSettings::new(Template::Words(Vec::new()));
    launcher.kill = KillSequence::with_grace(KILL_GRACE);
    let retries = Retries {
        retry: 1,
        backoff: Duration::from_millis(200)..=Duration::from_secs(2),
        on: Causes::default(),
    };
    let settings = TargetSettings { launcher, retries };
    PerTarget::new(settings, BTreeMap::new())
}

impl World<'_> {
    /// The worker's process is gone; its guard ends its jobs, or is gone as well.
    pub(super) fn die(&mut self, number: usize, away: Time, power: bool) {
        let Some(worker) = self.hosts[number].worker.take() else {
            return;
        };
        let run = worker.site.incarnation;
        self.hosts[number].frozen = false;
        self.fates.insert(run, Fate::Dead);
        self.bury(worker);
        // Whoever ends both is to end the processes too: nobody else would in time.
        let power = power || self.guards[&run].gone;
        self.end_processes(run, power);
        if power {
            self.guard_gone(run);
        }
        self.add(away, Event::Start(number));
    }

    /// Drops everything of a worker, with the clients that wait for it.
    pub(super) fn bury(&mut self, worker: Worker) {
        // Who waits for an answer sees the connection close.
        self.waiting.remove(&worker.site.incarnation);
        drop(worker);
    }

    pub(super) fn start(&mut self, number: usize) {
        if self.hosts[number].worker.is_some() {
            return;
        }
        let plan = &self.plan.workers[number];
        let at = self.now();
        let run = ((number as Incarnation) << 32) | self.agenda.lock().number();
        self.say(|| format!("worker {number} starts as {run:x}"));
        let runtime = Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let entered = runtime.enter();
        let site = Site {
            agenda: self.agenda.clone(),
            clock: Clockwork {
                began: at,
                base: Instant::now(),
                drift: plan.drift,
                booted: Duration::from_secs(plan.booted),
            },
            incarnation: run,
            full: self.hosts[number].full.clone(),
        };
        let lease = Duration::from_micros(LEASE);
        let tokens = Tokens::new(&format!("w{number}"), "h", run);
        let own = tokens.worker().to_owned();
        let store = model::open(self.schema.clone(), Arc::new(site.clone()), lease);
        let shutdown = Shutdown::default();
        let settings = Settings {
            limits: Limits {
                fetch_limit: 0,
                poll_interval: Duration::from_millis(plan.poll_ms),
                drain_timeout: Duration::from_millis(plan.drain_ms),
            },
            per_target: Arc::new(per_target()),
            targets: (0..TARGETS)
                .map(|at| (target(at), plan.concurrency[at]))
                .collect(),
            lease,
            lock: plan.state_dir.then(|| "lock".into()),
            journal: None,
            name: format!("w{number}"),
            pokes: tokio::sync::mpsc::channel(1).0,
        };
        let host = Arc::new(site.clone());
        let (dispatcher, handle) = Dispatcher::new(
            settings,
            store.clone(),
            host.clone(),
            host.clone(),
            tokens,
            Heartbeat::default(),
            shutdown.clone(),
        );
        let rescue = Rescue {
            host,
            lease,
            own,
            until: CancellationToken::new(),
        };
        runtime.spawn(await_table(store, handle.clone(), rescue));
        let ended = site.clone();
        runtime.spawn(async move {
            let written = dispatcher.run().await.is_ok();
            ended.add(0, Event::Ended(ended.incarnation, written));
        });
        drop(entered);
        let nobody = Guard {
            gone: true,
            ..Guard::default()
        };
        self.guards.insert(run, nobody);
        self.fates.insert(run, Fate::Alive);
        let host = &mut self.hosts[number];
        (host.paused, host.most) = ([None; TARGETS], plan.concurrency);
        host.worker = Some(Worker {
            runtime,
            site,
            handle,
            shutdown,
            reached: at,
        });
    }

    pub(super) fn thaw(&mut self, number: usize) {
        let at = self.now();
        let host = &mut self.hosts[number];
        if std::mem::take(&mut host.frozen)
            && let Some(worker) = &mut host.worker
        {
            worker.catch_up(at);
        }
    }

    /// A dispatcher has returned: jobd exits.
    pub(super) fn ended(&mut self, run: Incarnation, written: bool) -> Result<(), String> {
        let number = host_of(run);
        if self.worker(run).is_none() {
            return Ok(());
        }
        self.say(|| format!("{run:x} ends, everything written: {written}"));
        let worker = self.hosts[number].worker.take().expect("looked at above");
        self.fates
            .insert(run, if written { Fate::Drained } else { Fate::Dead });
        self.bury(worker);
        if written {
            self.witness.left_behind(run, &self.server.table)?;
        } else {
            self.end_processes(run, self.guards[&run].gone);
        }
        if !self.healed {
            self.add(SECOND, Event::Start(number));
        }
        Ok(())
    }
}

impl Worker {
    /// Lets it run until `until`, or until it has added something that comes before.
    pub(super) fn go_on(&mut self, until: Time) {
        let Site { agenda, clock, .. } = self.site.clone();
        agenda.lock().running = true;
        let reached = self.runtime.block_on(async {
            // Everything that is ready has its turn, at this very moment.
            tokio::task::yield_now().await;
            let mut alarm = std::pin::pin!(sleep_until(clock.local(until)));
            std::future::poll_fn(|context| {
                let mut agenda = agenda.lock();
                if agenda.first().is_some_and(|first| first < until) {
                    return Poll::Ready(clock.world(Instant::now()));
                }
                agenda.waker = Some(context.waker().clone());
                drop(agenda);
                alarm.as_mut().poll(context).map(|()| until)
            })
            .await
        });
        let mut agenda = agenda.lock();
        (agenda.running, agenda.waker) = (false, None);
        // Never back: what it added comes later than it did so.
        self.reached = self.reached.max(reached).min(until);
        if let Some(first) = agenda.first().filter(|first| *first < until) {
            self.reached = self.reached.min(first);
        }
    }

    /// The clock jumps to `at`, with everything that was due meanwhile due now.
    pub(super) fn catch_up(&mut self, at: Time) {
        let behind = self.site.clock.local(at);
        let agenda = self.site.agenda.clone();
        agenda.lock().running = true;
        self.runtime.block_on(async {
            tokio::time::advance(behind.saturating_duration_since(Instant::now())).await;
        });
        agenda.lock().running = false;
        self.reached = at;
    }
}
