//! One held connection to the server, and units of work on it that nobody can cancel half-way.
//!
//! A driver's future that is dropped in the middle leaves its connection unusable, so each unit
//! runs in a task of its own, and a unit that takes too long is given up together with its
//! connection. There is no pool: three lanes (claims, the ledger, everything else) hold one
//! connection each, which saves a ping per use and keeps one lane's outage from stalling another.
//! Whether a unit may be repeated is its caller's knowledge, not this file's.

use std::sync::Arc;
use std::time::Duration;

use jobd_proto::table::{MySqlSettings, connect_mysql};
use sqlx::mysql::{MySqlConnection, MySqlDatabaseError};
use sqlx::{Connection as _, Row as _};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use crate::store::StoreError;
use crate::store::connection::Connection as _;
use crate::store::sql::Unit;

/// A server that does not accept and greet within this is not there.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// A unit is a handful of statements on indexed rows: one that takes longer hangs on a dead link or a
/// frozen server. Above the lock wait below, so that a wait for a lock ends by itself.
const UNIT_DEADLINE: Duration = Duration::from_secs(30);

/// Seconds to wait for another transaction's row lock before the unit is repeated.
const LOCK_WAIT_S: u32 = 10;

/// A connection idle for longer is pinged before use: firewalls and `wait_timeout` close those.
const PING_AFTER: Duration = Duration::from_secs(30);

/// How often a unit is repeated at once after a deadlock or a lock wait.
const REPEATS: u32 = 8;

/// A held connection, made when first needed and again after each loss.
pub(super) struct Session {
    settings: MySqlSettings,
    live: Mutex<Option<Live>>,
}

struct Live {
    connection: MySqlConnection,
    used: Instant,
}

/// How a unit failed.
#[derive(Debug)]
enum Fault {
    /// The server rolled it back (deadlock, lock wait, killed query): repeat it.
    Conflict(String),
    /// The connection or the server's ability to write is gone.
    Lost(String),
    /// The server says no.
    Refused(String),
}

impl Session {
    pub(super) fn new(settings: MySqlSettings) -> Arc<Self> {
        Arc::new(Self {
            settings,
            live: Mutex::new(None),
        })
    }

    /// Runs a unit to its end, repeating it after conflicts. `make` builds it anew for each try.
    /// After an error the transaction is rolled back, unless its COMMIT was already under way.
    pub(super) async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        make: impl Fn() -> Unit<MySqlConnection, T> + Send,
    ) -> Result<T, StoreError> {
        let mut tries = 0;
        loop {
            match self.once(make()).await {
                Ok(value) => return Ok(value),
                Err(Fault::Refused(text)) => return Err(StoreError::Refused(text)),
                Err(Fault::Lost(text)) => return Err(StoreError::Unavailable(text)),
                Err(Fault::Conflict(text)) if tries == REPEATS => {
                    return Err(StoreError::Unavailable(text));
                }
                Err(Fault::Conflict(text)) => {
                    tries += 1;
                    tracing::debug!(tries, error = text, "database conflict, repeating");
                    // Spread by what differs between workers: their schedules.
                    tokio::time::sleep(Duration::from_millis(u64::from(tries) * 3)).await;
                }
            }
        }
    }

    async fn once<T: Send + 'static>(
        self: &Arc<Self>,
        unit: Unit<MySqlConnection, T>,
    ) -> Result<T, Fault> {
        let session = self.clone();
        let task = tokio::spawn(async move {
            let mut live = session.live.lock().await;
            // Taken out, and put back only when it is known to be clean.
            let mut connection = session.ready(live.take()).await?;
            match timeout(UNIT_DEADLINE, unit(&mut connection)).await {
                Ok(Ok(value)) => {
                    *live = Some(Live {
                        connection,
                        used: Instant::now(),
                    });
                    Ok(value)
                }
                Ok(Err(error)) => {
                    let fault = Fault::of(&error);
                    let clean = !matches!(fault, Fault::Lost(_))
                        && matches!(
                            timeout(CONNECT_DEADLINE, connection.control("ROLLBACK")).await,
                            Ok(Ok(()))
                        );
                    if clean {
                        *live = Some(Live {
                            connection,
                            used: Instant::now(),
                        });
                    }
                    Err(fault)
                }
                Err(_) => Err(Fault::Lost(format!(
                    "no answer within {} s",
                    UNIT_DEADLINE.as_secs()
                ))),
            }
        });
        task.await
            .unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
    }

    async fn ready(&self, live: Option<Live>) -> Result<MySqlConnection, Fault> {
        if let Some(mut live) = live {
            if live.used.elapsed() < PING_AFTER {
                return Ok(live.connection);
            }
            if let Ok(Ok(())) = timeout(CONNECT_DEADLINE, live.connection.ping()).await {
                return Ok(live.connection);
            }
        }
        match timeout(CONNECT_DEADLINE, connect(&self.settings)).await {
            Ok(connected) => connected.map_err(|error| Fault::of(&error)),
            Err(_) => Err(Fault::Lost(format!(
                "cannot connect within {} s",
                CONNECT_DEADLINE.as_secs()
            ))),
        }
    }
}

/// Connects and sets what every statement of the store expects.
async fn connect(settings: &MySqlSettings) -> Result<MySqlConnection, sqlx::Error> {
    let mut connection = connect_mysql(settings).await?;
    // READ COMMITTED takes no gap locks, which deadlock with the applications' INSERTs. A server with
    // a statement-based binary log refuses writes under it (error 1665): its own level stays.
    if !variables(&mut connection).await?.statement_binlog {
        connection
            .control("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
            .await?;
    }
    let lock_wait = format!("SET SESSION innodb_lock_wait_timeout = {LOCK_WAIT_S}");
    sqlx::raw_sql(sqlx::AssertSqlSafe(lock_wait))
        .execute(&mut connection)
        .await?;
    Ok(connection)
}

/// What of the server's settings matters here.
#[derive(Clone, Debug, Default)]
pub(super) struct Variables {
    pub(super) version: String,
    pub(super) max_packet: u64,
    statement_binlog: bool,
}

/// Reads them. A variable that a server does not have is left at its default.
pub(super) async fn variables(connection: &mut MySqlConnection) -> Result<Variables, sqlx::Error> {
    let rows = sqlx::query(
        "SHOW VARIABLES WHERE Variable_name IN ('version', 'max_allowed_packet', 'binlog_format', 'log_bin')",
    )
    .fetch_all(connection)
    .await?;
    let mut found = Variables {
        max_packet: 4 << 20,
        ..Variables::default()
    };
    let (mut statement, mut log_bin) = (false, false);
    for row in rows {
        let text = |index| {
            row.try_get_unchecked::<Vec<u8>, _>(index)
                .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        };
        let (name, value): (String, String) = (text(0)?, text(1)?);
        match name.as_str() {
            "version" => found.version = value,
            "max_allowed_packet" => found.max_packet = value.parse().unwrap_or(found.max_packet),
            "binlog_format" => statement = value == "STATEMENT",
            "log_bin" => log_bin = value == "ON",
            _ => {}
        }
    }
    found.statement_binlog = statement && log_bin;
    Ok(found)
}

impl Fault {
    /// Sorts an error by the server's error number ("Server Error Message Reference" of both
    /// servers' manuals).
    fn of(error: &sqlx::Error) -> Self {
        let text = error.to_string();
        let Some(number) = error
            .as_database_error()
            .and_then(|error| error.try_downcast_ref::<MySqlDatabaseError>())
            .map(MySqlDatabaseError::number)
        else {
            return match error {
                sqlx::Error::ColumnDecode { .. }
                | sqlx::Error::Decode(_)
                | sqlx::Error::Encode(_) => Self::Refused(text),
                _ => Self::Lost(text),
            };
        };
        match number {
            // Deadlock, lock wait timeout, record changed (MariaDB's snapshot isolation), query
            // interrupted, statement time exceeded (MySQL, MariaDB).
            1213 | 1205 | 1020 | 1317 | 3024 | 1969 => Self::Conflict(text),
            // Gone away, lost, shutdown, killed, closed for inactivity, network errors.
            2006 | 2013 | 1053 | 1927 | 4031 | 1152..=1161 | 1184
            // Read-only after a failover; a Galera node that is not ready.
            | 1290 | 1836 | 1792 | 1047
            // Too many connections, host blocked; disk or table full, out of memory: it may pass.
            | 1040 | 1129 | 1203 | 1226 | 1021 | 1114 | 1037 | 1038 | 1041 => Self::Lost(text),
            _ => Self::Refused(text),
        }
    }
}
