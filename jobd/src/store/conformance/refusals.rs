//! What one row that the database refuses to change costs the others: nothing.

use super::*;

/// Lets a trigger refuse rows to become what their column `own` says (`any`: whatever it is), and a CHECK what `checked`
/// says.
pub(super) async fn refuse(ground: &Ground) {
    let statements: &[&str] = match &ground.settings {
        DatabaseSettings::MySql(_) => &[
            "ALTER TABLE jobs ADD own varchar(20), ADD checked varchar(20), ADD CHECK (checked IS NULL OR checked <> status)",
            "CREATE TRIGGER refuse BEFORE UPDATE ON jobs FOR EACH ROW IF NEW.own = NEW.status OR OLD.own = 'any' \
             OR NEW.own = 'renewed' AND (NEW.lease_until > OLD.lease_until OR NEW.progress <> '') OR NEW.own = 'history' AND NEW.errors <> '' \
             THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'not this one'; END IF",
        ],
        DatabaseSettings::Sqlite(_) => &[
            "ALTER TABLE jobs ADD own TEXT",
            "ALTER TABLE jobs ADD checked TEXT CHECK (checked IS NULL OR checked <> status)",
            "CREATE TRIGGER refuse BEFORE UPDATE ON jobs WHEN NEW.own = NEW.status OR OLD.own = 'any' \
             OR NEW.own = 'renewed' AND (NEW.lease_until > OLD.lease_until OR NEW.progress <> '') OR NEW.own = 'history' AND NEW.errors <> '' \
             BEGIN SELECT RAISE(ABORT, 'not this one'); END",
        ],
    };
    for statement in statements {
        ground.run(statement).await;
    }
}

pub(super) async fn a_refused_row_stops_no_promotion(mut ground: Ground) {
    refuse(&ground).await;
    let all = ground.insert("mail", false, 300).await;
    ground
        .run("UPDATE jobs SET status = 'scheduled', run_at = 5 + id")
        .await;
    ground
        .run("UPDATE jobs SET own = 'waiting' WHERE id IN (1, 7)")
        .await;
    ground
        .run("UPDATE jobs SET checked = 'waiting' WHERE id = 2")
        .await;
    while ground.store.promote().await.unwrap().more {}
    let refused = [all[0], all[1], all[6]];
    for id in all {
        let status = ground.row(id).await.status;
        let expected = if refused.contains(&id) {
            "scheduled"
        } else {
            "waiting"
        };
        assert_eq!(status, expected, "{id}");
    }
    // They are passed over now, and cost the next look nothing.
    let later = ground.insert("late", false, 1).await;
    ground
        .run("UPDATE jobs SET status = 'scheduled', run_at = 400 WHERE target = 'late'")
        .await;
    let promoted = ground.store.promote().await.unwrap();
    let targets: Vec<&str> = promoted.targets.iter().map(|it| it.trim_end()).collect();
    assert_eq!((targets, promoted.more), (vec!["late"], false));
    assert_eq!(ground.statuses(&later).await, ["waiting"]);
}

pub(super) async fn a_refused_row_stops_no_claim(mut ground: Ground) {
    refuse(&ground).await;
    let all = ground.insert("mail", false, 4).await;
    ground
        .run("UPDATE jobs SET own = 'accepted' WHERE id = 1")
        .await;
    ground
        .run("UPDATE jobs SET checked = 'accepted' WHERE id = 2")
        .await;
    let mut claims = Vec::new();
    for (limit, refused) in [(1, vec![all[0]]), (2, vec![all[1]]), (9, vec![])] {
        let token = ground.tokens.next(Origin::Background);
        let claimed = ground.store.claim(token, name("mail"), limit, 1).await;
        let claimed = claimed.unwrap();
        let told: Vec<JobId> = claimed.refused.iter().map(|row| row.id).collect();
        assert_eq!(told, refused, "told, so that the rest is claimed at once");
        claims.push(ids(&claimed.jobs));
    }
    assert_eq!(claims, [vec![], vec![all[2]], vec![all[3]]]);
    assert_eq!(
        ground.statuses(&all).await,
        ["waiting", "waiting", "accepted", "accepted"]
    );
    ground.insert("hand", true, 2).await;
    ground
        .run("UPDATE jobs SET own = 'accepted' WHERE id = 5")
        .await;
    let token = ground.tokens.next(Origin::Manual);
    let wanted = vec![JobId(5), JobId(6)];
    let claimed = ground.store.claim_manual(token, wanted, vec![name("hand")]);
    let claimed = claimed.await.unwrap();
    assert_eq!(ids(&claimed.jobs), [JobId(6)]);
    assert!(claimed.errors[&JobId(5)].contains("not this one"));
}

pub(super) async fn only_what_a_row_is_refused_for_counts_against_it(mut ground: Ground) {
    refuse(&ground).await;
    let all = ground.insert("mail", false, 2).await;
    let own = "UPDATE jobs SET own = 'running' WHERE id = 1";
    let every = match &ground.settings {
        DatabaseSettings::MySql(_) => {
            "CREATE TRIGGER every BEFORE UPDATE ON jobs FOR EACH ROW FOLLOWS refuse IF NEW.status = 'running' \
             THEN SIGNAL SQLSTATE '42000' SET MYSQL_ERRNO = 1143; END IF"
        }
        DatabaseSettings::Sqlite(_) => {
            "CREATE TRIGGER every BEFORE UPDATE OF time_started ON jobs BEGIN UPDATE gone SET x = 1; END"
        }
    };
    for (sql, left) in [
        (every, &all[..]),
        ("DROP TRIGGER every", &all),
        (own, &all[1..]),
    ] {
        ground.run(sql).await;
        let jobs = ground.claim("mail", 9).await;
        let outcome = ground.store.record(Arc::new(starts(&jobs[..1]))).await;
        let is_as_meant = match &outcome {
            Ok(recorded) if sql == own => {
                matches!(recorded.refused, Some((_, true))) && recorded.started.is_empty()
            }
            Ok(recorded) => sql.starts_with("DROP") && recorded.started == [true],
            Err(error) => sql == every && !matches!(error, StoreError::Unavailable(_)),
        };
        assert!(is_as_meant, "{sql}: {outcome:?}");
        let back = "UPDATE jobs SET status = 'waiting', worker = NULL, lease_until = NULL";
        ground.run(back).await;
        let again = ground.claim("mail", 9).await;
        assert_eq!(ids(&again), left, "{sql}");
        ground.run(back).await;
    }
}

pub(super) async fn hundreds_of_refused_rows_stop_nothing(mut ground: Ground) {
    refuse(&ground).await;
    ground.insert("mail", false, 1210).await;
    ground
        .run("UPDATE jobs SET own = 'accepted' WHERE id <= 600")
        .await;
    ground
        .run("UPDATE jobs SET status = 'scheduled', run_at = 5 + id, own = CASE WHEN id <= 1200 THEN 'waiting' END WHERE id > 600")
        .await;
    let mut looks = 1;
    while ground.store.promote().await.unwrap().more {
        looks += 1;
        assert!(looks <= 3, "the same rows again");
    }
    assert_eq!(looks, 3, "256 rows at a time");
    let promoted: Vec<JobId> = (1201..=1210).map(JobId).collect();
    let mut claimed = Vec::new();
    let mut claims = 0;
    while claimed.len() < promoted.len() {
        claims += 1;
        assert!(claims <= 100, "{claimed:?}");
        let token = ground.tokens.next(Origin::Background);
        let next = ground.store.claim(token, name("mail"), 20, 1).await;
        let next = next.unwrap();
        assert!(!next.jobs.is_empty() || !next.refused.is_empty(), "told");
        claimed.extend(ids(&next.jobs));
    }
    assert_eq!(claimed, promoted);
    let token = ground.tokens.next(Origin::Background);
    let rest = ground
        .store
        .claim(token, name("mail"), 20, 1)
        .await
        .unwrap();
    assert!(rest.jobs.is_empty() && rest.refused.is_empty(), "a rest");
}

/// Whatever its priority is beside theirs.
pub(super) async fn many_refused_rows_hide_no_other(mut ground: Ground) {
    refuse(&ground).await;
    ground.insert("mail", false, 600).await;
    ground
        .run("UPDATE jobs SET own = 'accepted', priority = id % 2 * 5")
        .await;
    let claim = async |ground: &mut Ground, limit| {
        let token = ground.tokens.next(Origin::Background);
        let claimed = ground.store.claim(token, name("mail"), limit, 1).await;
        let claimed = claimed.unwrap();
        (ids(&claimed.jobs), claimed.refused.len())
    };
    let mut refused = 0;
    while refused < 600 {
        let (jobs, more) = claim(&mut ground, 20).await;
        assert!(jobs.is_empty() && more > 0, "{refused}");
        refused += more;
    }
    assert_eq!((claim(&mut ground, 20).await, refused), ((vec![], 0), 600));
    let new = ground.insert("mail", false, 3).await;
    ground
        .run("UPDATE jobs SET priority = CASE id WHEN 601 THEN 3 WHEN 602 THEN 9 ELSE -1 END WHERE id > 600")
        .await;
    for next in [new[1], new[0], new[2]] {
        assert_eq!(claim(&mut ground, 1).await, (vec![next], 0));
    }
}

/// Rows for later that cannot even be put off.
pub(super) async fn rows_that_nobody_may_change_stop_no_promotion(mut ground: Ground) {
    refuse(&ground).await;
    ground.insert("mail", false, 601).await;
    ground
        .run("UPDATE jobs SET status = 'scheduled', run_at = 5 + id, own = CASE WHEN id <= 600 THEN 'any' END")
        .await;
    for _ in 0..3 {
        ground.store.promote().await.unwrap();
    }
    assert_eq!(ground.statuses(&[JobId(601)]).await, ["waiting"]);
}

pub(super) async fn a_refused_row_stops_no_cancellation(mut ground: Ground) {
    refuse(&ground).await;
    let all = ground.insert("mail", false, 4).await;
    ground
        .run("UPDATE jobs SET own = 'done' WHERE id = 1")
        .await;
    ground
        .run("UPDATE jobs SET checked = 'done' WHERE id = 2")
        .await;
    ground.run("UPDATE jobs SET cancel_requested = 1").await;
    let requests = async |ground: &Ground| {
        let open = ground.store.requests("w@h/1".to_owned()).await.unwrap();
        open.into_iter()
            .map(|row| (row.id, None))
            .collect::<Vec<Wish>>()
    };
    let wishes = requests(&ground).await;
    assert_eq!(wishes.len(), 4);
    let fates = ground.store.cancel(wishes, false).await.unwrap();
    assert!(
        matches!(&fates[&all[0]], Cancelled::Refused { error, passed: true } if error.contains("not this one")),
        "{fates:?}"
    );
    assert!(
        matches!(fates[&all[1]], Cancelled::Refused { .. }),
        "{fates:?}"
    );
    assert_eq!(
        ground.statuses(&all).await,
        ["waiting", "waiting", "done", "done"]
    );
    assert!(requests(&ground).await.is_empty(), "passed over for now");
    // Not by claims, as it may have been asked for by mistake; these find out for themselves.
    let claimed = ground.claim("mail", 9).await;
    assert_eq!(ids(&claimed), all[..2]);
    let wishes = claimed.iter().map(|job| (job.id, Some(job.token.clone())));
    let fates = ground.store.cancel(wishes.collect(), true).await.unwrap();
    for id in &all[..2] {
        assert!(
            matches!(fates[id], Cancelled::Refused { passed: true, .. }),
            "{fates:?}"
        );
    }
    let releases = claimed;
    ground
        .record(Batch {
            releases,
            ..Batch::default()
        })
        .await;
    assert_eq!(ground.statuses(&all[..2]).await, ["waiting", "waiting"]);
    assert!(ground.claim("mail", 9).await.is_empty(), "passed over");
}

pub(super) async fn very_many_refused_requests_stop_no_other(mut ground: Ground) {
    refuse(&ground).await;
    let all = ground.insert("mail", false, 1402).await;
    let jobs = ground.claim("mail", 1).await;
    ground.record(starts(&jobs)).await;
    ground
        .run("UPDATE jobs SET cancel_requested = 1, own = 'done' WHERE id > 1")
        .await;
    ground
        .run("UPDATE jobs SET own = NULL WHERE id = 1402")
        .await;
    let requests = async |ground: &Ground| {
        let open = ground.store.requests("w@h/1".to_owned()).await.unwrap();
        open.into_iter()
            .map(|row| (row.id, None))
            .collect::<Vec<Wish>>()
    };
    for seen in [REQUESTS, 401, 0] {
        let wishes = requests(&ground).await;
        assert_eq!(wishes.len(), seen, "none twice");
        if seen > 0 {
            ground.store.cancel(wishes, false).await.unwrap();
        }
    }
    assert_eq!(ground.statuses(&all[1400..]).await, ["waiting", "done"]);
    ground
        .run("UPDATE jobs SET cancel_requested = 1 WHERE id = 1")
        .await;
    let wishes = requests(&ground).await;
    assert_eq!(wishes, [(jobs[0].id, None)], "what runs is stopped at once");
}

pub(super) async fn a_refused_row_costs_no_other_its_lease(mut ground: Ground) {
    refuse(&ground).await;
    ground.insert("mail", false, 3).await;
    let jobs = ground.claim("mail", 3).await;
    ground
        .run("UPDATE jobs SET lease_until = 7, own = CASE WHEN id = 2 THEN 'renewed' END")
        .await;
    for _ in 0..2 {
        let renewed = ground.store.renew("w@h/1".to_owned(), ids(&jobs)).await;
        let unrenewed = renewed.unwrap();
        assert_eq!((unrenewed.lost, unrenewed.locked), (vec![], vec![JobId(2)]));
    }
    for (job, renewed) in jobs.iter().zip([true, false, true]) {
        let row = ground.row(job.id).await;
        assert_eq!(other(&row, "lease_until") != Some("7"), renewed);
    }
}

pub(super) async fn a_refused_row_silences_no_other(mut ground: Ground) {
    refuse(&ground).await;
    ground.insert("mail", false, 3).await;
    let jobs = ground.claim("mail", 3).await;
    ground.record(starts(&jobs)).await;
    ground
        .run("UPDATE jobs SET own = 'renewed' WHERE id = 2")
        .await;
    let reports = jobs.iter().map(|job| Report {
        id: job.id,
        token: job.token.clone(),
        text: "half".into(),
    });
    let locked = ground.store.progress(reports.collect()).await.unwrap();
    assert_eq!(locked, []);
    for (job, said) in jobs.iter().zip([Some("half"), None, Some("half")]) {
        assert_eq!(other(&ground.row(job.id).await, "progress"), said);
    }
}

pub(super) async fn a_history_that_is_refused_stops_no_end(mut ground: Ground) {
    refuse(&ground).await;
    let all = ground.insert("mail", false, 3).await;
    let jobs = ground.claim("mail", 3).await;
    ground.record(starts(&jobs)).await;
    ground
        .run("UPDATE jobs SET own = 'history' WHERE id <> 2")
        .await;
    let recorded = ground.record(finishes(&jobs[..2])).await;
    assert_eq!(recorded.finished, [true, true]);
    for lease in ground.store.leases().await.unwrap() {
        let rescued = ground.store.rescue(lease).await.unwrap();
        assert!(rescued.is_some());
    }
    for (id, told) in all.into_iter().zip([false, true, false]) {
        assert_eq!(other(&ground.row(id).await, "errors").is_some(), told);
    }
}
