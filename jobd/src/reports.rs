//! The way of what jobs say of themselves into their rows: one task, which writes the last word of each job, those of
//! all jobs together, and never holds up anybody. It must not decide how often a job may speak: that is its reporter's.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use jobd_proto::{JobId, Progress};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};

use crate::job::{ClaimToken, Job};
use crate::store::{Report, Store, StoreError};

/// How long a word may wait for those of other jobs, so that they go into one statement.
const GATHER: Duration = Duration::from_millis(100);

/// Before what could not be written is tried again.
const PAUSE: Duration = Duration::from_secs(1);

/// How long the end of a job waits for its last word to be written.
const LAST_WORD: Duration = Duration::from_secs(1);

/// The way to the task; cheap to clone.
#[derive(Clone)]
pub struct Reports {
    /// Needs no bound: it is always emptied at once, and each job speaks once a second.
    orders: mpsc::UnboundedSender<Order>,
}

type Key = (JobId, ClaimToken);

enum Order {
    Tell(Key, Progress),
    Settle(Key, oneshot::Sender<()>),
}

impl Reports {
    /// Starts the task; it ends when all ways to it are gone.
    pub fn start(store: Arc<dyn Store>) -> Self {
        let (orders, queue) = mpsc::unbounded_channel();
        tokio::spawn(run(store, queue));
        Self { orders }
    }

    /// For a launcher that launches nothing.
    pub fn nowhere() -> Self {
        Self {
            orders: mpsc::unbounded_channel().0,
        }
    }

    /// Notes how far a job has come. Never waits.
    pub fn tell(&self, job: &Job, progress: Progress) {
        // Who is left to tell it when the task has gone?
        let _ = self.orders.send(Order::Tell(key(job), progress));
    }

    /// Waits until what was told of a job stands in its row, or for [`LAST_WORD`].
    pub async fn settle(&self, job: &Job) {
        let (settled, waits) = oneshot::channel();
        let _ = self.orders.send(Order::Settle(key(job), settled));
        let _ = timeout(LAST_WORD, waits).await;
    }
}

fn key(job: &Job) -> Key {
    (job.id, job.token.clone())
}

type Writing = BoxFuture<'static, Result<Vec<JobId>, StoreError>>;

/// What is told and not written.
#[derive(Default)]
struct Unwritten {
    /// The last word of each job.
    words: BTreeMap<Key, Progress>,
    /// What is being written.
    underway: BTreeMap<Key, Progress>,
    /// Who waits for what is told of a job.
    settling: Vec<(Key, oneshot::Sender<()>)>,
    /// When to write, where there is something.
    due: Option<Instant>,
}

async fn run(store: Arc<dyn Store>, mut queue: mpsc::UnboundedReceiver<Order>) {
    let mut unwritten = Unwritten::default();
    let mut writing: Option<Writing> = None;
    loop {
        if writing.is_none() && unwritten.due.is_some_and(|due| due <= Instant::now()) {
            let (store, reports) = (store.clone(), unwritten.begin());
            writing = Some(Box::pin(async move { store.progress(reports).await }));
        }
        let due = unwritten.due.filter(|_| writing.is_none());
        tokio::select! {
            biased;
            outcome = async { writing.as_mut().expect("there is one").await }, if writing.is_some() => {
                writing = None;
                unwritten.written(outcome);
            }
            order = queue.recv() => match order {
                Some(Order::Tell(key, progress)) => unwritten.tell(key, progress),
                Some(Order::Settle(key, settled)) => unwritten.settle(key, settled),
                None => return,
            },
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
        }
    }
}

impl Unwritten {
    fn tell(&mut self, key: Key, progress: Progress) {
        self.words.insert(key, progress);
        self.due.get_or_insert_with(|| Instant::now() + GATHER);
    }

    fn settle(&mut self, key: Key, settled: oneshot::Sender<()>) {
        if self.words.contains_key(&key) {
            self.due = Some(Instant::now());
        } else if !self.underway.contains_key(&key) {
            // Whoever has given up waiting needs no answer.
            let _ = settled.send(());
            return;
        }
        self.settling.push((key, settled));
    }

    fn begin(&mut self) -> Vec<Report> {
        self.due = None;
        self.underway = std::mem::take(&mut self.words);
        let reports = self.underway.iter().map(|((id, token), progress)| Report {
            id: *id,
            token: token.clone(),
            text: progress.column(),
        });
        reports.collect()
    }

    fn written(&mut self, outcome: Result<Vec<JobId>, StoreError>) {
        let written = std::mem::take(&mut self.underway);
        // A second try is nobody's to wait for: its job has ended.
        for (key, settled) in std::mem::take(&mut self.settling) {
            if self.words.contains_key(&key) {
                self.settling.push((key, settled));
            } else {
                let _ = settled.send(());
            }
        }
        let again: Vec<_> = match outcome {
            Ok(locked) if locked.is_empty() => return,
            Ok(locked) => {
                let is_locked = |((id, _), _): &(Key, Progress)| locked.contains(id);
                written.into_iter().filter(is_locked).collect()
            }
            Err(StoreError::Unavailable(error) | StoreError::Locked(error)) => {
                tracing::debug!(error, "cannot write how far jobs have come yet");
                written.into_iter().collect()
            }
            Err(error) => {
                tracing::warn!(%error, jobs = written.len(), "cannot write how far jobs have come");
                return;
            }
        };
        for (key, progress) in again {
            self.words.entry(key).or_insert(progress);
        }
        self.due = Some(Instant::now() + PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{Origin, Tokens};

    fn said(text: &str) -> Progress {
        Progress::parse(text).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_word_of_each_job_is_written_and_nothing_is_kept() {
        let mut tokens = Tokens::new("w", "h", 1);
        let keys: Vec<Key> = (1..4)
            .map(|id| (JobId(id), tokens.next(Origin::Background)))
            .collect();
        let mut unwritten = Unwritten::default();
        for key in &keys {
            unwritten.tell(key.clone(), said("1"));
            unwritten.tell(key.clone(), said("2 two"));
        }
        let texts: Vec<String> = unwritten.begin().into_iter().map(|it| it.text).collect();
        assert_eq!(texts, ["2 two"; 3]);
        unwritten.tell(keys[0].clone(), said("3"));
        let (settled, mut waits) = oneshot::channel();
        unwritten.settle(keys[0].clone(), settled);
        let (locked, mut other) = oneshot::channel();
        unwritten.settle(keys[1].clone(), locked);
        unwritten.written(Ok(vec![JobId(1), JobId(2)]));
        assert!(waits.try_recv().is_err(), "its last word is still to come");
        assert!(other.try_recv().is_ok(), "nobody waits for a locked row");
        let texts: Vec<String> = unwritten.begin().into_iter().map(|it| it.text).collect();
        assert_eq!(texts, ["3", "2 two"], "what is newer counts");
        unwritten.written(Err(StoreError::Refused(String::new())));
        assert!(waits.try_recv().is_ok());
        assert!(unwritten.words.is_empty() && unwritten.settling.is_empty());
        assert!(unwritten.due.is_none());
        unwritten.tell(keys[2].clone(), said("9"));
        unwritten.begin();
        unwritten.written(Err(StoreError::Unavailable(String::new())));
        assert_eq!(unwritten.words.len(), 1);
        assert_eq!(unwritten.due, Some(Instant::now() + PAUSE));
    }
}
