//! Runs the program, with a home of its own so that nobody's `~/.jobctl.conf` counts.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::process::Command;

/// Far above what any of these takes.
pub(crate) const LIMIT: Duration = Duration::from_secs(100);

/// What a run left behind.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Run {
    /// Its standard output as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Checks the exit code, and that the complaint holds each of these texts.
    #[track_caller]
    pub(crate) fn failed(&self, code: i32, complaints: &[&str]) {
        assert_eq!(self.code, code, "{self:?}");
        for complaint in complaints {
            assert!(
                self.stderr.contains(complaint),
                "{complaint:?} is not in {self:?}"
            );
        }
    }
}

/// The program, not started yet.
pub(crate) fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_jobctl"));
    command
        .env("HOME", env!("CARGO_TARGET_TMPDIR"))
        .env("TZ", "UTC")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

/// Runs it with these arguments.
pub(crate) async fn run<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Run {
    finish(program().args(arguments)).await
}

/// Runs it against the daemon at `address`.
pub(crate) async fn ask(address: SocketAddr, arguments: &[&str]) -> Run {
    let (host, port) = (address.ip().to_string(), address.port().to_string());
    let server = ["--host", &host, "--port", &port];
    run(server.into_iter().chain(arguments.iter().copied())).await
}

/// Waits for its end.
pub(crate) async fn finish(command: &mut Command) -> Run {
    let output = tokio::time::timeout(LIMIT, command.output()).await;
    let output = output.expect("jobctl ends in time").unwrap();
    Run {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}
