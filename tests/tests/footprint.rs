//! How small and how quick a worker is, measured on the release build.

use std::time::{Duration, Instant};

use jobd_tests::programs::{Daemon, release_path};
use jobd_tests::{Ini, Scratch, Server};
use serde_json::json;

const MOST_RSS_KIB: u64 = 15 << 10;
const LONGEST_START: Duration = Duration::from_millis(100);
const STARTS: usize = 10;

#[tokio::test]
async fn an_idle_worker_is_small_and_starts_quickly_measured() {
    let scratch = Scratch::new();
    let database = Server::shared().await.database().await;
    database.minimal_table().await;
    let path = release_path("jobd");
    let mut starts = Vec::new();
    let mut sizes = Vec::new();
    for _ in 0..STARTS {
        let ini = Ini::worker(&database)
            .set("log_level_console", "warn")
            .target("a", 4);
        let mut jobd = Daemon::launch(&path, &scratch, &ini);
        starts.push(listening_after(&mut jobd).await);
        // It has worked, so that what is allocated once is counted: a job, a poll, a status.
        let id = database.insert_one("a", "waiting").await;
        jobd.ask("poll", json!({})).await;
        database.done(id).await;
        jobd.ask("status", json!({})).await;
        sizes.push(jobd.process.rss_kib());
        assert!(jobd.stop().await.success());
    }
    println!("listening after {starts:?}; {sizes:?} KiB when idle");
    let largest = *sizes.iter().max().expect("some");
    assert!(largest < MOST_RSS_KIB, "{sizes:?} KiB");
    // The middle one: a busy machine may delay some.
    starts.sort();
    assert!(starts[STARTS / 2] < LONGEST_START, "{starts:?}");
}

async fn listening_after(jobd: &mut Daemon) -> Duration {
    let started: Instant = jobd.process.started();
    while tokio::net::TcpStream::connect(jobd.addr).await.is_err() {
        assert!(jobd.process.ended().is_none(), "{}", jobd.process.log());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    started.elapsed()
}
