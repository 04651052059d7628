//! Arguments, configs and what cannot be reached.

use std::process::Stdio;

use serde_json::{Value, json};

use crate::daemon::Daemon;
use crate::jobctl::{ask, finish, program, run};
use crate::table::Table;

#[tokio::test]
async fn a_daemon_that_is_not_there_is_named_with_what_to_try() {
    // Bound and never listening, so that nobody else takes the port.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    let master = ask(address, &["--master", "status"]).await;
    let complaint =
        format!("cannot reach jobd-master at {address}: connection refused; is it running?");
    master.failed(3, &[&complaint, "--host/--port"]);
    ask(address, &["poll"])
        .await
        .failed(3, &["cannot reach jobd at", "jobctl --master"]);
}

#[tokio::test]
async fn the_other_kind_is_not_looked_for_at_the_port_of_the_config() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("jobctl.conf");
    // Port 1 is nobody's.
    for (text, other) in [
        ("port = 1\n", "--master --port 7081"),
        ("master = 1\nport = 1\n", "--worker --port 7080"),
    ] {
        std::fs::write(&config, text).unwrap();
        let config = config.to_str().unwrap();
        let status = run(["--config", config, "status"]).await;
        let proposed = format!("with jobctl --config {config} {other}\n");
        status.failed(3, &[&proposed]);
    }
}

#[tokio::test]
async fn a_question_to_nobody_proposes_a_line_that_can_be_entered() {
    use std::os::unix::ffi::OsStringExt as _;
    let table = Table::new(None).await;
    table
        .execute("INSERT INTO jobs (target, time_created, status) VALUES ('mail', 1, 'running')")
        .await;
    let mut config = table.folder.path().as_os_str().to_owned().into_vec();
    config.extend(b"/odd\xff.conf");
    let config = std::ffi::OsString::from_vec(config);
    std::fs::copy(&table.config, &config).unwrap();
    let mut signal = program();
    signal.arg("--config").arg(&config);
    let signal = finish(signal.args(["send-signal", "TERM", "--", "1-2"])).await;
    let line = "/odd\u{fffd}.conf send-signal TERM --yes -- 1-2\n";
    signal.failed(2, &["add --yes: jobctl --config ", line]);
}

#[tokio::test]
async fn a_daemon_that_hangs_up_is_not_reachable() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move { drop(listener.accept().await.unwrap()) });
    ask(address, &["status"])
        .await
        .failed(3, &["lost jobd at", "before it answered status"]);
    server.await.unwrap();
}

#[tokio::test]
async fn a_command_for_the_other_kind_says_so() {
    let poke = run(["poke"]).await;
    poke.failed(2, &["poke is for a master: add --master", "poll"]);
    for command in [
        &["list-targets"][..],
        &["poll"],
        &["add-target", "a", "1"],
        &["remove-target", "a"],
    ] {
        let arguments = ["--master"].iter().chain(command).copied();
        run(arguments)
            .await
            .failed(2, &["is for a worker: leave out --master"]);
    }
    run(["list-workers"])
        .await
        .failed(2, &["list-workers is for a master"]);
}

#[tokio::test]
async fn wrong_arguments_are_refused_before_anything_is_sent() {
    for arguments in [
        &[][..],
        &["nonsense"],
        &["--port", "0", "status"],
        &["--master", "--worker", "status"],
        &["--master", "status", "--worker"],
        &["set-target-concurrency", "a", "0"],
        &["set-target-concurrency", "a"],
        &["run-manual"],
        &["run-manual", "x"],
        &["send-signal", "NOPE", "1"],
        &["send-signal", "65", "1"],
        &["poll", "null"],
        &["add"],
        &["add", "--target", "a", "--count", "0"],
        &["add", "--target", "a", "--manual", "--wait"],
        &["add", "--target", "a", "--timeout", "5"],
        &["add", "--target", "a", "--", "column"],
        &["--config", "/nonexistent/jobctl.conf", "status"],
    ] {
        let run = run(arguments.iter().copied()).await;
        assert_eq!(run.code, 2, "{arguments:?}: {run:?}");
        assert!(!run.stderr.is_empty(), "{arguments:?}");
    }
}

#[tokio::test]
async fn the_config_in_the_home_says_where_the_daemon_is() {
    let daemon = Daemon::locked("correct horse; battery").await;
    let home = tempfile::tempdir().unwrap();
    let config = format!(
        "port = {}\npassword = \"correct horse; battery\"\nhots = 1.2.3.4\n",
        daemon.address.port()
    );
    std::fs::write(home.path().join(".jobctl.conf"), config).unwrap();
    let polled = finish(program().arg("poll").env("HOME", home.path())).await;
    assert_eq!(polled.code, 0, "{polled:?}");
    assert!(
        polled
            .stderr
            .contains(".jobctl.conf:3: unknown key hots, did you mean host?"),
        "{polled:?}"
    );
    assert_eq!(daemon.asked(), [("poll".to_owned(), Value::Null)]);
}

#[tokio::test]
async fn a_wrong_password_is_refused_with_the_way_out() {
    let daemon = Daemon::locked("correct").await;
    let refused = ask(daemon.address, &["poll"]).await;
    refused.failed(1, &["invalid password", "--password"]);
    assert!(daemon.asked().is_empty());
}

#[tokio::test]
async fn mistakes_of_the_config_come_all_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("jobctl.conf");
    std::fs::write(&config, "port = x\nlog_level = loud\nmysql_host = db\n").unwrap();
    let refused = run(["--config", config.to_str().unwrap(), "status"]).await;
    refused.failed(
        2,
        &[
            "jobctl.conf:1: port",
            "jobctl.conf:2: log_level",
            "mysql_user",
        ],
    );
}

#[tokio::test]
async fn a_reader_that_has_gone_away_is_no_error() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = program();
    command
        .args(["completions", "bash"])
        .stdout(Stdio::from(writer))
        .stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    // The writing end must be the child's alone.
    drop(command);
    let output = child.wait_with_output().await.unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
}

#[tokio::test]
async fn completions_and_the_version_are_there() {
    for shell in ["bash", "zsh", "fish"] {
        let script = run(["completions", shell]).await;
        assert!(script.stdout.contains("set-target-concurrency"), "{shell}");
    }
    let version = run(["--version"]).await.stdout;
    assert_eq!(version, format!("jobctl {}\n", env!("CARGO_PKG_VERSION")));
}

#[tokio::test]
async fn a_daemon_of_the_other_kind_is_recognised() {
    let worker = Daemon::worker(Ok(
        json!({"targets": {}, "jobPromisesCount": 0, "memoryUsage": {}}),
    ))
    .await;
    let poke = ask(worker.address, &["--master", "poke"]).await;
    poke.failed(1, &["unknown request type: 'poke'", "leave out --master"]);
    let status = ask(worker.address, &["--master", "status"]).await;
    status.failed(1, &["leave out --master"]);
    let master = Daemon::master(Ok(json!({"workers": [], "memoryUsage": {}}))).await;
    ask(master.address, &["poll"])
        .await
        .failed(1, &["unknown request type: 'poll'", "add --master"]);
    ask(master.address, &["status"])
        .await
        .failed(1, &["add --master"]);
}

#[tokio::test]
async fn nobody_looks_without_a_pause() {
    for words in [
        &["status", "--watch=0"][..],
        &["status", "--watch=199ms"],
        &["top", "--every", "0s"],
    ] {
        let refused = run(words.iter().copied()).await;
        refused.failed(2, &["too short: 200ms at least"]);
    }
}
