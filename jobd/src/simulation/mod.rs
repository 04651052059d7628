//! Short histories of workers, a table and processes, in simulated time, each from a seed.
//!
//! ```text
//!   plan ──> agenda ──> world ──┬── worker: the real dispatcher, ledger, rescuer, store, statements
//!              ^ events         ├── server: connections, transactions, faults; the table of store::model
//!              └────────────────┴── processes, guards, clocks
//! ```
//!
//! Only what lies outside of jobd is played: the server, the machine, the processes. After every
//! event the `witness` checks what jobd promises. A history that breaks it is made as short as it can be, and printed with
//! its seed and all that happens in it; `JOBD_TEST_SEED=N cargo test -p jobd simulation::` repeats it.
//! `JOBD_HISTORIES=N` runs so many of them, all kinds together.

mod agenda;
mod plan;
mod random;
mod server;
mod site;
mod witness;
mod world;

use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Once};
use std::time::Duration;

use self::plan::{Kind, LEASE, Plan};
use self::world::World;
use crate::store::model::Schema;

/// Histories of one kind among the other tests; there are four kinds. They begin with seed 1: what
/// fails there comes from a change. `tests/simulation` runs more of them, from a new seed.
const HISTORIES: u64 = 1_000;

/// The tables, in the order minimal, full; without and with SKIP LOCKED.
struct Schemas([Arc<Schema>; 4]);

impl Schemas {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let create = [
            include_str!("../../../sql/sqlite/jobs-minimal.sql"),
            include_str!("../../../sql/sqlite/jobs.sql"),
        ];
        let lease = Duration::from_micros(LEASE);
        Self(std::array::from_fn(|at| {
            Arc::new(runtime.block_on(Schema::new(create[at / 2], at % 2 == 1, lease)))
        }))
    }

    fn of(&self, plan: &Plan) -> Arc<Schema> {
        self.0[usize::from(!plan.minimal) * 2 + usize::from(plan.skip_locked)].clone()
    }
}

thread_local! {
    /// What the last panic of this thread's history has said.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Keeps the words of panics, those of tasks too, which the runtime catches.
fn keep_panics() {
    static KEPT: Once = Once::new();
    KEPT.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            PANIC.set(Some(panic.to_string()));
            before(panic);
        }));
    });
}

/// What became of a history: how many events it had, or what it broke. A panic of ours is a breach too, in a task as well.
fn happen(plan: &Plan, schemas: &Schemas, loud: bool) -> Result<u64, String> {
    keep_panics();
    PANIC.take();
    let world = AssertUnwindSafe(|| World::new(plan, schemas.of(plan), loud).run());
    let outcome = catch_unwind(world);
    match PANIC.take() {
        Some(words) => Err(words),
        None => outcome.expect("a panic has words"),
    }
}

/// Leaves out what is not needed for a breach.
fn shorten(mut plan: Plan, schemas: &Schemas) -> Plan {
    let mut at = plan.deeds.len();
    while at > 0 {
        at -= 1;
        let mut shorter = plan.clone();
        shorter.deeds.remove(at);
        if happen(&shorter, schemas, false).is_err() {
            plan = shorter;
            at = at.min(plan.deeds.len());
        }
    }
    plan
}

fn histories(kind: Kind) {
    let number = |name| {
        std::env::var(name)
            .ok()
            .and_then(|text: String| text.parse::<u64>().ok())
    };
    let schemas = Schemas::new();
    let given = number("JOBD_TEST_SEED");
    let first = given.unwrap_or(1);
    let usual = if given.is_some() { 1 } else { HISTORIES };
    let count = number("JOBD_HISTORIES").map_or(usual, |all| all / 4);
    println!("{count} histories, the first has seed {first}");
    let began = std::time::Instant::now();
    let mut events = 0;
    for seed in first..first + count {
        match happen(&Plan::new(seed, kind), &schemas, false) {
            Ok(more) => events += more,
            Err(breach) => fail(seed, kind, seed - first, &breach, &schemas),
        }
    }
    println!("{events} events in {:?}", began.elapsed());
}

fn fail(seed: u64, kind: Kind, before: u64, breach: &str, schemas: &Schemas) -> ! {
    let plan = shorten(Plan::new(seed, kind), schemas);
    println!("{plan:#?}");
    let last = happen(&plan, schemas, true);
    panic!(
        "{breach}\nshortened: {last:?}\nhistory {before} of this run; repeat it with JOBD_TEST_SEED={seed}, kind {kind:?}"
    );
}

#[test]
fn histories_with_every_fault() {
    histories(Kind::Everything);
}

#[test]
fn histories_of_workers_that_die_freeze_or_are_cut_off() {
    histories(Kind::Workers);
}

#[test]
fn histories_of_a_database_that_fails() {
    histories(Kind::Database);
}

#[test]
fn histories_on_the_minimal_table() {
    histories(Kind::Minimal);
}
