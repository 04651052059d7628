//! Threads that start processes, and look after each in its first moments.
//!
//! Whoever starts a process is held up until the new program has begun, some hundred microseconds on a busy
//! machine, and a file system that hangs does so for as long as it likes. With threads for that nobody else waits,
//! and all the rest fits into one thread (docs/PERFORMANCE.md).

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::io::Errno;
use tokio::sync::oneshot;
use tokio::time::timeout;

/// Threads at the most: as many slots as keep a machine busy with short jobs. Each is there only while it is needed.
const MAX_THREADS: usize = 32;

/// A thread that has had nothing to do for this long ends.
const IDLE: Duration = Duration::from_secs(10);

/// How long a task waits for a thread: all of them are held up by the system then, and another host may do better.
const MAX_WAIT: Duration = Duration::from_secs(5);

/// The way to the threads; cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Spawner(Arc<Threads>);

#[derive(Default)]
struct Threads {
    state: Mutex<State>,
    work: Condvar,
}

#[derive(Default)]
struct State {
    tasks: VecDeque<Task>,
    threads: usize,
    idle: usize,
}

type Task = Box<dyn FnOnce() + Send>;

impl Spawner {
    /// Runs a task on a thread. An error (EAGAIN): no thread could be had, and the task was not begun.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        task: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        let (tell, mut told) = oneshot::channel();
        // Whoever sets it first decides whether the task is carried out.
        let decided = Arc::new(AtomicBool::new(false));
        let ours = decided.clone();
        self.submit(Box::new(move || {
            if !decided.swap(true, Ordering::AcqRel) {
                // Whoever does not wait any more has gone with the runtime.
                drop(tell.send(task()));
            }
        }))?;
        let answer = match timeout(MAX_WAIT, &mut told).await {
            Ok(answer) => answer,
            Err(_) if !ours.swap(true, Ordering::AcqRel) => return Err(Errno::AGAIN.into()),
            Err(_) => told.await,
        };
        Ok(answer.expect("a task that was begun answers"))
    }

    fn submit(&self, task: Task) -> io::Result<()> {
        let mut state = self.0.lock();
        if state.idle <= state.tasks.len() && state.threads < MAX_THREADS {
            let threads = self.0.clone();
            let builder = thread::Builder::new().name("jobd-spawn".to_owned());
            match builder.spawn(move || threads.work()) {
                Ok(_) => state.threads += 1,
                Err(error) if state.threads == 0 => return Err(error),
                // Those that there are will come to it.
                Err(_) => {}
            }
        }
        state.tasks.push_back(task);
        drop(state);
        self.0.work.notify_one();
        Ok(())
    }
}

impl Threads {
    fn work(&self) {
        let mut state = self.lock();
        loop {
            if let Some(task) = state.tasks.pop_front() {
                drop(state);
                task();
                state = self.lock();
                continue;
            }
            state.idle += 1;
            let waited = self.work.wait_timeout(state, IDLE);
            let (woken, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            state = woken;
            state.idle -= 1;
            if timeout.timed_out() && state.tasks.is_empty() {
                state.threads -= 1;
                return;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
