//! What a job leaves behind in the background: while jobd waits for its output, orders are obeyed as before, and the
//! verdict stays the job's own.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use jobd_tests::ground::Ground;
use jobd_tests::programs::Daemon;
use jobd_tests::wait::PATIENCE;
use jobd_tests::{Ini, Jobd, until};
use rustix::process::Signal;
use serde_json::json;

/// Far less than `leak_timeout`, on a machine that others load.
const SOON: Duration = Duration::from_secs(15);

/// Jobs of target `a` that exit with `$1` at once and leave two children with their outputs: one in the group, which
/// minds no SIGTERM, and one in a session of its own.
struct World {
    ground: Ground,
    notes: PathBuf,
}

impl World {
    async fn each() -> Vec<Self> {
        let worlds = Ground::each().await.into_iter().map(|ground| Self {
            notes: ground.scratch.join("notes"),
            ground,
        });
        worlds.collect()
    }

    fn ini(&self, code: i32) -> Ini {
        let script = format!(
            "note() {{ echo $1 >>{}; }}\n\
             (trap '' TERM; while :; do sleep 1; done) & note $!\n\
             setsid sleep 1000 & note $!\n\
             echo whole\nnote $$\nexit {code}",
            self.notes.display()
        );
        let script = self.ground.scratch.write("leaves.sh", script);
        self.ground
            .ini()
            .set("launcher", format!("sh {}", script.display()))
            .set("leak_timeout", "10m")
            .set("kill_sequence", "TERM,0.3s,KILL")
            .target("a", 1)
    }

    fn noted(&self) -> Vec<u32> {
        let text = std::fs::read_to_string(&self.notes).unwrap_or_default();
        text.lines().filter_map(|pid| pid.parse().ok()).collect()
    }

    /// Starts a worker and a job, and waits until that has ended and its children have not.
    async fn leak(&self, ini: &Ini) -> (Daemon, u64) {
        let jobd = Jobd::start(&self.ground.scratch, ini).await;
        let id = self.ground.insert("a", &[]).await;
        until("the job to end before its children", PATIENCE, async || {
            let lives: Vec<bool> = self.noted().into_iter().map(lives).collect();
            (lives == [true, true, false]).then_some(())
        })
        .await;
        (jobd, id)
    }

    async fn is_over(&self, id: u64, verdict: &str) {
        assert_eq!(self.ground.verdict(id).await, verdict);
        let left: Vec<u32> = self.noted().into_iter().filter(|pid| lives(*pid)).collect();
        assert!(left.is_empty(), "{left:?} outlive the verdict");
        let out = self.ground.text(id, "stdout").await;
        assert_eq!(out.as_deref(), Some("whole\n"));
    }
}

/// A zombie has no command line.
fn lives(pid: u32) -> bool {
    std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

#[tokio::test]
async fn a_cancel_ends_what_a_job_has_left_and_the_exit_code_stays_its_own() {
    for (code, verdict) in [(3, "fail 3 - cancelled"), (0, "ok 0 - -")] {
        for world in World::each().await {
            let (jobd, id) = world.leak(&world.ini(code)).await;
            let begun = Instant::now();
            let said = jobd.ask("cancel", json!({"ids": [id]})).await;
            assert_eq!(said["jobs"][id.to_string()], "stopping", "{said}");
            world.is_over(id, verdict).await;
            assert!(begun.elapsed() < SOON);
        }
    }
}

#[tokio::test]
async fn a_shutdown_does_not_wait_for_what_a_job_has_left() {
    for world in World::each().await {
        let (mut jobd, id) = world.leak(&world.ini(3).set("drain_timeout", 0)).await;
        let begun = Instant::now();
        jobd.process.signal(Signal::TERM);
        assert!(jobd.process.wait(SOON).await.success());
        assert!(begun.elapsed() < SOON);
        world.is_over(id, "fail 3 - exit").await;
        let log = jobd.process.log();
        assert!(!log.contains("does not end"), "{log}");
    }
}

#[tokio::test]
async fn neither_does_a_second_signal() {
    for world in World::each().await {
        let ini = world.ini(0).set("drain_timeout", "10m");
        let (mut jobd, id) = world.leak(&ini).await;
        jobd.process.signal(Signal::TERM);
        until("the worker to wait for its job", PATIENCE, async || {
            jobd.process.log().contains("draining").then_some(())
        })
        .await;
        jobd.process.signal(Signal::TERM);
        assert!(jobd.process.wait(SOON).await.success());
        world.is_over(id, "ok 0 - -").await;
    }
}

#[tokio::test]
async fn a_leak_that_nobody_stops_is_waited_for_no_longer_than_it_may_be() {
    let world = World::each().await.remove(0);
    let ini = world.ini(0).set("leak_timeout", "3s");
    let (_jobd, id) = world.leak(&ini).await;
    assert_eq!(world.ground.verdict(id).await, "ok 0 - -");
    let left: Vec<u32> = world
        .noted()
        .into_iter()
        .filter(|pid| lives(*pid))
        .collect();
    for pid in &left {
        let pid = rustix::process::Pid::from_raw(pid.cast_signed()).expect("a process");
        rustix::process::kill_process(pid, Signal::KILL).expect("end what the test has started");
    }
    assert_eq!(left.len(), 2, "who lives on in the background may");
}
