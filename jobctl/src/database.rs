//! Opens the job table of the config, and says what to do where it cannot. No statements here.

use jobd_proto::table::{Connection, DatabaseSettings, Patience, RowError};

use crate::failure::Failure;
use crate::given::Given;
use crate::output::waiting_for;
use crate::settings::Settings;

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
    let opened = Connection::open(&database.settings, patience(database)).await;
    opened.map_err(|error| failure(database, &error))
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
            Failure::Unreachable(format!(
                "cannot open {place}: {}; {jobctl} create-table creates it",
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
