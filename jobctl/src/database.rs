//! Opens the job table of the config, and says what to do where it cannot. No statements here.

use std::path::Path;

use jobd_proto::table::{Connection, DatabaseSettings, Patience, RowError};
use sqlx::mysql::MySqlDatabaseError;

use crate::failure::Failure;
use crate::given::Given;
use crate::output::waiting_for;
use crate::settings::Settings;

/// SQLITE_ERROR: of statements that are right elsewhere it means a column that is not there.
const SQLITE_NO_COLUMN: &str = "1";

/// SQLITE_CANTOPEN: no such file, or no right to it.
const SQLITE_CANNOT_OPEN: &str = "14";

/// The database of the config.
#[derive(Clone, Debug)]
pub(crate) struct Database {
    pub(crate) settings: DatabaseSettings,
    pub(crate) given: Given,
}

/// The database of the config; without one that is a mistake of usage.
pub(crate) fn settings(settings: &Settings) -> Result<&Database, Failure> {
    settings.database.as_ref().ok_or_else(|| {
        Failure::Usage(format!(
            "this needs the job table: put mysql_host, mysql_user, mysql_password, mysql_database and mysql_table, or sqlite_path, into {}",
            settings.config.display()
        ))
    })
}

/// Opens the table.
pub(crate) async fn open(database: &Database) -> Result<Connection, Failure> {
    let opened = try_open(database).await;
    opened.map_err(|error| failure(database, &error))
}

/// The same for those who look at why it cannot be opened.
pub(crate) async fn try_open(database: &Database) -> Result<Connection, RowError> {
    Connection::open(&database.settings, patience(database)).await
}

/// Names the database on the terminal while it is waited for.
pub(crate) fn patience(database: &Database) -> Patience {
    let waited = format!("{} to answer", place(database));
    Patience::telling(move || Box::new(waiting_for(&waited)))
}

/// What went wrong with the table, as a person is told.
pub(crate) fn failure(database: &Database, error: &RowError) -> Failure {
    let (place, jobctl) = (place(database), database.given.same());
    if let RowError::NoTable(_) = error {
        return Failure::Refused(format!(
            "{place}: {error}; {jobctl} create-table creates it"
        ));
    }
    let cause = match error {
        RowError::Database(cause) => cause,
        RowError::NoAnswer(_) => {
            return Failure::Unreachable(format!(
                "{place}: {error}; is it stopped, overloaded or locked? SHOW PROCESSLIST there may tell"
            ));
        }
        _ => return Failure::Refused(error.to_string()),
    };
    match cause {
        sqlx::Error::Database(answer) if answer.code().as_deref() == Some(SQLITE_CANNOT_OPEN) => {
            let advice = match no_folder(database) {
                Some(folder) => format!("there is no {}", folder.display()),
                None => format!("{jobctl} create-table creates it"),
            };
            Failure::Unreachable(format!(
                "cannot open {place}: {}; {advice}",
                answer.message()
            ))
        }
        sqlx::Error::Database(answer) => {
            let said = answer.message();
            Failure::Refused(if said.ends_with("already exists") {
                let table = match &database.settings {
                    DatabaseSettings::MySql(mysql) => &mysql.table,
                    DatabaseSettings::Sqlite(sqlite) => &sqlite.table,
                };
                format!(
                    "{place}: table {table} already exists; it is left as it is, {jobctl} doctor looks at it"
                )
            } else {
                let advice = advice(said).map_or_else(String::new, |advice| format!("; {advice}"));
                format!("{place} refused: {said}{advice}")
            })
        }
        other => {
            let advice = match database.settings {
                DatabaseSettings::MySql(_) => {
                    "; is it running? look at mysql_host and mysql_port in the config"
                }
                DatabaseSettings::Sqlite(_) => "",
            };
            Failure::Unreachable(format!("cannot reach {place}: {other}{advice}"))
        }
    }
}

/// What makes a table readable that could not be opened or read; `config` is the file that names it.
pub(crate) fn mend(database: &Database, error: &RowError, config: &Path) -> String {
    let jobctl = database.given.same();
    let config = config.display();
    let create_table = format!("{jobctl} create-table # if it is not there");
    let add_columns = "add the columns that are missing".to_owned();
    let answer = match error {
        RowError::NoTable(_) => return create_table,
        RowError::NoAnswer(_) => {
            return "look at the load of its host and at what holds locks there".to_owned();
        }
        RowError::Unreadable(..) => {
            return "find the row that holds this, and write into it what belongs there".to_owned();
        }
        RowError::Database(sqlx::Error::Database(answer)) => Some(answer),
        _ => None,
    };
    match &database.settings {
        DatabaseSettings::Sqlite(sqlite) => {
            let file = sqlite.path.display();
            let code = answer.and_then(|answer| answer.code());
            match code.as_deref() {
                Some(SQLITE_NO_COLUMN) => add_columns,
                Some(SQLITE_CANNOT_OPEN) if no_folder(database).is_some() => {
                    format!("mend sqlite_path in {config}")
                }
                Some(SQLITE_CANNOT_OPEN) => {
                    format!("{create_table}; else look at the rights on the file and its folder")
                }
                _ => format!(
                    "see that {file} is a sound database that nobody else holds locked, on a disk that works"
                ),
            }
        }
        DatabaseSettings::MySql(_) => {
            let answer = answer.and_then(|answer| answer.try_downcast_ref::<MySqlDatabaseError>());
            match answer.map(MySqlDatabaseError::number) {
                // Unknown column.
                Some(1054) => add_columns,
                // Too many connections: of all, of this account, of this account in an hour.
                Some(1040 | 1203 | 1226) => "wait until fewer clients are connected, or raise max_connections of the server, or the limit of this account".to_owned(),
                // This host is blocked.
                Some(1129) => "unblock this host there in the way that the server names: too many of its connections broke off".to_owned(),
                // No right to the database, to log in, from this host, to the table or its columns; no such database.
                Some(1044 | 1045 | 1049 | 1130 | 1142 | 1143 | 1698) => format!(
                    "mend mysql_user, mysql_password and mysql_database in {config}, or grant that account SELECT on the table"
                ),
                Some(_) => "look at the log of the database server".to_owned(),
                None => format!("start the database server, or mend mysql_host and mysql_port in {config}"),
            }
        }
    }
}

/// The folder that an SQLite file would be in, if there is none.
fn no_folder(database: &Database) -> Option<&Path> {
    let DatabaseSettings::Sqlite(sqlite) = &database.settings else {
        return None;
    };
    // Of a bare name it is the one that jobctl runs in.
    let folder = sqlite.path.parent()?;
    (!folder.as_os_str().is_empty() && !folder.exists()).then_some(folder)
}

/// What helps against a refusal, where that is known.
fn advice(said: &str) -> Option<&'static str> {
    if said.contains("command denied") {
        Some("the account mysql_user of the config needs a GRANT for that")
    } else if said.starts_with("Access denied") {
        Some(
            "look at mysql_user, mysql_password and mysql_database in the config, and at what that account was granted",
        )
    } else if said.starts_with("Unknown database") {
        Some("look at mysql_database in the config")
    } else if said.starts_with("UNIQUE constraint failed") || said.starts_with("Duplicate entry") {
        Some(
            "such a row is there already: leave out id, which comes by itself, or wait until that job is done",
        )
    } else {
        None
    }
}

/// The database in words.
pub(crate) fn place(database: &Database) -> String {
    use jobd_proto::table::MySqlAddress::{Socket, Tcp};
    match &database.settings {
        DatabaseSettings::Sqlite(sqlite) => format!("SQLite file {}", sqlite.path.display()),
        DatabaseSettings::MySql(mysql) => match &mysql.address {
            Tcp { host, port } => format!("database {} at {host}:{port}", mysql.database),
            Socket(path) => format!("database {} at {}", mysql.database, path.display()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_come_with_the_next_step_where_it_is_known() {
        for (said, names) in [
            (
                "Access denied for user 'a'@'h' (using password: YES)",
                "mysql_password",
            ),
            ("Unknown database 'x'", "mysql_database"),
            ("Duplicate entry '5' for key 'PRIMARY'", "leave out id"),
            (
                "SELECT command denied to user 'a'@'h' for table 'jobs'",
                "GRANT",
            ),
        ] {
            let advice = advice(said).unwrap_or_default();
            assert!(advice.contains(names), "{said}: {advice}");
        }
        assert_eq!(advice("Deadlock found"), None);
    }
}
