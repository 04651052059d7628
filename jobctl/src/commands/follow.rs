//! `follow`: what a job writes, while it writes it, on the streams that it came from. `logs -f` and `run` show it in
//! the same way.

use std::io;
use std::time::Duration;

use jobd_proto::JobId;
use jobd_proto::connection::Reply;
use jobd_proto::follow::{Follow, State};
use jobd_proto::worker::{JobOutcome, WorkerRequest};
use serde_json::Value;

use super::live::View;
use super::outcome::Ending;
use super::{Context, ids};
use crate::cli::{FollowArgs, Ids, JobRef};
use crate::client::Client;
use crate::failure::Failure;
use crate::output::{complain, excerpt, plain};

/// Before a job that was cut short is followed again: its row is on its way.
pub(super) const PAUSE: Duration = Duration::from_millis(500);

/// Shows it until the job ends, and ends as it did.
pub(crate) async fn run(context: &Context, args: FollowArgs) -> Result<u8, Failure> {
    let job = JobRef {
        id: Ids::One(args.id),
        target: None,
    };
    let Some(job) = ids::named(context, vec![job]).await?.jobs.pop() else {
        return Err(Failure::Usage("no job to follow".to_owned()));
    };
    let id = job.id;
    let plain = Follow::new(id);
    let follow = Follow {
        tail: args.tail.map_or(plain.tail, |tail| tail as usize),
        wait: args.wait,
        ..plain
    };
    let client = context.client().await?;
    let mut view = if context.screen.is_json() {
        View::json(id)
    } else {
        View::passing(id)
    };
    let watched = tokio::select! {
        biased;
        watched = watch(&client, follow, &mut view) => watched?,
        _ = tokio::signal::ctrl_c() => {
            return Err(Failure::Interrupted(format!("job {id} goes on")));
        }
    };
    match watched {
        Watched::Last(message) => end(context, id, &mut view, message).await,
        Watched::Closed => Ok(0),
    }
}

/// How the watching ended.
pub(super) enum Watched {
    /// With the last message.
    Last(Value),
    /// Whoever reads what is shown has seen enough.
    Closed,
}

/// Shows what a daemon says of a job, but for the last message.
pub(super) async fn watch(
    client: &Client<'_>,
    follow: Follow,
    view: &mut View,
) -> Result<Watched, Failure> {
    let request = WorkerRequest::Follow(follow);
    view.asks();
    let mut replies = client.stream(request.kind(), request.data()).await?;
    loop {
        let message = match client.next(request.kind(), &mut replies).await? {
            Reply::More(message) => message,
            Reply::Last(message) => return Ok(Watched::Last(message)),
        };
        match view.show(message).await {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(Watched::Closed),
            Err(error) => return Err(unwritten(&error)),
        }
    }
}

/// What a last message says.
pub(super) fn state(context: &Context, id: JobId, message: Value) -> Result<State, Failure> {
    serde_json::from_value(message).map_err(|error| {
        let jobctl = context.jobctl();
        Failure::Refused(format!(
            "cannot read how job {id} stands ({}); {jobctl} doctor looks at who answers there",
            excerpt(&error.to_string())
        ))
    })
}

/// How a job ended, where that is what it says.
pub(super) fn outcome(state: &State) -> Option<JobOutcome> {
    let result = state.result.filter(|_| state.state == "done")?;
    Some(JobOutcome {
        result,
        code: state.code,
        signal: state.signal.clone(),
        stdout: String::new(),
        stderr: String::new(),
    })
}

/// The exit code, as that of a job that was run here.
async fn end(context: &Context, id: JobId, view: &mut View, message: Value) -> Result<u8, Failure> {
    match view.last(&message).await {
        // How the job ended is to be known all the same.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(unwritten(&error)),
        _ => {}
    }
    let state = state(context, id, message)?;
    if let Some(outcome) = outcome(&state) {
        let ending = Ending::of_outcome(&outcome);
        if !view.ran() {
            let (words, jobctl) = (ending.words(), context.jobctl());
            complain(&format!(
                "jobctl: job {id} has ended before: {words}; {jobctl} logs {id} shows its output"
            ));
        } else if !ending.is_ok() {
            complain(&format!("jobctl: job {id}: {}", ending.words()));
        }
        return Ok(ending.exit_code());
    }
    let now = plain(&state.state);
    Err(Failure::Refused(match state.worker {
        _ if view.ran() => {
            format!("the attempt of job {id} was cut short; the job is {now} now")
        }
        Some(worker) => elsewhere(id, &now, &worker),
        None => format!("job {id} is {now}; --wait follows it from its start"),
    }))
}

/// Somebody has the job whom the daemon does not know.
pub(super) fn elsewhere(id: JobId, state: &str, worker: &str) -> String {
    format!(
        "job {id} is {} on {}: ask that worker, or its master",
        plain(state),
        plain(worker)
    )
}

fn unwritten(error: &io::Error) -> Failure {
    Failure::Refused(format!("cannot write the output: {error}"))
}
