//! Where a run was made: absolute figures mean nothing without it.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Flushes that are timed.
const FLUSHES: usize = 50;

/// A machine, as it was when the run began.
#[derive(Clone, Debug)]
pub struct Machine {
    cores: usize,
    cpu: String,
    memory_gib: f64,
    kernel: String,
    load: f64,
    file_system: String,
    flush: Duration,
    server: String,
    commit: String,
}

impl Machine {
    /// This one; `data` is where the server's files lie.
    pub fn describe(server: &str, data: &Path) -> Self {
        Self {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            cpu: field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".to_owned()),
            memory_gib: memory_gib(),
            kernel: read("/proc/sys/kernel/osrelease"),
            load: load(),
            file_system: file_system(data),
            flush: flush(data),
            server: server.to_owned(),
            commit: commit(),
        }
    }

    /// Why figures of this run are worth less than usual, if they are.
    pub fn warning(&self) -> Option<String> {
        if self.file_system == "tmpfs" {
            return Some(
                "the server's data lies in memory: set TMPDIR to a folder on a disk".to_owned(),
            );
        }
        #[expect(clippy::cast_precision_loss, reason = "a number of cores")]
        let half = self.cores as f64 / 2.0;
        (self.load > half).then(|| {
            format!(
                "the machine was busy when the run began (load {:.1})",
                self.load
            )
        })
    }

    /// For the JSON file.
    pub fn json(&self) -> Value {
        json!({
            "cores": self.cores,
            "cpu": self.cpu,
            "memory_gib": self.memory_gib,
            "kernel": self.kernel,
            "load_at_start": self.load,
            "file_system": self.file_system,
            "flush_us": self.flush.as_micros(),
            "server": self.server,
            "commit": self.commit,
        })
    }

    /// For people: one sentence.
    pub fn sentence(&self) -> String {
        format!(
            "{} cores ({}), {:.0} GiB, Linux {}, {} on {} with {} µs per flush; load {:.1} at the start; {}.",
            self.cores,
            self.cpu,
            self.memory_gib,
            self.kernel,
            self.server,
            self.file_system,
            self.flush.as_micros(),
            self.load,
            self.commit
        )
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

fn field(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn memory_gib() -> f64 {
    let total = field("/proc/meminfo", "MemTotal").unwrap_or_default();
    let kib: f64 = total.trim_end_matches(" kB").parse().unwrap_or(0.0);
    kib / f64::from(1 << 20)
}

fn load() -> f64 {
    let text = read("/proc/loadavg");
    text.split(' ')
        .next()
        .and_then(|load| load.parse().ok())
        .unwrap_or(0.0)
}

fn file_system(folder: &Path) -> String {
    let output = Command::new("stat")
        .args(["-f", "-c", "%T"])
        .arg(folder)
        .output();
    output.map_or_else(
        |_| "unknown".to_owned(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    )
}

/// The median time of a flush of little data: what a commit cannot be quicker than.
fn flush(folder: &Path) -> Duration {
    let path = folder.join("flush");
    let mut file = fs::File::create(&path).expect("a file beside the server's data");
    let mut times: Vec<Duration> = (0..FLUSHES)
        .map(|_| {
            let begun = Instant::now();
            file.write_all(&[0; 512]).expect("write");
            file.sync_data().expect("flush");
            begun.elapsed()
        })
        .collect();
    fs::remove_file(path).expect("remove a file of ours");
    times.sort_unstable();
    times[FLUSHES / 2]
}

fn commit() -> String {
    let output = Command::new("git")
        .args(["describe", "--always", "--dirty"])
        .output();
    let version = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    match version {
        Ok(version) if !version.is_empty() => format!("commit {version}"),
        _ => "an unknown commit".to_owned(),
    }
}
