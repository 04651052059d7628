//! How long a job waits for its first instruction, and its client for the end.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::json;
use sqlx::mysql::MySqlConnection;

use crate::bench::options::Options;
use crate::bench::results::{Results, Unit};
use crate::bench::stage::{SLOTS, Stage, TARGET, Table, fill, one, quantile};
use crate::programs::{self, Daemon};
use crate::wait::PATIENCE;
use crate::witness::boot_ns;
use crate::{Database, Ini, Jobd, Master, Scratch, Wire, WitnessLog, until};

/// Jobs of a turn, of each kind.
const JOBS: (usize, usize) = (300, 60);

/// Jobs before them.
const WARM_UP: usize = 10;

/// The target that keeps a busy worker busy, and its rows: more than are run in a turn.
const LOAD: &str = "load";
const LOAD_ROWS: (usize, usize) = (60_000, 15_000);

pub(super) async fn measure(options: &Options, results: &mut Results) {
    let count = options.size(JOBS.0, JOBS.1);
    let stage = Stage::start().await;
    for _ in 0..options.turns() {
        add(results, "spawn-alone", &alone(count));
        for state in ["idle", "busy"] {
            let rows = if state == "busy" {
                options.size(LOAD_ROWS.0, LOAD_ROWS.1)
            } else {
                0
            };
            let mut cluster = Cluster::start(&stage, rows).await;
            cluster.starts(WARM_UP).await;
            let starts = cluster.starts(count).await;
            let (ends, answers) = cluster.manual(count).await;
            cluster.stop(rows).await;
            add(results, &format!("poke-to-start-{state}"), &starts);
            add(results, &format!("end-to-answer-{state}"), &ends);
            add(results, &format!("request-to-answer-{state}"), &answers);
        }
    }
    for state in ["idle", "busy"] {
        for what in ["poke-to-start", "end-to-answer", "request-to-answer"] {
            let name = format!("latency/{what}-{state}-p50");
            results.ratio(&name, "latency/spawn-alone-p50");
        }
    }
}

fn add(results: &mut Results, what: &str, seconds: &[f64]) {
    for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
        let value = quantile(seconds, share) * 1e3;
        results.add(&format!("latency/{what}-{name}"), Unit::Millis, value);
    }
}

/// The yardstick: from the call that starts the job's program to its first instruction, without jobd.
fn alone(count: usize) -> Vec<f64> {
    let scratch = Scratch::new();
    let log = WitnessLog::new(&scratch);
    let start = |id: usize| {
        let asked = boot_ns();
        let status = Command::new(programs::path("witness"))
            .arg(log.path())
            .args(["w", "0", "1", &id.to_string(), TARGET])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        assert!(status.expect("start the witness").success());
        asked
    };
    let asked: Vec<u64> = (0..count).map(start).collect();
    let begun = log.events().into_iter().filter(|event| event.begins);
    begun
        .zip(asked)
        .map(|(event, asked)| seconds(asked, event.at_ns))
        .collect()
}

/// A master, a worker whose jobs are witnesses, and perhaps a load on it.
struct Cluster {
    worker: Daemon,
    master: Daemon,
    database: Database,
    connection: MySqlConnection,
    log: WitnessLog,
    _scratch: Scratch,
}

impl Cluster {
    async fn start(stage: &Stage, load: usize) -> Self {
        let scratch = Scratch::new();
        let database = stage.table(Table::Minimal).await;
        let mut connection = stage.connection(&database).await;
        let ini = Ini::listen()
            .set("log_level_console", "warn")
            .set("poke_throttle_interval", 0);
        let master = Master::start(&scratch, &ini).await;
        let log = WitnessLog::new(&scratch);
        let ini = Stage::ini(&database, SLOTS)
            .target(LOAD, SLOTS)
            .set("launcher", log.launcher("w", 0, 1))
            .set("master_host", "127.0.0.1")
            .set("master_port", master.addr.port());
        let worker = Jobd::ready(&scratch, &ini).await;
        Master::has_workers(&master, 1).await;
        if load > 0 {
            fill(&mut connection, load, LOAD, "waiting").await;
            master.ask("poke", json!({"targets": [LOAD]})).await;
        }
        Self {
            worker,
            master,
            database,
            connection,
            log,
            _scratch: scratch,
        }
    }

    /// From the poke of the master to the job's first instruction, one job after the other.
    async fn starts(&mut self, count: usize) -> Vec<f64> {
        let mut wire = self.master.wire().await;
        let mut asked = BTreeMap::new();
        for _ in 0..count {
            let id = self.database.insert_one(TARGET, "waiting").await;
            asked.insert(id, boot_ns());
            wire.ask("poke", json!({"targets": [TARGET]})).await;
            let done = format!("SELECT COUNT(*) FROM jobs WHERE id = {id} AND status = 'done'");
            until("a job to be done", PATIENCE, async || {
                (one(&mut self.connection, &done).await == 1).then_some(())
            })
            .await;
        }
        let begun = self.log.events().into_iter().filter(|event| event.begins);
        let waits: Vec<f64> = begun
            .filter_map(|event| Some(seconds(*asked.get(&event.id)?, event.at_ns)))
            .collect();
        assert_eq!(waits.len(), count, "every job has begun once");
        waits
    }

    /// Of manual jobs, one after the other: from the job's last instruction to the client's answer, before
    /// which the row is done; and from request to answer.
    async fn manual(&mut self, count: usize) -> (Vec<f64>, Vec<f64>) {
        let mut wire: Wire = self.worker.wire().await;
        let mut times = BTreeMap::new();
        for _ in 0..count {
            let id = self.database.insert_one(TARGET, "manual").await;
            let asked = boot_ns();
            let answer = wire.ask("run-manual", json!({"ids": [id]})).await;
            times.insert(id, (asked, boot_ns()));
            assert_eq!(answer["jobs"][id.to_string()]["result"], "ok", "{answer}");
        }
        let ended = self.log.events().into_iter().filter(|event| !event.begins);
        let ends: Vec<f64> = ended
            .filter_map(|event| Some(seconds(event.at_ns, times.get(&event.id)?.1)))
            .collect();
        assert_eq!(ends.len(), count, "every job has ended once");
        let answers = times
            .values()
            .map(|(asked, answered)| seconds(*asked, *answered));
        (ends, answers.collect())
    }

    /// A load must have lasted until now.
    async fn stop(mut self, load: usize) {
        if load > 0 {
            let left =
                format!("SELECT COUNT(*) FROM jobs WHERE status = 'waiting' AND target = '{LOAD}'");
            let left = one(&mut self.connection, &left).await;
            assert!(left > 0, "the worker ran out of load: raise LOAD_ROWS");
        }
        self.worker.stop().await;
        self.master.stop().await;
    }
}

fn seconds(from_ns: u64, to_ns: u64) -> f64 {
    Duration::from_nanos(to_ns.saturating_sub(from_ns)).as_secs_f64()
}
