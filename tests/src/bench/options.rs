//! What a run of the benchmark is asked for.

use std::path::PathBuf;

use clap::Parser;

use super::scenarios;

/// Measures jobd beside its yardsticks on a durable database of its own, and prints a table.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "tests/bench/run",
    version,
    max_term_width = 100,
    after_help = "\
Examples:
  tests/bench/run --list                         what can be measured
  tests/bench/run throughput                     jobs a second, beside the kernel's spawn ceiling
  tests/bench/run --repeats 9 latency idle       two scenarios, nine turns each
  tests/bench/run backlog --keep ~/bench-data    keep the filled tables for the next run
  tests/bench/run --quick --check                the short form of CI, and whether a ratio got worse
  tests/bench/run --json new.json --plots plots  for machines, and curves
  tests/bench/compare new.json                   a stored result with tests/bench/baseline.json

Exit codes: 0 measured, 1 a ratio got worse or a measurement failed, 2 usage, 130 interrupted."
)]
pub struct Options {
    /// Scenarios, as --list names them; none means all
    #[arg(value_name = "NAME", value_parser = scenarios::known)]
    pub names: Vec<String>,
    /// Print the scenarios and what they measure
    #[arg(long)]
    pub list: bool,
    /// The short form: small numbers, under a minute and a half in all
    #[arg(long)]
    pub quick: bool,
    /// Turns: each figure is measured so often, alternating with its yardstick [default: 5, with --quick 3]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub repeats: Option<u32>,
    /// Write the results to FILE
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write the curves to FOLDER, as SVG
    #[arg(long, value_name = "FOLDER")]
    pub plots: Option<PathBuf>,
    /// Keep large tables in FOLDER between runs: ten million rows take minutes to fill in
    #[arg(long, value_name = "FOLDER")]
    pub keep: Option<PathBuf>,
    /// Afterwards compare the ratios with the baseline, and fail where one got worse
    #[arg(long)]
    pub check: bool,
    /// The ratios to compare with
    #[arg(long, value_name = "FILE", default_value = "tests/bench/baseline.json")]
    pub baseline: PathBuf,
    /// Measure nothing: compare the result in FILE (tests/bench/compare does)
    #[arg(long, value_name = "FILE", hide = true)]
    pub compare: Option<PathBuf>,
    /// Measure nothing: take the ratios of FILE over into the baseline (tests/bench/compare --adopt does)
    #[arg(long, value_name = "FILE", hide = true, conflicts_with = "compare")]
    pub adopt: Option<PathBuf>,
}

impl Options {
    /// How often each figure is measured.
    pub fn turns(&self) -> u32 {
        self.repeats.unwrap_or(if self.quick { 3 } else { 5 })
    }

    /// The second number in the short form.
    pub fn size<T>(&self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }
}
