//! What is believed and what is checked: runs of processes, rows as they were committed, and nothing that a worker
//! says of itself.

use std::collections::{BTreeMap, BTreeSet};

use jobd_proto::worker::JobOutcome;

use super::agenda::{Incarnation, Pid};
use super::plan::{LEASE, MS, SECOND, Time};
use crate::job::Job;
use crate::store::CANCEL_NOTE;
use crate::store::model::{Change, Row, Table, Val};

/// Seconds that no row is scheduled for, nor a history lasts.
const FAR: i64 = 1_000;

/// One run of a job.
#[derive(Clone, Debug)]
pub(super) struct Run {
    pub(super) by: Incarnation,
    pub(super) job: Job,
    /// When it ended, with code and signal.
    pub(super) ended: Option<(Time, Option<i32>, Option<i32>)>,
    /// We ended it, not the job itself.
    pub(super) cut_short: bool,
    pub(super) output: String,
}

/// The columns that are looked at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Places {
    pub(super) status: usize,
    pub(super) target: usize,
    pub(super) result: usize,
    pub(super) code: usize,
    pub(super) signal: usize,
    pub(super) stdout: usize,
    pub(super) stderr: usize,
    pub(super) token: usize,
    pub(super) reason: Option<usize>,
    pub(super) cancel_requested: Option<usize>,
    /// Of ownership.
    pub(super) lease_until: Option<usize>,
    pub(super) attempts: Option<usize>,
    pub(super) interruptions: Option<usize>,
    pub(super) max_attempts: Option<usize>,
    /// Of rows for later.
    pub(super) run_at: Option<usize>,
}

impl Places {
    pub(super) fn new(table: &Table) -> Self {
        let place = |column| table.place(column).expect("a column of the seed");
        Self {
            status: place("status"),
            target: place("target"),
            result: place("result"),
            code: place("return_code"),
            signal: place("sig"),
            stdout: place("stdout"),
            stderr: place("stderr"),
            token: table.place("worker").unwrap_or_else(|| place("stderr")),
            reason: table.place("reason"),
            cancel_requested: table.place("cancel_requested"),
            lease_until: table.place("lease_until"),
            attempts: table.place("attempts"),
            interruptions: table.place("interruptions"),
            max_attempts: table.place("max_attempts"),
            run_at: table.place("run_at"),
        }
    }
}

/// See the module.
pub(super) struct Witness {
    pub(super) places: Places,
    pub(super) runs: BTreeMap<Pid, Run>,
    /// By row, in the order of their beginnings.
    by_row: BTreeMap<i64, Vec<Pid>>,
    attempts: BTreeSet<(i64, u32)>,
    /// When a row was last seen to have another holder or lease than before.
    changed: BTreeMap<i64, Time>,
    /// When a row was claimed, by its token.
    claimed: BTreeMap<String, Time>,
    /// When a row was asked to be cancelled.
    pub(super) asked: BTreeMap<i64, Time>,
    /// Rows that were cancelled.
    cancelled: BTreeSet<i64>,
    /// Rows that somebody changed by hand: they may run twice and end anyhow.
    pub(super) touched: BTreeSet<i64>,
}

/// A state of affairs at some moment.
pub(super) struct Now<'a> {
    pub(super) at: Time,
    pub(super) table: &'a Table,
    /// Whether a run of a worker is over, its processes too.
    pub(super) is_over: &'a dyn Fn(Incarnation) -> bool,
    /// The database's clock, where nobody sets it.
    pub(super) clock: Option<i64>,
}

pub(super) fn text(value: &Val) -> &str {
    match value {
        Val::Text(text) => text,
        _ => "",
    }
}

fn number(value: &Val) -> i64 {
    match value {
        Val::Int(number) => *number,
        _ => 0,
    }
}

/// The run of a worker that a token names.
pub(super) fn incarnation(token: &str) -> Option<Incarnation> {
    let instance = token.split('/').nth(1)?;
    Incarnation::from_str_radix(instance, 16).ok()
}

fn key(job: &Job) -> i64 {
    i64::try_from(job.id.0).expect("ids are small")
}

impl Witness {
    pub(super) fn new(places: Places) -> Self {
        Self {
            places,
            runs: BTreeMap::new(),
            by_row: BTreeMap::new(),
            attempts: BTreeSet::new(),
            changed: BTreeMap::new(),
            claimed: BTreeMap::new(),
            asked: BTreeMap::new(),
            cancelled: BTreeSet::new(),
            touched: BTreeSet::new(),
        }
    }

    fn status<'a>(&self, row: &'a Row) -> &'a str {
        text(&row[self.places.status])
    }

    fn holder(&self, row: &Row) -> Option<Incarnation> {
        incarnation(text(&row[self.places.token]))
    }

    /// Whether a row says that it was cancelled while it did not run, or while it did, where it can say that.
    fn is_cancelled(&self, row: &Row) -> bool {
        let says = |at: usize| text(&row[at]) == "cancelled";
        let by_reason = self.places.reason.is_some_and(says);
        by_reason || text(&row[self.places.stderr]) == CANCEL_NOTE
    }

    /// A worker has committed a change.
    pub(super) fn changed(
        &mut self,
        by: Incarnation,
        change: &Change,
        now: &Now<'_>,
    ) -> Result<(), String> {
        let places = self.places;
        let Change { id, before, after } = change;
        let lease = |row: &Row| places.lease_until.map(|at| row[at].clone());
        let alive_at = self.changed.get(id).copied().unwrap_or(0);
        // A start within the second of the last renewal shows nobody that its worker lives.
        if lease(before) != lease(after) || before[places.token] != after[places.token] {
            self.changed.insert(*id, now.at);
        }
        let (was, is) = (self.status(before), self.status(after));
        if (was, is) == ("waiting", "accepted") || (was, is) == ("manual", "accepted") {
            self.claimed
                .insert(text(&after[places.token]).to_owned(), now.at);
        }
        if is == "done" && self.is_cancelled(after) {
            self.cancelled.insert(*id);
        }
        if self.touched.contains(id) {
            return Ok(());
        }
        // Anybody may pass a request on, and say that it was seen to.
        if let Some(at) = places.cancel_requested {
            let mut passed_on = before.clone();
            passed_on[at] = after[at].clone();
            if passed_on == *after {
                return Ok(());
            }
        }
        let said = || {
            format!(
                "row {id}: {was} -> {is} by run {by:x} of a worker, token {:?} -> {:?}",
                before[places.token], after[places.token]
            )
        };
        let (had, has) = (self.holder(before), self.holder(after));
        let counts = |column: Option<usize>| {
            column.map_or((0, 0), |at| (number(&before[at]), number(&after[at])))
        };
        let (attempts, interruptions) = (counts(places.attempts), counts(places.interruptions));
        let started = i64::from(is == "running" && was != is && places.attempts.is_some());
        let mut interrupted = i64::from(
            was == "running" && matches!(is, "waiting" | "manual") && places.attempts.is_some(),
        );
        if is == "scheduled" {
            interrupted = self
                .retried(*id, before, after)
                .map_err(|what| format!("{}: {what}", said()))?;
        }
        if attempts.1 - attempts.0 != started || interruptions.1 - interruptions.0 != interrupted {
            return Err(format!(
                "{}: attempts {attempts:?}, interruptions {interruptions:?}",
                said()
            ));
        }
        let own = match (was, is) {
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
                had == Some(by) && places.lease_until.is_some_and(given_up)
            }
            _ => false,
        };
        if own {
            return Ok(());
        }
        let freed = matches!(was, "accepted" | "running") && matches!(is, "waiting" | "manual");
        if had.is_none() || !freed && (was, is) != ("running", "done") {
            return Err(said());
        }
        // A rescue.
        let owner = had.expect("looked at above");
        let quiet = now.at - alive_at;
        if !(now.is_over)(owner) && quiet < LEASE * 98 / 100 {
            return Err(format!(
                "{}: rescued {} ms after it was seen alive",
                said(),
                quiet / MS
            ));
        }
        Ok(())
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
            ended: Some((_, code, _)),
            output,
            ..
        }) = run
        else {
            return Err("runs again before it has ended".to_owned());
        };
        if *code == Some(0) || job.origin.is_manual() {
            return Err(format!("runs again, code {code:?}, {:?}", job.origin));
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
    fn attempts_left(&self, row: &Row) -> i64 {
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

    /// A process begins.
    pub(super) fn begins(
        &mut self,
        pid: Pid,
        run: Run,
        most: u32,
        paused: Option<Time>,
        now: &Now<'_>,
    ) -> Result<(), String> {
        let id = key(&run.job);
        let said = || format!("row {id}, attempt {}, {:?}", run.job.attempt, run.job.token);
        let earlier = self.by_row.entry(id).or_default();
        let others: Vec<Pid> = earlier
            .iter()
            .copied()
            .filter(|pid| self.runs[pid].ended.is_none())
            .collect();
        earlier.push(pid);
        let by = run.by;
        let target = run.job.target.clone();
        let claimed = self.claimed.get(run.job.token.as_str()).copied();
        let (attempt, origin) = (run.job.attempt, run.job.origin);
        let said = said();
        self.runs.insert(pid, run);
        if self.touched.contains(&id) {
            return Ok(());
        }
        if self.cancelled.contains(&id) {
            return Err(format!("a job begins that was cancelled: {said}"));
        }
        if let (Some(asked), Some(claimed)) = (self.asked.get(&id), claimed)
            && *asked < claimed
        {
            return Err(format!(
                "a job begins that was claimed after its row had asked for its cancellation: {said}"
            ));
        }
        if let Some(other) = others.first() {
            return Err(format!(
                "two runs overlap: {said} begins while this runs: {:?}",
                self.runs[other]
            ));
        }
        if self.places.attempts.is_some() && !self.attempts.insert((id, attempt)) {
            return Err(format!("an attempt begins twice: {said}"));
        }
        let row = now.table.row(id).expect("rows are never removed");
        if self.status(row) != "running" && self.status(row) != "done"
            || self.holder(row) != Some(by) && self.status(row) == "running"
        {
            return Err(format!(
                "a process begins that its row does not know of: {said}, row {row:?}"
            ));
        }
        let running = now.table.rows().filter(|(id, row)| {
            !self.touched.contains(id)
                && self.status(row) == "running"
                && self.holder(row) == Some(by)
                && text(&row[self.places.target]) == target.as_str()
        });
        // Ends that are being written have passed their slots on.
        if running.count() > 2 * most as usize {
            return Err(format!(
                "twice as many rows of a target are running as it has slots: {said}"
            ));
        }
        let alive = |run: &&Run| run.ended.is_none() && run.by == by && run.job.target == target;
        if self.runs.values().filter(alive).count() > most as usize {
            return Err(format!("a target has more processes than slots: {said}"));
        }
        if !origin.is_manual()
            && paused
                .zip(claimed)
                .is_some_and(|(paused, claimed)| paused < claimed)
        {
            return Err(format!(
                "a row that was claimed for a paused target begins: {said}"
            ));
        }
        Ok(())
    }

    pub(super) fn ends(
        &mut self,
        pid: Pid,
        at: Time,
        cut_short: bool,
        code: Option<i32>,
        signal: Option<i32>,
    ) {
        let run = self.runs.get_mut(&pid).expect("a run ends after it began");
        run.cut_short = cut_short;
        run.ended = Some((at, code, signal));
    }

    /// A client was told of a job.
    pub(super) fn told(&self, id: i64, outcome: &JobOutcome, table: &Table) -> Result<(), String> {
        if self.touched.contains(&id) {
            return Ok(());
        }
        let places = self.places;
        let row = table.row(id).expect("rows are never removed");
        let same = self.status(row) == "done"
            && text(&row[places.result]) == outcome.result.as_str()
            && text(&row[places.stdout]) == outcome.stdout
            && text(&row[places.stderr]) == outcome.stderr
            && text(&row[places.signal]) == outcome.signal.as_deref().unwrap_or_default()
            && outcome.code.map_or(row[places.code] == Val::Null, |code| {
                row[places.code] == Val::Int(code.into())
            });
        if same {
            return Ok(());
        }
        Err(format!(
            "the answer to a manual run differs from its row {id}: {outcome:?}, {row:?}"
        ))
    }

    /// A worker has ended in order, with everything written.
    pub(super) fn left_behind(&self, by: Incarnation, table: &Table) -> Result<(), String> {
        let held = |row: &Row| {
            matches!(self.status(row), "accepted" | "running") && self.holder(row) == Some(by)
        };
        match table
            .rows()
            .find(|(id, row)| !self.touched.contains(id) && held(row))
        {
            Some((id, row)) => Err(format!("a worker ended and left row {id} behind: {row:?}")),
            None => Ok(()),
        }
    }

    /// Whether every row has come to its end, or may be claimed by whoever asks for it; or waits for a time that is far away,
    /// because the database's clock, which shows `clock`, was set back.
    pub(super) fn is_settled(&self, table: &Table, clock: i64) -> bool {
        let far = |row: &Row| {
            let at = self.places.run_at;
            at.is_some_and(|at| number(&row[at]) > clock + FAR)
        };
        table.rows().all(|(_, row)| match self.status(row) {
            "scheduled" => far(row),
            status => matches!(status, "done" | "manual"),
        })
    }

    /// A row that has not ended, for the message.
    pub(super) fn unsettled(&self, table: &Table) -> String {
        let open = table
            .rows()
            .find(|(_, row)| !matches!(self.status(row), "done" | "manual"));
        format!(
            "a row was lost: {open:?}, {} s after every fault was over",
            20 * LEASE / SECOND
        )
    }

    /// A row that has ended says how its last run ended.
    pub(super) fn verdicts(
        &self,
        table: &Table,
        ended_well: &dyn Fn(Incarnation) -> bool,
    ) -> Result<(), String> {
        let places = self.places;
        for (id, row) in table.rows() {
            if self.touched.contains(&id) || self.status(row) != "done" {
                continue;
            }
            let runs = self.by_row.get(&id).map_or(&[][..], Vec::as_slice);
            let last = runs.last().map(|pid| &self.runs[pid]);
            if text(&row[places.stderr]) == CANCEL_NOTE {
                let fail = text(&row[places.result]) == "fail" && row[places.code] == Val::Null;
                if !fail || last.is_some_and(|run| run.ended.is_none()) {
                    return Err(format!(
                        "row {id}: cancelled, and yet: {row:?}, last run {last:?}"
                    ));
                }
                continue;
            }
            let orphaned = text(&row[places.stderr]).starts_with("jobd: orphaned");
            let wrong = |what: &str| Err(format!("row {id}: {what}: {row:?}, last run {last:?}"));
            if orphaned {
                if text(&row[places.result]) != "fail" {
                    return wrong("an orphan ended well");
                }
                // Another claim may have come to an end before its process began.
                let its = |run: &Run| text(&row[places.stderr]).contains(run.job.token.as_str());
                let told = |run: &Run| its(run) && ended_well(run.by) && !run.cut_short;
                if last.is_some_and(told) {
                    return wrong("given up although its worker was there to tell its end");
                }
                continue;
            }
            let Some(Run {
                ended: Some((_, code, signal)),
                output,
                ..
            }) = last
            else {
                return wrong("ended without a run that ended");
            };
            let signal = signal.map(jobd_proto::signal::name).unwrap_or_default();
            let code_is = code.map_or(row[places.code] == Val::Null, |code| {
                row[places.code] == Val::Int(code.into())
            });
            let result = if *code == Some(0) { "ok" } else { "fail" };
            let may = |run: &Run| !run.cut_short && !run.job.origin.is_manual();
            let failed = result == "fail" && !self.is_cancelled(row);
            if failed && last.is_some_and(may) && places.run_at.is_some() {
                if self.attempts_left(row) > 0 {
                    return wrong("given up with attempts left");
                }
                if *code == Some(75) {
                    return wrong("given up although it asked for another time");
                }
            }
            if text(&row[places.result]) != result
                || text(&row[places.stdout]) != output
                || text(&row[places.signal]) != signal
                || !code_is
            {
                return wrong("a false verdict");
            }
        }
        Ok(())
    }
}
