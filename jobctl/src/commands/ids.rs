//! Ids as people give them: a number, or `last`, which only the table can tell.

use jobd_proto::JobId;
use jobd_proto::table::Connection;

use super::Context;
use crate::cli::{Id, JobRef};
use crate::database;
use crate::failure::Failure;

/// A job that somebody named, by its number.
pub(super) struct Named {
    pub(super) id: JobId,
    pub(super) target: Option<String>,
}

/// The numbers of `ids`, in their order, each once.
pub(super) async fn numbers(
    context: &Context,
    table: &mut Connection,
    ids: &[Id],
) -> Result<Vec<JobId>, Failure> {
    let mut numbers = Vec::with_capacity(ids.len());
    for id in ids {
        let id = number(context, table, *id).await?;
        if !numbers.contains(&id) {
            numbers.push(id);
        }
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
                .ok_or_else(|| Failure::Refused("the table has no rows yet".to_owned()))
        }
    }
}

/// The same for jobs that may come with their target; the table is opened only for `last`.
pub(super) async fn named(context: &Context, jobs: Vec<JobRef>) -> Result<Vec<Named>, Failure> {
    let mut named = Vec::with_capacity(jobs.len());
    for JobRef { id, target } in jobs {
        let id = match id {
            Id::Is(id) => id,
            Id::Last => {
                let settings = database::settings(&context.settings)?;
                number(context, &mut database::open(settings).await?, id).await?
            }
        };
        named.push(Named { id, target });
    }
    Ok(named)
}
