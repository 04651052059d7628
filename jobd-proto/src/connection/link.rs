//! The task that owns a socket: reads and writes at the same time, so that two peers sending each
//! other much never block, and keeps every deadline. Its select awaits nothing in its arms.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::codec::Decoder;

use super::outbox::Outbox;
use super::{
    CloseReason, Command, Connection, ConnectionOptions, IncomingRequest, Shared, response_frame,
    uptime_ms,
};
use crate::codec::{EotCodec, FrameError};
use crate::job::excerpt;
use crate::message::{Message, PING, PONG, Request, RequestNo, Response};

/// Unwritten bytes at which nothing more is read: whoever does not take answers may not ask.
const OUTBOX_HIGH_WATER: usize = 1 << 20;
/// First read of a connection: holds most requests, and is little for thousands of idle peers.
const SMALL_READ: usize = 512;
/// Reads grow to this while they fill their buffer.
const LARGE_READ: usize = 256 << 10;
/// Commands taken at a time, so that reading gets its turn.
const COMMAND_BATCH: usize = 512;
/// A peer at its limit of unanswered requests is kept waiting this long without an answer; then
/// further requests are refused.
const STALL_LIMIT: Duration = Duration::from_secs(2);
/// After a refusal: how long, and how much, the peer may go on sending before the socket is
/// closed. A socket closed with unread data resets, and the peer may never see why.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 64 << 20;

pub(super) struct Link<S> {
    reader: ReadHalf<S>,
    writer: WriteHalf<S>,
    codec: EotCodec,
    inbox: BytesMut,
    outbox: Outbox,
    /// How much the next read may bring.
    read_size: usize,
    shared: Arc<Shared>,
    commands: mpsc::UnboundedReceiver<Command>,
    /// Weak, so that this task ends when nobody else is left.
    responders: mpsc::WeakUnboundedSender<Command>,
    requests: mpsc::UnboundedSender<IncomingRequest>,
    options: ConnectionOptions,
    unanswered: usize,
    unanswered_bytes: usize,
    /// The peer has ended its sending side.
    ended: bool,
    closing: Closing,
    peer_error: Option<String>,
    clock: Clock,
}

/// How far the connection is on its way to its end.
enum Closing {
    No,
    /// Takes no new requests; ends when all are answered.
    WhenIdle,
    /// Takes nothing more; ends when the outbox is empty.
    AfterFlush(CloseReason),
}

/// Since when things are as they are.
struct Clock {
    last_read: Instant,
    /// A frame has begun and not ended.
    frame: Option<Instant>,
    /// The outbox holds something and the peer takes nothing.
    write: Option<Instant>,
    /// At the limit of unanswered requests without an answer.
    stalled: Option<Instant>,
    last_ping: Instant,
}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> Link<S> {
    pub(super) fn new(
        stream: S,
        connection: &Connection,
        commands: mpsc::UnboundedReceiver<Command>,
        requests: mpsc::UnboundedSender<IncomingRequest>,
        options: ConnectionOptions,
    ) -> Self {
        let (reader, writer) = tokio::io::split(stream);
        let max_frame = options
            .gate
            .as_ref()
            .map_or(options.max_frame, |gate| gate.max_frame);
        let now = Instant::now();
        Self {
            reader,
            writer,
            codec: EotCodec::new(max_frame),
            inbox: BytesMut::new(),
            outbox: Outbox::default(),
            read_size: SMALL_READ,
            shared: Arc::clone(&connection.shared),
            commands,
            responders: connection.commands.downgrade(),
            requests,
            options,
            unanswered: 0,
            unanswered_bytes: 0,
            ended: false,
            closing: Closing::No,
            peer_error: None,
            clock: Clock {
                last_read: now,
                frame: None,
                write: None,
                stalled: None,
                last_ping: now,
            },
        }
    }

    /// Lives until the connection ends.
    pub(super) async fn run(mut self) {
        let reason = self.serve().await;
        tracing::debug!(peer = %self.shared.peer, %reason, "connection closed");
        let refused = matches!(
            reason,
            CloseReason::FrameTooLong(_)
                | CloseReason::FrameDeadline
                | CloseReason::InvalidPassword
        );
        self.shared.pending.close(reason);
        self.shared.done.cancel();
        let Self { reader, writer, .. } = self;
        if refused {
            linger(reader, writer).await;
        }
    }

    async fn serve(&mut self) -> CloseReason {
        let alarm = sleep_until(Instant::now());
        tokio::pin!(alarm);
        let mut batch = Vec::new();
        loop {
            self.read_frames();
            if let Some(reason) = self.finished() {
                return reason;
            }
            let deadline = self.next_deadline();
            if let Some(at) = deadline
                && (alarm.is_elapsed() || at < alarm.deadline())
            {
                // One that rings too early does no harm; setting it is what costs.
                alarm.as_mut().reset(at);
            }
            let may_read = self.may_read();
            if may_read {
                self.inbox.reserve(self.read_size);
            }
            let writing = !self.outbox.is_empty();
            let front = self.outbox.front();
            tokio::select! {
                taken = self.commands.recv_many(&mut batch, COMMAND_BATCH) => {
                    if taken == 0 {
                        self.close_after_flush(CloseReason::Here);
                    }
                    if let Some(reason) = self.obey(&mut batch) {
                        return reason;
                    }
                }
                read = self.reader.read_buf(&mut self.inbox), if may_read => match read {
                    Ok(0) => self.ended = true,
                    Ok(bytes) => self.note_read(bytes),
                    Err(error) => return self.broken(&error),
                },
                written = self.writer.write(front), if writing => match written {
                    Ok(0) => return self.broken(&io::ErrorKind::WriteZero.into()),
                    Ok(bytes) => self.note_written(bytes),
                    Err(error) => return self.broken(&error),
                },
                () = &mut alarm, if deadline.is_some() => {
                    if let Some(reason) = self.ring(Instant::now()) {
                        return reason;
                    }
                }
            }
        }
    }

    /// Whether the peer's bytes are wanted now.
    fn may_read(&self) -> bool {
        !self.ended
            && !matches!(self.closing, Closing::AfterFlush(_))
            && self.clock_allows_requests()
            && self.outbox.len() < OUTBOX_HIGH_WATER
    }

    fn at_limit(&self) -> bool {
        self.unanswered >= self.options.max_pending
            || self.unanswered_bytes > self.options.max_frame
    }

    /// Below the limit, or at it for so long that requests are refused instead.
    fn clock_allows_requests(&self) -> bool {
        !self.at_limit()
            || self
                .clock
                .stalled
                .is_some_and(|since| since.elapsed() >= STALL_LIMIT)
    }

    /// Takes every whole frame that is there and wanted.
    fn read_frames(&mut self) {
        let mut taken = false;
        while !matches!(self.closing, Closing::AfterFlush(_))
            && self.clock_allows_requests()
            && self.outbox.len() < OUTBOX_HIGH_WATER
        {
            match self.codec.decode(&mut self.inbox) {
                Ok(Some(frame)) => {
                    taken = true;
                    self.take_frame(&frame);
                }
                Ok(None) => break,
                Err(FrameError::TooLong { limit }) => {
                    self.respond_to_nobody(format!("message is longer than {limit} bytes"));
                    self.close_after_flush(CloseReason::FrameTooLong(limit));
                }
                Err(FrameError::Io(error)) => {
                    self.close_after_flush(CloseReason::Io(error.to_string()));
                }
            }
        }
        self.keep_time(taken);
    }

    /// Notes since when a frame is unfinished, the outbox stuck, the peer at its limit.
    fn keep_time(&mut self, took_a_frame: bool) {
        let waiting_for_rest = !self.inbox.is_empty() && self.may_read();
        if !waiting_for_rest {
            self.clock.frame = None;
        } else if took_a_frame || self.clock.frame.is_none() {
            self.clock.frame = Some(Instant::now());
        }
        if self.outbox.is_empty() {
            self.clock.write = None;
        } else if self.clock.write.is_none() {
            self.clock.write = Some(Instant::now());
        }
        if !self.at_limit() {
            self.clock.stalled = None;
        } else if self.clock.stalled.is_none() {
            self.clock.stalled = Some(Instant::now());
        }
        if self.inbox.is_empty()
            && self.inbox.capacity() > SMALL_READ
            && self.read_size == SMALL_READ
        {
            self.inbox = BytesMut::new();
        }
    }

    fn take_frame(&mut self, frame: &[u8]) {
        match Message::parse(frame) {
            Ok(Message::Request(request)) => self.take_request(request, frame.len()),
            Ok(Message::Response(response)) => self.take_response(response),
            Ok(Message::Ping) => self.outbox.push_slice(PONG),
            Ok(Message::Pong) => {}
            Err(error) => {
                tracing::debug!(peer = %self.shared.peer, %error, "message refused");
                self.respond_to_nobody(error.to_string());
            }
        }
    }

    fn take_request(&mut self, mut request: Request, bytes: usize) {
        let password = request.password.take();
        if let Some(gate) = self.options.gate.take() {
            if !password.is_some_and(|password| gate.password.matches(&password)) {
                tracing::warn!(peer = %self.shared.peer, "connection refused: invalid password");
                self.refuse(request.no, "invalid password");
                self.close_after_flush(CloseReason::InvalidPassword);
                return;
            }
            self.codec.set_max_frame(self.options.max_frame);
        }
        if matches!(self.closing, Closing::WhenIdle) {
            return self.refuse(
                request.no,
                "connection is closing: send the request on a new one",
            );
        }
        if self.at_limit() {
            let error = format!(
                "{} requests are unanswered: wait for an answer",
                self.unanswered
            );
            return self.refuse(request.no, &error);
        }
        let Some(commands) = self.responders.upgrade() else {
            return;
        };
        self.unanswered += 1;
        self.unanswered_bytes += bytes;
        self.shared
            .unanswered
            .store(self.unanswered, Ordering::Relaxed);
        let request = IncomingRequest {
            request,
            bytes,
            commands: Some(commands),
        };
        if let Err(mut unserved) = self.requests.send(request) {
            // This side only asks. The answer takes the way of all answers.
            let error = format!(
                "unknown request type: '{}'",
                excerpt(&unserved.0.request.kind)
            );
            unserved.0.send(Err(&error));
        }
    }

    fn take_response(&mut self, response: Response) {
        let Some(Response {
            no,
            result: Err(error),
        }) = self.shared.pending.resolve(response)
        else {
            return;
        };
        if no == RequestNo::NONE {
            let error = excerpt(&error);
            tracing::debug!(peer = %self.shared.peer, error, "peer could not read a message");
            self.peer_error = Some(error);
        }
    }

    fn refuse(&mut self, no: RequestNo, error: &str) {
        self.outbox.push(response_frame(no, Err(error)));
    }

    fn respond_to_nobody(&mut self, error: String) {
        let Response { no, result } = Response::to_nobody(error);
        self.outbox
            .push(response_frame(no, result.as_ref().map_err(String::as_str)));
    }

    /// Carries out commands; a reason ends the connection at once.
    fn obey(&mut self, batch: &mut Vec<Command>) -> Option<CloseReason> {
        for command in batch.drain(..) {
            match command {
                Command::Write(frame) => self.outbox.push(frame),
                Command::Respond {
                    frame,
                    request_bytes,
                } => {
                    self.unanswered -= 1;
                    self.unanswered_bytes -= request_bytes;
                    self.clock.stalled = None;
                    self.outbox.push(frame);
                }
                Command::Close(reason) => return Some(reason),
                Command::CloseWhenIdle if matches!(self.closing, Closing::No) => {
                    self.closing = Closing::WhenIdle;
                }
                Command::CloseWhenIdle => {}
                Command::SetMaxFrame(max_frame) => {
                    self.options.max_frame = max_frame;
                    if self.options.gate.is_none() {
                        self.codec.set_max_frame(max_frame);
                    }
                }
                Command::SetPing(every) => {
                    self.options.ping = every;
                    self.clock.last_ping = Instant::now();
                    self.clock.last_read = Instant::now();
                }
            }
        }
        self.shared
            .unanswered
            .store(self.unanswered, Ordering::Relaxed);
        None
    }

    fn close_after_flush(&mut self, reason: CloseReason) {
        if !matches!(self.closing, Closing::AfterFlush(_)) {
            self.closing = Closing::AfterFlush(reason);
        }
    }

    /// Whether nothing is left to be done, and why.
    fn finished(&self) -> Option<CloseReason> {
        let answered = self.unanswered == 0 && self.outbox.is_empty();
        let stays_for_answers =
            self.options.half_close && !self.shared.pinned.load(Ordering::Relaxed);
        match &self.closing {
            Closing::AfterFlush(reason) => self.outbox.is_empty().then(|| reason.clone()),
            // Frames that are still in the inbox wait for the answers before them.
            _ if self.ended => {
                (!stays_for_answers || (answered && !self.at_limit())).then(|| self.ended_by_peer())
            }
            Closing::WhenIdle if answered && self.shared.pending.is_empty() => {
                Some(CloseReason::Here)
            }
            _ => None,
        }
    }

    fn ended_by_peer(&self) -> CloseReason {
        self.peer_error
            .clone()
            .map_or(CloseReason::Peer, CloseReason::PeerError)
    }

    /// A peer that closes with our data unread resets the stream: what it said before says more.
    fn broken(&self, error: &io::Error) -> CloseReason {
        match &self.peer_error {
            Some(text) => CloseReason::PeerError(text.clone()),
            None => CloseReason::Io(error.to_string()),
        }
    }

    fn note_read(&mut self, bytes: usize) {
        self.clock.last_read = Instant::now();
        self.shared.active_ms.store(uptime_ms(), Ordering::Relaxed);
        self.read_size = if bytes >= self.read_size {
            (self.read_size * 4).min(LARGE_READ)
        } else {
            SMALL_READ.max(self.read_size / 4)
        };
    }

    fn note_written(&mut self, bytes: usize) {
        self.outbox.written(bytes);
        self.clock.write = None;
    }

    fn frame_deadline(&self) -> Option<Instant> {
        let begun = u32::try_from(self.inbox.len() >> 20)
            .unwrap_or(u32::MAX)
            .saturating_add(1);
        self.clock
            .frame
            .map(|since| since + self.options.frame_deadline.saturating_mul(begun))
    }

    fn write_deadline(&self) -> Option<Instant> {
        self.clock
            .write
            .map(|since| since + self.options.write_deadline)
    }

    fn silence_deadline(&self) -> Option<Instant> {
        // Whoever is not read cannot be called silent.
        self.options
            .ping
            .filter(|_| self.may_read())
            .map(|every| self.clock.last_read + every * 3)
    }

    fn stall_deadline(&self) -> Option<Instant> {
        let deadline = self.clock.stalled.map(|since| since + STALL_LIMIT);
        deadline.filter(|_| !self.clock_allows_requests())
    }

    fn next_deadline(&self) -> Option<Instant> {
        let ping = self.options.ping.map(|every| self.clock.last_ping + every);
        let deadlines = [
            self.frame_deadline(),
            self.write_deadline(),
            self.silence_deadline(),
            self.stall_deadline(),
            ping,
        ];
        deadlines.into_iter().flatten().min()
    }

    /// Does what is due; a reason ends the connection at once.
    fn ring(&mut self, now: Instant) -> Option<CloseReason> {
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if due(self.write_deadline()) {
            return Some(CloseReason::WriteDeadline);
        }
        if due(self.silence_deadline()) {
            return self
                .options
                .ping
                .map(|every| CloseReason::Silent(every * 3));
        }
        if due(self.frame_deadline()) {
            self.respond_to_nobody("message was not finished in time".to_owned());
            self.close_after_flush(CloseReason::FrameDeadline);
        }
        if let Some(every) = self.options.ping
            && due(Some(self.clock.last_ping + every))
        {
            self.clock.last_ping = now;
            // A peer that takes nothing has enough pings to answer.
            if self.outbox.is_empty() {
                self.outbox.push_slice(PING);
            }
        }
        None
    }
}

/// Ends the sending side and swallows what is still on its way.
async fn linger(mut reader: impl AsyncRead + Unpin, mut writer: impl AsyncWrite + Unpin) {
    let swallow = async {
        writer.shutdown().await?;
        let mut waste = vec![0; 16 << 10];
        let mut left = LINGER_BYTES;
        while left > 0 {
            match reader.read(&mut waste).await? {
                0 => break,
                bytes => left = left.saturating_sub(bytes),
            }
        }
        io::Result::Ok(())
    };
    // The peer is told already; how it goes away does not matter.
    let _ = tokio::time::timeout(LINGER, swallow).await;
}
