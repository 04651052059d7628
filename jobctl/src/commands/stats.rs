//! `stats`: how many jobs of each target ran and failed lately, and how long they took.

use std::collections::BTreeMap;

use jobd_proto::table::{Filter, JobRow, Scan, WINDOW};
use serde::Serialize;

use super::Context;
use super::rows::hint_at;
use crate::cli::StatsArgs;
use crate::database;
use crate::failure::Failure;
use crate::output::{Table, Tone, bytes, local_time, now, reading, seconds, several};

/// `{"since", "jobs_read", "complete", "targets": [TARGET], "total": TARGET}`
#[derive(Serialize)]
struct Stats {
    /// Seconds since 1970: jobs added then or later.
    since: i64,
    /// Rows that were looked at.
    jobs_read: u64,
    /// Whether these are all rows added since then.
    complete: bool,
    targets: Vec<Figures>,
    total: Figures,
}

/// Figures of one target, or of all together, whose name is `null`.
#[derive(Debug, Default, PartialEq, Serialize)]
pub(super) struct Figures {
    pub(super) target: Option<String>,
    /// Jobs that are done.
    pub(super) runs: u64,
    pub(super) failures: u64,
    /// Attempts of these jobs together; `null` where the table does not count them.
    pub(super) attempts: Option<u64>,
    /// Seconds from start to end, of jobs that were started.
    pub(super) mean_s: Option<f64>,
    pub(super) p50_s: Option<i64>,
    pub(super) p95_s: Option<i64>,
    pub(super) p99_s: Option<i64>,
    /// CPU time of these jobs together, of their last runs; `null` where the table does not say.
    pub(super) cpu_ms: Option<u64>,
    /// Memory of the largest of them at its peak.
    pub(super) peak_kib: Option<u64>,
}

/// Columns that are read where they are there.
const READ: [&str; 3] = ["attempts", "cpu_ms", "peak_kib"];

/// Runs of one target, as they are counted.
#[derive(Clone, Debug, Default)]
pub(super) struct Runs {
    done: u64,
    failures: u64,
    attempts: Option<u64>,
    cpu_ms: Option<u64>,
    peak_kib: Option<u64>,
    /// Seconds, in no order.
    took: Vec<i64>,
}

impl Runs {
    /// Counts a row that is done; others are none.
    pub(super) fn count(&mut self, row: &JobRow) {
        if row.status != "done" {
            return;
        }
        self.done += 1;
        self.failures += u64::from(row.result.as_deref() != Some("ok"));
        let [attempts, cpu_ms, peak_kib] = READ.map(|column| {
            let value = row.others.iter().find(|(name, _)| name == column);
            value.and_then(|(_, number)| number.as_ref()?.parse::<u64>().ok())
        });
        add(&mut self.attempts, attempts);
        add(&mut self.cpu_ms, cpu_ms);
        self.peak_kib = self.peak_kib.max(peak_kib);
        if row.time_started > 0 && row.time_finished > 0 {
            self.took
                .push(row.time_finished.saturating_sub(row.time_started).max(0));
        }
    }

    fn add(&mut self, other: &Self) {
        self.done += other.done;
        self.failures += other.failures;
        add(&mut self.attempts, other.attempts);
        add(&mut self.cpu_ms, other.cpu_ms);
        self.peak_kib = self.peak_kib.max(other.peak_kib);
        self.took.extend(&other.took);
    }

    /// The figures that these runs make.
    pub(super) fn figures(mut self, target: Option<String>) -> Figures {
        self.took.sort_unstable();
        let at = |percent: usize| percentile(&self.took, percent);
        let (p50_s, p95_s, p99_s) = (at(50), at(95), at(99));
        #[expect(clippy::cast_precision_loss, reason = "a mean in seconds, for people")]
        let mean = |sum: i64| sum as f64 / self.took.len() as f64;
        Figures {
            target,
            runs: self.done,
            failures: self.failures,
            attempts: self.attempts,
            mean_s: (!self.took.is_empty()).then(|| mean(self.took.iter().sum())),
            p50_s,
            p95_s,
            p99_s,
            cpu_ms: self.cpu_ms,
            peak_kib: self.peak_kib,
        }
    }
}

fn add(sum: &mut Option<u64>, more: Option<u64>) {
    if let Some(more) = more {
        *sum = Some(sum.unwrap_or(0).saturating_add(more));
    }
}

/// The least value that so many percent do not exceed (nearest rank); values in order.
fn percentile(sorted: &[i64], percent: usize) -> Option<i64> {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.max(1) - 1).copied()
}

/// Counts and shows.
pub(crate) async fn run(context: &Context, args: StatsArgs) -> Result<u8, Failure> {
    let settings = database::settings(&context.settings)?;
    let failure = |error| database::failure(settings, &error);
    let mut table = database::open(settings).await?;
    let since = args.since.seconds(now());
    let scan = Scan {
        within: args
            .target
            .clone()
            .map(|target| ("done".to_owned(), target)),
        filter: Filter {
            since: Some(since),
            columns: READ
                .into_iter()
                .filter(|column| table.columns().has(column))
                .map(str::to_owned)
                .collect(),
            ..Filter::default()
        },
        floor: table.first_since(since).await.map_err(failure)?,
        ..Scan::default()
    };
    let mut targets = BTreeMap::<String, Runs>::new();
    let (mut from, mut left) = (None, u64::from(args.limit));
    let told = reading(settings);
    let complete = loop {
        let step = u32::try_from(left).unwrap_or(u32::MAX).min(WINDOW);
        let window = table.newest(&scan, from, step).await.map_err(failure)?;
        for row in &window.jobs {
            targets.entry(row.target.clone()).or_default().count(row);
        }
        told.inc(window.read);
        left -= window.read.min(left);
        match window.next {
            Some(next) if left > 0 => from = Some(next),
            next => break next.is_none(),
        }
    };
    drop(told);
    targets.retain(|_, runs| runs.done > 0);
    if let (true, Some(target)) = (targets.is_empty(), &args.target) {
        hint_at(&mut table, target).await.map_err(failure)?;
    }
    let mut total = Runs::default();
    for runs in targets.values() {
        total.add(runs);
    }
    let stats = Stats {
        since,
        jobs_read: u64::from(args.limit) - left,
        complete,
        targets: targets
            .into_iter()
            .map(|(target, runs)| runs.figures(Some(target)))
            .collect(),
        total: total.figures(None),
    };
    context.screen.show(&stats, |stats| text(context, stats))?;
    Ok(0)
}

/// In tenths of a second where it is short, as a mean.
fn cpu(ms: u64) -> String {
    if ms < 60_000 {
        return format!("{}.{}s", ms / 1000, ms % 1000 / 100);
    }
    seconds(ms.saturating_add(500) / 1000)
}

/// With a tenth of a second where it is short, as the other times from a minute on.
fn mean(seconds_each: f64) -> String {
    if seconds_each < 60.0 {
        return format!("{seconds_each:.1}s");
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a mean of lengths of time: not negative, and whole seconds are meant"
    )]
    let whole = seconds_each.round() as u64;
    seconds(whole)
}

fn text(context: &Context, stats: &Stats) -> String {
    let read = several(
        usize::try_from(stats.jobs_read).unwrap_or(usize::MAX),
        "row",
    );
    let read = format!("the newest {read}");
    if !stats.complete {
        crate::output::complain(&format!("jobctl: read {read} only; --limit reads more"));
    }
    let since = local_time(stats.since);
    if stats.targets.is_empty() && context.screen.is_terminal() {
        return if stats.complete {
            format!("no job that was added since {since} is done\n")
        } else {
            format!("no job of {read} is done\n")
        };
    }
    let accounted = stats.total.cpu_ms.is_some();
    let mut header = vec![
        "TARGET",
        ">RUNS",
        ">FAILED",
        ">ATTEMPTS",
        ">MEAN",
        ">P50",
        ">P95",
        ">P99",
    ];
    header.extend([">CPU", ">PEAK"].iter().filter(|_| accounted));
    let mut table = Table::new(&header).sparing(&["ATTEMPTS", "P50", "P99", "CPU", "PEAK"]);
    let has_several = stats.targets.len() > 1;
    for figures in stats
        .targets
        .iter()
        .chain(has_several.then_some(&stats.total))
    {
        let time = |time: Option<i64>| {
            time.map_or_else(|| "-".to_owned(), |time| seconds(time.unsigned_abs()))
        };
        let known = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        let mut cells = vec![
            figures.target.clone().unwrap_or_else(|| "all".to_owned()),
            figures.runs.to_string(),
            figures.failures.to_string(),
            figures
                .attempts
                .map_or_else(|| "-".to_owned(), |count| count.to_string()),
            figures.mean_s.map_or_else(|| "-".to_owned(), mean),
            time(figures.p50_s),
            time(figures.p95_s),
            time(figures.p99_s),
        ];
        if accounted {
            cells.push(known(figures.cpu_ms.map(cpu)));
            let peak = figures.peak_kib.map(|kib| kib.saturating_mul(1024));
            cells.push(known(peak.map(bytes)));
        }
        let tone = if figures.failures > 0 {
            Tone::Warning
        } else {
            Tone::Plain
        };
        table.row(tone, &cells);
    }
    let mut text = context.screen.table(&table);
    if context.screen.is_terminal() {
        text.extend(["jobs added since ", &since, "\n"]);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_occurred() {
        let values: Vec<i64> = (1..=100).collect();
        for (percent, expected) in [(50, 50), (95, 95), (99, 99)] {
            assert_eq!(percentile(&values, percent), Some(expected));
        }
        assert_eq!(percentile(&[7], 50), Some(7));
        assert_eq!(percentile(&[1, 9], 95), Some(9));
        assert_eq!(percentile(&[], 95), None);
    }

    #[test]
    fn only_what_is_done_counts_and_only_what_was_started_has_a_length() {
        let row = |status: &str, result: &str, started, finished| JobRow {
            status: status.to_owned(),
            result: Some(result.to_owned()),
            time_started: started,
            time_finished: finished,
            others: [("attempts", "2"), ("cpu_ms", "1500"), ("peak_kib", "64")]
                .map(|(name, value)| (name.to_owned(), Some(value.into())))
                .into(),
            ..JobRow::default()
        };
        let mut runs = Runs::default();
        runs.count(&row("running", "", 5, 0));
        runs.count(&row("done", "ok", 10, 14));
        runs.count(&row("done", "fail", 10, 12));
        runs.count(&row("done", "fail", 0, 12));
        let figures = runs.figures(None);
        assert_eq!((figures.runs, figures.failures), (3, 2));
        assert_eq!((figures.attempts, figures.mean_s), (Some(6), Some(3.0)));
        assert_eq!((figures.p50_s, figures.p99_s), (Some(2), Some(4)));
        assert_eq!((figures.cpu_ms, figures.peak_kib), (Some(4_500), Some(64)));
    }
}
