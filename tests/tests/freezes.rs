//! Workers, and whole machines, that stand still for longer than a lease: what they ran is gone before another runs it,
//! or as soon as they go on; whatever signals it minds, and whether or not it has left its process group.

use std::time::Duration;

use jobd_tests::bench::usage::children;
use jobd_tests::ground::Ground;
use jobd_tests::programs::{Daemon, unique_name};
use jobd_tests::wait::PATIENCE;
use jobd_tests::watchdog::Frozen;
use jobd_tests::{Jobd, left, until};
use rustix::process::Pid;

/// Three processes that mind no signal but KILL: one in a session of its own whose parent has gone, one in the
/// background, and the job's own.
const FAMILY: &str = "trap '' TERM HUP INT\n(setsid sleep 100 &)\nsleep 100 &\nexec sleep 100\n";

/// A worker that serves `targets`, and its name.
async fn start(ground: &Ground, targets: &[&str]) -> (Daemon, String) {
    let name = unique_name("w");
    let script = ground.scratch.write("family.sh", FAMILY);
    let mut ini = ground
        .ini()
        .set("name", &name)
        .set("lease", 3)
        .set("drain_timeout", 0)
        .set("kill_grace", "0.1")
        .set("launcher", format!("sh {}", script.display()));
    for target in targets {
        ini = ini.target(target, 1);
    }
    (Jobd::start(&ground.scratch, &ini).await, name)
}

/// Waits until a worker's jobs have so many processes.
async fn processes(worker: &str, count: usize, limit: Duration) -> Vec<u32> {
    until(
        &format!("{count} processes of {worker}"),
        limit,
        async || {
            let found = left::of_worker(worker);
            (found.len() == count).then_some(found)
        },
    )
    .await
}

/// The guard of a worker, which is its child and has no job's environment.
fn guard(worker: &Daemon) -> u32 {
    let children = children(worker.process.id());
    let guard = children.into_iter().find(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains("--guard")
    });
    guard.expect("a guard")
}

fn freeze(pid: u32) -> Frozen {
    Frozen::new(Pid::from_raw(pid.cast_signed()).expect("a pid"))
}

#[tokio::test]
async fn what_minds_no_signal_or_has_left_its_group_is_gone_before_another_worker_runs_it() {
    let ground = Ground::mysql().await;
    let (one, first) = start(&ground, &["a"]).await;
    let id = ground.insert("a", &[("max_attempts", "3")]).await;
    processes(&first, 3, PATIENCE).await;
    let (_two, second) = start(&ground, &["a"]).await;
    let _frozen = freeze(one.process.id());
    let mut overlapped = false;
    until("the other's run", PATIENCE, async || {
        let (theirs, ours) = (left::of_worker(&second), left::of_worker(&first));
        overlapped |= !theirs.is_empty() && !ours.is_empty();
        (theirs.len() == 3).then_some(())
    })
    .await;
    assert!(!overlapped, "the first run was still there");
    assert_eq!(ground.words(id, &["status", "attempts"]).await, "running 2");
}

#[tokio::test]
async fn a_machine_that_stood_still_for_longer_than_a_lease_goes_on_with_nothing_that_others_run() {
    let ground = Ground::mysql().await;
    let (one, first) = start(&ground, &["a", "own"]).await;
    let id = ground.insert("a", &[("max_attempts", "3")]).await;
    let before = processes(&first, 3, PATIENCE).await;
    let (_two, second) = start(&ground, &["a"]).await;
    // As when it is suspended: the worker, its guard and its jobs.
    let machine = [one.process.id(), guard(&one)];
    let frozen: Vec<Frozen> = machine
        .iter()
        .chain(&before)
        .map(|pid| freeze(*pid))
        .collect();
    let theirs = processes(&second, 3, PATIENCE).await;
    assert_eq!(processes(&first, 3, PATIENCE).await, before);
    drop(frozen);
    processes(&first, 0, Duration::from_secs(5)).await;
    // It works again, and has not touched what was not its own any more.
    let own = ground.insert("own", &[]).await;
    ground.reaches(own, "running").await;
    processes(&first, 3, PATIENCE).await;
    assert_eq!(left::of_worker(&second), theirs);
    let row = ground.words(id, &["status", "attempts", "worker"]).await;
    assert!(row.starts_with(&format!("running 2 {second}@")), "{row}");
}
