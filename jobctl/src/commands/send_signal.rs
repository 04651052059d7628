//! `send-signal`: to the launched process of running jobs, wherever they run; not to its children.

use std::collections::BTreeMap;

use jobd_proto::master::{MasterRequest, MasterSignalReply, SignalJob};
use jobd_proto::worker::{SignalReply, WorkerRequest};
use jobd_proto::{JobId, signal};
use serde::Serialize;

use super::Context;
use super::ids::{Named, named};
use super::outcome::{about, count_unsaid};
use super::run_manual::with_targets;
use crate::cli::SignalArgs;
use crate::failure::Failure;
use crate::output::Tone;
use crate::settings::Kind;

/// `{"delivered": {ID: bool}, "errors": {ID: text}}`
#[derive(Default, Serialize)]
struct Shown {
    delivered: BTreeMap<JobId, bool>,
    errors: BTreeMap<JobId, String>,
}

/// Sends it; 1 if any job was not reached.
pub(crate) async fn run(context: &Context, args: SignalArgs) -> Result<u8, Failure> {
    let SignalArgs { signal, jobs, yes } = args;
    let chosen = named(context, jobs).await?;
    let name = signal::name(signal);
    chosen.confirm(&format!("sends {name} to"), yes).await?;
    let shown = match context.kind() {
        Kind::Worker => through_worker(context, signal, chosen.jobs).await?,
        Kind::Master => through_master(context, signal, chosen.jobs).await?,
    };
    context.screen.show(&shown, |shown| {
        let mut text = String::new();
        for (id, delivered) in &shown.delivered {
            let (tone, said) = match delivered {
                true => (Tone::Good, format!("job {id}: {name} sent")),
                false => (Tone::Bad, format!("job {id}: not running there")),
            };
            text += &(context.screen.tone(tone, &said) + "\n");
        }
        for (id, error) in &shown.errors {
            text += &(context.screen.tone(Tone::Bad, &about(*id, error)) + "\n");
        }
        text
    })?;
    let failed = !shown.errors.is_empty() || shown.delivered.values().any(|delivered| !delivered);
    Ok(u8::from(failed))
}

async fn through_worker(
    context: &Context,
    signal: i32,
    jobs: Vec<Named>,
) -> Result<Shown, Failure> {
    let ids = jobs.iter().map(|job| job.id);
    let request = WorkerRequest::SendSignal {
        jobs: ids.clone().map(|id| (id, signal)).collect(),
    };
    let client = context.client().await?;
    let SignalReply(delivered) = client.ask(request.kind(), request.data()).await?;
    let mut errors = BTreeMap::new();
    count_unsaid(ids, &delivered, &mut errors);
    Ok(Shown { delivered, errors })
}

async fn through_master(
    context: &Context,
    signal: i32,
    jobs: Vec<Named>,
) -> Result<Shown, Failure> {
    let (known, unknown) = with_targets(context, jobs).await?;
    let mut shown = Shown::default();
    shown.errors.extend(
        unknown
            .into_iter()
            .map(|id| (id, format!("job {id} not found"))),
    );
    if !known.is_empty() {
        let ids: Vec<JobId> = known.keys().copied().collect();
        let jobs = known
            .into_iter()
            .map(|(id, target)| SignalJob { id, signal, target })
            .collect();
        let request = MasterRequest::SendSignal { jobs };
        let client = context.client().await?;
        let reply: MasterSignalReply = client.ask(request.kind(), request.data()).await?;
        shown.errors.extend(reply.errors);
        let delivered = reply
            .delivered
            .into_iter()
            .filter_map(|(id, delivered)| Some((id.parse().ok()?, delivered)));
        shown.delivered.extend(delivered);
        count_unsaid(ids, &shown.delivered, &mut shown.errors);
    }
    Ok(shown)
}
