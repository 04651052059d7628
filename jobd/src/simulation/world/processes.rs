//! Processes and the guards that end them.

use super::*;

impl World<'_> {
    pub(super) fn begin(
        &mut self,
        from: Incarnation,
        pid: Pid,
        job: Job,
        done: oneshot::Sender<Outcome>,
    ) -> Result<(), String> {
        let host = &self.hosts[host_of(from)];
        if self.worker(from).is_none() {
            return Ok(());
        }
        if host.no_room {
            drop(done.send(Outcome::NoRoom(std::io::Error::other("no room"))));
            return Ok(());
        }
        let at = self.now();
        self.say(|| {
            format!(
                "{from:x} begins {pid} for row {}, attempt {}",
                job.id, job.attempt
            )
        });
        let mut random = Random::new(self.plan.seed ^ (job.id.0 << 8) ^ (pid << 32));
        let span = match random.below(10) {
            0 => random.between(LEASE / 2, 2 * LEASE),
            1..=4 => random.between(MS, 50 * MS),
            _ => random.between(MS, 2 * SECOND),
        };
        let exit = match random.below(10) {
            0 => (None, Some(11)),
            1 | 2 => (Some(i32::try_from(random.between(1, 100)).unwrap()), None),
            _ => (Some(0), None),
        };
        let obeys = random.percent(70).then(|| random.below(600 * MS));
        let number = (0..TARGETS)
            .find(|number| target(*number) == job.target)
            .expect("a target that is served");
        let (most, paused) = (host.most[number], host.paused[number]);
        let run = Run {
            by: from,
            job,
            ended: None,
            cut_short: false,
            output: format!("run {pid}"),
        };
        let now = Now {
            at,
            table: &self.server.table,
            is_over: &|_| false,
        };
        self.witness.begins(pid, run, most, paused, &now)?;
        self.processes.insert(
            pid,
            Process {
                by: from,
                done: Some(done),
                exit,
                obeys,
                stopped: false,
            },
        );
        self.add(span, Event::Exit(pid));
        if self.guards[&from].overdue {
            self.add(10 * MS, Event::Kill(pid, 9));
        }
        Ok(())
    }

    pub(super) fn stop(&mut self, pid: Pid, grace: Time) {
        let Some(process) = self.processes.get_mut(&pid) else {
            return;
        };
        process.stopped = true;
        let event = match process.obeys {
            Some(after) if after < grace => {
                if process.exit == (Some(0), None) && after % 2 == 0 {
                    (after, Event::Exit(pid))
                } else {
                    (after, Event::Kill(pid, 15))
                }
            }
            _ => (grace, Event::Kill(pid, 9)),
        };
        self.add(event.0, event.1);
    }

    pub(super) fn exit(&mut self, pid: Pid, (code, signal): (Option<i32>, Option<i32>)) {
        let Some(mut process) = self.processes.remove(&pid) else {
            return;
        };
        let at = self.now();
        self.say(|| format!("{pid} ends: {code:?} {signal:?}"));
        let cut_short = process.stopped || signal == Some(9);
        self.witness.ends(pid, at, cut_short, code, signal);
        if let (Some(worker), Some(done)) = (self.worker(process.by), process.done.take()) {
            let end = End {
                code,
                signal,
                stdout: Captured {
                    head: self.witness.runs[&pid].output.clone().into(),
                    ..Captured::default()
                },
                stderr: Captured::default(),
                ended: worker.site.clock.local(at).into_std(),
                cause: process.stopped.then_some(Reason::Drained),
            };
            drop(done.send(Outcome::Ended(end)));
        }
    }

    pub(super) fn end_processes(&mut self, run: Incarnation, at_once: bool) {
        for pid in self.pids_of(run) {
            if at_once {
                self.exit(pid, (None, Some(9)));
            } else {
                let after = self.agenda.lock().random.between(MS, 30 * MS);
                self.add(after, Event::Kill(pid, 9));
            }
        }
        if !at_once {
            self.add(230 * MS, Event::Guard(run, GuardEvent::Gone));
        }
    }

    fn pids_of(&self, run: Incarnation) -> Vec<Pid> {
        let processes = self.processes.iter();
        let of_run = processes.filter(|(_, process)| process.by == run);
        of_run.map(|(pid, _)| *pid).collect()
    }

    pub(super) fn guard(&mut self, at: Time, run: Incarnation, what: GuardEvent) {
        match what {
            GuardEvent::Lock { worker, told } => self.guard_lock(run, worker, told),
            GuardEvent::Deadline(deadline) => self.guard_deadline(at, run, deadline),
            GuardEvent::Strikes(version) => self.guard_strikes(run, version),
            GuardEvent::Resolved => {
                let host = &mut self.hosts[host_of(run)];
                if host.lock == Some(run) {
                    host.lock_file.drain(..host.lock_file.len() - 1);
                }
            }
            GuardEvent::Gone => self.guard_gone(run),
        }
    }

    fn guard_lock(&mut self, from: Incarnation, worker: String, told: Told) {
        let host = &mut self.hosts[host_of(from)];
        if self.guards[&from].gone {
            return;
        }
        if host.lock == Some(from) {
            // That of the guard before, of the same run.
            let before = host.lock_file.iter().filter(|run| **run != worker);
            return told(before.cloned().collect());
        }
        if host.lock.is_some() {
            return self.add(
                100 * MS,
                Event::Guard(from, GuardEvent::Lock { worker, told }),
            );
        }
        host.lock = Some(from);
        let before = host.lock_file.clone();
        host.lock_file.push(worker);
        told(before);
    }

    fn guard_deadline(&mut self, at: Time, run: Incarnation, deadline: Option<Time>) {
        let guard = self.guards.get_mut(&run).expect("every run has a guard");
        guard.version += 1;
        guard.overdue = false;
        let version = guard.version;
        if let Some(deadline) = deadline {
            self.agenda.lock().add(
                deadline.max(at),
                Event::Guard(run, GuardEvent::Strikes(version)),
            );
        }
    }

    fn guard_strikes(&mut self, run: Incarnation, version: u64) {
        let guard = self.guards.get_mut(&run).expect("every run has a guard");
        if guard.gone || guard.version != version {
            return;
        }
        guard.overdue = true;
        self.say(|| format!("the guard of {run:x} strikes"));
        for pid in self.pids_of(run) {
            let after = self.agenda.lock().random.between(MS, 20 * MS);
            self.add(after, Event::Kill(pid, 9));
        }
    }

    pub(super) fn guard_gone(&mut self, run: Incarnation) {
        if let Some(guard) = self.guards.get_mut(&run) {
            guard.gone = true;
        }
        let host = &mut self.hosts[host_of(run)];
        host.lock.take_if(|holder| *holder == run);
    }
}
