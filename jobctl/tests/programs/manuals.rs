//! Completions and manual pages, taken by the programs that they are for.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use portable_pty::CommandBuilder;
use serde_json::{Value, json};

use crate::daemon::Daemon;
use crate::jobctl::{LIMIT, run};
use crate::table::Table;
use crate::terminal::Terminal;

/// A home whose config names a table with jobs 1 and 2, of `mail` and `a b`, and a daemon that nobody is.
async fn home() -> Table {
    let table = Table::new(None).await;
    table
        .execute("INSERT INTO jobs (target, time_created) VALUES ('mail', 1), ('a b', 1)")
        .await;
    let home = table.folder.path().join(".jobctl.conf");
    std::fs::copy(&table.config, home).unwrap();
    table
}

/// PATH with the program.
fn path() -> String {
    let bin = Path::new(env!("CARGO_BIN_EXE_jobctl")).parent().unwrap();
    format!("{}:{}", bin.display(), std::env::var("PATH").unwrap())
}

/// Asks until just these are offered: names are left out where a machine is too busy to have them within half a second.
#[track_caller]
fn offers(ask: &impl Fn(&str) -> Vec<String>, line: &str, expected: &[&str]) {
    let deadline = Instant::now() + LIMIT;
    loop {
        let offered = ask(line);
        if offered == expected {
            return;
        }
        assert!(Instant::now() < deadline, "{line}: {offered:?}");
    }
}

/// Has a real bash complete `line`, whose cursor stands at its end.
fn complete(script: &Path, home: &Path, line: &str) -> Vec<String> {
    let ask = format!(
        "source {} && COMP_WORDS=({line}\"\") COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 )) && \
         [[ '{line}' != *' ' ]] && {{ COMP_WORDS=({line}); COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 )); }}; \
         _jobctl jobctl \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD-1]}}\"; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        script.display()
    );
    let output = Command::new("bash")
        .args(["--norc", "-c", &ask])
        .env("HOME", home)
        .env("PATH", path())
        .output()
        .unwrap();
    assert!(output.stderr.is_empty(), "{line}: {output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let mut words: Vec<String> = text.lines().map(str::to_owned).collect();
    words.sort();
    words
}

#[tokio::test]
async fn bash_completes_commands_options_values_and_names() {
    let table = home().await;
    let home = table.folder.path();
    let script = home.join("jobctl.bash");
    std::fs::write(&script, run(["completions", "bash"]).await.stdout).unwrap();
    let complete = |line: &str| complete(&script, home, line);
    offers(&complete, "jobctl prun", &["prune"]);
    offers(&complete, "jobctl run", &["run", "run-manual"]);
    offers(&complete, "jobctl list --res", &["--result"]);
    offers(&complete, "jobctl list --result ", &["fail", "ok"]);
    offers(
        &complete,
        "jobctl --master prune --older",
        &["--older-than"],
    );
    let all = complete("jobctl ");
    for command in ["status", "doctor", "export", "man"] {
        assert!(all.iter().any(|word| word == command), "{command}: {all:?}");
    }
    offers(&complete, "jobctl pause ", &["a\\ b", "mail"]);
    offers(&complete, "jobctl --master poke mail a", &["a\\ b"]);
    offers(&complete, "jobctl list --target ma", &["mail"]);
    // As bash takes it apart.
    offers(&complete, "jobctl list --target = ma", &["mail"]);
    offers(&complete, "jobctl logs ", &["1", "2", "last"]);
    offers(&complete, "jobctl pause --js", &["--json"]);
    std::fs::write(home.join(".jobctl.conf"), "port = 1\n").unwrap();
    let nobody = complete("jobctl pause ");
    assert!(
        nobody.contains(&"--json".to_owned()),
        "the options: {nobody:?}"
    );
}

#[tokio::test]
async fn names_are_not_waited_for_and_nothing_is_carried_out() {
    let table = home().await;
    let config = table.config.to_str().unwrap();
    let ask = async |port: &str, words: &str| {
        let line = [
            "complete-names",
            "jobctl",
            "--config",
            config,
            "--port",
            port,
        ];
        run(line.into_iter().chain(words.split(' '))).await
    };
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port().to_string();
    let begun = Instant::now();
    let mut asked = ask(&port, "cancel ").await;
    // Half a second and the start of a program; a command waits for 15 s.
    assert!(begun.elapsed().as_secs() < 15, "{:?}", begun.elapsed());
    assert_eq!((asked.code, asked.stderr.as_str()), (0, ""));
    // A machine that is busy may not have had the time to look.
    while asked.stdout != "last\n2\n1\n" {
        assert!(begun.elapsed() < LIMIT, "{asked:?}");
        asked = ask(&port, "cancel ").await;
    }
    let none = ask("1", "prune ").await;
    assert_eq!(
        (none.code, none.stdout.as_str(), none.stderr.as_str()),
        (0, "", "")
    );
    let wrong = run([
        "complete-names",
        "jobctl",
        "--config",
        "/nonexistent",
        "pause",
        "",
    ])
    .await;
    assert_eq!(
        (wrong.code, wrong.stdout.as_str(), wrong.stderr.as_str()),
        (0, "", "")
    );
    let worker = Daemon::worker(Ok(json!({"targets": {"served": {"paused": false, "concurrency": 1, "length": 0}}, "jobPromisesCount": 0, "memoryUsage": {}}))).await;
    let port = worker.address.port().to_string();
    let begun = Instant::now();
    while ask(&port, "pause s").await.stdout != "served\n" {
        assert!(begun.elapsed() < LIMIT, "{:?}", worker.asked());
    }
    let status = ("status".to_owned(), Value::Null);
    assert!(worker.asked().iter().all(|asked| *asked == status));
}

/// What a real fish offers for `line`.
fn offered_by_fish(script: &Path, home: &Path, line: &str) -> Vec<String> {
    let ask = format!("source {}; complete -C '{line}'", script.display());
    let output = Command::new("fish")
        .args(["--no-config", "-c", &ask])
        .env("HOME", home)
        .env("PATH", path())
        .current_dir(home)
        .output()
        .unwrap();
    assert!(output.stderr.is_empty(), "{line}: {output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    // Behind a tab stands what it is.
    let words = text.lines().filter_map(|line| line.split('\t').next());
    words.map(str::to_owned).collect()
}

#[tokio::test]
async fn fish_completes_commands_options_values_and_names() {
    let table = home().await;
    let home = table.folder.path();
    let script = home.join("jobctl.fish");
    std::fs::write(&script, run(["completions", "fish"]).await.stdout).unwrap();
    let offered = |line: &str| offered_by_fish(&script, home, line);
    offers(&offered, "jobctl pause ma", &["mail"]);
    offers(&offered, "jobctl --master poke mail ", &["a b", "mail"]);
    offers(&offered, "jobctl list --target ma", &["mail"]);
    offers(&offered, "jobctl logs ", &["1", "2", "last"]);
    offers(&offered, "jobctl --config jobctl.f", &["jobctl.fish"]);
    offers(&offered, "jobctl prun", &["prune"]);
    offers(&offered, "jobctl run", &["run", "run-manual"]);
    offers(&offered, "jobctl list --res", &["--result"]);
    offers(&offered, "jobctl list --result ", &["fail", "ok"]);
    offers(&offered, "jobctl --master prune --older", &["--older-than"]);
    let all = offered("jobctl ");
    for command in ["status", "doctor", "export", "man"] {
        assert!(all.iter().any(|word| word == command), "{command}: {all:?}");
    }
}

#[tokio::test]
async fn zsh_completes_commands_options_values_and_names() {
    let table = home().await;
    let home = table.folder.path();
    std::fs::write(
        home.join("_jobctl"),
        run(["completions", "zsh"]).await.stdout,
    )
    .unwrap();
    let settings = format!(
        "fpath=({} $fpath)\nautoload -U compinit\ncompinit -u -D\nPS1='ready> '\nunsetopt prompt_sp\n",
        home.display()
    );
    std::fs::write(home.join(".zshrc"), settings).unwrap();
    let mut command = CommandBuilder::new("zsh");
    command.args(["-d", "-i"]);
    command.env("HOME", home);
    command.env("ZDOTDIR", home);
    command.env("PATH", path());
    let mut zsh = Terminal::of(command, 120, 40);
    zsh.sees(&["ready>"]);
    for (typed, expected) in [
        ("jobctl prun\t", "ready> jobctl prune"),
        ("jobctl list --res\t", "ready> jobctl list --result"),
        (
            "jobctl list --result f\t",
            "ready> jobctl list --result fail",
        ),
        (
            "jobctl --master prune --older\t",
            "ready> jobctl --master prune --older-than",
        ),
        ("jobctl exp\t --json\t", "ready> jobctl export --json"),
        ("jobctl pause ma\t", "ready> jobctl pause mail"),
        ("jobctl poke mail a\t", "ready> jobctl poke mail a\\ b"),
        (
            "jobctl list --target ma\t",
            "ready> jobctl list --target mail",
        ),
        ("jobctl logs la\t", "ready> jobctl logs last"),
    ] {
        zsh.press(typed);
        let mut asked = Instant::now();
        let deadline = asked + LIMIT;
        while !zsh.text().contains(expected) {
            assert!(Instant::now() < deadline, "{expected}:\n{}", zsh.text());
            std::thread::sleep(Duration::from_millis(20));
            // Names that were not there in time are asked for anew.
            if asked.elapsed() > Duration::from_secs(5) {
                zsh.press("\t");
                asked = Instant::now();
            }
        }
        // The line is dropped, and the screen is clear for the next one.
        zsh.press("\x15\x0c");
        zsh.sees_no("jobctl");
    }
    zsh.press("jobctl \t");
    zsh.sees(&["status", "doctor", "what is wrong", "export"]);
    zsh.press("\x15exit\r");
    zsh.ends();
}

#[tokio::test]
async fn there_is_a_page_for_each_command_and_man_can_read_it() {
    let folder = tempfile::tempdir().unwrap();
    let written = run(["man", "--into", folder.path().to_str().unwrap()]).await;
    assert_eq!(written.code, 0, "{written:?}");
    let mut pages: Vec<_> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    pages.sort();
    assert!(pages.len() > 25, "{pages:?}");
    for page in &pages {
        let rendered = Command::new("groff")
            .args(["-man", "-Tutf8", "-ww"])
            .arg(page)
            .output()
            .unwrap();
        assert!(rendered.status.success(), "{}", page.display());
        assert!(
            rendered.stderr.is_empty(),
            "{}: {rendered:?}",
            page.display()
        );
    }
    let retry = std::fs::read_to_string(folder.path().join("jobctl-retry.1")).unwrap();
    assert!(retry.contains("jobctl retry 17 18"), "{retry}");
    let whole = run(["man"]).await.stdout;
    assert!(
        whole.contains("sqlite_path") && whole.contains("jobctl\\-prune"),
        "{whole}"
    );
    run(["man", "--into", "/nonexistent"]).await.failed(
        1,
        &["cannot write /nonexistent/jobctl.1", "is the folder there?"],
    );
}
