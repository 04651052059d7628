//! Bad input to both daemons: a clear error or a closed connection, memory flat, and everyone else
//! served all the while.

use std::time::{Duration, Instant};

use futures::future::join_all;
use jobd_tests::programs::Daemon;
use jobd_tests::wait::PATIENCE;
use jobd_tests::{Ini, Jobd, Master, Scratch, Server, Wire, until};
use rustix::process::{Resource, getrlimit, setrlimit};
use serde_json::json;

/// Whatever the outside does, a daemon may grow by so much and no more.
const MOST_GROWTH_KIB: u64 = 48 << 10;
/// How long an honest client may have to wait meanwhile.
const LONGEST_ANSWER: Duration = Duration::from_secs(2);

struct World {
    scratch: Scratch,
    _database: jobd_tests::Database,
    jobd: Daemon,
    master: Daemon,
}

impl World {
    async fn new() -> Self {
        let scratch = Scratch::new();
        let database = Server::shared().await.database().await;
        database.minimal_table().await;
        let quiet = |ini: Ini| ini.set("log_level_console", "error");
        let jobd = Jobd::start(&scratch, &quiet(Ini::worker(&database)).target("a", 1)).await;
        let master = Master::start(&scratch, &quiet(Ini::listen())).await;
        Self {
            scratch,
            _database: database,
            jobd,
            master,
        }
    }

    fn both(&self) -> [&Daemon; 2] {
        [&self.jobd, &self.master]
    }
}

/// Runs an attack while an honest client asks again and again; both must end well.
async fn survives(daemon: &mut Daemon, attack: impl AsyncFnOnce(&Daemon)) {
    // The first requests allocate what is allocated once.
    daemon.ask("status", json!({})).await;
    let before = daemon.process.rss_kib();
    daemon.process.reset_peak();
    let ended = std::cell::Cell::new(false);
    tokio::join!(
        async {
            attack(daemon).await;
            ended.set(true);
        },
        async {
            let mut client = daemon.wire().await;
            while !ended.get() {
                let begun = Instant::now();
                client.ask("status", json!({})).await;
                let waited = begun.elapsed();
                assert!(waited < LONGEST_ANSWER, "an answer took {waited:?}");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    );
    let grown = daemon.process.peak_rss_kib().saturating_sub(before);
    println!(
        "{}: {before} KiB, grown by {grown} KiB at most",
        daemon.addr
    );
    assert!(
        grown < MOST_GROWTH_KIB,
        "grown by {grown} KiB from {before}"
    );
    assert!(daemon.process.ended().is_none(), "it ended");
    assert_eq!(
        daemon.wire().await.ask("status", json!({})).await["memoryUsage"]["external"],
        0
    );
}

async fn both_survive(attack: impl AsyncFn(&Daemon)) {
    let mut world = World::new().await;
    survives(&mut world.jobd, &attack).await;
    survives(&mut world.master, &attack).await;
    drop(world.scratch);
}

/// Random bytes from a printed seed (xorshift64*).
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.max(1);
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_F491_4F6C_DD1D).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Sends until all is sent or the peer has had enough.
async fn pour(wire: &mut Wire, chunk: &[u8], times: usize) -> bool {
    for _ in 0..times {
        if wire.try_send(chunk).await.is_err() {
            return false;
        }
    }
    true
}

#[tokio::test]
async fn a_gigabyte_without_an_end_measured() {
    both_survive(async |daemon| {
        let chunk = vec![b'x'; 1 << 20];
        let mut wire = daemon.wire().await;
        assert!(!pour(&mut wire, &chunk, 1024).await, "a gigabyte was taken");
        let begun = [b"[0,{\"no\":1,\"type\":\"".as_slice(), &chunk].concat();
        let mut wire = daemon.wire().await;
        assert!(!pour(&mut wire, &begun, 1024).await, "a gigabyte was taken");
    })
    .await;
}

#[tokio::test]
async fn frames_that_never_end_measured() {
    both_survive(async |daemon| {
        let halves = [
            "[",
            "[0",
            "[0,{\"no\":1,\"type\":\"poll\"",
            "{\"",
            "\"",
            "[[[[[[[[",
            "[0,{\"no\":1,\"type\":\"poll\",\"data\":{\"targets\":[\"a\"",
        ];
        let open = join_all((0..300).map(async |n| {
            let mut wire = daemon.wire().await;
            wire.send(halves[n % halves.len()]).await;
            wire
        }))
        .await;
        // Everyone else is served, while they are open and after.
        assert!(daemon.ask("status", json!({})).await.is_object());
        drop(open);
    })
    .await;
}

#[tokio::test]
async fn two_thousand_idle_connections_measured() {
    let files = getrlimit(Resource::Nofile);
    let raised = rustix::process::Rlimit {
        current: files.maximum,
        maximum: files.maximum,
    };
    setrlimit(Resource::Nofile, raised).expect("raise the limit of open files");
    both_survive(async |daemon| {
        let mut open = Vec::new();
        for _ in 0..2_000 {
            open.push(daemon.wire().await);
        }
        assert!(daemon.ask("status", json!({})).await.is_object());
        // They are still there, and served too.
        for wire in open.iter_mut().step_by(100) {
            assert!(wire.ask("status", json!({})).await.is_object());
        }
    })
    .await;
}

#[tokio::test]
async fn noise_measured() {
    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    both_survive(async |daemon| {
        for round in 0..20 {
            join_all((0..20).map(async |n| {
                let bytes = noise(seed * 1000 + round * 20 + n, 128 << 10);
                let mut wire = daemon.wire().await;
                // Closed in the middle is as good as an error for each piece.
                let _ = wire.try_send(&bytes).await;
            }))
            .await;
        }
    })
    .await;
}

#[tokio::test]
async fn json_that_is_meant_to_hurt_measured() {
    let deep = "[".repeat(200_000);
    let crowded = format!(
        "[0,{{\"no\":1,\"type\":\"poll\",\"data\":[{}0]}}]",
        "0,".repeat(200_000)
    );
    let ids = "7,".repeat(100_000);
    let attacks = [
        deep,
        crowded,
        format!("[0,{{\"no\":1,\"type\":\"{}\"}}]", "t".repeat(500_000)),
        format!("[0,{{\"no\":1,\"type\":\"nope\",\"data\":{{\"targets\":[{ids}0]}}}}]"),
        format!("[0,{{\"no\":{},\"type\":\"poll\"}}]", "9".repeat(500)),
        "[0,{\"no\":1e400,\"type\":\"poll\"}]".to_owned(),
        "[0,{\"no\":1,\"no\":2,\"type\":\"nope\",\"type\":5}]".to_owned(),
        "[0,{\"no\":1,\"type\":\"\\ud800\"}]".to_owned(),
        "[1,{\"no\":1,\"data\":\"nobody asked\"}]".to_owned(),
        "[1]".to_owned(),
        "[1,{\"no\":\"x\"}]".to_owned(),
    ];
    both_survive(async |daemon| {
        for attack in &attacks {
            let mut wire = daemon.wire().await;
            for _ in 0..20 {
                if wire.try_send(attack.as_bytes()).await.is_err()
                    || wire.try_send(&[4]).await.is_err()
                {
                    break;
                }
            }
            // Closed, or an answer for each, or nothing to an unasked answer: never a crash.
            let _ = wire.try_send(b"[2]\x04").await;
            while let Some(frame) = wire.next().await {
                if frame == "[3]" {
                    break;
                }
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_client_that_never_reads_its_answers_measured() {
    both_survive(async |daemon| {
        let many = "[0,{\"no\":1,\"type\":\"status\"}]\x04".repeat(2_000);
        let mut greedy = daemon.wire().await;
        // Reading stops when answers pile up, so that this may block: that is the point.
        let poured = tokio::time::timeout(
            Duration::from_secs(3),
            pour(&mut greedy, many.as_bytes(), 200),
        )
        .await;
        println!("taken without a reader: {poured:?}");
    })
    .await;
}

#[tokio::test]
async fn a_second_storm_takes_no_more_memory_than_the_first_measured() {
    let world = World::new().await;
    for daemon in world.both() {
        let mut after = Vec::new();
        for round in 0..4_u64 {
            for n in 0..50 {
                let mut wire = daemon.wire().await;
                let _ = wire.try_send(&noise(round * 50 + n + 1, 64 << 10)).await;
                let mut wire = daemon.wire().await;
                wire.ask("status", json!({})).await;
            }
            after.push(daemon.process.rss_kib());
        }
        println!("{}: {after:?} KiB after each storm", daemon.addr);
        assert!(after[3] < after[0] + (4 << 10), "memory grows: {after:?}");
    }
}

#[tokio::test]
async fn a_half_sent_frame_is_closed_after_a_while() {
    let world = World::new().await;
    join_all(world.both().map(async |daemon: &Daemon| {
        let mut wire = daemon.wire().await;
        wire.send("[0,{\"no\":1").await;
        until(
            "the end of a half-sent frame",
            PATIENCE * 3,
            async || match wire.next().await {
                None => Some(()),
                Some(said) => {
                    assert!(said.starts_with("[1,{\"no\":0,\"error\":"), "{said}");
                    None
                }
            },
        )
        .await;
    }))
    .await;
}
