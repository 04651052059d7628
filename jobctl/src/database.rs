//! Opens the job table of the config, and says what to do where it cannot. No statements here.

use jobd_proto::table::{Connection, DatabaseSettings, RowError};

use crate::failure::Failure;
use crate::settings::Settings;

/// SQLITE_CANTOPEN: no such file, or no right to it.
const SQLITE_CANNOT_OPEN: &str = "14";

/// Opens the table that the config names; without one that is a mistake of usage.
pub(crate) async fn open(settings: &Settings) -> Result<Connection, Failure> {
    let Some(database) = &settings.database else {
        let config = settings.config.display();
        return Err(Failure::Usage(format!(
            "this needs the job table: put mysql_host, mysql_user, mysql_password, mysql_database and mysql_table, or sqlite_path, into {config}"
        )));
    };
    Connection::open(database)
        .await
        .map_err(|error| failure(database, &error))
}

/// What went wrong with the table, as a person is told.
pub(crate) fn failure(database: &DatabaseSettings, error: &RowError) -> Failure {
    let place = place(database);
    let RowError::Database(cause) = error else {
        return Failure::Refused(error.to_string());
    };
    match cause {
        sqlx::Error::Database(answer) if answer.code().as_deref() == Some(SQLITE_CANNOT_OPEN) => {
            Failure::Unreachable(format!(
                "cannot open {place}: {}; create it with sqlite3 FILE < sql/sqlite/jobs-minimal.sql",
                answer.message()
            ))
        }
        sqlx::Error::Database(answer) => {
            Failure::Refused(format!("{place} refused: {}", answer.message()))
        }
        other => Failure::Unreachable(format!("cannot reach {place}: {other}")),
    }
}

fn place(database: &DatabaseSettings) -> String {
    use jobd_proto::table::MySqlAddress::{Socket, Tcp};
    match database {
        DatabaseSettings::Sqlite(sqlite) => format!("SQLite file {}", sqlite.path.display()),
        DatabaseSettings::MySql(mysql) => match &mysql.address {
            Tcp { host, port } => format!("database {} at {host}:{port}", mysql.database),
            Socket(path) => format!("database {} at {}", mysql.database, path.display()),
        },
    }
}
