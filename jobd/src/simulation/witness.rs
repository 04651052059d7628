//! What is believed and what is checked: runs of processes, rows as they were committed, and nothing that a worker
//! says of itself.

mod changes;
mod ends;

use std::collections::{BTreeMap, BTreeSet};

use super::agenda::{Incarnation, Pid};
use super::plan::Time;
use crate::job::Job;
use crate::store::CANCEL_NOTE;
use crate::store::model::{Row, Table, Val};

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
}
