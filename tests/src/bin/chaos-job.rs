//! A job of the chaos suite: tells the witness when it begins and ends, and does what its id says.
//!
//! `chaos-job FILE WORKER ID TARGET`

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};
use std::time::Duration;

use jobd_tests::chaos::job::{FED, HIDDEN, PAYLOAD, Plan, STUCK};
use jobd_tests::witness::tell;

/// In the environment of a process that SIGTERM does not reach.
const DEAF: &str = "CHAOS_DEAF";

#[expect(
    clippy::zombie_processes,
    reason = "what a stuck job starts is there to outlive it"
)]
fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [file, worker, id, target] = &arguments[..] else {
        eprintln!("usage: chaos-job FILE WORKER ID TARGET");
        return ExitCode::from(2);
    };
    let number: u64 = id.parse().expect("ID");
    if target == STUCK && number.is_multiple_of(2) && std::env::var_os(DEAF).is_none() {
        let error = deaf(&arguments).exec();
        eprintln!("chaos-job: {error}");
        return ExitCode::from(126);
    }
    if target == HIDDEN {
        rustix::process::setsid().expect("a session of its own");
    }
    let mut log = File::options()
        .append(true)
        .open(file)
        .expect("the witness's file");
    tell(&mut log, "begin", id, worker, target);
    let attempt = std::env::var("JOBD_ATTEMPT").expect("JOBD_ATTEMPT");
    let attempt = attempt.parse().expect("a number in JOBD_ATTEMPT");
    let plan = Plan::of(number, target);
    if target != HIDDEN {
        let pid = std::process::id();
        let mut out = std::io::stdout().lock();
        if target == FED {
            let mut data = Vec::new();
            let read = std::io::stdin().read_to_end(&mut data);
            if read.is_err() || data != PAYLOAD.0.repeat(PAYLOAD.1).as_bytes() {
                writeln!(out, "{} bytes, and not its payload: {read:?}", data.len())
                    .expect("write to standard output");
            }
        }
        out.write_all(plan.stdout(number, attempt, pid).as_bytes())
            .expect("write to standard output");
        eprint!("{}", Plan::stderr(number, pid));
        report(&Plan::progress(pid));
    }
    if target == STUCK {
        let hidden = [file, worker, id, HIDDEN].map(ToString::to_string);
        deaf(&hidden).spawn().expect("a process to leave behind");
    }
    let millis = if attempt == 1 {
        plan.millis
    } else {
        plan.millis_again
    };
    std::thread::sleep(Duration::from_millis(millis));
    tell(&mut log, "end", id, worker, target);
    ExitCode::from(plan.code_of(attempt))
}

/// Says how far it has come, where somebody listens.
fn report(text: &str) {
    if let Some(number) = std::env::var_os("JOBD_PROGRESS_FD") {
        let pipe = std::path::Path::new("/proc/self/fd").join(number);
        let mut pipe = File::options()
            .write(true)
            .open(pipe)
            .expect("the descriptor for reports");
        writeln!(pipe, "{text}").expect("write a report");
    }
}

/// This program, without an ear for SIGTERM.
fn deaf(arguments: &[String]) -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", r#"trap "" TERM; exec "$0" "$@""#])
        .arg(std::env::current_exe().expect("this program"))
        .args(arguments)
        .env(DEAF, "1");
    command
}
