//! What becomes of a claimed row: its start, its end, its way back.

use super::*;
use crate::fate::Again;

pub(super) async fn a_row_starts_once_and_only_for_its_claim(mut ground: Ground) {
    ground.insert("mail", false, 3).await;
    let jobs = ground.claim("mail", 3).await;
    let stranger = Job {
        token: ground.tokens.next(Origin::Background),
        ..jobs[2].clone()
    };
    assert_eq!(
        ground
            .record(starts(&[jobs[0].clone(), stranger.clone()]))
            .await
            .started,
        [true, false]
    );
    let again = ground.record(starts(&jobs[..2])).await;
    assert_eq!(
        again.started,
        [true, true],
        "a repeated write finds its first try"
    );
    assert!(ground.row(jobs[0].id).await.time_started > 0);
    assert_eq!(ground.row(stranger.id).await.status, "accepted");
}

pub(super) async fn a_finish_is_written_once_and_recognised_when_repeated(mut ground: Ground) {
    ground.insert("mail", false, 2).await;
    let jobs = ground.claim("mail", 2).await;
    assert_eq!(
        ground.record(finishes(&jobs[..1])).await.finished,
        [false],
        "a row that never started is not finished"
    );
    ground.record(starts(&jobs)).await;
    let batch = finishes(&jobs);
    assert_eq!(ground.record(batch.clone()).await.finished, [true, true]);
    assert_eq!(ground.record(batch).await.finished, [true, true]);
    let row = ground.row(jobs[0].id).await;
    assert_eq!(
        (
            row.status.as_str(),
            row.result.as_deref(),
            row.return_code,
            row.sig
        ),
        ("done", Some("fail"), Some(3), None)
    );
    assert!(row.stderr.as_deref() == Some("") && row.time_finished >= row.time_started);
    let other = Finish {
        code: Some(4),
        ..finish(&jobs[0])
    };
    let superseded = Batch {
        finishes: vec![other],
        ..Batch::default()
    };
    assert_eq!(
        ground.record(superseded).await.finished,
        [false],
        "another end is not ours"
    );
}

pub(super) async fn the_end_is_dated_when_the_process_ended(mut ground: Ground) {
    ground.insert("mail", false, 1).await;
    let jobs = ground.claim("mail", 1).await;
    ground.record(starts(&jobs)).await;
    let started = ground.row(jobs[0].id).await.time_started;
    let Some(ended) = Instant::now().checked_sub(Duration::from_secs(100)) else {
        return;
    };
    ground
        .record(Batch {
            finishes: vec![Finish {
                ended,
                ..finish(&jobs[0])
            }],
            ..Batch::default()
        })
        .await;
    let lag = started - ground.row(jobs[0].id).await.time_finished;
    assert!((98..=100).contains(&lag), "{lag}");
}

pub(super) async fn released_rows_go_back_to_where_they_came_from(mut ground: Ground) {
    ground.insert("mail", false, 2).await;
    let manual = ground.insert("mail", true, 1).await;
    let mut jobs = ground.claim("mail", 2).await;
    ground.record(starts(&jobs[..1])).await;
    let token = ground.tokens.next(Origin::Manual);
    let claimed = ground
        .store
        .claim_manual(token, manual.clone(), vec![name("mail")])
        .await
        .unwrap();
    assert_eq!(ids(&claimed.jobs), manual);
    jobs.extend(claimed.jobs);
    ground
        .record(Batch {
            releases: jobs.clone(),
            ..Batch::default()
        })
        .await;
    for (job, status) in jobs.iter().zip(["waiting", "waiting", "manual"]) {
        let row = ground.row(job.id).await;
        assert_eq!(ground.token(&row), None);
        assert_eq!(
            (row.status.as_str(), row.stderr, row.time_started),
            (status, None, 0)
        );
    }
    assert_eq!(ground.claim("mail", 9).await.len(), 2);
}

pub(super) async fn rows_changed_by_others_are_left_alone(mut ground: Ground) {
    ground.insert("mail", false, 3).await;
    let jobs = ground.claim("mail", 3).await;
    ground
        .run("UPDATE jobs SET status = 'ignored' WHERE id = 1")
        .await;
    assert_eq!(
        ground.record(starts(&jobs)).await.started,
        [false, true, true]
    );
    ground
        .run("UPDATE jobs SET status = 'waiting' WHERE id = 2")
        .await;
    assert_eq!(
        ground.record(finishes(&jobs[1..])).await.finished,
        [false, true]
    );
    ground
        .record(Batch {
            releases: jobs.clone(),
            ..Batch::default()
        })
        .await;
    let status = |row: JobRow| row.status;
    assert_eq!(status(ground.row(jobs[0].id).await), "ignored");
    assert_eq!(status(ground.row(jobs[1].id).await), "waiting");
    assert_eq!(status(ground.row(jobs[2].id).await), "done");
}

pub(super) async fn large_claims_and_batches_are_split(mut ground: Ground) {
    let all = ground.insert("mail", false, 700).await;
    let jobs = ground.claim("mail", 1000).await;
    assert_eq!(ids(&jobs), all);
    assert!(
        ground
            .record(starts(&jobs))
            .await
            .started
            .iter()
            .all(|started| *started)
    );
    assert!(
        ground
            .record(finishes(&jobs))
            .await
            .finished
            .iter()
            .all(|finished| *finished)
    );
}

pub(super) async fn what_is_to_run_again_is_over_on_a_table_that_has_no_rows_for_later(
    mut ground: Ground,
) {
    ground.insert("mail", false, 2).await;
    let jobs = ground.claim("mail", 2).await;
    ground.record(starts(&jobs)).await;
    let again = Some(Again {
        after: Duration::ZERO,
        counted: true,
    });
    let batch = Batch {
        finishes: vec![finish(&jobs[0])],
        retries: vec![Finish {
            again,
            ..finish(&jobs[1])
        }],
        ..Batch::default()
    };
    let recorded = ground.record(batch).await;
    assert_eq!(
        (recorded.finished, recorded.retried),
        (vec![true], vec![true])
    );
    let status = match ground.shape {
        Table::Minimal => "done",
        Table::Full => "scheduled",
    };
    assert_eq!(ground.row(jobs[1].id).await.status, status);
}

pub(super) async fn a_batch_that_is_refused_changes_nothing(mut ground: Ground) {
    ground.insert("mail", false, 2).await;
    let jobs = ground.claim("mail", 2).await;
    ground.record(starts(&jobs[1..])).await;
    let impossible = Finish {
        signal: Some("x".repeat(3000)),
        code: Some(-5),
        ..finish(&jobs[1])
    };
    let batch = Batch {
        starts: jobs[..1].to_vec(),
        finishes: vec![impossible],
        ..Batch::default()
    };
    let outcome = ground.store.record(Arc::new(batch)).await;
    assert!(
        matches!(outcome, Err(StoreError::Refused(_))),
        "{outcome:?}"
    );
    assert_eq!(ground.row(jobs[0].id).await.status, "accepted");
    assert_eq!(ground.row(jobs[1].id).await.status, "running");
    assert_eq!(
        ground.record(starts(&jobs[..1])).await.started,
        [true],
        "the connection is usable again"
    );
}
