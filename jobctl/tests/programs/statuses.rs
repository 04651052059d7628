//! What is shown of daemons: `status`, `list-targets`, `list-workers`, `memory-usage`.

use serde_json::{Value, json};

use crate::daemon::Daemon;
use crate::jobctl::ask;

fn memory() -> Value {
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
    let expected = "\
WORKER\tADDRESS\tUP\tTARGET\tSTATE\tSLOTS\tQUEUED\tRUNNING\tJOBS
web1\t10.0.0.1:1111\t2h 10m\tmail\tactive\t4\t5\t4\t9
\t\t\treport\tpaused\t1\t0\t0\t0
web2\t[::1]:2222\t-\tmail\tactive\t2\t-\t-\t3
web3\t10.0.0.3:3333\t-\tmail\tunknown\t-\t-\t-\t-
web3 at 10.0.0.3:3333: no answer within 5 s
web1: no ownership: rows stay
3 workers, 2 targets, 7 slots: 5 queued, 4 running, 3 queued or running (not told which), 1 paused
";
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
    let target = |name: &str, paused: bool, slots: u32, numbers: Value, jobs: u32| json!({"name": name, "paused": paused, "slots": slots, "queued": numbers[0], "running": numbers[1], "jobs": jobs});
    let expected = json!({
        "kind": "master",
        "address": master.address.to_string(),
        "workers": [
            {"name": "web1", "address": "10.0.0.1:1111", "error": null, "version": "2.0.0", "uptime_s": 7800, "waiters": 2,
             "table": "MariaDB 10.11.6, minimal table", "lacks": ["no ownership: rows stay"],
             "targets": [target("mail", false, 4, json!([5, 4]), 9), target("report", true, 1, json!([0, 0]), 0)]},
            {"name": "web2", "address": "[::1]:2222", "error": null, "version": null, "uptime_s": null, "waiters": 0, "table": null, "lacks": [],
             "targets": [target("mail", false, 2, json!([null, null]), 3)]},
            {"name": "web3", "address": "10.0.0.3:3333", "error": "no answer within 5 s", "version": null, "uptime_s": null, "waiters": 0, "table": null, "lacks": [],
             "targets": [{"name": "mail", "paused": null, "slots": null, "queued": null, "running": null, "jobs": null}]},
        ],
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
        lines[1].starts_with(&format!("web1\t{}", worker.address)),
        "{status:?}"
    );
    assert_eq!(
        lines[4],
        "1 worker, 2 targets, 5 slots: 5 queued, 4 running, 1 paused"
    );
    let empty = Daemon::master(Ok(json!({"workers": [], "memoryUsage": memory()}))).await;
    let status = ask(empty.address, &["--master", "status"]).await;
    assert_eq!(
        (status.code, status.stdout.as_str()),
        (0, "no workers are registered\n")
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
