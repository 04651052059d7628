//! Ids as people give them: a number, `10-20`, or `last`. What stands in the table between two numbers,
//! or at its end, only the table can tell.

use std::collections::BTreeMap;

use jobd_proto::JobId;
use jobd_proto::table::{Connection, Scan};

use super::ask::confirm;
use super::waiting::ranges;
use super::{Context, scan};
use crate::cli::{Id, Ids, JobRef};
use crate::database;
use crate::failure::Failure;
use crate::output::by_target;

/// Jobs that one command takes from ranges, at most.
const MOST: usize = 100_000;

/// A job that somebody named, by its number.
pub(super) struct Named {
    pub(super) id: JobId,
    pub(super) target: Option<String>,
}

/// Jobs as they were named.
pub(super) struct Chosen {
    pub(super) jobs: Vec<Named>,
    /// Whether each was given by its own number, so that nobody need ask which they are.
    is_explicit: bool,
}

impl Chosen {
    /// Names the jobs and asks, where they were not named one by one; `does` is what befalls them.
    pub(super) async fn confirm(&self, does: &str, yes: bool) -> Result<(), Failure> {
        if self.is_explicit {
            return Ok(());
        }
        let targets = self.jobs.iter().filter_map(|job| job.target.as_deref());
        let ids: Vec<JobId> = self.jobs.iter().map(|job| job.id).collect();
        let question = format!("this {does} {}: {}", by_target(targets), ranges(&ids));
        confirm(&question, yes).await
    }
}

/// The numbers of `ids`, in their order, each once.
pub(super) async fn numbers(
    context: &Context,
    table: &mut Connection,
    ids: &[Ids],
) -> Result<Vec<JobId>, Failure> {
    let mut numbers = Vec::with_capacity(ids.len());
    let mut known = std::collections::HashSet::new();
    for ids in ids {
        let found = match *ids {
            Ids::One(id) => vec![number(context, table, id).await?],
            Ids::Range(first, last) => between(context, table, first, last).await?,
        };
        numbers.extend(found.into_iter().filter(|id| known.insert(*id)));
    }
    Ok(numbers)
}

/// The number of `id`.
pub(super) async fn number(
    context: &Context,
    table: &mut Connection,
    id: Id,
) -> Result<JobId, Failure> {
    match id {
        Id::Is(id) => Ok(id),
        Id::Last => {
            let settings = database::settings(&context.settings)?;
            let last = table.last_id().await;
            last.map_err(|error| database::failure(settings, &error))?
                .ok_or_else(|| {
                    let jobctl = context.jobctl();
                    Failure::Refused(format!(
                        "the table has no rows yet; {jobctl} add --target T adds one"
                    ))
                })
        }
    }
}

/// The rows that there are from `first` to `last`.
async fn between(
    context: &Context,
    table: &mut Connection,
    first: u64,
    last: u64,
) -> Result<Vec<JobId>, Failure> {
    let settings = database::settings(&context.settings)?;
    let scan = Scan {
        floor: first,
        ceiling: Some(last.saturating_add(1)),
        ..Scan::default()
    };
    let mut ids = Vec::new();
    let read = scan::oldest(settings, table, &scan, |rows| {
        ids.extend(rows.into_iter().map(|row| row.id));
        ids.len() <= MOST
    });
    read.await
        .map_err(|error| database::failure(settings, &error))?;
    if ids.len() > MOST {
        return Err(Failure::Usage(format!(
            "{first}-{last} are more than {MOST} jobs; name fewer at a time"
        )));
    }
    if ids.is_empty() {
        let jobctl = context.jobctl();
        return Err(Failure::Refused(format!(
            "there are no jobs {first}-{last}; {jobctl} list shows the newest ones"
        )));
    }
    Ok(ids)
}

/// The same for jobs that may come with their target; the table is opened only where it has to be.
pub(super) async fn named(context: &Context, jobs: Vec<JobRef>) -> Result<Chosen, Failure> {
    let numbers = jobs.iter().map(|job| match job.id {
        Ids::One(Id::Is(id)) => Some((id, job.target.clone())),
        _ => None,
    });
    if let Some(numbers) = numbers.collect::<Option<Vec<_>>>() {
        let jobs = numbers.into_iter().map(|(id, target)| Named { id, target });
        return Ok(Chosen {
            jobs: jobs.collect(),
            is_explicit: true,
        });
    }
    let settings = database::settings(&context.settings)?;
    let mut table = database::open(settings).await?;
    let mut chosen = Vec::new();
    for JobRef { id, target } in jobs {
        let found = self::numbers(context, &mut table, &[id]).await?;
        let rows = table.by_ids(&found, &[]).await;
        let rows = rows.map_err(|error| database::failure(settings, &error))?;
        let targets = rows.into_iter().map(|row| (row.id, row.target));
        let mut targets: BTreeMap<JobId, String> = targets.collect();
        chosen.extend(found.into_iter().map(|id| Named {
            id,
            target: target.clone().or_else(|| targets.remove(&id)),
        }));
    }
    Ok(Chosen {
        jobs: chosen,
        is_explicit: false,
    })
}
