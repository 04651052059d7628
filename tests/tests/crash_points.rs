//! jobd dies at each point at which a statement, a COMMIT or a process is between done and known, and is
//! started again: nothing is lost and nothing runs twice, with the least table too.

use std::os::unix::process::ExitStatusExt as _;
use std::time::{Duration, Instant};

use jobd_tests::chaos::options::Table;
use jobd_tests::chaos::scene::{CRASH_POINTS, Scene};
use jobd_tests::programs::Daemon;
use jobd_tests::{Ini, Server, until};
use rustix::process::Signal;
use serde_json::Value;
use tokio::task::JoinHandle;

/// The manual jobs' target takes so many milliseconds: others wait while one runs.
const TARGETS: &[(&str, u32)] = &[("quick", 4), ("300", 1)];

/// A point is passed within a second; the rest is for a loaded machine.
const LIMIT: Duration = Duration::from_secs(30);

/// The `n`th passage is the last: the first one is that of a worker that has done nothing yet.
const NTH: u32 = 2;

async fn held(scene: &Scene, status: &str, count: usize) {
    let condition = format!("status = '{status}'");
    until(&format!("{count} rows {status}"), LIMIT, async || {
        (scene.jobs.ids(&condition).await.len() >= count).then_some(())
    })
    .await;
}

/// Background jobs, and a client that waits for manual ones.
async fn load(scene: &mut Scene, worker: &Daemon, manual: usize) -> JoinHandle<Option<Value>> {
    for most in [1, 3] {
        scene.insert(10, "quick", "waiting", most).await;
    }
    let ids = scene.insert(manual, "300", "manual", 1).await;
    scene.ask_for(worker.addr, &ids)
}

/// Brings a worker to its death at `point`.
async fn die_at(scene: &mut Scene, ini: &Ini, point: &str) {
    let trap = |nth| format!("{point}:{nth}");
    let mut dying = if point.starts_with("rescue") {
        // Somebody has to leave something first.
        let mut first = scene.start(ini, &[]).await;
        scene.insert(3, "300", "waiting", 2).await;
        scene.insert(6, "quick", "waiting", 2).await;
        held(scene, "running", 1).await;
        scene.lose(&first);
        first.process.kill();
        // It has found them before it listens, on a bad day.
        scene.launch(ini, &[("JOBD_CRASH_AT", &trap(1))])
    } else {
        let nth = if point.starts_with("release") { 1 } else { NTH };
        scene.start(ini, &[("JOBD_CRASH_AT", &trap(nth))]).await
    };
    scene.lose(&dying);
    let releases = point.starts_with("release");
    if is_of_retries(point) {
        // One in eleven fails.
        scene.insert(60, "quick", "waiting", 3).await;
    }
    let client = load(scene, &dying, if releases { 10 } else { 3 }).await;
    if releases {
        held(scene, "accepted", 1).await;
        dying.process.signal(Signal::TERM);
    }
    let ended = dying.process.wait(LIMIT).await;
    assert_eq!(ended.signal(), Some(9), "{point}: {}", dying.process.log());
    let answer = client.await.expect("a task");
    scene.note(answer);
}

/// Passed on tables with retries only.
fn is_of_retries(point: &str) -> bool {
    point.starts_with("retry") || point.starts_with("promote")
}

async fn every_point(mut scene: Scene) {
    let ini = scene.worker("w").set("lease", 600);
    let full = scene.table == Table::Full;
    for point in CRASH_POINTS {
        if !full && is_of_retries(point) {
            continue;
        }
        die_at(&mut scene, &ini, point).await;
        let died = Instant::now();
        let next = scene.start(&ini, &[]).await;
        scene.settle(&next, LIMIT).await;
        println!("{point}: all over {:.1?} after the crash", died.elapsed());
        let breaches = scene.breaches().await;
        assert!(
            breaches.is_empty(),
            "{point}: {breaches:#?}\n{}",
            next.process.log()
        );
        assert!(next.stop().await.success(), "{point}");
    }
}

#[tokio::test]
async fn a_worker_on_the_minimal_table_dies_at_every_point_and_loses_nothing() {
    let server = Server::shared().await;
    every_point(Scene::on_server(&server, Table::Minimal, TARGETS).await).await;
}

#[tokio::test]
async fn a_worker_on_the_full_table_dies_at_every_point_and_loses_nothing() {
    let server = Server::shared().await;
    every_point(Scene::on_server(&server, Table::Full, TARGETS).await).await;
}

#[tokio::test]
async fn a_worker_on_a_minimal_sqlite_table_dies_at_every_point_and_loses_nothing() {
    every_point(Scene::in_file(Table::Minimal, TARGETS).await).await;
}

#[tokio::test]
async fn a_worker_on_a_full_sqlite_table_dies_at_every_point_and_loses_nothing() {
    every_point(Scene::in_file(Table::Full, TARGETS).await).await;
}
