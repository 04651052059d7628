//! Writes what happens to claimed rows: starts, ends, releases.
//!
//! ```text
//!  dispatcher ──Entry──> queue ──> ledger task ──Batch──> Store::record
//!      ^                               │
//!      └──────────── Note ─────────────┘
//! ```
//!
//! Everything that has gathered while one batch was written goes into the next (group commit): no
//! timer, so a lone job is written at once, and under load one commit serves many. While the
//! database is away the batch is kept and tried again; nothing is dropped. The queue holds one
//! entry per claimed row at most, which the dispatcher bounds by its slots.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jobd_proto::JobResult;
use tokio::sync::mpsc;

use crate::job::Job;
use crate::launcher::{Captured, End};
use crate::store::{Batch, Finish, Store, StoreError};

/// Entries of one transaction: more would hold row locks and a packet's worth of output for long.
const MAX_BATCH: usize = 128;

/// Bytes of output in one transaction.
const MAX_BATCH_BYTES: usize = 16 << 20;

/// First and longest pause after a failed write: claiming must resume within seconds.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// Bytes kept of an output that the server refuses for its size.
const NARROWED: usize = 16 << 10;

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
    /// The row says `done`, with this outcome, or was taken away while the job ran.
    Finished(Finish),
    /// A row went back.
    Released,
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
        tokio::spawn(
            Writer {
                store,
                queue,
                notes,
            }
            .run(),
        );
        Self { entries }
    }

    /// Hands over an entry; its [`Note`] follows once it is written.
    pub fn write(&self, entry: Entry) {
        self.entries
            .send(entry)
            .expect("the ledger's task outlives its handles");
    }
}

struct Writer<F> {
    store: Arc<dyn Store>,
    queue: mpsc::UnboundedReceiver<Entry>,
    notes: F,
}

impl<F: Fn(Note) + Send + Sync> Writer<F> {
    async fn run(mut self) {
        let mut entries = Vec::with_capacity(MAX_BATCH);
        while self.queue.recv_many(&mut entries, MAX_BATCH).await > 0 {
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
                            self.write(std::mem::take(&mut batch)).await;
                            bytes = 0;
                        }
                    }
                }
            }
            self.write(batch).await;
        }
    }

    /// The end as the row will say it.
    fn finish(&self, job: Job, end: &End) -> Finish {
        let (stdout, stderr) = self.store.output_text().fit(&end.stdout, &end.stderr);
        let result = if end.code == Some(0) {
            JobResult::Ok
        } else {
            JobResult::Fail
        };
        let signal = end.signal.map(jobd_proto::signal::name);
        Finish {
            job,
            result,
            code: end.code,
            signal,
            stdout,
            stderr,
            ended: end.ended,
        }
    }

    /// Writes a batch, however long it takes.
    async fn write(&self, batch: Batch) {
        let mut batch = Arc::new(batch);
        let mut pause = PAUSE.0;
        let mut failing = None;
        loop {
            match self.store.record(batch.clone()).await {
                Ok(recorded) => {
                    if let Some(since) = failing {
                        tracing::info!(after = ?Instant::now().duration_since(since), "writing to the table again");
                    }
                    return self.report(
                        Arc::unwrap_or_clone(batch),
                        &recorded.started,
                        &recorded.finished,
                    );
                }
                Err(StoreError::Refused(error)) if batch.len() > 1 => {
                    tracing::debug!(
                        error,
                        entries = batch.len(),
                        "batch refused, writing its entries one by one"
                    );
                    for single in Arc::unwrap_or_clone(batch).singles() {
                        Box::pin(self.write(single)).await;
                    }
                    return;
                }
                Err(StoreError::Refused(error)) if narrow(Arc::make_mut(&mut batch)) => {
                    tracing::warn!(error, job = %batch.finishes[0].job.id, "output refused, writing less of it");
                    continue;
                }
                Err(error) if failing.is_none() => {
                    tracing::error!(%error, entries = batch.len(), "cannot write to the table, keeping at it");
                    failing = Some(Instant::now());
                }
                Err(error) => tracing::debug!(%error, "still cannot write to the table"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    fn report(&self, batch: Batch, started: &[bool], finished: &[bool]) {
        for (finish, written) in batch.finishes.into_iter().zip(finished) {
            if !written {
                tracing::warn!(job = %finish.job.id, target = %finish.job.target, result = %finish.result, code = finish.code, "row was changed by somebody else while the job ran: its result is superseded and not written");
            }
            (self.notes)(Note::Finished(finish));
        }
        for (job, started) in batch.starts.into_iter().zip(started) {
            (self.notes)(if *started {
                Note::Started(job)
            } else {
                Note::Lost(job)
            });
        }
        for _ in batch.releases {
            (self.notes)(Note::Released);
        }
    }
}

impl Batch {
    fn len(&self) -> usize {
        self.starts.len() + self.finishes.len() + self.releases.len()
    }

    fn singles(self) -> impl Iterator<Item = Batch> {
        let starts = self.starts.into_iter().map(|job| Self {
            starts: vec![job],
            ..Self::default()
        });
        let finishes = self.finishes.into_iter().map(|finish| Self {
            finishes: vec![finish],
            ..Self::default()
        });
        let releases = self.releases.into_iter().map(|job| Self {
            releases: vec![job],
            ..Self::default()
        });
        starts.chain(finishes).chain(releases)
    }
}

/// Makes the output of a lone finish smaller and plainer, until nothing is left to take away: to
/// a few ASCII kilobytes, then to none. `false` where that is not the matter.
fn narrow(batch: &mut Batch) -> bool {
    let [finish] = &mut *batch.finishes else {
        return false;
    };
    let before = finish.stdout.len() + finish.stderr.len();
    for text in [&mut finish.stdout, &mut finish.stderr] {
        *text = if before > 2 * NARROWED || !text.is_ascii() {
            plain(text)
        } else {
            String::new()
        };
    }
    before > 0
}

/// The ends of a text in ASCII, with the line between that says what is missing.
fn plain(text: &str) -> String {
    let mut captured = Captured::default();
    let bytes = text.as_bytes();
    let each = NARROWED / 2;
    if bytes.len() <= NARROWED {
        captured.head = bytes.to_vec();
    } else {
        captured.head = bytes[..each].to_vec();
        captured.tail = bytes[bytes.len() - each..].to_vec();
        captured.omitted = (bytes.len() - NARROWED) as u64;
    }
    crate::store::ascii(&captured)
}
