//! Creates the job table for somebody who starts from nothing. An existing table is never touched.

use std::fs::File;

use sqlx::AssertSqlSafe;

use super::settings::DatabaseSettings;
use super::{Patience, RowError, connect_mysql, connect_sqlite};

const MYSQL: &str = include_str!("../../../sql/mysql/jobs-minimal.sql");
const SQLITE: &str = include_str!("../../../sql/sqlite/jobs-minimal.sql");

/// Creates the table that `settings` name, with the columns of `sql/*/jobs-minimal.sql`; on SQLite
/// the file too.
///
/// # Errors
/// The database cannot be reached or refuses, because the table exists most of all.
pub async fn create(settings: &DatabaseSettings, patience: &Patience) -> Result<(), RowError> {
    patience.connecting(Box::pin(create_it(settings))).await
}

async fn create_it(settings: &DatabaseSettings) -> Result<(), RowError> {
    match settings {
        DatabaseSettings::MySql(mysql) => {
            let sql = MYSQL.replace("`jobs`", &mysql.table.quoted());
            let mut connection = connect_mysql(mysql).await?;
            sqlx::raw_sql(AssertSqlSafe(sql))
                .execute(&mut connection)
                .await?;
        }
        DatabaseSettings::Sqlite(sqlite) => {
            let sql = SQLITE.replace("\"jobs\"", &sqlite.table.quoted());
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
