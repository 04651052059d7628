//! Threads that start processes.
//!
//! posix_spawn(3) holds its caller up until the new program has begun, some hundred microseconds on a busy
//! machine: longer than everything else that jobd does for a job. With threads of its own nobody waits for it, and
//! all the rest fits into one thread (docs/PERFORMANCE.md).

use std::io;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;

use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// Processes that are being started at the same time: one for each core, as far as that helps one table.
const THREADS: std::ops::RangeInclusive<usize> = 2..=4;

/// The way to the threads; cheap to clone. They end with the last of these.
#[derive(Clone)]
pub(super) struct Spawner {
    orders: mpsc::Sender<Order>,
}

struct Order {
    command: Command,
    /// Whose reactor tells of the process's output and end.
    runtime: Handle,
    started: oneshot::Sender<(Command, io::Result<Child>)>,
}

impl Spawner {
    /// Starts the threads. An error is that of pthread_create(3).
    pub(super) fn new() -> io::Result<Self> {
        let cores = thread::available_parallelism().map_or(*THREADS.start(), Into::into);
        let (orders, queue) = mpsc::channel();
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..cores.clamp(*THREADS.start(), *THREADS.end()) {
            let queue = queue.clone();
            let builder = thread::Builder::new().name("jobd-spawn".to_owned());
            builder.spawn(move || work(&queue))?;
        }
        Ok(Self { orders })
    }

    /// Starts a process, and gives its command back.
    pub(super) async fn spawn(&self, command: Command) -> (Command, io::Result<Child>) {
        let (started, child) = oneshot::channel();
        let order = Order {
            command,
            runtime: Handle::current(),
            started,
        };
        self.orders
            .send(order)
            .expect("the threads wait for orders as long as one can be sent");
        child.await.expect("every order is answered")
    }
}

fn work(queue: &Mutex<mpsc::Receiver<Order>>) {
    loop {
        // The lock is let go of before the order is carried out.
        let order = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(order) = order else {
            return;
        };
        let Order {
            mut command,
            runtime,
            started,
        } = order;
        let _reactor = runtime.enter();
        let child = command.spawn();
        // Whoever does not wait any more has gone with the runtime, and so have his processes.
        drop(started.send((command, child)));
    }
}
