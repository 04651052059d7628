//! What a cancellation does to rows, on every table.

use super::*;

async fn cancel(ground: &Ground, wishes: &[Wish]) -> Vec<Cancelled> {
    let fates = ground.store.cancel(wishes.to_vec(), true).await.unwrap();
    wishes.iter().map(|(id, _)| fates[id].clone()).collect()
}

pub(super) async fn what_nobody_runs_is_cancelled_and_nothing_else(mut ground: Ground) {
    let waiting = ground.insert("mail", false, 4).await;
    let manual = ground.insert("mail", true, 1).await[0];
    let jobs = ground.claim("mail", 3).await;
    ground.record(starts(&jobs[1..])).await;
    ground.record(finishes(&jobs[2..])).await;
    let held = match ground.shape {
        Table::Minimal => Cancelled::Held,
        Table::Full => Cancelled::Asked,
    };
    let token = |job: &Job| Some(job.token.clone());
    let wishes = [
        (jobs[0].id, None),
        (jobs[1].id, token(&jobs[1])),
        (jobs[2].id, None),
        (waiting[3], None),
        (manual, None),
        (JobId(9999), None),
    ];
    let fates = [
        held.clone(),
        held.clone(),
        Cancelled::TooLate,
        Cancelled::Ended,
        Cancelled::Ended,
        Cancelled::Missing,
    ];
    assert_eq!(cancel(&ground, &wishes).await, fates);
    assert_eq!(
        cancel(&ground, &wishes).await,
        fates,
        "again, nothing is otherwise"
    );
    for id in [waiting[3], manual] {
        let row = ground.row(id).await;
        assert_eq!(
            (
                row.status.as_str(),
                row.result.as_deref(),
                row.stderr.as_deref()
            ),
            ("done", Some("fail"), Some(CANCEL_NOTE))
        );
        assert!(row.return_code.is_none() && row.time_finished > 0);
        if ground.shape == Table::Full {
            assert_eq!(other(&row, "reason"), Some("cancelled"));
        }
    }
    assert_eq!(ground.row(jobs[2].id).await.return_code, Some(3));
    // What we have accepted ends by our claim, and by no other.
    let stranger = ground.tokens.next(Origin::Background);
    assert_eq!(
        cancel(&ground, &[(jobs[0].id, Some(stranger))]).await,
        [held]
    );
    let ours = [(jobs[0].id, token(&jobs[0]))];
    assert_eq!(cancel(&ground, &ours).await, [Cancelled::Ended]);
    assert_eq!(
        ground.record(starts(&jobs[..1])).await.started,
        [false],
        "a cancelled row never runs"
    );
    let row = ground.row(jobs[0].id).await;
    assert_eq!(
        (row.status.as_str(), other(&row, "lease_until")),
        ("done", None)
    );
    ground
        .record(Batch {
            releases: jobs[..1].to_vec(),
            ..Batch::default()
        })
        .await;
    assert_eq!(ground.row(jobs[0].id).await.status, "done");
    assert!(ground.claim("mail", 9).await.is_empty());
}

pub(super) async fn rows_ask_for_a_cancellation(mut ground: Ground) {
    let ids = ground.insert("mail", false, 4).await;
    let jobs = ground.claim("mail", 2).await;
    ground.record(starts(&jobs[..1])).await;
    ground.record(finishes(&jobs[..1])).await;
    let requests = async |worker: &str| {
        let open = ground.store.requests(worker.to_owned()).await;
        let mut open = open.unwrap();
        open.sort_by_key(|request| request.id);
        open
    };
    assert!(requests("w@h/1").await.is_empty());
    ground
        .run("UPDATE jobs SET cancel_requested = 1 WHERE id <> 4")
        .await;
    let open = requests("w@h/1").await;
    let seen: Vec<(JobId, &str, &str)> = open
        .iter()
        .map(|row| (row.id, row.status.as_str(), row.worker.as_str()))
        .collect();
    let token = jobs[1].token.as_str();
    assert_eq!(
        seen,
        [
            (ids[0], "done", ""),
            (ids[1], "accepted", token),
            (ids[2], "waiting", "")
        ]
    );
    let others = requests("w@h/12").await;
    let others: Vec<JobId> = others.iter().map(|row| row.id).collect();
    assert_eq!(others, [ids[0], ids[2]], "what somebody has is his");
    let claimed = ground.claim("mail", 9).await;
    let asked: Vec<bool> = claimed.iter().map(|job| job.terms.cancel).collect();
    assert_eq!(asked, [true, false], "a claim sees it, too");
    let wishes = open
        .iter()
        .map(|row| (row.id, None))
        .chain([(ids[2], Some(claimed[0].token.clone()))]);
    let wishes: Vec<Wish> = wishes
        .filter(|(id, token)| *id != ids[2] || token.is_some())
        .collect();
    assert_eq!(
        cancel(&ground, &wishes).await,
        [Cancelled::TooLate, Cancelled::Asked, Cancelled::Ended]
    );
    let open = ground.store.requests("w@h/1".to_owned()).await.unwrap();
    assert_eq!(open.iter().map(|row| row.id).collect::<Vec<_>>(), [ids[1]]);
    assert_eq!(
        other(&ground.row(ids[0]).await, "cancel_requested"),
        Some("0")
    );
    assert_eq!(other(&ground.row(ids[3]).await, "cancel_requested"), None);
}

/// Whoever asks for a row that somebody has locked waits for it, and nobody else does.
#[tokio::test]
async fn a_locked_row_holds_up_no_other_cancellation_and_no_payload() {
    let mut ground = Ground::mysql(Table::Full).await;
    let ids = ground.insert("mail", false, 3).await;
    ground.run("UPDATE jobs SET data = 'payload'").await;
    let jobs = ground.claim("mail", 1).await;
    ground.record(starts(&jobs)).await;
    let DatabaseSettings::MySql(settings) = &ground.settings else {
        panic!("it is MySQL");
    };
    let mut somebody = jobd_proto::table::connect_mysql(settings).await.unwrap();
    for sql in ["BEGIN", "SELECT * FROM jobs WHERE id = 2 FOR UPDATE"] {
        sqlx::raw_sql(sql).execute(&mut somebody).await.unwrap();
    }
    let cancel = |id| ground.store.cancel(vec![(id, None)], true);
    let waiting = futures::future::join_all((0..100).map(|_| cancel(ids[1])));
    let others = async {
        // Behind all of them.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let data = ground.store.data(jobs[0].clone()).await.unwrap();
        assert_eq!(data.as_deref(), Some(&b"payload"[..]));
        let fates = cancel(ids[2]).await.unwrap();
        assert_eq!(fates[&ids[2]], Cancelled::Ended);
    };
    tokio::pin!(waiting);
    tokio::select! {
        biased;
        fates = &mut waiting => panic!("the row is locked: {fates:?}"),
        done = tokio::time::timeout(Duration::from_secs(5), others) => done.expect("nobody waits for that row"),
    }
    sqlx::raw_sql("ROLLBACK")
        .execute(&mut somebody)
        .await
        .unwrap();
    for fates in waiting.await {
        assert_eq!(fates.unwrap()[&ids[1]], Cancelled::Ended);
    }
}

/// What was cancelled at once stays so, whatever becomes of a row that had to be waited for.
#[tokio::test]
async fn an_error_of_a_locked_row_leaves_the_others_cancelled() {
    let mut ground = Ground::mysql(Table::Full).await;
    let ids = ground.insert("mail", false, 2).await;
    ground
        .run("CREATE TRIGGER broken BEFORE UPDATE ON jobs FOR EACH ROW IF NEW.id = 2 THEN SIGNAL SQLSTATE '42000' SET MYSQL_ERRNO = 1142; END IF")
        .await;
    let DatabaseSettings::MySql(settings) = &ground.settings else {
        panic!("it is MySQL");
    };
    let mut somebody = jobd_proto::table::connect_mysql(settings).await.unwrap();
    for sql in ["BEGIN", "SELECT * FROM jobs WHERE id = 2 FOR UPDATE"] {
        sqlx::raw_sql(sql).execute(&mut somebody).await.unwrap();
    }
    let wishes = ids.iter().map(|id| (*id, None)).collect();
    let cancelled = ground.store.cancel(wishes, true);
    let unlocked = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let rollback = sqlx::raw_sql("ROLLBACK").execute(&mut somebody);
        rollback.await.unwrap();
    };
    let both = futures::future::join(cancelled, unlocked);
    let both = tokio::time::timeout(Duration::from_secs(20), both).await;
    let fates = both.expect("it ends").0.unwrap();
    assert_eq!(fates[&ids[0]], Cancelled::Ended);
    assert!(
        matches!(fates[&ids[1]], Cancelled::Refused { .. }),
        "{fates:?}"
    );
}
