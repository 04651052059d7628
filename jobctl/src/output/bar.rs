//! Bars and lines on standard error that say what a command waits for. They leave nothing behind.

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle, TermLike};

use super::text::plain;

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

/// A bar on standard error; one that shows nothing where that is no terminal.
pub(crate) fn bar(length: usize, template: &str) -> Bar {
    BARS.fetch_add(1, Ordering::Relaxed);
    if !io::stderr().is_terminal() {
        return Bar(ProgressBar::hidden());
    }
    let length = u64::try_from(length).unwrap_or(u64::MAX);
    let target = ProgressDrawTarget::term_like_with_hz(Box::new(Line), DRAWS);
    let bar = ProgressBar::with_draw_target(Some(length), target);
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(TICK);
    Bar(bar)
}

/// A line that says what is waited for; none where a bar is shown already.
pub(crate) fn waiting_for(what: &str) -> Option<Bar> {
    if BARS.load(Ordering::Relaxed) > 0 {
        return None;
    }
    let bar = bar(1, "waiting for {msg} [{elapsed}]");
    bar.set_message(plain(what));
    Some(bar)
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
struct Line;

impl Line {
    fn steer(order: char, count: usize) -> io::Result<()> {
        match count {
            0 => Ok(()),
            count => write!(io::stderr(), "\x1b[{count}{order}"),
        }
    }
}

impl TermLike for Line {
    fn width(&self) -> u16 {
        let size = rustix::termios::tcgetwinsize(io::stderr());
        size.map_or(80, |size| size.ws_col).saturating_sub(FREE)
    }

    fn height(&self) -> u16 {
        rustix::termios::tcgetwinsize(io::stderr()).map_or(24, |size| size.ws_row)
    }

    fn move_cursor_up(&self, count: usize) -> io::Result<()> {
        Self::steer('A', count)
    }

    fn move_cursor_down(&self, count: usize) -> io::Result<()> {
        Self::steer('B', count)
    }

    fn move_cursor_right(&self, count: usize) -> io::Result<()> {
        Self::steer('C', count)
    }

    fn move_cursor_left(&self, count: usize) -> io::Result<()> {
        Self::steer('D', count)
    }

    fn write_line(&self, line: &str) -> io::Result<()> {
        writeln!(io::stderr(), "{line}")
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        write!(io::stderr(), "{text}")
    }

    fn clear_line(&self) -> io::Result<()> {
        write!(io::stderr(), "\r\x1b[2K")
    }

    fn flush(&self) -> io::Result<()> {
        io::stderr().flush()
    }
}
