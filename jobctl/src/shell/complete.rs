//! What Tab offers: commands and options from the declaration of the command line, targets, workers,
//! hosts and ids from the daemon and the table.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use clap::CommandFactory as _;
use jobd_proto::signal;
use rustyline::completion::{Completer, Pair};
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::validate::Validator;
use rustyline::{Helper, Result};

use super::without_name;
use crate::cli::Cli;
use crate::commands::{self, Context, STATUSES, Seen};
use crate::output::plain;

/// Names that are older are asked for again before the next prompt.
const FRESH: Duration = Duration::from_secs(10);

/// The prompt waits for names no longer than this.
const PATIENCE: Duration = Duration::from_millis(500);

/// More candidates than anybody reads; the editor lays out no more than 65,535.
const MOST: usize = 1_000;

/// What a word may be the name of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name {
    Target,
    Host,
    Worker,
    Job,
    Signal,
}

/// What can be named on a line.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    pub(super) targets: BTreeSet<String>,
    /// Where workers are.
    pub(super) hosts: BTreeSet<String>,
    pub(super) workers: BTreeSet<String>,
    /// The newest first.
    pub(super) ids: Vec<String>,
    asked: Option<Instant>,
}

impl Names {
    /// Asks anew where it is time; without an answer the old ones stay.
    pub(super) async fn refresh(&mut self, context: &Context) {
        if self.asked.is_some_and(|asked| asked.elapsed() < FRESH) {
            return;
        }
        self.asked = Some(Instant::now());
        // No statement is cut short: the connection would be of no use, and it is dropped.
        let (workers, rows) = tokio::join!(
            tokio::time::timeout(PATIENCE, commands::workers_seen(context)),
            tokio::time::timeout(PATIENCE, commands::newest(context))
        );
        if let Ok(Ok(workers)) = workers {
            for Seen {
                name,
                address,
                targets,
            } in workers
            {
                learn(&mut self.targets, targets);
                // One of version 1 says none.
                learn(&mut self.workers, (name != "-").then_some(name));
                let host = address.rsplit_once(':').map_or("", |(host, _)| host);
                let host = host.trim_start_matches('[').trim_end_matches(']');
                learn(&mut self.hosts, [host.to_owned()]);
            }
        }
        if let Ok(Ok(rows)) = rows {
            self.ids = rows.iter().map(|row| row.id.to_string()).collect();
            learn(&mut self.targets, rows.into_iter().map(|row| row.target));
        }
    }

    /// Those of one kind.
    pub(super) fn of(&self, kind: Name) -> Vec<String> {
        match kind {
            Name::Target => self.targets.iter().cloned().collect(),
            Name::Host => self.hosts.iter().cloned().collect(),
            Name::Worker => self.workers.iter().cloned().collect(),
            Name::Signal => signal::NAMES.map(str::to_owned).into(),
            Name::Job => {
                let last = std::iter::once("last".to_owned());
                last.chain(self.ids.iter().cloned()).collect()
            }
        }
    }
}

/// Adds those of the names that no terminal obeys: nobody could type the others.
fn learn(known: &mut BTreeSet<String>, names: impl IntoIterator<Item = String>) {
    let names = names.into_iter();
    known.extend(names.filter(|name| !name.is_empty() && plain(name) == *name));
}

/// The editor's helper.
#[derive(Default)]
pub(super) struct Completion {
    pub(super) names: Names,
}

impl Helper for Completion {}
impl Highlighter for Completion {}
impl Validator for Completion {}

impl Hinter for Completion {
    type Hint = String;
}

impl Completer for Completion {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        position: usize,
        _: &rustyline::Context<'_>,
    ) -> Result<(usize, Vec<Pair>)> {
        let line = &line[..position];
        let start = begin_of_word(line);
        let before: Vec<&str> = line[..start].split_whitespace().collect();
        let word = &line[start..];
        let pairs = fitting(&self.names, without_name(&before), word)
            .into_iter()
            .map(|(candidate, quoted)| Pair {
                display: candidate,
                replacement: quoted + " ",
            });
        Ok((start, pairs.collect()))
    }
}

/// The first candidates that `word` is the beginning of, each also as a line wants it: names may hold blanks and quotes.
fn fitting(names: &Names, before: &[&str], word: &str) -> Vec<(String, String)> {
    let all = candidates(names, before, word).into_iter();
    let quoted = all.map(|candidate| {
        let quoted = shell_words::quote(&candidate).into_owned();
        (candidate, quoted)
    });
    let fits = |(candidate, quoted): &(String, String)| {
        candidate.starts_with(word) || quoted.starts_with(word)
    };
    quoted.filter(fits).take(MOST).collect()
}

/// Where the last word of a line begins.
fn begin_of_word(line: &str) -> usize {
    // Pasted text may hold blanks of several bytes.
    let begun = line.trim_end_matches(|c: char| !c.is_whitespace());
    begun.len()
}

/// What may stand where `word` does, behind the words `before`.
fn candidates(names: &Names, before: &[&str], word: &str) -> Vec<String> {
    let all = Cli::command();
    let commands = || -> Vec<String> {
        let commands = all.get_subcommands().map(clap::Command::get_name);
        commands
            .chain(["help", "exit"])
            .map(str::to_owned)
            .collect()
    };
    if let Some(name) = name_at(&all, before).filter(|_| !word.starts_with('-')) {
        return names.of(name);
    }
    let command = command_of(&all, before);
    let values = option_at(&all, before).map(values);
    if let Some(values) = values.filter(|values| !values.is_empty()) {
        return values;
    }
    let Some(command) = command.filter(|_| before.first() != Some(&"help")) else {
        return if word.starts_with('-') {
            options(&all)
        } else {
            commands()
        };
    };
    if word.starts_with('-') {
        return [options(command), options(&all)].concat();
    }
    Vec::new()
}

/// What may be named behind the words `before`; `None` where it is no name that is wanted.
pub(super) fn name_at(all: &clap::Command, before: &[&str]) -> Option<Name> {
    if let Some(option) = option_at(all, before) {
        return match option.get_long()? {
            "target" => Some(Name::Target),
            "host" => Some(Name::Host),
            "on" => Some(Name::Worker),
            _ => None,
        };
    }
    if before.first() == Some(&"help") {
        return None;
    }
    match command_of(all, before)?.get_name() {
        "pause"
        | "continue"
        | "poll"
        | "poke"
        | "set-target-concurrency"
        | "remove-target"
        | "run" => Some(Name::Target),
        "send-signal" if is_first(all, before) => Some(Name::Signal),
        "show" | "logs" | "wait" | "retry" | "run-manual" | "send-signal" | "cancel" | "follow" => {
            Some(Name::Job)
        }
        _ => None,
    }
}

/// Whether what stands behind these words is the command's first argument.
fn is_first(all: &clap::Command, before: &[&str]) -> bool {
    let is_argument =
        |at: &usize| !before[*at].starts_with('-') && option_at(all, &before[..*at]).is_none();
    // The command itself is one.
    (0..before.len()).filter(is_argument).count() == 1
}

/// The command among these words.
fn command_of<'a>(all: &'a clap::Command, before: &[&str]) -> Option<&'a clap::Command> {
    let mut words = before.iter().filter(|word| !word.starts_with('-'));
    words.find_map(|word| all.find_subcommand(word))
}

/// The option whose value is wanted next: the command's, or one of every command.
fn option_at<'a>(all: &'a clap::Command, before: &[&str]) -> Option<&'a clap::Arg> {
    let last = before.last()?.strip_prefix("--")?;
    let commands = command_of(all, before).into_iter().chain([all]);
    let mut options = commands.flat_map(clap::Command::get_arguments);
    options.find(|known| known.get_long() == Some(last) && known.get_action().takes_values())
}

fn options(command: &clap::Command) -> Vec<String> {
    let long = command
        .get_arguments()
        .filter_map(|option| option.get_long());
    long.map(|name| format!("--{name}")).collect()
}

fn values(option: &clap::Arg) -> Vec<String> {
    if option.get_long() == Some("status") {
        return STATUSES.map(str::to_owned).into();
    }
    let values = option.get_possible_values();
    let values = values.iter().map(|value| value.get_name().to_owned());
    values.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(line: &str, expected: &[&str]) {
        let names = Names {
            targets: ["lost 1", "mail", "report"].map(str::to_owned).into(),
            hosts: ["10.0.0.1".to_owned()].into(),
            workers: ["web1".to_owned()].into(),
            ids: vec!["18".to_owned(), "17".to_owned()],
            asked: None,
        };
        let start = begin_of_word(line);
        let before: Vec<&str> = line[..start].split_whitespace().collect();
        let found = fitting(&names, without_name(&before), &line[start..]);
        let found: Vec<String> = found.into_iter().map(|(_, quoted)| quoted).collect();
        assert_eq!(found, expected, "{line}");
    }

    #[test]
    fn no_more_is_offered_than_can_be_shown() {
        let names = Names {
            targets: (0..70_000).map(|at| format!("user/{at}")).collect(),
            ..Names::default()
        };
        assert_eq!(fitting(&names, &["pause"], "us").len(), MOST);
        assert_eq!(fitting(&names, &["pause"], "user/69999").len(), 1);
    }

    #[test]
    fn what_is_offered_fits_the_place() {
        check("expo", &["export"]);
        check("help expo", &["export"]);
        check("--json expo", &["export"]);
        check("pause ma", &["mail"]);
        check("logs ", &["last", "18", "17"]);
        check("wait 18 1", &["18", "17"]);
        check("list --target ", &["'lost 1'", "mail", "report"]);
        check("pause lo", &["'lost 1'"]);
        check("pause 'lo", &["'lost 1'"]);
        check("list --status ru", &["running"]);
        check("list --result ", &["ok", "fail"]);
        check("list --lim", &["--limit"]);
        check("list --wor", &["--worker"]);
        check("status --host 1", &["10.0.0.1"]);
        check("set-target-concurrency mail 8 --on ", &["web1"]);
        check("--host h send-signal --yes TE", &["TERM"]);
        check("send-signal TERM --port 9 1", &["18", "17"]);
        check("list --limit ", &[]);
        check("list --log-level wa", &["warn"]);
        check("doctor ", &[]);
        check("jobctl --master expo", &["export"]);
        check("jobctl send-signal TE", &["TERM"]);
        check("pause\u{a0}ma", &["mail"]);
    }
}
