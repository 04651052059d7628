//! `run`: one job now, as if it were a command here.

use std::time::Duration;

use jobd_proto::JobId;
use jobd_proto::follow::{Follow, MAX_TAIL};
use jobd_proto::master::{ManualJob, MasterRequest};
use jobd_proto::table::NewJob;
use jobd_proto::worker::{JobOutcome, RunManualReply, WorkerRequest};
use serde::Serialize;

use super::Context;
use super::add::payload;
use super::follow::{PAUSE, Watched, outcome, state, watch};
use super::live::View;
use super::logs::show_rest;
use super::outcome::{Ending, UNSAID};
use super::targets::is_run;
use crate::cli::RunArgs;
use crate::client::Client;
use crate::database;
use crate::failure::Failure;
use crate::output::{complain, plain};
use crate::settings::Kind;

/// How long the last of the output may be on its way when the job's end is known.
const LAST_OUTPUT: Duration = Duration::from_secs(5);

/// `{"id", "result", "code", "signal", "stdout", "stderr"}`
#[derive(Serialize)]
struct Ran {
    id: JobId,
    #[serde(flatten)]
    outcome: JobOutcome,
}

/// Adds a manual row, has it run, and ends as it did.
pub(crate) async fn run(context: &Context, args: RunArgs) -> Result<u8, Failure> {
    let settings = database::settings(&context.settings)?;
    let mut table = database::open(settings).await?;
    let job = NewJob {
        target: args.target.to_string(),
        manual: true,
        data: payload(args.data.as_deref()).await?,
        others: args.columns,
    };
    // First of all, so that no row is left behind where nobody can run it.
    let client = context.client().await?;
    is_run(context, &client, &job.target).await?;
    let ids = table.insert(&job, 1).await;
    let ids = ids.map_err(|error| database::failure(settings, &error))?;
    let Some(id) = ids.first().copied() else {
        return Err(Failure::Refused("the database gave no id".to_owned()));
    };
    let mut view = View::keeping(id, false);
    let (reply, ended) = tokio::select! {
        biased;
        reply = shown(context, &client, &job.target, &mut view) => reply.map_err(|failure| added(context, id, failure))?,
        _ = tokio::signal::ctrl_c() => {
            let begun = view.begun();
            drop(view);
            return Err(Failure::Interrupted(if begun {
                let jobctl = context.jobctl();
                format!("job {id} goes on; {jobctl} logs {id} -f shows its output, {jobctl} cancel {id} ends it")
            } else {
                was_added(context, id)
            }));
        }
    };
    show(context, &view, reply, ended)
}

/// What went wrong behind the row that was added: whether it runs is not known.
fn added(context: &Context, id: JobId, failure: Failure) -> Failure {
    match failure {
        Failure::Refused(_) | Failure::Unreachable(_) => failure.and(&was_added(context, id)),
        other => other,
    }
}

fn was_added(context: &Context, id: JobId) -> String {
    let jobctl = context.jobctl();
    format!(
        "job {id} was added: {jobctl} show {id} tells whether it runs, {jobctl} run-manual {id} has it run if not"
    )
}

/// Has it run, and shows what it writes meanwhile, where the daemon can tell. With the answer: whether all that the job
/// wrote was seen.
async fn shown(
    context: &Context,
    client: &Client<'_>,
    target: &str,
    view: &mut View,
) -> Result<(RunManualReply, bool), Failure> {
    let id = view.id();
    let reply = request(context, client, id, target);
    view.waits(target);
    if context.screen.is_json() {
        let reply = reply.await?;
        view.is_over();
        return Ok((reply, false));
    }
    let follow = Follow {
        tail: MAX_TAIL,
        wait: true,
        ..Follow::new(id)
    };
    let mut reply = std::pin::pin!(reply);
    let watched = {
        let mut watching = std::pin::pin!(followed(context, client, follow, view));
        let mut watched = None;
        // Watched first: what a short job writes is to be seen as well.
        let reply = loop {
            tokio::select! {
                biased;
                seen = &mut watching, if watched.is_none() => watched = Some(seen),
                reply = &mut reply => break reply?,
            }
        };
        if watched.is_none() {
            watched = tokio::time::timeout(LAST_OUTPUT, watching).await.ok();
        }
        (reply, watched)
    };
    let (reply, watched) = watched;
    view.is_over();
    // Whatever else came of it: the answer has all of the output.
    let ended = matches!(watched, Some(Ok(true)));
    Ok((reply, ended))
}

/// Shows what the job writes until it is done; whether all of that was seen, or nobody wants to see any more.
async fn followed(
    context: &Context,
    client: &Client<'_>,
    follow: Follow,
    view: &mut View,
) -> Result<bool, Failure> {
    loop {
        let Watched::Last(message) = watch(client, follow, view).await? else {
            return Ok(true);
        };
        let state = state(context, follow.id, message)?;
        if outcome(&state).is_some() {
            return Ok(view.ran());
        }
        // On its way to a worker, or cut short: the answer to the request says when that is enough.
        view.again(&state.state);
        tokio::time::sleep(PAUSE).await;
    }
}

async fn request(
    context: &Context,
    client: &Client<'_>,
    id: JobId,
    target: &str,
) -> Result<RunManualReply, Failure> {
    match context.kind() {
        Kind::Worker => {
            let request = WorkerRequest::RunManual { ids: vec![id] };
            client.ask_patiently(request.kind(), request.data()).await
        }
        Kind::Master => {
            let target = target.to_owned();
            let request = MasterRequest::RunManual {
                jobs: vec![ManualJob { id, target }],
            };
            client.ask_patiently(request.kind(), request.data()).await
        }
    }
}

fn show(
    context: &Context,
    view: &View,
    mut reply: RunManualReply,
    ended: bool,
) -> Result<u8, Failure> {
    let id = view.id();
    let Some(outcome) = reply.jobs.remove(&id) else {
        let why = reply.errors.remove(&id);
        let why = why.unwrap_or_else(|| UNSAID.to_owned());
        let jobctl = context.jobctl();
        return Err(Failure::Refused(format!(
            "job {id} was added but not run: {}; {jobctl} run-manual {id} tries again",
            plain(&why)
        )));
    };
    let ran = Ran { id, outcome };
    let ending = Ending::of_outcome(&ran.outcome);
    if context.screen.is_json() {
        context.screen.show(&ran, |_| String::new())?;
        return Ok(ending.exit_code());
    }
    let whole = [&ran.outcome.stdout, &ran.outcome.stderr];
    show_rest(context, view, whole.map(String::as_bytes), ended)?;
    if !ending.is_ok() {
        complain(&format!("jobctl: job {id}: {}", ending.words()));
    }
    Ok(ending.exit_code())
}
