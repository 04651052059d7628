//! Writes what happens to claimed rows: starts, ends, releases.
//!
//! ```text
//!  dispatcher ──Entry──> task ──batch──> Store::record
//!      ^                 │  └──ends that wait──> journal (a file, on a thread)
//!      └────── Note ─────┘
//! ```
//!
//! What is written next, and what becomes of a write that fails, the pure [`backlog`] decides; which ends
//! go into the [`journal`] meanwhile, the pure [`keeping`]; the [`task`] carries both out. While the database is
//! away everything is kept and tried again; nothing is dropped.

mod backlog;
mod journal;
mod keeping;
mod task;

use std::collections::HashSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use jobd_proto::daemon::threads::OwnThread;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use self::task::Task;
use crate::fate::Again;
use crate::job::Job;
use crate::launcher::End;
use crate::store::{Finish, Store};

pub use self::keeping::Claim;

/// How long the journal may take to be emptied at the end: the rows say everything by then.
const CLOSING_TIME: Duration = Duration::from_secs(2);

/// Something to write.
#[derive(Debug)]
pub enum Entry {
    /// The job has a slot: `running`, please.
    Start(Job),
    /// The job has ended, for good or until it runs again.
    Finish(Job, End, Option<Again>),
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
    /// The row cannot be set to `running`: do not launch it.
    Unstartable {
        /// Whose row it is.
        job: Job,
        /// The server's words.
        error: String,
        /// Claims pass over it for a while; otherwise the next one of its target brings it again.
        passed: bool,
    },
    /// The row says `done` with this outcome, or `scheduled`, or was taken away while the job ran.
    Finished(Finish),
    /// A row went back.
    Released(Job),
    /// The journal was read: of the ends that an earlier run left in it, these still wait to be written. Comes
    /// again, with none, when they are.
    Inherited(HashSet<Claim>),
}

/// The journal: its file in `state_dir`, and the thread that visits it. The disk may hang, and ends must be kept
/// where the system gives no further thread. Cheap to clone.
#[derive(Clone, Debug)]
pub struct JournalFile {
    path: PathBuf,
    thread: OwnThread,
}

impl JournalFile {
    /// Starts the thread; the file is not touched before [`Ledger::use_journal`]. An error is that of
    /// pthread_create(3).
    pub fn new(path: PathBuf) -> io::Result<Self> {
        let thread = OwnThread::start("jobd-journal")?;
        Ok(Self { path, thread })
    }
}

/// What the task is told.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "all but one of a worker's life are entries"
)]
enum Order {
    Write(Entry),
    UseJournal,
}

/// The way to the ledger's task.
#[derive(Debug)]
pub struct Ledger {
    orders: mpsc::UnboundedSender<Order>,
    journaled: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Ledger {
    /// Starts the task; with a journal where `state_dir` is set.
    pub fn start(
        store: Arc<dyn Store>,
        journal: Option<JournalFile>,
        notes: impl Fn(Note) + Send + Sync + 'static,
    ) -> Self {
        // Holds one entry per claimed row at most, which the dispatcher bounds by its slots.
        let (orders, queue) = mpsc::unbounded_channel();
        let journaled = Arc::<AtomicUsize>::default();
        let task = Task::new(store, journal, queue, journaled.clone(), notes);
        Self {
            orders,
            journaled,
            task: tokio::spawn(task.run()),
        }
    }

    /// Hands over an entry; its [`Note`] follows once it is written.
    pub fn write(&self, entry: Entry) {
        self.send(Order::Write(entry));
    }

    /// Whoever wrote the journal is gone: it is ours, if there is one. [`Note::Inherited`] follows.
    pub fn use_journal(&self) {
        self.send(Order::UseJournal);
    }

    /// How many ends wait in the journal.
    pub fn journaled(&self) -> usize {
        self.journaled.load(Ordering::Relaxed)
    }

    /// Waits until everything that was handed over is written, and the journal is empty.
    pub async fn close(self) {
        drop(self.orders);
        if tokio::time::timeout(CLOSING_TIME, self.task).await.is_err() {
            tracing::warn!("the journal is not emptied yet: the next start finds its ends written");
        }
    }

    fn send(&self, order: Order) {
        let sent = self.orders.send(order);
        sent.expect("the ledger's task outlives its handle");
    }
}
