//! A job that tells when it began and when it ended; the launcher of the end-to-end tests.
//!
//! `witness FILE WORKER MILLIS CODES ID TARGET` appends a line to FILE, prints `out ID` and
//! `err ID`, works for MILLIS milliseconds, appends a second line and ends with `ID % CODES`.

use std::fs::File;
use std::process::ExitCode;
use std::time::Duration;

use jobd_tests::witness::tell;

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
    tell(&mut log, "begin", id, worker, target);
    println!("out {id}");
    eprintln!("err {id}");
    std::thread::sleep(Duration::from_millis(millis.parse().expect("MILLIS")));
    tell(&mut log, "end", id, worker, target);
    let id: u64 = id.parse().expect("ID");
    let codes: u64 = codes.parse().expect("CODES");
    ExitCode::from(u8::try_from(id % codes).expect("CODES up to 256"))
}
