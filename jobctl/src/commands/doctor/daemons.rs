//! What can be amiss with the daemons, and with targets that wait for one.

use std::collections::BTreeSet;
use std::time::Instant;

use super::super::status::{lacks, several_names};
use super::super::view::{Summary, View, Worker, ask, is_among};
use super::{Context, Finding, few};
use crate::failure::Failure;
use crate::output::{plain, seconds};
use crate::settings::Kind;

/// A daemon that takes longer to answer is in trouble, or its network is.
const SLOW_ANSWER_MS: u128 = 1_000;

/// Jobs that wait for longer beside free slots were not polled for.
const LONG_WAIT_S: u64 = 600;

/// Asks the daemon; `None` if it cannot be asked.
pub(super) async fn examine(context: &Context, findings: &mut Vec<Finding>) -> Option<Vec<Worker>> {
    let server = &context.settings.server;
    let begun = Instant::now();
    let workers = match ask(context).await {
        Ok(workers) => workers,
        Err(failure) => {
            let mend = mend(context, &failure).await;
            findings.push(Finding::error("reach", failure.to_string(), mend));
            return None;
        }
    };
    let took = begun.elapsed().as_millis();
    let text = format!("{server} answered within {took} ms");
    findings.push(if took > SLOW_ANSWER_MS {
        let mend = "look at the load of its host and at the workers that it asks";
        Finding::warning("reach", text, mend)
    } else {
        Finding::ok("reach", text)
    });
    if workers.is_empty() {
        findings.push(Finding::error(
            "reach",
            "no workers are registered",
            "start jobd with master_host and master_port in its config",
        ));
    }
    for worker in &workers {
        findings.extend(about(context, worker));
    }
    let versions: BTreeSet<&str> = workers
        .iter()
        .filter(|worker| worker.error.is_none())
        .map(|worker| worker.version.as_deref().unwrap_or("1.x"))
        .collect();
    if versions.len() > 1 {
        let versions: Vec<&str> = versions.into_iter().collect();
        findings.push(Finding::warning(
            "reach",
            format!("workers are of different versions: {}", versions.join(", ")),
            "upgrade the older ones; mixed clusters work meanwhile",
        ));
    }
    Some(workers)
}

/// What helps where the daemon cannot be asked how it is.
async fn mend(context: &Context, failure: &Failure) -> String {
    let (kind, config) = (context.kind(), context.settings.config.display());
    match failure {
        // It is well, and wants something else.
        Failure::Refused(text) if text.contains("invalid password") => format!(
            "{} --password doctor # asks for it; or put password = … into {config}",
            context.jobctl()
        ),
        Failure::Refused(_) => {
            format!(
                "let --host, --port and --master, or the same keys in {config}, fit who listens there"
            )
        }
        _ => {
            // Where somebody listens there is nothing to start.
            let is_there = context.client().await.is_ok();
            let order = if is_there { "status" } else { "start" };
            let or = match kind {
                Kind::Master => String::new(),
                Kind::Worker => {
                    let jobctl = context.settings.given.other(Kind::Master);
                    format!("; or {jobctl} doctor")
                }
            };
            format!("systemctl {order} {kind} # on its host{or}")
        }
    }
}

/// What missing columns cost, as the workers say who miss them.
pub(super) fn lacking(workers: Option<&[Worker]>, mend: &str) -> Vec<Finding> {
    let lacks = lacks(workers.unwrap_or_default()).into_iter();
    let findings = lacks.map(|(lack, workers)| {
        let text = format!("{}: {lack}", several_names(&workers));
        Finding::warning("reach", plain(&text), mend)
    });
    findings.collect()
}

/// A command on these targets, as it is typed.
fn on_targets(command: &str, targets: &[&str], behind: &str) -> String {
    if targets.iter().any(|name| plain(name) != *name) {
        return "nobody can type such a name: look at what adds jobs for it".to_owned();
    }
    let is_option = targets.iter().any(|name| name.starts_with('-'));
    let dashes = if is_option { "-- " } else { "" };
    let names = shell_words::join(targets);
    format!("{command} {dashes}{names}{behind}")
}

fn about(context: &Context, worker: &Worker) -> Vec<Finding> {
    let name = plain(&worker.name);
    let mut findings = Vec::new();
    if let Some(error) = &worker.error {
        findings.push(Finding::error(
            "reach",
            format!("{name} at {}: {}", worker.address, plain(error)),
            "systemctl status jobd # on its host",
        ));
    }
    if let Some(trouble) = worker.database_trouble() {
        findings.push(Finding::error(
            "reach",
            format!("{name} {trouble}"),
            "jobd --check-config # on its host: says what it meets there",
        ));
    }
    let paused = worker.targets.iter();
    let paused: Vec<&str> = paused
        .filter(|target| target.paused == Some(true))
        .map(|target| target.name.as_str())
        .collect();
    if !paused.is_empty() {
        findings.push(Finding::warning(
            "reach",
            format!("{name} has paused {}", plain(&paused.join(", "))),
            on_targets(&format!("{} continue", context.jobctl()), &paused, ""),
        ));
    }
    findings
}

/// What only the daemon and the table together can tell.
pub(super) fn join(context: &Context, view: &View, findings: &mut Vec<Finding>) {
    let jobctl = context.jobctl();
    let targets = view.targets.iter();
    let waits = targets.filter_map(|target| waits(context, target));
    let mut found = few(waits.collect(), &format!("{jobctl} status --all"));
    found.extend(view.more().map(|more| {
        let mend = format!("{jobctl} list --status waiting --limit 10000");
        Finding::warning("rows", more, mend)
    }));
    found.extend(strangers(context, view));
    if found.is_empty() {
        found.push(Finding::ok("rows", "what waits is served"));
    }
    findings.extend(found);
}

/// What waits and is not this worker's to run. Whether it is another one's only a master knows.
fn strangers(context: &Context, view: &View) -> Option<Finding> {
    let served = || view.workers.iter().flat_map(|worker| &worker.targets);
    let served = || served().map(|target| target.name.as_str());
    let waits = |target: &&Summary| {
        view.kind == "worker" && target.waiting > Some(0) && !is_among(served(), &target.name)
    };
    let targets = view.targets.iter().filter(waits);
    let names: Vec<&str> = targets.map(|target| target.name.as_str()).collect();
    (!names.is_empty()).then(|| {
        let names = plain(&several_names(&names));
        Finding::warning(
            "rows",
            format!("jobs wait for {names}, which this worker does not serve"),
            format!(
                "{} doctor # knows whether another one does",
                context.settings.given.other(Kind::Master)
            ),
        )
    })
}

fn waits(context: &Context, target: &Summary) -> Option<Finding> {
    let name = plain(&target.name);
    let waiting = target.waiting.filter(|waiting| *waiting > 0)?;
    if target.state == Some("no worker") {
        return Some(Finding::error(
            "rows",
            match waiting {
                1 => format!("1 job waits for {name}, which no worker serves"),
                _ => format!("{waiting} jobs wait for {name}, which no worker serves"),
            },
            on_targets(
                &format!(
                    "{} --host WORKER add-target",
                    context.settings.given.other(Kind::Worker)
                ),
                &[&target.name],
                " 1 # and the same in its config",
            ),
        ));
    }
    let is_free = target.running < target.slots && target.state == Some("active");
    let oldest = target
        .oldest_s
        .filter(|oldest| *oldest > LONG_WAIT_S && is_free)?;
    let poke = match context.kind() {
        Kind::Master => "poke",
        Kind::Worker => "poll",
    };
    Some(Finding::error(
        "rows",
        format!(
            "jobs of {name} wait for up to {}, although it has free slots",
            seconds(oldest)
        ),
        on_targets(
            &format!("{} {poke}", context.jobctl()),
            &[&target.name],
            " # poll_interval of its workers should not be 0",
        ),
    ))
}
