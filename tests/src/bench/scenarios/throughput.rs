//! How many jobs a second one worker runs, and what a job costs.

use crate::bench::options::Options;
use crate::bench::results::{Results, Unit};
use crate::bench::stage::{Run, SLOTS, Stage, Table};
use crate::bench::yardsticks;

/// Jobs of a turn.
const JOBS: (usize, usize) = (10_000, 1_500);

/// Rows that are updated without processes: their claims walk over all that were claimed before.
const ROWS: usize = 6_000;

pub(super) async fn measure(options: &Options, results: &mut Results) {
    let count = options.size(JOBS.0, JOBS.1);
    let stage = Stage::start().await;
    for _ in 0..options.turns() {
        let (ceiling, cpu) = yardsticks::spawn(count, SLOTS).await;
        results.add("throughput/spawn", Unit::PerSecond, ceiling);
        results.add("throughput/spawn-total-cpu", Unit::Micros, cpu);
        for table in [Table::Minimal, Table::Full] {
            let database = stage.table(table).await;
            let worker = stage.worker(&database, &Stage::ini(&database, SLOTS)).await;
            let run = stage.work(&database, &[&worker], count).await;
            worker.stop().await;
            add(results, table.name(), &run);
        }
        let raw = yardsticks::raw_updates(&stage, count.min(ROWS)).await;
        results.add("throughput/raw-updates", Unit::PerSecond, raw.rate);
        results.add(
            "throughput/raw-updates-server-cpu",
            Unit::Micros,
            raw.server_us,
        );
    }
    results.ratio("throughput/jobd-minimal", "throughput/spawn");
    results.ratio("throughput/jobd-full", "throughput/spawn");
    results.ratio("throughput/jobd-full", "throughput/jobd-minimal");
    for table in ["minimal", "full"] {
        let cpu = format!("throughput/jobd-{table}-total-cpu");
        results.ratio(&cpu, "throughput/spawn-total-cpu");
    }
    results.ratio("throughput/jobd-minimal", "throughput/raw-updates");
    results.ratio(
        "throughput/jobd-minimal-server-cpu",
        "throughput/raw-updates-server-cpu",
    );
}

fn add(results: &mut Results, table: &str, run: &Run) {
    let mut add = |what: &str, unit, value| {
        results.add(&format!("throughput/jobd-{table}{what}"), unit, value);
    };
    add("", Unit::PerSecond, run.rate);
    add("-worker-cpu", Unit::Micros, run.worker_us);
    add("-server-cpu", Unit::Micros, run.server_us);
    add("-total-cpu", Unit::Micros, run.total_us);
    add("-machine-busy", Unit::Percent, run.busy);
}
