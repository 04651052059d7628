//! One symmetric peer: both sides number their requests, answer each other's and ping.
//!
//! ```text
//!  Connection::request ─┐                          ┌─> Incoming::next ──> IncomingRequest
//!  Connection::close ───┼─> commands ──> link task ┤                            │
//!  IncomingRequest::respond ──────────>  (socket)  └─> pending replies          │
//!                       └───────────────────────────────────────────── respond ─┘
//! ```
//!
//! The link task alone owns the socket and both buffers. It must not act on a request, and frames
//! are never logged: they hold passwords and the data of jobs.

mod clock;
mod errors;
mod link;
mod outbox;
mod pending;
mod stream;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_util::sync::CancellationToken;

use crate::codec::{MAX_FRAME_BEFORE_PASSWORD, MAX_FRAME_CLIENT, MAX_FRAME_WORKER};
use crate::message::{Request, RequestNo, encode_request, encode_response};
use crate::{RequestError, Secret};
use pending::Pending;
use stream::Flow;

pub use errors::{CallError, CloseReason};
pub use stream::{Replies, Reply, Responses, Turn};

/// The error that a peer gets for a request on a connection that is being closed. The request was
/// not looked at: it may be sent again elsewhere.
pub const REFUSED_CLOSING: &str = "connection is closing: send the request on a new one";

/// Who is on the other side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// For logs: `10.0.0.5:4711`.
    pub label: String,
    /// Its address, where it has one.
    pub addr: Option<SocketAddr>,
    /// Whether it is on this host, by its address: 127.0.0.1 or ::1.
    pub is_local: bool,
}

impl Peer {
    /// A peer without an address, for tests and other kinds of streams. Not local.
    pub fn named(label: impl Into<String>) -> Self {
        Self {
            label: label.into(),
            addr: None,
            is_local: false,
        }
    }
}

impl From<SocketAddr> for Peer {
    fn from(addr: SocketAddr) -> Self {
        let ip = addr.ip().to_canonical();
        let addr = SocketAddr::new(ip, addr.port());
        Self {
            label: addr.to_string(),
            addr: Some(addr),
            is_local: ip.is_loopback(),
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.label)
    }
}

/// The password that the first request of a connection has to carry.
#[derive(Clone, Debug)]
pub struct Gate {
    /// What it must be.
    pub password: Secret,
    /// Longest frame until then, in bytes.
    pub max_frame: usize,
}

impl Gate {
    /// A gate with the usual limit for strangers.
    pub fn new(password: Secret) -> Self {
        Self {
            password,
            max_frame: MAX_FRAME_BEFORE_PASSWORD,
        }
    }
}

/// Limits and habits of one connection.
#[derive(Clone, Debug)]
pub struct ConnectionOptions {
    /// Longest frame that is taken, in bytes.
    pub max_frame: usize,
    /// Requests of the peer that may wait for an answer at a time. At the limit reading stops, so
    /// that a client that pipelines is slowed down; if nothing is answered for two seconds,
    /// further requests are refused, so that pings and replies go through again.
    pub max_pending: usize,
    /// How long a frame may stay unfinished, per MiB begun.
    pub frame_deadline: Duration,
    /// How long a peer may take no byte of what it is sent.
    pub write_deadline: Duration,
    /// Send a ping every so often; a peer that sends nothing for three intervals is given up. Only
    /// for links between daemons: a PHP client takes nothing that it has not asked for.
    pub ping: Option<Duration>,
    /// What the first request must bring; later ones need nothing.
    pub gate: Option<Gate>,
    /// Whether a peer that has ended its sending side still gets the answers it waits for, as
    /// `nc -N` does. Not for links between daemons, where it means that the other one is gone.
    pub half_close: bool,
    /// Whether a message that cannot be read ends the connection, for a client that waits for one
    /// answer: a peer that says such things is no daemon. Daemons tell the peer and go on.
    pub strict: bool,
}

impl Default for ConnectionOptions {
    fn default() -> Self {
        Self {
            max_frame: MAX_FRAME_CLIENT,
            max_pending: 1024,
            frame_deadline: Duration::from_secs(30),
            write_deadline: Duration::from_secs(30),
            ping: None,
            gate: None,
            half_close: false,
            strict: false,
        }
    }
}

/// A handle to a connection; cheap to clone. When the last handle, the [`Incoming`] and every
/// unanswered [`IncomingRequest`] are gone, what was said is flushed and the connection closes.
#[derive(Clone)]
pub struct Connection {
    shared: Arc<Shared>,
    commands: mpsc::UnboundedSender<Command>,
}

/// What the handles and the link task both see.
struct Shared {
    peer: Peer,
    pending: Pending,
    /// Fires when the link task has ended its work; `pending` then knows why.
    done: CancellationToken,
    /// Written by the link task: requests taken and not answered yet.
    unanswered: AtomicUsize,
    /// Written by the link task: when the last byte came, in ms of [`uptime_ms`].
    active_ms: AtomicU64,
    pinned: AtomicBool,
}

/// What the link task is told. The queue needs no bound of its own: calls are bounded by
/// [`pending::MAX_CALLS`], responses by the peer's unanswered requests, messages of streams by what
/// they carry, the rest is rare.
enum Command {
    Write(Bytes),
    /// Gives the permit back when the frame is written.
    WriteTracked(Bytes, OwnedSemaphorePermit),
    OpenStream(RequestNo, Arc<Flow>),
    Respond {
        no: RequestNo,
        frame: Bytes,
        request_bytes: usize,
    },
    Close(CloseReason),
    CloseWhenIdle,
    SetMaxFrame(usize),
    SetPing(Option<Duration>),
}

impl Connection {
    /// Starts the task that owns the stream; needs a tokio runtime.
    pub fn open<S>(stream: S, peer: Peer, options: ConnectionOptions) -> (Self, Incoming)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (commands, command_queue) = mpsc::unbounded_channel();
        // Bounded by `max_pending`: the link task delivers no more than that unanswered.
        let (requests, request_queue) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            peer,
            pending: Pending::new(),
            done: CancellationToken::new(),
            unanswered: AtomicUsize::new(0),
            active_ms: AtomicU64::new(uptime_ms()),
            pinned: AtomicBool::new(false),
        });
        let connection = Self { shared, commands };
        let link = link::Link::new(stream, &connection, command_queue, requests, options);
        tokio::spawn(link.run());
        let incoming = Incoming {
            requests: request_queue,
            _connection: connection.clone(),
        };
        (connection, incoming)
    }

    /// Connects over TCP within `deadline`, name resolution included.
    pub async fn dial(
        host: &str,
        port: u16,
        deadline: Duration,
        options: ConnectionOptions,
    ) -> io::Result<(Self, Incoming)> {
        let stream = tokio::time::timeout(deadline, TcpStream::connect((host, port)))
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "connection timed out"))??;
        stream.set_nodelay(true)?;
        let peer = Peer::from(stream.peer_addr()?);
        Ok(Self::open(stream, peer, options))
    }

    /// Asks the peer and waits for its answer, for as long as it takes. Dropping the future gives
    /// up: the request may have been sent, its answer is ignored.
    pub async fn request(
        &self,
        kind: &str,
        data: Value,
        password: Option<&Secret>,
    ) -> Result<Value, CallError> {
        let call = self.shared.pending.begin().await?;
        let mut frame = BytesMut::new();
        encode_request(call.no(), kind, &data, password, &mut frame);
        drop(data);
        if self.commands.send(Command::Write(frame.freeze())).is_err() {
            return Err(CallError::Closed(self.closed().await));
        }
        call.reply().await
    }

    /// Asks the peer for a stream of answers. A peer that knows of none gives the only one as the last.
    pub async fn request_stream(
        &self,
        kind: &str,
        data: Value,
        password: Option<&Secret>,
    ) -> Result<Replies, CallError> {
        Replies::ask(self, kind, data, password).await
    }

    /// Requests of the peer that have been taken and not answered yet.
    pub fn pending_incoming(&self) -> usize {
        self.shared.unanswered.load(Ordering::Relaxed)
    }

    /// Closes at once; what was not sent yet is lost.
    pub fn close(&self) {
        self.tell(Command::Close(CloseReason::Here));
    }

    /// Closes at once to make room for others.
    pub(crate) fn evict(&self) {
        self.tell(Command::Close(CloseReason::Evicted));
    }

    /// Refuses further requests, waits for the answers of both sides to those that run, sends
    /// everything and closes.
    pub fn close_when_idle(&self) {
        self.tell(Command::CloseWhenIdle);
    }

    /// Waits until the connection is closed, by whomever, and says why.
    pub async fn closed(&self) -> CloseReason {
        self.shared.done.cancelled().await;
        self.shared.pending.close_reason()
    }

    /// Whether the connection is closed.
    pub fn is_closed(&self) -> bool {
        self.shared.done.is_cancelled()
    }

    /// Changes the longest frame that is taken, in bytes.
    pub fn set_max_frame(&self, max_frame: usize) {
        self.tell(Command::SetMaxFrame(max_frame));
    }

    /// Changes how often the peer is pinged; see [`ConnectionOptions::ping`].
    pub fn set_ping(&self, every: Option<Duration>) {
        self.tell(Command::SetPing(every));
    }

    /// Keeps the connection from being closed to make room, however idle; for registered workers.
    /// Its end of stream then closes it at once.
    pub fn pin(&self) {
        self.shared.pinned.store(true, Ordering::Relaxed);
    }

    /// Who is on the other side.
    pub fn peer(&self) -> &Peer {
        &self.shared.peer
    }

    /// When the last byte came, on the clock of [`uptime_ms`].
    pub(crate) fn active_ms(&self) -> u64 {
        self.shared.active_ms.load(Ordering::Relaxed)
    }

    /// Whether nobody would miss this connection: nothing to answer, no reply to come, not pinned.
    pub(crate) fn is_idle(&self) -> bool {
        self.pending_incoming() == 0
            && !self.shared.pinned.load(Ordering::Relaxed)
            && self.shared.pending.is_empty()
    }

    fn write(&self, frame: Bytes) {
        self.tell(Command::Write(frame));
    }

    /// A closed connection has nothing left to be told.
    fn tell(&self, command: Command) {
        let _ = self.commands.send(command);
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connection({})", self.shared.peer)
    }
}

/// The peer's requests, in the order they came.
pub struct Incoming {
    requests: mpsc::UnboundedReceiver<IncomingRequest>,
    /// Keeps the connection open for as long as somebody serves it.
    _connection: Connection,
}

impl Incoming {
    /// The next request; `None` when the connection is closed. Cancel-safe.
    pub async fn next(&mut self) -> Option<IncomingRequest> {
        self.requests.recv().await
    }
}

/// A request of the peer, and the way to answer it. Dropped unanswered, it is answered with an
/// error.
pub struct IncomingRequest {
    /// What was asked; its password is gone.
    pub request: Request,
    /// Of a stream, where it says that it wants one.
    flow: Option<Arc<Flow>>,
    /// Bytes of its frame, for the budget of the link task.
    bytes: usize,
    /// `None` once answered.
    commands: Option<mpsc::UnboundedSender<Command>>,
}

impl IncomingRequest {
    /// Answers. A reply too long for any peer becomes an error that says so.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "a long reply is freed here, once it is bytes"
    )]
    pub fn respond(mut self, result: Result<Value, RequestError>) {
        self.send(result.as_ref().map_err(|error| error.0.as_str()));
    }

    /// Answers with several messages.
    pub fn stream(self) -> Responses {
        Responses::new(self)
    }

    /// The connection may be closed already; then nobody waits.
    fn tell(&self, command: Command) {
        if let Some(commands) = &self.commands {
            let _ = commands.send(command);
        }
    }

    /// Waits until the connection is closed.
    async fn gone(&self) {
        if let Some(commands) = &self.commands {
            commands.closed().await;
        }
    }

    fn send(&mut self, result: Result<&Value, &str>) {
        let Some(commands) = self.commands.take() else {
            return;
        };
        let frame = bounded_response_frame(self.request.no, result, MAX_FRAME_WORKER);
        // The connection may be closed already; then nobody waits for the answer.
        let _ = commands.send(Command::Respond {
            no: self.request.no,
            frame,
            request_bytes: self.bytes,
        });
    }
}

impl Drop for IncomingRequest {
    fn drop(&mut self) {
        self.send(Err("internal error: request dropped"));
    }
}

impl fmt::Debug for IncomingRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "IncomingRequest({:?}, {:?})",
            self.request.no, self.request.kind
        )
    }
}

fn response_frame(no: RequestNo, result: Result<&Value, &str>) -> Bytes {
    let mut frame = BytesMut::new();
    encode_response(no, result, false, &mut frame);
    frame.freeze()
}

fn stream_frame(no: RequestNo, data: &Value) -> Bytes {
    let mut frame = BytesMut::new();
    encode_response(no, Ok(data), true, &mut frame);
    frame.freeze()
}

fn bounded_response_frame(no: RequestNo, result: Result<&Value, &str>, limit: usize) -> Bytes {
    let frame = response_frame(no, result);
    if frame.len() <= limit {
        return frame;
    }
    let length = frame.len();
    response_frame(
        no,
        Err(&format!("reply of {length} bytes is too long to be sent")),
    )
}

/// Milliseconds on a clock that starts with the first connection of this process.
pub(crate) fn uptime_ms() -> u64 {
    static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    let start = START.get_or_init(std::time::Instant::now);
    u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_too_long_for_any_peer_becomes_an_error() {
        let reply = Value::from("x".repeat(80));
        let frame = |limit| bounded_response_frame(RequestNo(7), Ok(&reply), limit);
        assert_eq!(frame(103), response_frame(RequestNo(7), Ok(&reply)));
        assert_eq!(
            frame(102),
            "[1,{\"no\":7,\"error\":\"reply of 103 bytes is too long to be sent\"}]\x04"
        );
    }
}
