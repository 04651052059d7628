//! Typed values out of an INI file. Every mistake is collected, none stops the reading.
//!
//! A getter that finds nothing usable returns its default and leaves a finding; whoever calls
//! looks at the findings before using any value. Values of secrets never reach a message. What only the whole file can
//! show comes [last](whole).

mod whole;

use std::collections::BTreeSet;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::units;
use super::{Entry, Finding, IniFile, Section, Severity, Value};
use crate::Secret;

/// Reads keys of one file and collects what is wrong with them.
///
/// Unless said otherwise a getter looks at keys before the first section (or, [`Reader::within`] one, at
/// those in it), an unset key gives the default, and of equal keys the last one counts.
#[derive(Debug)]
pub struct Reader<'a> {
    file: &'a IniFile,
    /// The section that getters look at; `None` for what stands before the first one.
    place: Option<String>,
    asked: BTreeSet<(Option<String>, String)>,
    prefixes: BTreeSet<(Option<String>, String)>,
    sections: BTreeSet<String>,
    /// What the names of sections may begin with.
    families: BTreeSet<String>,
    found: Vec<Finding>,
}

impl<'a> Reader<'a> {
    /// Starts with nothing read and nothing found.
    pub fn new(file: &'a IniFile) -> Self {
        Self {
            file,
            place: None,
            asked: BTreeSet::new(),
            prefixes: BTreeSet::new(),
            sections: BTreeSet::new(),
            families: BTreeSet::new(),
            found: Vec::new(),
        }
    }

    /// Any text. A bare key is a mistake.
    pub fn text(&mut self, key: &str) -> Option<String> {
        match &self.look_up(key)?.value {
            Value::Text(text) => Some(text.clone()),
            Value::True => {
                self.mistake(key, format!("{key} needs a value: write {key} = …"));
                None
            }
            Value::Unset => None,
        }
    }

    /// Text that must be there; empty where it is not.
    pub fn required_text(&mut self, key: &str) -> String {
        self.require(key, Self::text).unwrap_or_default()
    }

    /// A whole number within `range`.
    pub fn integer<T>(&mut self, key: &str, range: RangeInclusive<T>, default: T) -> T
    where
        T: FromStr + PartialOrd + Display,
    {
        self.optional_integer(key, range).unwrap_or(default)
    }

    /// A whole number within `range`, where there may be none.
    pub fn optional_integer<T>(&mut self, key: &str, range: RangeInclusive<T>) -> Option<T>
    where
        T: FromStr + PartialOrd + Display,
    {
        let wanted = || format!("a whole number {}", within(&range, ToString::to_string));
        self.parsed(key, wanted, |text| in_range(text.parse().ok(), &range))
    }

    /// A whole number within `range` that must be there; the lower limit where it is not.
    pub fn required_integer<T>(&mut self, key: &str, range: RangeInclusive<T>) -> T
    where
        T: FromStr + PartialOrd + Display + Clone,
    {
        let lowest = range.start().clone();
        self.require(key, |reader, key| reader.optional_integer(key, range))
            .unwrap_or(lowest)
    }

    /// A number with or without a fraction, within `range`.
    pub fn float(&mut self, key: &str, range: RangeInclusive<f64>, default: f64) -> f64 {
        let wanted = || format!("a number {}", within(&range, ToString::to_string));
        self.parsed(key, wanted, |text| in_range(text.parse().ok(), &range))
            .unwrap_or(default)
    }

    /// `1` and `true` (and a bare key) are true, `0` and `false` are false.
    pub fn flag(&mut self, key: &str, default: bool) -> bool {
        self.optional_flag(key).unwrap_or(default)
    }

    /// Like [`flag`](Self::flag); `None` where the key is absent.
    pub fn optional_flag(&mut self, key: &str) -> Option<bool> {
        if matches!(self.look_up(key), Some(entry) if entry.value == Value::True) {
            return Some(true);
        }
        let meanings = [("1", true), ("true", true), ("0", false), ("false", false)];
        let meanings = meanings.map(|(word, meaning)| (word, Some(meaning)));
        self.choice(key, &meanings, None)
    }

    /// A duration within `range`: `5`, `1.5` and `30s` are seconds, `500ms`, `2m`, `1h` also fit.
    pub fn seconds(
        &mut self,
        key: &str,
        range: RangeInclusive<Duration>,
        default: Duration,
    ) -> Duration {
        self.optional_seconds(key, range).unwrap_or(default)
    }

    /// The same, where there may be none.
    pub fn optional_seconds(
        &mut self,
        key: &str,
        range: RangeInclusive<Duration>,
    ) -> Option<Duration> {
        let wanted = || {
            let limits = within(&range, |limit| units::show_duration(*limit));
            format!("a time {limits}, like 5 (seconds), 500ms, 2m or 1h")
        };
        self.parsed(key, wanted, |text| in_range(units::duration(text), &range))
    }

    /// Two durations within `range`, the smaller one first: `5s..10m`; a single one stands for both.
    pub fn times(
        &mut self,
        key: &str,
        range: RangeInclusive<Duration>,
        default: RangeInclusive<Duration>,
    ) -> RangeInclusive<Duration> {
        let wanted = || {
            let limits = within(&range, |limit| units::show_duration(*limit));
            format!("two times {limits}, the shorter one first, like 5s..10m")
        };
        let time = |text: &str| in_range(units::duration(text.trim()), &range);
        let times = |text: &str| {
            let (first, last) = text.split_once("..").unwrap_or((text, text));
            let (first, last) = (time(first)?, time(last)?);
            (first <= last).then_some(first..=last)
        };
        self.parsed(key, wanted, times).unwrap_or(default)
    }

    /// A list with commas, each part of which `read` understands; `wanted` names them for the message.
    pub fn list<T>(
        &mut self,
        key: &str,
        wanted: &str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Option<Vec<T>> {
        let parts = |text: &str| text.split(',').map(|part| read(part.trim())).collect();
        self.parsed(key, || format!("a list of {wanted}"), parts)
    }

    /// A size in bytes within `range`: `1048576`, `16M` or `1MiB`.
    pub fn bytes(&mut self, key: &str, range: RangeInclusive<u64>, default: u64) -> u64 {
        let wanted = || {
            let limits = within(&range, |limit| units::show_bytes(*limit));
            format!("a size {limits}, like 1048576, 512K or 16M")
        };
        self.parsed(key, wanted, |text| in_range(units::bytes(text), &range))
            .unwrap_or(default)
    }

    /// One of a few words, each with its meaning.
    pub fn choice<T: Clone>(&mut self, key: &str, words: &[(&str, T)], default: T) -> T {
        let wanted = || {
            let names: Vec<_> = words.iter().map(|(word, _)| *word).collect();
            format!("one of {}", names.join(", "))
        };
        let meaning = |text: &str| words.iter().find(|(word, _)| *word == text);
        self.parsed(key, wanted, |text| meaning(text).map(|(_, m)| m.clone()))
            .unwrap_or(default)
    }

    /// Any text that `parse` takes; `wanted` tells what it must be, in a message about another one.
    pub fn parsed<T>(
        &mut self,
        key: &str,
        wanted: impl FnOnce() -> String,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let text = self.text(key)?;
        let value = parse(&text);
        if value.is_none() {
            let shown = shorten(&text);
            self.mistake(key, format!("{key} must be {}, not '{shown}'", wanted()));
        }
        value
    }

    /// A path, taken as it stands.
    pub fn path(&mut self, key: &str) -> Option<PathBuf> {
        self.text(key).map(PathBuf::from)
    }

    /// A password. Its value appears in no message.
    pub fn secret(&mut self, key: &str) -> Option<Secret> {
        self.text(key).map(Secret::new)
    }

    /// The keys that begin with `prefix`, without it, in the order of the file; unset ones are
    /// left out.
    pub fn map(&mut self, prefix: &str) -> Vec<(String, String)> {
        self.prefixes
            .insert((self.place.clone(), prefix.to_owned()));
        let rest = |entry: &Entry| Some(entry.key.strip_prefix(prefix)?.to_owned());
        let mut pairs = Vec::new();
        for entry in last_of_equals(self.file, self.place.as_deref()) {
            let Some(name) = rest(&entry).filter(|name| !name.is_empty()) else {
                continue;
            };
            if let Some(text) = self.text(&entry.key) {
                pairs.push((name, text));
            }
        }
        pairs
    }

    /// The entries of one section in the order of the file; lines that only look like a section
    /// are left out (they are reported at the end).
    pub fn section(&mut self, name: &str) -> Vec<Entry> {
        self.sections.insert(name.to_owned());
        let mut entries = last_of_equals(self.file, Some(name));
        entries.retain(|entry| !is_spoilt_section(entry));
        entries
    }

    /// The sections whose names begin with `prefix` (`target:`), each once, in the order of the file. Their
    /// keys are read [within](Self::within) them.
    pub fn sections_of(&mut self, prefix: &str) -> Vec<Section> {
        self.families.insert(prefix.to_owned());
        let mut seen = BTreeSet::new();
        let of_prefix = self.file.sections().iter();
        let of_prefix = of_prefix.filter(|section| section.name.starts_with(prefix));
        of_prefix
            .filter(|section| seen.insert(section.name.as_str()))
            .cloned()
            .collect()
    }

    /// Has the getters in `read` look at the keys of one section.
    pub fn within<T>(&mut self, section: &str, read: impl FnOnce(&mut Self) -> T) -> T {
        let former = self.place.replace(section.to_owned());
        let values = read(self);
        self.place = former;
        values
    }

    /// The line on which `key` was set last.
    pub fn line_of(&self, key: &str) -> Option<u32> {
        self.find(key).map(|entry| entry.line)
    }

    /// Whether `key` was set last to nothing, or to `null`, which the dialect takes for the same.
    pub fn is_unset(&self, key: &str) -> bool {
        let entry = self.find(key);
        entry.is_some_and(|entry| entry.value == Value::Unset)
    }

    /// Notes a mistake that stops a start, at the line of `key` where there is one. `text` is
    /// the whole message and names the key.
    pub fn mistake(&mut self, key: &str, text: impl Into<String>) {
        self.mistake_at(self.line_of(key), text);
    }

    /// Notes a mistake that stops a start, at `line`.
    pub fn mistake_at(&mut self, line: Option<u32>, text: impl Into<String>) {
        self.note(line, Severity::Error, text.into());
    }

    /// Notes what a start survives, at the line of `key` where there is one.
    pub fn warn(&mut self, key: &str, text: impl Into<String>) {
        self.warn_at(self.line_of(key), text);
    }

    /// Notes what a start survives, at `line`.
    pub fn warn_at(&mut self, line: Option<u32>, text: impl Into<String>) {
        self.note(line, Severity::Warning, text.into());
    }

    fn look_up(&mut self, key: &str) -> Option<&'a Entry> {
        self.asked.insert((self.place.clone(), key.to_owned()));
        self.find(key)
    }

    fn find(&self, key: &str) -> Option<&'a Entry> {
        let mut entries = self.file.entries().iter().rev();
        entries.find(|entry| entry.section == self.place && entry.key == key)
    }

    /// A value that is there and wrong has been reported already: only absence is noted.
    fn require<T>(
        &mut self,
        key: &str,
        get: impl FnOnce(&mut Self, &str) -> Option<T>,
    ) -> Option<T> {
        let value = get(self, key);
        let entry = self.find(key);
        if entry.is_none_or(|entry| entry.value == Value::Unset) {
            let line = entry.map(|entry| entry.line);
            self.mistake_at(line, format!("missing required key {key}"));
        }
        value
    }

    fn note(&mut self, line: Option<u32>, severity: Severity, text: String) {
        self.found.push(Finding {
            line,
            severity,
            text,
        });
    }
}

/// Entries of one section in order, of equal keys only the last one.
fn last_of_equals(file: &IniFile, section: Option<&str>) -> Vec<Entry> {
    let mut seen = BTreeSet::new();
    let in_section = |entry: &&Entry| entry.section.as_deref() == section;
    let backwards = file.entries().iter().rev().filter(in_section);
    let mut kept: Vec<Entry> = backwards
        .filter(|entry| seen.insert(entry.key.clone()))
        .cloned()
        .collect();
    kept.reverse();
    kept
}

/// `[targets] ; comment` is a bare key to the dialect, and hardly ever meant as one.
fn is_spoilt_section(entry: &Entry) -> bool {
    entry.value == Value::True && entry.key.starts_with('[') && entry.key.ends_with(']')
}

fn in_range<T: PartialOrd>(value: Option<T>, range: &RangeInclusive<T>) -> Option<T> {
    value.filter(|value| range.contains(value))
}

fn within<T>(range: &RangeInclusive<T>, show: impl Fn(&T) -> String) -> String {
    format!("from {} to {}", show(range.start()), show(range.end()))
}

/// A value in a message: enough to recognise it, never a page of it.
fn shorten(text: &str) -> String {
    const SHOWN: usize = 60;
    let mut shown: String = text
        .chars()
        .take(SHOWN)
        .flat_map(char::escape_debug)
        .collect();
    if text.chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    shown
}
