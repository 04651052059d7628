//! How attempts are counted: what the pause after one goes by, and what a column for them may hold.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::{SystemTime, UNIX_EPOCH};

use jobd_tests::Jobd;
use jobd_tests::ground::Ground;

#[tokio::test]
async fn the_pause_after_a_failure_goes_by_the_attempts_that_count() {
    for ground in Ground::each().await {
        let ini = ground
            .ini()
            .set("retry_backoff", "100..80000")
            .set("launcher", "sh -c 'exit $JOBD_TARGET'")
            .target("1", 1)
            .target("75", 1);
        let _jobd = Jobd::ready(&ground.scratch, &ini).await;
        // Drained five times before; failed five times before; five times of each.
        for (target, attempts, interruptions, least) in [
            ("1", "5", "5", 100),
            ("1", "5", "0", 3_200),
            ("1", "7", "5", 400),
            ("75", "5", "0", 100),
            ("75", "5", "5", 3_200),
            ("75", "7", "2", 400),
        ] {
            let row = [
                ("max_attempts", "99"),
                ("attempts", attempts),
                ("interruptions", interruptions),
            ];
            let id = ground.insert(target, &row).await;
            ground.reaches(id, "scheduled").await;
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
            let run_at = ground.number(id, "run_at").await.cast_unsigned();
            let pause = run_at.saturating_sub(now.as_secs());
            // What follows is twice as long at least.
            assert!(
                (least - 30..=2 * least + 2).contains(&pause),
                "{target}, {row:?}: {pause}"
            );
        }
    }
}

#[tokio::test]
async fn a_retry_that_its_column_does_not_hold_is_as_many_as_it_holds() {
    for (kind, most) in [
        ("tinyint", 127),
        ("tinyint unsigned", 255),
        ("int unsigned", 301),
    ] {
        let ground = Ground::mysql().await;
        ground
            .run(&format!("ALTER TABLE jobs MODIFY max_attempts {kind}"))
            .await;
        let ini = ground
            .ini()
            .set("retry", 300)
            .set("retry_backoff", "1h")
            .set("launcher", "false")
            .target("a", 1);
        let _jobd = Jobd::ready(&ground.scratch, &ini).await;
        let id = ground.insert("a", &[]).await;
        ground.reaches(id, "scheduled").await;
        assert_eq!(ground.number(id, "max_attempts").await, most);
    }
}
