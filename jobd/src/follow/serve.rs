//! Answers a `follow`: says where the job stands, hands on what comes out of its buffer, says how it ended. One task
//! per follower, which waits for nobody but its own client.

use std::time::Duration;

use jobd_proto::connection::Responses;
use jobd_proto::follow::{Follow, Followed, Output, State};
use jobd_proto::{JobId, RequestError};
use serde_json::Value;
use tokio::time::{Instant, sleep_until};

use super::{Ending, Follower, Item};
use crate::dispatcher::{Handle, Place};
use crate::store::RowState;

/// Between two looks at the row of a job that is waited for: somebody else may start or end it.
const LOOK: Duration = Duration::from_secs(2);

/// Bytes of output that one follower gets a second, at most: to make them into messages takes time of the thread that
/// reads the job's output. No person reads faster.
const PACE: u32 = 1 << 20;

/// How far a follower may be ahead of that pace: the buffer of one that comes late is emptied at once.
const BURST: Duration = Duration::from_millis(500);

/// Follows a job until its end, or that of the client's interest; the result is the last message.
pub async fn serve(
    dispatcher: &Handle,
    follow: Follow,
    responses: &Responses,
) -> Result<Value, RequestError> {
    let (place, follower) = dispatcher.follow(follow).await?;
    let mut session = Session {
        dispatcher,
        follow,
        responses,
        follower,
        look_at: None,
        said: String::new(),
        paced: Instant::now(),
    };
    let last = match place {
        Place::Running(attempt) => {
            session.say(running(attempt)).await?;
            None
        }
        Place::Accepted => {
            // It may be given back, and go to somebody else.
            session.look_at = Some(Instant::now() + LOOK);
            session.stand(State::named("accepted")).await?
        }
        Place::Elsewhere if follow.local => session.stand(State::named(State::UNKNOWN)).await?,
        Place::Elsewhere => {
            session.look_at = Some(Instant::now());
            session.look().await?
        }
    };
    match last {
        Some(last) => Ok(Followed::State(last).into()),
        None => session.run().await,
    }
}

struct Session<'a> {
    dispatcher: &'a Handle,
    follow: Follow,
    responses: &'a Responses,
    follower: Follower,
    /// When to look at the row again, while the job is not here.
    look_at: Option<Instant>,
    /// The state that it was told last.
    said: String,
    /// When all that it got would be due at [`PACE`].
    paced: Instant,
}

impl Session<'_> {
    async fn run(mut self) -> Result<Value, RequestError> {
        let far = Instant::now();
        loop {
            let look_at = self.look_at;
            let item = tokio::select! {
                biased;
                () = self.responses.stopped() => return Err(stopped()),
                item = self.next() => item,
                () = sleep_until(look_at.unwrap_or(far)), if look_at.is_some() => {
                    match self.look().await? {
                        Some(last) => return Ok(Followed::State(last).into()),
                        None => continue,
                    }
                }
            };
            let message = match item {
                Item::Started(attempt) => {
                    self.look_at = None;
                    running(attempt)
                }
                Item::Progress(progress) => Followed::Progress(progress),
                Item::Output(output) => {
                    let earliest = Instant::now().checked_sub(BURST);
                    let from = earliest.map_or(self.paced, |earliest| self.paced.max(earliest));
                    self.paced = from + Duration::from_secs(1) * length(&output) / PACE;
                    Followed::Output(output)
                }
                Item::Ended(ending) => return self.last(ending).await,
            };
            self.say(message).await?;
        }
    }

    /// The next item, not before its time.
    async fn next(&mut self) -> Item {
        sleep_until(self.paced).await;
        self.follower.next().await
    }

    /// Says where a job stands that has not started; the last word, where that is not to be waited for.
    async fn stand(&mut self, state: State) -> Result<Option<State>, RequestError> {
        if !self.follow.wait {
            return Ok(Some(state));
        }
        if self.said != state.state {
            self.said.clone_from(&state.state);
            self.say(Followed::State(state)).await?;
        }
        Ok(None)
    }

    /// Looks at the row of a job that is not here; the last word, where there is nothing to wait for.
    async fn look(&mut self) -> Result<Option<State>, RequestError> {
        let row = row(self.dispatcher, self.follow.id).await?;
        self.look_at = Some(Instant::now() + LOOK);
        if row.ours && row.status == "running" {
            // It has just come, or is just going: that is told at once.
            return Ok(None);
        }
        let held_by_others = row.holder.is_some() && !row.ours;
        if row.is_pending() && !held_by_others {
            return self.stand(State::named(row.status)).await;
        }
        Ok(Some(state_of(row)))
    }

    async fn last(&self, ending: Ending) -> Result<Value, RequestError> {
        let state = match ending {
            Ending::Done {
                result,
                code,
                signal,
            } => State {
                result: Some(result),
                code,
                signal,
                ..State::named("done")
            },
            Ending::Over => state_of(row(self.dispatcher, self.follow.id).await?),
            Ending::Stopping => return Err(RequestError::new("worker is shutting down")),
        };
        Ok(Followed::State(state).into())
    }

    async fn say(&self, message: Followed) -> Result<(), RequestError> {
        let turn = self.responses.ready().await.ok_or_else(stopped)?;
        self.responses.send(turn, &message.into());
        Ok(())
    }
}

/// Nobody reads it, unless he asked for it.
fn stopped() -> RequestError {
    RequestError::new("stopped as asked")
}

fn length(output: &Output) -> u32 {
    u32::try_from(output.len()).unwrap_or(u32::MAX)
}

fn running(attempt: u32) -> Followed {
    Followed::State(State {
        attempt: Some(attempt),
        ..State::named("running")
    })
}

async fn row(dispatcher: &Handle, id: JobId) -> Result<RowState, RequestError> {
    let row = dispatcher.row(id).await?;
    row.ok_or_else(|| RequestError(format!("job {id} not found")))
}

fn state_of(row: RowState) -> State {
    State {
        worker: row.holder,
        result: row.result,
        code: row.code,
        signal: row.signal,
        ..State::named(row.status)
    }
}
