//! What the units of work need of a database connection. Knows no table and no job.

use std::sync::Arc;

use jobd_proto::JobId;
use sqlx::mysql::MySqlConnection;
use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, Row as _};

use super::manual::Found;
use crate::leases::Lease;

/// A value to bind.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value<'a> {
    Number(i64),
    MaybeNumber(Option<i64>),
    Text(&'a str),
    MaybeText(Option<&'a str>),
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

    /// Rows of as many numbers each.
    fn numbers_of<const N: usize>(
        &mut self,
        sql: &Arc<str>,
        values: &[Value<'_>],
    ) -> impl Future<Output = Result<Vec<[i64; N]>, sqlx::Error>> + Send;

    /// Every claimed row with a lease.
    fn leases(
        &mut self,
        sql: &Arc<str>,
        values: &[Value<'_>],
    ) -> impl Future<Output = Result<Vec<Lease>, sqlx::Error>> + Send;

    /// Rows of id, status, target and attempt.
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
            },
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

            async fn numbers_of<const N: usize>(
                &mut self,
                sql: &Arc<str>,
                values: &[Value<'_>],
            ) -> Result<Vec<[i64; N]>, sqlx::Error> {
                let rows = bound!(sql, values).fetch_all(self).await?;
                let numbers = rows.iter().map(|row| {
                    let mut numbers = [0; N];
                    for (at, number) in numbers.iter_mut().enumerate() {
                        *number = row.try_get(at)?;
                    }
                    Ok(numbers)
                });
                numbers.collect()
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
                        status: row.try_get(1)?,
                        worker: row.try_get(2)?,
                        until: row.try_get(3)?,
                        again: row.try_get::<i64, _>(4)? != 0,
                    })
                });
                leases.collect()
            }

            async fn rows(
                &mut self,
                sql: &Arc<str>,
                values: &[Value<'_>],
            ) -> Result<Vec<Found>, sqlx::Error> {
                let rows = bound!(sql, values).fetch_all(self).await?;
                let found = rows.iter().map(|row| {
                    Ok(Found {
                        id: id(row.try_get(0)?),
                        status: row.try_get(1)?,
                        target: row.try_get(2)?,
                        attempt: attempt(row.try_get(3)?),
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

/// The number of an attempt as the drivers read it.
pub(super) fn attempt(number: i64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
