//! `retry`: rows that are done and failed become waiting again. An application's act.

use std::collections::BTreeSet;

use jobd_proto::JobId;
use jobd_proto::table::{BATCH, Connection, Filter, JobRow, RowError, Scan};
use serde::Serialize;

use super::add::{Poke, poke};
use super::ask::confirm;
use super::outcome::{is_cancelled, reason_of};
use super::rows::hint_at;
use super::waiting::ranges;
use super::{Context, ids, scan, until_interrupted};
use crate::cli::{Id, Ids, RetryArgs};
use crate::database::{self, Database};
use crate::failure::{Failure, INTERRUPTED};
use crate::output::{bar, by_target, complain, several};

/// Rows that one command takes back, at most; for more, narrow it down.
const MOST: usize = 100_000;

/// `{"ids": [id], "left": [id], "barred": [id], "cancelled": [id], "poked": bool}`: what waits again, what was not done
/// and failed, what a unique index bars from waiting, and what somebody has cancelled.
#[derive(Serialize)]
struct Retried {
    ids: Vec<JobId>,
    left: Vec<JobId>,
    barred: Vec<JobId>,
    cancelled: Vec<JobId>,
    poked: bool,
}

/// What became of the rows so far, for whoever stops it half-way.
#[derive(Default)]
struct Taken {
    /// Rows that were to wait again.
    asked: usize,
    again: Vec<JobRow>,
    left: Vec<JobId>,
    barred: Vec<JobId>,
    cancelled: Vec<JobId>,
}

/// Takes them back and pokes; 1 if any was not done and failed, or must not wait. What waits again is poked about even where
/// not all of it could be done.
pub(crate) async fn run(context: &Context, args: RetryArgs) -> Result<u8, Failure> {
    if args.ids.is_empty() && !args.failed {
        return Err(Failure::Usage(
            "name the jobs, or say --failed --since 2h".to_owned(),
        ));
    }
    let explicit = |ids: &Ids| matches!(ids, Ids::One(Id::Is(_)));
    let is_explicit = !args.failed && args.ids.iter().all(explicit);
    let mut taken = Taken::default();
    let done = until_interrupted(take(context, &args, is_explicit, &mut taken)).await;
    if let Err(failure) = &done {
        tell_how_far(&taken, failure);
    }
    let ids = taken.again.iter().map(|row| row.id).collect();
    let targets: BTreeSet<String> = taken.again.into_iter().map(|row| row.target).collect();
    let poke = if targets.is_empty() {
        Poke::default()
    } else {
        let targets = targets.into_iter().collect();
        poke(context, targets, "the jobs wait again").await
    };
    done?;
    taken.left.sort_unstable();
    let retried = Retried {
        ids,
        left: taken.left,
        barred: taken.barred,
        cancelled: taken.cancelled,
        poked: poke.poked,
    };
    context.screen.show(&retried, said)?;
    if poke.interrupted {
        return Ok(INTERRUPTED);
    }
    // Of a range or of all that failed nobody said that each had.
    let is_refused = !retried.barred.is_empty() || (is_explicit && !retried.left.is_empty());
    Ok(u8::from(is_refused))
}

/// What was done before it failed, if anything can have been.
fn tell_how_far(taken: &Taken, failure: &Failure) {
    let again = taken.again.len();
    // A database that says no has taken nothing of that batch.
    let unsure = match failure {
        Failure::Interrupted(_) | Failure::Unreachable(_) => BATCH.min(taken.asked - again),
        Failure::Refused(_) | Failure::Usage(_) => 0,
    };
    if again + unsure > 0 {
        let asked = several(taken.asked, "job");
        let more = match unsure {
            0 => String::new(),
            unsure => format!(", or {unsure} more"),
        };
        complain(&format!(
            "jobctl: {again} of {asked} wait again{more}; the same command takes the rest"
        ));
    }
}

/// Finds the rows, asks, and makes them wait again.
async fn take(
    context: &Context,
    args: &RetryArgs,
    is_explicit: bool,
    taken: &mut Taken,
) -> Result<(), Failure> {
    let settings = database::settings(&context.settings)?;
    let failure = |error| database::failure(settings, &error);
    let mut table = database::open(settings).await?;
    let mut rows = if args.failed {
        let rows = failed(settings, &mut table, args).await.map_err(failure)?;
        if let (true, Some(target)) = (rows.is_empty(), &args.target) {
            hint_at(&mut table, target).await.map_err(failure)?;
        }
        rows
    } else {
        let ids = ids::numbers(context, &mut table, &args.ids).await?;
        let rows = named(&mut table, &ids).await.map_err(failure)?;
        let known: BTreeSet<JobId> = rows.iter().map(|row| row.id).collect();
        let unknown = ids.into_iter().filter(|id| !known.contains(id));
        taken.left.extend(unknown);
        rows
    };
    if !is_explicit {
        if rows.len() > MOST {
            return Err(Failure::Refused(format!(
                "more than {MOST} jobs failed since then; use a later --since or a --target"
            )));
        }
        // Who cancelled these did not mean them to run again: somebody has to type which do.
        let cancelled = rows.extract_if(.., |row| is_cancelled(row));
        taken.cancelled.extend(cancelled.map(|row| row.id));
        if !rows.is_empty() {
            let what = by_target(rows.iter().map(|row| row.target.as_str()));
            let but = match taken.cancelled.len() {
                0 => String::new(),
                cancelled => format!(", and leaves out {cancelled} as cancelled"),
            };
            confirm(&format!("this runs {what} again{but}"), args.yes).await?;
        }
    }
    take_back(&mut table, rows, taken).await.map_err(failure)
}

/// Makes these rows wait again. One that cannot costs the others of its batch nothing.
async fn take_back(
    table: &mut Connection,
    rows: Vec<JobRow>,
    taken: &mut Taken,
) -> Result<(), RowError> {
    taken.asked = rows.len();
    let template = "{bar:30} {pos} of {len} wait again [{elapsed}] Ctrl-C stops";
    let bar = bar(rows.len(), template);
    let mut rows = rows.into_iter();
    loop {
        let batch: Vec<JobRow> = rows.by_ref().take(BATCH).collect();
        if batch.is_empty() {
            return Ok(());
        }
        let ids: Vec<JobId> = batch.iter().map(|row| row.id).collect();
        match table.retry(&ids).await {
            Ok(true) => taken.again.extend(batch),
            Err(error) if !error.is_repeated_key() => return Err(error),
            Ok(false) | Err(_) => one_by_one(table, batch, taken).await?,
        }
        bar.set_position(u64::try_from(taken.again.len()).unwrap_or(u64::MAX));
    }
}

async fn one_by_one(
    table: &mut Connection,
    batch: Vec<JobRow>,
    taken: &mut Taken,
) -> Result<(), RowError> {
    for row in batch {
        match table.retry(&[row.id]).await {
            Ok(true) => taken.again.push(row),
            Ok(false) => taken.left.push(row.id),
            Err(error) if error.is_repeated_key() => taken.barred.push(row.id),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Every row that failed of those added since then, the oldest first.
async fn failed(
    database: &Database,
    table: &mut Connection,
    args: &RetryArgs,
) -> Result<Vec<JobRow>, RowError> {
    let now = table.server_time().await?;
    let since = args.since.map_or(0, |since| since.seconds(now));
    let scan = Scan {
        filter: Filter {
            target: args.target.clone(),
            status: Some("done".to_owned()),
            result: Some("fail".to_owned()),
            since: Some(since),
            columns: reason_of(table),
        },
        floor: table.first_since(since).await?,
        ..Scan::default()
    };
    let mut rows = Vec::new();
    scan::oldest(database, table, &scan, |found| {
        rows.extend(found);
        rows.len() <= MOST
    })
    .await?;
    Ok(rows)
}

/// Those of `ids` that are done and failed.
async fn named(table: &mut Connection, ids: &[JobId]) -> Result<Vec<JobRow>, RowError> {
    let mut rows = table.by_ids(ids, &reason_of(table)).await?;
    rows.retain(|row| row.status == "done" && row.result.as_deref() == Some("fail"));
    rows.sort_by_key(|row| row.id);
    Ok(rows)
}

fn said(retried: &Retried) -> String {
    let mut text = match retried.ids.as_slice() {
        [] => "no job waits again\n".to_owned(),
        [id] => format!("job {id} waits again\n"),
        ids => format!("{} jobs wait again: {}\n", ids.len(), ranges(ids)),
    };
    for (ids, why) in [
        (&retried.left, "they are not done and failed, or not there"),
        (
            &retried.barred,
            "another job with the same unique key waits",
        ),
        (&retried.cancelled, "they were cancelled"),
    ] {
        if !ids.is_empty() {
            text.extend(["left alone, as ", why, ": ", &ranges(ids), "\n"]);
        }
    }
    text
}
