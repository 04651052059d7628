//! Writes what happens to claimed rows: starts, ends, releases.
//!
//! ```text
//!  dispatcher ──Entry──> queue ──> ledger task ──Batch──> Store::record
//!      ^                               │ ^
//!      │                               v │ later
//!      └──────────── Note ─────────── aside
//! ```
//!
//! Everything that has gathered while one batch was written goes into the next (group commit): no
//! timer, so a lone job is written at once, and under load one commit serves many. While the
//! database is away a batch is kept and tried again; nothing is dropped. An entry that is refused by
//! itself is set aside for a while, so that it stops nobody else. The queue and what is aside hold one
//! entry per claimed row at most, which the dispatcher bounds by its slots.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jobd_proto::JobResult;
use tokio::sync::mpsc;
use tokio::time::{Instant as Deadline, sleep, sleep_until};

use crate::job::Job;
use crate::launcher::End;
use crate::store::{Batch, Finish, Recorded, Store, StoreError};

/// Entries of one transaction: more would hold row locks and a packet's worth of output for long.
const MAX_BATCH: usize = 128;

/// Bytes of output in one transaction.
const MAX_BATCH_BYTES: usize = 16 << 20;

/// First and longest pause after a failed write: claiming must resume within seconds.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// How long an entry that was refused by itself is set aside. People mend what refuses it.
const ASIDE: Duration = Duration::from_secs(5);

/// Lost connections in a row after which an entry is suspected to be their cause (a packet too large
/// for somebody on the way), and tried alone to see whether others pass; and lone losses, with others
/// passing between them, after which it is taken for the cause.
const SUSPICIOUS: u32 = 4;

/// Something to write.
#[derive(Debug)]
pub enum Entry {
    /// The job has a slot: `running`, please.
    Start(Job),
    /// The job has ended.
    Finish(Job, End),
    /// The job goes back to where it was claimed from.
    Release(Job),
}

/// Something that is written.
#[derive(Debug)]
pub enum Note {
    /// The row says `running` and names us: launch it.
    Started(Job),
    /// The row is not ours any more: do not launch it.
    Lost(Job),
    /// The row cannot be set to `running`, for this reason: do not launch it.
    Unstartable(Job, String),
    /// The row says `done`, with this outcome, or was taken away while the job ran.
    Finished(Finish),
    /// A row went back.
    Released(Job),
}

/// The way to the ledger's task.
#[derive(Clone, Debug)]
pub struct Ledger {
    entries: mpsc::UnboundedSender<Entry>,
}

impl Ledger {
    /// Starts the task. It ends when the last handle is gone and everything is written.
    pub fn start(store: Arc<dyn Store>, notes: impl Fn(Note) + Send + Sync + 'static) -> Self {
        let (entries, queue) = mpsc::unbounded_channel();
        let writer = Writer {
            store,
            queue,
            notes,
            aside: Vec::new(),
            failing: None,
            successes: 0,
            losses: 0,
        };
        tokio::spawn(writer.run());
        Self { entries }
    }

    /// Hands over an entry; its [`Note`] follows once it is written.
    pub fn write(&self, entry: Entry) {
        let sent = self.entries.send(entry);
        sent.expect("the ledger's task outlives its handles");
    }
}

struct Writer<F> {
    store: Arc<dyn Store>,
    queue: mpsc::UnboundedReceiver<Entry>,
    notes: F,
    aside: Vec<Aside>,
    /// Since when writing has been failing.
    failing: Option<Instant>,
    /// How often writing has succeeded, and how often a connection was lost over it.
    successes: u64,
    losses: u64,
}

/// A lone entry that could not be written.
struct Aside {
    single: Batch,
    until: Deadline,
    trial: Trial,
}

/// What the lone tries of an entry have shown.
#[derive(Clone, Copy, Debug, Default)]
struct Trial {
    /// Lost connections in a row between which others were written, and nothing else was lost.
    alone: u32,
    /// The writer's counts at its last loss.
    successes: u64,
    losses: u64,
}

impl<F: Fn(Note) + Send + Sync> Writer<F> {
    async fn run(mut self) {
        let mut entries = Vec::with_capacity(MAX_BATCH);
        let mut open = true;
        while open || !self.aside.is_empty() {
            let due = self.aside.iter().map(|aside| aside.until).min();
            tokio::select! {
                received = self.queue.recv_many(&mut entries, MAX_BATCH), if open => open = received > 0,
                () = sleep_until(due.unwrap_or_else(Deadline::now)), if due.is_some() => self.retry().await,
            }
            for batch in self.batches(&mut entries) {
                self.write(batch).await;
            }
        }
    }

    /// Entries as batches whose output fits one transaction.
    fn batches(&self, entries: &mut Vec<Entry>) -> Vec<Batch> {
        let mut batches = Vec::new();
        let mut batch = Batch::default();
        let mut bytes = 0;
        for entry in entries.drain(..) {
            match entry {
                Entry::Start(job) => batch.starts.push(job),
                Entry::Release(job) => batch.releases.push(job),
                Entry::Finish(job, end) => {
                    let finish = self.finish(job, &end);
                    bytes += finish.stdout.len() + finish.stderr.len();
                    batch.finishes.push(finish);
                    if bytes > MAX_BATCH_BYTES {
                        batches.push(std::mem::take(&mut batch));
                        bytes = 0;
                    }
                }
            }
        }
        if batch.len() > 0 {
            batches.push(batch);
        }
        batches
    }

    /// The end as the row will say it.
    fn finish(&self, job: Job, end: &End) -> Finish {
        let (stdout, stderr) = self.store.output_text().fit(&end.stdout, &end.stderr);
        let result = if end.code == Some(0) {
            JobResult::Ok
        } else {
            JobResult::Fail
        };
        Finish {
            job,
            result,
            code: end.code,
            signal: end.signal.map(jobd_proto::signal::name),
            stdout,
            stderr,
            ended: end.ended,
        }
    }

    /// Writes a batch; while the database is away, for as long as it takes.
    async fn write(&mut self, batch: Batch) {
        let mut batch = Arc::new(batch);
        let mut pause = PAUSE.0;
        let mut losses = 0;
        loop {
            self.refit(&mut batch);
            match self.store.record(batch.clone()).await {
                Ok(recorded) => return self.report(Arc::unwrap_or_clone(batch), &recorded),
                Err(StoreError::Unavailable(error)) if losses < SUSPICIOUS => {
                    self.note_failure(&error, batch.len());
                    self.losses += 1;
                    losses += 1;
                }
                Err(error) if batch.len() > 1 => {
                    tracing::debug!(%error, entries = batch.len(), "batch not written, trying its entries one by one");
                    for single in Arc::unwrap_or_clone(batch).singles() {
                        self.write_single(single, Trial::default()).await;
                    }
                    return;
                }
                Err(_) => {
                    return self
                        .write_single(Arc::unwrap_or_clone(batch), Trial::default())
                        .await;
                }
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    /// Tries a lone entry, writing less output where that is the matter; sets it aside where it cannot be
    /// written now.
    async fn write_single(&mut self, single: Batch, mut trial: Trial) {
        let mut single = Arc::new(single);
        loop {
            self.refit(&mut single);
            let error = match self.store.record(single.clone()).await {
                Ok(recorded) => return self.report(Arc::unwrap_or_clone(single), &recorded),
                Err(error) => error,
            };
            let guilty = match &error {
                StoreError::Unfit(_) => true,
                StoreError::Unavailable(_) => {
                    self.is_guilty(&mut trial) && single.finishes.iter().any(Finish::is_large)
                }
                StoreError::Refused(_) => false,
            };
            let mut finishes = Arc::make_mut(&mut single).finishes.iter_mut();
            if guilty && finishes.any(Finish::narrow) {
                tracing::warn!(%error, job = %single.finishes[0].job.id, "output not taken, writing less of it");
                trial = Trial::default();
                continue;
            }
            return self.set_aside(Arc::unwrap_or_clone(single), trial, &error);
        }
    }

    /// Notes a lost connection. Whether it is this entry that loses them: others get through between its
    /// losses, and nobody else loses any.
    fn is_guilty(&mut self, trial: &mut Trial) -> bool {
        let others_pass = self.successes > trial.successes;
        let others_lose = self.losses > trial.losses;
        self.losses += 1;
        *trial = Trial {
            alone: if others_pass && !others_lose {
                trial.alone + 1
            } else {
                0
            },
            successes: self.successes,
            losses: self.losses,
        };
        trial.alone >= SUSPICIOUS
    }

    fn set_aside(&mut self, mut single: Batch, trial: Trial, error: &StoreError) {
        self.note_failure(&error.to_string(), 1);
        if let StoreError::Refused(error) = error
            && let Some(job) = single.starts.pop()
        {
            return (self.notes)(Note::Unstartable(job, error.clone()));
        }
        let pause = match error {
            StoreError::Unavailable(_) => PAUSE.1,
            StoreError::Refused(_) | StoreError::Unfit(_) => ASIDE,
        };
        let until = Deadline::now() + pause;
        self.aside.push(Aside {
            single,
            until,
            trial,
        });
    }

    /// Tries again what was set aside long enough.
    async fn retry(&mut self) {
        let now = Deadline::now();
        let (due, later) = std::mem::take(&mut self.aside)
            .into_iter()
            .partition(|aside| aside.until <= now);
        self.aside = later;
        let due: Vec<Aside> = due;
        for aside in due {
            self.write_single(aside.single, aside.trial).await;
        }
    }

    /// A server that was restarted with a smaller packet takes less.
    fn refit(&self, batch: &mut Arc<Batch>) {
        let text = self.store.output_text();
        if batch
            .finishes
            .iter()
            .any(|finish| !text.fits(&finish.stdout, &finish.stderr))
        {
            for finish in &mut Arc::make_mut(batch).finishes {
                text.refit(&mut finish.stdout, &mut finish.stderr);
            }
        }
    }

    /// Says once that writing fails.
    fn note_failure(&mut self, error: &str, entries: usize) {
        if self.failing.is_some() {
            tracing::debug!(error, entries, "still cannot write to the table");
        } else {
            tracing::error!(error, entries, "cannot write to the table, keeping at it");
            self.failing = Some(Instant::now());
        }
    }

    fn report(&mut self, batch: Batch, recorded: &Recorded) {
        self.successes += 1;
        if let Some(since) = self.failing.take_if(|_| self.aside.is_empty()) {
            tracing::info!(after = ?since.elapsed(), "writing to the table again");
        }
        for (finish, written) in batch.finishes.into_iter().zip(&recorded.finished) {
            if !written {
                tracing::warn!(job = %finish.job.id, target = %finish.job.target, result = %finish.result, code = finish.code, "row was changed by somebody else while the job ran: its result is superseded and not written");
            }
            (self.notes)(Note::Finished(finish));
        }
        for (job, started) in batch.starts.into_iter().zip(&recorded.started) {
            (self.notes)(if *started {
                Note::Started(job)
            } else {
                Note::Lost(job)
            });
        }
        for job in batch.releases {
            (self.notes)(Note::Released(job));
        }
    }
}

impl Batch {
    fn len(&self) -> usize {
        self.starts.len() + self.finishes.len() + self.releases.len()
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
        let release = |job| Self {
            releases: vec![job],
            ..Self::default()
        };
        let finishes = self.finishes.into_iter().map(finish);
        let starts = self.starts.into_iter().map(start);
        finishes
            .chain(starts)
            .chain(self.releases.into_iter().map(release))
    }
}
