//! Requests that are answered by several messages, seen from both ends, with flow control: whoever asks says how
//! many messages he takes, and later how many more. So a link that many share is never filled by one of them, and
//! nobody needs a buffer for what another does not read.
//!
//! The first window stands in the data of the request (`"window": 8`); a `stream` request on the same connection
//! (`{"no": 17, "more": 4}`) widens it, or with 0 ends the stream. A request without a window is a simple client's,
//! whom the socket slows down. Knows no sockets and no particular request.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::{CallError, Command, Connection, IncomingRequest, stream_frame};
use crate::arguments::{Arguments, integer};
use crate::message::{RequestNo, Response, encode_request};
use crate::{RequestError, Secret};

/// The request that steers a stream. The link answers it.
pub(super) const STREAM: &str = "stream";

/// Messages that may be on their way to this side, of each stream: with chunks of 32 KiB and a round trip of 100 ms
/// that makes 2.5 MB/s, and a quarter of a MiB that a slow reader leaves in memory.
pub(super) const WINDOW: usize = 8;

/// Messages of a stream that may wait in this side's outbox: one is being written while the next is made.
const UNWRITTEN: usize = 2;

/// The most messages that a peer can ask for at a time; more makes no difference to anybody.
const MOST_CREDIT: usize = 1 << 16;

/// The answer to a request, message by message. Dropped before [`Self::end`], it ends with an error.
#[derive(Debug)]
pub struct Responses {
    request: IncomingRequest,
    flow: Arc<Flow>,
}

/// What the link and the answering side share of a stream.
#[derive(Debug)]
pub(super) struct Flow {
    unwritten: Arc<Semaphore>,
    /// Messages that the peer still takes; `None` for a simple client.
    credit: Option<Semaphore>,
    stopped: CancellationToken,
}

/// The right to send one message.
#[derive(Debug)]
pub struct Turn(OwnedSemaphorePermit);

impl Flow {
    /// What a request with a window asks for. It is known to the link before anybody serves the request, so that a
    /// stop that comes at once is not missed.
    pub(super) fn wanted(data: &Value) -> Option<Arc<Self>> {
        let window = integer(Arguments::new(data).get("window")?).unwrap_or(0);
        let window = usize::try_from(window).unwrap_or(0).min(MOST_CREDIT);
        Some(Self::new(Some(Semaphore::new(window))))
    }

    fn new(credit: Option<Semaphore>) -> Arc<Self> {
        Arc::new(Self {
            unwritten: Arc::new(Semaphore::new(UNWRITTEN)),
            credit,
            stopped: CancellationToken::new(),
        })
    }

    pub(super) fn stop(&self) {
        self.stopped.cancel();
    }
}

impl Responses {
    pub(super) fn new(mut request: IncomingRequest) -> Self {
        let flow = request.flow.take().unwrap_or_else(|| {
            let flow = Flow::new(None);
            request.tell(Command::OpenStream(request.request.no, flow.clone()));
            flow
        });
        Self { request, flow }
    }

    /// Waits until the peer takes another message; `None` when it is gone or wants no more.
    pub async fn ready(&self) -> Option<Turn> {
        let turn = async {
            let turn = self.flow.unwritten.clone().acquire_owned().await.ok()?;
            if let Some(credit) = &self.flow.credit {
                credit.acquire().await.ok()?.forget();
            }
            Some(Turn(turn))
        };
        tokio::select! {
            biased;
            () = self.stopped() => None,
            turn = turn => turn,
        }
    }

    /// Sends a message that is not the last one.
    pub fn send(&self, turn: Turn, data: &Value) {
        let frame = stream_frame(self.request.request.no, data);
        self.request.tell(Command::WriteTracked(frame, turn.0));
    }

    /// Waits until the peer is gone or wants no more.
    pub async fn stopped(&self) {
        tokio::select! {
            () = self.request.gone() => {}
            () = self.flow.stopped.cancelled() => {}
        }
    }

    /// Sends the last message, for which there is always room.
    pub fn end(self, result: Result<Value, RequestError>) {
        self.request.respond(result);
    }
}

/// The streams that this side is answering with, as the link knows them.
#[derive(Debug, Default)]
pub(super) struct Streams(HashMap<RequestNo, Arc<Flow>>);

impl Streams {
    pub(super) fn opened(&mut self, no: RequestNo, flow: Arc<Flow>) {
        self.0.insert(no, flow);
    }

    /// The last message of a request, which may have been a stream.
    pub(super) fn ended(&mut self, no: RequestNo) {
        // Most connections never have one.
        if !self.0.is_empty() {
            self.0.remove(&no);
        }
    }

    /// The peer has ended its sending side. Whether it still listens could only be told by writing to it, and a
    /// stream may have nothing to say for hours.
    pub(super) fn stop(&self) {
        self.0.values().for_each(|flow| flow.stop());
    }

    /// Does what a `stream` request says. A stream that has ended meanwhile needs nothing.
    pub(super) fn steer(&self, data: &Value) -> Result<(), RequestError> {
        let arguments = Arguments::new(data);
        let no = RequestNo(arguments.integer("no")?);
        let more = usize::try_from(arguments.integer("more")?)
            .map_err(|_| RequestError::new("'more' must not be negative"))?;
        let Some(flow) = self.0.get(&no) else {
            return Ok(());
        };
        match &flow.credit {
            _ if more == 0 => flow.stop(),
            Some(credit) => {
                let room = MOST_CREDIT.saturating_sub(credit.available_permits());
                credit.add_permits(more.min(room));
            }
            None => {}
        }
        Ok(())
    }
}

/// One message of a stream.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// More follow.
    More(Value),
    /// The last one.
    Last(Value),
}

/// The replies to a request of this side. Dropped before the last one, it tells the peer that nobody listens.
#[derive(Debug)]
pub struct Replies {
    connection: Connection,
    no: RequestNo,
    queue: mpsc::Receiver<Response>,
    /// Messages taken that the peer was not told about.
    taken: usize,
}

impl Replies {
    pub(super) async fn ask(
        connection: &Connection,
        kind: &str,
        mut data: Value,
        password: Option<&Secret>,
    ) -> Result<Self, CallError> {
        let (no, queue) = connection.shared.pending.begin_stream().await?;
        // From here on its end is this one's duty.
        let replies = Self {
            connection: connection.clone(),
            no,
            queue,
            taken: 0,
        };
        if let Some(data) = data.as_object_mut() {
            data.insert("window".to_owned(), WINDOW.into());
        }
        connection.write(request_frame(no, kind, &data, password));
        Ok(replies)
    }

    /// The next message, for as long as it takes. Not to be asked again after the last one or an error. Cancel-safe.
    pub async fn next(&mut self) -> Result<Reply, CallError> {
        if self.taken >= WINDOW / 2 {
            self.steer(self.taken);
            self.taken = 0;
        }
        let Some(response) = self.queue.recv().await else {
            return Err(CallError::Closed(self.connection.closed().await));
        };
        let data = response.result.map_err(CallError::Refused)?;
        if !response.more {
            return Ok(Reply::Last(data));
        }
        self.taken += 1;
        Ok(Reply::More(data))
    }

    fn steer(&self, more: usize) {
        let data = json!({ "no": self.no.0, "more": more });
        let no = self.connection.shared.pending.unwaited();
        self.connection
            .write(request_frame(no, STREAM, &data, None));
    }
}

impl Drop for Replies {
    fn drop(&mut self) {
        if self.connection.shared.pending.leave(self.no) {
            self.steer(0);
        }
    }
}

fn request_frame(no: RequestNo, kind: &str, data: &Value, password: Option<&Secret>) -> Bytes {
    let mut frame = BytesMut::new();
    encode_request(no, kind, data, password, &mut frame);
    frame.freeze()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn credit_stays_within_its_bounds_whatever_a_peer_says() {
        let mut streams = Streams::default();
        let flow = Flow::wanted(&json!({ "window": 1 })).unwrap();
        streams.opened(RequestNo(7), flow.clone());
        for _ in 0..3 {
            let most = json!({ "no": 7, "more": i64::MAX });
            assert_eq!(streams.steer(&most), Ok(()));
        }
        let credit = flow.credit.as_ref().unwrap().available_permits();
        assert_eq!(credit, MOST_CREDIT);
        for (data, error) in [
            (json!({}), "missing required field no"),
            (json!({ "no": 7 }), "missing required field more"),
            (
                json!({ "no": 7, "more": -1 }),
                "'more' must not be negative",
            ),
        ] {
            assert_eq!(streams.steer(&data), Err(RequestError::new(error)));
        }
        assert_eq!(streams.steer(&json!({ "no": 8, "more": 0 })), Ok(()));
        assert!(!flow.stopped.is_cancelled());
        assert_eq!(streams.steer(&json!({ "no": 7, "more": 0 })), Ok(()));
        assert!(flow.stopped.is_cancelled());
    }
}
