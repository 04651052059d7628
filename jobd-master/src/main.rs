//! jobd-master: the one place of a cluster to poke and to look. Soft state only; nothing is lost
//! when it dies.
//!
//! - [`config`]: what it is told; [`daemon`]: bind, serve, drain;
//! - [`control`]: one handler per request; [`manual`], [`fan_out`], [`follow`]: those that ask workers;
//! - [`hub`]: the task that owns the state, which is in [`registry`], [`throttle`] and [`polls`];
//! - [`member`]: one worker to ask; [`merge`]: what several answers mean together.

mod cancel;
mod config;
mod control;
mod daemon;
mod fan_out;
mod follow;
#[cfg(test)]
mod histories;
mod hub;
mod manual;
mod member;
mod merge;
mod polls;
#[cfg(test)]
mod random;
mod registry;
mod throttle;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use config::Config;
use jobd_proto::daemon::logs;
use jobd_proto::daemon::reload::ConfigFile;
use jobd_proto::daemon::threads;
use jobd_proto::settings::Findings;
use tokio::runtime;

/// The exit code for a config that cannot be used, as in sysexits.h.
const EX_CONFIG: u8 = 78;

/// Threads that serve: one could carry a large cluster, the second keeps pokes quick while the
/// other one merges long outputs.
const THREADS: usize = 2;

/// Master of a jobd cluster: workers register with it, applications poke it.
#[derive(Debug, Parser)]
#[command(
    name = "jobd-master",
    version,
    after_help = "\
Examples:
  jobd-master --check-config                 report every mistake in /etc/jobd-master.conf
  jobd-master --config ./jobd-master.conf    serve until SIGTERM or SIGINT

SIGHUP: read the config again. SIGUSR1: open the log file anew.

Exit codes: 0 stopped as asked, 1 failed, 2 usage, 78 config not usable."
)]
struct Arguments {
    /// The config file.
    #[arg(long, value_name = "PATH", default_value = "/etc/jobd-master.conf")]
    config: PathBuf,
    /// Report every mistake of the config and exit with 0 or 78.
    #[arg(long)]
    check_config: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let reading = match config::read(&arguments.config) {
        Ok(read) => read,
        Err(error) => {
            eprintln!("jobd-master: {error}");
            return ExitCode::from(EX_CONFIG);
        }
    };
    if arguments.check_config {
        return report(&reading.findings);
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
    serve(config, &reading.findings, file)
}

/// `--check-config`: warnings count as mistakes here.
fn report(findings: &Findings) -> ExitCode {
    if findings.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("{findings}");
    ExitCode::from(EX_CONFIG)
}

fn serve(config: Config, findings: &Findings, file: ConfigFile<Config>) -> ExitCode {
    // Dropped last: it writes the last lines.
    let logs = match logs::start(&config.logs) {
        Ok(guard) => guard,
        Err(error) => {
            eprintln!("jobd-master: {error}");
            return ExitCode::from(EX_CONFIG);
        }
    };
    for (_, line) in findings.iter() {
        tracing::warn!("{line}");
    }
    let mut builder = runtime::Builder::new_multi_thread();
    let runtime = threads::runtime(builder.worker_threads(THREADS));
    let ended = match runtime {
        Ok(runtime) => {
            let ended = runtime.block_on(daemon::run(config, file, &logs));
            // Nothing that is left may hold up the end, a supervisor that does not read neither.
            runtime.shutdown_background();
            ended
        }
        Err(error) => Err(error.into()),
    };
    match ended {
        Ok(()) => {
            tracing::info!("stopped");
            ExitCode::SUCCESS
        }
        Err(error) => {
            tracing::error!("{error:#}");
            eprintln!("jobd-master: {error:#}");
            ExitCode::FAILURE
        }
    }
}
