//! The output of a running job, seen from elsewhere while it runs: whole where it is read in time, counted where it
//! is not, and never at the cost of the job.

mod beside;
mod client;
mod draining;
mod jobctl;
mod queued;
mod sqlite;
mod world;

use std::time::{Duration, Instant};

use jobd_tests::ground::Ground;
use jobd_tests::wait::PATIENCE;
use jobd_tests::{Ini, Jobd, Master, until};
use rustix::process::Signal;
use serde_json::json;

use self::client::Following;
use self::world::World;

#[tokio::test]
async fn several_see_both_streams_and_the_end_through_worker_and_master() {
    let world = World::new().await;
    let script = "echo one; echo two >&2; wait go; echo three; exit 3";
    let (master, jobd) = world.with_master(world.script(script)).await;
    let id = world.running(&jobd).await;
    let mut followers = Vec::new();
    for addr in [jobd.addr, master.addr, master.addr] {
        followers.push(Following::begin(addr, json!({"id": id})).await);
    }
    for follower in &mut followers {
        follower
            .until(|seen| !seen.out.is_empty() && !seen.err.is_empty())
            .await;
        let running = json!({"state": "running", "attempt": 1});
        assert_eq!(follower.seen.states, [running]);
        assert_eq!(follower.seen.out(), "one\n");
        assert_eq!(follower.seen.err(), "two\n");
    }
    world.go_on("go");
    for follower in &mut followers {
        let last = follower.last().await;
        assert_eq!(last, json!({"state": "done", "result": "fail", "code": 3}));
        assert_eq!(
            (follower.seen.out().as_str(), follower.seen.missed),
            ("one\nthree\n", 0)
        );
        let row = world.database.row(id).await;
        assert_eq!(row.verdict(), ("done", Some("fail"), Some(3), None));
    }
    // The connections are as good as before.
    for follower in &mut followers {
        follower.wire.ask("status", json!({})).await;
    }
}

#[tokio::test]
async fn who_comes_late_begins_with_the_tail_and_knows_what_was_before() {
    let world = World::new().await;
    let script = "printf '%0300d' 7; printf 'early' >&2; wait go; printf 'late'";
    let jobd = Jobd::ready(&world.scratch, &world.script(script)).await;
    let id = world.running(&jobd).await;
    let mut first = Following::begin(jobd.addr, json!({"id": id})).await;
    first
        .until(|seen| seen.out.len() == 300 && seen.err.len() == 5)
        .await;
    let mut short = Following::begin(jobd.addr, json!({"id": id, "tail": 3})).await;
    short
        .until(|seen| seen.out() == "007" && seen.err() == "rly")
        .await;
    assert_eq!(short.seen.missed, 297 + 2);
    let mut none = Following::begin(jobd.addr, json!({"id": id, "tail": 0})).await;
    none.until(|seen| !seen.states.is_empty()).await;
    world.go_on("go");
    none.last().await;
    assert_eq!((none.seen.out().as_str(), none.seen.missed), ("late", 305));
    short.last().await;
    assert_eq!(short.seen.out(), "007late");
}

#[tokio::test]
async fn any_bytes_come_through_and_text_stays_text() {
    let world = World::new().await;
    let script = r"wait go; printf 'a\000b\004\377'; printf '\303' >&2; wait rest; printf '\251\342\202' >&2";
    let (master, jobd) = world.with_master(world.script(script)).await;
    let id = world.running(&jobd).await;
    let mut follower = Following::begin(master.addr, json!({"id": id})).await;
    follower.until(|seen| !seen.states.is_empty()).await;
    world.go_on("go");
    follower.until(|seen| seen.out.len() == 5).await;
    world.go_on("rest");
    follower.last().await;
    assert_eq!(follower.seen.out, b"a\0b\x04\xff");
    assert_eq!(follower.seen.err, b"\xc3\xa9\xe2\x82");
}

#[tokio::test]
async fn a_job_that_has_not_started_says_so_or_is_waited_for() {
    let world = World::new().await;
    let (master, jobd) = world.with_master(world.script("echo $1; wait go")).await;
    // What it has looked for at its start would be claimed.
    jobd.ask("pause", json!({})).await;
    let manual = world.database.insert_one("a", "manual").await;
    let id = world.waiting().await;
    for addr in [jobd.addr, master.addr] {
        for (id, state) in [(id, "waiting"), (manual, "manual")] {
            // A claim that was under way at the pause gives its row back.
            until(&format!("job {id} to be {state}"), PATIENCE, async || {
                let mut follower = Following::begin(addr, json!({"id": id})).await;
                (follower.last().await == json!({"state": state})).then_some(())
            })
            .await;
        }
        let mut nobody = Following::begin(addr, json!({"id": 999_999})).await;
        assert_eq!(nobody.end().await["error"], "job 999999 not found");
    }
    let mut followers = Vec::new();
    for addr in [jobd.addr, master.addr] {
        let mut follower = Following::begin(addr, json!({"id": id, "wait": true})).await;
        let waiting = json!({"state": "waiting"});
        follower
            .until(|seen| seen.states.last() == Some(&waiting))
            .await;
        followers.push(follower);
    }
    jobd.ask("continue", json!({})).await;
    for follower in &mut followers {
        follower.until(|seen| seen.out() == format!("{id}\n")).await;
        let running = json!({"state": "running", "attempt": 1});
        assert_eq!(follower.seen.states.last(), Some(&running));
    }
    world.go_on("go");
    for follower in &mut followers {
        let done = json!({"state": "done", "result": "ok", "code": 0});
        assert_eq!(follower.last().await, done);
    }
    for addr in [jobd.addr, master.addr] {
        let mut late = Following::begin(addr, json!({"id": id, "wait": true})).await;
        let done = json!({"state": "done", "result": "ok", "code": 0});
        assert_eq!((late.last().await, late.seen.messages), (done, 0));
    }
}

#[tokio::test]
async fn jobs_that_end_at_once_are_seen_whole_by_those_who_wait() {
    const JOBS: usize = 40;
    let world = World::new().await;
    let (master, jobd) = world.with_master(world.script("echo job $1")).await;
    jobd.ask("pause", json!({})).await;
    let ids = world.database.insert(JOBS, "a", "waiting").await;
    let mut followers = Vec::new();
    for id in &ids {
        let addr = if id % 2 == 0 { jobd.addr } else { master.addr };
        let mut follower = Following::begin(addr, json!({"id": id, "wait": true})).await;
        follower.until(|seen| !seen.states.is_empty()).await;
        followers.push(follower);
    }
    jobd.ask("continue", json!({})).await;
    for (id, follower) in ids.iter().zip(&mut followers) {
        assert_eq!(follower.last().await["state"], "done");
        assert_eq!(follower.seen.out(), format!("job {id}\n"));
    }
}

#[tokio::test]
async fn one_that_never_reads_costs_the_job_nothing_and_the_worker_little_measured() {
    const PRINTED: u64 = 200 << 20;
    let world = World::new().await;
    let script = format!("wait $1; yes 0123456789abcde | head -c {PRINTED}");
    let ini = world.script(&script).set("max_output_buffer", 1 << 20);
    let (master, jobd) = world.with_master(ini).await;
    let mut times = Vec::new();
    for followed in [false, true] {
        let id = world.running(&jobd).await;
        let mut deaf = Vec::new();
        let mut reader = None;
        if followed {
            for addr in [jobd.addr, master.addr, jobd.addr, master.addr] {
                deaf.push(Following::begin(addr, json!({"id": id})).await);
            }
            for follower in &mut deaf {
                follower.until(|seen| !seen.states.is_empty()).await;
            }
            let mut follower = Following::begin(master.addr, json!({"id": id})).await;
            follower.until(|seen| !seen.states.is_empty()).await;
            reader = Some(follower);
        }
        let before = jobd.process.rss_kib() + master.process.rss_kib();
        jobd.process.reset_peak();
        master.process.reset_peak();
        let begun = Instant::now();
        world.go_on(&id.to_string());
        let read = async {
            let Some(reader) = &mut reader else { return };
            reader.last().await;
            let came = reader.seen.out.len() as u64;
            println!(
                "a reader got {came} bytes, {} were counted",
                reader.seen.missed
            );
            assert_eq!(came + reader.seen.missed, PRINTED);
        };
        let done = async {
            world.database.done(id).await;
            times.push(begun.elapsed());
        };
        tokio::join!(read, done);
        let peak = jobd.process.peak_rss_kib() + master.process.peak_rss_kib();
        println!(
            "followed: {followed}: {:?}, {before} to {peak} KiB",
            begun.elapsed()
        );
        assert!(peak < before + (24 << 10), "{before} to {peak} KiB");
        drop(deaf);
    }
    assert!(
        times[1] < times[0] * 8 + Duration::from_secs(3),
        "not followed, followed: {times:?}"
    );
}

#[tokio::test]
async fn a_worker_that_is_killed_in_the_middle_ends_the_stream_with_an_error() {
    let world = World::new().await;
    let (master, mut jobd) = world.with_master(world.script("echo one; wait go")).await;
    let id = world.running(&jobd).await;
    let mut follower = Following::begin(master.addr, json!({"id": id})).await;
    follower.until(|seen| seen.out() == "one\n").await;
    jobd.process.kill();
    let error = follower.end().await["error"].clone();
    let error = error.as_str().expect("an error");
    assert!(
        error.starts_with("worker '")
            && error.ends_with("disconnected before the job ended; look at the row"),
        "{error}"
    );
    let mut nobody = Following::begin(master.addr, json!({"id": id})).await;
    let error = nobody.end().await["error"].clone();
    assert_eq!(error, "no worker that could be asked is registered");
    world.go_on("go");
}

#[tokio::test]
async fn the_second_of_two_workers_is_found() {
    let world = World::new().await;
    let ini = world.script("echo $JOBD_WORKER; wait go");
    // The paused one may have the row for a moment, and give it back.
    let ini = ini.set("poll_interval", 1);
    let (master, first) = world.with_master(ini.clone().set("name", "w1")).await;
    let port = master.addr.port();
    let second = ini
        .set("name", "w2")
        .set("port", Ini::listen().port())
        .set("master_host", "127.0.0.1")
        .set("master_port", port);
    let second = Jobd::ready(&world.scratch, &second).await;
    Master::has_workers(&master, 2).await;
    master.ask("pause", json!({})).await;
    let mut waits = Vec::new();
    for (worker, other, name) in [(&first, &second, "w1@"), (&second, &first, "w2@")] {
        let id = world.waiting().await;
        let mut follower = Following::begin(master.addr, json!({"id": id, "wait": true})).await;
        follower.until(|seen| !seen.states.is_empty()).await;
        worker.ask("continue", json!({})).await;
        follower.until(|seen| !seen.out.is_empty()).await;
        worker.ask("pause", json!({})).await;
        assert!(follower.seen.out().starts_with(name), "{:?}", follower.seen);
        waits.push(follower);
        let mut astray = Following::begin(other.addr, json!({"id": id})).await;
        let last = astray.last().await;
        let holder = last["worker"].as_str().expect("who has it");
        assert!(
            last["state"] == "running" && holder.starts_with(name),
            "{last}"
        );
    }
    world.go_on("go");
    for mut follower in waits {
        assert_eq!(follower.last().await["state"], "done");
    }
}

#[tokio::test]
async fn followers_are_few_and_leave_no_trace() {
    const MOST: usize = 16;
    let world = World::new().await;
    let (master, jobd) = world.with_master(world.script("echo one; wait go")).await;
    let id = world.running(&jobd).await;
    for addr in [jobd.addr, master.addr] {
        // More than once around: places are free again.
        let mut followers = Vec::new();
        for _ in 0..MOST {
            let mut follower = Following::begin(addr, json!({"id": id})).await;
            follower.until(|seen| seen.out() == "one\n").await;
            followers.push(follower);
        }
        let mut refused = Following::begin(jobd.addr, json!({"id": id})).await;
        let error = refused.end().await["error"].clone();
        assert_eq!(error, format!("{MOST} clients follow job {id} already"));
        // One stays connected and says that he has seen enough; the others hang up.
        let mut polite = followers.pop().expect("sixteen");
        polite
            .wire
            .say(r#"[0,{"no":2,"type":"stream","data":{"no":1,"more":0}}]"#)
            .await;
        assert_eq!(polite.wire.frame().await, r#"[1,{"no":2,"data":"ok"}]"#);
        assert_eq!(polite.end().await["error"], "stopped as asked");
        drop(followers);
        until("places to be free", PATIENCE, async || {
            let mut follower = Following::begin(jobd.addr, json!({"id": id})).await;
            follower.step().await.is_ok().then_some(())
        })
        .await;
    }
    world.go_on("go");
    world.database.done(id).await;
}

#[tokio::test]
async fn a_window_is_kept_and_widened() {
    let world = World::new().await;
    let script = "i=0; while [ $i -lt 50 ]; do echo $i; sleep 0.01; i=$((i+1)); done; wait go";
    let jobd = Jobd::ready(&world.scratch, &world.script(script)).await;
    let id = world.running(&jobd).await;
    let mut follower = Following::begin(jobd.addr, json!({"id": id, "window": 2})).await;
    follower.until(|seen| seen.messages == 2).await;
    let mut all = Following::begin(jobd.addr, json!({"id": id})).await;
    all.until(|seen| seen.out().ends_with("\n49\n")).await;
    // An answer to a later request overtakes what nobody has asked for.
    follower.wire.say(r#"[0,{"no":2,"type":"status"}]"#).await;
    let frame = follower.wire.frame().await;
    assert!(frame.starts_with(r#"[1,{"no":2,"#), "{frame}");
    let wider = r#"[0,{"no":1,"type":"stream","data":{"no":1,"more":60}}]"#;
    follower.wire.say(wider).await;
    assert_eq!(follower.wire.frame().await, r#"[1,{"no":1,"data":"ok"}]"#);
    world.go_on("go");
    assert_eq!(follower.last().await["state"], "done");
    assert_eq!(follower.seen.out(), all.seen.out());
}

#[tokio::test]
async fn nobody_is_held_up_when_a_daemon_stops() {
    let world = World::new().await;
    let (master, mut jobd) = world.with_master(world.script("echo one; wait go")).await;
    let id = world.running(&jobd).await;
    let later = world.database.insert_one("other", "waiting").await;
    let mut follower = Following::begin(master.addr, json!({"id": id})).await;
    follower.until(|seen| seen.out() == "one\n").await;
    let mut waiting = Following::begin(jobd.addr, json!({"id": later, "wait": true})).await;
    waiting.until(|seen| !seen.states.is_empty()).await;
    let begun = Instant::now();
    assert!(master.stop().await.success());
    println!("the master stopped in {:?}", begun.elapsed());
    assert!(
        begun.elapsed() < Duration::from_secs(4),
        "{:?}",
        begun.elapsed()
    );
    let error = follower.end().await["error"].clone();
    assert_eq!(error, "master is stopping: follow the job again");
    let mut direct = Following::begin(jobd.addr, json!({"id": id})).await;
    direct.until(|seen| seen.out() == "one\n").await;
    jobd.process.signal(Signal::TERM);
    world.go_on("go");
    assert_eq!(direct.last().await["state"], "done");
    assert_eq!(waiting.end().await["error"], "worker is shutting down");
    assert!(jobd.process.wait(PATIENCE).await.success());
}

#[tokio::test]
async fn nonsense_is_refused_and_harms_nothing() {
    let world = World::new().await;
    let (master, jobd) = world.with_master(world.script("echo one; wait go")).await;
    let id = world.running(&jobd).await;
    for daemon in [&jobd, &master] {
        for (data, error) in [
            (json!({}), "missing required field id"),
            (json!({"id": "1"}), "'id' must be integer"),
            (json!({"id": -1}), "'id' must be positive integer, got -1"),
            (
                json!({"id": id, "tail": -1}),
                "'tail' must not be negative, got -1",
            ),
            (json!({"id": id, "tail": 0.5}), "'tail' must be integer"),
        ] {
            let mut wire = daemon.wire().await;
            assert_eq!(wire.refused("follow", data).await, error);
        }
        let mut wire = daemon.wire().await;
        let error = wire.refused("stream", json!({"no": 7})).await;
        assert_eq!(error, "missing required field more");
        // Many that ask for nothing, and hang up at every point.
        for window in [0, -1, i64::MAX] {
            for _ in 0..40 {
                let data = json!({"id": id, "window": window, "tail": i64::MAX, "wait": [1]});
                drop(Following::begin(daemon.addr, data).await);
            }
        }
        until("a place to be free", PATIENCE, async || {
            let mut follower = Following::begin(daemon.addr, json!({"id": id})).await;
            follower.step().await.is_ok().then_some(())
        })
        .await;
    }
    world.go_on("go");
    let row = world.database.done(id).await;
    assert_eq!((row.result.as_deref(), row.out()), (Some("ok"), "one\n"));
}

#[tokio::test]
async fn a_job_that_is_fed_and_one_that_writes_to_a_file_are_seen_too() {
    for ground in Ground::each().await {
        let text = "dd bs=1 count=3 2>/dev/null; while [ ! -e $2/go ]; do sleep 0.02; done; cat; echo end >&2";
        let path = ground.scratch.write("job.sh", text);
        let folder = ground.scratch.join("");
        let launcher = format!("sh {} {{id}} {}", path.display(), folder.display());
        let file = ground.scratch.join("%t/%i.log");
        let ini = ground.ini().set("launcher", launcher).target("a", 4);
        let ini = ini
            .target("filed", 4)
            .own("filed", "output_file", file.display())
            .own("filed", "output_file_only", 1);
        let jobd = Jobd::ready(&ground.scratch, &ini).await;
        let mut followers = Vec::new();
        for target in ["a", "filed"] {
            let id = ground.insert_data(target, b"payload\n").await;
            let data = json!({"id": id, "wait": true});
            let mut follower = Following::begin(jobd.addr, data).await;
            follower.until(|seen| seen.out() == "pay").await;
            followers.push((id, follower));
        }
        ground.scratch.write("go", "");
        for (id, follower) in &mut followers {
            let done = json!({"state": "done", "result": "ok", "code": 0});
            assert_eq!(follower.last().await, done);
            assert_eq!(
                (
                    follower.seen.out(),
                    follower.seen.err(),
                    follower.seen.missed
                ),
                ("payload\n".to_owned(), "end\n".to_owned(), 0)
            );
            assert_eq!(ground.verdict(*id).await, "ok 0 - -");
        }
        let (filed, _) = followers[1];
        let log = ground.scratch.join(&format!("filed/{filed}.log"));
        let log = std::fs::read_to_string(log).expect("a log");
        // Two pipes have no order.
        assert_eq!(log.replacen("end\n", "", 1), "payload\n", "{log}");
        assert_eq!(ground.text(filed, "stdout").await.as_deref(), Some(""));
    }
}

#[tokio::test]
async fn ten_thousand_that_follow_what_is_not_there_cost_little() {
    const ASKED: u64 = 10_000;
    let world = World::new().await;
    let (master, jobd) = world.with_master(world.script("echo one; wait go")).await;
    let id = world.running(&jobd).await;
    for daemon in [&jobd, &master] {
        daemon.process.reset_peak();
        let before = daemon.process.rss_kib();
        let mut wire = daemon.wire().await;
        let (mut answered, mut sent) = (0, 0);
        while answered < ASKED {
            // As many at a time as a connection takes; half of them wait for a job that nobody will add.
            while sent < ASKED && sent < answered + 200 {
                let data =
                    json!({"id": 1_000_000 + sent, "wait": sent % 2 == 0, "window": sent % 3});
                let request = json!([0, {"no": sent + 1, "type": "follow", "data": data}]);
                wire.say(&request.to_string()).await;
                sent += 1;
            }
            let frame = wire.frame_within(PATIENCE * 4).await;
            if !frame.contains("\"more\":true") {
                answered += 1;
            }
            assert!(!frame.contains("\"running\""), "{frame}");
        }
        let peak = daemon.process.peak_rss_kib();
        println!("{before} to {peak} KiB");
        assert!(peak < before + (16 << 10), "{before} to {peak} KiB");
        let mut follower = Following::begin(daemon.addr, json!({"id": id})).await;
        follower.until(|seen| seen.out() == "one\n").await;
    }
    world.go_on("go");
    world.database.done(id).await;
}
