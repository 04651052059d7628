//! `run-manual`: run rows of status `manual` now, through a worker or a master.

use std::collections::BTreeMap;

use jobd_proto::JobId;
use jobd_proto::master::{ManualJob, MasterRequest};
use jobd_proto::worker::{JobOutcome, RunManualReply, WorkerRequest};
use serde::Serialize;

use super::Context;
use super::ids::{Named, named};
use super::outcome::{Ending, about, count_unsaid, stream};
use crate::cli::JobRef;
use crate::database;
use crate::failure::Failure;
use crate::output::{Bar, Tone, bar};
use crate::settings::Kind;

/// `{"jobs": {ID: {"result", "code", "signal", "stdout", "stderr"}}, "errors": {ID: text}}`
#[derive(Serialize)]
struct Shown {
    jobs: BTreeMap<JobId, JobOutcome>,
    errors: BTreeMap<JobId, String>,
}

/// Runs them and waits, for hours if need be; 1 if any failed or did not run.
pub(crate) async fn run(context: &Context, jobs: Vec<JobRef>) -> Result<u8, Failure> {
    let shown = match context.kind() {
        Kind::Worker => through_worker(context, jobs).await?,
        Kind::Master => through_master(context, jobs).await?,
    };
    context.screen.show(&shown, |shown| text(context, shown))?;
    let failed = !shown.errors.is_empty()
        || shown
            .jobs
            .values()
            .any(|job| !Ending::of_outcome(job).is_ok());
    Ok(u8::from(failed))
}

/// Says what is waited for, once nothing else is to be asked.
fn waits(jobs: usize) -> Bar {
    let told = bar(1, "waiting: {msg} [{elapsed}]");
    told.set_message(match jobs {
        1 => "the job runs".to_owned(),
        jobs => format!("{jobs} jobs run"),
    });
    told
}

/// A worker serves its own targets, so that nobody has to name them.
async fn through_worker(context: &Context, jobs: Vec<JobRef>) -> Result<Shown, Failure> {
    let chosen = named(context, jobs).await?;
    let ids: Vec<JobId> = chosen.jobs.into_iter().map(|job| job.id).collect();
    let client = context.client().await?;
    let _told = waits(ids.len());
    let request = WorkerRequest::RunManual { ids: ids.clone() };
    let RunManualReply { jobs, mut errors } =
        client.ask_patiently(request.kind(), request.data()).await?;
    count_unsaid(ids, &jobs, &mut errors);
    Ok(Shown { jobs, errors })
}

async fn through_master(context: &Context, jobs: Vec<JobRef>) -> Result<Shown, Failure> {
    let chosen = named(context, jobs).await?;
    let (known, unknown) = with_targets(context, chosen.jobs).await?;
    let unknown = unknown
        .into_iter()
        .map(|id| (id, format!("job {id} not found")));
    let mut shown = Shown {
        jobs: BTreeMap::new(),
        errors: unknown.collect(),
    };
    if !known.is_empty() {
        let client = context.client().await?;
        let _told = waits(known.len());
        let ids: Vec<JobId> = known.keys().copied().collect();
        let jobs = known
            .into_iter()
            .map(|(id, target)| ManualJob { id, target })
            .collect();
        let request = MasterRequest::RunManual { jobs };
        let reply: RunManualReply = client.ask_patiently(request.kind(), request.data()).await?;
        shown.jobs = reply.jobs;
        shown.errors.extend(reply.errors);
        count_unsaid(ids, &shown.jobs, &mut shown.errors);
    }
    Ok(shown)
}

/// Each job with its target, once; and those that the table does not know. Only the table can tell
/// the target of a job that was written without one.
pub(super) async fn with_targets(
    context: &Context,
    jobs: Vec<Named>,
) -> Result<(BTreeMap<JobId, String>, Vec<JobId>), Failure> {
    let mut known = BTreeMap::new();
    let mut ids = Vec::new();
    for Named { id, target } in jobs {
        match target {
            Some(target) => drop(known.insert(id, target)),
            None => ids.push(id),
        }
    }
    if ids.is_empty() {
        return Ok((known, ids));
    }
    let Some(settings) = &context.settings.database else {
        let id = ids[0];
        return Err(Failure::Usage(format!(
            "a master needs the target of each job: write {id}:TARGET, or put mysql_* or sqlite_path into {} so that it can be looked up",
            context.settings.config.display()
        )));
    };
    let mut table = database::open(settings).await?;
    ids.sort_unstable();
    ids.dedup();
    let rows = table.by_ids(&ids, &[]).await;
    let rows = rows.map_err(|error| database::failure(settings, &error))?;
    known.extend(rows.into_iter().map(|row| (row.id, row.target)));
    ids.retain(|id| !known.contains_key(id));
    Ok((known, ids))
}

fn text(context: &Context, shown: &Shown) -> String {
    let screen = context.screen;
    let mut text = String::new();
    for (id, job) in &shown.jobs {
        let ending = Ending::of_outcome(job);
        text += &screen.tone(ending.tone(), &format!("job {id}: {}", ending.words()));
        text.push('\n');
        text += &stream("stdout", &job.stdout);
        text += &stream("stderr", &job.stderr);
    }
    for (id, error) in &shown.errors {
        text += &(screen.tone(Tone::Bad, &about(*id, error)) + "\n");
        if error.contains("!= manual") {
            text.extend([
                "  only manual jobs are run by hand; ",
                &context.jobctl(),
                &format!(" retry {id} has one that failed run again\n"),
            ]);
        }
    }
    text
}
