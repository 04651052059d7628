//! `cancel`: ends jobs, wherever they are. Asks before, as no job comes back from that.

use std::collections::{BTreeMap, BTreeSet};

use jobd_proto::JobId;
use jobd_proto::master::MasterRequest;
use jobd_proto::table::{BATCH, Connection, JobRow, RowError};
use jobd_proto::worker::{CancelFate, CancelReply, WorkerRequest};

use super::Context;
use super::ask::confirm;
use super::ids::named;
use super::outcome::{Ending, about, count_unsaid, standing};
use super::waiting::ranges;
use crate::cli::CancelArgs;
use crate::client::LONG_LIMIT;
use crate::database;
use crate::failure::Failure;
use crate::output::{Tone, bar, by_target, complain, several};
use crate::settings::Kind;

/// Asks for it; 1 if any job had ended, or nothing could be done.
pub(crate) async fn run(context: &Context, args: CancelArgs) -> Result<u8, Failure> {
    let chosen = named(context, args.jobs).await?;
    let mut known = BTreeSet::new();
    let ids = chosen.jobs.into_iter().map(|job| job.id);
    let ids: Vec<JobId> = ids.filter(|id| known.insert(*id)).collect();
    if !args.yes
        && let Some(question) = question(context, &ids).await
    {
        confirm(&question, false).await?;
    }
    let mut unclaimed = BTreeSet::new();
    let reply = match through_daemon(context, ids.clone()).await {
        Err(failure @ Failure::Unreachable(_)) => {
            by_rows(context, &ids, &mut unclaimed, failure).await?
        }
        reply => reply?,
    };
    context.screen.show(&reply, |reply| {
        let mut text = String::new();
        for (id, fate) in &reply.jobs {
            let (tone, said) = match fate {
                CancelFate::Requested if unclaimed.contains(id) => {
                    (Tone::Good, "its end was asked for in its row")
                }
                fate => said(*fate),
            };
            text += &(context.screen.tone(tone, &format!("job {id}: {said}")) + "\n");
        }
        for (id, error) in &reply.errors {
            let said = about(*id, error);
            text += &(context.screen.tone(Tone::Bad, &said) + "\n");
        }
        text
    })?;
    let late = |fate: &CancelFate| *fate == CancelFate::TooLate;
    let failed = !reply.errors.is_empty() || reply.jobs.values().any(late);
    Ok(u8::from(failed))
}

/// What becomes of a job, in words.
pub(super) fn said(fate: CancelFate) -> (Tone, &'static str) {
    match fate {
        CancelFate::Cancelled => (Tone::Good, "cancelled"),
        CancelFate::Stopping => (Tone::Good, "running, its processes are being stopped"),
        CancelFate::Requested => (Tone::Good, "asked its worker to stop it"),
        CancelFate::TooLate => (Tone::Bad, "too late, it had ended"),
    }
}

/// Says where a few of the jobs stand, and how many will end; `None` where all are over already.
async fn question(context: &Context, ids: &[JobId]) -> Option<String> {
    const NAMED: usize = 5;
    let known = rows(context, ids).await.unwrap_or_else(|failure| {
        complain(&format!(
            "jobctl: where these jobs stand cannot be told: {failure}"
        ));
        None
    });
    let (rows, now) = known.unwrap_or_default();
    let by_id: BTreeMap<JobId, &JobRow> = rows.iter().map(|row| (row.id, row)).collect();
    let missing = ids.iter().copied().filter(|id| !by_id.contains_key(id));
    let missing: Vec<JobId> = missing.collect();
    let is_over = |row: &JobRow| Ending::of_row(row).is_some();
    let open = rows.iter().filter(|row| !is_over(row));
    let open: Vec<&str> = open.map(|row| row.target.as_str()).collect();
    if open.is_empty() && missing.is_empty() {
        return None;
    }
    let mut text = String::new();
    if !rows.is_empty() {
        let stands = |id| match by_id.get(&id) {
            None => Some(format!("job {id} is not in the table\n")),
            Some(row) if is_over(row) => None,
            Some(row) => Some(standing(row, now) + "\n"),
        };
        text.extend(ids.iter().copied().filter_map(stands).take(NAMED));
        let more = (open.len() + missing.len()).saturating_sub(NAMED);
        if more > 0 {
            text.extend(["and ", &more.to_string(), " more\n"]);
        }
        match ids.len() - open.len() - missing.len() {
            0 => {}
            1 => text += "another one is over already\n",
            over => text.extend([&over.to_string(), " others are over already\n"]),
        }
    }
    let ends = match (open.len(), missing.as_slice()) {
        (0, [id]) => format!("job {id}"),
        (0, several) => format!("jobs {}", ranges(several)),
        _ if ids.len() == 1 => "it".to_owned(),
        _ => by_target(open.into_iter()),
    };
    Some(text + &format!("this ends {ends} for good"))
}

/// Those of the jobs that the table has, with the server's time; `None` where the config names no table.
async fn rows(context: &Context, ids: &[JobId]) -> Result<Option<(Vec<JobRow>, i64)>, Failure> {
    let Some(settings) = &context.settings.database else {
        return Ok(None);
    };
    let failure = |error| database::failure(settings, &error);
    let mut table = database::open(settings).await?;
    let now = table.server_time().await.map_err(failure)?;
    let worker = table.columns().has("worker").then(|| "worker".to_owned());
    let rows = table.by_ids(ids, worker.as_slice()).await;
    Ok(Some((rows.map_err(failure)?, now)))
}

/// Asks the daemon for it, as `top` does too.
pub(super) async fn through_daemon(
    context: &Context,
    ids: Vec<JobId>,
) -> Result<CancelReply, Failure> {
    let (kind, data) = match context.kind() {
        Kind::Worker => {
            let request = WorkerRequest::Cancel {
                ids: ids.clone(),
                held: false,
            };
            (request.kind(), request.data())
        }
        Kind::Master => {
            let request = MasterRequest::Cancel { ids: ids.clone() };
            (request.kind(), request.data())
        }
    };
    let client = context.client().await?;
    let mut reply: CancelReply = client.ask_within(LONG_LIMIT, kind, data).await?;
    count_unsaid(ids, &reply.jobs, &mut reply.errors);
    Ok(reply)
}

/// As an application would: no daemon need be in reach of us for that, only of the table. Where the table cannot
/// carry the request, the failure stays what it was. `unclaimed` gets those that no worker has.
async fn by_rows(
    context: &Context,
    ids: &[JobId],
    unclaimed: &mut BTreeSet<JobId>,
    failure: Failure,
) -> Result<CancelReply, Failure> {
    const COLUMN: &str = "cancel_requested";
    let Some(settings) = &context.settings.database else {
        return Err(failure);
    };
    let mut table = database::open(settings).await?;
    if !table.columns().has(COLUMN) {
        return Err(Failure::Unreachable(format!(
            "{failure}; without a daemon the request is written into the rows, for which the table needs the column {COLUMN}"
        )));
    }
    let failed = |error| database::failure(settings, &error);
    let mut reply = CancelReply::default();
    tokio::select! {
        biased;
        done = request(&mut table, ids, unclaimed, &mut reply) => done.map_err(failed)?,
        _ = tokio::signal::ctrl_c() => {
            let asked = reply.jobs.len() + reply.errors.len();
            let all = several(ids.len(), "job");
            return Err(Failure::Interrupted(format!(
                "asked for the end of {asked} of {all}, or a batch of {BATCH} more; the same command takes the rest"
            )));
        }
    }
    complain(&format!("jobctl: {failure}"));
    complain(
        "jobctl: the request is written into the rows instead; a worker on this table sees that within a second",
    );
    Ok(reply)
}

/// Writes it into the rows; `reply` and `unclaimed` count along, for whoever stops it.
async fn request(
    table: &mut Connection,
    ids: &[JobId],
    unclaimed: &mut BTreeSet<JobId>,
    reply: &mut CancelReply,
) -> Result<(), RowError> {
    let bar = bar(
        ids.len(),
        "{bar:30} {pos} of {len} asked to end [{elapsed}] Ctrl-C stops",
    );
    for ids in ids.chunks(BATCH) {
        let rows = table.by_ids(ids, &[]).await?;
        table.request_cancel(ids).await?;
        for id in ids {
            let row = rows.iter().find(|row| row.id == *id);
            match row.map(|row| row.status.as_str()) {
                None => drop(reply.errors.insert(*id, "not found".to_owned())),
                Some("done" | "ignored") => drop(reply.jobs.insert(*id, CancelFate::TooLate)),
                Some(status) => {
                    if !matches!(status, "accepted" | "running") {
                        unclaimed.insert(*id);
                    }
                    reply.jobs.insert(*id, CancelFate::Requested);
                }
            }
        }
        bar.inc(ids.len() as u64);
    }
    Ok(())
}
