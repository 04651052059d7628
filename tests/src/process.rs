//! One program that a test started: its log, its memory, its end.

use std::fs::File;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::wait::until;
use crate::watchdog;

/// How long a program may take to end once it was asked to.
pub const END_LIMIT: Duration = Duration::from_secs(20);

/// So many bytes of a log's end are shown when a test fails.
const SHOWN_LOG: usize = 16 * 1024;

/// A running child in a process group of its own. On drop it is asked to end (SIGTERM) and
/// waited for; while a test is failing it is killed and the end of its log is shown.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
    ended: Option<ExitStatus>,
    started: Instant,
}

impl Process {
    /// Starts `command`, with standard output and error appended to `log`.
    ///
    /// The child waits until the watchdog knows it, then becomes the program: nothing can be
    /// left behind, and its process number is the program's.
    pub fn start(command: &Command, log: &Path) -> Self {
        let output = File::options()
            .create(true)
            .append(true)
            .open(log)
            .expect("open the log of a program");
        let mut gate = Command::new("sh");
        gate.args(["-c", r#"read -r go && exec "$@" </dev/null"#, "sh"])
            .arg(command.get_program())
            .args(command.get_args())
            .stdin(Stdio::piped())
            .stdout(output.try_clone().expect("second handle of the log"))
            .stderr(output)
            .process_group(0);
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => gate.env(name, value),
                None => gate.env_remove(name),
            };
        }
        if let Some(folder) = command.get_current_dir() {
            gate.current_dir(folder);
        }
        let mut child = gate.spawn().expect("start sh");
        watchdog::watch(child.id());
        let started = Instant::now();
        let mut go = child.stdin.take().expect("the gate's pipe");
        go.write_all(b"go\n").expect("open the gate");
        Self {
            child,
            log: log.to_owned(),
            ended: None,
            started,
        }
    }

    /// Its process number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// When it became the program.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Everything that it printed so far.
    pub fn log(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().expect("wait for a child of ours");
            if self.ended.is_some() {
                watchdog::forget(self.child.id());
            }
        }
        self.ended
    }

    /// Sends a signal to the program alone; one that has ended gets none.
    pub fn signal(&mut self, signal: Signal) {
        if self.ended().is_none() {
            kill_process(self.pid(), signal).expect("signal a child of ours");
        }
    }

    /// Kills it with -9 and waits until it is gone. Its own children stay.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.wait_blocking(END_LIMIT)
            .expect("a killed process ends");
    }

    /// Waits for its end.
    pub async fn wait(&mut self, limit: Duration) -> ExitStatus {
        let log = self.log.display().to_string();
        until(
            &format!("the end of the program of {log}"),
            limit,
            async || self.ended(),
        )
        .await
    }

    /// SIGTERM, then wait.
    pub async fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait(END_LIMIT).await
    }

    /// Memory in RAM now, in KiB.
    pub fn rss_kib(&self) -> u64 {
        self.status_kib("VmRSS:")
    }

    /// The most memory in RAM since its start or the last [`Self::reset_peak`], in KiB.
    pub fn peak_rss_kib(&self) -> u64 {
        self.status_kib("VmHWM:")
    }

    /// Begins a new measurement of the peak.
    pub fn reset_peak(&self) {
        std::fs::write(format!("/proc/{}/clear_refs", self.id()), "5").expect("clear_refs");
    }

    fn status_kib(&self, field: &str) -> u64 {
        let path = format!("/proc/{}/status", self.id());
        let text = std::fs::read_to_string(path).expect("the program runs");
        let line = text.lines().find_map(|line| line.strip_prefix(field));
        let number = line.and_then(|line| line.split_whitespace().next());
        number.and_then(|n| n.parse().ok()).expect("a size in kB")
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    fn wait_blocking(&mut self, limit: Duration) -> Option<ExitStatus> {
        let begun = Instant::now();
        while self.ended().is_none() && begun.elapsed() < limit {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.ended
    }

    fn show_log(&self) {
        let log = self.log();
        let from = log.len().saturating_sub(SHOWN_LOG);
        let from = (from..log.len()).find(|at| log.is_char_boundary(*at));
        let end = &log[from.unwrap_or(0)..];
        eprintln!("---- {} ({:?})\n{end}", self.log.display(), self.ended);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let failing = std::thread::panicking();
        if self.ended().is_none() {
            if failing {
                // The group, not only the program: helpers that it forked must go too.
                let _ = kill_process_group(self.pid(), Signal::KILL);
            } else {
                self.signal(Signal::TERM);
            }
        }
        let ended = self.wait_blocking(END_LIMIT).is_some();
        if !ended {
            let _ = kill_process_group(self.pid(), Signal::KILL);
            self.wait_blocking(END_LIMIT);
        }
        if failing || !ended {
            self.show_log();
        }
        assert!(ended || failing, "{} did not end", self.log.display());
    }
}
