//! How a job has failed, attempt by attempt, in the column `errors` of its row: written in the transaction that ends the
//! attempt. An end that went well has no part in it.

use std::str::FromStr;
use std::sync::Arc;

use jobd_proto::JobId;

use super::connection::{Connection, Value, key};
use super::counts::Counts;
use super::dialect::Dialect;
use super::errors::{self, Failure, MAX_READ};
use super::refusals::is_about_row;
use crate::faults::planted;

/// A table's statements about it, where it has the column.
#[derive(Clone, Debug)]
pub(super) struct History {
    /// The database's time, the attempt, and how the job has failed so far, of a row that a claim has or was taken from;
    /// locks it.
    read: Arc<str>,
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
        let ours = format!("`id` = ? AND `{token}` = ? AND {}", counts.unfinished);
        let errors =
            format!("CASE WHEN LENGTH(`errors`) <= {MAX_READ} THEN `errors` ELSE NULL END");
        let texts = [*now, "`attempts`", &errors].map(|it| format!("CAST({it} AS CHAR)"));
        Self {
            read: format!(
                "SELECT {} FROM {t} {id_index} WHERE {ours} {lock}",
                texts.join(", ")
            )
            .into(),
            write: format!("UPDATE {t} {id_index} SET `errors` = ? WHERE {ours}").into(),
        }
    }

    /// Every text, for EXPLAIN.
    #[cfg(test)]
    pub(super) fn texts(&self) -> [&Arc<str>; 2] {
        [&self.read, &self.write]
    }

    /// Adds the attempt that `token` names, unless the row is no longer its own. Once, however often it is repeated.
    /// Not where the database refuses that of the row, which is warned of.
    pub(super) async fn add<C: Connection>(
        &self,
        connection: &mut C,
        id: JobId,
        token: &str,
        failure: &Failure<'_>,
    ) -> Result<(), sqlx::Error> {
        if planted!("failure-that-is-forgotten") {
            return Ok(());
        }
        let ours = [Value::Number(key(id)), Value::Text(token)];
        let found = connection.texts(&self.read, &ours).await?;
        let Some([now, attempt, before]) = found.into_iter().next() else {
            return Ok(());
        };
        let of = (number(attempt), number(now), token);
        let text = errors::with(before.as_deref(), of, failure);
        let values = [&[Value::Text(&text)], &ours[..]].concat();
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
