//! Requests that a worker serves, and its replies. Must not know how they are carried out.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::arguments::{Arguments, check_signal, integer, kind_of};
use crate::follow::{self, Follow};
use crate::memory::MemoryUsage;
use crate::{JobId, JobResult, RequestError, TargetName, Targets};

/// A request to a worker, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkerRequest {
    /// Look for waiting rows; answered at once.
    Poll(Targets),
    /// Start nothing more; running jobs are not touched.
    Pause(Targets),
    /// Start again, and poll.
    Continue(Targets),
    /// Say what is going on.
    Status,
    /// Run these `manual` rows now and answer with their results.
    RunManual {
        /// Each once, in the order of the request.
        ids: Vec<JobId>,
    },
    /// Send signals to running jobs.
    SendSignal {
        /// Job and signal number, in the order of the ids.
        jobs: Vec<(JobId, i32)>,
    },
    /// End these jobs: queued ones at once, running ones by the kill ladder.
    Cancel {
        /// Each once, in the order of the request.
        ids: Vec<JobId>,
        /// Only those that this worker has; nothing is said of others.
        held: bool,
    },
    /// Serve one more target.
    AddTarget {
        /// Its name.
        target: TargetName,
        /// Jobs that may run at a time; at least 1.
        concurrency: u32,
    },
    /// Serve a target no longer.
    RemoveTarget {
        /// Its name.
        target: TargetName,
    },
    /// Change how many jobs of a target may run at a time.
    SetTargetConcurrency {
        /// Its name.
        target: TargetName,
        /// Jobs that may run at a time; at least 1.
        concurrency: u32,
    },
    /// Say what a job writes, while it writes it.
    Follow(Follow),
}

impl WorkerRequest {
    /// Reads the `type` and `data` of a request; the error's text is the answer.
    pub fn parse(kind: &str, data: &Value) -> Result<Self, RequestError> {
        let arguments = Arguments::new(data);
        match kind {
            "poll" => Targets::parse(&arguments).map(Self::Poll),
            "pause" => Targets::parse(&arguments).map(Self::Pause),
            "continue" => Targets::parse(&arguments).map(Self::Continue),
            "status" => Ok(Self::Status),
            "run-manual" => Ok(Self::RunManual {
                ids: arguments.ids()?,
            }),
            "send-signal" => parse_signals(arguments.get("jobs")),
            "cancel" => Ok(Self::Cancel {
                ids: arguments.ids()?,
                held: arguments.flag("held"),
            }),
            "add-target" => Ok(Self::AddTarget {
                target: arguments.target()?,
                concurrency: arguments.concurrency()?,
            }),
            "remove-target" => Ok(Self::RemoveTarget {
                target: arguments.target()?,
            }),
            "set-target-concurrency" => Ok(Self::SetTargetConcurrency {
                target: arguments.target()?,
                concurrency: arguments.concurrency()?,
            }),
            follow::KIND => Follow::parse(&arguments).map(Self::Follow),
            _ => Err(RequestError::unknown_type(kind)),
        }
    }

    /// The `type` on the wire.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Poll(_) => "poll",
            Self::Pause(_) => "pause",
            Self::Continue(_) => "continue",
            Self::Status => "status",
            Self::RunManual { .. } => "run-manual",
            Self::SendSignal { .. } => "send-signal",
            Self::Cancel { .. } => "cancel",
            Self::Follow(_) => follow::KIND,
            Self::AddTarget { .. } => "add-target",
            Self::RemoveTarget { .. } => "remove-target",
            Self::SetTargetConcurrency { .. } => "set-target-concurrency",
        }
    }

    /// The `data` on the wire; `Null` for no arguments.
    pub fn data(&self) -> Value {
        match self {
            Self::Poll(targets) | Self::Pause(targets) | Self::Continue(targets) => targets.data(),
            Self::Status => Value::Null,
            Self::RunManual { ids } | Self::Cancel { ids, held: false } => json!({ "ids": ids }),
            Self::Cancel { ids, held: true } => json!({ "ids": ids, "held": true }),
            Self::Follow(follow) => follow.data(),
            Self::SendSignal { jobs } => {
                let jobs: Map<_, _> = jobs
                    .iter()
                    .map(|(id, signal)| (id.to_string(), (*signal).into()))
                    .collect();
                json!({ "jobs": jobs })
            }
            Self::AddTarget {
                target,
                concurrency,
            }
            | Self::SetTargetConcurrency {
                target,
                concurrency,
            } => {
                json!({ "target": target, "concurrency": concurrency })
            }
            Self::RemoveTarget { target } => json!({ "target": target }),
        }
    }
}

fn parse_signals(jobs: Option<&Value>) -> Result<WorkerRequest, RequestError> {
    let jobs = match jobs {
        Some(Value::Object(jobs)) => jobs,
        // What PHP makes of an empty map.
        Some(Value::Array(none)) if none.is_empty() => &Map::new(),
        _ => return Err(RequestError::new("jobs must be object")),
    };
    let jobs: Result<BTreeMap<JobId, i32>, RequestError> = jobs
        .iter()
        .map(|(id, signal)| {
            let number = integer(signal).ok_or_else(|| {
                RequestError(format!(
                    "all signals must be numbers, got {}",
                    kind_of(signal)
                ))
            })?;
            Ok((id.parse::<JobId>()?, check_signal(number)?))
        })
        .collect();
    Ok(WorkerRequest::SendSignal {
        jobs: jobs?.into_iter().collect(),
    })
}

/// The answer to `status`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// Every served target by name.
    pub targets: BTreeMap<String, TargetStatus>,
    /// Manual jobs that a client waits for.
    #[serde(rename = "jobPromisesCount")]
    pub waiters: usize,
    /// Memory of the worker's process.
    #[serde(rename = "memoryUsage")]
    pub memory_usage: MemoryUsage,
    /// The worker's name; the original says none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The worker's version; the original says none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Seconds since the worker started; the original says none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uptime: Option<u64>,
    /// Keys of a version that this one does not know; a master hands them on.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// One target in a worker's status.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TargetStatus {
    /// Whether it starts no jobs at present.
    pub paused: bool,
    /// Jobs that may run at a time.
    pub concurrency: u32,
    /// Jobs queued and running.
    pub length: usize,
    /// Of these, running; the original does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<usize>,
    /// Of these, queued; the original does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queued: Option<usize>,
    /// Keys of a version that this one does not know.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// The answer to `run-manual`, of a worker and of a master. A key that would be empty is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunManualReply {
    /// Jobs that ran.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub jobs: BTreeMap<JobId, JobOutcome>,
    /// Why each of the others did not.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub errors: BTreeMap<JobId, String>,
}

/// How one manual job ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobOutcome {
    /// `ok` or `fail`.
    pub result: JobResult,
    /// Exit code; `null` after a signal.
    pub code: Option<i32>,
    /// Name of the signal that ended it.
    pub signal: Option<String>,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// Bytes that the outputs of a reply to `run-manual` may take on the wire, where a byte can become
/// six (`\u0000`): what [`crate::codec::MAX_FRAME_WORKER`] holds, less room for everything else.
pub const MAX_REPLY_OUTPUT: usize = 240 << 20;

impl RunManualReply {
    /// Bytes of all outputs together, in memory; on the wire they take up to six times as many.
    pub fn output_bytes(&self) -> usize {
        self.outputs().map(String::len).sum()
    }

    fn outputs(&self) -> impl Iterator<Item = &String> {
        let jobs = self.jobs.values();
        jobs.flat_map(|job| [&job.stdout, &job.stderr])
    }

    /// Shortens the longest outputs until all together take at most `limit` bytes on the wire. A
    /// shortened output ends in a line that says so; the row in the table has it whole. What a
    /// worker has shortened its master may shorten again: the line then counts both.
    pub fn shorten_outputs(&mut self, limit: usize) {
        if self.output_bytes() <= limit / 6 {
            return;
        }
        let mut lengths: Vec<usize> = self
            .outputs()
            .map(|output| output.bytes().map(wire_length).sum())
            .collect();
        lengths.sort_unstable();
        let Some(share) = fair_share(&lengths, limit) else {
            return;
        };
        for output in self
            .jobs
            .values_mut()
            .flat_map(|job| [&mut job.stdout, &mut job.stderr])
        {
            shorten(output, share);
        }
    }
}

/// Bytes that one byte of a string takes as JSON.
fn wire_length(byte: u8) -> usize {
    match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 2,
        0..0x20 => 6,
        _ => 1,
    }
}

/// The most that every output may keep for all to fit, or `None` if they fit already.
fn fair_share(sorted: &[usize], limit: usize) -> Option<usize> {
    let mut left = limit;
    for (at, length) in sorted.iter().enumerate() {
        let share = left / (sorted.len() - at);
        if *length > share {
            return Some(share);
        }
        left -= length;
    }
    None
}

/// Cuts an output to `share` bytes on the wire, the note about it included.
fn shorten(output: &mut String, share: usize) {
    /// Longer than the note with the largest number.
    const NOTE: usize = 90;
    let mut taken = 0;
    let mut keep = 0;
    for (at, byte) in output.bytes().enumerate() {
        taken += wire_length(byte);
        if taken > share {
            break;
        }
        if taken + NOTE <= share {
            keep = at + 1;
        }
    }
    if taken <= share {
        return;
    }
    let missing_before = take_note(output);
    let keep = output.floor_char_boundary(keep);
    let missing = output.len() - keep + missing_before;
    output.truncate(keep);
    if share >= NOTE {
        let note = format!("{NOTE_START}{missing}{NOTE_END}");
        output.push_str(&note);
    }
    output.shrink_to_fit();
}

const NOTE_START: &str = "\n[";
const NOTE_END: &str = " bytes left out of this reply; the table has them]\n";

/// Takes the note off an output that was shortened before; returns the bytes that it counts.
fn take_note(output: &mut String) -> usize {
    let note = output
        .strip_suffix(NOTE_END)
        .and_then(|rest| rest.rsplit_once(NOTE_START))
        .and_then(|(body, missing)| Some((body.len(), missing.parse().ok()?)));
    let Some((length, missing)) = note else {
        return 0;
    };
    output.truncate(length);
    missing
}

impl From<RunManualReply> for Value {
    /// Moves the outputs, which may be long, instead of copying them.
    fn from(reply: RunManualReply) -> Self {
        let mut data = Map::new();
        if !reply.jobs.is_empty() {
            let jobs: Map<_, _> = reply
                .jobs
                .into_iter()
                .map(|(id, job)| (id.to_string(), job.into()))
                .collect();
            data.insert("jobs".to_owned(), jobs.into());
        }
        if !reply.errors.is_empty() {
            let errors: Map<_, _> = reply
                .errors
                .into_iter()
                .map(|(id, text)| (id.to_string(), text.into()))
                .collect();
            data.insert("errors".to_owned(), errors.into());
        }
        data.into()
    }
}

impl From<JobOutcome> for Value {
    fn from(job: JobOutcome) -> Self {
        let fields: [(&str, Self); 5] = [
            ("result", job.result.as_str().into()),
            ("code", job.code.into()),
            ("signal", job.signal.into()),
            ("stdout", job.stdout.into()),
            ("stderr", job.stderr.into()),
        ];
        fields
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect::<Map<_, _>>()
            .into()
    }
}

/// The answer of a worker to `send-signal`: whether the signal of each job was delivered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SignalReply(pub BTreeMap<JobId, bool>);

/// The answer to `cancel`, of a worker and of a master. A key that would be empty is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CancelReply {
    /// What becomes of each job.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub jobs: BTreeMap<JobId, CancelFate>,
    /// Why nothing could be done about the others.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub errors: BTreeMap<JobId, String>,
}

/// What becomes of a job that is to be cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CancelFate {
    /// Its row says so: it never ran, or was stopped before.
    #[serde(rename = "cancelled")]
    Cancelled,
    /// Its process has been told to stop.
    #[serde(rename = "stopping")]
    Stopping,
    /// Its row asks the worker that has it, which sees that within a second.
    #[serde(rename = "requested")]
    Requested,
    /// It had ended by itself.
    #[serde(rename = "too late")]
    TooLate,
}
