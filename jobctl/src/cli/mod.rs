//! The command line as it is written: clap's view, nothing resolved yet. Help texts stand here and
//! in [`command`].

mod args;
mod command;
mod mistakes;
mod overview;
mod values;

use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use clap::{CommandFactory as _, Parser};
use jobd_proto::settings::LogLevel;

pub(crate) use args::{
    AddArgs, CancelArgs, ExportArgs, FollowArgs, LimitArgs, ListArgs, LogsArgs, PruneArgs,
    RetryArgs, RunArgs, SignalArgs, StatsArgs, StatusArgs, TargetArgs, TargetSlots, WaitArgs,
};
pub(crate) use command::Command;
pub(crate) use values::{Id, Ids, JobRef};

/// Rows that one command may add or list: an `add` is one transaction.
const MOST_ROWS: i64 = 100_000;

const EVERY: &str = "Options of every command";

/// All of the command line.
#[expect(
    clippy::struct_excessive_bools,
    reason = "switches of a command line are what they are"
)]
#[derive(Debug, Parser)]
#[command(name = "jobctl", version, about = "Look at and steer a jobd cluster")]
#[command(override_help = overview::TEXT, propagate_version = true)]
pub(crate) struct Cli {
    /// Talk to a jobd-master instead of a worker
    #[arg(long, global = true, help_heading = EVERY)]
    pub(crate) master: bool,

    /// Talk to a worker although the config says `master = 1`
    #[arg(long, global = true, help_heading = EVERY)]
    pub(crate) worker: bool,

    /// Where the daemon is [default: 127.0.0.1]
    #[arg(long, global = true, help_heading = EVERY, value_name = "H")]
    pub(crate) host: Option<String>,

    /// Its port [default: 7080, with --master 7081]
    #[arg(long, global = true, help_heading = EVERY, value_name = "P", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) port: Option<u16>,

    /// Config file [default: ~/.jobctl.conf]
    #[arg(long, global = true, help_heading = EVERY, value_name = "F")]
    pub(crate) config: Option<PathBuf>,

    /// Ask for the daemon's password on the terminal
    #[arg(long, global = true, help_heading = EVERY)]
    pub(crate) password: bool,

    /// Least level of what is told on standard error [default: warn]
    #[arg(long, global = true, help_heading = EVERY, value_name = "L", value_parser = log_levels())]
    pub(crate) log_level: Option<LogLevel>,

    /// Print JSON instead of tables
    #[arg(long, global = true, help_heading = EVERY)]
    pub(crate) json: bool,

    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

impl Cli {
    /// Reads a command line. What cannot be read is answered with what would do instead, where that is known.
    pub(crate) fn read<T>(line: impl IntoIterator<Item = T>) -> Result<Self, clap::Error>
    where
        T: Into<std::ffi::OsString>,
    {
        let line: Vec<std::ffi::OsString> = line.into_iter().map(Into::into).collect();
        let cli = Self::try_parse_from(&line).map_err(|error| {
            let words = line.iter().skip(1);
            let words: Vec<String> = words.map(|word| word.to_string_lossy().into()).collect();
            mistakes::explained(error, &Self::command(), &words)
        })?;
        // Clap does not see that options before and behind the command exclude each other.
        if cli.master && cli.worker {
            let text = "--master and --worker exclude each other";
            return Err(Self::command().error(clap::error::ErrorKind::ArgumentConflict, text));
        }
        Ok(cli)
    }

    /// Takes what this line leaves open from the options of the shell that it was entered in, but for the password,
    /// which was asked for already.
    pub(crate) fn inherit(&mut self, shell: &Self) {
        let is_other_kind = (self.master && shell.worker) || (self.worker && shell.master);
        if !is_other_kind {
            self.master |= shell.master;
            self.worker |= shell.worker;
            // One of the other kind listens elsewhere.
            self.port = self.port.or(shell.port);
        }
        self.host = self.host.take().or_else(|| shell.host.clone());
        self.config = self.config.take().or_else(|| shell.config.clone());
        self.log_level = self.log_level.or(shell.log_level);
        self.json |= shell.json;
    }
}

fn log_levels() -> impl clap::builder::TypedValueParser<Value = LogLevel> {
    PossibleValuesParser::new(LogLevel::WORDS.map(|(word, _)| word)).map(|chosen| {
        let known = LogLevel::WORDS
            .into_iter()
            .find(|(word, _)| *word == chosen);
        known.map_or(LogLevel::Warn, |(_, level)| level)
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn the_declaration_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn options_may_stand_before_or_after_the_command() {
        let cli = Cli::try_parse_from([
            "jobctl",
            "status",
            "--master",
            "--json",
            "--log-level",
            "debug",
        ])
        .unwrap();
        assert!(cli.master && cli.json);
        assert_eq!(cli.log_level, Some(LogLevel::Debug));
        let cli = Cli::try_parse_from([
            "jobctl", "--port", "1", "add", "--target", "a", "--", "x=1=2",
        ])
        .unwrap();
        let Some(Command::Add(add)) = cli.command else {
            panic!("add")
        };
        assert_eq!(
            (cli.port, add.columns),
            (Some(1), vec![("x".to_owned(), "1=2".to_owned())])
        );
    }

    #[test]
    fn a_line_names_one_kind_of_daemon() {
        for line in ["--master status --worker", "status --master --worker"] {
            let words = ["jobctl"].into_iter().chain(line.split(' '));
            let error = Cli::read(words).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}");
            let text = error.to_string();
            assert!(
                text.contains("--master and --worker exclude each other"),
                "{text}"
            );
        }
    }

    #[test]
    fn what_a_line_of_the_shell_says_wins_over_its_options() {
        let inherited = |line: &str| {
            let read = |line: &str| Cli::read(line.split(' ')).unwrap();
            let mut cli = read(line);
            cli.inherit(&read("jobctl --master --host db --port 9 --json"));
            (cli.master, cli.worker, cli.host, cli.port, cli.json)
        };
        let db = || Some("db".to_owned());
        let expected = (true, false, db(), Some(9), true);
        assert_eq!(inherited("jobctl status"), expected);
        let expected = (true, false, Some("web1".to_owned()), Some(8), true);
        assert_eq!(inherited("jobctl --host web1 --port 8 status"), expected);
        let expected = (false, true, db(), None, true);
        assert_eq!(inherited("jobctl status --worker"), expected);
    }

    /// The lines of a command's help that begin with its program's name.
    fn examples(command: &clap::Command) -> Vec<String> {
        let help = command
            .get_after_help()
            .map(ToString::to_string)
            .unwrap_or_default();
        help.lines()
            .filter_map(|line| line.strip_prefix("  jobctl "))
            .map(|line| {
                let end = ["   ", " |", " >", " &&", " #"]
                    .iter()
                    .filter_map(|stop| line.find(stop))
                    .min();
                line[..end.unwrap_or(line.len())].to_owned()
            })
            .collect()
    }

    #[test]
    fn paragraphs_of_help_are_for_the_terminal_to_wrap() {
        for command in Cli::command().get_subcommands() {
            let help = command.get_after_help().map(ToString::to_string);
            for paragraph in help.unwrap_or_default().split("\n\n") {
                let is_one = paragraph.starts_with("Examples:") || !paragraph.contains('\n');
                assert!(is_one, "{}: {paragraph}", command.get_name());
            }
        }
    }

    #[test]
    fn help_fits_80_columns() {
        let mut all = Cli::command().term_width(80);
        all.build();
        for command in all.get_subcommands_mut() {
            let (name, help) = (command.get_name().to_owned(), command.render_long_help());
            for line in help.to_string().lines() {
                assert!(line.chars().count() <= 80, "{name}: {line}");
            }
        }
    }

    #[test]
    fn every_command_has_two_examples_that_it_understands() {
        for command in Cli::command().get_subcommands() {
            let examples = examples(command);
            assert!(examples.len() >= 2, "{}: {examples:?}", command.get_name());
            for example in examples {
                let words = shell_words(&example);
                let line = std::iter::once("jobctl").chain(words.iter().map(String::as_str));
                let parsed = Cli::try_parse_from(line);
                assert!(parsed.is_ok(), "{example}: {}", parsed.unwrap_err());
            }
        }
    }

    /// Words of a line whose quotes are single ones.
    fn shell_words(line: &str) -> Vec<String> {
        let mut words = Vec::new();
        for (at, part) in line.split('\'').enumerate() {
            if at % 2 == 1 {
                words.push(part.to_owned());
            } else {
                words.extend(part.split_whitespace().map(str::to_owned));
            }
        }
        words
    }

    #[test]
    fn words_of_other_tools_lead_to_ours() {
        let all = Cli::command();
        let names: Vec<&str> = all.get_subcommands().map(clap::Command::get_name).collect();
        for (words, ours) in mistakes::ELSEWHERE {
            for name in ours {
                assert!(names.contains(name), "{name} is no command");
            }
            for word in words {
                assert!(!names.contains(word), "{word} is a command");
                let error = Cli::read(["jobctl", word]).unwrap_err().to_string();
                for name in ours {
                    assert!(error.contains(&format!("'{name}'")), "{word}: {error}");
                }
            }
        }
        let error = Cli::read(["jobctl", "Resume"]).unwrap_err().to_string();
        assert!(!error.contains("prune"), "{error}");
    }

    #[test]
    fn what_would_do_instead_is_said() {
        for (line, said, not) in [
            ("status --watch 5s", "write --watch=5s", ""),
            ("add mail", "write --target mail", ""),
            ("list --json mail", "write --target mail", ""),
            ("list --master mail", "write --target mail", ""),
            ("list --status done mail", "argument 'mail'", "--target"),
            ("list --since 2h mail", "argument 'mail'", "--target"),
            (
                "list --since 2 hours ago",
                "write --since '2 hours ago'",
                "--target",
            ),
            ("list --since=2h ago", "write --since '2h ago'", "--target"),
            (
                "list --since 2h ago --json",
                "write --since '2h ago'",
                "--target",
            ),
            (
                "prune --older-than 30 days",
                "write --older-than '30 days'",
                "--target",
            ),
            ("cancel --all", "named by id: 17, 10-20 or last", "-- --all"),
            ("cancel --target mail", "named by id", "-- --target"),
            ("show 1 --all", "named by id: 17 or last", "10-20"),
            ("logs --lines 5 1", "argument '--lines'", "named by"),
            ("cancel -f 5", "argument '-f'", "-- -f"),
            (
                "run --target mail",
                "the target stands without an option: jobctl run TARGET",
                "-- --target",
            ),
            ("poke --target=mail", "option: jobctl poke TARGET", "--data"),
            (
                "set-target-concurrency --target mail 5",
                "option: jobctl set-target-concurrency TARGET CONCURRENCY",
                "-- --target",
            ),
            ("retry --all", "--failed takes all", "-- --all"),
            ("retry --faild", "'--failed'", "-- --faild"),
            ("pause --al", "unexpected argument '--al'", "-- --al"),
            ("help lst", "'list'", ""),
            ("help ps", "'status'", ""),
        ] {
            let words = ["jobctl"].into_iter().chain(line.split(' '));
            let error = Cli::read(words).unwrap_err().to_string();
            let is_silent = not.is_empty() || !error.contains(not);
            assert!(error.contains(said) && is_silent, "{line}: {error}");
        }
        for (words, said) in [
            (["add", "a b"].as_slice(), "write --target 'a b'"),
            (&["status", "--watch", "5 s"], "write --watch='5 s'"),
        ] {
            let words = ["jobctl"].iter().chain(words);
            let error = Cli::read(words).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn near_misses_are_suggested() {
        for (wrong, near) in [
            (&["staus"][..], "'status'"),
            (&["run-manal", "1"], "'run-manual'"),
            (&["list", "--taget", "a"], "'--target'"),
            (&["status", "--log-level", "wran"], "'warn'"),
        ] {
            let words = ["jobctl"].iter().chain(wrong);
            let error = Cli::try_parse_from(words).unwrap_err().to_string();
            assert!(error.contains(near), "{error}");
        }
    }
}
