//! What is logged, where to and how much of it is kept: the group that both daemons share.

use std::path::PathBuf;

use super::{Key, Reader};

/// The rows of this group in the config reference.
pub const LOG_KEYS: &[Key] = &[
    Key {
        name: "log_file",
        kind: "path",
        default: "",
        doc: "File to log to, beside the console. A relative path counts from the working \
              directory; with the shipped units use one below `/var/log/jobd`, for the master below \
              `/var/log/jobd-master`.",
    },
    Key {
        name: "log_level_file",
        kind: "`trace`, `debug`, `info`, `warn`, `error` or `off`",
        default: "`warn`",
        doc: "Least level that is written to the file.",
    },
    Key {
        name: "log_level_console",
        kind: "`trace`, `debug`, `info`, `warn`, `error` or `off`",
        default: "`warn`",
        doc: "Least level that is printed on stdout.",
    },
    Key {
        name: "log_file_max_size",
        kind: "size",
        default: "`10M`",
        doc: "Size at which the file becomes `FILE.1`, `FILE.1` becomes `FILE.2` and so on. \
              0: never, something else rotates.",
    },
    Key {
        name: "log_file_keep",
        kind: "integer",
        default: "`5`",
        doc: "How many old files are kept beside the current one.",
    },
];

/// Default of `log_file_max_size`, in bytes.
const DEFAULT_MAX_SIZE: u64 = 10 << 20;
/// The largest `log_file_max_size`, in bytes: beyond this nobody reads a file any more.
const MOST_SIZE: u64 = 1 << 40;
/// Default of `log_file_keep`.
const DEFAULT_KEEP: u32 = 5;
/// The largest `log_file_keep`: each rotation renames every file.
const MOST_KEEP: u32 = 1000;

/// Least level that is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// Everything, what the libraries say about themselves too.
    Trace,
    /// What a developer of jobd wants to know.
    Debug,
    /// What happens to each job.
    Info,
    /// What needs a look; the default.
    Warn,
    /// What failed.
    Error,
    /// Nothing.
    Off,
}

impl LogLevel {
    /// Every level by the word for it.
    pub const WORDS: [(&'static str, Self); 6] = [
        ("trace", Self::Trace),
        ("debug", Self::Debug),
        ("info", Self::Info),
        ("warn", Self::Warn),
        ("error", Self::Error),
        ("off", Self::Off),
    ];
}

/// What is logged, where to and how much of it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// File to log to; `None` for the console alone.
    pub file: Option<PathBuf>,
    /// Least level for the file.
    pub file_level: LogLevel,
    /// Least level for stdout.
    pub console_level: LogLevel,
    /// Size in bytes at which the file is rotated; 0 for never.
    pub max_size: u64,
    /// How many rotated files are kept; 0 begins the file anew.
    pub keep: u32,
}

/// Reads the group.
pub fn logs(reader: &mut Reader<'_>) -> LogSettings {
    let mut level = |key| reader.choice(key, &LogLevel::WORDS, LogLevel::Warn);
    let file_level = level("log_level_file");
    let console_level = level("log_level_console");
    LogSettings {
        file: reader.path("log_file"),
        file_level,
        console_level,
        max_size: reader.bytes("log_file_max_size", 0..=MOST_SIZE, DEFAULT_MAX_SIZE),
        keep: reader.integer("log_file_keep", 0..=MOST_KEEP, DEFAULT_KEEP),
    }
}
