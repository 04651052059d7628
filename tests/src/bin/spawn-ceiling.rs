//! How many processes a second this machine starts, drains and reaps: the ceiling of any job queue that
//! starts a process per job.
//!
//! `spawn-ceiling COUNT AT_ONCE PROGRAM` starts PROGRAM COUNT times, AT_ONCE at a time, each in a process
//! group of its own with a pipe for standard output and one for standard error, reads both to their end
//! and reaps it. Prints the seconds that it took, and the seconds of CPU time, those of the children too.
//!
//! A thread per slot that blocks in read and wait is the quickest way that we know. A start costs the same
//! CPU time in each; but where one thread starts all processes, or one for each core, a core often has
//! nothing to do, because the thread that starts a process waits until the process has its program.

use std::io::Read;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use jobd_tests::bench::usage::cpu_with_children;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [count, at_once, program] = &arguments[..] else {
        eprintln!("usage: spawn-ceiling COUNT AT_ONCE PROGRAM");
        std::process::exit(2);
    };
    let count: u64 = count.parse().expect("COUNT");
    let at_once: u64 = at_once.parse().expect("AT_ONCE");
    let taken = AtomicU64::new(0);
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                while taken.fetch_add(1, Ordering::Relaxed) < count {
                    run(program);
                }
            });
        }
    });
    let seconds = begun.elapsed().as_secs_f64();
    println!("{seconds} {}", cpu_with_children(std::process::id()));
}

fn run(program: &str) {
    // Standard input is inherited, which costs nothing; the benchmark gives us /dev/null.
    let mut child = Command::new(program)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .expect("start PROGRAM");
    drain(&mut child.stdout.take().expect("a pipe"));
    drain(&mut child.stderr.take().expect("a pipe"));
    assert!(child.wait().expect("wait").success(), "{program} failed");
}

fn drain(pipe: &mut impl Read) {
    let mut buffer = [0; 4096];
    while pipe.read(&mut buffer).expect("read a pipe") > 0 {}
}
