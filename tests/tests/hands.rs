//! jobd in the hands of people and applications: `jobctl` and the PHP example, with a real master,
//! a real worker and a table on the database server.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use jobd_tests::programs::{self, Daemon};
use jobd_tests::server::{PASSWORD, USER};
use jobd_tests::{Database, Ini, Jobd, Master, Scratch, Server};
use serde_json::{Value, json};

/// Ends as its target is called; `loud` writes four megabytes of two-byte characters.
const JOB: &str = r#"
echo "job $1 on $2"
case $2 in
  seven) echo sorry >&2; exit 7 ;;
  killed) kill -KILL $$ ;;
  slow) exec sleep 600 ;;
  loud) yes éééééééé | head -c 4000000 ;;
esac
"#;

/// A master and a worker that serves every target of [`JOB`].
struct Cluster {
    database: Database,
    _scratch: Scratch,
    master: Daemon,
    worker: Daemon,
    config: PathBuf,
}

impl Cluster {
    async fn start() -> Self {
        let scratch = Scratch::new();
        let database = Server::shared().await.database().await;
        database.minimal_table().await;
        database
            .run("ALTER TABLE jobs ADD COLUMN name VARCHAR(20), ADD COLUMN data BLOB")
            .await;
        let master = Master::start(&scratch, &Ini::listen()).await;
        let job = scratch.write("job.sh", JOB);
        let mut ini = Ini::worker(&database)
            .set("name", "web1")
            .set("poll_interval", 0)
            .set("master_host", "127.0.0.1")
            .set("master_port", master.addr.port())
            .set(
                "launcher",
                format!("sh {} {{id}} {{target}}", job.display()),
            );
        for target in ["mail", "seven", "killed", "slow", "loud"] {
            ini = ini.target(target, 2);
        }
        let worker = Jobd::ready(&scratch, &ini).await;
        Master::has_workers(&master, 1).await;
        let config = Ini::default()
            .set("master", 1)
            .set("port", master.addr.port())
            .set("mysql_host", "127.0.0.1")
            .set("mysql_port", database.port)
            .set("mysql_user", USER)
            .set("mysql_password", PASSWORD)
            .set("mysql_database", &database.name)
            .set("mysql_table", "jobs");
        let config = scratch.write("jobctl.conf", config.text());
        Self {
            database,
            _scratch: scratch,
            master,
            worker,
            config,
        }
    }

    async fn jobctl(&self, arguments: &[&str]) -> Run {
        let mut command = Command::new(programs::path("jobctl"));
        command.arg("--config").arg(&self.config).args(arguments);
        Run::of(programs::output(&mut command).await)
    }

    async fn php(&self, arguments: &[&str]) -> Run {
        self.php_at(&self.master.addr.to_string(), arguments).await
    }

    async fn php_at(&self, master: &str, arguments: &[&str]) -> Run {
        let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/php/demo.php");
        let dsn = format!(
            "mysql:host=127.0.0.1;port={};dbname={};charset=utf8mb4",
            self.database.port, self.database.name
        );
        let mut command = Command::new("php");
        command
            .arg(demo)
            .args(arguments)
            .env("JOBD_DSN", dsn)
            .env("JOBD_DB_USER", USER)
            .env("JOBD_DB_PASSWORD", PASSWORD)
            .env("JOBD_MASTER", master);
        Run::of(programs::output(&mut command).await)
    }

    async fn stop(mut self) {
        assert!(self.worker.stop().await.success());
        let ended = self.master.process.terminate().await;
        assert!(ended.success(), "{ended:?}\n{}", self.master.process.log());
    }
}

#[derive(Debug)]
struct Run {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Run {
    fn of(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    #[track_caller]
    fn check(&self, code: i32, stdout: &str, stderr: &str) {
        let seen = (self.code, self.stdout.as_str(), self.stderr.as_str());
        assert_eq!(seen, (Some(code), stdout, stderr));
    }

    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

#[tokio::test]
async fn jobctl_adds_jobs_waits_for_them_and_ends_as_they_did() {
    let cluster = Cluster::start().await;
    let add = async |target: &str| {
        cluster
            .jobctl(&["add", "--target", target, "--wait", "--timeout", "60"])
            .await
    };
    add("mail")
        .await
        .check(0, "job 1: ok\n  stdout | job 1 on mail\n", "");
    let seven = "job 2: failed with exit code 7\n  stdout | job 2 on seven\n  stderr | sorry\n";
    add("seven").await.check(7, seven, "");
    add("killed").await.check(
        137,
        "job 3: killed by SIGKILL\n  stdout | job 3 on killed\n",
        "",
    );
    let many = cluster
        .jobctl(&["add", "--target", "mail", "--count", "40", "--wait"])
        .await;
    many.check(0, "40 jobs: 40 ok, 0 failed\n", "");
    cluster.stop().await;
}

#[tokio::test]
async fn jobctl_reads_rows_of_every_type() {
    let cluster = Cluster::start().await;
    let add = [
        "add",
        "--target",
        "loud",
        "--data",
        "payload ü",
        "--wait",
        "--json",
        "--",
        "name=Grüße",
    ];
    let added = cluster.jobctl(&add).await.json();
    let job = &added["jobs"][0];
    assert_eq!(job["others"], json!({"name": "Grüße", "data": "payload ü"}));
    assert_eq!(
        (&job["result"], &job["return_code"], &job["sig"]),
        (&json!("ok"), &json!(0), &Value::Null)
    );
    assert!(
        job["stdout"].as_str().unwrap().len() > 3_900_000,
        "the whole output"
    );
    let listed = cluster
        .jobctl(&["list", "--status", "done", "--target", "loud", "--json"])
        .await
        .json();
    assert_eq!(listed["jobs"][0]["time_finished"], job["time_finished"]);
    assert!(listed["jobs"][0].get("stdout").is_none());
    let binary = "INSERT INTO jobs (target, time_created, status, data) VALUES ('mail', 1, 'ignored', x'00FF')";
    cluster.database.run(binary).await;
    let export = ["export", "--json-lines", "--status", "ignored"];
    let exported = cluster.jobctl(&export).await.json();
    assert_eq!(exported["others"]["data"], json!({"base64": "AP8="}));
    cluster.stop().await;
}

#[tokio::test]
async fn jobctl_runs_manual_jobs_and_signals_running_ones() {
    let cluster = Cluster::start().await;
    let jobctl = format!("jobctl --config {}", cluster.config.display());
    let added = format!("added job 1; {jobctl} run-manual runs it\n");
    cluster
        .jobctl(&["add", "--target", "mail", "--manual"])
        .await
        .check(0, &added, "");
    cluster.jobctl(&["run-manual", "1"]).await.check(
        0,
        "job 1: ok\n  stdout | job 1 on mail\n",
        "",
    );
    cluster.jobctl(&["run-manual", "1"]).await.check(
        1,
        &format!("job 1: status = done != manual\n  only manual jobs are run by hand; {jobctl} retry 1 has one that failed run again\n"),
        "",
    );
    cluster
        .jobctl(&["add", "--target", "slow"])
        .await
        .check(0, "added job 2\n", "");
    let status = || async { cluster.database.row(2).await.status };
    jobd_tests::until("job 2 to run", jobd_tests::wait::PATIENCE, async || {
        (status().await == "running").then_some(())
    })
    .await;
    let seen = cluster.jobctl(&["status", "--json"]).await.json();
    assert_eq!(
        seen["totals"],
        json!({"workers": 1, "targets": 5, "slots": 10, "queued": 0, "running": 1, "jobs": 1, "paused": 0})
    );
    assert_eq!(seen["workers"][0]["name"], "web1");
    cluster
        .jobctl(&["send-signal", "TERM", "2"])
        .await
        .check(0, "job 2: SIGTERM sent\n", "");
    let row = cluster.database.done(2).await;
    assert_eq!(
        row.verdict(),
        ("done", Some("fail"), row.return_code, Some("SIGTERM"))
    );
    cluster.stop().await;
}

#[tokio::test]
async fn jobctl_looks_back_runs_again_and_deletes() {
    let cluster = Cluster::start().await;
    let target = |target| ["add", "--target", target, "--count", "3", "--wait"];
    cluster.jobctl(&target("mail")).await;
    cluster.jobctl(&target("seven")).await;
    let status = cluster.jobctl(&["status", "--json"]).await.json();
    let mut targets = status["targets"].as_array().unwrap().iter();
    let seven = targets.find(|target| target["name"] == "seven").unwrap();
    let shown = ["state", "slots", "waiting", "failed_1h"].map(|key| &seven[key]);
    assert_eq!(shown, [&json!("active"), &json!(2), &json!(0), &json!(3)]);
    let doctor = cluster.jobctl(&["doctor", "--json"]).await;
    assert_eq!(doctor.code, Some(0), "{doctor:?}");
    let findings = &doctor.json()["findings"];
    assert!(
        findings
            .to_string()
            .contains("claims go by the index status_target_idx"),
        "{findings}"
    );
    let runs = cluster.jobctl(&["stats", "--json"]).await.json();
    let counts = |at: usize| {
        let target = &runs["targets"][at];
        [&target["target"], &target["runs"], &target["failures"]]
    };
    assert_eq!(counts(0), [&json!("mail"), &json!(3), &json!(0)]);
    assert_eq!(counts(1), [&json!("seven"), &json!(3), &json!(3)]);
    let list = [
        "list",
        "--result",
        "fail",
        "--since",
        "1h",
        "--columns",
        "id",
    ];
    let list = cluster.jobctl(&list).await;
    list.check(0, "ID\n6\n5\n4\n", "");
    let retry = [
        "retry", "--failed", "--since", "1h", "--target", "seven", "--yes",
    ];
    let retry = cluster.jobctl(&retry).await;
    retry.check(0, "3 jobs wait again: 4-6\n", "");
    let again = cluster.jobctl(&["wait", "4", "5", "6"]).await;
    assert_eq!(again.code, Some(1), "{again:?}");
    let logs = cluster.jobctl(&["logs", "last", "-f"]).await;
    logs.check(0, "job 6 on seven\n", "sorry\n");
    let run = cluster.jobctl(&["run", "seven"]).await;
    run.check(
        7,
        "job 7 on seven\n",
        "sorry\njobctl: job 7: failed with exit code 7\n",
    );
    let export = cluster.jobctl(&["export", "--json-lines"]).await;
    assert_eq!(export.stdout.lines().count(), 7, "{export:?}");
    let old =
        "UPDATE jobs SET time_created = 1, time_finished = time_finished - 86400 WHERE id < 4";
    cluster.database.run(old).await;
    let sql = ["prune", "--older-than", "12h", "--print-sql"];
    let sql = cluster.jobctl(&sql).await.stdout;
    let dry = ["prune", "--older-than", "12h", "--dry-run", "--json"];
    let dry = cluster.jobctl(&dry).await.json();
    assert_eq!(dry["targets"], json!({"mail": 3}));
    let some = [
        "prune",
        "--older-than",
        "12h",
        "--result",
        "ok",
        "--yes",
        "--json",
    ];
    assert_eq!(cluster.jobctl(&some).await.json()["deleted"], 3);
    assert_eq!(cluster.database.run(&sql).await, 0, "{sql}");
    let unique = "ALTER TABLE jobs ADD COLUMN pending INT AS (CASE WHEN status = 'waiting' THEN time_created END) VIRTUAL, \
                  ADD UNIQUE KEY pending_idx (pending)";
    cluster.database.run(unique).await;
    let twins = "INSERT INTO jobs (id, target, time_created, status, result) VALUES \
                 (20, 'twin', 1, 'done', 'fail'), (21, 'twin', 1, 'done', 'fail'), (22, 'other', 2, 'done', 'fail')";
    cluster.database.run(twins).await;
    let retried = cluster.jobctl(&["retry", "20-22", "--yes", "--json"]).await;
    assert_eq!(retried.code, Some(1), "{retried:?}");
    let retried = retried.json();
    assert_eq!(
        (&retried["ids"], &retried["barred"]),
        (&json!([20, 22]), &json!([21]))
    );
    // The table takes it for 'mail', and so do workers.
    let loud = "INSERT INTO jobs (target, time_created) VALUES ('MAIL', 7)";
    cluster.database.run(loud).await;
    let status = cluster.jobctl(&["status", "--json"]).await.json();
    let targets = status["targets"].as_array().unwrap().iter();
    let waiting = targets.filter(|target| target["waiting"] == 1);
    let found = waiting.map(|target| (&target["name"], &target["state"]));
    let found: Vec<_> = found.collect();
    assert!(
        found.contains(&(&json!("mail"), &json!("active"))),
        "{status}"
    );
    assert!(!status.to_string().contains("MAIL"), "{status}");
    cluster.stop().await;
}

#[tokio::test]
async fn jobctl_creates_a_table_that_a_worker_can_use() {
    let scratch = Scratch::new();
    let database = Server::shared().await.database().await;
    let worker = Ini::worker(&database)
        .target("mail", 1)
        .set("mysql_table", "my jobs");
    let config = scratch.write("both.conf", worker.text());
    let jobctl = async |arguments: &[&str]| {
        let mut command = Command::new(programs::path("jobctl"));
        command
            .args(["--log-level", "error", "--config"])
            .arg(&config)
            .args(arguments);
        Run::of(programs::output(&mut command).await)
    };
    let created = jobctl(&["create-table"]).await;
    assert_eq!(created.code, Some(0), "{created:?}");
    let again = jobctl(&["create-table", "--full"]).await;
    assert_eq!(again.code, Some(1), "{again:?}");
    assert!(again.stderr.contains("already exists"), "{again:?}");
    let jobd = Jobd::ready(&scratch, &worker).await;
    jobctl(&["add", "--target", "mail", "--wait"])
        .await
        .check(0, "job 1: ok\n", "");
    assert!(jobd.stop().await.success());
}

#[tokio::test]
async fn the_php_example_adds_and_runs_jobs_through_the_master() {
    let cluster = Cluster::start().await;
    cluster
        .php(&["add", "mail"])
        .await
        .check(0, "added job 1\n", "");
    let row = cluster.database.done(1).await;
    assert_eq!(
        (row.result.as_deref(), row.out()),
        (Some("ok"), "job 1 on mail\n")
    );
    cluster
        .php(&["run", "mail"])
        .await
        .check(0, "job 2: ok (exit code 0)\njob 2 on mail\n", "");
    cluster.php(&["run", "seven"]).await.check(
        1,
        "job 3: fail (exit code 7)\njob 3 on seven\n",
        "sorry\n",
    );
    cluster.php(&["run", "killed"]).await.check(
        1,
        "job 4: fail (signal SIGKILL)\njob 4 on killed\n",
        "",
    );
    let loud = cluster.php(&["run", "loud"]).await;
    assert_eq!((loud.code, loud.stdout.len() > 3_900_000), (Some(0), true));
    let nobody = cluster.php(&["run", "nobody"]).await;
    assert_eq!(nobody.code, Some(1));
    assert!(
        nobody
            .stderr
            .contains("worker serving target 'nobody' not found"),
        "{nobody:?}"
    );
    assert_eq!(cluster.php(&["add"]).await.code, Some(2));
    // Port 1 is nobody's.
    let alone = cluster.php_at("127.0.0.1:1", &["add", "mail"]).await;
    assert_eq!(
        (alone.code, alone.stdout.as_str()),
        (Some(0), "added job 7\n")
    );
    assert!(
        alone.stderr.contains("not poked: cannot reach"),
        "{alone:?}"
    );
    cluster.stop().await;
}
