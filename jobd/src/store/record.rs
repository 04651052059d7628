//! Writes what has become of jobs: starts, ends, retries, returns.

use jobd_proto::{JobId, JobResult};

use super::advance::Advance;
use super::connection::{Connection, Value};
use super::errors::Failure;
use super::lists::{ListStatement, MAX_LIST};
use super::refusals::{self, Refused, is_about_row, is_duplicate};
use super::statements::Statements;
use super::units::{Outcome, ids_of, job_ids, with_token};
use super::{Batch, Finish, Recorded, back_to, later};
use crate::faults::{batch_point, planted};
use crate::job::{ClaimToken, Job};

/// Writes ends, starts, retries and releases in one transaction; where one statement does it, that is the transaction.
/// `Err` is a start alone whose row, and no other, may not be `running`.
pub(super) async fn record<C: Connection>(
    connection: &mut C,
    statements: &Statements,
    batch: &Batch,
) -> Outcome<Result<Recorded, Refused>> {
    let parts = Advance::all(batch);
    let history = statements.history.as_ref();
    let ends = batch.finishes.iter().chain(&batch.retries);
    let failed = ends.filter(|end| history.is_some() && end.result == JobResult::Fail);
    let failed: Vec<Failure<'_>> = failed.map(Failure::of).collect();
    let many = parts.len() > 1
        || !batch.releases.is_empty()
        || !batch.retries.is_empty()
        || !failed.is_empty();
    if many {
        connection.control(statements.begin).await?;
    } else {
        // The statement commits by itself.
        batch_point!("before-commit", batch);
    }
    if let Some(history) = history {
        history.add(connection, failed).await?;
    }
    let mut recorded = Recorded::default();
    for part in parts {
        match (
            advance(connection, statements, part, &mut recorded).await,
            &*batch.starts,
        ) {
            // One statement, which has changed nothing. The row goes back, and would be the first to be claimed again.
            (Err(error), [start]) if batch.len() == 1 && is_about_row(&error) => {
                return Ok(Err(Refused {
                    id: start.id,
                    target: Some(start.target.to_string()),
                    claimable: !start.origin.is_manual(),
                    error: error.to_string(),
                }));
            }
            (advanced, _) => advanced?,
        }
    }
    for end in &batch.retries {
        let retried = retry(connection, statements, end).await?;
        recorded.retried.push(retried);
    }
    for jobs in by_claim(&batch.releases) {
        give_back(connection, statements, jobs).await?;
    }
    if many {
        batch_point!("before-commit", batch);
        connection.control("COMMIT").await?;
    }
    batch_point!("after-commit", batch);
    Ok(Ok(recorded))
}

/// Schedules a job that is to run again. Where that cannot be, this is its end: on a table that has lost the columns for
/// that, or the index, as nobody would look for its row; and where another row with its unique key has come meanwhile.
async fn retry<C: Connection>(
    connection: &mut C,
    statements: &Statements,
    end: &Finish,
) -> Outcome<bool> {
    if let (Some(later), Some(again)) = (&statements.later, end.again) {
        match later::retry(connection, later, end, again, &statements.advance).await {
            Err(error) if is_duplicate(&error) => {
                if planted!("refused-retry-taken-for-success") {
                    return Ok(true);
                }
                tracing::warn!(job = %end.job.id, target = %end.job.target, "job failed and cannot run again, as another one with its unique key waits: ending it");
            }
            outcome => return outcome,
        }
    }
    let last = Batch {
        finishes: vec![end.clone()],
        ..Batch::default()
    };
    let mut recorded = Recorded::default();
    for part in Advance::all(&last) {
        advance(connection, statements, part, &mut recorded).await?;
    }
    Ok(recorded.finished == [true])
}

/// Gives rows of one claim back. Where a unique index lets one of them not wait again, as another row with its key has come
/// meanwhile, it ends instead.
async fn give_back<C: Connection>(
    connection: &mut C,
    statements: &Statements,
    jobs: &[Job],
) -> Outcome<()> {
    let claim = Value::Text(jobs[0].token.as_str());
    let before = [Value::Text(back_to(&jobs[0])), claim];
    let ids = ids_of(jobs);
    let changed = refusals::change(connection, &statements.release, &before, &ids).await?;
    for (id, error) in changed.refused {
        if !is_duplicate(&error) {
            return Err(error);
        }
        tracing::warn!(job = %id, target = %jobs[0].target, "row cannot go back, as another one with its unique key waits: ending it");
        let unwanted = statements.cancel.end_unwanted.for_ids(&[id]);
        let values = [&[claim][..], &unwanted.1].concat();
        connection.change(&unwanted.0, &values).await?;
    }
    Ok(())
}

/// Starts and ends jobs; adds for each whether its row says so now.
async fn advance<C: Connection>(
    connection: &mut C,
    statements: &Statements,
    part: Advance<'_>,
    recorded: &mut Recorded,
) -> Outcome<()> {
    let (sql, values) = statements.advance.bind(part);
    let mut changed = connection.change(&sql, &values).await;
    if planted!("lost-commit-taken-for-success") {
        changed = changed.or(Ok(part.len() as u64));
    }
    let all = changed? == part.len() as u64;
    // Otherwise the first try of this batch, whose answer was lost, was it, or somebody changed the row.
    for end in part.finishes {
        recorded
            .finished
            .push(all || is_finished(connection, statements, end).await?);
    }
    for jobs in by_claim(part.starts) {
        let ids = ids_of(jobs);
        let running = if all {
            ids.clone()
        } else {
            holding(connection, &statements.started, &jobs[0].token, &ids).await?
        };
        recorded
            .started
            .extend(ids.iter().map(|id| running.contains(id)));
    }
    Ok(())
}

/// Whether a row is `done` with this end.
async fn is_finished<C: Connection>(
    connection: &mut C,
    statements: &Statements,
    end: &Finish,
) -> Outcome<bool> {
    let values = statements.advance.outcome(end);
    Ok(connection.numbers(&statements.finished, &values).await? == [1])
}

/// The ids for which `statement` finds a row with the token.
async fn holding<C: Connection>(
    connection: &mut C,
    statement: &ListStatement,
    token: &ClaimToken,
    ids: &[JobId],
) -> Outcome<Vec<JobId>> {
    let mut held = Vec::with_capacity(ids.len());
    for ids in ids.chunks(MAX_LIST) {
        let (sql, values) = with_token(statement, token, ids);
        held.extend(job_ids(connection.numbers(&sql, &values).await?));
    }
    Ok(held)
}

/// Runs of jobs that one statement can change: of one claim, no longer than a list.
fn by_claim(jobs: &[Job]) -> impl Iterator<Item = &[Job]> {
    jobs.chunk_by(|a, b| a.token == b.token)
        .flat_map(|claim| claim.chunks(MAX_LIST))
}
