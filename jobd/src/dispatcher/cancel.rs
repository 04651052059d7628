//! Cancellations: of what we run by its kill ladder, of everything else by its row. Asked for by clients, or
//! by the row itself.

use std::collections::{BTreeMap, HashSet};

use jobd_proto::JobId;
use jobd_proto::worker::{CancelFate, CancelReply};
use tokio::sync::oneshot;

use super::{Dispatcher, Event, REST, slot};
use crate::clock;
use crate::fate::Reason;
use crate::job::Job;
use crate::launcher::End;
use crate::leases::Lease;
use crate::ledger::Entry;
use crate::store::{CANCEL_NOTE, Cancelled, REQUESTS, StoreError, Wish};

/// What jobs are told in their `stderr`.
const CANCELLED: &str = "stopped because it was cancelled";

/// The way to answer a client.
pub(super) type Answer = oneshot::Sender<CancelReply>;

/// Rows that the store has cancelled, or not.
#[derive(Debug)]
pub(super) struct Ended {
    /// Of these, those that we had accepted.
    jobs: Vec<Job>,
    fates: Result<BTreeMap<JobId, Cancelled>, StoreError>,
    /// Who asked, and what he is told already; nobody, where the rows did.
    client: Option<(Answer, Vec<JobId>, CancelReply)>,
    /// There may be more requests than one look has shown.
    more: bool,
}

impl Dispatcher {
    /// `cancel`: of `ids` what we have, and the others too, unless only what we `held` is meant.
    pub(super) fn cancel(&mut self, ids: Vec<JobId>, held: bool, answer: Answer) {
        let mut reply = CancelReply::default();
        let (mut wishes, mut jobs, mut asked) = (Vec::new(), Vec::new(), Vec::new());
        // A client may name a million ids, and only few of them are ours.
        let ours: HashSet<JobId> = self.held_rows().into_iter().collect();
        for id in ids {
            let is_ours = ours.contains(&id);
            if let Some(fate) = is_ours.then(|| self.cancel_held(id)).flatten() {
                reply.jobs.insert(id, fate);
                continue;
            }
            let queued = if is_ours {
                self.targets.forget(id)
            } else {
                Vec::new()
            };
            if queued.is_empty() && held {
                continue;
            }
            wishes.extend(queued.iter().map(|job| (id, Some(job.token.clone()))));
            if queued.is_empty() {
                wishes.push((id, None));
            }
            asked.push(id);
            jobs.extend(queued);
        }
        if wishes.is_empty() {
            // A client that has gone away needs no answer.
            drop(answer.send(reply));
        } else {
            self.cancel_rows(wishes, jobs, Some((answer, asked, reply)), false);
        }
    }

    /// Cancels jobs that were accepted and have not begun.
    pub(super) fn cancel_accepted(&mut self, jobs: Vec<Job>) {
        if !jobs.is_empty() {
            let wishes = jobs.iter().map(|job| (job.id, Some(job.token.clone())));
            self.cancel_rows(wishes.collect(), jobs, None, false);
        }
    }

    /// A job whose row says `running` and that has no process: it ends as if it had been stopped.
    pub(super) fn end_cancelled(&mut self, job: Job) {
        if let Some(held) = self.holding.get_mut(&slot(&job)) {
            held.ended = Some((None, None));
        }
        self.targets.ending(&job.target);
        let end = End::before_launch(Reason::Cancelled, CANCEL_NOTE);
        self.ledger.write(Entry::Finish(job, end, None));
    }

    /// Whether a job that has a slot is to end.
    pub(super) fn is_cancelled(&self, job: &Job) -> bool {
        self.holding
            .get(&slot(job))
            .is_some_and(|held| held.cancelled)
    }

    /// Cancels a job that has a slot; `None` where none has one. It stays ours until its end is written.
    fn cancel_held(&mut self, id: JobId) -> Option<CancelFate> {
        let mut fate = None;
        for held in self.holding.values_mut().filter(|held| held.job.id == id) {
            // What is being given back is nobody's in a moment.
            if held.leaving {
                continue;
            }
            if held.ended.is_some() {
                fate = fate.or(Some(CancelFate::TooLate));
                continue;
            }
            fate = Some(CancelFate::Stopping);
            if !std::mem::replace(&mut held.cancelled, true) {
                held.stop_for(Reason::Cancelled, CANCELLED, None);
                tracing::info!(job = %id, target = %held.job.target, "cancelling");
            }
        }
        fate
    }

    fn cancel_rows(
        &mut self,
        wishes: Vec<Wish>,
        jobs: Vec<Job>,
        client: Option<(Answer, Vec<JobId>, CancelReply)>,
        more: bool,
    ) {
        self.cancelling.extend(jobs.iter().map(slot));
        let (store, sender) = (self.store.clone(), self.sender.clone());
        // A request in a row can wait for the next look; a client and a claim cannot.
        let patient = client.is_some() || !jobs.is_empty();
        tokio::spawn(async move {
            let fates = store.cancel(wishes, patient).await;
            drop(sender.send(Event::Cancelled(Ended {
                jobs,
                fates,
                client,
                more,
            })));
        });
    }

    /// The store has cancelled rows.
    pub(super) fn rows_cancelled(&mut self, ended: Ended) {
        let Ended {
            jobs,
            fates,
            client,
            more,
        } = ended;
        for job in jobs {
            self.cancelling.remove(&slot(&job));
            let refused = match &fates {
                Ok(fates) => match fates.get(&job.id) {
                    Some(Cancelled::Refused { error, passed }) => Some((error.clone(), *passed)),
                    Some(Cancelled::Unknown(error)) => Some((error.clone(), false)),
                    _ => None,
                },
                Err(error) => Some((error.to_string(), false)),
            };
            match refused {
                None => {
                    tracing::info!(job = %job.id, target = %job.target, "cancelled");
                    self.fail_waiter(&job, "was cancelled");
                    self.free_slot(&job);
                }
                // Its row may say `done` all the same, and then this changes nothing.
                Some((error, passed)) => {
                    // The next claim might bring it again, and be as vain.
                    if !passed {
                        self.targets.rest(&job.target, clock::now() + REST);
                    }
                    self.back_out(job, &error);
                }
            }
        }
        match (fates, client) {
            (Ok(fates), Some((answer, asked, mut reply))) => {
                for id in asked {
                    tell(&mut reply, id, fates.get(&id));
                }
                drop(answer.send(reply));
            }
            (Err(error), Some((answer, asked, mut reply))) => {
                let fate = Cancelled::from(&error);
                for id in asked {
                    tell(&mut reply, id, Some(&fate));
                }
                drop(answer.send(reply));
            }
            (Ok(fates), None) => {
                let ended = fates.values().filter(|fate| **fate == Cancelled::Ended);
                let rows = ended.count();
                if rows > 0 {
                    tracing::info!(rows, "cancelled rows that asked for it");
                }
                // What somebody has locked would be found again, and nothing else.
                let settled = |fate| matches!(fate, &Cancelled::Ended | &Cancelled::TooLate);
                if more && fates.values().any(settled) {
                    self.look_at_once();
                }
            }
            (Err(error), None) => tracing::debug!(%error, "cannot cancel rows yet"),
        }
    }

    /// What of the rows that ask for it is ours is stopped, what is nobody's is ended; the others see to theirs.
    pub(super) fn requests(&mut self, rows: Vec<Lease>) {
        let more = rows.len() == REQUESTS;
        let (mut wishes, mut jobs) = (Vec::new(), Vec::new());
        let ours: HashSet<JobId> = self.held_rows().into_iter().collect();
        for row in rows {
            let free = !matches!(row.status.as_str(), "accepted" | "running");
            if free {
                wishes.push((row.id, None));
            } else if ours.contains(&row.id) && self.cancel_held(row.id).is_none() {
                let queued = self.targets.forget(row.id);
                wishes.extend(queued.iter().map(|job| (job.id, Some(job.token.clone()))));
                jobs.extend(queued);
            }
        }
        if !wishes.is_empty() {
            self.cancel_rows(wishes, jobs, None, more);
        }
    }
}

/// What a client is told of a row that was not ours.
fn tell(reply: &mut CancelReply, id: JobId, fate: Option<&Cancelled>) {
    let said = match fate {
        Some(Cancelled::Ended) => Ok(CancelFate::Cancelled),
        Some(Cancelled::TooLate) => Ok(CancelFate::TooLate),
        Some(Cancelled::Asked) => Ok(CancelFate::Requested),
        Some(Cancelled::Held) => Err(format!(
            "another worker has job {id}, and the table has no column cancel_requested: ask that worker, or the master"
        )),
        Some(Cancelled::Locked) => Err(format!("somebody has job {id} locked, try again later")),
        Some(Cancelled::Refused { error, .. }) => {
            Err(format!("job {id} cannot be cancelled: {error}"))
        }
        Some(Cancelled::Unknown(error)) => Err(format!(
            "nobody knows whether job {id} is cancelled ({error}): ask again"
        )),
        Some(Cancelled::Missing) | None => Err(format!("job {id} not found")),
    };
    match said {
        Ok(fate) => reply.jobs.extend([(id, fate)]),
        Err(error) => reply.errors.extend([(id, error)]),
    }
}
