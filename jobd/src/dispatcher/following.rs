//! Who follows which job. A job that nobody follows is looked up in an empty map when it starts and when it ends, and
//! that is all.

use std::collections::BTreeMap;

use jobd_proto::follow::Follow;
use jobd_proto::{JobId, RequestError};
use tokio::sync::oneshot;

use super::Dispatcher;
use crate::follow::{self, Ending, Feed, Follower, MAX_PER_JOB};
use crate::job::Job;
use crate::launcher::{Attempt, Order};
use crate::store::Finish;

/// Followers of all jobs, those that wait for a start included; each may hold some hundred KiB.
const MAX_FOLLOWERS: usize = 256;

/// Where a job is when somebody begins to follow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Here, its attempt of this number.
    Running(u32),
    /// Here, and not started yet.
    Accepted,
    /// Not here.
    Elsewhere,
}

/// The answer to a `follow`.
pub type FollowReply = oneshot::Sender<Result<(Place, Follower), RequestError>>;

/// The followers by job; none of a job that has ended.
#[derive(Debug, Default)]
pub(super) struct Followers(BTreeMap<JobId, Vec<Feed>>);

impl Followers {
    /// Forgets whoever has gone.
    fn prune(&mut self) {
        self.0.retain(|_, feeds| {
            feeds.retain(|feed| !feed.is_gone());
            !feeds.is_empty()
        });
    }

    fn check_room(&self, id: JobId) -> Result<(), RequestError> {
        let of_job = self.0.get(&id).map_or(0, Vec::len);
        if of_job >= MAX_PER_JOB {
            return Err(RequestError(format!(
                "{MAX_PER_JOB} clients follow job {id} already"
            )));
        }
        if self.0.values().map(Vec::len).sum::<usize>() >= MAX_FOLLOWERS {
            return Err(RequestError(format!(
                "{MAX_FOLLOWERS} clients follow jobs of this worker already"
            )));
        }
        Ok(())
    }

    fn end(&mut self, id: JobId, ending: &Ending) {
        for feed in self.0.remove(&id).into_iter().flatten() {
            feed.end(ending.clone());
        }
    }
}

impl Dispatcher {
    pub(super) fn follow(&mut self, follow: Follow, answer: FollowReply) {
        self.followers.prune();
        // A client that has gone away needs no answer.
        let _ = answer.send(self.begin_to_follow(follow));
    }

    fn begin_to_follow(&mut self, follow: Follow) -> Result<(Place, Follower), RequestError> {
        self.followers.check_room(follow.id)?;
        let (feed, follower) = follow::new(follow.tail);
        let held = || {
            self.holding
                .values()
                .filter(|held| held.job.id == follow.id)
        };
        let running = held().find_map(|held| Some((&held.job, held.attempt.as_ref()?)));
        let place = if let Some((job, attempt)) = running {
            if !attempt.order(Order::Follow(feed.clone())) {
                return Err(RequestError(format!(
                    "too many clients have come and gone while job {} is being started: try again",
                    follow.id
                )));
            }
            Place::Running(job.attempt)
        } else if let Some(held) = held().next() {
            match held.ended {
                Some(_) => Place::Running(held.job.attempt),
                None => Place::Accepted,
            }
        } else if self.targets.queued().any(|id| id == follow.id) {
            Place::Accepted
        } else {
            Place::Elsewhere
        };
        let stays = match place {
            Place::Running(_) => true,
            Place::Accepted => follow.wait,
            // It may come while its row is looked at.
            Place::Elsewhere => follow.wait || !follow.local,
        };
        if stays {
            self.followers.0.entry(follow.id).or_default().push(feed);
        }
        Ok((place, follower))
    }

    /// Shows a process that is about to be started to those who wait for it.
    pub(super) fn show(&self, job: &Job, attempt: &Attempt) {
        for feed in self.followers.0.get(&job.id).into_iter().flatten() {
            feed.started(job.attempt);
            attempt.order(Order::Follow(feed.with_all()));
        }
    }

    /// The row says how the job ended, or that it runs again.
    pub(super) fn tell_followers(&mut self, finish: &Finish) {
        if finish.again.is_some() {
            self.leave_followers(&finish.job);
        } else if !self.followers.0.is_empty() {
            let ending = Ending::Done {
                result: finish.result,
                code: finish.code,
                signal: finish.signal.clone(),
            };
            self.followers.end(finish.job.id, &ending);
        }
    }

    /// The attempt is over, and the job is not.
    pub(super) fn leave_followers(&mut self, job: &Job) {
        self.followers.end(job.id, &Ending::Over);
    }
}
