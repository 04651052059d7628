//! What a table with every ability promises beside: retries, time limits, cancellations.

use serde_json::Value;

use super::{Breach, Evidence, Ledger, Ownership, Promise, Run, Troubles};
use crate::chaos::job::{Plan, STUCK};
use crate::database::Row;

/// So long after a job's own process anything else of it may be there: its worker may have been frozen for a lease, and
/// the machine busy.
const LEFT_LIMIT_NS: u64 = 20_000_000_000;

/// So long after its row has asked for a cancellation a job may still begin: what was claimed before that waits for a slot
/// for some seconds, and the database may be away.
const CALLED_OFF_LIMIT_NS: u64 = 20_000_000_000;

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

/// No job is given up that may run again, unless somebody waits for this very run of it or has called it off.
pub(super) fn given_up(row: &Row, counts: &Ownership, ledger: &Ledger, breaches: &mut Vec<Breach>) {
    let failed = matches!(
        counts.reason.as_deref(),
        Some("exit" | "signal" | "timeout" | "idle" | "spawn" | "orphaned")
    );
    if row.status != "done" || !failed || ledger.manual.contains(&row.id) {
        return;
    }
    let most = counts.max_attempts.unwrap_or(1).max(1);
    let left = (most + counts.interruptions).saturating_sub(counts.attempts);
    if left > 0 || row.return_code == Some(AGAIN_LATER.into()) {
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

/// A job is done once, and a cancelled one is not run again.
pub(super) fn undone(evidence: &Evidence<'_>, breaches: &mut Vec<Breach>) {
    for id in evidence.undone {
        let text = "was done, and its row says something else since";
        breaches.push(Breach::of_job(Promise::NothingTwice, *id, text));
    }
    for (id, row) in evidence.ownership {
        let cancelled = |error: &Value| error["reason"] == "cancelled";
        if row.retried().any(|error| cancelled(&error)) {
            let text = format!("was cancelled, and to be run again: {:?}", row.errors);
            breaches.push(Breach::of_job(Promise::NothingTwice, *id, text));
        }
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
