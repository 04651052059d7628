//! The order of claims on tables with priorities.

use super::*;
use crate::store::floors::{LOOK_BACK, SHARE};

pub(super) async fn higher_priorities_are_claimed_first(mut ground: Ground) {
    ground.insert("mail", false, 8).await;
    ground
        .run("UPDATE jobs SET priority = CASE id % 4 WHEN 1 THEN -5 WHEN 2 THEN 0 WHEN 3 THEN 7 ELSE 32767 END")
        .await;
    let mut taken = Vec::new();
    // The first claims are full: each goes on behind the one before it.
    let begun = Instant::now();
    for _ in 0..2 {
        let jobs = ground.claim("mail", 3).await;
        taken.extend(jobs.iter().map(|job| job.id.0));
    }
    assert_eq!(taken, [4, 8, 3, 7, 2, 6]);
    // What comes meanwhile with a higher priority, or comes back, is found by the next look from the first entry on,
    // and what is left of each.
    ground.insert("mail", false, 3).await;
    ground
        .run("UPDATE jobs SET priority = CASE id WHEN 9 THEN 1 WHEN 10 THEN 0 ELSE -9 END WHERE id > 8")
        .await;
    ground
        .run("UPDATE jobs SET status = 'waiting', worker = NULL WHERE id = 7")
        .await;
    tokio::time::sleep(LOOK_BACK.max(begun.elapsed() * SHARE)).await;
    let jobs = ground.claim("mail", 4).await;
    let order: Vec<(u64, i64)> = jobs
        .iter()
        .map(|job| (job.id.0, job.terms.priority))
        .collect();
    assert_eq!(order, [(7, 7), (9, 1), (10, 0), (1, -5)]);
    let rest = ground.claim("mail", 9).await;
    assert_eq!(ids(&rest), [JobId(5), JobId(11)]);
}
