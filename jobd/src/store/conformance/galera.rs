//! What a claim must be on a cluster, where a transaction of one node knows nothing of another node's locks.

use std::collections::HashSet;
use std::sync::OnceLock;

use jobd_tests::galera::Cluster;
use jobd_tests::template::{Flavour, ServerProgram};
use sqlx::mysql::MySqlConnection;

use super::*;
use crate::store::backend::Backend as _;
use crate::store::connection::{Connection as _, Value};
use crate::store::floors::Place;
use crate::store::mysql::{GALERA_WAITS, MySql};
use crate::store::statements::Statements;
use crate::store::units;

/// Writes take about a millisecond to other nodes here: without waiting, the first one fails as a rule.
const STARTS: usize = 100;

/// A connection to one node with the session that jobd has, and the statements for the table.
async fn session(settings: &MySqlSettings) -> (MySqlConnection, Statements) {
    let mut connection = jobd_proto::table::connect_mysql(settings).await.unwrap();
    connection.control(GALERA_WAITS).await.unwrap();
    let look = MySql::new(settings.clone(), LEASE).look(None);
    let (_, statements) = look(&mut connection).await.unwrap();
    (connection, statements.unwrap())
}

/// A claim at one node and its start at another, as often as it takes to meet a write that is still on its way.
async fn starts_where_it_was_not_claimed(cluster: &Cluster) {
    let ports = cluster.ports();
    let database = Server::at(ports[0], Flavour::MariaDb).database().await;
    database
        .run(include_str!("../../../../sql/mysql/jobs.sql"))
        .await;
    let (mut here, statements) = session(&settings(ports[0], &database.name)).await;
    let (mut there, _) = session(&settings(ports[1], &database.name)).await;
    let mut tokens = Tokens::new("w", "h", 1);
    for _ in 0..STARTS {
        database.insert_one("mail", "waiting").await;
        let (token, target) = (tokens.next(Origin::Background), name("mail"));
        let cell = OnceLock::new();
        let claimed = units::claim(
            &mut here,
            &statements,
            &token,
            &target,
            (Place::FIRST, 1, &HashSet::new()),
            1,
            &cell,
        )
        .await;
        let batch = Batch {
            starts: claimed.unwrap().jobs,
            ..Batch::default()
        };
        let recorded = record::record(&mut there, &statements, &batch)
            .await
            .unwrap();
        assert_eq!(recorded.unwrap().started, [true]);
    }
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
        (Place::FIRST, 1, &HashSet::new()),
        1,
        &committing,
    )
    .await;
    assert_eq!(ids(&claimed.unwrap().jobs), [id]);
    here.control("ROLLBACK").await.unwrap();
    let held = units::settle(&mut here, &statements, &token, &[id]).await;
    assert_eq!(held.unwrap(), [id], "the other node's commit is seen");
}

#[tokio::test]
async fn claims_are_the_same_on_every_node_of_a_cluster() {
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
    starts_where_it_was_not_claimed(&cluster).await;
}
