//! What becomes of a job whose process has ended. Pure: chance comes from the caller.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::faults::planted;
use crate::job::Job;
use crate::launcher::End;
use crate::store::Ability;

/// "Again later" as an exit code: EX_TEMPFAIL of sysexits(3).
const TRY_AGAIN: i32 = 75;

/// Why a job ended, as the column `reason` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Reason {
    /// Its process exited with another code than 0.
    Exit,
    /// A signal that was not ours ended it.
    Signal,
    /// It was stopped because it took too long.
    Timeout,
    /// It was stopped because it wrote nothing for too long.
    Idle,
    /// It was stopped because somebody asked for that.
    Cancelled,
    /// Its worker died, or was cut off, and nobody knows how it ended.
    Orphaned,
    /// It could never be started.
    Spawn,
    /// It was stopped because its worker could not keep it.
    Drained,
}

impl Reason {
    /// Whether an exit code of 0 says nothing against it: programs often exit so when they are told to end, and a job that
    /// was out of time had not done its work. One that comes to a good end while its worker shuts down has.
    pub fn outdoes_success(self) -> bool {
        matches!(self, Self::Timeout | Self::Idle)
    }

    /// The word in the column.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exit => "exit",
            Self::Signal => "signal",
            Self::Timeout => "timeout",
            Self::Idle => "idle",
            Self::Cancelled => "cancelled",
            Self::Orphaned => "orphaned",
            Self::Spawn => "spawn",
            Self::Drained => "drained",
        }
    }
}

/// Why a job ended that ended so; `None` where it ended well.
pub fn reason(end: &End) -> Option<Reason> {
    match (end.code, end.cause) {
        (_, Some(cause)) if cause.outdoes_success() => Some(cause),
        (Some(0), _) => None,
        (_, Some(cause)) => Some(cause),
        (Some(_), None) => Some(Reason::Exit),
        (None, None) => Some(Reason::Signal),
    }
}

/// What a target's config says of jobs that fail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retries {
    /// `retry`: how often a job may run again whose row does not say how often it may run.
    pub retry: u32,
    /// `retry_backoff`: the first pause, and the longest.
    pub backoff: RangeInclusive<Duration>,
    /// `retry_on`.
    pub on: Causes,
}

/// What lets a job run again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Causes {
    /// These reasons.
    pub reasons: Vec<Reason>,
    /// These exit codes, where [`Reason::Exit`] is not among the reasons.
    pub codes: Vec<RangeInclusive<i32>>,
}

impl Default for Retries {
    fn default() -> Self {
        Self {
            retry: 0,
            backoff: Duration::from_secs(5)..=Duration::from_mins(10),
            on: Causes::default(),
        }
    }
}

impl Default for Causes {
    /// Whatever is not somebody's wish.
    fn default() -> Self {
        use Reason::{Exit, Idle, Signal, Spawn, Timeout};
        Self {
            reasons: vec![Exit, Signal, Timeout, Idle, Spawn],
            codes: Vec::new(),
        }
    }
}

impl Causes {
    fn hold(&self, reason: Reason, code: Option<i32>) -> bool {
        let by_code = |code| self.codes.iter().any(|codes| codes.contains(&code));
        self.reasons.contains(&reason) || reason == Reason::Exit && code.is_some_and(by_code)
    }
}

/// A later attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
pub struct Again {
    /// Not before so much time has passed since the end.
    pub after: Duration,
    /// Whether the attempt that has ended counts.
    pub counted: bool,
}

/// What becomes of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is done.
    Done,
    /// It runs again, later.
    Again(Again),
    /// We cut it short: it goes back to where it was claimed from, and the attempt does not count.
    Back,
}

/// Decides it. `struck` is whether our guard has killed what ran at that moment; `chance` lies between 0 and 1.
///
/// Whether attempts are left, the claim has found out (`Job::again`), from the same numbers in the row that a rescuer goes
/// by.
pub fn decide(job: &Job, end: &End, struck: bool, retries: &Retries, chance: f64) -> Fate {
    let abilities = job.terms.abilities;
    let Some(reason) = reason(end) else {
        return Fate::Done;
    };
    let struck = struck && end.is_killed() && reason != Reason::Cancelled;
    let cut_short = reason == Reason::Drained || struck;
    if cut_short && abilities.has(Ability::Ownership) {
        return Fate::Back;
    }
    // A client waits for the result of this very run.
    if job.origin.is_manual() || !abilities.has(Ability::Later) {
        return Fate::Done;
    }
    let asks = reason == Reason::Exit && end.code == Some(TRY_AGAIN);
    let left = job.again || planted!("retry-without-an-attempt-left");
    let held = retries.on.hold(reason, end.code)
        || reason == Reason::Cancelled && planted!("cancelled-job-runs-again");
    let may = abilities.has(Ability::Retries) && left && held;
    if !asks && !may {
        return Fate::Done;
    }
    // Attempts that count have nothing to do with those that do not.
    let before = if asks {
        job.interruptions
    } else {
        job.attempt
            .saturating_sub(1)
            .saturating_sub(job.interruptions)
    };
    Fate::Again(Again {
        after: pause(&retries.backoff, before, chance),
        counted: !asks,
    })
}

/// The pause after an attempt that had so many of its kind before it: twice as long after each, somewhere between that and the
/// next one's, so that jobs that have failed together do not come back together.
fn pause(backoff: &RangeInclusive<Duration>, before: u32, chance: f64) -> Duration {
    let (first, most) = (*backoff.start(), *backoff.end());
    let doublings = before.min(31);
    let least = first.saturating_mul(1 << doublings);
    // At the limit, too, they are kept apart.
    let least = least.min(most.max(first) / 2).max(first);
    let spread = least.min(most.saturating_sub(least));
    least + spread.mul_f64(chance.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests;
