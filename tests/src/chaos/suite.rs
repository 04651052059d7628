//! One run: start, warm up, faults, the last jobs, the verdict.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::future::join_all;
use sqlx::Row as _;
use tokio::time::{Instant, sleep};

use super::checker::{self, Breach, Evidence, Ownership, Promise};
use super::faults::{Deck, Fault};
use super::footprint::Footprint;
use super::in_file;
use super::load::{Load, open_jobs};
use super::options::{Options, Table};
use super::random::Random;
use super::record::{Ledger, Observer, Run, SharedLedger, outputs};
use super::report::{Recovery, Report, summary};
use super::stage::{self, Stage, WORKERS};
use super::table;
use super::taken_back::TakenBack;
use crate::database::Row;
use crate::programs;
use crate::witness::boot_ns;

/// Before the first fault, so that the daemons have their usual size.
const WARM_UP: Duration = Duration::from_secs(3);

/// After a fault every worker must work again within this: well below the 30 s after which a worker
/// gives a transaction up, so that no recovery rests on that.
const RECOVERY_LIMIT: Duration = Duration::from_secs(20);

/// For the jobs that are open when the last fault is over.
const LAST_JOBS_LIMIT: Duration = Duration::from_secs(90);

/// For daemons to let go of what they held.
const REST_LIMIT: Duration = Duration::from_secs(15);

/// So many breaches of one promise are printed.
const SHOWN: usize = 10;

const BETWEEN_LOOKS: Duration = Duration::from_millis(10);

/// What a run came to.
#[derive(Debug)]
pub struct Verdict {
    /// What was not kept.
    pub breaches: Vec<Breach>,
    /// Where the evidence is, if there are breaches.
    pub evidence: Option<PathBuf>,
}

/// Runs the suite as asked for, printing as it goes.
pub async fn run(options: &Options) -> Verdict {
    let seed = options.seed.unwrap_or_else(new_seed);
    let storage = match (options.galera, options.sqlite) {
        (true, _) => ", Galera",
        (_, true) => ", SQLite",
        _ => "",
    };
    println!(
        "chaos: {} min, seed {seed}, {:?} table{storage}",
        options.minutes, options.table
    );
    if options.sqlite {
        let breaches = in_file::run(options, seed).await;
        print_breaches(&breaches, seed, options);
        return Verdict {
            breaches,
            evidence: None,
        };
    }
    let mut random = Random::new(seed);
    let stage = Stage::start(options).await;
    for fault in Fault::ALL.into_iter().filter(|fault| fault.fits(&stage)) {
        if let Some(why) = fault.impossible(&stage) {
            println!("left out: {}: {why}", fault.name());
        }
    }
    let observer = Observer::start(stage.witness.path().to_owned());
    let ledger: SharedLedger = Arc::new(Mutex::new(Ledger::default()));
    let mut load = Load::start(&stage, &ledger, options, &mut random);
    let mut breaches = Vec::new();

    sleep(WARM_UP).await;
    come_to_rest(&stage, &load, &observer, &mut breaches).await;
    let base = footprints(&stage).await;
    load.go_on();

    let mut report = Report::default();
    let mut deck = Deck::new(&stage, options);
    let end = Instant::now() + options.duration();
    while Instant::now() < end && breaches.is_empty() {
        let faults = deck.draw(&mut random);
        strike(
            &faults,
            &stage,
            &observer,
            &mut random,
            &mut report,
            &mut breaches,
        )
        .await;
        breaches.extend(
            load.failure()
                .map(|text| Breach::of_all(Promise::Suite, text)),
        );
        sleep(random.millis(50, 500)).await;
    }

    come_to_rest(&stage, &load, &observer, &mut breaches).await;
    requests_seen(&stage, &mut breaches).await;
    compare_footprints(&stage, &base, &mut breaches).await;
    drop(load);
    let rows: BTreeMap<u64, Row> = stage
        .database
        .rows()
        .await
        .into_iter()
        .map(|row| (row.id, row))
        .collect();
    let (ownership, undone) = further(&stage).await;
    let targets = options.targets();
    end_daemons(&stage, &mut breaches).await;
    let runs = observer.runs();
    let troubles = stage.troubles.lock().expect("the list of troubles").clone();
    let ledger = std::mem::take(&mut *ledger.lock().expect("the ledger"));
    breaches.extend(checker::check(&Evidence {
        ledger: &ledger,
        rows: &rows,
        ownership: &ownership,
        runs: &runs,
        limits: &targets,
        troubles: &troubles,
        undone: &undone,
        outputs: &outputs(&stage::outputs(&stage.scratch)),
    }));

    let taken_back = TakenBack::of(&stage, &mut breaches).await;

    println!("\n{}", report.table());
    println!(
        "{}",
        summary(&report, &ledger, &rows, &ownership, &runs, &breaches)
    );
    if options.galera {
        taken_back.print(seed, |job| ledger.acknowledged.contains_key(&job));
    }
    let evidence =
        (!breaches.is_empty()).then(|| keep_evidence(&stage, seed, &breaches, &rows, &runs));
    print_breaches(&breaches, seed, options);
    Verdict { breaches, evidence }
}

fn new_seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    // Short enough to be typed.
    u64::from(now.expect("after 1970").subsec_micros())
        + u64::from(std::process::id()) * 1_000_000 % 1_000_000_000
}

/// Inflicts faults, all at once, and measures how work goes on after the last of them.
async fn strike(
    faults: &[Fault],
    stage: &Stage,
    observer: &Observer,
    random: &mut Random,
    report: &mut Report,
    breaches: &mut Vec<Breach>,
) {
    let names: Vec<&str> = faults.iter().map(|fault| fault.name()).collect();
    let names = names.join(" + ");
    let (begun, begun_ns) = (Instant::now(), boot_ns());
    let strikes = faults.iter().map(|fault| {
        let mut own = random.fork();
        async move { (*fault, fault.inflict(stage, &mut own).await) }
    });
    let outcomes = join_all(strikes).await;
    let lasted = begun.elapsed();
    if faults.iter().any(|fault| fault.keeps_from_the_database()) {
        let mut troubles = stage.troubles.lock().expect("the list of troubles");
        troubles.add_outage(begun_ns, boot_ns());
    }
    if faults.contains(&Fault::ClockMoved) {
        let mut troubles = stage.troubles.lock().expect("the list of troubles");
        troubles.add_wrong_clock(begun_ns, boot_ns());
    }
    let worker = outcomes.iter().find_map(|(_, outcome)| outcome.worker);
    let recovery = recovery(stage, observer, worker).await;
    println!(
        "{names}: {:.1} s, next job done after {:.2} s, workers begin jobs after {:.2} s",
        lasted.as_secs_f64(),
        recovery.done.as_secs_f64(),
        recovery.claimed.as_secs_f64()
    );
    if recovery.done.max(recovery.claimed) >= RECOVERY_LIMIT {
        let text =
            format!("a worker does no work for {RECOVERY_LIMIT:?} after {names}: {recovery:?}");
        breaches.push(Breach::of_all(Promise::Recovery, text));
    }
    for (fault, outcome) in outcomes {
        let alone = outcome
            .broken_if_alone
            .as_ref()
            .filter(|_| faults.len() == 1);
        if let Some(text) = outcome.broken.as_ref().or(alone) {
            let text = format!("{}: {text}", fault.name());
            breaches.push(Breach::of_all(Promise::OrderlyEnd, text));
        }
        report.add(fault, &outcome, recovery);
    }
}

/// How long it takes from now until a job is done (one of those that are open now or later), and
/// until every worker that the fault was about has begun a job.
async fn recovery(stage: &Stage, observer: &Observer, worker: Option<usize>) -> Recovery {
    let (begun, begun_ns) = (Instant::now(), boot_ns());
    let concerned = match worker {
        Some(worker) => &WORKERS[worker..=worker],
        None => &WORKERS[..],
    };
    let (mut done, mut claimed) = (None, None);
    let mut open: Vec<u64> = Vec::new();
    while begun.elapsed() < RECOVERY_LIMIT && (done.is_none() || claimed.is_none()) {
        if done.is_none()
            && let Some(now) = open_jobs(&stage.database.pool).await
        {
            if open.iter().any(|id| !now.contains(id)) {
                done = Some(begun.elapsed());
            }
            open = now;
        }
        let works = |worker: &&str| observer.last_begin(worker) > begun_ns;
        if claimed.is_none() && concerned.iter().all(works) {
            claimed = Some(begun.elapsed());
        }
        sleep(BETWEEN_LOOKS).await;
    }
    Recovery {
        done: done.unwrap_or(RECOVERY_LIMIT),
        claimed: claimed.unwrap_or(RECOVERY_LIMIT),
    }
}

/// Lets the applications rest and waits until every job is done.
async fn come_to_rest(stage: &Stage, load: &Load, observer: &Observer, breaches: &mut Vec<Breach>) {
    load.rest();
    let begun = Instant::now();
    loop {
        let open = open_jobs(&stage.database.pool).await;
        let done = open.as_ref().is_some_and(Vec::is_empty);
        if done && load.is_idle() && observer.running() == 0 {
            return;
        }
        if begun.elapsed() > LAST_JOBS_LIMIT {
            let open = open.unwrap_or_default();
            if open.is_empty() {
                let text = format!(
                    "after {LAST_JOBS_LIMIT:?} of rest {} jobs run, clients still wait: {}",
                    observer.running(),
                    !load.is_idle()
                );
                breaches.push(Breach::of_all(Promise::NothingLost, text));
            }
            let text = format!("is open after {LAST_JOBS_LIMIT:?} of rest");
            let of_job = |id: &u64| Breach::of_job(Promise::NothingLost, *id, text.clone());
            breaches.extend(open.iter().map(of_job));
            return;
        }
        sleep(BETWEEN_LOOKS).await;
    }
}

/// Waits until no row asks for a cancellation any more.
async fn requests_seen(stage: &Stage, breaches: &mut Vec<Breach>) {
    if stage.table == Table::Minimal {
        return;
    }
    let sql = "SELECT CAST(id AS UNSIGNED) AS id FROM jobs WHERE cancel_requested = 1";
    let begun = Instant::now();
    loop {
        let rows = sqlx::query(sql).fetch_all(&stage.database.pool).await;
        let ids = rows.map(|rows| rows.iter().map(|row| row.get("id")).collect::<Vec<u64>>());
        if ids.as_ref().is_ok_and(Vec::is_empty) {
            return;
        }
        if begun.elapsed() > REST_LIMIT {
            let text = format!("asks for a cancellation after {REST_LIMIT:?} of rest");
            let of_job = |id: u64| Breach::of_job(Promise::NothingLost, id, text.clone());
            breaches.extend(ids.unwrap_or_default().into_iter().map(of_job));
            return;
        }
        sleep(BETWEEN_LOOKS).await;
    }
}

/// Of the master and each worker.
async fn footprints(stage: &Stage) -> Vec<(&'static str, Option<Footprint>)> {
    let master = stage.master.lock().await.process.id();
    let mut found = vec![("master", Footprint::of(master))];
    for worker in &stage.workers {
        let worker = worker.lock().await;
        found.push((worker.name, Footprint::of(worker.daemon.process.id())));
    }
    found
}

async fn compare_footprints(
    stage: &Stage,
    base: &[(&'static str, Option<Footprint>)],
    breaches: &mut Vec<Breach>,
) {
    let begun = Instant::now();
    loop {
        let now = footprints(stage).await;
        let pairs = base.iter().zip(&now);
        let beyond: Vec<String> = pairs
            .filter_map(|((name, base), (_, now))| {
                let (Some(base), Some(now)) = (base, now) else {
                    return Some(format!("{name} does not run"));
                };
                now.beyond(base).map(|text| format!("{name}: {text}"))
            })
            .collect();
        if beyond.is_empty() {
            println!("at rest, before: {base:?}\nat rest, after: {now:?}");
            return;
        }
        if begun.elapsed() > REST_LIMIT {
            let new = beyond.into_iter();
            breaches.extend(new.map(|text| Breach::of_all(Promise::Footprint, text)));
            return;
        }
        sleep(BETWEEN_LOOKS).await;
    }
}

/// What the full table says beside.
async fn further(stage: &Stage) -> (BTreeMap<u64, Ownership>, Vec<u64>) {
    if stage.table == Table::Minimal {
        return (BTreeMap::new(), Vec::new());
    }
    let pool = &stage.database.pool;
    let sql = "SELECT CAST(id AS UNSIGNED) AS id FROM undone";
    let undone = sqlx::query(sql).fetch_all(pool).await;
    let undone = undone.expect("the table of the trigger");
    let undone = undone.iter().map(|row| row.get("id")).collect();
    (table::ownership(pool).await, undone)
}

/// SIGTERM to every daemon; each must end with 0.
async fn end_daemons(stage: &Stage, breaches: &mut Vec<Breach>) {
    for worker in &stage.workers {
        let mut worker = worker.lock().await;
        let status = worker.daemon.process.terminate().await;
        if !status.success() {
            let text = format!("{} at rest ended with {status}", worker.name);
            breaches.push(Breach::of_all(Promise::OrderlyEnd, text));
        }
    }
    let status = stage.master.lock().await.process.terminate().await;
    if !status.success() {
        let text = format!("the master ended with {status}");
        breaches.push(Breach::of_all(Promise::OrderlyEnd, text));
    }
}

fn print_breaches(breaches: &[Breach], seed: u64, options: &Options) {
    if breaches.is_empty() {
        return;
    }
    let mut shown: BTreeMap<Promise, usize> = BTreeMap::new();
    for breach in breaches {
        let count = shown.entry(breach.promise).or_default();
        *count += 1;
        if *count <= SHOWN {
            let job = breach
                .job
                .map(|id| format!("job {id} "))
                .unwrap_or_default();
            println!("BREACH {:?}: {job}{}", breach.promise, breach.text);
        }
    }
    let only = options.only.as_ref();
    println!(
        "{} breaches; again with: tests/chaos/run --minutes {} --seed {seed} --table {} --rate {}{}{}{}{}{}{}{}",
        breaches.len(),
        options.minutes,
        format!("{:?}", options.table).to_lowercase(),
        options.rate,
        only.map_or(String::new(), |only| format!(" --only '{only}'")),
        options
            .hold
            .map_or(String::new(), |hold| format!(" --hold {hold}")),
        if options.long_jobs {
            " --long-jobs"
        } else {
            ""
        },
        if options.galera { " --galera" } else { "" },
        if options.sqlite { " --sqlite" } else { "" },
        if options.crash_points {
            " --crash-points"
        } else {
            ""
        },
        std::env::var("JOBD_TEST_MYSQLD").map_or(String::new(), |path| format!(" --mysqld {path}")),
    );
}

/// Copies logs, the witness's file and what is known of the jobs in question to a folder that stays.
fn keep_evidence(
    stage: &Stage,
    seed: u64,
    breaches: &[Breach],
    rows: &BTreeMap<u64, Row>,
    runs: &[Run],
) -> PathBuf {
    let folder = programs::state_folder().join(format!("chaos-{seed}"));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("a folder for the evidence");
    for entry in std::fs::read_dir(stage.scratch.path())
        .expect("the scratch folder")
        .flatten()
    {
        if entry.path().is_file() {
            let _ = std::fs::copy(entry.path(), folder.join(entry.file_name()));
        }
    }
    if let Some(Ok(cluster)) = stage.cluster.as_ref().map(tokio::sync::Mutex::try_lock) {
        cluster.keep_messages(&folder);
    }
    let mut text = String::new();
    for breach in breaches {
        writeln!(text, "{breach:?}").expect("write to a string");
        if let Some(id) = breach.job {
            if let Some(mut row) = rows.get(&id).cloned() {
                for output in [&mut row.stdout, &mut row.stderr].into_iter().flatten() {
                    *output = output.chars().take(200).collect();
                }
                writeln!(text, "  {row:?}").expect("write to a string");
            }
            for run in runs.iter().filter(|run| run.id == id) {
                writeln!(text, "  {run:?}").expect("write to a string");
            }
        }
    }
    std::fs::write(folder.join("breaches.txt"), text).expect("write the evidence");
    folder
}
