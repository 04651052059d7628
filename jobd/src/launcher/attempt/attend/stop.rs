//! How a process is stopped: by whoever orders it, or because it takes too long or says nothing for too long. It and
//! everything that it has started are gone before its end is told.

use std::borrow::Cow;
use std::time::Duration;

use jobd_proto::daemon::threads::blocking;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::time::{Instant, sleep_until};

use super::Process;
use crate::fate::Reason;
use crate::faults::planted;
use crate::job::Job;
use crate::launcher::ladder::{KillSequence, Ladder};
use crate::launcher::{LauncherSettings, run_name};
use crate::marked::{self, Mark};

/// Between the looks for what is left of a stopped job.
const FIRST_PAUSE: Duration = Duration::from_millis(5);

/// The most between two of them: each reads a line of every process of the machine.
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// Looks for processes that have left the group of a stopped job, until one finds none. They fork faster than they are
/// killed, or cannot end, where that is not enough.
const SWEEPS: usize = 200;

/// What ends a process before its time.
pub(super) struct Stopper<'a> {
    sequence: &'a KillSequence,
    job: &'a Job,
    /// The process's group, which has its number.
    group: Pid,
    /// What its time is, and when that is over.
    timeout: Option<(Duration, Instant)>,
    /// How long it may say nothing, and when that is over.
    idle: Option<(Duration, Instant)>,
    /// Of a process that is being stopped: what its group still gets.
    ladder: Option<Ladder>,
    told: Option<Told>,
}

/// Why a process was told to stop, and what is noted of that.
type Told = (Reason, Cow<'static, str>);

impl<'a> Stopper<'a> {
    /// For a process that begins now.
    pub(super) fn new(settings: &'a LauncherSettings, job: &'a Job, group: Pid) -> Self {
        let now = Instant::now();
        let until = |limit: Option<Duration>| {
            let limit = limit.filter(|limit| !limit.is_zero())?;
            Some((limit, now.checked_add(limit)?))
        };
        Self {
            sequence: &settings.kill,
            job,
            group,
            timeout: until(job.terms.timeout.or(settings.timeout)),
            idle: until(settings.idle_timeout),
            ladder: None,
            told: None,
        }
    }

    /// When there is something to do.
    pub(super) fn alarm(&self) -> Option<Instant> {
        if let Some(ladder) = &self.ladder {
            return ladder.next();
        }
        let (timeout, idle) = (self.timeout.map(|(_, at)| at), self.idle.map(|(_, at)| at));
        timeout.into_iter().chain(idle).min()
    }

    /// Whether an order to stop is being carried out.
    pub(super) fn is_stopping(&self) -> bool {
        self.ladder.is_some()
    }

    /// The process has written something.
    pub(super) fn heard(&mut self) {
        if let Some((limit, at)) = &mut self.idle {
            *at = Instant::now() + *limit;
        }
    }

    /// Does what is due: begins to stop what has had its time, or goes on with it.
    pub(super) fn act(&mut self) {
        let now = Instant::now();
        if self.ladder.is_none() {
            let is_over = |limit: &(Duration, Instant)| limit.1 <= now;
            if let Some((limit, _)) = self.timeout.filter(is_over) {
                let note = format!("stopped because it took longer than its timeout of {limit:?}");
                self.stop(Some((Reason::Timeout, note.into())), None);
            } else if let Some((limit, _)) = self.idle.filter(is_over) {
                let note = format!("stopped because it wrote nothing for {limit:?}");
                self.stop(Some((Reason::Idle, note.into())), None);
            }
        }
        while let Some(signal) = self.ladder.as_mut().and_then(|ladder| ladder.due(now)) {
            self.signal_group(signal);
        }
    }

    /// Begins to stop the group, and notes why, where that is to be said of the job. What is being stopped already may have
    /// to be gone sooner.
    pub(super) fn stop(&mut self, why: Option<Told>, within: Option<Duration>) {
        let now = Instant::now();
        match (&mut self.ladder, within) {
            (Some(ladder), Some(within)) => ladder.hurry(now + within),
            (Some(_), None) => {}
            (ladder, _) => {
                *ladder = Some(self.sequence.begin(now, within));
                self.told = self.told.take().or(why);
            }
        }
        self.act();
    }

    /// Why it was told to stop.
    pub(super) fn into_told(self) -> Option<Told> {
        self.told
    }

    /// The group's number is not given to others, as its leader is not reaped.
    fn signal_group(&self, signal: Signal) {
        if let Err(error) = kill_process_group(self.group, signal) {
            tracing::debug!(group = self.group.as_raw_nonzero().get(), %error, "cannot signal the process group");
        }
    }
}

impl Process<'_> {
    /// Ends what is left of a job that is being stopped once its process has exited: its group gets the rest of the sequence
    /// as long as somebody is in it, then what has left the group is looked for. `false` where it is not being stopped.
    pub(super) async fn end_rest(&mut self) -> bool {
        if !self.stopper.is_stopping() {
            return false;
        }
        let group = self.stopper.group;
        let mut pause = FIRST_PAUSE;
        while let Some(next) = self.stopper.alarm()
            && blocking(move || marked::group_lives(group)).await
        {
            self.listen(next.min(Instant::now() + pause)).await;
            self.stopper.act();
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        // Where nobody is left in it, nobody gets it.
        let _ = kill_process_group(group, Signal::KILL);
        if !planted!("stop-leaves-who-left-the-group") {
            self.sweep().await;
        }
        // An order that comes now begins anew, and finds nobody.
        self.stopper.ladder = None;
        true
    }

    /// Kills what has left the group.
    async fn sweep(&mut self) {
        let mark = [Mark::of_claim(&run_name(self.stopper.job))];
        for _ in 0..SWEEPS {
            let mark = mark.clone();
            if blocking(move || marked::kill(&mark)).await == 0 {
                return;
            }
            self.listen(Instant::now() + FIRST_PAUSE).await;
        }
        tracing::warn!(
            job = %self.stopper.job.id,
            "processes of a stopped job do not end"
        );
    }

    /// Reads and obeys until then.
    async fn listen(&mut self, until: Instant) {
        loop {
            tokio::select! {
                biased;
                () = sleep_until(until) => return,
                () = self.stdout.read(), if self.stdout.is_open() => {}
                () = self.stderr.read(), if self.stderr.is_open() => {}
                Some(order) = self.orders.recv() => self.obey(order),
            }
        }
    }
}
