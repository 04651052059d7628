//! One conversation with a daemon, and what to tell a person when it fails. Knows no command.

use std::io;
use std::time::Duration;

use jobd_proto::codec::MAX_FRAME_WORKER;
use jobd_proto::connection::{Replies, Reply};
use jobd_proto::{CallError, CloseReason, Connection, ConnectionOptions, Incoming};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::failure::Failure;
use crate::given::Given;
use crate::output::{excerpt, plain, waiting_for};
use crate::settings::{Kind, Server, Settings};

/// How long connecting may take: a daemon that is there answers within a network round trip.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// How long an answer may take, jobs excepted. A master waits 5 s for its workers.
const ANSWER_LIMIT: Duration = Duration::from_secs(15);

/// The same for requests with which a master asks its workers several times.
pub(crate) const LONG_LIMIT: Duration = Duration::from_mins(1);

/// How often a daemon is pinged while its jobs run, so that a dead link does not hang for ever.
const PING: Duration = Duration::from_secs(30);

/// A daemon that takes longer is named on the terminal while it is waited for.
const SILENCE: Duration = Duration::from_secs(1);

/// An open connection to a daemon.
pub(crate) struct Client<'a> {
    server: &'a Server,
    given: &'a Given,
    /// Whether nothing may be written to the terminal meanwhile.
    quiet: bool,
    connection: Connection,
    /// Daemons ask a client nothing; this keeps the connection open.
    _incoming: Incoming,
}

impl<'a> Client<'a> {
    /// Connects. Where it takes long a person is told, unless `quiet`.
    pub(crate) async fn connect(settings: &'a Settings, quiet: bool) -> Result<Self, Failure> {
        let (server, given) = (&settings.server, &settings.given);
        let options = ConnectionOptions {
            // Answers to run-manual carry whole outputs.
            max_frame: MAX_FRAME_WORKER,
            strict: true,
            ..ConnectionOptions::default()
        };
        let dialled = Connection::dial(&server.host, server.port, CONNECT_LIMIT, options);
        match told(quiet, &format!("{server} to be reached"), dialled).await {
            Ok((connection, incoming)) => Ok(Self {
                server,
                given,
                quiet,
                connection,
                _incoming: incoming,
            }),
            Err(error) => Err(Failure::Unreachable(format!(
                "cannot reach {server}: {}; {}",
                reason(&error),
                what_to_try(server.kind, given)
            ))),
        }
    }

    /// Asks and reads the answer as `T`.
    pub(crate) async fn ask<T: DeserializeOwned>(
        &self,
        kind: &str,
        data: Value,
    ) -> Result<T, Failure> {
        self.ask_within(ANSWER_LIMIT, kind, data).await
    }

    /// The same with a limit of its own.
    pub(crate) async fn ask_within<T: DeserializeOwned>(
        &self,
        limit: Duration,
        kind: &str,
        data: Value,
    ) -> Result<T, Failure> {
        let answer = tokio::time::timeout(limit, self.request(kind, data));
        let what = format!("{} to answer {kind}", self.server);
        let answer = told(self.quiet, &what, answer).await;
        let answer = answer.map_err(|_| {
            Failure::Unreachable(format!(
                "no answer from {} to {kind} within {} s; is it stopped or overloaded?",
                self.server,
                limit.as_secs()
            ))
        })??;
        self.read(kind, answer)
    }

    /// The same without a time limit, for requests that run jobs.
    pub(crate) async fn ask_patiently<T: DeserializeOwned>(
        &self,
        kind: &str,
        data: Value,
    ) -> Result<T, Failure> {
        self.connection.set_ping(Some(PING));
        let answer = self.request(kind, data).await?;
        self.read(kind, answer)
    }

    /// Gives an order; the answer says nothing but that it was taken.
    pub(crate) async fn order(&self, kind: &str, data: Value) -> Result<(), Failure> {
        self.ask::<Value>(kind, data).await.map(drop)
    }

    /// Asks for a stream of answers.
    pub(crate) async fn stream(&self, kind: &str, data: Value) -> Result<Replies, Failure> {
        self.connection.set_ping(Some(PING));
        let password = self.server.password.as_ref();
        let replies = self.connection.request_stream(kind, data, password).await;
        replies.map_err(|error| self.failure(kind, error))
    }

    /// The next one of them.
    pub(crate) async fn next(&self, kind: &str, replies: &mut Replies) -> Result<Reply, Failure> {
        let reply = replies.next().await;
        reply.map_err(|error| self.failure(kind, error))
    }

    async fn request(&self, kind: &str, data: Value) -> Result<Value, Failure> {
        let password = self.server.password.as_ref();
        let answer = self.connection.request(kind, data, password).await;
        answer.map_err(|error| self.failure(kind, error))
    }

    fn failure(&self, kind: &str, error: CallError) -> Failure {
        match error {
            CallError::Refused(text) => self.refused(&text),
            CallError::Closed(CloseReason::InvalidPassword) => self.refused("invalid password"),
            CallError::Closed(CloseReason::Unreadable(why)) => Failure::Unreachable(format!(
                "what listens at {} does not speak as {} does ({why}); look at --host and --port",
                self.server.address(),
                self.server.kind
            )),
            CallError::Closed(why) => Failure::Unreachable(format!(
                "lost {} before it answered {kind}: {why}; was it restarted? its log tells",
                self.server
            )),
            other => Failure::Refused(format!("{}: {other}", self.server)),
        }
    }

    fn refused(&self, text: &str) -> Failure {
        let advice = advice(self.server.kind, self.given, text);
        let advice = advice.map_or_else(String::new, |advice| format!("; {advice}"));
        Failure::Refused(format!(
            "{} refused: {}{advice}",
            self.server,
            plain(&excerpt(text))
        ))
    }

    /// An answer of another shape comes from a daemon of the other kind, most of all.
    fn read<T: DeserializeOwned>(&self, kind: &str, answer: Value) -> Result<T, Failure> {
        serde_json::from_value(answer).map_err(|error| {
            Failure::Refused(format!(
                "{} gave an answer to {kind} that cannot be read ({}); {}",
                self.server,
                plain(&excerpt(&error.to_string())),
                other_kind(self.server.kind)
            ))
        })
    }
}

/// Waits, and after a second says for what.
async fn told<T>(quiet: bool, what: &str, work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    if !quiet {
        tokio::select! {
            biased;
            done = &mut work => return done,
            () = tokio::time::sleep(SILENCE) => {}
        }
    }
    let _bar = (!quiet).then(|| waiting_for(what));
    work.await
}

fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::TimedOut => format!("no answer within {} s", CONNECT_LIMIT.as_secs()),
        io::ErrorKind::HostUnreachable => "no route to the host".to_owned(),
        _ => error.to_string(),
    }
}

fn what_to_try(kind: Kind, given: &Given) -> String {
    let (other, jobctl) = match kind {
        Kind::Master => ("a worker", given.other(Kind::Worker)),
        Kind::Worker => ("the master", given.other(Kind::Master)),
    };
    format!("is it running? try --host/--port, or {other} with {jobctl}")
}

fn other_kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Master => {
            "if a worker listens there, leave out --master, or add --worker if the config says master = 1"
        }
        Kind::Worker => "if a jobd-master listens there, add --master",
    }
}

/// What helps against a refusal, where that is known.
fn advice(kind: Kind, given: &Given, text: &str) -> Option<String> {
    let jobctl = given.same();
    Some(if text == "invalid password" {
        "--password asks for it, or password = … in the config".to_owned()
    } else if kind == Kind::Master && text == "unknown request type: 'set-target-concurrency'" {
        let jobctl = given.other(Kind::Worker);
        format!(
            "a master of that version does not pass it on: ask each worker, {jobctl} --host HOST set-target-concurrency"
        )
    } else if text.starts_with("unknown request type") {
        other_kind(kind).to_owned()
    } else if text.starts_with("invalid target")
        || (text.starts_with("target ") && text.ends_with("not found"))
    {
        format!("{jobctl} list-targets shows what it serves")
    } else if text.starts_with("worker ") && text.ends_with(" not found") {
        format!("{jobctl} list-workers shows who serves what")
    } else if text == "queue is not empty" {
        "pause the target and wait until its jobs are done".to_owned()
    } else if text.ends_with("already added") {
        format!("{jobctl} set-target-concurrency changes it")
    } else {
        return None;
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_come_with_advice_where_there_is_some() {
        for text in [
            "invalid password",
            "unknown request type: 'poke'",
            "invalid target 'zz'",
            "target 'x' not found",
            "queue is not empty",
        ] {
            assert!(
                advice(Kind::Worker, &Given::default(), text).is_some(),
                "{text}"
            );
        }
        let unknown = "Invalid concurrency value.";
        assert_eq!(advice(Kind::Worker, &Given::default(), unknown), None);
    }
}
