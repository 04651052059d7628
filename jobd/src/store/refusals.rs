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

/// Rows that are remembered of one target that have been claimed: each of its claims reads over as many.
const MAX_OF_TARGET: usize = 256;

/// Rows that are remembered in all.
const MAX_KNOWN: usize = 4096;

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
    /// Where it stands in the order of claims, if one has brought it.
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
    /// A row that is claimed, and cannot become this, goes back to be claimed again.
    fn is_of_claims(self) -> bool {
        matches!(self, Self::Accepted | Self::Running | Self::Cancelled)
    }

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
    stretch: Option<Stretch>,
}

#[derive(Debug)]
struct Refusal {
    pause: Duration,
    until: Instant,
}

/// A part of a target's rows that holds more refused ones than are remembered: claims take what stands before and behind it.
#[derive(Debug)]
struct Stretch {
    /// The first and the last of those that are not remembered.
    ends: [Place; 2],
    /// When it is tried anew: some time after a claim has come to the end of the target's rows behind it.
    until: Option<Instant>,
}

/// What a claim passes over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Skip {
    /// These two rows, and what stands between them.
    pub(super) stretch: Option<[Place; 2]>,
    pub(super) aside: Vec<JobId>,
}

impl Refusal {
    /// A row that was not refused again for the longest pause was mended, or has gone.
    fn is_over(&self, now: Instant) -> bool {
        now >= self.until + PAUSE.1
    }
}

impl OfTarget {
    fn aside(&self, now: Instant, of: impl Fn(Kind) -> bool) -> impl Iterator<Item = JobId> {
        let aside = self.rows.iter();
        let aside = aside.filter(move |((kind, _), row)| now < row.until && of(*kind));
        aside.map(|((_, id), _)| *id)
    }

    /// Forgets what is over; whether anything is left.
    fn is_left(&mut self, now: Instant) -> bool {
        self.rows.retain(|_, row| !row.is_over(now));
        let stretch = self.stretch.take();
        self.stretch = stretch.filter(|stretch| stretch.until.is_none_or(|until| now < until));
        !self.rows.is_empty() || self.stretch.is_some()
    }

    /// Whether no further row is remembered, where so many are known already in all.
    fn is_full(&self, known: usize, claimed: bool) -> bool {
        let of_claims = || self.rows.keys().filter(|(kind, _)| kind.is_of_claims());
        known >= MAX_KNOWN || claimed && of_claims().count() >= MAX_OF_TARGET
    }

    /// Takes in a row that is not remembered.
    fn stretch_to(&mut self, place: Place) {
        self.stretch = Some(match self.stretch.take() {
            None => Stretch {
                ends: [place; 2],
                until: None,
            },
            Some(Stretch { ends, until }) => Stretch {
                ends: [ends[0].earlier(place), ends[1].later(place)],
                until,
            },
        });
    }
}

impl Refusals {
    /// Those to pass over now.
    pub(super) fn aside(&self, kind: Kind, now: Instant) -> Vec<JobId> {
        let targets = self.0.values();
        targets
            .flat_map(|it| it.aside(now, |of| of == kind))
            .collect()
    }

    /// What a claim is to pass over now.
    pub(super) fn skip(&self, target: &TargetName, now: Instant) -> Skip {
        let Some(of) = self.0.get(&folded(target.as_str())) else {
            return Skip::default();
        };
        let stretch = of.stretch.as_ref();
        let stretch = stretch.filter(|stretch| stretch.until.is_none_or(|until| now < until));
        Skip {
            stretch: stretch.map(|stretch| stretch.ends),
            aside: of.aside(now, Kind::is_of_claims).collect(),
        }
    }

    /// A claim has come to the end of the rows of a target.
    pub(super) fn came_to_the_end(&mut self, target: &TargetName, now: Instant) {
        let of = self.0.get_mut(&folded(target.as_str()));
        if let Some(stretch) = of.and_then(|of| of.stretch.as_mut()) {
            stretch.until.get_or_insert(now + PAUSE.1);
        }
    }

    /// Takes in rows that were refused, and names them in the log. What is too much to be remembered becomes part of the
    /// stretch that claims pass over.
    pub(super) fn note(&mut self, now: Instant, kind: Kind, refused: &[Refused]) {
        self.0.retain(|_, of| of.is_left(now));
        let mut known: usize = self.0.values().map(|of| of.rows.len()).sum();
        let to = kind.as_str();
        for Refused {
            id,
            target,
            place,
            error,
        } in refused
        {
            let target = target.as_deref();
            let of = self.0.entry(target.map(folded).unwrap_or_default());
            let of = of.or_default();
            if let Some(row) = of.rows.get_mut(&(kind, *id)) {
                row.pause = (row.pause * 2).min(PAUSE.1);
                row.until = now + row.pause;
                tracing::debug!(job = %id, error, pause = ?row.pause, "the database still refuses to let a row be {to}");
                continue;
            }
            let full = of.is_full(known, place.is_some());
            if full {
                place.inspect(|place| of.stretch_to(*place));
            } else {
                let (pause, until) = (PAUSE.0, now + PAUSE.0);
                of.rows.insert((kind, *id), Refusal { pause, until });
                known += 1;
            }
            match of.rows.len() {
                0..NAMED => tracing::warn!(
                    job = %id, target, error,
                    "the database refuses to let a row be {to}, passing over it and trying again now and then: mend the row, or the trigger, CHECK or index that refuses it"
                ),
                NAMED if !full => tracing::warn!(
                    job = %id, target, error,
                    "the database refuses to let a row be {to}, and many others of its target, which are passed over as well and not named any more"
                ),
                _ => {
                    tracing::debug!(job = %id, target, error, "the database refuses to let a row be {to}, as many others");
                }
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
                refusals.skip(&mail(), now).aside,
                refusals.skip(&others, now).aside,
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
    fn claims_pass_over_a_stretch_of_more_rows_than_are_remembered() {
        let (mut refusals, now) = (Refusals::default(), Instant::now());
        let all = 11..MAX_OF_TARGET as u64 + 11;
        refusals.note(now, Kind::Accepted, &refused(all.clone()));
        let skip = |refusals: &Refusals, at| {
            let Skip { stretch, aside } = refusals.skip(&mail(), at);
            (stretch, aside.len())
        };
        assert_eq!(skip(&refusals, now), (None, MAX_OF_TARGET));
        for (row, ends) in [(400, [400, 400]), (600, [400, 600]), (7, [7, 600])] {
            refusals.note(now, Kind::Running, &refused(row..row + 1));
            let stretch = Some(ends.map(place));
            assert_eq!(skip(&refusals, now), (stretch, MAX_OF_TARGET));
        }
        // A row that no claim has brought says nothing of where claims have been.
        let mut by_hand = refused(900..901);
        by_hand[0].place = None;
        refusals.note(now, Kind::Running, &by_hand);
        let stretch = Some([7, 600].map(place));
        assert_eq!(skip(&refusals, now).0, stretch);
        // However long it takes to come to the end, and however much is refused meanwhile and after it.
        let end = now + PAUSE.1 * 2;
        assert_eq!(skip(&refusals, end).0, stretch);
        refusals.came_to_the_end(&mail(), end);
        refusals.came_to_the_end(&mail(), end + PAUSE.1 / 2);
        let last = end + PAUSE.1 * 9 / 10;
        refusals.note(last, Kind::Running, &refused(601..602));
        assert_ne!(skip(&refusals, last).0, None);
        assert_eq!(skip(&refusals, end + PAUSE.1).0, None);
    }

    #[test]
    fn what_is_remembered_of_all_targets_is_bounded() {
        let (mut refusals, now) = (Refusals::default(), Instant::now());
        for target in 0..MAX_KNOWN {
            let mut rows = refused(1..20);
            for row in &mut rows {
                row.target = Some(target.to_string());
            }
            refusals.note(now, Kind::Accepted, &rows);
        }
        let rows = refusals.0.values().map(|of| of.rows.len());
        assert_eq!(rows.sum::<usize>(), MAX_KNOWN);
        let last = TargetName::new((MAX_KNOWN - 1).to_string()).unwrap();
        let stretch = Some([1, 19].map(place));
        assert_eq!(refusals.skip(&last, now).stretch, stretch);
    }
}
