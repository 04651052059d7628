//! A run on an SQLite file: three workers that share it, a load, and the faults that there are without a server, a line
//! to it and a master.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::checker::Breach;
use super::job::{LOUD, OUTPUT_FILE, SLOW, STUCK};
use super::options::{Options, Table};
use super::random::Random;
use super::scene::{CRASH_POINTS, Scene};
use super::stage::{LEASE, WORKERS, outputs};
use crate::Ini;
use crate::programs::Daemon;

const TARGETS: &[(&str, u32)] = &[("quick", 6), (SLOW, 3), (LOUD, 2), (STUCK, 2)];

/// Above so many open jobs nothing is added.
const MAX_OPEN: usize = 150;

/// For the jobs that are open when the last fault is over.
const LAST_JOBS_LIMIT: Duration = Duration::from_secs(90);

/// What is done to a worker, or to the file.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// kill -9, and a start.
    Killed,
    /// A start that ends at a given point of the code, and another one.
    Crashed,
    /// SIGSTOP, now and then for longer than a lease.
    Frozen,
    /// SIGTERM, and a start.
    Drained,
    /// SIGTERM twice, and a start.
    Hurried,
    /// Somebody has the file for himself, now and then for longer than a lease.
    Locked,
}

const FAULTS: [Fault; 6] = [
    Fault::Killed,
    Fault::Crashed,
    Fault::Frozen,
    Fault::Drained,
    Fault::Hurried,
    Fault::Locked,
];

/// What runs.
struct Play {
    scene: Scene,
    workers: Vec<(Ini, Daemon)>,
    /// Clients that wait for manual jobs.
    clients: Vec<JoinHandle<Option<Value>>>,
    random: Random,
}

/// Runs as asked for, printing as it goes; what was not kept.
pub async fn run(options: &Options, seed: u64) -> Vec<Breach> {
    let scene = Scene::in_file(options.table, TARGETS).await;
    let mut workers = Vec::new();
    for name in WORKERS {
        let file = outputs(&scene.scratch).join(OUTPUT_FILE);
        let mut ini = scene
            .worker(name)
            .set("poll_interval", 1)
            .set("retry", 1)
            .set("kill_sequence", "TERM,0.5s,KILL")
            .own(LOUD, "output_file", file.display());
        if options.table == Table::Full {
            ini = ini
                .set("lease", LEASE.as_secs())
                .own(STUCK, "idle_timeout", "2s");
        }
        let daemon = scene.start(&ini, &[]).await;
        workers.push((ini, daemon));
    }
    let mut play = Play {
        scene,
        workers,
        clients: Vec::new(),
        random: Random::new(seed),
    };
    let end = tokio::time::Instant::now() + options.duration();
    let (mut faults, mut left) = (0, Vec::new());
    play.work(Duration::from_secs(2)).await;
    while tokio::time::Instant::now() < end {
        if left.is_empty() {
            left = FAULTS.to_vec();
            play.random.shuffle(&mut left);
        }
        let fault = left.pop().expect("just filled");
        println!("{fault:?}");
        play.inflict(fault).await;
        faults += 1;
        let pause = play.random.millis(500, 2_000);
        play.work(pause).await;
    }
    play.verdict(faults).await
}

impl Play {
    async fn inflict(&mut self, fault: Fault) {
        let number = self.random.index(self.workers.len());
        let (short, long) = (self.random.millis(200, 3_000), self.random.one_in(2));
        let time = if long { LEASE + short } else { short };
        let full = self.scene.table == Table::Full;
        let (_, worker) = &mut self.workers[number];
        match fault {
            Fault::Locked => {
                let locked = self.scene.jobs.lock().await;
                sleep(time).await;
                drop(locked);
                return;
            }
            Fault::Frozen => {
                if long && full {
                    self.scene.lose(worker);
                }
                worker.process.signal(Signal::STOP);
                self.work(time).await;
                self.workers[number].1.process.signal(Signal::CONT);
                return;
            }
            Fault::Killed => {
                self.scene.lose(worker);
                worker.process.kill();
                self.work(short).await;
            }
            Fault::Crashed => {
                self.scene.lose(worker);
                worker.process.kill();
                let point = CRASH_POINTS[self.random.index(CRASH_POINTS.len())];
                let at = format!("{point}:{}", self.random.between(1, 5));
                let crashing = self
                    .scene
                    .launch(&self.workers[number].0, &[("JOBD_CRASH_AT", &at)]);
                self.scene.lose(&crashing);
                self.workers[number].1 = crashing;
                // It may not come there.
                self.work(Duration::from_secs(3)).await;
                self.workers[number].1.process.kill();
            }
            Fault::Drained => worker.process.signal(Signal::TERM),
            Fault::Hurried => {
                // On the minimal table what is cut short has failed, and says so.
                if !full {
                    return;
                }
                self.scene.lose(worker);
                worker.process.signal(Signal::TERM);
                self.work(short / 2).await;
                self.workers[number].1.process.signal(Signal::TERM);
            }
        }
        while self.workers[number].1.process.ended().is_none() {
            self.work(Duration::from_millis(100)).await;
        }
        let daemon = self.scene.start(&self.workers[number].0, &[]).await;
        self.workers[number].1 = daemon;
    }

    /// Applications work for so long.
    async fn work(&mut self, time: Duration) {
        // What is cut off in the middle may have been added all the same.
        let _ = timeout(time, self.add()).await;
        sleep(Duration::from_millis(1)).await;
    }

    async fn add(&mut self) {
        let full = self.scene.table == Table::Full;
        loop {
            sleep(self.random.millis(50, 400)).await;
            let open = "status IN ('waiting', 'scheduled', 'accepted', 'running')";
            let open = self.scene.jobs.ids(open).await;
            if open.len() > MAX_OPEN {
                continue;
            }
            let most = u32::try_from(self.random.between(1, 3)).expect("few");
            let few = self.random.index(8) + 1;
            let (target, few) = match self.random.index(12) {
                0..8 => ("quick", few),
                8 | 9 => (SLOW, 2),
                10 => (LOUD, 2),
                // It never ends by itself.
                _ if full => (STUCK, 1),
                _ => continue,
            };
            match self.random.index(8) {
                0 if full => self.scene.insert_later(few, target, most.into()).await,
                1 => {
                    let ids = self.scene.insert(few, target, "manual", 1).await;
                    let number = self.random.index(self.workers.len());
                    let addr = self.workers[number].1.addr;
                    self.clients.push(self.scene.ask_for(addr, &ids));
                }
                2 if full && !open.is_empty() => {
                    let one = open[self.random.index(open.len())];
                    self.scene.cancel(one).await;
                }
                _ => drop(self.scene.insert(few, target, "waiting", most).await),
            }
        }
    }

    async fn verdict(mut self, faults: u32) -> Vec<Breach> {
        let workers: Vec<Daemon> = self.workers.into_iter().map(|(_, daemon)| daemon).collect();
        let [one, two, three]: [Daemon; 3] = workers.try_into().expect("three workers");
        self.scene.settle(&one, LAST_JOBS_LIMIT).await;
        for client in self.clients {
            // Those of workers that died have no answer, or none yet.
            if let Ok(Ok(answer)) = timeout(Duration::from_millis(10), client).await {
                self.scene.note(answer);
            }
        }
        let rows = self.scene.jobs.rows().await;
        let ok = rows
            .values()
            .filter(|row| row.result.as_deref() == Some("ok"));
        println!(
            "{faults} faults; {} jobs acknowledged, {} rows ({} ok), {} runs",
            self.scene.ledger.acknowledged.len(),
            rows.len(),
            ok.count(),
            self.scene.runs().len()
        );
        self.scene.verdict([one, two, three]).await
    }
}
