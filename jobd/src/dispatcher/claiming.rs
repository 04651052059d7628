//! Rows in and rows back: when to look at the table, what to claim, what to do when that fails.

use jobd_proto::{JobId, RequestError, TargetName};
use tokio::time::Instant as Deadline;

use super::{Dispatcher, DrainState, Event, REST, SHUTTING_DOWN, reply};
use crate::clock;
use crate::job::{Job, Origin};
use crate::ledger::Entry;
use crate::store::{Claimed, Names, StoreError};
use crate::targets::Search;
use crate::waiters::Ticket;

impl Dispatcher {
    pub(super) fn claim(&mut self, target: TargetName, asked: u32) {
        let token = self.tokens.next(Origin::Background);
        let (store, sender) = (self.store.clone(), self.sender.clone());
        let (turns, drain) = (self.claim_turns.clone(), self.shutdown.drain.clone());
        let retry = self.settings.per_target.of(&target).retries.retry;
        tokio::spawn(async move {
            let _turn = turns.acquire_owned().await;
            // Claims that wait for a slow database must not hold up a shutdown one after the other.
            let claimed = if drain.is_cancelled() {
                Err(StoreError::Unavailable(SHUTTING_DOWN.to_owned()))
            } else {
                store.claim(token, target.clone(), asked, retry + 1).await
            };
            drop(sender.send(Event::Claimed {
                target,
                asked,
                claimed,
            }));
        });
    }

    pub(super) fn claimed(
        &mut self,
        target: &TargetName,
        asked: u32,
        claimed: Result<Claimed, StoreError>,
    ) {
        if self.drain == DrainState::Working {
            self.note_outage(claimed.as_ref().err());
        }
        match claimed {
            Ok(Claimed { jobs, refused, .. }) => {
                tracing::debug!(%target, rows = jobs.len(), "claimed");
                let full = jobs.len() >= asked as usize;
                let (cancelled, jobs): (Vec<Job>, Vec<Job>) =
                    jobs.into_iter().partition(|job| job.terms.cancel);
                if full && !cancelled.is_empty() || !refused.is_empty() {
                    self.targets.want(std::slice::from_ref(target));
                }
                self.cancel_accepted(cancelled);
                for job in self.targets.claimed(target, asked, jobs, clock::now()) {
                    self.release(job);
                }
            }
            Err(_) => self.targets.claim_failed(target, clock::now() + REST),
        }
    }

    /// Says once that the database is away, and once that it is back.
    pub(super) fn note_outage(&mut self, error: Option<&StoreError>) {
        match (error, self.outage) {
            (Some(error), None) => {
                tracing::error!(%error, "cannot claim jobs, trying again until it works");
                self.outage = Some(clock::now());
            }
            (Some(error), Some(_)) => tracing::debug!(%error, "still cannot claim jobs"),
            (None, Some(since)) => {
                tracing::info!(after = ?since.elapsed(), "claiming jobs again");
                self.outage = None;
            }
            (None, None) => {}
        }
    }

    pub(super) fn release(&mut self, job: Job) {
        self.releasing += 1;
        self.ledger.write(Entry::Release(job));
    }

    /// Asks which idle targets have rows, and for names that patterns serve; a poke that got lost costs at most
    /// this interval.
    pub(super) fn look(&mut self) {
        self.schedule_poll();
        self.targets.search();
        let targets = self.targets.hungry(clock::now());
        if self.looking || targets.is_empty() {
            return;
        }
        self.looking = true;
        let (store, sender) = (self.store.clone(), self.sender.clone());
        tokio::spawn(async move {
            let found = store.pending(targets).await;
            drop(sender.send(Event::Pending(found)));
        });
    }

    pub(super) fn pending(&mut self, found: Result<Vec<TargetName>, StoreError>) {
        self.looking = false;
        self.note_outage(found.as_ref().err());
        if let Ok(targets) = found {
            self.targets.want(&targets);
        }
    }

    /// Looks for names of a pattern that have waiting rows.
    pub(super) fn search(&mut self, search: Search) {
        let (store, sender) = (self.store.clone(), self.sender.clone());
        tokio::spawn(async move {
            let found = store.names(search.prefix.clone(), search.after.clone());
            let found = found.await;
            drop(sender.send(Event::Names(search, found)));
        });
    }

    pub(super) fn names(&mut self, search: &Search, found: Result<Names, StoreError>) {
        self.note_outage(found.as_ref().err());
        match found {
            Ok(Names { names, more }) => self.targets.found(search, names, more),
            Err(_) => self.targets.search_failed(search),
        }
    }

    /// Plans the next look, a little off the interval so that many workers do not ask in step.
    pub(super) fn schedule_poll(&mut self) {
        let interval = self.settings.limits.poll_interval;
        if !interval.is_zero() && self.drain == DrainState::Working {
            self.next_poll =
                Some(Deadline::now() + interval.mul_f64(0.9 + 0.2 * self.host.random()));
        }
    }

    pub(super) fn wake(&mut self) {
        self.keep_guard();
        let now = clock::now();
        self.targets.wake(now);
        for job in self.targets.stale(now) {
            tracing::debug!(job = %job.id, target = %job.target, "no slot came free for a row claimed ahead, giving it back");
            self.release(job);
        }
    }

    pub(super) fn manual_claimed(
        &mut self,
        ticket: Ticket,
        ids: &[JobId],
        claimed: Result<Claimed, StoreError>,
    ) {
        self.manual_claims -= 1;
        let claimed = match claimed {
            Ok(claimed) => claimed,
            Err(error) => {
                tracing::error!(%error, jobs = ids.len(), "cannot claim manual jobs");
                if let Some(reply) = self.waiters.cancel(ticket) {
                    reply.send(Err(RequestError(error.to_string())));
                }
                return;
            }
        };
        let (cancelled, jobs): (Vec<Job>, Vec<Job>) =
            claimed.jobs.into_iter().partition(|job| job.terms.cancel);
        self.cancel_accepted(cancelled);
        for job in jobs {
            if let Err(job) = self.targets.push_manual(job) {
                let draining = self.drain != DrainState::Working;
                let reason = if draining {
                    SHUTTING_DOWN
                } else {
                    "its target was removed"
                };
                self.back_out(job, reason);
            }
        }
        for (id, error) in claimed.errors {
            reply(self.waiters.failed(id, error));
        }
    }
}
