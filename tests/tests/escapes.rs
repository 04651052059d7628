//! Processes that shed whatever they can of their job: environment, session, parents. However it is stopped, they go
//! with it.

use std::path::PathBuf;
use std::time::Duration;

use jobd_tests::ground::Ground;
use jobd_tests::programs::Daemon;
use jobd_tests::wait::PATIENCE;
use jobd_tests::{Ini, Jobd, until};
use rustix::process::Signal;
use serde_json::json;

/// How often the process that never stays where it is may begin anew: some ten seconds.
const HOPS: usize = 4_000;

/// What the kernel may still need when they have been killed.
const MOMENT: Duration = Duration::from_secs(5);

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

    /// A job of target `a` that starts one process which has left everything, one whose parents have gone besides, and
    /// one that is somebody else every few milliseconds.
    fn ini(&self) -> Ini {
        let notes = self.notes.display();
        let stay = format!("echo $$ >>{notes}; exec sleep 1000");
        let stay = self.ground.scratch.write("stay.sh", stay);
        let hop = self.ground.scratch.join("hop.sh");
        let leave = "env -i PATH=/usr/bin:/bin setsid sh";
        let hops = format!(
            "echo hop >>{notes}\n[ $1 -gt 0 ] && {leave} {0} $(($1 - 1)) </dev/null >/dev/null 2>&1 &",
            hop.display()
        );
        self.ground.scratch.write("hop.sh", hops);
        let script = format!(
            "{leave} {0} &\n({leave} -c '{leave} {0} & {leave} {0} >/dev/null 2>&1 &' &)\n\
             {leave} {1} {HOPS} &\nsleep 1000",
            stay.display(),
            hop.display()
        );
        let script = self.ground.scratch.write("job.sh", script);
        self.ground
            .ini()
            .set("launcher", format!("sh {}", script.display()))
            .set("kill_sequence", "TERM,0.2s,KILL")
            .target("a", 1)
    }

    fn said(&self) -> (usize, Vec<u32>) {
        let text = std::fs::read_to_string(&self.notes).unwrap_or_default();
        let hops = text.lines().filter(|line| *line == "hop").count();
        let pids = text.lines().filter_map(|line| line.parse().ok()).collect();
        (hops, pids)
    }

    async fn begin(&self, ini: &Ini, more: &[(&str, &str)]) -> (Daemon, u64) {
        let jobd = Jobd::start(&self.ground.scratch, ini).await;
        let id = self.ground.insert("a", more).await;
        until("four that have left", PATIENCE, async || {
            let (hops, pids) = self.said();
            (hops > 3 && pids.len() == 3).then_some(())
        })
        .await;
        (jobd, id)
    }

    async fn nobody_is_left(&self) {
        until("those that have left to be gone", MOMENT, async || {
            let (before, pids) = self.said();
            tokio::time::sleep(Duration::from_millis(300)).await;
            let (after, _) = self.said();
            assert!(after < HOPS, "it was not stopped");
            eprintln!(
                "DEBUG {before} {after} {:?}",
                pids.iter()
                    .map(|p| (
                        p,
                        lives(*p),
                        std::fs::read_to_string(format!("/proc/{p}/cmdline"))
                    ))
                    .collect::<Vec<_>>()
            );
            (before == after && !pids.into_iter().any(lives)).then_some(())
        })
        .await;
    }
}

/// A zombie has no command line.
fn lives(pid: u32) -> bool {
    std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

#[tokio::test]
async fn a_time_out_finds_who_has_shed_everything() {
    for world in World::each().await {
        let (_jobd, id) = world.begin(&world.ini(), &[("timeout", "2")]).await;
        assert_eq!(world.ground.verdict(id).await, "fail - SIGTERM timeout");
        world.nobody_is_left().await;
    }
}

#[tokio::test]
async fn so_does_a_cancellation() {
    for world in World::each().await {
        let (jobd, id) = world.begin(&world.ini(), &[]).await;
        jobd.ask("cancel", json!({"ids": [id]})).await;
        assert_eq!(world.ground.verdict(id).await, "fail - SIGTERM cancelled");
        let log = jobd.process.log();
        assert!(!log.contains("do not end"), "{log}");
        world.nobody_is_left().await;
    }
}

#[tokio::test]
async fn so_does_a_shutdown() {
    for world in World::each().await {
        let ini = world.ini().set("drain_timeout", 0);
        let (mut jobd, id) = world.begin(&ini, &[]).await;
        assert!(jobd.process.terminate().await.success());
        assert_eq!(
            world.ground.text(id, "status").await.as_deref(),
            Some("waiting")
        );
        world.nobody_is_left().await;
    }
}

#[tokio::test]
async fn so_does_the_guard_of_a_worker_that_dies() {
    for world in World::each().await {
        let (mut jobd, _) = world.begin(&world.ini(), &[]).await;
        jobd.process.signal(Signal::KILL);
        jobd.process.wait(PATIENCE).await;
        world.nobody_is_left().await;
    }
}
