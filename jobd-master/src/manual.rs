//! A manual run: jobs are split over workers, each part is waited for as long as its worker is
//! there. Jobs may take hours. Nothing here ends with the client that asked: the jobs go on.

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use jobd_proto::master::ManualJob;
use jobd_proto::worker::{MAX_REPLY_OUTPUT, RunManualReply, WorkerRequest};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::hub::{Hub, Part, Stopped};
use crate::member::{Member, Trouble};
use crate::merge;

/// How often a part is given to another worker because its own was closing the connection. Each
/// time that worker is passed over afterwards, so that more takes a cluster in full flight.
const MAX_MOVES: usize = 5;

/// A part that has come to an end.
struct Ended {
    member: Member,
    jobs: Vec<ManualJob>,
    moves: usize,
    /// `None`: this master is stopping.
    answer: Option<Result<Value, Trouble>>,
}

/// Runs the jobs and returns when every part has come to an end, or `stopping` fires.
pub async fn run(
    hub: &Hub,
    jobs: Vec<ManualJob>,
    stopping: &CancellationToken,
) -> Result<RunManualReply, Stopped> {
    let mut reply = RunManualReply::default();
    let mut parts = FuturesUnordered::new();
    let mut unassigned = Some((jobs, 0));
    loop {
        if let Some((jobs, moves)) = unassigned.take() {
            let shares = hub.split_manual(jobs).await?;
            for (id, target) in shares.unserved {
                reply.errors.insert(id, merge::unserved(&target));
            }
            parts.extend(
                shares
                    .parts
                    .into_iter()
                    .map(|part| run_part(hub, part, moves, stopping)),
            );
        }
        let Some(ended) = parts.next().await else {
            reply.shorten_outputs(MAX_REPLY_OUTPUT);
            return Ok(reply);
        };
        let Ended {
            member,
            jobs,
            moves,
            answer,
        } = ended?;
        match answer {
            Some(Err(Trouble::Closing)) if moves < MAX_MOVES => {
                hub.retire(member.id).await?;
                unassigned = Some((jobs, moves + 1));
            }
            Some(answer) => merge::add_jobs(&mut reply, &jobs, &member, answer),
            None => {
                let error = format!("master stops before {member} has answered; look at the row");
                merge::fail_jobs(&mut reply, &jobs, &error);
            }
        }
        // Already here, so that many loud workers together stay within the limit. The exact
        // length on the wire, which takes a look at each byte, is for the end.
        if reply.output_bytes() > MAX_REPLY_OUTPUT {
            reply.shorten_outputs(MAX_REPLY_OUTPUT);
        }
    }
}

async fn run_part(
    hub: &Hub,
    (member, jobs): Part<Vec<ManualJob>>,
    moves: usize,
    stopping: &CancellationToken,
) -> Result<Ended, Stopped> {
    let ids = jobs.iter().map(|job| job.id).collect();
    let request = WorkerRequest::RunManual { ids };
    let answer = stopping.run_until_cancelled(member.ask(&request)).await;
    hub.answered(member.id, jobs.len()).await?;
    Ok(Ended {
        member,
        jobs,
        moves,
        answer,
    })
}
