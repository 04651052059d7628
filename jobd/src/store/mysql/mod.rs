//! MySQL and MariaDB: three held connections, a look at the table, and the servers' dialect.

mod look;
mod session;

use std::sync::Arc;

use futures::FutureExt as _;
use jobd_proto::table::MySqlSettings;
use sqlx::mysql::MySqlConnection;

use self::session::Session;
use super::sql::{Backend, Lane, Unit};
use super::statements::Statements;
use super::{Inspection, StoreError};

/// See the module.
pub(super) struct MySql {
    settings: MySqlSettings,
    claims: Arc<Session>,
    ledger: Arc<Session>,
    desk: Arc<Session>,
}

impl MySql {
    pub(super) fn new(settings: MySqlSettings) -> Self {
        let session = || Session::new(settings.clone());
        Self {
            claims: session(),
            ledger: session(),
            desk: session(),
            settings,
        }
    }
}

impl Backend for MySql {
    type Connection = MySqlConnection;

    async fn run<T: Send + 'static>(
        &self,
        lane: Lane,
        make: impl Fn() -> Unit<MySqlConnection, T> + Send,
    ) -> Result<T, StoreError> {
        let session = match lane {
            Lane::Claims => &self.claims,
            Lane::Ledger => &self.ledger,
            Lane::Desk => &self.desk,
        };
        session.run(make).await
    }

    fn look(&self) -> Unit<MySqlConnection, (Inspection, Option<Statements>)> {
        let settings = self.settings.clone();
        Box::new(move |connection| async move { look::look(connection, &settings).await }.boxed())
    }
}
