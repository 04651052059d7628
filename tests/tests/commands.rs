//! Every command of jobctl against a master, a worker and the table alone, on MariaDB (or MySQL) and SQLite: what
//! stands on a terminal, what goes into a pipe, what `--json` says, and the exit code. A command without a row in
//! [`ROWS`] fails the test, as does an answer that is not the one in `tests/fixtures/jobctl/COMMAND.txt`;
//! `JOBD_BLESS=1` writes these files instead, to be read before they are committed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use jobd_tests::ground::Ground;
use jobd_tests::programs::{self, Daemon};
use jobd_tests::wait::PATIENCE;
use jobd_tests::{Ini, Jobd, Master, until};
use portable_pty::{CommandBuilder, PtySize, native_pty_system};
use serde_json::{Value, json};

/// One command as it is tried.
struct Row {
    /// Its words; the first names the command.
    words: &'static [&'static str],
    /// Lines of the answer that are looked at.
    lines: usize,
    /// A key that ends what else would never end, on a terminal.
    key: Option<&'static str>,
}

const fn row(words: &'static [&'static str]) -> Row {
    Row {
        words,
        lines: usize::MAX,
        key: None,
    }
}

/// Jobs 1 (ok) and 2 (failed) are done, 3 waits for a target that nobody serves, 4 is manual.
const ROWS: [Row; 37] = [
    row(&["status"]),
    Row {
        key: Some("q"),
        ..row(&["top"])
    },
    row(&["list-targets"]),
    row(&["list-workers"]),
    row(&["memory-usage"]),
    row(&["doctor"]),
    row(&["list"]),
    row(&["show", "2"]),
    row(&["logs", "2"]),
    row(&["follow", "2"]),
    row(&["wait", "1-2"]),
    row(&["stats", "--since", "2020-01-01"]),
    row(&["export", "--json-lines", "--target", "mail"]),
    row(&["add", "--target", "lost", "--count", "2"]),
    row(&["run", "mail"]),
    row(&["run-manual", "4"]),
    row(&["retry", "2"]),
    Row {
        key: Some("n\r"),
        ..row(&["cancel", "3"])
    },
    row(&["cancel", "3", "--yes"]),
    row(&["send-signal", "TERM", "4"]),
    row(&["poll", "mail"]),
    row(&["poke", "mail"]),
    row(&["pause", "mail"]),
    row(&["continue"]),
    row(&["set-target-concurrency", "mail", "3"]),
    row(&["add-target", "new", "1"]),
    row(&["remove-target", "spare"]),
    row(&["prune", "--older-than", "2024-01-01", "--yes"]),
    row(&["prune", "--older-than", "2024-01-01", "--dry-run"]),
    row(&["create-table"]),
    Row {
        lines: 1,
        ..row(&["completions", "bash"])
    },
    Row {
        lines: 1,
        ..row(&["man"])
    },
    Row {
        lines: 3,
        ..row(&["help", "poke"])
    },
    row(&["logs", "99"]),
    row(&["add", "--target", "mail", "--wait"]),
    row(&["cancel", "99", "--yes"]),
    row(&["prune", "--older-than", "30d", "--print-sql"]),
];

/// Jobs of the targets that the worker serves.
const JOB: &str = "echo out of $1; echo err of $1 >&2\n";

/// What the table holds before each command.
const JOBS: &str = "INSERT INTO jobs (id, target, time_created, status, result, return_code, time_started, \
     time_finished, stdout, stderr, attempts, reason) VALUES \
     (1, 'mail', 1700000000, 'done', 'ok', 0, 1700000001, 1700000005, 'hello', '', 1, NULL), \
     (2, 'mail', 1700000000, 'done', 'fail', 3, 1700000001, 1700000005, '', 'sorry', 1, 'exit'), \
     (3, 'lost', 1700000000, 'waiting', NULL, NULL, 0, 0, NULL, NULL, 0, NULL), \
     (4, 'mail', 1700000000, 'manual', NULL, NULL, 0, 0, NULL, NULL, 0, NULL)";

/// Whom jobctl talks to.
#[derive(Clone, Copy, Debug)]
enum Setting {
    Master,
    Worker,
    TableAlone,
}

/// How its answer is taken.
#[derive(Clone, Copy, Debug)]
enum Form {
    Terminal,
    Pipe,
    Json,
}

/// A cluster of one worker.
struct World {
    ground: Ground,
    /// How ids begin at 5 again.
    from_five: &'static str,
    worker: Daemon,
    master: Daemon,
}

impl World {
    async fn new(ground: Ground, from_five: &'static str) -> Self {
        let ini = Ini::listen();
        let master = Master::start(&ground.scratch, &ini).await;
        let script = ground.scratch.write("job.sh", JOB);
        let worker = ground
            .ini()
            .set("name", "web1")
            .set("launcher", format!("sh {} {{id}}", script.display()))
            .set("master_host", "127.0.0.1")
            .set("master_port", ini.port())
            .target("mail", 2)
            .target("spare", 1);
        let worker = Jobd::ready(&ground.scratch, &worker).await;
        Master::has_workers(&master, 1).await;
        Self {
            ground,
            from_five,
            worker,
            master,
        }
    }

    /// The same state before each command, whatever the one before has changed.
    async fn reset(&self) {
        let mut wire = self.worker.wire().await;
        for (kind, data) in [
            ("continue", json!({})),
            (
                "set-target-concurrency",
                json!({"target": "mail", "concurrency": 2}),
            ),
            ("add-target", json!({"target": "spare", "concurrency": 1})),
        ] {
            // It may be so already; then that is refused.
            wire.respond(kind, data).await;
        }
        until("the targets of before", PATIENCE, async || {
            // A target that is being polled cannot be removed.
            wire.respond("remove-target", json!({"target": "new"}))
                .await;
            let status = wire.ask("status", json!({})).await;
            let targets = status["targets"].as_object().expect("targets");
            targets.keys().eq(["mail", "spare"]).then_some(())
        })
        .await;
        for sql in ["DELETE FROM jobs", self.from_five, JOBS] {
            self.ground.run(sql).await;
        }
    }

    fn config(&self, setting: Setting) -> PathBuf {
        let mut config = self.ground.ini();
        for key in ["launcher", "poll_interval", "log_level_console", "storage"] {
            config = config.unset(key);
        }
        // Port 1 is nobody's.
        let port = match setting {
            Setting::Master => self.master.addr.port(),
            Setting::Worker => self.worker.addr.port(),
            Setting::TableAlone => 1,
        };
        let config = config.set("port", port);
        let config = match setting {
            Setting::Master => config.set("master", 1),
            _ => config,
        };
        let path = self.ground.scratch.write("jobctl.conf", config.text());
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&path, private).expect("a config of one's own");
        path
    }

    fn places(&self, config: &Path) -> Places {
        let ini = self.ground.ini();
        let key = |name: &str| ini.get(name).unwrap_or_default().to_owned();
        let database = format!(
            "database {} at 127.0.0.1:{}",
            key("mysql_database"),
            key("mysql_port")
        );
        vec![
            (config.display().to_string(), "CONFIG"),
            (format!("SQLite file {}", key("sqlite_path")), "TABLE"),
            (database, "TABLE"),
            (self.master.addr.to_string(), "MASTER"),
            (self.worker.addr.to_string(), "WORKER"),
        ]
    }

    /// What every command says, by its file.
    async fn answers(&self) -> BTreeMap<String, String> {
        let mut answers = BTreeMap::<String, String>::new();
        for setting in [Setting::Master, Setting::Worker, Setting::TableAlone] {
            let config = self.config(setting);
            for row in &ROWS {
                let file = answers.entry(row.words[0].to_owned()).or_default();
                writeln!(file, "=== {setting:?}: jobctl {}", row.words.join(" ")).expect("text");
                for form in [Form::Terminal, Form::Pipe, Form::Json] {
                    self.reset().await;
                    let words: Vec<&str> = row.words.to_vec();
                    let (file_of, key) = (config.clone(), row.key);
                    let answer = tokio::task::spawn_blocking(move || match form {
                        Form::Terminal => on_terminal(&file_of, &words, key),
                        Form::Pipe => into_pipe(&file_of, &words),
                        Form::Json => into_pipe(&file_of, &[&["--json"], &words[..]].concat()),
                    });
                    let (code, said, complained) = answer.await.expect("jobctl ends");
                    let places = self.places(&config);
                    let said = steady(&said, &places, form);
                    let complained = steady(&complained, &places, Form::Pipe);
                    writeln!(file, "--- {form:?}: {code}").expect("text");
                    let complained = complained.lines().map(|line| format!("stderr: {line}"));
                    let said = said.lines().map(str::to_owned);
                    for line in said.take(row.lines).chain(complained) {
                        writeln!(file, "{line}").expect("text");
                    }
                }
            }
        }
        answers
    }
}

/// Exit code, standard output, and standard error.
fn into_pipe(config: &Path, words: &[&str]) -> Answer {
    let mut command = Command::new(programs::path("jobctl"));
    command.arg("--config").arg(config).args(words);
    command.env("TZ", "UTC").stdin(Stdio::null());
    let output = command.output().expect("jobctl runs");
    let text = |bytes| {
        let text = String::from_utf8(bytes).expect("text");
        assert!(!text.contains('\u{1b}'), "a pipe is not steered: {text:?}");
        text
    };
    let code = output.status.code().expect("an exit code");
    (code, text(output.stdout), text(output.stderr))
}

/// Exit code, and the texts.
type Answer = (i32, String, String);

/// Exit code, and what is left on a terminal on which nothing is wrapped; with a key, what stood there before it.
fn on_terminal(config: &Path, words: &[&str], key: Option<&str>) -> Answer {
    const LINES: u16 = 60;
    const COLUMNS: u16 = 300;
    // A screen is whole when the cursor is hidden again behind it; a question is the last that is said.
    const WHOLE: &[u8] = b"\x1b[?25l";
    let size = PtySize {
        rows: LINES,
        cols: COLUMNS,
        pixel_width: 0,
        pixel_height: 0,
    };
    let pair = native_pty_system().openpty(size).expect("a terminal");
    let mut command = CommandBuilder::new(programs::path("jobctl"));
    command.arg("--config");
    command.arg(config);
    command.args(words);
    command.env("TERM", "xterm-256color");
    command.env("TZ", "UTC");
    let mut child = pair.slave.spawn_command(command).expect("jobctl runs");
    // Then the end of the program is the end of what can be read.
    drop(pair.slave);
    let mut output = pair.master.try_clone_reader().expect("what it says");
    let mut keys = pair.master.take_writer().expect("its keys");
    let mut screen = vt100::Parser::new(LINES, COLUMNS, 0);
    let mut before_key = None;
    let mut written = Vec::new();
    let mut buffer = [0; 4096];
    let deadline = Instant::now() + PATIENCE;
    while let Ok(read @ 1..) = output.read(&mut buffer) {
        screen.process(&buffer[..read]);
        written.extend_from_slice(&buffer[..read]);
        let text = screen.screen().contents();
        assert!(Instant::now() < deadline, "{words:?} goes on: {text}");
        if let (Some(key), None) = (key, &before_key)
            && ((text.contains("the table") && written.ends_with(WHOLE))
                || text.ends_with("[y/N] "))
        {
            before_key = Some(text);
            keys.write_all(key.as_bytes()).expect("press a key");
        }
    }
    let code = child.wait().expect("its end").exit_code();
    let text = before_key.unwrap_or_else(|| screen.screen().contents());
    (i32::try_from(code).expect("a code"), text, String::new())
}

/// What stands for a text that is another one in each run.
type Places = Vec<(String, &'static str)>;

/// The text without what is never twice the same: places, ports, times, sizes, tokens; and without the room that
/// these take in tables on a terminal.
fn steady(text: &str, places: &Places, form: Form) -> String {
    if matches!(form, Form::Json)
        && let Ok(mut value) = serde_json::from_str::<Value>(text)
    {
        steady_value(&mut value, places);
        return serde_json::to_string_pretty(&value).expect("JSON");
    }
    let mut text = text.to_owned();
    for (place, word) in places {
        text = text.replace(place, word);
    }
    let lines = text.lines().map(|line| {
        // The statement of `prune` is another one on each storage.
        let end = line.starts_with("DELETE FROM").then(|| line.rfind(';'));
        let line = &line[end.flatten().unwrap_or_default()..];
        let separator = if line.contains('\t') { "\t" } else { "  " };
        let cells = line.trim_end().split(separator).map(str::trim);
        let cells = cells.filter(|cell| separator == "\t" || !cell.is_empty());
        cells.map(steady_cell).collect::<Vec<_>>().join(separator)
    });
    let mut lines: Vec<String> = lines.collect();
    lines.dedup_by(|line, before| line.is_empty() && before.is_empty());
    lines.join("\n")
}

fn steady_cell(cell: &str) -> String {
    let words: Vec<&str> = cell.split(' ').collect();
    let mut shown: Vec<&str> = Vec::new();
    for (at, word) in words.iter().copied().enumerate() {
        let next = words.get(at + 1).copied().unwrap_or_default();
        let bare = word.trim_matches(['(', ')', ',']);
        let number = bare.trim_end_matches(['s', 'm', 'h', 'd']);
        let is_number = number.parse::<f64>().is_ok();
        if is_number && number.len() < bare.len() {
            // Two units are one time.
            shown.extend((shown.last() != Some(&"TIME")).then_some("TIME"));
        } else if is_number && matches!(next, "B" | "KiB" | "MiB" | "ms") {
            shown.push("N");
        } else if word.starts_with("127.0.0.1:") {
            shown.push("ADDRESS");
        } else if word.starts_with("web1@") {
            shown.push("TOKEN");
        } else {
            shown.push(word);
        }
    }
    shown.join(" ")
}

/// Keys whose values differ from run to run.
const UNSTEADY: [&str; 14] = [
    "uptime_s",
    "rss",
    "heapTotal",
    "heapUsed",
    "external",
    "arrayBuffers",
    "oldest_s",
    "address",
    "database",
    "table",
    "worker",
    "lease_until",
    "cpu_ms",
    "peak_kib",
];

fn steady_value(value: &mut Value, places: &Places) {
    match value {
        Value::Array(values) => {
            for value in values {
                steady_value(value, places);
            }
        }
        Value::Object(members) => {
            for (name, value) in members.iter_mut() {
                if (UNSTEADY.contains(&name.as_str()) && !value.is_null()) || is_lately(value) {
                    *value = "…".into();
                } else {
                    steady_value(value, places);
                }
            }
        }
        Value::String(text) => *text = steady(text, places, Form::Pipe),
        _ => {}
    }
}

/// Whether that is a time of this run.
fn is_lately(value: &Value) -> bool {
    let now = std::time::UNIX_EPOCH.elapsed().expect("after 1970");
    let lately = now.as_secs() - 3600..;
    value.as_u64().is_some_and(|time| lately.contains(&time))
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/jobctl")
}

/// Compares the answers with those that were read and found good.
fn check(answers: &BTreeMap<String, String>, may_write: bool) {
    let bless = std::env::var_os("JOBD_BLESS").is_some();
    let mut wrong = String::new();
    for (name, answer) in answers {
        let path = fixtures().join(format!("{name}.txt"));
        if bless && may_write {
            std::fs::write(&path, answer).expect("write an answer");
            continue;
        }
        let expected = std::fs::read_to_string(&path).unwrap_or_default();
        if expected != *answer {
            let pairs = expected.lines().zip(answer.lines());
            let first = pairs.filter(|(expected, found)| expected != found).take(3);
            let first: Vec<_> = first
                .map(|(expected, found)| format!("- {expected}\n+ {found}"))
                .collect();
            let _ = writeln!(wrong, "{name}:\n{}", first.join("\n"));
        }
    }
    assert!(
        wrong.is_empty(),
        "answers differ from tests/fixtures/jobctl (JOBD_BLESS=1 writes them):\n{wrong}"
    );
}

#[tokio::test]
async fn every_command_has_a_row_and_a_file() {
    let scratch = jobd_tests::Scratch::new();
    let mut command = Command::new(programs::path("jobctl"));
    let written = programs::output(command.args(["man", "--into"]).arg(scratch.path())).await;
    assert!(written.status.success(), "{written:?}");
    let names = |folder: &Path, end: &str| -> BTreeSet<String> {
        let files = std::fs::read_dir(folder).expect("a folder");
        let names = files.map(|file| {
            file.expect("a file")
                .file_name()
                .into_string()
                .expect("a name")
        });
        names
            .filter_map(|name| Some(name.strip_suffix(end)?.to_owned()))
            .collect()
    };
    let pages = names(scratch.path(), ".1");
    let commands: BTreeSet<String> = pages
        .iter()
        .filter_map(|page| Some(page.strip_prefix("jobctl-")?.to_owned()))
        .collect();
    let rows: BTreeSet<String> = ROWS.iter().map(|row| row.words[0].to_owned()).collect();
    assert_eq!(
        rows, commands,
        "a row of ROWS for each command of jobctl, and no other"
    );
    let page = include_str!("../../docs/JOBCTL.md");
    for command in commands.iter().filter(|command| *command != "help") {
        let ways = [format!("`{command}`"), format!("jobctl {command}")];
        let is_there = ways.iter().any(|way| page.contains(way));
        assert!(is_there, "docs/JOBCTL.md says nothing of {command}");
    }
    assert_eq!(
        names(&fixtures(), ".txt"),
        commands,
        "a file for each, and no other"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_answers_in_every_setting_on_mysql() {
    let world = World::new(Ground::mysql().await, "ALTER TABLE jobs AUTO_INCREMENT = 5").await;
    check(&world.answers().await, false);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_answers_in_every_setting_on_sqlite() {
    let world = World::new(Ground::sqlite().await, "DELETE FROM sqlite_sequence").await;
    check(&world.answers().await, true);
}
