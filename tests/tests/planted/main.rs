//! The proof can fail: eighteen bugs, each planted in one place of jobd, each with the fault that makes it show.
//! The checker finds it; the same fault without the bug breaks no promise.

mod act;

use std::time::{Duration, Instant};

use jobd_tests::chaos::checker::Promise;
use jobd_tests::chaos::job::{HIDDEN, STUCK};
use jobd_tests::chaos::line::Mode;
use jobd_tests::chaos::options::Table;
use jobd_tests::chaos::scene::Scene;
use jobd_tests::server::Durability;
use jobd_tests::template::Flavour;
use jobd_tests::{Server, until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tokio::time::{sleep, timeout};

use self::act::{PATIENCE, begun, caught, stopped, would_overlap};

macro_rules! plant {
    ($bug:literal) => {
        &[("JOBD_PLANT", $bug)]
    };
}

mod abilities;

/// A server that has no SKIP LOCKED, as far as workers know, leaves claims to their guard: one worker has
/// read what waits, another one claims and runs it, then the first one goes on.
#[tokio::test]
async fn a_claim_without_its_status_guard_is_caught() {
    let server = Server::start(Durability::ThrowAway, &[]).await;
    if server.flavour() == Flavour::MySql {
        println!("left out: MySQL cannot be made to say that it is older than it is");
        return;
    }
    drop(server);
    let old = ["--version=10.5.99-MariaDB"];
    let server = Server::start(Durability::ThrowAway, &old).await;
    caught(
        plant!("claim-without-status"),
        Promise::NothingTwice,
        async |act| {
            let mut scene = Scene::on_server(&server, Table::Minimal, &[("500", 1)]).await;
            scene.insert(1, "500", "waiting", 1).await;
            let slow = [act.variables, &[("JOBD_STOP_AT", "claim-selected")]].concat();
            let mut slow = scene.start(&scene.worker("w1"), &slow).await;
            stopped(&slow).await;
            let quick = scene.start(&scene.worker("w2"), act.variables).await;
            begun(&scene, 1).await;
            act.strike();
            slow.process.signal(Signal::CONT);
            scene.settle(&quick, act.limit).await;
            scene.verdict([slow, quick]).await
        },
    )
    .await;
}

/// The answers to the COMMITs of a start are lost, so it is written again and again.
#[tokio::test]
async fn a_start_without_its_status_guard_is_caught() {
    let server = Server::shared().await;
    caught(
        plant!("start-without-status"),
        Promise::TrueVerdict,
        async |act| {
            let mut scene = Scene::on_server(&server, Table::Full, &[("100", 1)]).await;
            let (line, ini) = scene.over_a_line(scene.worker("w1")).await;
            let variables = [act.variables, &[("JOBD_STOP_AT", "start-before-commit")]].concat();
            let mut worker = scene.start(&ini, &variables).await;
            scene.insert(1, "100", "waiting", 1).await;
            stopped(&worker).await;
            act.strike();
            line.set(Mode::LosesCommitAnswers);
            worker.process.signal(Signal::CONT);
            until("a start to be written again", PATIENCE, async || {
                (line.lost() > 2).then_some(())
            })
            .await;
            line.set(Mode::Open);
            scene.settle(&worker, act.limit).await;
            scene.verdict([worker]).await
        },
    )
    .await;
}

/// An application withdraws a job by hand while it runs.
#[tokio::test]
async fn a_finish_without_its_status_guard_is_caught() {
    let server = Server::shared().await;
    caught(
        plant!("finish-without-status"),
        Promise::HandsOff,
        async |act| {
            let mut scene = Scene::on_server(&server, Table::Minimal, &[("600", 1)]).await;
            let worker = scene.start(&scene.worker("w1"), act.variables).await;
            let id = scene.insert(1, "600", "waiting", 1).await[0];
            begun(&scene, 1).await;
            act.strike();
            scene.withdraw(id, "running").await;
            // The next job has the slot when the end of this one has been dealt with.
            scene.insert(1, "600", "waiting", 1).await;
            begun(&scene, 2).await;
            scene.settle(&worker, act.limit).await;
            scene.verdict([worker]).await
        },
    )
    .await;
}

/// A worker is cut off until its job has been rescued and runs again, and then writes its own end of it.
#[tokio::test]
async fn a_finish_without_the_token_is_caught() {
    let server = Server::shared().await;
    caught(
        plant!("finish-without-token"),
        Promise::TrueVerdict,
        async |act| {
            let mut scene = Scene::on_server(&server, Table::Full, &[("3000", 1)]).await;
            let ini = scene.worker("w1").set("lease", 6);
            let (line, ini) = scene.over_a_line(ini).await;
            let first = scene.start(&ini, act.variables).await;
            scene.insert(1, "3000", "waiting", 3).await;
            begun(&scene, 1).await;
            let ini = scene.worker("w2").set("lease", 6);
            let second = scene.start(&ini, act.variables).await;
            scene.lose(&first);
            act.strike();
            line.set(Mode::Cut);
            begun(&scene, 2).await;
            line.set(Mode::Open);
            scene.settle(&second, act.limit).await;
            scene.verdict([first, second]).await
        },
    )
    .await;
}

/// A worker is frozen for half a lease.
#[tokio::test]
async fn a_rescue_before_a_full_lease_is_caught() {
    let server = Server::shared().await;
    caught(
        plant!("rescue-before-a-full-lease"),
        Promise::NothingTwice,
        async |act| {
            let mut scene = Scene::on_server(&server, Table::Full, &[("6000", 1)]).await;
            let worker = |name| scene.worker(name).set("lease", 9);
            let (one, two) = (worker("w1"), worker("w2"));
            let mut first = scene.start(&one, act.variables).await;
            scene.insert(1, "6000", "waiting", 3).await;
            begun(&scene, 1).await;
            let second = scene.start(&two, act.variables).await;
            act.strike();
            first.process.signal(Signal::STOP);
            // The guard would act after 4.5 s at the earliest, as the last renewal may be as old as 3.75 s. The other one
            // looks every 3 s.
            would_overlap(&scene, 2, Duration::from_millis(4_200)).await;
            first.process.signal(Signal::CONT);
            scene.settle(&second, act.limit).await;
            scene.verdict([first, second]).await
        },
    )
    .await;
}

/// A restarted worker is about to resolve what it left; before it does, the row is rescued by another one,
/// which runs it.
#[tokio::test]
async fn a_rescue_that_names_no_lease_is_caught() {
    let server = Server::shared().await;
    caught(
        plant!("rescue-that-names-no-lease"),
        Promise::NothingTwice,
        async |act| {
            let mut scene = Scene::on_server(&server, Table::Full, &[("3000", 1)]).await;
            let worker = |name| scene.worker(name).set("lease", 4);
            let (one, two) = (worker("w1"), worker("w2"));
            let mut first = scene.start(&one, act.variables).await;
            scene.insert(1, "3000", "waiting", 5).await;
            begun(&scene, 1).await;
            let mut second = scene.start(&two, act.variables).await;
            scene.lose(&first);
            act.strike();
            first.process.kill();
            let late = [act.variables, &[("JOBD_STOP_AT", "rescue-before")]].concat();
            let mut third = scene.start(&one, &late).await;
            stopped(&third).await;
            begun(&scene, 2).await;
            // So that it cannot notice at once that its row is gone.
            second.process.signal(Signal::STOP);
            third.process.signal(Signal::CONT);
            would_overlap(&scene, 3, Duration::from_millis(1_300)).await;
            second.process.signal(Signal::CONT);
            scene.settle(&second, act.limit).await;
            scene.verdict([second, third]).await
        },
    )
    .await;
}

/// The COMMIT of an end never reaches the server.
#[tokio::test]
async fn a_lost_commit_taken_for_success_is_caught() {
    let server = Server::shared().await;
    caught(
        plant!("lost-commit-taken-for-success"),
        Promise::NothingLost,
        async |act| {
            let mut scene = Scene::on_server(&server, Table::Minimal, &[("600", 1)]).await;
            let (line, ini) = scene.over_a_line(scene.worker("w1")).await;
            let worker = scene.start(&ini, act.variables).await;
            scene.insert(1, "600", "waiting", 1).await;
            begun(&scene, 1).await;
            act.strike();
            let before = line.lost();
            line.set(Mode::LosesCommits);
            until("the end of the job", PATIENCE, async || {
                (scene.running() == 0).then_some(())
            })
            .await;
            until("its COMMIT to be lost", PATIENCE, async || {
                (line.lost() > before).then_some(())
            })
            .await;
            line.set(Mode::Open);
            scene.settle(&worker, act.limit).await;
            scene.verdict([worker]).await
        },
    )
    .await;
}

/// The answer to a renewal is late, and the worker is frozen right after it: its guard must end the job
/// before a rescuer may act that has seen the renewal at once.
#[tokio::test]
async fn a_renewal_measured_from_its_answer_is_caught() {
    const LEASE: Duration = Duration::from_secs(12);
    const LONG: &str = "35000-500";
    let server = Server::shared().await;
    caught(
        plant!("renewal-measured-from-the-answer"),
        Promise::NothingTwice,
        async |act| {
            let targets = &[(LONG, 1), ("quick", 1)];
            let mut scene = Scene::on_server(&server, Table::Full, targets).await;
            let worker = |name| scene.worker(name).set("lease", LEASE.as_secs());
            let (two, one) = (worker("w2"), worker("w1"));
            let (line, one) = scene.over_a_line(one).await;
            let mut rescuer = scene.start(&two, act.variables).await;
            rescuer
                .ask("pause", json!({"targets": [LONG, "quick"]}))
                .await;
            let mut holder = scene.ready(&one, act.variables).await;
            // A renewal falls on the moment of the first job and every third of a lease later, a look of the holder
            // on that of its start: apart, as they share a connection.
            sleep(LEASE * 13 / 100).await;
            scene.insert(1, LONG, "waiting", 3).await;
            begun(&scene, 1).await;
            // Its next look is due when it is thawed.
            rescuer.process.signal(Signal::STOP);
            let lease_until = async || scene.jobs.database().number("lease_until").await;
            let renewed = async || {
                let before = lease_until().await;
                while lease_until().await == before {
                    sleep(Duration::from_millis(5)).await;
                }
            };
            // Between a look and a renewal, if this machine is quick enough; else the next time.
            let mut held = false;
            while !held {
                renewed().await;
                sleep(LEASE * 28 / 100).await;
                act.strike();
                line.set(Mode::HoldsAnswers);
                held = timeout(LEASE / 6, renewed()).await.is_ok();
                if !held {
                    line.set(Mode::Open);
                }
            }
            rescuer.process.signal(Signal::CONT);
            // Below a sixth, after which the holder would give up waiting for the answer; above a twelfth, by which its
            // guard is early.
            sleep(LEASE * 14 / 100).await;
            line.set(Mode::Open);
            let quick = scene.insert(1, "quick", "waiting", 1).await[0];
            scene.jobs.database().done(quick).await;
            holder.process.signal(Signal::STOP);
            scene.lose(&holder);
            rescuer
                .ask("continue", json!({"targets": [LONG, "quick"]}))
                .await;
            would_overlap(&scene, 3, PATIENCE).await;
            holder.process.signal(Signal::CONT);
            scene.settle(&rescuer, act.limit).await;
            scene.verdict([holder, rescuer]).await
        },
    )
    .await;
}

/// A trigger refuses the end of every job for a while.
#[tokio::test]
async fn a_slot_that_is_freed_before_the_write_is_caught() {
    let server = Server::shared().await;
    caught(
        plant!("slot-freed-before-the-write"),
        Promise::Limits,
        async |act| {
            let mut scene = Scene::on_server(&server, Table::Minimal, &[("quick", 1)]).await;
            let refuse = "CREATE TRIGGER refuse BEFORE UPDATE ON jobs FOR EACH ROW \
                      IF NEW.status = 'done' THEN SIGNAL SQLSTATE '45000'; END IF";
            act.strike();
            scene.jobs.run(refuse).await;
            let worker = scene.start(&scene.worker("w1"), act.variables).await;
            scene.insert(4, "quick", "waiting", 1).await;
            until("an end to be refused", PATIENCE, async || {
                worker.process.log().contains("cannot write").then_some(())
            })
            .await;
            let since = Instant::now();
            while scene.look_at_running("quick").await < 3
                && since.elapsed() < Duration::from_secs(2)
            {
                sleep(Duration::from_millis(20)).await;
            }
            scene.jobs.run("DROP TRIGGER refuse").await;
            scene.settle(&worker, PATIENCE).await;
            scene.verdict([worker]).await
        },
    )
    .await;
}

/// A worker is asked to end while manual jobs wait for its only slot.
#[tokio::test]
async fn a_drain_that_forgets_accepted_rows_is_caught() {
    let server = Server::shared().await;
    caught(
        plant!("drain-forgets-accepted-rows"),
        Promise::NothingLost,
        async |act| {
            let mut scene = Scene::on_server(&server, Table::Minimal, &[("1000", 1)]).await;
            let first = scene.start(&scene.worker("w1"), act.variables).await;
            let ids = scene.insert(3, "1000", "manual", 1).await;
            let client = scene.ask_for(first.addr, &ids);
            begun(&scene, 1).await;
            until("two rows accepted", PATIENCE, async || {
                (scene.jobs.ids("status = 'accepted'").await.len() == 2).then_some(())
            })
            .await;
            act.strike();
            assert!(first.stop().await.success());
            let answer = client.await.expect("a task");
            scene.note(answer);
            let next = scene.start(&scene.worker("w2"), act.variables).await;
            scene.settle(&next, act.limit).await;
            scene.verdict([next]).await
        },
    )
    .await;
}

/// Jobs of which some fail, each of them allowed a second try.
#[tokio::test]
async fn a_retry_without_an_attempt_left_is_caught() {
    let server = Server::shared().await;
    caught(
        plant!("retry-without-an-attempt-left"),
        Promise::NothingTwice,
        async |act| {
            let mut scene = Scene::on_server(&server, Table::Full, &[("quick", 6)]).await;
            scene.insert(40, "quick", "waiting", 2).await;
            act.strike();
            let worker = scene.start(&scene.worker("w1"), act.variables).await;
            scene.settle(&worker, act.limit).await;
            scene.verdict([worker]).await
        },
    )
    .await;
}

/// Kills what jobs have left behind, where the planted bug does not.
fn clean_up(scene: &Scene) {
    for run in scene.runs().iter().filter(|run| run.target == HIDDEN) {
        let line = std::fs::read(format!("/proc/{}/cmdline", run.pid)).unwrap_or_default();
        let pid = i32::try_from(run.pid).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid.filter(|_| String::from_utf8_lossy(&line).contains(HIDDEN)) {
            // It may have ended since.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// A job takes too long, and has started a process that has left its group.
#[tokio::test]
async fn a_stop_that_leaves_who_left_the_group_is_caught() {
    let server = Server::shared().await;
    caught(
        plant!("stop-leaves-who-left-the-group"),
        Promise::NothingLeftBehind,
        async |act| {
            let mut scene = Scene::on_server(&server, Table::Full, &[(STUCK, 2)]).await;
            scene.insert(2, STUCK, "waiting", 2).await;
            scene.jobs.run("UPDATE jobs SET timeout = 1").await;
            act.strike();
            let worker = scene.start(&scene.worker("w1"), act.variables).await;
            // Both attempts of both, and what each leaves.
            begun(&scene, 8).await;
            scene.settle(&worker, act.limit).await;
            let breaches = scene.verdict([worker]).await;
            clean_up(&scene);
            breaches
        },
    )
    .await;
}

/// A job that may run again is cancelled while it runs.
#[tokio::test]
async fn a_cancelled_job_that_runs_again_is_caught() {
    let server = Server::shared().await;
    caught(
        plant!("cancelled-job-runs-again"),
        Promise::NothingTwice,
        async |act| {
            let mut scene = Scene::on_server(&server, Table::Full, &[(STUCK, 1)]).await;
            let ids = scene.insert(1, STUCK, "waiting", 3).await;
            let worker = scene.start(&scene.worker("w1"), act.variables).await;
            begun(&scene, 2).await;
            act.strike();
            scene.cancel(ids[0]).await;
            scene.settle(&worker, act.limit).await;
            let breaches = scene.verdict([worker]).await;
            clean_up(&scene);
            breaches
        },
    )
    .await;
}
