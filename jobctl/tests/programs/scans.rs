//! Commands that read many rows, on a terminal: they say how far they are, and leave nothing behind.

use std::time::{Duration, Instant};

use portable_pty::CommandBuilder;

use crate::jobctl::program;
use crate::table::Table;
use crate::terminal::{LINES, Terminal};

/// A table that takes long to read: each row costs some 50 to 100 µs.
async fn slow() -> Table {
    let table = Table::new(None).await;
    table
        .execute(
            "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 120000) \
             INSERT INTO jobs (target, time_created, status, result, time_started, time_finished) \
             SELECT 'mail', 1700000000, 'done', 'ok', 1700000001, 1700000002 FROM n; \
             ALTER TABLE jobs RENAME TO quick; \
             CREATE VIEW jobs AS SELECT id, target, time_created, time_started, time_finished, status, return_code, sig, \
             stdout, stderr, name, iif(length(hex(randomblob(12000))) > 0, result, NULL) AS result FROM quick",
        )
        .await;
    table
}

/// jobctl in a shell's line, with standard output as that says.
fn line(table: &Table, line: &str) -> Terminal {
    let mut command = CommandBuilder::new("sh");
    let jobctl = env!("CARGO_BIN_EXE_jobctl");
    let config = table.config.display();
    command.args(["-c", &format!("exec {jobctl} --config {config} {line}")]);
    command.env("HOME", env!("CARGO_TARGET_TMPDIR"));
    Terminal::of(command, 80, LINES)
}

#[tokio::test]
async fn what_reads_many_rows_says_how_many_and_leaves_nothing_behind() {
    let table = slow().await;
    for command in [
        "stats --since 2020-01-01 --limit 1000000",
        "stats --since 2020-01-01 --limit 1000000 --json",
        "prune --older-than 30d",
        "retry --failed --since 2020-01-01",
        "list --result fail",
        "export --json-lines > /dev/null",
    ] {
        let mut reading = line(&table, command);
        let text = reading.sees(&["reading: ", "000 rows so far [", "] of SQLite file /"]);
        assert_eq!(text.trim_end().lines().count(), 1, "{command}: {text}");
        reading.press("\x03");
        let (code, text) = reading.ends();
        assert_eq!(code, 130, "{command}: {text}");
        let left = text.replace("^C", "");
        assert_eq!(left.trim(), "jobctl: interrupted", "{command}");
        assert!(reading.echoes(), "{command}");
    }
    let mut too_many = line(&table, "wait 1-120000");
    let (code, text) = too_many.ends();
    assert_eq!(code, 2, "{text}");
    assert!(!text.contains("reading"), "{text}");
}

#[tokio::test]
async fn nothing_is_said_where_no_terminal_is() {
    let table = slow().await;
    let mut stats = program();
    stats.arg("--config").arg(&table.config);
    stats.args(["stats", "--since", "2020-01-01", "--limit", "1000000"]);
    let run = crate::jobctl::finish(&mut stats).await;
    assert_eq!((run.code, run.stderr.as_str()), (0, ""));
}

#[tokio::test]
async fn what_is_quick_says_nothing() {
    let table = Table::new(None).await;
    table
        .execute("INSERT INTO jobs (target, time_created, status, result, time_started, time_finished) VALUES ('mail', 1700000000, 'done', 'ok', 1700000001, 1700000002)")
        .await;
    for command in [
        "stats --since 2020-01-01",
        "list",
        "prune --older-than 30d --dry-run",
    ] {
        // On a machine that is busy even this may take a second.
        let quick = (0..100).find_map(|_| {
            let begun = Instant::now();
            let mut quick = line(&table, command);
            assert_eq!(quick.ends().0, 0);
            (begun.elapsed() < Duration::from_secs(1)).then_some(quick)
        });
        let quick = quick.expect("it is quick once");
        let written = quick.written();
        assert!(!written.contains("reading"), "{command}: {written:?}");
        assert!(!written.contains("\x1b[2K"), "{command}: {written:?}");
    }
}
