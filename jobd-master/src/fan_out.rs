//! One request to several workers at a time, each with a deadline of its own, so that one that
//! hangs or dies costs only its own part. What the answers mean together is told in `merge`.

use futures::future;
use jobd_proto::JobId;
use jobd_proto::master::{MasterSignalReply, SignalJob, WorkerInfo};
use jobd_proto::worker::WorkerRequest;
use jobd_proto::{RequestError, TargetName, Targets};
use serde_json::Value;

use crate::hub::{Hub, Part, Stopped};
use crate::member::{Member, Trouble};
use crate::merge;

/// What one worker said.
pub type Answer = (Member, Result<Value, Trouble>);

/// Pauses or continues; `request` makes the request of the targets that a worker serves.
pub async fn tell(
    hub: &Hub,
    targets: Targets,
    request: impl Fn(Targets) -> WorkerRequest,
) -> Result<Value, RequestError> {
    let parts = hub.split_targets(targets).await?;
    let parts = parts
        .into_iter()
        .map(|(member, targets)| (member, request(targets)));
    merge::all_did_it(&ask(parts).await)
}

/// Changes the limit of a target on the workers that serve it, or on those of them with this name.
pub async fn limit(
    hub: &Hub,
    target: TargetName,
    concurrency: u32,
    worker: Option<&str>,
) -> Result<Value, RequestError> {
    let targets = Targets::Named(vec![target.to_string()]);
    let mut parts = hub.split_targets(targets).await?;
    parts.retain(|(member, _)| worker.is_none_or(|name| *member.name == *name));
    if parts.is_empty() {
        return Err(merge::nobody(target.as_str(), worker).into());
    }
    let request = WorkerRequest::SetTargetConcurrency {
        target,
        concurrency,
    };
    let parts = parts
        .into_iter()
        .map(|(member, _)| (member, request.clone()));
    merge::all_did_it(&ask(parts).await)
}

/// Every worker, where wanted with its own status.
pub async fn list(hub: &Hub, poll_workers: bool) -> Result<Vec<WorkerInfo>, Stopped> {
    let listed = hub.list().await?;
    if !poll_workers {
        return Ok(listed
            .iter()
            .map(|(member, targets)| describe(member, targets))
            .collect());
    }
    let parts = listed
        .iter()
        .map(|(member, _)| (member.clone(), WorkerRequest::Status));
    let answers = ask(parts).await;
    let told = listed.iter().zip(answers);
    Ok(told
        .map(|((member, targets), (_, answer))| {
            let mut info = describe(member, targets);
            merge::add_status(&mut info, member, answer);
            info
        })
        .collect())
}

/// Sends each signal through every worker of its target.
pub async fn signal(hub: &Hub, jobs: Vec<SignalJob>) -> Result<MasterSignalReply, Stopped> {
    let shares = hub.split_signals(jobs).await?;
    let mut reply = MasterSignalReply::default();
    for (id, target) in shares.unserved {
        reply.errors.insert(id, merge::unserved(&target));
    }
    let asked: Vec<Vec<JobId>> = shares.parts.iter().map(|(_, jobs)| ids(jobs)).collect();
    let parts = shares
        .parts
        .into_iter()
        .map(|(member, jobs)| (member, WorkerRequest::SendSignal { jobs }));
    for ((member, answer), asked) in ask(parts).await.into_iter().zip(asked) {
        merge::add_signals(&mut reply, &asked, &member, answer);
    }
    merge::forgive_delivered(&mut reply);
    Ok(reply)
}

/// Asks everybody at once; the answers come in the order of the parts.
pub async fn ask(parts: impl Iterator<Item = Part<WorkerRequest>>) -> Vec<Answer> {
    let ask = async |(member, request): Part<WorkerRequest>| {
        let answer = member.ask_soon(&request).await;
        (member, answer)
    };
    future::join_all(parts.map(ask)).await
}

fn ids(jobs: &[(JobId, i32)]) -> Vec<JobId> {
    jobs.iter().map(|(id, _)| *id).collect()
}

fn describe(member: &Member, targets: &[TargetName]) -> WorkerInfo {
    let address = member.connection.peer().addr;
    WorkerInfo {
        remote_addr: address.map_or_else(String::new, |address| address.ip().to_string()),
        remote_port: address.map_or(0, |address| address.port()),
        targets: targets.iter().map(ToString::to_string).collect(),
        name: member.name.to_string(),
        worker_status: None,
        worker_status_error: None,
    }
}
