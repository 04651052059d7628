//! The scenarios, and a run of some of them. Each page answers one question.

use std::time::Instant;

use sqlx::Row as _;

use super::check;
use super::machine::Machine;
use super::options::Options;
use super::plot;
use super::results::Results;
use super::stage::Stage;
use crate::template::Flavour;

mod alternatives;
mod backlog;
mod concurrency;
mod hosts;
mod idle;
mod latency;
mod targets;
mod throughput;
mod workers;

/// A question and its page.
struct Scenario {
    name: &'static str,
    about: &'static str,
    /// Whether the short form asks it too.
    quick: bool,
}

const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "throughput",
        about: "jobs a second of one worker with 10 slots, and the CPU time of a job, beside the kernel's \
                spawn ceiling and raw batched updates",
        quick: true,
    },
    Scenario {
        name: "concurrency",
        about: "jobs a second with 1 to 50 slots, beside the spawn ceiling with as many processes at a time",
        quick: false,
    },
    Scenario {
        name: "backlog",
        about: "pace and claim time with up to 10 million rows waiting or done, and with a transaction open",
        quick: true,
    },
    Scenario {
        name: "latency",
        about: "from poke to a job's first instruction, from its last to its client's answer, idle and busy",
        quick: true,
    },
    Scenario {
        name: "workers",
        about: "1 to 16 workers on one target, and the deadlocks among them",
        quick: true,
    },
    Scenario {
        name: "targets",
        about: "a worker with 1,000 targets",
        quick: false,
    },
    Scenario {
        name: "hosts",
        about: "a master with 2,000 registered workers: fan-out of a poke, status, memory",
        quick: true,
    },
    Scenario {
        name: "clients",
        about: "a master with 5,000 clients that poke at once",
        quick: true,
    },
    Scenario {
        name: "idle",
        about: "CPU time, wake-ups and memory of an idle worker, and with 10,000 jobs queued",
        quick: true,
    },
    Scenario {
        name: "alternatives",
        about: "the same jobs by xargs -P, Gearman and GNU parallel --sqlworker",
        quick: false,
    },
];

/// Runs what `options` ask for; whether everything was measured and, if asked, nothing got worse.
pub async fn run(options: &Options) -> bool {
    if options.list {
        for scenario in SCENARIOS {
            println!("{:<14} {}", scenario.name, scenario.about);
        }
        return true;
    }
    let machine = machine().await;
    eprintln!("{}", machine.sentence());
    if let Some(warning) = machine.warning() {
        eprintln!("warning: {warning}");
    }
    let mut results = Results::default();
    for scenario in chosen(options) {
        let begun = Instant::now();
        eprintln!("{}: {}", scenario.name, scenario.about);
        match scenario.name {
            "throughput" => throughput::measure(options, &mut results).await,
            "backlog" => backlog::measure(options, &mut results).await,
            "concurrency" => concurrency::measure(options, &mut results).await,
            "latency" => latency::measure(options, &mut results).await,
            "hosts" => hosts::measure_workers(options, &mut results).await,
            "clients" => hosts::measure_clients(options, &mut results).await,
            "idle" => idle::measure(options, &mut results).await,
            "targets" => targets::measure(options, &mut results).await,
            "workers" => workers::measure(options, &mut results).await,
            "alternatives" => alternatives::measure(options, &mut results).await,
            other => unreachable!("{other} stands in the list"),
        }
        eprintln!("  ({:.0} s)", begun.elapsed().as_secs_f64());
    }
    println!("{}", results.markdown(&machine));
    let json = results.json(&machine, options.quick);
    if let Some(file) = &options.json {
        let text = serde_json::to_string_pretty(&json).expect("JSON");
        std::fs::write(file, text + "\n").expect("write the results");
    }
    if let Some(folder) = &options.plots {
        plot::write_all(&results, folder);
    }
    !options.check || check::of_results(&json, options)
}

/// A scenario's name, for the command line.
pub fn known(name: &str) -> Result<String, String> {
    if SCENARIOS.iter().any(|scenario| scenario.name == name) {
        Ok(name.to_owned())
    } else {
        Err("no such scenario: see tests/bench/run --list".to_owned())
    }
}

/// The scenarios that were named, or all of this form.
fn chosen(options: &Options) -> impl Iterator<Item = &'static Scenario> {
    SCENARIOS.iter().filter(|scenario| {
        if options.names.is_empty() {
            !options.quick || scenario.quick
        } else {
            options.names.iter().any(|name| name == scenario.name)
        }
    })
}

async fn machine() -> Machine {
    let stage = Stage::start().await;
    let mut connection = stage.server.connection().await;
    let row = sqlx::query("SELECT VERSION() AS version")
        .fetch_one(&mut connection)
        .await;
    let version: String = row.expect("the server's version").get("version");
    let family = match stage.server.flavour() {
        Flavour::MariaDb => "MariaDB",
        Flavour::MySql => "MySQL",
    };
    let name = format!("{family} {}", version.split('-').next().unwrap_or(&version));
    Machine::describe(&name, stage.server.data())
}
