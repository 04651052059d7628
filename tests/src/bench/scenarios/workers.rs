//! Whether workers that share a target get in each other's way.

use sqlx::Row as _;
use sqlx::mysql::MySqlConnection;

use crate::bench::options::Options;
use crate::bench::results::{Results, Unit};
use crate::bench::stage::{SLOTS, Stage, Table};

/// Workers on the target.
const WORKERS: (&[usize], &[usize]) = (&[1, 2, 4, 8, 16], &[1, 8]);

/// Jobs of a turn.
const JOBS: (usize, usize) = (6_000, 1_500);

pub(super) async fn measure(options: &Options, results: &mut Results) {
    let stage = Stage::start().await;
    let database = stage.table(Table::Full).await;
    let mut connection = stage.connection(&database).await;
    let numbers = options.size(WORKERS.0, WORKERS.1);
    let count = options.size(JOBS.0, JOBS.1);
    for _ in 0..options.turns() {
        for number in numbers {
            let mut workers = Vec::new();
            for which in 0..*number {
                let ini = Stage::ini(&database, SLOTS).set("name", format!("w{which}"));
                workers.push(stage.worker(&database, &ini).await);
            }
            let before = deadlocks(&mut connection).await;
            let all: Vec<_> = workers.iter().collect();
            let run = stage.work(&database, &all, count).await;
            let deadlocks = deadlocks(&mut connection).await - before;
            let complaints: usize = all
                .iter()
                .map(|worker| worker.process.log().lines().count())
                .sum();
            for worker in workers {
                worker.stop().await;
            }
            results.add(&name(*number), Unit::PerSecond, run.rate);
            results.add(&cpu(*number), Unit::Micros, run.total_us);
            results.add(
                &format!("{}-deadlocks", name(*number)),
                Unit::Count,
                deadlocks,
            );
            #[expect(clippy::cast_precision_loss, reason = "a few lines")]
            let complaints = complaints as f64;
            results.add(
                &format!("{}-log-lines", name(*number)),
                Unit::Count,
                complaints,
            );
        }
    }
    for number in &numbers[1..] {
        results.ratio(&name(*number), &name(1));
        results.ratio(&cpu(*number), &cpu(1));
    }
}

fn name(number: usize) -> String {
    format!("workers/{number}")
}

fn cpu(number: usize) -> String {
    format!("{}-total-cpu", name(number))
}

/// Deadlocks that the server has seen since its start. The two servers keep the number in two places.
async fn deadlocks(connection: &mut MySqlConnection) -> f64 {
    let status = "SHOW GLOBAL STATUS LIKE 'Innodb_deadlocks'";
    let metric = "SELECT NAME, CAST(COUNT AS CHAR) FROM information_schema.INNODB_METRICS WHERE NAME = 'lock_deadlocks'";
    for sql in [status, metric] {
        let row = sqlx::query(sql).fetch_optional(&mut *connection).await;
        if let Some(row) = row.expect("the number of deadlocks") {
            let number: String = row.get(1);
            return number.parse().expect("a number");
        }
    }
    panic!("the server does not count its deadlocks");
}
