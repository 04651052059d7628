//! `prune`: deletes rows of jobs that ended long ago, in small batches. An application's act; the
//! daemons never delete.

use std::collections::BTreeMap;
use std::time::Duration;

use jobd_proto::table::{BATCH, Connection, Filter, RowError, Scan, WINDOW};
use serde::Serialize;

use super::ask::confirm;
use super::rows::hint_at;
use super::{Context, scan};
use crate::cli::PruneArgs;
use crate::database::{self, Database};
use crate::failure::Failure;
use crate::output::{bar, counted, local_time, several};

/// Between two batches, so that workers get their turn.
const PAUSE: Duration = Duration::from_millis(20);

/// `{"before", "jobs", "targets": {NAME: COUNT}, "deleted"}`
#[derive(Serialize)]
struct Pruned {
    /// Seconds since 1970: jobs that ended before that.
    before: i64,
    /// How many there were, in all and by target.
    jobs: usize,
    targets: BTreeMap<String, usize>,
    /// How many of them were deleted; 0 with `--dry-run`.
    deleted: u64,
}

/// `{"sql"}`, of `--print-sql`: a batch of it, to be repeated.
#[derive(Serialize)]
struct Statement {
    sql: String,
}

/// Counts, asks, deletes.
pub(crate) async fn run(context: &Context, args: PruneArgs) -> Result<u8, Failure> {
    let settings = database::settings(&context.settings)?;
    let failure = |error| database::failure(settings, &error);
    let mut table = database::open(settings).await?;
    // The rows' times are by the database's clock; this host's may be wrong.
    let now = table.server_time().await.map_err(failure)?;
    let before = args.older_than.seconds(now);
    if args.print_sql {
        let target = args.target.as_deref();
        let sql = table.prune_sql(now - before, target, args.result.as_deref());
        context.screen.show(&Statement { sql }, |statement| {
            format!("{} -- again until it deletes nothing\n", statement.sql)
        })?;
        return Ok(0);
    }
    let scan = Scan {
        filter: Filter {
            target: args.target.clone(),
            result: args.result.clone(),
            ..Filter::default()
        },
        ended_before: Some(before),
        // What was added later has not ended before.
        ceiling: Some(table.first_since(before).await.map_err(failure)?),
        ..Scan::default()
    };
    let targets = count(settings, &mut table, &scan).await.map_err(failure)?;
    let jobs = targets.values().sum();
    let mut pruned = Pruned {
        before,
        jobs,
        targets,
        deleted: 0,
    };
    if let (0, Some(target)) = (jobs, &args.target) {
        hint_at(&mut table, target).await.map_err(failure)?;
    }
    let what = counted(&pruned.targets);
    if !args.dry_run && jobs > 0 {
        let when = local_time(before);
        let place = database::place(settings);
        let question =
            format!("this deletes {what} that ended before {when} from {place}, for good");
        confirm(&question, args.yes).await?;
        tokio::select! {
            biased;
            done = delete(&mut table, &scan, before, jobs, &mut pruned.deleted) => done.map_err(failure)?,
            _ = tokio::signal::ctrl_c() => {
                return Err(Failure::Interrupted(format!(
                    "deleted {} of {}, or a batch of {BATCH} more; the same command deletes the rest",
                    pruned.deleted,
                    several(jobs, "job")
                )));
            }
        }
    }
    context.screen.show(&pruned, |pruned| {
        let when = local_time(pruned.before);
        match (pruned.jobs, args.dry_run) {
            (0, _) => format!("no jobs ended before {when}\n"),
            (_, true) => format!("would delete {what} that ended before {when}\n"),
            (_, false) => {
                let jobs = several(usize::try_from(pruned.deleted).unwrap_or(usize::MAX), "job");
                format!("deleted {jobs} that ended before {when}\n")
            }
        }
    })?;
    Ok(0)
}

async fn count(
    database: &Database,
    table: &mut Connection,
    scan: &Scan,
) -> Result<BTreeMap<String, usize>, RowError> {
    let mut targets = BTreeMap::new();
    scan::oldest(database, table, scan, |rows| {
        for row in rows {
            *targets.entry(row.target).or_default() += 1;
        }
        true
    })
    .await?;
    Ok(targets)
}

/// `deleted` counts along, for whoever stops it.
async fn delete(
    table: &mut Connection,
    scan: &Scan,
    before: i64,
    jobs: usize,
    deleted: &mut u64,
) -> Result<(), RowError> {
    let template = "{bar:30} {pos} of {len} deleted [{elapsed}] Ctrl-C stops";
    let bar = bar(jobs, template);
    let mut from = None;
    loop {
        let window = table.oldest(scan, from, WINDOW).await?;
        let ids: Vec<_> = window.jobs.iter().map(|row| row.id).collect();
        for batch in ids.chunks(BATCH) {
            *deleted += table.delete_ended(batch, before).await?;
            bar.set_position(*deleted);
            tokio::time::sleep(PAUSE).await;
        }
        from = window.next;
        if from.is_none() {
            return Ok(());
        }
    }
}
