//! One history: workers on their hosts, the server, the processes, and time.
//!
//! Each worker is the real dispatcher, ledger and rescuer on a runtime of its own, whose clock stands until the world
//! lets it go on: to the next event at most, and no further than to its own next word to anybody else.
//! Killing it drops the runtime; freezing it leaves the runtime alone and moves its clock afterwards.

mod deeds;
mod processes;
mod workers;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use jobd_proto::daemon::notify::Heartbeat;
use jobd_proto::daemon::signals::Shutdown;
use jobd_proto::worker::{RunManualReply, WorkerRequest};
use jobd_proto::{JobId, RequestError, TargetName, Targets as Selection};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::agenda::{Agenda, Clockwork, Event, Fault, GuardEvent, Incarnation, Pid};
use super::plan::{Deed, LEASE, MS, Plan, SECOND, TARGETS, Time};
use super::random::Random;
use super::server::{Committed, Faults, Server};
use super::site::{Flag, Life, Site};
use super::witness::{Now, Places, Run, Witness, text};
use crate::daemon::{Rescue, await_table};
use crate::dispatcher::{Dispatcher, Handle, Limits, Settings};
use crate::fate::Reason;
use crate::host::{Told, Word};
use crate::job::{Job, Tokens};
use crate::launcher::{Captured, End, Outcome};
use crate::store::model::{self, Schema, Table, Val};

/// How long the rows may take to their ends afterwards.
const SETTLING: Time = 20 * LEASE;

/// How long the workers may take to end, with nothing left to do.
const ENDING: Time = 2 * LEASE;

/// See the module.
pub(super) struct World<'a> {
    plan: &'a Plan,
    schema: Arc<Schema>,
    agenda: Arc<Agenda>,
    server: Server,
    hosts: Vec<Host>,
    witness: Witness,
    processes: BTreeMap<Pid, Process>,
    guards: BTreeMap<Incarnation, Guard>,
    /// How each run of a worker came to its end, so far.
    fates: BTreeMap<Incarnation, Fate>,
    rows: i64,
    /// Clients that wait for an answer, by whom they asked.
    waiting: BTreeMap<Incarnation, u64>,
    healed: bool,
    deadline: Time,
    /// Prints what happens.
    loud: bool,
}

struct Host {
    worker: Option<Worker>,
    frozen: bool,
    /// It has no room for another process.
    full: Flag,
    /// Which run's guard has the lock, and the runs that stand in its file.
    lock: Option<Incarnation>,
    lock_file: Vec<String>,
    paused: [Option<Time>; TARGETS],
    /// How often each target was told to go on.
    continued: [u32; TARGETS],
    /// The most that each target was ever allowed.
    most: [u32; TARGETS],
}

struct Worker {
    runtime: Runtime,
    site: Site,
    handle: Handle,
    shutdown: Shutdown,
    reached: Time,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Alive,
    /// It ended in order.
    Drained,
    Dead,
}

struct Process {
    by: Incarnation,
    done: Option<oneshot::Sender<Outcome>>,
    exit: (Option<i32>, Option<i32>),
    /// How long it goes on after a SIGTERM; for ever, if none.
    obeys: Option<Time>,
    stopped: bool,
}

/// The guard of a run; those before it are forgotten.
#[derive(Default)]
struct Guard {
    ended: Life,
    told: Option<Told>,
    /// Counts what it was told to do.
    version: u64,
    deadline: Option<Time>,
    /// It kills whatever it finds.
    strikes: bool,
    /// The one before it was killed while it did so.
    resumes: bool,
    gone: bool,
}

pub(super) fn target(number: usize) -> TargetName {
    TargetName::new(["a", "b"][number]).unwrap()
}

fn host_of(run: Incarnation) -> usize {
    usize::try_from(run >> 32).unwrap()
}

impl<'a> World<'a> {
    pub(super) fn new(plan: &'a Plan, schema: Arc<Schema>, loud: bool) -> Self {
        let agenda = Arc::new(Agenda::new(plan.seed ^ 0x51));
        let table = Table::new(schema.columns.clone(), schema.texts.clone());
        let witness = Witness::new(Places::new(&table));
        {
            let mut agenda = agenda.lock();
            for (number, (at, _)) in plan.deeds.iter().enumerate() {
                agenda.add(*at, Event::Deed(number));
            }
            for host in 0..plan.workers.len() {
                agenda.add(0, Event::Start(host));
            }
            agenda.add(plan.heals, Event::Heal);
        }
        let host = |number: usize| Host {
            worker: None,
            frozen: false,
            full: Flag::default(),
            lock: None,
            lock_file: Vec::new(),
            paused: [None; TARGETS],
            continued: [0; TARGETS],
            most: plan.workers[number].concurrency,
        };
        Self {
            plan,
            schema,
            agenda,
            server: Server::new(table),
            hosts: (0..plan.workers.len()).map(host).collect(),
            witness,
            processes: BTreeMap::new(),
            guards: BTreeMap::new(),
            fates: BTreeMap::new(),
            rows: 0,
            waiting: BTreeMap::new(),
            healed: false,
            deadline: plan.heals + SETTLING,
            loud,
        }
    }

    /// Lets the history happen; what it broke.
    pub(super) fn run(mut self) -> Result<u64, String> {
        let mut events = 0;
        let mut finale = false;
        loop {
            self.let_workers_go_on();
            let (at, event) = {
                let mut agenda = self.agenda.lock();
                let Some((at, event)) = agenda.pop() else {
                    break;
                };
                agenda.now = at;
                (at, event)
            };
            events += 1;
            self.handle(at, event)?;
            let clock = self.server.now(&self.agenda.lock());
            if self.healed
                && !finale
                && self.witness.is_settled(&self.server.table, clock)
                && self.processes.is_empty()
                && self.waiting.is_empty()
            {
                finale = true;
                self.deadline = at + ENDING;
                self.agenda.lock().add(at + SECOND, Event::Finale);
            }
            if finale && self.hosts.iter().all(|host| host.worker.is_none()) {
                break;
            }
            if at > self.deadline {
                return Err(if finale {
                    "a worker with nothing to do does not end".to_owned()
                } else if !self.waiting.is_empty() {
                    format!("clients wait for ever: {:?}", self.waiting)
                } else {
                    self.witness.unsettled(&self.server.table)
                });
            }
        }
        let fates = &self.fates;
        self.witness
            .verdicts(&self.server.table, &|run| fates[&run] == Fate::Drained)?;
        let short = self.witness.runs.values().find(|run| run.cut_short);
        if let Some(run) = short.filter(|_| self.plan.is_harmless()) {
            return Err(format!("a job was cut short for nothing: {run:?}"));
        }
        Ok(events)
    }

    fn now(&self) -> Time {
        self.agenda.lock().now
    }

    fn add(&self, after: Time, event: Event) {
        let mut agenda = self.agenda.lock();
        let now = agenda.now;
        agenda.add(now + after, event);
    }

    fn say(&self, what: impl FnOnce() -> String) {
        if self.loud {
            println!("{:>10.3?}  {}", Duration::from_micros(self.now()), what());
        }
    }

    /// Every worker up to the next event.
    fn let_workers_go_on(&mut self) {
        for host in &mut self.hosts {
            let Some(worker) = host.worker.as_mut().filter(|_| !host.frozen) else {
                continue;
            };
            loop {
                let Some(first) = self.agenda.lock().first() else {
                    return;
                };
                if worker.reached >= first {
                    break;
                }
                worker.go_on(first);
            }
        }
    }

    fn handle(&mut self, at: Time, event: Event) -> Result<(), String> {
        match event {
            Event::Deed(number) => self.deed(&self.plan.deeds[number].1.clone()),
            Event::Over(fault) => self.over(fault),
            Event::Start(host) => self.start(host),
            Event::Thaw(host) => self.thaw(host),
            Event::SecondSignal(run) => {
                if let Some(worker) = self.worker(run) {
                    worker.shutdown.now.cancel();
                }
            }
            Event::Heal => self.heal(),
            Event::Finale => {
                for worker in self.hosts.iter().filter_map(|host| host.worker.as_ref()) {
                    worker.shutdown.drain.cancel();
                }
            }
            Event::Arrive {
                from,
                session,
                say,
                reply,
            } => {
                let from = (from, host_of(from));
                let committed =
                    self.server
                        .take(&mut self.agenda.lock(), from, session, say, reply);
                self.committed(committed)?;
            }
            Event::Answer(reply, outcome) => drop(reply.send(outcome)),
            Event::LockTimeout(session, number) => {
                self.server
                    .lock_timeout(&mut self.agenda.lock(), session, number);
            }
            Event::HangUp(session) => {
                let committed = self.server.hang_up(&mut self.agenda.lock(), session);
                self.committed(committed)?;
            }
            Event::Begin {
                from,
                pid,
                job,
                done,
            } => self.begin(from, pid, job, done)?,
            Event::Exit(pid) => {
                if let Some(process) = self.processes.get(&pid) {
                    let exit = process.exit;
                    self.exit(pid, exit);
                }
            }
            Event::Stop(pid, grace) => self.stop(pid, grace),
            Event::Kill(pid, signal) => self.exit(pid, (None, Some(signal))),
            Event::Guard(run, what) => self.guard(at, run, what)?,
            Event::Ended(run, written) => self.ended(run, written)?,
            Event::Answered(run, ids, reply) => self.answered(run, &ids, reply)?,
            Event::Paused(host, target, run, continued) => {
                if self.worker(run).is_some() && self.hosts[host].continued[target] == continued {
                    self.hosts[host].paused[target] = Some(at);
                }
            }
        }
        Ok(())
    }

    fn answered(
        &mut self,
        run: Incarnation,
        ids: &[JobId],
        reply: Result<RunManualReply, RequestError>,
    ) -> Result<(), String> {
        if let Some(waiting) = self.waiting.get_mut(&run) {
            *waiting -= 1;
        }
        self.waiting.retain(|_, waiting| *waiting > 0);
        self.say(|| format!("a client of {run:x} is told about {ids:?}"));
        for (id, outcome) in reply.into_iter().flat_map(|reply| reply.jobs) {
            let id = i64::try_from(id.0).unwrap();
            self.witness.told(id, &outcome, &self.server.table)?;
        }
        Ok(())
    }

    /// Whether somebody sets the database's clock: then times say little.
    fn clock_set(&self) -> bool {
        let mut deeds = self.plan.deeds.iter();
        deeds.any(|(_, deed)| matches!(deed, Deed::Clock(_)))
    }

    fn worker(&self, run: Incarnation) -> Option<&Worker> {
        let worker = self.hosts[host_of(run)].worker.as_ref()?;
        (worker.site.incarnation == run).then_some(worker)
    }

    fn committed(&mut self, committed: Vec<Committed>) -> Result<(), String> {
        for Committed { by, changes } in committed {
            for change in changes {
                let places = self.witness.places;
                self.say(|| {
                    let show = |row: &[Val]| {
                        format!("{} {:?}", text(&row[places.status]), row[places.token])
                    };
                    format!(
                        "{by:x} commits row {}: {} -> {}",
                        change.id,
                        show(&change.before),
                        show(&change.after)
                    )
                });
                let (clock_set, clock) = (self.clock_set(), self.server.now(&self.agenda.lock()));
                let (fates, processes) = (&self.fates, &self.processes);
                let is_over = |run: Incarnation| {
                    fates[&run] != Fate::Alive
                        && processes.values().all(|process| process.by != run)
                };
                let now = Now {
                    at: self.agenda.lock().now,
                    table: &self.server.table,
                    is_over: &is_over,
                    clock: (!clock_set).then_some(clock),
                };
                self.witness.changed(by, &change, &now)?;
            }
        }
        Ok(())
    }
}
