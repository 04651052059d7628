//! `follow`: what a job writes, while it writes it, as a stream of small messages. The same request for workers and
//! masters. Must not know how it is carried out.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::arguments::{Arguments, integer};
use crate::{JobId, JobResult, Progress, RequestError};

/// The `type` on the wire.
pub const KIND: &str = "follow";

/// Bytes of each output stream that a follower gets of what was written before it came, unless it says otherwise.
pub const DEFAULT_TAIL: usize = 64 << 10;
/// The most that it can ask for; a worker makes that room for each follower.
pub const MAX_TAIL: usize = 128 << 10;

/// A request to follow a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Follow {
    /// Its row.
    pub id: JobId,
    /// Bytes of each stream to begin with, of what was written already; at most [`MAX_TAIL`].
    pub tail: usize,
    /// Whether to wait for its start, where it has not started.
    pub wait: bool,
    /// Whether to answer from memory alone, without a look at the table: a master asks many workers.
    pub local: bool,
}

impl Follow {
    /// Follows from [`DEFAULT_TAIL`] on, if the job runs.
    pub fn new(id: JobId) -> Self {
        Self {
            id,
            tail: DEFAULT_TAIL,
            wait: false,
            local: false,
        }
    }

    pub(crate) fn parse(arguments: &Arguments<'_>) -> Result<Self, RequestError> {
        let tail = match arguments.get("tail") {
            None | Some(Value::Null) => DEFAULT_TAIL,
            Some(tail) => {
                let bytes = integer(tail).ok_or_else(|| "'tail' must be integer".to_owned())?;
                let bytes = usize::try_from(bytes)
                    .map_err(|_| format!("'tail' must not be negative, got {bytes}"))?;
                bytes.min(MAX_TAIL)
            }
        };
        Ok(Self {
            id: arguments.job_id()?,
            tail,
            wait: arguments.flag("wait"),
            local: arguments.flag("local"),
        })
    }

    /// The `data` on the wire.
    pub fn data(&self) -> Value {
        let mut data = json!({ "id": self.id, "tail": self.tail });
        for (name, flag) in [("wait", self.wait), ("local", self.local)] {
            if flag {
                data[name] = true.into();
            }
        }
        data
    }
}

/// One message of the answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Followed {
    /// What the job has written.
    Output(Output),
    /// Where it stands: the first message, whenever that changes, and the last.
    State(State),
    /// How far it has come, by its own account.
    Progress(Progress),
}

impl From<Followed> for Value {
    fn from(message: Followed) -> Self {
        serde_json::to_value(message).expect("every message is JSON")
    }
}

/// An output stream of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    /// As the wire calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// A piece of what a job has written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// Where it was written to.
    pub stream: Stream,
    /// How many bytes the job had written to that stream before.
    pub at: u64,
    /// How many of these, right before, the follower gets from nobody.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub missed: u64,
    /// The bytes, where they are valid UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    /// The bytes otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    base64: Option<String>,
}

impl Output {
    /// A piece of these bytes.
    pub fn new(stream: Stream, at: u64, missed: u64, bytes: Vec<u8>) -> Self {
        let (text, base64) = match String::from_utf8(bytes) {
            Ok(text) => (Some(text), None),
            Err(error) => (None, Some(BASE64_STANDARD.encode(error.as_bytes()))),
        };
        Self {
            stream,
            at,
            missed,
            text,
            base64,
        }
    }

    /// How long it is on the wire, more or less, in bytes.
    pub fn len(&self) -> usize {
        let [text, base64] =
            [&self.text, &self.base64].map(|text| text.as_ref().map_or(0, String::len));
        text + base64
    }

    /// Whether it only says that bytes are missing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes; of a peer that says something else than base64, none.
    pub fn into_bytes(self) -> Vec<u8> {
        let decode = |text| BASE64_STANDARD.decode(text).unwrap_or_default();
        match self.text {
            Some(text) => text.into_bytes(),
            None => self.base64.map(decode).unwrap_or_default(),
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's way")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Where a job stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// A status of the table, or `unknown`: the worker does not hold the job and was not to look into the table.
    pub state: String,
    /// The number of the attempt that runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// Who holds the job, where that is not who answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
    /// How it ended, where it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<JobResult>,
    /// Exit code, where it exited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<i32>,
    /// Name of the signal that ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
    /// Keys of a version that this one does not know.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl State {
    /// A state without further words.
    pub fn named(state: impl Into<String>) -> Self {
        Self {
            state: state.into(),
            ..Self::default()
        }
    }

    /// What a worker says that does not hold the job.
    pub const UNKNOWN: &str = "unknown";
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[track_caller]
    fn check(message: &Followed, wire: &Value) {
        assert_eq!(Value::from(message.clone()), *wire);
        let read: Followed = serde_json::from_value(wire.clone()).unwrap();
        assert_eq!(read, *message);
    }

    #[test]
    fn messages_are_written_as_they_are_read() {
        let text = Output::new(Stream::Stdout, 7, 0, "é\u{4}".into());
        check(
            &Followed::Output(text),
            &json!({"stream": "stdout", "at": 7, "text": "é\u{4}"}),
        );
        let bytes = Output::new(Stream::Stderr, 9, 2, vec![0xff, 0]);
        assert_eq!(bytes.clone().into_bytes(), [0xff, 0]);
        check(
            &Followed::Output(bytes),
            &json!({"stream": "stderr", "at": 9, "missed": 2, "base64": "/wA="}),
        );
        let progress = Progress::parse("40% copying").unwrap();
        check(
            &Followed::Progress(progress),
            &json!({"progress": "copying", "percent": 40}),
        );
        let done = State {
            result: Some(JobResult::Fail),
            code: Some(3),
            ..State::named("done")
        };
        check(
            &Followed::State(done),
            &json!({"state": "done", "result": "fail", "code": 3}),
        );
    }

    #[test]
    fn arguments_are_checked() {
        let parse = |data: Value| Follow::parse(&Arguments::new(&data));
        let plain = Follow::new(JobId(7));
        assert_eq!(parse(json!({"id": 7})), Ok(plain));
        assert_eq!(parse(json!({"id": 7, "tail": null, "wait": 0})), Ok(plain));
        let most = Follow {
            tail: MAX_TAIL,
            wait: true,
            ..plain
        };
        assert_eq!(
            parse(json!({"id": 7, "tail": 1_u64 << 40, "wait": true})),
            Ok(most)
        );
        assert_eq!(parse(most.data()), Ok(most));
        for (data, error) in [
            (json!({}), "missing required field id"),
            (json!({"id": "7"}), "'id' must be integer"),
            (
                json!({"id": 7, "tail": -1}),
                "'tail' must not be negative, got -1",
            ),
            (json!({"id": 7, "tail": "x"}), "'tail' must be integer"),
        ] {
            assert_eq!(parse(data), Err(RequestError::new(error)));
        }
    }
}
