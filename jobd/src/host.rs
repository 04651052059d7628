//! What a worker needs of the machine that it runs on, beside processes: the clock of leases, chance, and a
//! guard. A seam: the simulation puts machines here whose time it turns itself.

use std::io;
use std::path::Path;
use std::time::Duration;

use crate::{clock, guard};

/// What a guard says of itself.
#[derive(Debug)]
pub enum Word {
    /// It has the lock, and these are the former runs of the worker that may have left rows behind.
    Locked(Vec<String>),
    /// Its strike is over.
    Struck,
    /// It has ended.
    Ended,
}

/// Told whatever a guard says.
pub type Told = Box<dyn FnMut(Word) + Send>;

/// A machine.
pub trait Host: Send + Sync + 'static {
    /// Time since it was booted: nobody sets this clock, and it goes on while the machine is suspended.
    fn since_boot(&self) -> Duration;

    /// A number from 0 to 1 that differs between calls and processes.
    fn random(&self) -> f64;

    /// Starts the guard of `worker`, whose jobs have it as their `JOBD_WORKER`. It gets the lock, if there is
    /// one, when nobody else holds it.
    fn guard(
        &self,
        worker: &str,
        lock: Option<&Path>,
        told: Told,
    ) -> anyhow::Result<Box<dyn Guard>>;
}

/// A guard, as the worker reaches it: it ends our jobs when we cannot.
pub trait Guard: Send {
    /// Jobs must be gone at `deadline` (time since boot) unless another one is set before. `None`: whatever
    /// happens, as long as this process lives.
    fn set_deadline(&mut self, deadline: Option<Duration>) -> io::Result<()>;

    /// Nothing is left of what the former runs held.
    fn resolved(&mut self) -> io::Result<()>;

    /// Ends the guard and leaves processes alone: no job is left, and what a job has started in the
    /// background may outlive jobd.
    fn dismiss(self: Box<Self>);

    /// The deadline has passed: kills every process until none is left, also those that are started meanwhile,
    /// and forgets the deadline. When that is done it says [`Word::Struck`].
    fn strike(&mut self) -> io::Result<()>;

    /// Ends the guard at once and leaves processes alone: another one is to take its place.
    fn end(self: Box<Self>);

    /// Whether the guard still stands.
    fn is_alive(&mut self) -> bool;
}

/// The machine that this program runs on.
#[derive(Clone, Copy, Debug)]
pub struct Machine;

impl Host for Machine {
    fn since_boot(&self) -> Duration {
        clock::since_boot()
    }

    /// The standard library seeds its hashers that way. Good enough to keep workers out of step.
    fn random(&self) -> f64 {
        use std::hash::{BuildHasher as _, Hasher as _, RandomState};
        let bits = u32::try_from(RandomState::new().build_hasher().finish() >> 32).unwrap_or(0);
        f64::from(bits) / f64::from(u32::MAX)
    }

    fn guard(
        &self,
        worker: &str,
        lock: Option<&Path>,
        told: Told,
    ) -> anyhow::Result<Box<dyn Guard>> {
        Ok(Box::new(guard::Process::start(worker, lock, told)?))
    }
}
