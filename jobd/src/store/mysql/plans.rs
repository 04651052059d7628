//! How the server carries out each statement, on a table with a backlog and a past.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use jobd_proto::table::connect_mysql;
use jobd_tests::Server;
use jobd_tests::database::scheduled;
use sqlx::mysql::{MySqlConnection, MySqlRow};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, Row as _};

use super::look::look;
use crate::store::Sight;
use crate::store::conformance::settings;
use crate::store::floors::Place;
use crate::store::glance::glance;
use crate::store::later::promote;

/// Doubles eight rows so often: enough for a planner to have a choice that hurts.
const DOUBLINGS: u32 = 11;

/// Doubles ten rows so often: enough to see whether somebody walks over half of them.
const UNPURGED: u32 = 13;

/// Rows that workers hold at a time, at most.
const CLAIMED: u64 = 100;

/// A statement with plain values for its marks, in the way of the plan that they would have.
fn with_values(sql: &str) -> String {
    let sql = sql
        .replace("LIMIT ?", "LIMIT 10")
        .replace("`target` = ?", "`target` = 't'")
        .replace("`target` > ?", "`target` > 't'")
        .replace("`priority` = ?", "`priority` = 1")
        .replace("`priority` < ?", "`priority` < 1")
        .replace("`target` LIKE ?", "`target` LIKE 't%'")
        .replace("`worker` = ?", "`worker` = 'w'")
        .replace("`stderr` = ?", "`stderr` = 'w'")
        .replace("`worker` >= ?", "`worker` >= 'w/'")
        .replace("`worker` < ?", "`worker` < 'w0'")
        .replace("`stderr` >= ?", "`stderr` >= 'w/'")
        .replace("`stderr` < ?", "`stderr` < 'w0'")
        .replace("`status` = ?", "`status` = 'waiting'");
    let mut next = 0;
    let ids = sql.chars().map(|c| {
        if c == '?' {
            next += 1;
            // Far apart, as the ids of a busy table are not: the hardest case of a list.
            (next * 37 % 9000).to_string()
        } else {
            c.to_string()
        }
    });
    ids.collect()
}

async fn every_statement_reads_what_it_needs_and_no_more(create: &'static str) {
    let database = Server::shared().await.database().await;
    database.run(create).await;
    for (count, target, status) in [
        (3, "t", "waiting"),
        (1, "t", "done"),
        (1, "u", "waiting"),
        (1, "u", "done"),
        (1, "v", "manual"),
        (1, "v", "done"),
    ] {
        database.insert(count, target, status).await;
    }
    for _ in 0..DOUBLINGS {
        database.double().await;
    }
    database
        .run("UPDATE jobs SET status = 'accepted' WHERE id % 397 = 0")
        .await;
    database
        .run("UPDATE jobs SET status = 'running' WHERE id % 401 = 0")
        .await;
    if create.contains("`priority`") {
        database
            .run("UPDATE jobs SET priority = CAST(id % 5 AS SIGNED) - 2")
            .await;
    }
    database.run("ANALYZE TABLE jobs").await;

    let settings = settings(database.port, &database.name);
    let mut connection = connect_mysql(&settings).await.unwrap();
    let (inspection, statements) = look(&mut connection, &settings, None, Duration::from_secs(30))
        .await
        .unwrap();
    assert!(inspection.problems.is_empty(), "{:?}", inspection.problems);
    for sql in statements.unwrap().texts() {
        let marks = sql.matches('?').count() as u64;
        let sql = with_values(&sql);
        let explain = format!("EXPLAIN FORMAT=TRADITIONAL {sql}");
        let plan = sqlx::query(AssertSqlSafe(explain))
            .fetch_all(&mut connection)
            .await
            .unwrap();
        for row in plan {
            let text = |name| {
                let bytes = row.try_get_unchecked::<Option<Vec<u8>>, _>(name).unwrap();
                bytes.map_or_else(String::new, |bytes| {
                    String::from_utf8_lossy(&bytes).into_owned()
                })
            };
            let [table, kind, key, extra] = ["table", "type", "key", "Extra"].map(text);
            if table == "jobs" {
                let seen = format!("{kind} {key} {extra}: {sql}");
                assert!(["const", "ref", "range"].contains(&&*kind), "{seen}");
                let keys = ["PRIMARY", "status_target_idx", "run_at_idx", "cancel_idx"];
                assert!(keys.contains(&&*key), "{seen}");
                assert!(
                    !extra.contains("filesort") && !extra.contains("temporary"),
                    "{seen}"
                );
            }
        }
        let before = rows_read(&mut connection).await;
        sqlx::raw_sql(AssertSqlSafe(sql.clone()))
            .execute(&mut connection)
            .await
            .unwrap();
        let read = rows_read(&mut connection).await - before;
        // What is claimed now is few rows, which some statements read whole.
        assert!(read <= 2 * marks + CLAIMED + 20, "{read} rows: {sql}");
    }
}

#[tokio::test]
async fn a_million_rows_for_later_cost_a_promotion_what_ten_cost() {
    let mut costs = Vec::new();
    for digits in [1, 6] {
        let database = Server::shared().await.database().await;
        database
            .run(include_str!("../../../../sql/mysql/jobs.sql"))
            .await;
        let settings = settings(database.port, &database.name);
        let mut connection = connect_mysql(&settings).await.unwrap();
        let (_, statements) = look(&mut connection, &settings, None, Duration::from_secs(30))
            .await
            .unwrap();
        let statements = statements.unwrap();
        let rows = database.run(&scheduled(digits, "4000000000")).await;
        assert_eq!(rows, 10_u64.pow(digits));
        database.run(&scheduled(1, "5")).await;
        let nothing = handler_reads(&mut connection).await;
        let before = handler_reads(&mut connection).await;
        let (nothing, begun) = (before - nothing, Instant::now());
        let seen = glance(&mut connection, &statements).await.unwrap();
        let (looked, glanced) = (handler_reads(&mut connection).await, begun.elapsed());
        let begun = Instant::now();
        let (promoted, _) = promote(&mut connection, &statements, &HashSet::new())
            .await
            .unwrap();
        let time = begun.elapsed();
        let after = handler_reads(&mut connection).await;
        assert_eq!(seen, [Sight::Due]);
        assert_eq!((promoted.targets.len(), promoted.more), (1, false));
        let cost = [looked - before - nothing, after - looked - nothing];
        println!(
            "{rows} rows: reads of a look and a promotion {cost:?} in {glanced:?} and {time:?}"
        );
        costs.push(cost);
    }
    assert_eq!(costs[0], costs[1]);
    // Each of the ten that are due once in either statement, and where the range ends.
    assert!(costs[0][0] <= 5 && costs[0][1] <= 25, "{costs:?}");
}

/// Everything that the server has read for this connection, by whatever way.
async fn handler_reads(connection: &mut MySqlConnection) -> u64 {
    status(connection, "LIKE 'Handler\\_read\\_%'").await
}

/// With priorities too: rows that were claimed, and that a transaction can still see, are not walked over.
#[tokio::test]
async fn a_claim_begins_behind_what_is_not_purged() {
    let database = Server::shared().await.database().await;
    database
        .run(include_str!("../../../../sql/mysql/jobs.sql"))
        .await;
    let first = database.insert(10, "t", "waiting").await[0];
    for _ in 0..UNPURGED {
        database.double().await;
    }
    let settings = settings(database.port, &database.name);
    let mut report = connect_mysql(&settings).await.unwrap();
    for sql in [
        "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ",
        "START TRANSACTION WITH CONSISTENT SNAPSHOT",
        "SELECT COUNT(*) FROM jobs",
    ] {
        sqlx::raw_sql(sql).execute(&mut report).await.unwrap();
    }
    let mut connection = connect_mysql(&settings).await.unwrap();
    let (_, statements) = look(&mut connection, &settings, None, Duration::from_secs(30))
        .await
        .unwrap();
    let statements = statements.unwrap();
    let floor = i64::try_from(first).unwrap() + (10 << UNPURGED) / 2;
    let claimed = format!("UPDATE jobs SET status = 'accepted' WHERE id <= {floor}");
    assert!(database.run(&claimed).await > 1000);

    let (priority, id) = (0, floor);
    let behind = Place { priority, id };
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..15 {
        for (times, place) in times.iter_mut().zip([behind, Place::FIRST]) {
            let begun = Instant::now();
            let (select, places) = statements.claim_from(place);
            let claim = sqlx::query(AssertSqlSafe(select.to_string())).bind("t");
            let claim = places.into_iter().chain([10]).fold(claim, Query::bind);
            let rows = claim.fetch_all(&mut connection).await.unwrap();
            times.push(begun.elapsed());
            let next: i64 = rows[0].try_get(0).unwrap();
            assert!(next > floor, "row {next} was claimed");
        }
    }
    // The shortest of each, as the machine may be busy.
    let [behind, from_the_first] = times.map(|times| times.into_iter().min().unwrap());
    assert!(
        behind * 3 < from_the_first,
        "{behind:?} behind the floor, {from_the_first:?} from the first entry on"
    );
}

/// Rows that this connection has read by an index.
async fn rows_read(connection: &mut MySqlConnection) -> u64 {
    let counters = "('Handler_read_key', 'Handler_read_next', 'Handler_read_prev')";
    status(connection, &format!("WHERE Variable_name IN {counters}")).await
}

/// The sum of this connection's counters.
async fn status(connection: &mut MySqlConnection, counters: &str) -> u64 {
    let sql = format!("SHOW SESSION STATUS {counters}");
    let rows = sqlx::query(AssertSqlSafe(sql))
        .fetch_all(connection)
        .await
        .unwrap();
    let count = |row: &MySqlRow| {
        let bytes = row.try_get_unchecked::<Vec<u8>, _>(1).unwrap();
        String::from_utf8_lossy(&bytes).parse::<u64>().unwrap()
    };
    rows.iter().map(count).sum()
}

#[tokio::test]
async fn every_statement_reads_what_it_needs_on_mysql_minimal() {
    every_statement_reads_what_it_needs_and_no_more(include_str!(
        "../../../../sql/mysql/jobs-minimal.sql"
    ))
    .await;
}

#[tokio::test]
async fn every_statement_reads_what_it_needs_on_mysql_full() {
    every_statement_reads_what_it_needs_and_no_more(include_str!("../../../../sql/mysql/jobs.sql"))
        .await;
}
