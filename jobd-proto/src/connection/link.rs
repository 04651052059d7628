//! The task that owns a socket: reads and writes at the same time, so that two peers sending each
//! other much never block, and keeps every deadline. Its select awaits nothing in its arms,
//! unless the connection is over.

mod ending;

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::codec::Decoder;

use super::clock::{Alarm, Clock, Facts};
use super::outbox::Outbox;
use super::stream::{Flow, STREAM, Streams};
use super::{
    CloseReason, Command, Connection, ConnectionOptions, IncomingRequest, REFUSED_CLOSING, Shared,
    response_frame, uptime_ms,
};
use crate::codec::{EotCodec, FrameError};
use crate::job::excerpt;
use crate::json;
use crate::message::{Message, PING, PONG, Request, RequestNo, Response};
use ending::{Closing, linger};

/// Unwritten bytes at which a peer is asked for nothing more: whoever does not take answers may
/// not ask. Not a bound for one long reply, which may be longer by itself.
const OUTBOX_HIGH_WATER: usize = 4 << 20;
/// Unwritten pongs and refusals, which need no handler, at which nothing more is read at all.
const OWN_WORDS_LIMIT: usize = 1 << 20;
/// First read of a connection: holds most requests, and is little for thousands of idle peers.
const SMALL_READ: usize = 512;
/// Reads grow to this while they fill their buffer.
const LARGE_READ: usize = 256 << 10;
/// Commands taken at a time, so that reading gets its turn.
const COMMAND_BATCH: usize = 512;
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
    streams: Streams,
    options: ConnectionOptions,
    unanswered: usize,
    unanswered_bytes: usize,
    /// Bytes that this task has said by itself since the outbox was last empty.
    own_words: usize,
    /// The peer has been at its limit for so long that requests are refused instead.
    refusing: bool,
    /// The peer has ended its sending side.
    ended: bool,
    closing: Closing,
    peer_error: Option<String>,
    clock: Clock,
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
            streams: Streams::default(),
            options,
            unanswered: 0,
            unanswered_bytes: 0,
            own_words: 0,
            refusing: false,
            ended: false,
            closing: Closing::No,
            peer_error: None,
            clock: Clock::new(Instant::now()),
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
        let (reader, writer) = self.into_stream();
        if refused {
            linger(reader, writer).await;
        }
    }

    /// Drops everything else, so that nobody waits for more requests.
    fn into_stream(self) -> (ReadHalf<S>, WriteHalf<S>) {
        (self.reader, self.writer)
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
            let deadline = self.clock.next(&self.options, self.facts());
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
                    Ok(0) => {
                        self.ended = true;
                        self.streams.stop();
                    }
                    Ok(bytes) => self.note_read(bytes),
                    Err(error) => return self.broken(&error),
                },
                written = self.writer.write(front), if writing => match written {
                    Ok(0) => return self.last_words(&io::ErrorKind::WriteZero.into()).await,
                    Ok(bytes) => self.note_written(bytes),
                    Err(error) => return self.last_words(&error).await,
                },
                () = self.shared.pending.emptied(), if matches!(self.closing, Closing::WhenIdle) => {}
                () = &mut alarm, if deadline.is_some() => {
                    if let Some(reason) = self.ring() {
                        return reason;
                    }
                }
            }
        }
    }

    /// Whether the peer's bytes are wanted now.
    fn may_read(&self) -> bool {
        !self.ended && self.wants_frames()
    }

    fn wants_frames(&self) -> bool {
        !matches!(self.closing, Closing::AfterFlush(_))
            && (self.refusing || !self.at_limit())
            && self.own_words < OWN_WORDS_LIMIT
    }

    fn at_limit(&self) -> bool {
        self.too_many_unanswered() || self.outbox.len() >= OUTBOX_HIGH_WATER
    }

    fn too_many_unanswered(&self) -> bool {
        self.unanswered >= self.options.max_pending
            || self.unanswered_bytes > self.options.max_frame
    }

    /// Takes every whole frame that is there and wanted.
    fn read_frames(&mut self) {
        let mut taken = false;
        while self.wants_frames() {
            match self.codec.decode(&mut self.inbox) {
                Ok(Some(frame)) => {
                    taken = true;
                    self.take_frame(&frame);
                }
                Ok(None) => {
                    self.check_begun();
                    break;
                }
                Err(FrameError::TooLong { limit }) => {
                    self.respond_to_nobody(&format!("message is longer than {limit} bytes"));
                    self.close_after_flush(CloseReason::FrameTooLong(limit));
                }
                Err(FrameError::Io(error)) => {
                    self.close_after_flush(CloseReason::Io(error.to_string()));
                }
            }
        }
        if taken {
            self.clock.frame_finished();
        }
        self.refusing &= self.at_limit();
        self.clock.keep(self.facts());
        if self.inbox.is_empty()
            && self.inbox.capacity() > SMALL_READ
            && self.read_size == SMALL_READ
        {
            self.inbox = BytesMut::new();
        }
    }

    fn facts(&self) -> Facts {
        Facts {
            reading: self.may_read(),
            begun: self.inbox.len(),
            writing: !self.outbox.is_empty(),
            at_limit: self.at_limit(),
            refusing: self.refusing,
        }
    }

    fn take_frame(&mut self, frame: &[u8]) {
        match Message::parse(frame) {
            Ok(Message::Request(request)) => self.take_request(request, frame.len()),
            Ok(Message::Response(response)) => self.take_response(response),
            Ok(Message::Ping) => self.say(PONG),
            Ok(Message::Pong) => {}
            Err(error) => {
                tracing::debug!(peer = %self.shared.peer, %error, "message refused");
                self.respond_to_nobody(&error.to_string());
                if self.options.strict {
                    self.close_after_flush(CloseReason::Unreadable(error.to_string()));
                }
            }
        }
    }

    /// A peer of another kind may send text that no EOT ever ends.
    fn check_begun(&mut self) {
        if self.options.strict && self.inbox.first().is_some_and(|byte| *byte != b'[') {
            let problem = "it does not begin with a bracket".to_owned();
            self.close_after_flush(CloseReason::Unreadable(problem));
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
        if request.kind == STREAM {
            return self.steer(&request);
        }
        if matches!(self.closing, Closing::WhenIdle) {
            return self.refuse(request.no, REFUSED_CLOSING);
        }
        if self.too_many_unanswered() {
            let count = self.unanswered;
            let error = format!("{count} requests are unanswered: wait for an answer");
            return self.refuse(request.no, &error);
        }
        if self.at_limit() {
            return self.refuse(request.no, "answers are not read: read them first");
        }
        let Some(commands) = self.responders.upgrade() else {
            return;
        };
        // What a frame grows to is up to sixteen times its length: that is what has to be bounded.
        let bytes = bytes + json::memory(&request.data);
        self.unanswered += 1;
        self.unanswered_bytes += bytes;
        self.shared
            .unanswered
            .store(self.unanswered, Ordering::Relaxed);
        let flow = Flow::wanted(&request.data);
        if let Some(flow) = &flow {
            self.streams.opened(request.no, flow.clone());
        }
        let request = IncomingRequest {
            request,
            flow,
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

    /// Needs no handler: streams are the link's own matter, also while it is closing.
    fn steer(&mut self, request: &Request) {
        let ok = "ok".into();
        let steered = self.streams.steer(&request.data);
        let result = steered.as_ref().map(|()| &ok).map_err(|error| &*error.0);
        self.say(&response_frame(request.no, result));
    }

    fn take_response(&mut self, response: Response) {
        let Some(Response {
            no,
            result: Err(error),
            ..
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
        self.say(&response_frame(no, Err(error)));
    }

    fn respond_to_nobody(&mut self, error: &str) {
        self.refuse(RequestNo::NONE, error);
    }

    /// Says something that no handler has to think about.
    fn say(&mut self, words: &[u8]) {
        self.own_words += words.len();
        self.outbox.push_slice(words);
    }

    /// Carries out commands; a reason ends the connection at once.
    fn obey(&mut self, batch: &mut Vec<Command>) -> Option<CloseReason> {
        for command in batch.drain(..) {
            match command {
                Command::Write(frame) => self.outbox.push(frame),
                Command::WriteTracked(frame, permit) => self.outbox.push_tracked(frame, permit),
                Command::OpenStream(_, flow) if self.ended => flow.stop(),
                Command::OpenStream(no, flow) => self.streams.opened(no, flow),
                Command::Respond {
                    no,
                    frame,
                    request_bytes,
                } => {
                    self.streams.ended(no);
                    self.unanswered -= 1;
                    self.unanswered_bytes -= request_bytes;
                    self.clock.moved();
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
                    self.clock.pinged();
                    self.clock.read();
                }
            }
        }
        self.shared
            .unanswered
            .store(self.unanswered, Ordering::Relaxed);
        None
    }

    fn note_read(&mut self, bytes: usize) {
        self.clock.read();
        self.shared.active_ms.store(uptime_ms(), Ordering::Relaxed);
        self.read_size = if bytes >= self.read_size {
            (self.read_size * 4).min(LARGE_READ)
        } else {
            SMALL_READ.max(self.read_size / 4)
        };
    }

    fn note_written(&mut self, bytes: usize) {
        self.outbox.written(bytes);
        self.clock.written();
        if self.outbox.is_empty() {
            self.own_words = 0;
        }
        if !self.too_many_unanswered() {
            self.clock.moved();
        }
    }

    /// Does what is due; a reason ends the connection at once.
    fn ring(&mut self) -> Option<CloseReason> {
        for alarm in self.clock.due(&self.options, self.facts()) {
            match alarm {
                Alarm::Write => return Some(CloseReason::WriteDeadline),
                Alarm::Silence => {
                    let every = self.options.ping.unwrap_or_default();
                    return Some(CloseReason::Silent(every * 3));
                }
                Alarm::Frame => {
                    self.respond_to_nobody("message was not finished in time");
                    self.close_after_flush(CloseReason::FrameDeadline);
                }
                Alarm::Stall => self.refusing = true,
                Alarm::Ping => {
                    self.clock.pinged();
                    // A peer that takes nothing has enough pings to answer.
                    if self.outbox.is_empty() {
                        self.outbox.push_slice(PING);
                    }
                }
            }
        }
        None
    }
}
