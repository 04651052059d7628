//! The link to the master: connects, registers, serves what the master asks, and does it again,
//! for ever. A worker does its work whether or not there is a master.
//!
//! When the targets or the master change, the worker registers on a new connection while the old one is
//! still served, and then closes the old one after its last answer: the original's master would list a
//! worker twice that registered twice on one.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use jobd_proto::codec::MAX_FRAME_WORKER;
use jobd_proto::connection::IncomingRequest;
use jobd_proto::master::MasterRequest;
use jobd_proto::{CallError, Connection, ConnectionOptions, Incoming, Secret, TargetName, Targets};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::control;
use crate::dispatcher::Handle;
use crate::host::Host;
use crate::jitter::Pauses;

/// A master that does not accept or answer a registration within this is tried again later.
const REGISTER_DEADLINE: Duration = Duration::from_secs(10);

/// Requests of the master in progress: each client of the master that waits for a manual job on
/// this worker is one. As many as a master may have clients, and more.
const MAX_PENDING: usize = 65_536;

/// Where the master is and how to register.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MasterSettings {
    /// `master_host`.
    pub host: String,
    /// `master_port`.
    pub port: u16,
    /// `master_reconnect_timeout`.
    pub reconnect: Duration,
    /// `master_ping_interval`: a master that says nothing for three of these is gone.
    pub ping: Duration,
    /// `password`: a worker shows its own.
    pub password: Option<Secret>,
    /// `name`.
    pub name: String,
}

/// A registered connection.
type Registered = (Connection, Incoming);

/// A try to register, after its pause; run by the loop beside everything else.
type Try = BoxFuture<'static, Result<Registered, String>>;

/// Keeps the worker registered with the master of the moment until `shutdown` fires.
pub async fn run(
    master: watch::Receiver<Option<MasterSettings>>,
    pokes: mpsc::Receiver<Vec<String>>,
    host: Arc<dyn Host>,
    dispatcher: Handle,
    shutdown: CancellationToken,
) {
    let link = Link {
        master,
        pokes,
        host,
        served: dispatcher.served(),
        dispatcher,
        registered: None,
        trying: None,
        stale: true,
        pause: Duration::ZERO,
        pauses: Pauses::default(),
        reachable: true,
    };
    link.run(shutdown).await;
}

struct Link {
    host: Arc<dyn Host>,
    master: watch::Receiver<Option<MasterSettings>>,
    /// Targets of other workers that rows are waiting for.
    pokes: mpsc::Receiver<Vec<String>>,
    served: watch::Receiver<Vec<TargetName>>,
    dispatcher: Handle,
    /// Served until the next one is registered.
    registered: Option<Registered>,
    trying: Option<Try>,
    /// What is registered is not what should be.
    stale: bool,
    /// Before the next try.
    pause: Duration,
    pauses: Pauses,
    /// The last try succeeded: the next failure is news.
    reachable: bool,
}

impl Link {
    async fn run(mut self, shutdown: CancellationToken) {
        loop {
            if self.stale && self.trying.is_none() {
                self.begin_try();
            }
            tokio::select! {
                request = next(&mut self.registered) => match request {
                    Some(request) => control::serve(&self.dispatcher, request),
                    None => self.ended().await,
                },
                // Those that come while there is no link wait for it, as many as the channel holds.
                Some(targets) = self.pokes.recv(), if self.registered.is_some() => self.poke(targets),
                tried = outcome(&mut self.trying) => self.tried(tried),
                alive = changed(&mut self.master, &mut self.served) => {
                    if !alive {
                        break;
                    }
                    // What is being registered is out of date already.
                    self.trying = None;
                    (self.stale, self.pause) = (true, Duration::ZERO);
                }
                () = shutdown.cancelled() => break,
            }
        }
        if let Some(last) = self.registered {
            finish(self.dispatcher, last).await;
        }
    }

    /// Tells the master of rows that are waiting. What gets lost, whoever serves them finds by himself.
    fn poke(&self, targets: Vec<String>) {
        if let Some((connection, _)) = &self.registered {
            let connection = connection.clone();
            let request = MasterRequest::Poke(Targets::Named(targets));
            tokio::spawn(async move {
                let asked = connection.request(request.kind(), request.data(), None);
                if let Ok(Err(error)) = tokio::time::timeout(REGISTER_DEADLINE, asked).await {
                    tracing::debug!(%error, "the master does not take a poke");
                }
            });
        }
    }

    fn begin_try(&mut self) {
        self.stale = false;
        let master = self.master.borrow_and_update().clone();
        let targets = self.served.borrow_and_update().clone();
        // A master takes no worker without targets.
        let Some(master) = master.filter(|_| !targets.is_empty()) else {
            return self.let_go();
        };
        let pause = self.pause;
        let tries = async move {
            tokio::time::sleep(pause).await;
            register(&master, targets).await
        };
        self.trying = Some(tries.boxed());
    }

    fn tried(&mut self, tried: Result<Registered, String>) {
        self.trying = None;
        let master = self.address();
        match tried {
            Ok(registered) => {
                tracing::info!(master, "registered with the master");
                self.let_go();
                self.registered = Some(registered);
                self.pauses.succeeded();
                self.reachable = true;
            }
            Err(error) => {
                self.try_later();
                if std::mem::replace(&mut self.reachable, false) {
                    tracing::warn!(
                        master,
                        error,
                        "cannot register with the master, trying again until it works"
                    );
                } else {
                    tracing::debug!(master, error, "still cannot register with the master");
                }
            }
        }
    }

    async fn ended(&mut self) {
        let Some((connection, _)) = self.registered.take() else {
            return;
        };
        // It is closed already.
        let reason = connection.closed().await.to_string();
        let master = connection.peer();
        tracing::info!(%master, reason, "link to the master ended");
        if self.trying.is_none() {
            self.try_later();
        }
    }

    fn try_later(&mut self) {
        self.stale = true;
        let reconnect = self.master.borrow().as_ref().map(|master| master.reconnect);
        self.pause = self
            .pauses
            .next(reconnect.unwrap_or_default(), self.host.random());
    }

    /// Closes the former link behind its last answer.
    fn let_go(&mut self) {
        if let Some(former) = self.registered.take() {
            tokio::spawn(finish(self.dispatcher.clone(), former));
        }
    }

    fn address(&self) -> String {
        let master = self.master.borrow();
        let address = |master: &MasterSettings| format!("{}:{}", master.host, master.port);
        master.as_ref().map(address).unwrap_or_default()
    }
}

/// The next request of the master; never without a link.
async fn next(registered: &mut Option<Registered>) -> Option<IncomingRequest> {
    match registered {
        Some((_, incoming)) => incoming.next().await,
        None => pending().await,
    }
}

/// What a try has come to; never without one.
async fn outcome(trying: &mut Option<Try>) -> Result<Registered, String> {
    match trying {
        Some(trying) => trying.await,
        None => pending().await,
    }
}

/// Waits until the master or the targets change; `false` where this worker is coming to its end.
async fn changed(
    master: &mut watch::Receiver<Option<MasterSettings>>,
    served: &mut watch::Receiver<Vec<TargetName>>,
) -> bool {
    tokio::select! {
        changed = master.changed() => changed.is_ok(),
        changed = served.changed() => changed.is_ok(),
    }
}

/// Lets a connection go after the last answer that it owes.
async fn finish(dispatcher: Handle, (connection, mut incoming): Registered) {
    connection.close_when_idle();
    while let Some(request) = incoming.next().await {
        control::serve(&dispatcher, request);
    }
    connection.closed().await;
}

async fn register(master: &MasterSettings, targets: Vec<TargetName>) -> Result<Registered, String> {
    let options = ConnectionOptions {
        max_frame: MAX_FRAME_WORKER,
        max_pending: MAX_PENDING,
        ping: Some(master.ping),
        ..ConnectionOptions::default()
    };
    let (connection, incoming) =
        Connection::dial(&master.host, master.port, REGISTER_DEADLINE, options)
            .await
            .map_err(|error| error.to_string())?;
    let request = MasterRequest::RegisterWorker {
        name: master.name.clone(),
        targets,
    };
    let asked = connection.request(request.kind(), request.data(), master.password.as_ref());
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
