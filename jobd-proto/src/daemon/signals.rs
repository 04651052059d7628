//! What signals ask of a daemon: SIGTERM and SIGINT are two steps of a shutdown, SIGHUP and SIGUSR1 are
//! [`Upkeep`]. What each means is the daemon's business.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The two steps of a shutdown. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    /// Cancelled by the first signal: begin nothing new, finish what runs.
    pub drain: CancellationToken,
    /// Cancelled by the second signal: end at once. `drain` is always cancelled before.
    pub now: CancellationToken,
}

impl Shutdown {
    /// Takes over SIGTERM and SIGINT for the rest of the process. Needs a running runtime.
    ///
    /// # Errors
    /// The system refuses the handlers.
    pub fn on_signals() -> io::Result<Self> {
        let shutdown = Self::default();
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        tokio::spawn(shutdown.clone().follow(terminate, interrupt));
        Ok(shutdown)
    }

    async fn follow(self, mut terminate: Signal, mut interrupt: Signal) {
        for step in [&self.drain, &self.now] {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            let next = if self.drain.is_cancelled() {
                "ending at once"
            } else {
                "finishing what runs, a second signal ends at once"
            };
            tracing::info!("received {name}: {next}");
            step.cancel();
        }
    }
}

/// What an operator asks of a daemon that goes on running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upkeep {
    /// SIGHUP: read the config file again.
    Reload,
    /// SIGUSR1: open the log file anew, because somebody has moved it away.
    ReopenLogs,
}

/// Hears SIGHUP and SIGUSR1. Several of a kind that come at once count as one.
#[derive(Debug)]
pub struct UpkeepSignals {
    hangup: Signal,
    user1: Signal,
}

impl UpkeepSignals {
    /// Takes over both signals for the rest of the process. Needs a running runtime.
    ///
    /// # Errors
    /// The system refuses the handlers.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            user1: signal(SignalKind::user_defined1())?,
        })
    }

    /// The next one. Cancel-safe.
    pub async fn next(&mut self) -> Upkeep {
        tokio::select! {
            _ = self.hangup.recv() => Upkeep::Reload,
            _ = self.user1.recv() => Upkeep::ReopenLogs,
        }
    }
}
