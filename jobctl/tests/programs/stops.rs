//! Ctrl-C in the middle of what changes many rows: it says how far it came, and no batch is done by half.

use serde_json::json;

use crate::daemon::Daemon;
use crate::table::Table;
use crate::terminal::Terminal;

/// How an event of the third batch takes longer than anybody waits.
fn slow(event: &str, id: &str) -> String {
    format!(
        "CREATE TRIGGER slow BEFORE {event} ON jobs WHEN {id} = 1001 BEGIN \
         SELECT count(*) FROM jobs a, jobs b, jobs c WHERE a.id + b.id + c.id < 0; END"
    )
}

/// Fills the table with 2000 jobs, which have these values.
async fn fill(table: &Table, columns: &str, values: &str) {
    let sql = format!(
        "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 2000) \
         INSERT INTO jobs (target, time_created, {columns}) SELECT 'mail', 1700000000, {values} FROM n"
    );
    table.execute(&sql).await;
}

/// What is left on the terminal after Ctrl-C, which is pressed when this is seen.
fn stopped(table: &Table, words: &[&str], seen: &[&str]) -> String {
    let config = ["--config", table.config.to_str().unwrap()];
    let words: Vec<&str> = config.iter().chain(words).copied().collect();
    let mut terminal = Terminal::start(80, &words, &[]);
    terminal.sees(seen);
    terminal.press("\x03");
    let (code, text) = terminal.ends();
    assert_eq!(code, 130, "{text}");
    // Where it was broken to fit.
    text.replace('\n', " ")
}

/// Rows of this condition, of all that are left.
async fn count(table: &Table, condition: &str) -> u64 {
    let sql = format!("DROP TRIGGER IF EXISTS slow; DELETE FROM jobs WHERE {condition}");
    table.execute(&sql).await
}

#[tokio::test]
async fn a_prune_that_is_stopped_says_how_far_it_came() {
    let table = Table::new(None).await;
    let columns = "status, result, time_started, time_finished";
    fill(&table, columns, "'done', 'ok', 1700000001, 1700000002").await;
    table.execute(&slow("DELETE", "OLD.id")).await;
    let words = ["prune", "--older-than", "30d", "--yes"];
    let seen = [" 1000 of 2000 deleted", "Ctrl-C stops"];
    let text = stopped(&table, &words, &seen);
    let told = "1000 of 2000 jobs, or a batch of 500 more";
    assert!(text.contains(told), "{text}");
    assert_eq!(count(&table, "1").await, 1000, "whole batches");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_that_is_stopped_says_how_far_it_came_and_pokes() {
    let worker = Daemon::worker(Ok(json!("ok"))).await;
    let table = Table::new(Some(worker.address)).await;
    fill(&table, "status, result", "'done', 'fail'").await;
    table.execute(&slow("UPDATE", "NEW.id")).await;
    let words = ["retry", "--failed", "--since", "1970-01-01", "--yes"];
    let text = stopped(&table, &words, &["1000 of 2000 wait again ["]);
    let told = "1000 of 2000 jobs wait again, or 500 more; the same command takes the rest";
    assert!(text.contains(told), "{text}");
    let poll = ("poll".to_owned(), json!({"targets": ["mail"]}));
    assert_eq!(worker.asked(), [poll]);
    assert_eq!(count(&table, "status = 'waiting'").await, 1000);
}

#[tokio::test]
async fn a_cancel_by_rows_that_is_stopped_says_how_far_it_came() {
    let table = Table::new(None).await;
    table
        .execute("ALTER TABLE jobs ADD COLUMN cancel_requested INTEGER")
        .await;
    fill(&table, "status", "'waiting'").await;
    table.execute(&slow("UPDATE", "NEW.id")).await;
    let words = ["cancel", "1-2000", "--yes"];
    let text = stopped(&table, &words, &["1000 of 2000 asked to end ["]);
    let told = "asked for the end of 1000 of 2000 jobs, or a batch of 500 more; the same command takes the rest";
    assert!(text.contains(told), "{text}");
    assert_eq!(count(&table, "cancel_requested = 1").await, 1000);
}
