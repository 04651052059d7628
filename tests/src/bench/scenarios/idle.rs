//! What a worker costs when there is nothing to do, and what a queued job costs.

use std::time::{Duration, Instant};

use serde_json::json;
use sqlx::mysql::MySqlConnection;
use tokio::time::sleep;

use super::targets;
use crate::bench::options::Options;
use crate::bench::results::{Results, Unit};
use crate::bench::stage::{SLOTS, Stage, TARGET, Table, fill, one};
use crate::bench::usage::{self, Threads};
use crate::programs::Daemon;
use crate::wait::PATIENCE;
use crate::{Database, Ini, Jobd, Master, until};

/// How long an idle worker is watched.
const WATCHED: (Duration, Duration) = (Duration::from_mins(1), Duration::from_secs(10));

/// Jobs that are queued.
const QUEUED: usize = 10_000;

/// Targets of the busier idle worker.
const TARGETS: u32 = 1_000;

/// Each is measured once: nothing here is about pace.
pub(super) async fn measure(options: &Options, results: &mut Results) {
    let stage = Stage::start().await;
    let master = Master::start(
        &stage.scratch,
        &Ini::listen().set("log_level_console", "warn"),
    )
    .await;
    let linked = |ini: Ini| {
        ini.unset("poll_interval")
            .set("master_host", "127.0.0.1")
            .set("master_port", master.addr.port())
    };
    let database = stage.table(Table::Full).await;
    let worker = stage
        .worker(&database, &linked(Stage::ini(&database, SLOTS)))
        .await;
    watch(options, results, "idle/worker", &worker).await;
    let guard: u64 = usage::children(worker.process.id())
        .iter()
        .map(|pid| usage::rss_kib(*pid))
        .sum();
    add_kib(results, "idle/guard-rss", guard);
    worker.stop().await;
    if !options.quick {
        let database = stage.table(Table::Full).await;
        let ini = linked(targets::ini(&database, TARGETS));
        let worker = stage.worker(&database, &ini).await;
        watch(options, results, "idle/1000-targets", &worker).await;
        worker.stop().await;
    }
    queue(&stage, results).await;
    results.ratio("idle/queue-full-rss", "idle/queue-empty-rss");
    master.stop().await;
}

/// Memory, CPU time and wake-ups of a worker that has worked and now waits.
async fn watch(options: &Options, results: &mut Results, what: &str, worker: &Daemon) {
    let pid = worker.process.id();
    let (before, begun) = (Threads::now(pid), Instant::now());
    sleep(options.size(WATCHED.0, WATCHED.1)).await;
    let seconds = begun.elapsed().as_secs_f64();
    let (cpu, wake_ups) = Threads::now(pid).since(&before);
    let cpu = cpu / seconds * 3_600.0;
    results.add(&format!("{what}-cpu"), Unit::CpuPerHour, cpu);
    results.add(
        &format!("{what}-wake-ups"),
        Unit::WakeUps,
        wake_ups / seconds,
    );
    add_kib(results, &format!("{what}-rss"), usage::rss_kib(pid));
}

/// Memory of jobs that wait in the worker: manual ones, as they are claimed together, behind one that does
/// not end.
async fn queue(stage: &Stage, results: &mut Results) {
    let database = stage.table(Table::Full).await;
    let mut connection = stage.connection(&database).await;
    let ini = Stage::ini(&database, 1)
        .set("launcher", "sleep 3600")
        .set("drain_timeout", 0)
        .set("kill_grace", 1);
    let worker = Jobd::ready(&stage.scratch, &ini).await;
    let pid = worker.process.id();
    let first = fill(&mut connection, 1, TARGET, "manual").await;
    let mut wire = worker.wire().await;
    send_manual(&mut wire, 1, first, 1).await;
    accepted(&database, &mut connection, 1).await;
    let empty = usage::rss_kib(pid);
    let first = fill(&mut connection, QUEUED, TARGET, "manual").await;
    send_manual(&mut wire, 2, first, QUEUED).await;
    accepted(&database, &mut connection, 1 + QUEUED).await;
    worker.ask("status", json!({})).await;
    let full = usage::rss_kib(pid);
    add_kib(results, "idle/queue-empty-rss", empty);
    add_kib(results, "idle/queue-full-rss", full);
    #[expect(clippy::cast_precision_loss, reason = "far less memory than 2^52")]
    let each = ((full.saturating_sub(empty)) * 1_024) as f64 / QUEUED as f64;
    results.add("idle/queued-job", Unit::Bytes, each);
    worker.stop().await;
}

/// Asks for jobs whose ids follow each other, and does not wait.
async fn send_manual(wire: &mut crate::Wire, no: u32, first: u64, count: usize) {
    let ids: Vec<u64> = (first..).take(count).collect();
    wire.say(&json!([0, {"no": no, "type": "run-manual", "data": {"ids": ids}}]).to_string())
        .await;
}

/// Waits until so many rows belong to the worker.
async fn accepted(database: &Database, connection: &mut MySqlConnection, count: usize) {
    let held = "SELECT COUNT(*) FROM jobs WHERE status IN ('accepted', 'running')";
    until(
        &format!("{count} jobs of {} to be claimed", database.name),
        PATIENCE,
        async || {
            (one(connection, held).await == i64::try_from(count).expect("a count")).then_some(())
        },
    )
    .await;
}

#[expect(clippy::cast_precision_loss, reason = "far less memory than 2^52 KiB")]
fn add_kib(results: &mut Results, what: &str, kib: u64) {
    results.add(what, Unit::Kib, kib as f64);
}
