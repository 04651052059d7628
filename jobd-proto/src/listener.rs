//! The door: accepts connections, keeps their number bounded, lets in who knows the password.
//! Must not know any request.

use std::collections::HashMap;
use std::future::Future;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::{Id, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::Secret;
use crate::connection::{Connection, ConnectionOptions, Gate, Incoming, IncomingRequest, Peer};
use crate::message::{Message, Response};

/// Connections at a time where nothing else is configured: more than a large site's PHP processes,
/// a quarter of the usual limit of open files that daemons raise themselves to.
pub const MAX_CONNECTIONS: usize = 4096;

/// How long to wait when the system accepts nothing, for want of file descriptors mostly.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Connections that the kernel completes and holds until they are accepted. With the usual 128 a
/// burst of clients beyond that waits a second for its second try.
const BACKLOG: u32 = 1024;

/// Binds to the first address of `host` that can be bound, and listens.
pub async fn bind(host: &str, port: u16) -> io::Result<TcpListener> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "name has no address");
    for address in tokio::net::lookup_host((host, port)).await? {
        match bind_to(address) {
            Ok(listener) => return Ok(listener),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn bind_to(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }?;
    // A restart must not wait for the old connections' last minute.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Who may come in.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// What the first request of every connection must bring; `None` lets everybody in.
    pub password: Option<Secret>,
    /// Lets clients on this host in without it.
    pub always_allow_localhost: bool,
}

impl Access {
    /// The gate that a peer has to pass.
    pub fn gate_for(&self, peer: &Peer) -> Option<Gate> {
        let welcome = self.always_allow_localhost && peer.is_local;
        self.password.clone().filter(|_| !welcome).map(Gate::new)
    }
}

/// How a listener treats its peers.
#[derive(Clone, Debug)]
pub struct ListenerOptions {
    /// Who may come in.
    pub access: Access,
    /// Connections at a time. At the limit the one that was silent longest makes room, if nobody
    /// waits for anything on it and it is not pinned; if there is none, the newcomer is refused.
    pub max_connections: usize,
    /// Limits of each connection; its gate is set by `access`.
    pub connection: ConnectionOptions,
}

impl Default for ListenerOptions {
    fn default() -> Self {
        Self {
            access: Access::default(),
            max_connections: MAX_CONNECTIONS,
            connection: ConnectionOptions {
                half_close: true,
                ..ConnectionOptions::default()
            },
        }
    }
}

/// One accepted connection.
pub struct Session {
    /// To ask the peer, to pin the connection, to know when it ends.
    pub connection: Connection,
    incoming: Incoming,
}

impl Session {
    /// The next request of a peer that has shown the password where one is needed; `None` when
    /// the connection is closed. Cancel-safe.
    pub async fn next(&mut self) -> Option<IncomingRequest> {
        self.incoming.next().await
    }
}

/// Serves until `shutdown` fires, new connections by the options of the moment; `serve` runs in a task per
/// connection and should take requests until there is none. Then every connection answers what it has taken and
/// closes; returns when all have. Dropped, it ends all of them.
pub async fn run<F, Fut>(
    listener: TcpListener,
    options: watch::Receiver<ListenerOptions>,
    shutdown: CancellationToken,
    serve: F,
) where
    F: Fn(Session) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let mut door = Door {
        options,
        serve: Arc::new(serve),
        open: HashMap::new(),
        tasks: JoinSet::new(),
    };
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            Some(ended) = door.tasks.join_next_with_id() => door.forget(ended),
            accepted = listener.accept() => match accepted {
                Ok((stream, addr)) => door.welcome(stream, Peer::from(addr)),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept connections: raise the limit of open files");
                    tokio::select! {
                        () = shutdown.cancelled() => break,
                        () = tokio::time::sleep(ACCEPT_PAUSE) => {}
                    }
                }
            },
        }
    }
    drop(listener);
    for connection in door.open.values() {
        connection.close_when_idle();
    }
    while let Some(ended) = door.tasks.join_next_with_id().await {
        door.forget(ended);
    }
}

struct Door<F> {
    options: watch::Receiver<ListenerOptions>,
    serve: Arc<F>,
    open: HashMap<Id, Connection>,
    tasks: JoinSet<()>,
}

impl<F, Fut> Door<F>
where
    F: Fn(Session) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    fn welcome(&mut self, stream: TcpStream, peer: Peer) {
        let ListenerOptions {
            access,
            max_connections,
            mut connection,
        } = self.options.borrow().clone();
        if self.open.len() >= max_connections && !self.make_room() {
            tracing::warn!(%peer, limit = max_connections, "connection refused: too many");
            refuse(stream);
            return;
        }
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%peer, %error, "connection is gone already");
            return;
        }
        connection.gate = access.gate_for(&peer);
        let (connection, incoming) = Connection::open(stream, peer, connection);
        let session = Session {
            connection: connection.clone(),
            incoming,
        };
        let guard = connection.clone();
        let serve = Arc::clone(&self.serve);
        let task = self.tasks.spawn(async move {
            serve(session).await;
            // A handler may go before its last answer does; a client may stay and say nothing.
            guard.close_when_idle();
            guard.closed().await;
        });
        self.open.insert(task.id(), connection);
    }

    /// Closes the connection that nobody would miss most.
    fn make_room(&mut self) -> bool {
        let idle = self
            .open
            .iter()
            .filter(|(_, connection)| connection.is_idle());
        let Some(id) = idle
            .min_by_key(|(_, connection)| connection.active_ms())
            .map(|(id, _)| *id)
        else {
            return false;
        };
        if let Some(connection) = self.open.remove(&id) {
            tracing::debug!(peer = %connection.peer(), "connection closed to make room");
            connection.evict();
        }
        true
    }

    fn forget(&mut self, ended: Result<(Id, ()), tokio::task::JoinError>) {
        let id = match ended {
            Ok((id, ())) => id,
            Err(error) => {
                tracing::error!(%error, "request handler failed");
                error.id()
            }
        };
        if let Some(connection) = self.open.remove(&id) {
            connection.close();
        }
    }
}

/// Tells a newcomer why it has to go. Its socket is empty, so that this never waits.
fn refuse(stream: TcpStream) {
    let mut frame = BytesMut::new();
    Message::Response(Response::to_nobody("too many connections")).encode(&mut frame);
    let told = stream
        .into_std()
        .and_then(|mut stream| stream.write_all(&frame));
    if let Err(error) = told {
        tracing::debug!(%error, "connection was gone before it was refused");
    }
}
