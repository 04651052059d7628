//! The benchmark's program; tests/bench/run builds and starts it.
//!
//! Exit codes: 0 measured (and nothing got worse, where that was asked), 1 a ratio got worse or a
//! measurement failed, 2 wrong usage, 130 interrupted. However it ends, the watchdog of the test ground
//! ends what it started and removes its folders.

use std::process::ExitCode;

use clap::Parser as _;
use jobd_tests::bench::{check, options::Options, scenarios};
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    let mut terminate = signal(SignalKind::terminate()).expect("listen for SIGTERM");
    let mut interrupt = signal(SignalKind::interrupt()).expect("listen for SIGINT");
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        eprintln!("bench: interrupted");
        std::process::exit(130)
    });
    let passed = match (&options.compare, &options.adopt) {
        (Some(file), _) => check::of_file(file, &options),
        (None, Some(file)) => check::adopt_file(file, &options),
        (None, None) => scenarios::run(&options).await,
    };
    ExitCode::from(u8::from(!passed))
}
