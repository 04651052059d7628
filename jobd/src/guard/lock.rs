//! The lock of one worker's name, and the names of its runs: those that may have left rows, and the one that
//! holds it.
//!
//! Trouble with its file costs the lock and no more: jobs are guarded without it, and it is tried again.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::complain;

/// How often the lock is tried while another guard holds it.
const HELD_PAUSE: Duration = Duration::from_millis(100);

/// How often it is tried when its file cannot be used.
const TROUBLE_PAUSE: Duration = Duration::from_secs(1);

/// Runs that the file names at most: more, and a worker has died again and again without ever reaching
/// its database. The oldest are kept, as the others held nothing.
const MAX_RUNS: usize = 1_000;

/// See the module.
pub(super) struct Lock {
    path: PathBuf,
    /// The file, once the lock is had.
    held: Option<File>,
    /// It was said that the file cannot be used.
    trouble: bool,
    /// Former runs whose rows nobody has resolved yet.
    before: Vec<String>,
}

impl Lock {
    pub(super) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            held: None,
            trouble: false,
            before: Vec::new(),
        }
    }

    /// When to try to get it again; `None` once it is had.
    pub(super) fn pause(&self) -> Option<Duration> {
        let pause = if self.trouble {
            TROUBLE_PAUSE
        } else {
            HELD_PAUSE
        };
        self.held.is_none().then_some(pause)
    }

    /// Tries to get it, unless it is had; then adds our name and returns those of the others.
    pub(super) fn take(&mut self, worker: &str) -> Option<Vec<String>> {
        if self.held.is_some() {
            return None;
        }
        let (file, names) = match self.open() {
            Ok(opened) => opened?,
            Err(error) => {
                if !std::mem::replace(&mut self.trouble, true) {
                    complain(format_args!(
                        "cannot lock {}, trying again: {error}; until then, a restart does not resolve what this worker leaves; give the file to the user that jobd runs as, and put state_dir on a local disk",
                        self.path.display()
                    ));
                }
                return None;
            }
        };
        self.held = Some(file);
        let names = String::from_utf8_lossy(&names);
        // Ours is there already, and once more for each guard of this run that was replaced. What is no name of a run,
        // no table knows.
        let others = names.split_whitespace();
        let others = others.filter(|run| *run != worker && run.is_ascii());
        // In the order of their starts, which their names have.
        let others: BTreeSet<&str> = others.collect();
        let others = others.into_iter().take(MAX_RUNS);
        self.before = others.map(str::to_owned).collect();
        self.write(Some(worker));
        Some(self.before.clone())
    }

    /// The locked file and what it holds; `None` while somebody else has the lock.
    fn open(&self) -> io::Result<Option<(File, Vec<u8>)>> {
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(&self.path)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        let mut names = Vec::new();
        file.read_to_end(&mut names)?;
        Ok(Some((file, names)))
    }

    /// Nothing is left of what the former runs held.
    pub(super) fn resolved(&mut self, worker: &str) {
        self.before.clear();
        self.write(Some(worker));
    }

    /// Nothing is left of what we held either.
    pub(super) fn leave(&mut self) {
        self.write(None);
    }

    /// Writes who may have left rows behind, and whose jobs live.
    fn write(&mut self, worker: Option<&str>) {
        let Some(file) = &mut self.held else {
            return;
        };
        let runs = self.before.iter().map(String::as_str).chain(worker);
        let text: String = runs.flat_map(|run| [run, "\n"]).collect();
        // Cut off last: at no moment is a name missing.
        let mut write = || {
            file.rewind()?;
            file.write_all(text.as_bytes())?;
            file.set_len(text.len() as u64)?;
            file.sync_all()
        };
        // The lock counts, and the jobs are guarded: without our name in it, leases decide what becomes of the
        // rows that we may leave.
        if let Err(error) = write() {
            let path = self.path.display();
            complain(format_args!("cannot write {path}: {error}"));
        }
    }
}
