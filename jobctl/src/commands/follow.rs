//! `follow`: what a job writes, while it writes it, on the streams that it came from.

use std::io::{self, IsTerminal as _, Write};

use jobd_proto::JobId;
use jobd_proto::connection::Reply;
use jobd_proto::follow::{Follow, Followed, Output, State, Stream};
use jobd_proto::worker::{JobOutcome, WorkerRequest};
use serde_json::Value;

use super::logs::shown;
use super::outcome::Ending;
use super::{Context, ids};
use crate::cli::{FollowArgs, JobRef};
use crate::failure::Failure;
use crate::output::{complain, plain};

/// Shows it until the job ends, and ends as it did.
pub(crate) async fn run(context: &Context, args: FollowArgs) -> Result<u8, Failure> {
    let job = JobRef {
        id: args.id,
        target: None,
    };
    let Some(job) = ids::named(context, vec![job]).await?.pop() else {
        return Err(Failure::Usage("no job to follow".to_owned()));
    };
    let id = job.id;
    let plain = Follow::new(id);
    let request = WorkerRequest::Follow(Follow {
        tail: args.tail.map_or(plain.tail, |tail| tail as usize),
        wait: args.wait,
        ..plain
    });
    let client = context.client().await?;
    let mut replies = client.stream(request.kind(), request.data()).await?;
    let mut view = View::new(id, context.screen.is_json());
    loop {
        let reply = tokio::select! {
            biased;
            reply = client.next(request.kind(), &mut replies) => reply?,
            _ = tokio::signal::ctrl_c() => {
                return Err(Failure::Interrupted(format!("job {id} goes on")));
            }
        };
        let shown = match reply {
            Reply::More(message) => view.show(message).await,
            Reply::Last(message) => return view.end(message).await,
        };
        match shown {
            // Whoever has read this has seen enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(0),
            Err(error) => {
                return Err(Failure::Refused(format!(
                    "cannot write the output: {error}"
                )));
            }
            Ok(()) => {}
        }
    }
}

/// How it is shown.
struct View {
    id: JobId,
    json: bool,
    /// The job was seen running.
    ran: bool,
}

impl View {
    fn new(id: JobId, json: bool) -> Self {
        Self {
            id,
            json,
            ran: false,
        }
    }

    async fn show(&mut self, message: Value) -> io::Result<()> {
        self.ran |= message.get("state").is_some_and(|state| state == "running");
        if self.json {
            return self.line(&message).await;
        }
        // Messages of a later version that this one does not know are none of its business.
        match serde_json::from_value(message) {
            Ok(Followed::Output(output)) => self.output(output).await,
            Ok(Followed::State(_)) | Err(_) => Ok(()),
        }
    }

    async fn line(&self, message: &Value) -> io::Result<()> {
        write(Stream::Stdout, format!("{message}\n").into_bytes()).await
    }

    async fn output(&self, output: Output) -> io::Result<()> {
        let (stream, missed) = (output.stream, output.missed);
        let (name, terminal) = match stream {
            Stream::Stdout => ("stdout", io::stdout().is_terminal()),
            Stream::Stderr => ("stderr", io::stderr().is_terminal()),
        };
        if missed > 0 {
            complain(&format!("jobctl: {missed} bytes of {name} left out here"));
        }
        let mut bytes = output.into_bytes();
        if terminal {
            bytes = for_terminal(&String::from_utf8_lossy(&bytes)).into_bytes();
        }
        write(stream, bytes).await
    }

    /// How it ended: the exit code, as that of a job that was run here.
    async fn end(&mut self, message: Value) -> Result<u8, Failure> {
        if self.json {
            let written = self.line(&message).await;
            written
                .map_err(|error| Failure::Refused(format!("cannot write the output: {error}")))?;
        }
        let id = self.id;
        let state: State = serde_json::from_value(message).map_err(|error| {
            Failure::Refused(format!("cannot read how job {id} stands: {error}"))
        })?;
        if let Some(result) = state.result.filter(|_| state.state == "done") {
            let outcome = JobOutcome {
                result,
                code: state.code,
                signal: state.signal,
                stdout: String::new(),
                stderr: String::new(),
            };
            let ending = Ending::of_outcome(&outcome);
            if !self.ran {
                let words = ending.words();
                complain(&format!(
                    "jobctl: job {id} has ended before: {words}; jobctl logs {id} shows its output"
                ));
            } else if !ending.is_ok() {
                complain(&format!("jobctl: job {id}: {}", ending.words()));
            }
            return Ok(ending.exit_code());
        }
        let now = plain(&state.state);
        Err(Failure::Refused(match state.worker {
            _ if self.ran => format!("the attempt of job {id} was cut short; the job is {now} now"),
            Some(worker) => format!(
                "job {id} is {now} on {}: ask that worker, or its master",
                plain(&worker)
            ),
            None => format!("job {id} is {now}; --wait follows it from its start"),
        }))
    }
}

/// Without what could steer a terminal, its lines as they are.
fn for_terminal(text: &str) -> String {
    let mut safe = shown(text, true);
    if !text.ends_with('\n') {
        safe.pop();
    }
    safe
}

/// Writes aside, so that the connection is served while nobody reads.
async fn write(to: Stream, bytes: Vec<u8>) -> io::Result<()> {
    let writing = tokio::task::spawn_blocking(move || {
        let to: &mut dyn Write = match to {
            Stream::Stdout => &mut io::stdout(),
            Stream::Stderr => &mut io::stderr(),
        };
        to.write_all(&bytes)?;
        to.flush()
    });
    writing.await.map_err(io::Error::other).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_followed_job_cannot_steer_the_terminal() {
        assert_eq!(for_terminal("a\n\tb \x1b[2J"), "a\n\tb \\u{1b}[2J");
        assert_eq!(for_terminal("a\n"), "a\n");
        assert_eq!(for_terminal(""), "");
    }
}
