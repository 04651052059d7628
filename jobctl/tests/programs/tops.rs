//! `top`, with somebody at the keys: what it shows, what the keys do, and how it leaves.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::daemon::Daemon;
use crate::jobctl::{LIMIT, run};
use crate::table::Table;
use crate::terminal::Terminal;

fn status(paused: bool) -> Value {
    json!({
        "targets": {
            "mail": {"paused": paused, "concurrency": 4, "length": 2, "running": 2, "queued": 0},
            "report": {"paused": false, "concurrency": 1, "length": 0, "running": 0, "queued": 0},
        },
        "jobPromisesCount": 0, "memoryUsage": {}, "name": "web1", "version": "2.0.0", "uptime": 60,
    })
}

async fn busy(daemon: SocketAddr) -> Table {
    let table = Table::new(Some(daemon)).await;
    table
        .execute(
            "ALTER TABLE jobs ADD COLUMN worker TEXT; ALTER TABLE jobs ADD COLUMN progress TEXT; \
             INSERT INTO jobs (target, time_created, status, time_started, worker, progress) VALUES \
             ('mail', unixepoch(), 'running', unixepoch() - 90, 'web1@h/1/2', '42 %'), \
             ('mail', unixepoch(), 'running', unixepoch() - 10, 'web1@h/1/2', NULL), \
             ('report', unixepoch(), 'waiting', 0, NULL, NULL)",
        )
        .await;
    table
}

fn top(table: &Table, columns: u16, more: &[&str]) -> Terminal {
    let arguments = [
        "--config",
        table.config.to_str().unwrap(),
        "top",
        "--every=200ms",
    ];
    let arguments: Vec<&str> = arguments.iter().chain(more).copied().collect();
    Terminal::start(columns, &arguments, &[])
}

/// The terminal as a shell wants it back: its own screen, a cursor, no mouse.
#[track_caller]
fn is_restored(terminal: &Terminal) {
    terminal.look(|screen| {
        assert!(!screen.alternate_screen(), "{}", screen.contents());
        assert!(!screen.hide_cursor(), "{}", screen.contents());
    });
}

/// What another program has written on the screen is gone.
#[tokio::test(flavor = "multi_thread")]
async fn ctrl_l_draws_the_screen_anew() {
    let worker = Daemon::worker(Ok(status(false))).await;
    let table = busy(worker.address).await;
    let mut top = top(&table, 80, &[]);
    top.sees(&["TARGET", "WORKER", "JOB", "web1@h"]);
    top.spoil("\x1b[5;1Hwho wrote this?");
    top.sees(&["who wrote this?"]);
    top.press("\x0c");
    top.sees_no("who wrote this?");
    top.sees(&["TARGET", "WORKER", "JOB", "web1@h"]);
    top.press("q");
    assert_eq!(top.ends().0, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_shows_targets_workers_and_running_jobs() {
    let worker = Daemon::worker(Ok(status(false))).await;
    let table = busy(worker.address).await;
    for columns in [80, 200] {
        let mut top = top(&table, columns, &[]);
        let text = top.sees(&["TARGET", "WORKER", "JOB", "web1@h", "42 %", "leave"]);
        let line = |start: &str| {
            let line = text
                .lines()
                .find(|line| line.trim_start().starts_with(start));
            line.unwrap_or_else(|| panic!("{start} is not in {text}"))
                .split_whitespace()
                .collect::<Vec<_>>()
        };
        assert_eq!(
            line("mail")[..6],
            ["mail", "active", "4", "0", "2", "0"],
            "{text}"
        );
        assert_eq!(
            line("report")[..5],
            ["report", "active", "1", "1", "0"],
            "{text}"
        );
        assert_eq!(line("1  mail")[..3], ["1", "mail", "running"], "{text}");
        assert!(
            text.lines()
                .all(|line| line.chars().count() <= usize::from(columns))
        );
        table.execute("INSERT INTO jobs (target, time_created, status) VALUES ('new', unixepoch(), 'waiting')").await;
        top.sees(&["new"]);
        table.execute("DELETE FROM jobs WHERE target = 'new'").await;
        top.sees_no("new");
        top.press("q");
        assert_eq!(top.ends().0, 0);
        is_restored(&top);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_pause_change_limits_and_cancel() {
    let mut answer = status(false);
    // To a cancel; the rest is of no use there.
    answer["jobs"] = json!({"1": "too late"});
    answer["errors"] = json!({"2": "not found"});
    let worker = Daemon::worker(Ok(answer)).await;
    let table = busy(worker.address).await;
    let mut top = top(&table, 80, &[]);
    top.sees(&["42 %"]);
    top.press("-");
    top.sees(&["a target runs one job at least; p pauses it"]);
    top.press("p");
    top.sees(&["paused report"]);
    top.press("\x1b[B");
    top.press("+");
    top.sees(&["mail runs 5 jobs at a time"]);
    top.press("x");
    top.sees(&["choose a job first"]);
    top.press("\tp");
    top.sees(&["choose a target first"]);
    top.press("\t+");
    top.sees(&["mail runs 5 jobs at a time"]);
    top.press("x");
    top.sees(&["cancel job 1 of mail: running for ", " on web1@h? [y/N]"]);
    top.press("n");
    top.sees(&["nothing was changed"]);
    top.press("xy");
    top.sees(&["job 1: too late, it had ended"]);
    top.press("\x1b[Bxy");
    top.sees(&["job 2: not found"]);
    top.press("\x03");
    assert_eq!(top.ends().0, 0);
    is_restored(&top);
    let orders: Vec<(String, Value)> = worker
        .asked()
        .into_iter()
        .filter(|(kind, _)| kind != "status")
        .collect();
    let limit = (
        "set-target-concurrency".to_owned(),
        json!({"target": "mail", "concurrency": 5}),
    );
    let expected = [
        ("pause".to_owned(), json!({"targets": ["report"]})),
        limit.clone(),
        limit,
        ("cancel".to_owned(), json!({"ids": [1]})),
        ("cancel".to_owned(), json!({"ids": [2]})),
    ];
    assert_eq!(orders, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_target_is_continued_through_a_master() {
    let info = json!({"remoteAddr": "10.0.0.1", "remotePort": 1, "name": "web1", "targets": ["mail"], "workerStatus": status(true)});
    let master = Daemon::master(Ok(json!({"workers": [info], "memoryUsage": {}}))).await;
    let table = Table::new(Some(master.address)).await;
    let mut top = top(&table, 80, &["--master"]);
    top.sees(&["paused", "report", "10.0.0.1:1"]);
    top.press("p");
    top.sees(&["continued mail"]);
    top.press("\x1b[Bp");
    top.sees(&["no worker serves report, and nothing was changed"]);
    top.press("q");
    assert_eq!(top.ends().0, 0);
    assert!(
        master
            .asked()
            .contains(&("continue".to_owned(), json!({"targets": ["mail"]})))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_changed_through_a_master_on_all_workers_or_the_chosen_one() {
    let info = |name: &str, port: u16, targets: Value| {
        json!({"remoteAddr": "10.0.0.1", "remotePort": port, "name": name, "targets": ["mail"],
            "workerStatus": {"targets": targets, "jobPromisesCount": 0, "memoryUsage": {}}})
    };
    let target = |slots: u32| json!({"paused": false, "concurrency": slots, "length": 0});
    let workers = [
        info("web1", 1, json!({"mail": target(4), "report": target(1)})),
        info("web2", 2, json!({"mail": target(2)})),
    ];
    let master = Daemon::master(Ok(json!({"workers": workers, "memoryUsage": {}}))).await;
    let table = Table::new(Some(master.address)).await;
    let mut top = top(&table, 80, &["--master"]);
    top.sees(&["mail", "10.0.0.1:2"]);
    top.press("+");
    let asked = "set mail to 5 at a time on web1 (now 4), web2 (now 2)? [y/N]";
    top.sees(&[asked]);
    top.press("n");
    top.sees(&["nothing was changed"]);
    top.press("+y");
    top.sees(&["mail runs 5 jobs at a time on each worker that serves it"]);
    top.press("\t\x1b[B-");
    top.sees(&["set mail to 1 at a time on web2 (now 2)? [y/N]"]);
    top.press("y");
    top.sees(&["mail runs 1 job at a time on web2"]);
    // The target is the one chosen among targets.
    top.press("\t\t\x1b[B+");
    top.sees(&["no worker serves report"]);
    top.press("\t-");
    top.sees(&["web2 says nothing of report: choose one of its targets, then it"]);
    top.press("q");
    assert_eq!(top.ends().0, 0);
    let mut orders = master.asked();
    orders.retain(|(kind, _)| kind != "status");
    let kind = "set-target-concurrency".to_owned();
    let expected = [
        (kind.clone(), json!({"target": "mail", "concurrency": 5})),
        (
            kind,
            json!({"target": "mail", "concurrency": 1, "worker": "web2"}),
        ),
    ];
    assert_eq!(orders, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_without_an_answer_is_spoken_of_and_no_other_is_given() {
    let worker = Daemon::stuck(Ok(status(false))).await;
    let table = busy(worker.address).await;
    let mut top = top(&table, 80, &[]);
    top.sees(&["42 %"]);
    top.press("p");
    top.sees(&[&format!("asking jobd at {}", worker.address)]);
    top.press("+");
    top.sees(&["the last order is not answered yet"]);
    top.press("q");
    assert_eq!(top.ends().0, 0);
    let asked = worker.asked();
    let orders = asked.iter().filter(|(kind, _)| kind != "status");
    assert_eq!(orders.count(), 1, "{asked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn output_is_followed_on_the_terminal_itself() {
    let worker = Daemon::worker(Ok(status(false))).await;
    let table = busy(worker.address).await;
    let mut top = top(&table, 80, &[]);
    top.sees(&["42 %"]);
    top.press("\t\tf");
    top.sees(&["output of job 1; Ctrl-C leaves"]);
    is_restored(&top);
    top.press("\x03");
    top.sees(&["press Enter to go back"]);
    top.press("\r");
    top.sees(&["TARGET", "42 %"]);
    top.press("q");
    assert_eq!(top.ends().0, 0);
    is_restored(&top);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_job_wrote_last_stands_on_a_line_of_its_own() {
    let (worker, job) = Daemon::teller(status(false)).await;
    let table = busy(worker.address).await;
    job.tells(json!({"state": "running"}));
    job.tells(json!({"stream": "stdout", "at": 0, "text": "half a line"}));
    let mut top = top(&table, 80, &[]);
    top.sees(&["42 %"]);
    top.press("\t\tf");
    top.sees(&["half a line"]);
    top.press("\x03");
    let text = top.sees(&["press Enter to go back"]);
    assert!(
        text.replace("^C", "").contains("half a line\npress Enter"),
        "{text}"
    );
    top.press("\r");
    top.sees(&["TARGET", "42 %"]);
    top.press("q");
    assert_eq!(top.ends().0, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_table_it_says_why_there_are_no_jobs() {
    let worker = Daemon::worker(Ok(status(false))).await;
    let port = worker.address.port().to_string();
    let mut top = Terminal::start(80, &["--port", &port, "top"], &[]);
    top.sees(&["mail", "no jobs, as the config names no table"]);
    top.press("\t\tx");
    top.sees(&["jobs stand in the table, and the config names none"]);
    top.press("q");
    assert_eq!(top.ends().0, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn however_it_ends_the_terminal_is_as_it_was() {
    let worker = Daemon::worker(Ok(status(false))).await;
    let table = busy(worker.address).await;
    for (signal, code) in [("TERM", 143), ("INT", 130), ("HUP", 129)] {
        let mut top = top(&table, 80, &[]);
        top.sees(&["42 %"]);
        top.signal(signal);
        assert_eq!(top.ends().0, code, "{signal}");
        is_restored(&top);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_while_output_is_followed_leaves_the_terminal_as_it_was() {
    let (worker, job) = Daemon::teller(status(false)).await;
    let table = busy(worker.address).await;
    job.tells(json!({"state": "running"}));
    for (signal, code, leaves) in [
        ("TERM", 143, false),
        ("HUP", 129, false),
        ("TERM", 143, true),
    ] {
        let mut top = top(&table, 80, &[]);
        top.sees(&["42 %"]);
        top.press("\t\tf");
        top.sees(&[
            "output of job 1; Ctrl-C leaves",
            "waiting: job 1 is running [",
        ]);
        if leaves {
            top.press("\x03");
            top.sees(&["press Enter to go back"]);
        }
        top.signal(signal);
        let (ended, text) = top.ends();
        assert_eq!(ended, code, "{signal}: {text}");
        assert!(!text.contains("waiting:"), "no bar is left: {text}");
        is_restored(&top);
        assert!(top.echoes(), "{signal}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_of_another_size_is_drawn_anew() {
    let worker = Daemon::worker(Ok(status(false))).await;
    let table = busy(worker.address).await;
    // No look would draw it.
    let config = table.config.to_str().unwrap();
    let words = ["--config", config, "top", "--every", "1h"];
    let mut top = Terminal::start(80, &words, &[]);
    top.sees(&["42 %", "leave"]);
    for (columns, lines) in [(120, 40), (80, 20)] {
        top.resize(columns, lines);
        // Its last line has the keys, and no other has.
        let keys = || -> Vec<usize> {
            let text = top.text();
            let lines = text.lines().enumerate();
            let keys = lines.filter(|(_, line)| line.contains("q leave"));
            keys.map(|(at, _)| at + 1).collect()
        };
        let deadline = Instant::now() + LIMIT;
        while keys() != [usize::from(lines)] {
            assert!(Instant::now() < deadline, "{lines}: {}", top.text());
            std::thread::sleep(Duration::from_millis(10));
        }
        top.sees(&["42 %"]);
    }
    top.press("q");
    assert_eq!(top.ends().0, 0);
    is_restored(&top);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_heard_while_a_daemon_is_silent() {
    // It takes connections and never answers.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let table = busy(silent.local_addr().unwrap()).await;
    let mut top = top(&table, 80, &[]);
    top.sees(&["asking jobd at 127.0.0.1", " for "]);
    top.press("q");
    assert_eq!(top.ends().0, 0);
    is_restored(&top);
}

#[tokio::test]
async fn a_daemon_that_is_gone_leaves_the_table() {
    let table = busy("127.0.0.1:1".parse().unwrap()).await;
    let mut narrow = top(&table, 80, &[]);
    let text = narrow.sees(&["cannot reach jobd at 127.0.0.1:1", "--master", "42 %"]);
    let advice = text.replace(['\n', ' '], "");
    let master = table.line("--master").replace(' ', "");
    assert!(
        advice.contains(&format!("orthemasterwith{master}")),
        "{text}"
    );
    narrow.press("q");
    assert_eq!(narrow.ends().0, 0);
    let mut top = top(&table, 200, &[]);
    top.sees(&[
        "the table alone",
        "cannot reach jobd at 127.0.0.1:1",
        "42 %",
    ]);
    top.press("q");
    assert_eq!(top.ends().0, 0);
    run(["top"])
        .await
        .failed(2, &["top needs a terminal", "status --watch"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_still_screen_is_not_drawn_again() {
    let worker = Daemon::worker(Ok(status(false))).await;
    let table = busy(worker.address).await;
    let config = table.config.to_str().unwrap();
    let mut top = Terminal::start(80, &["--config", config, "top", "--every", "1h"], &[]);
    top.sees(&["42 %"]);
    top.stands_still(Duration::from_millis(500));
    top.press("q");
    assert_eq!(top.ends().0, 0);
}
