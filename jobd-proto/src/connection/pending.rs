//! Requests that wait for the peer's reply. Knows no sockets.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use tokio::sync::{Notify, Semaphore, SemaphorePermit, oneshot};

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
    waiting: HashMap<i64, oneshot::Sender<Result<Value, String>>>,
    closed: Option<CloseReason>,
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
        let turn = self.turns.acquire().await;
        let mut state = self.lock();
        if let Some(reason) = &state.closed {
            return Err(CallError::Closed(reason.clone()));
        }
        let turn = turn.expect("turns end after the reason is set");
        let no = state.next_number();
        let (sender, reply) = oneshot::channel();
        state.waiting.insert(no, sender);
        Ok(Call {
            pending: self,
            no,
            reply,
            _turn: turn,
        })
    }

    /// Brings a reply to its caller; one that nobody waits for is given back.
    pub(super) fn resolve(&self, response: Response) -> Option<Response> {
        let Some(caller) = self.lock().waiting.remove(&response.no.0) else {
            return Some(response);
        };
        // The caller may give up at this very moment.
        let _ = caller.send(response.result);
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
        let mut state = self.pending.lock();
        let given_up = state.waiting.remove(&self.no).is_some();
        if given_up && state.waiting.is_empty() {
            self.pending.emptied.notify_one();
        }
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
