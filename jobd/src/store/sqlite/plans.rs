//! What SQLite does for a look, counted in instructions of its virtual machine.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use jobd_proto::table::{SqliteSettings, TableName, connect_sqlite};
use jobd_tests::Scratch;
use jobd_tests::database::scheduled;
use sqlx::AssertSqlSafe;

use super::look;
use crate::store::Sight;
use crate::store::glance::glance;
use crate::store::later::promote;

#[tokio::test]
async fn a_million_rows_for_later_cost_a_promotion_what_ten_cost() {
    let mut costs = Vec::new();
    for digits in [1, 6] {
        let scratch = Scratch::new();
        let settings = SqliteSettings {
            path: scratch.write("jobs.db", ""),
            table: TableName::parse("jobs").unwrap(),
        };
        let mut connection = connect_sqlite(&settings).await.unwrap();
        let create = include_str!("../../../../sql/sqlite/jobs.sql");
        for sql in [create, &scheduled(digits, "4000000000"), &scheduled(1, "5")] {
            let sql = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()));
            sql.execute(&mut connection).await.unwrap();
        }
        let lease = Duration::from_secs(30);
        let (_, statements) = look(&mut connection, &settings, None, lease).await.unwrap();
        let statements = statements.unwrap();
        let steps = Arc::new(AtomicU64::new(0));
        let count = steps.clone();
        let mut handle = connection.lock_handle().await.unwrap();
        handle.set_progress_handler(1, move || {
            count.fetch_add(1, Ordering::Relaxed);
            true
        });
        drop(handle);
        let begun = Instant::now();
        let seen = glance(&mut connection, &statements).await.unwrap();
        let (looked, glanced) = (steps.swap(0, Ordering::Relaxed), begun.elapsed());
        let begun = Instant::now();
        let (promoted, _) = promote(&mut connection, &statements, &HashSet::new())
            .await
            .unwrap();
        let (promotion, time) = (steps.swap(0, Ordering::Relaxed), begun.elapsed());
        assert_eq!(seen, [Sight::Due]);
        assert_eq!((promoted.targets.len(), promoted.more), (1, false));
        let rows = 10_u64.pow(digits);
        println!(
            "{rows} rows: instructions of a look and a promotion {:?} in {glanced:?} and {time:?}",
            [looked, promotion]
        );
        costs.push([looked, promotion]);
    }
    assert!(costs[0][0] > 0 && costs[0][1] > 0, "{costs:?}");
    assert_eq!(costs[0], costs[1]);
}
