//! What a claim must be on a cluster, where a transaction of one node knows nothing of another node's locks.

use std::sync::OnceLock;

use jobd_tests::galera::Cluster;
use jobd_tests::template::{Flavour, ServerProgram};
use sqlx::mysql::MySqlConnection;

use super::*;
use crate::store::connection::{Connection as _, Value};
use crate::store::mysql::MySql;
use crate::store::sql::Backend as _;
use crate::store::statements::Statements;
use crate::store::units;

fn settings(port: u16, database: &str) -> MySqlSettings {
    MySqlSettings {
        address: MySqlAddress::Tcp {
            host: "127.0.0.1".into(),
            port,
        },
        user: server::USER.into(),
        password: Some(Secret::new(server::PASSWORD)),
        database: database.into(),
        table: TableName::parse("jobs").unwrap(),
        tls: Tls::Off,
    }
}

/// A connection to one node with the session that jobd has, and the statements for the table.
async fn session(settings: &MySqlSettings) -> (MySqlConnection, Statements) {
    let mut connection = jobd_proto::table::connect_mysql(settings).await.unwrap();
    sqlx::raw_sql("SET SESSION wsrep_sync_wait = 1")
        .execute(&mut connection)
        .await
        .unwrap();
    let look = MySql::new(settings.clone(), LEASE).look();
    let (_, statements) = look(&mut connection).await.unwrap();
    (connection, statements.unwrap())
}

async fn check(cluster: &Cluster, create: &'static str) {
    let ports = cluster.ports();
    let database = Server::at(ports[0], Flavour::MariaDb).database().await;
    database.run(create).await;
    let id = JobId(database.insert_one("mail", "waiting").await);
    let (mut here, statements) = session(&settings(ports[0], &database.name)).await;
    let (mut there, _) = session(&settings(ports[1], &database.name)).await;
    let token = Tokens::new("w", "h", 1).next(Origin::Background);

    here.control(statements.begin).await.unwrap();
    let sql = statements.accept.for_ids(&[id]);
    let values = [&[Value::Text(token.as_str())], &*sql.1].concat();
    assert_eq!(here.change(&sql.0, &values).await.unwrap(), 1);
    // The worker has lost that connection, and asks at another node.
    let held = units::settle(&mut there, &statements, &token, &[id]).await;
    assert_eq!(held.unwrap(), []);
    let late = here.control("COMMIT").await;
    assert!(late.is_err(), "what was denied has come after all");
    let row = database.row(id.0).await;
    assert_eq!((row.status.as_str(), row.time_started), ("waiting", 0));

    let committing = OnceLock::new();
    let target = name("mail");
    let claimed = units::claim(
        &mut there,
        &statements,
        &token,
        &target,
        (0, 1),
        &committing,
    )
    .await;
    assert_eq!(ids(&claimed.unwrap().jobs), [id]);
    here.control("ROLLBACK").await.unwrap();
    let held = units::settle(&mut here, &statements, &token, &[id]).await;
    assert_eq!(held.unwrap(), [id], "the other node's commit is seen");
}

#[tokio::test]
async fn a_claim_that_was_asked_about_elsewhere_cannot_come_after_all() {
    if ServerProgram::find().flavour == Flavour::MySql {
        // Galera is MariaDB's.
        return;
    }
    let cluster = Cluster::start().await;
    check(
        &cluster,
        include_str!("../../../../sql/mysql/jobs-minimal.sql"),
    )
    .await;
    check(&cluster, include_str!("../../../../sql/mysql/jobs.sql")).await;
}
