//! What a table with every ability promises beside: retries, time limits, cancellations.

use serde_json::Value;

use super::{Breach, Evidence, Ledger, Outputs, Ownership, Promise, Run, Troubles};
use crate::chaos::job::{Plan, STUCK};
use crate::database::Row;

/// So long after a job's own process anything else of it may be there: its worker may have been frozen for a lease, and
/// the machine busy.
const LEFT_LIMIT_NS: u64 = 20_000_000_000;

/// So long after its row has asked for a cancellation a job may still begin: what was claimed before that waits for a slot
/// for some seconds, and the database may be away.
const CALLED_OFF_LIMIT_NS: u64 = 20_000_000_000;

/// CPU time that a job takes before its first word and after its last one, at most.
const CPU_BESIDE_MS: i64 = 2_000;

/// What a job of the suite has in memory, at least and at most.
const PEAK_KIB: (i64, i64) = (256, 256 << 10);

/// Failures that a row remembers.
const MOST_ERRORS: usize = 10;

/// The exit code that does not count.
const AGAIN_LATER: u8 = 75;

/// No job runs more often than it may, by its row and by what was seen; interruptions do not count.
pub(super) fn started_too_often(
    id: u64,
    runs: &[&Run],
    row: &Ownership,
    troubles: &Troubles,
    breaches: &mut Vec<Breach>,
) {
    let most = row.max_attempts.unwrap_or(1).max(1);
    let counted = row.attempts.saturating_sub(row.interruptions);
    // What came to a bad end, and whose worker could say so, counts for sure.
    let failed = |run: &&&Run| {
        let code = Plan::of(id, &run.target).code_of(run.attempt);
        run.ended && !troubles.is_lost(run) && !matches!(code, 0 | AGAIN_LATER)
    };
    let failed = runs.iter().filter(failed).count();
    if counted > most || failed > most as usize {
        let text = format!("ran {counted} times, failed {failed} times, may run {most} times");
        breaches.push(Breach::of_job(Promise::NothingTwice, id, text));
    }
}

/// Whether there is another job with this one's key: it may have waited when this one was to go back.
fn has_successor(row: &Row, evidence: &Evidence<'_>) -> bool {
    let key = |id: u64| evidence.ownership.get(&id)?.unique_key.as_deref();
    let same = |other: &Row| other.target == row.target && key(other.id) == key(row.id);
    let mut others = evidence.rows.values().filter(|other| other.id != row.id);
    key(row.id).is_some() && others.any(same)
}

/// A row that is done because it could not go back: its worker had to give it up, and another job does its work.
pub(super) fn succeeded(
    row: &Row,
    latest: Option<&Run>,
    evidence: &Evidence<'_>,
) -> Result<(), String> {
    let ended = latest.filter(|run| run.ended && !evidence.troubles.is_lost(run));
    let found = (row.result.as_deref(), row.return_code, row.sig.as_deref());
    if found == (Some("fail"), None, None) && ended.is_none() && has_successor(row, evidence) {
        Ok(())
    } else {
        Err(format!(
            "ended for another one with its key ({:?}) as {found:?}, its last run is {latest:?}",
            has_successor(row, evidence)
        ))
    }
}

/// No job is given up that may run again, unless somebody waits for this very run of it or has called it off, or another one
/// waits in its place.
pub(super) fn given_up(
    row: &Row,
    counts: &Ownership,
    evidence: &Evidence<'_>,
    breaches: &mut Vec<Breach>,
) {
    let failed = matches!(
        counts.reason.as_deref(),
        Some("exit" | "signal" | "timeout" | "idle" | "spawn" | "orphaned")
    );
    if row.status != "done" || !failed || evidence.ledger.manual.contains(&row.id) {
        return;
    }
    let most = counts.max_attempts.unwrap_or(1).max(1);
    let left = (most + counts.interruptions).saturating_sub(counts.attempts);
    let may = left > 0 || row.return_code == Some(AGAIN_LATER.into());
    if may && !has_successor(row, evidence) {
        let text = format!(
            "was given up with {left} attempts left, reason {:?}, code {:?}",
            counts.reason, row.return_code
        );
        breaches.push(Breach::of_job(Promise::NothingLost, row.id, text));
    }
}

/// What was called off in its row does not begin long after that.
pub(super) fn not_called_off(id: u64, runs: &[&Run], ledger: &Ledger, breaches: &mut Vec<Breach>) {
    let Some(asked) = ledger.asked.get(&id) else {
        return;
    };
    let late = |run: &&&Run| run.begin_ns > asked + CALLED_OFF_LIMIT_NS;
    if let Some(run) = runs.iter().find(late) {
        let text = format!(
            "attempt {} began {} s after its row had asked for its cancellation",
            run.attempt,
            (run.begin_ns - asked) / 1_000_000_000
        );
        breaches.push(Breach::of_job(Promise::NothingTwice, id, text));
    }
}

/// A job for later does not begin before its time, by the database's clock; its later attempts have a time of their own.
pub(super) fn too_early(
    id: u64,
    runs: &[&Run],
    evidence: &Evidence<'_>,
    breaches: &mut Vec<Breach>,
) {
    let due = evidence.ledger.due.get(&id).zip(runs.first());
    let Some(((inserted, due), first)) = due else {
        return;
    };
    let right = evidence.troubles.clock_was_right(*inserted, first.begin_ns);
    if first.begin_ns < *due && right {
        let text = format!(
            "began {} ms before its time",
            (due - first.begin_ns) / 1_000_000
        );
        breaches.push(Breach::of_job(Promise::NothingEarly, id, text));
    }
}

/// What a job that came to its end has used: all of it is known, and no more than there was.
pub(super) fn used(row: &Ownership, run: &Run) -> Result<(), String> {
    let millis = (run.until_ns - run.begin_ns) / 1_000_000;
    let most = i64::try_from(millis).expect("hours at most") + CPU_BESIDE_MS;
    match (row.cpu_ms, row.peak_kib) {
        (Some(cpu), Some(peak)) if cpu <= most && (PEAK_KIB.0..=PEAK_KIB.1).contains(&peak) => {
            Ok(())
        }
        used => Err(format!(
            "has used {used:?} (ms of CPU time, KiB at most) in {millis} ms: {run:?}"
        )),
    }
}

/// What a job printed is in its file, both streams whole, or its row says that it could not be written.
pub(super) fn filed(row: &Row, run: &Run, outputs: &Outputs) -> Result<(), String> {
    let (out, err) = (row.out(), Plan::stderr(row.id, run.pid));
    let note = row.err().strip_prefix(&err);
    if note.is_some_and(|note| note.starts_with("jobd: cannot write output_file")) {
        return Ok(());
    }
    if note != Some("") {
        return Err(format!("stderr is {:?}", row.err()));
    }
    let file = outputs.get(&(row.id, run.attempt));
    // Two pipes have no order.
    let whole =
        |file: &String| file.len() == out.len() + err.len() && file.replacen(&err, "", 1) == out;
    if file.is_some_and(whole) {
        return Ok(());
    }
    Err(format!(
        "printed {} bytes, its file has {:?}",
        out.len() + err.len(),
        file.map(String::len)
    ))
}

/// A process that a stopped job has left is gone soon after it, and before it runs again.
pub(super) fn left_behind(hidden: &Run, runs: &[&Run], breaches: &mut Vec<Breach>) {
    let own = runs.iter().find(|run| run.attempt == hidden.attempt);
    let until = own.map_or(hidden.begin_ns, |run| run.until_ns);
    let after = hidden.until_ns.saturating_sub(until);
    if after > LEFT_LIMIT_NS {
        let text = format!(
            "process {} that attempt {} left was there {} s after it",
            hidden.pid,
            hidden.attempt,
            after / 1_000_000_000
        );
        breaches.push(Breach::of_job(Promise::NothingLeftBehind, hidden.id, text));
    }
    let overlaps = |run: &&&Run| run.attempt > hidden.attempt && run.begin_ns < hidden.until_ns;
    if let Some(next) = runs.iter().find(overlaps) {
        let text = format!(
            "process {} that attempt {} left was there {} ms after attempt {} had begun",
            hidden.pid,
            hidden.attempt,
            (hidden.until_ns - next.begin_ns) / 1_000_000,
            next.attempt
        );
        breaches.push(Breach::of_job(Promise::NothingLeftBehind, hidden.id, text));
    }
}

/// A job is done once.
pub(super) fn undone(evidence: &Evidence<'_>, breaches: &mut Vec<Breach>) {
    for id in evidence.undone {
        let text = "was done, and its row says something else since";
        breaches.push(Breach::of_job(Promise::NothingTwice, *id, text));
    }
}

/// Each attempt that failed, and that its worker could tell of, stands in `errors`, and nothing else does.
pub(super) fn remembered(
    row: &Row,
    runs: &[&Run],
    counts: &Ownership,
    troubles: &Troubles,
    breaches: &mut Vec<Breach>,
) {
    let id = row.id;
    let text = counts.errors.as_deref().unwrap_or("[]");
    let Ok(errors) = serde_json::from_str::<Vec<Value>>(text) else {
        let text = format!("errors is no list: {text}");
        breaches.push(Breach::of_job(Promise::TrueVerdict, id, text));
        return;
    };
    let is_of = |error: &Value, run: &Run| error["attempt"] == run.attempt;
    let code = |run: &Run| Plan::of(id, &run.target).code_of(run.attempt);
    let unbegun = |text: &str| text.contains("cancelled while it did not run");
    for error in &errors {
        // An attempt may be called off when its row says `running` and its process has yet to begin.
        let is_end = error["stderr"].as_str().is_some_and(unbegun);
        let again = error["attempt"].as_u64() < Some(counts.attempts.into())
            || unbegun(row.err()) && !is_end;
        if error["reason"] == "cancelled" && again {
            let text = format!("was cancelled, and to be run again: {text}");
            breaches.push(Breach::of_job(Promise::NothingTwice, id, text));
        }
        let said = |run: &&&Run| {
            let (ended, code) = (run.ended, code(run));
            is_of(error, run)
                && ended
                && error["code"] == code
                && error["stderr"] == Plan::stderr(id, run.pid)
        };
        if error["reason"] == "exit" && !runs.iter().any(|run| said(&run)) {
            let text = format!("has not failed like this: {error}");
            breaches.push(Breach::of_job(Promise::TrueVerdict, id, text));
        }
    }
    let forgotten = |run: &&&Run| {
        let failed = run.ended && code(run) != 0 && !troubles.is_lost(run);
        failed && !errors.iter().any(|error| is_of(error, run))
    };
    let last = |error: &Value| error["attempt"] == counts.attempts && error["reason"] == "orphaned";
    if counts.reason.as_deref() == Some("orphaned") && !errors.iter().any(last) {
        let text = format!("was given up, and that is not in errors: {text}");
        breaches.push(Breach::of_job(Promise::TrueVerdict, id, text));
    }
    if let Some(run) = runs
        .iter()
        .find(forgotten)
        .filter(|_| errors.len() < MOST_ERRORS)
    {
        let text = format!(
            "attempt {} failed, and is not in errors: {text}",
            run.attempt
        );
        breaches.push(Breach::of_job(Promise::TrueVerdict, id, text));
    }
}

/// A row that is done because somebody wanted that. `seen` is whether its last start came to `latest`, whose worker could
/// say what became of it.
pub(super) fn cancelled(
    row: &Row,
    latest: Option<&Run>,
    asked: bool,
    seen: bool,
) -> Result<(), String> {
    if !asked {
        return Err("is cancelled, and nobody has asked for that".to_owned());
    }
    if row.result.as_deref() != Some("fail") {
        return Err(format!("is cancelled, and {:?}", row.result));
    }
    let failed = |run: &Run| {
        let code = Plan::of(row.id, &row.target).code_of(run.attempt);
        run.target == STUCK || run.ended && code != 0
    };
    match (latest, row.return_code, row.sig.as_deref()) {
        (Some(run), None, None) if seen && !failed(run) => Err(format!(
            "is cancelled as if it had waited, and ran: {run:?}"
        )),
        // It waited.
        (_, None, None) => Ok(()),
        _ if is_silent(row) => Ok(()),
        (Some(run), None, Some("SIGTERM" | "SIGKILL")) if !run.ended => prints(row, run),
        (Some(run), Some(code), None) if run.ended => {
            let wanted = Plan::of(row.id, &row.target).code_of(run.attempt);
            if code == i64::from(wanted) && code != 0 {
                prints(row, run)
            } else {
                Err(format!(
                    "is cancelled with code {code}, it ended with {wanted}"
                ))
            }
        }
        other => Err(format!("is cancelled, and ended as {other:?}")),
    }
}

/// A row that is done because its job took too long.
pub(super) fn timed_out(
    row: &Row,
    latest: Option<&Run>,
    ownership: Option<&Ownership>,
) -> Result<(), String> {
    if row.target == STUCK && is_silent(row) {
        return Ok(());
    }
    let Some(run) = latest.filter(|run| run.target == STUCK && !run.ended) else {
        return Err(format!(
            "says that it took too long, and it did not: {latest:?}"
        ));
    };
    if ownership.is_some_and(|ownership| ownership.attempts != run.attempt) {
        return Err(format!(
            "took too long in attempt {}: {ownership:?}",
            run.attempt
        ));
    }
    let found = (row.result.as_deref(), row.return_code, row.sig.as_deref());
    if !matches!(found, (Some("fail"), None, Some("SIGTERM" | "SIGKILL"))) {
        return Err(format!("took too long, and ended as {found:?}"));
    }
    prints(row, run)
}

/// Whether a job was stopped before it said a word: nobody has seen it.
fn is_silent(row: &Row) -> bool {
    let failed = row.result.as_deref() == Some("fail") && row.return_code.is_none();
    failed && matches!(row.sig.as_deref(), Some("SIGTERM" | "SIGKILL")) && row.out().is_empty()
}

/// Whether a job that was stopped has what it printed until then: all, or a part of it.
fn prints(row: &Row, run: &Run) -> Result<(), String> {
    let all = Plan::of(row.id, &row.target).stdout(row.id, run.attempt, run.pid);
    if all.starts_with(row.out()) {
        Ok(())
    } else {
        let first = row.out().lines().next().unwrap_or_default();
        Err(format!(
            "was stopped, its stdout is not that of process {}: {first:?}",
            run.pid
        ))
    }
}
