//! What is known of a cluster: from a master or a worker, from the table, or from both. Gathers and
//! joins; shows nothing.

use std::collections::BTreeMap;

use jobd_proto::master::MasterStatus;
use jobd_proto::table::{Connection, JobRow, MOST_TARGETS, Patience, RowError};
use jobd_proto::worker::WorkerStatus;
use jobd_proto::{Pattern, TargetName};
use serde::Serialize;
use serde_json::Value;

use super::readings::{Reading, read};
use super::{Context, master_status, outcome, worker_status, workers};
use crate::database;
use crate::failure::Failure;
use crate::output::plain;
use crate::settings::Kind;

/// `status --json`. The same keys from a master, a worker and the table alone.
#[derive(Debug, Serialize)]
pub(super) struct View {
    /// `master`, `worker`, or `table` where neither was in reach.
    pub(super) kind: &'static str,
    /// Where the daemon was asked.
    pub(super) address: Option<String>,
    /// Why there is nothing from the daemon, or from the table.
    pub(super) errors: Vec<String>,
    /// The database, where one was read.
    pub(super) database: Option<String>,
    pub(super) targets: Vec<Summary>,
    /// Whether jobs wait for more targets than are looked at.
    pub(super) targets_are_more: bool,
    pub(super) workers: Vec<Worker>,
    pub(super) totals: Totals,
    /// Rows that workers have in hand, and the server's clock; for the live screen only.
    #[serde(skip)]
    pub(super) active: Vec<JobRow>,
    #[serde(skip)]
    pub(super) now: i64,
    /// Why the table could not be read, for those who know what mends that; `errors` has it in words.
    #[serde(skip)]
    pub(super) unread: Option<RowError>,
}

/// One target, over all workers. What is not known is `null`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Summary {
    pub(super) name: String,
    /// `active`, `paused`, `partly paused`, `no worker`, or unknown.
    pub(super) state: Option<&'static str>,
    pub(super) slots: Option<u64>,
    /// Rows of status `waiting`, counted up to 10,000.
    pub(super) waiting: Option<u64>,
    pub(super) waiting_is_more: bool,
    pub(super) running: Option<u64>,
    /// Running for longer than a minute and twice the P95, or than an hour where that is unknown.
    pub(super) slow: Option<u64>,
    /// Failed within the last hour, of the newest 5,000 rows.
    pub(super) failed_1h: Option<u64>,
    /// Whether these rows go back for less than an hour.
    pub(super) failed_is_more: bool,
    /// Seconds since the oldest waiting job was added.
    pub(super) oldest_s: Option<u64>,
    /// Seconds that 95 of 100 jobs did not exceed, of the newest 5,000 rows.
    pub(super) p95_s: Option<u64>,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Worker {
    pub(super) name: String,
    pub(super) address: String,
    /// Why nothing more is known of it.
    pub(super) error: Option<String>,
    /// `null` if it does not say.
    pub(super) version: Option<String>,
    pub(super) uptime_s: Option<u64>,
    /// Manual jobs that a client waits for.
    pub(super) waiters: usize,
    /// Which server it found and what the table's columns switch on; `null` if it does not say.
    pub(super) table: Option<String>,
    /// What missing columns cost; empty if nothing, or if it does not say.
    pub(super) lacks: Vec<String>,
    /// Whether it cannot reach its database; `null` if it does not say.
    pub(super) database_away: Option<bool>,
    /// Ends of jobs that wait on its disk for the database; `null` without `state_dir`, or if it does not say.
    pub(super) journaled_ends: Option<u64>,
    pub(super) targets: Vec<Target>,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Target {
    pub(super) name: String,
    /// `null` of a worker that could not be asked.
    pub(super) paused: Option<bool>,
    pub(super) slots: Option<u32>,
    /// `null` if the worker does not tell queued from running.
    pub(super) queued: Option<usize>,
    pub(super) running: Option<usize>,
    /// Queued and running.
    pub(super) jobs: Option<usize>,
}

/// Sums over all that workers tell.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Totals {
    pub(super) workers: usize,
    /// Different names.
    pub(super) targets: usize,
    pub(super) slots: u64,
    pub(super) queued: usize,
    pub(super) running: usize,
    pub(super) jobs: usize,
    /// Targets that are paused, counted on each worker.
    pub(super) paused: usize,
}

/// Asks the daemon and reads the table; `table` is kept open for the next time. Fails where neither
/// has anything to say.
pub(super) async fn look(
    context: &Context,
    table: &mut Option<Connection>,
) -> Result<View, Failure> {
    let server = &context.settings.server;
    let asked = ask(context).await;
    let reading = match &context.settings.database {
        None => None,
        Some(settings) => {
            let patience = if context.quiet {
                Patience::default()
            } else {
                database::patience(settings)
            };
            let workers = asked.iter().flatten();
            let targets = workers.flat_map(|worker| &worker.targets);
            let names: Vec<&str> = targets.map(|target| target.name.as_str()).collect();
            let reading = read(settings, table, &names, patience).await;
            Some(reading.map_err(|error| (database::failure(settings, &error), error)))
        }
    };
    let (asked, reading) = match (asked, reading) {
        (Err(failure), None) => return Err(failure),
        (Err(daemon), Some(Err((table, _)))) => return Err(daemon.and(&table.to_string())),
        (asked, reading) => (asked, reading),
    };
    let mut errors = Vec::new();
    let (reading, unread) = match reading.transpose() {
        Ok(reading) => (reading, None),
        Err((failure, error)) => {
            errors.push(failure.to_string());
            (None, Some(error))
        }
    };
    let (kind, workers) = match asked {
        Ok(workers) if server.kind == Kind::Master => ("master", workers),
        Ok(workers) => ("worker", workers),
        Err(failure) => {
            errors.push(failure.to_string());
            ("table", Vec::new())
        }
    };
    let place = context.settings.database.as_ref().map(database::place);
    Ok(View {
        kind,
        address: (kind != "table").then(|| server.address()),
        errors,
        database: place.filter(|_| reading.is_some()),
        targets: summaries(kind, &workers, reading.as_ref()),
        targets_are_more: reading.as_ref().is_some_and(|read| read.waiting.is_more),
        totals: totals(&workers),
        workers: match (&reading, kind) {
            (Some(reading), "table") => owners(reading),
            _ => workers,
        },
        now: reading.as_ref().map_or(0, |reading| reading.now),
        active: reading.map(|reading| reading.active).unwrap_or_default(),
        unread,
    })
}

/// The workers that the daemon knows; a worker knows itself.
pub(super) async fn ask(context: &Context) -> Result<Vec<Worker>, Failure> {
    let server = &context.settings.server;
    let client = context.client().await?;
    match server.kind {
        Kind::Master => Ok(of_master(master_status(&client, true).await?)),
        Kind::Worker => {
            let status = worker_status(&client).await?;
            let name = status.name.clone().unwrap_or_else(|| "-".to_owned());
            Ok(vec![worker(name, server.address(), status)])
        }
    }
}

fn of_master(status: MasterStatus) -> Vec<Worker> {
    let mut found: Vec<Worker> = status
        .workers
        .into_iter()
        .map(|mut info| {
            let address = workers::address(&info);
            match info.worker_status.take() {
                Some(status) => worker(info.name, address, status),
                None => silent_worker(info.name, address, info.targets, info.worker_status_error),
            }
        })
        .collect();
    found.sort_by(|a, b| (&a.name, &a.address).cmp(&(&b.name, &b.address)));
    found
}

fn worker(name: String, address: String, status: WorkerStatus) -> Worker {
    let targets = status.targets.into_iter().map(|(name, target)| Target {
        name,
        paused: Some(target.paused),
        slots: Some(target.concurrency),
        queued: target.queued,
        running: target.running,
        jobs: Some(target.length),
    });
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let lacks = status.extra.get("tableLacks").and_then(Value::as_array);
    Worker {
        name,
        address,
        error: None,
        table: status.extra.get("table").and_then(text),
        lacks: lacks.into_iter().flatten().filter_map(text).collect(),
        database_away: status.extra.get("databaseAway").and_then(Value::as_bool),
        journaled_ends: status.extra.get("journaledEnds").and_then(Value::as_u64),
        version: status.version,
        uptime_s: status.uptime,
        waiters: status.waiters,
        targets: targets.collect(),
    }
}

fn silent_worker(
    name: String,
    address: String,
    targets: Vec<String>,
    error: Option<String>,
) -> Worker {
    let unknown = |name| Target {
        name,
        paused: None,
        slots: None,
        queued: None,
        running: None,
        jobs: None,
    };
    Worker {
        name,
        address,
        error: Some(error.unwrap_or_else(|| "no status".to_owned())),
        version: None,
        uptime_s: None,
        waiters: 0,
        table: None,
        lacks: Vec::new(),
        database_away: None,
        journaled_ends: None,
        targets: targets.into_iter().map(unknown).collect(),
    }
}

impl Worker {
    /// What is wrong between it and its database, in words.
    pub(super) fn database_trouble(&self) -> Option<String> {
        let away = (self.database_away == Some(true))
            .then(|| "cannot reach its database: it claims nothing".to_owned());
        let ends = self.journaled_ends.filter(|ends| *ends > 0);
        let ends = ends.map(|ends| match ends {
            1 => "1 end of a job waits in its journal for the database".to_owned(),
            _ => format!("{ends} ends of jobs wait in its journal for the database"),
        });
        let trouble: Vec<String> = away.into_iter().chain(ends).collect();
        (!trouble.is_empty()).then(|| trouble.join("; "))
    }
}

/// The workers whose claims stand in rows, where no daemon can be asked.
fn owners(reading: &Reading) -> Vec<Worker> {
    let mut names = BTreeMap::<String, BTreeMap<String, [usize; 2]>>::new();
    for row in &reading.active {
        let Some(name) = outcome::worker(row) else {
            continue;
        };
        let counts = names.entry(name.to_owned()).or_default();
        let counts = counts.entry(row.target.clone()).or_default();
        counts[usize::from(row.status == "running")] += 1;
    }
    let target = |(name, [queued, running]): (String, [usize; 2])| Target {
        name,
        paused: None,
        slots: None,
        queued: Some(queued),
        running: Some(running),
        jobs: Some(queued + running),
    };
    names
        .into_iter()
        .map(|(name, targets)| Worker {
            targets: targets.into_iter().map(target).collect(),
            error: None,
            ..silent_worker(name, "-".to_owned(), Vec::new(), None)
        })
        .collect()
}

fn totals(workers: &[Worker]) -> Totals {
    let targets = || workers.iter().flat_map(|worker| &worker.targets);
    let names: std::collections::BTreeSet<&str> =
        targets().map(|target| target.name.as_str()).collect();
    Totals {
        workers: workers.len(),
        targets: names.len(),
        slots: targets()
            .filter_map(|target| target.slots)
            .map(u64::from)
            .sum(),
        queued: sum(targets().filter_map(|target| target.queued)),
        running: sum(targets().filter_map(|target| target.running)),
        jobs: sum(targets().filter_map(|target| target.jobs)),
        paused: targets()
            .filter(|target| target.paused == Some(true))
            .count(),
    }
}

/// Each target once, by name, from what workers tell and what the table says.
fn summaries(kind: &str, workers: &[Worker], reading: Option<&Reading>) -> Vec<Summary> {
    let mut targets = BTreeMap::<String, Summary>::new();
    let mut pauses = BTreeMap::<&str, (usize, usize)>::new();
    for target in workers.iter().flat_map(|worker| &worker.targets) {
        let summary = targets.entry(target.name.clone()).or_default();
        add(&mut summary.slots, target.slots.map(u64::from));
        let running = target.running.and_then(|count| u64::try_from(count).ok());
        add(&mut summary.running, running);
        if let Some(paused) = target.paused {
            let (all, stopped) = pauses.entry(target.name.as_str()).or_default();
            *all += 1;
            *stopped += usize::from(paused);
        }
    }
    if let Some(reading) = reading {
        for name in reading.targets() {
            targets.entry(name.to_owned()).or_default();
        }
    }
    let summaries = targets.into_iter().map(|(name, mut summary)| {
        summary.state = match pauses.get(name.as_str()) {
            Some((all, stopped)) if all == stopped => Some("paused"),
            Some((_, 0)) => Some("active"),
            Some(_) => Some("partly paused"),
            None if kind == "master" && !served(workers, &name) => Some("no worker"),
            None => None,
        };
        if let Some(reading) = reading {
            reading.fill(&name, &mut summary);
        }
        Summary { name, ..summary }
    });
    summaries.collect()
}

/// Whether a worker serves it, be it one that could not be asked or one with a pattern.
fn served(workers: &[Worker], name: &str) -> bool {
    let served = workers.iter().flat_map(|worker| &worker.targets);
    is_among(served.map(|target| target.name.as_str()), name)
}

/// Whether `name` is one of these, or matches a pattern among them.
pub(super) fn is_among<'a>(mut names: impl Iterator<Item = &'a str>, name: &str) -> bool {
    names.any(|served| {
        let pattern = || Pattern::of(&TargetName::new(served).ok()?);
        served == name || pattern().is_some_and(|pattern| pattern.matches(name))
    })
}

/// The sum of what daemons tell, which may be anything.
pub(super) fn sum(counts: impl Iterator<Item = usize>) -> usize {
    counts.fold(0, usize::saturating_add)
}

fn add(sum: &mut Option<u64>, more: Option<u64>) {
    if let Some(more) = more {
        let sum = sum.get_or_insert(0);
        *sum = sum.saturating_add(more);
    }
}

impl View {
    /// What is said where jobs wait for more targets than are looked at.
    pub(super) fn more(&self) -> Option<String> {
        let said = || {
            format!(
                "jobs wait for more than {MOST_TARGETS} targets; of the others nothing is counted"
            )
        };
        self.targets_are_more.then(said)
    }

    /// Who says all this, in words.
    pub(super) fn source(&self) -> String {
        let daemon = self.address.as_ref().map(|address| match self.kind {
            "master" => format!("jobd-master at {address}"),
            _ => format!("the worker at {address}"),
        });
        let table = self.database.as_ref().map(|place| match self.kind {
            "table" => format!("the table alone, {}", plain(place)),
            _ => format!("the table, {}", plain(place)),
        });
        let both: Vec<String> = daemon.into_iter().chain(table).collect();
        both.join(" and ")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn sums_leave_out_what_is_unknown() {
        let status: MasterStatus = serde_json::from_value(json!({
            "workers": [
                {"remoteAddr": "10.0.0.2", "remotePort": 5, "name": "b", "targets": ["x"], "workerStatusError": "no answer"},
                {"remoteAddr": "10.0.0.1", "remotePort": 4, "name": "a", "targets": ["x", "y"], "workerStatus": {
                    "targets": {"x": {"paused": true, "concurrency": 3, "length": 5, "running": 3, "queued": 2},
                                "y": {"paused": false, "concurrency": 1, "length": 1}},
                    "jobPromisesCount": 0, "memoryUsage": {}}},
            ],
            "memoryUsage": {},
        }))
        .unwrap();
        let workers = of_master(status);
        let names: Vec<&str> = workers.iter().map(|worker| worker.name.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
        let expected = Totals {
            workers: 2,
            targets: 2,
            slots: 4,
            queued: 2,
            running: 3,
            jobs: 6,
            paused: 1,
        };
        assert_eq!(totals(&workers), expected);
        let targets = summaries("master", &workers, None);
        let shown: Vec<_> = targets.iter().map(|target| target.state).collect();
        assert_eq!(shown, [Some("paused"), Some("active")]);
        assert!(!served(&workers, "z") && served(&workers, "y"));
    }

    #[test]
    fn patterns_count_as_the_daemons_count_them() {
        let among = |served: &str, name: &str| is_among([served].into_iter(), name);
        assert!(among("user/*", "user/7") && among("*/low", "user/low"));
        assert!(!among("*/low", "mail") && !among("user/*", "user/"));
        assert!(among("user/*", "user/*"), "by its own text, too");
    }
}
