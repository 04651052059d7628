//! `--check-config`: every mistake of the config and of the table, at once, for people and for
//! scripts. It changes nothing.

use std::process::ExitCode;
use std::sync::Arc;

use futures::FutureExt as _;
use jobd_proto::settings::Reading;
use tokio::runtime;

use crate::EX_CONFIG;
use crate::config::{self, Config};
use crate::launcher::{Launcher, Payloads};
use crate::reports::Reports;
use crate::store::{self, StoreError};

/// Prints what is wrong and says with its exit code whether anything is.
pub fn run(reading: &Reading<Config>) -> ExitCode {
    let Reading {
        config, findings, ..
    } = reading;
    if !findings.is_empty() {
        println!("{findings}");
    }
    let mut sound = findings.is_empty();
    if let Some(config) = config {
        let nothing: Payloads = Arc::new(|_| async { Ok(None) }.boxed());
        let launcher = Launcher::new(
            &config.per_target,
            std::env::vars_os(),
            "",
            nothing,
            Reports::nowhere(),
        );
        for warning in launcher.missing_programs() {
            println!("warning: {warning}");
        }
        for line in config::own_settings(&reading.file) {
            println!("{line}");
        }
        sound &= check_table(config);
    } else {
        println!("the table was not looked at: mend the config first");
    }
    if sound {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(EX_CONFIG)
    }
}

fn check_table(config: &Config) -> bool {
    let table = store::open(&config.database, config.lease);
    let runtime = match runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            println!("cannot start the runtime: {error}");
            return false;
        }
    };
    let inspection = match runtime.block_on(table.inspect()) {
        Ok(inspection) => inspection,
        Err(StoreError::Unavailable(error)) => {
            println!("the database cannot be reached: {error}");
            return false;
        }
        Err(error) => {
            println!("{error}");
            return false;
        }
    };
    for problem in &inspection.problems {
        println!(
            "{}: {}",
            if problem.fatal { "error" } else { "warning" },
            problem.text
        );
        if let Some(ddl) = &problem.ddl {
            println!("  {ddl}");
        }
    }
    if !inspection.is_fatal() {
        println!(
            "table: {}, {}; {} targets",
            inspection.server,
            inspection.abilities,
            config.targets.len()
        );
    }
    !inspection.is_fatal()
}
