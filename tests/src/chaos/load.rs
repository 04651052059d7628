//! The applications: they insert jobs, poke, and wait for manual ones, whatever happens to the rest.
//!
//! An insert counts once the database has acknowledged it. A manual run that was refused, or whose
//! answer got lost, is asked for again until its row is done.

mod follow;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use sqlx::mysql::MySqlPool;
use sqlx::{AssertSqlSafe, Row as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::job::{FED, LONG, PAYLOAD, STUCK};
use super::options::{Options, Table};
use super::random::Random;
use super::record::SharedLedger;
use super::stage::Stage;
use crate::galera;
use crate::wire::Wire;
use crate::witness::{NANOS, boot_ns, since_1970};

const INSERTERS: u64 = 3;
const WAITERS: u64 = 2;

/// Above so many open jobs the inserters rest: an outage must not be followed by an hour of work.
const MAX_OPEN: usize = 300;

/// Which of the last jobs are cancelled, or followed: some have ended, most have not.
const RECENT: usize = 60;

/// After a failure.
const PAUSE: Duration = Duration::from_millis(100);

/// A client that hears nothing for so long asks again; the longest jobs take 2.5 s.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);

/// Applications at work. They end when this is dropped.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    ledger: SharedLedger,
    /// What lies between two ids of one INSERT.
    id_step: u64,
    table: Table,
    master: SocketAddr,
    workers: Vec<SocketAddr>,
    rate: u64,
    targets: Vec<(&'static str, u32)>,
    resting: AtomicBool,
    /// Clients in the middle of something.
    busy: AtomicUsize,
    open: AtomicUsize,
}

impl Load {
    /// Starts them.
    pub fn start(
        stage: &Stage,
        ledger: &SharedLedger,
        options: &Options,
        random: &mut Random,
    ) -> Self {
        let shared = Arc::new(Shared {
            ledger: ledger.clone(),
            id_step: if stage.cluster.is_some() {
                galera::ID_STEP
            } else {
                1
            },
            table: stage.table,
            master: stage.master_addr(),
            workers: stage.worker_addrs.clone(),
            rate: options.rate,
            targets: options.targets(),
            resting: AtomicBool::new(false),
            busy: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
        });
        let mut tasks = JoinSet::new();
        let mut pools = stage.pools.iter().cycle().cloned();
        let mut pool = || pools.next().expect("there is one");
        for _ in 0..INSERTERS {
            tasks.spawn(insert(shared.clone(), pool(), random.fork()));
        }
        for _ in 0..WAITERS {
            tasks.spawn(wait_for_manual_jobs(shared.clone(), pool(), random.fork()));
        }
        if stage.table == Table::Full {
            tasks.spawn(cancel(shared.clone(), pool(), random.fork()));
        }
        tasks.spawn(follow::follow(shared.clone(), random.fork()));
        tasks.spawn(count_open(shared.clone(), stage.database.pool.clone()));
        Self { shared, tasks }
    }

    /// Nothing new from now on; what was begun is ended.
    pub fn rest(&self) {
        self.shared.resting.store(true, Ordering::SeqCst);
    }

    /// Goes on after [`Self::rest`].
    pub fn go_on(&self) {
        self.shared.resting.store(false, Ordering::SeqCst);
    }

    /// Whether nobody is in the middle of something.
    pub fn is_idle(&self) -> bool {
        self.shared.busy.load(Ordering::SeqCst) == 0
    }

    /// What went wrong in the applications themselves: none of them may end.
    pub fn failure(&mut self) -> Option<String> {
        let ended = self.tasks.try_join_next()?;
        Some(format!("an application of the suite ended: {ended:?}"))
    }
}

/// Jobs that are neither done nor waiting for a person; `None` while the database cannot say.
pub async fn open_jobs(pool: &MySqlPool) -> Option<Vec<u64>> {
    let sql = "SELECT CAST(id AS UNSIGNED) AS id FROM jobs WHERE status IN ('waiting', 'accepted', 'running', 'scheduled')";
    let rows = sqlx::query(sql).fetch_all(pool).await.ok()?;
    Some(rows.iter().map(|row| row.get("id")).collect())
}

impl Shared {
    fn rests(&self) -> bool {
        self.resting.load(Ordering::SeqCst)
    }

    /// Waits until there may be new jobs, and says that somebody is busy; drop it when done.
    async fn begin(self: &Arc<Self>) -> Busy {
        loop {
            // Busy first: whoever calls for rest and finds nobody busy can rely on it.
            let busy = Busy::new(self);
            if !self.rests() && self.open.load(Ordering::Relaxed) < MAX_OPEN {
                return busy;
            }
            drop(busy);
            sleep(PAUSE).await;
        }
    }

    /// Inserts jobs; their ids once the database has acknowledged them all.
    async fn add(
        &self,
        pool: &MySqlPool,
        count: usize,
        target: &'static str,
        status: &str,
        random: &mut Random,
    ) -> Option<Vec<u64>> {
        let (inserted, second) = (boot_ns(), since_1970() / NANOS + random.between(0, 3));
        let (columns, values) = match self.table {
            Table::Minimal => ("", String::new()),
            Table::Full => {
                // Where the row does not say how often, the config does.
                let most = random.between(0, 3);
                let most = if most == 0 {
                    "NULL".to_owned()
                } else {
                    most.to_string()
                };
                // The others say nothing for too long.
                let limited = target == STUCK && random.one_in(2);
                let limit = if limited { "1" } else { "NULL" };
                let run_at = if status == "scheduled" {
                    second.to_string()
                } else {
                    "NULL".to_owned()
                };
                let priority = [0, 0, 0, 5, -3][random.index(5)];
                let data = if target == FED {
                    format!("REPEAT('{}', {})", PAYLOAD.0, PAYLOAD.1)
                } else {
                    "NULL".to_owned()
                };
                // Few keys, so that there is another one with it as a rule.
                let key = if count == 1 && !random.one_in(4) {
                    format!("'k{}'", random.index(2))
                } else {
                    "NULL".to_owned()
                };
                let columns = ", max_attempts, timeout, run_at, priority, data, unique_key";
                let values = format!(", {most}, {limit}, {run_at}, {priority}, {data}, {key}");
                (columns, values)
            }
        };
        let row = format!("('{target}', '{status}', UNIX_TIMESTAMP(){values})");
        let rows = vec![row; count].join(", ");
        let sql = format!("INSERT INTO jobs (target, status, time_created{columns}) VALUES {rows}");
        let done = sqlx::raw_sql(AssertSqlSafe(sql)).execute(pool).await;
        let mut ledger = self.ledger.lock().expect("the ledger");
        if done.as_ref().is_err_and(is_duplicate) {
            ledger.duplicates += 1;
            return Some(Vec::new());
        }
        if let Ok(done) = done {
            let first = done.last_insert_id();
            let ids = (0..count as u64).map(|number| first + number * self.id_step);
            let ids: Vec<u64> = ids.collect();
            ledger
                .acknowledged
                .extend(ids.iter().map(|id| (*id, target)));
            if status == "manual" {
                ledger.manual.extend(&ids);
            }
            if status == "scheduled" {
                let due = boot_ns() + second * NANOS - since_1970();
                let of_it = |id: &u64| (*id, (inserted, due));
                ledger.due.extend(ids.iter().map(of_it));
            }
            Some(ids)
        } else {
            ledger.unacknowledged += 1;
            None
        }
    }
}

/// Whether another job with the same key waits.
fn is_duplicate(error: &sqlx::Error) -> bool {
    let error = error.as_database_error();
    error.is_some_and(sqlx::error::DatabaseError::is_unique_violation)
}

#[derive(Debug)]
struct Busy(Arc<Shared>);

impl Busy {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.busy.fetch_add(1, Ordering::SeqCst);
        Self(shared.clone())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Shared {
    /// The next job's: most are of the first.
    fn target(&self, random: &mut Random) -> &'static str {
        let other = random.index(20);
        let (name, _) = *self.targets.get(other).unwrap_or(&self.targets[0]);
        // Few of those that hold their slots for long, ten seconds and two, or that are large.
        let few = match name {
            LONG => 12,
            STUCK => 4,
            FED => 6,
            _ => 1,
        };
        if random.one_in(few) {
            name
        } else {
            self.targets[0].0
        }
    }
}

async fn insert(shared: Arc<Shared>, pool: MySqlPool, mut random: Random) {
    loop {
        let busy = shared.begin().await;
        let count = if random.one_in(3) {
            1
        } else {
            random.between(1, 12)
        };
        let target = shared.target(&mut random);
        let few = usize::try_from(count).expect("few");
        let later = shared.table == Table::Full && random.one_in(6);
        let status = if later { "scheduled" } else { "waiting" };
        let added = shared.add(&pool, few, target, status, &mut random).await;
        // Some applications never poke; then the worker looks for itself.
        if added.is_some() && !later && !random.one_in(4) {
            let _ = request(shared.master, "poke", json!({"targets": [target]})).await;
        }
        drop(busy);
        let pause = if added.is_some() {
            Duration::from_millis(count * 1_000 * INSERTERS / shared.rate)
        } else {
            PAUSE
        };
        sleep(pause).await;
    }
}

/// Has jobs cancelled that were inserted not long ago, in every way that there is.
async fn cancel(shared: Arc<Shared>, pool: MySqlPool, mut random: Random) {
    loop {
        let busy = shared.begin().await;
        let one = {
            let mut ledger = shared.ledger.lock().expect("the ledger");
            let back = random.index(RECENT);
            let one = ledger.acknowledged.keys().rev().nth(back).copied();
            // Before it is asked for: an answer may get lost.
            ledger.cancels.extend(one);
            one
        };
        if let Some(id) = one {
            let ids = json!({"ids": [id]});
            match random.index(3) {
                0 => drop(request(shared.master, "cancel", ids).await),
                1 => {
                    let worker = shared.workers[random.index(shared.workers.len())];
                    drop(request(worker, "cancel", ids).await);
                }
                _ => {
                    let sql = format!("UPDATE jobs SET cancel_requested = 1 WHERE id = {id}");
                    // Without an answer it may have been done, or not.
                    let done = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&pool).await;
                    if done.is_ok_and(|done| done.rows_affected() == 1) {
                        let mut ledger = shared.ledger.lock().expect("the ledger");
                        ledger.asked.insert(id, boot_ns());
                    }
                }
            }
        }
        drop(busy);
        sleep(random.millis(50, 500)).await;
    }
}

async fn wait_for_manual_jobs(shared: Arc<Shared>, pool: MySqlPool, mut random: Random) {
    loop {
        let busy = shared.begin().await;
        let count = random.index(4) + 1;
        let target = shared.target(&mut random);
        if let Some(mut ids) = shared
            .add(&pool, count, target, "manual", &mut random)
            .await
        {
            while !ids.is_empty() {
                let answered = run_manual(&shared, &ids, target, &mut random).await;
                if answered < ids.len() {
                    sleep(PAUSE).await;
                    shared.ledger.lock().expect("the ledger").asked_again += 1;
                }
                ids = not_done(&pool, ids).await;
            }
        }
        drop(busy);
        sleep(random.millis(50, 400)).await;
    }
}

/// Asks the master, or a worker itself, to run the jobs; returns how many it answered for.
async fn run_manual(shared: &Shared, ids: &[u64], target: &str, random: &mut Random) -> usize {
    let answer = if random.one_in(3) {
        let worker = shared.workers[random.index(shared.workers.len())];
        request(worker, "run-manual", json!({"ids": ids})).await
    } else {
        let jobs: Vec<Value> = ids
            .iter()
            .map(|id| json!({"id": id, "target": target}))
            .collect();
        request(shared.master, "run-manual", json!({"jobs": jobs})).await
    };
    let mut ledger = shared.ledger.lock().expect("the ledger");
    answer.map_or(0, |answer| ledger.note_answers(&answer))
}

/// Those of `ids` that are not known to be done: a cluster's node may not even have heard of a row yet.
async fn not_done(pool: &MySqlPool, ids: Vec<u64>) -> Vec<u64> {
    let list: Vec<String> = ids.iter().map(u64::to_string).collect();
    let sql = format!(
        "SELECT CAST(id AS UNSIGNED) AS id FROM jobs WHERE id IN ({}) AND status = 'done'",
        list.join(", ")
    );
    match sqlx::query(AssertSqlSafe(sql))
        .persistent(false)
        .fetch_all(pool)
        .await
    {
        Ok(rows) => {
            let done: Vec<u64> = rows.iter().map(|row| row.get("id")).collect();
            ids.into_iter().filter(|id| !done.contains(id)).collect()
        }
        Err(_) => ids,
    }
}

async fn count_open(shared: Arc<Shared>, pool: MySqlPool) {
    loop {
        if let Some(open) = open_jobs(&pool).await {
            shared.open.store(open.len(), Ordering::Relaxed);
        }
        sleep(PAUSE).await;
    }
}

/// One request on a connection of its own; `None` where no answer came.
pub async fn request(addr: SocketAddr, kind: &str, data: Value) -> Option<Value> {
    let exchange = async {
        let stream = TcpStream::connect(addr).await.ok()?;
        let mut wire = Wire::over(stream);
        let text = json!([0, {"no": 1, "type": kind, "data": data}]).to_string();
        wire.try_send(&[text.as_bytes(), &[crate::wire::EOT]].concat())
            .await
            .ok()?;
        let frame = wire.next().await?;
        let message: Value = serde_json::from_str(&frame).ok()?;
        Some(message[1].clone())
    };
    timeout(ANSWER_LIMIT, exchange).await.ok()?
}
