//! The payload of a job: read right before its launch, written to its standard input beside everything else.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use tokio::io::AsyncWrite;
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::{Captured, End, Order};
use crate::follow::Feed;
use crate::job::Job;
use crate::store::StoreError;

/// Where payloads are read: `None` where the row is not the job's any more. The launcher knows no more of the table.
pub type Payloads =
    Arc<dyn Fn(Job) -> BoxFuture<'static, Result<Option<Vec<u8>>, StoreError>> + Send + Sync>;

/// Between two tries to read a payload while the database is away.
const PAUSE: Duration = Duration::from_millis(500);

/// Reads a job's payload, however long that takes; or how the job ended without a process. Who wants to follow it
/// meanwhile is kept in `followers`.
pub(super) async fn read(
    payloads: &Payloads,
    job: &Job,
    orders: &mut mpsc::Receiver<Order>,
    followers: &mut Vec<Feed>,
) -> Result<Vec<u8>, End> {
    let payload = async {
        loop {
            match payloads(job.clone()).await {
                Ok(Some(payload)) => return Ok(payload),
                Ok(None) => {
                    let why = "its row was changed by somebody else before its data was read";
                    return Err(End::never_started(126, why));
                }
                Err(StoreError::Unavailable(error) | StoreError::Locked(error)) => {
                    tracing::debug!(job = %job.id, error, "cannot read the data of a job yet");
                    sleep(PAUSE).await;
                }
                Err(error) => {
                    return Err(End::never_started(
                        126,
                        &format!("cannot read its data: {error}"),
                    ));
                }
            }
        }
    };
    tokio::pin!(payload);
    loop {
        tokio::select! {
            payload = &mut payload => return payload,
            Some(order) = orders.recv() => match order {
                Order::Stop { reason, note, .. } => {
                    let mut stderr = Captured::default();
                    stderr.note(note);
                    return Err(End {
                        code: None,
                        signal: None,
                        stdout: Captured::default(),
                        stderr,
                        ended: Instant::now(),
                        cause: Some(reason),
                        usage: None,
                    });
                }
                Order::Follow(feed) => followers.push(feed),
                // Nobody to signal yet: dropping the order says so.
                Order::Signal(..) => {}
            },
        }
    }
}

/// What is still to be written to a process. What it does not read is nobody's loss.
pub(super) struct Input<W> {
    pipe: Option<W>,
    payload: Vec<u8>,
    written: usize,
}

impl<W: AsyncWrite + Unpin> Input<W> {
    /// Without a payload the pipe, if there is one, is closed at once.
    pub(super) fn new(pipe: Option<W>, payload: Option<Vec<u8>>) -> Self {
        let payload = payload.unwrap_or_default();
        Self {
            pipe: pipe.filter(|_| !payload.is_empty()),
            payload,
            written: 0,
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.pipe.is_some()
    }

    /// The process reads the end of it, whatever was left; the payload's memory is free.
    pub(super) fn close(&mut self) {
        self.pipe = None;
        self.payload = Vec::new();
    }

    /// Writes what fits, and closes the pipe behind the last byte. Cancel-safe.
    pub(super) async fn write(&mut self) {
        poll_fn(|task| self.poll_write(task)).await;
    }

    fn poll_write(&mut self, task: &mut Context<'_>) -> Poll<()> {
        let Some(pipe) = &mut self.pipe else {
            return Poll::Ready(());
        };
        let rest = &self.payload[self.written..];
        match ready!(Pin::new(pipe).poll_write(task, rest)) {
            Ok(written) if written > 0 && written < rest.len() => self.written += written,
            // All of it is there; or its reader has gone, which is its own choice.
            Ok(_) | Err(_) => self.close(),
        }
        Poll::Ready(())
    }
}
