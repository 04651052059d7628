//! One process from spawn to end: reads its output, carries out orders, waits for it.
//!
//! The task owns the process; the [`Attempt`] handle only sends orders. Signals go out only while
//! the process is not reaped, so that they can never hit a stranger with its number.

mod stop;

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::process::ExitStatusExt as _;
use std::pin::Pin;
use std::process::ExitStatus;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant as Deadline, sleep_until};

use self::stop::Stopper;
use super::capture::{Capture, Captured};
use super::input::{self, Input};
use super::output_file::{Copy, OutputFile};
use super::{CLAIM, End, Executor, Launcher, LauncherSettings, Outcome, Way};
use crate::fate::Reason;
use crate::faults::crash_point;
use crate::job::Job;

/// Bytes that a pipe holds by default (pipe(7)).
const PIPE_CAPACITY: usize = 64 << 10;

/// Bytes read at a time.
const CHUNK: usize = 16 << 10;

/// Signals in flight for one job: people send them, so a handful; beyond, they are refused.
const MAX_SIGNALS: usize = 16;

/// What a running process is told.
#[derive(Debug)]
pub enum Order {
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
    /// Starts a job; `done` is called with how it ended, once.
    pub fn start(
        executor: &dyn Executor,
        job: Job,
        done: impl FnOnce(Outcome) + Send + 'static,
    ) -> Self {
        // The last place is for the order to stop, which comes once at most.
        let (orders, queue) = mpsc::channel(MAX_SIGNALS + 1);
        let outcome = executor.run(job, queue);
        tokio::spawn(async move { done(outcome.await) });
        Self { orders }
    }

    /// Sends an order; an ended process misses it, and a signal is refused where too many are before it.
    pub fn order(&self, order: Order) {
        if matches!(order, Order::Signal(..)) && self.orders.capacity() <= 1 {
            return;
        }
        // Dropping a refused signal's sender answers it with "not delivered".
        let _ = self.orders.try_send(order);
    }
}

impl Executor for Launcher {
    fn run(&self, job: Job, orders: mpsc::Receiver<Order>) -> BoxFuture<'static, Outcome> {
        let launcher = self.clone();
        async move { run(&launcher, &job, orders).await }.boxed()
    }
}

async fn run(launcher: &Launcher, job: &Job, mut orders: mpsc::Receiver<Order>) -> Outcome {
    let way = launcher.way(job);
    let payload = if job.terms.has_data && way.settings.data_on_stdin {
        match input::read(&launcher.inner.payloads, job, &mut orders).await {
            Ok(payload) => Some(payload),
            Err(end) => return Outcome::Ended(end),
        }
    } else {
        None
    };
    let command = way.command(job, &launcher.inner.worker, payload.is_some());
    let command = match command {
        Ok(command) => command,
        Err(reason) => return Outcome::Ended(End::never_started(127, &reason)),
    };
    crash_point!("spawn-before");
    let (command, child) = launcher.inner.spawner.spawn(command).await;
    match child {
        Ok(child) => {
            crash_point!("spawn-after");
            Outcome::Ended(
                Process::new(launcher, way, job, payload, child, orders)
                    .run()
                    .await,
            )
        }
        Err(error) if is_no_room(&error) => Outcome::NoRoom(error),
        Err(error) => {
            let code = if error.kind() == io::ErrorKind::NotFound {
                127
            } else {
                126
            };
            let program = command
                .as_std()
                .get_program()
                .to_string_lossy()
                .into_owned();
            Outcome::Ended(End::never_started(
                code,
                &way.missing_cwd()
                    .unwrap_or_else(|| format!("{program}: {error}")),
            ))
        }
    }
}

/// Errors of fork(2) and pipe(2) that say nothing about the job.
fn is_no_room(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let codes = [Errno::AGAIN, Errno::NOMEM, Errno::MFILE, Errno::NFILE];
    error
        .raw_os_error()
        .is_some_and(|code| codes.iter().any(|known| known.raw_os_error() == code))
}

/// A process and what is known of it.
struct Process<'a> {
    launcher: &'a Launcher,
    settings: &'a LauncherSettings,
    child: Child,
    /// The process, while it is not reaped.
    pid: Option<Pid>,
    orders: mpsc::Receiver<Order>,
    stdin: Input<ChildStdin>,
    stdout: Stream<ChildStdout>,
    stderr: Stream<ChildStderr>,
    /// Where both go too.
    file: Option<OutputFile>,
    stopper: Stopper<'a>,
}

impl<'a> Process<'a> {
    fn new(
        launcher: &'a Launcher,
        way: &'a Way,
        job: &'a Job,
        payload: Option<Vec<u8>>,
        mut child: Child,
        orders: mpsc::Receiver<Order>,
    ) -> Self {
        let settings = &way.settings;
        let file = settings.output_file.as_ref();
        let file = file.map(|template| OutputFile::begin(template, job));
        let (file, copy) = file.unzip();
        let limit = settings.max_output;
        let pid = child
            .id()
            .and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        Self {
            pid,
            stdin: Input::new(child.stdin.take(), payload),
            stdout: Stream::new(child.stdout.take(), limit, copy.clone()),
            stderr: Stream::new(child.stderr.take(), limit, copy),
            file,
            launcher,
            settings,
            child,
            orders,
            stopper: Stopper::new(settings, job, pid),
        }
    }

    async fn run(mut self) -> End {
        let status = self.until_exit().await;
        self.end_rest().await;
        let ended = Instant::now();
        self.drain_output().await;
        let (mut stdout, mut stderr) = (
            self.stdout.finish(self.launcher),
            self.stderr.finish(self.launcher),
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
        }
    }

    /// Reads and obeys until the process has exited and is reaped.
    async fn until_exit(&mut self) -> io::Result<ExitStatus> {
        loop {
            let alarm = self.stopper.alarm();
            tokio::select! {
                status = self.child.wait() => {
                    self.pid = None;
                    // Who is left finds the end of it.
                    self.stdin.close();
                    return status;
                }
                () = self.stdin.write(), if self.stdin.is_open() => {}
                () = self.stdout.read(), if self.stdout.is_open() => self.stopper.heard(),
                () = self.stderr.read(), if self.stderr.is_open() => self.stopper.heard(),
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
        let exited = !matches!(self.child.try_wait(), Ok(None));
        self.pid = self.pid.filter(|_| !exited);
        exited
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
        }
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

/// One output pipe.
struct Stream<R> {
    pipe: Option<R>,
    capture: Capture,
    /// The way to the job's `output_file`, if it has one.
    copy: Option<Copy>,
}

impl<R: AsyncRead + Unpin + Send + 'static> Stream<R> {
    fn new(pipe: Option<R>, limit: usize, copy: Option<Copy>) -> Self {
        Self {
            pipe,
            capture: Capture::new(limit),
            copy,
        }
    }

    fn is_open(&self) -> bool {
        self.pipe.is_some()
    }

    /// Waits until the next bytes can be taken; no longer than a disk may hang.
    async fn room(&mut self) {
        if let Some(copy) = &mut self.copy {
            poll_fn(|task| copy.poll_room(task)).await;
        }
    }

    /// Takes the next bytes, or closes the pipe at its end. Cancel-safe.
    async fn read(&mut self) {
        poll_fn(|task| self.poll_read(task)).await;
    }

    /// The chunk lives on the stack: most jobs write little or nothing, and a buffer of their own would cost
    /// more than what they write.
    fn poll_read(&mut self, task: &mut Context<'_>) -> Poll<()> {
        let Some(pipe) = &mut self.pipe else {
            return Poll::Ready(());
        };
        if let Some(copy) = &mut self.copy {
            ready!(copy.poll_room(task));
        }
        let mut chunk = [MaybeUninit::uninit(); CHUNK];
        let mut chunk = ReadBuf::uninit(&mut chunk);
        let read = ready!(Pin::new(pipe).poll_read(task, &mut chunk));
        match (read, chunk.filled()) {
            (Ok(()), bytes @ [_, ..]) => {
                self.capture.push(bytes);
                if let Some(copy) = &mut self.copy {
                    copy.push(bytes);
                }
            }
            (Ok(()), []) | (Err(_), _) => self.pipe = None,
        }
        Poll::Ready(())
    }

    /// What was captured. A pipe that is still open belongs to a background child, which must not
    /// die of its output.
    fn finish(mut self, launcher: &Launcher) -> Captured {
        // A last look: on a loaded machine the deadline may have passed before all that was there
        // already, at most what a pipe holds, was read.
        for _ in 0..PIPE_CAPACITY / CHUNK {
            if !self.is_open()
                || tokio::task::unconstrained(self.read())
                    .now_or_never()
                    .is_none()
            {
                break;
            }
        }
        if let (Some(mut pipe), Ok(permit)) =
            (self.pipe, launcher.inner.leaks.clone().try_acquire_owned())
        {
            tokio::spawn(async move {
                let _ = tokio::io::copy(&mut pipe, &mut tokio::io::sink()).await;
                drop(permit);
            });
        }
        self.capture.finish()
    }
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
        fn run(&self, _: Job, orders: mpsc::Receiver<Order>) -> BoxFuture<'static, Outcome> {
            *self.0.lock().unwrap() = Some(orders);
            std::future::pending().boxed()
        }
    }

    #[tokio::test]
    async fn a_flood_of_signals_keeps_no_job_from_being_stopped() {
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
        let attempt = Attempt::start(&slow, job, drop);
        let mut refused = 0;
        for _ in 0..100 {
            let (delivered, mut told) = oneshot::channel();
            attempt.order(Order::Signal(15, delivered));
            refused += usize::from(told.try_recv() == Err(oneshot::error::TryRecvError::Closed));
        }
        assert_eq!(refused, 100 - MAX_SIGNALS);
        let within = None;
        attempt.order(Order::Stop {
            reason: Reason::Drained,
            note: "",
            within,
        });
        let mut orders = slow.0.lock().unwrap().take().unwrap();
        let orders: Vec<Order> = std::iter::from_fn(|| orders.try_recv().ok()).collect();
        assert!(matches!(orders.last(), Some(Order::Stop { .. })));
    }
}
