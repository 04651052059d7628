//! `jobctl` without a command, with somebody at the keys.

use serde_json::json;

use crate::daemon::{Daemon, serves_mail};
use crate::jobctl::run;
use crate::table::Table;
use crate::terminal::Terminal;

async fn filled() -> (Table, tempfile::TempDir) {
    let table = Table::new(None).await;
    table
        .execute(
            "INSERT INTO jobs (target, time_created, status, result, stdout) VALUES \
             ('mail', 1700000000, 'done', 'ok', 'hello'), ('report', 1700000000, 'waiting', NULL, NULL)",
        )
        .await;
    (table, tempfile::tempdir().unwrap())
}

fn shell(table: &Table, home: &tempfile::TempDir, columns: u16) -> Terminal {
    let home = home.path().to_str().unwrap();
    let arguments = ["--config", table.config.to_str().unwrap()];
    Terminal::start(columns, &arguments, &[("HOME", home), ("NO_COLOR", "1")])
}

#[tokio::test]
async fn commands_and_names_are_completed() {
    let (table, home) = filled().await;
    for columns in [80, 200] {
        let mut shell = shell(&table, &home, columns);
        shell.sees(&["help lists the commands", "127.0.0.1:1> "]);
        shell.press("li\t");
        shell.sees(&["127.0.0.1:1> list"]);
        shell.press(" --tar\tma\t");
        shell.sees(&["list --target mail"]);
        shell.press("\r");
        shell.sees(&["ADDED", "mail"]);
        shell.press("show 1\t");
        shell.sees(&["> show 1"]);
        shell.press("\r");
        shell.sees(&["  stdout | hello"]);
        shell.press("exit\r");
        assert_eq!(shell.ends().0, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_a_terminal_obeys_are_not_offered() {
    let mut status = serves_mail();
    status["targets"]["m\u{1b}[2J"] = status["targets"]["mail"].clone();
    let worker = Daemon::worker(Ok(status)).await;
    let table = Table::new(Some(worker.address)).await;
    table
        .execute(
            "INSERT INTO jobs (target, time_created, status) VALUES \
             ('m' || char(27) || ']0;owned' || char(7), 1, 'waiting'), \
             ('m' || char(8238), 1, 'waiting'), ('more', 1, 'waiting')",
        )
        .await;
    let home = tempfile::tempdir().unwrap();
    let mut shell = shell(&table, &home, 80);
    shell.sees(&["> "]);
    shell.press("pause m\t\t");
    shell.sees(&["mail", "more"]);
    shell.press("a\t");
    shell.sees(&["> pause mail"]);
    let written = shell.written();
    assert!(!written.contains("owned"), "{written:?}");
    assert!(!written.contains(['\u{202e}']), "{written:?}");
    assert!(!written.contains("m\u{1b}[2J"), "{written:?}");
    shell.press("\x15exit\r");
    assert_eq!(shell.ends().0, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_prompt_leaves_what_a_job_wrote_last() {
    let (worker, job) = Daemon::teller(serves_mail()).await;
    let table = Table::new(Some(worker.address)).await;
    job.tells(json!({"state": "running"}));
    job.tells(json!({"stream": "stdout", "at": 0, "text": "half a line"}));
    job.ends(
        json!({"state": "done", "result": "ok", "code": 0}),
        json!(null),
    );
    let home = tempfile::tempdir().unwrap();
    let mut shell = shell(&table, &home, 80);
    shell.sees(&["> "]);
    shell.press("follow 7\r");
    shell.sees(&["> follow 7\nhalf a line\n127.0.0.1"]);
    // A screen of its own leaves no line open.
    shell.press("status --watch\r");
    shell.sees(&["WAITING"]);
    shell.press("\x03");
    shell.sees(&["> status --watch\n127.0.0.1"]);
    shell.press("exit\r");
    assert_eq!(shell.ends().0, 0);
}

#[tokio::test]
async fn mistakes_and_interruptions_end_in_the_next_prompt() {
    let (table, home) = filled().await;
    let mut shell = shell(&table, &home, 80);
    shell.sees(&["> "]);
    shell.press("staus\r");
    shell.sees(&["unrecognized subcommand 'staus'", "'status'"]);
    shell.press("logs 'last\r");
    shell.sees(&["close the quote"]);
    shell.press("show 99\r");
    shell.sees(&["jobctl: job 99 not found"]);
    shell.press("wait 2\r");
    shell.sees(&["waiting: job 2 (report) is waiting"]);
    shell.press("\x03");
    shell.sees(&["jobctl: job 2 goes on;", &table.line("wait 2 waits again")]);
    shell.press("prune --older-than 30d\r");
    shell.sees(&["no jobs ended before"]);
    table
        .execute(
            "UPDATE jobs SET time_started = 1700000001, time_finished = 1700000002 WHERE id = 1",
        )
        .await;
    shell.press("prune --older-than 30d\r");
    shell.sees(&["Go on? [y/N]"]);
    shell.press("\x03");
    shell.press("list --columns status --target report\r");
    shell.sees(&["STATUS\nwaiting\n127.0.0.1:1>"]);
    shell.press("half a li");
    shell.sees(&["127.0.0.1:1> half a li"]);
    shell.press("\x03");
    shell.sees(&["half a li\n127.0.0.1:1>"]);
    shell.press("\x04");
    assert_eq!(shell.ends().0, 0, "Ctrl-C drops the line, Ctrl-D ends");
}

#[tokio::test]
async fn what_people_are_told_to_enter_works_in_the_shell_too() {
    let (table, home) = filled().await;
    let mut shell = shell(&table, &home, 200);
    shell.sees(&["> "]);
    shell.press("jobctl list --columns status,target --target report\r");
    shell.sees(&["STATUS   TARGET\nwaiting  report\n127.0.0.1:1>"]);
    shell.press(&format!("{} # as doctor writes it\r", table.line("show 1")));
    shell.sees(&["  stdout | hello"]);
    shell.press("exit\r");
    assert_eq!(shell.ends().0, 0);
}

#[tokio::test]
async fn lines_are_remembered_from_one_session_to_the_next() {
    use std::os::unix::fs::PermissionsExt as _;
    let (table, home) = filled().await;
    let mut first = shell(&table, &home, 80);
    first.sees(&["> "]);
    first.press("list --columns id,stdout\r");
    first.sees(&["1   hello"]);
    first.press("exit\r");
    first.ends();
    let history = home.path().join(".jobctl_history");
    let mode = std::fs::metadata(&history).unwrap().permissions().mode();
    assert_eq!(mode & 0o077, 0, "its owner's alone");
    let mut second = shell(&table, &home, 80);
    second.sees(&["> "]);
    second.press("\x1b[A");
    second.sees(&["> list --columns id,stdout"]);
    second.press("\r");
    second.sees(&["1   hello"]);
    second.press("exit\r");
    assert_eq!(second.ends().0, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn options_of_the_shell_count_for_every_line() {
    let status = json!({"targets": {"from-the-worker": {"paused": false, "concurrency": 1, "length": 0}}, "jobPromisesCount": 0, "memoryUsage": {}});
    let worker = Daemon::worker(Ok(status)).await;
    let port = worker.address.port().to_string();
    let home = tempfile::tempdir().unwrap();
    let environment = [("HOME", home.path().to_str().unwrap())];
    let mut shell = Terminal::start(80, &["--port", &port], &environment);
    shell.sees(&[&format!("127.0.0.1:{port}> ")]);
    shell.press("pause fro\t\r");
    shell.sees(&["paused from-the-worker"]);
    // A key there, and no end of the command from outside: whoever leaves is back at the prompt.
    shell.press("top\r");
    shell.sees(&["TARGET", "leave"]);
    shell.press("\x03");
    shell.sees(&["paused from-the-worker"]);
    shell.press("exit\r");
    assert_eq!(shell.ends().0, 0);
    let asked = worker.asked();
    let pause = ("pause".to_owned(), json!({"targets": ["from-the-worker"]}));
    assert!(asked.contains(&pause), "{asked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_names_another_daemon_and_the_password_is_the_typed_one() {
    let worker = Daemon::locked("typed").await;
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join(".jobctl.conf"), "password = stored\n").unwrap();
    let environment = [("HOME", home.path().to_str().unwrap())];
    let options = ["--master", "--port", "1", "--password"];
    let mut shell = Terminal::start(80, &options, &environment);
    shell.sees(&["password of jobd-master at 127.0.0.1:1: "]);
    shell.hides();
    shell.press("typed\r");
    shell.sees(&["127.0.0.1:1> "]);
    let port = worker.address.port();
    shell.press(&format!("pause mail --worker --port {port}\r"));
    shell.sees(&["paused mail"]);
    shell.press("exit\r");
    assert_eq!(shell.ends().0, 0);
    let pause = ("pause".to_owned(), json!({"targets": ["mail"]}));
    assert_eq!(worker.asked(), [pause]);
}

#[tokio::test]
async fn a_script_gets_no_shell() {
    run([])
        .await
        .failed(2, &["no terminal for a shell", "jobctl --help"]);
}

#[tokio::test]
async fn a_shell_that_has_watched_still_ends_by_signals() {
    let (table, home) = filled().await;
    for (signal, code) in [("TERM", 143), ("HUP", 129)] {
        let mut shell = shell(&table, &home, 80);
        shell.sees(&["> "]);
        shell.press("status --watch=200ms\r");
        shell.sees(&["from the table alone"]);
        shell.press("\x03");
        shell.sees_no("from the table alone");
        shell.sees(&["127.0.0.1:1> "]);
        shell.signal(signal);
        assert_eq!(shell.ends().0, code);
        assert!(shell.echoes(), "the terminal is as it was");
    }
}
