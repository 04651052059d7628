//! Jobs that were not named one by one: what a range means, and that it is shown before anything befalls it.

use serde_json::json;

use crate::daemon::Daemon;
use crate::table::Table;

#[tokio::test]
async fn a_range_is_what_the_table_has_between_two_ids() {
    let worker = Daemon::worker(Ok(json!({"jobs": {"2": "cancelled", "3": "cancelled"}}))).await;
    let table = Table::new(Some(worker.address)).await;
    table
        .execute(
            "INSERT INTO jobs (id, target, time_created, status, result) VALUES \
             (1, 'mail', 1, 'done', 'fail'), (2, 'mail', 1, 'done', 'ok'), (3, 'report', 1, 'done', 'fail'), (7, 'mail', 1, 'waiting', NULL)",
        )
        .await;
    let several = table.jobctl(&["wait", "1-5"]).await;
    assert!(
        several.stdout.starts_with("3 jobs: 1 ok, 2 failed\n"),
        "{several:?}"
    );
    let none = table.jobctl(&["wait", "4-6"]).await;
    none.failed(1, &["there are no jobs 4-6"]);
    table
        .jobctl(&["wait", "6-4"])
        .await
        .failed(2, &["write 4-6"]);
    table
        .jobctl(&["show", "1-3"])
        .await
        .failed(2, &["write a number, or last"]);
    // Whoever did not type each id is shown which they are.
    let asked = table.jobctl(&["cancel", "2-7"]).await;
    asked.failed(
        2,
        &[
            "job 7 of mail: ",
            "\n2 others are over already\n",
            "this ends 1 job of mail for good;",
            "add --yes: jobctl --config ",
            " cancel 2-7 --yes",
        ],
    );
    let asked = table.jobctl(&["cancel", "last"]).await;
    asked.failed(2, &["job 7 of mail: ", "\nthis ends it for good;"]);
    assert!(worker.asked().is_empty());
    let ended = table.jobctl(&["cancel", "2-5", "--yes"]).await;
    assert_eq!(
        (ended.code, ended.stdout.as_str()),
        (0, "job 2: cancelled\njob 3: cancelled\n")
    );
    assert_eq!(
        worker.asked(),
        [("cancel".to_owned(), json!({"ids": [2, 3]}))]
    );
    let asked = table.jobctl(&["retry", "1-7"]).await;
    asked.failed(
        2,
        &["this runs 2 jobs of 2 targets (mail: 1, report: 1) again"],
    );
    let again = table.jobctl(&["retry", "1-7", "--yes"]).await;
    let expected = "2 jobs wait again: 1, 3\nleft alone, as they are not done and failed, or not there: 2, 7\n";
    assert_eq!((again.code, again.stdout.as_str()), (0, expected));
}
