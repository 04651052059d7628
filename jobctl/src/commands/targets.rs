//! What is done to targets: list, poll, poke, pause, continue, add, remove, set their slots.

use jobd_proto::master::MasterRequest;
use jobd_proto::settings::near_match;
use jobd_proto::worker::{TargetStatus, WorkerRequest};
use jobd_proto::{TargetName, Targets};
use serde::Serialize;
use serde_json::Value;

use super::view::is_among;
use super::{Context, Done, master_status, worker_status};
use crate::cli::{LimitArgs, TargetArgs, TargetSlots};
use crate::client::Client;
use crate::failure::Failure;
use crate::output::{Table, Tone, complain, plain, several};
use crate::settings::Kind;

/// `{"targets": [{"name", "paused", "concurrency", "length", "running", "queued"}]}`; the last two
/// are absent if the worker does not say.
#[derive(Serialize)]
struct Listed {
    targets: Vec<Target>,
}

#[derive(Serialize)]
struct Target {
    name: String,
    #[serde(flatten)]
    status: TargetStatus,
}

/// Lists the targets of a worker.
pub(crate) async fn list(context: &Context) -> Result<u8, Failure> {
    let client = context.client().await?;
    let status = worker_status(&client).await?;
    let targets = status
        .targets
        .into_iter()
        .map(|(name, status)| Target { name, status })
        .collect();
    context.screen.show(&Listed { targets }, |listed| {
        if listed.targets.is_empty() && context.screen.is_terminal() {
            return "it serves no targets\n".to_owned();
        }
        let mut table = Table::new(&["TARGET", "STATE", ">SLOTS", ">QUEUED", ">RUNNING", ">JOBS"])
            .sparing(&["JOBS", "SLOTS"]);
        for Target { name, status } in &listed.targets {
            let count = |count: Option<usize>| {
                count.map_or_else(|| "-".to_owned(), |count| count.to_string())
            };
            let cells = [
                name.clone(),
                state(status.paused).to_owned(),
                status.concurrency.to_string(),
                count(status.queued),
                count(status.running),
                status.length.to_string(),
            ];
            table.row(tone(status.paused), &cells);
        }
        context.screen.table(&table)
    })?;
    Ok(0)
}

/// `poll`, `poke`, `pause` or `continue`; no names mean all targets.
pub(crate) async fn order(
    context: &Context,
    kind: &'static str,
    args: TargetArgs,
) -> Result<u8, Failure> {
    let names: Vec<String> = args.targets.iter().map(ToString::to_string).collect();
    let client = context.client().await?;
    let mut reached = names.clone();
    if kind != "poke" {
        are_served(context, &client, &names).await?;
    } else if let Some(unserved) = unserved(context, &client, &names).await? {
        complain(&format!("jobctl: warning: {unserved}"));
        reached.retain(|name| !unserved.names.contains(name));
    }
    let done = match kind {
        "poll" => "polled",
        "poke" => "poked",
        "pause" => "paused",
        _ => "continued",
    };
    let whom = if names.is_empty() {
        "all targets".to_owned()
    } else {
        reached.join(", ")
    };
    let targets = if names.is_empty() {
        Targets::All
    } else {
        Targets::Named(names)
    };
    client.order(kind, targets.data()).await?;
    context.screen.show(&Done { ok: true }, |_| {
        if whom.is_empty() {
            return String::new();
        }
        format!("{done} {whom} on {}\n", place(context))
    })?;
    Ok(0)
}

/// Whom an order reaches, in words.
fn place(context: &Context) -> String {
    let address = context.settings.server.address();
    match context.kind() {
        Kind::Worker => format!("the worker at {address}"),
        Kind::Master => format!("all workers of the master at {address}"),
    }
}

/// Refuses an order for targets that nobody would carry out.
pub(super) async fn are_served(
    context: &Context,
    client: &Client<'_>,
    names: &[String],
) -> Result<(), Failure> {
    match unserved(context, client, names).await? {
        None => Ok(()),
        Some(said) => Err(Failure::Refused(format!(
            "{said}, and nothing was changed; {} list-workers shows what they serve",
            context.jobctl()
        ))),
    }
}

/// Refuses to add a job that nobody would run of whom this daemon knows, or where it does not say whom it knows: it
/// would not run the job either.
pub(super) async fn is_run(
    context: &Context,
    client: &Client<'_>,
    target: &String,
) -> Result<(), Failure> {
    let names = std::slice::from_ref(target);
    let (unserved, shows) = match context.kind() {
        Kind::Master => {
            let unserved = unserved(context, client, names).await?;
            (unserved, "list-workers shows what they serve")
        }
        Kind::Worker => {
            let status = worker_status(client).await?;
            let served = || status.targets.keys().map(String::as_str);
            let unserved = Unserved::among("this worker does not serve", names, served);
            // Its database may take 'Mail' for 'mail'.
            let lower: Vec<String> = served().map(str::to_lowercase).collect();
            let lower = lower.iter().map(String::as_str);
            let unserved = unserved.filter(|_| !is_among(lower, &target.to_lowercase()));
            (unserved, "list-targets shows what it serves")
        }
    };
    match unserved {
        None => Ok(()),
        Some(unserved) => Err(Failure::Refused(format!(
            "{unserved}, and nothing was added; {} {shows}",
            context.jobctl()
        ))),
    }
}

/// Targets that nobody serves who could. Shown as a sentence about them.
pub(super) struct Unserved {
    names: Vec<String>,
    said: String,
}

impl Unserved {
    /// Those of `names` that are not among the `served`; `None` where each is. `who` begins the sentence.
    fn among<'a, S: Iterator<Item = &'a str>>(
        who: &str,
        names: &[String],
        served: impl Fn() -> S,
    ) -> Option<Self> {
        let is_missing = |name: &&String| !is_among(served(), name);
        let names: Vec<String> = names.iter().filter(is_missing).cloned().collect();
        let meant = near_match(names.first()?, served());
        let meant = meant.map_or_else(String::new, |near| format!(" (did you mean {near}?)"));
        let said = format!("{who} {}{meant}", names.join(", "));
        Some(Self { names, said })
    }
}

impl std::fmt::Display for Unserved {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.said)
    }
}

/// Which of these targets no worker of this master serves; `None` where each is served. A worker is not asked: it refuses
/// names that it does not serve, where a master cannot know what comes.
pub(super) async fn unserved(
    context: &Context,
    client: &Client<'_>,
    names: &[String],
) -> Result<Option<Unserved>, Failure> {
    if names.is_empty() || context.kind() == Kind::Worker {
        return Ok(None);
    }
    let workers = master_status(client, false).await?.workers;
    let served = || workers.iter().flat_map(|worker| &worker.targets);
    let served = || served().map(String::as_str);
    Ok(Unserved::among("no worker serves", names, served))
}

/// How many jobs of a target may run at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Limit {
    pub(super) target: TargetName,
    pub(super) concurrency: u32,
    /// Through a master: only on the workers of this name.
    pub(super) on: Option<String>,
}

/// `set-target-concurrency`.
pub(crate) async fn limit(context: &Context, args: LimitArgs) -> Result<u8, Failure> {
    let LimitArgs { slots, on } = args;
    if on.is_some() && context.kind() == Kind::Worker {
        return Err(Failure::Usage(
            "--on names a worker of a master: add --master, or leave it out".to_owned(),
        ));
    }
    let TargetSlots {
        target,
        concurrency,
    } = slots;
    let limit = Limit {
        target,
        concurrency,
        on,
    };
    let client = context.client().await?;
    let said = set(context, &client, limit).await?;
    done(context, &said)
}

/// Sets it, and says so.
pub(super) async fn set(
    context: &Context,
    client: &Client<'_>,
    limit: Limit,
) -> Result<String, Failure> {
    let Limit {
        target,
        concurrency,
        on,
    } = limit;
    let said = runs(&target, concurrency);
    match context.kind() {
        Kind::Worker => {
            let request = WorkerRequest::SetTargetConcurrency {
                target,
                concurrency,
            };
            client.order(request.kind(), request.data()).await?;
            Ok(format!("{said} on {}", place(context)))
        }
        Kind::Master => {
            are_served(context, client, &[target.to_string()]).await?;
            let place = match &on {
                Some(worker) => plain(worker),
                None => "each worker that serves it".to_owned(),
            };
            let request = MasterRequest::SetTargetConcurrency {
                target,
                concurrency,
                worker: on,
            };
            client.order(request.kind(), request.data()).await?;
            Ok(format!("{said} on {place}"))
        }
    }
}

fn runs(target: &TargetName, concurrency: u32) -> String {
    let jobs = several(usize::try_from(concurrency).unwrap_or(usize::MAX), "job");
    format!("{target} runs {jobs} at a time")
}

/// `add-target`.
pub(crate) async fn add(context: &Context, args: TargetSlots) -> Result<u8, Failure> {
    let TargetSlots {
        target,
        concurrency,
    } = args;
    let said = format!("{} on {}", runs(&target, concurrency), place(context));
    let request = WorkerRequest::AddTarget {
        target,
        concurrency,
    };
    let client = context.client().await?;
    give(context, &client, request.kind(), request.data(), &said).await
}

/// `remove-target`.
pub(crate) async fn remove(context: &Context, target: TargetName) -> Result<u8, Failure> {
    let said = format!("{target} is no longer served by {}", place(context));
    let request = WorkerRequest::RemoveTarget { target };
    let client = context.client().await?;
    give(context, &client, request.kind(), request.data(), &said).await
}

/// `{"ok": true}`, or a sentence.
async fn give(
    context: &Context,
    client: &Client<'_>,
    kind: &str,
    data: Value,
    said: &str,
) -> Result<u8, Failure> {
    client.order(kind, data).await?;
    done(context, said)
}

fn done(context: &Context, said: &str) -> Result<u8, Failure> {
    let said = |_: &Done| format!("{said}\n");
    context.screen.show(&Done { ok: true }, said)?;
    Ok(0)
}

/// The word for a target's state.
pub(super) fn state(paused: bool) -> &'static str {
    if paused { "paused" } else { "active" }
}

/// The colour for it.
pub(super) fn tone(paused: bool) -> Tone {
    if paused { Tone::Warning } else { Tone::Plain }
}
