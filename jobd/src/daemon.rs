//! Builds the worker's parts from a config, starts them, waits, and takes them down in order:
//! the dispatcher drains first, then the links and the port close.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use futures::FutureExt as _;
use jobd_proto::connection::ConnectionOptions;
use jobd_proto::daemon::limits;
use jobd_proto::daemon::logs::{self, LogGuard};
use jobd_proto::daemon::notify::{self, Heartbeat};
use jobd_proto::daemon::reload::{ConfigFile, keep};
use jobd_proto::daemon::signals::{Shutdown, UpkeepSignals};
use jobd_proto::daemon::threads;
use jobd_proto::listener::{self, ListenerOptions};
use jobd_proto::settings::{Findings, Listen};
use rustix::stdio::dup2_stdin;
use tokio::net::TcpListener;
use tokio::runtime;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::dispatcher::{Dispatcher, Handle, Settings};
use crate::host::{Host, Machine};
use crate::job::Tokens;
use crate::launcher::{Launcher, Payloads, keep_children};
use crate::ledger::JournalFile;
use crate::reports::Reports;
use crate::rescuer::Rescuer;
use crate::store::{Ability, Inspection, Store, StoreError};
use crate::{EX_CONFIG, config, control, guard, master_link, reload, store};

/// Between two looks for a table whose server cannot be reached yet.
const TABLE_PAUSE: Duration = Duration::from_secs(1);

/// Pokes on their way to the master: one a second comes at most, and one that gets lost costs `poll_interval`.
const MAX_POKES: usize = 16;

/// After the drain: for the last answers to reach their clients.
const CLOSING_TIME: Duration = Duration::from_secs(5);

/// Runs the worker until a signal has drained it.
pub fn run(config: &Config, findings: &Findings, file: ConfigFile<Config>) -> ExitCode {
    // Kept to the end: the log's last lines are written when it is dropped.
    let logs = match logs::start(&config.logs) {
        Ok(guard) => guard,
        Err(error) => {
            eprintln!("jobd: {error}");
            return ExitCode::from(EX_CONFIG);
        }
    };
    for (_, line) in findings.iter() {
        tracing::warn!("{line}");
    }
    let ended = threads::runtime(&mut runtime::Builder::new_current_thread())
        .context("cannot start the runtime")
        .and_then(|runtime| {
            let ended = runtime.block_on(serve(config, file, &logs));
            // A disk or a name server that hangs must not hold up the end.
            runtime.shutdown_timeout(CLOSING_TIME);
            ended
        });
    match ended {
        Ok(Ended::Drained) => ExitCode::SUCCESS,
        Ok(Ended::TableUnusable) => ExitCode::from(EX_CONFIG),
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Why the worker ended.
enum Ended {
    Drained,
    TableUnusable,
}

async fn serve(
    config: &Config,
    file: ConfigFile<Config>,
    logs: &LogGuard,
) -> anyhow::Result<Ended> {
    let open_files = limits::raise_open_files();
    keep_children().context("cannot wait for processes")?;
    let shutdown = Shutdown::on_signals().context("cannot handle signals")?;
    let upkeep = UpkeepSignals::new().context("cannot handle signals")?;
    let (host, port) = (&config.listen.host, config.listen.port);
    let port = listener::bind(host, port)
        .await
        .with_context(|| format!("cannot listen on {host}:{port}"))?;
    let address = port.local_addr()?;

    let tokens = Tokens::new(&config.name, &config.host_name, instance());
    let worker = tokens.worker().to_owned();
    let table = store::open(&config.database, config.lease);
    let rows = table.clone();
    let payloads: Payloads = Arc::new(move |job| {
        let rows = rows.clone();
        async move { rows.data(job).await }.boxed()
    });
    // What jobs inherit.
    let nothing = File::open("/dev/null").context("cannot open /dev/null")?;
    dup2_stdin(&nothing).context("cannot give up the standard input")?;
    let reports = Reports::start(table.clone());
    let inherited = std::env::vars_os();
    let launcher = Launcher::new(&config.per_target, inherited, &worker, payloads, reports);
    for warning in launcher.missing_programs() {
        tracing::warn!("{warning}");
    }
    let machine: Arc<dyn Host> = Arc::new(Machine);
    let heartbeat = Heartbeat::default();
    let _watchdog = notify::watchdog(heartbeat.clone());
    let (pokes, for_master) = mpsc::channel(MAX_POKES);
    let (dispatcher, handle) = Dispatcher::new(
        settings(config, pokes).context("cannot start threads")?,
        table.clone(),
        machine.clone(),
        Arc::new(launcher.clone()),
        tokens,
        heartbeat,
        shutdown.clone(),
    );

    let closing = CancellationToken::new();
    let (door, admitted) = watch::channel(listener_options(&config.listen));
    let clients = tokio::spawn(serve_clients(
        port,
        admitted,
        handle.clone(),
        closing.clone(),
    ));
    let (master, wanted) = watch::channel(config.master.clone());
    // A draining worker takes nothing new from its master either.
    let link = tokio::spawn(master_link::run(
        wanted,
        for_master,
        machine.clone(),
        handle.clone(),
        shutdown.drain.clone(),
    ));
    let mut keeper = reload::Keeper {
        name: config.name.clone(),
        targets: config.targets.clone(),
        launcher,
        dispatcher: handle.clone(),
        door,
        master,
    };
    tracing::info!(%address, worker, targets = config.targets.len(), open_files, "listening");
    notify::ready(&format!(
        "listening on {address}, {} targets",
        config.targets.len()
    ));

    let rescue = Rescue {
        host: machine,
        lease: config.lease,
        own: worker.clone(),
        until: closing.clone(),
    };
    let lock = state_file(config, "lock");
    let inspection = tokio::spawn(async move {
        // Nothing is claimed before there is a table.
        if let Some(lock) = lock {
            guard::sign(lock, worker).await;
        }
        await_table(table, handle, rescue).await
    });
    let unusable = Arc::new(AtomicBool::new(false));
    tokio::spawn({
        let (unusable, drain) = (unusable.clone(), shutdown.drain.clone());
        async move {
            if !inspection.await.unwrap_or(false) {
                unusable.store(true, Ordering::Relaxed);
                drain.cancel();
            }
        }
    });
    let kept = keep(
        file,
        logs,
        |config| &config.logs,
        upkeep,
        async |config| keeper.apply(config).await,
    );
    let mut work = tokio::spawn(dispatcher.run());
    let drained = tokio::select! {
        drained = &mut work => drained,
        never = kept => match never {},
    };
    let drained = drained.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
    closing.cancel();
    let last_answers = async {
        let _ = clients.await;
        let _ = link.await;
    };
    if tokio::time::timeout(CLOSING_TIME, last_answers)
        .await
        .is_err()
    {
        tracing::warn!("some clients did not take their last answers in time");
    }
    drained?;
    tracing::info!("stopped");
    let unusable = unusable.load(Ordering::Relaxed);
    Ok(if unusable {
        Ended::TableUnusable
    } else {
        Ended::Drained
    })
}

fn settings(config: &Config, pokes: mpsc::Sender<Vec<String>>) -> io::Result<Settings> {
    let journal = state_file(config, "journal").map(JournalFile::new);
    Ok(Settings {
        limits: reload::limits(config),
        per_target: config.per_target.clone(),
        targets: config.targets.clone(),
        lease: config.lease,
        lock: state_file(config, "lock"),
        journal: journal.transpose()?,
        name: config.name.clone(),
        pokes,
    })
}

/// A file of this worker's name in `state_dir`.
fn state_file(config: &Config, kind: &str) -> Option<PathBuf> {
    let folder = config.state_dir.as_ref()?;
    Some(config::state_file(folder, &config.name, kind))
}

/// How clients are treated.
pub fn listener_options(listen: &Listen) -> ListenerOptions {
    ListenerOptions {
        access: listen.access.clone(),
        max_connections: listen.max_connections,
        connection: ConnectionOptions {
            half_close: true,
            ..ConnectionOptions::default()
        },
    }
}

async fn serve_clients(
    port: TcpListener,
    options: watch::Receiver<ListenerOptions>,
    handle: Handle,
    closing: CancellationToken,
) {
    listener::run(port, options, closing, move |mut session| {
        let handle = handle.clone();
        async move {
            while let Some(request) = session.next().await {
                control::serve(&handle, request);
            }
        }
    })
    .await;
}

/// What the rescuer needs, once the table is seen.
pub(crate) struct Rescue {
    pub(crate) host: Arc<dyn Host>,
    pub(crate) lease: Duration,
    pub(crate) own: String,
    pub(crate) until: CancellationToken,
}

/// Looks at the table until its server answers; `false` where the table is not fit to work on.
pub(crate) async fn await_table(table: Arc<dyn Store>, handle: Handle, rescue: Rescue) -> bool {
    let mut reachable = true;
    loop {
        match table.inspect().await {
            Ok(inspection) => {
                let ownership = inspection.abilities.has(Ability::Ownership);
                let fit = report(inspection, &handle);
                if fit {
                    let Rescue {
                        host,
                        lease,
                        own,
                        until,
                    } = rescue;
                    let rescuer = Rescuer {
                        store: table,
                        host,
                        lease,
                        ownership,
                        own,
                        worker: handle,
                    };
                    tokio::spawn(rescuer.run(until));
                }
                return fit;
            }
            Err(StoreError::Refused(error)) => {
                tracing::error!(error, "the database refused to show the table");
                return false;
            }
            Err(error) if reachable => {
                tracing::error!(%error, "cannot reach the database yet, trying again until it works");
                reachable = false;
                handle.table_seen(None);
            }
            Err(error) => tracing::debug!(%error, "still cannot reach the database"),
        }
        tokio::time::sleep(TABLE_PAUSE).await;
    }
}

fn report(inspection: Inspection, handle: &Handle) -> bool {
    for problem in &inspection.problems {
        if problem.fatal {
            tracing::error!("{problem}");
        } else {
            tracing::warn!("{problem}");
        }
    }
    if inspection.is_fatal() {
        return false;
    }
    tracing::info!(
        server = inspection.server,
        abilities = %inspection.abilities,
        "table inspected"
    );
    handle.table_seen(Some(inspection));
    true
}

/// A number that no other run of this worker on this host has: boot-wide time of start and process id.
fn instance() -> u64 {
    let since_1970 = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    let ms = u64::try_from(since_1970.as_millis()).unwrap_or(0);
    // 44 bits of milliseconds last until the year 2527; process ids have at most 22 bits, and two runs within
    // a millisecond differ in the lower 20 of them.
    (ms << 20) | u64::from(std::process::id() & 0xF_FFFF)
}
