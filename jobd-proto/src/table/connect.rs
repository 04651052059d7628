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

/// Connects to the server, resolving its name anew.
///
/// With `mysql_tls = preferred` a failed TLS handshake is followed by one try in plain text: old
/// servers speak only TLS versions that are refused today. The session keeps the server's
/// `sql_mode` and time zone; text goes both ways as `utf8mb4`.
pub async fn connect_mysql(settings: &MySqlSettings) -> Result<MySqlConnection, sqlx::Error> {
    let options = mysql_options(settings);
    match options.connect().await {
        Err(sqlx::Error::Tls(error)) if settings.tls == Tls::Preferred => {
            tracing::warn!(%error, "TLS handshake with the database failed, going on in plain text; mysql_tls = off avoids the try");
            options.ssl_mode(MySqlSslMode::Disabled).connect().await
        }
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
        // A socket of this host needs no encryption.
        MySqlAddress::Socket(path) => options.socket(path).ssl_mode(MySqlSslMode::Disabled),
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
