//! Processes and the guards that end them.

use super::*;

/// A strike is over when nothing was found for so long.
const QUIET: Time = 200 * MS;

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
        if host.full.is_set() {
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
            1 if random.percent(30) => (Some(75), None),
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
            clock: None,
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
        if self.guards[&from].strikes {
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
                usage: None,
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

    /// The run of a host whose worker goes on with a guard beside it.
    pub(super) fn guarded(&self, host: usize) -> Option<Incarnation> {
        let host = &self.hosts[host];
        let worker = host.worker.as_ref().filter(|_| !host.frozen)?;
        let run = worker.site.incarnation;
        (!self.guards[&run].gone).then_some(run)
    }

    fn guard_of(&mut self, run: Incarnation) -> &mut Guard {
        self.guards.get_mut(&run).expect("every run has a guard")
    }

    /// kill -9 of a guard alone.
    pub(super) fn kill_guard(&mut self, run: Incarnation) {
        self.guard_gone(run);
        let guard = self.guard_of(run);
        guard.ended.set(true);
        if let Some(mut told) = guard.told.take() {
            told(Word::Ended);
        }
    }

    pub(super) fn guard(
        &mut self,
        at: Time,
        run: Incarnation,
        what: GuardEvent,
    ) -> Result<(), String> {
        match what {
            GuardEvent::Stands(ended, told) => {
                let before = &self.guards[&run];
                let guard = Guard {
                    ended,
                    told: Some(told),
                    version: before.version + 1,
                    resumes: before.strikes,
                    ..Guard::default()
                };
                self.guards.insert(run, guard);
            }
            GuardEvent::Lock(life, worker) => self.guard_lock(run, life, worker),
            GuardEvent::Deadline(deadline) => self.guard_deadline(at, run, deadline),
            GuardEvent::Strikes(version) => self.guard_strikes(run, version),
            GuardEvent::Strike => self.guard_strike(at, run)?,
            GuardEvent::Struck(version) => self.guard_struck(run, version),
            GuardEvent::Resolved => {
                let host = &mut self.hosts[host_of(run)];
                if host.lock == Some(run) {
                    host.lock_file.drain(..host.lock_file.len() - 1);
                }
            }
            GuardEvent::Gone => self.guard_gone(run),
        }
        Ok(())
    }

    fn guard_lock(&mut self, from: Incarnation, life: Life, worker: String) {
        let host = &mut self.hosts[host_of(from)];
        let guard = self.guards.get_mut(&from).expect("every run has a guard");
        if guard.gone || !guard.ended.is(&life) {
            return;
        }
        if host.lock.is_some() {
            let again = Event::Guard(from, GuardEvent::Lock(life, worker));
            return self.add(100 * MS, again);
        }
        host.lock = Some(from);
        // It is there already if a guard of the same run was before this one.
        host.lock_file.retain(|run| *run != worker);
        if let Some(told) = &mut guard.told {
            told(Word::Locked(host.lock_file.clone()));
        }
        host.lock_file.push(worker);
    }

    fn guard_deadline(&mut self, at: Time, run: Incarnation, deadline: Option<Time>) {
        let guard = self.guard_of(run);
        guard.version += 1;
        guard.strikes = false;
        guard.deadline = deadline;
        let version = guard.version;
        if let Some(deadline) = deadline {
            self.agenda.lock().add(
                deadline.max(at),
                Event::Guard(run, GuardEvent::Strikes(version)),
            );
        }
    }

    fn guard_strikes(&mut self, run: Incarnation, version: u64) {
        let guard = self.guard_of(run);
        if guard.gone || guard.version != version {
            return;
        }
        if !std::mem::replace(&mut guard.strikes, true) {
            self.say(|| format!("the guard of {run:x} strikes"));
        }
        if self.scan(run) {
            self.add(20 * MS, Event::Guard(run, GuardEvent::Strikes(version)));
        }
    }

    /// Kills what is there, but for what a look at many processes overlooks. Whether there was anything.
    fn scan(&mut self, run: Incarnation) -> bool {
        let pids = self.pids_of(run);
        for pid in &pids {
            let mut agenda = self.agenda.lock();
            if agenda.random.percent(60) {
                let at = agenda.now + agenda.random.between(MS, 20 * MS);
                agenda.add(at, Event::Kill(*pid, 9));
            }
        }
        !pids.is_empty()
    }

    /// A worker lets its guard strike: it must know that a deadline has passed.
    fn guard_strike(&mut self, at: Time, run: Incarnation) -> Result<(), String> {
        let guard = self.guard_of(run);
        // Clocks of workers show milliseconds.
        let due = |deadline| deadline <= at + MS;
        if !guard.strikes && !guard.deadline.is_some_and(due) && !guard.resumes {
            return Err(format!(
                "{run:x} lets its guard strike, which knows of no deadline that has passed"
            ));
        }
        guard.version += 1;
        (guard.strikes, guard.deadline) = (true, None);
        let version = guard.version;
        self.say(|| format!("{run:x} lets its guard strike"));
        self.scan(run);
        self.add(QUIET, Event::Guard(run, GuardEvent::Struck(version)));
        Ok(())
    }

    fn guard_struck(&mut self, run: Incarnation, version: u64) {
        let guard = self.guard_of(run);
        if guard.gone || guard.version != version {
            return;
        }
        if self.scan(run) {
            return self.add(QUIET, Event::Guard(run, GuardEvent::Struck(version)));
        }
        let guard = self.guard_of(run);
        guard.strikes = false;
        if let Some(told) = &mut guard.told {
            told(Word::Struck);
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
