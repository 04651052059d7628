//! What people, applications and fate do.

use super::*;

impl World<'_> {
    pub(super) fn deed(&mut self, deed: &Deed) {
        self.say(|| format!("{deed:?}"));
        match *deed {
            Deed::Add {
                target: number,
                manual,
                attempts,
                priority,
                poke,
                later,
            } => {
                let run_at = later.filter(|_| !manual && !self.plan.minimal);
                let run_at = run_at.map(|after| after + self.server.now(&self.agenda.lock()));
                self.add_row(number, manual, (attempts, priority), run_at);
                if poke {
                    self.poke(number);
                }
            }
            Deed::Poke(host) => self.tell(host, WorkerRequest::Poll(Selection::All)),
            Deed::RunManual(host) => self.run_manual(host),
            Deed::Cancel { worker, pick } => self.cancel(worker, pick),
            Deed::AskToCancel(pick) => self.ask_to_cancel(pick),
            Deed::Pause { worker, target } => self.pause(worker, target),
            Deed::Continue {
                worker,
                target: number,
            } => {
                self.go_on(worker, number);
                let targets = Selection::Named(vec![target(number).to_string()]);
                self.tell(worker, WorkerRequest::Continue(targets));
            }
            Deed::Concurrency {
                worker,
                target: number,
                most,
            } => {
                let host = &mut self.hosts[worker];
                host.most[number] = host.most[number].max(most);
                self.tell(
                    worker,
                    WorkerRequest::SetTargetConcurrency {
                        target: target(number),
                        concurrency: most,
                    },
                );
            }
            Deed::Kill { worker, away } => self.die(worker, away, false),
            Deed::PowerLoss { worker, away } => self.die(worker, away, true),
            // Without a guard nothing is promised of a frozen worker.
            Deed::Freeze { worker, span } => {
                if self.guarded(worker).is_some() {
                    self.hosts[worker].frozen = true;
                    self.add(span, Event::Thaw(worker));
                }
            }
            Deed::KillGuard { worker } => {
                if let Some(run) = self.guarded(worker) {
                    self.kill_guard(run);
                }
            }
            Deed::Drain { worker, second } => {
                if let Some(running) = self.hosts[worker].worker.as_ref() {
                    running.shutdown.drain.cancel();
                    if let Some(second) = second {
                        self.add(second, Event::SecondSignal(running.site.incarnation));
                    }
                }
            }
            Deed::Hand { pick, done } => self.by_hand(pick, done),
            Deed::Clock(seconds) => self.server.clock += seconds,
            ref fault => self.trouble(fault),
        }
    }

    /// Begins a fault that ends by itself.
    fn trouble(&mut self, deed: &Deed) {
        let faults = &mut self.server.faults;
        let over = match *deed {
            Deed::NoRoom { worker, .. } => {
                self.hosts[worker].full.set(true);
                Fault::NoRoom(worker)
            }
            Deed::Away { silent, .. } => {
                faults.away = Some(silent);
                Fault::Away
            }
            Deed::CutOff { worker, silent, .. } => {
                faults.cut_off[worker] = Some(silent);
                Fault::CutOff(worker)
            }
            Deed::Slow { most, .. } => {
                self.agenda.lock().slow = most;
                Fault::Slow
            }
            Deed::SlowAnswers { most, .. } => {
                faults.slow_answers = most;
                Fault::SlowAnswers
            }
            Deed::Lossy { percent, after, .. } => {
                (faults.lossy, faults.lossy_after) = (percent, after);
                Fault::Lossy
            }
            Deed::Conflicts { percent, .. } => {
                faults.conflicts = percent;
                Fault::Conflicts
            }
            Deed::Refusals { percent, .. } => {
                faults.refusals = percent;
                Fault::Refusals
            }
            _ => unreachable!("{deed:?} is no fault"),
        };
        self.add(deed.span(), Event::Over(over));
    }

    fn pause(&self, host: usize, number: usize) {
        if let Some(worker) = self.hosts[host].worker.as_ref() {
            let (handle, site) = (worker.handle.clone(), worker.site.clone());
            let continued = self.hosts[host].continued[number];
            worker.runtime.spawn(async move {
                let targets = Selection::Named(vec![target(number).to_string()]);
                if handle.change(WorkerRequest::Pause(targets)).await.is_ok() {
                    site.add(0, Event::Paused(host, number, site.incarnation, continued));
                }
            });
        }
    }

    /// From now on a target is not known to be paused, whatever is still to be heard of pauses before.
    fn go_on(&mut self, host: usize, number: usize) {
        let host = &mut self.hosts[host];
        host.paused[number] = None;
        host.continued[number] += 1;
    }

    pub(super) fn over(&mut self, fault: Fault) {
        self.say(|| format!("over: {fault:?}"));
        self.server.end(fault);
        match fault {
            Fault::NoRoom(host) => self.hosts[host].full.set(false),
            Fault::Slow => self.agenda.lock().slow = 0,
            _ => {}
        }
    }

    pub(super) fn heal(&mut self) {
        self.say(|| "every fault is over".to_owned());
        self.healed = true;
        self.server.faults = Faults::default();
        self.agenda.lock().slow = 0;
        for number in 0..self.hosts.len() {
            self.hosts[number].full.set(false);
            (0..TARGETS).for_each(|target| self.go_on(number, target));
            self.thaw(number);
            if self.hosts[number].worker.is_none() {
                self.start(number);
            }
            self.tell(number, WorkerRequest::Continue(Selection::All));
        }
    }

    fn add_row(
        &mut self,
        number: usize,
        manual: bool,
        (attempts, priority): (i64, i64),
        run_at: Option<i64>,
    ) {
        self.rows += 1;
        let id = self.rows;
        let status = match run_at {
            _ if manual => "manual",
            Some(_) => "scheduled",
            None => "waiting",
        };
        let row = self
            .schema
            .columns
            .iter()
            .map(|column| match column.as_str() {
                "id" => Val::Int(id),
                "target" => Val::Text(target(number).as_str().into()),
                "status" => Val::Text(status.into()),
                "max_attempts" if attempts > 0 => Val::Int(attempts),
                "run_at" => run_at.map_or(Val::Null, Val::Int),
                "time_created" | "time_started" | "time_finished" | "attempts"
                | "interruptions" => Val::Int(0),
                "priority" => Val::Int(priority),
                _ => Val::Null,
            });
        let row = row.collect();
        self.server.table.add(id, row);
    }

    fn poke(&self, number: usize) {
        for host in 0..self.hosts.len() {
            let targets = Selection::Named(vec![target(number).to_string()]);
            self.tell(host, WorkerRequest::Poll(targets));
        }
    }

    /// Sends a request to a worker, whose answer interests nobody.
    pub(super) fn tell(&self, host: usize, request: WorkerRequest) {
        if let Some(worker) = &self.hosts[host].worker {
            let handle = worker.handle.clone();
            worker
                .runtime
                .spawn(async move { drop(handle.change(request).await) });
        }
    }

    fn run_manual(&mut self, host: usize) {
        let places = self.witness.places;
        let manual = self
            .server
            .table
            .rows()
            .filter(|(_, row)| text(&row[places.status]) == "manual");
        let ids: Vec<JobId> = manual.map(|(id, _)| JobId(id.unsigned_abs())).collect();
        if let Some(worker) = self.hosts[host].worker.as_ref().filter(|_| !ids.is_empty()) {
            let (handle, site) = (worker.handle.clone(), worker.site.clone());
            worker.runtime.spawn(async move {
                let reply = handle.run_manual(ids.clone()).await;
                site.add(0, Event::Answered(site.incarnation, ids, reply));
            });
            *self.waiting.entry(worker.site.incarnation).or_default() += 1;
        }
    }

    /// One of the rows that there are.
    fn pick(&self, pick: u64) -> Option<i64> {
        let rows = u64::try_from(self.rows).unwrap();
        (rows > 0).then(|| 1 + i64::try_from(pick % rows).unwrap())
    }

    fn cancel(&self, host: usize, pick: u64) {
        if let (Some(worker), Some(id)) = (&self.hosts[host].worker, self.pick(pick)) {
            let handle = worker.handle.clone();
            let ids = vec![JobId(id.unsigned_abs())];
            worker
                .runtime
                .spawn(async move { drop(handle.cancel(ids, false).await) });
        }
    }

    fn ask_to_cancel(&mut self, pick: u64) {
        let column = self.server.table.place("cancel_requested");
        let (Some(column), Some(id)) = (column, self.pick(pick)) else {
            return;
        };
        if self.server.table.is_locked(id) {
            return;
        }
        let row = self.server.table.row(id);
        let mut row = row.expect("a row that was added").clone();
        row[column] = Val::Int(1);
        self.witness.asked.insert(id, self.now());
        self.server.table.add(id, row);
    }

    fn by_hand(&mut self, pick: u64, done: bool) {
        let Some(id) = self.pick(pick) else {
            return;
        };
        // Whoever changes a row by hand waits for its lock, too.
        if self.server.table.is_locked(id) {
            return;
        }
        let mut row = self
            .server
            .table
            .row(id)
            .expect("a row that was added")
            .clone();
        row[self.witness.places.status] = Val::Text(if done { "done" } else { "waiting" }.into());
        self.witness.touched.insert(id);
        self.server.table.add(id, row);
    }
}
