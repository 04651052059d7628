//! Ends a connection that was given up with something under way on it.
//!
//! A server does not notice that a client has gone while it works for it or waits for a lock, and not at all
//! where the line swallows everything: the transaction stays open and holds its rows. The next connection
//! therefore ends the former one before anything is asked or written again; what the former one has
//! committed by then stays, the rest is rolled back.
//!
//! No stranger is hit: a server that was restarted counts its threads anew, and another node of a cluster has
//! its own, so a thread is ended only where its address is that of the former connection as well. A unix
//! socket has no address; there nothing is ended, and nothing needs to be, as such a line loses nothing.

use std::time::Duration;

use sqlx::mysql::MySqlConnection;
use sqlx::{AssertSqlSafe, Row as _};
use tokio::time::{Instant, sleep};

/// How long to wait until a thread that was told to end is gone: a rollback of a few rows takes
/// milliseconds. Whoever waits for its locks longer than that waits for them in the statement itself.
const PATIENCE: Duration = Duration::from_secs(3);

/// Between two looks whether it is gone.
const PAUSE: Duration = Duration::from_millis(10);

/// A connection as its server knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Thread {
    id: u64,
    /// The client's address and port.
    host: String,
}

impl Thread {
    /// That of a connection; `None` where the server does not tell, or it has no address of its own.
    pub(super) async fn of(connection: &mut MySqlConnection) -> Option<Self> {
        match look(connection, "CONNECTION_ID()").await {
            Ok(found) => found.filter(Self::has_address),
            Err(error) => {
                tracing::debug!(%error, "the server does not show its threads: a lost connection is left to end by itself");
                None
            }
        }
    }

    fn has_address(&self) -> bool {
        let port = self.host.rsplit_once(':').map(|(_, port)| port);
        port.is_some_and(|port| port.parse::<u16>().is_ok())
    }

    /// Ends it over another connection and waits a moment until it is gone; whether there was something to
    /// end. The future must be run to its end, or that other connection given up.
    pub(super) async fn end(&self, connection: &mut MySqlConnection) -> Result<bool, sqlx::Error> {
        if !self.is_there(connection).await? {
            return Ok(false);
        }
        // Between the look and this the number cannot have gone to another: they are given in order.
        let kill = format!("KILL CONNECTION {}", self.id);
        sqlx::raw_sql(AssertSqlSafe(kill))
            .execute(&mut *connection)
            .await?;
        let deadline = Instant::now() + PATIENCE;
        while self.is_there(connection).await? && Instant::now() < deadline {
            sleep(PAUSE).await;
        }
        Ok(true)
    }

    async fn is_there(&self, connection: &mut MySqlConnection) -> Result<bool, sqlx::Error> {
        let found = look(connection, &self.id.to_string()).await?;
        Ok(found.as_ref() == Some(self))
    }
}

/// The thread of a number, in one round trip: reconnecting is not the time for more.
async fn look(connection: &mut MySqlConnection, id: &str) -> Result<Option<Thread>, sqlx::Error> {
    let sql = format!(
        "SELECT CAST(id AS UNSIGNED), CAST(host AS CHAR) FROM information_schema.processlist WHERE id = {id}"
    );
    let row = sqlx::raw_sql(AssertSqlSafe(sql))
        .fetch_optional(connection)
        .await?;
    let thread = row.map(|row| {
        Ok(Thread {
            id: row.try_get(0)?,
            host: row.try_get(1)?,
        })
    });
    thread.transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn exactly_the_former_connection_is_ended() {
        let database = jobd_tests::Server::shared().await.database().await;
        let connect = async || database.pool.acquire().await.unwrap().detach();
        let (mut one, mut other) = (connect().await, connect().await);
        let thread = Thread::of(&mut one).await.unwrap();
        assert_ne!(Some(&thread), Thread::of(&mut other).await.as_ref());
        // The number of a stranger: of another server, or of this one after a restart.
        let stranger = Thread {
            host: "127.0.0.1:1".to_owned(),
            ..thread.clone()
        };
        assert!(!stranger.end(&mut other).await.unwrap());
        assert_eq!(Thread::of(&mut one).await, Some(thread.clone()));
        assert!(thread.end(&mut other).await.unwrap());
        assert_eq!(Thread::of(&mut one).await, None, "it is gone");
        assert!(!thread.end(&mut other).await.unwrap());
    }

    #[test]
    fn only_what_has_an_address_can_be_told_from_others() {
        let thread = |host: &str| Thread {
            id: 7,
            host: host.to_owned(),
        };
        for host in [
            "10.0.0.5:41230",
            "web1.example:41230",
            "::1:5",
            "localhost:9",
        ] {
            assert!(thread(host).has_address(), "{host}");
        }
        for host in ["localhost", "", "10.0.0.5", "10.0.0.5:", "web1:port"] {
            assert!(!thread(host).has_address(), "{host}");
        }
    }
}
