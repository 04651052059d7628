//! A scripted scene: one table, a few workers that can be made to fail at a named point, and the same
//! witness and checker as a run of the suite has. What happens, and when, is the script's business.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::checker::{self, Breach, Evidence};
use super::line::Line;
use super::load::request;
use super::options::Table;
use super::record::{Ledger, Observer, Run, Troubles, outputs};
use super::stage;
use super::table::{Jobs, state_dir};
use crate::programs::{self, Daemon};
use crate::wait::{PATIENCE, until};
use crate::witness::{NANOS, boot_ns, since_1970};
use crate::{Ini, Scratch, Server, WitnessLog};

/// Every point at which jobd can be made to die. A test looks whether the code has these and no others.
pub const CRASH_POINTS: [&str; 17] = [
    "claim-selected",
    "claim-before-commit",
    "claim-after-commit",
    "start-before-commit",
    "start-after-commit",
    "spawn-before",
    "spawn-after",
    "finish-before-commit",
    "finish-after-commit",
    "retry-before-commit",
    "retry-after-commit",
    "promote-before-commit",
    "promote-after-commit",
    "release-before-commit",
    "release-after-commit",
    "rescue-before",
    "rescue-after",
];

/// What a worker whose line still stands needs to end.
const END_LIMIT: Duration = Duration::from_secs(5);

const BETWEEN_LOOKS: Duration = Duration::from_millis(10);

/// See the module.
#[derive(Debug)]
pub struct Scene {
    /// Which table it is.
    pub table: Table,
    /// Where it stands.
    pub jobs: Jobs,
    /// What the applications know.
    pub ledger: Ledger,
    observer: Observer,
    witness: WitnessLog,
    targets: &'static [(&'static str, u32)],
    troubles: Troubles,
    /// Configs, logs and state. Last, so that it goes after those who write into it.
    pub scratch: Scratch,
}

impl Scene {
    /// A new table on a server. Workers have these targets, with so many slots each.
    pub async fn on_server(
        server: &Server,
        table: Table,
        targets: &'static [(&'static str, u32)],
    ) -> Self {
        let jobs = Jobs::on_server(server.database().await, table).await;
        Self::new(Scratch::new(), jobs, table, targets)
    }

    /// A new table in an SQLite file.
    pub async fn in_file(table: Table, targets: &'static [(&'static str, u32)]) -> Self {
        let scratch = Scratch::new();
        let jobs = Jobs::in_file(&scratch, table).await;
        Self::new(scratch, jobs, table, targets)
    }

    fn new(
        scratch: Scratch,
        jobs: Jobs,
        table: Table,
        targets: &'static [(&'static str, u32)],
    ) -> Self {
        let witness = WitnessLog::new(&scratch);
        // What the scripts do costs leases wherever they say so.
        let mut troubles = Troubles::default();
        troubles.add_outage(0, u64::MAX);
        Self {
            table,
            jobs,
            ledger: Ledger::default(),
            observer: Observer::start(witness.path().to_owned()),
            witness,
            targets,
            troubles,
            scratch,
        }
    }

    /// The config of a worker of this name, with a state folder.
    pub fn worker(&self, name: &str) -> Ini {
        let launcher = format!(
            "{} {} {name} {{id}} {{target}}",
            programs::path("chaos-job").display(),
            self.witness.path().display()
        );
        let mut ini = self.jobs.ini();
        ini = ini
            .set("name", name)
            .set("poll_interval", "0.1")
            .set("retry_backoff", "0.1..0.5")
            .set("launcher", launcher)
            .set("state_dir", state_dir(&self.scratch, name).display());
        for (target, slots) in self.targets {
            ini = ini.target(target, *slots);
        }
        ini
    }

    /// A line to the server, and `ini` with its worker at the other end.
    pub async fn over_a_line(&self, ini: Ini) -> (Line, Ini) {
        let port = self.jobs.database().port;
        let line = Line::start((Ipv4Addr::LOCALHOST, port).into()).await;
        // It reads what passes.
        let ini = ini.set("mysql_port", line.port).set("mysql_tls", "off");
        (line, ini)
    }

    /// Starts a worker with variables in its environment, and waits until it listens.
    pub async fn start(&self, ini: &Ini, variables: &[(&str, &str)]) -> Daemon {
        let mut daemon = self.launch(ini, variables);
        daemon.listening().await;
        daemon
    }

    /// The same, and until it has seen its table.
    pub async fn ready(&self, ini: &Ini, variables: &[(&str, &str)]) -> Daemon {
        let daemon = self.start(ini, variables).await;
        let mut wire = daemon.wire().await;
        until("the worker to see its table", PATIENCE, async || {
            let status = wire.ask("status", json!({})).await;
            (status["databaseAway"] == false).then_some(())
        })
        .await;
        daemon
    }

    /// The same as [`Self::start`] without waiting, for a worker that is going to die at once.
    pub fn launch(&self, ini: &Ini, variables: &[(&str, &str)]) -> Daemon {
        Daemon::launch_under(&programs::faulty_path(), &self.scratch, ini, variables)
    }

    /// Inserts jobs that may be run so many times, where the table can say that.
    pub async fn insert(
        &mut self,
        count: usize,
        target: &'static str,
        status: &str,
        most: u32,
    ) -> Vec<u64> {
        let most = match self.table {
            Table::Minimal => ("", String::new()),
            Table::Full => (", max_attempts", format!(", {most}")),
        };
        let ids = self
            .jobs
            .insert(count, target, status, (most.0, &most.1))
            .await;
        let named = ids.iter().map(|id| (*id, target));
        self.ledger.acknowledged.extend(named);
        if status == "manual" {
            self.ledger.manual.extend(&ids);
        }
        ids
    }

    /// Inserts jobs for so many seconds later, on the full table.
    pub async fn insert_later(&mut self, count: usize, target: &'static str, seconds: u64) {
        let inserted = boot_ns();
        let second = since_1970() / NANOS + seconds;
        let values = format!(", {second}");
        let columns = (", run_at", &*values);
        let ids = self.jobs.insert(count, target, "scheduled", columns).await;
        let due = boot_ns() + second * NANOS - since_1970();
        for id in ids {
            self.ledger.acknowledged.insert(id, target);
            self.ledger.due.insert(id, (inserted, due));
        }
    }

    /// Inserts job `id` with a key that only one may wait with, on the full table; it may run so many times.
    pub async fn insert_unique(&mut self, id: u64, target: &'static str, key: &str, most: u32) {
        let values = format!(", {id}, '{key}', {most}");
        let columns = (", id, unique_key, max_attempts", &*values);
        self.jobs.insert(1, target, "waiting", columns).await;
        self.ledger.acknowledged.insert(id, target);
    }

    /// A client that asks a worker to run manual jobs; its answer, or `None` where none came.
    pub fn ask_for(&self, worker: SocketAddr, ids: &[u64]) -> JoinHandle<Option<Value>> {
        let ids = json!({ "ids": ids });
        tokio::spawn(async move { request(worker, "run-manual", ids).await })
    }

    /// What `worker` holds now may be run again: it is going to be killed or frozen.
    pub fn lose(&mut self, worker: &Daemon) {
        self.troubles.lose(worker.process.id(), 0, u64::MAX);
    }

    /// All runs so far.
    pub fn runs(&self) -> Vec<Run> {
        self.observer.runs()
    }

    /// How many jobs run now.
    pub fn running(&self) -> usize {
        self.observer.running()
    }

    /// An application sets a job to `ignored` by hand while it is `status`.
    pub async fn withdraw(&mut self, id: u64, status: &str) {
        let sql =
            format!("UPDATE jobs SET status = 'ignored' WHERE id = {id} AND status = '{status}'");
        assert_eq!(self.jobs.run(&sql).await, 1, "job {id} was not {status}");
        self.ledger.withdrawn.insert(id, boot_ns());
    }

    /// An application asks in the row for its job to be cancelled.
    pub async fn cancel(&mut self, id: u64) {
        self.ledger.cancels.insert(id);
        let sql = format!("UPDATE jobs SET cancel_requested = 1 WHERE id = {id}");
        assert_eq!(self.jobs.run(&sql).await, 1, "there is no job {id}");
    }

    /// Looks how many rows of a target the table calls `running`.
    pub async fn look_at_running(&mut self, target: &'static str) -> u32 {
        let condition = format!("status = 'running' AND target = '{target}'");
        let now = self.jobs.ids(&condition).await.len();
        let now = u32::try_from(now).expect("few rows");
        let most = self.ledger.most_running.entry(target).or_default();
        *most = now.max(*most);
        now
    }

    /// Waits until every job has ended, or for `limit`. Clients ask `worker` again for manual jobs that were
    /// given back.
    pub async fn settle(&mut self, worker: &Daemon, limit: Duration) {
        let begun = Instant::now();
        while begun.elapsed() < limit {
            let open = self
                .jobs
                .ids("status IN ('waiting', 'accepted', 'running', 'scheduled')")
                .await;
            let manual = self.jobs.ids("status = 'manual'").await;
            if open.is_empty() && manual.is_empty() && self.running() == 0 {
                return;
            }
            if !manual.is_empty() {
                let answer = self.ask_for(worker.addr, &manual).await.expect("a task");
                self.note(answer);
            }
            sleep(BETWEEN_LOOKS).await;
        }
    }

    /// Takes in an answer to a client.
    pub fn note(&mut self, answer: Option<Value>) {
        if let Some(answer) = answer {
            self.ledger.note_answers(&answer);
        }
    }

    /// What the checker says in the end; then the workers are asked to end, and killed if they do not.
    pub async fn verdict<const N: usize>(&self, workers: [Daemon; N]) -> Vec<Breach> {
        let breaches = self.breaches().await;
        for mut worker in workers {
            worker.process.signal(Signal::TERM);
            let begun = Instant::now();
            while worker.process.ended().is_none() && begun.elapsed() < END_LIMIT {
                sleep(BETWEEN_LOOKS).await;
            }
            worker.process.kill();
        }
        breaches
    }

    /// What the checker says of everything that was seen so far.
    pub async fn breaches(&self) -> Vec<Breach> {
        let rows = self.jobs.rows().await;
        let ownership = self.jobs.ownership(self.table).await;
        checker::check(&Evidence {
            ledger: &self.ledger,
            rows: &rows,
            ownership: &ownership,
            runs: &self.observer.runs(),
            limits: self.targets,
            troubles: &self.troubles,
            undone: &[],
            outputs: &outputs(&stage::outputs(&self.scratch)),
        })
    }
}
