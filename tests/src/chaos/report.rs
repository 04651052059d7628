//! The table of a run: fault × count × figure.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use super::faults::{Fault, Outcome};

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
