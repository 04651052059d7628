//! One target: its slots, what is queued for them, and how much more it may claim. Pure.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use jobd_proto::TargetName;
use jobd_proto::worker::TargetStatus;

use super::pace::Pace;
use crate::job::Job;

/// A look-ahead may hold what ends in such a part of a second, however few slots there are: with short jobs a
/// claim would otherwise take a few rows each time, and cost more than their processes.
const AHEAD: usize = 20;

/// After how long a claim that came up short is made once more: it has passed over what somebody had locked just then, be it
/// for the moment that a claim of a neighbouring target takes, and nobody would poke about these rows again.
pub(super) const SECOND_LOOK: Duration = Duration::from_millis(100);

/// Whether to claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Want {
    Nothing,
    /// Once more, from this moment on (at once: `None`).
    Again(Option<Instant>),
    /// Rows may be waiting: polled, or the last claim was full.
    Rows,
}

#[derive(Debug)]
pub(super) struct Target {
    pub(super) concurrency: usize,
    pub(super) paused: bool,
    /// Background jobs claimed ahead, oldest first.
    pub(super) queue: VecDeque<(Instant, Job)>,
    /// Manual jobs without a slot yet; they go first and ignore a pause.
    pub(super) manual: VecDeque<Job>,
    /// Slots taken: from the decision to start until the end is written.
    pub(super) running: usize,
    /// Of these, the jobs that are over and whose end is being written: the next start may stand behind
    /// it in the ledger, so that one commit serves both. Results that cannot be written hold at most as many
    /// slots again.
    pub(super) ending: usize,
    /// A claim is under way.
    pub(super) claiming: bool,
    pub(super) want: Want,
    /// No claim and no start before this moment.
    pub(super) rest_until: Option<Instant>,
    /// Not served any more: it goes when the last of its jobs has ended.
    pub(super) leaving: bool,
    /// The pattern that it was made for.
    pub(super) pattern: Option<TargetName>,
    pub(super) pace: Pace,
}

impl Target {
    pub(super) fn new(concurrency: usize) -> Self {
        Self {
            concurrency,
            paused: false,
            queue: VecDeque::new(),
            manual: VecDeque::new(),
            running: 0,
            ending: 0,
            claiming: false,
            want: Want::Rows,
            rest_until: None,
            leaving: false,
            pattern: None,
            pace: Pace::default(),
        }
    }

    pub(super) fn length(&self) -> usize {
        self.queue.len() + self.manual.len() + self.running
    }

    /// Slots of jobs that have yet to end.
    pub(super) fn busy(&self) -> usize {
        self.running - self.ending
    }

    pub(super) fn resting(&self, now: Instant) -> bool {
        self.rest_until.is_some_and(|until| now < until)
    }

    /// Slots that nothing is queued for yet.
    pub(super) fn free(&self) -> usize {
        self.concurrency
            .saturating_sub(self.busy() + self.manual.len() + self.queue.len())
    }

    /// How many rows may be claimed: the free slots, and a look-ahead. So a busy queue of short jobs never
    /// waits for the table, and no row waits here behind a long job while another worker is idle.
    pub(super) fn room(&self, now: Instant) -> usize {
        if self.paused || self.leaving || self.resting(now) {
            return 0;
        }
        (self.concurrency + self.ahead(now))
            .saturating_sub(self.busy() + self.manual.len() + self.queue.len())
    }

    /// Rows to hold ahead of the free slots: as many as ended within the last second, at most the concurrency
    /// again, or what ends in the time of a few claims where that is more.
    fn ahead(&self, now: Instant) -> usize {
        let pace = self.pace.recent(now);
        pace.min(self.concurrency.max(pace / AHEAD))
    }

    /// Changes the limit. A raised one has room for rows that nobody pokes about again.
    pub(super) fn limit(&mut self, concurrency: usize) {
        if concurrency > self.concurrency {
            self.want = Want::Rows;
        }
        self.concurrency = concurrency;
    }

    /// A claim is made now.
    pub(super) fn claim(&mut self) {
        self.claiming = true;
        self.want = match self.want {
            Want::Rows => Want::Again(None),
            _ => Want::Nothing,
        };
    }

    /// Takes in what the claim brought of what it had asked for. A full one means that there may be more. A short one is made
    /// again, and the one after it only if that has brought something.
    pub(super) fn claimed(&mut self, asked: u32, rows: usize, now: Instant) {
        self.claiming = false;
        self.want = match self.want {
            _ if rows >= asked as usize => Want::Rows,
            Want::Nothing if rows == 0 => Want::Nothing,
            Want::Nothing | Want::Again(_) => Want::Again(Some(now + SECOND_LOOK)),
            Want::Rows => Want::Rows,
        };
    }

    /// Forgets what was to come and has.
    pub(super) fn wake(&mut self, now: Instant) {
        self.rest_until = self.rest_until.filter(|until| now < *until);
        if let Want::Again(at) = &mut self.want {
            *at = at.filter(|at| now < *at);
        }
    }

    /// When [`Self::wake`] next has something to do.
    pub(super) fn next_wake(&self) -> Option<Instant> {
        let again = match self.want {
            Want::Again(at) => at,
            _ => None,
        };
        self.rest_until.into_iter().chain(again).min()
    }

    /// A free slot is reason enough; to fill up the look-ahead a claim waits until most of it is gone, as one
    /// for many rows costs little more than one for a few.
    pub(super) fn wants_claim(&self, now: Instant) -> bool {
        let room = self.room(now);
        let full = self.concurrency.max(self.ahead(now));
        let wanted = matches!(self.want, Want::Rows | Want::Again(None));
        wanted && !self.claiming && room > 0 && (self.free() > 0 || 4 * room > 3 * full)
    }

    pub(super) fn status(&self) -> TargetStatus {
        let leaving = self.leaving.then(|| ("leaving".to_owned(), true.into()));
        let pattern = self.pattern.iter();
        let pattern = pattern.map(|name| ("pattern".to_owned(), name.as_str().into()));
        TargetStatus {
            paused: self.paused,
            concurrency: u32::try_from(self.concurrency).unwrap_or(u32::MAX),
            length: self.length(),
            // A job whose end is being written has already passed its slot on.
            running: Some(self.busy().max(self.running.min(self.concurrency))),
            queued: Some(self.queue.len() + self.manual.len()),
            extra: leaving.into_iter().chain(pattern).collect(),
        }
    }
}
