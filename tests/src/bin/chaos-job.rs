//! A job of the chaos suite: tells the witness when it begins and ends, and does what its id says.
//!
//! `chaos-job FILE WORKER ID TARGET`

use std::fs::File;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use jobd_tests::chaos::job::Plan;
use jobd_tests::witness::tell;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [file, worker, id, target] = &arguments[..] else {
        eprintln!("usage: chaos-job FILE WORKER ID TARGET");
        return ExitCode::from(2);
    };
    let mut log = File::options()
        .append(true)
        .open(file)
        .expect("the witness's file");
    tell(&mut log, "begin", id, worker, target);
    let number: u64 = id.parse().expect("ID");
    let attempt = std::env::var("JOBD_ATTEMPT").expect("JOBD_ATTEMPT");
    let attempt = attempt.parse().expect("a number in JOBD_ATTEMPT");
    let plan = Plan::of(number, target);
    let pid = std::process::id();
    let mut out = std::io::stdout().lock();
    out.write_all(plan.stdout(number, attempt, pid).as_bytes())
        .expect("write to standard output");
    eprint!("{}", Plan::stderr(number, pid));
    let millis = if attempt == 1 {
        plan.millis
    } else {
        plan.millis_again
    };
    std::thread::sleep(Duration::from_millis(millis));
    tell(&mut log, "end", id, worker, target);
    ExitCode::from(plan.code_of(attempt))
}
