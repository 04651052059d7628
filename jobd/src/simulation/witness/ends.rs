//! What rows and answers say in the end.

use jobd_proto::worker::JobOutcome;

use super::super::agenda::Incarnation;
use super::super::plan::{LEASE, SECOND};
use super::{Run, Witness, number, text};
use crate::store::CANCEL_NOTE;
use crate::store::model::{Row, Table, Val};

/// Seconds that no row is scheduled for, nor a history lasts.
const FAR: i64 = 1_000;

impl Witness {
    /// A client was told of a job.
    pub(in crate::simulation) fn told(
        &self,
        id: i64,
        outcome: &JobOutcome,
        table: &Table,
    ) -> Result<(), String> {
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
    pub(in crate::simulation) fn left_behind(
        &self,
        by: Incarnation,
        table: &Table,
    ) -> Result<(), String> {
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
    pub(in crate::simulation) fn is_settled(&self, table: &Table, clock: i64) -> bool {
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
    pub(in crate::simulation) fn unsettled(&self, table: &Table) -> String {
        let open = table
            .rows()
            .find(|(_, row)| !matches!(self.status(row), "done" | "manual"));
        format!(
            "a row was lost: {open:?}, {} s after every fault was over",
            20 * LEASE / SECOND
        )
    }

    /// A row that has ended says how its last run ended.
    pub(in crate::simulation) fn verdicts(
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
