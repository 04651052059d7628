//! Other jobs beside one whose followers have stopped reading.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use jobd_tests::wait::PATIENCE;
use jobd_tests::{Wire, until};
use serde_json::json;
use tokio::net::TcpSocket;

use crate::client::Following;
use crate::world::World;

/// Jobs of one turn.
const JOBS: usize = 150;

/// What both daemons may grow by: a buffer for each follower, what they keep of the output, and a margin.
const GROWTH_KIB: u64 = 24 << 10;

/// What is sent at a steady pace stands still for so long only if nobody takes it.
const STILL: Duration = Duration::from_millis(500);

/// Follows a job, and reads the first words only.
async fn deaf(addr: SocketAddr, id: u64) -> Following {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket
        .set_recv_buffer_size(4 << 10)
        .expect("a small buffer");
    let stream = socket.connect(addr).await.expect("a connection");
    let data = json!({"id": id, "window": i64::MAX});
    let mut following = Following::over(Wire::over(stream), data).await;
    following.until(|seen| !seen.out.is_empty()).await;
    following
}

/// Bytes that the kernel has for connections to a port, not yet sent or not yet read.
fn on_the_way(port: u16) -> u64 {
    let table = std::fs::read_to_string("/proc/net/tcp").expect("the table of connections");
    let port = format!(":{port:04X}");
    let bytes = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let of_it = fields[1].ends_with(&port) || fields[2].ends_with(&port);
        let (unsent, unread) = fields[4].split_once(':')?;
        let number = |hex| u64::from_str_radix(hex, 16).expect("a number");
        of_it.then(|| number(unsent) + number(unread))
    };
    table.lines().skip(1).filter_map(bytes).sum()
}

/// Waits until nothing moves any more.
async fn full(ports: [u16; 2]) {
    let (mut last, mut since) = (0, Instant::now());
    until("what nobody reads to pile up", PATIENCE, async || {
        let now = ports.map(on_the_way).iter().sum();
        if now != last {
            (last, since) = (now, Instant::now());
        }
        (last > 0 && since.elapsed() > STILL).then_some(())
    })
    .await;
}

/// In turns with nobody who follows, and with two who have stopped reading, at the worker and through the master: the
/// others are claimed and end as quickly.
#[tokio::test]
async fn followers_that_stop_reading_slow_no_other_job_measured() {
    let world = World::new().await;
    // Some MB a second.
    let script = "while [ ! -e $2 ]; do head -c 65536 /dev/zero | tr '\\0' x; sleep 0.01; done";
    let script = world.scratch.write("loud.sh", script);
    let stop = world.scratch.join("stop");
    let loud = format!("sh {} {{id}} {}", script.display(), stop.display());
    let ini = world
        .script("")
        .set("launcher", "true")
        .set("max_output_buffer", 1 << 20)
        .own("a", "launcher", loud)
        .target("b", 4);
    let (master, jobd) = world.with_master(ini).await;
    let id = world.running(&jobd).await;
    let memory = || jobd.process.rss_kib() + master.process.rss_kib();
    let before = memory();
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    for turn in 0..4 {
        let mut deaf = Vec::new();
        if turn % 2 == 1 {
            for addr in [jobd.addr, master.addr] {
                deaf.push(self::deaf(addr, id).await);
            }
            full([jobd.addr.port(), master.addr.port()]).await;
        }
        let begun = Instant::now();
        world.database.insert(JOBS, "b", "waiting").await;
        jobd.ask("poll", json!({"targets": ["b"]})).await;
        until("the other jobs to be done", PATIENCE, async || {
            let open = "(SELECT COUNT(*) FROM jobs WHERE target = 'b' AND status <> 'done')";
            (world.database.number(open).await == Some(0)).then_some(())
        })
        .await;
        let times = if deaf.is_empty() {
            &mut alone
        } else {
            &mut beside
        };
        times.push(begun.elapsed());
        let now = memory();
        assert!(now < before + GROWTH_KIB, "{before} to {now} KiB");
    }
    println!("alone {alone:?}, beside followers {beside:?}");
    let best = |times: &[Duration]| times.iter().min().copied().expect("two turns");
    assert!(
        best(&beside) < best(&alone) * 3 + Duration::from_millis(500),
        "alone {alone:?}, beside followers {beside:?}"
    );
    world.scratch.write("stop", "");
    world.database.done(id).await;
}
