//! The link to the master: connects, registers, serves what the master asks, and does it again,
//! for ever. A worker does its work whether or not there is a master.
//!
//! When the targets change, they are registered on a new connection, and the old one is closed
//! after its last answer: the original's master would list a worker twice that registered twice
//! on one.

use std::time::Duration;

use jobd_proto::codec::MAX_FRAME_WORKER;
use jobd_proto::master::MasterRequest;
use jobd_proto::{CallError, Connection, ConnectionOptions, Incoming, Secret, TargetName};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::control;
use crate::dispatcher::Handle;

/// How often the master is pinged; the original's master answers pings too, so a dead link is
/// noticed within three of these.
const PING_INTERVAL: Duration = Duration::from_secs(30);

/// A master that does not accept or answer a registration within this is tried again later.
const REGISTER_DEADLINE: Duration = Duration::from_secs(10);

/// Requests of the master in progress: each client of the master that waits for a manual job on
/// this worker is one. As many as a master may have clients, and more.
const MAX_PENDING: usize = 65_536;

/// Where the master is and how to register.
#[derive(Clone, Debug)]
pub struct MasterSettings {
    /// `master_host`.
    pub host: String,
    /// `master_port`.
    pub port: u16,
    /// `master_reconnect_timeout`.
    pub reconnect: Duration,
    /// `password`: a worker shows its own.
    pub password: Option<Secret>,
    /// `name`.
    pub name: String,
}

/// Keeps the worker registered until `shutdown` fires.
pub async fn run(settings: MasterSettings, dispatcher: Handle, shutdown: CancellationToken) {
    let mut served = dispatcher.served();
    let master = format!("{}:{}", settings.host, settings.port);
    let mut reachable = true;
    while !shutdown.is_cancelled() {
        match register(&settings, &mut served).await {
            Ok((connection, incoming)) => {
                tracing::info!(master, "registered with the master");
                reachable = true;
                let next = serve(
                    &settings,
                    &dispatcher,
                    &mut served,
                    &shutdown,
                    connection,
                    incoming,
                )
                .await;
                tracing::info!(master, reason = next, "link to the master ended");
            }
            Err(error) if reachable => {
                tracing::warn!(master, error, every = ?settings.reconnect, "cannot register with the master, trying again until it works");
                reachable = false;
            }
            Err(error) => tracing::debug!(master, error, "still cannot register with the master"),
        }
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = tokio::time::sleep(settings.reconnect) => {}
        }
    }
}

/// Serves a registered link until it ends, moving to a new connection when the targets change.
async fn serve(
    settings: &MasterSettings,
    dispatcher: &Handle,
    served: &mut watch::Receiver<Vec<TargetName>>,
    shutdown: &CancellationToken,
    mut connection: Connection,
    mut incoming: Incoming,
) -> String {
    loop {
        tokio::select! {
            request = incoming.next() => match request {
                Some(request) => control::serve(dispatcher, request),
                None => return connection.closed().await.to_string(),
            },
            changed = served.changed() => {
                if changed.is_err() {
                    return "worker is shutting down".to_owned();
                }
                match register(settings, served).await {
                    Ok((new_connection, new_incoming)) => {
                        tokio::spawn(finish(dispatcher.clone(), connection, incoming));
                        (connection, incoming) = (new_connection, new_incoming);
                    }
                    Err(error) => {
                        tokio::spawn(finish(dispatcher.clone(), connection, incoming));
                        return format!("cannot register changed targets: {error}");
                    }
                }
            }
            () = shutdown.cancelled() => {
                finish(dispatcher.clone(), connection, incoming).await;
                return "worker is shutting down".to_owned();
            }
        }
    }
}

/// Lets a connection go after the last answer that it owes.
async fn finish(dispatcher: Handle, connection: Connection, mut incoming: Incoming) {
    connection.close_when_idle();
    while let Some(request) = incoming.next().await {
        control::serve(&dispatcher, request);
    }
    connection.closed().await;
}

async fn register(
    settings: &MasterSettings,
    served: &mut watch::Receiver<Vec<TargetName>>,
) -> Result<(Connection, Incoming), String> {
    let targets = served.borrow_and_update().clone();
    let options = ConnectionOptions {
        max_frame: MAX_FRAME_WORKER,
        max_pending: MAX_PENDING,
        ping: Some(PING_INTERVAL),
        ..ConnectionOptions::default()
    };
    let (connection, incoming) =
        Connection::dial(&settings.host, settings.port, REGISTER_DEADLINE, options)
            .await
            .map_err(|error| error.to_string())?;
    let request = MasterRequest::RegisterWorker {
        name: settings.name.clone(),
        targets,
    };
    let asked = connection.request(request.kind(), request.data(), settings.password.as_ref());
    match tokio::time::timeout(REGISTER_DEADLINE, asked).await {
        Ok(Ok(_)) => Ok((connection, incoming)),
        Ok(Err(CallError::Refused(error))) => Err(format!("refused: {error}")),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!(
            "no answer within {} s",
            REGISTER_DEADLINE.as_secs()
        )),
    }
}
