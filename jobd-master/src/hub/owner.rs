//! The owner of the registry and the throttle.
//!
//! Its loop awaits nothing but its select. It sends no request itself and waits for no worker:
//! polls run in tasks of their own, everything else in the session that asked.

use std::time::{Duration, Instant};

use jobd_proto::daemon::notify::{self, Heartbeat};
use jobd_proto::worker::WorkerRequest;
use jobd_proto::{TargetName, Targets};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{Event, Hub, Intervals, Part, Shares};
use crate::member::{Member, Trouble};
use crate::polls::Polls;
use crate::registry::{Registry, Split, WorkerId};
use crate::throttle::{MAX_REMEMBERED, Throttle};

/// Events that may wait: a burst of pokes. A sender beyond has to wait its turn, which slows down
/// its own client alone.
const EVENTS: usize = 1024;

/// What there is to a worker beside its registration.
#[derive(Debug)]
struct Link {
    member: Member,
    polls: Polls,
    /// Its last poll failed, which was logged.
    ill: bool,
}

/// The owner of the state; ends when the last handle is gone.
#[derive(Debug)]
pub struct Owner {
    registry: Registry<Link>,
    throttle: Throttle,
    ping_interval: Duration,
    heartbeat: Heartbeat,
    events: mpsc::Receiver<Event>,
    /// For the poll tasks; weak, so that the hub ends with the last other handle.
    handle: mpsc::WeakSender<Event>,
    /// Polls are sent and not waited for once this has fired: their answers say nothing new.
    stopping: CancellationToken,
    /// That too many pokes are remembered was logged.
    said_full: bool,
}

/// A hub and the handle to it.
pub fn new(
    intervals: Intervals,
    heartbeat: Heartbeat,
    stopping: CancellationToken,
) -> (Owner, Hub) {
    let (sender, events) = mpsc::channel(EVENTS);
    let owner = Owner {
        registry: Registry::default(),
        throttle: Throttle::new(intervals.poke_throttle),
        ping_interval: intervals.ping,
        heartbeat,
        events,
        handle: sender.downgrade(),
        stopping,
        said_full: false,
    };
    (owner, Hub { events: sender })
}

impl Owner {
    /// Runs until the last handle is gone.
    pub async fn run(mut self) {
        let mut beats = tokio::time::interval(notify::beat_interval());
        loop {
            self.heartbeat.beat();
            let end = self.throttle.next_end();
            tokio::select! {
                event = self.events.recv() => match event {
                    Some(event) => self.take(event, Instant::now()),
                    None => return,
                },
                () = sleep_until(end), if end.is_some() => {}
                _ = beats.tick() => {}
            }
            let due = self.throttle.due(Instant::now());
            self.poll(&due, false);
        }
    }

    fn take(&mut self, event: Event, now: Instant) {
        match event {
            Event::Register {
                id,
                name,
                targets,
                connection,
                request,
            } => {
                let member = Member {
                    id,
                    name: name.into(),
                    connection,
                };
                self.register(member, targets, now);
                request.respond(Ok("ok".into()));
            }
            Event::SetIntervals(intervals) => self.set_intervals(intervals, now),
            Event::Leave(id) => self.leave(id, now),
            Event::Retire(id) => self.registry.retire(id),
            Event::Poke(targets) => self.poke(targets, now),
            Event::Polled {
                id,
                targets,
                trouble,
            } => self.polled(id, targets, trouble, now),
            Event::Answered { id, jobs } => self.registry.answered(id, jobs),
            Event::List(reply) => {
                let workers = self.registry.iter();
                answer(
                    reply,
                    workers
                        .map(|(_, worker)| (worker.link.member.clone(), worker.targets.clone()))
                        .collect(),
                );
            }
            Event::SplitTargets(targets, reply) => {
                let parts = self.registry.split_targets(&targets);
                answer(reply, self.members(parts));
            }
            Event::SplitManual(jobs, reply) => {
                let split = self.registry.split_manual(jobs);
                answer(reply, self.shares(split));
            }
            Event::SplitSignals(jobs, reply) => {
                let split = self.registry.split_signals(jobs);
                answer(reply, self.shares(split));
            }
        }
    }

    fn register(&mut self, member: Member, targets: Vec<TargetName>, now: Instant) {
        let id = member.id;
        member.connection.set_ping(Some(self.ping_interval));
        tracing::info!(targets = targets.len(), "{member} registered");
        self.throttle.recall(&targets, now);
        let link = Link {
            member: member.clone(),
            polls: Polls::default(),
            ill: false,
        };
        self.registry.register(id, targets, link);
        if let Some(worker) = self.registry.get_mut(id) {
            // It may have another name now.
            worker.link.member = member;
        }
        self.show_status();
    }

    fn set_intervals(&mut self, intervals: Intervals, now: Instant) {
        self.throttle.set_interval(intervals.poke_throttle, now);
        // Set again, it would begin to count anew.
        if self.ping_interval != intervals.ping {
            self.ping_interval = intervals.ping;
            for (_, worker) in self.registry.iter() {
                worker.link.member.connection.set_ping(Some(intervals.ping));
            }
        }
    }

    fn leave(&mut self, id: WorkerId, now: Instant) {
        if let Some(mut worker) = self.registry.remove(id) {
            self.show_status();
            if let Some(unsent) = worker.link.polls.take_waiting() {
                self.poke_again(unsent, now);
            }
        }
    }

    fn poke(&mut self, targets: Targets, now: Instant) {
        match targets {
            Targets::All => {
                for target in self.registry.targets() {
                    self.throttle.poke(target, now);
                }
                let due = self.throttle.due(now);
                self.poll(&due, true);
            }
            Targets::Named(names) => {
                for name in names {
                    if let Some(target) = self.registry.served(&name) {
                        self.throttle.poke(&target, now);
                    } else if let Ok(target) = TargetName::new(name) {
                        // A name that cannot be registered is nothing to wait for.
                        self.remember(target);
                    }
                }
            }
        }
    }

    fn remember(&mut self, target: TargetName) {
        if self.throttle.remember(target) {
            self.said_full = false;
        } else if !self.said_full {
            self.said_full = true;
            tracing::warn!(
                "pokes for {MAX_REMEMBERED} targets that nobody serves are remembered, \
                 further ones are forgotten: check the target names of the applications"
            );
        }
    }

    /// Polls the workers of these targets; `all` is for whoever serves nothing else.
    fn poll(&mut self, due: &[TargetName], all: bool) {
        if due.is_empty() {
            return;
        }
        let names = due.iter().map(|target| target.as_str().to_owned());
        for (id, part) in self
            .registry
            .split_targets(&Targets::Named(names.collect()))
        {
            let serves = self.registry.get(id).map_or(0, |w| w.targets.len());
            let part = match part {
                Targets::Named(names) if all && names.len() == serves => Targets::All,
                part => part,
            };
            self.poll_worker(id, part);
        }
        for target in due {
            // Its last worker left while the poke was throttled.
            if self.registry.served(target.as_str()).is_none() {
                self.remember(target.clone());
            }
        }
    }

    fn poll_worker(&mut self, id: WorkerId, targets: Targets) {
        let Some(worker) = self.registry.get_mut(id) else {
            return;
        };
        if let Some(targets) = worker.link.polls.want(targets) {
            self.send_poll(id, targets);
        }
    }

    fn send_poll(&self, id: WorkerId, targets: Targets) {
        let (Some(worker), Some(events)) = (self.registry.get(id), self.handle.upgrade()) else {
            return;
        };
        let member = worker.link.member.clone();
        let stopping = self.stopping.clone();
        tokio::spawn(async move {
            let request = WorkerRequest::Poll(targets);
            let answer = stopping.run_until_cancelled(member.ask_soon(&request));
            let trouble = answer.await.and_then(Result::err);
            let WorkerRequest::Poll(targets) = request else {
                return;
            };
            // Nobody is left to be told when the hub has ended.
            let _ = events
                .send(Event::Polled {
                    id,
                    targets,
                    trouble,
                })
                .await;
        });
    }

    fn polled(&mut self, id: WorkerId, targets: Targets, trouble: Option<Trouble>, now: Instant) {
        if matches!(trouble, Some(Trouble::Gone(_))) {
            self.leave(id, now);
            return self.poke_again(targets, now);
        }
        let Some(worker) = self.registry.get_mut(id) else {
            return;
        };
        note_health(&mut worker.link, trouble);
        if let Some(next) = worker.link.polls.ended() {
            self.send_poll(id, next);
        }
    }

    /// A poll may not have reached its worker: whoever serves its targets now, or next, is told.
    fn poke_again(&mut self, targets: Targets, now: Instant) {
        // One for all targets names none; a worker that comes back looks for rows anyway.
        if let Targets::Named(_) = targets {
            self.poke(targets, now);
        }
    }

    fn members<T>(&self, parts: impl IntoIterator<Item = (WorkerId, T)>) -> Vec<Part<T>> {
        let known = |(id, part)| Some((self.registry.get(id)?.link.member.clone(), part));
        parts.into_iter().filter_map(known).collect()
    }

    fn shares<T>(&self, split: Split<T>) -> Shares<T> {
        Shares {
            parts: self.members(split.parts),
            unserved: split.unserved,
        }
    }

    fn show_status(&self) {
        let (workers, targets) = (self.registry.len(), self.registry.targets().len());
        notify::status(&summary(workers, targets));
    }
}

/// What `systemctl status` shows: `3 workers, 5 targets`.
pub fn summary(workers: usize, targets: usize) -> String {
    let plural = |count| if count == 1 { "" } else { "s" };
    let (w, t) = (plural(workers), plural(targets));
    format!("{workers} worker{w}, {targets} target{t}")
}

/// Logs the first failure of a row, and its end.
fn note_health(link: &mut Link, trouble: Option<Trouble>) {
    let member = &link.member;
    match trouble {
        None if link.ill => {
            link.ill = false;
            tracing::warn!("{member} answers polls again");
        }
        None => {}
        Some(trouble) if link.ill || trouble == Trouble::Closing => {
            tracing::debug!("poll: {member}{trouble}");
        }
        Some(trouble) => {
            link.ill = true;
            tracing::warn!("poll: {member}{trouble}");
        }
    }
}

/// A session that has ended meanwhile needs no answer.
fn answer<T>(reply: oneshot::Sender<T>, value: T) {
    let _ = reply.send(value);
}

async fn sleep_until(end: Option<Instant>) {
    if let Some(end) = end {
        tokio::time::sleep_until(end.into()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_counts_in_words() {
        assert_eq!(summary(3, 5), "3 workers, 5 targets");
        assert_eq!(summary(1, 1), "1 worker, 1 target");
        assert_eq!(summary(0, 0), "0 workers, 0 targets");
    }
}
