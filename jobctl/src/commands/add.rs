//! `add`: rows as an application inserts them, a poke, and the wait for their end.

use std::time::Instant;

use jobd_proto::table::{JobRow, NewJob};
use jobd_proto::{JobId, Targets};
use serde::Serialize;

use super::ask::standard_input;
use super::targets::unserved;
use super::waiting::{Wait, ended, exit_code, ranges};
use super::{Context, until_interrupted};
use crate::cli::AddArgs;
use crate::database;
use crate::failure::{Failure, INTERRUPTED};
use crate::output::complain;
use crate::settings::Kind;

/// `{"ids": [id], "poked": bool, "warning": text|null, "jobs": [row]}`; `jobs` only with `--wait`,
/// with the output if it is one.
#[derive(Serialize)]
struct Added {
    ids: Vec<JobId>,
    poked: bool,
    warning: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    jobs: Option<Vec<JobRow>>,
}

/// Inserts, pokes and, if asked to, waits.
pub(crate) async fn run(context: &Context, args: AddArgs) -> Result<u8, Failure> {
    let settings = database::settings(&context.settings)?;
    let mut table = database::open(settings).await?;
    let job = new_job(&args).await?;
    let ids = table
        .insert(&job, args.count)
        .await
        .map_err(|error| database::failure(settings, &error))?;
    let poke = if args.manual {
        Poke::default()
    } else {
        poke(context, vec![job.target.clone()], "the rows are added").await
    };
    let mut added = Added {
        ids,
        poked: poke.poked,
        warning: poke.warning,
        jobs: None,
    };
    if poke.interrupted || !args.wait {
        context
            .screen
            .show(&added, |added| said(context, added, &args))?;
        return Ok(if poke.interrupted { INTERRUPTED } else { 0 });
    }
    let jobs = Wait {
        table: &mut table,
        settings,
        deadline: args.timeout.map(|limit| Instant::now() + limit),
        any: false,
    }
    .for_end(&added.ids)
    .await?;
    let code = exit_code(&jobs);
    added.jobs = Some(jobs);
    context.screen.show(&added, |added| {
        ended(context, added.jobs.as_deref().unwrap_or_default())
    })?;
    Ok(code)
}

async fn new_job(args: &AddArgs) -> Result<NewJob, Failure> {
    Ok(NewJob {
        target: args.target.to_string(),
        manual: args.manual,
        data: payload(args.data.as_deref()).await?,
        others: args.columns.clone(),
    })
}

/// What `--data` says; `-` is standard input.
pub(super) async fn payload(data: Option<&str>) -> Result<Option<String>, Failure> {
    match data {
        Some("-") => Ok(Some(standard_input().await?)),
        other => Ok(other.map(str::to_owned)),
    }
}

/// What came of a poke.
#[derive(Default)]
pub(super) struct Poke {
    pub(super) poked: bool,
    /// Why not, or whom no worker serves.
    warning: Option<String>,
    /// Whether Ctrl-C ended it.
    pub(super) interrupted: bool,
}

/// Pokes about rows that are `done`, which one that fails does not undo: it costs time and nothing else.
pub(super) async fn poke(context: &Context, targets: Vec<String>, done: &str) -> Poke {
    let mut poke = Poke::default();
    match until_interrupted(try_poke(context, targets, &mut poke.poked)).await {
        Ok(warning) => poke.warning = warning,
        Err(failure) => {
            poke.interrupted = matches!(failure, Failure::Interrupted(_));
            if !poke.poked {
                complain(&format!("jobctl: warning: not poked: {failure}"));
                complain(&format!(
                    "jobctl: {done}; a worker that serves them finds them within its poll_interval"
                ));
                poke.warning = Some(failure.to_string());
            }
        }
    }
    poke
}

/// Pokes the master, or polls the worker, and sets `poked`. Says then, also in its answer, whom no worker serves, where
/// that can be known.
async fn try_poke(
    context: &Context,
    targets: Vec<String>,
    poked: &mut bool,
) -> Result<Option<String>, Failure> {
    let kind = match context.kind() {
        Kind::Master => "poke",
        Kind::Worker => "poll",
    };
    let client = context.client().await?;
    let named = Targets::Named(targets.clone());
    client.order(kind, named.data()).await?;
    *poked = true;
    let mut warning = None;
    // The poke is what counts: one that cannot say has heard it all the same.
    if let Ok(Some(said)) = unserved(context, &client, &targets).await {
        let said = format!("{said}; its jobs wait until one does");
        complain(&format!("jobctl: warning: {said}"));
        warning = Some(said);
    }
    Ok(warning)
}

fn said(context: &Context, added: &Added, args: &AddArgs) -> String {
    let manual = if args.manual {
        format!("; {} run-manual runs them", context.jobctl())
    } else {
        String::new()
    };
    match added.ids.as_slice() {
        [id] => format!("added job {id}{}\n", manual.replace("them", "it")),
        ids => format!("added {} jobs: {}{manual}\n", ids.len(), ranges(ids)),
    }
}
