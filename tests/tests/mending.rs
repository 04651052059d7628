//! What `jobctl doctor` advises mends what it has found: each finding is brought about, its advice is carried out as it
//! stands there, and the finding is gone. On MariaDB (or MySQL) and SQLite.

use std::path::{Path, PathBuf};
use std::process::Command;

use jobd_tests::ground::Ground;
use jobd_tests::programs;
use jobd_tests::{Ini, Jobd, Master};
use serde_json::Value;

/// How a table is harmed, and what the finding about it says. Each begins with a whole one.
const HARMS: [(&str, &str); 6] = [
    (
        "ALTER TABLE jobs DROP COLUMN errors",
        "retries is off, as columns are missing: errors",
    ),
    (
        "ALTER TABLE jobs DROP COLUMN peak_kib",
        "accounting is off, as columns are missing: peak_kib",
    ),
    (
        "ALTER TABLE jobs DROP COLUMN attempts",
        "ownership is off, as columns are missing: attempts",
    ),
    (
        "INSERT INTO jobs (target, time_created, status, time_started) VALUES ('elsewhere', 1, 'running', 1)",
        "without a lease",
    ),
    (
        "INSERT INTO jobs (target, time_created, status) VALUES ('elsewhere', 1, 'accepted')",
        "is accepted and not started",
    ),
    ("chmod", "others may read it"),
];

struct World {
    ground: Ground,
    config: PathBuf,
}

impl World {
    /// The findings that hold `text`.
    async fn findings(&self, text: &str) -> Vec<Value> {
        let report = doctor(&self.config).await;
        let findings = report["findings"].as_array().expect("findings").clone();
        let about = |finding: &Value| {
            finding["text"]
                .as_str()
                .is_some_and(|found| found.contains(text))
        };
        findings.into_iter().filter(about).collect()
    }

    /// Carries out what the one finding with `text` advises, and looks whether it is gone.
    async fn mend(&self, text: &str) {
        let found = self.findings(text).await;
        let [finding] = &found[..] else {
            panic!("one finding with {text:?}, not {found:?}");
        };
        let mend = finding["mend"].as_str().expect("an advice");
        if let Some(command) = mend.strip_prefix("jobctl ") {
            // It names the config that was given.
            let mut jobctl = Command::new(programs::path("jobctl"));
            jobctl.args(command.split(' '));
            let done = programs::output(&mut jobctl).await;
            assert!(done.status.success(), "{mend}: {done:?}");
        } else if mend.starts_with("chmod") {
            let done = programs::output(Command::new("sh").args(["-c", mend])).await;
            assert!(done.status.success(), "{mend}: {done:?}");
        } else {
            self.ground.run(mend).await;
        }
        let left = self.findings(text).await;
        assert!(left.is_empty(), "{mend} mends nothing: {left:?}");
    }
}

async fn doctor(config: &Path) -> Value {
    let mut jobctl = Command::new(programs::path("jobctl"));
    jobctl
        .arg("--config")
        .arg(config)
        .args(["doctor", "--json"]);
    let output = programs::output(&mut jobctl).await;
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn open_to(config: &Path, mode: u32) {
    let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
    std::fs::set_permissions(config, mode).expect("set the mode of a config");
}

#[tokio::test]
async fn what_the_doctor_advises_mends_what_he_found() {
    for ground in Ground::each().await {
        let ini = Ini::listen();
        let master = Master::start(&ground.scratch, &ini).await;
        let worker = ground
            .ini()
            .set("master_host", "127.0.0.1")
            .set("master_port", ini.port());
        let worker = Jobd::ready(
            &ground.scratch,
            &worker.set("name", "web1").target("mail", 1),
        )
        .await;
        Master::has_workers(&master, 1).await;
        let mut config = ground.ini().set("port", ini.port()).set("master", 1);
        config = config.set("password", "unused");
        for key in ["launcher", "poll_interval", "log_level_console", "storage"] {
            config = config.unset(key);
        }
        let config = ground.scratch.write("jobctl.conf", config.text());
        open_to(&config, 0o600);
        let whole = doctor(&config).await;
        assert_eq!(
            (&whole["errors"], &whole["warnings"]),
            (&0.into(), &0.into()),
            "{whole}"
        );
        worker.ask("pause", serde_json::json!({})).await;
        let world = World { ground, config };
        world.mend("web1 has paused mail").await;
        // What the worker does while the table is harmed is not looked at here.
        assert!(worker.stop().await.success());
        for (harm, text) in HARMS {
            match harm {
                "chmod" => open_to(&world.config, 0o644),
                sql => world.ground.run(sql).await,
            }
            world.mend(text).await;
        }
        let drop = world.ground.drop_index("status_target_idx");
        world.ground.run(&drop).await;
        world.mend("no index begins with status and target").await;
        let drop = world.ground.drop_index("status_target_idx");
        world.ground.run(&drop).await;
        let old = "CREATE INDEX status_target_idx ON jobs (status, target, id)";
        world.ground.run(old).await;
        let text = "the index status_target_idx lacks priority DESC";
        world.mend(text).await;
        let found = world
            .findings("claims go by the index status_target_idx")
            .await;
        assert_eq!(found.len(), 1, "{found:?}");
        let drop = world.ground.drop_index("run_at_idx");
        world.ground.run(&drop).await;
        world.mend("no index begins with run_at").await;
    }
}

#[tokio::test]
async fn a_status_that_the_column_lacks_is_added_behind_those_that_there_are() {
    let ground = Ground::mysql().await;
    ground
        .run("ALTER TABLE jobs MODIFY status enum('waiting','accepted','running','mine','done','ignored') NOT NULL DEFAULT 'waiting'")
        .await;
    ground
        .run("INSERT INTO jobs (target, time_created, status) VALUES ('mail', 1, 'mine')")
        .await;
    let mut config = ground.ini().set("port", 1);
    for key in ["launcher", "poll_interval", "log_level_console"] {
        config = config.unset(key);
    }
    let config = ground.scratch.write("jobctl.conf", config.text());
    let world = World { ground, config };
    world.mend("the column status lacks manual").await;
    assert_eq!(
        world.ground.text(1, "status").await.as_deref(),
        Some("mine")
    );
}

/// SQLite changes no column in its place: the doctor says who knows the statements.
#[tokio::test]
async fn a_status_that_sqlite_does_not_take_is_added_by_what_check_config_prints() {
    let full = include_str!("../../sql/sqlite/jobs.sql");
    let ground = Ground::sqlite_made_by(&full.replace("'manual', ", "")).await;
    ground.insert("mail", &[("status", "'scheduled'")]).await;
    let ini = ground.ini().set("launcher", "true").target("mail", 1);
    let worker = ground.scratch.write("jobd.conf", ini.text());
    let mut config = ground.ini().set("port", 1);
    for key in ["launcher", "poll_interval", "log_level_console"] {
        config = config.unset(key);
    }
    let config = ground.scratch.write("jobctl.conf", config.text());
    let world = World { ground, config };
    let findings = world.findings("the column status lacks manual").await;
    let mend = findings[0]["mend"].as_str().expect("an advice");
    assert!(mend.contains("jobd --check-config"), "{mend}");
    let mut jobd = Command::new(programs::path("jobd"));
    jobd.arg("--check-config").arg("--config").arg(worker);
    let printed = programs::output(&mut jobd).await;
    let printed = String::from_utf8_lossy(&printed.stdout).into_owned();
    let ddl = printed.lines().find(|line| line.starts_with("  BEGIN"));
    world
        .ground
        .run(ddl.unwrap_or_else(|| panic!("{printed}")))
        .await;
    let left = world.findings("the column status").await;
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(
        world.ground.text(1, "status").await.as_deref(),
        Some("scheduled")
    );
}
