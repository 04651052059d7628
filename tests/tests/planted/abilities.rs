//! Bugs of what single columns and settings add, which show without any fault.

use std::time::Duration;

use jobd_tests::chaos::checker::{Breach, Promise};
use jobd_tests::chaos::job::{LOUD, OUTPUT_FILE, Plan};
use jobd_tests::chaos::options::Table;
use jobd_tests::chaos::scene::Scene;
use jobd_tests::chaos::stage;
use jobd_tests::{Server, until};
use serde_json::json;
use tokio::time::timeout;

use crate::act::{Act, PATIENCE, begun, caught};

/// Has a worker run what there is.
async fn run(scene: &mut Scene, act: &Act) -> Vec<Breach> {
    act.strike();
    let worker = scene.start(&scene.worker("w1"), act.variables).await;
    scene.settle(&worker, act.limit).await;
    scene.verdict([worker]).await
}

#[tokio::test]
async fn a_promotion_before_its_time_is_caught() {
    let server = Server::shared().await;
    caught(
        plant!("promotion-before-its-time"),
        Promise::NothingEarly,
        async |act| {
            let mut scene = Scene::on_server(&server, Table::Full, &[("quick", 6)]).await;
            scene.insert_later(6, "quick", 3).await;
            run(&mut scene, act).await
        },
    )
    .await;
}

#[tokio::test]
async fn an_end_without_its_usage_is_caught() {
    let server = Server::shared().await;
    caught(
        plant!("end-without-its-usage"),
        Promise::TrueVerdict,
        async |act| {
            let mut scene = Scene::on_server(&server, Table::Full, &[("quick", 6)]).await;
            scene.insert(10, "quick", "waiting", 1).await;
            run(&mut scene, act).await
        },
    )
    .await;
}

/// Some of these jobs fail, and may run again.
#[tokio::test]
async fn a_failure_that_is_forgotten_is_caught() {
    let server = Server::shared().await;
    caught(
        plant!("failure-that-is-forgotten"),
        Promise::TrueVerdict,
        async |act| {
            let mut scene = Scene::on_server(&server, Table::Full, &[("quick", 6)]).await;
            scene.insert(40, "quick", "waiting", 2).await;
            run(&mut scene, act).await
        },
    )
    .await;
}

#[tokio::test]
async fn an_output_file_without_its_last_byte_is_caught() {
    let server = Server::shared().await;
    caught(
        plant!("output-file-without-its-last-byte"),
        Promise::TrueVerdict,
        async |act| {
            let mut scene = Scene::on_server(&server, Table::Minimal, &[(LOUD, 2)]).await;
            scene.insert(6, LOUD, "waiting", 1).await;
            let file = stage::outputs(&scene.scratch).join(OUTPUT_FILE);
            let ini = scene.worker("w1").set("output_file", file.display());
            act.strike();
            let worker = scene.start(&ini, act.variables).await;
            scene.settle(&worker, act.limit).await;
            scene.verdict([worker]).await
        },
    )
    .await;
}

/// A job that failed is to run again, and another one with its key waits by then.
#[tokio::test]
async fn a_refused_retry_taken_for_success_is_caught() {
    const TARGET: &str = "1000";
    let server = Server::shared().await;
    let fails = |id: &u64| !matches!(Plan::of(*id, TARGET).code, 0 | 75);
    let id = (1..1_000).find(fails).expect("some fail");
    caught(
        plant!("refused-retry-taken-for-success"),
        Promise::NothingLost,
        async |act| {
            let mut scene = Scene::on_server(&server, Table::Full, &[(TARGET, 1)]).await;
            scene.insert_unique(id, TARGET, "key", 2).await;
            let worker = scene.start(&scene.worker("w1"), act.variables).await;
            begun(&scene, 1).await;
            // What has been claimed would not be in its way.
            worker.ask("pause", json!({})).await;
            act.strike();
            scene.insert_unique(id + 1, TARGET, "key", 1).await;
            let written = until("its end to be written", PATIENCE, async || {
                let running = scene.jobs.ids("status = 'running'").await;
                running.is_empty().then_some(())
            });
            // With the bug it never is.
            let _ = timeout(Duration::from_secs(3), written).await;
            worker.ask("continue", json!({})).await;
            scene.settle(&worker, act.limit).await;
            scene.verdict([worker]).await
        },
    )
    .await;
}
