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

/// Pipes that background children may keep when their job is over, per worker. What they write is read and dropped, as
/// closing the pipe would kill them at their next word; beyond this many it is closed all the same, because each costs a
/// file descriptor.
const MAX_LEAKS: usize = 256;

/// Behind a chunk that nobody wants, before the next one of any of them.
const BREATH: Duration = Duration::from_millis(1);

/// What is read on for nobody. Cheap to clone.
#[derive(Clone)]
pub(super) struct Leaks {
    room: Arc<Semaphore>,
    /// The one who takes breath.
    turn: Arc<Semaphore>,
}

impl Default for Leaks {
    fn default() -> Self {
        Self {
            room: Arc::new(Semaphore::new(MAX_LEAKS)),
            turn: Arc::new(Semaphore::new(1)),
        }
    }
}

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
    pub(super) fn finish(mut self, leaks: &Leaks) -> Captured {
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
            leaks.read_on(pipe);
        }
        self.captured()
    }
}

impl Leaks {
    /// Reads a pipe to its end for nobody, where there is room for it. All of them together at [`CHUNK`] a [`BREATH`], 16 MiB
    /// a second, one after the other: a background child that writes without end waits for its own pipe, and however
    /// many there are, they cost everybody else little.
    pub(super) fn read_on(&self, mut pipe: impl AsyncRead + Unpin + Send + 'static) {
        let Ok(room) = self.room.clone().try_acquire_owned() else {
            return;
        };
        let turn = self.turn.clone();
        tokio::spawn(async move {
            let mut chunk = vec![0; CHUNK];
            while matches!(pipe.read(&mut chunk).await, Ok(1..)) {
                let _turn = turn.acquire().await;
                sleep(BREATH).await;
            }
            drop(room);
        });
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Never stops writing; counts what was read.
    struct Endless(Arc<AtomicUsize>);

    impl AsyncRead for Endless {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            self.0.fetch_add(buffer.remaining(), Ordering::Relaxed);
            buffer.advance(buffer.remaining());
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn however_many_write_to_nobody_they_share_one_pace() {
        let leaks = Leaks::default();
        let counts: Vec<Arc<AtomicUsize>> = (0..100).map(|_| Arc::default()).collect();
        for count in &counts {
            leaks.read_on(Endless(count.clone()));
        }
        sleep(Duration::from_secs(1)).await;
        let read: Vec<usize> = counts
            .iter()
            .map(|count| count.load(Ordering::Relaxed) / CHUNK)
            .collect();
        let all: usize = read.iter().sum();
        assert!((500..=1_200).contains(&all), "{all} chunks in a second");
        let (least, most) = (read.iter().min().unwrap(), read.iter().max().unwrap());
        assert!(*least > 0 && most - least <= 1, "{least} to {most} each");
        // Once the children are gone there is room again.
        let leaks = Leaks::default();
        for _ in 0..2 * MAX_LEAKS {
            leaks.read_on(tokio::io::empty());
        }
        sleep(Duration::from_secs(1)).await;
        assert_eq!(leaks.room.available_permits(), MAX_LEAKS);
    }
}
