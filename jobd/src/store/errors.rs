//! How a job has failed so far: the JSON in the column `errors`. Pure.
//!
//! ```json
//! [{"attempt":1,"time":1732280000,"worker":"w1@host","reason":"exit","code":3,"stderr":"no such host"}]
//! ```
//!
//! The newest is the last. Written in ASCII, which every character set has.

use std::fmt::Write as _;
use std::time::Duration;

use jobd_proto::JobId;
use serde::Serialize;
use serde_json::Value;

use super::Finish;
use crate::fate::Reason;
use crate::leases::Lease;

/// Attempts that are remembered.
const MAX_ENTRIES: usize = 10;

/// Bytes of the end of standard error.
const MAX_TAIL: usize = 1 << 10;

/// Bytes of all: they go into a packet beside outputs that may fill the rest of it.
pub(super) const MAX_BYTES: usize = 16 << 10;

/// How an attempt failed.
#[derive(Debug)]
pub(super) struct Failure<'a> {
    /// Its row.
    pub(super) id: JobId,
    /// Its claim.
    pub(super) token: &'a str,
    reason: Option<Reason>,
    code: Option<i32>,
    signal: Option<&'a str>,
    stderr: &'a str,
    /// How long ago.
    ago: Duration,
}

impl<'a> Failure<'a> {
    /// As it ended.
    pub(super) fn of(end: &'a Finish) -> Self {
        Self {
            id: end.job.id,
            token: end.job.token.as_str(),
            reason: end.reason,
            code: end.code,
            signal: end.signal.as_deref(),
            stderr: &end.stderr,
            ago: end.ended.elapsed(),
        }
    }

    /// Its worker is gone, and nobody knows more.
    pub(super) fn orphaned(orphan: &'a Lease) -> Self {
        Self {
            id: orphan.id,
            token: &orphan.worker,
            reason: Some(Reason::Orphaned),
            code: None,
            signal: None,
            stderr: "",
            ago: Duration::ZERO,
        }
    }
}

/// A failed attempt.
#[derive(Debug, Serialize)]
struct Entry<'a> {
    attempt: u32,
    /// Seconds since 1970, by the database's clock.
    time: i64,
    /// `name@host`.
    worker: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<Reason>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    signal: Option<&'a str>,
    stderr: &'a str,
}

/// Bytes, or characters on SQLite, beyond which what stands there is none of ours, and is not read.
pub(super) const MAX_READ: usize = 4 * MAX_BYTES;

/// What is in the column at `now`, with the failure of this `attempt`. What is no list is not kept; what the list
/// has of the attempt already, as its last entry, gives way.
pub(super) fn with(
    before: Option<&str>,
    (attempt, now): (u32, i64),
    failure: &Failure<'_>,
) -> String {
    let before = before.and_then(|text| serde_json::from_str::<Vec<Value>>(text).ok());
    let entry = Entry {
        attempt,
        time: now - i64::try_from(failure.ago.as_secs()).unwrap_or(0),
        worker: failure.token.split('/').next().unwrap_or(failure.token),
        reason: failure.reason,
        code: failure.code,
        signal: failure.signal,
        stderr: tail(failure.stderr),
    };
    let mut before = before.unwrap_or_default();
    before.pop_if(|last| last["attempt"] == attempt);
    let mut texts: Vec<String> = before
        .iter()
        .map(|entry| ascii(&entry.to_string()))
        .collect();
    // Nothing in it can fail to be written.
    texts.push(ascii(&serde_json::to_string(&entry).unwrap_or_default()));
    let mut bytes = 1;
    let newest = texts.iter().rev().take(MAX_ENTRIES);
    let kept = newest.take_while(|text| {
        bytes += text.len() + 1;
        bytes <= MAX_BYTES
    });
    let mut kept: Vec<&str> = kept.map(String::as_str).collect();
    kept.reverse();
    format!("[{}]", kept.join(","))
}

/// The last [`MAX_TAIL`] bytes, from a whole character on.
fn tail(text: &str) -> &str {
    let from = text.len().saturating_sub(MAX_TAIL);
    &text[text.ceil_char_boundary(from)..]
}

/// JSON with everything beyond ASCII escaped, as JSON escapes it.
fn ascii(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        if c.is_ascii() {
            text.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                // Writing to a String cannot fail.
                let _ = write!(text, "\\u{unit:04x}");
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "w@h/1/2";

    fn with(before: Option<&str>, attempt: u32, stderr: &str) -> String {
        let failure = Failure {
            id: JobId(1),
            token: TOKEN,
            reason: Some(Reason::Exit),
            code: Some(3),
            signal: None,
            stderr,
            ago: Duration::from_secs(1),
        };
        super::with(before, (attempt, 101), &failure)
    }

    #[test]
    fn an_attempt_is_listed_once() {
        let orphan = Lease {
            id: JobId(1),
            status: "running".into(),
            worker: TOKEN.into(),
            until: 0,
            again: true,
        };
        let failure = Failure::orphaned(&orphan);
        let orphaned = super::with(Some(&with(None, 1, "")), (2, 101), &failure);
        let wanted = r#",{"attempt":2,"time":101,"worker":"w@h","reason":"orphaned","stderr":""}]"#;
        assert!(orphaned.ends_with(wanted), "{orphaned}");
        let known = with(Some(&orphaned), 2, "x");
        let entries: Vec<Value> = serde_json::from_str(&known).unwrap();
        assert_eq!((entries.len(), &entries[1]["reason"]), (2, &"exit".into()));
        assert_eq!(with(Some(&known), 2, "x"), known);
    }

    #[test]
    fn the_newest_ten_are_kept_in_order() {
        let mut text = None;
        for attempt in 1..=12 {
            text = Some(with(text.as_deref(), attempt, "é\n"));
        }
        let text = text.unwrap();
        assert!(text.is_ascii(), "{text}");
        let entries: Vec<Value> = serde_json::from_str(&text).unwrap();
        let attempts: Vec<u64> = entries
            .iter()
            .map(|entry| entry["attempt"].as_u64().unwrap())
            .collect();
        assert_eq!(attempts, (3..=12).collect::<Vec<_>>());
        let wanted = serde_json::json!({
            "attempt": 12, "time": 100, "worker": "w@h", "reason": "exit", "code": 3, "stderr": "é\n"
        });
        assert_eq!(entries[9], wanted);
    }

    #[test]
    fn what_is_large_gives_way_to_what_is_new() {
        let mut text = None;
        // Each character takes six bytes of JSON.
        for attempt in 1..=10 {
            text = Some(with(text.as_deref(), attempt, &"\u{1}".repeat(9000)));
            assert!(text.as_ref().unwrap().len() <= MAX_BYTES);
        }
        let entries: Vec<Value> = serde_json::from_str(&text.unwrap()).unwrap();
        assert_eq!(entries.len(), 2);
        assert_eq!(entries[1]["attempt"], 10);
        assert_eq!(entries[1]["stderr"].as_str().unwrap().len(), MAX_TAIL);
    }

    #[test]
    fn what_is_no_list_is_begun_anew() {
        for before in ["", "null", "{}", "[1", "text"] {
            let text = with(Some(before), 1, "");
            assert!(text.starts_with("[{\"attempt\":1,"), "{text}");
        }
        let text = with(Some("[\"own\"]"), 1, "");
        assert!(text.starts_with("[\"own\",{"), "{text}");
    }
}
