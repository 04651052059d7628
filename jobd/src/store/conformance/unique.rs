//! What becomes of rows that may not wait again, because another row with their unique key does.

use super::*;
use crate::fate::Again;

pub(super) async fn what_may_not_wait_again_ends(mut ground: Ground) {
    let add = match &ground.settings {
        DatabaseSettings::MySql(_) => include_str!("../../../../sql/mysql/add-unique.sql"),
        DatabaseSettings::Sqlite(_) => include_str!("../../../../sql/sqlite/add-unique.sql"),
    };
    ground.run(add).await;
    ground.store.inspect().await.unwrap();
    let all = ground.insert("mail", false, 6).await;
    ground
        .run("UPDATE jobs SET max_attempts = 3, unique_key = CONCAT('k', id)")
        .await;
    let jobs = ground.claim("mail", 6).await;
    ground.record(starts(&jobs[1..])).await;
    // The first two, the fourth and the sixth have a successor.
    ground.insert("mail", false, 4).await;
    ground
        .run("UPDATE jobs SET unique_key = CASE id WHEN 7 THEN 'k1' WHEN 8 THEN 'k2' WHEN 9 THEN 'k4' ELSE 'k6' END WHERE id > 6")
        .await;
    let recorded = ground
        .record(Batch {
            releases: jobs[..3].to_vec(),
            retries: vec![Finish {
                again: Some(Again {
                    after: Duration::ZERO,
                    counted: true,
                }),
                ..finish(&jobs[5])
            }],
            ..Batch::default()
        })
        .await;
    assert_eq!(recorded.retried, [true]);
    let row = ground.row(all[5]).await;
    assert_eq!(
        (row.status.as_str(), row.return_code, row.result.as_deref()),
        ("done", Some(3), Some("fail")),
        "it ends as it ended"
    );
    let mut leases = ground.store.leases().await.unwrap();
    leases.sort_by_key(|lease| lease.id);
    assert_eq!(
        leases.iter().map(|lease| lease.id).collect::<Vec<_>>(),
        all[3..5]
    );
    for lease in leases {
        assert!(ground.store.rescue(lease).await.unwrap().is_some());
    }
    for (at, status, reason) in [
        (0, "done", Some("drained")),
        (1, "done", Some("drained")),
        (2, "waiting", None),
        (3, "done", Some("orphaned")),
        (4, "waiting", None),
    ] {
        let row = ground.row(all[at]).await;
        assert_eq!(
            (row.status.as_str(), other(&row, "reason")),
            (status, reason),
            "{at}"
        );
        let says = row.stderr.as_deref().unwrap_or_default();
        assert_eq!(
            says.contains("the same unique key waits"),
            status == "done",
            "{says}"
        );
    }
}

/// With an index of somebody's own that scheduled rows may share a key in.
pub(super) async fn a_row_that_may_not_wait_yet_is_put_off_and_no_other(mut ground: Ground) {
    let add: &[&str] = match &ground.settings {
        DatabaseSettings::MySql(_) => &[
            "ALTER TABLE jobs ADD COLUMN own varchar(9) DEFAULT NULL",
            "ALTER TABLE jobs ADD COLUMN lone varchar(9) AS (CASE WHEN status = 'waiting' THEN own END) VIRTUAL",
            "ALTER TABLE jobs ADD UNIQUE KEY lone_idx (lone)",
        ],
        DatabaseSettings::Sqlite(_) => &[
            "ALTER TABLE jobs ADD COLUMN own TEXT DEFAULT NULL",
            "CREATE UNIQUE INDEX lone_idx ON jobs (own) WHERE status = 'waiting'",
        ],
    };
    for statement in add {
        ground.run(statement).await;
    }
    ground.store.inspect().await.unwrap();
    let all = ground.insert("mail", false, 4).await;
    ground
        .run("UPDATE jobs SET status = 'scheduled', run_at = 5 + id, own = CASE WHEN id < 4 THEN 'k' END")
        .await;
    let promoted = ground.store.promote().await.unwrap();
    assert_eq!(promoted.targets.len(), 1);
    assert_eq!(
        ground.statuses(&all).await,
        ["waiting", "scheduled", "scheduled", "waiting"]
    );
    let row = ground.row(all[1]).await;
    let run_at: i64 = other(&row, "run_at").unwrap().parse().unwrap();
    assert!(run_at > 1_000_000_000, "{run_at}");
    // One that cannot even be put off is passed over: the next look does not see that nothing is in its way any more.
    let refuse = match &ground.settings {
        DatabaseSettings::MySql(_) => {
            "CREATE TRIGGER refuse BEFORE UPDATE ON jobs FOR EACH ROW IF NEW.run_at > 9 \
             THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'not this one'; END IF"
        }
        DatabaseSettings::Sqlite(_) => {
            "CREATE TRIGGER refuse BEFORE UPDATE ON jobs WHEN NEW.run_at > 9 BEGIN SELECT RAISE(ABORT, 'not this one'); END"
        }
    };
    ground.run(refuse).await;
    for statement in [
        "UPDATE jobs SET run_at = 5 WHERE id = 2",
        "UPDATE jobs SET status = 'done' WHERE id = 1",
    ] {
        ground.run(statement).await;
        ground.store.promote().await.unwrap();
    }
    assert_eq!(
        ground.statuses(&all).await,
        ["done", "scheduled", "scheduled", "waiting"]
    );
}
