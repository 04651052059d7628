//! One output of a process: its pipe, and what was read from it so far.

use std::future::poll_fn;
use std::io::Read;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::FutureExt as _;
use jobd_proto::follow::Stream as Name;
use rustix::event::PollFlags;
use rustix::io::ioctl_fionread;
use tokio::io::{AsyncRead, AsyncReadExt as _, ReadBuf};
use tokio::sync::Semaphore;
use tokio::time::sleep;

use super::capture::{Capture, Captured};
use super::output_file::Copy;
use crate::follow::Feed;

/// Bytes that a pipe holds by default (pipe(7)).
const PIPE_CAPACITY: usize = 64 << 10;

/// Bytes read at a time. The chunk lives on the stack: most jobs write little or nothing, and a buffer of their
/// own would cost more than what they write.
const CHUNK: usize = 16 << 10;

/// Between two chunks that nobody wants.
const BREATH: Duration = Duration::from_millis(1);

/// See the module. `R` is the pipe as a thread or as the reactor reads it.
pub(super) struct Stream<R> {
    /// Until its end.
    pipe: Option<R>,
    capture: Capture,
    /// The way to the job's `output_file`, if it has one.
    copy: Option<Copy>,
    /// Who sees what it brings, and by which name; nobody, as a rule.
    feeds: Vec<(Name, Feed)>,
}

impl<R> Stream<R> {
    /// Keeps at most `limit` bytes.
    pub(super) fn new(pipe: Option<R>, limit: usize) -> Self {
        Self {
            pipe,
            capture: Capture::new(limit),
            copy: None,
            feeds: Vec::new(),
        }
    }

    /// Shows what it brings to one more, beginning with what is left of the last it has brought.
    pub(super) fn show(&mut self, name: Name, feed: Feed) {
        for (at, bytes) in self.capture.last(feed.tail) {
            feed.push(name, at, bytes);
        }
        // Where nothing is left, the place alone tells what was before.
        feed.push(name, self.capture.written(), &[]);
        self.feeds.retain(|(_, feed)| !feed.is_gone());
        self.feeds.push((name, feed));
    }

    pub(super) fn is_open(&self) -> bool {
        self.pipe.is_some()
    }

    /// Another way to read the same pipe; what comes from now on goes to `copy` as well.
    pub(super) fn handed_on<S, E>(
        self,
        change: impl FnOnce(R) -> Result<S, E>,
        copy: Option<Copy>,
    ) -> Result<Stream<S>, E> {
        Ok(Stream {
            pipe: self.pipe.map(change).transpose()?,
            capture: self.capture,
            copy,
            feeds: self.feeds,
        })
    }

    /// What was captured, whether or not the pipe has ended.
    pub(super) fn captured(self) -> Captured {
        self.capture.finish()
    }

    /// Takes in what a read brought.
    fn take(&mut self, read: Result<&[u8], ()>) {
        match read {
            Ok(bytes @ [_, ..]) => {
                for (name, feed) in &self.feeds {
                    feed.push(*name, self.capture.written(), bytes);
                }
                self.capture.push(bytes);
                if let Some(copy) = &mut self.copy {
                    copy.push(bytes);
                }
            }
            Ok([]) | Err(()) => self.pipe = None,
        }
    }
}

impl<R: Read + AsFd> Stream<R> {
    /// The pipe, for poll(2).
    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().map(AsFd::as_fd)
    }

    /// Takes the next bytes, or closes the pipe at its end, as poll(2) has found it.
    pub(super) fn read_now(&mut self, found: PollFlags) {
        match &mut self.pipe {
            Some(pipe) if found.contains(PollFlags::IN) => {
                let mut chunk = [0; CHUNK];
                let read = pipe.read(&mut chunk);
                self.take(read.map(|count| &chunk[..count]).map_err(drop));
            }
            // Its writers are gone, and there is nothing left in it.
            Some(_) if !found.is_empty() => self.pipe = None,
            _ => {}
        }
    }
}

impl<R: AsFd> Stream<R> {
    /// Whether something was written that is not read yet. Asks the system: the reactor may not have looked since.
    pub(super) fn has_unread(&self) -> bool {
        let unread = self.pipe.as_ref().map(ioctl_fionread);
        unread.is_some_and(|bytes| bytes.is_ok_and(|bytes| bytes > 0))
    }
}

impl<R: AsyncRead + Unpin + Send + 'static> Stream<R> {
    /// Waits until the next bytes can be taken; no longer than a disk may hang.
    pub(super) async fn room(&mut self) {
        if let Some(copy) = &mut self.copy {
            poll_fn(|task| copy.poll_room(task)).await;
        }
    }

    /// Takes the next bytes, or closes the pipe at its end. Cancel-safe.
    pub(super) async fn read(&mut self) {
        poll_fn(|task| self.poll_read(task)).await;
    }

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
        self.take(read.map(|()| chunk.filled()).map_err(drop));
        Poll::Ready(())
    }

    /// What was captured. A pipe that is still open belongs to a background child, which must not
    /// die of its output: it is read on, as far as `leaks` allows.
    pub(super) fn finish(mut self, leaks: &Arc<Semaphore>) -> Captured {
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
        if let Some(pipe) = self.pipe.take() {
            read_on(pipe, leaks);
        }
        self.captured()
    }
}

/// Reads a pipe to its end for nobody, as far as `leaks` allows, at [`CHUNK`] a [`BREATH`], 16 MiB a second: a background
/// child that writes without end waits for its own pipe, and costs everybody else little.
pub(super) fn read_on(mut pipe: impl AsyncRead + Unpin + Send + 'static, leaks: &Arc<Semaphore>) {
    let Ok(permit) = leaks.clone().try_acquire_owned() else {
        return;
    };
    tokio::spawn(async move {
        let mut chunk = vec![0; CHUNK];
        while matches!(pipe.read(&mut chunk).await, Ok(1..)) {
            sleep(BREATH).await;
        }
        drop(permit);
    });
}
