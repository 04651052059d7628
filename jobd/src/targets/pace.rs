//! How much a target has finished of late. Pure.

use std::time::{Duration, Instant};

/// Look-ahead follows what a target finished within this time.
const PACE_WINDOW: Duration = Duration::from_secs(1);

/// Ends within about the last [`PACE_WINDOW`]: this window's and the one before.
#[derive(Debug, Default)]
pub(super) struct Pace {
    began: Option<Instant>,
    before: usize,
    now: usize,
}

impl Pace {
    pub(super) fn note(&mut self, at: Instant) {
        let began = *self.began.get_or_insert(at);
        let windows = at.duration_since(began).as_millis() / PACE_WINDOW.as_millis();
        if windows > 0 {
            self.before = if windows == 1 { self.now } else { 0 };
            self.now = 0;
            self.began = Some(at);
        }
        self.now += 1;
    }

    pub(super) fn recent(&self, at: Instant) -> usize {
        match self.began.map(|began| at.duration_since(began)) {
            Some(since) if since < PACE_WINDOW => self.now.max(self.before),
            Some(since) if since < PACE_WINDOW * 2 => self.now,
            _ => 0,
        }
    }
}
