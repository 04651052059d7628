//! What leases promise, on tables that have the columns for them.

pub(super) use super::cancel::rows_ask_for_a_cancellation;
pub(super) use super::priority::higher_priorities_are_claimed_first;
pub(super) use super::refusals::*;
pub(super) use super::unique::{
    a_row_that_may_not_wait_yet_is_put_off_and_no_other, what_may_not_wait_again_ends,
};
use super::*;

pub(super) async fn an_end_counts_attempts_and_interruptions(mut ground: Ground) {
    let id = ground.insert("mail", false, 1).await[0];
    ground.run("UPDATE jobs SET max_attempts = 2").await;
    let jobs = ground.claim("mail", 1).await;
    assert_eq!((jobs[0].attempt, jobs[0].again), (1, true));
    ground.record(starts(&jobs)).await;
    ground.record(starts(&jobs)).await;
    ground
        .record(Batch {
            releases: jobs,
            ..Batch::default()
        })
        .await;
    let row = ground.row(id).await;
    assert_eq!(
        (counter(&row, "attempts"), counter(&row, "interruptions")),
        (1, 1)
    );
    let jobs = ground.claim("mail", 1).await;
    assert_eq!(
        (jobs[0].attempt, jobs[0].again),
        (2, true),
        "an interruption costs no attempt"
    );
    ground.record(starts(&jobs)).await;
    ground.record(finishes(&jobs)).await;
    let row = ground.row(id).await;
    assert_eq!(
        (counter(&row, "attempts"), other(&row, "lease_until")),
        (2, None)
    );
}

pub(super) async fn a_claim_reads_what_its_row_asks_for(mut ground: Ground) {
    let manual = ground.insert("mail", true, 1).await;
    ground.insert("mail", false, 1).await;
    let inspection = ground.store.inspect().await.unwrap();
    let least = Terms {
        abilities: inspection.abilities,
        ..Terms::default()
    };
    for (changes, terms, again) in [
        ("id = id", least.clone(), false),
        (
            "max_attempts = 3, timeout = 90, data = '', cancel_requested = 1, priority = 7",
            Terms {
                timeout: Some(Duration::from_secs(90)),
                has_data: true,
                cancel: true,
                priority: 7,
                ..least.clone()
            },
            true,
        ),
        (
            "max_attempts = 1, interruptions = 1, attempts = 1, cancel_requested = 0, data = NULL, priority = 0",
            Terms {
                timeout: Some(Duration::from_secs(90)),
                ..least.clone()
            },
            false,
        ),
    ] {
        ground.run(&format!("UPDATE jobs SET {changes}")).await;
        let token = ground.tokens.next(Origin::Manual);
        let claimed = ground
            .store
            .claim_manual(token, manual.clone(), vec![name("mail")])
            .await
            .unwrap();
        let job = &claimed.jobs[0];
        assert_eq!((&job.terms, job.again), (&terms, false), "a client waits");
        let jobs = ground.claim("mail", 1).await;
        assert_eq!(
            (&jobs[0].terms, jobs[0].again),
            (&terms, again),
            "{changes}"
        );
        let releases = [jobs, claimed.jobs].concat();
        ground
            .record(Batch {
                releases,
                ..Batch::default()
            })
            .await;
    }
}

pub(super) async fn a_payload_is_read_while_its_job_runs(mut ground: Ground) {
    ground.insert("mail", false, 2).await;
    ground
        .run("UPDATE jobs SET data = 'payload' WHERE id = 1")
        .await;
    let jobs = ground.claim("mail", 2).await;
    let read =
        async |ground: &Ground, at: usize| ground.store.data(jobs[at].clone()).await.unwrap();
    assert_eq!(read(&ground, 0).await, None, "it is not running yet");
    ground.record(starts(&jobs)).await;
    assert_eq!(read(&ground, 0).await.as_deref(), Some(&b"payload"[..]));
    assert_eq!(read(&ground, 1).await, None);
    ground.run("UPDATE jobs SET worker = 'w@h/2/1'").await;
    assert_eq!(read(&ground, 0).await, None, "it is another's");
}

pub(super) async fn the_row_says_why_its_job_ended(mut ground: Ground) {
    ground.insert("mail", false, 3).await;
    let jobs = ground.claim("mail", 3).await;
    ground.record(starts(&jobs)).await;
    let ends = [Some(Reason::Cancelled), None];
    let ends = jobs.iter().zip(ends).map(|(job, reason)| Finish {
        reason,
        ..finish(job)
    });
    ground
        .record(Batch {
            finishes: ends.collect(),
            ..Batch::default()
        })
        .await;
    for lease in ground.store.leases().await.unwrap() {
        ground.store.rescue(lease).await.unwrap();
    }
    let mut reasons = Vec::new();
    for job in jobs {
        reasons.push(other(&ground.row(job.id).await, "reason").map(str::to_owned));
    }
    let reasons: Vec<_> = reasons.iter().map(Option::as_deref).collect();
    assert_eq!(reasons, [Some("cancelled"), None, Some("orphaned")]);
}

pub(super) async fn the_row_says_what_its_job_has_used(mut ground: Ground) {
    ground.insert("mail", false, 4).await;
    ground.run("UPDATE jobs SET cpu_ms = 7, peak_kib = 7").await;
    let jobs = ground.claim("mail", 4).await;
    ground.record(starts(&jobs)).await;
    let used = |cpu_ms, peak_kib| Some(Usage { cpu_ms, peak_kib });
    let ends = [used(1_500, 34_816), used(0, u64::MAX), None];
    let ends = jobs.iter().zip(ends).map(|(job, usage)| Finish {
        usage,
        ..finish(job)
    });
    ground
        .record(Batch {
            finishes: ends.collect(),
            ..Batch::default()
        })
        .await;
    for lease in ground.store.leases().await.unwrap() {
        ground.store.rescue(lease).await.unwrap();
    }
    let mut told = Vec::new();
    for job in jobs {
        let row = ground.row(job.id).await;
        assert_eq!(row.status, "done");
        let number = |column| other(&row, column).map(|text| text.parse::<u64>().unwrap());
        // The largest that the column takes, which is not the same everywhere.
        let most = |number: u64| number.min(u32::MAX.into());
        told.push((number("cpu_ms"), number("peak_kib").map(most)));
    }
    let expected = [
        (Some(1_500), Some(34_816)),
        (Some(0), Some(u32::MAX.into())),
        (None, None),
        (None, None),
    ];
    assert_eq!(told, expected);
}

fn counter(row: &JobRow, column: &str) -> i64 {
    other(row, column).unwrap().parse().unwrap()
}

pub(super) async fn leases_are_renewed_and_lost_rows_named(mut ground: Ground) {
    ground.insert("mail", false, 3).await;
    let jobs = ground.claim("mail", 3).await;
    ground.record(starts(&jobs[..1])).await;
    ground.run("UPDATE jobs SET lease_until = 5").await;
    let leases = ground.store.leases().await.unwrap();
    let stranger = leases
        .into_iter()
        .find(|lease| lease.id == jobs[2].id)
        .unwrap();
    assert_eq!(
        (stranger.until, stranger.worker.as_str()),
        (5, jobs[2].token.as_str())
    );
    ground.store.rescue(stranger).await.unwrap();
    let lost = ground
        .store
        .renew("w@h/1".into(), ids(&jobs))
        .await
        .unwrap();
    assert_eq!((lost.lost, lost.locked), (vec![jobs[2].id], vec![]));
    let leases = ground.store.leases().await.unwrap();
    assert!(
        leases.len() == 2 && leases.iter().all(|lease| lease.until > 1_000_000),
        "{leases:?}"
    );
    let others = ground
        .store
        .renew("w@h/12".into(), ids(&jobs))
        .await
        .unwrap();
    assert_eq!(
        others.lost.len(),
        3,
        "another instance's rows are not renewed by a longer name"
    );
}

pub(super) async fn an_orphan_goes_back_runs_again_or_gets_a_verdict(mut ground: Ground) {
    ground.insert("mail", false, 3).await;
    let manual = ground.insert("mail", true, 2).await;
    ground
        .run("UPDATE jobs SET max_attempts = 2 WHERE id = 2")
        .await;
    let mut jobs = ground.claim("mail", 3).await;
    let token = ground.tokens.next(Origin::Manual);
    let claimed = ground
        .store
        .claim_manual(token, manual.clone(), vec![name("mail")])
        .await
        .unwrap();
    jobs.extend(claimed.jobs);
    jobs.sort_by_key(|job| job.id);
    ground.record(starts(&jobs[1..4])).await;
    let mut leases = ground.store.leases().await.unwrap();
    leases.sort_by_key(|lease| lease.id);
    assert_eq!(
        leases.iter().map(|lease| lease.again).collect::<Vec<_>>()[1..3],
        [true, false]
    );
    let changed = Lease {
        until: leases[0].until + 1,
        ..leases[0].clone()
    };
    assert_eq!(
        ground.store.rescue(changed).await.unwrap(),
        None,
        "a renewed lease saves its row"
    );
    let mut fates = Vec::new();
    for lease in leases {
        fates.push(ground.store.rescue(lease).await.unwrap().unwrap());
    }
    assert_eq!(
        fates,
        [
            "waiting",
            "waiting again",
            "done, fail",
            "done, fail",
            "manual"
        ]
    );
    let mut statuses = Vec::new();
    for job in &jobs {
        statuses.push(ground.row(job.id).await.status);
    }
    assert_eq!(statuses, ["waiting", "waiting", "done", "done", "manual"]);
    let truth = ground.record(finishes(&jobs[1..3])).await.finished;
    assert_eq!(
        truth,
        [false, true],
        "a late result replaces the verdict of its own claim, and nothing else"
    );
    let row = ground.row(jobs[2].id).await;
    assert_eq!(
        (row.return_code, row.stderr.as_deref()),
        (Some(3), Some(""))
    );
    assert_eq!(counter(&ground.row(jobs[1].id).await, "interruptions"), 1);
}
