//! MySQL and MariaDB: a held connection per lane, a look at the table, and the servers' dialect.

mod former;
mod look;
#[cfg(test)]
mod plans;
mod session;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::FutureExt as _;
use jobd_proto::table::MySqlSettings;
use sqlx::mysql::MySqlConnection;

#[cfg(test)]
pub(super) use self::session::GALERA_WAITS;
use self::session::{Patience, Session};
use super::sql::{Backend, Lane, Unit};
use super::statements::Statements;
use super::{Inspection, StoreError};

/// See the module.
pub(super) struct MySql {
    settings: MySqlSettings,
    lease: Duration,
    max_packet: Arc<AtomicU64>,
    claims: Arc<Session>,
    ledger: Arc<Session>,
    leases: Arc<Session>,
    desk: Arc<Session>,
}

impl MySql {
    pub(super) fn new(settings: MySqlSettings, lease: Duration) -> Self {
        let max_packet = Arc::new(AtomicU64::new(u64::MAX));
        let session = |patience| Session::new(settings.clone(), patience, max_packet.clone());
        Self {
            claims: session(Patience::Long),
            ledger: session(Patience::Short),
            leases: session(Patience::Short),
            desk: session(Patience::Long),
            settings,
            lease,
            max_packet,
        }
    }
}

impl Backend for MySql {
    type Connection = MySqlConnection;

    async fn run<T: Send + 'static>(
        &self,
        lane: Lane,
        make: impl Fn() -> Unit<MySqlConnection, T> + Send,
        committing: impl Fn() -> bool + Send,
    ) -> Result<T, StoreError> {
        let session = match lane {
            Lane::Claims => &self.claims,
            Lane::Ledger => &self.ledger,
            Lane::Leases => &self.leases,
            Lane::Desk => &self.desk,
        };
        session.run(make, committing).await
    }

    fn look(&self) -> Unit<MySqlConnection, (Inspection, Option<Statements>)> {
        let (settings, lease) = (self.settings.clone(), self.lease);
        Box::new(move |connection| {
            async move { look::look(connection, &settings, lease).await }.boxed()
        })
    }

    fn max_packet(&self) -> u64 {
        self.max_packet.load(Ordering::Relaxed)
    }
}
