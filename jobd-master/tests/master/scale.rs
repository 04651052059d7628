//! How quick and how large: figures are printed, the limits asserted are far above them.

use std::net::TcpStream;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::future::join_all;
use jobd_proto::Connection;
use jobd_proto::daemon::limits;
use jobd_proto::worker::WorkerRequest;
use jobd_tests::process::Process;
use jobd_tests::wait::PATIENCE;
use jobd_tests::{Ini, Scratch, until};
use serde_json::json;

use crate::played::{Client, Master, program, status_of_a_worker};

/// Registers so many workers for the target `a`; each counts the polls that it gets.
async fn workers(master: &Master, count: usize, polls: &Arc<AtomicUsize>) -> Vec<Connection> {
    let one = async |number: usize| {
        let worker = master.worker(&format!("w{number}"), &["a"]).await;
        let polls = Arc::clone(polls);
        worker.serve(move |request| match request {
            WorkerRequest::Poll(_) => {
                polls.fetch_add(1, Ordering::Relaxed);
                "ok".into()
            }
            WorkerRequest::Status => status_of_a_worker(),
            _ => "ok".into(),
        })
    };
    let mut all = Vec::new();
    for batch in (0..count).collect::<Vec<_>>().chunks(100) {
        all.extend(join_all(batch.iter().map(|number| one(*number))).await);
    }
    all
}

/// Pokes and waits until everybody was polled.
async fn time_of_fan_out(client: &Client, polls: &AtomicUsize, count: usize) -> Duration {
    polls.store(0, Ordering::Relaxed);
    let begun = Instant::now();
    client.poke(&["a"]).await;
    while polls.load(Ordering::Relaxed) < count {
        assert!(begun.elapsed() < PATIENCE, "{polls:?} of {count}");
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
    begun.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fan_out_to_thousands_of_workers_measured() {
    assert!(
        limits::raise_open_files() > 5_000,
        "raise the hard limit of open files"
    );
    let ini = Ini::listen()
        .set("poke_throttle_interval", "0")
        .set("log_level_console", "warn");
    let master = Master::with(&ini).await;
    let client = master.client().await;
    println!("idle: {} KiB", master.daemon.process.rss_kib());
    let polls = Arc::new(AtomicUsize::new(0));
    let mut all = Vec::new();
    for count in [500, 2_000] {
        let begun = Instant::now();
        all.extend(workers(&master, count - all.len(), &polls).await);
        println!(
            "{count} workers registered, the last after {:?}",
            begun.elapsed()
        );
        let mut times = Vec::new();
        for _ in 0..10 {
            times.push(time_of_fan_out(&client, &polls, count).await);
        }
        times.sort_unstable();
        let begun = Instant::now();
        let status = client.ask("status", json!({"poll_workers": true})).await;
        let asked = begun.elapsed();
        assert_eq!(status["workers"].as_array().unwrap().len(), count);
        let kib = master.daemon.process.rss_kib();
        println!(
            "{count} workers: poke to last poll {:?}, worst {:?}; status {asked:?}; {kib} KiB",
            times[5], times[9]
        );
        assert!(times[9] < Duration::from_secs(5) && asked < Duration::from_secs(5));
        assert!(kib < 200 * 1024, "{kib} KiB");
    }
    assert!(all.iter().all(|worker| !worker.is_closed()));
}

#[tokio::test]
async fn latency_of_a_poke_measured() {
    let ini = Ini::listen()
        .set("poke_throttle_interval", "0")
        .set("log_level_console", "warn");
    let master = Master::with(&ini).await;
    let mut worker = master.worker("w", &["a"]).await;
    let client = master.client().await;
    let mut times = Vec::new();
    for _ in 0..500 {
        let begun = Instant::now();
        client.poke(&["a"]).await;
        let (_, incoming) = worker.next().await;
        times.push(begun.elapsed());
        incoming.respond(Ok("ok".into()));
    }
    times.sort_unstable();
    println!(
        "poke to poll: median {:?}, p99 {:?}",
        times[250], times[495]
    );
    assert!(times[250] < Duration::from_millis(50));
    let begun = Instant::now();
    let pokes = (0..20_000).map(|_| client.poke(&["nobody"]));
    join_all(pokes).await;
    println!("20,000 pipelined pokes: {:?}", begun.elapsed());
}

#[tokio::test]
async fn start_to_listening_measured() {
    let mut times = Vec::new();
    for _ in 0..5 {
        let scratch = Scratch::new();
        let ini = Ini::listen();
        let config = scratch.write("master.conf", ini.text());
        let mut command = Command::new(program());
        command.arg("--config").arg(config);
        let process = Process::start(&command, &scratch.join("log"));
        while TcpStream::connect(("127.0.0.1", ini.port())).is_err() {
            assert!(process.started().elapsed() < PATIENCE);
            std::thread::sleep(Duration::from_millis(1));
        }
        times.push(process.started().elapsed());
    }
    times.sort_unstable();
    println!("start to listening: {times:?}");
    assert!(times[0] < Duration::from_millis(100), "{times:?}");
}

/// An idle worker's share of what the master remembers goes when the worker goes.
#[tokio::test]
async fn connections_that_come_and_go_leave_nothing_behind_measured() {
    let master = Master::with(&Ini::listen().set("log_level_console", "warn")).await;
    let round = async || {
        for number in 0..200 {
            let worker = master.worker(&format!("w{number}"), &["a", "b"]).await;
            worker.connection.close();
        }
        until("all to be gone", PATIENCE, async || {
            master
                .client()
                .await
                .listed()
                .await
                .is_empty()
                .then_some(())
        })
        .await;
    };
    round().await;
    let before = master.daemon.process.rss_kib();
    for _ in 0..5 {
        round().await;
    }
    let after = master.daemon.process.rss_kib();
    println!("{before} KiB before, {after} KiB after 1,000 workers came and went");
    assert!(after < before + 4 * 1024, "{before} {after}");
}
