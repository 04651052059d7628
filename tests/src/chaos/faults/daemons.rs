//! Faults of the daemons and of the links between them.

use std::fs;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;
use sqlx::mysql::MySqlRow;
use sqlx::{AssertSqlSafe, Row as _};
use tokio::time::{Instant, sleep};

use super::{Outcome, outage};
use crate::Master;
use crate::chaos::footprint::{parent, processes};
use crate::chaos::job::{PATTERN, TARGETS};
use crate::chaos::line::Mode;
use crate::chaos::load::request;
use crate::chaos::options::Table;
use crate::chaos::random::Random;
use crate::chaos::stage::{HASTY, HOST_VARIABLE, LEASE, Stage, Worker, signal};

/// The longest job takes 2.5 s, the drain itself may take 60: more is a hang.
const DRAIN_LIMIT: Duration = Duration::from_secs(40);

/// A worker is hit when it holds so many jobs, or after this time.
const MUCH: usize = 3;
const BUSY_LIMIT: Duration = Duration::from_secs(3);

/// What was lost with a host is somebody else's within a lease and this.
const RESCUE_LIMIT: Duration = Duration::from_secs(10);

pub(super) async fn master_killed(stage: &Stage, random: &mut Random) -> Outcome {
    let mut master = stage.master.lock().await;
    master.process.kill();
    sleep(random.millis(0, 2_000)).await;
    *master = Master::start(&stage.scratch, &stage.master_ini).await;
    Outcome::default()
}

pub(super) async fn master_frozen(stage: &Stage, random: &mut Random) -> Outcome {
    let mut master = stage.master.lock().await;
    master.process.signal(Signal::STOP);
    // Pings come every second here: three of them are missed in the longer cases.
    sleep(random.millis(500, 5_000)).await;
    master.process.signal(Signal::CONT);
    Outcome::default()
}

pub(super) async fn links(stage: &Stage, random: &mut Random, mode: Mode) -> Outcome {
    stage.master_line.set(mode);
    sleep(random.millis(300, 5_000)).await;
    stage.master_line.set(Mode::Open);
    Outcome::default()
}

pub(super) async fn worker_drained(stage: &Stage, random: &mut Random) -> Outcome {
    worker_stopped(stage, random, None).await
}

/// Somebody is tired of waiting for its jobs.
pub(super) async fn worker_hurried(stage: &Stage, random: &mut Random) -> Outcome {
    let after = random.millis(0, 1_500);
    worker_stopped(stage, random, Some(after)).await
}

/// Asks a worker to end, and once more after a while where that is said, and starts it again.
async fn worker_stopped(stage: &Stage, random: &mut Random, again: Option<Duration>) -> Outcome {
    let number = random.index(stage.workers.len());
    let mut worker = stage.workers[number].lock().await;
    if again.is_some() || number == HASTY && stage.table == Table::Full {
        stage.lose(&worker);
    }
    worker.daemon.process.signal(Signal::TERM);
    if let Some(after) = again {
        sleep(after).await;
        worker.daemon.process.signal(Signal::TERM);
    }
    let begun = Instant::now();
    let mut ended = None;
    while ended.is_none() && begun.elapsed() < DRAIN_LIMIT {
        sleep(Duration::from_millis(10)).await;
        ended = worker.daemon.process.ended();
    }
    let broken = match ended {
        Some(status) if status.success() => None,
        Some(status) => Some(format!(
            "{} was asked to end and ended with {status}",
            worker.name
        )),
        None => {
            worker.daemon.process.kill();
            Some(format!(
                "{} did not end within {DRAIN_LIMIT:?}",
                worker.name
            ))
        }
    };
    let left = claims_of(stage, &worker).await;
    let left = (!left.is_empty()).then(|| format!("{} ended and left {left:?}", worker.name));
    worker.start_again(&stage.scratch).await;
    Outcome {
        worker: Some(number),
        broken,
        broken_if_alone: left,
        ..Outcome::default()
    }
}

/// Its config says something else for a while, and it is told so.
pub(super) async fn worker_reloaded(stage: &Stage, random: &mut Random) -> Outcome {
    let number = random.index(stage.workers.len());
    let mut worker = stage.workers[number].lock().await;
    let usual = worker.ini.text();
    let (name, slots) = TARGETS[0];
    let other = usual
        .replace(&format!("\n{name} = {slots}\n"), &format!("\n{name} = 1\n"))
        .replace("\npoll_interval = 1\n", "\npoll_interval = 2\n");
    for text in [other, usual] {
        fs::write(&worker.daemon.config, text).expect("write a config");
        worker.daemon.process.signal(Signal::HUP);
        sleep(random.millis(300, 2_000)).await;
    }
    Outcome {
        worker: Some(number),
        ..Outcome::default()
    }
}

/// Somebody has it start nothing more of some targets, and then go on.
pub(super) async fn worker_paused(stage: &Stage, random: &mut Random) -> Outcome {
    let number = random.index(stage.workers.len());
    let worker = stage.workers[number].lock().await;
    let targets = json!({"targets": [TARGETS[0].0, PATTERN.0]});
    request(worker.addr, "pause", targets.clone()).await;
    sleep(random.millis(300, 3_000)).await;
    let answer = request(worker.addr, "continue", targets).await;
    Outcome {
        worker: Some(number),
        broken: answer
            .is_none_or(|answer| !answer["error"].is_null())
            .then(|| format!("{} was told to go on and did not answer", worker.name)),
        ..Outcome::default()
    }
}

/// A client takes slots from a target, and gives them back.
pub(super) async fn worker_narrowed(stage: &Stage, random: &mut Random) -> Outcome {
    let number = random.index(stage.workers.len());
    let worker = stage.workers[number].lock().await;
    let (name, slots) = TARGETS[0];
    let mut broken = None;
    for slots in [random.between(1, 3), slots.into()] {
        let data = json!({"target": name, "concurrency": slots});
        let answer = request(worker.addr, "set-target-concurrency", data).await;
        if answer.is_none_or(|answer| answer["data"] != "ok") {
            broken = Some(format!(
                "{} was told its slots and did not answer",
                worker.name
            ));
        }
        sleep(random.millis(300, 2_000)).await;
    }
    Outcome {
        worker: Some(number),
        broken,
        ..Outcome::default()
    }
}

pub(super) async fn worker_killed(stage: &Stage, random: &mut Random) -> Outcome {
    let number = random.index(stage.workers.len());
    let mut worker = stage.workers[number].lock().await;
    let held = held_by(stage, &worker).await;
    stage.lose(&worker);
    worker.daemon.process.kill();
    sleep(random.millis(0, 3_000)).await;
    worker.start_again(&stage.scratch).await;
    let rescue = rescued(stage, held).await;
    Outcome {
        worker: Some(number),
        rescue: rescue.as_ref().ok().copied(),
        broken: rescue.err(),
        ..Outcome::default()
    }
}

/// Its line is closed, or open with nothing coming through: then its statements arrive late.
pub(super) async fn worker_cut_off(stage: &Stage, random: &mut Random) -> Outcome {
    let number = random.index(stage.workers.len());
    let worker = stage.workers[number].lock().await;
    let (line, time) = (&stage.worker_lines[number], outage(stage, random));
    if time >= LEASE && stage.table == Table::Full {
        stage.lose_for(&worker, time);
    }
    line.set(if random.one_in(2) {
        Mode::Cut
    } else {
        Mode::Stalled
    });
    sleep(time).await;
    line.set(Mode::Open);
    Outcome {
        worker: Some(number),
        ..Outcome::default()
    }
}

pub(super) async fn worker_frozen(stage: &Stage, random: &mut Random) -> Outcome {
    let number = random.index(stage.workers.len());
    let mut worker = stage.workers[number].lock().await;
    worker.daemon.process.signal(Signal::STOP);
    if stage.hold.is_none() && random.one_in(3) {
        sleep(LEASE / 3).await;
    } else {
        let beyond = LEASE + random.millis(500, 4_000);
        let time = stage.hold.unwrap_or(beyond);
        // Without leases nobody takes anything from it.
        if stage.table == Table::Full {
            stage.lose_for(&worker, time);
        }
        sleep(time).await;
    }
    worker.daemon.process.signal(Signal::CONT);
    Outcome {
        worker: Some(number),
        ..Outcome::default()
    }
}

pub(super) async fn power_lost(stage: &Stage, random: &mut Random) -> Outcome {
    let number = random.index(stage.workers.len());
    let mut worker = stage.workers[number].lock().await;
    let held = held_by(stage, &worker).await;
    stage.lose(&worker);
    end_host(&worker);
    // Half the hosts come back at once, the others when everything has been rescued, where others can do that.
    let at_once = random.one_in(2) || stage.table == Table::Minimal;
    let rescue = if at_once {
        worker.daemon.process.kill();
        worker.start_again(&stage.scratch).await;
        rescued(stage, held).await
    } else {
        let rescue = rescued(stage, held).await;
        worker.daemon.process.kill();
        worker.start_again(&stage.scratch).await;
        rescue
    };
    Outcome {
        worker: Some(number),
        rescue: rescue.as_ref().ok().copied(),
        broken: rescue.err(),
        ..Outcome::default()
    }
}

/// Stops, then kills everything that the worker started, itself included: nothing on that host does
/// anything after the first of them is gone.
pub(super) fn end_host(worker: &Worker) {
    let mark = format!("{HOST_VARIABLE}={}", worker.host());
    let is_marked = |pid: u32| {
        let variables = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        variables
            .split(|byte| *byte == 0)
            .any(|variable| variable == mark.as_bytes())
    };
    let mut all: Vec<u32> = Vec::new();
    // Until nobody is new: a process may have started another one while we looked.
    loop {
        // A guard has an environment of its own.
        let is_child = |pid: u32| parent(pid).is_some_and(|parent| all.contains(&parent));
        let new: Vec<u32> = processes()
            .filter(|pid| !all.contains(pid) && (is_marked(*pid) || is_child(*pid)))
            .collect();
        if new.is_empty() {
            break;
        }
        for pid in &new {
            signal(*pid, Signal::STOP);
        }
        all.extend(new);
    }
    for pid in all {
        signal(pid, Signal::KILL);
    }
}

/// Claims that a worker holds: job and token. Waits a little until it holds some, as there is
/// little to lose otherwise.
pub(super) async fn held_by(stage: &Stage, worker: &Worker) -> Vec<(u64, String)> {
    let begun = Instant::now();
    loop {
        let held = claims_of(stage, worker).await;
        if held.len() >= MUCH || begun.elapsed() > BUSY_LIMIT {
            return held;
        }
        sleep(Duration::from_millis(1)).await;
    }
}

/// Claims that stand in the table for a worker of this name.
pub(super) async fn claims_of(stage: &Stage, worker: &Worker) -> Vec<(u64, String)> {
    let token = stage.token_column();
    let sql = format!(
        "SELECT CAST(id AS UNSIGNED) AS id, CAST({token} AS CHAR) AS token FROM jobs \
         WHERE status IN ('accepted', 'running') AND {token} LIKE '{}@%'",
        worker.name
    );
    let rows = sqlx::query(AssertSqlSafe(sql));
    let rows = rows.fetch_all(&stage.database.pool).await;
    let claim = |row: &MySqlRow| (row.get("id"), row.get("token"));
    // With the database away there is nothing to compare with.
    rows.unwrap_or_default().iter().map(claim).collect()
}

/// Waits until none of these claims stands in an open row; says how long that took.
pub(super) async fn rescued(stage: &Stage, held: Vec<(u64, String)>) -> Result<Duration, String> {
    let begun = Instant::now();
    let mut left = held;
    while !left.is_empty() {
        let ids: Vec<String> = left.iter().map(|(id, _)| id.to_string()).collect();
        let sql = format!(
            "SELECT CAST(id AS UNSIGNED) AS id, CAST({} AS CHAR) AS token FROM jobs \
             WHERE status IN ('accepted', 'running') AND id IN ({})",
            stage.token_column(),
            ids.join(", ")
        );
        let rows = sqlx::query(AssertSqlSafe(sql)).persistent(false);
        if let Ok(rows) = rows.fetch_all(&stage.database.pool).await {
            left.retain(|(id, token)| {
                rows.iter().any(|row| {
                    row.get::<u64, _>("id") == *id
                        && row.get::<Option<String>, _>("token").as_ref() == Some(token)
                })
            });
        }
        if begun.elapsed() > LEASE + RESCUE_LIMIT {
            return Err(format!(
                "after {:?} these claims still stand: {left:?}",
                begun.elapsed()
            ));
        }
        sleep(Duration::from_millis(50)).await;
    }
    Ok(begun.elapsed())
}
