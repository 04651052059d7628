//! Rows that the database refuses to change, by a trigger, a CHECK or a unique index. In a statement about many rows one of
//! them would stop the others, each time anew; so each is tried alone then, and those that are refused are passed
//! over for a while.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use jobd_proto::{JobId, TargetName};
use sqlx::mysql::MySqlDatabaseError;

use super::connection::{Connection, Value};
use super::floors::Place;
use super::lists::{ListStatement, MAX_LIST};

/// Rows of one kind, and where they are claimed of one target, that are remembered: as many as one statement takes.
const MAX_ROWS: usize = MAX_LIST;

/// How long claims begin behind rows at the head of a target that are too many to be remembered.
const SKIP: Duration = Duration::from_mins(1);

/// The first pause, which doubles with each refusal, and the longest: people mend what refuses a row, and wait for it then.
const PAUSE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_mins(2));

/// A row that was refused.
#[derive(Clone, Debug)]
pub struct Refused {
    /// The row.
    pub id: JobId,
    /// Its `target`, where that was read.
    pub target: Option<String>,
    /// Where it stands, if it was claimed: so was whatever stands before it, or it was refused.
    pub(super) place: Option<Place>,
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

/// What a row was to become.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Accepted,
    Running,
    Waiting,
    Cancelled,
    Renewed,
}

impl Kind {
    /// A row that is claimed, and cannot become this, goes back to be claimed again.
    const OF_CLAIMS: [Self; 3] = [Self::Accepted, Self::Running, Self::Cancelled];

    fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Running => "running",
            Self::Waiting => "waiting",
            Self::Cancelled => "cancelled",
            Self::Renewed => "renewed",
        }
    }
}

/// The rows that are passed over. One per store.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    rows: HashMap<(Kind, JobId), Refusal>,
    /// Where claims of a target begin, and how long.
    behind: HashMap<String, (Place, Instant)>,
}

#[derive(Debug)]
struct Refusal {
    /// As [`folded`].
    target: String,
    pause: Duration,
    until: Instant,
}

impl Refusal {
    /// A row that was not refused again for the longest pause was mended, or has gone.
    fn is_over(&self, now: Instant) -> bool {
        now >= self.until + PAUSE.1
    }
}

impl Refusals {
    /// Those to pass over now.
    pub(super) fn aside(&self, kind: Kind, now: Instant) -> Vec<JobId> {
        self.those(now, |of, _| of == kind)
    }

    /// Where a claim is to begin at the earliest, and the rows behind that to pass over.
    pub(super) fn of_claim(&self, target: &TargetName, now: Instant) -> (Place, Vec<JobId>) {
        let target = folded(target.as_str());
        match self.behind.get(&target) {
            Some((place, until)) if now < *until => (*place, Vec::new()),
            _ => {
                let of_it =
                    |kind, of: &Refusal| Kind::OF_CLAIMS.contains(&kind) && of.target == target;
                (Place::FIRST, self.those(now, of_it))
            }
        }
    }

    fn those(&self, now: Instant, which: impl Fn(Kind, &Refusal) -> bool) -> Vec<JobId> {
        let aside = self.rows.iter();
        let aside = aside.filter(|((kind, _), row)| now < row.until && which(*kind, row));
        aside.map(|((_, id), _)| *id).collect()
    }

    /// Takes in rows that were refused, and says so once of each. Beyond [`MAX_ROWS`], claims begin behind the last one.
    pub(super) fn note(&mut self, now: Instant, kind: Kind, refused: &[Refused]) {
        self.rows.retain(|_, row| !row.is_over(now));
        self.behind.retain(|_, (_, until)| now < *until);
        let to = kind.as_str();
        for Refused {
            id,
            target,
            place,
            error,
        } in refused
        {
            let told = target.as_deref();
            let target = told.map(folded).unwrap_or_default();
            let known = self.rows.get(&(kind, *id)).map(|row| row.pause);
            let is_full = || {
                let others = self.rows.iter();
                let of_it = |row: &Refusal| place.is_none() || row.target == target;
                let others = others.filter(|((of, _), row)| *of == kind && of_it(row));
                others.count() >= MAX_ROWS
            };
            let full = known.is_none() && is_full();
            if let Some(place) = place
                && (full || self.behind.contains_key(&target))
            {
                let (behind, _) = self
                    .behind
                    .entry(target.clone())
                    .or_insert((*place, now + SKIP));
                *behind = place.later(*behind);
            }
            if full {
                tracing::debug!(job = %id, error, "the database refuses to let a row be {to}, as many others");
                continue;
            }
            let pause = known.map_or(PAUSE.0, |pause| (pause * 2).min(PAUSE.1));
            let until = now + pause;
            let row = Refusal {
                target,
                pause,
                until,
            };
            self.rows.insert((kind, *id), row);
            if known.is_none() {
                tracing::warn!(
                    job = %id, target = told, error,
                    "the database refuses to let a row be {to}, passing over it and trying again now and then: mend the row, or the trigger, CHECK or index that refuses it"
                );
            } else {
                tracing::debug!(job = %id, error, ?pause, "the database still refuses to let a row be {to}");
            }
        }
    }
}

/// A target as rows may spell it: columns of fixed width are padded, and collations may ignore case.
fn folded(target: &str) -> String {
    target.trim_end().to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(ids: std::ops::Range<u64>) -> Vec<Refused> {
        let row = |id: u64| Refused {
            id: JobId(id),
            target: Some("Mail ".into()),
            place: Some(place(id)),
            error: "no".into(),
        };
        ids.map(row).collect()
    }

    fn place(id: u64) -> Place {
        Place {
            priority: 0,
            id: super::super::connection::key(JobId(id)),
        }
    }

    fn mail() -> TargetName {
        TargetName::new("mail").unwrap()
    }

    #[test]
    fn a_refused_row_is_tried_again_after_a_pause_that_grows_to_a_limit() {
        let (mut refusals, mut now) = (Refusals::default(), Instant::now());
        let mut pauses = Vec::new();
        for _ in 0..8 {
            refusals.note(now, Kind::Waiting, &refused(1..2));
            let before = now;
            while !refusals.aside(Kind::Waiting, now).is_empty() {
                now += Duration::from_secs(1);
            }
            pauses.push((now - before).as_secs());
        }
        assert_eq!(pauses, [5, 10, 20, 40, 80, 120, 120, 120]);
        // Somebody has mended it: the next refusal is another one.
        now += PAUSE.1;
        refusals.note(now, Kind::Waiting, &refused(1..2));
        assert!(refusals.aside(Kind::Waiting, now + PAUSE.0).is_empty());
    }

    #[test]
    fn a_row_is_passed_over_for_what_it_was_refused() {
        let (mut refusals, now) = (Refusals::default(), Instant::now());
        let aside = |refusals: &Refusals| {
            let others = TargetName::new("other").unwrap();
            [
                refusals.of_claim(&mail(), now).1,
                refusals.of_claim(&others, now).1,
                refusals.aside(Kind::Cancelled, now),
            ]
        };
        refusals.note(now, Kind::Waiting, &refused(1..2));
        assert_eq!(aside(&refusals), [vec![], vec![], vec![]]);
        refusals.note(now, Kind::Running, &refused(2..3));
        assert_eq!(aside(&refusals), [vec![JobId(2)], vec![], vec![]]);
        let mut refusals = Refusals::default();
        refusals.note(now, Kind::Cancelled, &refused(3..4));
        let three = vec![JobId(3)];
        assert_eq!(aside(&refusals), [three.clone(), vec![], three]);
    }

    #[test]
    fn claims_begin_behind_more_rows_than_are_remembered() {
        let (mut refusals, now) = (Refusals::default(), Instant::now());
        let all = 1..MAX_ROWS as u64 + 1;
        refusals.note(now, Kind::Accepted, &refused(all.clone()));
        let (first, aside) = refusals.of_claim(&mail(), now);
        assert_eq!((first, aside.len()), (Place::FIRST, MAX_ROWS));
        refusals.note(now, Kind::Accepted, &refused(all.end..all.end + 9));
        let behind = refusals.of_claim(&mail(), now);
        assert_eq!(behind, (place(all.end + 8), vec![]));
        // Known or not, what is refused there is passed as well, and nothing leads back.
        for row in [all.end + 20, 7] {
            refusals.note(now, Kind::Running, &refused(row..row + 1));
            assert_eq!(refusals.of_claim(&mail(), now).0, place(all.end + 20));
        }
        assert_eq!(refusals.of_claim(&mail(), now + SKIP).0, Place::FIRST);
    }
}
