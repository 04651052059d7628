//! The names of things: a job, its result, a target. Validated once, on entry.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The `id` of a row in the job table: 0 to 2^63 - 1.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct JobId(pub u64);

impl JobId {
    /// The largest id: what a signed BIGINT holds.
    pub const MAX: Self = Self(i64::MAX.unsigned_abs());
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for JobId {
    type Err = String;

    /// Reads digits and nothing else.
    fn from_str(text: &str) -> Result<Self, String> {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        match text.parse() {
            Ok(id) if digits && id <= Self::MAX.0 => Ok(Self(id)),
            _ => Err(format!("invalid job id '{}'", excerpt(text))),
        }
    }
}

/// How a job ended, as its row and its waiter are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobResult {
    /// It exited with code 0.
    Ok,
    /// Anything else.
    Fail,
}

impl JobResult {
    /// The word in the table and on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Fail => "fail",
        }
    }
}

impl fmt::Display for JobResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The name of a target: 1 to 255 characters, no control characters, not `null` (which means
/// unset in a config). Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TargetName(Arc<str>);

impl TargetName {
    /// Characters that a name may have: what fits a VARCHAR(255) column.
    pub const MAX_CHARS: usize = 255;

    /// Checks the name; the error says what is wrong with it.
    pub fn new(name: impl Into<String>) -> Result<Self, String> {
        let name = name.into();
        if name.is_empty() {
            Err("target name is empty".to_owned())
        } else if name == "null" {
            Err("'null' cannot name a target".to_owned())
        } else if name.chars().count() > Self::MAX_CHARS {
            Err(format!(
                "target name '{}' is longer than 255 characters",
                excerpt(&name)
            ))
        } else if name.chars().any(char::is_control) {
            Err(format!(
                "target name '{}' holds a control character",
                excerpt(&name)
            ))
        } else {
            Ok(Self(name.into()))
        }
    }

    /// The name itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TargetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for TargetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl Borrow<str> for TargetName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for TargetName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl FromStr for TargetName {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::new(name)
    }
}

impl Serialize for TargetName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for TargetName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// The beginning of a text from outside, fit for a message and a log line.
pub(crate) fn excerpt(text: &str) -> String {
    const CHARS: usize = 80;
    let mut short: String = text.escape_debug().take(CHARS).collect();
    if text.escape_debug().nth(CHARS).is_some() {
        short.push('…');
    }
    short
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn target_names_are_checked_on_entry() {
        for good in ["a", "1/low", "почта", "a b", &"x".repeat(255), "NULL"] {
            assert_eq!(TargetName::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "null", "a\nb", "\u{0}", &"ü".repeat(256)] {
            assert!(TargetName::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn job_ids_are_digits() {
        assert_eq!("9223372036854775807".parse(), Ok(JobId::MAX));
        for bad in ["", "-1", "+1", "1.0", " 1", "9223372036854775808", "x"] {
            assert_eq!(bad.parse::<JobId>(), Err(format!("invalid job id '{bad}'")));
        }
    }
}
