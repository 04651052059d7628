//! Faults inside a worker: its guard, and given points of its code.

use std::time::Duration;

use rustix::process::{Pid, Signal};
use tokio::time::{Instant, sleep};

use super::Outcome;
use super::daemons::{claims_of, rescued};
use crate::chaos::footprint::{command_line, parent, processes};
use crate::chaos::random::Random;
use crate::chaos::scene::CRASH_POINTS;
use crate::chaos::stage::{LEASE, Stage, Worker, signal};
use crate::watchdog::Frozen;

/// A worker under load passes every point but those of a shutdown within a moment.
const POINT_LIMIT: Duration = Duration::from_secs(5);

/// A worker that launches nothing looks after its guard every few seconds.
const GUARD_LIMIT: Duration = Duration::from_secs(20);

/// A point is passed for the last time at the latest of so many times.
const PASSAGES: u64 = 12;

pub(super) async fn guard_killed(stage: &Stage, random: &mut Random) -> Outcome {
    let number = random.index(stage.workers.len());
    let worker = stage.workers[number].lock().await;
    let before = guard_of(&worker);
    if let Some(guard) = before {
        signal(guard, Signal::KILL);
    }
    let begun = Instant::now();
    let mut after = None;
    while after.is_none() && begun.elapsed() < GUARD_LIMIT {
        sleep(Duration::from_millis(10)).await;
        after = guard_of(&worker).filter(|guard| Some(*guard) != before);
    }
    let broken = after
        .is_none()
        .then(|| format!("{} has had no guard for {GUARD_LIMIT:?}", worker.name));
    Outcome {
        worker: Some(number),
        broken,
        ..Outcome::default()
    }
}

/// Its worker goes on meanwhile, and what the guard was told last is long out of date.
pub(super) async fn guard_frozen(stage: &Stage, random: &mut Random) -> Outcome {
    let number = random.index(stage.workers.len());
    let worker = stage.workers[number].lock().await;
    if let Some(guard) = guard_of(&worker) {
        let pid = Pid::from_raw(guard.cast_signed()).expect("a pid");
        let _frozen = Frozen::new(pid);
        sleep(
            random.millis(500, 2_000)
                + if random.one_in(2) {
                    LEASE
                } else {
                    Duration::ZERO
                },
        )
        .await;
    }
    Outcome {
        worker: Some(number),
        ..Outcome::default()
    }
}

/// A worker is killed; the next one dies at a point of its code, and the one after that goes on.
pub(super) async fn crash_point(stage: &Stage, random: &mut Random) -> Outcome {
    let number = random.index(stage.workers.len());
    let mut worker = stage.workers[number].lock().await;
    let point = CRASH_POINTS[random.index(CRASH_POINTS.len())];
    let trap = format!("{point}:{}", random.between(1, PASSAGES));
    stage.lose(&worker);
    worker.daemon.process.kill();
    worker.launch_again(&stage.scratch, &[("JOBD_CRASH_AT", &trap)]);
    stage.lose(&worker);
    let begun = Instant::now();
    let mut crashed = false;
    while !crashed && begun.elapsed() < POINT_LIMIT {
        sleep(Duration::from_millis(10)).await;
        crashed = worker.daemon.process.ended().is_some();
    }
    if !crashed && point.starts_with("release") {
        worker.daemon.process.signal(Signal::TERM);
        sleep(random.millis(100, 1_000)).await;
    }
    worker.daemon.process.kill();
    let held = claims_of(stage, &worker).await;
    worker.start_again(&stage.scratch).await;
    let rescue = rescued(stage, held).await;
    Outcome {
        worker: Some(number),
        provoked: Some((u64::from(crashed), "at the point")),
        rescue: rescue.as_ref().ok().copied(),
        broken: rescue.err(),
        ..Outcome::default()
    }
}

fn guard_of(worker: &Worker) -> Option<u32> {
    let jobd = worker.daemon.process.id();
    let is_guard = |line: &[u8]| line.split(|byte| *byte == 0).any(|word| word == b"--guard");
    let mut children = processes().filter(|pid| parent(*pid) == Some(jobd));
    children.find(|pid| is_guard(&command_line(*pid)))
}
