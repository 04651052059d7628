//! Where the job table is: the `mysql_*` and `sqlite_*` keys that `jobd` and `jobctl` share.

use std::fmt;
use std::path::PathBuf;

use super::{TableName, name::TableNameError};
use crate::Secret;
use crate::settings::{Key, Reader};

/// The database and table of a config file.
#[derive(Clone, Debug)]
pub enum DatabaseSettings {
    /// `storage = mysql`: MySQL or MariaDB.
    MySql(MySqlSettings),
    /// `storage = sqlite`: one file on this host.
    Sqlite(SqliteSettings),
}

/// How to reach a MySQL or MariaDB server.
#[derive(Clone, Debug)]
pub struct MySqlSettings {
    /// Where the server listens.
    pub address: MySqlAddress,
    /// `mysql_user`.
    pub user: String,
    /// `mysql_password`; absent for an account without one.
    pub password: Option<Secret>,
    /// `mysql_database`, or the database that `mysql_table` names.
    pub database: String,
    /// `mysql_table`.
    pub table: TableName,
    /// `mysql_tls`.
    pub tls: Tls,
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MySqlAddress {
    /// `mysql_host` and `mysql_port`.
    Tcp {
        /// Name or address; resolved again at every connect.
        host: String,
        /// TCP port.
        port: u16,
    },
    /// `mysql_socket`.
    Socket(PathBuf),
}

impl fmt::Display for MySqlAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Socket(path) => path.display().fmt(f),
        }
    }
}

/// `mysql_tls`: whether the connection is encrypted. The server's certificate is not verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tls {
    /// Plain.
    Off,
    /// Encrypted where the server offers it and the handshake succeeds, else plain.
    Preferred,
    /// Encrypted or not at all.
    Required,
}

/// Where the SQLite file is.
#[derive(Clone, Debug)]
pub struct SqliteSettings {
    /// `sqlite_path`.
    pub path: PathBuf,
    /// `sqlite_table`.
    pub table: TableName,
}

/// The keys of [`database`], for the reference and for near matches.
pub const KEYS: &[Key] = &[
    Key {
        name: "storage",
        kind: "`mysql` or `sqlite`",
        default: "`mysql`",
        doc: "What holds the job table. SQLite serves a single host; production means MySQL or MariaDB. A config with `sqlite_path` and no `mysql_*` key means `sqlite`.",
    },
    Key {
        name: "mysql_host",
        kind: "text",
        default: "required without `mysql_socket`",
        doc: "The database server's name or address.",
    },
    Key {
        name: "mysql_port",
        kind: "integer",
        default: "`3306`",
        doc: "The database server's TCP port.",
    },
    Key {
        name: "mysql_socket",
        kind: "path",
        default: "unset",
        doc: "A unix socket to use instead of host and port.",
    },
    Key {
        name: "mysql_user",
        kind: "text",
        default: "required",
        doc: "Database user. A worker needs `SELECT` and `UPDATE` on the table, and so does `jobctl retry`; `jobctl add` and `run` need `INSERT`, `prune` needs `DELETE`.",
    },
    Key {
        name: "mysql_password",
        kind: "text",
        default: "unset",
        doc: "Its password.",
    },
    Key {
        name: "mysql_database",
        kind: "text",
        default: "required unless `mysql_table` names it",
        doc: "Database name.",
    },
    Key {
        name: "mysql_table",
        kind: "text",
        default: "required",
        doc: "Table name, or `database.table`. A name that holds a dot stands in backticks.",
    },
    Key {
        name: "mysql_tls",
        kind: "`off`, `preferred` or `required`",
        default: "`preferred`",
        doc: "Encryption of the database connection. `preferred` goes on in plain text where the server offers no TLS or the handshake fails; `required` does not. The certificate is not verified. MySQL 8 with `off` over a socket refuses an account whose password is not in its cache.",
    },
    Key {
        name: "sqlite_path",
        kind: "path",
        default: "required with `storage = sqlite`",
        doc: "The SQLite file.",
    },
    Key {
        name: "sqlite_table",
        kind: "text",
        default: "`jobs`",
        doc: "Table name in it.",
    },
];

/// Reads the keys. `None` where no key of either storage is there at all (a `jobctl` without a
/// database) or where a mistake was noted in `reader`.
pub fn database(reader: &mut Reader<'_>) -> Option<DatabaseSettings> {
    let sqlite_path = reader.path("sqlite_path");
    let named_mysql = KEYS
        .iter()
        .any(|key| key.name.starts_with("mysql_") && reader.line_of(key.name).is_some());
    let default = if sqlite_path.is_some() && !named_mysql {
        Storage::Sqlite
    } else {
        Storage::MySql
    };
    let wanted = reader.line_of("storage").is_some() || sqlite_path.is_some() || named_mysql;
    match reader.choice(
        "storage",
        &[("mysql", Storage::MySql), ("sqlite", Storage::Sqlite)],
        default,
    ) {
        _ if !wanted => None,
        Storage::MySql => mysql(reader).map(DatabaseSettings::MySql),
        Storage::Sqlite => {
            let Some(path) = sqlite_path else {
                reader.mistake(
                    "sqlite_path",
                    "missing required key sqlite_path: name the SQLite file",
                );
                return None;
            };
            let name = reader
                .text("sqlite_table")
                .unwrap_or_else(|| "jobs".to_owned());
            let table = parsed(reader, "sqlite_table", &name)?;
            Some(DatabaseSettings::Sqlite(SqliteSettings { path, table }))
        }
    }
}

#[derive(Clone, Copy)]
enum Storage {
    MySql,
    Sqlite,
}

fn mysql(reader: &mut Reader<'_>) -> Option<MySqlSettings> {
    let port = reader.integer("mysql_port", 1..=u16::MAX, 3306);
    let host = reader.text("mysql_host");
    let address = match (reader.path("mysql_socket"), host) {
        (Some(socket), _) => MySqlAddress::Socket(socket),
        (None, Some(host)) => MySqlAddress::Tcp { host, port },
        (None, None) => {
            reader.mistake(
                "mysql_host",
                "missing required key mysql_host (or mysql_socket)",
            );
            MySqlAddress::Socket(PathBuf::new())
        }
    };
    let user = reader.required_text("mysql_user");
    let password = reader.secret("mysql_password");
    let tls = reader.choice(
        "mysql_tls",
        &[
            ("off", Tls::Off),
            ("preferred", Tls::Preferred),
            ("required", Tls::Required),
        ],
        Tls::Preferred,
    );
    let database = reader.text("mysql_database");
    let name = reader.required_text("mysql_table");
    if name.is_empty() {
        return None;
    }
    let table = parsed(reader, "mysql_table", &name)?;
    let Some(database) = table.database().map(str::to_owned).or(database) else {
        reader.mistake("mysql_database", "missing required key mysql_database");
        return None;
    };
    Some(MySqlSettings {
        address,
        user,
        password,
        database,
        table,
        tls,
    })
}

fn parsed(reader: &mut Reader<'_>, key: &str, name: &str) -> Option<TableName> {
    TableName::parse(name)
        .map_err(|error: TableNameError| reader.mistake(key, error.to_string()))
        .ok()
}
