//! How results reach people and scripts: tables or JSON on standard output, complaints on standard
//! error. Decides about colour and width once; a reader that has gone away is no error.

mod bar;
mod table;
mod text;

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};

use jobd_proto::follow::Stream;
use jobd_proto::settings::LogLevel;
use serde::Serialize;

use crate::failure::Failure;
pub(crate) use bar::{Bar, bar, brief, reading, waiting_for};
pub(crate) use table::{Table, Tone, kept};
pub(crate) use text::{
    ago, by_target, bytes, columns_of, counted, excerpt, local_time, now, plain, seconds, several,
    wrapped,
};

/// What standard output can show.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Screen {
    json: bool,
    colour: bool,
    /// Columns and lines of the terminal; `None` where output goes elsewhere: there nothing is cut,
    /// and tables are tab-separated.
    size: Option<(u16, u16)>,
}

impl Screen {
    /// Looks at standard output and at `NO_COLOR`, which counts if it is not empty.
    pub(crate) fn detect(json: bool) -> Self {
        let stdout = io::stdout();
        let terminal = stdout.is_terminal();
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let size = rustix::termios::tcgetwinsize(&stdout).ok();
        Self {
            json,
            colour: terminal && !no_colour,
            size: size
                .map(|size| (size.ws_col, size.ws_row))
                .filter(|(columns, lines)| terminal && *columns > 0 && *lines > 0),
        }
    }

    /// Whether programs read it.
    pub(crate) fn is_json(self) -> bool {
        self.json
    }

    /// Whether a person looks at it.
    pub(crate) fn is_terminal(self) -> bool {
        self.size.is_some()
    }

    /// Whether there are colours.
    pub(crate) fn is_coloured(self) -> bool {
        self.colour
    }

    /// Lines of the terminal, if it is one.
    pub(crate) fn height(self) -> Option<usize> {
        self.size.map(|(_, lines)| usize::from(lines))
    }

    /// The text in lines that end between words, where the terminal ends; as it is elsewhere.
    pub(crate) fn wrapped(self, text: &str) -> String {
        on_lines(text, self.size.map(|(columns, _)| columns))
    }

    /// Lines of the terminal that the text takes when it is wrapped; 1 elsewhere.
    pub(crate) fn lines_of(self, text: &str) -> usize {
        let width = self.size.map_or(usize::MAX, |(columns, _)| columns.into());
        let text = self.wrapped(text);
        let lines = text.split('\n');
        lines
            .map(|line| columns_of(line).div_ceil(width).max(1))
            .sum()
    }

    /// Prints `value` for programs; for people what `text` makes of it.
    pub(crate) fn show<T: Serialize>(
        self,
        value: &T,
        text: impl FnOnce(&T) -> String,
    ) -> Result<(), Failure> {
        if !self.json {
            return print(&text(value));
        }
        let mut json = serde_json::to_string_pretty(value)
            .map_err(|error| Failure::Refused(format!("cannot print as JSON: {error}")))?;
        json.push('\n');
        print(&json)
    }

    /// The lines of a table: laid out on a terminal, tab-separated elsewhere.
    pub(crate) fn table(self, table: &Table) -> String {
        match self.size {
            Some((columns, _)) => table.render(columns, self.colour),
            None => table.tab_separated(),
        }
    }

    /// `text` in the colour of `tone`, where colours are.
    pub(crate) fn tone(self, tone: Tone, text: &str) -> String {
        tone.paint(text, self.colour)
    }
}

/// Whether it was noticed that nobody reads standard output any more.
static IS_CLOSED: AtomicBool = AtomicBool::new(false);

/// Whether nobody reads any more, as the last print has noticed: who would print for ever ends then.
pub(crate) fn is_closed() -> bool {
    IS_CLOSED.load(Ordering::Relaxed)
}

/// Writes to standard output. Where nobody reads any more (`| head`) the rest is dropped.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    print_bytes(text.as_bytes())
}

/// The same of what need not be text.
pub(crate) fn print_bytes(bytes: &[u8]) -> Result<(), Failure> {
    put(bytes)?;
    wrote(Stream::Stdout, bytes);
    Ok(())
}

/// The same of what is no output, as orders to the terminal are: no later line takes note of it.
pub(crate) fn put(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
            IS_CLOSED.store(true, Ordering::Relaxed);
            Ok(())
        }
        written => {
            written.map_err(|error| Failure::Refused(format!("cannot write the output: {error}")))
        }
    }
}

/// Whether what was written last where complaints go is no whole line: a job may end without a newline.
static IS_WITHIN_LINE: AtomicBool = AtomicBool::new(false);

/// Takes note of what was written there, for the next complaint.
pub(crate) fn wrote(to: Stream, bytes: &[u8]) {
    /// Both go to the same place, as on a terminal.
    static ARE_ONE: LazyLock<bool> = LazyLock::new(|| {
        let place = |stat: rustix::fs::Stat| (stat.st_dev, stat.st_ino);
        let stdout = rustix::fs::fstat(io::stdout()).map(place);
        let stderr = rustix::fs::fstat(io::stderr()).map(place);
        stdout.is_ok() && stdout == stderr
    });
    if let Some(last) = bytes.last().filter(|_| to == Stream::Stderr || *ARE_ONE) {
        IS_WITHIN_LINE.store(*last != b'\n', Ordering::Relaxed);
    }
}

/// Ends the line that was written last where complaints go, if that is within one.
pub(crate) fn end_line() {
    if IS_WITHIN_LINE.swap(false, Ordering::Relaxed) {
        let _ = io::stderr().write_all(b"\n");
    }
}

/// Writes to standard error, on a line of its own; where that is closed there is nobody left to tell. What daemons and
/// databases said may be part of it, so that control characters are made visible.
pub(crate) fn complain(text: &str) {
    let stderr = io::stderr();
    let size = rustix::termios::tcgetwinsize(&stderr).ok();
    let columns = size.map(|size| size.ws_col).filter(|columns| *columns > 0);
    let lines = text.split('\n').map(|line| on_lines(&plain(line), columns));
    let lines: Vec<String> = lines.collect();
    end_line();
    let _ = writeln!(stderr.lock(), "{}", lines.join("\n"));
}

/// The text in lines of so many columns; as it is where that is no terminal.
fn on_lines(text: &str, columns: Option<u16>) -> String {
    let Some(columns) = columns else {
        return text.to_owned();
    };
    let lines = wrapped(text, columns.into());
    let lines: Vec<&str> = lines.iter().map(|line| line.trim_end()).collect();
    lines.join("\n")
}

/// What the libraries have to say goes to standard error, from `level` up.
pub(crate) fn start_log(level: LogLevel) {
    use tracing_subscriber::filter::LevelFilter;
    let level = match level {
        LogLevel::Trace => LevelFilter::TRACE,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Off => LevelFilter::OFF,
    };
    tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_ansi(false)
        .with_max_level(level)
        .init();
}
