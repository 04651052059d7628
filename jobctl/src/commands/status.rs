//! `status`: the cluster, or one worker, as one table.

use std::collections::BTreeMap;

use jobd_proto::master::MasterStatus;
use jobd_proto::worker::WorkerStatus;
use serde::Serialize;
use serde_json::Value;

use super::targets::{state, tone};
use super::{Context, master_status, worker_status, workers};
use crate::failure::Failure;
use crate::output::{Screen, Table, Tone, seconds};
use crate::settings::Kind;

/// `{"kind", "address", "workers": […], "totals": {…}}`; the same from a master and a worker.
#[derive(Debug, Serialize)]
struct Cluster {
    /// `master` or `worker`: who was asked.
    kind: &'static str,
    /// Where it was asked.
    address: String,
    workers: Vec<Worker>,
    totals: Totals,
}

#[derive(Debug, Serialize)]
struct Worker {
    name: String,
    address: String,
    /// Why nothing more is known of it.
    error: Option<String>,
    /// `null` if it does not say.
    version: Option<String>,
    uptime_s: Option<u64>,
    /// Manual jobs that a client waits for.
    waiters: usize,
    /// Which server it found and what the table's columns switch on; `null` if it does not say.
    table: Option<String>,
    /// What missing columns cost; empty if nothing, or if it does not say.
    lacks: Vec<String>,
    targets: Vec<Target>,
}

#[derive(Debug, Serialize)]
struct Target {
    name: String,
    /// `null` of a worker that could not be asked.
    paused: Option<bool>,
    slots: Option<u32>,
    /// `null` if the worker does not tell queued from running.
    queued: Option<usize>,
    running: Option<usize>,
    /// Queued and running.
    jobs: Option<usize>,
}

/// Sums over all that is known.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Totals {
    workers: usize,
    /// Different names.
    targets: usize,
    slots: u64,
    queued: usize,
    running: usize,
    jobs: usize,
    /// Targets that are paused, counted on each worker.
    paused: usize,
}

/// Shows it; 1 if a worker could not be asked.
pub(crate) async fn run(context: &Context) -> Result<u8, Failure> {
    let client = context.client().await?;
    let server = &context.settings.server;
    let (kind, workers) = match server.kind {
        Kind::Master => ("master", of_master(master_status(&client, true).await?)),
        Kind::Worker => {
            let status = worker_status(&client).await?;
            let name = status.name.clone().unwrap_or_else(|| "-".to_owned());
            ("worker", vec![worker(name, server.address(), status)])
        }
    };
    let cluster = Cluster {
        kind,
        address: server.address(),
        totals: totals(&workers),
        workers,
    };
    context
        .screen
        .show(&cluster, |cluster| text(cluster, context.screen))?;
    Ok(u8::from(
        cluster.workers.iter().any(|worker| worker.error.is_some()),
    ))
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
        targets: targets.into_iter().map(unknown).collect(),
    }
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
        queued: targets().filter_map(|target| target.queued).sum(),
        running: targets().filter_map(|target| target.running).sum(),
        jobs: targets().filter_map(|target| target.jobs).sum(),
        paused: targets()
            .filter(|target| target.paused == Some(true))
            .count(),
    }
}

fn text(cluster: &Cluster, screen: Screen) -> String {
    if cluster.workers.is_empty() {
        return "no workers are registered\n".to_owned();
    }
    let mut table = Table::new(&[
        "WORKER", "ADDRESS", "UP", "TARGET", "STATE", ">SLOTS", ">QUEUED", ">RUNNING", ">JOBS",
    ]);
    for worker in &cluster.workers {
        let head = [
            worker.name.clone(),
            worker.address.clone(),
            worker.uptime_s.map_or_else(|| "-".to_owned(), seconds),
        ];
        if worker.targets.is_empty() {
            add_row(&mut table, head, None, worker.error.as_deref());
            continue;
        }
        for (at, target) in worker.targets.iter().enumerate() {
            let head = if at == 0 {
                head.clone()
            } else {
                [const { String::new() }; 3]
            };
            add_row(&mut table, head, Some(target), worker.error.as_deref());
        }
    }
    let mut text = screen.table(&table);
    for worker in &cluster.workers {
        if let Some(error) = &worker.error {
            text.push_str(&screen.tone(
                Tone::Bad,
                &crate::output::plain(&format!("{} at {}: {error}", worker.name, worker.address)),
            ));
            text.push('\n');
        }
    }
    for (lack, workers) in lacks(&cluster.workers) {
        let line = crate::output::plain(&format!("{}: {lack}", several_names(&workers)));
        text.push_str(&screen.tone(Tone::Warning, &line));
        text.push('\n');
    }
    text + &summary(&cluster.totals)
}

/// What tables lack, each once, with the workers on them.
fn lacks(workers: &[Worker]) -> BTreeMap<&str, Vec<&str>> {
    let mut lacks = BTreeMap::<&str, Vec<&str>>::new();
    for worker in workers {
        for lack in &worker.lacks {
            lacks.entry(lack).or_default().push(&worker.name);
        }
    }
    lacks
}

/// `web1, web2, web3 and 4 more`.
fn several_names(names: &[&str]) -> String {
    const NAMED: usize = 3;
    let shown = names[..names.len().min(NAMED)].join(", ");
    match names.len().saturating_sub(NAMED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

fn add_row(table: &mut Table, head: [String; 3], target: Option<&Target>, error: Option<&str>) {
    let [name, address, up] = head;
    let number =
        |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
    let count = |count: Option<usize>| number(count.and_then(|count| u64::try_from(count).ok()));
    let paused = target.and_then(|target| target.paused);
    let state = match (error, paused) {
        (Some(_), _) => "unknown",
        (None, Some(paused)) => state(paused),
        (None, None) => "-",
    };
    let tone = if error.is_some() {
        Tone::Bad
    } else {
        tone(paused == Some(true))
    };
    let cells = [
        name,
        address,
        up,
        target.map_or_else(|| "-".to_owned(), |target| target.name.clone()),
        state.to_owned(),
        number(target.and_then(|target| target.slots).map(u64::from)),
        count(target.and_then(|target| target.queued)),
        count(target.and_then(|target| target.running)),
        count(target.and_then(|target| target.jobs)),
    ];
    table.row(tone, &cells);
}

fn summary(totals: &Totals) -> String {
    let several =
        |count: usize, thing: &str| format!("{count} {thing}{}", if count == 1 { "" } else { "s" });
    // Of workers before version 2 only the sum is known.
    let untold = match totals.jobs.saturating_sub(totals.queued + totals.running) {
        0 => String::new(),
        jobs => format!(" {jobs} queued or running (not told which),"),
    };
    format!(
        "{}, {}, {} slots: {} queued, {} running,{untold} {} paused\n",
        several(totals.workers, "worker"),
        several(totals.targets, "target"),
        totals.slots,
        totals.queued,
        totals.running,
        totals.paused
    )
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
        assert_eq!(
            workers
                .iter()
                .map(|worker| worker.name.as_str())
                .collect::<Vec<_>>(),
            ["a", "b"]
        );
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
        assert_eq!(
            summary(&expected),
            "2 workers, 2 targets, 4 slots: 2 queued, 3 running, 1 queued or running (not told which), 1 paused\n"
        );
    }
}
