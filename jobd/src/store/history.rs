//! How a job has failed, attempt by attempt, in the column `errors` of its row: written in the transaction that ends the
//! attempt. An end that went well has no part in it.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::Arc;

use jobd_proto::JobId;

use super::connection::{Connection, Value, key};
use super::counts::Counts;
use super::dialect::Dialect;
use super::errors::{self, Failure, MAX_READ};
use super::lists::{ListStatement, MAX_LIST};
use super::refusals::is_about_row;
use crate::faults::planted;

/// A table's statements about it, where it has the column.
#[derive(Clone, Debug)]
pub(super) struct History {
    /// Id, the database's time, the attempt, and how the job has failed so far, of rows that an end may be written to; locks
    /// them.
    read: ListStatement,
    /// Of a row that a claim has or was taken from.
    write: Arc<str>,
}

impl History {
    /// For table `t`, whose claims stand in `token`.
    pub(super) fn new(t: &str, token: &str, counts: &Counts, dialect: &Dialect) -> Self {
        let Dialect {
            now,
            lock,
            id_index,
            ..
        } = dialect;
        let unfinished = counts.unfinished;
        let errors =
            format!("CASE WHEN LENGTH(`errors`) <= {MAX_READ} THEN `errors` ELSE NULL END");
        let texts = ["`id`", *now, "`attempts`", &errors].map(|it| format!("CAST({it} AS CHAR)"));
        let select = texts.join(", ");
        Self {
            read: ListStatement::new(
                &format!("SELECT {select} FROM {t} {id_index} WHERE {unfinished} AND"),
                &format!("ORDER BY {t}.`id` {lock}"),
            ),
            write: format!(
                "UPDATE {t} {id_index} SET `errors` = ? WHERE `id` = ? AND `{token}` = ? AND {unfinished}"
            )
            .into(),
        }
    }

    /// Every text, for EXPLAIN.
    #[cfg(test)]
    pub(super) fn texts(&self) -> impl Iterator<Item = &Arc<str>> {
        self.read.texts().chain([&self.write])
    }

    /// Adds each failure to its row, unless that is no longer its claim's. Once, however often it is repeated.
    /// Not where the database refuses that of the row, which is warned of.
    pub(super) async fn add<C: Connection>(
        &self,
        connection: &mut C,
        failures: impl IntoIterator<Item = Failure<'_>>,
    ) -> Result<(), sqlx::Error> {
        if planted!("failure-that-is-forgotten") {
            return Ok(());
        }
        // By id, as every statement about many rows takes its locks.
        let failures: BTreeMap<JobId, Failure<'_>> =
            failures.into_iter().map(|it| (it.id, it)).collect();
        let ids: Vec<JobId> = failures.keys().copied().collect();
        for ids in ids.chunks(MAX_LIST) {
            let (sql, keys) = self.read.for_ids(ids);
            for [id, now, attempt, before] in connection.texts(&sql, &keys).await? {
                if let Some(failure) = failures.get(&JobId(number(id))) {
                    let of = (number(attempt), number(now));
                    let text = errors::with(before.as_deref(), of, failure);
                    self.write(connection, failure, &text).await?;
                }
            }
        }
        Ok(())
    }

    async fn write<C: Connection>(
        &self,
        connection: &mut C,
        Failure { id, token, .. }: &Failure<'_>,
        text: &str,
    ) -> Result<(), sqlx::Error> {
        let values = [
            Value::Text(text),
            Value::Number(key(*id)),
            Value::Text(token),
        ];
        match connection.change(&self.write, &values).await {
            // Its end counts for more: it would keep its slot until somebody has mended that.
            Err(error) if is_about_row(&error) => {
                tracing::warn!(job = %id, %error, "the database refuses to let a row's `errors` be written, going on without: mend the trigger or CHECK that refuses it");
                Ok(())
            }
            changed => changed.map(drop),
        }
    }
}

/// As the database has written it.
fn number<T: FromStr + Default>(text: Option<String>) -> T {
    text.and_then(|text| text.parse().ok()).unwrap_or_default()
}
