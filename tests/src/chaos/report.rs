//! The table of a run: fault × count × figure; and what it came to.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use super::checker::{self, Breach, Ownership, Promise};
use super::faults::{Fault, Outcome};
use super::record::{Ledger, Run};
use crate::database::Row;

/// How work went on after a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recovery {
    /// From its end to the next job done.
    pub done: Duration,
    /// From its end until every worker concerned has begun a new job.
    pub claimed: Duration,
}

/// All occurrences of one kind of fault.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// How work went on.
    pub recoveries: Vec<Recovery>,
    /// How often what it provokes was provoked, and what that is.
    pub provoked: Option<(u64, &'static str)>,
    /// From the loss of a host to the last of its rows being somebody's.
    pub rescues: Vec<Duration>,
}

/// The figures of a run.
#[derive(Clone, Debug, Default)]
pub struct Report {
    faults: BTreeMap<Fault, Figures>,
}

impl Report {
    /// Adds one occurrence.
    pub fn add(&mut self, fault: Fault, outcome: &Outcome, recovery: Recovery) {
        let figures = self.faults.entry(fault).or_default();
        figures.recoveries.push(recovery);
        figures.rescues.extend(outcome.rescue);
        if let Some((count, what)) = outcome.provoked {
            let before = figures.provoked.map_or(0, |(before, _)| before);
            figures.provoked = Some((before + count, what));
        }
    }

    /// How many faults there were.
    pub fn count(&self) -> usize {
        let counts = self.faults.values().map(|figures| figures.recoveries.len());
        counts.sum()
    }

    /// The table.
    pub fn table(&self) -> String {
        let mut text = format!(
            "{:<42} {:>5}  {:^17}  {:^17}\n{:<42} {:>5}  {:>8} {:>8}  {:>8} {:>8}\n",
            "fault",
            "times",
            "next job done",
            "all workers begin",
            "",
            "",
            "median",
            "worst",
            "median",
            "worst"
        );
        for (fault, figures) in &self.faults {
            let (done, worst_done) = spread(figures, |recovery| recovery.done);
            let (claimed, worst_claimed) = spread(figures, |recovery| recovery.claimed);
            write!(
                text,
                "{:<42} {:>5}  {done:>8} {worst_done:>8}  {claimed:>8} {worst_claimed:>8}",
                fault.name(),
                figures.recoveries.len(),
            )
            .expect("write to a string");
            if let Some((count, what)) = figures.provoked {
                write!(text, "  {count} {what}").expect("write to a string");
            }
            if let Some(worst) = figures.rescues.iter().max() {
                write!(text, "  rows resolved within {}", seconds(*worst))
                    .expect("write to a string");
            }
            text.push('\n');
        }
        text
    }
}

/// Median and worst.
fn spread(figures: &Figures, figure: impl Fn(&Recovery) -> Duration) -> (String, String) {
    let mut times: Vec<Duration> = figures.recoveries.iter().map(figure).collect();
    times.sort_unstable();
    (
        seconds(times[times.len() / 2]),
        seconds(times[times.len() - 1]),
    )
}

fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}

/// What became of jobs on a table with every ability.
fn abilities(
    ownership: &BTreeMap<u64, Ownership>,
    rows: &BTreeMap<u64, Row>,
    ledger: &Ledger,
) -> String {
    if ownership.is_empty() {
        return String::new();
    }
    let ended = |reason: &str| {
        let for_it = |row: &&Ownership| row.reason.as_deref() == Some(reason);
        ownership.values().filter(for_it).count()
    };
    let succeeded = rows
        .values()
        .filter(|row| row.err().contains(checker::SUCCEEDED))
        .count();
    let again = ownership
        .values()
        .filter(|row| row.retried().next().is_some())
        .count();
    format!(
        "\n{again} failed and ran again, {} timed out for good, {} of {} cancelled when that was asked for; \
         {} duplicates refused, {} rows ended for a successor",
        ended("timeout") + ended("idle"),
        ended("cancelled"),
        ledger.cancels.len(),
        ledger.duplicates,
        succeeded
    )
}

/// What a run came to, in three lines.
pub fn summary(
    report: &Report,
    ledger: &Ledger,
    rows: &BTreeMap<u64, Row>,
    ownership: &BTreeMap<u64, Ownership>,
    runs: &[Run],
    breaches: &[Breach],
) -> String {
    let count = |promise| {
        let of_it = breaches.iter().filter(|breach| breach.promise == promise);
        of_it.count()
    };
    let abilities = abilities(ownership, rows, ledger);
    let done = rows.values().filter(|row| row.status == "done").count();
    let ok = rows
        .values()
        .filter(|row| row.result.as_deref() == Some("ok"))
        .count();
    let orphaned = rows
        .values()
        .filter(|row| row.err().starts_with(checker::ORPHANED))
        .count();
    format!(
        "{} faults; {} jobs acknowledged, {} INSERTs without an answer; {done} done ({ok} ok), {} runs; \
         {} waiters answered, asked again {} times; {} jobs followed; {orphaned} orphaned\nlost {}, doubled {}, false verdicts {}, false answers {}, left behind {}, too early {}, limits crossed {}{abilities}",
        report.count(),
        ledger.acknowledged.len(),
        ledger.unacknowledged,
        runs.len(),
        ledger.answers.len(),
        ledger.asked_again,
        ledger.followed.len(),
        count(Promise::NothingLost),
        count(Promise::NothingTwice),
        count(Promise::TrueVerdict),
        count(Promise::TrueAnswer),
        count(Promise::NothingLeftBehind),
        count(Promise::NothingEarly),
        count(Promise::Limits),
    )
}
