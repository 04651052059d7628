//! The arguments of commands that take more than one or two.

use std::time::Duration;

use clap::Args;
use jobd_proto::TargetName;

use super::MOST_ROWS;
use super::values::{
    Id, Ids, JobRef, When, parse_column, parse_duration, parse_pause, parse_signal,
};

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

/// How many jobs of a target may run at a time, and where.
#[derive(Debug, Args)]
pub(crate) struct LimitArgs {
    #[command(flatten)]
    pub(crate) slots: TargetSlots,
    /// Through a master: only on the worker of this name, not on all that serve the target
    #[arg(long, value_name = "NAME")]
    pub(crate) on: Option<String>,
}

/// What `status` shows.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct StatusArgs {
    /// Show it again every 2 s, or so often, until Ctrl-C
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, default_missing_value = "2s", value_parser = parse_pause)]
    pub(crate) watch: Option<Duration>,
    /// Every target and worker, however many lines that takes
    #[arg(long)]
    pub(crate) all: bool,
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
    #[arg(long, requires = "wait", value_name = "TIME", value_parser = parse_duration)]
    pub(crate) timeout: Option<Duration>,
    /// Values for columns of your own
    #[arg(last = true, value_name = "COLUMN=VALUE", value_parser = parse_column)]
    pub(crate) columns: Vec<(String, String)>,
}

/// A job to run at once.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Target that shall run it
    #[arg(value_name = "TARGET")]
    pub(crate) target: TargetName,
    /// For the column `data`; `-` reads it from standard input
    #[arg(long)]
    pub(crate) data: Option<String>,
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
    /// Only this status: waiting, scheduled, manual, accepted, running, done, ignored
    #[arg(long, value_name = "S")]
    pub(crate) status: Option<String>,
    /// Only done jobs with this result
    #[arg(long, value_name = "R", value_parser = ["ok", "fail"])]
    pub(crate) result: Option<String>,
    /// Only jobs added since then: 2h, 14:00, yesterday, 2026-11-22
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<When>,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=MOST_ROWS))]
    pub(crate) limit: u32,
    /// Show these columns of the table instead: id,target,worker
    #[arg(long, value_name = "C", value_delimiter = ',')]
    pub(crate) columns: Vec<String>,
}

/// Jobs to end.
#[derive(Debug, Args)]
pub(crate) struct CancelArgs {
    /// Ids, 10-20, or last
    #[arg(required = true, value_name = "ID")]
    pub(crate) jobs: Vec<JobRef>,
    /// Do not ask; needed where nobody can be asked
    #[arg(short, long)]
    pub(crate) yes: bool,
}

/// A signal and whom to send it to.
#[derive(Debug, Args)]
pub(crate) struct SignalArgs {
    /// Name or number: TERM, SIGTERM or 15
    #[arg(value_parser = parse_signal)]
    pub(crate) signal: i32,
    /// Ids of running jobs, 10-20, or last
    #[arg(required = true, value_name = "ID[:TARGET]")]
    pub(crate) jobs: Vec<JobRef>,
    /// Do not ask; needed where nobody can be asked
    #[arg(short, long)]
    pub(crate) yes: bool,
}

/// Whose output to show.
#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// Its id, or last
    pub(crate) id: Id,
    /// Show what it has written so far, and what it writes until its end
    #[arg(short, long)]
    pub(crate) follow: bool,
}

/// Whom to follow.
#[derive(Debug, Args)]
pub(crate) struct FollowArgs {
    /// Its id, or last
    pub(crate) id: Id,
    /// Wait for its start, if it has not started
    #[arg(long)]
    pub(crate) wait: bool,
    /// Begin with so many bytes of what it wrote before [default: 65536]
    #[arg(long, value_name = "BYTES")]
    pub(crate) tail: Option<u32>,
}

/// What to wait for.
#[derive(Debug, Args)]
pub(crate) struct WaitArgs {
    /// Ids, 10-20, or last
    #[arg(required = true, value_name = "ID")]
    pub(crate) ids: Vec<Ids>,
    /// End with the first of them
    #[arg(long)]
    pub(crate) any: bool,
    /// Give up after so long, with exit code 1; the jobs go on
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(crate) timeout: Option<Duration>,
}

/// What to run once more.
#[derive(Debug, Args)]
pub(crate) struct RetryArgs {
    /// Ids, 10-20, or last
    #[arg(value_name = "ID", conflicts_with_all = ["failed", "since", "target"])]
    pub(crate) ids: Vec<Ids>,
    /// Every job that failed
    #[arg(long, requires = "since")]
    pub(crate) failed: bool,
    /// Of those added since then: 2h, 14:00, yesterday, 2026-11-22
    #[arg(long, value_name = "TIME", requires = "failed")]
    pub(crate) since: Option<When>,
    /// Of this target
    #[arg(long, value_name = "T", requires = "failed")]
    pub(crate) target: Option<String>,
    /// Do not ask; needed where nobody can be asked
    #[arg(short, long)]
    pub(crate) yes: bool,
}

/// Which runs to count.
#[derive(Debug, Args)]
pub(crate) struct StatsArgs {
    /// Only this target
    #[arg(long, value_name = "T")]
    pub(crate) target: Option<String>,
    /// Jobs added since then: 2h, 14:00, yesterday, 2026-11-22
    #[arg(long, value_name = "TIME", default_value = "24h")]
    pub(crate) since: When,
    /// Of these the newest so many
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(crate) limit: u32,
}

/// Which rows to write out.
#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// One JSON object a line; the only form there is
    #[arg(long, required = true)]
    pub(crate) json_lines: bool,
    /// Only this target
    #[arg(long, value_name = "T")]
    pub(crate) target: Option<String>,
    /// Only this status
    #[arg(long, value_name = "S")]
    pub(crate) status: Option<String>,
    /// Only jobs added since then: 2h, 14:00, yesterday, 2026-11-22
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<When>,
}

/// Which rows to delete.
#[derive(Debug, Args)]
pub(crate) struct PruneArgs {
    /// Jobs that ended longer ago than this: 30d, 2026-11-22
    #[arg(long, value_name = "TIME")]
    pub(crate) older_than: When,
    /// Only this target
    #[arg(long, value_name = "T")]
    pub(crate) target: Option<String>,
    /// Only those with this result
    #[arg(long, value_name = "R", value_parser = ["ok", "fail"])]
    pub(crate) result: Option<String>,
    /// Say what it would delete, and delete nothing
    #[arg(long, conflicts_with_all = ["print_sql", "yes"])]
    pub(crate) dry_run: bool,
    /// Print the statement instead, for a scheduler of the database
    #[arg(long, conflicts_with = "yes")]
    pub(crate) print_sql: bool,
    /// Do not ask; needed where nobody can be asked
    #[arg(short, long)]
    pub(crate) yes: bool,
}
