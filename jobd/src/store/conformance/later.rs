//! What rows for later and retries promise, on tables that have the columns for them.

use super::*;
use crate::fate::Again;

fn retry(job: &Job, after: u64, counted: bool) -> Batch {
    let again = Again {
        after: Duration::from_secs(after),
        counted,
    };
    let end = Finish {
        again: Some(again),
        stderr: "no é".into(),
        ..finish(job)
    };
    Batch {
        retries: vec![end],
        ..Batch::default()
    }
}

/// The database's clock.
async fn now(ground: &mut Ground) -> i64 {
    let probe = ground.insert("clock", false, 1).await;
    let job = ground.claim("clock", 1).await;
    ground.record(starts(&job)).await;
    ground.row(probe[0]).await.time_started
}

impl Ground {
    async fn started(&mut self, target: &str) -> Job {
        let jobs = self.claim(target, 1).await;
        self.record(starts(&jobs)).await;
        jobs[0].clone()
    }

    pub(super) async fn statuses(&mut self, ids: &[JobId]) -> Vec<String> {
        let mut statuses = Vec::new();
        for id in ids {
            statuses.push(self.row(*id).await.status);
        }
        statuses
    }
}

pub(super) async fn rows_whose_time_has_come_are_waiting_and_no_others(mut ground: Ground) {
    let all = ground.insert("mail", false, 5).await;
    let own = ground.insert("Other ", false, 1).await;
    let now = now(&mut ground).await;
    for (id, status, run_at) in [
        (all[0], "scheduled", (now - 100).to_string()),
        (all[1], "scheduled", (now + 3600).to_string()),
        (all[2], "scheduled", "NULL".to_owned()),
        (all[3], "ignored", (now - 100).to_string()),
        (all[4], "manual", (now - 100).to_string()),
        (own[0], "scheduled", now.to_string()),
    ] {
        ground
            .run(&format!(
                "UPDATE jobs SET status = '{status}', run_at = {run_at} WHERE id = {id}"
            ))
            .await;
    }
    let pending = ground.store.pending(vec![name("mail")]).await.unwrap();
    assert_eq!(pending, [], "a scheduled row is not to be claimed");
    let promoted = ground.store.promote().await.unwrap();
    let targets: Vec<&str> = promoted
        .targets
        .iter()
        .map(|target| target.trim_end())
        .collect();
    assert_eq!((targets, promoted.more), (vec!["Other", "mail"], false));
    let all = [&all[..], &own].concat();
    assert_eq!(
        ground.statuses(&all).await,
        [
            "waiting",
            "scheduled",
            "scheduled",
            "ignored",
            "manual",
            "waiting"
        ]
    );
    let row = ground.row(all[0]).await;
    assert_eq!(other(&row, "run_at"), None);
    assert_eq!(
        ground.store.promote().await.unwrap(),
        Promoted::default(),
        "once"
    );
}

pub(super) async fn rows_that_keep_a_moment_that_has_passed_are_told_of(mut ground: Ground) {
    ground.insert("mail", false, 300).await;
    ground
        .run("UPDATE jobs SET status = CASE WHEN id <= 150 THEN 'scheduled' ELSE 'done' END, run_at = 500 - id")
        .await;
    let problems = ground.store.inspect().await.unwrap().problems;
    let [problem] = &problems[..] else {
        panic!("{problems:?}");
    };
    assert!(
        !problem.fatal && problem.text.contains("150 rows"),
        "{problem}"
    );
    let ddl = problem.ddl.clone().unwrap();
    ground.run(&ddl).await;
    assert!(ground.store.inspect().await.unwrap().problems.is_empty());
    let promoted = ground.store.promote().await.unwrap();
    assert_eq!((promoted.targets.len(), promoted.more), (1, false));
    assert_eq!(ground.claim("mail", 999).await.len(), 150);
}

pub(super) async fn many_rows_whose_time_has_come_are_promoted_part_by_part(mut ground: Ground) {
    ground.insert("mail", false, 600).await;
    ground
        .run("UPDATE jobs SET status = 'scheduled', run_at = 5")
        .await;
    let stores: Vec<Arc<dyn Store>> = (0..3).map(|_| open(&ground.settings, LEASE)).collect();
    let looks = stores.iter().map(|store| async move {
        store.inspect().await.unwrap();
        while store.promote().await.unwrap().more {}
    });
    futures::future::join_all(looks).await;
    while ground.store.promote().await.unwrap().more {}
    assert_eq!(ground.claim("mail", 999).await.len(), 600);
}

pub(super) async fn a_claimed_row_stands_in_no_index_of_later(mut ground: Ground) {
    let id = ground.insert("mail", false, 1).await[0];
    ground.run("UPDATE jobs SET run_at = 5").await;
    ground.claim("mail", 1).await;
    assert_eq!(other(&ground.row(id).await, "run_at"), None);
}

pub(super) async fn a_retry_schedules_its_row_once_and_says_how_it_failed(mut ground: Ground) {
    let id = ground.insert("mail", false, 1).await[0];
    let now = now(&mut ground).await;
    let job = ground.started("mail").await;
    let first = retry(&job, 3600, true);
    assert_eq!(ground.record(first.clone()).await.retried, [true]);
    assert_eq!(
        ground.record(first.clone()).await.retried,
        [true],
        "a repeated write finds its first try"
    );
    let row = ground.row(id).await;
    assert_eq!(
        (row.status.as_str(), row.result.as_deref()),
        ("scheduled", None)
    );
    assert_eq!((row.return_code, row.time_started), (Some(3), 0));
    assert_eq!(row.stderr.as_deref(), Some("no é"));
    assert_eq!(other(&row, "cpu_ms"), Some("1500"));
    for column in ["worker", "lease_until"] {
        assert_eq!(other(&row, column), None, "{column}");
    }
    let run_at: i64 = other(&row, "run_at").unwrap().parse().unwrap();
    assert!((now + 3599..now + 3700).contains(&run_at), "{run_at} {now}");

    ground
        .run("UPDATE jobs SET run_at = 5 WHERE run_at > 0")
        .await;
    ground.store.promote().await.unwrap();
    let job = ground.started("mail").await;
    assert_eq!(job.attempt, 2);
    assert_eq!(
        ground.record(first).await.retried,
        [false],
        "the claim that it was about is over"
    );
    assert_eq!(ground.row(id).await.status, "running");
    ground.record(retry(&job, 0, false)).await;
    let row = ground.row(id).await;
    let number = |column| other(&row, column).unwrap().parse::<i64>().unwrap();
    assert_eq!((number("attempts"), number("interruptions")), (2, 1));
    let errors: serde_json::Value = serde_json::from_str(other(&row, "errors").unwrap()).unwrap();
    assert_eq!(errors[0]["attempt"], 1);
    assert_eq!(errors[1]["attempt"], 2);
    for (key, value) in [("worker", "w@h"), ("reason", "exit"), ("stderr", "no é")] {
        assert_eq!(errors[1][key], value);
    }
    assert!(errors[1]["time"].as_i64().unwrap() >= now);
    assert_eq!(ground.store.promote().await.unwrap().targets.len(), 1);
}

/// What `errors` says: attempt, reason and exit code of each.
async fn failures(ground: &mut Ground, id: JobId) -> Vec<(u64, String, Option<i64>)> {
    let row = ground.row(id).await;
    let errors = other(&row, "errors").unwrap_or("[]");
    let errors: Vec<serde_json::Value> = serde_json::from_str(errors).unwrap();
    let entry = |entry: &serde_json::Value| {
        assert_eq!(entry["worker"], "w@h");
        let reason = entry["reason"].as_str().unwrap().to_owned();
        (
            entry["attempt"].as_u64().unwrap(),
            reason,
            entry["code"].as_i64(),
        )
    };
    errors.iter().map(entry).collect()
}

pub(super) async fn errors_of_any_length_give_way_unread(mut ground: Ground) {
    ground.insert("mail", false, 1).await;
    let job = ground.started("mail").await;
    let long = format!("[{}0]", "0,".repeat(50_000));
    ground
        .run(&format!("UPDATE jobs SET errors = '{long}'"))
        .await;
    ground.record(finishes(std::slice::from_ref(&job))).await;
    let last = [(1, "exit".to_owned(), Some(3))];
    assert_eq!(failures(&mut ground, job.id).await, last);
}

pub(super) async fn errors_has_every_attempt_that_failed(mut ground: Ground) {
    let failed = |attempt| (attempt, "exit".to_owned(), Some(3));
    let orphaned = |attempt| (attempt, "orphaned".to_owned(), None);
    let ids = ground.insert("mail", false, 2).await;
    let jobs = ground.claim("mail", 2).await;
    ground.record(starts(&jobs)).await;
    let good = Finish {
        result: JobResult::Ok,
        code: Some(0),
        reason: None,
        ..finish(&jobs[1])
    };
    let both = Batch {
        finishes: vec![finish(&jobs[0]), good],
        ..Batch::default()
    };
    for _ in 0..2 {
        assert_eq!(ground.record(both.clone()).await.finished, [true, true]);
        assert_eq!(failures(&mut ground, ids[0]).await, [failed(1)], "the last");
        assert_eq!(other(&ground.row(ids[1]).await, "errors"), None);
    }

    let id = ground.insert("mail", false, 1).await[0];
    ground.run("UPDATE jobs SET max_attempts = 3").await;
    let job = ground.started("mail").await;
    ground.record(retry(&job, 0, true)).await;
    ground.store.promote().await.unwrap();
    let lease = async |ground: &mut Ground| ground.store.leases().await.unwrap().remove(0);
    ground.started("mail").await;
    let mut stale = lease(&mut ground).await;
    stale.until += 1;
    assert_eq!(ground.store.rescue(stale).await.unwrap(), None);
    assert_eq!(failures(&mut ground, id).await, [failed(1)], "it goes on");
    for (attempt, fate) in [(2, "waiting again"), (3, "done, fail")] {
        let orphan = lease(&mut ground).await;
        let rescued = ground.store.rescue(orphan.clone()).await.unwrap();
        assert_eq!(rescued, Some(fate));
        let last = failures(&mut ground, id).await.pop();
        assert_eq!(last, Some(orphaned(attempt)));
        assert_eq!(ground.store.rescue(orphan).await.unwrap(), None);
        if attempt == 2 {
            let job = ground.started("mail").await;
            assert_eq!(job.attempt, 3);
            ground.run("UPDATE jobs SET max_attempts = 2").await;
        }
    }
    let known = [failed(1), orphaned(2), orphaned(3)];
    assert_eq!(failures(&mut ground, id).await, known);

    // The true end of the very claim, which replaces the verdict, says better how it failed.
    let id = ground.insert("mail", false, 1).await[0];
    let job = ground.started("mail").await;
    let orphan = lease(&mut ground).await;
    assert_eq!(
        ground.store.rescue(orphan).await.unwrap(),
        Some("done, fail")
    );
    assert_eq!(failures(&mut ground, id).await, [orphaned(1)]);
    ground.record(finishes(&[job])).await;
    assert_eq!(failures(&mut ground, id).await, [failed(1)]);
}

pub(super) async fn each_of_many_that_fail_together_has_its_own_errors(mut ground: Ground) {
    let ids = ground.insert("mail", false, 300).await;
    let jobs = ground.claim("mail", 300).await;
    ground.record(starts(&jobs)).await;
    let fail = |job: &Job| Finish {
        code: Some(i32::try_from(job.id.0 % 100).unwrap()),
        ..finish(job)
    };
    let mut batch = Batch {
        finishes: jobs.iter().rev().map(fail).collect(),
        ..Batch::default()
    };
    let (last, first) = (ids[299], ids[0]);
    batch.finishes[0].job.token = ground.tokens.next(Origin::Background);
    let finished = ground.record(batch).await.finished;
    assert_eq!(finished.iter().filter(|finished| **finished).count(), 299);
    for id in [first, ids[100], ids[298]] {
        let code = i64::try_from(id.0 % 100).unwrap();
        let own = [(1, "exit".to_owned(), Some(code))];
        assert_eq!(failures(&mut ground, id).await, own);
    }
    assert_eq!(failures(&mut ground, last).await, [], "of another claim");
}

pub(super) async fn a_retry_replaces_the_verdict_of_its_own_claim_and_nothing_else(
    mut ground: Ground,
) {
    let id = ground.insert("mail", false, 1).await[0];
    let job = ground.started("mail").await;
    let stranger = Job {
        token: ground.tokens.next(Origin::Background),
        ..job.clone()
    };
    assert_eq!(
        ground.record(retry(&stranger, 0, false)).await.retried,
        [false]
    );
    let orphan = ground.store.leases().await.unwrap().remove(0);
    let fate = ground.store.rescue(orphan).await.unwrap();
    assert_eq!(fate, Some("done, fail"));
    assert_eq!(ground.record(retry(&job, 9, false)).await.retried, [true]);
    let row = ground.row(id).await;
    assert_eq!(
        (row.status.as_str(), row.time_finished, row.result),
        ("scheduled", 0, None)
    );
    ground.run("UPDATE jobs SET status = 'done'").await;
    assert_eq!(
        ground.record(retry(&job, 99, true)).await.retried,
        [false],
        "what somebody has ended by hand stays"
    );
    assert_eq!(ground.row(id).await.status, "done");
}

/// A holder that believed that nobody runs its job again, while a rescuer believes that it may, would let it run twice
/// at a time.
pub(super) async fn a_holder_and_a_rescuer_agree_on_whether_a_row_may_run_again(
    mut ground: Ground,
) {
    let id = ground.insert("mail", false, 1).await[0];
    let mut seen = [0; 2];
    for max_attempts in ["NULL", "0", "1", "2", "4"] {
        for (attempts, interruptions) in [(0, 0), (1, 0), (1, 1), (2, 0), (3, 1), (4, 0)] {
            for most in [1, 3, 4] {
                ground
                    .run(&format!(
                        "UPDATE jobs SET status = 'waiting', worker = NULL, max_attempts = {max_attempts}, \
                         attempts = {attempts}, interruptions = {interruptions}"
                    ))
                    .await;
                let token = ground.tokens.next(Origin::Background);
                let claimed = ground.store.claim(token, name("mail"), 1, most).await;
                let jobs = claimed.unwrap().jobs;
                ground.record(starts(&jobs)).await;
                let lease = ground.store.leases().await.unwrap().remove(0);
                let told = format!("{max_attempts} {attempts} {interruptions} {most}");
                assert_eq!(lease.again, jobs[0].again, "{told}");
                seen[usize::from(lease.again)] += 1;
                // As any worker would claim it next, whatever its config says.
                ground
                    .run("UPDATE jobs SET status = 'waiting', worker = NULL, attempts = attempts - 1")
                    .await;
                let again = ground.claim("mail", 1).await;
                assert_eq!(again[0].again, jobs[0].again, "{told}");
            }
        }
    }
    assert!(seen[0] > 10 && seen[1] > 10, "{seen:?}");
    assert_eq!(ground.row(id).await.status, "accepted");
}
