//! How results reach people and scripts: tables or JSON on standard output, complaints on standard
//! error. Decides about colour and width once; a reader that has gone away is no error.

mod table;
mod text;

use std::io::{self, IsTerminal as _, Write as _};

use jobd_proto::settings::LogLevel;
use serde::Serialize;

use crate::failure::Failure;
pub(crate) use table::{Table, Tone};
pub(crate) use text::{ago, bytes, local_time, plain, seconds};

/// What standard output can show.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Screen {
    json: bool,
    colour: bool,
    /// Columns of the terminal; `None` where output goes elsewhere and nothing is cut.
    width: Option<u16>,
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
            width: size
                .map(|size| size.ws_col)
                .filter(|width| terminal && *width > 0),
        }
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

    /// The lines of a table as this screen shows them.
    pub(crate) fn table(self, table: &Table) -> String {
        table.render(self.width, self.colour)
    }

    /// `text` in the colour of `tone`, where colours are.
    pub(crate) fn tone(self, tone: Tone, text: &str) -> String {
        tone.paint(text, self.colour)
    }
}

/// Writes to standard output. Where nobody reads any more (`| head`) the rest is dropped.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::Refused(format!(
            "cannot write the output: {error}"
        ))),
        _ => Ok(()),
    }
}

/// Writes a line to standard error; where that is closed there is nobody left to tell.
pub(crate) fn complain(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
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
