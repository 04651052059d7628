//! Real processes, and whoever floods them with orders.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::FutureExt as _;
use jobd_proto::{JobId, TargetName};
use tokio::sync::oneshot;

use super::*;
use crate::fate::Retries;
use crate::job::{Origin, Terms, Tokens};
use crate::launcher::{Attempt, Template};
use crate::per_target::{PerTarget, TargetSettings};
use crate::reports::Reports;

/// How this shell script ends while others send it signals as fast as they can, and how long it takes from its exit.
async fn flooded(script: &str, leak_timeout: Duration) -> (End, Duration) {
    let template = Template::parse(script).unwrap();
    let settings = TargetSettings {
        launcher: LauncherSettings {
            leak_timeout,
            ..LauncherSettings::new(template)
        },
        retries: Retries::default(),
    };
    let launcher = Launcher::new(
        &PerTarget::new(settings, BTreeMap::new()),
        std::env::vars_os(),
        "w",
        Arc::new(|_| async { Ok(None) }.boxed()),
        Reports::nowhere(),
    );
    let job = Job {
        id: JobId(1),
        target: TargetName::new("t").unwrap(),
        origin: Origin::Background,
        token: Tokens::new("w", "h", 1).next(Origin::Background),
        attempt: 1,
        interruptions: 0,
        again: false,
        terms: Terms::default(),
    };
    let (done, outcome) = oneshot::channel();
    let begun = Instant::now();
    let attempt = Attempt::start(&launcher, job, None, |outcome| {
        drop(done.send(outcome));
    });
    let (attempt, over) = (Arc::new(attempt), Arc::new(AtomicBool::new(false)));
    let floods = [(); 2].map(|()| {
        let (attempt, over) = (attempt.clone(), over.clone());
        std::thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                attempt.order(Order::Signal(0, oneshot::channel().0));
            }
        })
    });
    let outcome = tokio::time::timeout(Duration::from_secs(20), outcome).await;
    over.store(true, Ordering::Relaxed);
    for flood in floods {
        flood.join().unwrap();
    }
    match outcome.expect("it ends").unwrap() {
        Outcome::Ended(end) => (end, begun.elapsed()),
        Outcome::NoRoom(error) => panic!("{error}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_orders_hides_no_output_and_prolongs_no_wait_for_it() {
    let late = "sh -c '(sleep 0.3; echo late) & echo early'";
    let (end, _) = flooded(late, Duration::from_secs(5)).await;
    assert_eq!(end.stdout.head, b"early\nlate\n");
    let left = "sh -c '(sleep 30; echo late) & echo early'";
    // It was more than five seconds with the flood. The best of three, as the machine may have much else to do.
    let mut shortest = Duration::MAX;
    for _ in 0..3 {
        let (end, took) = flooded(left, Duration::from_secs(1)).await;
        assert_eq!(end.stdout.head, b"early\n");
        shortest = shortest.min(took);
        if shortest < Duration::from_secs(3) {
            return;
        }
    }
    panic!("{shortest:?}");
}
