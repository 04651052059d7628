//! The programs under test, as the build made them.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use tokio::net::TcpStream;

use crate::ini::Ini;
use crate::process::Process;
use crate::scratch::Scratch;
use crate::wait::until;
use crate::wire::Wire;

/// A daemon listens within a tenth of a second; the rest is for a loaded machine.
const START_LIMIT: Duration = Duration::from_secs(20);

/// The build folder of this run: `target/debug`, or that of another profile.
fn profile_folder() -> PathBuf {
    let test = std::env::current_exe().expect("the path of this program");
    let folder = test.parent().expect("a folder").to_owned();
    if folder.ends_with("deps") {
        folder.parent().expect("above deps").to_owned()
    } else {
        folder
    }
}

/// What tests keep between runs: server templates and locks, inside the target folder.
pub fn state_folder() -> PathBuf {
    let profile = profile_folder();
    let target = profile.parent().expect("the target folder");
    target.join("jobd-tests")
}

/// The path of a program of this workspace in the build that the test belongs to.
///
/// # Panics
/// When it was not built.
pub fn path(name: &str) -> PathBuf {
    built(profile_folder().join(name), "cargo build --workspace")
}

/// The path of jobd with crash points and planted bugs, as its feature `faults` makes it.
///
/// # Panics
/// When it was not built.
pub fn faulty_path() -> PathBuf {
    built(
        profile_folder().join("jobd-faulty"),
        "cargo build --workspace --bin jobd-faulty --features jobd/faults",
    )
}

/// The path of a program in the release build.
///
/// # Panics
/// When it was not built.
pub fn release_path(name: &str) -> PathBuf {
    let profile = profile_folder();
    let target = profile.parent().expect("the target folder");
    built(
        target.join("release").join(name),
        &format!("cargo build --release -p {name}"),
    )
}

fn built(path: PathBuf, how: &str) -> PathBuf {
    assert!(
        path.exists(),
        "{} is missing: run `{how}`, or tests/run, which does",
        path.display()
    );
    path
}

/// A name that no other test of any run has.
pub fn unique_name(prefix: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let stamp = now.expect("after 1970").as_micros() % 1_000_000_000;
    format!("{prefix}_{}_{stamp}_{count}", std::process::id())
}

/// Runs a program to its end and returns what it printed.
pub async fn output(command: &mut Command) -> Output {
    let mut command = std::mem::replace(command, Command::new("true"));
    command.stdin(std::process::Stdio::null());
    tokio::task::spawn_blocking(move || command.output())
        .await
        .expect("a task")
        .expect("run a program")
}

/// A running daemon.
#[derive(Debug)]
pub struct Daemon {
    /// The process.
    pub process: Process,
    /// Where it listens.
    pub addr: SocketAddr,
    /// Its config file.
    pub config: PathBuf,
}

impl Daemon {
    /// Starts the program at `path` with `ini`, without waiting for anything. The config and the
    /// log lie in `scratch`.
    pub fn launch(path: &Path, scratch: &Scratch, ini: &Ini) -> Self {
        Self::launch_under(path, scratch, ini, &[])
    }

    /// The same with variables in its environment.
    pub fn launch_under(
        path: &Path,
        scratch: &Scratch,
        ini: &Ini,
        variables: &[(&str, &str)],
    ) -> Self {
        let program = path.file_name().expect("a program").to_string_lossy();
        let name = unique_name(&program);
        let config = scratch.write(&format!("{name}.conf"), ini.text());
        let mut command = Command::new(path);
        command
            .arg("--config")
            .arg(&config)
            .env_remove("NOTIFY_SOCKET")
            .envs(variables.iter().copied());
        Self {
            process: Process::start(&command, &scratch.join(&format!("{name}.log"))),
            addr: (Ipv4Addr::LOCALHOST, ini.port()).into(),
            config,
        }
    }

    /// Waits until it listens.
    pub async fn listening(&mut self) {
        until("the daemon to listen", START_LIMIT, async || {
            let ended = self.process.ended();
            assert!(
                ended.is_none(),
                "it ended: {ended:?}\n{}",
                self.process.log()
            );
            TcpStream::connect(self.addr).await.ok()
        })
        .await;
    }

    /// A new connection to it.
    pub async fn wire(&self) -> Wire {
        Wire::connect(self.addr).await
    }

    /// One request on a connection of its own; the data of the answer.
    ///
    /// # Panics
    /// When the answer is an error.
    pub async fn ask(&self, kind: &str, data: Value) -> Value {
        self.wire().await.ask(kind, data).await
    }

    /// SIGTERM, and how it ended.
    pub async fn stop(mut self) -> ExitStatus {
        self.process.terminate().await
    }
}

/// A running worker.
#[derive(Debug)]
pub struct Jobd;

impl Jobd {
    /// Starts jobd and waits until it listens.
    pub async fn start(scratch: &Scratch, ini: &Ini) -> Daemon {
        let mut daemon = Daemon::launch(&path("jobd"), scratch, ini);
        daemon.listening().await;
        daemon
    }

    /// Starts jobd and waits until it has seen its table: before that it refuses manual runs.
    /// Its config must let this host in without a password.
    pub async fn ready(scratch: &Scratch, ini: &Ini) -> Daemon {
        let daemon = Self::start(scratch, ini).await;
        let mut wire = daemon.wire().await;
        until("the worker to see its table", START_LIMIT, async || {
            let status = wire.ask("status", serde_json::json!({})).await;
            (status["databaseAway"] == false).then_some(())
        })
        .await;
        daemon
    }
}

/// A running master.
#[derive(Debug)]
pub struct Master;

impl Master {
    /// Starts jobd-master and waits until it listens.
    pub async fn start(scratch: &Scratch, ini: &Ini) -> Daemon {
        let mut daemon = Daemon::launch(&path("jobd-master"), scratch, ini);
        daemon.listening().await;
        daemon
    }

    /// Waits until `master` knows so many workers.
    pub async fn has_workers(master: &Daemon, count: usize) {
        until(
            &format!("{count} registered workers"),
            START_LIMIT,
            async || {
                let status = master.ask("status", serde_json::json!({})).await;
                let workers = status["workers"].as_array().map_or(0, Vec::len);
                (workers == count).then_some(())
            },
        )
        .await;
    }
}
