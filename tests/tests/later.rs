//! Rows for later run on time, without anybody's poke: real workers, real clocks.

use futures::future::join_all;
use jobd_tests::ground::Ground;
use jobd_tests::wait::PATIENCE;
use jobd_tests::{Ini, Jobd, Master, until};
use serde_json::json;

/// What a start may be late, in seconds: one until the look, the rest because clocks of seconds are cut off and the
/// machine is busy.
const LATE: i64 = 3;

/// A worker that looks for rows by itself at its start only.
fn worker(ground: &Ground) -> Ini {
    ground.ini().set("poll_interval", 0)
}

async fn a_row_runs_at_its_time_without_a_poke(ground: Ground) {
    let ini = worker(&ground).set("launcher", "true").target("a", 20);
    let jobd = Jobd::ready(&ground.scratch, &ini).await;
    ground
        .insert(
            "a",
            &[
                ("id", "13"),
                ("status", "'scheduled'"),
                ("run_at", &ground.in_seconds(3600)),
            ],
        )
        .await;
    // Nobody has said when.
    ground
        .insert("a", &[("id", "14"), ("status", "'scheduled'")])
        .await;
    let base = ground.number(14, ground.now()).await;
    let times = (1..=12_u64).zip(base..base + 12);
    for (id, run_at) in times.clone() {
        let run_at = run_at.to_string();
        ground
            .insert(
                "a",
                &[
                    ("id", &id.to_string()),
                    ("status", "'scheduled'"),
                    ("run_at", &run_at),
                ],
            )
            .await;
    }
    for (id, run_at) in times {
        ground.reaches(id, "done").await;
        let started = ground.number(id, "time_started").await;
        assert!(
            (run_at..=run_at + LATE).contains(&started),
            "{started}, to be run at {run_at}"
        );
        assert_eq!(ground.text(id, "run_at").await, None);
    }
    for id in [13, 14] {
        assert_eq!(
            ground.text(id, "status").await.as_deref(),
            Some("scheduled")
        );
    }
    assert!(jobd.stop().await.success());
}

#[tokio::test]
async fn a_row_runs_at_its_time_without_a_poke_on_a_server() {
    a_row_runs_at_its_time_without_a_poke(Ground::mysql().await).await;
}

#[tokio::test]
async fn a_row_runs_at_its_time_without_a_poke_in_a_file() {
    a_row_runs_at_its_time_without_a_poke(Ground::sqlite().await).await;
}

/// The row of a target that this worker does not serve is `waiting` in time all the same, for whoever does.
#[tokio::test]
async fn whoever_is_up_promotes_every_row() {
    let ground = Ground::mysql().await;
    let ini = worker(&ground).set("launcher", "true").target("a", 1);
    let jobd = Jobd::ready(&ground.scratch, &ini).await;
    ground
        .insert(
            "elsewhere",
            &[
                ("id", "1"),
                ("status", "'scheduled'"),
                ("run_at", &ground.in_seconds(1)),
            ],
        )
        .await;
    ground.reaches(1, "waiting").await;
    assert_eq!(ground.text(1, "run_at").await, None);
    assert!(jobd.stop().await.success());
}

/// Two workers, of which each serves other targets and finds the rows of both: those of the other it has to tell the
/// master of, as nobody looks for rows by himself here.
#[tokio::test]
async fn rows_of_others_are_poked_about() {
    let ground = Ground::mysql().await;
    let master = Ini::listen().set("poke_throttle_interval", "0.1");
    let master_port = master.port();
    let master = Master::start(&ground.scratch, &master).await;
    let mut workers = Vec::new();
    for (name, target) in [("w1", "a"), ("w2", "b")] {
        let ini = worker(&ground)
            .set("name", name)
            .set("master_host", "127.0.0.1")
            .set("master_port", master_port)
            .set("launcher", "true")
            .target(target, 5);
        workers.push(Jobd::ready(&ground.scratch, &ini).await);
    }
    Master::has_workers(&master, 2).await;
    // Many, so that it would be a wonder if each worker always found its own first.
    for id in 1..=24_u64 {
        let target = if id % 2 == 0 { "a" } else { "b" };
        let run_at = ground.in_seconds(id / 2 % 6);
        ground
            .insert(
                target,
                &[
                    ("id", &id.to_string()),
                    ("status", "'scheduled'"),
                    ("run_at", &run_at),
                ],
            )
            .await;
    }
    until("every row to be done", PATIENCE, async || {
        let left = ground
            .number(1, "(SELECT COUNT(*) FROM jobs WHERE status <> 'done')")
            .await;
        (left == 0).then_some(())
    })
    .await;
    for worker in workers {
        assert!(worker.stop().await.success());
    }
    assert!(master.stop().await.success());
}

/// Two workers of which only one serves the target (a master tells it what the other has found), of which both do, and of
/// which the one that was there first has gone: five of six rows begin within a second of their time, and none before it.
#[tokio::test]
async fn rows_begin_within_a_second_whichever_worker_is_up() {
    let mut cases = Vec::new();
    for (served, stop) in [
        (["b", "a"], false),
        (["a", "b"], false),
        (["a", "a"], false),
        (["a", "a"], true),
    ] {
        for ground in Ground::each().await {
            cases.push((ground, served, stop));
        }
    }
    let cases = cases.iter();
    join_all(cases.map(async |(ground, served, stop)| on_time(ground, *served, *stop).await)).await;
}

async fn on_time(ground: &Ground, served: [&str; 2], stop: bool) {
    const ROWS: u64 = 12;
    let master = Ini::listen().set("poke_throttle_interval", "0.1");
    let master_port = master.port();
    let master = Master::start(&ground.scratch, &master).await;
    let moments = ground.scratch.join("moments-");
    let launcher = format!("sh -c 'date +%s.%N >{}{{id}}'", moments.display());
    let mut workers = Vec::new();
    for (name, target) in ["w1", "w2"].into_iter().zip(served) {
        let ini = worker(ground)
            .set("name", name)
            .set("master_host", "127.0.0.1")
            .set("master_port", master_port)
            .set("launcher", &launcher)
            .target(target, 4);
        workers.push(Jobd::ready(&ground.scratch, &ini).await);
    }
    Master::has_workers(&master, 2).await;
    ground
        .insert("a", &[("id", "99"), ("status", "'ignored'")])
        .await;
    let base = ground.number(99, ground.now()).await + 1;
    for id in 1..=ROWS {
        let run_at = base + i64::try_from(id / 2).expect("a small number");
        let row = [
            ("id", &*id.to_string()),
            ("status", "'scheduled'"),
            ("run_at", &*run_at.to_string()),
        ];
        ground.insert("a", &row).await;
    }
    if stop {
        ground.reaches(3, "done").await;
        assert!(workers.remove(0).stop().await.success());
    }
    let mut late = Vec::new();
    for id in 1..=ROWS {
        ground.reaches(id, "done").await;
        let began = std::fs::read_to_string(format!("{}{id}", moments.display()));
        let began: f64 = began.expect("a time").trim().parse().expect("a number");
        let run_at = base + i64::try_from(id / 2).expect("a small number");
        late.push(began - f64::from(i32::try_from(run_at).expect("before 2038")));
    }
    late.sort_by(f64::total_cmp);
    let told = format!("{served:?}, the first one stops: {stop}, late: {late:.2?}");
    println!("{told}");
    assert!(late[0] >= 0.0, "{told}");
    assert!(late[late.len() * 5 / 6 - 1] <= 1.0, "{told}");
    for worker in workers {
        assert!(worker.stop().await.success());
    }
    assert!(master.stop().await.success());
}

/// What a client asks for in vain: a row for later is not manual.
#[tokio::test]
async fn a_row_for_later_is_not_run_by_hand() {
    let ground = Ground::mysql().await;
    let ini = worker(&ground).set("launcher", "true").target("a", 1);
    let jobd = Jobd::ready(&ground.scratch, &ini).await;
    ground
        .insert(
            "a",
            &[
                ("id", "1"),
                ("status", "'scheduled'"),
                ("run_at", &ground.in_seconds(3600)),
            ],
        )
        .await;
    let reply = jobd.ask("run-manual", json!({"ids": [1]})).await;
    assert_eq!(
        reply["errors"]["1"], "status = scheduled != manual",
        "{reply}"
    );
    jobd.ask("poll", json!({})).await;
    assert_eq!(ground.text(1, "status").await.as_deref(), Some("scheduled"));
    assert!(jobd.stop().await.success());
}
