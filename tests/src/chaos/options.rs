//! What a run of the suite is asked for.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};

use super::job::{FED, LONG, STUCK, TARGETS};

/// Which table the jobs stand in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Table {
    /// `sql/mysql/jobs-minimal.sql`. Only a worker itself can tell what it left, so a worker that is killed comes back.
    Minimal,
    /// `sql/mysql/jobs.sql`: ownership, so that workers are lost and frozen too.
    Full,
}

/// Puts jobd under load and faults, and fails when a promise was not kept.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is an argument of its own"
)]
#[derive(Clone, Debug, Parser)]
#[command(name = "tests/chaos/run", version, max_term_width = 100)]
pub struct Options {
    /// How long faults go on. Start, last jobs and checks come on top: up to two minutes
    #[arg(long, default_value_t = 1.0, value_parser = minutes)]
    pub minutes: f64,
    /// Repeats the faults of a run. Without it a new one is drawn and printed
    #[arg(long)]
    pub seed: Option<u64>,
    /// The table
    #[arg(long, value_enum, default_value = "minimal")]
    pub table: Table,
    /// On a Galera cluster of three nodes, with faults of its own
    #[arg(long)]
    pub galera: bool,
    /// On an SQLite file: three workers that share it, with the faults that there are without a server
    #[arg(long, conflicts_with_all = ["galera", "only", "hold", "long_jobs"])]
    pub sqlite: bool,
    /// Adds jobs that outlive a lease: what is left of them when a worker dies must end in time
    #[arg(long)]
    pub long_jobs: bool,
    /// Jobs a second that the applications insert, about
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(5..=1_000))]
    pub rate: u64,
    /// With jobd-faulty for the workers, which also dies at given points of its code
    #[arg(long)]
    pub crash_points: bool,
    /// Freezes, outages and cut lines last so long, in seconds, instead of up to 10
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    pub hold: Option<u64>,
    /// Only faults whose names contain this, or one of these: 'SIGTERM,answer to COMMIT'
    #[arg(long)]
    pub only: Option<String>,
    /// A small file system of this run's own, to be filled up (tests/chaos/run makes it)
    #[arg(long, hide = true)]
    pub small_disk: Option<PathBuf>,
}

impl Options {
    /// The targets of this run, and the slots that each worker has for them.
    pub fn targets(&self) -> Vec<(&'static str, u32)> {
        let takes_part = |name| match name {
            LONG => self.long_jobs,
            STUCK | FED => self.table == Table::Full,
            _ => true,
        };
        let targets = TARGETS.into_iter();
        targets.filter(|(name, _)| takes_part(*name)).collect()
    }

    /// How long faults go on.
    pub fn duration(&self) -> Duration {
        Duration::from_secs_f64(self.minutes * 60.0)
    }
}

fn minutes(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(minutes) if (0.1..=600.0).contains(&minutes) => Ok(minutes),
        _ => Err("must be a number from 0.1 to 600".to_owned()),
    }
}
