//! An attempt from its start to its end: its output is read, orders are carried out, its process is waited for.
//!
//! The process is reaped last of all: until then its number is nobody else's, and its group's neither, so that no signal
//! hits a stranger.

mod stop;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt as _;
use std::time::{Duration, Instant};

use jobd_proto::follow::Stream as Name;
use rustix::process::{
    Pid, Signal, WaitOptions, kill_process, kill_process_group, test_kill_process, waitpid,
};
use tokio::process::{ChildStderr, ChildStdin, ChildStdout};
use tokio::sync::mpsc;
use tokio::time::{Instant as Deadline, sleep_until};

use self::stop::Stopper;
use super::Order;
use crate::fate::Reason;
use crate::job::Job;
use crate::launcher::exit::Exit;
use crate::launcher::input::Input;
use crate::launcher::output_file::OutputFile;
use crate::launcher::reporter::Reporter;
use crate::launcher::start::Started;
use crate::launcher::stream::Stream;
use crate::launcher::usage::Ended;
use crate::launcher::{Captured, End, Launcher, LauncherSettings, Outcome};
use crate::shim;
use crate::store::Ability;

/// Looks after a process to its end, if that has not come yet.
pub(super) async fn attend(
    launcher: &Launcher,
    job: &Job,
    payload: Option<Vec<u8>>,
    mut started: Started,
    mut orders: mpsc::Receiver<Order>,
) -> Outcome {
    if let Some((Ended { status, usage }, ended)) = started.over {
        // Whoever has waited for the start sees everything, however short.
        while let Ok(order) = orders.try_recv() {
            if let Order::Follow(feed) = order {
                started.show(&feed);
            }
        }
        if let Some(pipe) = started.reports {
            let (row, followers) = (&launcher.inner.reports, started.followers);
            // Where the reactor has no room, what it has reported is lost, and nothing else.
            if let Ok(reports) = Reporter::new(pipe, job, row, followers) {
                reports.finish(&launcher.inner.leaks).await;
            }
        }
        return Outcome::Ended(End {
            code: status.code(),
            signal: status.signal(),
            stdout: started.stdout.captured(),
            stderr: started.stderr.captured(),
            ended,
            cause: None,
            usage,
        });
    }
    let group = started.pid();
    match Process::new(launcher, job, payload, started, orders) {
        Ok(process) => process.run().await,
        Err(error) => {
            // Not reaped, so that the number is still its own.
            let _ = kill_process_group(group, Signal::KILL);
            let reap = move || waitpid(Some(group), WaitOptions::empty());
            let _ = launcher.inner.spawner.run(reap, || ()).await;
            let reason = format!("cannot watch the process, killed it: {error}");
            Outcome::Ended(End::never_started(126, &reason))
        }
    }
}

/// A process and what is known of it.
struct Process<'a> {
    launcher: &'a Launcher,
    settings: &'a LauncherSettings,
    exit: Exit,
    /// Where the shim stands between, what it says.
    failure: Option<OwnedFd>,
    /// The process, while it has not ended.
    pid: Option<Pid>,
    orders: mpsc::Receiver<Order>,
    stdin: Input<ChildStdin>,
    stdout: Stream<ChildStdout>,
    stderr: Stream<ChildStderr>,
    /// What it says of how far it has come, where it can.
    reports: Option<Reporter<'a>>,
    /// Where both go too.
    file: Option<OutputFile>,
    stopper: Stopper<'a>,
}

impl<'a> Process<'a> {
    /// An error: the reactor has no room to watch it.
    fn new(
        launcher: &'a Launcher,
        job: &'a Job,
        payload: Option<Vec<u8>>,
        started: Started,
        orders: mpsc::Receiver<Order>,
    ) -> io::Result<Self> {
        let way = launcher.way(job);
        let settings = &way.settings;
        let file = settings.output_file.as_ref();
        let file = file.map(|template| {
            let file = (template, settings.output_file_max);
            OutputFile::begin(file, job, way.writers.clone())
        });
        let (file, copy) = file.unzip();
        let pid = started.pid();
        let stdin = started.stdin.map(ChildStdin::from_std).transpose()?;
        let (row, followers) = (&launcher.inner.reports, started.followers);
        let reports = started.reports;
        let reports = reports.map(|pipe| Reporter::new(pipe, job, row, followers));
        Ok(Self {
            pid: Some(pid),
            stdin: Input::new(stdin, payload),
            stdout: started
                .stdout
                .handed_on(ChildStdout::from_std, copy.clone())?,
            stderr: started.stderr.handed_on(ChildStderr::from_std, copy)?,
            reports: reports.transpose()?,
            file,
            launcher,
            settings,
            exit: Exit::of(started.child, job.terms.abilities.has(Ability::Accounting))?,
            failure: started.failure,
            orders,
            stopper: Stopper::new(settings, job, pid),
        })
    }

    async fn run(mut self) -> Outcome {
        let watched = self.until_exit().await;
        // Who wanted to follow it in its last moment sees what there is, too.
        self.obey_all();
        let mut stopped = self.end_rest().await;
        let ended = Instant::now();
        while !self.drain_output(stopped).await {
            stopped = self.end_rest().await;
        }
        if let Some(reports) = self.reports.take() {
            reports.finish(&self.launcher.inner.leaks).await;
        }
        let (mut stdout, mut stderr) = (
            self.stdout.finish(&self.launcher.inner.leaks),
            self.stderr.finish(&self.launcher.inner.leaks),
        );
        if let Some(file) = self.file {
            match file.end().await {
                Ok(()) if self.settings.output_file_only => {
                    (stdout, stderr) = (Captured::default(), Captured::default());
                }
                Ok(()) => {}
                Err(error) => {
                    tracing::warn!("{error}");
                    stderr.note(&error);
                }
            }
        }
        let (status, usage) = match watched.and_then(|()| self.exit.reap()) {
            Ok(Ended { status, usage }) => (Ok(status), usage),
            Err(error) => (Err(error), None),
        };
        let told = self.stopper.into_told();
        let good = matches!(&status, Ok(status) if status.success());
        let cause = told.and_then(|(reason, note)| {
            let counts = !good || reason.outdoes_success();
            counts.then(|| stderr.note(&note));
            counts.then_some(reason)
        });
        let not_begun = self.failure.and_then(|pipe| shim::failure(&pipe));
        if let Ok(status) = &status
            && let Some(code) = status.code()
            && let Some(why) = not_begun
        {
            return if code == i32::from(shim::NO_ROOM) {
                Outcome::NoRoom(io::Error::other(why))
            } else {
                Outcome::Ended(End::never_started(code, &why))
            };
        }
        let (code, signal) = match status {
            Ok(status) => (status.code(), status.signal()),
            Err(error) => {
                stderr.note(&format!("cannot wait for the process: {error}"));
                (None, None)
            }
        };
        Outcome::Ended(End {
            code,
            signal,
            stdout,
            stderr,
            ended,
            cause,
            usage,
        })
    }

    /// Reads and obeys until the process has exited.
    async fn until_exit(&mut self) -> io::Result<()> {
        loop {
            let alarm = self.stopper.alarm();
            tokio::select! {
                ended = self.exit.wait() => {
                    self.pid = None;
                    // Who is left finds the end of it.
                    self.stdin.close();
                    return ended;
                }
                () = self.stdin.write(), if self.stdin.is_open() => {}
                () = self.stdout.read(), if self.stdout.is_open() => self.stopper.heard(),
                () = self.stderr.read(), if self.stderr.is_open() => self.stopper.heard(),
                () = turn(&mut self.reports), if self.reports.as_ref().is_some_and(Reporter::is_open) => {}
                Some(order) = self.orders.recv() => self.obey(order),
                () = sleep_until(alarm.unwrap_or_else(Deadline::now)), if alarm.is_some() => self.time_up(),
            }
        }
    }

    /// What was written before the exit is in the pipes and read to its end; a background child that keeps them open is
    /// waited for no longer than `leak_timeout`, and hardly where the job was `stopped`. `false` as soon as there is an order
    /// to stop.
    async fn drain_output(&mut self, stopped: bool) -> bool {
        let most = if stopped { STOPPED } else { Duration::MAX };
        let mut deadline = Deadline::now() + self.settings.leak_timeout.min(most);
        while self.stdout.is_open() || self.stderr.is_open() {
            let held_up = Deadline::now();
            // However many orders come, they defer no read: they go first only while there is no room, then one a turn.
            let has_room = tokio::select! {
                biased;
                () = room(&mut self.stdout, &mut self.stderr) => true,
                Some(order) = self.orders.recv() => {
                    self.obey(order);
                    false
                }
            };
            // A slow disk's time is not the child's.
            deadline += held_up.elapsed();
            if let Ok(order) = self.orders.try_recv() {
                self.obey(order);
            }
            if self.stopper.is_stopping() {
                return false;
            }
            if !has_room {
                continue;
            }
            tokio::select! {
                biased;
                () = self.stdout.read(), if self.stdout.is_open() => {}
                () = self.stderr.read(), if self.stderr.is_open() => {}
                Some(order) = self.orders.recv() => self.obey(order),
                () = sleep_until(deadline) => break,
            }
            if Deadline::now() >= deadline + OVERTIME {
                break;
            }
        }
        self.obey_all();
        !self.stopper.is_stopping()
    }

    fn time_up(&mut self) {
        // A worker that was frozen, or waits for its disk, has read nothing and heard nothing.
        if self.stdout.has_unread() || self.stderr.has_unread() {
            self.stopper.heard();
        }
        // What has come to an end by itself just now was not stopped.
        if !self.has_exited() {
            self.stopper.act();
        }
    }

    /// What has come to an end by itself was not stopped; what it has left behind is, all the same.
    fn stop(&mut self, reason: Reason, note: &'static str, within: Option<Duration>) {
        let why = (!self.has_exited()).then_some((reason, note.into()));
        self.stopper.stop(why, within);
    }

    fn has_exited(&mut self) -> bool {
        // What is not ours to wait for any more is gone.
        let exited = self.exit.has_come().unwrap_or(true);
        self.pid = self.pid.filter(|_| !exited);
        exited
    }

    fn obey_all(&mut self) {
        while let Ok(order) = self.orders.try_recv() {
            self.obey(order);
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Signal(number, answer) => {
                let delivered = self.pid.is_some_and(|pid| send(pid, number));
                // A client that is gone needs no answer.
                let _ = answer.send(delivered);
            }
            Order::Stop {
                reason,
                note,
                within,
            } => self.stop(reason, note, within),
            Order::Follow(feed) => {
                if let Some(reports) = &mut self.reports {
                    reports.show(feed.clone());
                }
                self.stdout.show(Name::Stdout, feed.clone());
                self.stderr.show(Name::Stderr, feed);
            }
        }
    }
}

/// Of a process that has nothing to report to, there is nothing to wait for.
async fn turn(reports: &mut Option<Reporter<'_>>) {
    match reports {
        Some(reports) => reports.turn().await,
        None => std::future::pending().await,
    }
}

async fn room(stdout: &mut Stream<ChildStdout>, stderr: &mut Stream<ChildStderr>) {
    stdout.room().await;
    stderr.room().await;
}

/// How long the output of a job is awaited that was stopped: nobody is left who could write more, unless it escaped.
const STOPPED: Duration = Duration::from_millis(200);

/// Output that keeps coming after the exit, from a background child that never stops writing, is
/// taken for this much longer than `leak_timeout`.
const OVERTIME: Duration = Duration::from_secs(1);

/// kill(2) with 0 asks whether the process is there.
fn send(pid: Pid, number: i32) -> bool {
    if number == 0 {
        return test_kill_process(pid).is_ok();
    }
    Signal::from_named_raw(number).is_some_and(|signal| kill_process(pid, signal).is_ok())
}
