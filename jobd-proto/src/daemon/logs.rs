//! Logs for operators: one line an event, to stdout and to a file, each at its own level.
//!
//! ```text
//! 2026-11-22T04:17:33.123Z WARN  cannot reach the master, trying again master=10.0.0.1:7081
//! ```
//!
//! Times are UTC, so that the logs of several hosts line up and no hour comes twice. Under the
//! journal the time is left out and the level is passed on. Lines go through a bounded queue to
//! a thread: a log that cannot be written costs lines, never a job. Text from jobs and peers
//! cannot forge lines or move the cursor: control characters are escaped here, in one place.
//! Spans are not printed; say job and target as fields.

use std::env;
use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal, Write};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread;
use std::time::Duration;

use tokio::task::{JoinError, spawn_blocking};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::writer::OptionalWriter;
use tracing_subscriber::fmt::{FmtContext, Layer};
use tracing_subscriber::layer::{Layer as _, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::reload;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

use super::rotate::RotatingFile;
use crate::settings::{LogLevel, LogSettings};

/// Lines that wait for a slow disk or terminal before further ones are dropped: a burst of a
/// thousand jobs at `debug`, and with [`MAX_VALUE`] a few dozen MiB at the very worst.
const QUEUED_LINES: usize = 4096;

/// The longest message or field value in a line, in bytes before escaping.
const MAX_VALUE: usize = 4096;

/// How long the end of a daemon waits for its last lines to be written.
const LAST_LINES: Duration = Duration::from_secs(2);

/// Logs cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The log file cannot be opened for a reason that will not pass by itself.
    #[error("cannot open log_file {path}: {source}")]
    File {
        /// The path as configured.
        path: String,
        /// Why not.
        source: io::Error,
    },
    /// There is no thread to open and write the file with.
    #[error("no thread can be had for log_file: {0}")]
    Thread(#[source] JoinError),
    /// Logs were started before in this process.
    #[error("logs are started already: {0}")]
    Started(#[from] TryInitError),
}

/// Keeps the logs going, and changes them while they run. Dropping it waits a moment (at most two
/// seconds) for the last lines.
pub struct LogGuard {
    console: Sink,
    file: Mutex<Option<FileSink>>,
    /// Where lines for the file go; nowhere without one.
    file_queue: FileQueue,
    /// Lines that files lost which are not written to any more.
    lost_before: AtomicUsize,
    set_file_level: SetLevel,
    set_console_level: SetLevel,
}

type FileQueue = Arc<RwLock<Option<NonBlocking>>>;
type SetLevel = Box<dyn Fn(LogLevel) + Send + Sync>;

/// A queue of lines and the thread that writes them.
struct Sink {
    thread: Option<WorkerGuard>,
    lost: ErrorCounter,
}

struct FileSink {
    sink: Sink,
    reopen: Arc<AtomicBool>,
    /// What it was opened with.
    settings: LogSettings,
}

impl LogGuard {
    /// Opens the log file anew before its next line, for a rotation by somebody else.
    pub fn reopen(&self) {
        if let Some(file) = &*self.file() {
            file.reopen.store(true, Ordering::Relaxed);
        }
    }

    /// Goes on with other settings; another file is opened before the former one is left.
    ///
    /// # Errors
    /// The new file's path is wrong or forbidden, or no thread can be had for it; then everything stays as it was.
    pub async fn change(&self, settings: &LogSettings) -> Result<(), LogError> {
        if !self.has_file(settings) {
            let wanted = settings.clone();
            // Its disk may hang.
            let opened = spawn_blocking(move || open(&wanted)).await;
            self.write_to(opened.map_err(LogError::Thread)??);
        }
        (self.set_file_level)(file_level(settings));
        (self.set_console_level)(settings.console_level);
        Ok(())
    }

    /// Whether the file that is written to, if any, is what these settings want.
    fn has_file(&self, wanted: &LogSettings) -> bool {
        let file = self.file();
        let same = |former: &FileSink| {
            let former = &former.settings;
            (&former.file, former.max_size, former.keep)
                == (&wanted.file, wanted.max_size, wanted.keep)
        };
        file.as_ref().map_or(wanted.file.is_none(), same)
    }

    /// Leaves the former file, if there is one.
    fn write_to(&self, opened: Option<(FileSink, NonBlocking)>) {
        let (new, queue) = opened.unzip();
        *self
            .file_queue
            .write()
            .unwrap_or_else(PoisonError::into_inner) = queue;
        if let Some(former) = std::mem::replace(&mut *self.file(), new) {
            let lost = former.sink.lost.dropped_lines();
            self.lost_before.fetch_add(lost, Ordering::Relaxed);
            end(former.sink.thread.into_iter().collect(), None);
        }
    }

    /// How many lines were dropped because a disk or terminal did not keep up.
    pub fn lost_lines(&self) -> usize {
        let of_file = |file: &FileSink| file.sink.lost.dropped_lines();
        self.lost_before.load(Ordering::Relaxed)
            + self.console.lost.dropped_lines()
            + self.file().as_ref().map_or(0, of_file)
    }

    fn file(&self) -> MutexGuard<'_, Option<FileSink>> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for LogGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LogGuard")
    }
}

impl Drop for LogGuard {
    fn drop(&mut self) {
        let file = self.file().take().and_then(|file| file.sink.thread);
        let threads = [file, self.console.thread.take()];
        end(threads.into_iter().flatten().collect(), Some(LAST_LINES));
    }
}

/// Ends writers, and waits for that if told to. In a thread, since ending a writer that hangs can hang as well.
fn end(threads: Vec<WorkerGuard>, wait: Option<Duration>) {
    let (ended, end) = mpsc::channel();
    let ending = thread::Builder::new().spawn(move || {
        drop(threads);
        // Nobody listens any more once the wait is over.
        let _ = ended.send(());
    });
    if let (Ok(_), Some(wait)) = (ending, wait) {
        let _ = end.recv_timeout(wait);
    }
}

/// Starts the logs of this process.
///
/// # Errors
/// The file's path is wrong or forbidden, or logs were started before.
pub fn start(settings: &LogSettings) -> Result<LogGuard, LogError> {
    let (file, queue) = open(settings)?.unzip();
    let file_queue = Arc::new(RwLock::new(queue));
    let of_layer = Arc::clone(&file_queue);
    let file_writer = move || match &*of_layer.read().unwrap_or_else(PoisonError::into_inner) {
        Some(queue) => OptionalWriter::some(queue.clone()),
        None => OptionalWriter::none(),
    };
    let (file_filter, file_handle) = reload::Layer::new(filter(file_level(settings)));
    let file_layer = Layer::new()
        .with_ansi(false)
        .with_writer(file_writer)
        .event_format(OperatorFormat {
            time: true,
            priority: false,
        })
        .with_filter(file_filter);
    let journal = is_journal();
    let (console, console_writer) = Sink::new("log-console", Console);
    let (console_filter, console_handle) = reload::Layer::new(filter(settings.console_level));
    let console_layer = Layer::new()
        .with_ansi(!journal && wants_colour())
        .with_writer(console_writer)
        .event_format(OperatorFormat {
            time: !journal,
            priority: journal,
        })
        .with_filter(console_filter);
    tracing_subscriber::registry()
        .with(file_layer)
        .with(console_layer)
        .try_init()?;
    Ok(LogGuard {
        console,
        file: Mutex::new(file),
        file_queue,
        lost_before: AtomicUsize::new(0),
        set_file_level: set_level(file_handle),
        set_console_level: set_level(console_handle),
    })
}

fn set_level<S: 'static>(handle: reload::Handle<Targets, S>) -> SetLevel {
    Box::new(move |level| {
        // The subscriber lives as long as the process.
        let _ = handle.reload(filter(level));
    })
}

/// Without a file nothing is to be formatted for it.
fn file_level(settings: &LogSettings) -> LogLevel {
    match settings.file {
        Some(_) => settings.file_level,
        None => LogLevel::Off,
    }
}

/// Opens the log file, if there is to be one, and starts its thread.
fn open(settings: &LogSettings) -> Result<Option<(FileSink, NonBlocking)>, LogError> {
    let Some(path) = &settings.file else {
        return Ok(None);
    };
    let opened = RotatingFile::open(path, settings.max_size, settings.keep);
    let file = opened.map_err(|source| LogError::File {
        path: path.display().to_string(),
        source,
    })?;
    let reopen = file.reopen_flag();
    let (sink, queue) = Sink::new("log-file", file);
    let file = FileSink {
        sink,
        reopen,
        settings: settings.clone(),
    };
    Ok(Some((file, queue)))
}

impl Sink {
    fn new(thread: &str, writer: impl Write + Send + 'static) -> (Self, NonBlocking) {
        let (queue, guard) = NonBlockingBuilder::default()
            .lossy(true)
            .buffered_lines_limit(QUEUED_LINES)
            .thread_name(thread)
            .finish(writer);
        let sink = Self {
            thread: Some(guard),
            lost: queue.error_counter(),
        };
        (sink, queue)
    }
}

/// What the libraries say about themselves is left out, unless everything is wanted.
fn filter(level: LogLevel) -> Targets {
    let (ours, theirs) = match level {
        LogLevel::Trace => (LevelFilter::TRACE, LevelFilter::TRACE),
        LogLevel::Debug => (LevelFilter::DEBUG, LevelFilter::OFF),
        LogLevel::Info => (LevelFilter::INFO, LevelFilter::OFF),
        LogLevel::Warn => (LevelFilter::WARN, LevelFilter::OFF),
        LogLevel::Error => (LevelFilter::ERROR, LevelFilter::OFF),
        LogLevel::Off => (LevelFilter::OFF, LevelFilter::OFF),
    };
    // A prefix: it covers jobd, jobd_master and jobd_proto.
    Targets::new()
        .with_default(theirs)
        .with_target("jobd", ours)
}

/// Whether stdout is the journal itself, and not merely something started below it.
fn is_journal() -> bool {
    let Some(stream) = env::var_os("JOURNAL_STREAM") else {
        return false;
    };
    rustix::fs::fstat(io::stdout()).is_ok_and(|stat| {
        stream.as_bytes() == format!("{}:{}", stat.st_dev, stat.st_ino).as_bytes()
    })
}

fn wants_colour() -> bool {
    let is_set = |name| env::var_os(name).is_some_and(|value| !value.is_empty());
    io::stdout().is_terminal()
        && !is_set("NO_COLOR")
        && env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Stdout, whose reader may be gone.
struct Console;

impl Write for Console {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        // There is nowhere left to complain to.
        let _ = io::stdout().lock().write_all(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let _ = io::stdout().lock().flush();
        Ok(())
    }
}

struct OperatorFormat {
    /// Whether a line begins with its time.
    time: bool,
    /// Whether a line begins with its priority, as the journal reads it.
    priority: bool,
}

impl<S, N> FormatEvent<S, N> for OperatorFormat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let level = *event.metadata().level();
        let (word, priority, colour) = describe(level);
        if self.priority {
            write!(writer, "<{priority}>")?;
        }
        if self.time {
            write!(writer, "{} ", now()?)?;
        }
        if writer.has_ansi_escapes() {
            write!(writer, "\x1b[{colour}m{word}\x1b[0m ")?;
        } else {
            write!(writer, "{word} ")?;
        }
        let mut line = LineFields::default();
        event.record(&mut line);
        writeln!(writer, "{}{}", line.message, line.fields)
    }
}

/// A level as a word of five letters, a syslog priority and an ANSI colour.
fn describe(level: Level) -> (&'static str, u8, u8) {
    match level {
        Level::ERROR => ("ERROR", 3, 31),
        Level::WARN => ("WARN ", 4, 33),
        Level::INFO => ("INFO ", 6, 32),
        Level::DEBUG => ("DEBUG", 7, 34),
        Level::TRACE => ("TRACE", 7, 35),
    }
}

/// The time in RFC 3339, UTC, with milliseconds.
fn now() -> Result<String, fmt::Error> {
    const TO_MILLISECONDS: usize = "2026-11-22T04:17:33.123".len();
    let mut text = String::new();
    SystemTime.format_time(&mut Writer::new(&mut text))?;
    text.truncate(TO_MILLISECONDS);
    text.push('Z');
    Ok(text)
}

/// The message of an event, and behind it ` name=value` for each field.
#[derive(Default)]
struct LineFields {
    message: String,
    fields: String,
}

impl Visit for LineFields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut text = Limited::default();
        // Ends early at the limit.
        let _ = write!(text, "{value:?}");
        self.add(field.name(), &text.0);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let mut text = Limited::default();
        let _ = text.write_str(value);
        self.add(field.name(), &text.0);
    }
}

impl LineFields {
    fn add(&mut self, name: &str, value: &str) {
        if name == "message" {
            return escape_into(&mut self.message, value);
        }
        self.fields.extend([" ", name, "="]);
        let is_quoted = value.len() > 1 && value.starts_with('"') && value.ends_with('"');
        if is_quoted || !(value.is_empty() || value.contains([' ', '"', '='])) {
            escape_into(&mut self.fields, value);
        } else {
            self.fields.push('"');
            escape_into(&mut self.fields, &value.replace('"', "\\\""));
            self.fields.push('"');
        }
    }
}

/// Text that stops growing at [`MAX_VALUE`] bytes.
#[derive(Default)]
struct Limited(String);

impl fmt::Write for Limited {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = MAX_VALUE - self.0.len().min(MAX_VALUE);
        if text.len() <= room {
            self.0.push_str(text);
            return Ok(());
        }
        self.0.push_str(&text[..text.floor_char_boundary(room)]);
        self.0.push('…');
        Err(fmt::Error)
    }
}

/// Appends `text` with whatever moves a cursor, ends a line or turns its direction escaped.
fn escape_into(line: &mut String, text: &str) {
    for char in text.chars() {
        let is_sly = char.is_control()
            || matches!(char, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if is_sly {
            line.extend(char.escape_default());
        } else {
            line.push(char);
        }
    }
}
