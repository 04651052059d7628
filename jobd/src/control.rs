//! Serves requests, whoever brings them: clients on the worker's port, masters on their links. One
//! short handler per request; the dispatcher does the work.

use jobd_proto::follow;
use jobd_proto::worker::WorkerRequest;
use jobd_proto::{IncomingRequest, RequestError};
use serde_json::{Value, json};

use crate::dispatcher::Handle;
use crate::follow::serve;

/// Answers a request in a task of its own: `run-manual` may take hours, and others are not to wait
/// behind it.
pub fn serve(dispatcher: &Handle, mut incoming: IncomingRequest) {
    let dispatcher = dispatcher.clone();
    tokio::spawn(async move {
        if incoming.request.kind == follow::KIND {
            return stream(&dispatcher, incoming).await;
        }
        let data = std::mem::take(&mut incoming.request.data);
        let answer = answer(&dispatcher, &incoming.request.kind, data).await;
        incoming.respond(answer);
    });
}

/// Answers what is answered by several messages.
async fn stream(dispatcher: &Handle, incoming: IncomingRequest) {
    match WorkerRequest::parse(&incoming.request.kind, &incoming.request.data) {
        Ok(WorkerRequest::Follow(follow)) => {
            let responses = incoming.stream();
            let last = serve::serve(dispatcher, follow, &responses).await;
            responses.end(last);
        }
        Ok(other) => incoming.respond(Err(RequestError::unknown_type(other.kind()))),
        Err(error) => incoming.respond(Err(error)),
    }
}

/// Lets go of the arguments once they are read: the answer may be hours away.
async fn answer(dispatcher: &Handle, kind: &str, data: Value) -> Result<Value, RequestError> {
    let request = WorkerRequest::parse(kind, &data);
    drop(data);
    match request? {
        WorkerRequest::Status => to_json(&dispatcher.status().await?),
        WorkerRequest::RunManual { ids } => {
            let mut reply = dispatcher.run_manual(ids).await?;
            reply.shorten_outputs(jobd_proto::worker::MAX_REPLY_OUTPUT);
            to_json(&reply)
        }
        WorkerRequest::Cancel { ids, held } => to_json(&dispatcher.cancel(ids, held).await?),
        WorkerRequest::SendSignal { jobs } => to_json(&dispatcher.send_signal(jobs).await?),
        change @ (WorkerRequest::Poll(_)
        | WorkerRequest::Pause(_)
        | WorkerRequest::Continue(_)
        | WorkerRequest::AddTarget { .. }
        | WorkerRequest::RemoveTarget { .. }
        | WorkerRequest::SetTargetConcurrency { .. }) => {
            dispatcher.change(change).await.map(|()| json!("ok"))
        }
        // Taken out before: it is no single answer.
        WorkerRequest::Follow(_) => Err(RequestError::unknown_type(follow::KIND)),
    }
}

fn to_json(reply: &impl serde::Serialize) -> Result<Value, RequestError> {
    serde_json::to_value(reply).map_err(|error| RequestError(format!("internal error: {error}")))
}
