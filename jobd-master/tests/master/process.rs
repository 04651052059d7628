//! The program itself: its arguments, its start, its end.

use std::os::unix::net::UnixDatagram;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use jobd_tests::process::Process;
use jobd_tests::programs::output;
use jobd_tests::wait::PATIENCE;
use jobd_tests::{Ini, Scratch, until};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::played::{Client, Master, Worker, program};

async fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = output(Command::new(program()).args(arguments)).await;
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

#[tokio::test]
async fn check_config_tells_every_mistake_with_its_line() {
    let scratch = Scratch::new();
    let good = scratch.write("good.conf", "host = 127.0.0.1\nport = 7081\n");
    let good = good.to_str().unwrap();
    let checked = run(&["--check-config", "--config", good]).await;
    assert_eq!(checked, (Some(0), String::new(), String::new()));

    let text = "port = 7081x\nping_interval = 0\npasword = secret\nlog_level_file = loud\n";
    let bad = scratch.write("bad.conf", text);
    let bad = bad.to_str().unwrap();
    let (code, said, _) = run(&["--check-config", "--config", bad]).await;
    assert_eq!(code, Some(78));
    let lines: Vec<&str> = said.lines().collect();
    let expected = [
        ":1: port must be ",
        ":2: ping_interval must be ",
        ":3: unknown key pasword, did you mean password?",
        ":4: log_level_file must be ",
        ": missing required key host",
    ];
    assert_eq!(lines.len(), expected.len(), "{said}");
    for (line, end) in lines.iter().zip(expected) {
        assert!(line.starts_with(&format!("{bad}{end}")), "{line}");
    }
    assert!(!said.contains("secret"), "{said}");

    // A start ends with the same lines; with warnings alone it goes on.
    let (code, _, said_at_start) = run(&["--config", bad]).await;
    assert_eq!((code, said_at_start), (Some(78), said));
    let master = Master::with(&Ini::listen().set("ping_intervall", 5)).await;
    // Lines are written by a thread of their own.
    until("the warning", PATIENCE, async || {
        let log = master.daemon.process.log();
        log.contains("unknown key ping_intervall").then_some(())
    })
    .await;
}

#[tokio::test]
async fn arguments_are_explained() {
    let (code, help, _) = run(&["--help"]).await;
    assert_eq!(code, Some(0));
    for word in [
        "--config",
        "--check-config",
        "Examples:",
        "/etc/jobd-master.conf",
        "78",
    ] {
        assert!(help.contains(word), "{word} in {help}");
    }
    let (code, version, _) = run(&["--version"]).await;
    assert_eq!(code, Some(0));
    assert!(version.starts_with("jobd-master "));
    assert_eq!(run(&["--bogus"]).await.0, Some(2));
    let (code, _, error) = run(&["--config", "/nonexistent/m.conf"]).await;
    assert_eq!(code, Some(78));
    assert!(error.contains("/nonexistent/m.conf"), "{error}");
}

#[tokio::test]
async fn an_address_in_use_is_a_failure_that_names_it() {
    let master = Master::start().await;
    let config = master.daemon.config.to_str().unwrap();
    let (code, _, error) = run(&["--config", config]).await;
    assert_eq!(code, Some(1));
    assert!(
        error.contains(&format!("cannot listen on {}", master.addr())),
        "{error}"
    );
}

#[tokio::test]
async fn a_signal_ends_it_when_nothing_is_pending() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut master = Master::start().await;
        let worker = master.worker("w", &["a"]).await;
        let client = master.client().await;
        client.poke(&["a"]).await;
        let begun = Instant::now();
        // The answer of the poll is not waited for.
        master.daemon.process.signal(signal);
        let status = master.daemon.process.wait(PATIENCE).await;
        assert_eq!(status.code(), Some(0), "{signal:?}");
        assert!(begun.elapsed() < Duration::from_secs(2));
        drop(worker);
    }
}

#[tokio::test]
async fn what_is_pending_at_a_signal_is_still_answered() {
    let mut master = Master::start().await;
    let mut quick = master.worker("quick", &["a"]).await;
    let mut slow = master.worker("slow", &["b"]).await;
    let client = master.client().await;
    let jobs = json!({"jobs": [{"id": 1, "target": "a"}, {"id": 2, "target": "b"}]});
    let pause = tokio::spawn({
        let client = client.clone();
        async move { client.ask("pause", json!({"targets": ["a"]})).await }
    });
    let (_, paused) = quick.next().await;
    let run = tokio::spawn(async move { client.ask("run-manual", jobs).await });
    let (_, one) = quick.next().await;
    let (_, _two) = slow.next().await;
    master.daemon.process.signal(Signal::TERM);
    until("the port to be closed", PATIENCE, async || {
        let connected = tokio::net::TcpStream::connect(master.addr()).await;
        connected.is_err().then_some(())
    })
    .await;
    paused.respond(Ok("ok".into()));
    assert_eq!(pause.await.unwrap(), "ok");
    let outcome =
        json!({"result": "fail", "code": 1, "signal": null, "stdout": "", "stderr": "no"});
    one.respond(Ok(json!({"jobs": {"1": outcome.clone()}})));
    let merged = run.await.unwrap();
    assert_eq!(merged["jobs"], json!({"1": outcome}));
    let error = merged["errors"]["2"].as_str().unwrap();
    assert!(
        error.starts_with("master stops before worker 'slow' (127.0.0.1:"),
        "{error}"
    );
    assert!(error.ends_with("look at the row"), "{error}");
    let status = master.daemon.process.wait(PATIENCE).await;
    assert_eq!(status.code(), Some(0));
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let mut master = Master::start().await;
    let mut slow = master.worker("slow", &["b"]).await;
    let client = master.client().await;
    let run = tokio::spawn(async move {
        client
            .try_ask("run-manual", json!({"jobs": [{"id": 2, "target": "b"}]}))
            .await
    });
    let (_, _unanswered) = slow.next().await;
    master.daemon.process.signal(Signal::TERM);
    until("the first signal to be seen", PATIENCE, async || {
        let log = master.daemon.process.log();
        log.contains("received SIGTERM").then_some(())
    })
    .await;
    let begun = Instant::now();
    master.daemon.process.signal(Signal::INT);
    let status = master.daemon.process.wait(PATIENCE).await;
    assert_eq!(status.code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(2));
    run.await.unwrap().unwrap_err();
}

#[tokio::test]
async fn the_service_manager_is_told_that_it_is_ready_and_alive() {
    let scratch = Scratch::new();
    let socket = scratch.join("notify");
    let manager = UnixDatagram::bind(&socket).unwrap();
    manager.set_nonblocking(true).unwrap();
    let ini = Ini::listen();
    let config = scratch.write("master.conf", ini.text());
    let mut command = Command::new(program());
    command
        .arg("--config")
        .arg(config)
        .env("NOTIFY_SOCKET", &socket)
        .env("WATCHDOG_USEC", "400000")
        .env_remove("WATCHDOG_PID");
    let mut process = Process::start(&command, &scratch.join("log"));
    let hears = async |what: &str| {
        until(what, PATIENCE, async || {
            let mut buffer = [0; 4096];
            let length = manager.recv(&mut buffer).ok()?;
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            text.contains(what).then_some(text)
        })
        .await
    };
    let ready = hears("READY=1").await;
    assert!(ready.contains("STATUS=0 workers, 0 targets"), "{ready}");
    for _ in 0..3 {
        hears("WATCHDOG=1").await;
    }
    let addr = (std::net::Ipv4Addr::LOCALHOST, ini.port()).into();
    let worker = Worker::connect(addr).await;
    worker.register("w", &["a", "b"]).await;
    hears("STATUS=1 worker, 2 targets").await;
    let client = Client::connect(addr).await;
    assert_eq!(client.ask("poke", Value::Null).await, "ok");
    process.signal(Signal::TERM);
    hears("STOPPING=1").await;
    // The worker never answers its poll, and nobody reads what the manager is told any more.
    let status = process.wait(Duration::from_secs(5)).await;
    assert_eq!(status.code(), Some(0));
    drop(worker);
}
