//! The one loop of the worker. It owns the targets, the running jobs and the waiters.
//!
//! ```text
//!   control ──Command──> ┌────────────┐ ──claim──> store tasks ──> Claimed, Pending, ManualClaimed
//!                        │ dispatcher │ ──Entry──> ledger ───────> Written
//!   clock, signals ────> └────────────┘ ──start──> attempts ─────> Exited
//! ```
//!
//! A job's way: `poll` wants its target → `Targets::claims` asks for room → `Store::claim` →
//! `Targets::startable` gives it a slot → ledger writes `running` → attempt → ledger writes `done`
//! → the slot is free and a waiter is answered. The loop awaits nothing but its select; every
//! reason to wake is an [`Event`].

mod cancel;
mod claiming;
mod command;
mod drain;
mod following;
mod guarding;
mod looks;
mod reload;
mod running;
mod tenure;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jobd_proto::daemon::notify::{Heartbeat, beat_interval};
use jobd_proto::daemon::signals::Shutdown;
use jobd_proto::memory::MemoryUsage;
use jobd_proto::worker::WorkerStatus;
use jobd_proto::{JobId, TargetName};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{Instant as Deadline, sleep_until};

use self::command::ManualReply;
use self::drain::{DrainState, SHUTTING_DOWN};
use self::following::Followers;
use self::guarding::Post;
use self::looks::Looks;
use self::tenure::{Keeper, Renewal};
use crate::clock;
use crate::host::{Host, Word};
use crate::job::{ClaimToken, Job, Tokens};
use crate::launcher::{Attempt, Executor, Outcome};
use crate::leases::Lease;
use crate::ledger::{Entry, JournalFile, Ledger, Note};
use crate::per_target::PerTarget;
use crate::store::{Abilities, Ability, Claimed, Inspection, Names, Promoted, Store, StoreError};
use crate::targets::{Search, Targets};
use crate::waiters::{Answer, Ticket, Waiters};

pub use command::{Command, Handle};
pub use drain::Unwritten;
pub use following::Place;
pub use reload::Reload;

/// How long a target rests after a failed claim, or when the system has no room for a process.
const REST: Duration = Duration::from_secs(1);

/// How long looks rest when one is refused: until somebody has mended something.
const REFUSED_REST: Duration = Duration::from_secs(5);

/// Events taken in one turn before claims and starts are considered again: enough to see a burst
/// of exits as one, few enough to keep slots filled.
const EVENTS_PER_TURN: usize = 64;

/// Every reason for the loop to turn.
#[derive(Debug)]
enum Event {
    /// The table was inspected and is fit to work on, or its server could not be reached so far.
    Table(Option<Inspection>),
    /// A client asks for something.
    Command(Command),
    /// Time to look for what comes up in rows without a poke.
    LookTick,
    /// Such a look has ended.
    Looked(Vec<Lease>, Result<Promoted, StoreError>),
    /// Which of the targets that wanted nothing have waiting rows.
    Pending(Result<Vec<TargetName>, StoreError>),
    /// Which names of a pattern have waiting rows.
    Names(Search, Result<Names, StoreError>),
    /// A claim has ended.
    Claimed {
        target: TargetName,
        asked: u32,
        claimed: Result<Claimed, StoreError>,
    },
    /// Rows were cancelled, or not.
    Cancelled(cancel::Ended),
    /// A manual claim has ended.
    ManualClaimed {
        ticket: Ticket,
        ids: Vec<JobId>,
        claimed: Result<Claimed, StoreError>,
    },
    /// The ledger has written something.
    Written(Note),
    /// A process has ended, or could not be started.
    Exited(Job, Outcome),
    /// Time to look after the leases.
    LeaseTick,
    /// The guard of that number says something.
    Guard(u64, Word),
    /// What they left is resolved.
    Inherited,
    /// Our leases were renewed, or not.
    Renewed(Renewal),
    /// Time to look at the table.
    PollTick,
    /// A rest or a look-ahead has ended, or the watchdog wants to see the loop turn.
    Wake,
    /// Take nothing more, let running jobs end.
    Drain,
    /// Stop running jobs.
    Stop,
    /// Leave what could not be written.
    GiveUp,
}

/// What the loop is made of.
pub struct Settings {
    /// What may change while it runs.
    pub limits: Limits,
    /// What is set for each target; may change too.
    pub per_target: Arc<PerTarget>,
    /// `[targets]`.
    pub targets: Vec<(TargetName, u32)>,
    /// `lease`.
    pub lease: Duration,
    /// The lock of this worker's name in `state_dir`.
    pub lock: Option<PathBuf>,
    /// The journal of this worker's name in `state_dir`.
    pub journal: Option<JournalFile>,
    /// The worker's name, for `status`.
    pub name: String,
    /// To the master: targets of others that rows are waiting for.
    pub pokes: mpsc::Sender<Vec<String>>,
}

/// Settings of the loop that may change while it runs.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// `mysql_fetch_limit`; 0 for none.
    pub fetch_limit: u32,
    /// `poll_interval`; zero turns periodic looks off.
    pub poll_interval: Duration,
    /// `drain_timeout`.
    pub drain_timeout: Duration,
}

/// The loop and everything that it alone may change.
pub struct Dispatcher {
    settings: Settings,
    store: Arc<dyn Store>,
    host: Arc<dyn Host>,
    launcher: Arc<dyn Executor>,
    ledger: Ledger,
    tokens: Tokens,
    heartbeat: Heartbeat,
    shutdown: Shutdown,

    targets: Targets,
    /// Jobs that have a slot, with their process while there is one. By claim, not by row alone:
    /// somebody may put a running row back to `waiting` by hand, and then it is claimed once more. In
    /// order, so that the same events have the same effects.
    holding: BTreeMap<(JobId, ClaimToken), Held>,
    waiters: Waiters<ManualReply>,
    followers: Followers,
    /// Names to register with the master.
    served: watch::Sender<Vec<TargetName>>,

    events: mpsc::UnboundedReceiver<Event>,
    sender: mpsc::UnboundedSender<Event>,
    table: Table,
    /// On a table with ownership.
    keeper: Option<Keeper>,
    /// Where the guard stands, who ends our jobs when we cannot.
    post: Post,
    /// The guard has the lock of our name.
    locked: bool,
    /// Whose rows to resolve, once the table is there and the journal was read.
    predecessors: Vec<String>,
    /// Manual runs that came before the first look at the table had ended.
    early: Vec<(Vec<JobId>, ManualReply)>,
    /// Since when claims have been failing.
    outage: Option<Instant>,
    looking: bool,
    /// The database makes one claim at a time.
    claim_turns: Arc<Semaphore>,
    manual_claims: usize,
    releasing: usize,
    /// Claims that are being cancelled before they have begun.
    cancelling: BTreeSet<(JobId, ClaimToken)>,
    drain: DrainState,
    next_poll: Option<Deadline>,
    /// For what comes up in rows without a poke.
    looks: Looks,
    /// The longest `kill_sequence` of settings that are in force no more: running jobs keep theirs.
    former_kill: Duration,
    started: Instant,
}

/// A job that has a slot.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact of its own, and any may go with any other"
)]
struct Held {
    job: Job,
    /// Its process, while there is one.
    attempt: Option<Attempt>,
    /// The process was told to stop.
    stopping: bool,
    /// It was told by when.
    hurried: bool,
    /// The guard has killed it, or may have.
    struck: bool,
    /// It is being given back.
    leaving: bool,
    /// Somebody wants it to end.
    cancelled: bool,
    /// How the process ended, for the log of a shutdown that cannot write it.
    ended: Option<(Option<i32>, Option<i32>)>,
}

impl Held {
    fn new(job: &Job) -> Self {
        Self {
            job: job.clone(),
            attempt: None,
            stopping: false,
            hurried: false,
            struck: false,
            leaving: false,
            cancelled: false,
            ended: None,
        }
    }
}

/// What is known of the table.
#[derive(Debug)]
enum Table {
    /// The first look at it is under way.
    Looking,
    /// Its server could not be reached so far; somebody keeps trying.
    Away,
    Ready(Inspection),
}

impl Dispatcher {
    /// The loop, not yet running, and the way to reach it.
    ///
    /// The event channel has no bound of its own: commands are bounded by the connections' pending
    /// requests, everything else by the slots and by one claim per target.
    pub fn new(
        settings: Settings,
        store: Arc<dyn Store>,
        host: Arc<dyn Host>,
        launcher: Arc<dyn Executor>,
        tokens: Tokens,
        heartbeat: Heartbeat,
        shutdown: Shutdown,
    ) -> (Self, Handle) {
        let (sender, events) = mpsc::unbounded_channel();
        let mut targets = Targets::new(settings.limits.fetch_limit);
        for (name, concurrency) in &settings.targets {
            targets
                .add(name.clone(), *concurrency)
                .expect("a config names a target once");
        }
        let (served, served_by) = watch::channel(targets.names());
        let notes = sender.clone();
        let ledger = Ledger::start(store.clone(), settings.journal.clone(), move |note| {
            drop(notes.send(Event::Written(note)));
        });
        let handle = Handle::new(sender.clone(), served_by);
        let dispatcher = Self {
            store,
            host,
            launcher,
            ledger,
            tokens,
            heartbeat,
            shutdown,
            targets,
            holding: BTreeMap::new(),
            waiters: Waiters::new(),
            followers: Followers::default(),
            served,
            events,
            sender,
            table: Table::Looking,
            keeper: None,
            post: Post::default(),
            locked: false,
            predecessors: Vec::new(),
            early: Vec::new(),
            outage: None,
            looking: false,
            claim_turns: Arc::new(Semaphore::new(1)),
            manual_claims: 0,
            releasing: 0,
            cancelling: BTreeSet::new(),
            drain: DrainState::Working,
            next_poll: None,
            looks: Looks::default(),
            former_kill: Duration::ZERO,
            started: clock::now(),
            settings,
        };
        (dispatcher, handle)
    }

    /// Turns until a shutdown has ended every job and written every row. An error names the rows
    /// that could not be written in time.
    pub async fn run(mut self) -> Result<(), Unwritten> {
        self.keep_guard();
        loop {
            self.advance();
            self.end_wait();
            if self.drain != DrainState::Working && self.is_done() {
                self.ledger.close().await;
                self.post.dismiss();
                return Ok(());
            }
            let event = self.next_event().await;
            self.heartbeat.beat();
            if matches!(event, Event::GiveUp) {
                return Err(self.unwritten());
            }
            self.handle(event);
            for _ in 1..EVENTS_PER_TURN {
                let Ok(event) = self.events.try_recv() else {
                    break;
                };
                self.handle(event);
            }
        }
    }

    async fn next_event(&mut self) -> Event {
        let far = Deadline::now() + beat_interval();
        let rest = self.targets.next_wake().map(Deadline::from);
        let wakes = [rest, self.post.next_look()];
        let wake = wakes.into_iter().flatten().fold(far, Deadline::min);
        let lease_tick = self.keeper.as_ref().map(|keeper| keeper.next_tick);
        let working = self.drain == DrainState::Working;
        let (stop_at, give_up_at) = match self.drain {
            DrainState::Working => (None, None),
            DrainState::Until(deadline) => (Some(deadline), None),
            DrainState::Writing(deadline) => (None, Some(deadline)),
        };
        // In this order: what has its time comes before what can wait, and a flood of events delays no renewal.
        tokio::select! {
            biased;
            () = self.shutdown.drain.cancelled(), if working => Event::Drain,
            () = self.shutdown.now.cancelled(), if stop_at.is_some() => Event::Stop,
            () = sleep_until(stop_at.unwrap_or(far)), if stop_at.is_some() => Event::Stop,
            () = sleep_until(give_up_at.unwrap_or(far)), if give_up_at.is_some() => Event::GiveUp,
            () = sleep_until(lease_tick.unwrap_or(far)), if lease_tick.is_some() => Event::LeaseTick,
            () = sleep_until(self.next_poll.unwrap_or(far)), if self.next_poll.is_some() => Event::PollTick,
            () = sleep_until(self.looks.next.unwrap_or(far)), if self.looks.next.is_some() => Event::LookTick,
            () = sleep_until(wake) => Event::Wake,
            Some(event) = self.events.recv() => event,
        }
    }

    fn handle(&mut self, event: Event) {
        self.note_strike();
        match event {
            Event::Table(inspection) => self.table_seen(inspection),
            Event::Command(command) => self.command(command),
            Event::LookTick => self.look_around(),
            Event::Looked(requests, promoted) => self.looked(requests, promoted),
            Event::Pending(found) => self.pending(found),
            Event::Names(search, found) => self.names(&search, found),
            Event::Claimed {
                target,
                asked,
                claimed,
            } => self.claimed(&target, asked, claimed),
            Event::Cancelled(ended) => self.rows_cancelled(ended),
            Event::ManualClaimed {
                ticket,
                ids,
                claimed,
            } => self.manual_claimed(ticket, &ids, claimed),
            Event::Written(note) => self.written(note),
            Event::Exited(job, outcome) => self.exited(job, outcome),
            Event::Guard(number, word) => self.guard_said(number, word),
            Event::Inherited => self.inherited(),
            Event::LeaseTick => self.lease_tick(),
            Event::Renewed(renewal) => self.renewed(renewal),
            Event::PollTick => self.look(),
            Event::Wake => self.wake(),
            Event::Drain => self.begin_drain(),
            Event::Stop => self.stop_jobs(),
            // The loop ends with it before anything is handled.
            Event::GiveUp => {}
        }
    }

    fn table_seen(&mut self, inspection: Option<Inspection>) {
        self.table = inspection.map_or(Table::Away, Table::Ready);
        if let Table::Ready(inspection) = &self.table {
            self.keeper = inspection
                .abilities
                .has(Ability::Ownership)
                .then(|| Keeper::new(self.settings.lease, self.host.since_boot()));
            if inspection.target_ignores_case {
                self.targets.ignore_case();
                self.ignore_case_of_settings();
            }
            self.schedule_poll();
            self.schedule_look();
            self.inherit();
        }
        for (ids, reply) in std::mem::take(&mut self.early) {
            self.run_manual(ids, reply);
        }
    }

    /// Claims what there is room for and starts what has a slot.
    fn advance(&mut self) {
        let Table::Ready(_) = self.table else {
            return;
        };
        let now = clock::now();
        if !self.keeper.as_ref().is_some_and(|keeper| keeper.suspended) {
            for search in self.targets.searches() {
                self.search(search);
            }
            for (target, limit) in self.targets.claims(now) {
                self.claim(target, limit);
            }
        }
        if self.is_striking() {
            return;
        }
        for job in self.targets.startable(now) {
            self.holding.insert(slot(&job), Held::new(&job));
            self.ledger.write(Entry::Start(job));
        }
    }

    /// What the table's columns switch on; nothing before it was seen.
    fn abilities(&self) -> Abilities {
        match &self.table {
            Table::Ready(inspection) => inspection.abilities,
            Table::Looking | Table::Away => Abilities::default(),
        }
    }

    fn status(&self) -> WorkerStatus {
        let mut status = WorkerStatus {
            targets: self.targets.status(),
            waiters: self.waiters.len(),
            memory_usage: MemoryUsage::of_this_process(),
            name: Some(self.settings.name.clone()),
            version: Some(env!("CARGO_PKG_VERSION").to_owned()),
            uptime: Some(self.started.elapsed().as_secs()),
            ..WorkerStatus::default()
        };
        let table = match &self.table {
            Table::Ready(inspection) => {
                let lacks = inspection.abilities.lacks(self.settings.lock.is_some());
                status.extra.insert("tableLacks".to_owned(), lacks.into());
                format!("{}, {}", inspection.server, inspection.abilities)
            }
            Table::Looking | Table::Away => "not reached yet".to_owned(),
        };
        status.extra.insert("table".to_owned(), table.into());
        status.extra.insert(
            "databaseAway".to_owned(),
            (!matches!(self.table, Table::Ready(_)) || self.outage.is_some()).into(),
        );
        if self.settings.journal.is_some() {
            let ends = self.ledger.journaled();
            status.extra.insert("journaledEnds".to_owned(), ends.into());
        }
        status
    }
}

fn slot(job: &Job) -> (JobId, ClaimToken) {
    (job.id, job.token.clone())
}

fn reply(answer: Option<Answer<ManualReply>>) {
    if let Some(Answer { client, reply }) = answer {
        client.send(Ok(reply));
    }
}
