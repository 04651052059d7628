//! `follow` through the master: finds the worker that has the job and hands its messages on.
//!
//! A master has no database, and a row names its worker only on tables that can say so: therefore it asks every
//! worker, which each answer from memory. Whoever has the job keeps an eye on its row; where nobody has it, one of them is
//! asked to. Messages are taken from a worker only as fast as the client takes them, so that nothing piles up here; what the client misses,
//! the worker counts.

use std::time::Duration;

use futures::FutureExt as _;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use jobd_proto::connection::{REFUSED_CLOSING, Replies, Reply, Responses};
use jobd_proto::follow::{Follow, Followed, State};
use jobd_proto::worker::WorkerRequest;
use jobd_proto::{CallError, RequestError};
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::hub::Hub;
use crate::member::{DEADLINE, Member};

/// Followers at a time: each may hold a window of messages, some hundred KiB.
const MAX_FOLLOWERS: usize = 256;

/// Workers that may be asked for them at a time. One that waits for a job asks every worker for as long as it waits.
const MAX_ASKED: usize = 16_384;

/// How often all workers are asked in a row: a job may go from one to another while they are.
const ROUNDS: usize = 3;

/// A round that takes longer has waited for the job, or for a database that hangs, and the count begins anew with it: workers
/// that give no answer make none so long.
const WAITED: Duration = DEADLINE.saturating_mul(3);

/// Between two rounds.
const PAUSE: Duration = Duration::from_millis(100);

/// What bounds the followers of a master.
#[derive(Debug)]
pub struct Followers {
    followers: Semaphore,
    asked: Semaphore,
}

impl Default for Followers {
    fn default() -> Self {
        Self {
            followers: Semaphore::new(MAX_FOLLOWERS),
            asked: Semaphore::new(MAX_ASKED),
        }
    }
}

impl Followers {
    /// Answers with what the job's worker says; the result is the last message.
    pub async fn serve(
        &self,
        hub: &Hub,
        follow: Follow,
        responses: &Responses,
        stopping: &CancellationToken,
    ) -> Result<Value, RequestError> {
        let _turn = self.followers.try_acquire().map_err(|_| {
            RequestError(format!(
                "{MAX_FOLLOWERS} clients follow jobs through this master already"
            ))
        })?;
        let search = Search {
            hub,
            asked: &self.asked,
            follow,
            responses,
        };
        tokio::select! {
            () = responses.stopped() => Err(stopped()),
            () = stopping.cancelled() => Err(RequestError::new("master is stopping: follow the job again")),
            last = search.run() => last,
        }
    }
}

struct Search<'a> {
    hub: &'a Hub,
    asked: &'a Semaphore,
    follow: Follow,
    responses: &'a Responses,
}

/// A worker that was asked, and its next message.
struct Said {
    member: Member,
    /// Whether it keeps an eye on the row: it has the job, or was asked to look.
    looks: bool,
    first: bool,
    /// With the way to those behind it.
    reply: Result<(Reply, Replies), CallError>,
}

type Asked<'a> = FuturesUnordered<BoxFuture<'a, Said>>;

/// What a round has come to.
enum Found {
    /// A worker runs the job; its first message.
    Running(Member, Replies, Value),
    /// The last message.
    Last(Value),
    /// Whoever kept an eye on the row does so no more.
    Again(String),
}

impl Search<'_> {
    async fn run(&self) -> Result<Value, RequestError> {
        let mut rounds = 0;
        loop {
            let begun = Instant::now();
            let found = self.round().await?;
            if begun.elapsed() > WAITED {
                rounds = 0;
            }
            rounds += 1;
            match found {
                Found::Running(member, replies, first) => {
                    return self.relay(&member, replies, first).await;
                }
                // Somebody took it while the others were asked.
                Found::Last(last) if rounds < ROUNDS && is_held(&last) => {}
                Found::Last(last) => return Ok(last),
                Found::Again(_) if rounds < ROUNDS => {}
                Found::Again(error) => return Err(RequestError(error)),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Asks every worker whether it has the job, and where none has it, one of them to look at the row.
    async fn round(&self) -> Result<Found, RequestError> {
        let members = self.hub.list().await?;
        let count = u32::try_from(members.len() + 1).unwrap_or(u32::MAX);
        let _asked = self.asked.try_acquire_many(count).map_err(|_| {
            RequestError::new("too many workers are asked for jobs already: try again later")
        })?;
        let mut asked: Asked<'_> = FuturesUnordered::new();
        for (member, _) in members {
            asked.push(ask(member, self.follow, false).boxed());
        }
        let (mut unheard, mut looked_at) = (asked.len(), false);
        let (mut witness, mut trouble) = (None, None);
        loop {
            if unheard == 0 && !looked_at {
                looked_at = true;
                // Everybody was heard, and nobody has it: what does its row say?
                let Some(member) = witness.take() else {
                    let nobody = || "no worker that could be asked is registered".to_owned();
                    return Err(RequestError(trouble.unwrap_or_else(nobody)));
                };
                unheard += 1;
                asked.push(ask(member, self.follow, true).boxed());
            }
            let Some(said) = asked.next().await else {
                return Err(RequestError(trouble.unwrap_or_default()));
            };
            let Said {
                member,
                looks,
                first,
                reply,
            } = said;
            unheard -= usize::from(first);
            match reply {
                Err(error) => {
                    let complaint = complaint(&member, &error);
                    match error {
                        _ if !looks => trouble = Some(complaint),
                        CallError::Refused(text) if is_about_row(&text) => {
                            return Err(RequestError(complaint));
                        }
                        _ => return Ok(Found::Again(complaint)),
                    }
                }
                Ok((Reply::Last(data), _)) if is(&data, State::UNKNOWN) => witness = Some(member),
                Ok((Reply::Last(data), _)) => return Ok(Found::Last(data)),
                Ok((Reply::More(data), replies)) if is(&data, "running") => {
                    return Ok(Found::Running(member, replies, data));
                }
                Ok((Reply::More(data), replies)) => {
                    let knows = !is(&data, State::UNKNOWN);
                    if knows {
                        looked_at = true;
                        self.say(&data).await?;
                    } else {
                        witness = Some(member.clone());
                    }
                    asked.push(next(member, replies, looks || knows).boxed());
                }
            }
        }
    }

    async fn relay(
        &self,
        member: &Member,
        mut replies: Replies,
        first: Value,
    ) -> Result<Value, RequestError> {
        self.say(&first).await?;
        loop {
            match replies.next().await {
                Ok(Reply::More(data)) => self.say(&data).await?,
                Ok(Reply::Last(data)) => return Ok(data),
                Err(error) => return Err(RequestError(complaint(member, &error))),
            }
        }
    }

    async fn say(&self, data: &Value) -> Result<(), RequestError> {
        let turn = self.responses.ready().await.ok_or_else(stopped)?;
        self.responses.send(turn, data);
        Ok(())
    }
}

async fn ask(member: Member, follow: Follow, looks: bool) -> Said {
    let request = WorkerRequest::Follow(Follow {
        local: !looks,
        ..follow
    });
    let first = async {
        let (kind, data) = (request.kind(), request.data());
        let mut replies = member.connection.request_stream(kind, data, None).await?;
        Ok((replies.next().await?, replies))
    };
    let reply = tokio::time::timeout(DEADLINE, first).await;
    let late = |_| {
        let limit = DEADLINE.as_secs();
        Err(CallError::Refused(format!("no answer within {limit} s")))
    };
    Said {
        reply: reply.unwrap_or_else(late),
        member,
        looks,
        first: true,
    }
}

async fn next(member: Member, mut replies: Replies, looks: bool) -> Said {
    Said {
        reply: replies.next().await.map(|reply| (reply, replies)),
        member,
        looks,
        first: false,
    }
}

/// Whether a message says that the job is in this state.
fn is(data: &Value, state: &str) -> bool {
    data.get("state").and_then(Value::as_str) == Some(state)
}

/// Whether a worker has the job that no worker of this master had when it was asked.
fn is_held(last: &Value) -> bool {
    serde_json::from_value(last.clone()).is_ok_and(|last| match last {
        Followed::State(state) => state.worker.is_some() && state.state != "done",
        Followed::Output(_) | Followed::Progress(_) => false,
    })
}

/// Whether a worker complains of the row: any other would, too.
fn is_about_row(text: &str) -> bool {
    text.starts_with("job ")
}

fn complaint(member: &Member, error: &CallError) -> String {
    match error {
        CallError::Refused(text) if text == REFUSED_CLOSING => {
            format!("{member} is closing its connection: follow the job again")
        }
        CallError::Refused(text) if is_about_row(text) => text.clone(),
        CallError::Refused(text) => format!("{member}: {text}"),
        CallError::Closed(_) => {
            format!("{member} disconnected before the job ended; look at the row")
        }
        other => format!("{member}: {other}"),
    }
}

/// Nobody reads it, unless he asked for it.
fn stopped() -> RequestError {
    RequestError::new("stopped as asked")
}

#[cfg(test)]
#[path = "follow_tests.rs"]
mod tests;
