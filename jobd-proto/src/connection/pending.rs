//! Requests that wait for the peer's reply. Knows no sockets.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use tokio::sync::{Notify, Semaphore, SemaphorePermit, mpsc, oneshot};

use super::stream::WINDOW;
use super::{CallError, CloseReason};
use crate::message::{RequestNo, Response};

/// Requests to one peer that may wait for replies at a time, which bounds the memory for them; a
/// master sends a worker one per manual run of its clients. The next one waits for its turn.
pub(super) const MAX_CALLS: usize = 16_384;

/// Shared by the callers, who enter and leave, and the link task, which brings the replies. The
/// lock is held for single map operations, so that giving up needs no message.
pub(super) struct Pending {
    turns: Semaphore,
    /// Told when the last waiting request was given up.
    emptied: Notify,
    state: Mutex<State>,
}

struct State {
    last: i64,
    waiting: HashMap<i64, Waiter>,
    closed: Option<CloseReason>,
}

/// Who waits for the reply to a request.
enum Waiter {
    /// For the one that there is.
    Reply(oneshot::Sender<Result<Value, String>>),
    /// For as many as come. There is a place for each that was asked for, and one for the last.
    Replies(mpsc::Sender<Response>),
}

impl Pending {
    pub(super) fn new() -> Self {
        let random = RandomState::new().hash_one(0) % RequestNo::MAX.0.unsigned_abs();
        let state = State {
            last: i64::try_from(random).unwrap_or_default(),
            waiting: HashMap::new(),
            closed: None,
        };
        Self {
            turns: Semaphore::new(MAX_CALLS),
            emptied: Notify::new(),
            state: Mutex::new(state),
        }
    }

    /// Takes a number for a new request.
    pub(super) async fn begin(&self) -> Result<Call<'_>, CallError> {
        let (sender, reply) = oneshot::channel();
        let (no, turn) = self.enter(Waiter::Reply(sender)).await?;
        Ok(Call {
            pending: self,
            no,
            reply,
            _turn: turn,
        })
    }

    /// Takes a number for a new request whose answer is a stream. [`Self::leave`] must follow.
    pub(super) async fn begin_stream(
        &self,
    ) -> Result<(RequestNo, mpsc::Receiver<Response>), CallError> {
        let (sender, replies) = mpsc::channel(WINDOW + 1);
        let (no, turn) = self.enter(Waiter::Replies(sender)).await?;
        turn.forget();
        Ok((RequestNo(no), replies))
    }

    /// Nobody waits for this stream any more; says whether its last message was still to come.
    pub(super) fn leave(&self, no: RequestNo) -> bool {
        self.turns.add_permits(1);
        self.forget(no.0)
    }

    /// A number for a request whose reply nobody waits for.
    pub(super) fn unwaited(&self) -> RequestNo {
        RequestNo(self.lock().next_number())
    }

    async fn enter(&self, waiter: Waiter) -> Result<(i64, SemaphorePermit<'_>), CallError> {
        let turn = self.turns.acquire().await;
        let mut state = self.lock();
        if let Some(reason) = &state.closed {
            return Err(CallError::Closed(reason.clone()));
        }
        let turn = turn.expect("turns end after the reason is set");
        let no = state.next_number();
        state.waiting.insert(no, waiter);
        Ok((no, turn))
    }

    fn forget(&self, no: i64) -> bool {
        let mut state = self.lock();
        let given_up = state.waiting.remove(&no).is_some();
        if given_up && state.waiting.is_empty() {
            self.emptied.notify_one();
        }
        given_up
    }

    /// Brings a reply to its caller; one that nobody waits for is given back.
    pub(super) fn resolve(&self, mut response: Response) -> Option<Response> {
        let mut state = self.lock();
        let Entry::Occupied(waiter) = state.waiting.entry(response.no.0) else {
            return Some(response);
        };
        if let Waiter::Replies(replies) = waiter.get()
            && response.more
        {
            if replies.capacity() > 1 {
                let _ = replies.try_send(response);
                return None;
            }
            response.result = Err("more messages came than were asked for".to_owned());
            response.more = false;
        }
        let waiter = waiter.remove();
        drop(state);
        // The caller may give up at this very moment.
        match waiter {
            Waiter::Reply(caller) => drop(caller.send(response.result)),
            Waiter::Replies(replies) => drop(replies.try_send(response)),
        }
        None
    }

    /// Fails every waiting request and all that come later.
    pub(super) fn close(&self, reason: CloseReason) {
        let mut state = self.lock();
        state.closed.get_or_insert(reason);
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        self.turns.close();
        drop(waiting);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lock().waiting.is_empty()
    }

    /// Waits until no request waits, where that comes by giving up; a reply wakes the link task
    /// anyway. May return too early.
    pub(super) async fn emptied(&self) {
        self.emptied.notified().await;
    }

    pub(super) fn close_reason(&self) -> CloseReason {
        self.lock().closed.clone().unwrap_or(CloseReason::Here)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that can panic runs under this lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The next number that no request waits with; there are far more numbers than turns.
    fn next_number(&mut self) -> i64 {
        loop {
            self.last = if self.last >= RequestNo::MAX.0 {
                1
            } else {
                self.last + 1
            };
            if !self.waiting.contains_key(&self.last) {
                return self.last;
            }
        }
    }
}

/// A request on its way; dropped, it is forgotten.
pub(super) struct Call<'a> {
    pending: &'a Pending,
    no: i64,
    reply: oneshot::Receiver<Result<Value, String>>,
    _turn: SemaphorePermit<'a>,
}

impl Call<'_> {
    pub(super) fn no(&self) -> RequestNo {
        RequestNo(self.no)
    }

    /// Waits for the reply.
    pub(super) async fn reply(mut self) -> Result<Value, CallError> {
        match (&mut self.reply).await {
            Ok(result) => result.map_err(CallError::Refused),
            Err(_) => Err(CallError::Closed(self.pending.close_reason())),
        }
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.pending.forget(self.no);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[tokio::test]
    async fn numbers_wrap_skip_zero_and_avoid_those_in_use() {
        let pending = Pending::new();
        pending.lock().last = 999_998;
        let first = pending.begin().await.unwrap();
        let second = pending.begin().await.unwrap();
        assert_eq!(
            (first.no(), second.no()),
            (RequestNo(999_999), RequestNo(1))
        );
        pending.lock().last = 999_998;
        assert_eq!(pending.begin().await.unwrap().no(), RequestNo(2));
    }

    #[tokio::test]
    async fn a_request_given_up_is_forgotten_and_a_close_fails_the_rest() {
        let pending = Pending::new();
        let kept = pending.begin().await.unwrap();
        let dropped = pending.begin().await.unwrap();
        let late = Response {
            no: dropped.no(),
            result: Ok(Value::Null),
            more: false,
        };
        drop(dropped);
        assert_eq!(pending.resolve(late.clone()), Some(late));
        assert_eq!(pending.lock().waiting.len(), 1);
        pending.close(CloseReason::Peer);
        assert_eq!(
            kept.reply().await,
            Err(CallError::Closed(CloseReason::Peer))
        );
        assert!(matches!(
            pending.begin().await,
            Err(CallError::Closed(CloseReason::Peer))
        ));
    }
}
