//! What is shown of daemons: `status`, `list-targets`, `list-workers`, `memory-usage`.

use std::process::Stdio;

use serde_json::{Value, json};

use crate::daemon::Daemon;
use crate::jobctl::{ask, program, run};
use crate::table::Table;
use crate::terminal::Terminal;

/// The names above the targets of `status` in a pipe.
const TARGETS: &str = "TARGET\tSTATE\tSLOTS\tWAITING\tRUNNING\tSLOW\tFAIL/1h\tOLDEST\tP95\n";

pub(crate) fn memory() -> Value {
    json!({"rss": 15_728_640, "heapTotal": 2048, "heapUsed": 1024, "external": 0, "arrayBuffers": 7})
}

fn worker_status() -> Value {
    json!({
        "targets": {
            "mail": {"paused": false, "concurrency": 4, "length": 9, "running": 4, "queued": 5},
            "report": {"paused": true, "concurrency": 1, "length": 0, "running": 0, "queued": 0},
        },
        "jobPromisesCount": 2, "memoryUsage": memory(), "name": "web1", "version": "2.0.0", "uptime": 7800,
        "table": "MariaDB 10.11.6, minimal table", "tableLacks": ["no ownership: rows stay"],
    })
}

/// What a Node.js worker says: no name, and queued and running in one number.
fn original_status() -> Value {
    json!({
        "targets": {"mail": {"paused": false, "concurrency": 2, "length": 3}},
        "jobPromisesCount": 0, "memoryUsage": memory(),
    })
}

fn master_status() -> Value {
    json!({
        "workers": [
            {"remoteAddr": "10.0.0.3", "remotePort": 3333, "name": "web3", "targets": ["mail"], "workerStatusError": "no answer within 5 s"},
            {"remoteAddr": "10.0.0.1", "remotePort": 1111, "name": "web1", "targets": ["mail", "report"], "workerStatus": worker_status()},
            {"remoteAddr": "::1", "remotePort": 2222, "name": "web2", "targets": ["mail"], "workerStatus": original_status()},
        ],
        "memoryUsage": memory(),
    })
}

#[tokio::test]
async fn the_cluster_is_one_table() {
    let master = Daemon::master(Ok(master_status())).await;
    let status = ask(master.address, &["--master", "status"]).await;
    let expected = format!(
        "\
TARGET\tSTATE\tSLOTS\tWAITING\tRUNNING\tSLOW\tFAIL/1h\tOLDEST\tP95
mail\tactive\t6\t-\t4\t-\t-\t-\t-
report\tpaused\t1\t-\t0\t-\t-\t-\t-

WORKER\tADDRESS\tUP\tSTATE\tSLOTS\tQUEUED\tRUNNING\tJOBS\tTARGETS
web1\t10.0.0.1:1111\t2h 10m\t1 paused\t5\t5\t4\t9\tmail, report
web2\t[::1]:2222\t-\tactive\t2\t-\t-\t3\tmail
web3\t10.0.0.3:3333\t-\tunknown\t-\t-\t-\t-\tmail
web3 at 10.0.0.3:3333: no answer within 5 s
web1: no ownership: rows stay
3 workers, 2 targets, 7 slots: 5 queued, 4 running, 3 queued or running (not told which), 1 paused
from jobd-master at {}
",
        master.address
    );
    assert_eq!(status.stdout, expected);
    assert_eq!(status.code, 1, "a worker did not answer");
    assert_eq!(
        master.asked(),
        [("status".to_owned(), json!({"poll_workers": true}))]
    );
}

#[tokio::test]
async fn the_cluster_as_json() {
    let master = Daemon::master(Ok(master_status())).await;
    let status = ask(master.address, &["--master", "--json", "status"]).await;
    let summary = |name: &str, state: &str, slots: u32, running: u32| json!({"name": name, "state": state, "slots": slots, "waiting": null, "waiting_is_more": false, "running": running, "slow": null, "failed_1h": null, "failed_is_more": false, "oldest_s": null, "p95_s": null});
    let target = |name: &str, paused: bool, slots: u32, numbers: Value, jobs: u32| json!({"name": name, "paused": paused, "slots": slots, "queued": numbers[0], "running": numbers[1], "jobs": jobs});
    let expected = json!({
        "kind": "master",
        "address": master.address.to_string(),
        "errors": [],
        "database": null,
        "targets": [summary("mail", "active", 6, 4), summary("report", "paused", 1, 0)],
        "workers": [
            {"name": "web1", "address": "10.0.0.1:1111", "error": null, "version": "2.0.0", "uptime_s": 7800, "waiters": 2,
             "table": "MariaDB 10.11.6, minimal table", "lacks": ["no ownership: rows stay"], "database_away": null, "journaled_ends": null,
             "targets": [target("mail", false, 4, json!([5, 4]), 9), target("report", true, 1, json!([0, 0]), 0)]},
            {"name": "web2", "address": "[::1]:2222", "error": null, "version": null, "uptime_s": null, "waiters": 0, "table": null, "lacks": [], "database_away": null, "journaled_ends": null,
             "targets": [target("mail", false, 2, json!([null, null]), 3)]},
            {"name": "web3", "address": "10.0.0.3:3333", "error": "no answer within 5 s", "version": null, "uptime_s": null, "waiters": 0, "table": null, "lacks": [], "database_away": null, "journaled_ends": null,
             "targets": [{"name": "mail", "paused": null, "slots": null, "queued": null, "running": null, "jobs": null}]},
        ],
        "targets_are_more": false,
        "totals": {"workers": 3, "targets": 2, "slots": 7, "queued": 5, "running": 4, "jobs": 12, "paused": 1},
    });
    assert_eq!(status.json(), expected);
}

#[tokio::test]
async fn a_single_worker_shows_the_same_table() {
    let worker = Daemon::worker(Ok(worker_status())).await;
    let status = ask(worker.address, &["status"]).await;
    assert_eq!(status.code, 0, "{status:?}");
    let lines: Vec<&str> = status.stdout.lines().collect();
    assert!(
        lines[5].starts_with(&format!("web1\t{}", worker.address)),
        "{status:?}"
    );
    assert_eq!(
        lines[7..],
        [
            "1 worker, 2 targets, 5 slots: 5 queued, 4 running, 1 paused".to_owned(),
            format!("from the worker at {}", worker.address),
        ]
    );
    let empty = Daemon::master(Ok(json!({"workers": [], "memoryUsage": memory()}))).await;
    let status = ask(empty.address, &["--master", "status"]).await;
    assert_eq!(
        (status.code, status.stdout.as_str()),
        (
            0,
            format!(
                "{TARGETS}no workers are registered\n0 workers, 0 targets, 0 slots: 0 queued, 0 running, 0 paused\nfrom jobd-master at {}\n",
                empty.address
            )
            .as_str()
        )
    );
}

#[tokio::test]
async fn empty_tables_are_lines_of_names_in_a_pipe() {
    let none = json!({"targets": {}, "jobPromisesCount": 0, "memoryUsage": memory()});
    let worker = Daemon::worker(Ok(none)).await;
    let targets = ask(worker.address, &["list-targets"]).await;
    let names = "TARGET\tSTATE\tSLOTS\tQUEUED\tRUNNING\tJOBS\n";
    assert_eq!((targets.code, targets.stdout.as_str()), (0, names));
    let master = Daemon::master(Ok(json!({"workers": [], "memoryUsage": memory()}))).await;
    let workers = ask(master.address, &["--master", "list-workers"]).await;
    let names = "WORKER\tADDRESS\tTARGETS\n";
    assert_eq!((workers.code, workers.stdout.as_str()), (0, names));
    // No daemon is there.
    let table = Table::new(None).await;
    let status = table.jobctl(&["status"]).await;
    let names = TARGETS.to_owned() + "from ";
    assert!(
        status.code == 3 && status.stdout.starts_with(&names),
        "{status:?}"
    );
}

#[tokio::test]
async fn targets_of_a_worker() {
    let worker = Daemon::worker(Ok(worker_status())).await;
    let expected = "\
TARGET\tSTATE\tSLOTS\tQUEUED\tRUNNING\tJOBS
mail\tactive\t4\t5\t4\t9
report\tpaused\t1\t0\t0\t0
";
    assert_eq!(
        ask(worker.address, &["list-targets"]).await.stdout,
        expected
    );
    let json = ask(worker.address, &["list-targets", "--json"])
        .await
        .json();
    let mail = json!({"name": "mail", "paused": false, "concurrency": 4, "length": 9, "running": 4, "queued": 5});
    assert_eq!(json["targets"][0], mail);
    let original = Daemon::worker(Ok(original_status())).await;
    let json = ask(original.address, &["list-targets", "--json"])
        .await
        .json();
    let mail =
        json!({"targets": [{"name": "mail", "paused": false, "concurrency": 2, "length": 3}]});
    assert_eq!(json, mail);
}

#[tokio::test]
async fn workers_of_a_master() {
    let master = Daemon::master(Ok(master_status())).await;
    let expected = "\
WORKER\tADDRESS\tTARGETS
web1\t10.0.0.1:1111\tmail, report
web2\t[::1]:2222\tmail
web3\t10.0.0.3:3333\tmail
";
    let list = ask(master.address, &["--master", "list-workers"]).await;
    assert_eq!((list.code, list.stdout.as_str()), (0, expected));
    let json = ask(master.address, &["--master", "list-workers", "--json"])
        .await
        .json();
    assert_eq!(
        json["workers"][1],
        json!({"name": "web2", "address": "[::1]:2222", "targets": ["mail"]})
    );
}

#[tokio::test]
async fn memory_of_both_kinds() {
    let worker = Daemon::worker(Ok(worker_status())).await;
    let master = Daemon::master(Ok(master_status())).await;
    let expected = "\
MEMORY\tSIZE
rss\t15.0 MiB
heapTotal\t2.0 KiB
heapUsed\t1.0 KiB
external\t0 B
arrayBuffers\t7 B
";
    assert_eq!(
        ask(worker.address, &["memory-usage"]).await.stdout,
        expected
    );
    assert_eq!(
        ask(master.address, &["--master", "memory-usage"])
            .await
            .stdout,
        expected
    );
    let json = ask(worker.address, &["memory-usage", "--json"])
        .await
        .json();
    assert_eq!(json, memory());
}

/// A table in which things have gone on for an hour: mail waits, one of its jobs is slow, some of
/// report failed.
async fn busy(daemon: Option<std::net::SocketAddr>) -> Table {
    let table = Table::new(daemon).await;
    table
        .execute(
            "ALTER TABLE jobs ADD COLUMN worker TEXT; \
             INSERT INTO jobs (target, time_created, status, result, time_started, time_finished, worker) VALUES \
             ('mail', unixepoch() - 7200, 'done', 'ok', unixepoch() - 7200, unixepoch() - 7190, NULL), \
             ('mail', unixepoch() - 7200, 'done', 'fail', unixepoch() - 7200, unixepoch() - 7190, NULL), \
             ('report', unixepoch() - 60, 'done', 'fail', unixepoch() - 60, unixepoch() - 59, NULL), \
             ('mail', unixepoch() - 7200, 'running', NULL, unixepoch() - 7200, 0, 'web1@h/1/2'), \
             ('mail', unixepoch() - 7200, 'running', NULL, unixepoch(), 0, 'web2@h/1/2'), \
             ('mail', unixepoch() - 7200, 'waiting', NULL, 0, 0, NULL), \
             ('mail', unixepoch(), 'waiting', NULL, 0, 0, NULL), \
             ('lost', unixepoch(), 'waiting', NULL, 0, 0, NULL)",
        )
        .await;
    table
}

#[tokio::test]
async fn a_master_and_the_table_together() {
    let master = Daemon::master(Ok(master_status())).await;
    let table = busy(Some(master.address)).await;
    let json = table.jobctl(&["--master", "status", "--json"]).await.json();
    let target = |at: usize| {
        let target = &json["targets"][at];
        let keys = [
            "name",
            "state",
            "slots",
            "waiting",
            "running",
            "slow",
            "failed_1h",
            "p95_s",
        ];
        Value::Array(keys.iter().map(|key| target[key].clone()).collect())
    };
    assert_eq!(
        target(0),
        json!(["lost", "no worker", null, 1, 0, 0, 0, null])
    );
    assert_eq!(target(1), json!(["mail", "active", 6, 2, 2, 1, 0, 10]));
    assert_eq!(target(2), json!(["report", "paused", 1, 0, 0, 0, 1, 1]));
    let oldest = json["targets"][1]["oldest_s"].as_u64().unwrap();
    assert!((7200..7260).contains(&oldest), "{json}");
    let lines = table.jobctl(&["--master", "status"]).await.stdout;
    assert!(lines.contains(" and the table, SQLite file "), "{lines}");
}

#[tokio::test]
async fn the_table_alone_says_so() {
    let table = busy(None).await;
    let status = table.jobctl(&["status"]).await;
    status.failed(3, &["cannot reach jobd at"]);
    let lines: Vec<&str> = status.stdout.lines().collect();
    assert_eq!(lines[2], "mail\t-\t-\t2\t2\t1\t0\t2h 0m\t10s");
    assert!(
        lines.contains(&"web1@h\t-\t-\t-\t-\t0\t1\t1\tmail"),
        "{status:?}"
    );
    assert!(!status.stdout.contains("0 workers"), "nobody was asked");
    let last = lines.last().unwrap();
    assert!(
        last.starts_with("from the table alone, SQLite file"),
        "{last}"
    );
    assert_eq!(
        table.jobctl(&["status", "--json"]).await.json()["kind"],
        "table"
    );
}

#[tokio::test]
async fn more_targets_than_are_looked_at_are_told() {
    let table = busy(None).await;
    let fill = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1999) \
                INSERT INTO jobs (target, time_created, status) SELECT 'a' || i, 1, 'waiting' FROM n";
    table.execute(fill).await;
    let said = "jobs wait for more than 2000 targets";
    let status = table.jobctl(&["status", "--json"]).await.json();
    assert_eq!(status["targets_are_more"], true, "lost and mail, too");
    let of = |name: &str| {
        let mut targets = status["targets"].as_array().unwrap().iter();
        targets.find(|target| target["name"] == name).unwrap()["waiting"].clone()
    };
    assert_eq!((of("a1"), of("mail")), (json!(1), Value::Null));
    let lines = table.jobctl(&["status"]).await.stdout;
    assert!(lines.contains(said), "{lines}");
    let config = table.config.to_str().unwrap();
    let mut top = Terminal::start(200, &["--config", config, "top"], &[]);
    top.sees(&[said]);
    top.press("q");
    top.ends();
    table.execute("DELETE FROM jobs WHERE target = 'a1'").await;
    let status = table.jobctl(&["status", "--json"]).await.json();
    assert_eq!(
        status["targets_are_more"], false,
        "two thousand are not more"
    );
    let lines = table.jobctl(&["status"]).await.stdout;
    assert!(!lines.contains(said), "{lines}");
}

#[tokio::test]
async fn a_table_that_is_away_leaves_what_the_daemon_says() {
    let worker = Daemon::worker(Ok(worker_status())).await;
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("jobctl.conf");
    let text = format!(
        "sqlite_path = /nonexistent/jobs.db\nport = {}\n",
        worker.address.port()
    );
    std::fs::write(&config, text).unwrap();
    let status = run(["--config", config.to_str().unwrap(), "status"]).await;
    status.failed(3, &["cannot open SQLite file /nonexistent/jobs.db"]);
    assert!(
        status.stdout.contains("mail\tactive\t4\t-\t4"),
        "{status:?}"
    );
}

#[tokio::test]
async fn a_daemon_that_talks_nonsense_or_nothing_is_named() {
    let nonsense = Daemon::master(Ok(json!({"workers": 7}))).await;
    let status = ask(nonsense.address, &["--master", "status"]).await;
    status.failed(1, &["gave an answer to status that cannot be read"]);
    let table = busy(Some(nonsense.address)).await;
    let status = table.jobctl(&["--master", "status"]).await;
    status.failed(3, &["gave an answer to status that cannot be read"]);
    assert!(status.stdout.contains("from the table alone"), "{status:?}");
}

#[tokio::test]
async fn a_watch_in_a_pipe_complains_on_standard_error() {
    use tokio::io::AsyncBufReadExt as _;
    let mut watch = program()
        .args(["--port", "1", "status", "--watch=200ms", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = tokio::io::BufReader::new(watch.stderr.take().unwrap());
    let mut lines = lines.lines();
    for _ in 0..2 {
        let line = lines.next_line().await.unwrap().unwrap();
        assert!(line.starts_with("jobctl: cannot reach jobd"), "{line}");
    }
    watch.kill().await.unwrap();
    let mut shown = String::new();
    let mut stdout = watch.stdout.take().unwrap();
    tokio::io::AsyncReadExt::read_to_string(&mut stdout, &mut shown)
        .await
        .unwrap();
    assert_eq!(shown, "");
}

#[tokio::test]
async fn a_watch_shows_it_again_until_somebody_leaves() {
    let table = busy(None).await;
    let config = table.config.to_str().unwrap();
    for columns in [80, 200] {
        let arguments = ["--config", config, "status", "--watch=200ms"];
        let mut watch = Terminal::start(columns, &arguments, &[]);
        watch.sees(&["lost", "from the table alone"]);
        table
            .execute("UPDATE jobs SET target = 'found' WHERE target = 'lost'")
            .await;
        watch.sees(&["found"]);
        watch.sees_no("lost");
        watch.look(|screen| assert!(screen.alternate_screen()));
        watch.press("\x03");
        let (code, text) = watch.ends();
        assert_eq!((code, text.trim_end()), (0, ""), "as it was before");
        watch.look(|screen| assert!(!screen.alternate_screen() && !screen.hide_cursor()));
        table
            .execute("UPDATE jobs SET target = 'lost' WHERE target = 'found'")
            .await;
    }
}
