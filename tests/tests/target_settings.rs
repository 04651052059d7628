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

#[tokio::test]
async fn what_is_no_setting_of_a_target_may_be_secret_and_is_not_shown() {
    let scratch = Scratch::new();
    let database = minimal_table().await;
    let ini = Ini::worker(&database)
        .target("a", 1)
        .own("a", "timeout", "1m")
        .own("a", "password", "hunter2")
        .own("a", "mysql_pasword", "hunter3");
    let file = scratch.write("checked.conf", ini.text());
    let mut command = Command::new(programs::path("jobd"));
    let output = programs::output(command.arg("--config").arg(file).arg("--check-config")).await;
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("[target:a] timeout = 1m"), "{said}");
    assert!(
        said.contains("password is not read in [target:a]"),
        "{said}"
    );
    assert!(!said.contains("hunter"), "{said}");
}

#[tokio::test]
async fn a_name_that_a_pattern_serves_has_its_settings_in_whatever_case_where_the_table_minds_none()
{
    let scratch = Scratch::new();
    let database = minimal_table().await;
    let ini = Ini::worker(&database)
        .set("poll_interval", "0.1")
        .set("launcher", "echo all")
        .target("user/*", 1)
        .own("user/*", "launcher", "echo pattern {target}")
        .own("user/vip", "launcher", "echo vip {target}");
    let mut jobd = Jobd::start(&scratch, &ini).await;
    let targets = ["User/7", "user/7", "USER/VIP"];
    let expected = ["pattern User/7\n", "pattern user/7\n", "vip USER/VIP\n"];
    assert_eq!(outputs(&database, &targets).await, expected);
    let ini = ini.set("launcher", "echo other");
    std::fs::write(&jobd.config, ini.text()).expect("write the config");
    jobd.process.signal(Signal::HUP);
    until("the reload", PATIENCE, async || {
        let log = jobd.process.log();
        log.contains("changed: launcher").then_some(())
    })
    .await;
    assert_eq!(outputs(&database, &targets).await, expected);
}

#[tokio::test]
async fn a_target_that_may_be_silent_for_a_while_only_stops_no_other() {
    let (scratch, database) = (Scratch::new(), minimal_table().await);
    let ini = Ini::worker(&database)
        .set("poll_interval", "0.1")
        .set("kill_grace", "0.2")
        .set("launcher", "sh -c 'sleep 1.5\\; echo {target}'")
        .target("plain", 1)
        .target("impatient", 1)
        .own("impatient", "idle_timeout", "0.3");
    let jobd = Jobd::start(&scratch, &ini).await;
    let ids = ["plain", "impatient"].map(|target| database.insert_one(target, "waiting"));
    let ids = futures::future::join_all(ids).await;
    let [plain, impatient] = [database.done(ids[0]).await, database.done(ids[1]).await];
    assert_eq!(
        (plain.verdict(), plain.out()),
        (("done", Some("ok"), Some(0), None), "plain\n")
    );
    assert_eq!(
        (impatient.verdict(), impatient.out()),
        (("done", Some("fail"), None, Some("SIGTERM")), "")
    );
    assert!(impatient.err().contains("jobd:"), "{}", impatient.err());
    assert!(jobd.stop().await.success());
}

#[tokio::test]
async fn a_target_whose_output_is_cut_cuts_no_other() {
    let (scratch, database) = (Scratch::new(), minimal_table().await);
    let ini = Ini::worker(&database)
        .set("poll_interval", "0.1")
        .set("launcher", r#"sh -c "head -c 9000 /dev/zero | tr '\\0' x""#)
        .target("whole", 1)
        .target("cut", 1)
        .own("cut", "max_output_buffer", "2K");
    let jobd = Jobd::start(&scratch, &ini).await;
    let [whole, cut] = &outputs(&database, &["whole", "cut"]).await[..] else {
        panic!("two outputs");
    };
    assert_eq!(*whole, "x".repeat(9000));
    let kept = cut.matches('x').count();
    assert!(
        kept <= 2048 && cut.contains("bytes left out"),
        "{kept} kept"
    );
    assert!(jobd.stop().await.success());
}
