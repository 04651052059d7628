//! `retry`: what it leaves out, and what it says where it comes half-way only; and what `wait` says of several.

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

#[tokio::test]
async fn several_that_are_waited_for_say_why_they_ended() {
    let waited = three().await.jobctl(&["wait", "1-3"]).await;
    let said = "3 jobs: 0 ok, 3 failed\n\
                job 1 (mail): failed with exit code 3\n\
                job 2 (mail): killed by SIGTERM (cancelled)\n\
                job 3 (report): failed with exit code 3 (timeout)\n";
    assert_eq!((waited.code, waited.stdout.as_str()), (1, said));
}

#[tokio::test]
async fn a_refused_retry_says_what_was_done_before_it() {
    let trigger = "CREATE TRIGGER no BEFORE UPDATE ON jobs WHEN NEW.id = 900 BEGIN SELECT RAISE(ABORT, 'not me'); END";
    for (ids, told) in [
        ("900", None),
        (
            "1-1000",
            Some("jobctl: 500 of 1000 jobs wait again; the same command takes the rest\n"),
        ),
    ] {
        let table = Table::new(None).await;
        table
            .execute(
                "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 1000) \
                 INSERT INTO jobs (target, time_created, status, result) SELECT 'mail', 1, 'done', 'fail' FROM n",
            )
            .await;
        table.execute(trigger).await;
        let refused = table.jobctl(&["retry", ids, "--yes"]).await;
        refused.failed(1, &["refused: not me", told.unwrap_or_default()]);
        let is_told = refused.stderr.contains(" wait again");
        assert_eq!(is_told, told.is_some(), "{refused:?}");
    }
}

#[tokio::test]
async fn a_retry_that_is_stopped_counts_what_may_have_been_done() {
    let table = three().await;
    table
        .execute(
            "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 1000) \
             INSERT INTO jobs (target, time_created, status) SELECT 'mail', 1, 'ignored' FROM n",
        )
        .await;
    table
        .execute(
            "CREATE TRIGGER slow BEFORE UPDATE ON jobs WHEN NEW.id = 1 BEGIN \
             SELECT count(*) FROM jobs a, jobs b, jobs c WHERE a.id + b.id + c.id < 0; END",
        )
        .await;
    let words = ["--config", table.config.to_str().unwrap(), "retry", "1"];
    let mut retry = Terminal::start(80, &words, &[]);
    retry.sees(&["0 of 1 wait again ["]);
    retry.press("\x03");
    let (code, text) = retry.ends();
    assert_eq!(code, 130, "{text}");
    assert!(
        text.contains("0 of 1 job wait again, or 1 more; the same command"),
        "{text}"
    );
}
