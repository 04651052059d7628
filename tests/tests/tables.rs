//! The tables and the ways to reach them that are out there: each runs jobs as it is.

use std::time::Duration;

use jobd_tests::programs::{Daemon, path};
use jobd_tests::server::{Durability, PASSWORD, USER};
use jobd_tests::template::Flavour;
use jobd_tests::wait::PATIENCE;
use jobd_tests::{Database, Ini, Jobd, Scratch, Server};
use serde_json::json;

/// `minimal`, changed by some statements.
async fn altered(statements: &[&str]) -> Database {
    let database = Server::shared().await.database().await;
    database.minimal_table().await;
    for statement in statements {
        database.run(statement).await;
    }
    database
}

/// Runs a background and a manual job, and checks their rows.
async fn check_runs(database: &Database, ini: &Ini, target: &str) {
    let scratch = Scratch::new();
    let ini = ini
        .clone()
        .set("poll_interval", 0)
        .set("launcher", r#"sh -c "echo {id} é {target}\; exit 3""#)
        .target(target, 2);
    let jobd = Jobd::ready(&scratch, &ini).await;
    let waiting = database.insert(3, target, "waiting").await;
    let manual = database.insert_one(target, "manual").await;
    jobd.ask("poll", json!({})).await;
    let reply = jobd.ask("run-manual", json!({"ids": [manual]})).await;
    let printed = |id| format!("{id} é {target}\n");
    assert_eq!(
        reply["jobs"][manual.to_string()]["stdout"],
        printed(manual),
        "{reply}"
    );
    for id in waiting.into_iter().chain([manual]) {
        let row = database.done(id).await;
        assert_eq!(row.verdict(), ("done", Some("fail"), Some(3), None));
        assert_eq!(row.out(), printed(id));
    }
    assert!(jobd.stop().await.success());
}

async fn check_altered(statements: &[&str], target: &str) {
    let database = altered(statements).await;
    check_runs(&database, &Ini::worker(&database), target).await;
}

#[tokio::test]
async fn every_character_set() {
    for charset in ["utf8mb3", "utf8mb4", "latin1"] {
        let statement = format!("ALTER TABLE jobs CONVERT TO CHARACTER SET {charset}");
        check_altered(&[&statement], "mail").await;
    }
}

#[tokio::test]
async fn targets_of_every_type() {
    for kind in [
        "CHAR(16)",
        "VARCHAR(255)",
        "VARCHAR(64) COLLATE utf8mb4_bin",
        "ENUM('mail','1/low')",
    ] {
        let statement = format!("ALTER TABLE jobs MODIFY target {kind} NOT NULL");
        check_altered(&[&statement], "1/low").await;
    }
}

#[tokio::test]
async fn ids_of_every_type() {
    for kind in ["INT", "BIGINT", "BIGINT UNSIGNED", "MEDIUMINT UNSIGNED"] {
        let statement = format!("ALTER TABLE jobs MODIFY id {kind} NOT NULL AUTO_INCREMENT");
        check_altered(&[&statement], "mail").await;
    }
    // Past what a JavaScript number holds exactly.
    let statements = [
        "ALTER TABLE jobs MODIFY id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT",
        "ALTER TABLE jobs AUTO_INCREMENT = 9007199254740993",
    ];
    check_altered(&statements, "mail").await;
}

#[tokio::test]
async fn columns_of_the_application_and_a_missing_index() {
    check_altered(
        &[
            "ALTER TABLE jobs ADD job_name VARCHAR(64) NOT NULL DEFAULT 'x', ADD job_data LONGTEXT, \
             ADD done_at DATETIME DEFAULT NULL, ADD price DECIMAL(10,2) NOT NULL DEFAULT 1.5",
            "ALTER TABLE jobs DROP INDEX status_target_idx",
        ],
        "mail",
    )
    .await;
}

/// As people do before they drop it; by then jobd names it in every claim.
async fn make_index_invisible(database: &Database) {
    let mariadb = Server::shared().await.address().ends_with("mariadb");
    let invisible = if mariadb { "IGNORED" } else { "INVISIBLE" };
    database
        .run(&format!(
            "ALTER TABLE jobs ALTER INDEX status_target_idx {invisible}"
        ))
        .await;
}

#[tokio::test]
async fn an_index_that_is_made_invisible_while_it_is_used() {
    let database = altered(&[]).await;
    let scratch = Scratch::new();
    let ini = Ini::worker(&database)
        .set("poll_interval", "0.2")
        .target("mail", 1);
    let jobd = Jobd::ready(&scratch, &ini).await;
    let before = database.insert_one("mail", "waiting").await;
    database.done(before).await;
    make_index_invisible(&database).await;
    let after = database.insert_one("mail", "waiting").await;
    database.done(after).await;
    drop(jobd);
}

/// Ownership is begun at a start: half a worker with leases would renew none, and others would take its jobs for orphans.
#[tokio::test]
async fn columns_that_come_while_it_runs_count_from_its_next_start() {
    let database = altered(&[]).await;
    let scratch = Scratch::new();
    let wait = format!(
        r#"sh -c "while [ ! -e {} ]\; do sleep 0.02\; done""#,
        scratch.join("go").display()
    );
    let ini = Ini::worker(&database)
        .set("poll_interval", "0.2")
        .set("launcher", wait)
        .target("mail", 2);
    let jobd = Jobd::ready(&scratch, &ini).await;
    let before = database.insert_one("mail", "waiting").await;
    database.reaches(before, "running").await;
    database
        .run(include_str!("../../sql/mysql/add-ownership.sql"))
        .await;
    // Claims are refused once, and the table is looked at anew.
    make_index_invisible(&database).await;
    let after = database.insert_one("mail", "waiting").await;
    database.reaches(after, "running").await;
    assert_eq!(
        database.number("COUNT(lease_until) + COUNT(worker)").await,
        Some(0)
    );
    scratch.write("go", "");
    for id in [before, after] {
        assert_eq!(database.done(id).await.result.as_deref(), Some("ok"));
    }
    drop(jobd);
}

#[tokio::test]
async fn a_row_whose_target_differs_only_in_case_is_run() {
    let database = altered(&[]).await;
    let scratch = Scratch::new();
    let jobd = Jobd::start(&scratch, &Ini::worker(&database).target("mail", 1)).await;
    let id = database.insert_one("MAIL", "waiting").await;
    jobd.ask("poll", json!({})).await;
    assert_eq!(database.done(id).await.result.as_deref(), Some("ok"));
}

#[tokio::test]
async fn odd_table_names() {
    for name in [r#"my jobs-"x"#, "таблица", "select", "jobs;drop", "a'b"] {
        let mut database = altered(&[&format!("RENAME TABLE jobs TO `{name}`")]).await;
        database.table = format!("`{name}`");
        // A semicolon begins a comment in a config, unless escaped.
        let ini = Ini::worker(&database).set("mysql_table", name.replace(';', "\\;"));
        check_runs(&database, &ini, "mail").await;
    }
}

#[tokio::test]
async fn a_table_in_another_database() {
    let database = altered(&[]).await;
    let other = Server::shared().await.database().await;
    let ini = Ini::worker(&other).set("mysql_table", format!("{}.jobs", database.name));
    check_runs(&database, &ini, "mail").await;
    let ini = ini.unset("mysql_database");
    check_runs(&database, &ini, "mail").await;
}

#[tokio::test]
async fn over_the_socket() {
    let database = altered(&[]).await;
    let server = Server::shared().await;
    let ini = Ini::worker(&database)
        .unset("mysql_host")
        .unset("mysql_port")
        .set("mysql_socket", server.socket().display());
    check_runs(&database, &ini, "mail").await;
}

#[tokio::test]
async fn a_fetch_limit_of_nought_or_one() {
    for limit in [0, 1] {
        let database = altered(&[]).await;
        let ini = Ini::worker(&database).set("mysql_fetch_limit", limit);
        check_runs(&database, &ini, "mail").await;
    }
}

#[tokio::test]
async fn an_account_that_may_only_read_and_update() {
    let database = altered(&[]).await;
    let user = jobd_tests::programs::unique_name("u");
    database
        .run(&format!(
            "CREATE USER '{user}'@'%' IDENTIFIED BY 'p;w #1 \"x'"
        ))
        .await;
    let grant = format!(
        "GRANT SELECT, UPDATE ON `{}`.jobs TO '{user}'@'%'",
        database.name
    );
    database.run(&grant).await;
    let ini = Ini::worker(&database)
        .set("mysql_user", &user)
        .set("mysql_password", r#"'p;w #1 "x'"#);
    check_runs(&database, &ini, "mail").await;
}

#[tokio::test]
async fn rows_are_found_without_any_poke() {
    let database = altered(&[]).await;
    let scratch = Scratch::new();
    let ini = Ini::worker(&database)
        .set("poll_interval", "0.3")
        .target("a", 1);
    let jobd = Jobd::start(&scratch, &ini).await;
    for _ in 0..3 {
        let id = database.insert_one("a", "waiting").await;
        database.done(id).await;
    }
    // A paused target is left alone by these polls as well.
    jobd.ask("pause", json!({"targets": ["a"]})).await;
    jobd.ask("add-target", json!({"target": "b", "concurrency": 1}))
        .await;
    let held = database.insert_one("a", "waiting").await;
    for _ in 0..3 {
        let id = database.insert_one("b", "waiting").await;
        database.done(id).await;
    }
    assert_eq!(database.row(held).await.status, "waiting");
    jobd.ask("continue", json!({})).await;
    database.done(held).await;
}

const TLS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/tls");

fn certificate() -> [String; 2] {
    [
        format!("--ssl-cert={TLS}/cert.pem"),
        format!("--ssl-key={TLS}/key.pem"),
    ]
}

/// A database on `server`, and a worker's config for an account that has to come encrypted.
async fn encrypted_account(server: &Server) -> (Database, Ini) {
    let database = server.database().await;
    database.minimal_table().await;
    for statement in [
        format!("CREATE USER 'sealed'@'%' IDENTIFIED BY '{PASSWORD}' REQUIRE SSL"),
        "GRANT ALL ON *.* TO 'sealed'@'%'".to_owned(),
    ] {
        database.run(&statement).await;
    }
    let ini = Ini::worker(&database).set("mysql_user", "sealed");
    (database, ini)
}

#[tokio::test]
async fn tls_is_used_where_it_can_be() {
    let [certificate, key] = certificate();
    let server = Server::start(Durability::ThrowAway, &[&certificate, &key]).await;
    let (database, sealed) = encrypted_account(&server).await;
    for tls in ["required", "preferred"] {
        check_runs(&database, &sealed.clone().set("mysql_tls", tls), "mail").await;
    }
    // Preferred is the default.
    check_runs(&database, &sealed, "mail").await;
    check_turned_away(&sealed.set("mysql_tls", "off")).await;
    let plain = Ini::worker(&database)
        .set("mysql_user", USER)
        .set("mysql_tls", "off");
    check_runs(&database, &plain, "mail").await;
}

#[tokio::test]
async fn required_tls_never_goes_on_in_the_clear() {
    let server = Server::shared().await;
    let option = match server.flavour() {
        Flavour::MariaDb => "--skip-ssl",
        Flavour::MySql => "--tls-version=",
    };
    let server = Server::start(Durability::ThrowAway, &[option]).await;
    let database = server.database().await;
    database.minimal_table().await;
    for tls in ["preferred", "off"] {
        check_runs(
            &database,
            &Ini::worker(&database).set("mysql_tls", tls),
            "mail",
        )
        .await;
    }
    check_stays_away(
        &database,
        &Ini::worker(&database).set("mysql_tls", "required"),
    )
    .await;
}

#[tokio::test]
async fn preferred_tls_goes_on_in_the_clear_where_the_handshake_fails() {
    // Only MariaDB can still be told to offer a version that nobody speaks any more.
    if Server::shared().await.flavour() == Flavour::MySql {
        return;
    }
    let [certificate, key] = certificate();
    let options = [certificate.as_str(), &key, "--tls-version=TLSv1.1"];
    let server = Server::start(Durability::ThrowAway, &options).await;
    let database = server.database().await;
    database.minimal_table().await;
    check_runs(
        &database,
        &Ini::worker(&database).set("mysql_tls", "preferred"),
        "mail",
    )
    .await;
    check_stays_away(
        &database,
        &Ini::worker(&database).set("mysql_tls", "required"),
    )
    .await;
}

/// The server answers, and its answer is no: that is for an operator to mend.
async fn check_turned_away(ini: &Ini) {
    let scratch = Scratch::new();
    let mut jobd = Daemon::launch(&path("jobd"), &scratch, &ini.clone().target("mail", 1));
    assert_eq!(jobd.process.wait(PATIENCE).await.code(), Some(78));
    assert!(
        jobd.process.log().contains("Access denied"),
        "{}",
        jobd.process.log()
    );
}

/// The worker listens, says that it cannot reach its database, and runs nothing.
async fn check_stays_away(database: &Database, ini: &Ini) {
    let scratch = Scratch::new();
    let ini = ini.clone().set("poll_interval", "0.2").target("mail", 1);
    let jobd = Jobd::start(&scratch, &ini).await;
    let id = database.insert_one("mail", "waiting").await;
    assert_eq!(jobd.ask("poll", json!({})).await, "ok");
    jobd_tests::until(
        "a word about the database",
        Duration::from_secs(20),
        async || {
            let log = jobd.process.log();
            log.lines()
                .any(|line| {
                    line.contains("database") && (line.contains("WARN") || line.contains("ERROR"))
                })
                .then_some(())
        },
    )
    .await;
    assert_eq!(database.row(id).await.status, "waiting");
    database
        .run(&format!("DELETE FROM jobs WHERE id = {id}"))
        .await;
}
