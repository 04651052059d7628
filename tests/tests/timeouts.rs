//! Time-outs, and how a job is stopped: the whole group, by the target's own sequence, and nobody is left.

use std::time::{Duration, Instant};

use jobd_tests::ground::Ground;
use jobd_tests::programs::{Daemon, unique_name};
use jobd_tests::wait::PATIENCE;
use jobd_tests::{Ini, Jobd, left, until};
use rustix::process::Signal;
use serde_json::json;

/// A script as a launcher.
fn launcher(ground: &Ground, name: &str, script: &str) -> String {
    let script = ground.scratch.write(name, script);
    format!("sh {} {{id}}", script.display())
}

/// Starts a process that lives in a session of its own and minds no signal but KILL, one in the background of the group,
/// and one whose parent has gone, and says when they are there.
const FAMILY: &str = "\
    setsid sh -c 'trap \"\" TERM HUP INT; echo away; while :; do sleep 1; done' &\n\
    (trap '' TERM HUP INT; echo beside; while :; do sleep 1; done) &\n\
    (setsid sleep 1000 & sleep 1000 & echo orphans) \n";

async fn nobody_is_left(worker: &str) {
    // They were killed before the row was written; the kernel may still be at it.
    until(
        "the last process to be gone",
        Duration::from_secs(5),
        async || left::of_worker(worker).is_empty().then_some(()),
    )
    .await;
}

async fn start(ground: &Ground, ini: &Ini) -> (Daemon, String) {
    let name = unique_name("w");
    let ini = ini.clone().set("name", &name);
    (Jobd::start(&ground.scratch, &ini).await, name)
}

/// Two jobs that one claim took: what belongs to the one is looked for, and the other is let alone.
#[tokio::test]
async fn a_stop_lets_the_other_jobs_of_its_claim_alone() {
    for ground in Ground::each().await {
        let script = format!("[ $1 = 1 ] && {{ {FAMILY}sleep 1000\n}}\nsleep 3\necho whole");
        let ini = ground
            .ini()
            .set("launcher", launcher(&ground, "siblings.sh", &script))
            .target("a", 3);
        for id in ["1", "2", "3"] {
            let limit = if id == "1" { "1" } else { "NULL" };
            ground.insert("a", &[("id", id), ("timeout", limit)]).await;
        }
        let (_jobd, worker) = start(&ground, &ini).await;
        assert_eq!(ground.verdict(1).await, "fail - SIGTERM timeout");
        for id in [2, 3] {
            assert_eq!(ground.verdict(id).await, "ok 0 - -");
            assert_eq!(ground.text(id, "stdout").await.as_deref(), Some("whole\n"));
        }
        nobody_is_left(&worker).await;
    }
}

#[tokio::test]
async fn a_job_that_takes_too_long_is_stopped_with_all_that_it_has_started() {
    for ground in Ground::each().await {
        let script = format!("{FAMILY}trap 'echo term' TERM\nwhile :; do sleep 0.05; done");
        let ini = ground
            .ini()
            .set("launcher", launcher(&ground, "family.sh", &script))
            .set("kill_sequence", "TERM,0.2s,KILL")
            .target("limited", 1)
            .own("limited", "timeout", "2s")
            .target("free", 1);
        let (_jobd, worker) = start(&ground, &ini).await;
        for (target, more, limit) in [
            ("limited", &[][..], "2s"),
            ("limited", &[("timeout", "1")], "1s"),
            ("free", &[("timeout", "1")], "1s"),
        ] {
            let begun = Instant::now();
            let id = ground.insert(target, more).await;
            assert_eq!(ground.verdict(id).await, "fail - SIGKILL timeout");
            assert!(begun.elapsed() >= Duration::from_secs(1));
            nobody_is_left(&worker).await;
            let out = ground.text(id, "stdout").await.expect("output");
            for word in ["away", "beside", "orphans", "term"] {
                assert!(out.contains(word), "{word} in {out}");
            }
            let note =
                format!("jobd: stopped because it took longer than its timeout of {limit}\n");
            let err = ground.text(id, "stderr").await.expect("a note");
            assert!(err.ends_with(&note), "{err:?}");
        }
    }
}

#[tokio::test]
async fn what_ends_in_time_or_is_not_limited_is_left_alone() {
    for ground in Ground::each().await {
        let ini = ground
            .ini()
            .set("timeout", "1h")
            .set("launcher", "sh -c 'sleep 1.2\\; echo done'")
            .target("hour", 1)
            .target("free", 1)
            .own("free", "timeout", "0");
        let (_jobd, _) = start(&ground, &ini).await;
        let ids = [
            ground.insert("hour", &[]).await,
            ground.insert("free", &[]).await,
            ground.insert("hour", &[("timeout", "0")]).await,
            ground.insert("free", &[("timeout", "60")]).await,
        ];
        for id in ids {
            assert_eq!(ground.verdict(id).await, "ok 0 - -");
        }
    }
}

#[tokio::test]
async fn a_job_that_says_nothing_is_stopped_and_one_that_talks_is_not() {
    for ground in Ground::each().await {
        let talks = "for i in 1 2 3 4 5 6 7 8; do echo $i >&$((1 + i % 2)); sleep 0.2; done";
        let ini = ground
            .ini()
            .set("idle_timeout", "1s")
            .set("launcher", launcher(&ground, "talks.sh", talks))
            .target("talks", 1)
            .target("silent", 1)
            .own("silent", "launcher", "sh -c 'echo once\\; exec sleep 1000'");
        let (_jobd, worker) = start(&ground, &ini).await;
        let silent = ground.insert("silent", &[]).await;
        let talks = ground.insert("talks", &[]).await;
        assert_eq!(ground.verdict(silent).await, "fail - SIGTERM idle");
        assert_eq!(
            ground.text(silent, "stdout").await.as_deref(),
            Some("once\n")
        );
        assert_eq!(
            ground.text(silent, "stderr").await.as_deref(),
            Some("jobd: stopped because it wrote nothing for 1s\n")
        );
        assert_eq!(ground.verdict(talks).await, "ok 0 - -");
        nobody_is_left(&worker).await;
    }
}

#[tokio::test]
async fn an_exit_code_of_0_after_the_time_was_up_is_no_success() {
    let ground = Ground::mysql().await;
    let ini = ground
        .ini()
        .set("timeout", "0.3s")
        .set(
            "launcher",
            "sh -c 'trap \"exit 0\" TERM\\; while :\\; do sleep 0.05\\; done'",
        )
        .target("a", 1);
    let (_jobd, _) = start(&ground, &ini).await;
    let id = ground.insert("a", &[]).await;
    assert_eq!(ground.verdict(id).await, "fail 0 - timeout");
}

/// Writes for ever: itself, a child that minds no signal but KILL, and one that has left the group.
const LOUD: &str = "(trap '' TERM; exec yes beside) &\nsetsid yes away >&2 &\nexec yes\n";

/// Much longer than the sequence that ends them takes, on a machine that they leave little of.
const SOON: Duration = Duration::from_secs(15);

#[tokio::test]
async fn a_job_that_never_stops_writing_is_stopped_like_any_other() {
    for ground in Ground::each().await {
        let ini = ground
            .ini()
            .set("launcher", launcher(&ground, "loud.sh", LOUD))
            .set("max_output_buffer", "64K")
            .set("kill_sequence", "TERM,0.5s,KILL")
            .set("drain_timeout", 0)
            .target("a", 1);
        let (mut jobd, worker) = start(&ground, &ini).await;
        let all_there = async || {
            until("three that write", PATIENCE, async || {
                (left::of_worker(&worker).len() == 3).then_some(())
            })
            .await;
            Instant::now()
        };

        let late = ground.insert("a", &[("timeout", "1")]).await;
        let begun = all_there().await;
        assert_eq!(ground.verdict(late).await, "fail - SIGTERM timeout");
        assert!(begun.elapsed() < SOON);
        nobody_is_left(&worker).await;
        let out = ground.text(late, "stdout").await.expect("output");
        assert!((64 << 10..80 << 10).contains(&out.len()), "{}", out.len());

        let cancelled = ground.insert("a", &[]).await;
        let begun = all_there().await;
        jobd.ask("cancel", json!({"ids": [cancelled]})).await;
        assert_eq!(ground.verdict(cancelled).await, "fail - SIGTERM cancelled");
        assert!(begun.elapsed() < SOON);
        nobody_is_left(&worker).await;

        let drained = ground.insert("a", &[]).await;
        let begun = all_there().await;
        assert!(jobd.process.terminate().await.success());
        assert!(begun.elapsed() < SOON);
        nobody_is_left(&worker).await;
        let row = ground.words(drained, &["status", "interruptions"]).await;
        assert_eq!(row, "waiting 1");
    }
}

#[tokio::test]
async fn every_stop_goes_through_the_targets_own_sequence() {
    for ground in Ground::each().await {
        let said = |id: u64| {
            let file = ground.scratch.join(&format!("said-{id}"));
            std::fs::read_to_string(file).unwrap_or_default()
        };
        let script = format!(
            "say() {{ echo $1 >>{}-$id; }}\nid=$1\n\
             trap 'say int' INT\ntrap 'say usr' USR1\ntrap 'say term' TERM\nsay ready\nwhile :; do sleep 0.01; done",
            ground.scratch.join("said").display()
        );
        let ini = ground
            .ini()
            .set("launcher", launcher(&ground, "patient.sh", &script))
            .set("drain_timeout", 0)
            .set("kill_grace", "0.1")
            .target("short", 1)
            .target("long", 1)
            .own(
                "long",
                "kill_sequence",
                "INT,300ms,USR1,300ms,TERM,300ms,KILL",
            );
        let (mut jobd, worker) = start(&ground, &ini).await;
        let short = ground.insert("short", &[]).await;
        let long = ground.insert("long", &[]).await;
        until("both to have set their traps", PATIENCE, async || {
            [short, long]
                .iter()
                .all(|id| said(*id) == "ready\n")
                .then_some(())
        })
        .await;
        assert!(jobd.process.terminate().await.success());
        nobody_is_left(&worker).await;
        assert_eq!(said(short), "ready\nterm\n");
        assert_eq!(said(long), "ready\nint\nusr\nterm\n");
        for id in [short, long] {
            let row = ground.words(id, &["status", "interruptions"]).await;
            assert_eq!(row, "waiting 1", "what a shutdown cuts short goes back");
        }
    }
}

#[tokio::test]
async fn the_members_of_a_group_get_their_time_also_when_its_leader_has_gone() {
    let ground = Ground::mysql().await;
    let marker = ground.scratch.join("child-ended-well");
    // The leader ends at once, its child needs a moment to clean up, which must not be cut short.
    let script = format!(
        "(trap 'sleep 0.3; echo well >{0}; exit 0' TERM; echo ready; while :; do sleep 0.01; done) &\n\
         trap 'exit 3' TERM\nwhile :; do sleep 0.01; done",
        marker.display()
    );
    let ini = ground
        .ini()
        .set("launcher", launcher(&ground, "cleans-up.sh", &script))
        .set("timeout", "0.5s")
        .set("kill_sequence", "TERM,20s,KILL")
        .target("a", 1);
    let (_jobd, worker) = start(&ground, &ini).await;
    let begun = Instant::now();
    let id = ground.insert("a", &[]).await;
    assert_eq!(ground.verdict(id).await, "fail 3 - timeout");
    assert!(
        marker.exists(),
        "the child was killed before it had cleaned up"
    );
    assert!(
        begun.elapsed() < Duration::from_secs(15),
        "it was waited for after all had ended"
    );
    nobody_is_left(&worker).await;
}

#[tokio::test]
async fn what_a_frozen_worker_has_not_read_is_no_silence() {
    let ground = Ground::sqlite().await;
    let said = ground.scratch.join("said");
    let script = format!(
        "i=0\nwhile [ $i -lt 60 ]; do echo $i | tee -a {}; sleep 0.1; i=$((i + 1)); done",
        said.display()
    );
    let ini = ground
        .ini()
        .set("idle_timeout", "1s")
        .set("launcher", launcher(&ground, "talks.sh", &script))
        .target("a", 8);
    let (mut jobd, _) = start(&ground, &ini).await;
    let mut ids = Vec::new();
    for _ in 0..8 {
        ids.push(ground.insert("a", &[]).await);
    }
    let lines = || std::fs::read_to_string(&said).map_or(0, |text| text.lines().count());
    until("the jobs to talk", PATIENCE, async || {
        (lines() > 40).then_some(())
    })
    .await;
    jobd.process.signal(Signal::STOP);
    // More than a second, as each says something ten times a second at most.
    until("the jobs to go on", PATIENCE, async || {
        (lines() > 250).then_some(())
    })
    .await;
    jobd.process.signal(Signal::CONT);
    for id in ids {
        assert_eq!(ground.verdict(id).await, "ok 0 - -");
    }
}
