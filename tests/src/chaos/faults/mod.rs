//! What is done to a running system. Each fault begins, lasts and ends within one call; what comes
//! after its end is measured by the suite.

mod daemons;
mod database;
mod galera;
mod inside;
mod journal;
mod machine;

use std::time::Duration;

use super::options::{Options, Table};
use super::random::Random;
use super::stage::{LEASE, Stage};

/// Faults that are about the same piece are never under way at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// The database server.
    Server,
    /// The line to it.
    DatabaseLine,
    /// The master.
    Master,
    /// The line to it.
    MasterLine,
    /// A worker.
    Worker,
}

/// One kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// kill -9 of the server, and its start.
    DatabaseKilled,
    /// SIGSTOP of the server.
    DatabaseFrozen,
    /// The server accepts no writes from workers.
    ReadOnly,
    /// An administrator kills the workers' connections.
    ConnectionsKilled,
    /// An administrator kills the workers' statements.
    StatementsKilled,
    /// An application locks the open rows.
    RowsLocked,
    /// An application changes open rows in the order that deadlocks.
    Deadlocks,
    /// The server's clock is an hour off.
    ClockMoved,
    /// All connections to the server break, and break again.
    LineCut,
    /// No connection to the server can be made.
    LineClosed,
    /// Everything to and from the server takes longer.
    LineSlow,
    /// Connections to the server stay, and nothing comes through.
    LineStalled,
    /// The server commits, and the worker never hears of it.
    CommitAnswersLost,
    /// A COMMIT never reaches the server.
    CommitsLost,
    /// kill -9 of the master, and its start.
    MasterKilled,
    /// SIGSTOP of the master.
    MasterFrozen,
    /// Links between master and workers break.
    LinksCut,
    /// Links stay, and nothing comes through.
    LinksStalled,
    /// SIGTERM of a worker under load, and its start.
    WorkerDrained,
    /// SIGHUP of a worker under load, whose config has changed; and again, when it is as before.
    WorkerReloaded,
    /// Some targets of a worker are paused for a while.
    WorkerPaused,
    /// A target of a worker has fewer slots for a while.
    WorkerNarrowed,
    /// SIGUSR1 of a worker whose log has been moved away.
    LogMoved,
    /// SIGTERM of a worker under load, a second one, and its start.
    WorkerHurried,
    /// A worker may open one more file, and no second.
    FewDescriptors,
    /// The disk under a worker's log is full.
    LogDiskFull,
    /// One worker cannot reach the database, the others can.
    WorkerCutOff,
    /// kill -9 of a worker, its guard left alone, and its start.
    WorkerKilled,
    /// SIGSTOP of a worker for longer than a lease.
    WorkerFrozen,
    /// A worker, its guard and its jobs are gone at once.
    PowerLost,
    /// The same in an outage, when ends wait in the worker's journal.
    PowerLostInOutage,
    /// The disk under a worker's `state_dir` is full, in an outage.
    StateDiskFull,
    /// kill -9 of a guard alone.
    GuardKilled,
    /// SIGSTOP of a guard alone.
    GuardFrozen,
    /// A worker dies between two given statements, COMMITs or system calls.
    CrashPoint,
    /// kill -9 of a node, and its return.
    NodeKilled,
    /// kill -9 of the majority.
    TwoNodesKilled,
    /// kill -9 of the whole cluster.
    AllNodesKilled,
    /// SIGSTOP of a node.
    NodeFrozen,
    /// A node is reached by its clients and not by the other nodes.
    NodeCutOff,
    /// No node is reached by another one.
    AllNodesCutOff,
    /// A node applies nothing, as during a backup.
    NodeInBackup,
    /// A node applies nothing, and all others wait for it.
    NodeTooSlow,
    /// A worker's connections lead to another node.
    WorkerMoved,
    /// A COMMIT is acted on after its worker has asked another node about it.
    CommitLate,
    /// The operator lets the cluster go on from a node that lacks what the others committed.
    BootstrappedBehind,
}

/// What a fault did, once it is over.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// The worker that it was about: recovery is measured on that one.
    pub worker: Option<usize>,
    /// How often what it provokes was provoked, and what that is.
    pub provoked: Option<(u64, &'static str)>,
    /// How long it took until nothing stood in the rows of a host that was lost.
    pub rescue: Option<Duration>,
    /// Promises that it saw broken itself.
    pub broken: Option<String>,
    /// The same, if it struck alone: another fault may have been the reason.
    pub broken_if_alone: Option<String>,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 46] = [
        Self::DatabaseKilled,
        Self::DatabaseFrozen,
        Self::ReadOnly,
        Self::ConnectionsKilled,
        Self::StatementsKilled,
        Self::RowsLocked,
        Self::Deadlocks,
        Self::ClockMoved,
        Self::LineCut,
        Self::LineClosed,
        Self::LineSlow,
        Self::LineStalled,
        Self::CommitAnswersLost,
        Self::CommitsLost,
        Self::MasterKilled,
        Self::MasterFrozen,
        Self::LinksCut,
        Self::LinksStalled,
        Self::WorkerDrained,
        Self::WorkerReloaded,
        Self::WorkerPaused,
        Self::WorkerNarrowed,
        Self::LogMoved,
        Self::WorkerHurried,
        Self::FewDescriptors,
        Self::LogDiskFull,
        Self::WorkerCutOff,
        Self::WorkerKilled,
        Self::WorkerFrozen,
        Self::PowerLost,
        Self::PowerLostInOutage,
        Self::StateDiskFull,
        Self::GuardKilled,
        Self::GuardFrozen,
        Self::CrashPoint,
        Self::NodeKilled,
        Self::TwoNodesKilled,
        Self::AllNodesKilled,
        Self::NodeFrozen,
        Self::NodeCutOff,
        Self::AllNodesCutOff,
        Self::NodeInBackup,
        Self::NodeTooSlow,
        Self::WorkerMoved,
        Self::CommitLate,
        Self::BootstrappedBehind,
    ];

    /// What the table of a run calls it; `--only` looks here.
    pub fn name(self) -> &'static str {
        match self {
            Self::DatabaseKilled => "database: kill -9, restart",
            Self::DatabaseFrozen => "database: SIGSTOP",
            Self::ReadOnly => "database: read-only",
            Self::ConnectionsKilled => "database: KILL of connections",
            Self::StatementsKilled => "database: KILL QUERY",
            Self::RowsLocked => "database: rows locked by others",
            Self::Deadlocks => "database: deadlocks",
            Self::ClockMoved => "database: clock an hour off",
            Self::LineCut => "line to database: cut again and again",
            Self::LineClosed => "line to database: closed",
            Self::LineSlow => "line to database: slow",
            Self::LineStalled => "line to database: stalled",
            Self::CommitAnswersLost => "line to database: answer to COMMIT lost",
            Self::CommitsLost => "line to database: COMMIT lost",
            Self::MasterKilled => "master: kill -9, restart",
            Self::MasterFrozen => "master: SIGSTOP",
            Self::LinksCut => "links to master: cut",
            Self::LinksStalled => "links to master: stalled",
            Self::WorkerDrained => "worker: SIGTERM, restart",
            Self::WorkerReloaded => "worker: SIGHUP, config changed",
            Self::WorkerPaused => "worker: targets paused",
            Self::WorkerNarrowed => "worker: fewer slots",
            Self::LogMoved => "worker: SIGUSR1, log moved",
            Self::WorkerHurried => "worker: SIGTERM twice, restart",
            Self::FewDescriptors => "worker: no file descriptors",
            Self::LogDiskFull => "worker: disk full under the log",
            Self::WorkerCutOff => "worker: alone cut off from the database",
            Self::WorkerKilled => "worker: kill -9, restart",
            Self::WorkerFrozen => "worker: SIGSTOP beyond the lease",
            Self::PowerLost => "host: power lost",
            Self::PowerLostInOutage => "host: power lost in an outage",
            Self::StateDiskFull => "worker: disk full under state_dir, in an outage",
            Self::GuardKilled => "guard: kill -9",
            Self::GuardFrozen => "guard: SIGSTOP",
            Self::CrashPoint => "worker: dies at a crash point",
            Self::NodeKilled => "galera: node kill -9, restart",
            Self::TwoNodesKilled => "galera: two nodes kill -9, restart",
            Self::AllNodesKilled => "galera: all nodes kill -9, restart",
            Self::NodeFrozen => "galera: node SIGSTOP",
            Self::NodeCutOff => "galera: node cut off from the others",
            Self::AllNodesCutOff => "galera: all nodes cut off from each other",
            Self::NodeInBackup => "galera: node locked, desynced",
            Self::NodeTooSlow => "galera: node locked, flow control",
            Self::WorkerMoved => "galera: worker led to another node",
            Self::CommitLate => "galera: COMMIT late, worker elsewhere",
            Self::BootstrappedBehind => "operator: bootstrapped from a node behind",
        }
    }

    /// What it is about.
    pub fn piece(self) -> Piece {
        match self {
            Self::DatabaseKilled
            | Self::DatabaseFrozen
            | Self::ReadOnly
            | Self::ConnectionsKilled
            | Self::StatementsKilled
            | Self::RowsLocked
            | Self::Deadlocks
            | Self::ClockMoved
            | Self::NodeKilled
            | Self::TwoNodesKilled
            | Self::AllNodesKilled
            | Self::NodeFrozen
            | Self::NodeCutOff
            | Self::AllNodesCutOff
            | Self::NodeInBackup
            | Self::NodeTooSlow
            | Self::BootstrappedBehind => Piece::Server,
            Self::LineCut
            | Self::LineClosed
            | Self::LineSlow
            | Self::LineStalled
            | Self::CommitAnswersLost
            | Self::CommitsLost
            | Self::WorkerMoved
            | Self::CommitLate => Piece::DatabaseLine,
            Self::MasterKilled | Self::MasterFrozen => Piece::Master,
            Self::LinksCut | Self::LinksStalled => Piece::MasterLine,
            Self::WorkerDrained
            | Self::WorkerReloaded
            | Self::WorkerPaused
            | Self::WorkerNarrowed
            | Self::LogMoved
            | Self::WorkerHurried
            | Self::FewDescriptors
            | Self::LogDiskFull
            | Self::WorkerCutOff
            | Self::WorkerKilled
            | Self::WorkerFrozen
            | Self::PowerLost
            | Self::PowerLostInOutage
            | Self::StateDiskFull
            | Self::GuardKilled
            | Self::GuardFrozen
            | Self::CrashPoint => Piece::Worker,
        }
    }

    /// Whether leases may end for it that their workers would have kept.
    pub fn keeps_from_the_database(self) -> bool {
        matches!(self.piece(), Piece::Server | Piece::DatabaseLine)
            || matches!(
                self,
                Self::WorkerCutOff | Self::PowerLostInOutage | Self::StateDiskFull
            )
    }

    /// Whether it is about the kind of database that this run has: one server, or a cluster of them.
    pub fn fits(self, stage: &Stage) -> bool {
        match self {
            Self::DatabaseKilled | Self::DatabaseFrozen | Self::ReadOnly | Self::ClockMoved => {
                stage.cluster.is_none()
            }
            Self::NodeKilled
            | Self::TwoNodesKilled
            | Self::AllNodesKilled
            | Self::NodeFrozen
            | Self::NodeCutOff
            | Self::AllNodesCutOff
            | Self::NodeInBackup
            | Self::NodeTooSlow
            | Self::WorkerMoved
            | Self::CommitLate
            | Self::BootstrappedBehind => stage.cluster.is_some(),
            _ => true,
        }
    }

    /// Why it cannot be done in this run, if it cannot.
    pub fn impossible(self, stage: &Stage) -> Option<&'static str> {
        match self {
            Self::CrashPoint if !stage.crash_points => Some("needs jobd-faulty (--crash-points)"),
            Self::ClockMoved if stage.clock.is_none() => Some("libfaketime is not installed"),
            Self::WorkerHurried if stage.table == Table::Minimal => {
                Some("what is cut short there is done, and says so")
            }
            Self::LogDiskFull | Self::StateDiskFull if stage.small_disk.is_none() => {
                Some("needs root, to mount a small file system")
            }
            _ => None,
        }
    }

    /// Does it, from beginning to end.
    pub async fn inflict(self, stage: &Stage, random: &mut Random) -> Outcome {
        match self {
            Self::DatabaseKilled => database::killed(stage, random).await,
            Self::DatabaseFrozen => database::frozen(stage, random).await,
            Self::ReadOnly => database::read_only(stage, random).await,
            Self::ConnectionsKilled => database::kills(stage, random, "KILL").await,
            Self::StatementsKilled => database::kills(stage, random, "KILL QUERY").await,
            Self::RowsLocked => database::rows_locked(stage, random).await,
            Self::Deadlocks => database::deadlocks(stage, random).await,
            Self::ClockMoved => database::clock_moved(stage, random).await,
            Self::LineCut => database::line_cut(stage, random).await,
            Self::LineClosed => database::line(stage, random, super::line::Mode::Cut).await,
            Self::LineSlow => {
                let slow = super::line::Mode::Slow(random.millis(10, 80));
                database::line(stage, random, slow).await
            }
            Self::LineStalled => database::line(stage, random, super::line::Mode::Stalled).await,
            Self::CommitAnswersLost => {
                let mode = super::line::Mode::LosesCommitAnswers;
                database::commits(stage, random, mode, "answers lost").await
            }
            Self::CommitsLost => {
                let mode = super::line::Mode::LosesCommits;
                database::commits(stage, random, mode, "COMMITs lost").await
            }
            Self::MasterKilled => daemons::master_killed(stage, random).await,
            Self::MasterFrozen => daemons::master_frozen(stage, random).await,
            Self::LinksCut => daemons::links(stage, random, super::line::Mode::Cut).await,
            Self::LinksStalled => daemons::links(stage, random, super::line::Mode::Stalled).await,
            Self::WorkerDrained => daemons::worker_drained(stage, random).await,
            Self::WorkerReloaded => daemons::worker_reloaded(stage, random).await,
            Self::WorkerPaused => daemons::worker_paused(stage, random).await,
            Self::WorkerNarrowed => daemons::worker_narrowed(stage, random).await,
            Self::LogMoved => machine::log_moved(stage, random).await,
            Self::WorkerHurried => daemons::worker_hurried(stage, random).await,
            Self::FewDescriptors => machine::few_descriptors(stage, random).await,
            Self::LogDiskFull => machine::log_disk_full(stage, random).await,
            Self::WorkerCutOff => daemons::worker_cut_off(stage, random).await,
            Self::WorkerKilled => daemons::worker_killed(stage, random).await,
            Self::WorkerFrozen => daemons::worker_frozen(stage, random).await,
            Self::PowerLost => daemons::power_lost(stage, random).await,
            Self::PowerLostInOutage => journal::power_lost(stage, random).await,
            Self::StateDiskFull => journal::disk_full(stage, random).await,
            Self::GuardKilled => inside::guard_killed(stage, random).await,
            Self::GuardFrozen => inside::guard_frozen(stage, random).await,
            Self::CrashPoint => inside::crash_point(stage, random).await,
            Self::NodeKilled => galera::node_killed(stage, random).await,
            Self::TwoNodesKilled => galera::two_killed(stage, random).await,
            Self::AllNodesKilled => galera::all_killed(stage, random).await,
            Self::NodeFrozen => galera::node_frozen(stage, random).await,
            Self::NodeCutOff => galera::node_cut_off(stage, random).await,
            Self::AllNodesCutOff => galera::all_cut_off(stage, random).await,
            Self::NodeInBackup => galera::node_locked(stage, random, true).await,
            Self::NodeTooSlow => galera::node_locked(stage, random, false).await,
            Self::WorkerMoved => galera::worker_moved(stage, random).await,
            Self::CommitLate => galera::commit_late(stage, random).await,
            Self::BootstrappedBehind => galera::bootstrapped_behind(stage, random).await,
        }
    }
}

/// How long the database is away: in one of four cases for longer than a lease, where nothing else was asked for.
fn outage(stage: &Stage, random: &mut Random) -> Duration {
    let short = random.millis(200, 4_000);
    if let Some(hold) = stage.hold {
        hold
    } else if random.one_in(4) {
        LEASE + short
    } else {
        short
    }
}

/// Draws faults: every kind once, in random order, then again.
#[derive(Debug)]
pub struct Deck {
    kinds: Vec<Fault>,
    left: Vec<Fault>,
}

impl Deck {
    /// Of what is possible and asked for.
    pub fn new(stage: &Stage, options: &Options) -> Self {
        let wanted = |fault: &Fault| match &options.only {
            Some(only) => only.split(',').any(|part| fault.name().contains(part)),
            // An operator's mistake, which costs commits: only where it is asked for.
            None => *fault != Fault::BootstrappedBehind,
        };
        let possible =
            |fault: &Fault| fault.fits(stage) && fault.impossible(stage).is_none() && wanted(fault);
        let kinds: Vec<Fault> = Fault::ALL.into_iter().filter(possible).collect();
        assert!(!kinds.is_empty(), "no fault is left to inflict");
        Self {
            kinds,
            left: Vec::new(),
        }
    }

    /// The next faults: one, or in one of four cases two at once.
    pub fn draw(&mut self, random: &mut Random) -> Vec<Fault> {
        let mut drawn = vec![self.next(random)];
        if random.one_in(4) {
            let other = |fault: &Fault| fault.piece() != drawn[0].piece();
            if let Some(at) = self.left.iter().rposition(other) {
                drawn.push(self.left.remove(at));
            }
        }
        drawn
    }

    fn next(&mut self, random: &mut Random) -> Fault {
        if self.left.is_empty() {
            self.left = self.kinds.clone();
            random.shuffle(&mut self.left);
        }
        self.left.pop().expect("just filled")
    }
}
