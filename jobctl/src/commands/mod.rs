//! One file a command or a close family. Each asks, then shows; the number that `run` returns is
//! the exit code. The shapes of `--json` are the `Serialize` types here: keys may be added, none go.

mod add;
mod ask;
mod cancel;
pub(crate) mod completions;
mod doctor;
mod export;
mod follow;
mod ids;
mod live;
mod logs;
pub(crate) mod man;
mod memory;
mod outcome;
mod prune;
mod readings;
mod retry;
mod rows;
mod run;
mod run_manual;
mod scan;
mod send_signal;
mod stats;
mod status;
mod targets;
mod top;
mod view;
mod wait;
mod waiting;
mod workers;

use jobd_proto::master::MasterStatus;
use jobd_proto::table::{Filter, JobRow, Schema};
use jobd_proto::worker::WorkerStatus;
use serde::Serialize;
use serde_json::{Value, json};

use crate::cli::{Cli, Command};
use crate::client::Client;
use crate::database;
use crate::failure::Failure;
use crate::output::Screen;
use crate::settings::{Kind, Settings};

pub(crate) use rows::STATUSES;

/// What every command may look at.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    pub(crate) settings: Settings,
    pub(crate) screen: Screen,
    /// The daemon that the command cannot do without, even where the table is there.
    needs: Option<&'static str>,
    /// Whether the screen is one's own, and nothing else may be written to the terminal.
    pub(crate) quiet: bool,
}

impl Context {
    /// Resolves the arguments. A command that does not fit the kind of daemon ends here, before
    /// anybody is asked for a password.
    pub(crate) fn resolve(cli: &Cli) -> Result<Self, Failure> {
        let mut settings = Settings::resolve(cli)?;
        if let Some(command) = &cli.command {
            check_kind(command, settings.server.kind)?;
        }
        if cli.password {
            settings.ask_password()?;
        }
        Ok(Self {
            settings,
            screen: Screen::detect(cli.json),
            needs: cli.command.as_ref().and_then(needs),
            quiet: false,
        })
    }

    /// The same with the terminal for itself.
    fn quietly(&self) -> Self {
        Self {
            quiet: true,
            ..self.clone()
        }
    }

    /// The beginning of a command to the same daemon or table.
    fn jobctl(&self) -> String {
        self.settings.given.same()
    }

    fn kind(&self) -> Kind {
        self.settings.server.kind
    }

    async fn client(&self) -> Result<Client<'_>, Failure> {
        let connected = Client::connect(&self.settings, self.quiet).await;
        match (connected, self.needs) {
            (Err(failure), Some(needs)) if self.settings.database.is_some() => {
                let jobctl = self.jobctl();
                Err(failure.and(&format!(
                    "this needs {needs}, {jobctl} status shows what the table alone says"
                )))
            }
            (connected, _) => connected,
        }
    }
}

/// The answer to an order that was taken.
#[derive(Serialize)]
struct Done {
    ok: bool,
}

/// Carries out `command` until Ctrl-C.
pub(crate) async fn run_until_interrupted(
    command: Command,
    context: &Context,
) -> Result<u8, Failure> {
    // There Ctrl-C is a key, or there is something to be done after it.
    let hears_it = matches!(command, Command::Top { .. } | Command::Retry(_));
    let work = Box::pin(carry_out(command, context));
    if hears_it {
        return work.await;
    }
    until_interrupted(work).await
}

/// Does `work` until Ctrl-C. Work that has a word to say on it comes first.
async fn until_interrupted<T>(
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    tokio::select! {
        biased;
        done = work => done,
        _ = tokio::signal::ctrl_c() => Err(Failure::Interrupted("interrupted".to_owned())),
    }
}

/// The daemon that a command cannot do without, even where the table is there.
fn needs(command: &Command) -> Option<&'static str> {
    match command {
        Command::ListTargets
        | Command::Poll(_)
        | Command::AddTarget(_)
        | Command::RemoveTarget { .. } => Some("a worker"),
        Command::ListWorkers | Command::Poke(_) => Some("a master"),
        Command::MemoryUsage
        | Command::Pause(_)
        | Command::Continue(_)
        | Command::SetTargetConcurrency(_)
        | Command::Run(_)
        | Command::RunManual { .. }
        | Command::SendSignal(_)
        | Command::Follow(_) => Some("a worker or a master"),
        _ => None,
    }
}

async fn carry_out(command: Command, context: &Context) -> Result<u8, Failure> {
    match command {
        Command::Status(args) => status::run(context, args).await,
        Command::ListTargets => targets::list(context).await,
        Command::ListWorkers => workers::list(context).await,
        Command::MemoryUsage => memory::run(context).await,
        Command::Poll(args) => targets::order(context, "poll", args).await,
        Command::Poke(args) => targets::order(context, "poke", args).await,
        Command::Pause(args) => targets::order(context, "pause", args).await,
        Command::Continue(args) => targets::order(context, "continue", args).await,
        Command::SetTargetConcurrency(args) => targets::limit(context, args).await,
        Command::AddTarget(args) => targets::add(context, args).await,
        Command::RemoveTarget { target } => targets::remove(context, target).await,
        Command::RunManual { jobs } => run_manual::run(context, jobs).await,
        Command::Cancel(args) => cancel::run(context, args).await,
        Command::SendSignal(args) => send_signal::run(context, args).await,
        Command::Add(args) => add::run(context, args).await,
        Command::Run(args) => run::run(context, args).await,
        Command::List(args) => rows::list(context, args).await,
        Command::Show { id } => rows::show(context, id).await,
        Command::Logs(args) => logs::run(context, args).await,
        Command::Follow(args) => follow::run(context, args).await,
        Command::Wait(args) => wait::run(context, args).await,
        Command::Retry(args) => retry::run(context, args).await,
        Command::Stats(args) => stats::run(context, args).await,
        Command::Top { every } => top::run(context, every).await,
        Command::Doctor => doctor::run(context).await,
        Command::Export(args) => export::run(context, args).await,
        Command::Prune(args) => prune::run(context, args).await,
        Command::CreateTable { full } => {
            let schema = if full { Schema::Full } else { Schema::Minimal };
            rows::create_table(context, schema).await
        }
        Command::Completions { shell } => completions::run(shell),
        Command::Man { into } => man::run(into.as_deref()),
    }
}

fn check_kind(command: &Command, kind: Kind) -> Result<(), Failure> {
    const NONE: &str = "a master has no such command; ask each worker";
    let (name, instead) = match command {
        Command::ListTargets => ("list-targets", "list-workers, or status"),
        Command::Poll(_) => ("poll", "poke"),
        Command::AddTarget(_) => ("add-target", NONE),
        Command::RemoveTarget { .. } => ("remove-target", NONE),
        Command::ListWorkers => ("list-workers", "list-targets, or status"),
        Command::Poke(_) => ("poke", "poll"),
        _ => return Ok(()),
    };
    let wanted = match command {
        Command::ListWorkers | Command::Poke(_) => Kind::Master,
        _ => Kind::Worker,
    };
    if kind == wanted {
        return Ok(());
    }
    Err(Failure::Usage(match wanted {
        Kind::Master => format!("{name} is for a master: add --master (a worker knows {instead})"),
        Kind::Worker => {
            let instead = match instead {
                NONE => NONE.to_owned(),
                instead => format!("a master knows {instead}"),
            };
            format!(
                "{name} is for a worker: leave out --master, or add --worker if the config says master = 1 ({instead})"
            )
        }
    }))
}

/// What can be named of a worker.
pub(crate) struct Seen {
    pub(crate) name: String,
    pub(crate) address: String,
    pub(crate) targets: Vec<String>,
}

/// The workers that the daemon knows, for completion.
pub(crate) async fn workers_seen(context: &Context) -> Result<Vec<Seen>, Failure> {
    let workers = view::ask(context).await?.into_iter();
    let names = |targets: Vec<view::Target>| targets.into_iter().map(|target| target.name);
    let seen = workers.map(|worker| Seen {
        name: worker.name,
        address: worker.address,
        targets: names(worker.targets).collect(),
    });
    Ok(seen.collect())
}

/// The newest rows, for completion.
pub(crate) async fn newest(context: &Context) -> Result<Vec<JobRow>, Failure> {
    const ROWS: u32 = 30;
    let settings = database::settings(&context.settings)?;
    let mut table = database::open(settings).await?;
    let rows = table.list(&Filter::default(), ROWS).await;
    rows.map_err(|error| database::failure(settings, &error))
}

async fn worker_status(client: &Client<'_>) -> Result<WorkerStatus, Failure> {
    client.ask("status", Value::Null).await
}

async fn master_status(client: &Client<'_>, poll_workers: bool) -> Result<MasterStatus, Failure> {
    client
        .ask("status", json!({ "poll_workers": poll_workers }))
        .await
}
