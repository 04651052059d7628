//! Threads for work that blocks, there from the start: the jobs may use up what the system gives.

use std::time::Duration;
use std::{fmt, io, sync, thread};

use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;

/// Builds a runtime whose first thread for work that blocks (names are resolved and files read there) has been
/// started, and stays. Where a pool has one, work waits for it; one that has none and gets none panics
/// (tokio's `spawn_blocking`). Further threads come as they are needed, and stay too: a daemon has few names and files.
///
/// # Errors
/// The system gives no thread, or nothing to wait for events with.
pub fn runtime(builder: &mut Builder) -> io::Result<Runtime> {
    let builder = builder.enable_all().thread_keep_alive(Duration::MAX);
    let runtime = builder.build()?;
    // In a task of its own, which catches the panic of a pool without threads.
    let first = runtime.spawn(async { spawn_blocking(|| ()).await });
    let first = runtime.block_on(first).and_then(|first| first);
    first.map_err(io::Error::other)?;
    Ok(runtime)
}

/// Does what blocks for a moment (reads files of `/proc`, asks for a name) on a thread for that.
///
/// # Panics
/// Where the work does.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let done = spawn_blocking(work).await;
    done.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}

/// A thread of one's own, for work on what may hang for long and must not wait for anything else that does. Cheap
/// to clone; the thread ends with the last of these.
#[derive(Clone)]
pub struct OwnThread {
    work: sync::mpsc::Sender<Box<dyn FnOnce() + Send>>,
}

impl OwnThread {
    /// Starts the thread.
    ///
    /// # Errors
    /// Those of pthread_create(3).
    pub fn start(name: &str) -> io::Result<Self> {
        let (work, queue) = sync::mpsc::channel::<Box<dyn FnOnce() + Send>>();
        let builder = thread::Builder::new().name(name.to_owned());
        builder.spawn(move || queue.into_iter().for_each(|work| work()))?;
        Ok(Self { work })
    }

    /// Does `work` there, behind what it was given before. What it returns can be received, unless it panicked.
    pub fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> oneshot::Receiver<T> {
        let (done, outcome) = oneshot::channel();
        // Nobody may be interested any more. A thread that is gone by a panic drops `done`, which says so.
        drop(self.work.send(Box::new(move || drop(done.send(work())))));
        outcome
    }
}

impl fmt::Debug for OwnThread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OwnThread")
    }
}
