//! One connection to the job table's database, in the session state that every statement of jobd
//! and `jobctl` expects. No pool, no retries: whoever holds a connection decides what its loss means.

use std::str::FromStr as _;

use sqlx::mysql::{MySqlConnectOptions, MySqlConnection, MySqlSslMode};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Connection as _};

use super::settings::{MySqlAddress, MySqlSettings, SqliteSettings, Tls};

/// Distinct statements kept prepared on a connection. More than this many texts in use would cost
/// a round trip and, without TCP_NODELAY in the driver, up to 44 ms each.
const STATEMENT_CACHE: usize = 256;

/// How long SQLite waits for another process's write before `database is locked`.
const SQLITE_BUSY: std::time::Duration = std::time::Duration::from_secs(5);

/// Connects to the server, resolving its name anew. Errors name the server.
///
/// With `mysql_tls = preferred` a failed TLS handshake is followed by one try in plain text: old
/// servers speak only TLS versions that are refused today. The session keeps the server's
/// `sql_mode` and time zone; text goes both ways as `utf8mb4`.
pub async fn connect_mysql(settings: &MySqlSettings) -> Result<MySqlConnection, sqlx::Error> {
    let options = mysql_options(settings);
    let connected = match options.connect().await {
        Err(error) if settings.tls == Tls::Preferred && is_handshake(&error) => {
            warn_of_plain_text(&error);
            options.ssl_mode(MySqlSslMode::Disabled).connect().await
        }
        other => other,
    };
    connected.map_err(|error| named(error, &settings.address))
}

/// Whether a TLS handshake may have failed. Servers refuse with an alert, which arrives as invalid
/// data, or just hang up; a server that is not there says so otherwise.
fn is_handshake(error: &sqlx::Error) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionReset, InvalidData, UnexpectedEof};
    match error {
        sqlx::Error::Tls(_) => true,
        sqlx::Error::Io(error) => {
            matches!(
                error.kind(),
                InvalidData | UnexpectedEof | ConnectionReset | BrokenPipe
            )
        }
        _ => false,
    }
}

/// Once a process: connections are made again and again.
fn warn_of_plain_text(error: &sqlx::Error) {
    static WARNED: std::sync::Once = std::sync::Once::new();
    WARNED.call_once(|| {
        tracing::warn!(%error, "TLS handshake with the database failed, going on in plain text; mysql_tls = off avoids the try");
    });
}

/// Input and output errors do not say whom they are about.
fn named(error: sqlx::Error, address: &MySqlAddress) -> sqlx::Error {
    match error {
        sqlx::Error::Io(error) => sqlx::Error::Io(std::io::Error::new(
            error.kind(),
            format!("{address}: {error}"),
        )),
        other => other,
    }
}

fn mysql_options(settings: &MySqlSettings) -> MySqlConnectOptions {
    let mut options = MySqlConnectOptions::new()
        .username(&settings.user)
        .database(&settings.database)
        .charset("utf8mb4")
        .statement_cache_capacity(STATEMENT_CACHE)
        .timezone(None)
        .pipes_as_concat(false)
        .no_engine_substitution(false)
        .ssl_mode(match settings.tls {
            Tls::Off => MySqlSslMode::Disabled,
            Tls::Preferred => MySqlSslMode::Preferred,
            Tls::Required => MySqlSslMode::Required,
        });
    if let Some(password) = &settings.password {
        options = options.password(password.expose());
    }
    options = match &settings.address {
        MySqlAddress::Tcp { host, port } => options.host(host).port(*port),
        // Encrypted like any other: over a plain socket the driver would send a password that is not in the
        // server's cache in a form (RSA) that MySQL 8 does not expect there.
        MySqlAddress::Socket(path) => options.socket(path),
    };
    options.disable_statement_logging()
}

/// Opens the SQLite file, which must exist, in WAL mode with every commit synced.
pub async fn connect_sqlite(settings: &SqliteSettings) -> Result<SqliteConnection, sqlx::Error> {
    let options = SqliteConnectOptions::from_str("sqlite:")?
        .filename(&settings.path)
        .create_if_missing(false)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(SQLITE_BUSY)
        .disable_statement_logging();
    SqliteConnection::connect_with(&options).await
}
