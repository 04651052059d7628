//! `[target:NAME]`: what is set for one target counts there and nowhere else.

use std::process::Command;

use jobd_tests::wait::PATIENCE;
use jobd_tests::{Database, Ini, Jobd, Scratch, Server, programs, until};
use rustix::process::Signal;
use serde_json::json;

async fn minimal_table() -> Database {
    let database = Server::shared().await.database().await;
    database.minimal_table().await;
    database
}

/// What a job of each target wrote.
async fn outputs(database: &Database, targets: &[&str]) -> Vec<String> {
    let mut written = Vec::new();
    for target in targets {
        let id = database.insert_one(target, "waiting").await;
        written.push(database.done(id).await.out().to_owned());
    }
    written
}

#[tokio::test]
async fn a_target_overrides_what_is_set_for_all_also_after_a_reload() {
    let scratch = Scratch::new();
    let folder = scratch.path().canonicalize().expect("a folder");
    let database = minimal_table().await;
    let all = Ini::worker(&database)
        .set("poll_interval", "0.1")
        .set("launcher", "sh -c 'pwd\\; echo $A $B'")
        .set("launcher.cwd", "/")
        .set("launcher.env.A", "1")
        .set("launcher.env.B", "2")
        .target("plain", 1)
        .target("own/low", 1)
        .target("short", 1);
    let ini = all
        .clone()
        .own("own/low", "launcher.cwd", folder.display())
        .own("own/low", "launcher.env.B", "3")
        .own("short", "launcher", "echo $A of {target}, {id}")
        .own("short", "launcher.shell", "always");
    let mut jobd = Jobd::start(&scratch, &ini).await;
    let targets = ["plain", "own/low", "short", "added"];
    let added = json!({"target": "added", "concurrency": 1});
    jobd.ask("add-target", added).await;
    assert_eq!(
        outputs(&database, &targets).await,
        [
            "/\n1 2\n",
            &format!("{}\n1 3\n", folder.display()),
            "1 of short, 3\n",
            "/\n1 2\n"
        ]
    );

    let ini = all.own("added", "launcher", "echo {target}");
    std::fs::write(&jobd.config, ini.text()).expect("write the config");
    jobd.process.signal(Signal::HUP);
    let words = "changed: [target:added] launcher, [target:own/low] launcher.cwd, \
                 [target:own/low] launcher.env.B, [target:short] launcher, [target:short] launcher.shell";
    until("the reload", PATIENCE, async || {
        jobd.process.log().contains(words).then_some(())
    })
    .await;
    let log = jobd.process.log();
    assert!(
        log.contains("[target:added] is about no target below [targets]"),
        "{log}"
    );
    assert_eq!(
        outputs(&database, &targets).await,
        ["/\n1 2\n", "/\n1 2\n", "/\n1 2\n", "added\n"]
    );
}

#[tokio::test]
async fn check_config_shows_what_is_set_for_single_targets() {
    let scratch = Scratch::new();
    let database = minimal_table().await;
    let ini = Ini::worker(&database)
        .target("a", 1)
        .own("a", "kill_grace", "1m")
        .own("a", "launcher.env.TOKEN", "s3cret")
        .own("a", "launcher", "/nonexistent/program {id}");
    let file = scratch.write("checked.conf", ini.text());
    let mut command = Command::new(programs::path("jobd"));
    let output = programs::output(command.arg("--config").arg(file).arg("--check-config")).await;
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{said}");
    for line in [
        "[target:a] kill_grace = 1m",
        "[target:a] launcher.env.TOKEN = …",
        "warning: target a: launcher: /nonexistent/program does not exist",
    ] {
        assert!(said.lines().any(|said| said == line), "{line} in\n{said}");
    }
    assert!(!said.contains("s3cret"));
}
