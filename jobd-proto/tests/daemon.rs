//! Logs, signals and the service manager, each in a process of its own: all three are things of
//! which a process has one. A test starts this binary again with one [`ROLE`], which plays a
//! daemon; the environment is the daemon's.
#![cfg(feature = "daemon")]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use jobd_proto::daemon::logs::{self, LogError};
use jobd_proto::daemon::notify::{self, Heartbeat};
use jobd_proto::daemon::signals::Shutdown;
use jobd_proto::settings::{LogLevel, LogSettings};

/// Names the part that a child process plays.
const ROLE: &str = "JOBD_TEST_ROLE";

/// Where the roles log to; unset for the console alone.
const LOG_FILE: &str = "JOBD_TEST_LOG";

/// Longest wait for anything. Nothing here takes a second on an idle machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// Not a test of its own: the other end of the tests below, which does nothing without a role.
#[test]
fn role() {
    match env::var(ROLE).as_deref() {
        Ok("events") => log_events(),
        Ok("change") => change_logs(),
        Ok("flood") => flood(),
        Ok("shutdown") => wait_for_signals(),
        Ok("beat") => beat_twice_then_hang(),
        Ok("talk") => talk(),
        _ => {}
    }
}

fn settings(level: LogLevel) -> LogSettings {
    LogSettings {
        file: env::var_os(LOG_FILE).map(Into::into),
        file_level: level,
        console_level: LogLevel::Warn,
        max_size: 0,
        keep: 1,
    }
}

fn log_events() {
    let guard = logs::start(&settings(LogLevel::Debug)).unwrap();
    tracing::error!(target: "jobd", job = 7, "it failed");
    tracing::warn!(target: "jobd_proto::x", reason = "two words", text = "a\"b", "careful");
    tracing::warn!(target: "jobd", output = "evil\n2026 ERROR \x1b[2J\u{202e}", "\rforged");
    tracing::info!(target: "jobd_master", worker = %"w1", options = ?Some("x"), empty = "", "hello");
    tracing::debug!(target: "jobd", long = "x".repeat(100_000), "detail");
    tracing::trace!(target: "jobd", "never");
    tracing::error!(target: "sqlx::query", "not ours");
    assert!(matches!(
        logs::start(&settings(LogLevel::Debug)),
        Err(LogError::Started(_))
    ));
    assert_eq!(guard.lost_lines(), 0);
}

/// Another level, another file, no file, a forbidden one, and one that was moved away.
fn change_logs() {
    let folder = env::var_os(LOG_FILE).unwrap();
    let folder = Path::new(&folder).parent().unwrap();
    let with = |name: &str, level| LogSettings {
        file: Some(folder.join(name)),
        ..settings(level)
    };
    let guard = logs::start(&settings(LogLevel::Warn)).unwrap();
    let runtime = runtime();
    let change = |settings: LogSettings| runtime.block_on(guard.change(&settings));
    let say = |number| {
        tracing::warn!(target: "jobd", number, "warned");
        tracing::debug!(target: "jobd", number, "detail");
    };
    say(1);
    change(settings(LogLevel::Debug)).unwrap();
    say(2);
    change(with("other.log", LogLevel::Warn)).unwrap();
    say(3);
    change(with("no/such/folder", LogLevel::Debug)).unwrap_err();
    say(4);
    let none = LogSettings {
        file: None,
        ..settings(LogLevel::Debug)
    };
    change(none).unwrap();
    say(5);
    change(settings(LogLevel::Warn)).unwrap();
    say(6);
    drop(guard);
}

/// Far more lines than the queue takes, into a pipe that nobody reads.
fn flood() {
    let guard = logs::start(&settings(LogLevel::Warn)).unwrap();
    for number in 0..50_000 {
        tracing::warn!(target: "jobd", number, "a line that nobody reads, long enough to fill a pipe");
    }
    assert!(guard.lost_lines() > 0);
    eprintln!("logged");
    drop(guard);
    eprintln!("ended");
    // What the test harness would print would hang on the full pipe.
    std::process::exit(0);
}

fn wait_for_signals() {
    let runtime = runtime();
    runtime.block_on(async {
        let shutdown = Shutdown::on_signals().unwrap();
        eprintln!("waiting");
        shutdown.drain.cancelled().await;
        assert!(!shutdown.now.is_cancelled());
        eprintln!("draining");
        shutdown.now.cancelled().await;
        eprintln!("at once");
    });
}

fn beat_twice_then_hang() {
    let runtime = runtime();
    runtime.block_on(async {
        assert_eq!(notify::beat_interval(), Duration::from_millis(50));
        notify::ready("serving\nREADY=0");
        notify::status("2 running");
        let heartbeat = Heartbeat::default();
        let watchdog = notify::watchdog(heartbeat.clone()).unwrap();
        let mut line = String::new();
        // One line from the test is one turn of the loop.
        while std::io::stdin().read_line(&mut line).unwrap() > 0 {
            heartbeat.beat();
        }
        notify::stopping("bye");
        watchdog.abort();
    });
}

fn talk() {
    notify::ready("serving");
    // Far more than any queue of datagrams holds (net.unix.max_dgram_qlen).
    for number in 0..10_000 {
        notify::status(&number.to_string());
    }
}

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).enable_all().build().unwrap()
}

/// Starts this binary again in `role`, with a clean environment as far as this file is concerned.
fn start(role: &str, environment: &[(&str, &str)]) -> Running {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", "role", "--nocapture", "--quiet"]);
    for name in [
        "JOURNAL_STREAM",
        "NOTIFY_SOCKET",
        "WATCHDOG_USEC",
        "WATCHDOG_PID",
        LOG_FILE,
    ] {
        command.env_remove(name);
    }
    command.env(ROLE, role).envs(environment.iter().copied());
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    Running(command.spawn().unwrap())
}

/// A child that does not outlive its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It has usually ended by now.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    fn stderr(&mut self) -> impl Iterator<Item = String> + use<> {
        BufReader::new(self.0.stderr.take().unwrap())
            .lines()
            .map(Result::unwrap)
    }

    fn signal(&self, name: &str) {
        let pid = self.0.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-s", name, &pid])
                .status()
                .unwrap()
                .success()
        );
    }

    fn wait(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status;
            }
            assert!(start.elapsed() < PATIENCE, "the child does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// What it printed on stdout, less what the test harness says.
    fn printed(&mut self) -> Vec<String> {
        let mut text = String::new();
        self.0
            .stdout
            .take()
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        assert!(self.wait().success(), "{text}");
        let lines = text
            .lines()
            .filter(|line| line.contains("ERROR") || line.contains("WARN"));
        lines.map(str::to_owned).collect()
    }
}

#[test]
fn console_and_file_have_their_own_levels_and_one_line_an_event() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jobd.log");
    let printed = start("events", &[(LOG_FILE, path.to_str().unwrap())]).printed();
    let console: Vec<&str> = printed.iter().map(|line| without_time(line)).collect();
    let expected = [
        "ERROR it failed job=7",
        r#"WARN  careful reason="two words" text="a\"b""#,
        r#"WARN  \rforged output="evil\n2026 ERROR \u{1b}[2J\u{202e}""#,
    ];
    assert_eq!(console, expected);

    let file = fs::read_to_string(&path).unwrap();
    let file: Vec<&str> = file.lines().map(without_time).collect();
    assert_eq!(file[..3], expected);
    assert_eq!(
        file[3],
        r#"INFO  hello worker=w1 options="Some(\"x\")" empty="""#
    );
    assert!(file[4].starts_with("DEBUG detail long=xxx") && file[4].ends_with("x…"));
    assert!(file[4].len() < 5000, "a field is cut at 4096 bytes");
    assert_eq!(
        file.len(),
        5,
        "nothing of trace level and nothing of the libraries"
    );
}

#[test]
fn logs_change_while_they_run() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jobd.log");
    let printed = start("change", &[(LOG_FILE, path.to_str().unwrap())]).printed();
    assert_eq!(
        printed.len(),
        6,
        "the console sees every warning: {printed:?}"
    );
    let lines = |path: &Path| -> Vec<String> {
        let text = fs::read_to_string(path).unwrap();
        let lines = text.lines().map(without_time);
        lines.map(|line| line.replace(" number=", "")).collect()
    };
    let mut of_both_times = lines(&path);
    // Whoever wrote this file before it was left may still be at it when somebody comes back to it.
    of_both_times.sort_by_key(|line| line.ends_with('6'));
    assert_eq!(
        of_both_times,
        [
            "WARN  warned1",
            "WARN  warned2",
            "DEBUG detail2",
            "WARN  warned6"
        ]
    );
    let other = folder.path().join("other.log");
    assert_eq!(lines(&other), ["WARN  warned3", "WARN  warned4"]);
}

/// Checks the time at the beginning of a line and returns the rest.
fn without_time(line: &str) -> &str {
    let (time, rest) = line.split_at("2026-11-22T04:17:33.123Z ".len());
    let shape: String = time
        .chars()
        .map(|c| if c.is_ascii_digit() { '0' } else { c })
        .collect();
    assert_eq!(shape, "0000-00-00T00:00:00.000Z ", "{line}");
    rest
}

#[test]
fn under_the_journal_lines_have_a_priority_and_no_time() {
    // A file stands for the journal's socket: what counts is device and inode.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let journal = fs::File::create(&path).unwrap();
    let metadata = journal.metadata().unwrap();
    let (device, inode) = {
        use std::os::unix::fs::MetadataExt;
        (metadata.dev(), metadata.ino())
    };
    let mut command = Command::new(env::current_exe().unwrap());
    command
        .args(["--exact", "role", "--nocapture", "--quiet"])
        .stdout(journal);
    command.env(ROLE, "events").env_remove(LOG_FILE);
    command.env("JOURNAL_STREAM", format!("{device}:{inode}"));
    assert!(command.status().unwrap().success());
    let text = fs::read_to_string(&path).unwrap();
    assert!(
        text.contains("<3>ERROR it failed job=7\n<4>WARN  careful"),
        "{text}"
    );

    // Started below the journal, but with a stdout of its own.
    let printed = start("events", &[("JOURNAL_STREAM", "8:1")]).printed();
    assert_eq!(without_time(&printed[0]), "ERROR it failed job=7");
}

#[test]
fn a_console_that_nobody_reads_stops_neither_work_nor_end() {
    let start_time = Instant::now();
    let mut child = start("flood", &[]);
    let said: Vec<_> = child.stderr().collect();
    assert_eq!(said, ["logged", "ended"]);
    assert!(child.wait().success());
    assert!(start_time.elapsed() < PATIENCE);
}

#[test]
fn a_full_disk_stops_neither_start_nor_work() {
    let printed = start("events", &[(LOG_FILE, "/dev/full")]).printed();
    assert_eq!(printed.len(), 3, "the console goes on");
}

#[test]
fn a_forbidden_log_file_is_named_at_start() {
    let mut settings = settings(LogLevel::Warn);
    settings.file = Some("/nowhere/jobd.log".into());
    let error = logs::start(&settings).unwrap_err().to_string();
    let expected = "cannot open log_file /nowhere/jobd.log: No such file or directory";
    assert!(error.starts_with(expected), "{error}");
}

#[test]
fn the_first_signal_drains_and_the_second_ends_at_once() {
    for (first, second) in [("TERM", "TERM"), ("INT", "TERM"), ("TERM", "INT")] {
        let mut child = start("shutdown", &[]);
        let mut said = child.stderr();
        assert_eq!(said.next().unwrap(), "waiting");
        child.signal(first);
        assert_eq!(said.next().unwrap(), "draining");
        child.signal(second);
        assert_eq!(said.next().unwrap(), "at once");
        assert!(child.wait().success());
    }
}

#[test]
fn the_watchdog_hears_of_a_loop_that_turns_and_not_of_one_that_hangs() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let socket = listen(&path);
    let path = path.to_str().unwrap();
    let mut child = start(
        "beat",
        &[("NOTIFY_SOCKET", path), ("WATCHDOG_USEC", "200000")],
    );
    let mut turns = child.0.stdin.take().unwrap();
    assert_eq!(receive(&socket), "READY=1\nSTATUS=serving READY=0\n");
    assert_eq!(receive(&socket), "STATUS=2 running\n");
    for _ in 0..3 {
        writeln!(turns).unwrap();
        assert_eq!(receive(&socket), "WATCHDOG=1\n");
    }
    // It hangs now: four intervals of silence, which a loaded machine can only make longer.
    socket
        .set_read_timeout(Some(Duration::from_millis(400)))
        .unwrap();
    assert!(socket.recv(&mut [0; 64]).is_err(), "no beat, no message");
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    drop(turns);
    assert_eq!(receive(&socket), "STOPPING=1\nSTATUS=bye\n");
    assert!(child.wait().success());
}

#[test]
fn a_service_manager_that_does_not_read_stops_nobody() {
    let name = format!("jobd-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let socket = UnixDatagram::bind_addr(&address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut child = start("talk", &[("NOTIFY_SOCKET", &format!("@{name}"))]);
    assert!(child.wait().success());
    assert_eq!(receive(&socket), "READY=1\nSTATUS=serving\n");
    assert_eq!(receive(&socket), "STATUS=0\n");
}

fn listen(path: &Path) -> UnixDatagram {
    let socket = UnixDatagram::bind(path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn receive(socket: &UnixDatagram) -> String {
    let mut bytes = [0; 1024];
    let length = socket.recv(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes[..length]).into_owned()
}
