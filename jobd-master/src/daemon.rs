//! The running master: bind, serve, drain. Decides nothing about requests.

use std::time::Duration;

use anyhow::Context;
use jobd_proto::daemon::limits;
use jobd_proto::daemon::logs::LogGuard;
use jobd_proto::daemon::notify::{self, Heartbeat};
use jobd_proto::daemon::reload::{ConfigFile, keep};
use jobd_proto::daemon::signals::{Shutdown, UpkeepSignals};
use jobd_proto::listener::{self, ListenerOptions};
use jobd_proto::settings::Listen;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::control::Control;
use crate::hub;
use crate::member::DEADLINE;

/// How long requests that wait for workers may go on after a signal: those with a deadline end
/// by themselves within it. Then manual runs are answered with what is known.
const DRAIN: Duration = DEADLINE.saturating_add(Duration::from_millis(500));

/// How long the last answers may take to be written after that.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// Serves until SIGTERM or SIGINT, then answers what is pending.
///
/// # Errors
/// The address cannot be bound, or a part of ours has failed.
pub async fn run(config: Config, file: ConfigFile<Config>, logs: &LogGuard) -> anyhow::Result<()> {
    let open_files = limits::raise_open_files();
    let shutdown = Shutdown::on_signals().context("cannot handle signals")?;
    let upkeep = UpkeepSignals::new().context("cannot handle signals")?;
    let listen = &config.listen;
    let address = format!("{}:{}", listen.host, listen.port);
    let listener = listener::bind(&listen.host, listen.port)
        .await
        .with_context(|| format!("cannot listen on {address}: check host and port"))?;

    let heartbeat = Heartbeat::default();
    notify::watchdog(heartbeat.clone());
    let (owner, hub) = hub::new(
        hub::Intervals::of(&config),
        heartbeat,
        shutdown.drain.clone(),
    );
    let mut owner = tokio::spawn(owner.run());
    let stopping = CancellationToken::new();
    let control = Control::new(hub.clone(), stopping.clone(), shutdown.drain.clone());

    let address = listener.local_addr().context("cannot tell the address")?;
    tracing::info!(
        %address,
        password = listen.access.password.is_some(),
        max_connections = listen.max_connections,
        open_files,
        ping_interval = ?config.ping_interval,
        poke_throttle_interval = ?config.poke_throttle_interval,
        "jobd-master {} listens",
        env!("CARGO_PKG_VERSION"),
    );
    let (door, admitted) = watch::channel(listener_options(config.listen));
    let serving = tokio::spawn(listener::run(
        listener,
        admitted,
        shutdown.drain.clone(),
        move |session| control.clone().serve(session),
    ));
    notify::ready(&hub::summary(0, 0));
    let of_reload = hub.clone();
    let kept = keep(
        file,
        logs,
        |config| &config.logs,
        upkeep,
        async |config| {
            of_reload.set_intervals(hub::Intervals::of(&config)).await?;
            door.send_replace(listener_options(config.listen));
            Ok(Vec::new())
        },
    );

    tokio::select! {
        () = shutdown.drain.cancelled() => {}
        never = kept => match never {},
        ended = &mut owner => anyhow::bail!("the registry has stopped: {ended:?}"),
    }
    notify::stopping("answering what is pending");
    tokio::select! {
        () = shutdown.now.cancelled() => {}
        () = drain(serving, &stopping) => {}
    }
    // Until here, so that the hub ends before the sessions only by a bug of ours.
    drop(hub);
    Ok(())
}

/// How clients are treated.
pub fn listener_options(listen: Listen) -> ListenerOptions {
    ListenerOptions {
        access: listen.access,
        max_connections: listen.max_connections,
        ..ListenerOptions::default()
    }
}

async fn drain(mut serving: tokio::task::JoinHandle<()>, stopping: &CancellationToken) {
    if tokio::time::timeout(DRAIN, &mut serving).await.is_ok() {
        return;
    }
    stopping.cancel();
    if tokio::time::timeout(LAST_ANSWERS, serving).await.is_err() {
        tracing::warn!("some clients did not take their last answers");
    }
}
