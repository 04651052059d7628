//! What a job leaves behind in the background: while jobd waits for its output, orders are obeyed as before, and the
//! verdict stays the job's own.

use std::time::{Duration, Instant};

use jobd_tests::ground::Ground;
use jobd_tests::left::{lives, noted};
use jobd_tests::programs::Daemon;
use jobd_tests::wait::PATIENCE;
use jobd_tests::{Ini, Jobd, until};
use rustix::process::Signal;
use serde_json::json;

/// Far less than `leak_timeout`, on a machine that others load.
const SOON: Duration = Duration::from_secs(15);

/// Jobs of target `a` that exit with `$1` at once and leave two children with their outputs: one in the group, which
/// minds no SIGTERM, and one in a session of its own.
fn ini(ground: &Ground, code: i32) -> Ini {
    let script = format!(
        "note() {{ echo $1 >>{}; }}\n\
         (trap '' TERM; while :; do sleep 1; done) & note $!\n\
         setsid sleep 1000 & note $!\n\
         echo whole\nnote $$\nexit {code}",
        ground.notes().display()
    );
    let script = ground.scratch.write("leaves.sh", script);
    ground
        .ini()
        .set("launcher", format!("sh {}", script.display()))
        .set("leak_timeout", "10m")
        .set("kill_sequence", "TERM,0.3s,KILL")
        .target("a", 1)
}

/// Starts a worker and a job, and waits until that has ended and its children have not.
async fn leak(ground: &Ground, ini: &Ini) -> (Daemon, u64) {
    let jobd = Jobd::start(&ground.scratch, ini).await;
    let id = ground.insert("a", &[]).await;
    until("the job to end before its children", PATIENCE, async || {
        let lives: Vec<bool> = noted(&ground.notes()).into_iter().map(lives).collect();
        (lives == [true, true, false]).then_some(())
    })
    .await;
    (jobd, id)
}

async fn is_over(ground: &Ground, id: u64, verdict: &str) {
    assert_eq!(ground.verdict(id).await, verdict);
    let left: Vec<u32> = noted(&ground.notes())
        .into_iter()
        .filter(|pid| lives(*pid))
        .collect();
    assert!(left.is_empty(), "{left:?} outlive the verdict");
    let out = ground.text(id, "stdout").await;
    assert_eq!(out.as_deref(), Some("whole\n"));
}

#[tokio::test]
async fn a_cancel_ends_what_a_job_has_left_and_the_exit_code_stays_its_own() {
    for (code, verdict) in [(3, "fail 3 - cancelled"), (0, "ok 0 - -")] {
        for ground in Ground::each().await {
            let (jobd, id) = leak(&ground, &ini(&ground, code)).await;
            let begun = Instant::now();
            let said = jobd.ask("cancel", json!({"ids": [id]})).await;
            assert_eq!(said["jobs"][id.to_string()], "stopping", "{said}");
            is_over(&ground, id, verdict).await;
            assert!(begun.elapsed() < SOON);
        }
    }
}

#[tokio::test]
async fn a_shutdown_does_not_wait_for_what_a_job_has_left() {
    for ground in Ground::each().await {
        let (mut jobd, id) = leak(&ground, &ini(&ground, 3).set("drain_timeout", 0)).await;
        let begun = Instant::now();
        jobd.process.signal(Signal::TERM);
        assert!(jobd.process.wait(SOON).await.success());
        assert!(begun.elapsed() < SOON);
        is_over(&ground, id, "fail 3 - exit").await;
        let log = jobd.process.log();
        assert!(!log.contains("does not end"), "{log}");
    }
}

#[tokio::test]
async fn neither_does_a_second_signal() {
    for ground in Ground::each().await {
        let ini = ini(&ground, 0).set("drain_timeout", "10m");
        let (mut jobd, id) = leak(&ground, &ini).await;
        jobd.process.signal(Signal::TERM);
        until("the worker to wait for its job", PATIENCE, async || {
            jobd.process.log().contains("draining").then_some(())
        })
        .await;
        jobd.process.signal(Signal::TERM);
        assert!(jobd.process.wait(SOON).await.success());
        is_over(&ground, id, "ok 0 - -").await;
    }
}

#[tokio::test]
async fn a_leak_that_nobody_stops_is_waited_for_no_longer_than_it_may_be() {
    let ground = Ground::mysql().await;
    let ini = ini(&ground, 0).set("leak_timeout", "3s");
    let (_jobd, id) = leak(&ground, &ini).await;
    assert_eq!(ground.verdict(id).await, "ok 0 - -");
    let left: Vec<u32> = noted(&ground.notes())
        .into_iter()
        .filter(|pid| lives(*pid))
        .collect();
    for pid in &left {
        let pid = rustix::process::Pid::from_raw(pid.cast_signed()).expect("a process");
        rustix::process::kill_process(pid, Signal::KILL).expect("end what the test has started");
    }
    assert_eq!(left.len(), 2, "who lives on in the background may");
}
