//! Rows that the database refuses to change, by a trigger, a CHECK or a unique index. In a statement about many rows one of
//! them would stop the others, each time anew; so each is tried alone then, and those that are refused are passed
//! over for a while.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use jobd_proto::JobId;
use sqlx::mysql::MySqlDatabaseError;

use super::connection::{Connection, Value};
use super::lists::{ListStatement, MAX_LIST};

/// Rows that are remembered, as many as one statement takes. More are tried again with each look.
const MAX_ROWS: usize = MAX_LIST;

/// The first pause, which doubles with each refusal, and the longest: people mend what refuses a row, and wait for it then.
const PAUSE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_mins(2));

/// A row that was refused.
#[derive(Clone, Debug)]
pub struct Refused {
    /// The row.
    pub id: JobId,
    /// Its `target`, where that was read.
    pub target: Option<String>,
    /// The server's words.
    pub error: String,
}

/// What a change of rows has done.
#[derive(Debug, Default)]
pub(super) struct Changed {
    /// Rows that its WHERE matched.
    pub(super) rows: u64,
    /// Those that were refused, and are as they were.
    pub(super) refused: Vec<(JobId, sqlx::Error)>,
}

/// Whether it is about a value or a condition of a row, so that other rows may get through.
pub(super) fn is_about_row(error: &sqlx::Error) -> bool {
    let Some(error) = error.as_database_error() else {
        return false;
    };
    let code = error.code().unwrap_or_default();
    if let Some(error) = error.try_downcast_ref::<MySqlDatabaseError>() {
        // SIGNAL of a trigger; CHECK on MySQL; values. By SQLSTATE: data, integrity, a SIGNAL of somebody's own.
        let numbers = [1644, 3819, 1265, 1366];
        let states = ["22", "23", "45"];
        return numbers.contains(&error.number())
            || states.iter().any(|state| code.starts_with(state));
    }
    // TOOBIG, CONSTRAINT, MISMATCH of SQLite's result codes: the low byte.
    let primary = code.parse::<u32>().map(|code| code & 0xFF);
    matches!(primary, Ok(18..=20))
}

/// Whether a unique index has refused a change.
pub(super) fn is_duplicate(error: &sqlx::Error) -> bool {
    let error = error.as_database_error();
    error.is_some_and(sqlx::error::DatabaseError::is_unique_violation)
}

/// Runs an update of `ids` with these values before them, within a transaction: together, and one by one where one of
/// them is refused.
pub(super) async fn change<C: Connection>(
    connection: &mut C,
    statement: &ListStatement,
    before: &[Value<'_>],
    ids: &[JobId],
) -> Result<Changed, sqlx::Error> {
    let mut changed = Changed::default();
    for ids in ids.chunks(MAX_LIST) {
        match change_list(connection, statement, before, ids).await {
            Err(error) if is_about_row(&error) => {}
            outcome => {
                changed.rows += outcome?;
                continue;
            }
        }
        for id in ids {
            match change_list(connection, statement, before, &[*id]).await {
                Err(error) if is_about_row(&error) => changed.refused.push((*id, error)),
                outcome => changed.rows += outcome?,
            }
        }
    }
    Ok(changed)
}

async fn change_list<C: Connection>(
    connection: &mut C,
    statement: &ListStatement,
    before: &[Value<'_>],
    ids: &[JobId],
) -> Result<u64, sqlx::Error> {
    let (sql, ids) = statement.for_ids(ids);
    let values = [before, &ids].concat();
    connection.change(&sql, &values).await
}

/// The rows that are passed over. One per store.
#[derive(Debug, Default)]
pub(super) struct Refusals(HashMap<JobId, Refusal>);

#[derive(Debug)]
struct Refusal {
    pause: Duration,
    until: Instant,
}

impl Refusal {
    /// A row that was not refused again for another pause was mended, or has gone.
    fn is_over(&self, now: Instant) -> bool {
        now >= self.until + self.pause
    }
}

impl Refusals {
    /// Those to pass over now.
    pub(super) fn aside(&self, now: Instant) -> Vec<JobId> {
        let aside = self.0.iter().filter(|(_, refusal)| now < refusal.until);
        aside.map(|(id, _)| *id).collect()
    }

    /// Takes in rows that could not be changed to what they were `to` be, and says so once of each. Whether each is passed over
    /// from now on: there are no more than [`MAX_ROWS`].
    pub(super) fn note(&mut self, now: Instant, to: &str, refused: &[Refused]) -> bool {
        self.0.retain(|_, refusal| !refusal.is_over(now));
        let mut all = true;
        for Refused { id, target, error } in refused {
            let known = self.0.get(id).map(|refusal| refusal.pause);
            if known.is_none() && self.0.len() >= MAX_ROWS {
                all = false;
                continue;
            }
            let pause = known.map_or(PAUSE.0, |pause| (pause * 2).min(PAUSE.1));
            let until = now + pause;
            self.0.insert(*id, Refusal { pause, until });
            if known.is_none() {
                tracing::warn!(
                    job = %id, target = target.as_deref(), error,
                    "the database refuses to let a row be {to}, passing over it and trying again now and then: mend the row, or the trigger, CHECK or index that refuses it"
                );
            } else {
                tracing::debug!(job = %id, error, ?pause, "the database still refuses to let a row be {to}");
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(ids: std::ops::Range<u64>) -> Vec<Refused> {
        let row = |id| Refused {
            id: JobId(id),
            target: None,
            error: "no".into(),
        };
        ids.map(row).collect()
    }

    #[test]
    fn a_refused_row_is_tried_again_after_a_pause_that_grows_to_a_limit() {
        let (mut refusals, mut now) = (Refusals::default(), Instant::now());
        let mut pauses = Vec::new();
        for _ in 0..8 {
            assert!(refusals.note(now, "waiting", &refused(1..2)));
            let before = now;
            while !refusals.aside(now).is_empty() {
                now += Duration::from_secs(1);
            }
            pauses.push((now - before).as_secs());
        }
        assert_eq!(pauses, [5, 10, 20, 40, 80, 120, 120, 120]);
        // Somebody has mended it: the next refusal is another one.
        now += PAUSE.1;
        refusals.note(now, "waiting", &refused(1..2));
        assert!(refusals.aside(now + PAUSE.0).is_empty());
    }

    #[test]
    fn no_more_are_remembered_than_one_statement_takes() {
        let (mut refusals, now) = (Refusals::default(), Instant::now());
        let all = 1..MAX_ROWS as u64 + 2;
        assert!(!refusals.note(now, "waiting", &refused(all.clone())));
        assert_eq!(refusals.aside(now).len(), MAX_ROWS);
        let later = now + 2 * PAUSE.0;
        assert!(refusals.note(later, "waiting", &refused(all.end..all.end + 9)));
    }
}
