//! `retry`: what it leaves out, and what it says where it comes half-way only.

use serde_json::json;

use crate::table::Table;
use crate::terminal::Terminal;

/// A job that failed, one that was cancelled, and one of another target.
async fn three() -> Table {
    let table = Table::new(None).await;
    table
        .execute(
            "ALTER TABLE jobs ADD COLUMN reason TEXT; \
             INSERT INTO jobs (target, time_created, status, result, return_code, sig, reason) VALUES \
             ('mail', unixepoch(), 'done', 'fail', 3, NULL, 'exit'), \
             ('mail', unixepoch(), 'done', 'fail', NULL, 'SIGTERM', 'cancelled'), \
             ('report', unixepoch(), 'done', 'fail', 3, NULL, 'timeout')",
        )
        .await;
    table
}

#[tokio::test]
async fn what_was_cancelled_runs_again_only_where_its_id_is_typed() {
    for words in [
        &["retry", "1-3"][..],
        &["retry", "last", "2", "1"],
        &["retry", "--failed", "--since", "1h"],
    ] {
        let table = three().await;
        let question = "this runs 2 jobs of 2 targets (mail: 1, report: 1) again, and leaves out 1 as cancelled;";
        table.jobctl(words).await.failed(2, &[question]);
        let retried = table.jobctl(&[words, &["--yes"]].concat()).await;
        let said = "2 jobs wait again: 1, 3\nleft alone, as they were cancelled: 2\n";
        assert_eq!((retried.code, retried.stdout.as_str()), (0, said));
        let again = table.jobctl(&[words, &["--yes", "--json"]].concat()).await;
        assert_eq!(again.json()["cancelled"], json!([2]), "{again:?}");
        let typed = table.jobctl(&["retry", "2"]).await;
        assert_eq!(typed.stdout, "job 2 waits again\n", "{typed:?}");
    }
}
