//! A job that tells when it began and when it ended; the launcher of the end-to-end tests.
//!
//! `witness FILE WORKER MILLIS CODES ID TARGET` appends a line to FILE, prints `out ID` and
//! `err ID`, works for MILLIS milliseconds, appends a second line and ends with `ID % CODES`.

use std::fs::File;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [file, worker, millis, codes, id, target] = &arguments[..] else {
        eprintln!("usage: witness FILE WORKER MILLIS CODES ID TARGET");
        return ExitCode::from(2);
    };
    let mut log = File::options()
        .append(true)
        .open(file)
        .expect("the witness's file");
    let mut tell = |what: &str| {
        let now = clock_gettime(ClockId::Boottime);
        let pid = std::process::id();
        let line = format!(
            "{what} {id} {worker} {target} {pid} {}{:09}\n",
            now.tv_sec, now.tv_nsec
        );
        // One write: lines of many jobs must not mix.
        log.write_all(line.as_bytes()).expect("append a line");
    };
    tell("begin");
    println!("out {id}");
    eprintln!("err {id}");
    std::thread::sleep(Duration::from_millis(millis.parse().expect("MILLIS")));
    tell("end");
    let id: u64 = id.parse().expect("ID");
    let codes: u64 = codes.parse().expect("CODES");
    ExitCode::from(u8::try_from(id % codes).expect("CODES up to 256"))
}
