//! What is wrong with a config file, sorted and printable. Judges nothing itself.

use std::fmt;
use std::path::{Path, PathBuf};

/// Whether a finding stops a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// A value that cannot be read, or a required one that is missing: no start.
    Error,
    /// The original went on in silence: a start goes on too, `--check-config` counts it.
    Warning,
}

/// One thing that is wrong with a config file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The line it is about, counted from 1; `None` for what is missing.
    pub line: Option<u32>,
    /// Whether it stops a start.
    pub severity: Severity,
    /// What is wrong and what to do, naming the key; never with the value of a password.
    pub text: String,
}

/// Everything that is wrong with one config file, by line; what has no line comes last.
#[derive(Clone, Debug)]
pub struct Findings {
    path: PathBuf,
    found: Vec<Finding>,
}

impl Findings {
    pub(super) fn new(path: &Path, mut found: Vec<Finding>) -> Self {
        found.sort_by_key(|finding| finding.line.unwrap_or(u32::MAX));
        Self {
            path: path.to_owned(),
            found,
        }
    }

    /// Whether any of them stops a start.
    pub fn has_errors(&self) -> bool {
        self.found
            .iter()
            .any(|finding| finding.severity == Severity::Error)
    }

    /// Whether nothing at all was found.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// How many were found.
    pub fn len(&self) -> usize {
        self.found.len()
    }

    /// Each finding with its printed line (`path:line: text`), in order.
    pub fn iter(&self) -> impl Iterator<Item = (&Finding, String)> {
        let path = self.path.display();
        self.found.iter().map(move |finding| {
            let text = &finding.text;
            let printed = match finding.line {
                Some(line) => format!("{path}:{line}: {text}"),
                None => format!("{path}: {text}"),
            };
            (finding, printed)
        })
    }
}

/// One finding a line, without a newline at the end.
impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (_, line)) in self.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{line}")?;
        }
        Ok(())
    }
}
