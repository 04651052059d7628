//! Cancels jobs wherever they are: whoever has one ends it, and one worker sees to the rows of the others, as
//! the master has no database.

use std::time::Duration;

use jobd_proto::JobId;
use jobd_proto::worker::{CancelReply, WorkerRequest};

use crate::hub::{Hub, Stopped};
use crate::{fan_out, merge};

/// How often everybody is asked again about jobs that somebody had claimed, or locked, in between.
const ROUNDS: u32 = 3;

/// Before they are: claims take milliseconds.
const PAUSE: Duration = Duration::from_millis(100);

/// Cancels `ids` and says what becomes of each.
pub async fn run(hub: &Hub, ids: Vec<JobId>) -> Result<CancelReply, Stopped> {
    let mut reply = CancelReply::default();
    let mut left = ids;
    for round in 0..ROUNDS {
        if round > 0 {
            tokio::time::sleep(PAUSE).await;
        }
        reply.errors.clear();
        ask_all(hub, &mut left, &mut reply).await?;
        ask_one(hub, &mut left, &mut reply).await?;
        left.retain(|id| {
            let error = reply.errors.get(id);
            error.is_some_and(|error| !error.ends_with("not found"))
        });
        if left.is_empty() {
            break;
        }
    }
    Ok(reply)
}

/// Has every worker end what it has.
async fn ask_all(hub: &Hub, left: &mut Vec<JobId>, reply: &mut CancelReply) -> Result<(), Stopped> {
    let request = WorkerRequest::Cancel {
        ids: left.clone(),
        held: true,
    };
    let members = hub.list().await?.into_iter();
    let parts = members.map(|(member, _)| (member, request.clone()));
    for (member, answer) in fan_out::ask(parts).await {
        // One that cannot say has nothing that we could know of: the row tells.
        if let Err(trouble) = merge::add_cancelled(reply, &member, answer) {
            tracing::debug!("cancel: {trouble}");
        }
    }
    left.retain(|id| !reply.jobs.contains_key(id));
    Ok(())
}

/// Has the first worker that can do it see to the rows.
async fn ask_one(hub: &Hub, left: &mut Vec<JobId>, reply: &mut CancelReply) -> Result<(), Stopped> {
    if left.is_empty() {
        return Ok(());
    }
    let request = WorkerRequest::Cancel {
        ids: left.clone(),
        held: false,
    };
    let mut why = "no worker is registered".to_owned();
    for (member, _) in hub.list().await? {
        let answer = member.ask_soon(&request).await;
        match merge::add_cancelled(reply, &member, answer) {
            Ok(()) => {
                left.retain(|id| !reply.jobs.contains_key(id));
                return Ok(());
            }
            Err(trouble) => why = trouble,
        }
    }
    reply
        .errors
        .extend(left.iter().map(|id| (*id, why.clone())));
    Ok(())
}
