//! Completions and manual pages, taken by the programs that they are for.

use std::path::Path;
use std::process::Command;

use portable_pty::CommandBuilder;

use crate::jobctl::run;
use crate::terminal::Terminal;

/// Has a real bash complete `line`, whose cursor stands at its end.
fn complete(script: &std::path::Path, line: &str) -> Vec<String> {
    let ask = format!(
        "source {} && COMP_WORDS=({line}\"\") COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 )) && \
         [[ '{line}' != *' ' ]] && {{ COMP_WORDS=({line}); COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 )); }}; \
         _jobctl jobctl \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD-1]}}\"; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        script.display()
    );
    let output = Command::new("bash")
        .args(["--norc", "-c", &ask])
        .output()
        .unwrap();
    assert!(output.stderr.is_empty(), "{line}: {output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let mut words: Vec<String> = text.lines().map(str::to_owned).collect();
    words.sort();
    words
}

#[tokio::test]
async fn bash_completes_commands_options_and_values() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("jobctl.bash");
    std::fs::write(&script, run(["completions", "bash"]).await.stdout).unwrap();
    assert_eq!(complete(&script, "jobctl prun"), ["prune"]);
    assert_eq!(complete(&script, "jobctl run"), ["run", "run-manual"]);
    assert_eq!(complete(&script, "jobctl list --res"), ["--result"]);
    assert_eq!(complete(&script, "jobctl list --result "), ["fail", "ok"]);
    assert_eq!(
        complete(&script, "jobctl --master prune --older"),
        ["--older-than"]
    );
    let all = complete(&script, "jobctl ");
    for command in ["status", "doctor", "export", "man"] {
        assert!(all.iter().any(|word| word == command), "{command}: {all:?}");
    }
}

/// What a real fish offers for `line`.
fn offered_by_fish(script: &Path, home: &Path, line: &str) -> Vec<String> {
    let ask = format!("source {}; complete -C '{line}'", script.display());
    let output = Command::new("fish")
        .args(["--no-config", "-c", &ask])
        .env("HOME", home)
        .output()
        .unwrap();
    assert!(output.stderr.is_empty(), "{line}: {output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    // Behind a tab stands what it is.
    let words = text.lines().filter_map(|line| line.split('\t').next());
    words.map(str::to_owned).collect()
}

#[tokio::test]
async fn fish_completes_commands_options_and_values() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("jobctl.fish");
    std::fs::write(&script, run(["completions", "fish"]).await.stdout).unwrap();
    let offered = |line: &str| offered_by_fish(&script, folder.path(), line);
    assert_eq!(offered("jobctl prun"), ["prune"]);
    assert_eq!(offered("jobctl run"), ["run", "run-manual"]);
    assert_eq!(offered("jobctl list --res"), ["--result"]);
    assert_eq!(offered("jobctl list --result "), ["fail", "ok"]);
    assert_eq!(offered("jobctl --master prune --older"), ["--older-than"]);
    let all = offered("jobctl ");
    for command in ["status", "doctor", "export", "man"] {
        assert!(all.iter().any(|word| word == command), "{command}: {all:?}");
    }
}

#[tokio::test]
async fn zsh_completes_commands_options_and_values() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path();
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
    ] {
        zsh.press(typed);
        zsh.sees(&[expected]);
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
