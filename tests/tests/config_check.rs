//! `--check-config` of both daemons, and what stops a real start.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};

use jobd_tests::programs::{Daemon, output, path};
use jobd_tests::wait::PATIENCE;
use jobd_tests::{Database, Ini, Scratch, Server, until};

async fn check(program: &str, scratch: &Scratch, text: &str) -> (Option<i32>, String) {
    let file = scratch.write("checked.conf", text);
    let mut command = Command::new(path(program));
    command.arg("--config").arg(file).arg("--check-config");
    let Output {
        status,
        stdout,
        stderr,
    } = output(&mut command).await;
    let all = [stdout, stderr].concat();
    (status.code(), String::from_utf8(all).expect("UTF-8"))
}

/// The config is wrong, and the words of each entry stand together in one line of the output.
async fn check_refused(program: &str, scratch: &Scratch, text: &str, expected: &[&[&str]]) {
    let (code, said) = check(program, scratch, text).await;
    assert_eq!(code, Some(78), "{said}");
    for words in expected {
        let found = said
            .lines()
            .any(|line| words.iter().all(|word| line.contains(word)));
        assert!(found, "no line with {words:?} in\n{said}");
    }
}

async fn database() -> Database {
    let database = Server::shared().await.database().await;
    database.minimal_table().await;
    database
}

#[tokio::test]
async fn a_good_config_and_table_pass() {
    let scratch = Scratch::new();
    let database = database().await;
    let text = Ini::worker(&database).target("a", 1).text();
    let (code, said) = check("jobd", &scratch, &text).await;
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = check("jobd-master", &scratch, "host = 127.0.0.1\nport = 7081\n").await;
    assert_eq!(code, Some(0), "{said}");
}

#[tokio::test]
async fn every_mistake_is_told_at_once_with_its_line() {
    let scratch = Scratch::new();
    let database = database().await;
    let text = Ini::worker(&database)
        .set("mysql_prot", 3306)
        .set("always_allow_localhost", "perhaps")
        .set("log_level_file", "loud")
        .set("poll_interval", "soon")
        .target("a", 0)
        .target("null", 1)
        .text();
    let line = |key: &str| {
        let at = text.lines().position(|line| line.starts_with(key));
        format!("checked.conf:{}:", at.expect("a line") + 1)
    };
    check_refused(
        "jobd",
        &scratch,
        &text,
        &[
            &[&line("mysql_prot"), "mysql_port"],
            &[&line("log_level_file"), "loud"],
            &[&line("poll_interval"), "soon"],
            &[&line("a = 0")],
            &[&line("null = 1")],
        ],
    )
    .await;
    check_refused(
        "jobd-master",
        &scratch,
        "host = 127.0.0.1\nport = 70810\nping_intervall = 5\npoke_throttle_interval = x\n",
        &[
            &["checked.conf:2:", "70810"],
            &["checked.conf:3:", "ping_interval"],
            &["checked.conf:4:", "poke_throttle_interval"],
        ],
    )
    .await;
}

#[tokio::test]
async fn what_is_missing_is_named() {
    let scratch = Scratch::new();
    check_refused(
        "jobd",
        &scratch,
        "host = 127.0.0.1\nport = 7080\n",
        &[&["launcher"]],
    )
    .await;
    check_refused("jobd", &scratch, "", &[&["launcher"]]).await;
    let mut command = Command::new(path("jobd"));
    command.args(["--check-config", "--config", "/nonexistent.conf"]);
    let said = output(&mut command).await;
    assert_eq!(said.status.code(), Some(78));
    assert!(String::from_utf8_lossy(&said.stderr).contains("/nonexistent.conf"));
}

#[tokio::test]
async fn a_table_that_will_not_do_is_told_with_the_ddl_that_mends_it() {
    let scratch = Scratch::new();
    let database = database().await;
    let text = Ini::worker(&database).target("a", 1).text();
    database
        .run("ALTER TABLE jobs DROP INDEX status_target_idx")
        .await;
    database.insert(2_000, "a", "done").await;
    // A worker would work, slowly: a warning, with what mends it.
    let (code, said) = check("jobd", &scratch, &text).await;
    assert_eq!(code, Some(0), "{said}");
    let ddl = said.lines().find(|line| line.contains("ALTER TABLE"));
    database.run(ddl.expect("a line with DDL")).await;
    let (code, said) = check("jobd", &scratch, &text).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(!said.contains("ALTER TABLE"), "{said}");
    database
        .run("ALTER TABLE jobs DROP return_code, DROP sig")
        .await;
    check_refused(
        "jobd",
        &scratch,
        &text,
        &[&["return_code"], &["sig"], &["ALTER TABLE"]],
    )
    .await;
    database.run("DROP TABLE jobs").await;
    check_refused("jobd", &scratch, &text, &[&["jobs"]]).await;
}

#[tokio::test]
async fn missing_privileges_are_told() {
    let scratch = Scratch::new();
    let database = database().await;
    let user = format!("r{}", std::process::id());
    for host in ["%", "localhost"] {
        database
            .run(&format!("CREATE USER '{user}'@'{host}' IDENTIFIED BY 'x'"))
            .await;
        let grant = format!("GRANT SELECT ON `{}`.* TO '{user}'@'{host}'", database.name);
        database.run(&grant).await;
    }
    let ini = Ini::worker(&database)
        .set("mysql_user", &user)
        .set("mysql_password", "x")
        .target("a", 1);
    check_refused("jobd", &scratch, &ini.text(), &[&["UPDATE"]]).await;
    check_refused(
        "jobd",
        &scratch,
        &ini.set("mysql_password", "y").text(),
        &[&[&user]],
    )
    .await;
}

#[tokio::test]
async fn a_database_that_cannot_be_reached_is_told() {
    let scratch = Scratch::new();
    let database = database().await;
    let nobody = jobd_tests::ports::free();
    let text = Ini::worker(&database)
        .set("mysql_port", nobody)
        .target("a", 1)
        .text();
    check_refused("jobd", &scratch, &text, &[&["127.0.0.1"]]).await;
}

#[tokio::test]
async fn a_start_stops_for_errors_and_goes_on_with_warnings() {
    let scratch = Scratch::new();
    let database = database().await;
    let good = Ini::worker(&database).target("a", 1);
    let broken = good.clone().set("poll_interval", "soon");
    let mut daemon = Daemon::launch(&path("jobd"), &scratch, &broken);
    assert_eq!(daemon.process.wait(PATIENCE).await.code(), Some(78));
    assert!(daemon.process.log().contains("poll_interval"));

    let misspelt = good.clone().set("drain_timeoutt", 5);
    let mut daemon = Daemon::launch(&path("jobd"), &scratch, &misspelt);
    daemon.listening().await;
    // A thread writes the log.
    until("a word about the key", PATIENCE, async || {
        daemon.process.log().contains("drain_timeout").then_some(())
    })
    .await;

    drop(daemon);

    database.run("ALTER TABLE jobs DROP return_code").await;
    let mut daemon = Daemon::launch(&path("jobd"), &scratch, &good);
    let code = until(
        "the end of a worker without a column",
        jobd_tests::wait::PATIENCE,
        async || daemon.process.ended(),
    )
    .await;
    assert_eq!(code.code(), Some(78), "{}", daemon.process.log());
    assert!(daemon.process.log().contains("return_code"));
}

#[tokio::test]
async fn a_state_dir_that_cannot_be_written_to_is_told() {
    let scratch = Scratch::new();
    let database = database().await;
    let state = scratch.join("state");
    std::fs::create_dir(&state).expect("a folder");
    let ini = Ini::worker(&database).target("a", 1).set("name", "w1");
    let text = ini.set("state_dir", state.display()).text();
    let (code, said) = check("jobd", &scratch, &text).await;
    assert_eq!(code, Some(0), "{said}");
    let lock = state.join("w1.lock");
    std::fs::create_dir(&lock).expect("a folder in the place of a file");
    let (code, said) = check("jobd", &scratch, &text).await;
    assert_eq!(code, Some(78), "{said}");
    let told = format!("state_dir: cannot write to {}", lock.display());
    assert!(said.contains(&told), "{said}");
    std::fs::remove_dir(&lock).expect("remove the folder");
    let file = scratch.write("checked.conf", &text);
    std::fs::set_permissions(&state, Permissions::from_mode(0o500)).expect("chmod");
    let mut command = if rustix::process::geteuid().is_root() {
        // Root passes over the modes of folders; a container may take that from it, but not let it mount another one.
        let mut without = Command::new("setpriv");
        without.args(["--bounding-set=-dac_override", "--inh-caps=-dac_override"]);
        without.arg(path("jobd"));
        without
    } else {
        Command::new(path("jobd"))
    };
    let all = output(command.arg("--config").arg(file).arg("--check-config")).await;
    let said = String::from_utf8_lossy(&all.stdout);
    assert_eq!(all.status.code(), Some(78), "{said}");
    let told = format!("state_dir: cannot write to {}", state.display());
    assert!(said.contains(&told), "{said}");
}
