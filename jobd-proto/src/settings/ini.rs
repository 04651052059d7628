//! The INI dialect of npm's `ini` 2.0, read line by line with the line numbers kept.
//!
//! Passwords and launchers out there were written for that package, so each value reads here as
//! it reads there (`tests/settings_ini.rs` runs both over one table). What it drops in silence
//! is remembered as an oddity, for a warning. This file knows no key and judges no value.
//!
//! Where the two part, on purpose: a byte-order mark before a section is skipped as well; a line
//! of white space alone is nothing (there it is a key without a name); a list or an object in
//! single quotes stays text; `name[]` is `name`, and the last one counts.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// The largest config file that is read, in bytes: far above any real one, small enough that a
/// wrong path (a log, a device) is refused instead of filling the memory.
pub const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// One config file as it was read: entries and sections in the order of their lines.
#[derive(Clone, Debug)]
pub struct IniFile {
    path: PathBuf,
    entries: Vec<Entry>,
    sections: Vec<Section>,
    oddities: Vec<(u32, &'static str)>,
}

/// One `key = value`, or a bare key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The section it stands in; `None` before the first section.
    pub section: Option<String>,
    /// The key, unquoted.
    pub key: String,
    /// The value, unquoted and without its comment.
    pub value: Value,
    /// The line it stands on, counted from 1.
    pub line: u32,
}

/// The line that opens a section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// The name between the brackets, unquoted.
    pub name: String,
    /// The line it stands on, counted from 1.
    pub line: u32,
}

/// What stands to the right of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// `key =` or `key = null`, which mean the same as no key at all.
    Unset,
    /// A key without `=`.
    True,
    /// Anything else; never empty.
    Text(String),
}

/// A config file that could not be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read config file {}: {source}", path.display())]
pub struct ReadError {
    path: PathBuf,
    source: io::Error,
}

impl ReadError {
    /// Whether there is no such file, which a program with defaults for everything may forgive.
    pub fn is_missing(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }
}

impl IniFile {
    /// Reads the file at `path`. Bytes that are not UTF-8 become U+FFFD, as in the original; in
    /// a key or a value that earns a warning.
    ///
    /// # Errors
    /// The file cannot be opened or read, or is larger than [`MAX_CONFIG_BYTES`].
    pub fn read(path: &Path) -> Result<Self, ReadError> {
        let bytes = read_limited(path).map_err(|source| ReadError {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self::parse(path, &String::from_utf8_lossy(&bytes)))
    }

    /// Reads `text`; `path` is for messages only. Any text is some config: there are no errors.
    pub fn parse(path: &Path, text: &str) -> Self {
        let mut file = Self {
            path: path.to_owned(),
            entries: Vec::new(),
            sections: Vec::new(),
            oddities: Vec::new(),
        };
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        for (number, line) in (1..).zip(text.split('\n')) {
            // A lone carriage return ends a line too, though editors do not count it.
            for piece in line.split('\r') {
                file.read_line(number, piece);
            }
        }
        file
    }

    /// The path it was read from, as given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All entries in the order of their lines, repeated ones too (the last of them counts).
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// All section lines, repeated ones too (their entries add up).
    pub fn sections(&self) -> &[Section] {
        &self.sections
    }

    /// Lines that the dialect drops or bends in silence, each with what happened to it.
    pub fn oddities(&self) -> &[(u32, &'static str)] {
        &self.oddities
    }

    fn read_line(&mut self, number: u32, line: &str) {
        let (raw_key, raw_value) = match classify(line) {
            Line::Nothing => return,
            Line::Unreadable(why) => return self.oddities.push((number, why)),
            Line::Section(raw) => {
                let name = decode(raw);
                return self.sections.push(Section { name, line: number });
            }
            Line::Entry(key, value) => (key, value),
        };
        let mut key = decode(raw_key);
        if key.is_empty() {
            return self.oddities.push((number, "not read: no key before ="));
        }
        if key.len() > 2 && key.ends_with("[]") {
            key.truncate(key.len() - 2);
            let why = "lists are not known here: of several values the last one counts";
            self.oddities.push((number, why));
        }
        let value = raw_value.map_or(Value::True, |raw| match decode(raw) {
            text if text.is_empty() || text == "null" => Value::Unset,
            text => Value::Text(text),
        });
        let is_broken = |text: &str| text.contains(char::REPLACEMENT_CHARACTER);
        if is_broken(&key) || matches!(&value, Value::Text(text) if is_broken(text)) {
            let why = "not UTF-8: save the file as UTF-8";
            self.oddities.push((number, why));
        }
        self.entries.push(Entry {
            section: self.sections.last().map(|section| section.name.clone()),
            key,
            value,
            line: number,
        });
    }
}

fn read_limited(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?
        .take(MAX_CONFIG_BYTES + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_CONFIG_BYTES {
        return Err(io::Error::other(format!(
            "larger than {MAX_CONFIG_BYTES} bytes, which no config file is"
        )));
    }
    Ok(bytes)
}

enum Line<'a> {
    Nothing,
    Unreadable(&'static str),
    Section(&'a str),
    Entry(&'a str, Option<&'a str>),
}

/// A section line is exact: white space or a comment beside the brackets makes it a key.
fn classify(line: &str) -> Line<'_> {
    let content = line.trim_start_matches(is_space);
    if content.is_empty() || content.starts_with([';', '#']) {
        return Line::Nothing;
    }
    let inner = line.strip_prefix('[').and_then(|l| l.strip_suffix(']'));
    if let Some(name) = inner.filter(|name| !name.contains(']')) {
        return Line::Section(name);
    }
    match line.split_once('=') {
        None => Line::Entry(line, None),
        Some(("", _)) => Line::Unreadable("not read: no key before ="),
        // JavaScript takes these two for line ends, so that its pattern does not match.
        Some((_, value)) if value.contains(['\u{2028}', '\u{2029}']) => {
            Line::Unreadable("not read: the value holds a Unicode line separator")
        }
        Some((key, value)) => Line::Entry(key, Some(value)),
    }
}

/// Removes quotes, or the comment and the escapes, from a key, a section's name or a value.
fn decode(raw: &str) -> String {
    let text = raw.trim_matches(is_space);
    let is_quoted =
        |quote: char| text.starts_with(quote) && text.ends_with(quote) && !text.is_empty();
    if is_quoted('"') {
        from_json(text)
    } else if is_quoted('\'') {
        // A lone quote is both the first and the last, with nothing between them.
        from_json(text.get(1..text.len() - 1).unwrap_or_default())
    } else {
        without_comment(text).trim_matches(is_space).to_owned()
    }
}

/// What JSON reads as a string, number or word is that; anything else is taken as it stands.
fn from_json(text: &str) -> String {
    match serde_json::from_str(text) {
        Ok(serde_json::Value::String(string)) => string,
        Ok(serde_json::Value::Number(number)) => number
            .as_f64()
            .map_or_else(|| text.to_owned(), number_as_javascript),
        Ok(serde_json::Value::Bool(word)) => word.to_string(),
        Ok(serde_json::Value::Null) => "null".to_owned(),
        Ok(_) | Err(_) => text.to_owned(),
    }
}

/// `'1e3'` is the number 1000 there, and `'0.0000001'` turns into `1e-7`.
fn number_as_javascript(number: f64) -> String {
    let size = number.abs();
    if size == 0.0 {
        "0".to_owned()
    } else if (1e-6..1e21).contains(&size) {
        number.to_string()
    } else {
        let text = format!("{number:e}");
        if size < 1.0 {
            text
        } else {
            text.replace('e', "e+")
        }
    }
}

/// `;` and `#` begin a comment anywhere; a backslash escapes these two and itself only.
fn without_comment(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        match char {
            ';' | '#' => break,
            '\\' => match chars.next() {
                Some(escaped @ ('\\' | ';' | '#')) => plain.push(escaped),
                Some(other) => plain.extend(['\\', other]),
                None => plain.push('\\'),
            },
            other => plain.push(other),
        }
    }
    plain
}

/// White space as JavaScript's `trim` sees it: with the byte-order mark, without U+0085.
fn is_space(char: char) -> bool {
    (char.is_whitespace() && char != '\u{85}') || char == '\u{feff}'
}
