//! A whole cluster: one master, three workers on one table, background and manual jobs at once.
//! The outside witness says that each job ran exactly once and that no limit was exceeded.

use std::time::Duration;

use futures::future::join_all;
use jobd_tests::programs::Daemon;
use jobd_tests::{Ini, Jobd, Master, Row, Scratch, Server, WitnessLog};
use serde_json::json;

const BACKGROUND: usize = 2_000;
const MANUAL: usize = 50;
const CLIENTS: usize = 5;
const SHARED_SLOTS: u32 = 4;
const OWN_SLOTS: u32 = 2;
const WORKERS: [&str; 3] = ["w1", "w2", "w3"];
/// Exit codes of the jobs are `id % CODES`, so that most of them fail in their own way.
const CODES: u32 = 7;
const LIMIT: Duration = Duration::from_mins(3);

#[tokio::test]
async fn each_job_of_a_busy_cluster_runs_once_within_its_limits_under_load() {
    let scratch = Scratch::new();
    let witness = WitnessLog::new(&scratch);
    let database = Server::shared().await.database().await;
    database.minimal_table().await;
    let master_ini = Ini::listen().set("log_level_console", "info");
    let master = Master::start(&scratch, &master_ini).await;
    let workers = join_all(WORKERS.map(|name| {
        let ini = Ini::worker(&database)
            .set("name", name)
            .set("log_level_console", "info")
            .set("master_host", "127.0.0.1")
            .set("master_port", master_ini.port())
            .set("launcher", witness.launcher(name, 5, CODES))
            .target("shared", SHARED_SLOTS)
            .target(&format!("own-{name}"), OWN_SLOTS);
        let scratch = &scratch;
        async move { Jobd::start(scratch, &ini).await }
    }))
    .await;
    Master::has_workers(&master, WORKERS.len()).await;

    let targets = ["shared", "own-w1", "shared", "own-w2", "shared", "own-w3"];
    let mut background = Vec::new();
    let mut manual = Vec::new();
    for (round, target) in targets.iter().cycle().take(20).enumerate() {
        background.extend(database.insert(BACKGROUND / 20, target, "waiting").await);
        let held = database.insert(MANUAL / 10, target, "manual").await;
        if round % 4 < 2 {
            manual.extend(held.into_iter().map(|id| (id, *target)));
        }
        assert_eq!(master.ask("poke", json!({"targets": [target]})).await, "ok");
        if round == 9 {
            run_by_hand(&master, &manual[..MANUAL / 2]).await;
        }
    }
    run_by_hand(&master, &manual[MANUAL / 2..]).await;
    assert_eq!((background.len(), manual.len()), (BACKGROUND, MANUAL));

    jobd_tests::until("the background jobs to be done", LIMIT, async || {
        let counts = database.counts().await;
        (counts.get("done") == Some(&((BACKGROUND + MANUAL) as u64))).then_some(())
    })
    .await;
    let ran = background.iter().chain(manual.iter().map(|(id, _)| id));
    witness.assert_each_once(ran.copied());
    assert_limits(&witness);
    for row in database.rows().await {
        if row.status == "manual" {
            // Held back by the test: nobody asked for these.
            assert_eq!(row.verdict(), ("manual", None, None, None));
        } else {
            assert_right(&row);
        }
    }
    for worker in workers {
        assert!(worker.stop().await.success());
    }
    assert!(master.stop().await.success());
}

/// Several clients at once, each with its part of the jobs; every outcome is in the answer.
async fn run_by_hand(master: &Daemon, jobs: &[(u64, &str)]) {
    let parts = jobs.chunks(jobs.len().div_ceil(CLIENTS));
    join_all(parts.map(async |part| {
        let asked: Vec<_> = part
            .iter()
            .map(|(id, target)| json!({"id": id, "target": target}))
            .collect();
        let reply = master.ask("run-manual", json!({"jobs": asked})).await;
        assert!(reply.get("errors").is_none(), "{reply}");
        for (id, _) in part {
            let code = id % u64::from(CODES);
            let result = if code == 0 { "ok" } else { "fail" };
            let expected = json!({
                "result": result, "code": code, "signal": null,
                "stdout": format!("out {id}\n"), "stderr": format!("err {id}\n"),
            });
            assert_eq!(reply["jobs"][id.to_string()], expected);
        }
    }))
    .await;
}

fn assert_limits(witness: &WitnessLog) {
    let most = witness.most_at_once();
    for worker in WORKERS {
        let of = |target: &str| most.get(&(worker.to_owned(), target.to_owned())).copied();
        let shared = of("shared").unwrap_or(0);
        let own = of(&format!("own-{worker}")).unwrap_or(0);
        assert!((1..=SHARED_SLOTS).contains(&shared), "{worker}: {most:?}");
        assert!((1..=OWN_SLOTS).contains(&own), "{worker}: {most:?}");
    }
    assert_eq!(most.len(), 2 * WORKERS.len(), "ran elsewhere: {most:?}");
}

fn assert_right(row: &Row) {
    let code = i64::try_from(row.id % u64::from(CODES)).expect("small");
    let result = if code == 0 { "ok" } else { "fail" };
    assert_eq!(
        row.verdict(),
        ("done", Some(result), Some(code), None),
        "job {}",
        row.id
    );
    assert_eq!(row.out(), format!("out {}\n", row.id));
    assert_eq!(row.err(), format!("err {}\n", row.id));
    assert!(
        row.time_started > 0 && row.time_finished >= row.time_started,
        "job {}",
        row.id
    );
}

#[tokio::test]
async fn results_larger_than_any_clients_frame_pass_through_the_master_measured() {
    const EACH: usize = 15_000_000;
    const JOBS: usize = 3;
    let scratch = Scratch::new();
    let database = Server::shared().await.database().await;
    database.minimal_table().await;
    let master_ini = Ini::listen().set("log_level_console", "info");
    let master = Master::start(&scratch, &master_ini).await;
    let script = scratch.write("loud.sh", format!("yes \"line of $1\" | head -c {EACH}"));
    let ini = Ini::worker(&database)
        .set("log_level_console", "info")
        .set("master_host", "127.0.0.1")
        .set("master_port", master_ini.port())
        .set("launcher", format!("sh {} {{id}}", script.display()))
        .target("a", 3);
    let _jobd = Jobd::ready(&scratch, &ini).await;
    Master::has_workers(&master, 1).await;
    let ids = database.insert(JOBS, "a", "manual").await;
    let asked: Vec<_> = ids
        .iter()
        .map(|id| json!({"id": id, "target": "a"}))
        .collect();
    let reply = master.ask("run-manual", json!({"jobs": asked})).await;
    for id in ids {
        let line = format!("line of {id}\n");
        let mut expected = line.repeat(EACH / line.len() + 1);
        expected.truncate(EACH);
        let printed = reply["jobs"][id.to_string()]["stdout"].as_str();
        assert!(
            printed.expect("an outcome") == expected,
            "job {id} came back changed"
        );
        assert!(
            database.row(id).await.out() == expected,
            "row {id} is not what was printed"
        );
    }
}
