//! What the answers of several workers mean together. Pure: nobody is asked here.

use std::fmt::{Display, Write as _};

use jobd_proto::master::{ManualJob, MasterSignalReply, WorkerInfo};
use jobd_proto::worker::{CancelReply, RunManualReply, SignalReply, WorkerStatus};
use jobd_proto::{JobId, RequestError};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::member::Trouble;

/// Workers that an error names one by one; of the others it says how many they are.
const NAMED: usize = 10;

/// The error of a job whose target nobody serves.
pub fn unserved(target: &str) -> String {
    format!("worker serving target '{target}' not found")
}

/// The error of a request about a target that nobody serves, or no worker of this name.
pub fn nobody(target: &str, worker: Option<&str>) -> String {
    match worker {
        None => unserved(target),
        Some(worker) => format!("worker '{worker}' serving target '{target}' not found"),
    }
}

/// `"ok"` where every worker did what it was told; otherwise on how many it worked, and what the
/// others said. A worker that is closing its connection is told on its next one, or is going.
pub fn all_did_it<M: Display>(
    answers: &[(M, Result<Value, Trouble>)],
) -> Result<Value, RequestError> {
    let there = answers
        .iter()
        .filter(|(_, answer)| *answer != Err(Trouble::Closing));
    let failed: Vec<(&M, &Trouble)> = there
        .clone()
        .filter_map(|(member, answer)| Some((member, answer.as_ref().err()?)))
        .collect();
    if failed.is_empty() {
        return Ok("ok".into());
    }
    let all = there.count();
    let mut text = format!("done on {} of {all} workers", all - failed.len());
    for (member, trouble) in failed.iter().take(NAMED) {
        // Writing to a string cannot fail.
        let _ = write!(text, "; {member}{trouble}");
    }
    if let Some(more @ 1..) = failed.len().checked_sub(NAMED) {
        let _ = write!(text, "; {more} more failed");
    }
    Err(text.into())
}

/// Adds what a worker says of itself, or why it does not.
pub fn add_status(info: &mut WorkerInfo, member: &impl Display, answer: Result<Value, Trouble>) {
    match answer.map(read::<WorkerStatus>) {
        Ok(Ok(status)) => info.worker_status = Some(status),
        Ok(Err(error)) => info.worker_status_error = Some(format!("{member}: {error}")),
        Err(trouble) => info.worker_status_error = Some(format!("{member}{trouble}")),
    }
}

/// Adds what a worker says about the signals of `asked`. A signal counts as delivered where any
/// worker delivered it.
pub fn add_signals(
    reply: &mut MasterSignalReply,
    asked: &[JobId],
    member: &impl Display,
    answer: Result<Value, Trouble>,
) {
    let trouble = match answer.map(read::<SignalReply>) {
        Ok(Ok(SignalReply(delivered))) => {
            for (id, delivered) in delivered.into_iter().filter(|(id, _)| asked.contains(id)) {
                *reply.delivered.entry(id.to_string()).or_default() |= delivered;
            }
            return;
        }
        Ok(Err(error)) => format!("{member}: {error}"),
        Err(trouble) => format!("{member}{trouble}"),
    };
    for id in asked {
        reply.errors.entry(*id).or_insert_with(|| trouble.clone());
    }
}

/// Adds what a worker says of jobs to cancel; what is wrong with the worker, if anything is.
pub fn add_cancelled(
    reply: &mut CancelReply,
    member: &impl Display,
    answer: Result<Value, Trouble>,
) -> Result<(), String> {
    let part = match answer.map(read::<CancelReply>) {
        Ok(Ok(part)) => part,
        Ok(Err(error)) => return Err(format!("{member}: {error}")),
        Err(trouble) => return Err(format!("{member}{trouble}")),
    };
    reply.jobs.extend(part.jobs);
    reply.errors.extend(part.errors);
    Ok(())
}

/// Adds a worker's part of a manual run: for each of `jobs` what the worker says, or why nothing
/// is known.
pub fn add_jobs(
    reply: &mut RunManualReply,
    jobs: &[ManualJob],
    member: &impl Display,
    answer: Result<Value, Trouble>,
) {
    let answer = answer.map(read::<RunManualReply>);
    let mut part = match answer {
        Ok(Ok(part)) => part,
        Ok(Err(error)) => return fail_jobs(reply, jobs, &format!("{member}: {error}{LOOK}")),
        Err(trouble @ Trouble::Gone(_)) => {
            return fail_jobs(reply, jobs, &format!("{member}{trouble}{LOOK}"));
        }
        Err(trouble) => return fail_jobs(reply, jobs, &format!("{member}{trouble}")),
    };
    for ManualJob { id, .. } in jobs {
        if let Some(outcome) = part.jobs.remove(id) {
            reply.jobs.insert(*id, outcome);
        } else {
            let error = part.errors.remove(id);
            let error = error.unwrap_or_else(|| format!("{member} did not mention it{LOOK}"));
            reply.errors.insert(*id, error);
        }
    }
}

/// What a client can do when nothing is known.
const LOOK: &str = "; look at the row";

/// Adds the same error for each of `jobs`.
pub fn fail_jobs(reply: &mut RunManualReply, jobs: &[ManualJob], error: &str) {
    for job in jobs {
        reply.errors.insert(job.id, error.to_owned());
    }
}

/// A reply as a type; the error is for whoever asked.
fn read<T: DeserializeOwned>(data: Value) -> Result<T, String> {
    serde_json::from_value(data).map_err(|error| format!("unreadable reply: {error}"))
}

/// Takes the errors of signals that somebody else delivered after all out.
pub fn forgive_delivered(reply: &mut MasterSignalReply) {
    let MasterSignalReply { errors, delivered } = reply;
    errors.retain(|id, _| delivered.get(&id.to_string()) != Some(&true));
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn text(answers: &[(String, Result<Value, Trouble>)]) -> String {
        match all_did_it(answers) {
            Ok(data) => data.to_string(),
            Err(error) => error.0,
        }
    }

    fn late(number: usize) -> (String, Result<Value, Trouble>) {
        let late = Trouble::Late(Duration::from_secs(5));
        (format!("worker '{number}' (1.2.3.4:{number})"), Err(late))
    }

    #[test]
    fn a_failure_on_many_workers_names_some_and_counts_the_rest() {
        let ok = |name: &str| (name.to_owned(), Ok(Value::from("ok")));
        assert_eq!(text(&[]), r#""ok""#);
        assert_eq!(text(&[ok("a"), ok("b")]), r#""ok""#);
        let closing = ("c".to_owned(), Err(Trouble::Closing));
        assert_eq!(text(&[ok("a"), closing.clone()]), r#""ok""#);
        assert_eq!(
            text(&[ok("a"), closing, late(7)]),
            "done on 1 of 2 workers; worker '7' (1.2.3.4:7) did not answer within 5 s"
        );
        let many: Vec<_> = (0..2_000).map(late).collect();
        let said = text(&many);
        assert!(
            said.starts_with("done on 0 of 2000 workers; worker '0' "),
            "{said}"
        );
        assert!(said.ends_with("; 1990 more failed"), "{said}");
        assert!(said.len() < 1_000, "{said}");
    }

    #[test]
    fn a_true_wins_over_every_false_and_every_failure() {
        let (one, two) = (JobId(1), JobId(2));
        let said = [
            Ok(serde_json::json!({"1": false, "2": false})),
            Err(Trouble::Late(Duration::from_secs(5))),
            Ok(serde_json::json!({"1": true})),
            Ok(serde_json::json!({"1": false})),
        ];
        let mut reply = MasterSignalReply::default();
        for answer in said {
            add_signals(&mut reply, &[one, two], &"w", answer);
        }
        forgive_delivered(&mut reply);
        assert_eq!(
            reply.delivered.into_iter().collect::<Vec<_>>(),
            [("1".to_owned(), true), ("2".to_owned(), false)]
        );
        assert_eq!(reply.errors.into_keys().collect::<Vec<_>>(), [two]);
    }
}
