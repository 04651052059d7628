//! Jobs that have a slot: launched when their row says `running`, over when it says `done`.

use jobd_proto::worker::JobOutcome;

use super::{Dispatcher, DrainState, Event, REST, reply, slot};
use crate::clock;
use crate::fate::{self, Fate, Reason};
use crate::faults::planted;
use crate::job::Job;
use crate::launcher::{Attempt, Outcome};
use crate::ledger::{Entry, Note};
use crate::store::Finish;

impl Dispatcher {
    pub(super) fn written(&mut self, note: Note) {
        match note {
            Note::Started(job) if self.is_cancelled(&job) => self.end_cancelled(job),
            Note::Started(job) if self.may_launch() => self.launch(job),
            Note::Started(job) => self.back_out(job, "this worker may begin nothing now"),
            Note::Lost(job) => {
                tracing::warn!(job = %job.id, target = %job.target, "row was changed by somebody else before its job started, leaving it alone");
                self.fail_waiter(&job, "was changed while it waited to start");
                self.free_slot(&job);
            }
            Note::Finished(finish) => self.finished(finish),
            Note::Unstartable { job, error, passed } => {
                if !passed {
                    tracing::error!(job = %job.id, target = %job.target, error, "row cannot be set to running, giving it back");
                    self.targets.rest(&job.target, clock::now() + REST);
                }
                if self.is_cancelled(&job) {
                    self.cancel_accepted(vec![job]);
                } else {
                    self.back_out(job, &error);
                }
            }
            Note::Released(job) => {
                self.releasing -= 1;
                self.free_slot(&job);
                // Its target may have looked for rows before this one was back.
                if !job.origin.is_manual() {
                    self.targets.want(&[job.target]);
                }
            }
            Note::Inherited(waiting) => self.resolve(waiting),
        }
    }

    fn may_launch(&self) -> bool {
        self.drain == DrainState::Working && !self.is_ending() && !self.is_striking()
    }

    fn launch(&mut self, job: Job) {
        self.keep_guard();
        tracing::debug!(job = %job.id, target = %job.target, "launching");
        let (slot, sender) = (slot(&job), self.sender.clone());
        // Later somebody else might start it as well.
        let risky = self.keeper.as_ref().filter(|_| job.again);
        let until = risky.map(|keeper| keeper.deadline(job.id));
        let attempt = Attempt::start(&*self.launcher, job.clone(), until, move |outcome| {
            drop(sender.send(Event::Exited(job, outcome)));
        });
        if let Some(held) = self.holding.get(&slot) {
            self.show(&held.job, &attempt);
        }
        if let Some(held) = self.holding.get_mut(&slot) {
            held.attempt = Some(attempt);
        }
        self.tell_guard();
    }

    pub(super) fn exited(&mut self, job: Job, outcome: Outcome) {
        let (mut struck, mut cancelled) = (false, false);
        if let Some(held) = self.holding.get_mut(&slot(&job)) {
            held.attempt = None;
            (struck, cancelled) = (held.struck, held.cancelled);
            if let Outcome::Ended(end) = &outcome {
                held.ended = Some((end.code, end.signal));
            }
        }
        self.tell_guard();
        match outcome {
            Outcome::Ended(mut end) => {
                if cancelled && end.code != Some(0) {
                    // Whatever else it was told to stop for: it is not to run again.
                    end.cause = Some(Reason::Cancelled);
                }
                tracing::debug!(job = %job.id, target = %job.target, code = end.code, signal = end.signal, "job ended");
                let retries = &self.settings.per_target.of(&job.target).retries;
                let chance = self.host.random();
                let fate = fate::decide(&job, &end, struck, retries, chance);
                if fate == Fate::Back {
                    self.back_out(job, "its attempt was cut short");
                } else {
                    let again = match fate {
                        Fate::Again(again) => Some(again),
                        Fate::Done | Fate::Back => None,
                    };
                    if let Some(again) = again {
                        tracing::info!(job = %job.id, target = %job.target, attempt = job.attempt, code = end.code, signal = end.signal, after = ?again.after, "job failed, it runs again later");
                    }
                    if planted!("slot-freed-before-the-write") {
                        self.free_slot(&job);
                    } else {
                        self.targets.ending(&job.target);
                    }
                    self.ledger.write(Entry::Finish(job, end, again));
                }
            }
            Outcome::NoRoom(_) if cancelled => self.end_cancelled(job),
            Outcome::NoRoom(error) => {
                tracing::error!(job = %job.id, target = %job.target, %error, "cannot start a process now, giving the job back");
                self.targets.rest(&job.target, clock::now() + REST);
                self.back_out(job, &format!("cannot start a process: {error}"));
            }
        }
    }

    /// Gives back a job that has no process. Its slot, if it has one, is free once that is written.
    pub(super) fn back_out(&mut self, job: Job, reason: &str) {
        self.fail_waiter(&job, &format!("was given back: {reason}"));
        if let Some(held) = self.holding.get_mut(&slot(&job)) {
            held.leaving = true;
        }
        self.release(job);
    }

    fn finished(&mut self, finish: Finish) {
        self.tell_followers(&finish);
        let Finish {
            job,
            result,
            code,
            signal,
            stdout,
            stderr,
            ..
        } = finish;
        if job.origin.is_manual() {
            let outcome = JobOutcome {
                result,
                code,
                signal,
                stdout,
                stderr,
            };
            let answer = self.waiters.ended(job.id, outcome);
            reply(answer);
        }
        if self.holding.remove(&slot(&job)).is_some() {
            self.targets.written(&job.target, clock::now());
        }
    }

    /// Answers whoever waits for a manual job. A background job of the same row has nobody waiting, even
    /// if a client asks for that row meanwhile.
    pub(super) fn fail_waiter(&mut self, job: &Job, what: &str) {
        if job.origin.is_manual() {
            reply(
                self.waiters
                    .failed(job.id, format!("job {} {what}", job.id)),
            );
        }
    }

    /// Frees the slot of a job that has one and no end to be written.
    pub(super) fn free_slot(&mut self, job: &Job) {
        if self.holding.remove(&slot(job)).is_some() {
            self.leave_followers(job);
            self.targets.ended(&job.target, clock::now());
        }
    }
}
