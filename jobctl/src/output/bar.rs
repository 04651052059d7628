//! Bars and lines on standard error that say what a command waits for, where that takes longer than a second. They leave
//! nothing behind.

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle, TermLike};

use super::text::plain;
use crate::database::{Database, place};

/// What takes no longer than that needs no bar: it would only flicker.
const SILENCE: Duration = Duration::from_secs(1);

/// How often the clock of a bar moves.
const TICK: Duration = Duration::from_millis(250);

/// Draws in a second, at most.
const DRAWS: u8 = 10;

/// Columns left free behind a bar: where a line is full, the `^C` that a terminal shows begins
/// another one, and the bar stays.
const FREE: u16 = 4;

/// A bar that is gone when its command ends, however that is.
pub(crate) struct Bar(ProgressBar);

/// Bars that are there. There is one line for them.
static BARS: AtomicUsize = AtomicUsize::new(0);

impl Drop for Bar {
    /// The thread that moves its clock holds the bar too, so that dropping is not enough.
    fn drop(&mut self) {
        self.0.finish_and_clear();
        BARS.fetch_sub(1, Ordering::Relaxed);
    }
}

impl std::ops::Deref for Bar {
    type Target = ProgressBar;

    fn deref(&self) -> &ProgressBar {
        &self.0
    }
}

/// A bar on standard error, which appears after a second; one that shows nothing where that is no terminal.
pub(crate) fn bar(length: usize, template: &str) -> Bar {
    begin(length, template, Instant::now() + SILENCE)
}

/// Says how many rows of a table have been read: [`ProgressBar::inc`] counts them.
pub(crate) fn reading(database: &Database) -> Bar {
    let bar = bar(
        0,
        "reading: {human_pos} rows so far [{elapsed}] of {wide_msg}",
    );
    bar.set_message(plain(&place(database)));
    bar
}

/// A line that says what has been waited for without a word; none where a bar is there already.
pub(crate) fn waiting_for(what: &str) -> Option<Bar> {
    if BARS.load(Ordering::Relaxed) > 0 {
        return None;
    }
    let bar = begin(1, "waiting for {msg} [{elapsed}]", Instant::now());
    bar.set_message(plain(what));
    Some(bar)
}

fn begin(length: usize, template: &str, shown_from: Instant) -> Bar {
    BARS.fetch_add(1, Ordering::Relaxed);
    if !io::stderr().is_terminal() {
        return Bar(ProgressBar::hidden());
    }
    let length = u64::try_from(length).unwrap_or(u64::MAX);
    let target = ProgressDrawTarget::term_like_with_hz(
        Box::new(Line {
            shown_from,
            is_shown: AtomicBool::new(false),
        }),
        DRAWS,
    );
    let bar = ProgressBar::with_draw_target(Some(length), target);
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(TICK);
    Bar(bar)
}

/// A name that leaves room on the line of a bar.
pub(crate) fn brief(name: &str) -> String {
    const LONGEST: usize = 24;
    let name = plain(name);
    match name.char_indices().nth(LONGEST) {
        Some((at, _)) => format!("{}…", &name[..at]),
        None => name,
    }
}

/// The terminal behind standard error, a little narrower than it is.
#[derive(Debug)]
struct Line {
    /// What comes sooner is dropped.
    shown_from: Instant,
    /// Whether that time has come. A drawing begins with a look at the width, and is shown as a whole or not at all.
    is_shown: AtomicBool,
}

impl Line {
    fn write(&self, text: std::fmt::Arguments<'_>) -> io::Result<()> {
        if !self.is_shown.load(Ordering::Relaxed) {
            return Ok(());
        }
        io::stderr().write_fmt(text)
    }

    fn steer(&self, order: char, count: usize) -> io::Result<()> {
        match count {
            0 => Ok(()),
            count => self.write(format_args!("\x1b[{count}{order}")),
        }
    }
}

impl TermLike for Line {
    /// What is dropped is one line, however long: the next drawing clears no more than that, where nothing stands yet.
    fn width(&self) -> u16 {
        if Instant::now() < self.shown_from {
            return u16::MAX;
        }
        self.is_shown.store(true, Ordering::Relaxed);
        let size = rustix::termios::tcgetwinsize(io::stderr());
        size.map_or(80, |size| size.ws_col).saturating_sub(FREE)
    }

    fn height(&self) -> u16 {
        rustix::termios::tcgetwinsize(io::stderr()).map_or(24, |size| size.ws_row)
    }

    fn move_cursor_up(&self, count: usize) -> io::Result<()> {
        self.steer('A', count)
    }

    fn move_cursor_down(&self, count: usize) -> io::Result<()> {
        self.steer('B', count)
    }

    fn move_cursor_right(&self, count: usize) -> io::Result<()> {
        self.steer('C', count)
    }

    fn move_cursor_left(&self, count: usize) -> io::Result<()> {
        self.steer('D', count)
    }

    fn write_line(&self, line: &str) -> io::Result<()> {
        self.write(format_args!("{line}\n"))
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        self.write(format_args!("{text}"))
    }

    fn clear_line(&self) -> io::Result<()> {
        self.write(format_args!("\r\x1b[2K"))
    }

    fn flush(&self) -> io::Result<()> {
        io::stderr().flush()
    }
}
