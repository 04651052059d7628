//! Rows that the database refuses to change, by a trigger, a CHECK or a unique index. In a statement about many rows one of
//! them would stop the others, each time anew; so each is tried alone then, and those that are refused are passed
//! over for a while.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use jobd_proto::{JobId, TargetName};
use sqlx::mysql::MySqlDatabaseError;

use super::connection::{Connection, Value};
use super::lists::{ListStatement, MAX_LIST};

/// Rows of one target that claims bring and that are remembered: each claim reads over as many.
const MAX_OF_TARGET: usize = 1000;

/// Rows of one kind that are remembered in all.
const MAX_OF_KIND: usize = 4096;

/// Rows of one target that are named in the log, each.
const NAMED: usize = 16;

/// The first pause, which doubles with each refusal, and the longest: people mend what refuses a row, and wait for it then.
const PAUSE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_mins(2));

/// A row that was refused.
#[derive(Clone, Debug)]
pub struct Refused {
    /// The row.
    pub id: JobId,
    /// Its `target`, where that was read.
    pub target: Option<String>,
    /// The next claim of its target would bring it again.
    pub(super) claimable: bool,
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
            Err(error) if is_about_row(&error) => {
                if let [id] = ids {
                    changed.refused.push((*id, error));
                    continue;
                }
            }
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
pub(super) struct Refusals(HashMap<String, OfTarget>);

/// Those of a target, whose name is the key, [`folded`].
#[derive(Debug, Default)]
struct OfTarget {
    rows: HashMap<(Kind, JobId), Refusal>,
    /// That there are more was said.
    is_full: bool,
}

#[derive(Debug)]
struct Refusal {
    /// See [`Refused`].
    claimable: bool,
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
    pub(super) fn aside(&self, kind: Kind, now: Instant) -> HashSet<JobId> {
        let rows = self.0.values().flat_map(|of| &of.rows);
        let aside = rows.filter(|((of, _), row)| *of == kind && now < row.until);
        aside.map(|((_, id), _)| *id).collect()
    }

    /// Those that a claim is to pass over now.
    pub(super) fn of_claim(&self, target: &TargetName, now: Instant) -> HashSet<JobId> {
        let of = self.0.get(&folded(target.as_str()));
        let rows = of.into_iter().flat_map(|of| &of.rows);
        let aside = rows.filter(|(_, row)| row.claimable && now < row.until);
        aside.map(|((_, id), _)| *id).collect()
    }

    /// Takes in rows that were refused, and names them in the log. What is left of them is passed over from now on; the others
    /// are too many to be remembered.
    pub(super) fn note(
        &mut self,
        now: Instant,
        kind: Kind,
        mut refused: Vec<Refused>,
    ) -> Vec<Refused> {
        self.0.retain(|_, of| {
            of.rows.retain(|_, row| !row.is_over(now));
            !of.rows.is_empty()
        });
        let of_kind = self.0.values().flat_map(|of| of.rows.keys());
        let mut known = of_kind.filter(|(of, _)| *of == kind).count();
        refused.retain(|row| {
            let target = row.target.as_deref().map(folded).unwrap_or_default();
            let of = self.0.entry(target).or_default();
            let noted = of.note(now, kind, row, known < MAX_OF_KIND);
            known += usize::from(noted == Noted::New);
            noted != Noted::TooMany
        });
        refused
    }
}

/// What has become of a row that was refused.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Noted {
    New,
    Known,
    TooMany,
}

impl OfTarget {
    fn note(&mut self, now: Instant, kind: Kind, refused: &Refused, has_room: bool) -> Noted {
        let Refused {
            id,
            target,
            claimable,
            error,
        } = refused;
        let to = kind.as_str();
        if let Some(row) = self.rows.get_mut(&(kind, *id)) {
            row.pause = (row.pause * 2).min(PAUSE.1);
            row.until = now + row.pause;
            tracing::debug!(job = %id, error, pause = ?row.pause, "the database still refuses to let a row be {to}");
            return Noted::Known;
        }
        let of_claims = self.rows.values().filter(|row| row.claimable).count();
        let too_many = *claimable && of_claims >= MAX_OF_TARGET;
        // The looks for requests pass over them in any case.
        if !has_room || too_many && kind != Kind::Cancelled {
            if !std::mem::replace(&mut self.is_full, true) {
                tracing::error!(
                    job = %id, target, error,
                    "the database refuses to let more rows be {to} than can be passed over: they hold up what stands behind them until they are mended, or the trigger, CHECK or index that refuses them"
                );
            }
            return Noted::TooMany;
        }
        let row = Refusal {
            claimable: *claimable && !too_many,
            pause: PAUSE.0,
            until: now + PAUSE.0,
        };
        self.rows.insert((kind, *id), row);
        match self.rows.len() {
            0..NAMED => tracing::warn!(
                job = %id, target, error,
                "the database refuses to let a row be {to}, passing over it and trying again now and then: mend the row, or the trigger, CHECK or index that refuses it"
            ),
            NAMED => tracing::warn!(
                job = %id, target, error,
                "the database refuses to let a row be {to}, and many others of its target, which are passed over as well and not named any more"
            ),
            _ => {
                tracing::debug!(job = %id, target, error, "the database refuses to let a row be {to}, as many others");
            }
        }
        Noted::New
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
            claimable: true,
            error: "no".into(),
        };
        ids.map(row).collect()
    }

    fn set(ids: &[u64]) -> HashSet<JobId> {
        ids.iter().map(|id| JobId(*id)).collect()
    }

    fn mail() -> TargetName {
        TargetName::new("mail").unwrap()
    }

    #[test]
    fn a_refused_row_is_tried_again_after_a_pause_that_grows_to_a_limit() {
        let (mut refusals, mut now) = (Refusals::default(), Instant::now());
        let mut pauses = Vec::new();
        for _ in 0..8 {
            refusals.note(now, Kind::Waiting, refused(1..2));
            let before = now;
            while !refusals.aside(Kind::Waiting, now).is_empty() {
                now += Duration::from_secs(1);
            }
            pauses.push((now - before).as_secs());
        }
        assert_eq!(pauses, [5, 10, 20, 40, 80, 120, 120, 120]);
        // Somebody has mended it: the next refusal is another one.
        now += PAUSE.1;
        refusals.note(now, Kind::Waiting, refused(1..2));
        assert!(refusals.aside(Kind::Waiting, now + PAUSE.0).is_empty());
    }

    #[test]
    fn a_row_is_passed_over_for_what_it_was_refused() {
        let (mut refusals, now) = (Refusals::default(), Instant::now());
        let aside = |refusals: &Refusals| {
            let others = TargetName::new("other").unwrap();
            [
                refusals.of_claim(&mail(), now),
                refusals.of_claim(&others, now),
                refusals.aside(Kind::Cancelled, now),
            ]
        };
        let mut scheduled = refused(1..2);
        scheduled[0].claimable = false;
        refusals.note(now, Kind::Waiting, scheduled);
        assert_eq!(aside(&refusals), [&[][..], &[], &[]].map(set));
        refusals.note(now, Kind::Running, refused(2..3));
        assert_eq!(aside(&refusals), [&[2][..], &[], &[]].map(set));
        let mut refusals = Refusals::default();
        refusals.note(now, Kind::Cancelled, refused(3..4));
        assert_eq!(aside(&refusals), [&[3][..], &[], &[3]].map(set));
    }

    #[test]
    fn as_many_rows_of_a_target_are_remembered_as_a_claim_may_read_over() {
        let (mut refusals, now) = (Refusals::default(), Instant::now());
        let most = MAX_OF_TARGET as u64;
        let rows = refusals.note(now, Kind::Accepted, refused(1..most + 9));
        assert_eq!(rows.len(), MAX_OF_TARGET, "the others are not passed over");
        assert_eq!(refusals.of_claim(&mail(), now).len(), MAX_OF_TARGET);
        // What no claim brings costs claims nothing, and finds room.
        let mut others = refused(most + 1..most + 9);
        for row in &mut others {
            row.claimable = false;
        }
        assert_eq!(refusals.note(now, Kind::Cancelled, others).len(), 8);
        assert_eq!(refusals.of_claim(&mail(), now).len(), MAX_OF_TARGET);
        // There is room again for others once these are mended.
        let later = now + PAUSE.0 + PAUSE.1;
        refusals.note(later, Kind::Accepted, refused(most + 1..most + 9));
        assert_eq!(refusals.of_claim(&mail(), later).len(), 8);
    }

    #[test]
    fn what_is_remembered_of_all_targets_is_bounded_for_each_kind() {
        let (mut refusals, now) = (Refusals::default(), Instant::now());
        for target in 0..MAX_OF_KIND {
            let mut rows = refused(1..4);
            for row in &mut rows {
                row.target = Some(target.to_string());
            }
            refusals.note(now, Kind::Accepted, rows);
        }
        assert_eq!(
            refusals.0.values().map(|of| of.rows.len()).sum::<usize>(),
            MAX_OF_KIND
        );
        let rows = refusals.note(now, Kind::Waiting, refused(7..8));
        assert_eq!(rows.len(), 1);
    }
}
