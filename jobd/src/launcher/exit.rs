//! Waits for the end of a process while the reactor does other things.

use std::io;
use std::os::fd::OwnedFd;

use rustix::process::{PidfdFlags, WaitId, WaitIdOptions, pidfd_open, waitid};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::process::Child;
use super::usage::{Ended, reap};

/// A process that is not reaped: until then its number is nobody else's.
pub(super) struct Exit {
    child: Child,
    sign: Sign,
    accounted: bool,
}

/// What tells that it may have ended.
enum Sign {
    /// A pidfd, readable then (pidfd_open(2)).
    Pidfd(AsyncFd<OwnedFd>),
    /// SIGCHLD, which comes for any process: where the system has no pidfds, or none left.
    Signal(Signal),
}

impl Exit {
    /// `accounted` asks for what it uses. An error: the system can tell neither way.
    pub(super) fn of(child: Child, accounted: bool) -> io::Result<Self> {
        let pidfd = pidfd_open(child.pid(), PidfdFlags::NONBLOCK).map_err(io::Error::from);
        let sign = match pidfd.and_then(watch) {
            Ok(pidfd) => Sign::Pidfd(pidfd),
            Err(_) => Sign::Signal(signal(SignalKind::child())?),
        };
        Ok(Self {
            child,
            sign,
            accounted,
        })
    }

    /// Whether it has ended. An error: it is not ours to wait for.
    pub(super) fn has_come(&self) -> io::Result<bool> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        Ok(waitid(WaitId::Pid(self.child.pid()), options)?.is_some())
    }

    /// Waits until it has ended. Cancel-safe.
    pub(super) async fn wait(&mut self) -> io::Result<()> {
        while !self.has_come()? {
            match &mut self.sign {
                Sign::Pidfd(pidfd) => pidfd.readable().await?.clear_ready(),
                Sign::Signal(signal) => drop(signal.recv().await),
            }
        }
        Ok(())
    }

    /// How it has ended. Reaps it: its number, which is its group's too, may be a stranger's from now on.
    pub(super) fn reap(mut self) -> io::Result<Ended> {
        let ended = reap(&mut self.child, self.accounted)?;
        ended.ok_or_else(|| io::ErrorKind::WouldBlock.into())
    }
}

#[expect(
    deprecated,
    reason = "unsound for types that may answer with another descriptor, which an OwnedFd does not"
)]
fn watch(pidfd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(pidfd, Interest::READABLE)
}
