//! `add`: rows as an application inserts them, a poke, and the wait for their end.

use std::time::Instant;

use jobd_proto::table::{JobRow, NewJob};
use jobd_proto::{JobId, Targets};
use serde::Serialize;

use super::Context;
use super::ask::standard_input;
use super::targets::unserved;
use super::waiting::{Wait, ended, exit_code, ranges};
use crate::cli::AddArgs;
use crate::database;
use crate::failure::Failure;
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
    let (poked, warning) = if args.manual {
        (false, None)
    } else {
        match poke(context, vec![job.target.clone()]).await {
            Ok(warning) => (true, warning),
            Err(failure) => {
                let warning = failure.to_string();
                not_poked(&warning, "the rows are added");
                (false, Some(warning))
            }
        }
    };
    let mut added = Added {
        ids,
        poked,
        warning,
        jobs: None,
    };
    if !args.wait {
        context
            .screen
            .show(&added, |added| said(context, added, &args))?;
        return Ok(0);
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

/// Pokes the master, or polls the worker. Says, also in its answer, whom no worker serves, where that can be known.
pub(super) async fn poke(
    context: &Context,
    targets: Vec<String>,
) -> Result<Option<String>, Failure> {
    let kind = match context.kind() {
        Kind::Master => "poke",
        Kind::Worker => "poll",
    };
    let client = context.client().await?;
    let mut warning = None;
    // The poke is what counts: a master that cannot say has been heard all the same.
    if let Ok(Some(said)) = unserved(context, &client, &targets).await {
        let said = format!("{said}; its jobs wait until one does");
        complain(&format!("jobctl: warning: {said}"));
        warning = Some(said);
    }
    client.order(kind, Targets::Named(targets).data()).await?;
    Ok(warning)
}

/// A poke that fails costs time and nothing else.
pub(super) fn not_poked(warning: &str, done: &str) {
    complain(&format!("jobctl: warning: not poked: {warning}"));
    complain(&format!(
        "jobctl: {done}; a worker that serves them finds them within its poll_interval"
    ));
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
