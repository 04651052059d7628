//! What jobctl tells an operator of a real database: clocks that are apart, what an account may not do, and what mends
//! a table; each cure is carried out as it stands.

use std::path::PathBuf;
use std::process::{Command, Output};

use jobd_tests::chaos::stage::Clock;
use jobd_tests::ground::Ground;
use jobd_tests::{Database, Ini, Scratch, Server, programs};
use serde_json::Value;

/// A config of jobctl's, for this table and a daemon that nobody is.
fn config(scratch: &Scratch, ini: Ini) -> PathBuf {
    let others = [
        "launcher",
        "poll_interval",
        "log_level_console",
        "host",
        "storage",
    ];
    let ini = others.iter().fold(ini, |ini, key| ini.unset(key));
    let path = scratch.write("jobctl.conf", ini.set("port", 1).text());
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&path, private).expect("a config of one's own");
    path
}

async fn jobctl(ground: &Ground, words: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(programs::path("jobctl"));
    command
        .arg("--config")
        .arg(config(&ground.scratch, ground.ini()))
        .args(words);
    programs::output(command.envs(variables.iter().copied())).await
}

/// Level, text and cure of what doctor finds about `about`.
async fn findings(ground: &Ground, about: &str, variables: &[(&str, &str)]) -> Vec<[String; 3]> {
    let doctor = jobctl(ground, &["doctor", "--json"], variables).await;
    let report: Value = serde_json::from_slice(&doctor.stdout)
        .unwrap_or_else(|error| panic!("{error}: {doctor:?}"));
    let all = report["findings"].as_array().expect("findings").iter();
    let found = all.filter(|finding| finding["about"] == about);
    let text = |finding: &Value, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
    found
        .map(|finding| ["level", "text", "mend"].map(|key| text(finding, key)))
        .collect()
}

#[tokio::test]
async fn doctor_compares_the_clocks() {
    let library = Clock::library().expect("libfaketime is installed");
    let library = library.to_str().expect("a path");
    let ntp = "timedatectl set-ntp true # on the host whose clock is wrong";
    let apart = "the clocks of the database and of this host are 10m";
    let agree = "the database and this host agree";
    for (ground, is_file) in [
        (Ground::mysql().await, false),
        (Ground::sqlite().await, true),
    ] {
        // The clock of a file is this host's.
        for (wrong_by, is_apart) in [("+605", !is_file), ("-605", !is_file), ("+2", false)] {
            let variables = [
                ("LD_PRELOAD", library),
                ("FAKETIME", wrong_by),
                ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
            ];
            let found = findings(&ground, "clocks", &variables).await;
            let [[level, text, mend]] = &found[..] else {
                panic!("{found:?}")
            };
            let expected = if is_apart {
                ("warning", apart, ntp)
            } else {
                ("ok", agree, "")
            };
            assert_eq!(
                (level.as_str(), mend.as_str()),
                (expected.0, expected.2),
                "{wrong_by}: {text}"
            );
            assert!(text.starts_with(expected.1), "{wrong_by}: {text}");
        }
    }
}

#[tokio::test]
async fn doctor_knows_rows_of_the_future() {
    for ground in Ground::each().await {
        let soon = format!(
            "INSERT INTO jobs (target, time_created) VALUES ('mail', {})",
            ground.in_seconds(2)
        );
        ground.run(&soon).await;
        assert_eq!(findings(&ground, "clocks", &[]).await[0][0], "ok");
        let late = format!(
            "INSERT INTO jobs (target, time_created) VALUES ('mail', {})",
            ground.in_seconds(3600)
        );
        ground.run(&late).await;
        let expected = [
            "warning",
            "job 2 was added in the future, by the database's clock",
            "timedatectl set-ntp true # on the host of the application",
        ];
        assert_eq!(findings(&ground, "clocks", &[]).await, [expected]);
    }
}

#[tokio::test]
async fn what_doctor_says_of_a_table_mends_it() {
    // There the values of status are not mended by one statement: those of `jobd --check-config` have a test of their own.
    let minimal = include_str!("../../sql/sqlite/jobs-minimal.sql");
    let sqlite = Ground::sqlite_made_by(&minimal.replace("'done',", "'done', 'scheduled',")).await;
    let mysql = Ground::mysql_made_by(&[jobd_tests::database::MINIMAL]).await;
    for ground in [mysql, sqlite] {
        for sql in [
            &*ground.drop_index("status_target_idx"),
            "ALTER TABLE jobs ADD COLUMN worker VARCHAR(255)",
            "ALTER TABLE jobs ADD COLUMN priority INT NOT NULL DEFAULT 0",
            "ALTER TABLE jobs ADD COLUMN run_at BIGINT",
            "ALTER TABLE jobs ADD COLUMN cancel_requested BIGINT",
            "ALTER TABLE jobs ADD COLUMN cpu_ms BIGINT",
            "ALTER TABLE jobs ADD COLUMN errors TEXT",
        ] {
            ground.run(sql).await;
        }
        let found = [
            findings(&ground, "table", &[]).await,
            findings(&ground, "indexes", &[]).await,
        ]
        .concat();
        let texts: Vec<&str> = found.iter().map(|[_, text, _]| text.as_str()).collect();
        for wanted in [
            "ownership is off, as columns are missing: lease_until, attempts, interruptions",
            "retries is off, as columns are missing: max_attempts",
            "accounting is off, as columns are missing: peak_kib",
            "no index begins with status and target: every claim reads the whole table",
            "no index begins with run_at: looking for such rows reads the whole table",
            "no index begins with cancel_requested: looking for such rows reads the whole table",
        ] {
            assert!(texts.contains(&wanted), "{wanted} is not in {texts:?}");
        }
        for [_, text, mend] in &found {
            assert!(!mend.is_empty(), "{text}");
            ground.run(mend).await;
        }
        for about in ["table", "indexes"] {
            let left = findings(&ground, about, &[]).await;
            let levels = left.iter().map(|[level, ..]| level.as_str());
            assert!(levels.clone().eq(["ok"]), "{left:?}");
        }
    }
}

/// An account that may do this on the table `jobs`, and nothing else.
async fn account(database: &Database, may: &str) -> Ini {
    let user = programs::unique_name("may");
    let user = &user[..user.len().min(32)];
    database
        .run(&format!(
            "CREATE USER '{user}'@'127.0.0.1' IDENTIFIED BY 'p'"
        ))
        .await;
    if !may.is_empty() {
        let on = format!("`{}`.jobs", database.name);
        database
            .run(&format!("GRANT {may} ON {on} TO '{user}'@'127.0.0.1'"))
            .await;
    }
    Ini::worker(database)
        .set("mysql_user", user)
        .set("mysql_password", "p")
}

#[tokio::test]
async fn what_an_account_may_not_do_is_named_with_the_grant() {
    let scratch = Scratch::new();
    let database = Server::shared().await.database().await;
    database.run(jobd_tests::database::FULL).await;
    let failed = "INSERT INTO jobs (target, time_created, time_finished, status, result) VALUES ('mail', 1, 2, 'done', 'fail')";
    database.run(failed).await;
    let grant = "the account mysql_user of the config needs a GRANT for that";
    for (may, words, complaints) in [
        (
            "SELECT",
            "add --target mail",
            ["INSERT command denied", grant],
        ),
        ("SELECT", "retry 1", ["UPDATE command denied", grant]),
        ("SELECT", "cancel 1 --yes", ["UPDATE command denied", grant]),
        (
            "SELECT",
            "prune --older-than 30d --yes",
            ["DELETE command denied", grant],
        ),
        (
            "SELECT, UPDATE",
            "prune --older-than 30d --yes",
            ["DELETE command denied", grant],
        ),
        ("INSERT", "list", ["SELECT command denied", grant]),
        ("INSERT", "doctor", ["SELECT command denied", grant]),
        (
            "",
            "list",
            [
                "Access denied for user",
                "look at mysql_user, mysql_password and mysql_database",
            ],
        ),
        (
            "",
            "create-table",
            [
                "Access denied for user",
                "look at mysql_user, mysql_password and mysql_database",
            ],
        ),
    ] {
        let path = config(&scratch, account(&database, may).await);
        let mut command = Command::new(programs::path("jobctl"));
        command.arg("--config").arg(path).args(words.split(' '));
        let run = programs::output(&mut command).await;
        assert_eq!(run.status.code(), Some(1), "{may}: {words}: {run:?}");
        let told = String::from_utf8([run.stdout, run.stderr].concat()).expect("text");
        for complaint in complaints {
            assert!(
                told.contains(complaint),
                "{may}: {words}: {complaint:?} is not in {told}"
            );
        }
        assert!(!told.contains("not very secret"), "{told}");
    }
    let rows = database.counts().await;
    assert_eq!(
        rows.into_iter().collect::<Vec<_>>(),
        [("done".to_owned(), 1)],
        "nothing was changed"
    );
}
