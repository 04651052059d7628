//! One registered worker as the rest of the master sees it: somebody to ask, with or without a
//! deadline. Knows nothing about other workers.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jobd_proto::connection::REFUSED_CLOSING;
use jobd_proto::worker::WorkerRequest;
use jobd_proto::{CallError, CloseReason, Connection};
use serde_json::Value;

use crate::registry::WorkerId;

/// How long a worker may take to answer anything but a manual run. All that it has to do is
/// answer from memory; the installed clients give up after a minute.
pub const DEADLINE: Duration = Duration::from_secs(5);

/// A worker to ask; cheap to clone. Its `Display` is `worker 'web3' (10.0.0.3:4711)`.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its registration.
    pub id: WorkerId,
    /// What it calls itself.
    pub name: Arc<str>,
    /// The way to it.
    pub connection: Connection,
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let peer = self.connection.peer();
        write!(f, "worker '{}' ({peer})", self.name.escape_debug())
    }
}

/// Why a worker gave no data. Fits behind the worker's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// It answered with this error.
    #[error(": {0}")]
    Refused(String),
    /// It is closing this connection and did not look at the request.
    #[error(" is closing its connection")]
    Closing,
    /// The connection ended first.
    #[error(" disconnected before answering")]
    Gone(CloseReason),
    /// No answer within the deadline.
    #[error(" did not answer within {} s", .0.as_secs())]
    Late(Duration),
}

impl Member {
    /// Asks and waits for the answer for as long as the worker is there.
    pub async fn ask(&self, request: &WorkerRequest) -> Result<Value, Trouble> {
        let answer = self
            .connection
            .request(request.kind(), request.data(), None)
            .await;
        answer.map_err(|error| match error {
            CallError::Refused(text) if text == REFUSED_CLOSING => Trouble::Closing,
            CallError::Refused(text) => Trouble::Refused(text),
            CallError::Closed(reason) => Trouble::Gone(reason),
            other => Trouble::Refused(other.to_string()),
        })
    }

    /// Asks and waits for [`DEADLINE`] at most.
    pub async fn ask_soon(&self, request: &WorkerRequest) -> Result<Value, Trouble> {
        tokio::time::timeout(DEADLINE, self.ask(request))
            .await
            .unwrap_or(Err(Trouble::Late(DEADLINE)))
    }
}
