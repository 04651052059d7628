//! What a person sees, whole screens of it: see [`crate::stored`].

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::daemon::Daemon;
use crate::jobctl::LIMIT;
use crate::stored::{Scene, screens};
use crate::table::Table;
use crate::terminal::Terminal;

/// Long ago by whole hours and a half: what is shown of it stays for half an hour.
const AGO: &str = "unixepoch() - 102600";

fn worker(at: u16, error: Option<&str>) -> Value {
    let mut worker = json!({"remoteAddr": "10.0.0.1", "remotePort": 1000 + at, "name": format!("web{at}"),
        "targets": ["mail", "report"]});
    match error {
        Some(error) => worker["workerStatusError"] = error.into(),
        None => {
            worker["workerStatus"] = json!({
                "targets": {
                    "mail": {"paused": false, "concurrency": 4, "length": 3, "running": 2, "queued": 1},
                    "report": {"paused": at == 2, "concurrency": 1, "length": 0, "running": 0, "queued": 0},
                },
                "jobPromisesCount": 0, "memoryUsage": {}, "name": format!("web{at}"), "version": "2.0.0", "uptime": 7830,
            });
        }
    }
    worker
}

/// A master with three workers, one of which is silent.
async fn master() -> Daemon {
    let workers = [
        worker(1, None),
        worker(2, None),
        worker(3, Some("no answer within 5 s")),
    ];
    Daemon::master(Ok(json!({"workers": workers, "memoryUsage": {}}))).await
}

/// A table in which things go on, in a folder with a config that names both it and this daemon.
async fn busy(daemon: Option<SocketAddr>) -> Table {
    let table = Table::new(daemon).await;
    let port = daemon.map_or(1, |address| address.port());
    let config = format!("sqlite_path = jobs.db\nport = {port}\n");
    std::fs::write(table.folder.path().join(".jobctl.conf"), config).unwrap();
    table
        .execute(&format!(
            "ALTER TABLE jobs ADD COLUMN worker TEXT; ALTER TABLE jobs ADD COLUMN progress TEXT; \
             INSERT INTO jobs (target, time_created, status, result, return_code, sig, time_started, time_finished, stdout, stderr, worker, progress) VALUES \
             ('mail', {AGO}, 'done', 'ok', 0, NULL, {AGO}, {AGO} + 10, 'hello', '', NULL, NULL), \
             ('mail', {AGO}, 'done', 'fail', 3, NULL, {AGO}, {AGO} + 65, '', 'sorry', NULL, NULL), \
             ('report', {AGO}, 'done', 'fail', NULL, 'SIGTERM', unixepoch() - 61, unixepoch() - 60, '', '', NULL, NULL), \
             ('mail', {AGO}, 'running', NULL, NULL, NULL, {AGO}, 0, NULL, NULL, 'web1@h/1/2', '42 % of a long way'), \
             ('mail', {AGO}, 'running', NULL, NULL, NULL, {AGO}, 0, NULL, NULL, 'web2@h/1/2', NULL), \
             ('mail', {AGO}, 'waiting', NULL, NULL, NULL, 0, 0, NULL, NULL, NULL, NULL), \
             ('lost', {AGO}, 'waiting', NULL, NULL, NULL, 0, 0, NULL, NULL, NULL, NULL)"
        ))
        .await;
    table
}

/// Waits for the end and has a last look.
#[track_caller]
fn ends(scene: &mut Scene, mut terminal: Terminal, code: u32, title: &str) {
    assert_eq!(terminal.ends().0, code, "{}", terminal.text());
    scene.shows(&terminal, title, &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_of_a_cluster() {
    screens("tables", async |scene| {
        let master = master().await;
        let table = busy(Some(master.address)).await;
        // Their mean is longer than a minute, an hour, a day.
        for (target, took) in [("slow", 59), ("slow", 62), ("slower", 7830), ("slowest", 200_000)] {
            let begun = "unixepoch() - 2597400";
            let sql = "INSERT INTO jobs (target, time_created, status, result, time_started, time_finished)";
            table.execute(&format!("{sql} SELECT '{target}', {begun}, 'done', 'ok', {begun}, {begun} + {took}")).await;
        }
        for (command, code) in [
            ("--master status", 1),
            ("--worker --port 1 status", 3),
            ("list", 0),
            ("stats --since 2020-01-01", 0),

            ("show 2", 0),
            ("--master list-workers", 0),
        ] {
            let words: Vec<&str> = command.split(' ').collect();
            let terminal = scene.start(table.folder.path(), &words);
            ends(scene, terminal, code, command);
        }
    })
    .await;
}

/// 50 workers that serve 6 of 300 targets each. Four of them are silent, one has lost its database, one is paused; 24
/// jobs run, of four targets.
async fn large() -> Daemon {
    let worker = |at: usize| {
        let names: Vec<String> = (at * 6..at * 6 + 6)
            .map(|of| format!("target-{of:03}"))
            .collect();
        let mut worker = json!({"remoteAddr": "10.0.0.1", "remotePort": 1000 + at, "name": format!("web{at:02}"), "targets": names});
        if at % 12 == 7 {
            worker["workerStatusError"] = "no answer within 5 s".into();
            return worker;
        }
        let target = |of: usize| {
            let running = if of.is_multiple_of(90) { 6 } else { 0 };
            json!({"paused": at == 30, "concurrency": 6, "length": running, "running": running, "queued": 0})
        };
        let targets = names.iter().zip(at * 6..);
        let targets = targets.map(|(name, of)| (name.clone(), target(of)));
        worker["workerStatus"] = json!({
            "targets": targets.collect::<serde_json::Map<_, _>>(), "jobPromisesCount": 0, "memoryUsage": {},
            "version": "2.0.0", "uptime": 7830, "databaseAway": at == 20, "journaledEnds": 2 * usize::from(at == 20),
        });
        worker
    };
    let workers: Vec<Value> = (0..50).map(worker).collect();
    Daemon::master(Ok(json!({"workers": workers, "memoryUsage": {}}))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_cluster() {
    screens("cluster", async |scene| {
        let master = large().await;
        let table = busy(Some(master.address)).await;
        let rows = format!("UPDATE jobs SET target = 'target-' || (100 + id) WHERE status <> 'running'; \
                    DELETE FROM jobs WHERE status = 'running'; \
                    WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 23) \
                    INSERT INTO jobs (target, time_created, status, time_started, worker) \
                    SELECT format('target-%03d', i / 6 * 90), {AGO}, 'running', {AGO}, format('web%02d@h/1/2', i / 6 * 15) FROM n");
        table.execute(&rows).await;
        let folder = table.folder.path();
        let status = scene.start(folder, &["--master", "status"]);
        ends(scene, status, 1, "its status");
        let mut watch = scene.start(folder, &["--master", "status", "--watch=200ms"]);
        scene.shows(&watch, "a watch", &["from jobd-master"]);
        watch.press("\x03");
        ends(scene, watch, 0, "left");
        let mut top = scene.start(folder, &["--master", "top", "--every", "200ms"]);
        scene.shows(&top, "top", &["target-", "leave"]);
        top.press("\tjjjjjjj");
        scene.shows(&top, "top, with an eye on the eighth worker", &["web30"]);
        top.press("q");
        ends(scene, top, 0, "left again");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor() {
    screens("doctor", async |scene| {
        let master = master().await;
        let table = busy(Some(master.address)).await;
        let folder = table.folder.path();
        std::fs::rename(folder.join(".jobctl.conf"), folder.join("my.conf")).unwrap();
        // What runs for a day is stuck.
        table
            .execute("UPDATE jobs SET time_started = unixepoch() WHERE status = 'running'")
            .await;
        let terminal = scene.start(folder, &["--config", "my.conf", "--master", "doctor"]);
        ends(scene, terminal, 1, "a cluster with troubles");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn top() {
    screens("top", async |scene| {
        let master = master().await;
        let table = busy(Some(master.address)).await;
        let arguments = ["--master", "top", "--every", "200ms"];
        let mut top = scene.start(table.folder.path(), &arguments);
        scene.shows(&top, "a cluster", &["42 %", "leave"]);
        top.press("\t");
        scene.shows(&top, "an eye on workers", &["42 %"]);
        top.press("\tj");
        scene.shows(&top, "an eye on the second job", &["42 %"]);
        top.press("x");
        scene.shows(&top, "a question", &["?"]);
        top.press("n");
        scene.shows(&top, "an answer", &["nothing"]);
        top.press("q");
        ends(scene, top, 0, "left");
        let arguments = ["--port", "1", "top", "--every", "200ms"];
        let mut top = scene.start(table.folder.path(), &arguments);
        scene.shows(&top, "the table alone", &["42 %", "cannot reach"]);
        top.press("q");
        ends(scene, top, 0, "left again");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch() {
    screens("watch", async |scene| {
        let master = master().await;
        let table = busy(Some(master.address)).await;
        let arguments = ["--master", "status", "--watch=200ms"];
        let mut watch = scene.start(table.folder.path(), &arguments);
        scene.shows(&watch, "a cluster", &["from jobd-master"]);
        table
            .execute("DELETE FROM jobs WHERE target = 'lost'")
            .await;
        table.execute("UPDATE jobs SET progress = NULL").await;
        watch.sees_no("lost");
        scene.shows(&watch, "with less to see", &["from jobd-master"]);
        watch.press("\x03");
        ends(scene, watch, 0, "left");
        let arguments = ["--port", "1", "status", "--watch=200ms"];
        let mut watch = scene.start(table.folder.path(), &arguments);
        scene.shows(&watch, "the table alone", &["from the table alone"]);
        watch.press("\x03");
        ends(scene, watch, 0, "left again");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shell() {
    screens("shell", async |scene| {
        let master = master().await;
        let table = busy(Some(master.address)).await;
        let mut shell = scene.start(table.folder.path(), &["--master"]);
        scene.shows(&shell, "at first", &[">"]);
        shell.press("help\r");
        scene.shows(&shell, "help", &["Exit codes", ">"]);
        shell.press("\x0cst\t\t");
        scene.shows(&shell, "two commands begin so", &["stats", "status"]);
        shell.press("at\x15pause \t\t");
        scene.shows(&shell, "names of targets", &["report"]);
        shell.press("\x15--host \t\t");
        scene.shows(&shell, "hosts of workers", &["10.0.0.1"]);
        shell.press("\x15\x0clist --limit 2\r");
        scene.shows(&shell, "a table", &["lost"]);
        shell.press("show 99\r");
        scene.shows(&shell, "a mistake", &["not found"]);
        shell.press("exit\r");
        ends(scene, shell, 0, "left");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait() {
    screens("wait", async |scene| {
        let table = busy(None).await;
        let wait = scene.start(table.folder.path(), &["wait", "6"]);
        scene.shows(&wait, "it waits", &["is waiting"]);
        table.execute("UPDATE jobs SET status = 'running' WHERE id = 6").await;
        scene.shows(&wait, "it runs", &["is running"]);
        let end = "UPDATE jobs SET status = 'done', result = 'fail', return_code = 7, stderr = 'sorry' WHERE id = 6";
        table.execute(end).await;
        ends(scene, wait, 7, "it has failed");
        let mut wait = scene.start(table.folder.path(), &["wait", "1-7"]);
        scene.shows(&wait, "several", &["4 of 7 done"]);
        wait.press("\x03");
        ends(scene, wait, 130, "interrupted");
        table.execute("UPDATE jobs SET status = 'done', result = 'ok', return_code = 0 WHERE id > 3").await;
        let wait = scene.start(table.folder.path(), &["wait", "1-7"]);
        ends(scene, wait, 1, "all of them");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prune() {
    screens("prune", async |scene| {
        let table = busy(None).await;
        table
            .execute(
                "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 2000) \
                 INSERT INTO jobs (target, time_created, status, result, time_started, time_finished) \
                 SELECT 'mail', 1700000000, 'done', 'ok', 1700000001, 1700000002 FROM n",
            )
            .await;
        let words = ["prune", "--older-than", "2024-01-01"];
        let mut prune = scene.start(table.folder.path(), &words);
        scene.shows(&prune, "a question", &["Go on?"]);
        // Nobody can delete while somebody else writes.
        let mut lock = table.connection().await;
        sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut lock).await.unwrap();
        prune.press("y\r");
        scene.shows(&prune, "a bar", &["of 2000 deleted"]);
        sqlx::raw_sql("ROLLBACK").execute(&mut lock).await.unwrap();
        ends(scene, prune, 0, "done");
    })
    .await;
}

/// Of a worker alone.
fn status() -> Value {
    worker(1, None)["workerStatus"].clone()
}

fn state(state: &str) -> Value {
    json!({"state": state})
}

fn output(stream: &str, at: usize, text: &str) -> Value {
    json!({"stream": stream, "at": at, "text": text})
}

fn failed() -> Value {
    json!({"state": "done", "result": "fail", "code": 7})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_run() {
    screens("run", async |scene| {
        let (worker, job) = Daemon::teller(status()).await;
        let table = busy(Some(worker.address)).await;
        let run = scene.start(table.folder.path(), &["run", "mail"]);
        job.tells(state("manual"));
        scene.shows(&run, "nothing yet", &["is manual"]);
        job.tells(state("running"));
        job.tells(json!({"progress": "of a long way", "percent": 42}));
        scene.shows(&run, "it says how far it is", &["42 %"]);
        job.tells(output("stdout", 0, "one\n\ttwo"));
        job.tells(output("stderr", 0, "sorry\n"));
        scene.shows(&run, "output", &["sorry"]);
        job.tells(json!({"progress": "", "percent": 43}));
        job.tells(output("stdout", 8, " three\u{1b}[31m\n"));
        scene.shows(&run, "more output", &["three"]);
        let outcome = json!({"result": "fail", "code": 7, "signal": null,
            "stdout": "one\n\ttwo three\u{1b}[31m\n", "stderr": "sorry\n"});
        job.ends(failed(), json!({"jobs": {"8": outcome}}));
        ends(scene, run, 7, "its end");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bars_at_the_foot_of_a_full_screen() {
    screens("foot", async |scene| {
        let (worker, job) = Daemon::teller(status()).await;
        let table = busy(Some(worker.address)).await;
        let mut shell = scene.start(table.folder.path(), &[]);
        shell.sees(&[">"]);
        for helps in 1..4 {
            shell.press("help\r");
            // What is typed before the next prompt is there stands among the help.
            let pieces = || shell.written().split("with its code.").map(str::to_owned).collect::<Vec<_>>();
            let deadline = Instant::now() + LIMIT;
            while pieces().len() <= helps || !pieces()[helps].contains("> ") {
                assert!(Instant::now() < deadline, "{}", shell.text());
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        shell.press("run mail\r");
        job.tells(state("running"));
        job.tells(json!({"progress": "of a long way, of which there is more to say than there is room for on a line", "percent": 42}));
        scene.shows(&shell, "a bar", &["42 %"]);
        job.tells(output("stdout", 0, "one\n"));
        scene.shows(&shell, "output in its place", &["\none"]);
        let outcome = json!({"result": "ok", "code": 0, "signal": null, "stdout": "one\n", "stderr": ""});
        job.ends(json!({"state": "done", "result": "ok", "code": 0}), json!({"jobs": {"8": outcome}}));
        scene.shows(&shell, "the prompt behind it", &["one\n127.0.0.1"]);
        shell.press("wait 6\r");
        scene.shows(&shell, "another bar", &["is waiting"]);
        shell.press("\x03");
        scene.shows(&shell, "gone at Ctrl-C", &["goes on"]);
        shell.press("exit\r");
        assert_eq!(shell.ends().0, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_of_a_job_that_runs() {
    screens("logs", async |scene| {
        let (worker, job) = Daemon::teller(status()).await;
        let table = busy(Some(worker.address)).await;
        let logs = scene.start(table.folder.path(), &["logs", "6", "-f"]);
        job.tells(state("waiting"));
        scene.shows(&logs, "it waits", &["is waiting"]);
        job.tells(state("running"));
        scene.shows(&logs, "it runs", &["is running"]);
        job.tells(output("stdout", 0, "one\n"));
        job.tells(output("stderr", 0, "sorry\n"));
        scene.shows(&logs, "output", &["sorry"]);
        let mut gap = output("stdout", 1004, "two\n");
        gap["missed"] = 1000.into();
        job.tells(gap);
        scene.shows(&logs, "output with a gap", &["two"]);
        let end = "UPDATE jobs SET status = 'done', result = 'fail', return_code = 7, stdout = 'one', stderr = 'sorry' WHERE id = 6";
        table.execute(end).await;
        job.ends(failed(), Value::Null);
        ends(scene, logs, 0, "its end");
        let (worker, job) = Daemon::teller(status()).await;
        let port = worker.address.port().to_string();
        job.tells(state("running"));
        let mut logs = scene.start(table.folder.path(), &["--port", &port, "logs", "4", "-f"]);
        scene.shows(&logs, "another one", &["is running"]);
        logs.press("\x03");
        ends(scene, logs, 130, "interrupted");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn output_that_is_followed_from_top_in_the_shell() {
    screens("follow", async |scene| {
        let (worker, job) = Daemon::teller(status()).await;
        let table = busy(Some(worker.address)).await;
        let mut shell = scene.start(table.folder.path(), &[]);
        shell.sees(&[">"]);
        shell.press("top --every 200ms\r");
        scene.shows(&shell, "top", &["42 %", "leave"]);
        shell.press("\t\tf");
        scene.shows(&shell, "nothing yet", &["output of job 4; Ctrl-C leaves", "is looked for"]);
        job.tells(state("running"));
        job.tells(output("stdout", 0, "one\n"));
        scene.shows(&shell, "output", &["one"]);
        shell.press("\x03");
        scene.shows(&shell, "Ctrl-C", &["press Enter to go back"]);
        shell.press("\r");
        scene.shows(&shell, "back in top", &["job 4 goes on"]);
        shell.press("f");
        shell.sees(&["one"]);
        let end = "UPDATE jobs SET status = 'done', result = 'ok', stdout = 'one' || char(10) WHERE id = 4";
        table.execute(end).await;
        job.ends(json!({"state": "done", "result": "ok", "code": 0}), Value::Null);
        scene.shows(&shell, "its end", &["press Enter to go back"]);
        shell.press("\r");
        scene.shows(&shell, "back in top again", &["job 4 has ended"]);
        shell.press("q");
        scene.shows(&shell, "back in the shell", &["press Enter to go back"]);
        shell.press("logs 4\r");
        scene.shows(&shell, "which goes on", &["logs 4\none"]);
        shell.press("exit\r");
        assert_eq!(shell.ends().0, 0);
    })
    .await;
}
