//! What a job says of how far it has come: lines on a pipe of its own, of which the last one counts. A job that writes
//! without end, or garbage, costs a bounded time to read, one line of memory, and one report a second.

use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use jobd_proto::Progress;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::read;
use tokio::net::unix::pipe::Receiver;
use tokio::time::{Instant, sleep_until};

use super::process::{Program, pipe_to_give};
use super::stream::Leaks;
use crate::follow::Feed;
use crate::job::Job;
use crate::reports::Reports;

/// The descriptor's number in a job. One digit: dash knows no others in `>&3`.
const NUMBER: i32 = 3;

/// Tells the job that number.
pub(super) const VARIABLE: &str = "JOBD_PROGRESS_FD";

/// Between two reports of a job, to its followers and its row.
const PAUSE: Duration = Duration::from_secs(1);

/// Bytes read at a time.
const CHUNK: usize = 16 << 10;

/// Bytes of a line that count.
const MAX_LINE: usize = 1 << 10;

/// Lines that are looked at, of those that come at a time: who writes more that say nothing, though they have bytes that could,
/// says nothing.
const MAX_LOOKS: usize = 64;

/// Bytes read a second, once more than that have come at a time: no job needs as many, and one that does not know better
/// waits for its own pipe, as nobody else may have to wait for it.
const PACE: u32 = 16 << 20;

/// Bytes that a pipe holds by default (pipe(7)).
const PIPE_CAPACITY: usize = 64 << 10;

/// Gives a program a descriptor to report to; the end to read.
pub(super) fn attach(program: &mut Program<'_>) -> io::Result<OwnedFd> {
    let (reader, writer) = pipe_to_give()?;
    program.reports = Some(writer);
    let variable = CString::new(format!("{VARIABLE}={NUMBER}"));
    program.variables.1.extend(variable);
    Ok(reader)
}

/// Whether nothing was reported, and nobody is left who could. For the ends of jobs that are over before the reactor has
/// heard of them, as most short ones are, which say nothing.
pub(super) fn is_mute(pipe: &OwnedFd) -> bool {
    let mut polled = [PollFd::new(pipe, PollFlags::IN)];
    let now = Timespec::default();
    poll(&mut polled, Some(&now)).is_ok() && polled[0].revents() == PollFlags::HUP
}

/// The reports of one process.
pub(super) struct Reporter<'a> {
    job: &'a Job,
    reports: &'a Reports,
    pipe: Option<Receiver>,
    lines: Lines,
    /// The last report, for those who come later.
    last: Option<Progress>,
    /// Whether nobody was told of it yet.
    untold: bool,
    /// When the next one may be told.
    tell_at: Instant,
    /// When all that was read would be due at [`PACE`].
    paced: Instant,
    followers: Vec<Feed>,
}

impl<'a> Reporter<'a> {
    /// An error: the reactor has no room to watch the pipe.
    pub(super) fn new(
        pipe: OwnedFd,
        job: &'a Job,
        reports: &'a Reports,
        followers: Vec<Feed>,
    ) -> io::Result<Self> {
        let now = Instant::now();
        Ok(Self {
            job,
            reports,
            pipe: Some(Receiver::from_owned_fd(pipe)?),
            lines: Lines::default(),
            last: None,
            untold: false,
            tell_at: now,
            paced: now,
            followers,
        })
    }

    /// Whether there may be something to do.
    pub(super) fn is_open(&self) -> bool {
        self.pipe.is_some() || self.untold
    }

    /// Shows reports to one more.
    pub(super) fn show(&mut self, feed: Feed) {
        if let Some(last) = self.last.clone().filter(|_| !self.untold) {
            feed.progress(last);
        }
        self.followers.retain(|feed| !feed.is_gone());
        self.followers.push(feed);
    }

    /// Reads, or tells, when there is something. Cancel-safe.
    pub(super) async fn turn(&mut self) {
        let (paced, pipe) = (self.paced, self.pipe.as_ref());
        let readable = async {
            match pipe {
                Some(pipe) => {
                    sleep_until(paced).await;
                    pipe.readable().await
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = sleep_until(self.tell_at), if self.untold => self.tell(),
            found = readable => match found {
                Ok(()) => self.read(Receiver::try_read),
                Err(_) => self.end(),
            },
        }
    }

    /// The process has ended: reads what there is, and waits for a moment until its last word is in the row. What a
    /// background child of it says from now on is read and dropped, as closing the pipe would kill it; but where nobody has
    /// said anything, the pipe is closed: every daemon that a job leaves holds it, and hardly one of them ever will.
    pub(super) async fn finish(mut self, leaks: &Leaks) {
        // The reactor may not have looked since.
        self.read(|pipe, chunk| Ok(read(pipe, chunk)?));
        let pipe = self.pipe.take();
        self.end();
        if self.untold {
            self.tell();
        }
        if self.last.is_some() {
            if let Some(pipe) = pipe {
                leaks.read_on(pipe);
            }
            self.reports.settle(self.job).await;
        }
    }

    /// Takes in what there is to read, at most as much as a pipe holds.
    fn read(&mut self, read: impl Fn(&Receiver, &mut [u8]) -> io::Result<usize>) {
        let mut chunk = [0; CHUNK];
        for _ in 0..PIPE_CAPACITY / CHUNK {
            let Some(pipe) = &self.pipe else { return };
            match read(pipe, &mut chunk) {
                Ok(count @ 1..) => {
                    let bytes = u32::try_from(count).unwrap_or(u32::MAX);
                    let from = self.paced.max(Instant::now());
                    self.paced = from + Duration::from_secs(1) * bytes / PACE;
                    let said = self.lines.push(&chunk[..count]);
                    self.take(said);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Ok(_) | Err(_) => self.end(),
            }
        }
    }

    /// Nothing more will come.
    fn end(&mut self) {
        self.pipe = None;
        let said = self.lines.finish();
        self.take(said);
    }

    fn take(&mut self, said: Option<Progress>) {
        if said.is_some() && said != self.last {
            self.last = said;
            self.untold = true;
        }
    }

    fn tell(&mut self) {
        self.untold = false;
        self.tell_at = Instant::now() + PAUSE;
        if let Some(last) = &self.last {
            for feed in &self.followers {
                feed.progress(last.clone());
            }
            self.reports.tell(self.job, last.clone());
        }
    }
}

/// Finds the last line that says something. Pure.
#[derive(Debug, Default)]
struct Lines {
    /// The beginning of a line without an end.
    open: Vec<u8>,
}

impl Lines {
    /// Takes what was read; what its last whole line says. Bars that begin a line anew by `\r` end it there.
    fn push(&mut self, bytes: &[u8]) -> Option<Progress> {
        let is_end = |byte: &u8| matches!(byte, b'\n' | b'\r');
        let Some(last_end) = bytes.iter().rposition(is_end) else {
            self.keep(bytes);
            return None;
        };
        let (mut whole, open) = bytes.split_at(last_end);
        let mut said = None;
        for _ in 0..MAX_LOOKS {
            // There may be thousands of empty lines, none of which is worth a look of its own.
            let words = whole.iter().rposition(|byte| !is_blank(*byte));
            let line = &whole[..words.map_or(0, |last| last + 1)];
            if let Some(end) = line.iter().rposition(is_end) {
                said = parse(&line[end + 1..]);
                whole = &whole[..end];
            } else {
                // The first line of these bytes goes on with what was open.
                self.keep(line);
                said = self.finish();
                break;
            }
            if said.is_some() {
                break;
            }
        }
        self.open.clear();
        self.keep(&open[1..]);
        said
    }

    /// Nothing more will come: what the open line says.
    fn finish(&mut self) -> Option<Progress> {
        parse(&std::mem::take(&mut self.open))
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = MAX_LINE.saturating_sub(self.open.len());
        self.open.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
}

/// Whether a byte is a character that says nothing: a control character or a blank.
fn is_blank(byte: u8) -> bool {
    byte <= b' ' || byte == 0x7f
}

fn parse(line: &[u8]) -> Option<Progress> {
    Progress::parse(&String::from_utf8_lossy(&line[..line.len().min(MAX_LINE)]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rustix::time::{ClockId, Timespec, clock_gettime};

    use super::*;

    fn said(text: &str) -> Option<Progress> {
        Progress::parse(text)
    }

    #[test]
    fn the_last_line_that_says_something_counts() {
        let mut lines = Lines::default();
        assert_eq!(lines.push(b"10 a\n20 b\n\n \r\n30"), said("20 b"));
        assert_eq!(lines.push(b" c"), None);
        assert_eq!(lines.push(b" d\r"), said("30 c d"));
        assert_eq!(lines.push(b"\xff\0\x1b\n"), said("\u{fffd}"));
        assert_eq!(lines.push(b"40"), None);
        assert_eq!(lines.finish(), said("40"));
        assert_eq!(lines.finish(), None);
        assert_eq!(lines.push(b"\n\n\0\n"), None);
        assert_eq!(lines.push(b"50"), None);
        assert_eq!(lines.push(b" \x7f\n \n\n"), said("50"));
        assert_eq!(lines.push("60\n\u{3000}\n\u{85}\n".as_bytes()), said("60"));
        let mute = "\u{3000}\n".repeat(MAX_LOOKS);
        assert_eq!(lines.push(format!("70\n{mute}").as_bytes()), None);
        assert_eq!(lines.push(b"80\n"), said("80"));
    }

    #[test]
    fn lines_that_say_nothing_cost_little_measured() {
        let took = |text: &str| {
            let chunk = text.repeat(CHUNK / text.len());
            let mut lines = Lines::default();
            let begun = clock_gettime(ClockId::ThreadCPUTime);
            for _ in 0..100 {
                lines.push(chunk.as_bytes());
            }
            let nanoseconds = |time: Timespec| time.tv_sec * 1_000_000_000 + time.tv_nsec;
            nanoseconds(clock_gettime(ClockId::ThreadCPUTime)) - nanoseconds(begun)
        };
        // Of these the last one is looked at.
        let words = took("50 busy copying files\n");
        for empty in ["\n", "\r", " \0\n", "\u{85}\n"] {
            let mute = took(empty);
            println!("{empty:?}: {mute} ns, words: {words} ns");
            assert!(
                mute < 20 * words + 50_000_000,
                "{empty:?}: {mute} ns, words: {words} ns"
            );
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_little_is_kept(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..3000), 0..20),
        ) {
            let mut lines = Lines::default();
            let mut last = None;
            for chunk in &chunks {
                last = lines.push(chunk).or(last);
                prop_assert!(lines.open.len() <= MAX_LINE);
            }
            last = lines.finish().or(last);
            let whole = chunks.concat();
            let mut expected = whole.split(|byte| matches!(byte, b'\n' | b'\r'));
            prop_assert_eq!(last, expected.rfind(|line| parse(line).is_some()).and_then(parse));
        }
    }
}
