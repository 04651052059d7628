//! `jobctl`: the job queue in the hands of a person or a script.
//!
//! Raw arguments (`cli`) become resolved settings (`settings`), the command runs (`commands`) over
//! the wire (`client`) or on the table (`database`) and shows what it found (`output`). Exits only
//! here: 0 ok, 1 refused or failed, 2 usage, 3 not reachable, 130 after Ctrl-C; `run` and `follow`, and `wait` and
//! `add --wait` of one job, end as it did.

mod cli;
mod client;
mod commands;
mod database;
mod failure;
mod given;
mod output;
mod settings;
mod shell;
mod signals;

use std::process::ExitCode;

use cli::Cli;
use commands::Context;
use failure::Failure;

fn main() -> ExitCode {
    let words = std::env::args_os().skip(1);
    let words: Vec<String> = words.map(|word| word.to_string_lossy().into()).collect();
    if let Some((shell::offer::ASKED, line)) = words.split_first().map(|(a, b)| (a.as_str(), b)) {
        return offer(line);
    }
    let cli = Cli::read(std::env::args_os()).unwrap_or_else(|error| error.exit());
    match run(cli) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            output::complain(&format!("jobctl: {failure}"));
            ExitCode::from(failure.exit_code())
        }
    }
}

/// For a completion script: quick and without a word.
fn offer(line: &[String]) -> ExitCode {
    if let Ok(runtime) = runtime() {
        runtime.block_on(shell::offer::run(line));
        runtime.shutdown_background();
    }
    ExitCode::SUCCESS
}

/// One connection and one question at a time need no worker threads.
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build()
}

fn run(cli: Cli) -> Result<u8, Failure> {
    match &cli.command {
        Some(cli::Command::Completions { shell }) => return commands::completions::run(*shell),
        Some(cli::Command::Man { into }) => return commands::man::run(into.as_deref()),
        _ => {}
    }
    let cannot = |error| Failure::Refused(format!("cannot start: {error}"));
    let runtime = runtime().map_err(cannot)?;
    let context = {
        // Signals are caught while a password is asked for.
        let _inside = runtime.enter();
        Context::resolve(&cli)?
    };
    output::start_log(context.settings.log_level);
    let ended = runtime.block_on(carry_out(cli, &context));
    // Somebody may still be asked something, and will not answer.
    runtime.shutdown_background();
    ended
}

async fn carry_out(cli: Cli, context: &Context) -> Result<u8, Failure> {
    match cli.command {
        Some(command) => commands::run_until_interrupted(command, context).await,
        // Ctrl-C ends a line of the shell, not the shell.
        None => shell::run(context, &cli).await,
    }
}
