//! What is said of a command line that cannot be read, beyond what clap says.

use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue};
use clap::{Arg, ArgAction, Command, Error};
use jobd_proto::settings::near_match;

use super::values::When;

/// Adds to `error`, made from `words`, what would do instead, and takes out what would only fail again.
pub(super) fn explained(mut error: Error, all: &Command, words: &[String]) -> Error {
    if let Some(wrong) = text(&error, ContextKind::InvalidSubcommand) {
        let suggested = error.get(ContextKind::SuggestedSubcommand);
        let is_near = matches!(suggested, Some(ContextValue::Strings(near)) if !near.is_empty());
        let near = || {
            let names = all.get_subcommands().map(Command::get_name);
            near_match(&wrong, names).map(|near| vec![near])
        };
        let ours = elsewhere(&wrong).map(<[_]>::to_vec);
        if let Some(ours) = ours.or_else(|| near().filter(|_| !is_near)) {
            let ours = ours.into_iter().map(str::to_owned).collect();
            error.insert(
                ContextKind::SuggestedSubcommand,
                ContextValue::Strings(ours),
            );
        }
    }
    let command = words.iter().find_map(|word| all.find_subcommand(word));
    if let (Some(wrong), Some(command)) = (text(&error, ContextKind::InvalidArg), command)
        && error.kind() == clap::error::ErrorKind::UnknownArgument
    {
        // Clap proposes it behind `--`, for a target or a column of that name, or an id, which none is.
        if wrong.starts_with("--") || ids(command).is_some() {
            error.remove(ContextKind::Suggested);
        }
        let is_similar = error.get(ContextKind::SuggestedArg).is_some();
        if let Some(hint) = instead(all, command, words, &wrong).filter(|_| !is_similar) {
            let hint = ContextValue::StyledStrs(vec![StyledStr::from(hint)]);
            error.insert(ContextKind::Suggested, hint);
        }
    }
    error
}

fn text(error: &Error, kind: ContextKind) -> Option<String> {
    match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        _ => None,
    }
}

/// What would do instead of an argument that the command does not take.
fn instead(all: &Command, command: &Command, words: &[String], wrong: &str) -> Option<String> {
    if wrong.starts_with('-') {
        return by_id(command, wrong).or_else(|| bare(command, wrong));
    }
    let at = words.iter().position(|word| word == wrong)?;
    let before = words.get(at.checked_sub(1)?)?;
    let quoted = shell_words::quote(wrong);
    if before == "--watch" {
        return Some(format!("write {before}={quoted}"));
    }
    let option = |word: &str| {
        let name = word.strip_prefix("--")?;
        let mut options = command.get_arguments().chain(all.get_arguments());
        options.find(|option| option.get_long() == Some(name))
    };
    if let Some(hint) = whole_time(words, at, option) {
        return Some(hint);
    }
    let is_flag = option(before).is_some_and(|option| !option.get_action().takes_values());
    let is_first = is_flag || all.find_subcommand(before).is_some();
    (is_first && has(command, "target")).then(|| format!("write --target {quoted}"))
}

fn has(command: &Command, name: &str) -> bool {
    let mut options = command.get_arguments();
    options.any(|option| option.get_long() == Some(name))
}

/// The argument of a command that names jobs.
fn ids(command: &Command) -> Option<&Arg> {
    let mut names = command.get_positionals();
    names.find(|argument| value_names(argument).any(|name| name.starts_with("ID")))
}

fn value_names(argument: &Arg) -> impl Iterator<Item = &str> {
    let names = argument.get_value_names().unwrap_or_default();
    names.iter().map(AsRef::as_ref)
}

/// Where the target stands that is no option's value.
fn bare(command: &Command, wrong: &str) -> Option<String> {
    let arguments = command.get_positionals();
    let names = arguments.filter(|argument| !argument.is_last_set());
    let names: Vec<&str> = names.flat_map(value_names).collect();
    (wrong == "--target" && names.contains(&"TARGET")).then(|| {
        let (name, names) = (command.get_name(), names.join(" "));
        format!("the target stands without an option: jobctl {name} {names}")
    })
}

/// How jobs are named where they cannot be chosen otherwise.
fn by_id(command: &Command, wrong: &str) -> Option<String> {
    const CHOOSES: [&str; 6] = [
        "--all", "--failed", "--result", "--since", "--status", "--target",
    ];
    let ids = ids(command).filter(|_| CHOOSES.contains(&wrong))?;
    let said = match ids.get_action() {
        ArgAction::Append => "jobs are named by id: 17, 10-20 or last",
        _ => "the job is named by id: 17 or last",
    };
    let failed = if has(command, "failed") {
        ", or --failed takes all that failed"
    } else {
        ""
    };
    Some(format!("{said}{failed}"))
}

/// The words of a time as one argument, where the word at `at` is a later one of them.
fn whole_time<'a>(
    words: &[String],
    at: usize,
    option: impl Fn(&str) -> Option<&'a Arg>,
) -> Option<String> {
    let before = words.get(at.checked_sub(1)?)?;
    let (name, first) = match before.split_once('=') {
        Some(parts) => parts,
        None => (words.get(at.checked_sub(2)?)?.as_str(), before.as_str()),
    };
    if value_names(option(name)?).all(|name| name != "TIME") {
        return None;
    }
    let mut time = first.to_owned();
    let times = words[at..].iter().map(|word| {
        time.extend([" ", word]);
        time.clone()
    });
    let time = times.filter(|time| time.parse::<When>().is_ok()).last()?;
    Some(format!("write {name} {}", shell_words::quote(&time)))
}

fn elsewhere(wrong: &str) -> Option<&'static [&'static str]> {
    let wrong = wrong.to_lowercase();
    let known = ELSEWHERE
        .iter()
        .find(|(words, _)| words.contains(&wrong.as_str()));
    known.map(|(_, ours)| *ours)
}

/// What other tools call what these commands do. Some of these words look more like a command that
/// does quite another thing, as `resume` does like `prune`.
pub(super) const ELSEWHERE: [(&[&str], &[&str]); 13] = [
    (
        &["ps", "ls", "jobs", "queue", "queues"],
        &["status", "list"],
    ),
    (
        &["kill", "stop", "abort", "terminate"],
        &["cancel", "send-signal", "pause"],
    ),
    (
        &["rm", "remove", "delete"],
        &["cancel", "prune", "remove-target"],
    ),
    (&["clean", "clear", "purge", "vacuum"], &["prune"]),
    (&["resume", "unpause", "unfreeze", "start"], &["continue"]),
    (&["freeze", "suspend", "hold"], &["pause"]),
    (&["restart", "rerun", "again", "requeue"], &["retry"]),
    (
        &["enqueue", "insert", "push", "submit", "new"],
        &["add", "run"],
    ),
    (&["exec", "execute", "call"], &["run", "run-manual"]),
    (
        &["tail", "output", "cat", "log", "journal"],
        &["logs", "follow"],
    ),
    (&["info", "describe", "get", "view"], &["show"]),
    (&["workers", "nodes", "hosts"], &["list-workers", "status"]),
    (
        &["check", "health", "ping", "verify"],
        &["doctor", "status"],
    ),
];
