//! `output_file`: what a job writes, in a file, beside the columns of its row or in place of them.
//!
//! ```text
//!   pipes ──chunks, as many as fit──> task ──> file (on a thread for work that blocks)
//! ```
//!
//! A disk that is slow slows the job, as any file would. One that is full, or that hangs, does not: then the
//! file is given up, and the columns have what they would have had.

use std::fmt::Write as _;
use std::fs::{DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use nix::unistd::close;
use rustix::fs::{Mode, OFlags, mkdirat, open, openat};
use rustix::io::Errno;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::timeout;
use tokio_util::sync::PollSender;

use crate::faults::planted;
use crate::job::Job;

/// Chunks between the pipes and the disk: a megabyte at most, for each job.
const CHUNKS: usize = 64;

/// A disk that takes longer for one write hangs.
const WRITE_LIMIT: Duration = Duration::from_secs(10);

/// Threads that the files of a section may take at a time: a disk that hangs keeps each for as long as it does, and those of
/// another section may be on another one.
const MAX_WRITERS: usize = 16;

/// Threads that all files may take: what else blocks (names of hosts, looks for the processes of stopped jobs) needs some
/// of the 512 that tokio has.
const MAX_ALL_WRITERS: usize = 256;

/// The threads that the files of a section may take. Cheap to clone.
#[derive(Clone)]
pub(super) struct Writers {
    own: Arc<Semaphore>,
    all: Arc<Semaphore>,
}

impl Default for Writers {
    fn default() -> Self {
        Self {
            own: Arc::new(Semaphore::new(MAX_WRITERS)),
            all: Arc::new(Semaphore::new(MAX_ALL_WRITERS)),
        }
    }
}

impl Writers {
    /// Those of another section.
    pub(super) fn of_others(&self) -> Self {
        Self {
            all: self.all.clone(),
            ..Self::default()
        }
    }

    /// Does something to a file on one of them. What is begun goes on there, but nobody waits for it longer than `limit`.
    async fn run<T: Send + 'static>(
        &self,
        limit: Duration,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let done = async {
            let own = self.own.clone().acquire_owned().await;
            let all = self.all.clone().acquire_owned().await;
            let work = move || {
                let done = work();
                drop((own, all));
                done
            };
            spawn_blocking(work).await
        };
        match timeout(limit, done).await {
            Ok(done) => done.unwrap_or_else(|error| Err(io::Error::other(error))),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

/// The end of a file that may not grow any more.
const FULL: &[u8] = b"\njobd: output_file_max: what follows is not in this file\n";

/// The longest part of a path that is made of a target's name: file systems take 255 bytes.
const MAX_NAME: usize = 120;

/// `output_file`, parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileTemplate {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Target,
    Id,
    Attempt,
}

impl FileTemplate {
    /// Reads an absolute path with `%t`, `%i` and `%a` in it; `%%` is a percent sign. `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        if !text.starts_with('/') || text.ends_with('/') {
            return None;
        }
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            let part = match c {
                '%' => match chars.next()? {
                    't' => Part::Target,
                    'i' => Part::Id,
                    'a' => Part::Attempt,
                    '%' => {
                        literal.push('%');
                        continue;
                    }
                    _ => return None,
                },
                c => {
                    literal.push(c);
                    continue;
                }
            };
            parts.push(Part::Text(std::mem::take(&mut literal)));
            parts.push(part);
        }
        parts.push(Part::Text(literal));
        Some(Self { parts })
    }

    fn place(&self, job: &Job) -> Place {
        let part = |part: &Part| match part {
            Part::Text(text) => text.clone(),
            Part::Target => file_name(job.target.as_str()),
            Part::Id => job.id.to_string(),
            Part::Attempt => job.attempt.to_string(),
        };
        let path: String = self.parts.iter().map(part).collect();
        // A template begins with text, which begins with a slash.
        let fixed = self.parts.first().map_or(String::new(), part);
        let base = fixed.rfind('/').map_or(0, |slash| slash + 1);
        Place {
            base: path[..base].into(),
            path: path.into(),
        }
    }
}

/// Where the file of a job is to be.
#[derive(Clone)]
struct Place {
    path: PathBuf,
    /// The folder above it, or above that, which is the same for all jobs, as it is written.
    base: PathBuf,
}

impl Place {
    /// Makes the folders too. Below the one that is the same for all jobs no link is followed, as those whose jobs run there may
    /// have fewer rights than jobd; nor is anything but a plain file written to.
    fn open(&self) -> io::Result<File> {
        let mut make = DirBuilder::new();
        make.recursive(true).mode(0o755).create(&self.base)?;
        let handle = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut folder = open(&self.base, handle, Mode::empty())?;
        let below = self.path.strip_prefix(&self.base).unwrap_or(&self.path);
        let name = below.file_name().ok_or(Errno::ISDIR)?;
        for step in below.parent().into_iter().flatten() {
            if let Err(error) = mkdirat(&folder, step, Mode::from_raw_mode(0o755))
                && error != Errno::EXIST
            {
                return Err(error.into());
            }
            let next = openat(&folder, step, handle | OFlags::NOFOLLOW, Mode::empty());
            folder = next.map_err(|error| match error {
                Errno::NOTDIR | Errno::LOOP => {
                    let step = step.to_string_lossy();
                    io::Error::other(format!("{step} is no folder, and no link is followed"))
                }
                error => error.into(),
            })?;
        }
        let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::CLOEXEC;
        // Who opens a pipe waits for its reader.
        let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = File::from(openat(&folder, name, flags, Mode::from_raw_mode(0o640))?);
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("it is no plain file"));
        }
        Ok(file)
    }
}

/// A target's name as part of a path: never a folder of its own, never hidden, never `..`; two names that differ stay
/// different unless they are very long.
fn file_name(target: &str) -> String {
    let mut name = String::new();
    for (at, byte) in target.bytes().enumerate() {
        let plain = byte.is_ascii_alphanumeric() || b"_-".contains(&byte) || byte == b'.' && at > 0;
        if plain {
            name.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(name, "%{byte:02X}");
        }
        if name.len() > MAX_NAME {
            break;
        }
    }
    name
}

/// The way to a job's file, of one of its streams.
#[derive(Clone)]
pub(super) struct Copy {
    chunks: PollSender<Vec<u8>>,
}

impl Copy {
    /// Ready when a chunk can be taken. A file that was given up takes everything.
    pub(super) fn poll_room(&mut self, task: &mut Context<'_>) -> Poll<()> {
        let _ = ready!(self.chunks.poll_reserve(task));
        Poll::Ready(())
    }

    /// Hands over what was read, once there is room.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        // It was given up, and whoever gave it up has said so.
        let _ = self.chunks.send_item(bytes.to_vec());
    }
}

/// A job's file.
pub(super) struct OutputFile {
    path: PathBuf,
    most: u64,
    writer: JoinHandle<io::Result<Written>>,
}

/// What of a job's output is in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Written {
    All,
    /// As much as may be there, and a line that says so.
    Most,
}

impl OutputFile {
    /// Begins one that takes at most so many bytes; what is wrong with it is told at the end.
    pub(super) fn begin(
        (template, most): (&FileTemplate, u64),
        job: &Job,
        writers: Writers,
    ) -> (Self, Copy) {
        let (sender, chunks) = mpsc::channel(CHUNKS);
        let place = template.place(job);
        let path = place.path.clone();
        let writer = tokio::spawn(write(place, most, chunks, writers));
        let chunks = PollSender::new(sender);
        (Self { path, most, writer }, Copy { chunks })
    }

    /// Waits until everything is in the file. An error says what is not, and why.
    pub(super) async fn end(self) -> Result<(), String> {
        let written = self
            .writer
            .await
            .unwrap_or_else(|error| Err(io::Error::other(error)));
        let path = self.path.display();
        match written {
            Ok(Written::All) => Ok(()),
            Ok(Written::Most) => Err(format!(
                "output_file {path} has no more than the first {} bytes (output_file_max)",
                self.most
            )),
            Err(error) => Err(format!("cannot write output_file {path}: {error}")),
        }
    }
}

async fn write(
    place: Place,
    mut room: u64,
    mut chunks: mpsc::Receiver<Vec<u8>>,
    writers: Writers,
) -> io::Result<Written> {
    let mut file = writers.run(WRITE_LIMIT, move || place.open()).await?;
    let mut waiting = Vec::new();
    let mut written = Written::All;
    while written == Written::All && chunks.recv_many(&mut waiting, CHUNKS).await > 0 {
        let mut bytes = std::mem::take(&mut waiting);
        if !fit(&mut bytes, &mut room) {
            written = Written::Most;
        }
        if planted!("output-file-without-its-last-byte") {
            bytes.last_mut().and_then(Vec::pop);
        }
        let write = move || {
            bytes.iter().try_for_each(|chunk| file.write_all(chunk))?;
            Ok(file)
        };
        file = writers.run(WRITE_LIMIT, write).await?;
    }
    // Nobody takes the rest: the job goes on as if it were written.
    drop(chunks);
    // Where the disk is behind a network, all of it may be written only now, and may fail.
    let end = move || Ok(close(file)?);
    writers.run(WRITE_LIMIT, end).await?;
    Ok(written)
}

/// Cuts off what goes beyond `room`, and takes what remains from it. `false` where something was cut off, which the
/// last chunk says then.
fn fit(chunks: &mut Vec<Vec<u8>>, room: &mut u64) -> bool {
    for at in 0..chunks.len() {
        let fitting = usize::try_from(*room).unwrap_or(usize::MAX);
        let length = chunks[at].len();
        *room -= length.min(fitting) as u64;
        if length > fitting {
            chunks[at].truncate(fitting);
            chunks.truncate(at + 1);
            chunks.push(FULL.to_vec());
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests;
