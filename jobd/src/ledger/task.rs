//! The task that carries out what [`Backlog`] and [`Keeping`] decide: one write to the table at a time, one
//! visit to the journal at a time, neither waiting for the other. Decides nothing itself.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use futures::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};
use tokio::task::yield_now;
use tokio::time::{Instant as Deadline, sleep_until};

use super::backlog::{self, Backlog};
use super::journal::{Journal, OpenError, Opened};
use super::keeping::{self, Keeping, PATIENCE};
use super::{Entry, JournalFile, Note, Order};
use crate::clock;
use crate::launcher::End;
use crate::store::{Recorded, Store, StoreError};

/// Bytes of output that take a while to be made fit for a row: after each such end others have their turn, as
/// there is one thread for all.
const LARGE: usize = 1 << 20;

/// See the module.
pub struct Task<N> {
    store: Arc<dyn Store>,
    orders: mpsc::UnboundedReceiver<Order>,
    notes: N,
    backlog: Backlog,
    keeping: Keeping,
    file: Option<JournalFile>,
    /// `None` until it is opened, and while a thread visits it.
    journal: Option<Journal>,
    /// How many ends wait in it, for others to read.
    journaled: Arc<AtomicUsize>,
    /// It was said that the journal cannot be used.
    failing: bool,
    /// It was said what waits in the journal.
    told: bool,
    /// It was said what an earlier run left.
    inherited: bool,
}

/// A visit to the journal that has ended.
enum Visit {
    Opened(Result<Opened, OpenError>),
    Wrote(Journal, io::Result<()>),
}

impl<N: Fn(Note) + Send + Sync> Task<N> {
    pub fn new(
        store: Arc<dyn Store>,
        file: Option<JournalFile>,
        orders: mpsc::UnboundedReceiver<Order>,
        journaled: Arc<AtomicUsize>,
        notes: N,
    ) -> Self {
        Self {
            store,
            orders,
            notes,
            backlog: Backlog::default(),
            keeping: Keeping::default(),
            file,
            journal: None,
            journaled,
            failing: false,
            told: false,
            inherited: false,
        }
    }

    /// Runs until the handle is gone, everything is written, and the journal is empty.
    pub async fn run(mut self) {
        let store = self.store.clone();
        let mut writing: Option<BoxFuture<'_, Result<Recorded, StoreError>>> = None;
        let mut visiting: Option<oneshot::Receiver<Visit>> = None;
        let mut open = true;
        loop {
            let more = self.take_waiting();
            let now = clock::now();
            let mut until = None;
            if writing.is_none() {
                match self.backlog.next(now, || store.output_text()) {
                    backlog::Step::Write(batch) => writing = Some(store.record(batch)),
                    backlog::Step::Wait(at) => until = at,
                }
            }
            let all_written = writing.is_none() && until.is_none();
            if visiting.is_none() {
                match self.visit(now) {
                    Ok(visit) => visiting = Some(visit),
                    Err(at) => until = until.into_iter().chain(at).min(),
                }
            }
            if all_written && !open && visiting.is_none() && self.keeping.is_clear() {
                return;
            }
            // Entries wait in the channel while a batch is written. If it takes long, their ends are to be kept.
            let hanging = now + PATIENCE;
            if writing.is_some() && self.keeping.is_on() {
                until = Some(until.map_or(hanging, |until| until.min(hanging)));
            }
            let due = until.map_or_else(Deadline::now, Deadline::from);
            tokio::select! {
                biased;
                outcome = present(&mut writing) => {
                    writing = None;
                    self.written(outcome);
                }
                visit = present(&mut visiting) => {
                    visiting = None;
                    self.visited(visit.expect("a visit to the journal ends by itself"));
                }
                () = yield_now(), if more => {}
                order = self.orders.recv(), if open && writing.is_none() => match order {
                    Some(order) => self.take(order),
                    None => open = false,
                },
                () = sleep_until(due), if until.is_some() => {}
            }
        }
    }

    /// Takes what waits, up to a large end. Whether there may be more.
    fn take_waiting(&mut self) -> bool {
        while let Ok(order) = self.orders.try_recv() {
            let large = matches!(&order, Order::Write(Entry::Finish(_, end, _)) if is_large(end));
            self.take(order);
            if large {
                return true;
            }
        }
        false
    }

    fn take(&mut self, order: Order) {
        match order {
            Order::Write(entry) => {
                let text = self.store.output_text();
                self.backlog.push(clock::now(), entry, &text);
            }
            Order::UseJournal if self.file.is_some() && !self.inherited => self.keeping.allow(),
            Order::UseJournal => {
                (self.notes)(Note::Inherited(self.keeping.inherited().clone()));
            }
        }
    }

    fn written(&mut self, outcome: Result<Recorded, StoreError>) {
        for note in self.backlog.written(clock::now(), outcome) {
            match note {
                Note::Finished(end) if self.keeping.written(&end) => {
                    if self.keeping.inherited().is_empty() {
                        tracing::info!(
                            "the ends that an earlier run had left in the journal are dealt with"
                        );
                        (self.notes)(Note::Inherited(self.keeping.inherited().clone()));
                    }
                }
                note => (self.notes)(note),
            }
        }
        self.publish();
    }

    /// Begins what is to be done to the journal, or says when to ask again.
    fn visit(&mut self, now: Instant) -> Result<oneshot::Receiver<Visit>, Option<Instant>> {
        let step = match self.keeping.next(now, &self.backlog) {
            keeping::Step::Wait(until) => return Err(until),
            step => step,
        };
        let file = self.file.as_ref();
        let JournalFile { path, thread } = file.expect("a journal is allowed where it has a file");
        let Some(mut journal) = self.journal.take() else {
            let path = path.clone();
            return Ok(thread.run(move || Visit::Opened(Journal::open(&path))));
        };
        Ok(thread.run(move || {
            let outcome = match step {
                keeping::Step::Append(ends) => journal.append(&ends),
                keeping::Step::Replace(ends) => journal.replace(&ends),
                keeping::Step::Clear => journal.clear(),
                keeping::Step::Open | keeping::Step::Wait(_) => Ok(()),
            };
            Visit::Wrote(journal, outcome)
        }))
    }

    fn visited(&mut self, visit: Visit) {
        let outcome = match visit {
            Visit::Wrote(journal, outcome) => {
                self.journal = Some(journal);
                outcome.map_err(OpenError::Io)
            }
            Visit::Opened(Ok(opened)) => {
                self.opened(opened);
                Ok(())
            }
            Visit::Opened(Err(error)) => Err(error),
        };
        match outcome {
            Ok(()) => {
                let bytes = self.journal.as_ref().map_or(0, Journal::bytes);
                self.keeping.done(bytes);
                if std::mem::take(&mut self.failing) {
                    tracing::info!(file = self.path(), "the journal can be used again");
                }
            }
            Err(error) => self.failed(&error),
        }
        self.publish();
    }

    fn opened(&mut self, opened: Opened) {
        if let Some((offset, bytes)) = opened.damage {
            tracing::error!(
                file = self.path(),
                offset,
                bytes,
                "the journal is damaged: the ends from there on are lost, and their rows are resolved as those of a worker that died"
            );
        }
        let (now, found) = (clock::now(), opened.ends.len());
        for end in opened.ends {
            if self.keeping.inherit(&end) {
                self.backlog.push_end(now, end);
            }
        }
        if found > 0 {
            tracing::warn!(
                ends = found,
                file = self.path(),
                "an earlier run left ends of jobs in the journal, writing them"
            );
        }
        self.journal = Some(opened.journal);
        self.inherited = true;
        (self.notes)(Note::Inherited(self.keeping.inherited().clone()));
    }

    /// Says once that the journal cannot be used.
    fn failed(&mut self, error: &OpenError) {
        self.keeping.failed(clock::now());
        let file = self.path();
        if std::mem::replace(&mut self.failing, true) {
            tracing::debug!(%error, file, "the journal still cannot be used");
        } else {
            tracing::error!(
                %error,
                file,
                "cannot use the journal, trying again: until then, ends that the database does not take are lost if this worker dies; make room, or mend state_dir"
            );
        }
        // Whoever has it is alive, and so are its jobs.
        if !matches!(error, OpenError::Locked) && !std::mem::replace(&mut self.inherited, true) {
            (self.notes)(Note::Inherited(self.keeping.inherited().clone()));
        }
    }

    /// Says how many ends wait in the journal: to all who ask, and once in the log.
    fn publish(&mut self) {
        let ends = self.keeping.waiting();
        self.journaled.store(ends, Ordering::Relaxed);
        if ends > 0 && !self.told {
            tracing::warn!(
                ends,
                file = self.path(),
                "ends of jobs wait in the journal until the database takes them"
            );
        }
        self.told = ends > 0;
    }

    fn path(&self) -> String {
        let file = self.file.as_ref();
        file.map(|file| file.path.display().to_string())
            .unwrap_or_default()
    }
}

fn is_large(end: &End) -> bool {
    let streams = [&end.stdout, &end.stderr];
    let bytes = streams.map(|stream| stream.head.len() + stream.tail.len());
    bytes[0] + bytes[1] > LARGE
}

/// What the future yields, once there is one.
async fn present<F: Future + Unpin>(future: &mut Option<F>) -> F::Output {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}
