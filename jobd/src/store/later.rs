//! Rows for later: those whose time has come become `waiting`, those that are to run again `scheduled`.
//!
//! `run_at` is NULL in every other status: its index holds nothing but rows whose time is to come, and claims, starts
//! and ends never touch it.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use jobd_proto::JobId;
use jobd_proto::table::TableName;

use super::abilities::SCHEDULED;
use super::advance::{AdvanceStatement, USAGE};
use super::connection::{Connection, Value, id, key};
use super::counts::Counts;
use super::dialect::Dialect;
use super::inspect::Problem;
use super::lists::ListStatement;
use super::refusals::{self, Refused, is_duplicate};
use super::statements::Statements;
use super::{Abilities, Ability, Finish, Promoted};
use crate::fate::Again;
use crate::faults::{crash_point, guard};

/// Rows of one look: a transaction of as many locks.
const MAX_ROWS: usize = 256;

/// Seconds until the next try where the database lets a row not be `waiting`: it must not stand in the way of others.
const PUT_OFF: u32 = 60;

/// Rows with a `run_at` of no use that are told of: fewer cost a look nothing that matters.
const MANY: i64 = 100;

/// A table's statements about them.
#[derive(Clone, Debug)]
pub(super) struct LaterStatements {
    /// Rows whose time has come, as a [`Glance`](super::glance::Glance) asks for them.
    pub(super) look: String,
    /// The first of them, id and target; locks them, passing over locked ones.
    due: Arc<str>,
    /// How many of the first [`MAX_ROWS`] entries that a look goes through are of rows that are not `scheduled`.
    in_the_way: Arc<str>,
    /// `scheduled` → `waiting`, where their time has come.
    promote: ListStatement,
    /// A row that may not be `waiting` yet gets another [`PUT_OFF`] seconds.
    put_off: ListStatement,
    /// `running` → `scheduled`.
    retry: Arc<str>,
    /// Whether a row is `scheduled`, or `waiting` again, after this attempt.
    retried: Arc<str>,
    /// Which of the columns the retry writes.
    counts: bool,
    reasons: bool,
}

impl LaterStatements {
    /// For table `t`, whose claims stand in `token`.
    pub(super) fn new(
        t: &str,
        token: &str,
        no_token: &str,
        abilities: Abilities,
        counts: &Counts,
        dialect: &Dialect,
    ) -> Self {
        let Dialect {
            now,
            same,
            skip_locked,
            id_index,
            run_at_index,
            ..
        } = dialect;
        let (owned, reasons) = (counts.owned, counts.reasons);
        let time = guard!(
            "promotion-before-its-time",
            (*now).to_owned(),
            format!("{now} + 3")
        );
        let is_due = format!("`status` = 'scheduled' AND `run_at` <= {time}");
        let look = format!("FROM {t} {run_at_index} WHERE {is_due}");
        let changed = |set: &str| {
            ListStatement::new(
                &format!("UPDATE {t} {id_index} SET {set} WHERE {is_due} AND"),
                "",
            )
        };
        let ours = format!("`id` = ? AND `{token}` = ? AND {}", counts.unfinished);
        // Where the token stands in `stderr`, the output takes its place.
        let mut set = vec![format!("`run_at` = {now} + ?")];
        set.extend(
            ["return_code", "sig", "stdout", "stderr"].map(|column| format!("`{column}` = ?")),
        );
        set.extend(reasons.then(|| "`reason` = ?".to_owned()));
        let accounted = abilities.has(Ability::Accounting);
        let usage = USAGE.map(|column| format!("`{column}` = ?"));
        set.extend(usage.into_iter().filter(|_| accounted));
        set.extend(owned.then(|| "`interruptions` = `interruptions` + ?".to_owned()));
        set.extend((token != "stderr").then(|| format!("`{token}` = {no_token}")));
        set.push(format!(
            "`result` = NULL, `time_started` = 0, `time_finished` = 0{}{}, `status` = 'scheduled'",
            counts.unleased, counts.unsaid
        ));
        let outcome = ["return_code", "sig", "stdout", "stderr"];
        let outcome = outcome.map(|column| format!("`{column}` {same} ?"));
        let attempt = if owned { "`attempts` = ?" } else { "1 = ?" };
        Self {
            due: format!(
                "SELECT CAST(`id` AS SIGNED), CAST(`target` AS CHAR) {look} \
                 ORDER BY {t}.`run_at` LIMIT ? {skip_locked}"
            )
            .into(),
            in_the_way: format!(
                "SELECT CAST(COUNT(*) AS SIGNED) FROM (SELECT `status` FROM {t} {run_at_index} \
                 WHERE `run_at` <= {now} ORDER BY `run_at` LIMIT {MAX_ROWS}) AS first WHERE `status` <> 'scheduled'"
            )
            .into(),
            look,
            promote: changed("`status` = 'waiting', `run_at` = NULL"),
            put_off: changed(&format!("`run_at` = {now} + {PUT_OFF}")),
            retry: format!("UPDATE {t} {id_index} SET {} WHERE {ours}", set.join(", ")).into(),
            retried: format!(
                "SELECT COUNT(*) FROM {t} {id_index} WHERE `id` = ? AND {attempt} \
                 AND `status` IN ('scheduled', 'waiting') AND {}",
                outcome.join(" AND ")
            )
            .into(),
            counts: owned,
            reasons,
        }
    }

    /// Every text, for EXPLAIN.
    #[cfg(test)]
    pub(super) fn texts(&self) -> impl Iterator<Item = &Arc<str>> {
        let single = [&self.due, &self.in_the_way, &self.retry, &self.retried];
        single
            .into_iter()
            .chain(self.promote.texts())
            .chain(self.put_off.texts())
    }
}

/// What is amiss where so many rows have kept a `run_at` that every look goes through them first.
pub(super) async fn in_the_way<C: Connection>(
    connection: &mut C,
    statements: &Statements,
    table: &TableName,
) -> Result<Option<Problem>, sqlx::Error> {
    let Some(later) = &statements.later else {
        return Ok(None);
    };
    let found = connection.numbers(&later.in_the_way, &[]).await?;
    if found.iter().all(|rows| *rows < MANY) {
        return Ok(None);
    }
    let text = format!(
        "{} rows of {table} or more have a run_at that has passed, and are not '{SCHEDULED}': each worker reads all such rows every second",
        found[0]
    );
    let table = table.quoted();
    Ok(Some(Problem::warning(text).mended_by(format!(
        "UPDATE {table} SET `run_at` = NULL WHERE `run_at` > 0 AND `status` <> '{SCHEDULED}';"
    ))))
}

/// Makes rows `waiting` whose time has come, but for those of `aside`. Those that the database refuses are put off, and
/// named, but for duplicates, where another row with their key waits.
pub(super) async fn promote<C: Connection>(
    connection: &mut C,
    statements: &Statements,
    aside: &HashSet<JobId>,
) -> Result<(Promoted, Vec<Refused>), sqlx::Error> {
    let Some(later) = &statements.later else {
        return Ok((Promoted::default(), Vec::new()));
    };
    connection.control(statements.begin).await?;
    // Others look at the same moment: what they have locked they promote.
    let limit = i64::try_from(MAX_ROWS + aside.len()).unwrap_or(i64::MAX);
    let rows = connection
        .notes(&later.due, &[Value::Number(limit)])
        .await?;
    let rows = rows.into_iter().map(|(key, target)| (id(key), target));
    let mut due: Vec<_> = rows.filter(|(id, _)| !aside.contains(id)).collect();
    due.truncate(MAX_ROWS);
    let ids: Vec<JobId> = due.iter().map(|(id, _)| *id).collect();
    let changed = refusals::change(connection, &later.promote, &[], &ids).await?;
    let refused = changed.refused;
    // They must not stand in the way of others; a trigger may not let them make room either.
    let put_off: Vec<JobId> = refused.iter().map(|(id, _)| *id).collect();
    let put_off = refusals::change(connection, &later.put_off, &[], &put_off).await?;
    crash_point!("promote-before-commit", ids.len());
    connection.control("COMMIT").await?;
    crash_point!("promote-after-commit", ids.len());
    let mut promoted = Promoted {
        // Without a change the next look would find the same.
        more: due.len() >= MAX_ROWS && changed.rows + put_off.rows > 0,
        targets: BTreeSet::new(),
    };
    let mut told = Vec::new();
    for (id, target) in due {
        match refused.iter().find(|(refused, _)| *refused == id) {
            None => promoted.targets.extend(target),
            Some((_, error))
                if is_duplicate(error) && !put_off.refused.iter().any(|(it, _)| *it == id) =>
            {
                tracing::info!(job = %id, "the time of a row has come, and another one with its unique key waits: putting it off for a minute");
            }
            Some((_, error)) => told.push(Refused {
                id,
                target,
                claimable: false,
                error: error.to_string(),
            }),
        }
    }
    Ok((promoted, told))
}

/// Schedules a job that has ended and is to run again; whether its row says so.
pub(super) async fn retry<C: Connection>(
    connection: &mut C,
    later: &LaterStatements,
    end: &Finish,
    again: Again,
    advance: &AdvanceStatement,
) -> Result<bool, sqlx::Error> {
    let ours = [
        Value::Number(key(end.job.id)),
        Value::Text(end.job.token.as_str()),
    ];
    let outcome = [
        advance.code(end),
        Value::MaybeText(end.signal.as_deref()),
        Value::Text(&end.stdout),
        Value::Text(&end.stderr),
    ];
    // To the second, as the column has it, and rather later than sooner.
    let rest = again.after.saturating_sub(end.ended.elapsed());
    let rest = rest.as_secs() + u64::from(rest.subsec_nanos() > 0);
    let mut values = vec![Value::Number(i64::try_from(rest).unwrap_or(0))];
    values.extend(outcome);
    if later.reasons {
        values.push(Value::MaybeText(
            end.reason.map(crate::fate::Reason::as_str),
        ));
    }
    values.extend(advance.usage(end));
    if later.counts {
        values.push(Value::Number(i64::from(!again.counted)));
    }
    values.extend(ours);
    if connection.change(&later.retry, &values).await? == 1 {
        return Ok(true);
    }
    // The first try, whose answer was lost, was it, or somebody changed the row. Either way it is not ours any more.
    let attempt = if later.counts { end.job.attempt } else { 1 };
    let values = [
        Value::Number(key(end.job.id)),
        Value::Number(attempt.into()),
    ];
    let values = [&values[..], &outcome].concat();
    Ok(connection.numbers(&later.retried, &values).await? == [1])
}
