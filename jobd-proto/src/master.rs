//! Requests that a master serves, and its replies. Must not know how they are carried out.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::arguments::{Arguments, kind_of};
use crate::follow::{self, Follow};
use crate::memory::MemoryUsage;
use crate::worker::WorkerStatus;
use crate::{JobId, RequestError, TargetName, Targets};

/// A request to a master, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MasterRequest {
    /// The peer is a worker and serves requests on this connection from now on.
    RegisterWorker {
        /// Not empty; need not be unique.
        name: String,
        /// What it serves; not empty.
        targets: Vec<TargetName>,
    },
    /// Have the workers of these targets poll; answered at once.
    Poke(Targets),
    /// Pause these targets on every worker that serves them.
    Pause(Targets),
    /// Continue these targets on every worker that serves them.
    Continue(Targets),
    /// List the workers.
    Status {
        /// Whether to ask each for its own status.
        poll_workers: bool,
    },
    /// Run these `manual` rows on workers that serve their targets.
    RunManual {
        /// In the order of the request.
        jobs: Vec<ManualJob>,
    },
    /// End these jobs, wherever they are.
    Cancel {
        /// Each once, in the order of the request.
        ids: Vec<JobId>,
    },
    /// Change how many jobs of a target may run at a time, on every worker that serves it or on one.
    SetTargetConcurrency {
        /// Its name.
        target: TargetName,
        /// Jobs that each of these workers may run at a time; at least 1.
        concurrency: u32,
        /// Only the workers of this name.
        worker: Option<String>,
    },
    /// Send signals to running jobs, whichever worker runs them.
    SendSignal {
        /// In the order of the request.
        jobs: Vec<SignalJob>,
    },
    /// Say what a job writes, while it writes it, whichever worker runs it.
    Follow(Follow),
}

/// A job to run by hand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManualJob {
    /// Its row.
    pub id: JobId,
    /// Its target, which chooses the worker; taken as it was written.
    pub target: String,
}

/// A job to send a signal to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignalJob {
    /// Its row.
    pub id: JobId,
    /// Signal number, 1 to 64.
    pub signal: i32,
    /// Its target, which chooses the workers; taken as it was written.
    pub target: String,
}

impl MasterRequest {
    /// Reads the `type` and `data` of a request; the error's text is the answer.
    pub fn parse(kind: &str, data: &Value) -> Result<Self, RequestError> {
        let arguments = Arguments::new(data);
        match kind {
            "register-worker" => parse_registration(&arguments),
            "poke" => Targets::parse(&arguments).map(Self::Poke),
            "pause" => Targets::parse(&arguments).map(Self::Pause),
            "continue" => Targets::parse(&arguments).map(Self::Continue),
            "status" => Ok(Self::Status {
                poll_workers: arguments.flag("poll_workers"),
            }),
            "run-manual" => {
                let job = |job: &Arguments<'_>| {
                    Ok(ManualJob {
                        id: job.job_id()?,
                        target: job.text("target")?.to_owned(),
                    })
                };
                Ok(Self::RunManual {
                    jobs: parse_jobs(&arguments, job)?,
                })
            }
            "cancel" => Ok(Self::Cancel {
                ids: arguments.ids()?,
            }),
            "set-target-concurrency" => Ok(Self::SetTargetConcurrency {
                target: arguments.target()?,
                concurrency: arguments.concurrency()?,
                worker: match arguments.get("worker") {
                    None | Some(Value::Null) => None,
                    Some(_) => Some(arguments.text("worker")?.to_owned()),
                },
            }),
            "send-signal" => {
                let job = |job: &Arguments<'_>| {
                    Ok(SignalJob {
                        id: job.job_id()?,
                        signal: job.signal()?,
                        target: job.text("target")?.to_owned(),
                    })
                };
                Ok(Self::SendSignal {
                    jobs: parse_jobs(&arguments, job)?,
                })
            }
            follow::KIND => Follow::parse(&arguments).map(Self::Follow),
            _ => Err(RequestError::unknown_type(kind)),
        }
    }

    /// The `type` on the wire.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::RegisterWorker { .. } => "register-worker",
            Self::Poke(_) => "poke",
            Self::Pause(_) => "pause",
            Self::Continue(_) => "continue",
            Self::Status { .. } => "status",
            Self::RunManual { .. } => "run-manual",
            Self::Cancel { .. } => "cancel",
            Self::SetTargetConcurrency { .. } => "set-target-concurrency",
            Self::SendSignal { .. } => "send-signal",
            Self::Follow(_) => follow::KIND,
        }
    }

    /// The `data` on the wire; `Null` for no arguments.
    pub fn data(&self) -> Value {
        match self {
            Self::RegisterWorker { name, targets } => json!({ "targets": targets, "name": name }),
            Self::Poke(targets) | Self::Pause(targets) | Self::Continue(targets) => targets.data(),
            Self::Status { poll_workers } => json!({ "poll_workers": poll_workers }),
            Self::RunManual { jobs } => json!({ "jobs": jobs }),
            Self::Cancel { ids } => json!({ "ids": ids }),
            Self::SetTargetConcurrency {
                target,
                concurrency,
                worker,
            } => match worker {
                None => json!({ "target": target, "concurrency": concurrency }),
                Some(worker) => {
                    json!({ "target": target, "concurrency": concurrency, "worker": worker })
                }
            },
            Self::SendSignal { jobs } => json!({ "jobs": jobs }),
            Self::Follow(follow) => follow.data(),
        }
    }
}

fn parse_registration(arguments: &Arguments<'_>) -> Result<MasterRequest, RequestError> {
    let targets = Targets::parse_named(arguments.get("targets").unwrap_or(&Value::Null))?
        .into_iter()
        .map(|target| TargetName::new(target).map_err(RequestError))
        .collect::<Result<_, _>>()?;
    match arguments.get("name") {
        Some(Value::String(name)) if !name.is_empty() => Ok(MasterRequest::RegisterWorker {
            name: name.clone(),
            targets,
        }),
        _ => Err(RequestError::new("name is missing or invalid")),
    }
}

fn parse_jobs<T>(
    arguments: &Arguments<'_>,
    job: impl Fn(&Arguments<'_>) -> Result<T, RequestError>,
) -> Result<Vec<T>, RequestError> {
    let Some(Value::Array(jobs)) = arguments.get("jobs") else {
        return Err(RequestError::new("jobs must be array"));
    };
    jobs.iter()
        .map(|value| match value {
            Value::Object(_) => job(&Arguments::new(value)),
            other => Err(RequestError(format!(
                "all jobs must be objects, {} given",
                kind_of(other)
            ))),
        })
        .collect()
}

/// The answer to `status`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MasterStatus {
    /// Registered workers.
    pub workers: Vec<WorkerInfo>,
    /// Memory of the master's process.
    #[serde(rename = "memoryUsage")]
    pub memory_usage: MemoryUsage,
    /// Keys of a version that this one does not know.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// One worker in a master's status.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkerInfo {
    /// Where it comes from.
    pub remote_addr: String,
    /// Where it comes from.
    pub remote_port: u16,
    /// What it serves.
    pub targets: Vec<String>,
    /// What it calls itself.
    #[serde(default)]
    pub name: String,
    /// Its own status, where it was asked and answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker_status: Option<WorkerStatus>,
    /// Why it has no status, where it was asked and failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker_status_error: Option<String>,
}

/// The answer of a master to `send-signal`: what the workers said, and why others were not asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MasterSignalReply {
    /// Why a job's workers could not be asked; absent where it would be empty.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub errors: BTreeMap<JobId, String>,
    /// Whether the signal was delivered by any worker, by job id.
    #[serde(flatten)]
    pub delivered: BTreeMap<String, bool>,
}
