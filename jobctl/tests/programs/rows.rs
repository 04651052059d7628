//! `add`, `list` and `show` on a real table. Where a job has to end the test plays the worker:
//! it writes into the row what a worker writes.

use std::time::Duration;

use serde_json::{Value, json};

use crate::daemon::Daemon;
use crate::jobctl::{program, run};
use crate::table::Table;

#[tokio::test]
async fn a_row_is_inserted_as_an_application_would_and_the_worker_polled() {
    let worker = Daemon::worker(Ok("ok".into())).await;
    let table = Table::new(Some(worker.address)).await;
    let added = table
        .jobctl(&["add", "--target", "mail", "--", "name=it's; ?"])
        .await;
    assert_eq!(
        (added.code, added.stdout.as_str()),
        (0, "added job 1\n"),
        "{added:?}"
    );
    assert_eq!(
        worker.asked(),
        [("poll".to_owned(), json!({"targets": ["mail"]}))]
    );
    let row = table.jobctl(&["show", "1", "--json"]).await.json();
    assert_eq!(row["status"], "waiting");
    assert_eq!(row["target"], "mail");
    assert_eq!(row["others"], json!({"name": "it's; ?"}));
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    assert!(now - row["time_created"].as_u64().unwrap() < 60, "{row}");
    let several = table
        .jobctl(&["add", "--target", "mail", "--count", "3", "--json"])
        .await;
    assert_eq!(
        several.json(),
        json!({"ids": [2, 3, 4], "poked": true, "warning": null})
    );
}

#[tokio::test]
async fn a_master_is_poked() {
    let workers = json!({"workers": [], "memoryUsage": {}});
    let master = Daemon::master(Ok(workers)).await;
    let table = Table::new(Some(master.address)).await;
    let added = table
        .jobctl(&["add", "--master", "--target", "mail", "--count", "2"])
        .await;
    assert_eq!(
        (added.code, added.stdout.as_str()),
        (0, "added 2 jobs: 1-2\n")
    );
    added.failed(0, &["no worker serves mail; its jobs wait until one does"]);
    assert_eq!(
        master.asked().first(),
        Some(&("poke".to_owned(), json!({"targets": ["mail"]}))),
        "who serves it is asked later"
    );
}

#[tokio::test]
async fn without_a_daemon_the_rows_are_added_all_the_same() {
    let table = Table::new(None).await;
    let added = table.jobctl(&["add", "--target", "mail", "--json"]).await;
    added.failed(
        0,
        &[
            "warning: not poked: cannot reach jobd",
            "the rows are added",
        ],
    );
    assert_eq!(added.json()["poked"], false);
    assert_eq!(added.json()["ids"], json!([1]));
    assert_eq!(
        table.jobctl(&["list", "--json"]).await.json()["jobs"][0]["status"],
        "waiting"
    );
}

#[tokio::test]
async fn manual_rows_are_nobodys_to_poll() {
    let worker = Daemon::worker(Ok("ok".into())).await;
    let table = Table::new(Some(worker.address)).await;
    let added = table.jobctl(&["add", "--target", "mail", "--manual"]).await;
    assert_eq!(
        (added.code, added.stdout.as_str()),
        (
            0,
            &*format!("added job 1; {}\n", table.line("run-manual runs it"))
        )
    );
    assert!(worker.asked().is_empty());
    assert_eq!(
        table.jobctl(&["show", "1", "--json"]).await.json()["status"],
        "manual"
    );
}

#[tokio::test]
async fn a_wrong_column_is_named_with_those_that_are_there() {
    let table = Table::new(None).await;
    let wrong = table
        .jobctl(&["add", "--target", "mail", "--", "nmae=x"])
        .await;
    wrong.failed(1, &["no column `nmae`", "name"]);
    let data = table
        .jobctl(&["add", "--target", "mail", "--data", "x"])
        .await;
    data.failed(1, &["no column `data`"]);
    let twice = table
        .jobctl(&["add", "--target", "mail", "--", "Target=x"])
        .await;
    twice.failed(1, &["column `Target` is given twice; target, status and"]);
    let own = ["add", "--target", "mail", "--", "id=5"];
    table.jobctl(&own).await.failed(0, &[]);
    table.jobctl(&own).await.failed(1, &["leave out id"]);
    table.execute("DELETE FROM jobs").await;
    let none = table.jobctl(&["list"]).await.stdout;
    assert_eq!(none, "ID\tTARGET\tSTATUS\tRESULT\tADDED\tTOOK\n");
}

#[tokio::test]
async fn data_comes_from_standard_input_where_asked() {
    use std::io::{Seek as _, Write as _};
    let table = Table::new(None).await;
    table.execute("ALTER TABLE jobs ADD COLUMN data TEXT").await;
    let mut payload = tempfile::tempfile().unwrap();
    payload.write_all("{\"to\":7}\n".as_bytes()).unwrap();
    payload.rewind().unwrap();
    let mut command = crate::jobctl::program();
    command
        .arg("--config")
        .arg(&table.config)
        .args(["add", "--target", "mail", "--data", "-"])
        .stdin(payload);
    assert_eq!(crate::jobctl::finish(&mut command).await.code, 0);
    let row = table.jobctl(&["show", "1", "--json"]).await.json();
    assert_eq!(row["others"]["data"], "{\"to\":7}\n");
}

#[tokio::test]
async fn waiting_for_one_job_ends_as_the_job_did() {
    for (ends, code, words) in [
        (
            "result = 'ok', return_code = 0, stdout = 'fine'",
            0,
            "job 1: ok\n  stdout | fine\n",
        ),
        (
            "result = 'fail', return_code = 42",
            42,
            "job 1: failed with exit code 42\n",
        ),
        (
            "result = 'fail', sig = 'SIGKILL'",
            137,
            "job 1: killed by SIGKILL\n",
        ),
        (
            "result = 'fail', stderr = 'no such file'",
            1,
            "job 1: failed\n  stderr | no such file\n",
        ),
    ] {
        let table = Table::new(None).await;
        let wait = ["add", "--target", "mail", "--wait", "--timeout", "20"];
        let (waited, ()) = tokio::join!(table.jobctl(&wait), table.work(1, ends));
        assert_eq!(
            (waited.code, waited.stdout.as_str()),
            (code, words),
            "{waited:?}"
        );
    }
}

#[tokio::test]
async fn waiting_for_several_ends_with_1_if_any_failed() {
    let table = Table::new(None).await;
    let wait = ["add", "--target", "mail", "--count", "30", "--wait"];
    let ends = "result = iif(id % 10 = 0, 'fail', 'ok'), return_code = iif(id % 10 = 0, 7, 0)";
    let (waited, ()) = tokio::join!(table.jobctl(&wait), table.work(30, ends));
    let expected = "30 jobs: 27 ok, 3 failed\njob 10 (mail): failed with exit code 7\n\
                    job 20 (mail): failed with exit code 7\njob 30 (mail): failed with exit code 7\n";
    assert_eq!((waited.code, waited.stdout.as_str()), (1, expected));
    let wait = [
        "add", "--target", "mail", "--count", "2", "--wait", "--json",
    ];
    let (waited, ()) = tokio::join!(
        table.jobctl(&wait),
        table.work(2, "result = 'ok', return_code = 0")
    );
    assert_eq!(waited.code, 0);
    let results: Vec<Value> = waited.json()["jobs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|job| job["result"].clone())
        .collect();
    assert_eq!(results, ["ok", "ok"]);
}

#[tokio::test]
async fn waiting_ends_in_time_and_when_a_row_is_deleted() {
    let table = Table::new(None).await;
    let wait = ["add", "--target", "mail", "--wait", "--timeout", "100ms"];
    let late = table.jobctl(&wait).await;
    late.failed(
        1,
        &["1 of 1 job not done in time: 1", &table.line("show 1")],
    );
    let wait = ["add", "--target", "gone", "--wait"];
    let delete = async {
        while table
            .execute("DELETE FROM jobs WHERE target = 'gone'")
            .await
            == 0
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let (gone, ()) = tokio::join!(table.jobctl(&wait), delete);
    gone.failed(1, &["job 2 was deleted"]);
}

#[tokio::test]
async fn lists_are_newest_first_and_filtered() {
    let table = Table::new(None).await;
    table
        .execute(
            "INSERT INTO jobs (target, time_created, status, result, return_code, sig, time_started, time_finished, stdout) VALUES \
             ('mail', 1700000000, 'done', 'ok', 0, NULL, 1700000001, 1700000066, 'out'), \
             ('mail', 1700000000, 'done', 'fail', NULL, 'SIGTERM', 1700000001, 1700000002, ''), \
             ('report', 1700000000, 'waiting', NULL, NULL, NULL, 0, 0, NULL), \
             ('mail', 1700000000, 'ignored', NULL, NULL, NULL, 0, 0, NULL)",
        )
        .await;
    let ids = async |arguments: &[&str]| -> Vec<u64> {
        let arguments: Vec<&str> = ["list", "--json"]
            .iter()
            .chain(arguments)
            .copied()
            .collect();
        let jobs = table.jobctl(&arguments).await.json()["jobs"].take();
        jobs.as_array()
            .unwrap()
            .iter()
            .map(|job| job["id"].as_u64().unwrap())
            .collect()
    };
    assert_eq!(ids(&[]).await, [4, 3, 2, 1]);
    assert_eq!(ids(&["--target", "mail", "--limit", "2"]).await, [4, 2]);
    assert_eq!(ids(&["--status", "done"]).await, [2, 1]);
    assert_eq!(
        ids(&["--status", "done", "--target", "report"]).await,
        [0u64; 0]
    );
    let slip = table.jobctl(&["list", "--status", "nonsense"]).await;
    slip.failed(2, &["no status 'nonsense'", "waiting, manual, accepted"]);
    assert_eq!(ids(&["--status", "running"]).await, [0u64; 0]);
    let lines = table.jobctl(&["list", "--status", "done"]).await.stdout;
    let columns = |line: &str| {
        line.split('\t')
            .filter(|cell| !cell.ends_with("ago"))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let rows: Vec<Vec<String>> = lines.lines().map(columns).collect();
    assert_eq!(
        rows[0],
        ["ID", "TARGET", "STATUS", "RESULT", "ADDED", "TOOK"]
    );
    assert_eq!(rows[1], ["2", "mail", "done", "killed by SIGTERM", "1s"]);
    assert_eq!(rows[2], ["1", "mail", "done", "ok", "1m 5s"]);
}

#[tokio::test]
async fn a_job_is_shown_with_its_times_and_output() {
    let table = Table::new(None).await;
    table
        .execute(
            "INSERT INTO jobs (id, target, time_created, status, result, return_code, time_started, time_finished, stdout, stderr, name) \
             VALUES (9, 'mail', 1700000000, 'done', 'fail', 3, 1700000001, 1700000011, 'a\nb', 'c', 'welcome')",
        )
        .await;
    let shown = table.jobctl(&["show", "9"]).await.stdout;
    for part in [
        "job       9\n",
        "result    failed with exit code 3\n",
        "started   2023-11-14 22:13:21 UTC (",
        "took      10s\n",
        "name      welcome\n",
        "  stdout | a\n  stdout | b\n  stderr | c\n",
    ] {
        assert!(shown.contains(part), "{part:?} is not in {shown}");
    }
    let json = table.jobctl(&["show", "9", "--json"]).await.json();
    let expected = json!({
        "id": 9, "target": "mail", "status": "done", "result": "fail", "return_code": 3, "sig": null,
        "time_created": 1_700_000_000, "time_started": 1_700_000_001, "time_finished": 1_700_000_011,
        "stdout": "a\nb", "stderr": "c", "others": {"name": "welcome"},
    });
    assert_eq!(json, expected);
    for (sql, used) in [
        ("ALTER TABLE jobs ADD COLUMN cpu_ms INTEGER", None),
        ("ALTER TABLE jobs ADD COLUMN peak_kib INTEGER", None),
        (
            "UPDATE jobs SET cpu_ms = 1290, peak_kib = 34816",
            Some("1.2 s CPU, 34.0 MiB peak"),
        ),
    ] {
        table.execute(sql).await;
        let shown = table.jobctl(&["show", "9"]).await.stdout;
        let mut lines = shown.lines();
        let line = lines.find_map(|line| line.strip_prefix("used      "));
        assert_eq!(line, used, "{shown}");
        assert!(!shown.contains("cpu_ms"), "{shown}");
    }
    table
        .jobctl(&["show", "10"])
        .await
        .failed(1, &["job 10 not found"]);
}

#[tokio::test]
async fn bytes_that_are_no_text_come_as_they_are() {
    let table = Table::new(None).await;
    table
        .execute(
            "ALTER TABLE jobs ADD COLUMN data BLOB; \
             INSERT INTO jobs (target, time_created, status, stdout, data) VALUES \
             ('mail', 1, 'done', x'fe0a', x'00ff'), ('mail', 1, 'done', 'out', x'c3a9'), ('mail', 1, 'done', '', NULL)",
        )
        .await;
    let export = table.jobctl(&["export", "--json-lines"]).await.stdout;
    let rows: Vec<Value> = export
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let data: Vec<&Value> = rows.iter().map(|row| &row["others"]["data"]).collect();
    assert_eq!(
        data,
        [&json!({"base64": "AP8="}), &json!("é"), &json!(null)]
    );
    assert_eq!(rows[0]["stdout"], json!({"base64": "/go="}));
    assert_eq!(rows[1]["stdout"], "out");
    let shown = table.jobctl(&["show", "1", "--json"]).await.json();
    assert_eq!(shown, rows[0]);
    let config = table.config.to_str().unwrap();
    let logs = program().args(["--config", config, "logs", "1"]).output();
    assert_eq!(logs.await.unwrap().stdout, b"\xfe\n", "in a pipe");
}

#[tokio::test]
async fn what_a_unique_index_bars_from_waiting_costs_the_others_nothing() {
    let table = Table::new(None).await;
    table
        .execute(
            "CREATE UNIQUE INDEX pending ON jobs (target) WHERE status = 'waiting'; \
             INSERT INTO jobs (target, time_created, status, result) VALUES \
             ('mail', 1, 'done', 'fail'), ('mail', 1, 'done', 'fail'), ('report', 1, 'done', 'fail'), ('mail', 1, 'done', 'ok')",
        )
        .await;
    let retried = table.jobctl(&["retry", "1-4", "--yes"]).await;
    let expected = "2 jobs wait again: 1, 3\n\
                    left alone, as they are not done and failed, or not there: 4\n\
                    left alone, as another job with the same unique key waits: 2\n";
    assert_eq!((retried.code, retried.stdout.as_str()), (1, expected));
}

#[tokio::test]
async fn a_master_is_told_targets_from_the_table() {
    let outcome = json!({"result": "ok", "code": 0, "signal": null, "stdout": "", "stderr": ""});
    let master = Daemon::master(Ok(json!({"jobs": {"1": outcome}}))).await;
    let table = Table::new(Some(master.address)).await;
    table.jobctl(&["add", "--target", "mail", "--manual"]).await;
    let ran = table.jobctl(&["--master", "run-manual", "1", "77"]).await;
    assert_eq!(
        (ran.code, ran.stdout.as_str()),
        (1, "job 1: ok\njob 77: not found\n")
    );
    assert_eq!(
        master.asked(),
        [(
            "run-manual".to_owned(),
            json!({"jobs": [{"id": 1, "target": "mail"}]})
        )]
    );
}

#[tokio::test]
async fn commands_on_the_table_need_one() {
    for arguments in [&["list"][..], &["show", "1"], &["add", "--target", "a"]] {
        run(arguments.iter().copied())
            .await
            .failed(2, &["this needs the job table", "sqlite_path"]);
    }
    let table = Table::new(None).await;
    let missing = table.folder.path().join("other.conf");
    std::fs::write(&missing, "sqlite_path = /nonexistent/jobs.db").unwrap();
    run(["--config", missing.to_str().unwrap(), "list"])
        .await
        .failed(3, &["cannot open SQLite file /nonexistent/jobs.db"]);
    table.execute("ALTER TABLE jobs RENAME TO tasks").await;
    table
        .jobctl(&["list"])
        .await
        .failed(1, &["table jobs not found", &table.line("create-table")]);
}

#[tokio::test]
async fn the_table_is_created_once_and_never_touched_again() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("jobctl.conf");
    let text = format!(
        "sqlite_path = {}\nsqlite_table = my jobs\nport = 1\n",
        folder.path().join("new.db").display()
    );
    std::fs::write(&config, text).unwrap();
    let jobctl = async |arguments: &[&str]| {
        let config = ["--config", config.to_str().unwrap()];
        run(config.into_iter().chain(arguments.iter().copied())).await
    };
    let created = jobctl(&["create-table"]).await;
    assert_eq!(created.code, 0, "{created:?}");
    assert!(created.stdout.contains("new.db"), "{created:?}");
    assert_eq!(jobctl(&["add", "--target", "a"]).await.code, 0);
    jobctl(&["create-table"])
        .await
        .failed(1, &["already exists; it is left as it is"]);
    assert_eq!(
        jobctl(&["list", "--json"]).await.json()["jobs"][0]["target"],
        "a"
    );
    let priority = ["list", "--columns", "priority"];
    jobctl(&priority).await.failed(1, &["no column `priority`"]);
    std::fs::remove_file(folder.path().join("new.db")).unwrap();
    let full = jobctl(&["create-table", "--full"]).await;
    assert_eq!(full.code, 0, "{full:?}");
    assert_eq!(jobctl(&priority).await.code, 0);
}
