//! Ends what a test started, even when the test is killed with -9.
//!
//! One small shell per test process, in a process group of its own, reads our orders from a
//! pipe. The kernel closes our end when we die, however we die; the shell then kills every
//! process group that is still on its list and removes the folders. A process is on the list
//! before it runs its program: it waits for a line that is sent after the order
//! (see [`crate::process`]).

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{LazyLock, Mutex};

/// Orders are lines `watch PID`, `forget PID` and `remove FOLDER`; scratch folders have no
/// white space in their names. Killed groups get two seconds to vanish before their folders go.
const SCRIPT: &str = r#"
pids= folders=
while read -r order value; do
  case $order in
    watch) pids="$pids $value" ;;
    forget) kept=; for p in $pids; do [ "$p" = "$value" ] || kept="$kept $p"; done; pids=$kept ;;
    remove) folders="$folders $value" ;;
  esac
done
for p in $pids; do kill -s KILL -- "-$p"; done
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
