//! What one lane may cost another.

use std::time::Duration;

use futures::FutureExt as _;
use jobd_tests::Server;
use sqlx::Row as _;
use sqlx::mysql::MySqlConnection;

use super::MySql;
use crate::store::StoreError;
use crate::store::backend::{Backend as _, Lane, Unit};
use crate::store::conformance::settings;
use crate::store::connection::Connection as _;

/// Renewals are given up after 1.5 s with it.
const LEASE: Duration = Duration::from_secs(3);

async fn mysql() -> MySql {
    let database = Server::shared().await.database().await;
    MySql::new(settings(database.port, &database.name), LEASE)
}

/// A statement that the server takes two seconds for.
fn slow() -> Unit<MySqlConnection, ()> {
    Box::new(|connection| connection.control("DO SLEEP(2)").boxed())
}

fn thread() -> Unit<MySqlConnection, u64> {
    Box::new(|connection| {
        async {
            let row = sqlx::query("SELECT CAST(CONNECTION_ID() AS UNSIGNED)").fetch_one(connection);
            row.await?.try_get(0)
        }
        .boxed()
    })
}

#[tokio::test]
async fn a_slow_scan_is_waited_for_and_holds_up_no_renewal() {
    let mysql = mysql().await;
    let given_up = mysql.run(Lane::Leases, slow, || false).await;
    assert!(
        matches!(given_up, Err(StoreError::Unavailable(_))),
        "{given_up:?}"
    );
    let scan = mysql.run(Lane::Rescues, slow, || false);
    let renewal = mysql.run(Lane::Leases, thread, || false);
    tokio::pin!(scan);
    tokio::select! {
        biased;
        scanned = &mut scan => panic!("a renewal waited for a scan, {scanned:?}"),
        renewed = renewal => assert!(renewed.is_ok(), "{renewed:?}"),
    }
    scan.await.unwrap();
}

#[tokio::test]
async fn a_unit_that_panics_costs_its_connection_and_nothing_else() {
    let mysql = mysql().await;
    let before = mysql.run(Lane::Desk, thread, || false).await.unwrap();
    let panicking =
        || -> Unit<MySqlConnection, ()> { Box::new(|_| async { panic!("a bug") }.boxed()) };
    let cut_short = mysql.run(Lane::Desk, panicking, || false).await;
    let told = format!("{cut_short:?}");
    assert!(
        matches!(cut_short, Err(StoreError::Unavailable(_))),
        "{told}"
    );
    assert!(told.contains("a bug"), "{told}");
    let after = mysql.run(Lane::Desk, thread, || false).await.unwrap();
    assert_ne!(before, after);
}
