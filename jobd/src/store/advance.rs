//! The statement that moves rows on: starts and ends of many jobs in one UPDATE.
//!
//! One UPDATE is a transaction by itself, so a batch costs one round trip and one commit. Every row
//! names its own claim and takes its own values, by a `CASE` over the ids; the row's status, as it was
//! before, says whether it starts or ends. Its text exists for a few sizes of either list, as
//! [`lists`](super::lists) has it; a shorter list is filled up with NULL, which is no row's id.

use std::sync::Arc;

use jobd_proto::table::{Columns, Kind};

use super::connection::{Value, key};
use super::counts::Counts;
use super::dialect::Dialect;
use super::{Abilities, Ability, Batch, Finish};
use crate::fate::Reason;
use crate::faults::{guard, planted};
use crate::job::Job;

/// The lists' sizes, close to each other where most batches are: what fills a list up costs the server as much as what
/// it stands for.
const SIZES: [usize; 8] = [0, 1, 2, 4, 6, 8, 16, 64];

/// The most starts, and the most ends, of one statement.
const MAX_ROWS: usize = SIZES[SIZES.len() - 1];

/// Output in one statement, in bytes, beyond which it takes no further end: far below any
/// `max_allowed_packet`, which a single end has been made fit for.
const MAX_OUTPUT: usize = 256 << 10;

/// The statement in every pair of sizes.
#[derive(Clone, Debug)]
pub(super) struct AdvanceStatement {
    texts: [[Arc<str>; SIZES.len()]; SIZES.len()],
    /// Whether the table has the column `reason`.
    reasons: bool,
    bounds: Bounds,
}

/// The least and the most that columns of an end hold.
#[derive(Clone, Debug)]
pub(super) struct Bounds {
    /// Of `return_code`.
    codes: (i64, i64),
    /// Of `cpu_ms` and `peak_kib`, where the table has them.
    usage: Option<[(i64, i64); 2]>,
}

impl Bounds {
    pub(super) fn of(columns: &Columns, abilities: Abilities) -> Self {
        let of = |column| match columns.get(column).map(|column| &column.kind) {
            Some(Kind::Integer { min, max }) => (*min, *max),
            _ => (0, 127),
        };
        let accounted = abilities.has(Ability::Accounting);
        Self {
            codes: of("return_code"),
            usage: accounted.then(|| USAGE.map(of)),
        }
    }
}

/// The columns of what a job has used.
pub(super) const USAGE: [&str; 2] = ["cpu_ms", "peak_kib"];

/// Behind an assignment, where they are there: nobody knows what a job has used.
pub(super) const UNKNOWN_USAGE: &str = ", `cpu_ms` = NULL, `peak_kib` = NULL";

/// What one statement writes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Advance<'a> {
    pub(super) starts: &'a [Job],
    pub(super) finishes: &'a [Finish],
}

impl<'a> Advance<'a> {
    pub(super) fn len(&self) -> usize {
        self.starts.len() + self.finishes.len()
    }

    /// A batch in as few statements as its size allows; ends first, because they free what starts take.
    pub(super) fn all(batch: &'a Batch) -> Vec<Self> {
        let (mut starts, mut finishes) = (&batch.starts[..], &batch.finishes[..]);
        let mut parts = Vec::new();
        while !starts.is_empty() || !finishes.is_empty() {
            let (ends, more_ends) = finishes.split_at(fitting(finishes));
            let begins = if more_ends.is_empty() {
                starts.len().min(MAX_ROWS)
            } else {
                0
            };
            let (begins, more_begins) = starts.split_at(begins);
            parts.push(Self {
                starts: begins,
                finishes: ends,
            });
            (starts, finishes) = (more_begins, more_ends);
        }
        parts
    }
}

/// How many of the first ends go into one statement.
fn fitting(finishes: &[Finish]) -> usize {
    let mut output = 0;
    let fits = |finish: &&Finish| {
        output += finish.stdout.len() + finish.stderr.len();
        output <= MAX_OUTPUT
    };
    let count = finishes.iter().take(MAX_ROWS).take_while(fits).count();
    count.max(1).min(finishes.len())
}

impl AdvanceStatement {
    /// For table `t`, whose claims stand in `token`.
    pub(super) fn new(
        t: &str,
        token: &str,
        counts: &Counts,
        dialect: &Dialect,
        bounds: Bounds,
    ) -> Self {
        let accounted = bounds.usage.is_some();
        let text = |starts, ends| text(t, token, (counts, accounted), dialect, starts, ends).into();
        Self {
            texts: SIZES.map(|starts| SIZES.map(|ends| text(starts, ends))),
            reasons: counts.reasons,
            bounds,
        }
    }

    /// Every text, for EXPLAIN.
    #[cfg(test)]
    pub(super) fn texts(&self) -> impl Iterator<Item = &Arc<str>> {
        self.texts
            .iter()
            .flatten()
            .filter(|text| text.contains('?'))
    }

    /// The text for a part of a batch, and the values to bind.
    pub(super) fn bind<'a>(&self, part: Advance<'a>) -> (Arc<str>, Vec<Value<'a>>) {
        let Advance { starts, finishes } = part;
        let (at_starts, at_ends) = (size(starts.len()), size(finishes.len()));
        let starts = Padded(starts, SIZES[at_starts]);
        let ends = Padded(finishes, SIZES[at_ends]);
        let start_id = |job: &Job| Value::Number(key(job.id));
        let end_id = |end: &Finish| Value::Number(key(end.job.id));

        let mut values = Vec::with_capacity(3 * starts.1 + 21 * ends.1);
        ends.pairs(&mut values, end_id, |end| Value::Text(end.result.as_str()));
        ends.pairs(&mut values, end_id, |end| self.code(end));
        ends.pairs(&mut values, end_id, |end| {
            Value::MaybeText(end.signal.as_deref())
        });
        ends.pairs(&mut values, end_id, |end| Value::Text(&end.stdout));
        ends.pairs(&mut values, end_id, |end| Value::Text(&end.stderr));
        if self.reasons {
            ends.pairs(&mut values, end_id, |end| {
                Value::MaybeText(end.reason.map(Reason::as_str))
            });
        }
        for (at, bounds) in self.bounds.usage.iter().flatten().enumerate() {
            ends.pairs(&mut values, end_id, |end| used(end, at, *bounds));
        }
        ends.pairs(&mut values, end_id, |end| {
            Value::Number(i64::try_from(end.ended.elapsed().as_secs()).unwrap_or(0))
        });
        starts.each(&mut values, start_id);
        ends.each(&mut values, end_id);
        starts.pairs(&mut values, start_id, |job| Value::Text(job.token.as_str()));
        ends.pairs(&mut values, end_id, |end| {
            Value::Text(end.job.token.as_str())
        });
        (self.texts[at_starts][at_ends].clone(), values)
    }

    /// A row's id and what it says once this end is written.
    pub(super) fn outcome<'a>(&self, end: &'a Finish) -> [Value<'a>; 6] {
        [
            Value::Number(key(end.job.id)),
            Value::Text(end.result.as_str()),
            self.code(end),
            Value::MaybeText(end.signal.as_deref()),
            Value::Text(&end.stdout),
            Value::Text(&end.stderr),
        ]
    }

    /// The exit code as the column takes it.
    pub(super) fn code<'a>(&self, end: &Finish) -> Value<'a> {
        let (least, most) = self.bounds.codes;
        Value::MaybeNumber(end.code.map(|code| i64::from(code).clamp(least, most)))
    }

    /// What a job has used, as the columns take it; nothing where there are none.
    pub(super) fn usage<'a>(&self, end: &Finish) -> impl Iterator<Item = Value<'a>> {
        let bounds = self.bounds.usage.iter().flatten().enumerate();
        bounds.map(|(at, bounds)| used(end, at, *bounds))
    }
}

/// What a job has used of one thing, as [`USAGE`] has them.
fn used<'a>(end: &Finish, at: usize, bounds: (i64, i64)) -> Value<'a> {
    let known = end.usage.filter(|_| !planted!("end-without-its-usage"));
    let used = known.map(|usage| [usage.cpu_ms, usage.peak_kib][at]);
    Value::MaybeNumber(used.map(|used| within(bounds, used)))
}

/// The nearest number that fits: one that does not would cost the whole end.
fn within((least, most): (i64, i64), number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX).clamp(least, most)
}

/// Which of [`SIZES`] a list of `count` takes.
fn size(count: usize) -> usize {
    let fits = |&size: &usize| count <= size;
    let at = SIZES.iter().position(fits);
    at.expect("a part of a batch has at most MAX_ROWS of either")
}

/// A list, filled up to a size.
struct Padded<'a, T>(&'a [T], usize);

impl<'a, T> Padded<'a, T> {
    fn each(&self, values: &mut Vec<Value<'a>>, value: impl Fn(&'a T) -> Value<'a>) {
        values.extend(self.0.iter().map(value));
        values.extend((self.0.len()..self.1).map(|_| Value::MaybeNumber(None)));
    }

    fn pairs(
        &self,
        values: &mut Vec<Value<'a>>,
        id: impl Fn(&'a T) -> Value<'a>,
        value: impl Fn(&'a T) -> Value<'a>,
    ) {
        values.extend(self.0.iter().flat_map(|entry| [id(entry), value(entry)]));
        values.extend((2 * self.0.len()..2 * self.1).map(|_| Value::MaybeNumber(None)));
    }
}

/// The text for `starts` starts and `ends` ends; its values in the order of [`AdvanceStatement::bind`].
fn text(
    t: &str,
    token: &str,
    (counts, accounted): (&Counts, bool),
    dialect: &Dialect,
    starts: usize,
    ends: usize,
) -> String {
    let Dialect { now, id_index, .. } = dialect;
    let of_id = |rows: usize, otherwise: &str| match rows {
        0 => otherwise.to_owned(),
        rows => format!(
            "CASE `id`{} ELSE {otherwise} END",
            " WHEN ? THEN ?".repeat(rows)
        ),
    };
    let either = |start: &str, end: &str| match (starts, ends) {
        (_, 0) => start.to_owned(),
        (0, _) => end.to_owned(),
        _ => format!("CASE WHEN `status` = 'accepted' THEN {start} ELSE {end} END"),
    };
    let mut set = Vec::new();
    if ends > 0 {
        let outcome = ["`result`", "`return_code`", "`sig`", "`stdout`", "`stderr`"];
        let reason = counts.reasons.then_some("`reason`");
        let usage = USAGE.map(|column| format!("`{column}`"));
        let usage = usage.iter().map(String::as_str).filter(|_| accounted);
        let outcome = outcome.into_iter().chain(reason).chain(usage);
        set.extend(outcome.map(|column| format!("{column} = {}", of_id(ends, column))));
        let ended = format!("{now} - {}", of_id(ends, "0"));
        set.push(format!(
            "`time_finished` = {}",
            either("`time_finished`", &ended)
        ));
    }
    if starts > 0 {
        set.push(format!(
            "`time_started` = {}",
            either(now, "`time_started`")
        ));
    }
    if counts.owned {
        set.push(format!("`attempts` = `attempts` + {}", either("1", "0")));
        set.push(format!("`lease_until` = {}", either(&counts.lease, "NULL")));
    }
    // Last: MySQL assigns from left to right, and what stands before asks for the old status.
    set.push(format!("`status` = {}", either("'running'", "'done'")));

    let ids = vec!["?"; starts + ends].join(",");
    // By pairs, because only a plain value takes on the column's character set.
    let claim = format!("`{token}` = ?");
    let of_claim = |rows, claim: &str| {
        let pair = format!("(`id` = ? AND {claim})");
        vec![pair; rows].join(" OR ")
    };
    let mut guards = Vec::new();
    if starts > 0 {
        guards.push(format!(
            "({} AND ({}))",
            guard!("start-without-status", "`status` = 'accepted'", "1 = 1"),
            of_claim(starts, &claim)
        ));
    }
    if ends > 0 {
        guards.push(format!(
            "({} AND ({}))",
            guard!("finish-without-status", counts.unfinished, "1 = 1"),
            of_claim(ends, &guard!("finish-without-token", claim, "? <> ''"))
        ));
    }
    format!(
        "UPDATE {t} {id_index} SET {} WHERE `id` IN ({ids}) AND ({})",
        set.join(", "),
        guards.join(" OR ")
    )
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use jobd_proto::{JobId, JobResult, TargetName};

    use super::*;
    use crate::job::{Origin, Terms, Tokens};
    use crate::launcher::Usage;
    use crate::store::text::PACKET_RESERVE;

    #[test]
    fn what_goes_with_a_large_end_fits_beside_it_in_a_packet() {
        let statement = AdvanceStatement {
            texts: std::array::from_fn(|_| std::array::from_fn(|_| "".into())),
            reasons: true,
            bounds: Bounds {
                codes: (0, 127),
                usage: Some([(0, i64::MAX); 2]),
            },
        };
        let long = "x".repeat(64);
        let job = Job {
            id: JobId(u64::MAX >> 1),
            target: TargetName::new("t").unwrap(),
            origin: Origin::Manual,
            token: Tokens::new(&long, &long, u64::MAX).next(Origin::Manual),
            attempt: 1,
            interruptions: 0,
            again: false,
            terms: Terms::default(),
        };
        let end = Finish {
            job: job.clone(),
            result: JobResult::Fail,
            code: None,
            signal: Some("SIGRTMAX".to_owned()),
            reason: Some(Reason::Exit),
            again: None,
            usage: Some(Usage {
                cpu_ms: 1,
                peak_kib: 1,
            }),
            stdout: "x".repeat(16 << 20),
            stderr: String::new(),
            ended: Instant::now(),
        };
        let batch = Batch {
            starts: vec![job; MAX_ROWS],
            finishes: vec![end.clone(), end],
            ..Batch::default()
        };
        let parts = Advance::all(&batch);
        let largest = parts.iter().max_by_key(|part| part.starts.len()).unwrap();
        assert_eq!((largest.starts.len(), largest.finishes.len()), (64, 1));
        let (_, values) = statement.bind(*largest);
        // Two bytes of type, and at most nine of length before a text.
        let bytes = values.iter().map(|value| match value {
            Value::Text(text) | Value::MaybeText(Some(text)) => 11 + text.len(),
            Value::Bytes(bytes) => 11 + bytes.len(),
            Value::Number(_) | Value::MaybeNumber(_) | Value::MaybeText(None) => 11,
        });
        let beside = bytes.sum::<usize>() - (16 << 20);
        assert!(beside as u64 + 256 <= PACKET_RESERVE, "{beside}");
    }
}
