//! What an application may change in rows that are done: have them run again, or delete them. Every
//! statement names its rows by id and the state that it expects, so that it locks and changes no
//! other. The daemons do none of this.

use sqlx::{AssertSqlSafe, Connection as _};

use super::columns::Kind;
use super::rows::{Connection, Driver, RowError};
use super::search::ended_before;
use crate::JobId;

/// Rows of one statement: it holds their locks for some milliseconds.
pub const BATCH: usize = 500;

/// What a finished run left in a row, and what a job that is added anew has there.
const RESULTS: [(&str, &str); 17] = [
    ("result", "NULL"),
    ("return_code", "NULL"),
    ("sig", "NULL"),
    ("time_started", "0"),
    ("time_finished", "0"),
    ("stdout", "NULL"),
    ("stderr", "NULL"),
    ("worker", "NULL"),
    ("lease_until", "NULL"),
    ("run_at", "NULL"),
    ("reason", "NULL"),
    ("cancel_requested", "NULL"),
    ("errors", "NULL"),
    ("progress", "NULL"),
    ("cpu_ms", "NULL"),
    ("peak_kib", "NULL"),
    // Attempts never fall, so that each has a number of its own; those made so far do not count.
    ("interruptions", "`attempts`"),
];

impl Connection {
    /// Makes all of `ids` (at most [`BATCH`], each once) `waiting` again, as if they had just been added, with all their
    /// attempts; none of them where one is not done and failed. Returns whether they wait.
    pub async fn retry(&mut self, ids: &[JobId]) -> Result<bool, RowError> {
        let set: Vec<String> = RESULTS
            .iter()
            .filter(|(name, _)| self.columns.has(name))
            .filter(|(_, value)| *value != "`attempts`" || self.columns.has("attempts"))
            .map(|(name, value)| format!("`{name}` = {}", self.fitting(name, value)))
            .collect();
        let sql = format!(
            "UPDATE {} SET `status` = 'waiting', {} WHERE `id` IN ({}) AND `status` = 'done' AND `result` = 'fail'",
            self.quoted,
            set.join(", "),
            list(ids)
        );
        let changed = self.driver.change_all(&sql, ids.len());
        self.patience.statement(changed).await
    }

    /// What stands for `value` in a column that takes no NULL.
    fn fitting(&self, name: &str, value: &'static str) -> &'static str {
        match self.columns.get(name) {
            Some(column) if value == "NULL" && !column.nullable => match column.kind {
                Kind::Integer { .. } => "0",
                _ => "''",
            },
            _ => value,
        }
    }

    /// Asks for the end of those of `ids` (at most [`BATCH`]) that are not over, by the column `cancel_requested`,
    /// which must be there; a worker sees to it. Returns how many.
    pub async fn request_cancel(&mut self, ids: &[JobId]) -> Result<u64, RowError> {
        let sql = format!(
            "UPDATE {} SET `cancel_requested` = 1 WHERE `id` IN ({}) \
             AND `status` IN ('waiting', 'manual', 'scheduled', 'accepted', 'running')",
            self.quoted,
            list(ids)
        );
        self.execute(&sql).await
    }

    /// Deletes those of `ids` (at most [`BATCH`]) that ended before `time`, in seconds since 1970. Returns how many.
    pub async fn delete_ended(&mut self, ids: &[JobId], time: i64) -> Result<u64, RowError> {
        let sql = format!(
            "DELETE FROM {} WHERE `id` IN ({}) AND {}",
            self.quoted,
            list(ids),
            ended_before(time)
        );
        self.execute(&sql).await
    }

    /// The statement that deletes a batch of what ended more than `age_s` seconds ago, for a
    /// scheduler of the database to repeat.
    pub fn prune_sql(&self, age_s: i64, target: Option<&str>, result: Option<&str>) -> String {
        let now = match self.driver {
            Driver::MySql(_) => "UNIX_TIMESTAMP()",
            Driver::Sqlite(_) => "unixepoch()",
        };
        let text = |text: &str| {
            let text = text.replace('\'', "''");
            match self.driver {
                Driver::MySql(_) => format!("'{}'", text.replace('\\', "\\\\")),
                Driver::Sqlite(_) => format!("'{text}'"),
            }
        };
        let ended = format!(
            "`status` IN ('done', 'ignored') AND `time_finished` BETWEEN 1 AND {now} - {age_s}"
        );
        let named = [("target", target), ("result", result)];
        let named = named
            .into_iter()
            .filter_map(|(name, value)| Some(format!("`{name}` = {}", text(value?))));
        let conditions: Vec<String> = std::iter::once(ended).chain(named).collect();
        let conditions = conditions.join(" AND ");
        let table = &self.quoted;
        match self.driver {
            Driver::MySql(_) => {
                format!("DELETE FROM {table} WHERE {conditions} ORDER BY `id` LIMIT {BATCH};")
            }
            Driver::Sqlite(_) => format!(
                "DELETE FROM {table} WHERE `id` IN (SELECT `id` FROM {table} WHERE {conditions} ORDER BY `id` LIMIT {BATCH});"
            ),
        }
    }

    /// The server's clock, in seconds since 1970.
    pub async fn server_time(&mut self) -> Result<i64, RowError> {
        let sql = match self.driver {
            Driver::MySql(_) => "SELECT CAST(UNIX_TIMESTAMP() AS CHAR)",
            Driver::Sqlite(_) => "SELECT CAST(unixepoch() AS TEXT)",
        };
        let row = self.fetch(sql, &[]).await?.into_iter().next();
        let text = row.into_iter().flatten().flatten().next();
        Ok(text.and_then(|text| text.parse().ok()).unwrap_or_default())
    }
}

impl Connection {
    /// Runs a statement in a transaction of its own; returns how many rows it found.
    async fn execute(&mut self, sql: &str) -> Result<u64, RowError> {
        self.patience.statement(self.driver.execute(sql)).await
    }
}

impl Driver {
    async fn execute(&mut self, sql: &str) -> Result<u64, sqlx::Error> {
        let sql = AssertSqlSafe(sql.to_owned());
        Ok(match self {
            Self::MySql(connection) => {
                let query = sqlx::query(sql).persistent(false);
                query.execute(connection).await?.rows_affected()
            }
            Self::Sqlite(connection) => {
                let query = sqlx::query(sql).persistent(false);
                query.execute(connection).await?.rows_affected()
            }
        })
    }

    /// Runs a statement that is to find so many rows, and takes it back where it does not. Returns whether it did.
    async fn change_all(&mut self, sql: &str, rows: usize) -> Result<bool, sqlx::Error> {
        let sql = AssertSqlSafe(sql.to_owned());
        let is_all = |found: u64| usize::try_from(found) == Ok(rows);
        match self {
            Self::MySql(connection) => {
                let mut transaction = connection.begin().await?;
                let query = sqlx::query(sql).persistent(false);
                let done = query.execute(&mut *transaction).await?;
                if !is_all(done.rows_affected()) {
                    return transaction.rollback().await.map(|()| false);
                }
                transaction.commit().await?;
            }
            Self::Sqlite(connection) => {
                let mut transaction = connection.begin().await?;
                let query = sqlx::query(sql).persistent(false);
                let done = query.execute(&mut *transaction).await?;
                if !is_all(done.rows_affected()) {
                    return transaction.rollback().await.map(|()| false);
                }
                transaction.commit().await?;
            }
        }
        Ok(true)
    }
}

fn list(ids: &[JobId]) -> String {
    let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
    ids.join(",")
}
