//! One process from spawn to end: reads its output, carries out orders, waits for it.
//!
//! The task owns the process; the [`Attempt`] handle only sends orders. Signals go out only while
//! the process is not reaped, so that they can never hit a stranger with its number.

mod stop;

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use jobd_proto::follow::Stream as Name;
use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitOptions, kill_process, kill_process_group, test_kill_process, waitpid,
};
use tokio::process::{ChildStderr, ChildStdin, ChildStdout};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant as Deadline, sleep_until};

use self::stop::Stopper;
use super::exit::Exit;
use super::input::{self, Input};
use super::output_file::OutputFile;
use super::process::{Program, pipe_to_give};
use super::reporter::{self, Reporter};
use super::start::{Started, start};
use super::stream::Stream;
use super::usage::Ended;
use super::{CLAIM, Captured, End, Executor, Launcher, LauncherSettings, Outcome};
use crate::clock;
use crate::fate::Reason;
use crate::faults::crash_point;
use crate::follow::{Feed, MAX_PER_JOB};
use crate::job::Job;
use crate::shim;

/// Signals in flight for one job: people send them, so a handful; beyond, they are refused.
const MAX_SIGNALS: usize = 16;

/// Orders to stop that have places which nobody else takes: the first one, and one to be faster.
const MAX_STOPS: usize = 2;

/// Places among the orders that signals leave to others.
const KEPT_PLACES: usize = MAX_PER_JOB + MAX_STOPS;

/// What a running process is told.
#[derive(Debug)]
pub enum Order {
    /// Show somebody what it writes, from the feed's tail on.
    Follow(Feed),
    /// Send this signal to the process itself, as `send-signal` does; answers whether it was delivered.
    Signal(i32, oneshot::Sender<bool>),
    /// Stop the whole group for this reason, by the target's `kill_sequence`, but faster where that would take longer
    /// than `within`. The note goes to `stderr`.
    Stop {
        reason: Reason,
        note: &'static str,
        within: Option<Duration>,
    },
}

/// A running attempt.
#[derive(Debug)]
pub struct Attempt {
    orders: mpsc::Sender<Order>,
}

impl Attempt {
    /// Starts a job, unless that would be later than `until`; `done` is called with how it ended, once.
    pub fn start(
        executor: &dyn Executor,
        job: Job,
        until: Option<Duration>,
        done: impl FnOnce(Outcome) + Send + 'static,
    ) -> Self {
        // The last places are for followers, and for orders to stop.
        let (orders, queue) = mpsc::channel(MAX_SIGNALS + KEPT_PLACES);
        let outcome = executor.run(job, until, queue);
        tokio::spawn(async move { done(outcome.await) });
        Self { orders }
    }

    /// Sends an order, which an ended process misses. `false`: it is a signal or a follower, and too many are before it.
    pub fn order(&self, order: Order) -> bool {
        let kept = match order {
            Order::Signal(..) => KEPT_PLACES,
            // Followers may come and go faster than a process is started.
            Order::Follow(_) => MAX_STOPS,
            Order::Stop { .. } => 0,
        };
        let room = self.orders.capacity() > kept;
        if room {
            // Dropping a missed signal's sender answers it with "not delivered".
            let _ = self.orders.try_send(order);
        }
        room
    }
}

impl Executor for Launcher {
    fn run(
        &self,
        job: Job,
        until: Option<Duration>,
        orders: mpsc::Receiver<Order>,
    ) -> BoxFuture<'static, Outcome> {
        let launcher = self.clone();
        async move { run(&launcher, Arc::new(job), until, orders).await }.boxed()
    }

    fn ignoring_case(&self) -> Option<Arc<dyn Executor>> {
        let ways = self.inner.ways.clone().ignoring_case();
        Some(Arc::new(self.with_ways(ways)))
    }
}

async fn run(
    launcher: &Launcher,
    job: Arc<Job>,
    until: Option<Duration>,
    mut orders: mpsc::Receiver<Order>,
) -> Outcome {
    let mut followers = Vec::new();
    let payload = if job.terms.has_data && launcher.way(&job).settings.data_on_stdin {
        match input::read(&launcher.inner.payloads, &job, &mut orders, &mut followers).await {
            Ok(payload) => Some(payload),
            Err(end) => return Outcome::Ended(end),
        }
    } else {
        None
    };
    let (its, of, fed) = (launcher.clone(), job.clone(), payload.is_some());
    let task = move || begin(&its, &of, fed, until);
    let hangs = || {
        tracing::warn!(job = %job.id, target = %job.target, "the start of a process is held up: does the file system of its program or its folder hang?");
    };
    match launcher.inner.spawner.run(task, hangs).await {
        Ok(Begun::Started(mut started)) => {
            for feed in followers {
                started.show(&feed);
            }
            Outcome::Ended(attend(launcher, &job, payload, started, orders).await)
        }
        Ok(Begun::Never(end)) => Outcome::Ended(end),
        Ok(Begun::NotNow(error)) | Err(error) => Outcome::NoRoom(error),
    }
}

/// What became of the beginning of a process.
#[expect(
    clippy::large_enum_variant,
    reason = "moved once a job; a box would cost more"
)]
enum Begun {
    Started(Started),
    /// It can never begin.
    Never(End),
    /// It may be tried again.
    NotNow(io::Error),
}

/// Finds the program and starts it: on a thread, as file systems may be slow.
fn begin(launcher: &Launcher, job: &Job, fed: bool, until: Option<Duration>) -> Begun {
    let way = launcher.way(job);
    let mut program = match way.program(job, &launcher.inner.worker, fed) {
        Ok(program) => program,
        Err(reason) => return Begun::Never(End::never_started(127, &reason)),
    };
    // The last moment: threads that thaw do not wait for the loop to notice what it has missed.
    if until.is_some_and(|until| clock::since_boot() >= until) {
        return Begun::NotNow(io::Error::other("its lease may have ended meanwhile"));
    }
    // What is to be fed waits for that; copies of the output and what the shim says are not this thread's business.
    let reports = way.settings.progress;
    let stay = !fed && !reports && way.settings.output_file.is_none() && way.shim.is_none();
    let reports = reports.then(|| reporter::attach(&mut program)).transpose();
    let failure = way.shim.as_ref().map(|_| attach_shim(&mut program));
    let (reports, failure) = match (reports, failure.transpose()) {
        (Ok(reports), Ok(failure)) => (reports, failure),
        (Err(error), _) | (_, Err(error)) => return Begun::NotNow(error),
    };
    crash_point!("spawn-before");
    match start(&program, way.settings.max_output, stay, job.terms.accounted) {
        Ok(mut started) => {
            (started.reports, started.failure) = (reports, failure);
            Begun::Started(started)
        }
        Err(error) if is_no_room(&error) => Begun::NotNow(error),
        Err(error) => {
            let code = if error.kind() == io::ErrorKind::NotFound {
                127
            } else {
                126
            };
            let program = program.file.to_string_lossy();
            let missing = way.missing_cwd();
            let reason = missing.unwrap_or_else(|| format!("{program}: {error}"));
            Begun::Never(End::never_started(code, &reason))
        }
    }
}

/// Gives the shim a descriptor to say on what went wrong; the end to read.
fn attach_shim(program: &mut Program<'_>) -> io::Result<OwnedFd> {
    let (failure, teller) = pipe_to_give()?;
    program.teller = Some(teller);
    Ok(failure)
}

/// Looks after a process to its end, if that has not come yet.
async fn attend(
    launcher: &Launcher,
    job: &Job,
    payload: Option<Vec<u8>>,
    mut started: Started,
    mut orders: mpsc::Receiver<Order>,
) -> End {
    if let Some((Ended { status, usage }, ended)) = started.over {
        // Whoever has waited for the start sees everything, however short.
        while let Ok(order) = orders.try_recv() {
            if let Order::Follow(feed) = order {
                started.show(&feed);
            }
        }
        return End {
            code: status.code(),
            signal: status.signal(),
            stdout: started.stdout.captured(),
            stderr: started.stderr.captured(),
            ended,
            cause: None,
            usage,
        };
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
            End::never_started(126, &reason)
        }
    }
}

/// Errors of fork(2) and pipe(2) that say nothing about the job.
fn is_no_room(error: &io::Error) -> bool {
    let codes = [Errno::AGAIN, Errno::NOMEM, Errno::MFILE, Errno::NFILE];
    error
        .raw_os_error()
        .is_some_and(|code| codes.iter().any(|known| known.raw_os_error() == code))
}

/// A process and what is known of it.
struct Process<'a> {
    launcher: &'a Launcher,
    settings: &'a LauncherSettings,
    exit: Exit,
    /// Where the shim stands between, what it says.
    failure: Option<OwnedFd>,
    /// The process, while it is not reaped.
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
        let settings = &launcher.way(job).settings;
        let file = settings.output_file.as_ref();
        let file = file.map(|template| {
            let file = (template, settings.output_file_max);
            OutputFile::begin(file, job, launcher.inner.writers.clone())
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
            exit: Exit::of(started.child, job.terms.accounted)?,
            failure: started.failure,
            orders,
            stopper: Stopper::new(settings, job, pid),
        })
    }

    async fn run(mut self) -> End {
        let (status, usage) = match self.until_exit().await {
            Ok(Ended { status, usage }) => (Ok(status), usage),
            Err(error) => (Err(error), None),
        };
        // Who wanted to follow it in its last moment sees what there is, too.
        self.obey_all();
        self.end_rest().await;
        let ended = Instant::now();
        self.drain_output().await;
        self.obey_all();
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
        let told = self.stopper.into_told();
        let good = matches!(&status, Ok(status) if status.success());
        let cause = told.and_then(|(reason, note)| {
            let counts = !good || reason.outdoes_success();
            counts.then(|| stderr.note(&note));
            counts.then_some(reason)
        });
        if let Ok(status) = &status
            && let Some(code) = status.code()
            && let Some(why) = self.failure.as_ref().and_then(shim::failure)
        {
            return End::never_started(code, &why);
        }
        let (code, signal) = match status {
            Ok(status) => (status.code(), status.signal()),
            Err(error) => {
                stderr.note(&format!("cannot wait for the process: {error}"));
                (None, None)
            }
        };
        End {
            code,
            signal,
            stdout,
            stderr,
            ended,
            cause,
            usage,
        }
    }

    /// Reads and obeys until the process has exited and is reaped.
    async fn until_exit(&mut self) -> io::Result<Ended> {
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

    /// What was written before the exit is in the pipes and read to its end; a background child
    /// that keeps them open is waited for no longer than `leak_timeout`.
    async fn drain_output(&mut self) {
        let mut deadline = Deadline::now() + self.settings.leak_timeout;
        while self.stdout.is_open() || self.stderr.is_open() {
            // A slow disk's time is not the child's.
            let held_up = Deadline::now();
            self.stdout.room().await;
            self.stderr.room().await;
            deadline += held_up.elapsed();
            tokio::select! {
                biased;
                () = self.stdout.read(), if self.stdout.is_open() => {}
                () = self.stderr.read(), if self.stderr.is_open() => {}
                () = sleep_until(deadline) => return,
            }
            if Deadline::now() >= deadline + OVERTIME {
                return;
            }
        }
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

    fn stop(&mut self, reason: Reason, note: &'static str, within: Option<Duration>) {
        if !self.has_exited() {
            self.stopper.stop(reason, note.into(), within);
        }
    }

    /// Reaps it then, which is told to whoever waits next.
    fn has_exited(&mut self) -> bool {
        let exited = !matches!(self.exit.try_wait(), Ok(None));
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

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use jobd_proto::{JobId, TargetName};

    use super::*;
    use crate::job::{Origin, Terms, Tokens};

    /// A process that is being started: its orders wait.
    #[derive(Default)]
    struct Slow(Mutex<Option<mpsc::Receiver<Order>>>);

    impl Executor for Slow {
        fn run(
            &self,
            _: Job,
            _: Option<Duration>,
            orders: mpsc::Receiver<Order>,
        ) -> BoxFuture<'static, Outcome> {
            *self.0.lock().unwrap() = Some(orders);
            std::future::pending().boxed()
        }
    }

    #[tokio::test]
    async fn a_flood_of_signals_and_followers_keeps_no_job_from_being_stopped() {
        let slow = Slow::default();
        let job = Job {
            id: JobId(1),
            target: TargetName::new("t").unwrap(),
            origin: Origin::Background,
            token: Tokens::new("w", "h", 1).next(Origin::Background),
            attempt: 1,
            again: false,
            terms: Terms::default(),
        };
        let attempt = Attempt::start(&slow, job, None, drop);
        let mut refused = 0;
        for _ in 0..100 {
            let (delivered, mut told) = oneshot::channel();
            attempt.order(Order::Signal(15, delivered));
            refused += usize::from(told.try_recv() == Err(oneshot::error::TryRecvError::Closed));
        }
        assert_eq!(refused, 100 - MAX_SIGNALS);
        while attempt.order(Order::Follow(crate::follow::new(0).0)) {}
        for within in [None, Some(Duration::ZERO)] {
            attempt.order(Order::Stop {
                reason: Reason::Drained,
                note: "",
                within,
            });
        }
        let mut orders = slow.0.lock().unwrap().take().unwrap();
        let orders: Vec<Order> = std::iter::from_fn(|| orders.try_recv().ok()).collect();
        let stop = |order: &Order| matches!(order, Order::Stop { .. });
        assert!(orders[orders.len() - MAX_STOPS..].iter().all(stop));
        assert_eq!(orders.len(), MAX_SIGNALS + KEPT_PLACES);
    }
}
