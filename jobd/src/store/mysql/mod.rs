//! MySQL and MariaDB: a held connection per lane, a look at the table, and the servers' dialect.

mod former;
#[cfg(test)]
mod lanes;
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
use self::session::{Patience, Session, UNIT_DEADLINE};
use super::backend::{Backend, Lane, Unit};
use super::statements::Statements;
use super::{Inspection, StoreError};

/// A renewal that has not been answered within this is given up, whatever the lease: answers take that long on a
/// busy machine.
const LEAST_DEADLINE: Duration = Duration::from_millis(1500);

/// See the module.
pub(super) struct MySql {
    settings: MySqlSettings,
    lease: Duration,
    max_packet: Arc<AtomicU64>,
    claims: Arc<Session>,
    ledger: Arc<Session>,
    leases: Arc<Session>,
    rescues: Arc<Session>,
    look: Arc<Session>,
    rows: Arc<Session>,
    desk: Arc<Session>,
}

impl MySql {
    pub(super) fn new(settings: MySqlSettings, lease: Duration) -> Self {
        let max_packet = Arc::new(AtomicU64::new(u64::MAX));
        // A line that swallows everything without a word must not cost a lease: renewals come with every third of it,
        // and after two thirds jobs are stopped.
        let renewal = (lease / 6).clamp(LEAST_DEADLINE, UNIT_DEADLINE);
        let session = |patience, deadline| {
            Session::new(settings.clone(), patience, deadline, max_packet.clone())
        };
        Self {
            claims: session(Patience::Long, UNIT_DEADLINE),
            ledger: session(Patience::Short, UNIT_DEADLINE),
            leases: session(Patience::Short, renewal),
            rescues: session(Patience::Short, UNIT_DEADLINE),
            look: session(Patience::Short, UNIT_DEADLINE),
            rows: session(Patience::Long, UNIT_DEADLINE),
            desk: session(Patience::Long, UNIT_DEADLINE),
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
            Lane::Rescues => &self.rescues,
            Lane::Look => &self.look,
            Lane::Rows => &self.rows,
            Lane::Desk => &self.desk,
        };
        session.run(make, committing).await
    }

    fn look(
        &self,
        known: Option<Arc<[String]>>,
    ) -> Unit<MySqlConnection, (Inspection, Option<Statements>)> {
        let (settings, lease) = (self.settings.clone(), self.lease);
        Box::new(move |connection| {
            async move { look::look(connection, &settings, known.as_deref(), lease).await }.boxed()
        })
    }

    fn max_packet(&self) -> u64 {
        self.max_packet.load(Ordering::Relaxed)
    }
}
