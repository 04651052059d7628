//! Config files: from INI text to typed values, with every mistake reported at once.
//!
//! - [`IniFile`] reads the dialect that the installed base was written for, and remembers lines;
//! - [`Reader`] hands out typed values and collects what is wrong with them;
//! - [`Findings`] is what it collected: `path:line: text`, one a line;
//! - [`Reading`] is what a program made of its file, [`changes()`] how two files differ;
//! - [`Key`] describes a key once, for people and for the search of misspelt ones;
//! - [`listen()`] and [`logs()`] are the groups that several programs share.
//!
//! Nothing here opens sockets, databases or log files, and no message carries the value of a
//! password. The rules are those of docs/PROTOCOL.md, the keys those of docs/CONFIG.md.

mod changes;
mod findings;
mod ini;
mod keys;
mod listen;
mod logs;
mod reader;
mod units;

pub use changes::{Change, changes};
pub use findings::{Finding, Findings, Severity};
pub use ini::{Entry, IniFile, MAX_CONFIG_BYTES, ReadError, Section, Value};
pub use keys::{Key, near_match, reference, with_reference};
pub use listen::{LISTEN_KEYS, Listen, listen};
pub use logs::{LOG_KEYS, LogLevel, LogSettings, logs};
pub use reader::Reader;
pub use units::{bytes, duration};

/// What a program made of a config file.
#[derive(Clone, Debug)]
pub struct Reading<C> {
    /// The file as it stood there.
    pub file: IniFile,
    /// Its meaning; `None` where a mistake stops a start.
    pub config: Option<C>,
    /// Everything that is wrong with it.
    pub findings: Findings,
}
