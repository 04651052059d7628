//! Processes that shed whatever they can of their job: environment, session, parents. However it is stopped, they go
//! with it.

use std::time::Duration;

use jobd_tests::ground::Ground;
use jobd_tests::left::{lives, noted};
use jobd_tests::programs::Daemon;
use jobd_tests::wait::PATIENCE;
use jobd_tests::{Ini, Jobd, until};
use rustix::process::Signal;
use serde_json::json;

/// How often the process that never stays where it is may begin anew: some ten seconds.
const HOPS: usize = 4_000;

/// What the kernel may still need when they have been killed.
const MOMENT: Duration = Duration::from_secs(5);

/// A job of target `a` that starts one process which has left everything, one whose parents have gone besides, and
/// one that is somebody else every few milliseconds.
fn ini(ground: &Ground) -> Ini {
    let notes = ground.notes();
    let notes = notes.display();
    let stay = format!("echo $$ >>{notes}; exec sleep 1000");
    let stay = ground.scratch.write("stay.sh", stay);
    let hop = ground.scratch.join("hop.sh");
    let leave = "env -i PATH=/usr/bin:/bin setsid sh";
    let hops = format!(
        "echo hop >>{notes}\n[ $1 -gt 0 ] && {leave} {0} $(($1 - 1)) </dev/null >/dev/null 2>&1 &",
        hop.display()
    );
    ground.scratch.write("hop.sh", hops);
    let script = format!(
        "{leave} {0} &\n({leave} -c '{leave} {0} & {leave} {0} >/dev/null 2>&1 &' &)\n\
         {leave} {1} {HOPS} &\nsleep 1000",
        stay.display(),
        hop.display()
    );
    let script = ground.scratch.write("job.sh", script);
    ground
        .ini()
        .set("launcher", format!("sh {}", script.display()))
        .set("kill_sequence", "TERM,0.2s,KILL")
        .target("a", 1)
}

fn said(ground: &Ground) -> (usize, Vec<u32>) {
    let notes = ground.notes();
    let text = std::fs::read_to_string(&notes).unwrap_or_default();
    let hops = text.lines().filter(|line| *line == "hop").count();
    (hops, noted(&notes))
}

async fn begin(ground: &Ground, ini: &Ini, more: &[(&str, &str)]) -> (Daemon, u64) {
    let jobd = Jobd::start(&ground.scratch, ini).await;
    let id = ground.insert("a", more).await;
    until("four that have left", PATIENCE, async || {
        let (hops, pids) = said(ground);
        (hops > 3 && pids.len() == 3).then_some(())
    })
    .await;
    (jobd, id)
}

async fn nobody_is_left(ground: &Ground) {
    until("those that have left to be gone", MOMENT, async || {
        let (before, pids) = said(ground);
        tokio::time::sleep(Duration::from_millis(300)).await;
        let (after, _) = said(ground);
        assert!(after < HOPS, "it was not stopped");
        (before == after && !pids.into_iter().any(lives)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_time_out_finds_who_has_shed_everything() {
    for ground in Ground::each().await {
        let (_jobd, id) = begin(&ground, &ini(&ground), &[("timeout", "2")]).await;
        assert_eq!(ground.verdict(id).await, "fail - SIGTERM timeout");
        nobody_is_left(&ground).await;
    }
}

#[tokio::test]
async fn so_does_a_cancellation() {
    for ground in Ground::each().await {
        let (jobd, id) = begin(&ground, &ini(&ground), &[]).await;
        jobd.ask("cancel", json!({"ids": [id]})).await;
        assert_eq!(ground.verdict(id).await, "fail - SIGTERM cancelled");
        let log = jobd.process.log();
        assert!(!log.contains("do not end"), "{log}");
        nobody_is_left(&ground).await;
    }
}

#[tokio::test]
async fn so_does_a_shutdown() {
    for ground in Ground::each().await {
        let ini = ini(&ground).set("drain_timeout", 0);
        let (mut jobd, id) = begin(&ground, &ini, &[]).await;
        assert!(jobd.process.terminate().await.success());
        assert_eq!(ground.text(id, "status").await.as_deref(), Some("waiting"));
        nobody_is_left(&ground).await;
    }
}

#[tokio::test]
async fn so_does_the_guard_of_a_worker_that_dies() {
    for ground in Ground::each().await {
        let (mut jobd, _) = begin(&ground, &ini(&ground), &[]).await;
        jobd.process.signal(Signal::KILL);
        jobd.process.wait(PATIENCE).await;
        nobody_is_left(&ground).await;
    }
}
