//! Creates the job table for somebody who starts from nothing. An existing table is never touched.

use std::fs::File;

use sqlx::AssertSqlSafe;

use super::settings::DatabaseSettings;
use super::{Patience, RowError, connect_mysql, connect_sqlite};

/// Which columns a table has from the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schema {
    /// What jobd needs: `sql/*/jobs-minimal.sql`.
    Minimal,
    /// Those of every ability: `sql/*/jobs.sql`.
    Full,
}

impl Schema {
    /// The statements that create the table `jobs` where `settings` lead.
    pub fn sql(self, settings: &DatabaseSettings) -> &'static str {
        match (self, settings) {
            (Self::Minimal, DatabaseSettings::MySql(_)) => {
                include_str!("../../../sql/mysql/jobs-minimal.sql")
            }
            (Self::Full, DatabaseSettings::MySql(_)) => {
                include_str!("../../../sql/mysql/jobs.sql")
            }
            (Self::Minimal, DatabaseSettings::Sqlite(_)) => {
                include_str!("../../../sql/sqlite/jobs-minimal.sql")
            }
            (Self::Full, DatabaseSettings::Sqlite(_)) => {
                include_str!("../../../sql/sqlite/jobs.sql")
            }
        }
    }
}

/// Creates the table that `settings` name, on SQLite the file too.
///
/// # Errors
/// The database cannot be reached or refuses, because the table exists most of all.
pub async fn create(
    settings: &DatabaseSettings,
    schema: Schema,
    patience: &Patience,
) -> Result<(), RowError> {
    let created = create_it(settings, schema.sql(settings));
    patience.connecting(Box::pin(created)).await
}

async fn create_it(settings: &DatabaseSettings, sql: &str) -> Result<(), RowError> {
    match settings {
        DatabaseSettings::MySql(mysql) => {
            let sql = sql.replace("`jobs`", &mysql.table.quoted());
            let mut connection = connect_mysql(mysql).await?;
            sqlx::raw_sql(AssertSqlSafe(sql))
                .execute(&mut connection)
                .await?;
        }
        DatabaseSettings::Sqlite(sqlite) => {
            let sql = sql.replace("\"jobs\"", &sqlite.table.quoted());
            // An empty file is an empty database; one with content stays as it is.
            let file = File::options().create(true).append(true).open(&sqlite.path);
            file.map_err(sqlx::Error::Io)?;
            let mut connection = connect_sqlite(sqlite).await?;
            sqlx::raw_sql(AssertSqlSafe(sql))
                .execute(&mut connection)
                .await?;
        }
    }
    Ok(())
}
