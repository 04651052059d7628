//! Every deadline of a connection. Pure: is told the time and the facts.

use std::time::Duration;

use tokio::time::Instant;

use super::ConnectionOptions;

/// A peer at its limit is not read for this long; if nothing moves meanwhile, it is read again and
/// its requests are refused. Otherwise two peers that send each other much would wait for ever, and
/// a link full of long requests would miss its pings.
const STALL_LIMIT: Duration = Duration::from_secs(2);

/// What can be due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Alarm {
    /// A frame was begun and not finished.
    Frame,
    /// The peer takes nothing.
    Write,
    /// The peer says nothing.
    Silence,
    /// The peer is at its limit, and nothing has moved.
    Stall,
    /// It is time for a ping.
    Ping,
}

/// How things are.
#[derive(Clone, Copy)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "facts are independent of each other"
)]
pub(super) struct Facts {
    /// Whether the peer's bytes are wanted.
    pub(super) reading: bool,
    /// Bytes of an unfinished frame.
    pub(super) begun: usize,
    /// Whether something waits to be written.
    pub(super) writing: bool,
    /// Whether the peer may ask for nothing more at present.
    pub(super) at_limit: bool,
    /// Whether its requests are refused for that.
    pub(super) refusing: bool,
}

/// Since when things are as they are.
pub(super) struct Clock {
    last_read: Instant,
    last_ping: Instant,
    frame: Option<Instant>,
    write: Option<Instant>,
    stalled: Option<Instant>,
}

impl Clock {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            last_read: now,
            last_ping: now,
            frame: None,
            write: None,
            stalled: None,
        }
    }

    /// Starts and ends what goes with the facts. The time is asked for only where it is needed:
    /// most rounds of a connection have no deadline.
    pub(super) fn keep(&mut self, facts: Facts) {
        let mut now = None;
        let mut since = |start: &mut Option<Instant>, lasts: bool| {
            if !lasts {
                *start = None;
            } else if start.is_none() {
                *start = Some(*now.get_or_insert_with(Instant::now));
            }
        };
        since(&mut self.frame, facts.begun > 0 && facts.reading);
        since(&mut self.write, facts.writing);
        since(&mut self.stalled, facts.at_limit);
    }

    /// A frame was finished; what has come of the next one begins now.
    pub(super) fn frame_finished(&mut self) {
        self.frame = None;
    }

    pub(super) fn read(&mut self) {
        self.last_read = Instant::now();
    }

    pub(super) fn written(&mut self) {
        self.write = None;
    }

    /// A peer at its limit has made room.
    pub(super) fn moved(&mut self) {
        self.stalled = None;
    }

    pub(super) fn pinged(&mut self) {
        self.last_ping = Instant::now();
    }

    /// The next deadline.
    pub(super) fn next(&self, options: &ConnectionOptions, facts: Facts) -> Option<Instant> {
        self.deadlines(options, facts).map(|(_, at)| at).min()
    }

    /// Everything that is due.
    pub(super) fn due(&self, options: &ConnectionOptions, facts: Facts) -> Vec<Alarm> {
        let now = Instant::now();
        self.deadlines(options, facts)
            .filter(|(_, at)| *at <= now)
            .map(|(alarm, _)| alarm)
            .collect()
    }

    fn deadlines(
        &self,
        options: &ConnectionOptions,
        facts: Facts,
    ) -> impl Iterator<Item = (Alarm, Instant)> {
        let mebibytes = u32::try_from(facts.begun >> 20).unwrap_or(u32::MAX);
        let per_frame = options
            .frame_deadline
            .saturating_mul(mebibytes.saturating_add(1));
        let after =
            |start: Option<Instant>, time: Duration| start.and_then(|at| at.checked_add(time));
        // Whoever is not read cannot be called silent.
        let silent = options.ping.filter(|_| facts.reading);
        let stalled = self.stalled.filter(|_| !facts.refusing);
        [
            (Alarm::Frame, after(self.frame, per_frame)),
            (Alarm::Write, after(self.write, options.write_deadline)),
            (
                Alarm::Silence,
                silent.and_then(|every| after(Some(self.last_read), every.saturating_mul(3))),
            ),
            (Alarm::Stall, after(stalled, STALL_LIMIT)),
            (
                Alarm::Ping,
                options
                    .ping
                    .and_then(|every| after(Some(self.last_ping), every)),
            ),
        ]
        .into_iter()
        .filter_map(|(alarm, at)| Some((alarm, at?)))
    }
}
