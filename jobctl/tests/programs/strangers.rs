//! What listens and is no daemon, is one no longer, or says more than anybody wants to hear; and
//! databases of that kind. Every command ends in bounded time and says what to look at.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::daemon::Daemon;
use crate::jobctl::{Run, finish, program};
use crate::terminal::Terminal;

/// What a stranger says to a request.
#[derive(Clone, Copy, Debug)]
enum Says {
    /// Nothing, for ever.
    Nothing,
    /// Nothing, and goes.
    Goes,
    /// As a web server would, without an end of message.
    Http,
    /// A message that is no JSON.
    NoJson,
    /// A message of a kind that there is not.
    WrongKind,
    /// Half an answer, and goes.
    Half,
    /// Half an answer, and stays.
    HalfAndStays,
    /// An answer of 100 MB.
    Huge,
}

impl Says {
    async fn say(self, stream: &mut TcpStream) -> std::io::Result<()> {
        let mut bytes = vec![0; 4096];
        let read = stream.read(&mut bytes).await?;
        let text = String::from_utf8_lossy(&bytes[..read]).into_owned();
        let request: Value = serde_json::from_str(text.trim_end_matches('\u{4}')).unwrap();
        let no = request[1]["no"].as_i64().unwrap();
        match self {
            Self::Nothing => {}
            Self::Goes => return Ok(()),
            Self::Http => {
                let answer = b"HTTP/1.1 400 Bad Request\r\n\r\n";
                stream.write_all(answer).await?;
            }
            Self::NoJson => stream.write_all(b"hello\x04").await?,
            Self::WrongKind => stream.write_all(b"[9,{}]\x04").await?,
            Self::Half => {
                let answer = format!("[1,{{\"no\":{no},\"da");
                return stream.write_all(answer.as_bytes()).await;
            }
            Self::HalfAndStays => {
                let answer = format!("[1,{{\"no\":{no},\"da");
                stream.write_all(answer.as_bytes()).await?;
            }
            Self::Huge => {
                let begin = format!("[1,{{\"no\":{no},\"data\":\"");
                stream.write_all(begin.as_bytes()).await?;
                let much = vec![b'x'; 1 << 20];
                for _ in 0..100 {
                    stream.write_all(&much).await?;
                }
                stream.write_all(b"\"}]\x04").await?;
            }
        }
        // Until the other side has gone.
        while stream.read(&mut bytes).await? > 0 {}
        Ok(())
    }
}

/// Listens until the test ends.
async fn stranger(says: Says) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                // It does not matter how the client went.
                let _ = says.say(&mut stream).await;
            });
        }
    });
    address
}

/// Every command that asks a daemon and does not need the table for it.
const WORKER: [&[&str]; 12] = [
    &["status"],
    &["list-targets"],
    &["memory-usage"],
    &["poll"],
    &["pause", "mail"],
    &["continue"],
    &["set-target-concurrency", "mail", "2"],
    &["add-target", "mail", "1"],
    &["remove-target", "mail"],
    &["cancel", "17", "--yes"],
    &["send-signal", "TERM", "17"],
    &["doctor"],
];
const MASTER: [&[&str]; 8] = [
    &["--master", "status"],
    &["--master", "list-workers"],
    &["--master", "memory-usage"],
    &["--master", "poke"],
    &["--master", "pause", "mail"],
    &["--master", "cancel", "17", "--yes"],
    &["--master", "run-manual", "17:mail"],
    &["--master", "send-signal", "TERM", "17:mail"],
];

/// Runs it against `address`.
async fn ask(address: SocketAddr, arguments: &[&str]) -> Run {
    let port = address.port().to_string();
    let mut command = program();
    command.args(["--port", &port]).args(arguments);
    finish(&mut command).await
}

/// Has every command meet this stranger, all at once.
async fn meet(says: Says, code: i32, complaints: &[&str]) {
    let address = stranger(says).await;
    let commands = WORKER.iter().chain(&MASTER).copied();
    let runs = commands.map(|arguments| async move { (arguments, ask(address, arguments).await) });
    for (arguments, run) in futures::future::join_all(runs).await {
        let told = run.stderr.clone() + &run.stdout;
        for complaint in complaints {
            assert!(
                told.contains(complaint),
                "{says:?}, {arguments:?}: {complaint:?} is not in {run:?}"
            );
        }
        assert!(told.len() < 4_000, "{says:?}, {arguments:?}: {run:?}");
        // A finding of the doctor is no failure of his.
        let code = if arguments == ["doctor"] { 1 } else { code };
        assert_eq!(run.code, code, "{says:?}, {arguments:?}: {run:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_speaks_another_language_is_left_at_once() {
    let begun = Instant::now();
    for says in [Says::Http, Says::NoJson, Says::WrongKind] {
        meet(
            says,
            3,
            &["does not speak as jobd", "look at --host and --port"],
        )
        .await;
    }
    meet(Says::Half, 3, &["before it answered"]).await;
    meet(Says::Goes, 3, &["before it answered"]).await;
    assert!(begun.elapsed() < Duration::from_secs(30), "that took long");
}

/// Left out: `run-manual`, whose jobs may take for ever, so that it goes by pings; and `cancel`, to
/// which a master may take a minute.
#[tokio::test(flavor = "multi_thread")]
async fn what_never_answers_is_given_up() {
    let quick = |words: &&[&str]| !words.contains(&"run-manual") && !words.contains(&"cancel");
    let commands: Vec<&[&str]> = WORKER.into_iter().chain(MASTER).filter(quick).collect();
    let mut runs = Vec::new();
    for says in [Says::Nothing, Says::HalfAndStays] {
        let address = stranger(says).await;
        let each = commands.iter().copied();
        runs.extend(each.map(|words| async move { (says, words, ask(address, words).await) }));
    }
    for (says, arguments, run) in futures::future::join_all(runs).await {
        let told = run.stderr.clone() + &run.stdout;
        assert!(
            told.contains("within 15 s; is it stopped or overloaded?"),
            "{says:?}, {arguments:?}: {run:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_100_mb_is_read_and_not_shown() {
    let address = stranger(Says::Huge).await;
    let status = ask(address, &["--master", "status"]).await;
    status.failed(1, &["cannot be read", "leave out --master"]);
    assert!(status.stderr.len() < 2_000, "{}", status.stderr.len());
    let follow = ask(address, &["--master", "follow", "17"]).await;
    follow.failed(
        1,
        &["cannot read how job 17 stands", " doctor looks at who"],
    );
    assert!(follow.stderr.len() < 2_000, "{}", follow.stderr.len());
    let poll = ask(address, &["poll"]).await;
    assert_eq!(
        poll.code, 0,
        "an order needs no more than an answer: {poll:?}"
    );
}

/// A config that names a MySQL server at `address`.
fn on_mysql(address: SocketAddr) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("jobctl.conf");
    let text = format!(
        "port = 1\nmysql_host = 127.0.0.1\nmysql_port = {}\nmysql_user = u\nmysql_password = p\n\
         mysql_database = d\nmysql_table = jobs\n",
        address.port()
    );
    std::fs::write(&config, text).unwrap();
    let config = config.to_str().unwrap().to_owned();
    (folder, config)
}

/// Listens, says nothing and hears nothing.
async fn silent() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_never_answers_is_named_and_given_up() {
    let (_listener, address) = silent().await;
    let (_folder, config) = on_mysql(address);
    let commands: [&[&str]; 11] = [
        &["list"],
        &["show", "1"],
        &["logs", "last"],
        &["wait", "1"],
        &["retry", "1"],
        &["stats"],
        &["export", "--json-lines"],
        &["prune", "--older-than", "30d", "--dry-run"],
        &["create-table"],
        &["add", "--target", "mail"],
        &["cancel", "last", "--yes"],
    ];
    let waited = format!("database d at {address}");
    let mut seen = Terminal::start(80, &["--config", &config, "list"], &[]);
    let config = &config;
    let runs = commands.map(|arguments| async move {
        let mut command = program();
        command.args(["--config", config]).args(arguments);
        (arguments, finish(&mut command).await)
    });
    let mut doctor = program();
    doctor.args(["--config", config, "doctor"]);
    let (runs, doctor) = tokio::join!(futures::future::join_all(runs), finish(&mut doctor));
    let complaint = "no answer within 10 s; is it stopped, overloaded or locked?";
    let mend = "\tlook at the load of its host and at what holds locks there\n";
    let told = doctor.stdout.contains(complaint) && doctor.stdout.contains(mend);
    assert!(told, "{doctor:?}");
    for (arguments, run) in runs {
        assert_eq!(run.code, 3, "{arguments:?}: {run:?}");
        run.failed(3, &[&waited, complaint]);
    }
    let (code, text) = seen.ends();
    assert_eq!(code, 3);
    assert!(!text.contains("waiting for"), "the line is gone: {text}");
    let mut seen = Terminal::start(80, &["--config", config, "list"], &[]);
    seen.sees(&[&format!("waiting for {waited} to answer")]);
    seen.press("\x03");
    let (code, text) = seen.ends();
    assert_eq!((code, text.trim_end()), (130, "jobctl: interrupted"));
}

#[tokio::test]
async fn what_a_daemon_says_cannot_steer_the_terminal() {
    let daemon = crate::daemon::Daemon::worker(Err("a\u{1b}[2Jb")).await;
    let refused = crate::jobctl::ask(daemon.address, &["poll"]).await;
    refused.failed(1, &["refused: a\\u{1b}[2Jb"]);
    let names = json!({"targets": {"\u{1b}]0;x\u{7}": {"paused": false, "concurrency": 1, "length": 0}}, "jobPromisesCount": 0, "memoryUsage": {}});
    let daemon = crate::daemon::Daemon::worker(Ok(names)).await;
    for command in ["status", "list-targets", "doctor"] {
        let shown = crate::jobctl::ask(daemon.address, &[command]).await;
        assert!(!shown.stdout.contains(['\u{1b}', '\u{7}']), "{shown:?}");
    }
}

#[tokio::test]
async fn counts_beyond_all_bounds_and_errors_of_two_lines_are_shown() {
    let most = u64::MAX;
    let target =
        json!({"paused": false, "concurrency": 1, "length": most, "running": most, "queued": most});
    let status =
        json!({"targets": {"a": target, "b": target}, "jobPromisesCount": 0, "memoryUsage": {}});
    let worker = json!({"remoteAddr": "10.0.0.1", "remotePort": 1, "name": "web1", "targets": ["a", "b"], "workerStatus": status});
    for workers in [json!([worker]), json!([worker, worker])] {
        let master = Daemon::master(Ok(json!({"workers": workers, "memoryUsage": {}}))).await;
        let status = ask(master.address, &["--master", "status"]).await;
        assert_eq!(status.code, 0, "{status:?}");
        assert!(status.stdout.contains(&most.to_string()), "{status:?}");
        assert!(!status.stdout.contains("1 slots"), "{status:?}");
    }
    let master = Daemon::master(Err("one\ntwo")).await;
    let refused = ask(master.address, &["--master", "poke"]).await;
    refused.failed(1, &["refused: one\\ntwo\n"]);
}
