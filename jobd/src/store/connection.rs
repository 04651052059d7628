//! What the units of work need of a database connection. Knows no table and no job.

use std::sync::Arc;
use std::time::Duration;

use jobd_proto::table::Cell;
use jobd_proto::{JobId, TargetName};
use sqlx::mysql::MySqlConnection;
use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, Row as _};

use super::Abilities;
use super::manual::Found;
use crate::job::{ClaimToken, Job, Terms};
use crate::leases::Lease;

/// A value to bind.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value<'a> {
    Number(i64),
    MaybeNumber(Option<i64>),
    Text(&'a str),
    MaybeText(Option<&'a str>),
    Bytes(&'a [u8]),
}

/// What a claim reads of a row: id, attempts, interruptions, max_attempts, timeout, whether there is data, whether it
/// is to be cancelled, priority.
#[derive(Clone, Debug)]
pub(super) struct Taken {
    pub(super) id: JobId,
    /// How often it was started.
    attempts: u32,
    /// How often we cut it short.
    interruptions: u32,
    /// How often it may run, interruptions aside.
    max_attempts: Option<u32>,
    terms: Terms,
}

impl Taken {
    /// How many columns that is.
    pub(super) const COLUMNS: usize = 8;

    /// `numbers`: attempts, interruptions, whether there is data, whether it is to be cancelled, priority; `maybe`:
    /// max_attempts, timeout in seconds.
    pub(super) fn new(key: i64, numbers: [i64; 5], maybe: [Option<i64>; 2]) -> Self {
        let [attempts, interruptions, data, cancel, priority] = numbers;
        let [max_attempts, timeout] = maybe;
        Self {
            id: id(key),
            attempts: count(attempts),
            interruptions: count(interruptions),
            max_attempts: max_attempts.map(count),
            terms: Terms {
                timeout: timeout.map(|seconds| Duration::from_secs(count(seconds).into())),
                has_data: data != 0,
                cancel: cancel != 0,
                priority,
                ..Terms::default()
            },
        }
    }

    /// The job of this row, claimed with `token` for `target` from a table with `abilities`. `most` is how often it may run
    /// if the row does not say so.
    pub(super) fn job(
        self,
        target: &TargetName,
        token: &ClaimToken,
        most: u32,
        abilities: Abilities,
    ) -> Job {
        let origin = token.origin();
        let most = self.max_attempts.unwrap_or(most);
        let attempt = self.attempts.saturating_add(1);
        Job {
            id: self.id,
            target: target.clone(),
            origin,
            token: token.clone(),
            attempt,
            interruptions: self.interruptions,
            // For a manual job a client waits: nobody starts it again by himself. Interruptions do not count, and
            // rescuers reckon in the same way.
            again: !origin.is_manual() && most.saturating_add(self.interruptions) > attempt,
            terms: Terms {
                abilities,
                ..self.terms
            },
        }
    }
}

/// One connection to a database. Its futures must be run to their end, or the connection given up.
pub(super) trait Connection: Send + 'static {
    /// A statement without values or rows, such as BEGIN, which cannot be prepared everywhere.
    fn control(
        &mut self,
        sql: &'static str,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// An UPDATE; returns how many rows its WHERE matched.
    fn change(
        &mut self,
        sql: &Arc<str>,
        values: &[Value<'_>],
    ) -> impl Future<Output = Result<u64, sqlx::Error>> + Send;

    /// The first column of a SELECT.
    fn numbers(
        &mut self,
        sql: &Arc<str>,
        values: &[Value<'_>],
    ) -> impl Future<Output = Result<Vec<i64>, sqlx::Error>> + Send;

    /// The first column of the first row of a SELECT, as bytes; `None` without a row, or without a value in it.
    fn bytes(
        &mut self,
        sql: &Arc<str>,
        values: &[Value<'_>],
    ) -> impl Future<Output = Result<Option<Vec<u8>>, sqlx::Error>> + Send;

    /// Rows of what a claim reads.
    fn taken(
        &mut self,
        sql: &Arc<str>,
        values: &[Value<'_>],
    ) -> impl Future<Output = Result<Vec<Taken>, sqlx::Error>> + Send;

    /// Rows of a number and a text.
    fn notes(
        &mut self,
        sql: &Arc<str>,
        values: &[Value<'_>],
    ) -> impl Future<Output = Result<Vec<(i64, Option<String>)>, sqlx::Error>> + Send;

    /// Every claimed row with a lease.
    fn leases(
        &mut self,
        sql: &Arc<str>,
        values: &[Value<'_>],
    ) -> impl Future<Output = Result<Vec<Lease>, sqlx::Error>> + Send;

    /// Rows of as many texts each, NULLs among them.
    fn texts<const N: usize>(
        &mut self,
        sql: &Arc<str>,
        values: &[Value<'_>],
    ) -> impl Future<Output = Result<Vec<[Option<String>; N]>, sqlx::Error>> + Send;

    /// Rows of what a manual claim reads: what every claim reads, status and target.
    fn rows(
        &mut self,
        sql: &Arc<str>,
        values: &[Value<'_>],
    ) -> impl Future<Output = Result<Vec<Found>, sqlx::Error>> + Send;
}

macro_rules! bound {
    ($sql:expr, $values:expr) => {
        $values.iter().fold(
            sqlx::query(AssertSqlSafe($sql.clone())),
            |query, value| match *value {
                Value::Number(number) => query.bind(number),
                Value::MaybeNumber(number) => query.bind(number),
                Value::Text(text) => query.bind(text),
                Value::MaybeText(text) => query.bind(text),
                Value::Bytes(bytes) => query.bind(bytes),
            },
        )
    };
}

/// Whatever the column's type is: text is bytes too.
macro_rules! bytes {
    ($row:expr, $at:expr) => {
        $row.try_get_unchecked::<Option<Vec<u8>>, _>($at)
    };
}

/// SQLite takes any bytes for a text. What is no UTF-8 must be no error, or the row would stop those that are read with it.
macro_rules! text {
    ($row:expr, $at:expr) => {
        bytes!($row, $at)?.map(|bytes| String::from(Cell::from(bytes)))
    };
}

/// See [`Taken`].
macro_rules! taken {
    ($row:expr) => {
        Taken::new(
            $row.try_get(0)?,
            [
                $row.try_get(1)?,
                $row.try_get(2)?,
                $row.try_get(5)?,
                $row.try_get(6)?,
                $row.try_get(7)?,
            ],
            [$row.try_get(3)?, $row.try_get(4)?],
        )
    };
}

/// The same few lines for each driver: the one that serves both cannot decode these columns.
macro_rules! connection {
    ($connection:ty) => {
        impl Connection for $connection {
            async fn control(&mut self, sql: &'static str) -> Result<(), sqlx::Error> {
                sqlx::raw_sql(sql).execute(self).await.map(|_| ())
            }

            async fn change(
                &mut self,
                sql: &Arc<str>,
                values: &[Value<'_>],
            ) -> Result<u64, sqlx::Error> {
                bound!(sql, values)
                    .execute(self)
                    .await
                    .map(|done| done.rows_affected())
            }

            async fn numbers(
                &mut self,
                sql: &Arc<str>,
                values: &[Value<'_>],
            ) -> Result<Vec<i64>, sqlx::Error> {
                let rows = bound!(sql, values).fetch_all(self).await?;
                rows.iter().map(|row| row.try_get(0)).collect()
            }

            async fn bytes(
                &mut self,
                sql: &Arc<str>,
                values: &[Value<'_>],
            ) -> Result<Option<Vec<u8>>, sqlx::Error> {
                let rows = bound!(sql, values).fetch_all(self).await?;
                let first = rows.first().map(|row| bytes!(row, 0));
                Ok(first.transpose()?.flatten())
            }

            async fn taken(
                &mut self,
                sql: &Arc<str>,
                values: &[Value<'_>],
            ) -> Result<Vec<Taken>, sqlx::Error> {
                let rows = bound!(sql, values).fetch_all(self).await?;
                rows.iter().map(|row| Ok(taken!(row))).collect()
            }

            async fn notes(
                &mut self,
                sql: &Arc<str>,
                values: &[Value<'_>],
            ) -> Result<Vec<(i64, Option<String>)>, sqlx::Error> {
                let rows = bound!(sql, values).fetch_all(self).await?;
                let notes = rows.iter();
                notes
                    .map(|row| Ok((row.try_get(0)?, text!(row, 1))))
                    .collect()
            }

            async fn leases(
                &mut self,
                sql: &Arc<str>,
                values: &[Value<'_>],
            ) -> Result<Vec<Lease>, sqlx::Error> {
                let rows = bound!(sql, values).fetch_all(self).await?;
                let leases = rows.iter().map(|row| {
                    Ok(Lease {
                        id: id(row.try_get(0)?),
                        status: text!(row, 1).unwrap_or_default(),
                        worker: text!(row, 2).unwrap_or_default(),
                        until: row.try_get(3)?,
                        again: row.try_get::<i64, _>(4)? != 0,
                    })
                });
                leases.collect()
            }

            async fn texts<const N: usize>(
                &mut self,
                sql: &Arc<str>,
                values: &[Value<'_>],
            ) -> Result<Vec<[Option<String>; N]>, sqlx::Error> {
                let rows = bound!(sql, values).fetch_all(self).await?;
                let texts = rows.iter().map(|row| {
                    let mut texts = [const { None }; N];
                    for (at, text) in texts.iter_mut().enumerate() {
                        *text = text!(row, at);
                    }
                    Ok(texts)
                });
                texts.collect()
            }

            async fn rows(
                &mut self,
                sql: &Arc<str>,
                values: &[Value<'_>],
            ) -> Result<Vec<Found>, sqlx::Error> {
                let rows = bound!(sql, values).fetch_all(self).await?;
                let found = rows.iter().map(|row| {
                    Ok(Found {
                        row: taken!(row),
                        status: text!(row, Taken::COLUMNS).unwrap_or_default(),
                        target: text!(row, Taken::COLUMNS + 1).unwrap_or_default(),
                    })
                });
                found.collect()
            }
        }
    };
}

connection!(MySqlConnection);
connection!(SqliteConnection);

/// An id as the drivers bind it: every id that a table can hold is a signed 64-bit number.
pub(super) fn key(id: JobId) -> i64 {
    i64::try_from(id.0).unwrap_or(i64::MAX)
}

/// An id as the drivers read it. A negative one would be a row that no application can name.
pub(super) fn id(key: i64) -> JobId {
    JobId(u64::try_from(key).unwrap_or_default())
}

/// A count as the drivers read it.
fn count(number: i64) -> u32 {
    u32::try_from(number.max(0)).unwrap_or(u32::MAX)
}
