//! What is done to targets: list, poll, poke, pause, continue, add, remove, set their slots.

use jobd_proto::worker::{TargetStatus, WorkerRequest};
use jobd_proto::{TargetName, Targets};
use serde::Serialize;
use serde_json::Value;

use super::{Context, Done, worker_status};
use crate::cli::{TargetArgs, TargetSlots};
use crate::failure::Failure;
use crate::output::{Table, Tone};

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
        if listed.targets.is_empty() {
            return "it serves no targets\n".to_owned();
        }
        let mut table = Table::new(&["TARGET", "STATE", ">SLOTS", ">QUEUED", ">RUNNING", ">JOBS"]);
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
    let whom = if names.is_empty() {
        "all targets".to_owned()
    } else {
        names.join(", ")
    };
    let targets = if names.is_empty() {
        Targets::All
    } else {
        Targets::Named(names)
    };
    let done = match kind {
        "poll" => "polled",
        "poke" => "poked",
        "pause" => "paused",
        _ => "continued",
    };
    give(context, kind, targets.data(), format!("{done} {whom}")).await
}

/// `add-target` or `set-target-concurrency`.
pub(crate) async fn set(
    context: &Context,
    kind: &'static str,
    args: TargetSlots,
) -> Result<u8, Failure> {
    let TargetSlots {
        target,
        concurrency,
    } = args;
    let said = match concurrency {
        1 => format!("{target} runs 1 job at a time"),
        _ => format!("{target} runs {concurrency} jobs at a time"),
    };
    let request = match kind {
        "add-target" => WorkerRequest::AddTarget {
            target,
            concurrency,
        },
        _ => WorkerRequest::SetTargetConcurrency {
            target,
            concurrency,
        },
    };
    give(context, request.kind(), request.data(), said).await
}

/// `remove-target`.
pub(crate) async fn remove(context: &Context, target: TargetName) -> Result<u8, Failure> {
    let said = format!("{target} is no longer served");
    let request = WorkerRequest::RemoveTarget { target };
    give(context, request.kind(), request.data(), said).await
}

/// `{"ok": true}`, or a sentence.
async fn give(context: &Context, kind: &str, data: Value, said: String) -> Result<u8, Failure> {
    context.client().await?.order(kind, data).await?;
    context
        .screen
        .show(&Done { ok: true }, |_| format!("{said}\n"))?;
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
