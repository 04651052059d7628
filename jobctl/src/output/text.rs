//! Values as people read them.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// One line of text without control characters: they become `\n`, `\u{1b}` and so on, so that the
/// output of a job cannot steer the terminal.
pub(crate) fn plain(text: &str) -> String {
    if !text.contains(steers) {
        return text.to_owned();
    }
    let mut shown = String::with_capacity(text.len() + 8);
    for char in text.chars() {
        if steers(char) {
            shown.extend(char.escape_default());
        } else {
            shown.push(char);
        }
    }
    shown
}

/// Whether a terminal obeys it: control characters, and those that turn the direction of writing, so
/// that what is read is not what stands there.
fn steers(char: char) -> bool {
    char.is_control()
        || matches!(char, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// What somebody else said, in a length that a person reads.
pub(crate) fn excerpt(text: &str) -> String {
    const LONGEST: usize = 500;
    match text.char_indices().nth(LONGEST) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

/// Lines of at most `width` columns, which end between words. A command, from the word `jobctl` to a comma, a semicolon or
/// the end, is never broken, so that it can be copied. What is too long for a line has one for itself.
pub(crate) fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    let mut rest = text;
    while !rest.is_empty() {
        let ends = if rest.starts_with("jobctl ") {
            &[", ", "; "][..]
        } else {
            &[" "]
        };
        let ends = ends
            .iter()
            .filter_map(|end| Some(rest.find(end)? + end.len()));
        let (piece, behind) = rest.split_at(ends.min().unwrap_or(rest.len()));
        if !line.is_empty() && columns_of((line.clone() + piece).trim_end()) > width {
            lines.push(std::mem::take(&mut line));
        }
        line += piece;
        rest = behind;
    }
    lines.push(line);
    lines
}

/// How many columns of a terminal it takes.
pub(crate) fn columns_of(text: &str) -> usize {
    ratatui::text::Line::from(text).width()
}

/// A size: `512 B`, `14.3 MiB`.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [(&str, u32); 3] = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    match UNITS.iter().find(|(_, shift)| bytes >= 1 << shift) {
        Some((unit, shift)) => {
            // Tenths in whole numbers: no precision is lost on the way.
            let tenths = (u128::from(bytes) * 10) >> shift;
            format!("{}.{} {unit}", tenths / 10, tenths % 10)
        }
        None => format!("{bytes} B"),
    }
}

/// A length of time in its two largest units: `42s`, `3m 5s`, `2h 10m`, `4d 3h`.
pub(crate) fn seconds(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {}s", seconds % 60),
        (0, _, _) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

/// How long before `now` something was, both in seconds since 1970; `-` for 0, which means never.
pub(crate) fn ago(then: i64, now: i64) -> String {
    match then {
        0 => "-".to_owned(),
        // Clocks of two hosts may differ by a little.
        _ => format!(
            "{} ago",
            seconds(now.saturating_sub(then).max(0).unsigned_abs())
        ),
    }
}

/// Seconds since 1970 in the time zone of the person who looks; `-` for 0, which means never.
pub(crate) fn local_time(then: i64) -> String {
    match Timestamp::from_second(then) {
        Ok(time) if then != 0 => time
            .to_zoned(TimeZone::system())
            .strftime("%Y-%m-%d %H:%M:%S %Z")
            .to_string(),
        _ => "-".to_owned(),
    }
}

/// Seconds since 1970 by the clock of this machine.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// `1 row`, `3 rows`.
pub(crate) fn several(count: usize, thing: &str) -> String {
    format!("{count} {thing}{}", if count == 1 { "" } else { "s" })
}

/// `3 jobs of mail`, `12 jobs of 2 targets (mail: 8, report: 4)`.
pub(crate) fn counted(targets: &BTreeMap<String, usize>) -> String {
    const NAMED: usize = 5;
    let jobs = several(targets.values().sum(), "job");
    if let (1, Some(only)) = (targets.len(), targets.keys().next()) {
        return format!("{jobs} of {}", plain(only));
    }
    let mut most: Vec<(&String, &usize)> = targets.iter().collect();
    most.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let names = most.iter().take(NAMED);
    let names: Vec<String> = names
        .map(|(name, count)| format!("{}: {count}", plain(name)))
        .collect();
    let more = if most.len() > NAMED { ", …" } else { "" };
    format!(
        "{jobs} of {} targets ({}{more})",
        targets.len(),
        names.join(", ")
    )
}

/// The same, of a target each.
pub(crate) fn by_target<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let mut targets = BTreeMap::new();
    for name in names {
        *targets.entry(name.to_owned()).or_default() += 1;
    }
    counted(&targets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_visible() {
        assert_eq!(
            plain("a\x1b[31mb\n\u{9b}é\0\u{202e}"),
            "a\\u{1b}[31mb\\n\\u{9b}é\\u{0}\\u{202e}"
        );
    }

    #[test]
    fn lines_end_between_words_and_commands_are_whole() {
        for (text, lines) in [
            ("one two three", &["one two ", "three"][..]),
            ("exactly8 more", &["exactly8 ", "more"]),
            ("muchtoolong a", &["muchtoolong ", "a"]),
            ("日本語日 本", &["日本語日 ", "本"]),
            ("", &[""]),
            ("a; jobctl x, b c d e", &["a; ", "jobctl x, ", "b c d e"]),
            ("a jobctl x y", &["a ", "jobctl x y"]),
            ("jobctl: a b c", &["jobctl: ", "a b c"]),
        ] {
            assert_eq!(wrapped(text, 8), lines, "{text}");
        }
    }

    #[test]
    fn jobs_are_counted_by_target() {
        assert_eq!(by_target(["a"].into_iter()), "1 job of a");
        assert_eq!(
            by_target(["a", "b", "b"].into_iter()),
            "3 jobs of 2 targets (b: 2, a: 1)"
        );
    }

    #[test]
    fn sizes_and_times_have_units() {
        for (size, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (15_000_000, "14.3 MiB"),
            (u64::MAX, "17179869183.9 GiB"),
        ] {
            assert_eq!(bytes(size), text);
        }
        for (time, text) in [
            (0, "0s"),
            (59, "59s"),
            (185, "3m 5s"),
            (7800, "2h 10m"),
            (356_400, "4d 3h"),
        ] {
            assert_eq!(seconds(time), text);
        }
        assert_eq!(ago(0, 5), "-");
        assert_eq!(ago(10, 5), "0s ago");
        assert_eq!(ago(5, 70), "1m 5s ago");
        assert_eq!(local_time(0), "-");
        assert!(local_time(1_700_000_000).starts_with("2023-11-1"));
    }
}
