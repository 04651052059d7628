//! `jobd`, the worker: claims rows of a table by target, runs a command for each, writes back how
//! it ended. See docs/ARCHITECTURE.md for the map.

mod check;
mod clock;
mod config;
mod control;
mod daemon;
mod dispatcher;
mod fate;
mod faults;
mod follow;
mod guard;
mod host;
mod jitter;
mod job;
mod launcher;
mod leases;
mod ledger;
mod marked;
mod master_link;
mod per_target;
mod reload;
mod reports;
mod rescuer;
mod shim;
#[cfg(test)]
mod simulation;
mod store;
mod targets;
mod waiters;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use jobd_proto::daemon::reload::ConfigFile;

/// The exit code for a config that cannot be used (EX_CONFIG of sysexits.h).
const EX_CONFIG: u8 = 78;

/// Worker of the jobd job queue: claims rows from a MySQL table and runs a command for each.
#[derive(Debug, Parser)]
#[command(
    name = "jobd",
    version,
    after_help = "\
Examples:
  jobd --check-config                    read /etc/jobd.conf, look at the table, report every mistake
  jobd --config /etc/jobd/mail.conf      start a worker with another config

SIGTERM or SIGINT: claim nothing more, let running jobs end, write everything, exit 0.
A second one stops the jobs at once.
SIGHUP: read the config again; running jobs are not touched. SIGUSR1: open the log file anew.

Exit codes: 0 stopped as asked, 1 failed, 2 usage, 78 config or table not usable."
)]
struct Arguments {
    /// The config file.
    #[arg(long, value_name = "FILE", default_value = "/etc/jobd.conf")]
    config: PathBuf,
    /// Report every mistake of the config and the table, and exit with 0 or 78.
    #[arg(long)]
    check_config: bool,
    /// Be the guard of that worker's jobs; jobd starts it itself.
    #[arg(long, value_name = "WORKER", hide = true)]
    guard: Option<String>,
    /// The lock that the guard holds.
    #[arg(long, value_name = "FILE", hide = true)]
    guard_lock: Option<PathBuf>,
    /// Become a job's program; jobd starts itself so for targets that set a user, limits and the like.
    #[arg(long, value_name = "SETUP", hide = true)]
    launch: Option<String>,
    /// That program and its arguments.
    #[arg(last = true, hide = true)]
    command: Vec<OsString>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(worker) = &arguments.guard {
        return guard::run(worker, arguments.guard_lock.as_deref());
    }
    if let Some(setup) = &arguments.launch {
        return shim::run(setup, &arguments.command);
    }
    let reading = match config::read(&arguments.config) {
        Ok(read) => read,
        Err(error) => {
            eprintln!("jobd: {error}");
            return ExitCode::from(EX_CONFIG);
        }
    };
    if arguments.check_config {
        return check::run(&reading);
    }
    let Some(config) = reading.config else {
        eprintln!("{}", reading.findings);
        return ExitCode::from(EX_CONFIG);
    };
    let file = ConfigFile::new(
        &arguments.config,
        reading.file,
        config::read,
        config::needs_restart,
    );
    daemon::run(&config, &reading.findings, file)
}
