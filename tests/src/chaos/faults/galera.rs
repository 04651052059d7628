//! Faults of a Galera cluster, of its nodes and of the way to them. All but the last leave the cluster as an
//! operator who knows Galera would.

use std::time::Duration;

use rustix::process::Signal;
use tokio::sync::MutexGuard;
use tokio::time::{Instant, sleep};

use super::Outcome;
use crate::chaos::line::Mode;
use crate::chaos::random::Random;
use crate::chaos::stage::{Stage, WORKERS};
use crate::galera::{ALL, Cluster, EVICTED_AFTER, NODES};

/// How long to wait for a COMMIT to spoil.
const COMMIT_LIMIT: Duration = Duration::from_secs(3);

/// How late a COMMIT may be, in milliseconds.
const LATEST_MS: u64 = 1_500;

async fn cluster(stage: &Stage) -> MutexGuard<'_, Cluster> {
    stage
        .cluster
        .as_ref()
        .expect("only on a cluster")
        .lock()
        .await
}

/// In half of the cases before the others notice, or before they exclude the node; else long after.
fn absence(random: &mut Random) -> Duration {
    let excluded = u64::try_from(EVICTED_AFTER.as_millis()).expect("seconds");
    match random.index(4) {
        0 => random.millis(100, 1_000),
        1 => random.millis(1_000, excluded * 3 / 4),
        _ => random.millis(excluded, excluded * 2),
    }
}

pub(super) async fn node_killed(stage: &Stage, random: &mut Random) -> Outcome {
    let node = [random.index(NODES)];
    let mut cluster = cluster(stage).await;
    cluster.kill(&node);
    sleep(absence(random)).await;
    if random.one_in(4) {
        cluster.start_empty(&node).await;
    } else {
        cluster.start_again(&node).await;
    }
    Outcome::default()
}

/// The third refuses everything (error 1047) until it has a majority again, or is told that it is one.
pub(super) async fn two_killed(stage: &Stage, random: &mut Random) -> Outcome {
    let left = random.index(NODES);
    let killed: Vec<usize> = ALL.filter(|node| *node != left).collect();
    let mut cluster = cluster(stage).await;
    cluster.kill(&killed);
    sleep(random.millis(200, 4_000)).await;
    if random.one_in(2) {
        // The survivor has to notice first that it is alone.
        cluster.is_alone(left).await;
        cluster.bootstrap(left).await;
        sleep(random.millis(0, 2_000)).await;
        // Their last commits may not be the cluster's any more.
        cluster.start_empty(&killed).await;
    } else {
        cluster.start_again(&killed).await;
    }
    Outcome::default()
}

pub(super) async fn all_killed(stage: &Stage, random: &mut Random) -> Outcome {
    let mut cluster = cluster(stage).await;
    cluster.kill(&ALL.collect::<Vec<_>>());
    sleep(random.millis(0, 2_000)).await;
    cluster.start_from_most_advanced().await;
    Outcome::default()
}

pub(super) async fn node_frozen(stage: &Stage, random: &mut Random) -> Outcome {
    let node = [random.index(NODES)];
    let mut cluster = cluster(stage).await;
    cluster.signal(&node, Signal::STOP);
    sleep(absence(random)).await;
    cluster.signal(&node, Signal::CONT);
    settled(&mut cluster).await
}

/// It lives, and its clients reach it; the other nodes do not.
pub(super) async fn node_cut_off(stage: &Stage, random: &mut Random) -> Outcome {
    let node = random.index(NODES);
    let mut cluster = cluster(stage).await;
    cluster.provider(node, "gmcast.isolate=1").await;
    sleep(absence(random)).await;
    cluster.provider(node, "gmcast.isolate=0").await;
    settled(&mut cluster).await
}

/// Nobody has a majority.
pub(super) async fn all_cut_off(stage: &Stage, random: &mut Random) -> Outcome {
    let mut cluster = cluster(stage).await;
    for node in ALL {
        cluster.provider(node, "gmcast.isolate=1").await;
    }
    sleep(absence(random)).await;
    for node in ALL {
        cluster.provider(node, "gmcast.isolate=0").await;
    }
    settled(&mut cluster).await
}

/// As a backup does: the node applies nothing for a while. Where it has not been taken out of the flow
/// control first, it soon stops all of them.
pub(super) async fn node_locked(stage: &Stage, random: &mut Random, desync: bool) -> Outcome {
    let node = random.index(NODES);
    let mut cluster = cluster(stage).await;
    let mut connection = cluster
        .connection(node)
        .await
        .expect("a connection to a node");
    if desync {
        cluster.run(node, "SET GLOBAL wsrep_desync = ON").await;
    }
    let locked = sqlx::raw_sql("FLUSH TABLES WITH READ LOCK")
        .execute(&mut connection)
        .await;
    sleep(random.millis(500, 4_000)).await;
    drop(connection);
    if desync {
        cluster.run(node, "SET GLOBAL wsrep_desync = OFF").await;
    }
    Outcome {
        provoked: Some((u64::from(locked.is_ok()), "locked")),
        ..settled(&mut cluster).await
    }
}

/// Its connections break, and the next ones lead to another node.
pub(super) async fn worker_moved(stage: &Stage, random: &mut Random) -> Outcome {
    let balancer = stage.balancer.as_ref().expect("only on a cluster");
    let worker = random.index(WORKERS.len());
    let moves = random.between(1, 6);
    for _ in 0..moves {
        let other =
            (balancer.home(worker) + 1 + random.index(balancer.nodes() - 1)) % balancer.nodes();
        balancer.move_to(worker, other);
        sleep(random.millis(5, 500)).await;
    }
    Outcome {
        worker: Some(worker),
        provoked: Some((moves, "moves")),
        ..Outcome::default()
    }
}

/// A worker loses its connection over a COMMIT and asks another node what became of it, while the COMMIT is
/// still on its way to the former one.
pub(super) async fn commit_late(stage: &Stage, random: &mut Random) -> Outcome {
    let balancer = stage.balancer.as_ref().expect("only on a cluster");
    let worker = random.index(WORKERS.len());
    let line = &stage.database_line.0[worker];
    let before = line.lost();
    balancer.lead_new_to(worker, (balancer.home(worker) + 1) % balancer.nodes());
    line.set(Mode::LateCommits(random.millis(20, LATEST_MS)));
    let begun = Instant::now();
    while line.lost() == before && begun.elapsed() < COMMIT_LIMIT {
        sleep(Duration::from_millis(1)).await;
    }
    line.set(Mode::Open);
    sleep(Duration::from_millis(LATEST_MS)).await;
    Outcome {
        worker: Some(worker),
        provoked: Some(((line.lost() - before).into(), "COMMITs late")),
        ..Outcome::default()
    }
}

/// A mistake: the majority is lost, and the cluster goes on from a node that had been cut off before. What
/// the others committed meanwhile is gone, by the operator's word.
pub(super) async fn bootstrapped_behind(stage: &Stage, random: &mut Random) -> Outcome {
    let left = random.index(NODES);
    let killed: Vec<usize> = ALL.filter(|node| *node != left).collect();
    let mut cluster = cluster(stage).await;
    cluster.provider(left, "gmcast.isolate=1").await;
    sleep(EVICTED_AFTER + random.millis(500, 2_000)).await;
    cluster.kill(&killed);
    cluster.provider(left, "gmcast.isolate=0").await;
    cluster.bootstrap(left).await;
    cluster.start_empty(&killed).await;
    Outcome::default()
}

async fn settled(cluster: &mut Cluster) -> Outcome {
    cluster.all_well().await;
    Outcome::default()
}
