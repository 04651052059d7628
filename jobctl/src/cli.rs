//! The command line as it is written: clap's view, nothing resolved yet. Help texts stand here.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use jobd_proto::settings::LogLevel;
use jobd_proto::{JobId, TargetName, signal};

/// Rows that one `add` may insert: they go in as one transaction.
const MOST_ROWS: i64 = 100_000;

const ABOUT: &str = "Look at and steer jobd workers, a jobd-master and the job table.

Without --master it talks to the worker on 127.0.0.1:7080, with it to the master on \
127.0.0.1:7081. Defaults for all of this can stand in ~/.jobctl.conf: master, host, port, \
password, log_level, and mysql_* or sqlite_path for the commands that use the table.";

const EXIT_CODES: &str = "Exit codes: 0 ok, 1 refused or failed, 2 usage, 3 not reachable. \
`add --wait` ends with the exit code of its job.";

/// All of the command line.
#[expect(
    clippy::struct_excessive_bools,
    reason = "switches of a command line are what they are"
)]
#[derive(Debug, Parser)]
#[command(name = "jobctl", version, about = "Look at and steer a jobd cluster", long_about = ABOUT)]
#[command(after_help = EXIT_CODES, propagate_version = true)]
pub(crate) struct Cli {
    /// Talk to a jobd-master instead of a worker
    #[arg(
        long,
        global = true,
        help_heading = "Options of every command",
        conflicts_with = "worker"
    )]
    pub(crate) master: bool,

    /// Talk to a worker although the config says `master = 1`
    #[arg(long, global = true, help_heading = "Options of every command")]
    pub(crate) worker: bool,

    /// Where the daemon is [default: 127.0.0.1]
    #[arg(
        long,
        global = true,
        help_heading = "Options of every command",
        value_name = "H"
    )]
    pub(crate) host: Option<String>,

    /// Its port [default: 7080, with --master 7081]
    #[arg(long, global = true, help_heading = "Options of every command", value_name = "P", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) port: Option<u16>,

    /// Config file [default: ~/.jobctl.conf]
    #[arg(
        long,
        global = true,
        help_heading = "Options of every command",
        value_name = "F"
    )]
    pub(crate) config: Option<PathBuf>,

    /// Ask for the daemon's password on the terminal
    #[arg(long, global = true, help_heading = "Options of every command")]
    pub(crate) password: bool,

    /// Least level of what is told on standard error [default: warn]
    #[arg(long, global = true, help_heading = "Options of every command", value_name = "L", value_parser = log_levels())]
    pub(crate) log_level: Option<LogLevel>,

    /// Print JSON instead of tables
    #[arg(long, global = true, help_heading = "Options of every command")]
    pub(crate) json: bool,

    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show workers, targets, slots and what is queued, running and paused
    #[command(
        after_help = "Examples:\n  jobctl --master status          the whole cluster\n  jobctl status                   the worker on this host\n  jobctl --host db2 status --json"
    )]
    Status,

    /// Worker: list its targets
    #[command(after_help = "Example:\n  jobctl --host web3 list-targets")]
    ListTargets,

    /// Master: list registered workers
    #[command(after_help = "Example:\n  jobctl --master list-workers")]
    ListWorkers,

    /// Show the memory of the daemon
    #[command(
        after_help = "Examples:\n  jobctl memory-usage\n  jobctl --master memory-usage --json"
    )]
    MemoryUsage,

    /// Worker: look for waiting jobs now
    #[command(
        after_help = "Examples:\n  jobctl poll              all targets\n  jobctl poll mail 1/low"
    )]
    Poll(TargetArgs),

    /// Master: have the workers of these targets look for waiting jobs now
    #[command(
        after_help = "Examples:\n  jobctl --master poke          all targets\n  jobctl --master poke mail"
    )]
    Poke(TargetArgs),

    /// Start no more jobs of these targets; running ones go on
    #[command(
        after_help = "Examples:\n  jobctl pause mail              on one worker\n  jobctl --master pause          everything, everywhere"
    )]
    Pause(TargetArgs),

    /// Start jobs of these targets again
    #[command(after_help = "Examples:\n  jobctl continue mail\n  jobctl --master continue")]
    Continue(TargetArgs),

    /// Worker: change how many jobs of a target may run at a time
    #[command(
        after_help = "The config is not changed: a restart brings its value back.\n\nExample:\n  jobctl set-target-concurrency mail 8"
    )]
    SetTargetConcurrency(TargetSlots),

    /// Worker: serve one more target
    #[command(
        after_help = "The config is not changed: a restart forgets the target.\n\nExample:\n  jobctl add-target reports 2"
    )]
    AddTarget(TargetSlots),

    /// Worker: serve a target no longer; it must have no jobs queued or running
    #[command(after_help = "Example:\n  jobctl pause reports && jobctl remove-target reports")]
    RemoveTarget {
        /// Its name
        target: TargetName,
    },

    /// Run jobs of status `manual` now, wait for them and show how they ended
    #[command(
        after_help = "A master needs the target of each job; with a database in the config it is looked up.\nEnds with 1 if any of them failed or could not run.\n\nExamples:\n  jobctl run-manual 17 18\n  jobctl --master run-manual 17:mail\n  jobctl run-manual 17 --json | jq -r '.jobs[\"17\"].stdout'"
    )]
    RunManual {
        /// Jobs to run
        #[arg(required = true, value_name = "ID[:TARGET]")]
        jobs: Vec<JobRef>,
    },

    /// Send a signal to the processes of running jobs
    #[command(
        after_help = "A master needs the target of each job; with a database in the config it is looked up.\nEnds with 1 if any of them was not running there.\n\nExamples:\n  jobctl send-signal TERM 17\n  jobctl --master send-signal 9 17:mail 18:mail"
    )]
    SendSignal {
        /// Name or number: TERM, SIGTERM or 15
        #[arg(value_parser = parse_signal)]
        signal: i32,
        /// Running jobs
        #[arg(required = true, value_name = "ID[:TARGET]")]
        jobs: Vec<JobRef>,
    },

    /// Insert jobs into the table, as an application would, and poke
    #[command(
        after_help = "Needs mysql_* or sqlite_path in the config. Without a daemon in reach the rows are added all\nthe same, and workers find them by themselves.\n\nWith --wait it ends with the job's exit code, 128 + signal number after a signal; of several\njobs with 1 if any failed.\n\nExamples:\n  jobctl add --target mail\n  jobctl add --target mail --count 50 --wait\n  jobctl add --target mail --data '{\"to\":7}' -- name=welcome\n  jobctl add --target mail --manual"
    )]
    Add(AddArgs),

    /// List jobs of the table, the newest first
    #[command(
        after_help = "Needs mysql_* or sqlite_path in the config.\n\nExamples:\n  jobctl list\n  jobctl list --target mail --status running\n  jobctl list --limit 1000 --json | jq '.jobs[] | select(.result == \"fail\") | .id'"
    )]
    List(ListArgs),

    /// Show everything that the table knows of one job, with its output
    #[command(
        after_help = "Needs mysql_* or sqlite_path in the config.\n\nExamples:\n  jobctl show 17\n  jobctl show 17 --json | jq -r .stdout"
    )]
    Show {
        /// Its id
        id: JobId,
    },

    /// Create the job table that the config names, on SQLite the file too
    #[command(
        after_help = "The columns are those of sql/mysql/jobs-minimal.sql or sql/sqlite/jobs-minimal.sql; add your\nown as you like. A table that exists is not touched.\n\nExample:\n  echo 'sqlite_path = /tmp/jobs.db' > /tmp/jobctl.conf\n  jobctl --config /tmp/jobctl.conf create-table"
    )]
    CreateTable,

    /// Print a completion script for a shell
    #[command(
        after_help = "Examples:\n  jobctl completions bash > /etc/bash_completion.d/jobctl\n  jobctl completions fish > ~/.config/fish/completions/jobctl.fish"
    )]
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// Targets to act on.
#[derive(Debug, Args)]
pub(crate) struct TargetArgs {
    /// Names of targets; none means all
    #[arg(value_name = "TARGET")]
    pub(crate) targets: Vec<TargetName>,
}

/// A target and how many of its jobs may run at a time.
#[derive(Debug, Args)]
pub(crate) struct TargetSlots {
    /// Its name
    pub(crate) target: TargetName,
    /// Jobs that may run at a time
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) concurrency: u32,
}

/// Rows to insert.
#[derive(Debug, Args)]
pub(crate) struct AddArgs {
    /// Target that shall run it
    #[arg(long, value_name = "T")]
    pub(crate) target: TargetName,
    /// Run only when asked for by id (`run-manual`)
    #[arg(long, conflicts_with = "wait")]
    pub(crate) manual: bool,
    /// For the column `data`; `-` reads it from standard input
    #[arg(long)]
    pub(crate) data: Option<String>,
    /// How many of them
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=MOST_ROWS))]
    pub(crate) count: u32,
    /// Wait until they are done and end as they did
    #[arg(long)]
    pub(crate) wait: bool,
    /// Give up waiting after so long (30, 500ms, 5m, 2h), with exit code 1; the jobs go on
    #[arg(long, requires = "wait", value_name = "TIME", value_parser = parse_time)]
    pub(crate) timeout: Option<Duration>,
    /// Values for columns of your own
    #[arg(last = true, value_name = "COLUMN=VALUE", value_parser = parse_column)]
    pub(crate) columns: Vec<(String, String)>,
}

/// Which rows to list.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Only this target
    #[arg(long, value_name = "T")]
    pub(crate) target: Option<String>,
    /// Only this status: waiting, manual, accepted, running, done, ignored
    #[arg(long, value_name = "S")]
    pub(crate) status: Option<String>,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=MOST_ROWS))]
    pub(crate) limit: u32,
}

/// `ID` or `ID:TARGET`. The first colon separates, so that a target may hold more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JobRef {
    pub(crate) id: JobId,
    pub(crate) target: Option<String>,
}

impl FromStr for JobRef {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (id, target) = match text.split_once(':') {
            Some((id, target)) => (id, Some(TargetName::new(target)?.to_string())),
            None => (text, None),
        };
        Ok(Self {
            id: id.parse()?,
            target,
        })
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

fn parse_signal(text: &str) -> Result<i32, String> {
    signal::number(text)
        .ok_or_else(|| "not a signal: write a name like TERM or a number from 1 to 64".to_owned())
}

fn parse_column(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((column, value)) if !column.is_empty() => Ok((column.to_owned(), value.to_owned())),
        _ => Err("not of the form COLUMN=VALUE".to_owned()),
    }
}

/// Seconds, or a number with `ms`, `s`, `m` or `h`; at most a year, so that sums stay in range.
fn parse_time(text: &str) -> Result<Duration, String> {
    const YEAR: f64 = 365.0 * 86_400.0;
    let units = [("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
    let unit = units
        .iter()
        .find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, *factor)));
    let (number, factor) = unit.unwrap_or((text, 1.0));
    match number.trim_end().parse::<f64>() {
        Ok(number) if (0.0..=YEAR).contains(&(number * factor)) => {
            Ok(Duration::from_secs_f64(number * factor))
        }
        _ => Err("not a time: write 30 (seconds), 500ms, 5m or 2h".to_owned()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_declaration_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_job_is_an_id_with_or_without_a_target() {
        let job = |id, target: Option<&str>| JobRef {
            id: JobId(id),
            target: target.map(str::to_owned),
        };
        assert_eq!("17".parse(), Ok(job(17, None)));
        assert_eq!("17:a:b/c".parse(), Ok(job(17, Some("a:b/c"))));
        for wrong in ["", "x", "17:", "-1", ":mail"] {
            assert!(wrong.parse::<JobRef>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn times_have_units() {
        for (text, ms) in [
            ("30", 30_000),
            ("500ms", 500),
            ("1.5s", 1500),
            ("2m", 120_000),
            ("1h", 3_600_000),
            ("0", 0),
        ] {
            assert_eq!(parse_time(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for wrong in ["", "m", "-1", "nan", "inf", "1d", "1e300"] {
            assert!(parse_time(wrong).is_err(), "{wrong:?}");
        }
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
        let Command::Add(add) = cli.command else {
            panic!("add")
        };
        assert_eq!(
            (cli.port, add.columns),
            (Some(1), vec![("x".to_owned(), "1=2".to_owned())])
        );
    }
}
