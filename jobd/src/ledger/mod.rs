//! Writes what happens to claimed rows: starts, ends, releases.
//!
//! ```text
//!  dispatcher ──Entry──> task ──Step::Write──> Store::record
//!      ^                 │  ^                       │
//!      └────── Note ─────┘  └──────── outcome ──────┘
//! ```
//!
//! What is written next, and what becomes of a write that fails, the pure [`backlog`] decides; the task
//! here carries it out. While the database is away everything is kept and tried again; nothing is dropped.

mod backlog;

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::time::{Instant as Deadline, sleep_until};

use crate::clock;
use crate::job::Job;
use crate::launcher::End;
use crate::store::{Finish, Store};

use self::backlog::{Backlog, Step};

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
        // Holds one entry per claimed row at most, which the dispatcher bounds by its slots.
        let (entries, queue) = mpsc::unbounded_channel();
        tokio::spawn(run(store, queue, notes));
        Self { entries }
    }

    /// Hands over an entry; its [`Note`] follows once it is written.
    pub fn write(&self, entry: Entry) {
        let sent = self.entries.send(entry);
        sent.expect("the ledger's task outlives its handles");
    }
}

async fn run(
    store: Arc<dyn Store>,
    mut queue: mpsc::UnboundedReceiver<Entry>,
    notes: impl Fn(Note) + Send + Sync,
) {
    let mut backlog = Backlog::default();
    let mut open = true;
    loop {
        while let Ok(entry) = queue.try_recv() {
            backlog.push(entry, &store.output_text());
        }
        let until = match backlog.next(clock::now(), || store.output_text()) {
            Step::Write(batch) => {
                let outcome = store.record(batch).await;
                backlog
                    .written(clock::now(), outcome)
                    .into_iter()
                    .for_each(&notes);
                continue;
            }
            Step::Wait(until) => until,
        };
        if until.is_none() && !open {
            return;
        }
        let due = until.map_or_else(Deadline::now, Deadline::from);
        tokio::select! {
            biased;
            entry = queue.recv(), if open => match entry {
                Some(entry) => backlog.push(entry, &store.output_text()),
                None => open = false,
            },
            () = sleep_until(due), if until.is_some() => {}
        }
    }
}
