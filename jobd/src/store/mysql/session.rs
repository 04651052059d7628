//! One held connection to the server, and units of work on it that nobody can cancel half-way.
//!
//! A driver's future that is dropped in the middle leaves its connection unusable, so each unit
//! runs in a task of its own, and a unit that takes too long is given up together with its
//! connection. There is no pool: each lane (see [`Lane`](crate::store::backend::Lane)) holds one
//! connection, which saves a ping per use and keeps one lane's outage from stalling another.
//! Whether a unit may be repeated is its caller's knowledge, not this file's.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jobd_proto::table::{MySqlSettings, connect_mysql};
use sqlx::mysql::{MySqlConnection, MySqlDatabaseError};
use sqlx::{Connection as _, Row as _};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};

use super::former::Thread;
use crate::store::StoreError;
use crate::store::backend::{Unit, cut_short};
use crate::store::connection::Connection as _;

/// A server that does not accept and greet within this is not there.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// A unit is a handful of statements on indexed rows: one that takes longer hangs on a dead link or a
/// frozen server. Above the lock wait below, so that a wait for a lock ends by itself.
pub(super) const UNIT_DEADLINE: Duration = Duration::from_secs(30);

/// A connection idle for longer is pinged before use: firewalls and `wait_timeout` close those.
const PING_AFTER: Duration = Duration::from_secs(30);

/// How often a unit is repeated at once after a deadlock or a lock wait.
const REPEATS: u32 = 8;

/// How a lane waits for rows and tables that somebody else has locked.
#[derive(Clone, Copy, Debug)]
pub(super) enum Patience {
    /// For seconds, again and again: whoever asked has asked for these rows.
    Long,
    /// For a second, and then it says so: one row that an application keeps locked must not hold up the others.
    Short,
}

impl Patience {
    /// Seconds of one wait: all below UNIT_DEADLINE, so that a wait for a row or for a table that is being
    /// altered ends by itself. MySQL goes on with the wait of a client that has hung up.
    fn lock_waits(self) -> &'static str {
        match self {
            Self::Long => {
                "SET SESSION innodb_lock_wait_timeout = 10, SESSION lock_wait_timeout = 10"
            }
            Self::Short => {
                "SET SESSION innodb_lock_wait_timeout = 1, SESSION lock_wait_timeout = 1"
            }
        }
    }
}

/// On a node of a cluster: reads (1) and updates (2) wait until what other nodes have committed has arrived here.
/// A worker's connections may lead to different nodes, and a start must find the row that was just claimed
/// (Galera's manual, `wsrep_sync_wait`).
pub(in crate::store) const GALERA_WAITS: &str = "SET SESSION wsrep_sync_wait = 3";

/// A held connection, made when first needed and again after each loss.
pub(super) struct Session {
    settings: MySqlSettings,
    patience: Patience,
    /// A unit that takes longer is given up: [`UNIT_DEADLINE`] at most.
    deadline: Duration,
    /// Of the server that was last connected to, in bytes; shared by all lanes.
    max_packet: Arc<AtomicU64>,
    held: Mutex<Held>,
}

/// What a lane has of the server.
#[derive(Default)]
struct Held {
    live: Option<Live>,
    /// A connection that was given up with something under way on it, until the next one has ended it.
    former: Option<Thread>,
}

struct Live {
    connection: MySqlConnection,
    thread: Option<Thread>,
    used: Instant,
}

/// How a unit failed.
#[derive(Debug)]
enum Fault {
    /// The server rolled it back (deadlock, killed query): repeat it.
    Conflict(String),
    /// It waited for somebody else's lock in vain.
    Locked(String),
    /// The connection or the server's ability to write is gone; maybe it was gone already when it was used again.
    Lost { text: String, reused: bool },
    /// The values are the matter.
    Unfit(String),
    /// The server says no.
    Refused(String),
}

impl Session {
    pub(super) fn new(
        settings: MySqlSettings,
        patience: Patience,
        deadline: Duration,
        max_packet: Arc<AtomicU64>,
    ) -> Arc<Self> {
        Arc::new(Self {
            settings,
            patience,
            deadline,
            max_packet,
            held: Mutex::default(),
        })
    }

    /// Runs a unit to its end. `make` builds it anew for each try: after a conflict, and once where a
    /// connection turns out to be stale, in both cases unless `committing` says that its COMMIT was under way.
    /// After an error the transaction is rolled back, unless its COMMIT was already under way.
    pub(super) async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        make: impl Fn() -> Unit<MySqlConnection, T> + Send,
        committing: impl Fn() -> bool + Send,
    ) -> Result<T, StoreError> {
        let mut conflicts = 0;
        let mut stale = false;
        loop {
            match self.once(make()).await {
                Ok(value) => return Ok(value),
                Err(Fault::Lost { reused: true, .. }) if !stale && !committing() => stale = true,
                Err(Fault::Locked(text)) if matches!(self.patience, Patience::Short) => {
                    return Err(StoreError::Locked(text));
                }
                Err(Fault::Conflict(error) | Fault::Locked(error))
                    if conflicts < REPEATS && !committing() =>
                {
                    conflicts += 1;
                    tracing::debug!(conflicts, error, "database conflict, repeating");
                    sleep(Duration::from_millis(u64::from(conflicts) * 3)).await;
                }
                Err(Fault::Refused(text)) => return Err(StoreError::Refused(text)),
                Err(Fault::Unfit(text)) => return Err(StoreError::Unfit(text)),
                Err(Fault::Lost { text, .. } | Fault::Conflict(text) | Fault::Locked(text)) => {
                    return Err(StoreError::Unavailable(text));
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
            let mut held = session.held.lock().await;
            let reused = held.live.is_some();
            // Taken out, and put back only when it is known to be clean.
            let mut live = session.ready(&mut held).await?;
            let mut fault = match timeout(session.deadline, unit(&mut live.connection)).await {
                Ok(Ok(value)) => {
                    live.used = Instant::now();
                    held.live = Some(live);
                    return Ok(value);
                }
                Ok(Err(error)) => Fault::of(&error),
                Err(_) => {
                    let limit = session.deadline;
                    Fault::lost(format!("no answer within {limit:?}"))
                }
            };
            if let Fault::Lost { reused: known, .. } = &mut fault {
                *known = reused;
            } else {
                let rollback = timeout(CONNECT_DEADLINE, live.connection.control("ROLLBACK"));
                if let Ok(Ok(())) = rollback.await {
                    live.used = Instant::now();
                    held.live = Some(live);
                    return Err(fault);
                }
            }
            // It may be open still at the server's end, with a transaction that holds our rows.
            held.former = live.thread;
            Err(fault)
        });
        task.await
            .unwrap_or_else(|error| Err(Fault::lost(cut_short(&error))))
    }

    /// Connects and sets what every statement of the store expects.
    async fn connect(&self) -> Result<MySqlConnection, sqlx::Error> {
        let mut connection = connect_mysql(&self.settings).await?;
        let found = variables(&mut connection).await?;
        self.max_packet.store(found.max_packet, Ordering::Relaxed);
        // A server may be set up otherwise; then every read would begin a transaction that nobody ends, or every
        // COMMIT another one.
        connection
            .control("SET SESSION autocommit = 1, SESSION completion_type = 0")
            .await?;
        // READ COMMITTED takes no gap locks, which deadlock with the applications' INSERTs. A server with
        // a statement-based binary log refuses writes under it (error 1665): its own level stays.
        if !found.statement_binlog {
            connection
                .control("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
                .await?;
        }
        connection.control(self.patience.lock_waits()).await?;
        if found.galera {
            connection.control(GALERA_WAITS).await?;
        }
        Ok(connection)
    }

    async fn ready(&self, held: &mut Held) -> Result<Live, Fault> {
        if let Some(mut live) = held.live.take() {
            if live.used.elapsed() < PING_AFTER {
                return Ok(live);
            }
            // Between units there is nothing under way on it: if it is gone, nothing is left to be ended.
            if let Ok(Ok(())) = timeout(CONNECT_DEADLINE, live.connection.ping()).await {
                return Ok(live);
            }
        }
        let connected = timeout(CONNECT_DEADLINE, async {
            let mut connection = self.connect().await?;
            let thread = Thread::of(&mut connection).await;
            Ok((connection, thread))
        });
        let Ok(connected) = connected.await else {
            let limit = CONNECT_DEADLINE.as_secs();
            return Err(Fault::lost(format!("cannot connect within {limit} s")));
        };
        let (connection, thread) = connected.map_err(|error| Fault::of(&error))?;
        let mut live = Live {
            connection,
            thread,
            used: Instant::now(),
        };
        if let Some(former) = &held.former {
            end(former, &mut live).await?;
            held.former = None;
        }
        Ok(live)
    }
}

/// Ends a former connection, if the server has it and lets us. An error means that this one is gone too.
async fn end(former: &Thread, live: &mut Live) -> Result<(), Fault> {
    let Ok(ended) = timeout(CONNECT_DEADLINE, former.end(&mut live.connection)).await else {
        return Err(Fault::lost(
            "no answer while a former connection was ended".to_owned(),
        ));
    };
    match ended {
        Ok(true) => tracing::debug!(?former, "ended a former connection"),
        Ok(false) => {}
        Err(error) => {
            let fault = Fault::of(&error);
            if let Fault::Lost { .. } = fault {
                return Err(fault);
            }
            // No privilege: the server ends it some time by itself.
            tracing::debug!(?former, %error, "cannot end a former connection");
        }
    }
    Ok(())
}

/// What of the server's settings matters here.
#[derive(Clone, Debug, Default)]
pub(super) struct Variables {
    pub(super) version: String,
    pub(super) max_packet: u64,
    statement_binlog: bool,
    galera: bool,
}

/// Reads them. A variable that a server does not have is left at its default.
pub(super) async fn variables(connection: &mut MySqlConnection) -> Result<Variables, sqlx::Error> {
    let rows = sqlx::query(
        "SHOW VARIABLES WHERE Variable_name IN ('version', 'max_allowed_packet', 'binlog_format', 'log_bin', 'wsrep_on')",
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
            "wsrep_on" => found.galera = value == "ON",
            _ => {}
        }
    }
    found.statement_binlog = statement && log_bin;
    Ok(found)
}

impl Fault {
    /// On a connection that has just been made, as far as is known here.
    fn lost(text: String) -> Self {
        Self::Lost {
            text,
            reused: false,
        }
    }

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
                _ => Self::lost(text),
            };
        };
        match number {
            // Lock wait timeout.
            1205 => Self::Locked(text),
            // Deadlock, record changed (MariaDB's snapshot isolation), query interrupted, statement time
            // exceeded (MySQL, MariaDB).
            1213 | 1020 | 1317 | 3024 | 1969
            // Rolled back by a cluster, table definition changed, statement to be prepared again.
            | 3101 | 1412 | 1615 => Self::Conflict(text),
            // Too large for a packet; too long or wrong for the column or its character set. Of other columns that is not
            // the output's fault.
            1153 => Self::Unfit(text),
            1406 | 1366 | 1264 | 1265 | 1267 | 1300 | 3854 | 3988
                if text.contains("stdout") || text.contains("stderr") =>
            {
                Self::Unfit(text)
            }
            // Gone away, lost, shutdown, killed, closed for inactivity, network errors; a prepared statement that
            // a server behind a proxy does not know, since it is another one.
            2006 | 2013 | 1053 | 1927 | 4031 | 1152 | 1154..=1161 | 1184 | 1243
            // Read-only after a failover; a Galera node that is not ready, or that lost the others during a COMMIT.
            | 1290 | 1836 | 1792 | 1047 | 1180 | 3032 | 3100
            // Too many connections, host blocked; disk or table full, out of memory: it may pass.
            | 1040 | 1129 | 1203 | 1226 | 1021 | 1114 | 1037 | 1038 | 1041 => Self::lost(text),
            _ => Self::Refused(text),
        }
    }
}
