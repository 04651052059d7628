//! Threads that start processes, and look after each in its first moments.
//!
//! Whoever starts a process is held up until the new program has begun, some hundred microseconds on a busy
//! machine, and a file system that hangs does so for as long as it likes. With threads for that nobody else waits,
//! and all the rest fits into one thread (docs/PERFORMANCE.md). A thread that is held up is not counted: there is another one
//! in its place, so that launchers on a disk that hangs hold up no others.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

/// Threads at the most: as many slots as keep a machine busy with short jobs. Each is there only while it is needed.
const MAX_THREADS: usize = 32;

/// A thread that has had nothing to do for this long ends.
const IDLE: Duration = Duration::from_secs(10);

/// Who has waited for the end of a task for this long is held up.
const HELD_UP: Duration = Duration::from_secs(1);

/// Threads in place of those that are held up, at the most. As many launches can hang as there are slots.
const MAX_SPARES: usize = 256;

/// How long a task waits for a thread after that: all of them are held up by the system then, and another host may do better.
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
    /// Those that wait for a task, or have just been started.
    idle: usize,
    /// Tasks that are held up, or wait for those that are.
    held_up: usize,
}

type Task = Box<dyn FnOnce() + Send>;

impl Spawner {
    /// Runs a task on a thread; `hangs` is called if it has been held up there for long. An error: no thread could be had,
    /// and the task was not begun.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        task: impl FnOnce() -> T + Send + 'static,
        hangs: impl FnOnce(),
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
        let answer = if let Ok(answer) = timeout(HELD_UP, &mut told).await {
            answer
        } else {
            let _held_up = HeldUp::begin(&self.0);
            match timeout(MAX_WAIT, &mut told).await {
                Ok(answer) => answer,
                Err(_) if !ours.swap(true, Ordering::AcqRel) => {
                    return Err(io::Error::other(
                        "every thread that starts processes is held up, as by file systems that hang",
                    ));
                }
                Err(_) => {
                    hangs();
                    told.await
                }
            }
        };
        Ok(answer.expect("a task that was begun answers"))
    }

    fn submit(&self, task: Task) -> io::Result<()> {
        let mut state = self.0.lock();
        state.tasks.push_back(task);
        if let Err(error) = self.0.grow(&mut state)
            && state.threads == 0
        {
            state.tasks.pop_back();
            return Err(error);
        }
        drop(state);
        self.0.work.notify_one();
        Ok(())
    }
}

/// There may be one thread more for as long as this is there.
struct HeldUp<'a>(&'a Threads);

impl<'a> HeldUp<'a> {
    fn begin(threads: &'a Arc<Threads>) -> Self {
        let mut state = threads.lock();
        state.held_up += 1;
        // Where there is none to be had, nothing is worse than before.
        let _ = threads.grow(&mut state);
        Self(threads)
    }
}

impl Drop for HeldUp<'_> {
    fn drop(&mut self) {
        self.0.lock().held_up -= 1;
    }
}

impl Threads {
    /// Starts a thread, where there are more tasks than threads that wait for one. An error: those that there are will come
    /// to it, if there are any.
    fn grow(self: &Arc<Self>, state: &mut State) -> io::Result<()> {
        let most = MAX_THREADS + state.held_up.min(MAX_SPARES);
        if state.idle < state.tasks.len() && state.threads < most {
            let threads = self.clone();
            let builder = thread::Builder::new().name("jobd-spawn".to_owned());
            builder.spawn(move || threads.work())?;
            state.threads += 1;
            state.idle += 1;
        }
        Ok(())
    }

    fn work(&self) {
        let mut state = self.lock();
        state.idle -= 1;
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use futures::future::join_all;

    use super::*;

    #[tokio::test]
    async fn those_that_are_held_up_hold_up_nobody_else() {
        let spawner = Spawner::default();
        let (release, held) = mpsc::channel::<()>();
        let held = Arc::new(Mutex::new(held));
        let hung = (0..2 * MAX_THREADS).map(|_| {
            let (spawner, held) = (spawner.clone(), held.clone());
            tokio::spawn(async move {
                let hang = move || {
                    let _ = held.lock().unwrap().recv();
                };
                spawner.run(hang, || ()).await
            })
        });
        let hung: Vec<_> = hung.collect();
        tokio::task::yield_now().await;
        assert_eq!(spawner.run(|| 5, || ()).await.unwrap(), 5);
        drop(release);
        for done in join_all(hung).await {
            done.unwrap().unwrap();
        }
        let state = spawner.0.lock();
        assert!(state.tasks.is_empty() && state.held_up == 0);
        assert!(state.threads <= 2 * MAX_THREADS + 1, "{}", state.threads);
    }
}
