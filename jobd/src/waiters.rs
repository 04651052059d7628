//! Which clients wait for which manual jobs. Pure.
//!
//! A client asks for several rows in one request and is answered once, when each of them has ended
//! or was refused. A row has one waiter at most.

use std::collections::HashMap;

use jobd_proto::JobId;
use jobd_proto::worker::{JobOutcome, RunManualReply};

/// Names a request among the waiting ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket(u64);

/// The waiting requests; `C` is how their client is answered.
#[derive(Debug)]
pub struct Waiters<C> {
    by_job: HashMap<JobId, Ticket>,
    requests: HashMap<Ticket, Request<C>>,
    last: u64,
}

#[derive(Debug)]
struct Request<C> {
    open: usize,
    reply: RunManualReply,
    client: C,
}

/// A client to answer now.
#[derive(Debug)]
pub struct Answer<C> {
    /// The client.
    pub client: C,
    /// Its reply.
    pub reply: RunManualReply,
}

impl<C> Waiters<C> {
    /// Nobody waits.
    pub fn new() -> Self {
        Self {
            by_job: HashMap::new(),
            requests: HashMap::new(),
            last: 0,
        }
    }

    /// Lets a client wait for these rows. Refused as a whole, with the client and the first row
    /// that somebody waits for already.
    pub fn reserve(&mut self, ids: &[JobId], client: C) -> Result<Ticket, (C, JobId)> {
        if let Some(id) = ids.iter().find(|id| self.by_job.contains_key(id)) {
            return Err((client, *id));
        }
        self.last += 1;
        let ticket = Ticket(self.last);
        self.by_job.extend(ids.iter().map(|id| (*id, ticket)));
        self.requests.insert(
            ticket,
            Request {
                open: ids.len(),
                reply: RunManualReply::default(),
                client,
            },
        );
        Ok(ticket)
    }

    /// Takes a request off the list before any of its rows ended, to be refused as a whole.
    pub fn cancel(&mut self, ticket: Ticket) -> Option<C> {
        self.by_job.retain(|_, other| *other != ticket);
        self.requests.remove(&ticket).map(|request| request.client)
    }

    /// A row has ended; the answer, if it was the last one that its client waited for.
    pub fn ended(&mut self, id: JobId, outcome: JobOutcome) -> Option<Answer<C>> {
        self.settle(id, |reply| drop(reply.jobs.insert(id, outcome)))
    }

    /// A row will not run.
    pub fn failed(&mut self, id: JobId, error: String) -> Option<Answer<C>> {
        self.settle(id, |reply| drop(reply.errors.insert(id, error)))
    }

    /// Rows that clients wait for.
    pub fn len(&self) -> usize {
        self.by_job.len()
    }

    fn settle(&mut self, id: JobId, note: impl FnOnce(&mut RunManualReply)) -> Option<Answer<C>> {
        let ticket = self.by_job.remove(&id)?;
        let request = self
            .requests
            .get_mut(&ticket)
            .expect("a waiting row belongs to a request");
        note(&mut request.reply);
        request.open -= 1;
        if request.open > 0 {
            return None;
        }
        let Request { reply, client, .. } = self.requests.remove(&ticket)?;
        Some(Answer { client, reply })
    }
}

#[cfg(test)]
mod tests {
    use jobd_proto::JobResult;

    use super::*;

    fn outcome() -> JobOutcome {
        JobOutcome {
            result: JobResult::Ok,
            code: Some(0),
            signal: None,
            stdout: String::new(),
            stderr: String::new(),
        }
    }

    #[test]
    fn a_client_is_answered_once_when_its_last_row_ended() {
        let mut waiters = Waiters::new();
        waiters.reserve(&[JobId(1), JobId(2)], "a").unwrap();
        assert_eq!(
            waiters.reserve(&[JobId(3), JobId(2)], "b").unwrap_err(),
            ("b", JobId(2))
        );
        assert_eq!(waiters.len(), 2, "a refused request reserves nothing");
        assert!(waiters.failed(JobId(2), "gone".into()).is_none());
        let answer = waiters.ended(JobId(1), outcome()).unwrap();
        assert_eq!(
            (
                answer.client,
                answer.reply.jobs.len(),
                answer.reply.errors.len()
            ),
            ("a", 1, 1)
        );
        assert!(waiters.ended(JobId(1), outcome()).is_none());
        assert_eq!(waiters.len(), 0);
    }
}
