//! Faults that leave ends of jobs to the journal of a worker, or take that journal away.

use std::time::Duration;

use serde_json::json;
use sqlx::{AssertSqlSafe, Row as _};
use tokio::time::{Instant, sleep};

use super::daemons::{end_host, held_by};
use super::{Outcome, machine};
use crate::chaos::job::{HIDDEN, Plan, STUCK};
use crate::chaos::line::Mode;
use crate::chaos::options::Table;
use crate::chaos::random::Random;
use crate::chaos::stage::{LEASE, Stage, Worker};
use crate::witness::boot_ns;

/// An end is kept within this; on a machine that is not overloaded, within a tenth of it.
const KEPT_WITHIN_NS: u64 = 500_000_000;

/// How long a worker may take to say that it has kept every end.
const KEEPING_LIMIT: Duration = Duration::from_secs(1);

/// From the last renewal, a sixth of a lease ago at most when the line is cut, nobody else may touch what the
/// worker held for a lease. Later than this the journal's ends may come too late, and rightly.
const JUDGED: Duration = LEASE.saturating_sub(Duration::from_secs(2));

/// A worker is cut off from the database, jobs of it end, and then its power fails. Those ends are in its journal: its
/// next start writes them, and no job runs again for it.
pub(super) async fn power_lost(stage: &Stage, random: &mut Random) -> Outcome {
    let number = random.index(stage.workers.len());
    let mut worker = stage.workers[number].lock().await;
    let line = &stage.worker_lines[number];
    held_by(stage, &worker).await;
    let (cut, cut_ns) = (Instant::now(), boot_ns());
    line.set(if random.one_in(2) {
        Mode::Cut
    } else {
        Mode::Stalled
    });
    sleep(random.millis(500, 1_500)).await;
    let kept = kept(stage, &worker).await;
    let died_ns = boot_ns();
    let lives = if random.one_in(2) { 1 } else { 2 };
    for _ in 0..lives {
        stage.lose(&worker);
        end_host(&worker);
        worker.daemon.process.kill();
        worker.start_again(&stage.scratch).await;
    }
    line.set(Mode::Open);
    let mut unwritten = kept.clone();
    while !unwritten.is_empty() && cut.elapsed() < JUDGED {
        sleep(Duration::from_millis(20)).await;
        unwritten = standing(stage, &kept, "status <> 'done'").await;
    }
    let mut wrong = standing(stage, &kept, "status = 'done' AND stderr LIKE '%orphaned%'").await;
    if cut.elapsed() >= JUDGED {
        wrong.clear();
    }
    let judged_ns = cut_ns + u64::try_from(JUDGED.as_nanos()).expect("seconds");
    let again = stage.witness.events().into_iter().filter(|event| {
        let soon = (died_ns..judged_ns).contains(&event.at_ns);
        // What failed may run again for that, and an end that is kept says so too.
        let before = Plan::of(event.id, &event.target).code_of(event.attempt.saturating_sub(1));
        let retried = stage.table == Table::Full && (before != 0 || event.target == STUCK);
        event.begins && soon && kept.contains(&event.id) && event.target != HIDDEN && !retried
    });
    wrong.extend(again.map(|event| event.id));
    Outcome {
        worker: Some(number),
        provoked: Some((kept.len() as u64, "ends kept")),
        broken: (!wrong.is_empty()).then(|| {
            format!(
                "{} had kept the ends of {wrong:?}, and their jobs were given up or run again",
                worker.name
            )
        }),
        ..Outcome::default()
    }
}

/// The disk under the first worker's log and `state_dir` is full, and the database is out of its reach: what ends
/// waits in memory.
pub(super) async fn disk_full(stage: &Stage, random: &mut Random) -> Outcome {
    let _worker = stage.workers[0].lock().await;
    let disk = stage.small_disk.as_ref().expect("only where there is one");
    let full = machine::fill(disk);
    stage.worker_lines[0].set(Mode::Cut);
    sleep(random.millis(500, 2_500)).await;
    // It comes back before there is room again, or after it.
    if random.one_in(2) {
        stage.worker_lines[0].set(Mode::Open);
        sleep(random.millis(200, 1_000)).await;
    }
    std::fs::remove_file(&full).expect("make room again");
    stage.worker_lines[0].set(Mode::Open);
    Outcome {
        worker: Some(0),
        ..Outcome::default()
    }
}

/// Rows whose runs by this worker ended a while ago and that do not say so, once the worker has kept as many ends; none,
/// where it does not come to that. It may have kept others beside: of jobs that were stopped, or whose rows say so already.
async fn kept(stage: &Stage, worker: &Worker) -> Vec<u64> {
    let begun = Instant::now();
    while begun.elapsed() < KEEPING_LIMIT {
        let process = worker.daemon.process.id();
        let events = stage.witness.events().into_iter();
        let settled_ns = boot_ns().saturating_sub(KEPT_WITHIN_NS);
        let of_worker = events
            .filter(|event| !event.begins && event.parent == process && event.at_ns <= settled_ns);
        let ended: Vec<u64> = of_worker.map(|event| event.id).collect();
        let unwritten = standing(stage, &ended, "status = 'running'").await;
        let status = worker.daemon.ask("status", json!({})).await;
        let kept = status["journaledEnds"].as_u64().unwrap_or(0);
        if !unwritten.is_empty() && kept >= unwritten.len() as u64 {
            return unwritten;
        }
        sleep(Duration::from_millis(20)).await;
    }
    Vec::new()
}

/// Those of `ids` whose rows are so; with the database away, none.
async fn standing(stage: &Stage, ids: &[u64], condition: &str) -> Vec<u64> {
    if ids.is_empty() {
        return Vec::new();
    }
    let list: Vec<String> = ids.iter().map(u64::to_string).collect();
    let sql = format!(
        "SELECT CAST(id AS UNSIGNED) AS id FROM jobs WHERE {condition} AND id IN ({})",
        list.join(", ")
    );
    let rows = sqlx::query(AssertSqlSafe(sql)).persistent(false);
    let rows = rows.fetch_all(&stage.database.pool).await;
    let rows = rows.unwrap_or_default();
    rows.iter().map(|row| row.get("id")).collect()
}
