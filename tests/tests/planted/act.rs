//! A scene, played with a bug and without it.

use std::cell::Cell;
use std::time::{Duration, Instant};

use jobd_tests::chaos::checker::{Breach, Promise};
use jobd_tests::chaos::scene::Scene;
use jobd_tests::programs::Daemon;
use jobd_tests::until;
use tokio::time::{sleep, timeout};

/// So long after the fault a planted bug must have been caught.
pub const CATCH_LIMIT: Duration = Duration::from_secs(20);

/// Without a bug every job ends; on a loaded machine, late.
pub const PATIENCE: Duration = Duration::from_secs(40);

/// The observer looks every 20 ms, and not as often on a loaded machine.
pub const SEEN: Duration = Duration::from_millis(200);

/// One performance of a scene.
pub struct Act {
    pub variables: &'static [(&'static str, &'static str)],
    /// How long jobs may take to end when everything else is over: those of a planted bug may never.
    pub limit: Duration,
    /// When the fault began.
    struck: Cell<Instant>,
}

impl Act {
    pub fn new(variables: &'static [(&'static str, &'static str)], limit: Duration) -> Self {
        let struck = Cell::new(Instant::now());
        Self {
            variables,
            limit,
            struck,
        }
    }

    /// The fault begins.
    pub fn strike(&self) {
        self.struck.set(Instant::now());
    }
}

/// Plays a scene with the bug, and without it.
pub async fn caught(
    plant: &'static [(&'static str, &'static str)],
    promise: Promise,
    scene: impl AsyncFn(&Act) -> Vec<Breach>,
) {
    let sound = Act::new(&[], PATIENCE);
    let planted = Act::new(plant, Duration::from_secs(6));
    let with_bug = async {
        let breaches = scene(&planted).await;
        (breaches, planted.struck.get().elapsed())
    };
    let (without, (with, after)) = tokio::join!(scene(&sound), with_bug);
    println!("{}: caught after {after:.1?}: {with:#?}", plant[0].1);
    assert!(without.is_empty(), "without the bug: {without:#?}");
    assert!(
        with.iter().any(|breach| breach.promise == promise),
        "with the bug, no breach of {promise:?}: {with:#?}"
    );
    assert!(after < CATCH_LIMIT, "caught after {after:?}");
}

/// Waits until so many runs have begun.
pub async fn begun(scene: &Scene, count: usize) {
    until(&format!("{count} runs"), PATIENCE, async || {
        (scene.runs().len() >= count).then_some(())
    })
    .await;
}

/// Waits until so many runs have begun and the observer has seen the former ones beside the last, or until `limit`:
/// without the bug they never begin.
pub async fn would_overlap(scene: &Scene, count: usize, limit: Duration) {
    let overlap = async {
        begun(scene, count).await;
        sleep(SEEN).await;
    };
    let _ = timeout(limit, overlap).await;
}

/// Waits until a worker has stopped itself.
pub async fn stopped(worker: &Daemon) {
    let path = format!("/proc/{}/stat", worker.process.id());
    until("the worker to stop itself", PATIENCE, async || {
        let stat = std::fs::read_to_string(&path).expect("it runs");
        let state = stat.rsplit_once(") ").expect("a state").1;
        state.starts_with('T').then_some(())
    })
    .await;
}
