//! One master with thousands of registered workers, and with thousands of clients that poke.

use std::time::Instant;

use serde_json::json;

use crate::bench::fleet::{self, Bare, Fleet};
use crate::bench::options::Options;
use crate::bench::results::{Results, Unit};
use crate::bench::stage::{TARGET, quantile};
use crate::bench::usage;
use crate::programs::Daemon;
use crate::{Ini, Master, Scratch};

const WORKERS: (usize, usize) = (2_000, 200);
const CLIENTS: (usize, usize) = (5_000, 500);

/// Pokes of a turn; their median counts.
const POKES: usize = 9;

/// Time of a fan-out and of a status, and the master's memory.
pub(super) async fn measure_workers(options: &Options, results: &mut Results) {
    let count = options.size(WORKERS.0, WORKERS.1);
    let scratch = Scratch::new();
    for _ in 0..options.turns() {
        let bare = Bare::start().await;
        let mut fleet = Fleet::register(bare.addr, count).await;
        let mut times = Vec::new();
        for _ in 0..POKES {
            times.push(
                fleet
                    .fan_out(async || bare.poll_all().await)
                    .await
                    .as_secs_f64(),
            );
        }
        results.add(
            "hosts/bare-fan-out",
            Unit::Millis,
            quantile(&times, 0.5) * 1e3,
        );
        drop(fleet);
        bare.stop().await;

        let master = master(&scratch).await;
        let empty = usage::rss_kib(master.process.id());
        let mut fleet = Fleet::register(master.addr, count).await;
        let mut client = master.wire().await;
        let mut times = Vec::new();
        for _ in 0..POKES {
            let poke = async || drop(client.ask("poke", json!({"targets": [TARGET]})).await);
            times.push(fleet.fan_out(poke).await.as_secs_f64());
        }
        results.add("hosts/fan-out", Unit::Millis, quantile(&times, 0.5) * 1e3);
        results.add(
            "hosts/fan-out-worst",
            Unit::Millis,
            quantile(&times, 1.0) * 1e3,
        );
        let begun = Instant::now();
        let status = client.ask("status", json!({"poll_workers": true})).await;
        results.add(
            "hosts/status",
            Unit::Millis,
            begun.elapsed().as_secs_f64() * 1e3,
        );
        assert_eq!(status["workers"].as_array().map(Vec::len), Some(count));
        let full = usage::rss_kib(master.process.id());
        add_memory(results, "hosts/master", full);
        add_memory(results, "hosts/master-without-workers", empty);
        drop(fleet);
        master.stop().await;
    }
    results.ratio("hosts/fan-out", "hosts/bare-fan-out");
}

/// Time of one poke by each of so many clients, all at once.
pub(super) async fn measure_clients(options: &Options, results: &mut Results) {
    let count = options.size(CLIENTS.0, CLIENTS.1);
    let scratch = Scratch::new();
    for _ in 0..options.turns() {
        let bare = Bare::start().await;
        let mut clients = fleet::clients(bare.addr, count).await;
        fleet::poke(&mut clients).await;
        let (_, all) = fleet::poke(&mut clients).await;
        results.add("clients/bare", Unit::Millis, all.as_secs_f64() * 1e3);
        drop(clients);
        bare.stop().await;

        let master = master(&scratch).await;
        let mut clients = fleet::clients(master.addr, count).await;
        fleet::poke(&mut clients).await;
        let (waits, all) = fleet::poke(&mut clients).await;
        results.add("clients/poke", Unit::Millis, all.as_secs_f64() * 1e3);
        results.add(
            "clients/poke-p50",
            Unit::Millis,
            quantile(&waits, 0.5) * 1e3,
        );
        add_memory(
            results,
            "clients/master",
            usage::rss_kib(master.process.id()),
        );
        drop(clients);
        master.stop().await;
    }
    results.ratio("clients/poke", "clients/bare");
}

async fn master(scratch: &Scratch) -> Daemon {
    let ini = Ini::listen()
        .set("log_level_console", "warn")
        .set("poke_throttle_interval", 0)
        .set("max_connections", 8_000);
    Master::start(scratch, &ini).await
}

#[expect(clippy::cast_precision_loss, reason = "far less memory than 2^52 KiB")]
fn add_memory(results: &mut Results, what: &str, kib: u64) {
    results.add(&format!("{what}-rss"), Unit::Kib, kib as f64);
}
