//! Judges a run of the suite by what was seen from outside. Pure: it reads evidence, no database
//! and no process.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::Value;

use self::abilities::{
    given_up, left_behind, not_called_off, remembered, started_too_often, too_early, undone, used,
};
use super::job::{HIDDEN, Plan, STUCK, is_filed};
use super::record::{Answer, Ledger, Run, Troubles};
use crate::database::Row;

mod abilities;

/// What the further columns of the full table say about a job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ownership {
    /// `attempts`
    pub attempts: u32,
    /// `interruptions`
    pub interruptions: u32,
    /// `max_attempts`
    pub max_attempts: Option<u32>,
    /// `reason`
    pub reason: Option<String>,
    /// `errors`
    pub errors: Option<String>,
    /// `progress`
    pub progress: Option<String>,
    /// `cpu_ms`
    pub cpu_ms: Option<i64>,
    /// `peak_kib`
    pub peak_kib: Option<i64>,
    /// `unique_key`
    pub unique_key: Option<String>,
}

impl Ownership {
    /// The entries of `errors` but for that of the last attempt.
    pub fn retried(&self) -> impl Iterator<Item = Value> {
        let errors = self.errors.as_deref().unwrap_or("[]");
        let errors: Vec<Value> = serde_json::from_str(errors).unwrap_or_default();
        let last = u64::from(self.attempts);
        let before = move |error: &Value| error["attempt"].as_u64().is_some_and(|it| it < last);
        errors.into_iter().filter(before)
    }
}

/// What stands in files, by job and attempt.
pub type Outputs = BTreeMap<(u64, u32), String>;

/// Everything that was seen.
#[derive(Debug)]
pub struct Evidence<'a> {
    /// What the applications know.
    pub ledger: &'a Ledger,
    /// All rows at the end.
    pub rows: &'a BTreeMap<u64, Row>,
    /// What the full table says beside; empty for the minimal one.
    pub ownership: &'a BTreeMap<u64, Ownership>,
    /// All processes that ran.
    pub runs: &'a [Run],
    /// Jobs whose rows were done, and said something else afterwards.
    pub undone: &'a [u64],
    /// When workers may have lost what they held.
    pub troubles: &'a Troubles,
    /// What stands in the files of jobs whose output goes to one.
    pub outputs: &'a Outputs,
    /// Slots of each worker by target.
    pub limits: &'a [(&'a str, u32)],
}

/// How the stderr of a row begins whose worker was lost in the middle of its last attempt.
pub const ORPHANED: &str = "jobd: orphaned:";

/// What the stderr of a row says that could not go back to wait, as another one with its key did.
pub const SUCCEEDED: &str = "another job with the same unique key waits";

/// A promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Promise {
    /// Every acknowledged row ends.
    NothingLost,
    /// One start per attempt, no overlapping runs.
    NothingTwice,
    /// The row says what happened.
    TrueVerdict,
    /// Nothing that a job has started outlives it, where it was stopped.
    NothingLeftBehind,
    /// A job for later does not begin before its time.
    NothingEarly,
    /// A worker keeps to its slots.
    Limits,
    /// What somebody has changed by hand is left alone.
    HandsOff,
    /// The waiter gets what the row gets.
    TrueAnswer,
    /// The daemons stay as small as they were.
    Footprint,
    /// Work goes on soon after a fault.
    Recovery,
    /// Daemons end in order.
    OrderlyEnd,
    /// The suite itself could do what it meant to.
    Suite,
}

/// A promise that was not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Breach {
    /// Which.
    pub promise: Promise,
    /// The job, where it is about one.
    pub job: Option<u64>,
    /// What was seen.
    pub text: String,
}

impl Breach {
    /// One that is about a job.
    pub fn of_job(promise: Promise, job: u64, text: impl Into<String>) -> Self {
        Self {
            promise,
            job: Some(job),
            text: text.into(),
        }
    }

    /// One that is about the whole.
    pub fn of_all(promise: Promise, text: impl Into<String>) -> Self {
        Self {
            promise,
            job: None,
            text: text.into(),
        }
    }
}

/// All breaches of what the evidence can show.
pub fn check(evidence: &Evidence<'_>) -> Vec<Breach> {
    let mut runs: BTreeMap<u64, Vec<&Run>> = BTreeMap::new();
    let is_hidden = |run: &&Run| run.target == HIDDEN;
    for run in evidence.runs.iter().filter(|run| !is_hidden(run)) {
        runs.entry(run.id).or_default().push(run);
    }
    for of_job in runs.values_mut() {
        of_job.sort_by_key(|run| run.begin_ns);
    }
    let mut breaches = Vec::new();
    lost(evidence, &mut breaches);
    for (id, of_job) in &runs {
        twice(*id, of_job, &mut breaches);
        let retried = evidence.ownership.contains_key(id);
        rescued_alive(*id, of_job, evidence.troubles, retried, &mut breaches);
        cut_short(*id, of_job, evidence, &mut breaches);
        not_called_off(*id, of_job, evidence.ledger, &mut breaches);
        too_early(*id, of_job, evidence, &mut breaches);
        if !evidence.rows.contains_key(id) {
            let text = "ran, and there is no such row";
            breaches.push(Breach::of_job(Promise::TrueVerdict, *id, text));
        }
    }
    for row in evidence.rows.values() {
        let of_job = runs.get(&row.id).map_or(&[][..], Vec::as_slice);
        let ownership = evidence.ownership.get(&row.id);
        if let Err(text) = verdict(row, of_job, ownership, evidence) {
            breaches.push(Breach::of_job(Promise::TrueVerdict, row.id, text));
        }
        if let Some(ownership) = ownership {
            started_too_often(row.id, of_job, ownership, evidence.troubles, &mut breaches);
            given_up(row, ownership, evidence, &mut breaches);
            remembered(row, of_job, ownership, evidence.troubles, &mut breaches);
        }
    }
    for hidden in evidence.runs.iter().filter(is_hidden) {
        let of_job = runs.get(&hidden.id).map_or(&[][..], Vec::as_slice);
        left_behind(hidden, of_job, &mut breaches);
    }
    undone(evidence, &mut breaches);
    withdrawn(evidence, &mut breaches);
    limits(evidence, &mut breaches);
    answers(evidence, &mut breaches);
    followed(evidence, &runs, &mut breaches);
    breaches
}

fn lost(evidence: &Evidence<'_>, breaches: &mut Vec<Breach>) {
    // Rows whose INSERT got no answer may exist, and then they are jobs like any other.
    let all: BTreeSet<u64> = evidence
        .ledger
        .acknowledged
        .keys()
        .chain(evidence.rows.keys())
        .copied()
        .collect();
    for id in all {
        let found = match evidence.rows.get(&id) {
            Some(row) if row.status == "done" => continue,
            Some(_) if evidence.ledger.withdrawn.contains_key(&id) => continue,
            // Its inserter never learnt its id, so nobody asked to run it.
            Some(row)
                if row.status == "manual" && !evidence.ledger.acknowledged.contains_key(&id) =>
            {
                continue;
            }
            Some(row) => format!("is still {} ({})", row.status, row.err()),
            None => "was acknowledged, and there is no such row".to_owned(),
        };
        breaches.push(Breach::of_job(Promise::NothingLost, id, found));
    }
}

fn twice(id: u64, runs: &[&Run], breaches: &mut Vec<Breach>) {
    let mut attempts: HashMap<u32, u32> = HashMap::new();
    for run in runs {
        if let Some(first) = attempts.insert(run.attempt, run.pid) {
            let text = format!(
                "attempt {} began twice: as process {first} and as process {} of {}",
                run.attempt, run.pid, run.worker
            );
            breaches.push(Breach::of_job(Promise::NothingTwice, id, text));
        }
    }
    for pair in runs.windows(2) {
        let (first, second) = (pair[0], pair[1]);
        if second.begin_ns < first.until_ns {
            let text = format!(
                "process {} of {} began {} ms before the end of process {} of {}",
                second.pid,
                second.worker,
                (first.until_ns - second.begin_ns) / 1_000_000,
                first.pid,
                first.worker
            );
            breaches.push(Breach::of_job(Promise::NothingTwice, id, text));
        }
    }
}

/// A job that came to its end is run again only if its worker cannot have told anybody, or if it failed and the table
/// has retries.
fn rescued_alive(
    id: u64,
    runs: &[&Run],
    troubles: &Troubles,
    retried: bool,
    breaches: &mut Vec<Breach>,
) {
    let earlier = runs.split_last().map_or(&[][..], |(_, earlier)| earlier);
    for run in earlier {
        let failed = Plan::of(id, &run.target).code_of(run.attempt) != 0;
        if run.ended && !troubles.is_lost(run) && !(retried && failed) {
            let text = format!(
                "was run again although process {} of {} (process {}) came to its end",
                run.pid, run.worker, run.parent
            );
            breaches.push(Breach::of_job(Promise::NothingTwice, id, text));
        }
    }
}

/// A job is left to come to its end, unless it took too long, somebody called it off, or its worker could not keep it.
fn cut_short(id: u64, runs: &[&Run], evidence: &Evidence<'_>, breaches: &mut Vec<Breach>) {
    if evidence.ledger.cancels.contains(&id) {
        return;
    }
    let without_need =
        |run: &&&Run| !run.ended && run.target != STUCK && !evidence.troubles.may_cut_short(run);
    for run in runs.iter().filter(without_need) {
        let text = format!(
            "process {} of {} (process {}) was cut short in attempt {}, and its worker had what it held",
            run.pid, run.worker, run.parent, run.attempt
        );
        breaches.push(Breach::of_job(Promise::NothingLost, id, text));
    }
}

/// Whether a row that is done says what its runs did.
fn verdict(
    row: &Row,
    runs: &[&Run],
    ownership: Option<&Ownership>,
    evidence: &Evidence<'_>,
) -> Result<(), String> {
    let troubles = evidence.troubles;
    if row.status != "done" {
        return match runs.first() {
            Some(run) if row.status == "manual" || row.status == "waiting" => Err(format!(
                "is {} although process {} ran it",
                row.status, run.pid
            )),
            _ => Ok(()),
        };
    }
    let plan = Plan::of(row.id, &row.target);
    let latest = runs.last();
    if let Some(ownership) = ownership {
        // A start whose process never came counts, too.
        let highest = runs.iter().map(|run| run.attempt).max().unwrap_or(0);
        if highest > ownership.attempts {
            return Err(format!(
                "attempt {highest} ran, the row counts {}",
                ownership.attempts
            ));
        }
    }
    // Where nobody could say how it ended, the row may say that, but nothing better.
    if row.err().starts_with(ORPHANED) {
        // The one that was lost may have come to no process.
        let of_it = |run: &&&Run| ownership.is_none_or(|row| row.attempts == run.attempt);
        let of_lost = latest
            .filter(of_it)
            .map_or_else(|| !troubles.nobody_was_lost(), |run| troubles.is_lost(run));
        return match row.result.as_deref() {
            Some("fail") if of_lost => Ok(()),
            Some("fail") => Err(format!("is orphaned, and its worker was there: {latest:?}")),
            other => Err(format!("is orphaned and {other:?}")),
        };
    }
    if row.err().contains(SUCCEEDED) {
        return abilities::succeeded(row, latest.copied(), evidence);
    }
    if let Some(said) = ownership.and_then(|ownership| ownership.progress.as_deref())
        && latest.is_none_or(|run| Plan::progress(run.pid) != said)
    {
        return Err(format!(
            "has come as far as {said:?}, its last run is {latest:?}"
        ));
    }
    let reason = ownership.and_then(|ownership| ownership.reason.as_deref());
    match reason {
        Some("cancelled") => {
            let asked = evidence.ledger.cancels.contains(&row.id);
            // What its worker has seen to the end, and what it could keep.
            let seen = latest.is_some_and(|run| {
                let counted = ownership.is_some_and(|row| row.attempts == run.attempt);
                counted && !troubles.may_cut_short(run)
            });
            return abilities::cancelled(row, latest.copied(), asked, seen);
        }
        Some("timeout" | "idle") => return abilities::timed_out(row, latest.copied(), ownership),
        _ => {}
    }
    let Some(run) = latest.filter(|run| run.ended) else {
        return Err(format!(
            "is done ({:?}, code {:?}, {:?}), and its last run of {} did not come to an end: {latest:?}",
            row.result,
            row.return_code,
            row.err(),
            runs.len()
        ));
    };
    if let Some(ownership) = ownership.filter(|ownership| ownership.attempts != run.attempt) {
        return Err(format!(
            "attempt {} ended it, the row counts {}",
            run.attempt, ownership.attempts
        ));
    }
    let code = plan.code_of(run.attempt);
    let result = if code == 0 { "ok" } else { "fail" };
    let expected = (Some(result), Some(i64::from(code)), None);
    let found = (row.result.as_deref(), row.return_code, row.sig.as_deref());
    if found != expected {
        return Err(format!("says {found:?}, the job ended with {expected:?}"));
    }
    if ownership.is_some() && reason != (code != 0).then_some("exit") {
        return Err(format!("gives the reason {reason:?}, the code is {code}"));
    }
    if row.out() != plan.stdout(row.id, run.attempt, run.pid) {
        let first = row.out().lines().next().unwrap_or_default();
        return Err(format!(
            "stdout ({} bytes, first line {first:?}) is not that of process {}",
            row.out().len(),
            run.pid
        ));
    }
    if is_filed(&row.target) {
        abilities::filed(row, run, evidence.outputs)?;
    } else if row.err() != Plan::stderr(row.id, run.pid) {
        return Err(format!("stderr is {:?}", row.err()));
    }
    ownership.map_or(Ok(()), |ownership| used(ownership, run))
}

fn withdrawn(evidence: &Evidence<'_>, breaches: &mut Vec<Breach>) {
    for (id, at_ns) in &evidence.ledger.withdrawn {
        let status = evidence.rows.get(id).map(|row| row.status.as_str());
        if status != Some("ignored") {
            let text = format!("was set to ignored by hand, and became {status:?}");
            breaches.push(Breach::of_job(Promise::HandsOff, *id, text));
        }
        let after = |run: &&Run| run.id == *id && run.begin_ns > *at_ns;
        if let Some(run) = evidence.runs.iter().find(after) {
            let text = format!("was set to ignored by hand, and then run as {}", run.pid);
            breaches.push(Breach::of_job(Promise::HandsOff, *id, text));
        }
    }
}

fn limits(evidence: &Evidence<'_>, breaches: &mut Vec<Breach>) {
    for (target, most) in &evidence.ledger.most_running {
        let slots = evidence.limits.iter().find(|(name, _)| name == target);
        // The next start may stand beside the end before it: as many ends may wait as there are slots.
        if slots.is_none_or(|(_, slots)| *most > 2 * slots) {
            let text = format!("{most} rows of {target} were running at once: {slots:?}");
            breaches.push(Breach::of_all(Promise::Limits, text));
        }
    }
    // A worker that was killed and started again is another one: its guard ends the former's jobs.
    let mut moments: BTreeMap<_, Vec<(u64, i32)>> = BTreeMap::new();
    for run in evidence.runs.iter().filter(|run| run.target != HIDDEN) {
        let key = (run.worker.as_str(), run.parent, run.target.as_str());
        let of_worker = moments.entry(key).or_default();
        of_worker.push((run.begin_ns, 1));
        of_worker.push((run.until_ns, -1));
    }
    for ((worker, parent, target), mut of_worker) in moments {
        let limit = evidence.limits.iter().find(|(name, _)| *name == target);
        let limit = limit.map_or(0, |(_, slots)| i32::try_from(*slots).expect("few slots"));
        of_worker.sort_unstable();
        let mut now = 0;
        let most = of_worker.iter().map(|(_, step)| {
            now += step;
            now
        });
        let most = most.max().unwrap_or(0);
        if most > limit {
            let text = format!(
                "{worker} (process {parent}) ran {most} jobs of {target} at once, allowed are {limit}"
            );
            breaches.push(Breach::of_all(Promise::Limits, text));
        }
    }
}

fn answers(evidence: &Evidence<'_>, breaches: &mut Vec<Breach>) {
    for (id, answer) in &evidence.ledger.answers {
        let Some(row) = evidence.rows.get(id) else {
            continue;
        };
        let said = Answer {
            result: row.result.clone().unwrap_or_default(),
            code: row.return_code,
            signal: row.sig.clone(),
            stdout: row.out().to_owned(),
            stderr: row.err().to_owned(),
        };
        if row.status != "done" || said != *answer {
            let text = format!(
                "the waiter was told {}, code {:?}, {} and {} bytes; the row is {} and says {}, code {:?}, {} and {} bytes",
                answer.result,
                answer.code,
                answer.stdout.len(),
                answer.stderr.len(),
                row.status,
                said.result,
                said.code,
                said.stdout.len(),
                said.stderr.len()
            );
            breaches.push(Breach::of_job(Promise::TrueAnswer, *id, text));
        }
    }
}

/// Whoever follows a job is told what a run of it has printed.
fn followed(evidence: &Evidence<'_>, runs: &BTreeMap<u64, Vec<&Run>>, breaches: &mut Vec<Breach>) {
    for (id, text) in &evidence.ledger.followed {
        let printed = |run: &&Run| {
            let all = Plan::of(*id, &run.target).stdout(*id, run.attempt, run.pid);
            all.starts_with(text)
        };
        let of_job = runs.get(id).map_or(&[][..], Vec::as_slice);
        if !text.is_empty() && !of_job.iter().any(printed) {
            let first = text.lines().next().unwrap_or_default();
            let text = format!(
                "a follower was told {} bytes that no run has printed: {first:?}",
                text.len()
            );
            breaches.push(Breach::of_job(Promise::TrueAnswer, *id, text));
        }
    }
}

#[cfg(test)]
mod tests;
