//! What is done with rows that are there: `wait`, `logs`, `retry`, `stats`, `export`, `prune`, and
//! `run`. The test plays the worker where a job has to end.

use serde_json::{Value, json};

use crate::daemon::{Daemon, serves_mail};
use crate::jobctl::run;
use crate::table::Table;

/// Three jobs: one ok, one failed, one waiting; the first two ended long ago.
async fn three() -> Table {
    let table = Table::new(None).await;
    table
        .execute(
            "INSERT INTO jobs (target, time_created, status, result, return_code, time_started, time_finished, stdout, stderr) VALUES \
             ('mail', 1700000000, 'done', 'ok', 0, 1700000001, 1700000011, 'out' || char(10), ''), \
             ('mail', 1700000100, 'done', 'fail', 3, 1700000101, 1700000103, '', 'sorry' || char(10)), \
             ('report', unixepoch(), 'waiting', NULL, NULL, 0, 0, NULL, NULL)",
        )
        .await;
    table
}

#[tokio::test]
async fn a_wait_ends_as_the_job_did_or_with_the_first_of_several() {
    let table = three().await;
    let one = table.jobctl(&["wait", "2"]).await;
    assert_eq!(
        (one.code, one.stdout.as_str()),
        (3, "job 2: failed with exit code 3\n  stderr | sorry\n")
    );
    let several = table.jobctl(&["wait", "1", "2"]).await;
    assert_eq!(several.code, 1);
    assert!(several.stdout.starts_with("2 jobs: 1 ok, 1 failed\n"));
    let any = table.jobctl(&["wait", "--any", "3", "1", "--json"]).await;
    assert_eq!((any.code, &any.json()["jobs"][0]["id"]), (0, &json!(1)));
    let late = table.jobctl(&["wait", "last", "--timeout", "50ms"]).await;
    late.failed(1, &["1 of 1 job not done in time: 3"]);
    let never = table.jobctl(&["wait", "99"]).await;
    never.failed(
        1,
        &["job 99 was deleted from the table, or never was there"],
    );
}

#[tokio::test]
async fn logs_are_the_output_byte_for_byte() {
    let table = three().await;
    let out = table.jobctl(&["logs", "1"]).await;
    assert_eq!(
        (out.code, out.stdout.as_str(), out.stderr.as_str()),
        (0, "out\n", "")
    );
    let err = table.jobctl(&["logs", "2"]).await;
    assert_eq!((err.stdout.as_str(), err.stderr.as_str()), ("", "sorry\n"));
    let waiting = table.jobctl(&["logs", "last"]).await;
    waiting.failed(0, &["job 3 is waiting; ", &table.line("logs 3 -f")]);
    let json = table.jobctl(&["logs", "1", "--json"]).await.json();
    assert_eq!(
        json,
        json!({"id": 1, "status": "done", "stdout": "out\n", "stderr": ""})
    );
    table
        .jobctl(&["logs", "9"])
        .await
        .failed(1, &["job 9 not found"]);
    let ends = "result = 'ok', stdout = 'late'";
    let (followed, ()) = tokio::join!(table.jobctl(&["logs", "3", "-f"]), table.work(1, ends));
    assert_eq!((followed.code, followed.stdout.as_str()), (0, "late"));
}

#[tokio::test]
async fn a_claim_token_is_no_output() {
    let table = three().await;
    table
        .execute("UPDATE jobs SET status = 'running', stderr = 'w@h/1/2' WHERE id = 3")
        .await;
    let json = table.jobctl(&["logs", "3", "--json"]).await.json();
    assert_eq!(json["stderr"], Value::Null);
}

#[tokio::test]
async fn what_failed_waits_again_as_if_it_were_new() {
    let worker = Daemon::worker(Ok("ok".into())).await;
    let table = Table::new(Some(worker.address)).await;
    table
        .execute(
            "ALTER TABLE jobs ADD COLUMN attempts INTEGER NOT NULL DEFAULT 0; \
             ALTER TABLE jobs ADD COLUMN interruptions INTEGER NOT NULL DEFAULT 0; \
             ALTER TABLE jobs ADD COLUMN worker TEXT; \
             INSERT INTO jobs (target, time_created, status, result, return_code, time_started, time_finished, stderr, attempts, worker) VALUES \
             ('mail', 1700000100, 'done', 'fail', 3, 1700000101, 1700000103, 'sorry', 3, 'w'), \
             ('mail', 1700000100, 'done', 'ok', 0, 1700000101, 1700000103, '', 1, 'w')",
        )
        .await;
    let again = table.jobctl(&["retry", "1", "2"]).await;
    let expected =
        "job 1 waits again\nleft alone, as they are not done and failed, or not there: 2\n";
    assert_eq!((again.code, again.stdout.as_str()), (1, expected));
    assert_eq!(
        worker.asked(),
        [("poll".to_owned(), json!({"targets": ["mail"]}))]
    );
    let row = table.jobctl(&["show", "1", "--json"]).await.json();
    let expected = json!({
        "id": 1, "target": "mail", "status": "waiting", "result": null, "return_code": null, "sig": null,
        "time_created": 1_700_000_100, "time_started": 0, "time_finished": 0,
        "others": {"name": null, "attempts": "3", "interruptions": "3", "worker": null},
    });
    assert_eq!(row, expected);
}

#[tokio::test]
async fn what_failed_waits_again_where_a_column_takes_no_null() {
    let table = three().await;
    table
        .execute(
            "ALTER TABLE jobs ADD COLUMN worker TEXT NOT NULL DEFAULT ''; \
             ALTER TABLE jobs ADD COLUMN cpu_ms INTEGER NOT NULL DEFAULT 0; \
             UPDATE jobs SET worker = 'w', cpu_ms = 5",
        )
        .await;
    let again = table.jobctl(&["retry", "2"]).await;
    again.failed(0, &["not poked"]);
    let row = table.jobctl(&["show", "2", "--json"]).await.json();
    let others = json!({"name": null, "worker": "", "cpu_ms": "0"});
    assert_eq!(
        (&row["status"], &row["others"]),
        (&json!("waiting"), &others)
    );
}

#[tokio::test]
async fn the_newest_that_wait_are_listed_however_many_targets_there_are() {
    let table = three().await;
    table
        .execute(
            "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 2500) \
             INSERT INTO jobs (target, time_created) SELECT 'a/' || n, 1700000000 FROM n; \
             INSERT INTO jobs (target, time_created) VALUES ('z', 1700000000)",
        )
        .await;
    let list = [
        "list",
        "--status",
        "waiting",
        "--limit",
        "1",
        "--columns",
        "id,target",
    ];
    let list = table.jobctl(&list).await;
    assert_eq!(list.stdout, "ID\tTARGET\n2504\tz\n");
}

#[tokio::test]
async fn all_that_failed_lately_is_named_before_it_runs_again() {
    let table = three().await;
    table
        .execute("UPDATE jobs SET time_created = unixepoch() - 60 WHERE id = 2")
        .await;
    let asked = table.jobctl(&["retry", "--failed", "--since", "1h"]).await;
    asked.failed(2, &["this runs 1 job of mail again", "add --yes"]);
    let none = table
        .jobctl(&["retry", "--failed", "--since", "10s", "--yes"])
        .await;
    assert_eq!(
        (none.code, none.stdout.as_str()),
        (0, "no job waits again\n")
    );
    let again = table
        .jobctl(&["retry", "--failed", "--since", "1h", "--yes", "--json"])
        .await;
    again.failed(0, &["not poked", "the jobs wait again"]);
    assert_eq!(
        again.json(),
        json!({"ids": [2], "left": [], "barred": [], "cancelled": [], "poked": false})
    );
    table.jobctl(&["retry"]).await.failed(2, &["--failed"]);
    table
        .jobctl(&["retry", "--failed"])
        .await
        .failed(2, &["--since"]);
}

#[tokio::test]
async fn a_target_that_no_job_has_may_be_a_slip() {
    let table = three().await;
    let slip = table.jobctl(&["list", "--target", "mial"]).await;
    let meant = "no job has the target mial, did you mean mail?";
    slip.failed(0, &[meant]);
    for words in [
        "stats",
        "export --json-lines",
        "prune --older-than 30d",
        "retry --failed --since 30d",
    ] {
        let words = words.split(' ').chain(["--target", "mial"]);
        let words: Vec<&str> = words.collect();
        table.jobctl(&words).await.failed(0, &[meant]);
    }
    let slip = ["export", "--json-lines", "--status", "wating"];
    let slip = table.jobctl(&slip).await;
    slip.failed(2, &["no status 'wating'"]);
    let none = table
        .jobctl(&["list", "--target", "mail", "--status", "waiting"])
        .await;
    assert_eq!((none.code, none.stderr.as_str()), (0, ""));
}

#[tokio::test]
async fn stats_count_runs_and_how_long_they_took() {
    let table = three().await;
    let stats = table.jobctl(&["stats", "--since", "2020-01-01"]).await;
    let expected = "TARGET\tRUNS\tFAILED\tATTEMPTS\tMEAN\tP50\tP95\tP99\n\
                    mail\t2\t1\t-\t6.0s\t2s\t10s\t10s\n";
    assert_eq!((stats.code, stats.stdout.as_str()), (0, expected));
    let json = table
        .jobctl(&[
            "stats",
            "--since",
            "2020-01-01T00:00:00Z",
            "--target",
            "mail",
            "--json",
        ])
        .await
        .json();
    let figures = |target: Value| json!({"target": target, "runs": 2, "failures": 1, "attempts": null, "mean_s": 6.0, "p50_s": 2, "p95_s": 10, "p99_s": 10, "cpu_ms": null, "peak_kib": null});
    let expected = json!({"since": 1_577_836_800, "jobs_read": 2, "complete": true,
        "targets": [figures(json!("mail"))], "total": figures(Value::Null)});
    assert_eq!(json, expected);
    for sql in [
        "ALTER TABLE jobs ADD COLUMN cpu_ms INTEGER",
        "ALTER TABLE jobs ADD COLUMN peak_kib INTEGER",
        "UPDATE jobs SET peak_kib = 3000 WHERE id = 1",
    ] {
        table.execute(sql).await;
    }
    for (ms, shown) in [
        (20, "0.0s"),
        (1290, "1.2s"),
        (59_999, "59.9s"),
        (61_500, "1m 2s"),
    ] {
        table
            .execute(&format!("UPDATE jobs SET cpu_ms = {ms} WHERE id = 1"))
            .await;
        let stats = table.jobctl(&["stats", "--since", "2020-01-01"]).await;
        let expected = format!(
            "TARGET\tRUNS\tFAILED\tATTEMPTS\tMEAN\tP50\tP95\tP99\tCPU\tPEAK\n\
             mail\t2\t1\t-\t6.0s\t2s\t10s\t10s\t{shown}\t2.9 MiB\n"
        );
        assert_eq!((stats.code, stats.stdout), (0, expected));
    }
    let none = table.jobctl(&["stats"]).await;
    let header = "TARGET\tRUNS\tFAILED\tATTEMPTS\tMEAN\tP50\tP95\tP99\n";
    assert_eq!((none.code, none.stdout.as_str()), (0, header));
    let part = table
        .jobctl(&["stats", "--since", "2020-01-01", "--limit", "2"])
        .await;
    part.failed(0, &["the newest 2 rows only"]);
}

#[tokio::test]
async fn an_export_is_a_row_a_line() {
    let table = three().await;
    let export = table.jobctl(&["export", "--json-lines"]).await;
    let rows: Vec<Value> = export
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let ids: Vec<&Value> = rows.iter().map(|row| &row["id"]).collect();
    assert_eq!(ids, [1, 2, 3]);
    assert_eq!(rows[0]["stdout"], "out\n");
    assert_eq!(rows[0]["others"], json!({"name": null}));
    let some = [
        "export",
        "--json-lines",
        "--target",
        "mail",
        "--status",
        "done",
        "--since",
        "2023-11-14T22:14:00Z",
    ];
    let some = table.jobctl(&some).await;
    assert_eq!(some.stdout.lines().count(), 1, "{some:?}");
    table.jobctl(&["export"]).await.failed(2, &["--json-lines"]);
}

#[tokio::test]
async fn what_a_prune_would_delete_is_told_before_and_what_it_deleted_after() {
    let table = three().await;
    let dry = ["prune", "--older-than", "30d", "--dry-run", "--json"];
    let dry = table.jobctl(&dry).await.json();
    assert_eq!((&dry["jobs"], &dry["deleted"]), (&json!(2), &json!(0)));
    assert_eq!(dry["targets"], json!({"mail": 2}));
    let asked = table.jobctl(&["prune", "--older-than", "30d"]).await;
    asked.failed(
        2,
        &[
            "this deletes 2 jobs of mail that ended before",
            "SQLite file",
            "--yes",
        ],
    );
    let some = ["prune", "--older-than", "30d", "--result", "ok", "--yes"];
    let some = table.jobctl(&some).await;
    assert!(some.stdout.starts_with("deleted 1 job that"), "{some:?}");
    let ids = table.jobctl(&["list", "--columns", "id,target"]).await;
    assert_eq!(ids.stdout, "ID\tTARGET\n3\treport\n2\tmail\n");
    let sql = [
        "prune",
        "--older-than",
        "30d",
        "--target",
        "ma'il",
        "--print-sql",
    ];
    let sql = table.jobctl(&sql).await.stdout;
    assert!(
        sql.contains("unixepoch() - 2592000 AND `target` = 'ma''il' ORDER BY"),
        "{sql}"
    );
    let sql = [
        "prune",
        "--older-than",
        "30d",
        "--target",
        r"App\Job",
        "--print-sql",
    ];
    let sql = table.jobctl(&sql).await.stdout;
    assert!(sql.contains(r"`target` = 'App\Job' ORDER"), "{sql}");
    let real = ["prune", "--older-than", "30d", "--print-sql"];
    let statement = table.jobctl(&real).await.stdout;
    let as_json = [&real[..], &["--json"]].concat();
    let as_json = table.jobctl(&as_json).await.json();
    assert!(statement.starts_with(as_json["sql"].as_str().unwrap()));
    assert_eq!(table.execute(&statement).await, 1, "{statement}");
    let none = table
        .jobctl(&["prune", "--older-than", "30d", "--yes"])
        .await;
    assert!(none.stdout.starts_with("no jobs ended before"), "{none:?}");
}

#[tokio::test]
async fn a_list_is_narrowed_by_result_and_time_and_shows_any_column() {
    let table = three().await;
    let ids = async |arguments: &[&str]| {
        let arguments: Vec<&str> = ["list", "--columns", "id"]
            .iter()
            .chain(arguments)
            .copied()
            .collect();
        let lines = table.jobctl(&arguments).await.stdout;
        lines.lines().skip(1).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(ids(&["--result", "fail"]).await, ["2"]);
    assert_eq!(ids(&["--result", "ok", "--target", "mail"]).await, ["1"]);
    assert_eq!(ids(&["--since", "1h"]).await, ["3"]);
    assert_eq!(ids(&["--since", "2023-11-14T22:14:00Z"]).await, ["3", "2"]);
    let columns = ["list", "--columns", "ID,stderr,name", "--status", "done"];
    let columns = table.jobctl(&columns).await;
    assert_eq!(
        columns.stdout,
        "ID\tSTDERR\tNAME\n2\tsorry\\n\tNULL\n1\t\tNULL\n"
    );
    let wrong = table.jobctl(&["list", "--columns", "nmae"]).await;
    wrong.failed(1, &["no column `nmae`", "name"]);
    assert_eq!(ids(&["--since", "yesterday"]).await, ["3"]);
    table
        .jobctl(&["list", "--since", "yesteryear"])
        .await
        .failed(2, &["2h, 30d"]);
}

#[tokio::test]
async fn a_job_runs_like_a_command() {
    let outcome = json!({"result": "fail", "code": 7, "signal": null, "stdout": "out\n", "stderr": "sorry\n"});
    let mut answer = serves_mail();
    answer["jobs"] = json!({"1": outcome});
    let worker = Daemon::worker(Ok(answer)).await;
    let table = Table::new(Some(worker.address)).await;
    let ran = table.jobctl(&["run", "mail", "--", "name=x"]).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (7, "out\n"));
    assert_eq!(
        ran.stderr,
        "sorry\njobctl: job 1: failed with exit code 7\n"
    );
    let follow = json!({"id": 1, "tail": 131_072, "wait": true, "window": 8});
    let asked = [
        ("status".to_owned(), Value::Null),
        ("follow".to_owned(), follow),
        ("run-manual".to_owned(), json!({"ids": [1]})),
    ];
    assert_eq!(worker.asked(), asked);
    let row = table.jobctl(&["show", "last", "--json"]).await.json();
    assert_eq!(
        (&row["status"], &row["others"]["name"]),
        (&json!("manual"), &json!("x"))
    );
    let refused = table.jobctl(&["run", "mail"]).await;
    refused.failed(
        1,
        &["job 2 was added but not run", &table.line("run-manual 2")],
    );
    let alone = three().await;
    alone
        .jobctl(&["run", "mail"])
        .await
        .failed(3, &["cannot reach jobd"]);
    let rows = alone.jobctl(&["list", "--json"]).await.json();
    assert_eq!(
        rows["jobs"].as_array().map(Vec::len),
        Some(3),
        "nothing was added"
    );
}

#[tokio::test]
async fn what_runs_through_an_old_master_is_shown_at_its_end() {
    let outcome =
        json!({"result": "ok", "code": 0, "signal": null, "stdout": "out\n", "stderr": ""});
    let worker = json!({"remoteAddr": "10.0.0.1", "remotePort": 1, "targets": ["mail"]});
    let answer = json!({"workers": [worker], "memoryUsage": {}, "jobs": {"1": outcome}});
    let master = Daemon::old_master(Ok(answer)).await;
    let table = Table::new(Some(master.address)).await;
    let ran = table.jobctl(&["--master", "run", "mail"]).await;
    assert_eq!(
        (ran.code, ran.stdout.as_str(), ran.stderr.as_str()),
        (0, "out\n", "")
    );
    table.jobctl(&["add", "--target", "mail"]).await;
    let ends = "result = 'ok', stdout = 'late'";
    let follow = ["--master", "logs", "2", "-f"];
    let work = async {
        while master
            .asked()
            .iter()
            .filter(|asked| asked.0 == "follow")
            .count()
            < 2
        {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        table.work(1, ends).await;
    };
    let (followed, ()) = tokio::join!(table.jobctl(&follow), work);
    followed.failed(0, &["unknown request type", "looked at until it is done"]);
    assert_eq!(followed.stdout, "late");
}

#[tokio::test]
async fn last_is_the_newest_row_wherever_an_id_is_wanted() {
    let outcome = json!({"result": "ok", "code": 0, "signal": null, "stdout": "", "stderr": ""});
    let worker = Daemon::worker(Ok(json!({"jobs": {"1": outcome}}))).await;
    let table = Table::new(Some(worker.address)).await;
    let empty = table.jobctl(&["show", "last"]).await;
    empty.failed(1, &["the table has no rows yet"]);
    table.jobctl(&["add", "--target", "mail", "--manual"]).await;
    let ran = table.jobctl(&["run-manual", "last"]).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "job 1: ok\n"));
    run(["run-manual", "last"])
        .await
        .failed(2, &["this needs the job table"]);
    assert_eq!(table.jobctl(&["show", "last"]).await.code, 0);
}
