//! How far a job has come, by its own account: the lines that it writes to `JOBD_PROGRESS_FD`, and what stands in the
//! column `progress`. Both are `40 copying files`: a percentage, if it can tell one, and words.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Characters of a report at the most: what the column takes as we create it.
pub const MAX_CHARS: usize = 255;

/// What a job says of how far it has come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// In words, without control characters; may be empty beside a percentage.
    #[serde(rename = "progress")]
    pub text: String,
    /// 0 to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<u8>,
}

impl Progress {
    /// Reads a line, or what stands in the column. `None` where it says nothing.
    pub fn parse(line: &str) -> Option<Self> {
        let plain: String = line
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        let plain = plain.trim();
        let (percent, text) = match percentage(plain) {
            Some((percent, rest)) => (Some(percent), rest),
            None => (None, plain),
        };
        let room = MAX_CHARS - percent.map_or(0, |_| "100 ".len());
        let text: String = text.trim_start().chars().take(room).collect();
        let text = text.trim_end().to_owned();
        (percent.is_some() || !text.is_empty()).then_some(Self { text, percent })
    }

    /// What the column holds.
    pub fn column(&self) -> String {
        match self.percent {
            None => self.text.clone(),
            Some(percent) if self.text.is_empty() => percent.to_string(),
            Some(percent) => format!("{percent} {}", self.text),
        }
    }
}

/// For people: `40 % copying files`.
impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.percent {
            None => f.write_str(&self.text),
            Some(percent) if self.text.is_empty() => write!(f, "{percent} %"),
            Some(percent) => write!(f, "{percent} % {}", self.text),
        }
    }
}

/// A number from 0 to 100 at the beginning, with or without a fraction and a percent sign, and what comes behind it.
fn percentage(line: &str) -> Option<(u8, &str)> {
    let digits = line.len() - line.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (whole, mut rest) = line.split_at(digits);
    let whole: u8 = whole.parse().ok().filter(|whole| *whole <= 100)?;
    if let Some(fraction) = rest.strip_prefix('.') {
        let behind = fraction.trim_start_matches(|c: char| c.is_ascii_digit());
        if behind.len() == fraction.len() {
            return None;
        }
        rest = behind;
    }
    rest = match rest.trim_start_matches(' ').strip_prefix('%') {
        Some(rest) => rest,
        None => rest,
    };
    // `3rd file` is no percentage.
    (rest.is_empty() || rest.starts_with(char::is_whitespace)).then_some((whole, rest))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[track_caller]
    fn check(line: &str, percent: Option<u8>, text: &str) {
        let progress = Progress::parse(line).unwrap();
        assert_eq!((progress.percent, progress.text.as_str()), (percent, text));
        assert_eq!(Progress::parse(&progress.column()), Some(progress.clone()));
        assert_eq!(Progress::parse(&progress.to_string()), Some(progress));
    }

    #[test]
    fn a_line_is_a_percentage_and_words_or_one_of_them() {
        check("40 copying files", Some(40), "copying files");
        check(" 40.7%\tcopying\0files \r", Some(40), "copying files");
        check("100%", Some(100), "");
        check("0", Some(0), "");
        check("42 % left", Some(42), "left");
        check("copying files", None, "copying files");
        check("101 files", None, "101 files");
        check("3rd of 4", None, "3rd of 4");
        check("-3 below", None, "-3 below");
        check("1. step", None, "1. step");
        check("\u{fffd}é", None, "\u{fffd}é");
        for nothing in ["", " \t", "\0\0\0", "\x1b"] {
            assert_eq!(Progress::parse(nothing), None, "{nothing:?}");
        }
    }

    #[test]
    fn it_fits_the_column_whatever_was_said() {
        for line in ["100 ", "", "7% "] {
            let long = Progress::parse(&(line.to_owned() + &"é".repeat(3000))).unwrap();
            assert!(long.column().chars().count() <= MAX_CHARS);
            assert!(long.text.len() > 400);
        }
    }
}
