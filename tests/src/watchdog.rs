//! Ends what a test started, even when the test is killed with -9.
//!
//! One small shell per test process, in a process group of its own, reads our orders from a
//! pipe. The kernel closes our end when we die, however we die; the shell then kills every
//! process group that is still on its list, lets go on what the test has frozen, and removes the folders.
//! A process is on the list before it runs its program: it waits for a line that is sent after the order
//! (see [`crate::process`]).

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{LazyLock, Mutex};

use rustix::process::{Pid, Signal, kill_process};

/// Orders are lines `watch PID`, `forget PID`, `frozen PID`, `thawed PID` and `remove FOLDER`; scratch folders
/// have no white space in their names. Killed groups get two seconds to vanish before their folders go.
const SCRIPT: &str = r#"
pids= frozen= folders=
without() { kept=; for p in $1; do [ "$p" = "$2" ] || kept="$kept $p"; done; }
while read -r order value; do
  case $order in
    watch) pids="$pids $value" ;;
    forget) without "$pids" "$value"; pids=$kept ;;
    frozen) frozen="$frozen $value" ;;
    thawed) without "$frozen" "$value"; frozen=$kept ;;
    remove) folders="$folders $value" ;;
  esac
done
for p in $pids; do kill -s KILL -- "-$p"; done
for p in $frozen; do kill -s CONT "$p"; done
for p in $pids; do
  tries=0
  while kill -s 0 -- "-$p" && [ $tries -lt 100 ]; do tries=$((tries + 1)); sleep 0.02; done
done
for f in $folders; do rm -rf -- "$f"; done
"#;

static ORDERS: LazyLock<Mutex<ChildStdin>> = LazyLock::new(start);

#[expect(clippy::zombie_processes, reason = "it outlives us, that is its duty")]
fn start() -> Mutex<ChildStdin> {
    let mut shell = Command::new("sh")
        .args(["-c", SCRIPT])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // A Ctrl-C for the tests must not reach it.
        .process_group(0)
        .spawn()
        .expect("start sh as the watchdog");
    Mutex::new(shell.stdin.take().expect("its pipe"))
}

fn order(line: &str) {
    let mut orders = ORDERS.lock().expect("watchdog pipe");
    writeln!(orders, "{line}").expect("the watchdog listens as long as we live");
}

/// Puts the process group that `pid` leads on the list.
pub fn watch(pid: u32) {
    order(&format!("watch {pid}"));
}

/// Takes an ended process group from the list, before its number can be used again.
pub fn forget(pid: u32) {
    order(&format!("forget {pid}"));
}

/// Puts a folder on the list of those to remove at the very end.
pub fn remove_later(folder: &Path) {
    order(&format!("remove {}", folder.display()));
}

/// A process that the test did not start itself, stopped by SIGSTOP. It goes on when this is dropped, or when the
/// test has died: one that stays stopped would never notice that its parent is gone.
#[derive(Debug)]
pub struct Frozen(Pid);

impl Frozen {
    /// Stops it.
    pub fn new(pid: Pid) -> Self {
        order(&format!("frozen {}", pid.as_raw_nonzero()));
        kill_process(pid, Signal::STOP).expect("stop a process");
        Self(pid)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // It may have been killed meanwhile.
        let _ = kill_process(self.0, Signal::CONT);
        order(&format!("thawed {}", self.0.as_raw_nonzero()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Process;
    use crate::scratch::Scratch;
    use crate::wait::{PATIENCE, until};

    /// The letter of a process's state.
    fn state(pid: u32) -> Option<char> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
        stat.rsplit_once(") ")?.1.chars().next()
    }

    #[tokio::test]
    async fn what_is_frozen_goes_on_at_the_end() {
        let scratch = Scratch::new();
        let process = Process::start(Command::new("sleep").arg("60"), &scratch.join("log"));
        let pid = process.id();
        let raw = Pid::from_raw(pid.cast_signed()).expect("a pid");
        let reaches = async |wanted: char| {
            until("the state", PATIENCE, async || {
                (state(pid) == Some(wanted)).then_some(())
            })
            .await;
        };
        let frozen = Frozen::new(raw);
        reaches('T').await;
        drop(frozen);
        reaches('S').await;
        // The same as the watchdog does it.
        let mut shell = Command::new("sh")
            .args(["-c", SCRIPT])
            .stdin(Stdio::piped())
            .spawn()
            .expect("start sh");
        let mut orders = shell.stdin.take().expect("its pipe");
        writeln!(orders, "frozen 1\nfrozen {pid}\nthawed 1").expect("orders");
        kill_process(raw, Signal::STOP).expect("stop it");
        reaches('T').await;
        drop(orders);
        assert!(shell.wait().expect("its end").success());
        reaches('S').await;
    }
}
