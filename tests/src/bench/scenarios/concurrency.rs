//! Jobs a second over the number of slots.

use crate::bench::options::Options;
use crate::bench::results::{Curve, Results, Series, Unit};
use crate::bench::stage::{Stage, Table};
use crate::bench::yardsticks;

const SLOTS: [u32; 6] = [1, 2, 5, 10, 20, 50];

/// Jobs of a turn for each slot, and the most in all: few slots are slow.
const JOBS: (u32, u32) = (600, 150);
const MOST_JOBS: (u32, u32) = (4_000, 1_000);

pub(super) async fn measure(options: &Options, results: &mut Results) {
    let stage = Stage::start().await;
    let database = stage.table(Table::Minimal).await;
    for _ in 0..options.turns() {
        for slots in SLOTS {
            let most = options.size(MOST_JOBS.0, MOST_JOBS.1);
            let count = (slots * options.size(JOBS.0, JOBS.1)).min(most) as usize;
            let (ceiling, _) = yardsticks::spawn(count, slots).await;
            results.add(&spawn(slots), Unit::PerSecond, ceiling);
            let worker = stage.worker(&database, &Stage::ini(&database, slots)).await;
            let run = stage.work(&database, &[&worker], count).await;
            worker.stop().await;
            results.add(&jobd(slots), Unit::PerSecond, run.rate);
        }
    }
    for slots in SLOTS {
        results.ratio(&jobd(slots), &spawn(slots));
    }
    let series = |name: &str, figure: fn(u32) -> String| Series {
        name: name.to_owned(),
        points: SLOTS.map(|slots| (slots.into(), figure(slots))).to_vec(),
    };
    results.curves.push(Curve {
        name: "throughput-over-concurrency",
        title: "/bin/true a second over slots",
        x: "processes at a time",
        series: vec![series("spawn ceiling", spawn), series("jobd", jobd)],
    });
}

fn spawn(slots: u32) -> String {
    format!("concurrency/spawn-{slots}")
}

fn jobd(slots: u32) -> String {
    format!("concurrency/jobd-{slots}")
}
