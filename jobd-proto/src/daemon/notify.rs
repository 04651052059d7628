//! What the service manager is told: ready, status, stopping, still alive.
//!
//! Without `NOTIFY_SOCKET` every call does nothing. A message that cannot be delivered is logged
//! at debug level and forgotten: a daemon serves jobs, not its supervisor. One that does not read is waited for
//! at the start alone, which would count as failed without a word.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

/// Longest pause between two beats that [`beat_interval`] asks for.
const LONGEST_BEAT: Duration = Duration::from_secs(5);

/// How long a service manager may take to make room for the word that the daemon listens.
const READY_WAIT: Duration = Duration::from_secs(5);

/// Shared with the loop that must be alive: it beats on every turn, the watchdog task looks.
#[derive(Clone, Debug, Default)]
pub struct Heartbeat {
    /// Written by the loop, taken back by the watchdog task.
    beaten: Arc<AtomicBool>,
}

impl Heartbeat {
    /// Says that the loop turned. Costs one store; call it on every turn.
    pub fn beat(&self) {
        self.beaten.store(true, Ordering::Relaxed);
    }

    /// Whether there was a beat since the last question.
    fn take(&self) -> bool {
        self.beaten.swap(false, Ordering::Relaxed)
    }
}

/// Says that the daemon listens, and what it does. Where the service manager does not read, this waits for it, at
/// most five seconds.
pub fn ready(status: &str) {
    let status = one_line(status);
    send_within(
        READY_WAIT,
        &[NotifyState::Ready, NotifyState::Status(&status)],
    );
}

/// Says what the daemon does, for `systemctl status`.
pub fn status(text: &str) {
    send(&[NotifyState::Status(&one_line(text))]);
}

/// Says that the shutdown has begun, and what it waits for.
pub fn stopping(status: &str) {
    send(&[
        NotifyState::Stopping,
        NotifyState::Status(&one_line(status)),
    ]);
}

/// Says that the config is being read again; [`reloaded`] has to follow.
pub fn reloading() {
    // Both in one message: newer service managers hold the time against that of their request.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => send(&[NotifyState::Reloading, now]),
        Err(error) => tracing::debug!(%error, "cannot tell the time of a reload"),
    }
}

/// Says that the settings are as they are to be from now on.
pub fn reloaded() {
    send(&[NotifyState::Ready]);
}

/// How often a loop must beat, even when it has nothing to do, so that the watchdog is content.
pub fn beat_interval() -> Duration {
    sd_notify::watchdog_enabled().map_or(LONGEST_BEAT, |limit| (limit / 4).min(LONGEST_BEAT))
}

/// Starts the task that keeps the service manager's watchdog content for as long as there are
/// beats; `None` where there is no watchdog. Needs a running runtime.
pub fn watchdog(heartbeat: Heartbeat) -> Option<JoinHandle<()>> {
    let limit = sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero())?;
    Some(tokio::spawn(keep_content(heartbeat, limit)))
}

async fn keep_content(heartbeat: Heartbeat, limit: Duration) {
    let mut ticks = tokio::time::interval(limit / 2);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if heartbeat.take() {
            send(&[NotifyState::Watchdog]);
        } else {
            tracing::debug!("the main loop has not turned since the last watchdog message");
        }
    }
}

/// Sends what can be sent at once.
fn send(states: &[NotifyState<'_>]) {
    send_within(Duration::ZERO, states);
}

fn send_within(limit: Duration, states: &[NotifyState<'_>]) {
    let Some(socket) = env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let lines: Vec<String> = states.iter().map(|said| format!("{said}\n")).collect();
    if let Err(error) = deliver(&socket, &lines.concat(), limit) {
        tracing::debug!(%error, "cannot notify the service manager");
    }
}

/// As in sd_notify(3): one datagram to a path or, behind an `@`, to a name of Linux's.
fn deliver(socket: &OsStr, message: &str, limit: Duration) -> io::Result<()> {
    let address = match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    let datagram = UnixDatagram::unbound()?;
    if limit.is_zero() {
        datagram.set_nonblocking(true)?;
    } else {
        datagram.set_write_timeout(Some(limit))?;
    }
    datagram
        .send_to_addr(message.as_bytes(), &address)
        .map(drop)
}

/// A line end would begin another message of the protocol.
fn one_line(text: &str) -> String {
    text.replace(|c: char| c.is_control(), " ")
}
