//! SIGHUP and SIGUSR1: other settings for daemons that run. No job is touched, nothing is lost.

use jobd_tests::programs::Daemon;
use jobd_tests::wait::PATIENCE;
use jobd_tests::{Database, Ini, Jobd, Master, Scratch, Server, WitnessLog, until};
use rustix::process::Signal;
use serde_json::{Value, json};

async fn minimal_table() -> Database {
    let database = Server::shared().await.database().await;
    database.minimal_table().await;
    database
}

/// Waits until a daemon has said something.
async fn says(daemon: &Daemon, words: &str) {
    until(&format!("the log to say {words:?}"), PATIENCE, async || {
        daemon.process.log().contains(words).then_some(())
    })
    .await;
}

/// Has a daemon read another config, and waits until it has said what it makes of it.
async fn reload(daemon: &mut Daemon, text: &str, words: &str) {
    std::fs::write(&daemon.config, text).expect("write the config");
    daemon.process.signal(Signal::HUP);
    says(daemon, words).await;
}

async fn targets(daemon: &Daemon) -> Value {
    daemon.ask("status", json!({})).await["targets"].clone()
}

#[tokio::test]
async fn a_reload_under_load_touches_no_job_and_loses_none() {
    let scratch = Scratch::new();
    let witness = WitnessLog::new(&scratch);
    let database = minimal_table().await;
    let master_ini = Ini::listen();
    let master = Master::start(&scratch, &master_ini).await;
    let before = Ini::worker(&database)
        .set("name", "w")
        .set("master_host", "127.0.0.1")
        .set("master_port", master_ini.port())
        .set("poll_interval", "0.2")
        .set("launcher", witness.launcher("before", 400, 1));
    let after = before
        .clone()
        .set("launcher", witness.launcher("after", 50, 1))
        .set("mysql_fetch_limit", 7)
        .set("max_output_buffer", "1M")
        .target("stays", 4)
        .target("new", 1);
    let before = before.target("stays", 2).target("gone", 1);
    let mut jobd = Jobd::ready(&scratch, &before).await;
    Master::has_workers(&master, 1).await;
    let pid = jobd.process.id();
    // Work for many seconds: some of it is left at the reload, however late that comes.
    let stays = database.insert(100, "stays", "waiting").await;
    let gone = database.insert(50, "gone", "waiting").await;
    let new = database.insert(5, "new", "waiting").await;
    let by_hand = database.insert_one("gone", "manual").await;
    until("three running jobs", PATIENCE, async || {
        (witness.running() == 3).then_some(())
    })
    .await;
    // Claimed, it waits for the slot of a target that is about to go.
    let mut client = jobd.wire().await;
    client
        .say(&format!(
            r#"[0,{{"no":1,"type":"run-manual","data":{{"ids":[{by_hand}]}}}}]"#
        ))
        .await;
    until("the manual job to be claimed", PATIENCE, async || {
        (database.row(by_hand).await.status != "manual").then_some(())
    })
    .await;

    let words = "reloaded, changed: launcher, max_output_buffer, mysql_fetch_limit, \
                 target stays (from 2 to 4 at a time), target new (new, 1 at a time), \
                 target gone (removed, ";
    reload(&mut jobd, &after.text(), words).await;

    let answer = client.response(1).await;
    assert_eq!(
        answer["data"]["jobs"][by_hand.to_string()]["result"],
        "ok",
        "{answer}"
    );
    for id in stays.iter().chain(&new) {
        database.done(*id).await;
    }
    until("the target to be gone", PATIENCE, async || {
        targets(&jobd).await.get("gone").is_none().then_some(())
    })
    .await;
    assert_eq!(targets(&jobd).await["stays"]["concurrency"], 4);
    until("the master to know", PATIENCE, async || {
        let status = master.ask("status", json!({})).await;
        let workers = status["workers"].as_array().expect("workers").clone();
        let names: Vec<&Value> = workers.iter().map(|worker| &worker["targets"]).collect();
        (names == [&json!(["new", "stays"])]).then_some(())
    })
    .await;
    // What had not begun went back; what had begun came to its end, once.
    let mut ended = vec![by_hand];
    for &id in &gone {
        let row = database.row(id).await;
        match row.status.as_str() {
            "waiting" => assert_eq!((row.time_started, row.stderr.as_deref()), (0, None)),
            _ => ended.push(id),
        }
    }
    assert!((2..=gone.len()).contains(&ended.len()), "{ended:?}");
    witness.assert_each_once(stays.into_iter().chain(new).chain(ended.clone()));
    for row in database
        .rows()
        .await
        .iter()
        .filter(|row| row.status == "done")
    {
        assert_eq!(
            row.verdict(),
            ("done", Some("ok"), Some(0), None),
            "{row:?}"
        );
        assert_eq!(row.out(), format!("out {}\n", row.id));
    }
    let most = witness.most_at_once();
    let at_once = |worker: &str, target: &str| most.get(&(worker.into(), target.into())).copied();
    assert_eq!(at_once("before", "stays"), Some(2));
    assert!(at_once("after", "stays") > Some(2), "{most:?}");
    assert_eq!(at_once("before", "new"), None);
    assert_eq!(jobd.process.id(), pid);
    assert!(jobd.stop().await.success());
}

#[tokio::test]
async fn a_broken_file_changes_nothing() {
    let scratch = Scratch::new();
    let database = minimal_table().await;
    let good = Ini::worker(&database).target("a", 2);
    let mut jobd = Jobd::ready(&scratch, &good).await;
    let master_ini = Ini::listen().set("poke_throttle_interval", 60);
    let mut master = Master::start(&scratch, &master_ini).await;
    let bad = good
        .clone()
        .set("poll_interval", "soon")
        .set("launcher", "false")
        .target("a", 9)
        .target("b", 0);
    reload(
        &mut jobd,
        &bad.text(),
        "is not reloaded, the old settings stay: 2 mistakes",
    )
    .await;
    let log = jobd.process.log();
    let line = |key: &str| {
        let text = bad.text();
        let at = text.lines().position(|line| line.starts_with(key));
        format!("{}:{}: ", jobd.config.display(), at.expect("a line") + 1)
    };
    for finding in [line("poll_interval"), line("b = 0")] {
        assert!(log.contains(&finding), "{finding} in\n{log}");
    }
    let forbidden = good
        .clone()
        .set("log_file", "/nowhere/x.log")
        .target("a", 9);
    reload(
        &mut jobd,
        &forbidden.text(),
        "stay: cannot open log_file /nowhere/x.log",
    )
    .await;
    std::fs::remove_file(&jobd.config).expect("remove the config");
    jobd.process.signal(Signal::HUP);
    says(&jobd, "stay: cannot read config file").await;
    assert_eq!(targets(&jobd).await["a"]["concurrency"], 2);
    let id = database.insert_one("a", "waiting").await;
    jobd.ask("poll", json!({})).await;
    assert_eq!(database.done(id).await.result.as_deref(), Some("ok"));

    reload(
        &mut master,
        &master_ini.set("ping_interval", "x").text(),
        "stay: 1 mistake",
    )
    .await;
    assert_eq!(master.ask("poke", json!({})).await, "ok");
}

#[tokio::test]
async fn what_clients_have_set_stays_until_the_file_says_something_new() {
    let scratch = Scratch::new();
    let database = minimal_table().await;
    let ini = |a| Ini::worker(&database).target("a", a).target("b", 1);
    let mut jobd = Jobd::ready(&scratch, &ini(2)).await;
    let set = json!({"target": "a", "concurrency": 7});
    assert_eq!(jobd.ask("set-target-concurrency", set).await, "ok");
    let add = json!({"target": "c", "concurrency": 3});
    assert_eq!(jobd.ask("add-target", add).await, "ok");
    // Until its first claim is over it is busy.
    says(&jobd, "claimed target=b rows=0").await;
    assert_eq!(
        jobd.ask("remove-target", json!({"target": "b"})).await,
        "ok"
    );
    let text = ini(2).set("poll_interval", 9).text();
    reload(&mut jobd, &text, "reloaded, changed: poll_interval\n").await;
    says(
        &jobd,
        "targets stay as clients have set them: a 7 (file: 2), b removed (file: 1), c (not in the file)",
    )
    .await;
    let now = targets(&jobd).await;
    assert_eq!(
        (&now["a"]["concurrency"], &now["c"]["concurrency"]),
        (&json!(7), &json!(3))
    );
    assert!(now.get("b").is_none(), "{now}");
    let text = ini(4).target("c", 5).text();
    reload(
        &mut jobd,
        &text,
        "target a (from 7 to 4 at a time), target c (from 3 to 5 at a time)\n",
    )
    .await;
    let now = targets(&jobd).await;
    assert_eq!(
        (&now["a"]["concurrency"], &now["c"]["concurrency"]),
        (&json!(4), &json!(5))
    );
    reload(&mut jobd, &text, "reloaded, nothing changed").await;
}

#[tokio::test]
async fn what_needs_a_restart_is_named_and_stays() {
    let scratch = Scratch::new();
    let database = minimal_table().await;
    let ini = Ini::worker(&database).set("name", "w").target("a", 1);
    let mut jobd = Jobd::ready(&scratch, &ini).await;
    let text = ini
        .clone()
        .set("port", 1)
        .set("name", "v")
        .set("lease", 5)
        .set("mysql_password", "s3cret")
        .set("mysql_table", "others")
        .set("kill_grace", 1)
        .target("a", 2)
        .text();
    let words = format!(
        "changes that need a restart are not in force, still counts: \
         lease = unset, mysql_password = …, mysql_table = jobs, name = w, port = {}\n",
        ini.port()
    );
    for _ in 0..2 {
        // Again at each reload, for as long as it is so.
        let before = jobd.process.log().matches(&words).count();
        std::fs::write(&jobd.config, &text).expect("write the config");
        jobd.process.signal(Signal::HUP);
        until("a warning", PATIENCE, async || {
            (jobd.process.log().matches(&words).count() > before).then_some(())
        })
        .await;
    }
    assert!(!jobd.process.log().contains("s3cret"));
    says(
        &jobd,
        "reloaded, changed: kill_grace, target a (from 1 to 2 at a time)\n",
    )
    .await;
    let status = jobd.ask("status", json!({})).await;
    assert_eq!(
        (&status["name"], &status["targets"]["a"]["concurrency"]),
        (&json!("w"), &json!(2))
    );
    let id = database.insert_one("a", "waiting").await;
    jobd.ask("poll", json!({})).await;
    database.done(id).await;
}

#[tokio::test]
async fn logs_are_reopened_moved_and_made_louder() {
    let scratch = Scratch::new();
    let database = minimal_table().await;
    let worker = Ini::worker(&database).target("a", 1);
    let jobd = Jobd::ready(&scratch, &with_file(&worker, &scratch, "jobd.log", "info")).await;
    let listen = Ini::listen();
    let master = Master::start(
        &scratch,
        &with_file(&listen, &scratch, "master.log", "info"),
    )
    .await;
    for (mut daemon, ini, name) in [(jobd, worker, "jobd.log"), (master, listen, "master.log")] {
        let path = scratch.join(name);
        let reads = async |path: &std::path::Path, words: &str| {
            until(
                &format!("{words:?} in {}", path.display()),
                PATIENCE,
                async || {
                    let text = std::fs::read_to_string(path).unwrap_or_default();
                    text.contains(words).then_some(text)
                },
            )
            .await
        };
        reads(&path, "listen").await;
        // As logrotate does it.
        let rotated = scratch.join(&format!("{name}.rotated"));
        std::fs::rename(&path, &rotated).expect("move the log away");
        daemon.process.signal(Signal::USR1);
        reads(&path, "received SIGUSR1").await;
        let old = std::fs::read_to_string(&rotated).expect("the old log");
        assert!(old.contains("listen") && !old.contains("SIGUSR1"), "{old}");
        // Another file, and more in it.
        let other = format!("other-{name}");
        let text = with_file(&ini, &scratch, &other, "debug").text();
        reload(
            &mut daemon,
            &text,
            "reloaded, changed: log_file, log_level_file\n",
        )
        .await;
        reads(&scratch.join(&other), "INFO ").await;
        let mut wire = daemon.wire().await;
        wire.say("no JSON").await;
        wire.frame().await;
        reads(&scratch.join(&other), "DEBUG message refused").await;
        let left = std::fs::read_to_string(&path).expect("the log that was left");
        assert!(!left.contains("reloaded"), "{left}");
        // And less.
        let text = with_file(&ini, &scratch, &other, "error").text();
        reload(&mut daemon, &text, "reloaded, changed: log_level_file\n").await;
        wire.say("no JSON").await;
        wire.frame().await;
        assert!(daemon.process.terminate().await.success());
        assert!(daemon.process.log().contains("received SIGTERM"));
        let text = std::fs::read_to_string(scratch.join(&other)).expect("a log");
        let refused = text.matches("message refused").count();
        assert_eq!((refused, text.contains("SIGTERM")), (1, false), "{text}");
    }
}

fn with_file(ini: &Ini, scratch: &Scratch, name: &str, level: &str) -> Ini {
    ini.clone()
        .set("log_file", scratch.join(name).display())
        .set("log_level_file", level)
}

#[tokio::test]
async fn a_master_goes_on_with_other_settings_and_keeps_its_workers() {
    let scratch = Scratch::new();
    let database = minimal_table().await;
    let ini = Ini::listen().set("poke_throttle_interval", 60);
    let mut master = Master::start(&scratch, &ini).await;
    let worker = |target| {
        Ini::worker(&database)
            .set("poll_interval", 0)
            .set("master_host", "127.0.0.1")
            .set("master_port", ini.port())
            .target(target, 1)
    };
    let _jobd = Jobd::ready(&scratch, &worker("a")).await;
    Master::has_workers(&master, 1).await;
    let before = master.ask("status", json!({})).await["workers"].clone();
    let mut other = Jobd::ready(&scratch, &worker("b")).await;
    Master::has_workers(&master, 2).await;
    // The first poke is a poll, the second one waits for the end of a minute.
    master.ask("poke", json!({"targets": ["a"]})).await;
    let id = database.insert_one("a", "waiting").await;
    master.ask("poke", json!({"targets": ["a"]})).await;
    let text = ini
        .clone()
        .set("poke_throttle_interval", "0.05")
        .set("ping_interval", 1)
        .set("password", "open sesame")
        .set("port", 1)
        .text();
    let words = "reloaded, changed: password, ping_interval, poke_throttle_interval\n";
    let mut wire = master.wire().await;
    // Answered, it is in: a connection that only waits to be accepted comes after the reload.
    wire.ask("status", json!({})).await;
    reload(&mut master, &text, words).await;
    says(&master, &format!("still counts: port = {}\n", ini.port())).await;
    database.done(id).await;
    // Who was in stays in, who comes has to know the password.
    let workers = wire.ask("status", json!({})).await["workers"].clone();
    assert_eq!(workers.as_array().map(Vec::len), Some(2), "{workers}");
    let mut stranger = master.wire().await;
    stranger.say(r#"[0,{"no":3,"type":"status"}]"#).await;
    assert!(stranger.frame().await.contains("invalid password"));
    // A worker that does not answer the new pings is dropped after three of them; the other one answers them.
    other.process.signal(Signal::STOP);
    says(&master, "is gone: peer was silent for 3s").await;
    assert_eq!(wire.ask("status", json!({})).await["workers"], before);
    other.process.signal(Signal::CONT);
}

#[tokio::test]
async fn a_worker_moves_to_another_master() {
    let scratch = Scratch::new();
    let database = minimal_table().await;
    let inis = [Ini::listen(), Ini::listen()];
    let first = Master::start(&scratch, &inis[0]).await;
    let second = Master::start(&scratch, &inis[1]).await;
    let worker = |port: u16| {
        Ini::worker(&database)
            .set("master_host", "127.0.0.1")
            .set("master_port", port)
            .set("master_reconnect_timeout", "0.2")
            .target("a", 1)
    };
    let mut jobd = Jobd::ready(&scratch, &worker(inis[0].port())).await;
    Master::has_workers(&first, 1).await;
    reload(
        &mut jobd,
        &worker(inis[1].port()).text(),
        "changed: master_port\n",
    )
    .await;
    Master::has_workers(&second, 1).await;
    Master::has_workers(&first, 0).await;
    // What the master does not know is no reason to register anew.
    let more = worker(inis[1].port()).target("a", 2).text();
    reload(&mut jobd, &more, "target a (from 1 to 2 at a time)\n").await;
    let id = database.insert_one("a", "waiting").await;
    second.ask("poke", json!({"targets": ["a"]})).await;
    database.done(id).await;
    // Without a target there is nothing to register.
    let none = worker(inis[1].port()).text().replace("a = 1", "");
    reload(&mut jobd, &none, "changed: target a (removed)\n").await;
    Master::has_workers(&second, 0).await;
    reload(
        &mut jobd,
        &worker(inis[1].port()).text(),
        "target a (new, 1 at a time)\n",
    )
    .await;
    Master::has_workers(&second, 1).await;
    let alone = Ini::worker(&database).target("a", 1).text();
    reload(
        &mut jobd,
        &alone,
        "changed: master_host, master_port, master_reconnect_timeout\n",
    )
    .await;
    Master::has_workers(&second, 0).await;
    let registered = jobd
        .process
        .log()
        .matches("registered with the master")
        .count();
    assert_eq!(
        registered, 3,
        "at each master, and with the target that came back"
    );
}
