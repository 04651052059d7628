//! The same jobs by other programs that start a process per job.

use crate::bench::options::Options;
use crate::bench::results::{Results, Unit};
use crate::bench::stage::{SLOTS, Stage, Table};
use crate::bench::yardsticks::{self, installed};

/// Jobs of a turn.
const JOBS: (usize, usize) = (6_000, 1_500);

/// GNU parallel takes more than ten times as long for each.
const PARALLEL_JOBS: (usize, usize) = (400, 100);

pub(super) async fn measure(options: &Options, results: &mut Results) {
    let count = options.size(JOBS.0, JOBS.1);
    let stage = Stage::start().await;
    let gearman = installed("gearmand") && installed("gearman");
    let parallel = installed("parallel");
    for _ in 0..options.turns() {
        let database = stage.table(Table::Minimal).await;
        let worker = stage.worker(&database, &Stage::ini(&database, SLOTS)).await;
        let run = stage.work(&database, &[&worker], count).await;
        worker.stop().await;
        results.add("alternatives/jobd", Unit::PerSecond, run.rate);
        results.add(
            "alternatives/xargs",
            Unit::PerSecond,
            yardsticks::xargs(count, SLOTS).await,
        );
        if gearman {
            let rate = yardsticks::gearman(&stage.scratch, count, SLOTS).await;
            results.add("alternatives/gearman", Unit::PerSecond, rate);
        }
        if parallel {
            let count = options.size(PARALLEL_JOBS.0, PARALLEL_JOBS.1);
            let rate = yardsticks::parallel(&stage, count, SLOTS).await;
            results.add("alternatives/parallel-sql", Unit::PerSecond, rate);
        }
    }
    for other in ["xargs", "gearman", "parallel-sql"] {
        results.ratio("alternatives/jobd", &format!("alternatives/{other}"));
    }
    if !gearman {
        results.leave_out("Gearman, as gearman-job-server and gearman-tools are not installed");
    }
    if !parallel {
        results.leave_out("GNU parallel, as parallel and libdbd-mysql-perl are not installed");
    }
}
