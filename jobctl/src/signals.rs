//! The signals that end a program from outside. Where they were once listened to, they end nothing by themselves any
//! more, as long as jobctl lives.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::Failure;

/// SIGTERM and SIGHUP, heard from here on.
pub(crate) struct Ends {
    terminated: Signal,
    hung_up: Signal,
}

impl Ends {
    /// Begins to listen, in the context of a runtime.
    pub(crate) fn listen() -> Result<Self, Failure> {
        Ok(Self {
            terminated: listen(SignalKind::terminate())?,
            hung_up: listen(SignalKind::hangup())?,
        })
    }

    /// Waits for one of them; returns the exit code that a shell gives it.
    pub(crate) async fn next(&mut self) -> u8 {
        tokio::select! {
            biased;
            _ = self.terminated.recv() => 143,
            _ = self.hung_up.recv() => 129,
        }
    }
}

/// Listens to a signal.
pub(crate) fn listen(kind: SignalKind) -> Result<Signal, Failure> {
    signal(kind).map_err(|error| Failure::Refused(format!("cannot wait for signals: {error}")))
}
