//! What the table says about each target: what waits, what runs for how long, what ran lately.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use jobd_proto::table::{
    Backlogs, COUNTED, Connection, JobRow, Kind, Patience, RowError, Scan, WINDOW,
};

use super::outcome::PROGRESS;
use super::stats::Runs;
use super::view::Summary;
use crate::database::Database;

/// A running job is slow after this many seconds, if twice the target's P95 is less.
const SLOW_S: i64 = 60;

/// The same where nothing of that target ended lately.
const SLOW_UNKNOWN_S: i64 = 3600;

const HOUR_S: i64 = 3600;

/// One look at the table.
#[derive(Debug, Default)]
pub(super) struct Reading {
    /// The server's clock, in seconds since 1970.
    pub(super) now: i64,
    /// Rows that a worker has in hand, with the column `worker` where there is one.
    pub(super) active: Vec<JobRow>,
    pub(super) waiting: Backlogs,
    recent: BTreeMap<String, Recent>,
    /// Whether the newest rows, of which `recent` is, go back for less than an hour.
    is_short: bool,
}

/// What ended lately, of one target.
#[derive(Debug, Default)]
struct Recent {
    failed: u64,
    p95_s: Option<i64>,
}

/// Reads it; `table` is opened where it is not, and given up after an error. Where the table takes 'Mail' for 'mail', they
/// are one target, spelt as among `served`, the targets of the workers.
pub(super) async fn read(
    settings: &Database,
    table: &mut Option<Connection>,
    served: &[&str],
    patience: Patience,
) -> Result<Reading, RowError> {
    let mut open = match table.take() {
        Some(open) => open,
        None => Connection::open(&settings.settings, patience).await?,
    };
    let reading = read_open(&mut open, served).await?;
    *table = Some(open);
    Ok(reading)
}

async fn read_open(table: &mut Connection, served: &[&str]) -> Result<Reading, RowError> {
    let known = |name: &str| table.columns().has(name).then(|| name.to_owned());
    let columns: Vec<String> = ["worker", PROGRESS].into_iter().filter_map(known).collect();
    let now = table.server_time().await?;
    let mut newest = table.newest(&Scan::default(), None, WINDOW).await?;
    let mut active = table.active(&columns).await?;
    let mut waiting = table.backlogs().await?;
    let target = table.columns().get("target").map(|column| &column.kind);
    if let Some(Kind::Text {
        ignores_case: true, ..
    }) = target
    {
        let rows = newest.jobs.iter_mut().chain(&mut active);
        let names = rows.map(|row| &mut row.target);
        let backlogs = waiting.targets.iter_mut();
        respell(
            served,
            names.chain(backlogs.map(|backlog| &mut backlog.target)),
        );
    }
    let since = now - HOUR_S;
    let is_short = newest.next.is_some()
        && newest
            .jobs
            .last()
            .is_some_and(|oldest| oldest.time_created > since);
    Ok(Reading {
        now,
        active,
        waiting,
        recent: recent(&newest.jobs, since),
        is_short,
    })
}

/// Spells each name that differs from another one in case only as that: as a known one, or as the first of them.
fn respell<'a>(known: &[&str], names: impl Iterator<Item = &'a mut String>) {
    let known = known
        .iter()
        .map(|name| (name.to_lowercase(), (*name).to_owned()));
    let mut spelt: HashMap<String, String> = known.collect();
    for name in names {
        let first = spelt.entry(name.to_lowercase());
        name.clone_from(first.or_insert_with(|| name.clone()));
    }
}

fn recent(rows: &[JobRow], since: i64) -> BTreeMap<String, Recent> {
    let mut targets = BTreeMap::<&str, (u64, Runs)>::new();
    for row in rows.iter().filter(|row| row.status == "done") {
        let (failed, runs) = targets.entry(&row.target).or_default();
        let is_failed = row.result.as_deref() != Some("ok") && row.time_finished >= since;
        *failed += u64::from(is_failed);
        runs.count(row);
    }
    let recent = targets.into_iter().map(|(target, (failed, runs))| {
        let p95_s = runs.figures(None).p95_s;
        (target.to_owned(), Recent { failed, p95_s })
    });
    recent.collect()
}

impl Reading {
    /// Every target that was seen.
    pub(super) fn targets(&self) -> BTreeSet<&str> {
        let waiting = self.waiting.targets.iter();
        let waiting = waiting.map(|backlog| backlog.target.as_str());
        let active = self.active.iter().map(|row| row.target.as_str());
        let recent = self.recent.keys().map(String::as_str);
        waiting.chain(active).chain(recent).collect()
    }

    /// Fills in what the table knows of a target. Its word on what runs counts more than the
    /// workers': a row is the truth.
    pub(super) fn fill(&self, name: &str, summary: &mut Summary) {
        let mut backlogs = self.waiting.targets.iter();
        let backlog = backlogs.find(|backlog| backlog.target == name);
        let waiting = backlog.map(|backlog| backlog.waiting);
        // Of a target that was not looked at nobody knows.
        let waiting = waiting.or((!self.waiting.is_more).then_some(0));
        summary.waiting = waiting.map(|waiting| waiting.min(COUNTED));
        summary.waiting_is_more = waiting > Some(COUNTED);
        summary.oldest_s = backlog
            .and_then(|backlog| backlog.oldest)
            .map(|added| self.since(added));
        let recent = self.recent.get(name);
        summary.failed_1h = Some(recent.map_or(0, |recent| recent.failed));
        summary.failed_is_more = self.is_short;
        let p95_s = recent.and_then(|recent| recent.p95_s);
        summary.p95_s = p95_s.map(i64::unsigned_abs);
        let running = || {
            let rows = self.active.iter();
            rows.filter(|row| row.target == name && row.status == "running")
        };
        let count = |count: usize| Some(u64::try_from(count).unwrap_or(u64::MAX));
        summary.running = count(running().count());
        let limit = p95_s.map_or(SLOW_UNKNOWN_S, |p95_s| SLOW_S.max(2 * p95_s));
        let slow = running().filter(|row| self.now - row.time_started > limit);
        summary.slow = count(slow.count());
    }

    fn since(&self, time: i64) -> u64 {
        self.now.saturating_sub(time).max(0).unsigned_abs()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(status: &str, result: Option<&str>, started: i64, finished: i64) -> JobRow {
        JobRow {
            target: "mail".to_owned(),
            status: status.to_owned(),
            result: result.map(str::to_owned),
            time_started: started,
            time_finished: finished,
            ..JobRow::default()
        }
    }

    #[test]
    fn names_that_differ_in_case_only_are_spelt_alike() {
        let mut names = ["Mail", "LOST", "mail", "lost", "é", "É"].map(str::to_owned);
        respell(&["mail", "x"], names.iter_mut());
        assert_eq!(names, ["mail", "LOST", "mail", "LOST", "é", "é"]);
    }

    #[test]
    fn slow_is_what_takes_much_longer_than_most() {
        let ended = [
            row("done", Some("ok"), 9_000, 9_040),
            row("done", Some("fail"), 9_000, 9_001),
            row("done", Some("fail"), 1_000, 1_001),
        ];
        let mut reading = Reading {
            now: 10_000,
            recent: recent(&ended, 10_000 - HOUR_S),
            active: vec![
                row("running", None, 9_919, 0),
                row("running", None, 9_921, 0),
                row("accepted", None, 0, 0),
            ],
            ..Reading::default()
        };
        let mut summary = Summary::default();
        reading.fill("mail", &mut summary);
        let counts = (summary.running, summary.slow, summary.failed_1h);
        assert_eq!(counts, (Some(2), Some(1), Some(1)));
        assert_eq!(summary.p95_s, Some(40));
        reading.recent.clear();
        reading.fill("mail", &mut summary);
        assert_eq!(summary.slow, Some(0), "less than an hour");
    }
}
