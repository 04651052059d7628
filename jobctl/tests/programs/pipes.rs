//! What is the same on a terminal and in a pipe, and what goes on in a pipe until somebody ends it.

use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::daemon::Daemon;
use crate::jobctl::{program, run};
use crate::table::Table;
use crate::terminal::Terminal;

async fn master() -> Daemon {
    let target = json!({"paused": false, "concurrency": 2, "length": 0, "running": 0, "queued": 0});
    let status = json!({"targets": {"mail": target}, "jobPromisesCount": 0, "memoryUsage": {}, "version": "2.0.0"});
    let worker = json!({"remoteAddr": "10.0.0.1", "remotePort": 1, "name": "web1", "targets": ["mail"], "workerStatus": status});
    Daemon::master(Ok(json!({"workers": [worker], "memoryUsage": {}}))).await
}

/// `status --watch` in a pipe.
struct Watch {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Watch {
    fn start(table: &Table, more: &[&str]) -> Self {
        let mut command: Command = program();
        command.arg("--config").arg(&table.config);
        command
            .args(["--master", "status", "--watch=200ms"])
            .args(more);
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    async fn line(&mut self) -> String {
        let line = self.lines.next_line().await.unwrap();
        line.expect("it goes on")
    }

    /// Ends it; its exit code, and what it complained of.
    async fn end(mut self, signal: &str) -> (i32, String) {
        let id = self.child.id().unwrap().to_string();
        let sent = Command::new("kill")
            .args(["-s", signal, &id])
            .status()
            .await;
        assert!(sent.unwrap().success());
        // Nobody reads what it says meanwhile.
        let mut complaints = String::new();
        let mut stderr = self.child.stderr.take().unwrap();
        stderr.read_to_string(&mut complaints).await.unwrap();
        (self.child.wait().await.unwrap().code().unwrap(), complaints)
    }
}

#[tokio::test]
async fn a_watch_in_a_pipe_is_one_look_after_the_other() {
    let master = master().await;
    let table = Table::new(Some(master.address)).await;
    for (signal, code) in [("INT", 0), ("TERM", 143), ("HUP", 129)] {
        let mut watch = Watch::start(&table, &[]);
        for look in 0..3 {
            let mut lines = Vec::new();
            // An empty line stands behind the targets, and one behind each look.
            while lines
                .iter()
                .filter(|line: &&String| line.is_empty())
                .count()
                < 2
            {
                lines.push(watch.line().await);
            }
            assert_eq!(
                lines[0].split('\t').next(),
                Some("TARGET"),
                "look {look}: {lines:?}"
            );
            assert!(lines[1].starts_with("mail\tactive\t2\t"), "{lines:?}");
            assert!(
                lines[lines.len() - 2].starts_with("from jobd-master at "),
                "{lines:?}"
            );
            assert!(!lines.concat().contains('\u{1b}'), "{lines:?}");
        }
        assert_eq!(watch.end(signal).await, (code, String::new()), "{signal}");
    }
}

#[tokio::test]
async fn a_watch_with_json_is_one_value_a_look() {
    let master = master().await;
    let table = Table::new(Some(master.address)).await;
    let mut watch = Watch::start(&table, &["--json"]);
    for waiting in [0, 1, 2] {
        loop {
            let mut text = String::new();
            // A value ends with the bracket that it began with.
            while !text.ends_with("\n}\n") {
                text = text + &watch.line().await + "\n";
            }
            let value: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(value["kind"], "master", "{text}");
            if value["targets"][0]["waiting"] == waiting {
                break;
            }
        }
        table.jobctl(&["add", "--target", "mail"]).await;
    }
    assert_eq!(watch.end("INT").await, (0, String::new()));
}

#[tokio::test]
async fn a_watch_ends_when_nobody_reads_it() {
    let master = master().await;
    let table = Table::new(Some(master.address)).await;
    for json in [&[][..], &["--json"]] {
        let mut watch = Watch::start(&table, json);
        watch.line().await;
        drop(watch.lines);
        let ended =
            tokio::time::timeout(std::time::Duration::from_secs(20), watch.child.wait()).await;
        assert_eq!(ended.expect("it ends").unwrap().code(), Some(0), "{json:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_reads_no_more_learns_how_a_job_ended() {
    let (worker, job) = Daemon::teller(json!({})).await;
    job.tells(json!({"state": "running"}));
    let mut child = program()
        .args(["--port", &worker.address.port().to_string()])
        .args(["follow", "7", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = lines.next_line().await.unwrap().unwrap();
    assert!(line.contains("running"), "{line}");
    drop(lines);
    job.ends(
        json!({"state": "done", "result": "fail", "code": 7}),
        Value::Null,
    );
    let run = child.wait_with_output().await.unwrap();
    assert_eq!(run.status.code(), Some(7), "{run:?}");
    let complaint = "jobctl: job 7: failed with exit code 7\n";
    assert_eq!(String::from_utf8_lossy(&run.stderr), complaint);
}

#[tokio::test]
async fn scripts_and_pages_are_the_same_on_a_terminal() {
    for words in [
        &["completions", "bash"][..],
        &["completions", "zsh"],
        &["completions", "fish"],
        &["man"],
        &["--version"],
    ] {
        let piped = run(words.iter().copied()).await;
        assert_eq!((piped.code, piped.stderr.as_str()), (0, ""), "{words:?}");
        let mut terminal = Terminal::start(80, words, &[]);
        assert_eq!(terminal.ends().0, 0, "{words:?}");
        let shown = terminal.written().replace("\r\n", "\n");
        assert_eq!(shown, piped.stdout, "{words:?}");
    }
}
