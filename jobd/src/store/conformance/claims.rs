//! Which rows a claim takes, and how they are found before it.

use super::*;

pub(super) async fn a_claim_takes_the_first_waiting_rows_of_its_target(mut ground: Ground) {
    let mine = ground.insert("mail", false, 5).await;
    ground.insert("other", false, 3).await;
    ground.insert("mail", true, 2).await;
    let first = ground.claim("mail", 3).await;
    assert_eq!(ids(&first), mine[..3]);
    assert_eq!(ids(&ground.claim("mail", 300).await), mine[3..]);
    assert!(ground.claim("mail", 3).await.is_empty());
    assert!(ground.claim("nobody", 3).await.is_empty());
    let row = ground.row(mine[0]).await;
    assert_eq!(
        (row.status.as_str(), ground.token(&row)),
        ("accepted", Some(first[0].token.as_str()))
    );
    assert_eq!((row.time_started, row.time_finished), (0, 0));
}

pub(super) async fn claims_of_many_workers_never_share_a_row(mut ground: Ground) {
    let all = ground.insert("mail", false, 300).await;
    let stores: Vec<Arc<dyn Store>> = (0..4).map(|_| open(&ground.settings, LEASE)).collect();
    let claims = stores.iter().enumerate().map(|(worker, store)| async move {
        store.inspect().await.unwrap();
        let mut tokens = Tokens::new("w", "h", worker as u64 + 2);
        let mut taken = Vec::new();
        loop {
            let claimed = store
                .claim(tokens.next(Origin::Background), name("mail"), 7, 1)
                .await
                .unwrap();
            if claimed.jobs.is_empty() {
                return taken;
            }
            taken.extend(claimed.jobs.into_iter().map(|job| job.id));
        }
    });
    let mut taken: Vec<JobId> = futures::future::join_all(claims).await.concat();
    taken.sort();
    assert_eq!(taken, all);
}

/// Rows of two targets that stand side by side in the index, with more asked for than there are.
pub(super) async fn claims_of_neighbouring_targets_hide_no_row(mut ground: Ground) {
    const ROUNDS: u64 = 100;
    let stores = [0, 1].map(|_| open(&ground.settings, LEASE));
    for store in &stores {
        store.inspect().await.unwrap();
    }
    for round in 0..ROUNDS {
        let rows = [
            ground.insert("a", false, 2).await,
            ground.insert("b", false, 2).await,
        ];
        let claims = stores.iter().zip(["a", "b"]).map(async |(store, target)| {
            let token = Tokens::new("w", "h", round + 2).next(Origin::Background);
            let claimed = store.claim(token, name(target), 7, 1).await.unwrap();
            ids(&claimed.jobs)
        });
        assert_eq!(
            futures::future::join_all(claims).await,
            rows,
            "round {round}"
        );
    }
}

/// In a table whose column has a sign.
pub(super) async fn a_row_without_a_proper_id_stands_in_nobodys_way(mut ground: Ground) {
    if matches!(ground.settings, DatabaseSettings::MySql(_)) {
        ground
            .run("ALTER TABLE jobs MODIFY id bigint NOT NULL AUTO_INCREMENT")
            .await;
    }
    let mut mine = ground.insert("mail", false, 2).await;
    let odd = ground.insert("mail", false, 1).await[0];
    ground
        .run(&format!("UPDATE jobs SET id = -1 WHERE id = {odd}"))
        .await;
    mine.extend(ground.insert("mail", false, 1).await);
    if other(&ground.row(mine[0]).await, "priority").is_some() {
        ground
            .run("UPDATE jobs SET priority = CASE id WHEN 1 THEN 9 WHEN 2 THEN 8 WHEN -1 THEN 7 ELSE 6 END")
            .await;
    }
    for id in mine {
        assert_eq!(ids(&ground.claim("mail", 1).await), [id]);
    }
}

pub(super) async fn manual_rows_are_claimed_together_and_others_left_alone(mut ground: Ground) {
    let manual = ground.insert("mail", true, 2).await;
    let waiting = ground.insert("mail", false, 1).await;
    let foreign = ground.insert("other", true, 1).await;
    let wanted = vec![manual[1], JobId(9999), waiting[0], foreign[0], manual[0]];
    let token = ground.tokens.next(Origin::Manual);
    let claimed = ground
        .store
        .claim_manual(token, wanted, vec![name("mail")])
        .await
        .unwrap();
    assert_eq!(ids(&claimed.jobs), manual);
    let errors: Vec<String> = claimed.errors.into_values().collect();
    let foreign_error = format!("target 'other' not found (job id={})", foreign[0]);
    assert_eq!(
        errors,
        [
            "status = waiting != manual",
            &foreign_error,
            "job 9999 not found"
        ]
    );
    assert_eq!(ground.row(waiting[0]).await.status, "waiting");
    assert_eq!(ground.row(foreign[0]).await.status, "manual");
}

pub(super) async fn pending_names_the_targets_that_have_rows(mut ground: Ground) {
    for target in ["t3", "t17", "t39"] {
        ground.insert(target, false, 2).await;
    }
    ground.insert("t5", true, 1).await;
    let asked: Vec<TargetName> = (0..40).map(|index| name(&format!("t{index}"))).collect();
    let found = ground.store.pending(asked).await.unwrap();
    assert_eq!(found, ["t3", "t17", "t39"].map(name));
}

pub(super) async fn names_with_waiting_rows_are_found_in_steps(mut ground: Ground) {
    for number in 0..70 {
        ground.insert(&format!("u/{number:02}"), false, 2).await;
    }
    for other in ["u", "u0", "U%/1", "t/1", "v/1"] {
        ground.insert(other, false, 1).await;
    }
    ground.insert("u/manual", true, 1).await;
    ground
        .run("UPDATE jobs SET status = 'done' WHERE target = 'u/03'")
        .await;
    let store = ground.store.clone();
    let find = async |prefix: &str, after: Option<&str>| {
        let found = store.names(prefix.into(), after.map(Into::into)).await;
        found.unwrap()
    };
    let wanted: Vec<String> = (0..70)
        .filter(|number| *number != 3)
        .map(|number| format!("u/{number:02}"))
        .collect();
    let first = find("u/", None).await;
    assert_eq!((&first.names[..], first.more), (&wanted[..64], true));
    let rest = find("u/", Some("u/64")).await;
    assert_eq!((&rest.names[..], rest.more), (&wanted[64..], false));
    assert!(find("u/7", None).await.names.is_empty());
    assert_eq!(find("t", None).await.names, ["t/1"]);
    let first = find("", None).await;
    assert!(
        ["t/1", "U%/1"].contains(&&*first.names[0]) && first.more,
        "{first:?}"
    );
    // What LIKE has a meaning for has none here.
    assert!(find("u_", None).await.names.is_empty());
    assert_eq!(find("U%", None).await.names, ["U%/1"]);
}

pub(super) async fn a_row_says_where_its_job_stands(mut ground: Ground) {
    let id = ground.insert("mail", false, 1).await[0];
    let store = ground.store.clone();
    let row = async |id, worker: &str| store.row(id, worker.to_owned()).await.unwrap();
    assert_eq!(row(JobId(999_999), "w@h/1").await, None);
    let waiting = RowState {
        status: "waiting".into(),
        holder: None,
        ours: false,
        result: None,
        code: None,
        signal: None,
    };
    assert_eq!(row(id, "w@h/1").await, Some(waiting.clone()));
    let jobs = ground.claim("mail", 1).await;
    let accepted = RowState {
        status: "accepted".into(),
        holder: Some("w@h".into()),
        ours: true,
        ..waiting.clone()
    };
    assert_eq!(row(id, "w@h/1").await, Some(accepted.clone()));
    let others = RowState {
        ours: false,
        ..accepted
    };
    for stranger in ["w@h/12", "w@h/", "v@h/1"] {
        assert_eq!(row(id, stranger).await, Some(others.clone()), "{stranger}");
    }
    ground.record(starts(&jobs)).await;
    assert_eq!(row(id, "w@h/1").await.unwrap().status, "running");
    ground.record(finishes(&jobs)).await;
    let done = row(id, "w@h/1").await.unwrap();
    assert_eq!((done.status.as_str(), done.holder), ("done", None));
    assert_eq!((done.result, done.code), (Some(JobResult::Fail), Some(3)));
}
