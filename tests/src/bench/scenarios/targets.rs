//! One worker with a thousand targets, beside one with a single target of ten slots.

use serde_json::json;

use crate::bench::options::Options;
use crate::bench::results::{Results, Unit};
use crate::bench::stage::{SLOTS, Stage, TARGET, Table, all_done, fill};
use crate::{Database, Ini};

/// Targets of the worker, and jobs of a turn.
const TARGETS: (u32, u32) = (1_000, 200);
const JOBS: (usize, usize) = (5_000, 1_000);

pub(super) async fn measure(options: &Options, results: &mut Results) {
    let stage = Stage::start().await;
    let number = options.size(TARGETS.0, TARGETS.1);
    let count = options.size(JOBS.0, JOBS.1);
    let many = format!("targets/{number}");
    for _ in 0..options.turns() {
        let database = stage.table(Table::Minimal).await;
        let worker = stage.worker(&database, &Stage::ini(&database, SLOTS)).await;
        let run = stage.work(&database, &[&worker], count).await;
        worker.stop().await;
        results.add("targets/1", Unit::PerSecond, run.rate);
        let rate = spread(&stage, number, count).await;
        results.add(&many, Unit::PerSecond, rate);
    }
    results.ratio(&many, "targets/1");
}

/// A worker with so many targets of one slot each, beside the one that it is warmed up with.
pub(super) fn ini(database: &Database, number: u32) -> Ini {
    let ini = Stage::ini(database, SLOTS);
    (0..number).fold(ini, |ini, which| ini.target(&format!("t{which}"), 1))
}

/// Jobs a second that are spread over all targets.
async fn spread(stage: &Stage, number: u32, count: usize) -> f64 {
    let database = stage.table(Table::Minimal).await;
    let worker = stage.worker(&database, &ini(&database, number)).await;
    let mut connection = stage.connection(&database).await;
    fill(&mut connection, count, TARGET, "waiting").await;
    let moved = format!(
        "UPDATE jobs SET target = CONCAT('t', id % {number}) WHERE status = 'waiting' AND target = '{TARGET}'"
    );
    assert_eq!(database.run(&moved).await, count as u64, "every row moves");
    let begun = std::time::Instant::now();
    worker.ask("poll", json!({})).await;
    let names: Vec<String> = (0..number).map(|which| format!("'t{which}'")).collect();
    all_done(&mut connection, &names.join(", "), count).await;
    let seconds = begun.elapsed().as_secs_f64();
    let good =
        "SELECT COUNT(*) FROM jobs WHERE target LIKE 't%' AND status = 'done' AND result = 'ok'";
    let good = crate::bench::stage::one(&mut connection, good).await;
    assert_eq!(usize::try_from(good), Ok(count), "every job is done once");
    worker.stop().await;
    #[expect(clippy::cast_precision_loss, reason = "far fewer jobs than 2^52")]
    let rate = count as f64 / seconds;
    rate
}
