//! The chaos suite's program; tests/chaos/run builds and starts it.
//!
//! Exit codes: 0 every promise was kept, 1 one was not, 2 wrong usage, 130 interrupted. However it
//! ends, the watchdog of the test ground ends what it started and removes its folders.

use std::process::ExitCode;

use clap::Parser as _;
use jobd_tests::chaos::{options::Options, suite};
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
        // At once: an orderly end of daemons that are frozen or cut off would take long.
        println!("chaos: interrupted");
        std::process::exit(130)
    });
    let verdict = suite::run(&options).await;
    if let Some(folder) = &verdict.evidence {
        println!(
            "look at {}/breaches.txt and the logs beside it",
            folder.display()
        );
    }
    ExitCode::from(u8::from(!verdict.breaches.is_empty()))
}
