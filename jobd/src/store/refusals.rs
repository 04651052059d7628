//! Rows that the database refuses to change, by a trigger, a CHECK or a unique index. In a statement about many rows one of
//! them would stop the others, each time anew; so each is tried alone then, and those that are refused are passed
//! over for a while.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use jobd_proto::JobId;
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
    /// A claim has brought it, and the next one of its target would again.
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

/// Runs an update of `ids` with these values before them, within a transaction: together, and in halves where one of them is
/// refused, so that each of these costs the others a few statements.
pub(super) async fn change<C: Connection>(
    connection: &mut C,
    statement: &ListStatement,
    before: &[Value<'_>],
    ids: &[JobId],
) -> Result<Changed, sqlx::Error> {
    let mut changed = Changed::default();
    let mut lists: Vec<&[JobId]> = ids.chunks(MAX_LIST).rev().collect();
    while let Some(ids) = lists.pop() {
        match (change_list(connection, statement, before, ids).await, ids) {
            (Err(error), [id]) if is_about_row(&error) => changed.refused.push((*id, error)),
            (Err(error), _) if is_about_row(&error) => {
                let (first, second) = ids.split_at(ids.len() / 2);
                lists.extend([second, first]);
            }
            (outcome, _) => changed.rows += outcome?,
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
struct OfTarget(HashMap<(Kind, JobId), Refusal>);

#[derive(Debug)]
struct Refusal {
    /// See [`Refused`]: claims pass over it.
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
        self.paused(now, |of, _| of == kind)
    }

    /// Those that claims are to pass over now, of all targets: what a claim is for may be spelled otherwise in a row.
    pub(super) fn of_claims(&self, now: Instant) -> HashSet<JobId> {
        self.paused(now, |_, row| row.claimable)
    }

    fn paused(&self, now: Instant, is_meant: impl Fn(Kind, &Refusal) -> bool) -> HashSet<JobId> {
        let rows = self.0.values().flat_map(|OfTarget(rows)| rows);
        let aside = rows.filter(|((of, _), row)| now < row.until && is_meant(*of, row));
        aside.map(|((_, id), _)| *id).collect()
    }

    /// Takes in rows that were refused, and names them in the log. What is left of them is passed over from now on; the others
    /// are too many for that.
    pub(super) fn note(
        &mut self,
        now: Instant,
        kind: Kind,
        mut refused: Vec<Refused>,
    ) -> Vec<Refused> {
        if refused.is_empty() {
            return refused;
        }
        self.0.retain(|_, OfTarget(rows)| {
            rows.retain(|_, row| !row.is_over(now));
            !rows.is_empty()
        });
        let of_kind = self.0.values().flat_map(|OfTarget(rows)| rows.keys());
        let known = of_kind.filter(|(of, _)| *of == kind).count();
        let mut room = MAX_OF_KIND.saturating_sub(known);
        refused.retain(|row| {
            let target = row.target.as_deref().map(folded).unwrap_or_default();
            let of = self.0.entry(target).or_default();
            of.note(now, kind, row, &mut room)
        });
        refused
    }
}

impl OfTarget {
    /// Whether it is passed over from now on. `room` is that for others of the kind.
    fn note(&mut self, now: Instant, kind: Kind, refused: &Refused, room: &mut usize) -> bool {
        let Refused {
            id,
            target,
            claimable,
            error,
        } = refused;
        let to = kind.as_str();
        let rows = &mut self.0;
        let of_claims = rows.values().filter(|row| row.claimable).count();
        let fits = *claimable && of_claims < MAX_OF_TARGET;
        let is_last = fits && of_claims + 1 == MAX_OF_TARGET;
        if let Some(row) = rows.get_mut(&(kind, *id)) {
            row.pause = (row.pause * 2).min(PAUSE.1);
            row.until = now + row.pause;
            // A look may have met it before a claim has.
            let was_claimable = row.claimable;
            row.claimable |= fits;
            if is_last && !was_claimable {
                say_full(to, refused);
            }
            tracing::debug!(job = %id, error, pause = ?row.pause, "the database still refuses to let a row be {to}");
            return row.claimable || !claimable;
        }
        let is_passed = fits || !claimable;
        // The looks for requests pass over as many as they find.
        if *room == 0 || !is_passed && kind != Kind::Cancelled {
            tracing::debug!(job = %id, target, error, "the database refuses to let a row be {to}, and there are too many to pass over it");
            return false;
        }
        let row = Refusal {
            claimable: fits,
            pause: PAUSE.0,
            until: now + PAUSE.0,
        };
        rows.insert((kind, *id), row);
        *room -= 1;
        if *room == 0 || is_last {
            say_full(to, refused);
        }
        match rows.len() {
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
        is_passed
    }
}

/// The last place is taken.
fn say_full(
    to: &str,
    Refused {
        id, target, error, ..
    }: &Refused,
) {
    tracing::error!(
        job = %id, target, error,
        "the database refuses to let so many rows be {to} that no more can be passed over: others hold up what stands behind them until they are mended, or the trigger, CHECK or index that refuses them"
    );
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

    /// Which no claim has brought.
    fn unclaimed(ids: std::ops::Range<u64>) -> Vec<Refused> {
        let mut rows = refused(ids);
        for row in &mut rows {
            row.claimable = false;
        }
        rows
    }

    fn set(ids: &[u64]) -> HashSet<JobId> {
        ids.iter().map(|id| JobId(*id)).collect()
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
            let of_cancels = refusals.aside(Kind::Cancelled, now);
            [refusals.of_claims(now), of_cancels]
        };
        refusals.note(now, Kind::Waiting, unclaimed(1..2));
        assert_eq!(aside(&refusals), [&[][..], &[]].map(set));
        refusals.note(now, Kind::Running, refused(2..3));
        assert_eq!(aside(&refusals), [&[2][..], &[]].map(set));
        let mut refusals = Refusals::default();
        refusals.note(now, Kind::Cancelled, unclaimed(3..4));
        assert_eq!(aside(&refusals), [&[][..], &[3]].map(set));
        // A claim has brought it, and it could not be cancelled then either.
        assert_eq!(refusals.note(now, Kind::Cancelled, refused(3..4)).len(), 1);
        assert_eq!(aside(&refusals), [&[3][..], &[3]].map(set));
    }

    #[test]
    fn as_many_rows_of_a_target_are_remembered_as_a_claim_may_read_over() {
        let (mut refusals, now) = (Refusals::default(), Instant::now());
        let most = MAX_OF_TARGET as u64;
        let rows = refusals.note(now, Kind::Accepted, refused(1..most + 9));
        assert_eq!(rows.len(), MAX_OF_TARGET, "the others are not passed over");
        assert_eq!(refusals.of_claims(now).len(), MAX_OF_TARGET);
        // What no claim brings costs claims nothing, and finds room.
        let others = unclaimed(most + 1..most + 9);
        assert_eq!(refusals.note(now, Kind::Cancelled, others).len(), 8);
        assert_eq!(refusals.of_claims(now).len(), MAX_OF_TARGET);
        let claimed = refused(most + 1..most + 19);
        let rows = refusals.note(now, Kind::Cancelled, claimed);
        assert_eq!(rows.len(), 0, "by claims");
        assert_eq!(refusals.aside(Kind::Cancelled, now).len(), 18);
        // There is room again for others once these are mended.
        let later = now + PAUSE.0 + PAUSE.1;
        refusals.note(later, Kind::Accepted, refused(most + 1..most + 9));
        assert_eq!(refusals.of_claims(later).len(), 8);
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
        assert_eq!(refusals.of_claims(now).len(), 3, "of as many targets");
        let rows = refusals.0.values().map(|OfTarget(rows)| rows.len());
        assert_eq!(rows.sum::<usize>(), MAX_OF_KIND);
        let rows = refusals.note(now, Kind::Waiting, refused(7..8));
        assert_eq!(rows.len(), 1);
    }
}
