//! The units of work on a table, for any connection: each is one transaction, or one read.
//!
//! A unit that fails is rolled back by its caller, so it may return early anywhere.

use std::collections::{HashMap, HashSet};
use std::sync::OnceLock;

use jobd_proto::{JobId, JobResult, TargetName};

use super::connection::{Connection, Taken, Value, id, key};
use super::errors::Failure;
use super::floors::Place;
use super::lists::{ListStatement, MAX_LIST};
use super::refusals::{self, is_duplicate};
use super::statements::{PROBES, Statements};
use super::{Claimed, Names, REQUESTS, Refused, RowState, Unrenewed, manual};
use crate::faults::crash_point;
use crate::job::{ClaimToken, Job};
use crate::leases::Lease;

pub(super) type Outcome<T> = Result<T, sqlx::Error>;

/// Which of `targets` have a `waiting` row.
pub(super) async fn pending<C: Connection>(
    connection: &mut C,
    statements: &Statements,
    targets: &[TargetName],
) -> Outcome<Vec<TargetName>> {
    let mut found = Vec::new();
    for targets in targets.chunks(PROBES) {
        let last = targets.last().expect("chunks are not empty");
        let padded = targets.iter().chain(std::iter::repeat(last)).take(PROBES);
        let values: Vec<Value<'_>> = padded.map(|target| Value::Text(target.as_str())).collect();
        for at in connection.numbers(&statements.pending, &values).await? {
            // Probes beyond the list repeat its last target.
            found.extend(
                usize::try_from(at)
                    .ok()
                    .and_then(|at| targets.get(at))
                    .cloned(),
            );
        }
    }
    Ok(found)
}

/// Names that one look for them takes.
const NAMES: usize = 64;

/// Short reads that it makes for them at most: what is no name costs one, too.
const STEPS: usize = 4096;

/// Which names that begin with `prefix` have a `waiting` row: leaps from each to the next, over all its rows.
pub(super) async fn names<C: Connection>(
    connection: &mut C,
    statements: &Statements,
    prefix: &str,
    after: Option<&str>,
) -> Outcome<Names> {
    if let Some(all) = &statements.every_target {
        // Patterns have their prefixes without case there.
        let begins = |name: &&TargetName| {
            if statements.target_ignores_case {
                name.as_str().to_lowercase().starts_with(prefix)
            } else {
                name.as_str().starts_with(prefix)
            }
        };
        let of_it: Vec<TargetName> = all.iter().filter(begins).cloned().collect();
        let found = pending(connection, statements, &of_it).await?;
        return Ok(Names {
            names: found.iter().map(ToString::to_string).collect(),
            more: false,
        });
    }
    let within = statements.beginning.value(prefix);
    let mut names: Vec<String> = Vec::new();
    let mut last = after.unwrap_or(prefix).as_bytes().to_vec();
    for _ in 0..STEPS {
        let behind = str::from_utf8(&last).map_or(Value::Bytes(&last), Value::Text);
        let values = [behind, Value::Text(&within)];
        let Some(name) = connection.bytes(&statements.next_name, &values).await? else {
            return Ok(Names { names, more: false });
        };
        // What is no UTF-8 is no target's name, and must not hide those behind it.
        names.extend(str::from_utf8(&name).map(String::from));
        last = name;
        if names.len() == NAMES {
            break;
        }
    }
    // Without a name that it could begin behind, the next look would be the same.
    let more = !names.is_empty();
    Ok(Names { names, more })
}

/// Claims waiting rows of a target, as [`find`] finds them. What it is about to commit is left in `committing`.
pub(super) async fn claim<C: Connection>(
    connection: &mut C,
    statements: &Statements,
    token: &ClaimToken,
    target: &TargetName,
    part: (Place, u32, &HashSet<JobId>),
    most: u32,
    committing: &OnceLock<Claimed>,
) -> Outcome<Claimed> {
    connection.control(statements.begin).await?;
    let mut rows = find(connection, statements, target, part).await?;
    let mut ids: Vec<JobId> = rows.iter().map(|row| row.id).collect();
    crash_point!("claim-selected", ids.len());
    let retried = statements.accept_retried.as_ref().filter(|_| most > 1);
    let most = if retried.is_some() {
        most.min(statements.most_attempts)
    } else {
        1
    };
    let (times, named) = ([Value::Number(most.into())], [Value::Text(token.as_str())]);
    let changed = match retried {
        Some(accept) => {
            let before = [times, named].concat();
            refusals::change(connection, accept, &before, &ids).await?
        }
        None => refusals::change(connection, &statements.accept, &named, &ids).await?,
    };
    let refused = refused(changed.refused, Some(target));
    let passed = |id: &JobId| !refused.iter().any(|refused| refused.id == *id);
    ids.retain(passed);
    rows.retain(|row| passed(&row.id));
    if !statements.claim_locks || changed.rows < ids.len() as u64 {
        // Others may have been faster with a row, or even done with it: what carries the token is ours, as it is now.
        rows = accepted(connection, statements, token, &ids).await?;
    }
    let jobs = rows
        .into_iter()
        .map(|row| row.job(target, token, most, statements.abilities))
        .collect();
    let claimed = Claimed {
        jobs,
        refused,
        ..Claimed::default()
    };
    let _ = committing.set(claimed.clone());
    crash_point!("claim-before-commit", claimed.jobs.len());
    connection.control("COMMIT").await?;
    crash_point!("claim-after-commit", claimed.jobs.len());
    Ok(claimed)
}

/// Waiting rows for a claim, but for those of `aside`: those behind `floor`, or all, where there are too few behind it.
async fn find<C: Connection>(
    connection: &mut C,
    statements: &Statements,
    target: &TargetName,
    (floor, limit, aside): (Place, u32, &HashSet<JobId>),
) -> Result<Vec<Taken>, sqlx::Error> {
    let limit = limit as usize;
    let mut read = async |from: Place| {
        let (select, places) = statements.claim_from(from);
        // What it reads it locks, so it reads no more than it takes, until it meets some that it passes over.
        let mut asked = limit;
        loop {
            let mut values = vec![Value::Text(target.as_str())];
            values.extend(places.iter().copied().map(Value::Number));
            values.push(Value::Number(i64::try_from(asked).unwrap_or(i64::MAX)));
            let mut rows = connection.taken(select, &values).await?;
            let read = rows.len();
            rows.retain(|row| !aside.contains(&row.id));
            if rows.len() >= limit || read < asked {
                rows.truncate(limit);
                return Ok::<_, sqlx::Error>(rows);
            }
            asked = limit + 2 * (read - rows.len());
        }
    };
    let rows = read(floor).await?;
    if floor == Place::FIRST || rows.len() >= limit {
        return Ok(rows);
    }
    // With those behind the floor, which nobody else can have locked now.
    read(Place::FIRST).await
}

/// Claims manual rows by id.
pub(super) async fn claim_manual<C: Connection>(
    connection: &mut C,
    statements: &Statements,
    token: &ClaimToken,
    wanted: &[JobId],
    served: &[TargetName],
    committing: &OnceLock<Claimed>,
) -> Outcome<Claimed> {
    let mut found = Vec::new();
    connection.control(statements.begin).await?;
    for ids in wanted.chunks(MAX_LIST) {
        let (sql, ids) = statements.manual_select.for_ids(ids);
        found.extend(connection.rows(&sql, &ids).await?);
    }
    let mut claimed = manual::sort(
        wanted,
        found,
        served,
        statements.target_ignores_case,
        token,
        statements.abilities,
    );
    crash_point!("claim-selected", claimed.jobs.len());
    let (accept, named) = (&statements.accept_manual, [Value::Text(token.as_str())]);
    let changed = refusals::change(connection, accept, &named, &ids_of(&claimed.jobs)).await?;
    for Refused { id, error, .. } in refused(changed.refused, None) {
        claimed.jobs.retain(|job| job.id != id);
        let text = format!("the database refuses to let job {id} be accepted: {error}");
        claimed.errors.insert(id, text);
    }
    let _ = committing.set(claimed.clone());
    crash_point!("claim-before-commit", claimed.jobs.len());
    connection.control("COMMIT").await?;
    crash_point!("claim-after-commit", claimed.jobs.len());
    Ok(claimed)
}

/// As others are told of them.
pub(super) fn refused(
    rows: Vec<(JobId, sqlx::Error)>,
    target: Option<&TargetName>,
) -> Vec<Refused> {
    let told = |(id, error): (JobId, sqlx::Error)| Refused {
        id,
        target: target.map(ToString::to_string),
        claimable: target.is_some(),
        error: error.to_string(),
    };
    rows.into_iter().map(told).collect()
}

/// Which of `ids` carry `token`, so that it stays so whatever becomes of the transaction that was to give it to
/// them.
///
/// On the server that has that transaction, the locking read waits for it. Another node of a cluster knows
/// nothing of it: there the rows that do not carry the token are written, without being changed in the end,
/// so that the cluster refuses the other write of them if it comes after all.
pub(super) async fn settle<C: Connection>(
    connection: &mut C,
    statements: &Statements,
    token: &ClaimToken,
    ids: &[JobId],
) -> Outcome<Vec<JobId>> {
    connection.control(statements.begin).await?;
    let rows = accepted(connection, statements, token, ids).await?;
    let held: Vec<JobId> = rows.iter().map(|row| row.id).collect();
    let others: Vec<JobId> = ids
        .iter()
        .filter(|id| !held.contains(id))
        .copied()
        .collect();
    for touch in &statements.touches {
        for ids in others.chunks(MAX_LIST) {
            let (sql, ids) = touch.for_ids(ids);
            connection.change(&sql, &ids).await?;
        }
    }
    connection.control("COMMIT").await?;
    Ok(held)
}

/// The rows of `ids` that carry `token`, in that order.
async fn accepted<C: Connection>(
    connection: &mut C,
    statements: &Statements,
    token: &ClaimToken,
    ids: &[JobId],
) -> Outcome<Vec<Taken>> {
    let mut rows = Vec::with_capacity(ids.len());
    for ids in ids.chunks(MAX_LIST) {
        let (sql, values) = with_token(&statements.accepted, token, ids);
        rows.extend(connection.taken(&sql, &values).await?);
    }
    let order: HashMap<&JobId, usize> = ids.iter().zip(0..).collect();
    rows.sort_unstable_by_key(|row| order.get(&row.id));
    Ok(rows)
}

pub(super) fn with_token<'a>(
    statement: &ListStatement,
    token: &'a ClaimToken,
    ids: &[JobId],
) -> (std::sync::Arc<str>, Vec<Value<'a>>) {
    let (sql, ids) = statement.for_ids(ids);
    (
        sql,
        std::iter::once(Value::Text(token.as_str()))
            .chain(ids)
            .collect(),
    )
}

pub(super) fn ids_of(jobs: &[Job]) -> Vec<JobId> {
    jobs.iter().map(|job| job.id).collect()
}

/// Renews the leases of rows with a token of `worker`, with `passing` but for those that somebody has locked; names
/// those of `ids` that it did not renew, and those of them that the database refused.
pub(super) async fn renew<C: Connection>(
    connection: &mut C,
    statements: &Statements,
    (worker, passing): (&str, bool),
    ids: &[JobId],
) -> Outcome<(Unrenewed, Vec<Refused>)> {
    let ownership = statements.owned()?;
    let (first, behind) = tokens_of(worker);
    let of_us = |(sql, keys): (_, Vec<Value<'static>>)| {
        let ours = [Value::Text(first.as_str()), Value::Text(behind.as_str())];
        (sql, [&ours[..], &keys].concat())
    };
    let (mut unrenewed, mut told) = (Unrenewed::default(), Vec::new());
    for ids in ids.chunks(MAX_LIST) {
        let mut free = ids.to_vec();
        if passing {
            connection.control(statements.begin).await?;
            let (sql, values) = of_us(ownership.free.for_ids(ids));
            free = job_ids(connection.numbers(&sql, &values).await?);
        }
        let mut renewed = 0;
        if !free.is_empty() {
            let ours = [Value::Text(first.as_str()), Value::Text(behind.as_str())];
            let changed = refusals::change(connection, &ownership.renew, &ours, &free).await?;
            renewed = changed.rows;
            free.retain(|id| changed.refused.iter().all(|(refused, _)| refused != id));
            told.extend(refused(changed.refused, None));
        }
        if passing {
            connection.control("COMMIT").await?;
        }
        if renewed < ids.len() as u64 {
            let (sql, values) = of_us(ownership.held.for_ids(ids));
            let held = job_ids(connection.numbers(&sql, &values).await?);
            let (held, lost): (Vec<JobId>, Vec<JobId>) =
                ids.iter().partition(|id| held.contains(id));
            unrenewed.lost.extend(lost);
            let locked = held.into_iter().filter(|id| !free.contains(id));
            unrenewed.locked.extend(locked);
        }
    }
    Ok((unrenewed, told))
}

/// The payload of a job that is `running` with its token.
pub(super) async fn data<C: Connection>(
    connection: &mut C,
    statements: &Statements,
    job: &Job,
) -> Outcome<Option<Vec<u8>>> {
    let values = [Value::Number(key(job.id)), Value::Text(job.token.as_str())];
    connection.bytes(&statements.data, &values).await
}

/// Every claimed row that carries a token of `worker`.
pub(super) async fn leftovers<C: Connection>(
    connection: &mut C,
    statements: &Statements,
    worker: &str,
) -> Outcome<Vec<Lease>> {
    let (first, behind) = tokens_of(worker);
    let values = [Value::Text(&first), Value::Text(&behind)];
    connection.leases(&statements.leftovers, &values).await
}

/// Every row with a lease.
pub(super) async fn leases<C: Connection>(
    connection: &mut C,
    statements: &Statements,
) -> Outcome<Vec<Lease>> {
    let leases = &statements.owned()?.leases;
    connection.leases(leases, &[]).await
}

/// Requests for cancellation that `worker` can see to, but for those of `aside`.
pub(super) async fn requests<C: Connection>(
    connection: &mut C,
    statements: &Statements,
    worker: &str,
    aside: &HashSet<JobId>,
) -> Outcome<Vec<Lease>> {
    let Some(requests) = &statements.cancel.requests else {
        return Ok(Vec::new());
    };
    let (first, behind) = tokens_of(worker);
    let limit = i64::try_from(REQUESTS + aside.len()).unwrap_or(i64::MAX);
    let values = [
        Value::Text(&first),
        Value::Text(&behind),
        Value::Number(limit),
    ];
    let mut open = connection.leases(&requests.open, &values).await?;
    open.retain(|request| !aside.contains(&request.id));
    open.truncate(REQUESTS);
    Ok(open)
}

/// Where a row's job stands, as `worker` sees it.
pub(super) async fn row<C: Connection>(
    connection: &mut C,
    statements: &Statements,
    id: JobId,
    worker: &str,
) -> Outcome<Option<RowState>> {
    let key = [Value::Number(key(id))];
    let rows = connection.texts(&statements.row, &key).await?;
    let row = rows.into_iter().next();
    Ok(row.map(|[status, token, result, code, signal]| {
        let (first, behind) = tokens_of(worker);
        RowState {
            status: status.unwrap_or_default(),
            ours: token
                .as_ref()
                .is_some_and(|token| (&first..&behind).contains(&token)),
            holder: token.and_then(|token| Some(token.split_once('/')?.0.to_owned())),
            result: result.and_then(|result| match result.as_str() {
                "ok" => Some(JobResult::Ok),
                "fail" => Some(JobResult::Fail),
                _ => None,
            }),
            code: code.and_then(|code| code.parse().ok()),
            signal: signal.filter(|signal| !signal.is_empty()),
        }
    }))
}

/// The range in which all tokens of a worker lie: they go on with a slash, and a zero is the character
/// behind it.
fn tokens_of(worker: &str) -> (String, String) {
    (format!("{worker}/"), format!("{worker}0"))
}

/// Takes a row from a holder that is gone; says what became of it.
pub(super) async fn rescue<C: Connection>(
    connection: &mut C,
    statements: &Statements,
    orphan: &Lease,
) -> Outcome<Option<&'static str>> {
    let manual = ClaimToken::is_manual(&orphan.worker);
    let text = format!("jobd: orphaned: {} is gone\n", orphan.worker);
    let (sql, first, fate) = match orphan.status.as_str() {
        "accepted" if manual => (&statements.give_back, "manual", "manual"),
        "accepted" => (&statements.give_back, "waiting", "waiting"),
        _ if orphan.again && !manual => (&statements.give_back, "waiting", "waiting again"),
        _ => (&statements.verdict, text.as_str(), "done, fail"),
    };
    let values = [
        Value::Text(first),
        Value::Number(key(orphan.id)),
        Value::Text(&orphan.status),
        Value::Text(&orphan.worker),
        Value::Number(orphan.until),
    ];
    let history = statements.history.as_ref();
    let history = history.filter(|_| orphan.status == "running");
    if let Some(history) = history {
        connection.control(statements.begin).await?;
        history.add(connection, [Failure::orphaned(orphan)]).await?;
    }
    let (changed, fate) = match connection.change(sql, &values).await {
        Err(error) if is_duplicate(&error) => {
            let text = format!(
                "{text}jobd: not given back, as another job with the same unique key waits\n"
            );
            let values = [&[Value::Text(&text)], &values[1..]].concat();
            let changed = connection.change(&statements.verdict, &values).await?;
            (
                changed,
                "done, fail, as another job with its unique key waits",
            )
        }
        changed => (changed?, fate),
    };
    if history.is_some() {
        // The row may have moved on since it was seen: then its attempt has not failed.
        let end = if changed == 1 { "COMMIT" } else { "ROLLBACK" };
        connection.control(end).await?;
    }
    Ok((changed == 1).then_some(fate))
}

pub(super) fn job_ids(numbers: Vec<i64>) -> Vec<JobId> {
    numbers.into_iter().map(id).collect()
}
