//! A master that is gone, goes, is slow or talks nonsense, for every command that speaks to one: it ends in time, with
//! the exit code of the manual, and says what to do next. What any stranger may say stands in `strangers.rs`.

use std::net::SocketAddr;
use std::time::Instant;

use crate::jobctl::{LIMIT, Run, finish, program};
use crate::table::Table;
use crate::terminal::Terminal;
use crate::unwell::{Does, Master};

/// Every command that speaks to a master and can do without the table.
const COMMANDS: [&str; 13] = [
    "status",
    "status --json",
    "list-workers",
    "memory-usage",
    "poke",
    "pause mail",
    "continue",
    "doctor",
    "follow 17",
    "logs 17 -f",
    "run-manual 17:mail",
    "cancel 17 --yes",
    "send-signal TERM 17:mail",
];

/// A port at which nobody listens, for as long as the socket is there.
fn nobody() -> (tokio::net::TcpSocket, SocketAddr) {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

async fn ask(address: SocketAddr, command: &str) -> Run {
    let port = address.port().to_string();
    let mut asking = program();
    asking
        .args(["--master", "--port", &port])
        .args(command.split(' '));
    finish(&mut asking).await
}

/// What all the commands come to, each asked at the same time.
async fn all(address: SocketAddr) -> Vec<(&'static str, Run)> {
    let runs = COMMANDS.map(|command| async move { (command, ask(address, command).await) });
    futures::future::join_all(runs).await
}

/// The exit code and the complaint; the doctor's is a finding.
#[track_caller]
fn check(what: &str, command: &str, run: &Run, code: i32, complaints: &[&str]) {
    let told = run.stderr.clone() + &run.stdout;
    for complaint in complaints {
        assert!(
            told.contains(complaint),
            "{what}, {command}: {complaint:?} is not in {run:?}"
        );
    }
    assert!(
        !told.contains("panicked") && !told.contains('\u{1b}'),
        "{what}, {command}: {run:?}"
    );
    let code = if command == "doctor" { 1 } else { code };
    assert_eq!(run.code, code, "{what}, {command}: {run:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_that_is_gone_is_named_at_once() {
    let begun = Instant::now();
    let (_socket, address) = nobody();
    let gone = format!("cannot reach jobd-master at {address}: connection refused; is it running?");
    for (command, run) in all(address).await {
        let next = "try --host/--port, or a worker with jobctl --worker --port 7080";
        check("gone", command, &run, 3, &[&gone, next]);
        if command == "doctor" {
            let mend = "\tsystemctl start jobd-master # on its host\n";
            assert!(run.stdout.contains(mend), "{run:?}");
        }
    }
    for (does, complaints) in [
        (
            Does::Garbage,
            [
                "does not speak as jobd-master does",
                "look at --host and --port",
            ],
        ),
        (
            Does::WrongParts,
            [
                "malformed RESPONSE message: 'no' must be integer",
                "look at --host and --port",
            ],
        ),
        (
            Does::WrongNumber,
            ["before it answered", "was it restarted? its log tells"],
        ),
        (
            Does::Half,
            ["before it answered", "was it restarted? its log tells"],
        ),
    ] {
        let master = Master::start(does).await;
        for (command, run) in all(master.address).await {
            check(&format!("{does:?}"), command, &run, 3, &complaints);
            if command == "doctor" {
                // There is something already.
                assert!(
                    run.stdout
                        .contains("\tsystemctl status jobd-master # on its host\n"),
                    "{run:?}"
                );
            }
        }
    }
    assert!(begun.elapsed() < LIMIT, "that took long");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_another_shape_is_no_answer() {
    let master = Master::start(Does::WrongData).await;
    let port = master.address.port();
    let doctor = format!("jobctl --master --port {port} doctor looks at who answers there");
    for (command, run) in all(master.address).await {
        match command {
            // Orders ask for no more than an answer.
            "poke" | "continue" => check("shape", command, &run, 0, &[]),
            "follow 17" | "logs 17 -f" => {
                check(
                    "shape",
                    command,
                    &run,
                    1,
                    &["cannot read how job 17 stands", &doctor],
                );
            }
            _ => check(
                "shape",
                command,
                &run,
                1,
                &[
                    "that cannot be read",
                    "if a worker listens there, leave out --master",
                ],
            ),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_leaves_a_job_out_is_told() {
    for (does, command) in [
        (Does::SaysNothing, "run-manual 17:mail"),
        (Does::SaysNothing, "cancel 17 --yes"),
        (Does::SaysNothing, "send-signal TERM 17:mail"),
        // It says something of job 17.
        (Does::Answers, "run-manual 18:mail"),
        (Does::Answers, "cancel 18 --yes"),
        (Does::Answers, "send-signal TERM 18:mail"),
    ] {
        let master = Master::start(does).await;
        let run = ask(master.address, command).await;
        let unsaid = ": the daemon said nothing of it\n";
        check("left out", command, &run, 1, &[unsaid]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_that_is_slow_is_waited_for() {
    let master = Master::start(Does::AnswersLate).await;
    let begun = Instant::now();
    for (command, run) in all(master.address).await {
        // Two rounds at the most: who serves a target is asked before the order.
        assert_eq!(run.code, 0, "{command}: {run:?}");
        if command == "doctor" {
            let slow = run
                .stdout
                .lines()
                .find(|line| line.starts_with("warning\treach\t"));
            let slow = slow.unwrap_or_else(|| panic!("{run:?}"));
            assert!(slow.contains("answered within "), "{slow}");
            assert!(
                slow.ends_with("look at the load of its host and at the workers that it asks"),
                "{slow}"
            );
        }
    }
    assert!(begun.elapsed() < LIMIT, "{:?}", begun.elapsed());
    let port = master.address.port().to_string();
    let mut status = Terminal::start(80, &["--master", "--port", &port, "status"], &[]);
    let waited = format!(
        "waiting for jobd-master at {} to answer status",
        master.address
    );
    status.sees(&[&waited]);
    let (code, text) = status.ends();
    assert_eq!(code, 0, "{text}");
    assert!(
        text.contains("web1") && !text.contains("waiting for"),
        "the line is gone: {text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_that_never_answers_is_left_when_the_manual_says_so() {
    let master = &Master::start(Does::Nothing).await;
    let commands = [
        ("continue", 15, "within 15 s; is it stopped or overloaded?"),
        (
            "list-workers",
            15,
            "within 15 s; is it stopped or overloaded?",
        ),
        (
            "cancel 17 --yes",
            60,
            "within 60 s; is it stopped or overloaded?",
        ),
        (
            "follow 17",
            90,
            "peer was silent for 90s; was it restarted? its log tells",
        ),
        (
            "logs 17 -f",
            90,
            "peer was silent for 90s; was it restarted? its log tells",
        ),
        (
            "run-manual 17:mail",
            90,
            "peer was silent for 90s; was it restarted? its log tells",
        ),
    ];
    let runs = commands.map(|(command, limit, complaint)| async move {
        let begun = Instant::now();
        let port = master.address.port().to_string();
        let mut asking = program();
        asking
            .args(["--master", "--port", &port])
            .args(command.split(' '));
        let run = asking.output().await.unwrap();
        let took = begun.elapsed().as_secs();
        assert!(
            (limit..limit + LIMIT.as_secs()).contains(&took),
            "{command} took {took} s"
        );
        assert_eq!(run.status.code(), Some(3), "{command}: {run:?}");
        let told = String::from_utf8(run.stderr).unwrap();
        assert!(told.contains(complaint), "{command}: {told}");
    });
    futures::future::join_all(runs).await;
}

/// A table with a job 1 that runs, one that failed, and one that is done.
async fn table(address: SocketAddr) -> Table {
    let table = Table::new(Some(address)).await;
    table
        .execute(
            "INSERT INTO jobs (target, time_created, status, result) VALUES \
             ('mail', 1700000000, 'running', NULL), ('mail', 1700000000, 'done', 'fail'), ('mail', 1700000000, 'done', 'ok')",
        )
        .await;
    table
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_away_is_told_for_itself() {
    let (_socket, address) = nobody();
    let table = table(address).await;
    std::fs::remove_file(table.folder.path().join("jobs.db")).unwrap();
    let status = table.jobctl(&["--master", "status"]).await;
    status.failed(3, &["cannot reach jobd-master", "cannot open SQLite file"]);
    // It looks at the table first.
    let run = table.jobctl(&["--master", "run", "mail"]).await;
    run.failed(3, &["cannot open SQLite file"]);
    assert!(!run.stderr.contains("this needs"), "{run:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_table_does_what_it_can_without_a_master() {
    let (_socket, address) = nobody();
    let table = table(address).await;
    for (command, code, complaints) in [
        ("status", 3, ["cannot reach", "from the table alone"]),
        ("status --json", 3, ["cannot reach", "\"kind\": \"table\""]),
        (
            "pause mail",
            3,
            [
                "cannot reach",
                " --master status shows what the table alone says",
            ],
        ),
        ("poke", 3, ["cannot reach", "this needs a master"]),
        (
            "follow 1",
            3,
            ["cannot reach", "this needs a worker or a master"],
        ),
        (
            "run mail",
            3,
            ["cannot reach", "this needs a worker or a master"],
        ),
        (
            "run-manual 1",
            3,
            ["cannot reach", "this needs a worker or a master"],
        ),
        (
            "send-signal TERM 1",
            3,
            ["cannot reach", "this needs a worker or a master"],
        ),
        (
            "cancel 1 --yes",
            3,
            [
                "cannot reach",
                "the table needs the column cancel_requested",
            ],
        ),
        (
            "add --target mail",
            0,
            [
                "warning: not poked: cannot reach",
                "finds them within its poll_interval",
            ],
        ),
        (
            "retry 2",
            0,
            [
                "warning: not poked: cannot reach",
                "finds them within its poll_interval",
            ],
        ),
        ("wait 3", 0, ["job 3: ok", ""]),
        ("logs 3 -f", 0, ["", ""]),
        (
            "doctor",
            1,
            ["cannot reach", "systemctl start jobd-master # on its host"],
        ),
    ] {
        let words: Vec<&str> = ["--master"].into_iter().chain(command.split(' ')).collect();
        let run = table.jobctl(&words).await;
        check("with a table", command, &run, code, &complaints);
    }
    let rows = table.jobctl(&["list", "--json"]).await.json();
    let rows = rows["jobs"].as_array().unwrap().len();
    assert_eq!(rows, 4, "add has added one, run none");
    let config = table.config.to_str().unwrap();
    let logs = ["--config", config, "--master", "logs", "1", "-f"];
    let mut logs = Terminal::start(200, &logs, &[]);
    logs.sees(&[
        "cannot follow job 1: cannot reach",
        "its row is looked at until it is done",
    ]);
    table
        .execute("UPDATE jobs SET status = 'done', result = 'ok', stdout = 'late' WHERE id = 1")
        .await;
    let (code, text) = logs.ends();
    assert_eq!(
        (code, text.trim_end().lines().last()),
        (0, Some("late")),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_was_added_for_a_master_that_goes_is_named() {
    for (does, code) in [(Does::Half, 3), (Does::Garbage, 3), (Does::WrongData, 1)] {
        let master = Master::after_status(does).await;
        let table = table(master.address).await;
        for (id, json) in [(4, &[][..]), (5, &["--json"])] {
            let words = [&["--master", "run", "mail"], json].concat();
            let run = table.jobctl(&words).await;
            let show = table.line(&format!("--master show {id} tells whether it runs"));
            let run_manual = table.line(&format!("--master run-manual {id} has it run if not"));
            run.failed(
                code,
                &[&format!("job {id} was added: {show}, {run_manual}")],
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_row_is_added_for_a_master_that_cannot_say_how_it_is() {
    for (does, code) in [(Does::Half, 3), (Does::Garbage, 3), (Does::WrongData, 1)] {
        let master = Master::start(does).await;
        let table = table(master.address).await;
        let run = table.jobctl(&["--master", "run", "mail"]).await;
        run.failed(code, &["jobd-master"]);
        assert!(!run.stderr.contains("was added"), "{run:?}");
        let rows = table.jobctl(&["list", "--json"]).await.json();
        assert_eq!(rows["jobs"].as_array().unwrap().len(), 3, "{does:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_row_is_added_for_a_master_that_never_answers() {
    let master = Master::start(Does::Nothing).await;
    let table = table(master.address).await;
    let mut asking = program();
    asking
        .arg("--config")
        .arg(&table.config)
        .args(["--master", "run", "mail"]);
    let run = asking.output().await.unwrap();
    assert_eq!(run.status.code(), Some(3), "{run:?}");
    let told = String::from_utf8(run.stderr).unwrap();
    assert!(
        told.contains("within 15 s") && !told.contains("was added"),
        "{told}"
    );
    let rows = table.jobctl(&["list", "--json"]).await.json();
    assert_eq!(rows["jobs"].as_array().unwrap().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn live_screens_outlast_their_master() {
    let master = Master::start(Does::Answers).await;
    let address = master.address;
    let table = table(address).await;
    let config = table.config.to_str().unwrap();
    let given = ["--config", config, "--master"];
    let words = |command: &'static str| {
        given
            .into_iter()
            .chain(command.split(' '))
            .collect::<Vec<_>>()
    };
    let mut top = Terminal::start(200, &words("top --every 200ms"), &[]);
    let mut watch = Terminal::start(200, &words("status --watch=200ms"), &[]);
    let mut shell = Terminal::start(200, &given, &[]);
    let from = format!("jobd-master at {address} and the table");
    for screen in [&top, &watch] {
        screen.sees(&["web1", "active", &from]);
    }
    shell.sees(&["> "]);
    drop(master);
    let gone = format!("cannot reach jobd-master at {address}: connection refused");
    for screen in [&top, &watch] {
        screen.sees(&[&gone, "the table alone"]);
    }
    shell.press("status\r");
    shell.sees(&[&gone, "from the table alone"]);
    shell.press("pause mail\r");
    shell.sees(&[&table.line("--master status shows what the table alone says")]);
    for (does, said) in [
        (Does::Garbage, "does not speak as jobd-master does"),
        (Does::WrongData, "that cannot be read"),
        (Does::Half, "before it answered status"),
    ] {
        let _master = Master::at(address, does).await;
        for screen in [&top, &watch] {
            screen.sees(&[said, "the table alone"]);
        }
    }
    let _master = Master::at(address, Does::Answers).await;
    for screen in [&top, &watch] {
        screen.sees(&["web1", "active", &from]);
    }
    shell.press("\x0cpause mail\r");
    shell.sees(&["paused mail"]);
    shell.press("exit\r");
    top.press("q");
    watch.press("\x03");
    for screen in [&mut top, &mut watch, &mut shell] {
        assert_eq!(screen.ends().0, 0);
    }
}
