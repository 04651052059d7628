//! How a worker may change a row.

use super::super::agenda::Incarnation;
use super::super::plan::{LEASE, MS, Time};
use super::{Now, Run, Witness, number, text};
use crate::store::model::{Change, Row, Val};

/// What ends those that a worker stops and that obey, and nothing else here. It stops none that it may try again.
const STOPPED: i32 = 15;

impl Witness {
    /// A worker has committed a change.
    pub(in crate::simulation) fn changed(
        &mut self,
        by: Incarnation,
        change: &Change,
        now: &Now<'_>,
    ) -> Result<(), String> {
        let alive_at = self.changed.get(&change.id).copied().unwrap_or(0);
        self.note(change, now);
        if self.touched.contains(&change.id) || self.is_passed_on(change) {
            return Ok(());
        }
        self.check(by, change, alive_at, now).map_err(|what| {
            let Change { id, before, after } = change;
            let (was, is) = (self.status(before), self.status(after));
            let token = self.places.token;
            format!(
                "row {id}: {was} -> {is} by run {by:x} of a worker, token {:?} -> {:?}: {what}",
                before[token], after[token]
            )
        })
    }

    /// Keeps what later events are judged by.
    fn note(&mut self, change: &Change, now: &Now<'_>) {
        let places = self.places;
        let Change { id, before, after } = change;
        let lease = |row: &Row| places.lease_until.map(|at| row[at].clone());
        // A start within the second of the last renewal shows nobody that its worker lives.
        if lease(before) != lease(after) || before[places.token] != after[places.token] {
            self.changed.insert(*id, now.at);
        }
        let (was, is) = (self.status(before), self.status(after));
        if matches!((was, is), ("waiting" | "manual", "accepted")) {
            let token = text(&after[places.token]).to_owned();
            self.claimed.insert(token, now.at);
        }
        if is == "done" && self.is_cancelled(after) {
            self.cancelled.insert(*id);
        }
    }

    /// Whether nothing but the request for a cancellation changes: anybody may pass one on, and say that it was seen to.
    fn is_passed_on(&self, Change { before, after, .. }: &Change) -> bool {
        let others = |at: usize| (0..before.len()).filter(move |other| *other != at);
        let same = |at| others(at).all(|other| before[other] == after[other]);
        self.places.cancel_requested.is_some_and(same)
    }

    fn check(
        &self,
        by: Incarnation,
        change: &Change,
        alive_at: Time,
        now: &Now<'_>,
    ) -> Result<(), String> {
        self.counts(change)?;
        if self.is_own(by, change, now) {
            return Ok(());
        }
        let Change { before, after, .. } = change;
        let (was, is) = (self.status(before), self.status(after));
        let freed = matches!(was, "accepted" | "running") && matches!(is, "waiting" | "manual");
        let given_up = (was, is) == ("running", "done");
        let Some(owner) = self.holder(before).filter(|_| freed || given_up) else {
            return Err("nobody may do that".to_owned());
        };
        // A rescue.
        let quiet = now.at - alive_at;
        if !(now.is_over)(owner) && quiet < LEASE * 98 / 100 {
            return Err(format!("rescued {} ms after it was seen alive", quiet / MS));
        }
        Ok(())
    }

    /// Attempts rise with a start, interruptions with a way back that does not count.
    fn counts(&self, change: &Change) -> Result<(), String> {
        let places = self.places;
        let Change { id, before, after } = change;
        let (was, is) = (self.status(before), self.status(after));
        let counts = |column: Option<usize>| {
            column.map_or((0, 0), |at| (number(&before[at]), number(&after[at])))
        };
        let (attempts, interruptions) = (counts(places.attempts), counts(places.interruptions));
        let started = i64::from(is == "running" && was != is && places.attempts.is_some());
        let interrupted = if is == "scheduled" {
            self.retried(*id, before, after)?
        } else {
            let back = was == "running" && matches!(is, "waiting" | "manual");
            i64::from(back && places.attempts.is_some())
        };
        if attempts.1 - attempts.0 != started || interruptions.1 - interruptions.0 != interrupted {
            return Err(format!(
                "attempts {attempts:?}, interruptions {interruptions:?}"
            ));
        }
        Ok(())
    }

    /// Whether this run of a worker may do so because the row is its own, or nobody's.
    fn is_own(&self, by: Incarnation, change: &Change, now: &Now<'_>) -> bool {
        let Change { before, after, .. } = change;
        let (had, has) = (self.holder(before), self.holder(after));
        match (self.status(before), self.status(after)) {
            ("waiting" | "manual", "accepted") => has == Some(by),
            ("accepted", "running" | "accepted") | ("running", "running") => {
                had == Some(by) && has == had
            }
            // What nobody has, anybody may cancel.
            ("waiting" | "manual" | "scheduled", "done") => {
                had.is_none() && self.is_cancelled(after)
            }
            ("accepted", "done") => had == Some(by) && self.is_cancelled(after),
            ("accepted" | "running", "waiting" | "manual") | ("running", "done" | "scheduled") => {
                had == Some(by)
            }
            ("scheduled", "waiting") => self.is_due(before, after, now),
            // The true end of a row that a rescuer had given up.
            ("done", "done" | "scheduled") => {
                let given_up = |at| before[at] == Val::Int(0);
                had == Some(by) && self.places.lease_until.is_some_and(given_up)
            }
            _ => false,
        }
    }

    /// A row is to run again; by how much its interruptions rise. Its last run is over, had failed, and asked for it, or has
    /// attempts left.
    fn retried(&self, id: i64, before: &Row, after: &Row) -> Result<i64, String> {
        let token = text(&before[self.places.token]);
        let last = self.by_row.get(&id).and_then(|runs| runs.last());
        let run = last.map(|pid| &self.runs[pid]);
        let run = run.filter(|run| run.job.token.as_str() == token);
        let Some(Run {
            job,
            ended: Some((_, code, signal)),
            output,
            ..
        }) = run
        else {
            return Err("runs again before it has ended".to_owned());
        };
        if *code == Some(0) || job.origin.is_manual() {
            return Err(format!("runs again, code {code:?}, {:?}", job.origin));
        }
        if *signal == Some(STOPPED) {
            return Err("runs again although its worker had stopped it".to_owned());
        }
        let freed = |at: Option<usize>| at.is_none_or(|at| after[at] == Val::Null);
        if after[self.places.token] != Val::Null || !freed(self.places.lease_until) {
            return Err(format!("is held while it waits for its time: {after:?}"));
        }
        if text(&after[self.places.stdout]) != output {
            return Err(format!("has lost its output: {after:?}"));
        }
        let asked = *code == Some(75);
        if !asked && self.attempts_left(before) <= 0 {
            return Err(format!("runs again without an attempt left: {before:?}"));
        }
        Ok(asked.into())
    }

    /// How often a row may run again.
    pub(super) fn attempts_left(&self, row: &Row) -> i64 {
        let places = self.places;
        let count = |at: Option<usize>| at.map_or(0, |at| number(&row[at]));
        let most = match places.max_attempts.map(|at| &row[at]) {
            Some(Val::Int(most)) => *most,
            _ => 1,
        };
        most + count(places.interruptions) - count(places.attempts)
    }

    /// Whether a row may be `waiting` because its time has come.
    fn is_due(&self, before: &Row, after: &Row, now: &Now<'_>) -> bool {
        let at = self.places.run_at.expect("a row is scheduled for a time");
        let due = |clock| matches!(before[at], Val::Int(run_at) if run_at <= clock);
        after[at] == Val::Null && now.clock.is_none_or(due)
    }
}
