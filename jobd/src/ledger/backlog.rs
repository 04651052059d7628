//! What is still to be written, and in which order. Pure: `now` and the outcome of each write come from
//! the caller.
//!
//! ```text
//!  push ──> gathering ──> turns ──> current ──written──> notes
//!                           ^          │
//!                           │          v refused by itself
//!                           └─later── aside
//! ```
//!
//! Everything that has gathered while one batch was written goes into the next (group commit): no
//! timer, so a lone job is written at once, and under load one commit serves many. A batch that is
//! lost with its connection is kept and tried again after a pause; one that is refused is tried entry
//! by entry. An entry that is refused by itself is set aside for a while, so that it stops nobody else.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jobd_proto::{JobId, JobResult};

use super::{Entry, Note};
use crate::fate::{self, Again};
use crate::job::Job;
use crate::launcher::End;
use crate::store::{Batch, Finish, OutputText, Recorded, StoreError};

/// Entries of one transaction: more would hold row locks and a packet's worth of output for long.
const MAX_BATCH: usize = 128;

/// Bytes of output in one transaction.
const MAX_BATCH_BYTES: usize = 16 << 20;

/// First and longest pause after a failed write: claiming must resume within seconds.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// How long an entry that was refused by itself is set aside, or met a locked row: people mend what refuses it,
/// and each wait for a lock is a second in which nothing else is written.
const ASIDE: Duration = Duration::from_secs(5);

/// Lost connections in a row after which an entry is suspected to be their cause (a packet too large
/// for somebody on the way), and tried alone to see whether others pass; and lone losses, each right after
/// something that did pass, after which it is taken for the cause.
const SUSPICIOUS: u32 = 4;

/// What to do next.
#[derive(Debug)]
pub enum Step {
    /// Write this, then tell [`Backlog::written`] what became of it.
    Write(Arc<Batch>),
    /// Nothing until then; nothing until an entry comes, where there is no time.
    Wait(Option<Instant>),
}

/// See the module.
#[derive(Debug, Default)]
pub struct Backlog {
    /// Batches in the making. The last one takes what comes.
    gathering: VecDeque<Gathering>,
    /// What is written next, one after the other, before anything new is.
    turns: VecDeque<Turn>,
    /// What is being written.
    current: Option<Turn>,
    /// Nothing is written before.
    rest: Option<Instant>,
    aside: Vec<Aside>,
    /// Since when writing has been failing.
    failing: Option<Instant>,
    /// Whether the last write succeeded.
    passing: bool,
}

/// A batch that more may be added to.
#[derive(Debug)]
struct Gathering {
    batch: Batch,
    /// When the first entry came.
    since: Instant,
    /// The rows of the batch: each stands in it once.
    ids: Vec<JobId>,
    /// Bytes of output.
    bytes: usize,
}

/// A batch that is to be written.
#[derive(Debug)]
struct Turn {
    batch: Arc<Batch>,
    since: Instant,
    manner: Manner,
}

/// How a batch is tried.
#[derive(Clone, Copy, Debug)]
enum Manner {
    /// With what gathered; after so many losses of the connection, and with this pause after the next.
    Together { losses: u32, pause: Duration },
    /// A lone entry, after so many lost connections in a row right before which something else was written.
    Alone { losses: u32 },
    /// A start that is written already: shows whether anything passes, where nothing else is to be written.
    Probe,
}

/// A lone entry that could not be written.
#[derive(Debug)]
struct Aside {
    turn: Turn,
    until: Instant,
}

/// Ends that wait to be written.
#[derive(Clone, Copy, Debug)]
pub struct Ends<'a> {
    /// Since when, the first of them.
    pub since: Instant,
    /// Whether a write of them has failed.
    pub failed: bool,
    /// They themselves.
    pub finishes: &'a [Finish],
}

impl Backlog {
    /// Takes in an entry, whose output is made fit for the row by `text`.
    pub fn push(&mut self, now: Instant, entry: Entry, text: &OutputText) {
        match entry {
            Entry::Start(job) => self.gather(now, job.id).starts.push(job),
            Entry::Release(job) => self.gather(now, job.id).releases.push(job),
            Entry::Finish(job, end, again) => self.push_end(now, as_row(job, end, again, text)),
        }
    }

    /// Takes in an end as its row will say it.
    pub fn push_end(&mut self, now: Instant, finish: Finish) {
        let bytes = finish.stdout.len() + finish.stderr.len();
        let batch = self.gather(now, finish.job.id);
        if finish.again.is_some() {
            batch.retries.push(finish);
        } else {
            batch.finishes.push(finish);
        }
        if let Some(last) = self.gathering.back_mut() {
            last.bytes += bytes;
        }
    }

    /// Every end that waits to be written.
    pub fn ends(&self) -> impl Iterator<Item = Ends<'_>> {
        let gathering = self.gathering.iter();
        let gathering = gathering.map(|gathering| (gathering.since, false, &gathering.batch));
        let aside = self.aside.iter().map(|aside| &aside.turn);
        let turns = self.current.iter().chain(&self.turns).chain(aside);
        let turns = turns.map(|turn| {
            let failed = !matches!(turn.manner, Manner::Together { losses: 0, .. });
            (turn.since, failed, &*turn.batch)
        });
        gathering.chain(turns).flat_map(|(since, failed, batch)| {
            [&batch.finishes, &batch.retries].map(|finishes| Ends {
                since,
                failed,
                finishes,
            })
        })
    }

    /// What to do at `now`. `text` is asked before each write: a server that was restarted with a smaller
    /// packet takes less.
    pub fn next(&mut self, now: Instant, text: impl FnOnce() -> OutputText) -> Step {
        assert!(self.current.is_none(), "one batch is written at a time");
        if let Some(rest) = self.rest.filter(|rest| *rest > now) {
            return Step::Wait(Some(rest));
        }
        if self.turns.is_empty() {
            self.begin_round(now);
        }
        let Some(mut turn) = self.turns.pop_front() else {
            return Step::Wait(self.aside.iter().map(|aside| aside.until).min());
        };
        refit(&mut turn.batch, &text());
        let batch = turn.batch.clone();
        self.current = Some(turn);
        Step::Write(batch)
    }

    /// What became of the batch of the last [`Step::Write`]; returns what is to be said of it.
    pub fn written(&mut self, now: Instant, outcome: Result<Recorded, StoreError>) -> Vec<Note> {
        let turn = self.current.take();
        let turn = turn.expect("an outcome follows a step that writes");
        let passing = std::mem::replace(&mut self.passing, outcome.is_ok());
        if matches!(turn.manner, Manner::Probe) {
            return Vec::new();
        }
        match outcome {
            Ok(recorded) => self.report(now, Arc::unwrap_or_clone(turn.batch), &recorded),
            Err(error) => self
                .failed(now, turn, passing, &error)
                .into_iter()
                .collect(),
        }
    }

    /// The batch that takes an entry of row `id`.
    fn gather(&mut self, now: Instant, id: JobId) -> &mut Batch {
        let takes = |last: &Gathering| {
            last.ids.len() < MAX_BATCH && last.bytes <= MAX_BATCH_BYTES && !last.ids.contains(&id)
        };
        if !self.gathering.back().is_some_and(takes) {
            self.gathering.push_back(Gathering {
                batch: Batch::default(),
                since: now,
                ids: Vec::new(),
                bytes: 0,
            });
        }
        let last = self.gathering.back_mut();
        let last = last.expect("one was just added where there was none");
        last.ids.push(id);
        &mut last.batch
    }

    /// What has gathered, and then what was set aside long enough: neither waits for more than a round
    /// of the other.
    fn begin_round(&mut self, now: Instant) {
        self.turns
            .extend(self.gathering.pop_front().map(|gathered| Turn {
                batch: Arc::new(gathered.batch),
                since: gathered.since,
                manner: Manner::Together {
                    losses: 0,
                    pause: PAUSE.0,
                },
            }));
        let due = self.aside.extract_if(.., |aside| aside.until <= now);
        self.turns.extend(due.map(|aside| aside.turn));
    }

    /// `passing` is whether the write before this one succeeded.
    fn failed(
        &mut self,
        now: Instant,
        mut turn: Turn,
        passing: bool,
        error: &StoreError,
    ) -> Option<Note> {
        match (&mut turn.manner, error) {
            (Manner::Alone { losses }, StoreError::Unavailable(_)) => {
                *losses = if passing { *losses + 1 } else { 0 };
                self.failed_alone(now, turn, error)
            }
            (Manner::Alone { .. } | Manner::Probe, _) => self.failed_alone(now, turn, error),
            (Manner::Together { losses, pause }, StoreError::Unavailable(error))
                if *losses < SUSPICIOUS =>
            {
                *losses += 1;
                self.rest = Some(now + *pause);
                *pause = (*pause * 2).min(PAUSE.1);
                self.note_failure(now, error, turn.batch.len());
                self.turns.push_front(turn);
                None
            }
            (Manner::Together { .. }, _) => {
                if turn.batch.len() > 1 {
                    tracing::debug!(%error, entries = turn.batch.len(), "batch not written, trying its entries one by one");
                }
                let singles = Arc::unwrap_or_clone(turn.batch).singles();
                let later = std::mem::take(&mut self.turns);
                self.turns.extend(singles.map(|single| Turn {
                    batch: Arc::new(single),
                    since: turn.since,
                    manner: Manner::Alone { losses: 0 },
                }));
                self.turns.extend(later);
                None
            }
        }
    }

    /// Writes less output of a lone entry where that is the matter; sets it aside where it cannot be
    /// written now.
    fn failed_alone(&mut self, now: Instant, mut turn: Turn, error: &StoreError) -> Option<Note> {
        let lost = matches!(error, StoreError::Unavailable(_));
        let large = turn.batch.ends().find(|end| end.is_large());
        // Suspected only where it is large; the cause where others get through before each of its losses.
        let suspect = large.filter(|_| lost).map(|end| end.job.clone());
        let guilty = matches!(error, StoreError::Unfit(_))
            || suspect.is_some()
                && matches!(turn.manner, Manner::Alone { losses } if losses >= SUSPICIOUS);
        let narrowed = guilty.then(|| narrow(&mut turn.batch));
        if let Some(job) = narrowed.flatten() {
            tracing::warn!(%error, %job, "output not taken, writing less of it");
            turn.manner = Manner::Alone { losses: 0 };
            self.turns.push_front(turn);
            return None;
        }
        self.note_failure(now, &error.to_string(), 1);
        if let StoreError::Refused(error) = error
            && let Some(job) = turn.batch.starts.first()
        {
            return Some(Note::Unstartable {
                job: job.clone(),
                error: error.clone(),
                passed: false,
            });
        }
        let until = now + if lost { PAUSE.1 } else { ASIDE };
        // Right before its next try, as what was set aside keeps its order.
        let probe = suspect.map(|job| Turn {
            batch: Arc::new(Batch {
                starts: vec![job],
                ..Batch::default()
            }),
            since: now,
            manner: Manner::Probe,
        });
        let turns = probe.into_iter().chain([turn]);
        self.aside.extend(turns.map(|turn| Aside { turn, until }));
        None
    }

    /// Says once that writing fails.
    fn note_failure(&mut self, now: Instant, error: &str, entries: usize) {
        if self.failing.is_some() {
            tracing::debug!(error, entries, "still cannot write to the table");
        } else {
            tracing::error!(error, entries, "cannot write to the table, keeping at it");
            self.failing = Some(now);
        }
    }

    fn report(&mut self, now: Instant, batch: Batch, recorded: &Recorded) -> Vec<Note> {
        if let Some((error, passed)) = &recorded.refused {
            let unstartable = |job| Note::Unstartable {
                job,
                error: error.clone(),
                passed: *passed,
            };
            return batch.starts.into_iter().map(unstartable).collect();
        }
        if let Some(since) = self.failing.take_if(|_| self.aside.is_empty()) {
            tracing::info!(after = ?now - since, "writing to the table again");
        }
        let mut notes = Vec::with_capacity(batch.len());
        let finished = batch.finishes.into_iter().zip(&recorded.finished);
        let retried = batch.retries.into_iter().zip(&recorded.retried);
        for (finish, written) in finished.chain(retried) {
            if !written {
                tracing::warn!(job = %finish.job.id, target = %finish.job.target, result = %finish.result, code = finish.code, "row was changed by somebody else while the job ran: its result is superseded and not written");
            }
            notes.push(Note::Finished(finish));
        }
        for (job, started) in batch.starts.into_iter().zip(&recorded.started) {
            notes.push(if *started {
                Note::Started(job)
            } else {
                Note::Lost(job)
            });
        }
        notes.extend(batch.releases.into_iter().map(Note::Released));
        notes
    }
}

/// The end as the row will say it.
fn as_row(job: Job, end: End, again: Option<Again>, text: &OutputText) -> Finish {
    let reason = fate::reason(&end);
    let (stdout, stderr) = text.fit(end.stdout, end.stderr);
    let result = match reason {
        None => JobResult::Ok,
        Some(_) => JobResult::Fail,
    };
    Finish {
        job,
        result,
        code: end.code,
        signal: end.signal.map(jobd_proto::signal::name),
        reason,
        again,
        usage: end.usage,
        stdout,
        stderr,
        ended: end.ended,
    }
}

/// Takes away output of a lone end; which. `None` where there is nothing to take.
fn narrow(batch: &mut Arc<Batch>) -> Option<JobId> {
    let narrowed = |end: &mut Finish| end.narrow().then_some(end.job.id);
    Arc::make_mut(batch).ends_mut().find_map(narrowed)
}

/// Makes the outputs of a batch fit what the server takes now.
fn refit(batch: &mut Arc<Batch>, text: &OutputText) {
    if batch.ends().any(|end| !text.fits(&end.stdout, &end.stderr)) {
        for end in Arc::make_mut(batch).ends_mut() {
            text.refit(&mut end.stdout, &mut end.stderr);
        }
    }
}

impl Batch {
    /// How many entries.
    pub fn len(&self) -> usize {
        self.starts.len() + self.finishes.len() + self.retries.len() + self.releases.len()
    }

    fn ends(&self) -> impl Iterator<Item = &Finish> {
        self.finishes.iter().chain(&self.retries)
    }

    fn ends_mut(&mut self) -> impl Iterator<Item = &mut Finish> {
        self.finishes.iter_mut().chain(&mut self.retries)
    }

    fn singles(self) -> impl Iterator<Item = Batch> {
        let start = |job| Self {
            starts: vec![job],
            ..Self::default()
        };
        let finish = |finish| Self {
            finishes: vec![finish],
            ..Self::default()
        };
        let retry = |finish| Self {
            retries: vec![finish],
            ..Self::default()
        };
        let release = |job| Self {
            releases: vec![job],
            ..Self::default()
        };
        let finishes = self.finishes.into_iter().map(finish);
        let retries = self.retries.into_iter().map(retry);
        let starts = self.starts.into_iter().map(start);
        finishes
            .chain(retries)
            .chain(starts)
            .chain(self.releases.into_iter().map(release))
    }
}
