//! `run`: one job now, as if it were a command here.

use std::io::{self, IsTerminal as _, Write as _};

use jobd_proto::JobId;
use jobd_proto::master::{ManualJob, MasterRequest};
use jobd_proto::table::NewJob;
use jobd_proto::worker::{JobOutcome, RunManualReply, WorkerRequest};
use serde::Serialize;

use super::Context;
use super::add::payload;
use super::logs::shown;
use super::outcome::Ending;
use crate::cli::RunArgs;
use crate::client::Client;
use crate::database;
use crate::failure::Failure;
use crate::output::{Bar, bar, brief, complain, plain};
use crate::settings::Kind;

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
    let ids = table.insert(&job, 1).await;
    let ids = ids.map_err(|error| database::failure(settings, &error))?;
    let Some(id) = ids.first().copied() else {
        return Err(Failure::Refused("the database gave no id".to_owned()));
    };
    let told = running(id, &job.target);
    let reply = tokio::select! {
        biased;
        reply = request(context, &client, id, &job.target) => reply?,
        _ = tokio::signal::ctrl_c() => {
            drop(told);
            return Err(Failure::Interrupted(format!(
                "job {id} goes on; jobctl logs {id} -f shows its output, jobctl send-signal TERM {id}:{} ends it",
                job.target
            )));
        }
    };
    drop(told);
    show(context, id, reply)
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

fn show(context: &Context, id: JobId, mut reply: RunManualReply) -> Result<u8, Failure> {
    let Some(outcome) = reply.jobs.remove(&id) else {
        let why = reply.errors.remove(&id);
        let why = why.unwrap_or_else(|| "the daemon said nothing of it".to_owned());
        return Err(Failure::Refused(format!(
            "job {id} was added but not run: {}; jobctl run-manual {id} tries again",
            plain(&why)
        )));
    };
    let ran = Ran { id, outcome };
    let ending = Ending::of_outcome(&ran.outcome);
    if context.screen.is_json() {
        context.screen.show(&ran, |_| String::new())?;
        return Ok(ending.exit_code());
    }
    crate::output::print(&shown(&ran.outcome.stdout, io::stdout().is_terminal()))?;
    // Where standard error is closed there is nobody left to tell.
    let errors = shown(&ran.outcome.stderr, io::stderr().is_terminal());
    let _ = io::stderr().write_all(errors.as_bytes());
    if !ending.is_ok() {
        complain(&format!("jobctl: job {id}: {}", ending.words()));
    }
    Ok(ending.exit_code())
}

/// What is told while it runs, on a terminal.
fn running(id: JobId, target: &str) -> Bar {
    let bar = bar(1, "waiting: {msg} [{elapsed}]");
    bar.set_message(format!("job {id} ({}) runs", brief(target)));
    bar
}
