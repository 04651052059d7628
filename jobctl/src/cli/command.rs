//! The commands, each with its help and two real examples. A test parses every example.

use std::path::PathBuf;
use std::time::Duration;

use clap::Subcommand;
use clap_complete::Shell;
use jobd_proto::TargetName;

use super::args::{
    AddArgs, CancelArgs, ExportArgs, FollowArgs, LimitArgs, ListArgs, LogsArgs, PruneArgs,
    RetryArgs, RunArgs, SignalArgs, StatsArgs, StatusArgs, TargetArgs, TargetSlots, WaitArgs,
};
use super::values::{Id, JobRef, parse_pause};

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show targets and workers: slots, what waits and runs, what is slow or failed
    #[command(
        after_help = "Without a daemon it shows what the table says, and says so. With a table in the config: WAITING \
and OLDEST are counted by index, up to 10,000 rows a target; FAIL/1h and P95 are of the newest \
5,000 rows; SLOW are running for longer than a minute and twice the P95. A look costs some \
milliseconds and locks nothing. Ends with 1 if a worker could not be asked, 3 if the daemon or the \
table could not.

Examples:
  jobctl --master status          the whole cluster
  jobctl status                   the worker on this host
  jobctl --master status --watch=5s
  jobctl --host db2 status --json"
    )]
    Status(StatusArgs),

    /// Show targets, workers and running jobs live, and steer them with keys
    #[command(
        after_help = "Keys: Tab and arrows choose; p pauses a target or continues it; + and - change its limit, among \
workers on the chosen one, after a question, else on all that serve it, after one where they are \
several; x cancels a job, after a question; f or Enter follows its output; Ctrl-L draws the screen anew; q or Ctrl-C \
leaves, with the terminal as it was. Needs a table in the config \
for the running jobs. Each look costs what a status costs.

Examples:
  jobctl --master top
  jobctl --host web3 top --every 5s"
    )]
    Top {
        /// Between two looks
        #[arg(long, value_name = "TIME", default_value = "2s", value_parser = parse_pause)]
        every: Duration,
    },

    /// Worker: list its targets
    #[command(after_help = "Examples:
  jobctl list-targets
  jobctl --host web3 list-targets")]
    ListTargets,

    /// Master: list registered workers
    #[command(after_help = "Examples:
  jobctl --master list-workers
  jobctl --master list-workers --json | jq -r '.workers[].name'")]
    ListWorkers,

    /// Show the memory of the daemon
    #[command(after_help = "Examples:
  jobctl memory-usage
  jobctl --master memory-usage --json")]
    MemoryUsage,

    /// Worker: look for waiting jobs now
    #[command(after_help = "Examples:
  jobctl poll              all targets
  jobctl poll mail 1/low")]
    Poll(TargetArgs),

    /// Master: have the workers of these targets look for waiting jobs now
    #[command(after_help = "Examples:
  jobctl --master poke          all targets
  jobctl --master poke mail")]
    Poke(TargetArgs),

    /// Start no more jobs of these targets; running ones go on
    #[command(
        after_help = "It is not kept: a restart of the worker starts them again.

Examples:
  jobctl pause mail              on one worker
  jobctl --master pause          everything, everywhere"
    )]
    Pause(TargetArgs),

    /// Start jobs of these targets again
    #[command(after_help = "Examples:
  jobctl continue mail
  jobctl --master continue")]
    Continue(TargetArgs),

    /// Change how many jobs of a target may run at a time
    #[command(
        after_help = "Of a worker, or through a master of each worker that serves the target, or of one of them. The config \
is not changed: a restart brings its value back. Ends with 1 if a worker did not do it.

Examples:
  jobctl set-target-concurrency mail 8
  jobctl --master set-target-concurrency mail 8
  jobctl --master set-target-concurrency mail 8 --on web3"
    )]
    SetTargetConcurrency(LimitArgs),

    /// Worker: serve one more target
    #[command(after_help = "The config is not changed: a restart forgets the target.

Examples:
  jobctl add-target reports 2
  jobctl --host web3 add-target 1/low 1")]
    AddTarget(TargetSlots),

    /// Worker: serve a target no longer; it must have no jobs queued or running
    #[command(after_help = "Examples:
  jobctl pause reports && jobctl remove-target reports
  jobctl --host web3 remove-target reports")]
    RemoveTarget {
        /// Its name
        target: TargetName,
    },

    /// Run jobs of status `manual` now, wait for them and show how they ended
    #[command(
        after_help = "A master needs the target of each job; with a database in the config it is looked up. Ends with 1 \
if any of them failed or could not run.

Examples:
  jobctl run-manual 17 18
  jobctl --master run-manual 17:mail
  jobctl run-manual 17 --json | jq -r '.jobs[\"17\"].stdout'"
    )]
    RunManual {
        /// Ids of jobs, 10-20, or last
        #[arg(required = true, value_name = "ID[:TARGET]")]
        jobs: Vec<JobRef>,
    },

    /// End jobs: queued ones at once, running ones with all their processes
    #[command(
        after_help = "A running job gets SIGTERM and, if it does not end, SIGKILL, as its target's settings say. \
Cancelled jobs are done, failed, and never run again: it says first which they are, where they \
stand, and asks. Ends with 1 if any had ended by itself, or was not found. \
Without a daemon in reach the request is written into the rows, where the table has the column \
cancel_requested.

Examples:
  jobctl cancel 17 18
  jobctl --master cancel 100-120 --yes      a script is not asked"
    )]
    Cancel(CancelArgs),

    /// Send a signal to running jobs: to the launched process, not to its children
    #[command(
        after_help = "To end a job with all its processes use jobctl cancel. A master needs the target of each job; with \
a database in the config it is looked up. Ends with 1 if any of them was not running there. Asks \
where they were not named one by one.

Examples:
  jobctl send-signal TERM 17
  jobctl --master send-signal 9 17:mail 18:mail"
    )]
    SendSignal(SignalArgs),

    /// Insert jobs into the table, as an application would, and poke
    #[command(
        after_help = "Needs mysql_* or sqlite_path in the config. Without a daemon in reach the rows are added all the \
same, and a worker that serves them finds them within its poll_interval.

With --wait it ends with the job's exit code, 128 + signal number after a signal; of several jobs \
with 1 if any failed.

Examples:
  jobctl add --target mail
  jobctl add --target mail --count 50 --wait
  jobctl add --target mail --data '{\"to\":7}' -- name=welcome
  jobctl add --target mail --manual"
    )]
    Add(AddArgs),

    /// Run one job now, as if it were a command here: its output, its exit code
    #[command(
        after_help = "Adds a row of status manual, has the worker or master run it whatever else waits, shows the output \
and ends with the job's exit code, 128 + signal number after a signal. Nothing is added where the \
daemon cannot be reached, does not say whom it serves (a wrong password, no answer), or knows of \
nobody who serves the target. After Ctrl-C the job goes on.

Examples:
  jobctl run reports
  jobctl --master run mail --data '{\"to\":7}' -- name=welcome"
    )]
    Run(RunArgs),

    /// List jobs of the table, the newest first
    #[command(
        after_help = "Needs mysql_* or sqlite_path in the config. Reads by index where target or status name few rows, \
else the table from its end, 5,000 rows at a time and at most a million; --since ends that sooner. \
It locks nothing.

Examples:
  jobctl list --since 2h --result fail
  jobctl list --target mail --status running
  jobctl list --columns id,target,worker,attempts
  jobctl list --limit 1000 --json | jq '.jobs[] | select(.result == \"fail\").id'"
    )]
    List(ListArgs),

    /// Show everything that the table knows of one job, with its output
    #[command(after_help = "Needs mysql_* or sqlite_path in the config.

Examples:
  jobctl show last
  jobctl show 17 --json | jq -r .stdout")]
    Show {
        /// Its id, or last
        id: Id,
    },

    /// Show the output of one job and nothing else
    #[command(
        after_help = "Needs mysql_* or sqlite_path in the config, but for -f. Standard output and standard error of the \
job go to the same ones here; in a pipe byte for byte, on a terminal without what could steer it. \
With -f the worker, or with --master whichever has the job, tells what it writes; where neither \
can be asked, the row does when the job is done.

Examples:
  jobctl logs last
  jobctl logs 17 -f
  jobctl logs 17 | sort | uniq -c"
    )]
    Logs(LogsArgs),

    /// Show what a job writes, while it writes it, and end as it does
    #[command(
        after_help = "Asks a worker for its own jobs, a master for those of all its workers. What is older than --tail \
stands in the row once the job is done: jobctl logs ID.

Examples:
  jobctl --master follow 17
  jobctl --master follow 17 --wait > out 2> err
  jobctl follow 17 --tail 0 --json"
    )]
    Follow(FollowArgs),

    /// Wait until jobs are done and end as they did
    #[command(
        after_help = "Needs mysql_* or sqlite_path in the config. Looks at the rows every half a second or sooner. Of \
one job it ends with its exit code, 128 + signal number after a signal; of several with 1 if any \
failed; with --any as the first one did.

Examples:
  jobctl wait 17 18 19 --timeout 5m
  jobctl wait last && echo done
  jobctl wait 17 18 --any --json"
    )]
    Wait(WaitArgs),

    /// Have jobs that failed run once more
    #[command(
        after_help = "Their rows become waiting again with all their attempts; what the failed run left in them (times, \
code, output) is gone. Only rows that are done and failed are touched. A job whose verdict is \
`orphaned` may still run on a host that is cut off: look there first. What was cancelled is left \
out unless its id is typed. With --failed it says how many of which targets and asks; it reads the rows added since then, 5,000 at a time.

Examples:
  jobctl retry 17 18
  jobctl retry --failed --since 2h --target mail
  jobctl retry --failed --since 2026-11-22T14:00 --yes"
    )]
    Retry(RetryArgs),

    /// Count runs and failures, and how long they took: mean, p50, p95, p99
    #[command(
        after_help = "Needs mysql_* or sqlite_path in the config. Counts jobs that were added since then and are done; \
reads the table from its end, 5,000 rows at a time, at most --limit rows, and locks nothing: \
100,000 rows are about half a second of the server's time.

Examples:
  jobctl stats
  jobctl stats --target mail --since 30d --limit 1000000
  jobctl stats --since 2h --json | jq '.targets[] | select(.failures > 0)'"
    )]
    Stats(StatsArgs),

    /// Look for what is wrong, and say what mends it
    #[command(
        after_help = "Looks at the config, at the daemon and its workers, and at the table: columns, indexes, clocks, \
rows that nobody moves, targets that nobody serves. Changes nothing. Costs what a status costs. \
Ends with 1 if anything is an error; warnings alone end with 0.

Examples:
  jobctl --master doctor
  jobctl doctor --json | jq -r '.findings[] | select(.level == \"error\") | .mend'"
    )]
    Doctor,

    /// Write rows out, one JSON object a line
    #[command(
        after_help = "Needs mysql_* or sqlite_path in the config. Every column of every row, the oldest first, outputs \
too; read 500 rows at a time without a lock, so rows that change meanwhile may be of either state.

Examples:
  jobctl export --json-lines --since 30d > jobs.jsonl
  jobctl export --json-lines --target mail --status done | gzip > mail.jsonl.gz"
    )]
    Export(ExportArgs),

    /// Delete jobs that ended long ago
    #[command(
        after_help = "Needs mysql_* or sqlite_path in the config, and the right to DELETE. Only rows that are done or \
ignored and finished before then are touched. It says how many of which targets and asks; deletes \
500 rows at a time, each batch a transaction of its own; Ctrl-C stops between two and loses \
nothing. It reads the table from its start up to rows added after that time.

Examples:
  jobctl prune --older-than 30d --dry-run
  jobctl prune --older-than 90d --target mail --result ok --yes
  jobctl prune --older-than 30d --print-sql"
    )]
    Prune(PruneArgs),

    /// Create the job table that the config names, on SQLite the file too
    #[command(
        after_help = "The columns are those that jobd needs, with --full also those of every ability: retries, jobs for \
later, priorities and more. Add your own as you like. A table that exists is not touched.

Examples:
  jobctl create-table --full
  jobctl --config /tmp/jobctl.conf create-table"
    )]
    CreateTable {
        /// With the columns of every ability
        #[arg(long)]
        full: bool,
    },

    /// Print a completion script for a shell
    #[command(after_help = "Examples:
  jobctl completions bash > /etc/bash_completion.d/jobctl
  jobctl completions fish > ~/.config/fish/completions/jobctl.fish")]
    Completions {
        /// The shell
        shell: Shell,
    },

    /// Print the manual page, or write one for each command into a folder
    #[command(after_help = "Examples:
  jobctl man | man -l -
  jobctl man --into /usr/local/share/man/man1")]
    Man {
        /// The folder, which must be there
        #[arg(long, value_name = "FOLDER")]
        into: Option<PathBuf>,
    },
}
