//! What a person sees in a terminal of 80 or 200 columns: tables, bars, questions.

use serde_json::json;

use crate::daemon::{Daemon, serves_mail};
use crate::jobctl::run;
use crate::table::Table;
use crate::terminal::Terminal;

/// A table with a job of each kind, one of them with a long target.
async fn filled() -> Table {
    let table = Table::new(None).await;
    table
        .execute(
            "INSERT INTO jobs (target, time_created, status, result, return_code, sig, time_started, time_finished) VALUES \
             ('mail', 1700000000, 'done', 'ok', 0, NULL, 1700000001, 1700000066), \
             ('mail', 1700000000, 'done', 'fail', NULL, 'SIGTERM', 1700000001, 1700000002), \
             ('a/target/whose/name/is/so/long/that/it/alone/would/fill/most/of/a/line/of/a/terminal', 1700000000, 'waiting', NULL, NULL, NULL, 0, 0)",
        )
        .await;
    table
}

/// The arguments behind the config of `table`.
fn with<'a>(table: &'a Table, arguments: &[&'a str]) -> Vec<&'a str> {
    let config = table.config.to_str().unwrap();
    ["--config", config]
        .into_iter()
        .chain(arguments.iter().copied())
        .collect()
}

#[tokio::test]
async fn a_table_fits_its_terminal() {
    let table = filled().await;
    let narrow = Terminal::start(80, &with(&table, &["list"]), &[]).ends().1;
    let lines: Vec<&str> = narrow.lines().map(str::trim_end).collect();
    assert_eq!(lines.len(), 4, "a row is a line:\n{narrow}");
    assert!(
        lines[1].contains("a/target/") && lines[1].contains('…'),
        "{narrow}"
    );
    assert!(lines[0].ends_with("TOOK"), "{narrow}");
    assert!(lines[2].contains("killed by SIGTERM"), "{narrow}");
    let wide = Terminal::start(200, &with(&table, &["list"]), &[]).ends().1;
    assert!(wide.contains("/of/a/line/of/a/terminal  waiting"), "{wide}");
    assert!(!wide.contains("are shown"), "{wide}");
    let part = with(&table, &["list", "--limit", "2"]);
    let part = Terminal::start(80, &part, &[]).ends().1;
    assert!(
        part.contains("at most 2 are shown; --limit shows more"),
        "{part}"
    );
}

#[tokio::test]
async fn figures_of_no_job_say_how_far_was_looked() {
    let table = Table::new(None).await;
    table
        .execute(
            "INSERT INTO jobs (target, time_created, status, result) VALUES \
             ('mail', 1700000000, 'done', 'ok'), ('mail', 1700000001, 'waiting', NULL)",
        )
        .await;
    let stats = |more: &[&str]| {
        let arguments = [&["stats", "--since"], more].concat();
        Terminal::start(80, &with(&table, &arguments), &[]).ends().1
    };
    let all = stats(&["2023-11-14T22:13:21Z"]);
    assert!(all.contains("no job that was added since"), "{all}");
    let part = stats(&["2020-01-01", "--limit", "1"]);
    assert!(
        part.contains("no job of the newest 1 row is done"),
        "{part}"
    );
    assert!(part.contains("--limit reads more"), "{part}");
}

#[tokio::test]
async fn colours_are_for_terminals_that_want_them() {
    let table = filled().await;
    let failed =
        |terminal: &Terminal| terminal.look(|screen| screen.cell(2, 0).map(vt100::Cell::fgcolor));
    let mut coloured = Terminal::start(80, &with(&table, &["list"]), &[]);
    coloured.ends();
    assert_eq!(failed(&coloured), Some(vt100::Color::Idx(1)), "red");
    let mut plain = Terminal::start(80, &with(&table, &["list"]), &[("NO_COLOR", "1")]);
    plain.ends();
    assert_eq!(failed(&plain), Some(vt100::Color::Default));
}

#[tokio::test]
async fn the_first_help_screen_leaves_room_for_the_prompt() {
    let mut help = Terminal::start(80, &["--help"], &[]);
    let (code, text) = help.ends();
    assert_eq!(code, 0);
    assert!(text.starts_with("Look at and steer"), "{text}");
    assert!(text.contains("Exit codes"), "{text}");
}

#[tokio::test]
async fn the_help_of_every_command_fits_and_has_examples() {
    let folder = tempfile::tempdir().unwrap();
    let pages = ["man", "--into", folder.path().to_str().unwrap()];
    assert_eq!(run(pages).await.code, 0);
    let pages = std::fs::read_dir(folder.path()).unwrap();
    let names = pages.filter_map(|page| {
        let name = page.unwrap().file_name().into_string().unwrap();
        Some(name.strip_prefix("jobctl-")?.strip_suffix(".1")?.to_owned())
    });
    // Clap's own.
    let names: Vec<String> = names.filter(|name| name != "help").collect();
    assert!(names.len() > 25, "{names:?}");
    for name in &names {
        let mut help = Terminal::sized(80, 200, &[name, "--help"], &[("NO_COLOR", "1")]);
        assert_eq!(help.ends().0, 0, "{name}");
        let written = help.written();
        let examples = written.split_once("Examples:");
        let (_, examples) = examples.unwrap_or_else(|| panic!("{name} has none: {written}"));
        // A line that is wrapped cannot be copied.
        let lines = examples.lines().filter(|line| !line.is_empty());
        let count = lines.inspect(|line| assert!(line.starts_with("  jobctl "), "{name}: {line}"));
        assert!(count.count() >= 2, "{name}: {examples}");
        for line in written.lines() {
            assert!(line.chars().count() <= 80, "{name}: {line}");
        }
    }
}

#[tokio::test]
async fn a_wait_says_what_for_and_ends_as_the_jobs_did() {
    for columns in [80, 200] {
        let table = Table::new(None).await;
        table.jobctl(&["add", "--target", "mail"]).await;
        let mut wait = Terminal::start(columns, &with(&table, &["wait", "last"]), &[]);
        wait.sees(&["waiting: job 1 (mail) is waiting"]);
        table.execute("UPDATE jobs SET status = 'running'").await;
        wait.sees(&["job 1 (mail) is running"]);
        table
            .execute("UPDATE jobs SET status = 'done', result = 'fail', return_code = 7")
            .await;
        let (code, text) = wait.ends();
        assert_eq!(
            (code, text.trim_end()),
            (7, "job 1: failed with exit code 7"),
            "the bar is gone"
        );
        table
            .jobctl(&["add", "--target", "mail", "--count", "4"])
            .await;
        let mut wait = Terminal::start(columns, &with(&table, &["wait", "2", "3", "4", "5"]), &[]);
        wait.sees(&["0 of 4 done"]);
        table
            .execute("UPDATE jobs SET status = 'done', result = 'ok' WHERE id < 5")
            .await;
        wait.sees(&["3 of 4 done"]);
        wait.press("\x03");
        let (code, text) = wait.ends();
        assert_eq!(code, 130);
        let again = table.line("wait 5 waits again");
        assert!(text.contains("jobctl: job 5 goes on;"), "{text}");
        assert!(text.contains(&again), "it can be copied: {text}");
        assert!(!text.contains("of 4 done"), "{text}");
    }
}

#[tokio::test]
async fn data_that_is_typed_is_asked_for() {
    let table = Table::new(None).await;
    table.execute("ALTER TABLE jobs ADD COLUMN data TEXT").await;
    let add = ["add", "--target", "mail", "--data", "-", "--manual"];
    let mut add = Terminal::start(80, &with(&table, &add), &[]);
    add.sees(&["reading the data from standard input; Ctrl-D ends it"]);
    add.press("seven\r\x04");
    let (code, text) = add.ends();
    assert_eq!(code, 0, "{text}");
    let shown = table.jobctl(&["list", "--columns", "data"]).await;
    assert_eq!(shown.stdout, "DATA\nseven\\n\n");
}

#[tokio::test]
async fn a_prune_names_what_it_deletes_and_asks() {
    let table = filled().await;
    let prune = with(&table, &["prune", "--older-than", "30d"]);
    let mut refused = Terminal::start(200, &prune, &[]);
    refused.sees(&[
        "this deletes 2 jobs of mail that ended before",
        "for good. Go on? [y/N]",
    ]);
    refused.press("n\r");
    let (code, text) = refused.ends();
    assert_eq!(code, 1);
    assert!(text.contains("nothing was changed"), "{text}");
    let mut interrupted = Terminal::start(200, &prune, &[]);
    interrupted.sees(&["Go on?"]);
    interrupted.press("\x03");
    assert_eq!(interrupted.ends().0, 130);
    let mut accepted = Terminal::start(200, &prune, &[]);
    accepted.sees(&["Go on?"]);
    accepted.press("y\r");
    let (code, text) = accepted.ends();
    assert_eq!(code, 0);
    assert!(text.contains("deleted 2 jobs that ended before"), "{text}");
    let left = table.jobctl(&["list", "--json"]).await.json();
    assert_eq!(left["jobs"].as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn a_narrow_terminal_shows_what_matters_most() {
    let table = filled().await;
    for (command, columns) in [
        ("status", "TARGET STATE WAITING RUNNING"),
        ("list", "ID TARGET STATUS RESULT"),
        ("stats", "TARGET RUNS FAILED MEAN P95"),
    ] {
        let arguments: &[&str] = match command {
            "stats" => &["stats", "--since", "2020-01-01"],
            _ => &[command],
        };
        let mut terminal = Terminal::start(40, &with(&table, arguments), &[]);
        let text = terminal.ends().1;
        let header = text.lines().find(|line| line.contains("TARGET"));
        let header = header.unwrap_or_else(|| panic!("no table in {text}"));
        for name in columns.split(' ') {
            assert!(header.contains(name), "{command}: {name} is not in {text}");
        }
        let line = text.lines().find(|line| line.contains("mail"));
        let line = line.unwrap_or_default().trim_end();
        assert!(line.chars().count() <= 40 && !line.is_empty(), "{text}");
    }
}

#[tokio::test]
async fn wide_and_hostile_names_stay_in_their_columns() {
    let table = Table::new(None).await;
    table
        .execute(
            "INSERT INTO jobs (target, time_created, status) VALUES ('郵便/送信', 1700000000, 'waiting'), \
             ('a' || char(27) || ']0;owned' || char(7), 1700000000, 'waiting'), ('mail', 1700000000, 'waiting')",
        )
        .await;
    for columns in [40, 80, 200] {
        let mut list = Terminal::start(columns, &with(&table, &["list"]), &[]);
        let (_, text) = list.ends();
        assert!(text.contains("郵便/送信"), "{text}");
        let starts: std::collections::BTreeSet<usize> = (1..4)
            .map(|row| {
                list.look(|screen| {
                    let line = screen.contents_between(row, 0, row, columns);
                    let before = line.split("waiting").next().unwrap_or_default().to_owned();
                    before
                        .chars()
                        .map(|char| 1 + usize::from(char >= '\u{1100}' && char != '…'))
                        .sum()
                })
            })
            .collect();
        assert_eq!(starts.len(), 1, "STATUS stands in one column:\n{text}");
        let escaped = text.contains("a\\u{1b}]");
        assert!(escaped, "nobody sets the title: {text}");
    }
}

#[tokio::test]
async fn output_of_a_job_cannot_steer_the_terminal() {
    let table = Table::new(None).await;
    table
        .execute(
            "INSERT INTO jobs (target, time_created, status, result, stdout, stderr) VALUES \
             ('mail', 1, 'done', 'ok', 'a' || char(9) || 'b' || char(27) || '[2Jc', 'warning')",
        )
        .await;
    let (code, text) = Terminal::start(80, &with(&table, &["logs", "last"]), &[]).ends();
    assert_eq!(code, 0);
    assert_eq!(text.trim_end(), "a       b\\u{1b}[2Jc\nwarning");
}

#[tokio::test]
async fn a_password_that_is_not_given_after_all_leaves_the_echo_on() {
    let mut status = Terminal::start(80, &["--password", "status"], &[]);
    status.sees(&["password of jobd at 127.0.0.1:7080:"]);
    // The prompt comes first.
    status.hides();
    status.press("\x03");
    assert_eq!(status.ends().0, 130);
    assert!(status.echoes());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_is_silent_is_named_while_it_is_waited_for() {
    // It takes connections and never answers.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port().to_string();
    let mut status = Terminal::start(80, &["--master", "--port", &port, "status"], &[]);
    let waited = format!("waiting for jobd-master at 127.0.0.1:{port} to answer status");
    status.sees(&[&waited]);
    status.press("\x03");
    let (code, text) = status.ends();
    assert_eq!(code, 130);
    assert!(!text.contains(&waited), "the line is gone: {text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_waited_for_is_named_whatever_the_form_of_the_answer() {
    let (worker, _job) = Daemon::teller(serves_mail()).await;
    let table = Table::new(Some(worker.address)).await;
    for (command, waited) in [
        (
            &["run", "mail", "--json"][..],
            "waiting: job 1 (mail) is asked for [",
        ),
        (&["follow", "7"], "waiting: job 7 is looked for ["),
        (&["logs", "1", "-f"], "waiting: job 1 is looked for ["),
        (
            &["logs", "1", "-f", "--json"],
            "waiting: job 1 (mail) is manual [",
        ),
    ] {
        let mut waits = Terminal::start(80, &with(&table, command), &[]);
        waits.sees(&[waited]);
        waits.press("\x03");
        let (code, text) = waits.ends();
        assert_eq!(code, 130, "{command:?}: {text}");
        assert!(!text.contains("waiting:"), "{command:?}: {text}");
        let said = match command[0] {
            "run" => "job 1 was added",
            _ => "goes on",
        };
        assert!(text.contains(said), "{command:?}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_says_where_its_jobs_stand_and_asks() {
    let answer = json!({"jobs": {"2": "stopping", "9": "cancelled"}});
    let worker = Daemon::worker(Ok(answer)).await;
    let table = Table::new(Some(worker.address)).await;
    table
        .execute(
            "ALTER TABLE jobs ADD COLUMN worker TEXT; \
             WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 9) \
             INSERT INTO jobs (target, time_created, status) SELECT 'mail', unixepoch() - 102600, 'waiting' FROM n; \
             UPDATE jobs SET status = 'running', time_started = unixepoch() - 102600, worker = 'web1@h/1/2' WHERE id = 2",
        )
        .await;
    let running = "job 2 of mail: running for 1d 4h on web1@h\nthis ends it for good";
    let mut refused = Terminal::start(80, &with(&table, &["cancel", "2"]), &[]);
    let asked = format!("{running}. Go on? [y/N]");
    refused.sees(&[&asked]);
    refused.press("n\r");
    let (code, text) = refused.ends();
    assert_eq!(code, 1);
    assert!(text.contains("nothing was changed"), "{text}");
    let mut several = Terminal::start(80, &with(&table, &["cancel", "1-8", "99"]), &[]);
    several.sees(&[
        "job 1 of mail: waiting for 1d 4h\njob 2 of mail: running",
        "\nand 4 more\nthis ends 8 jobs of mail for good. Go on?",
    ]);
    several.press("\x03");
    assert_eq!(several.ends().0, 130);
    let mut unknown = Terminal::start(80, &with(&table, &["cancel", "98", "99"]), &[]);
    unknown.sees(&["this ends jobs 98-99 for good. Go on?"]);
    unknown.press("\r");
    assert_eq!(unknown.ends().0, 1);
    assert!(worker.asked().is_empty(), "nobody said yes");
    let mut accepted = Terminal::start(80, &with(&table, &["cancel", "2", "--json"]), &[]);
    accepted.sees(&[&asked]);
    accepted.press("y\r");
    let (code, text) = accepted.ends();
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("\"2\": \"stopping\""), "{text}");
    let request = ("cancel".to_owned(), json!({"ids": [2]}));
    assert_eq!(worker.asked(), [request]);
    // What is over cannot be ended: there is nothing to ask.
    table
        .execute("UPDATE jobs SET status = 'done', result = 'ok' WHERE id = 9")
        .await;
    let over = table.jobctl(&["cancel", "9"]).await;
    assert_eq!((over.code, over.stderr.as_str()), (0, ""), "{over:?}");
    // Those that will end are named, the others counted.
    table
        .execute("UPDATE jobs SET status = 'done', result = 'ok' WHERE id IN (1, 3)")
        .await;
    let mixed = table.jobctl(&["cancel", "1-9"]).await;
    mixed.failed(
        2,
        &[
            "jobctl: job 2 of mail: running for 1d 4h on web1@h\njob 4 of mail: waiting",
            "\nand 1 more\n3 others are over already\nthis ends 6 jobs of mail for good",
        ],
    );
    let mixed = table.jobctl(&["cancel", "1", "2"]).await;
    mixed.failed(
        2,
        &["\nanother one is over already\nthis ends 1 job of mail"],
    );
    // Named twice it is one job.
    for words in [&["cancel", "2", "2"][..], &["cancel", "2-2", "2"]] {
        let twice = table.jobctl(words).await;
        let question = format!("jobctl: {running};");
        twice.failed(2, &[&question]);
    }
    // Nobody can be asked: not with the table, and not without it.
    let complaint = "for good; nobody can be asked here, add --yes: jobctl ";
    let piped = table.jobctl(&["cancel", "2", "--json"]).await;
    piped.failed(2, &[running, complaint, " cancel 2 --json --yes"]);
    let alone = crate::jobctl::ask(worker.address, &["cancel", "5"]).await;
    alone.failed(2, &["this ends job 5 for good;", complaint]);
    assert_eq!(worker.asked().len(), 2);
}

#[tokio::test]
async fn what_changed_while_retry_asked_is_left_alone() {
    let table = Table::new(None).await;
    table
        .execute(
            "INSERT INTO jobs (target, time_created, status, result) VALUES \
             ('mail', 1, 'done', 'fail'), ('mail', 1, 'done', 'fail'), ('mail', 1, 'done', 'fail')",
        )
        .await;
    let mut retry = Terminal::start(80, &with(&table, &["retry", "1-3"]), &[]);
    retry.sees(&["runs 3 jobs of mail again"]);
    let elsewhere = "UPDATE jobs SET status = 'running', result = NULL WHERE id = 2";
    table.execute(elsewhere).await;
    retry.press("y\r");
    let (code, text) = retry.ends();
    assert!(text.contains("2 jobs wait again: 1, 3"), "{text}");
    assert!(text.contains("not there: 2"), "{text}");
    assert_eq!(code, 0);
}

#[tokio::test]
async fn complaints_break_between_words_and_never_within_a_command() {
    let table = Table::new(None).await;
    let piped = table.jobctl(&["pause", "mail"]).await.stderr;
    assert_eq!(piped.lines().count(), 1, "{piped}");
    let (code, text) = Terminal::start(80, &with(&table, &["pause", "mail"]), &[]).ends();
    let lines: Vec<&str> = text.trim_end().lines().collect();
    assert_eq!((code, lines.join(" ").as_str()), (3, piped.trim_end()));
    // A command that is too long for a line has one for itself.
    let fits = |line: &&str| line.len() <= 80 || line.starts_with("jobctl --config");
    assert!(lines.iter().all(fits), "{text}");
    for command in [
        "--master --port 7081;",
        "status shows what the table alone says",
    ] {
        assert!(text.contains(&table.line(command)), "{command}: {text}");
    }
}
