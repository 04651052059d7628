//! A claimed job as the worker carries it from claim to finish, and the token that says whose it is.

use std::fmt::{self, Write as _};
use std::sync::Arc;
use std::time::Duration;

use jobd_proto::{JobId, TargetName};

use crate::store::Abilities;

/// Why a row was claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// From `waiting`, by a poll.
    Background,
    /// From `manual`, because a client asked for this row and waits for its result.
    Manual,
}

impl Origin {
    /// Whether a client asked for it.
    pub fn is_manual(self) -> bool {
        self == Self::Manual
    }
}

/// A row that this worker holds.
#[derive(Clone, Debug)]
pub struct Job {
    /// Primary key of the row.
    pub id: JobId,
    /// The target of this worker that it was claimed for.
    pub target: TargetName,
    /// Why it was claimed; where it goes back to if it is given back.
    pub origin: Origin,
    /// Names the claim in the row.
    pub token: ClaimToken,
    /// The number of the attempt that its start begins, from 1; always 1 where the table does not
    /// count attempts.
    pub attempt: u32,
    /// How many of those before it did not count; always 0 there.
    pub interruptions: u32,
    /// Whether a rescuer that does not see us alive would let the job run again: attempts are left
    /// after this one.
    pub again: bool,
    /// What its row asks for.
    pub terms: Terms,
}

/// What a row says of how its job is to be run, by columns that it may or may not have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// What its table could do at the claim: the job is treated by that to its end.
    pub abilities: Abilities,
    /// `timeout`.
    pub timeout: Option<Duration>,
    /// Whether there is something in `data`.
    pub has_data: bool,
    /// Whether somebody has asked to cancel it (`cancel_requested`).
    pub cancel: bool,
    /// `priority`.
    pub priority: i64,
}

/// The longest token: what the column `worker` holds, and far below any `stderr` column.
pub const MAX_TOKEN: usize = 191;

/// `name@host/instance/claim` in ASCII, at most [`MAX_TOKEN`] bytes. Unique for ever: the instance is new at
/// every start, the claim number in every claim. A manual claim's number begins with `m`.
///
/// It stands in the row from claim to finish, and every write after the claim names it: a write
/// whose token is gone from the row changes nothing.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClaimToken(Arc<str>);

impl ClaimToken {
    /// The token as it stands in the row.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A token of an earlier run, as it was kept. `None` where it cannot be one.
    pub fn read(token: &str) -> Option<Self> {
        let fits = token.is_ascii() && token.len() <= MAX_TOKEN && token.contains('/');
        fits.then(|| Self(token.into()))
    }

    /// Why its claim was made.
    pub fn origin(&self) -> Origin {
        if Self::is_manual(&self.0) {
            Origin::Manual
        } else {
            Origin::Background
        }
    }

    /// Whether a token, read from a row, belongs to a manual claim.
    pub fn is_manual(token: &str) -> bool {
        token
            .rsplit_once('/')
            .is_some_and(|(_, claim)| claim.starts_with('m'))
    }
}

impl fmt::Debug for ClaimToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Makes the tokens of one run of this worker.
#[derive(Debug)]
pub struct Tokens {
    prefix: String,
    last: u64,
}

impl Tokens {
    /// `instance` must differ from every other run of a worker of that name and host.
    pub fn new(name: &str, host: &str, instance: u64) -> Self {
        Self {
            prefix: format!("{}@{}/{instance:x}", ascii(name), ascii(host)),
            last: 0,
        }
    }

    /// `name@host/instance`, without a claim.
    pub fn worker(&self) -> &str {
        &self.prefix
    }

    /// A token that was never given before.
    pub fn next(&mut self, origin: Origin) -> ClaimToken {
        self.last += 1;
        let mut token = self.prefix.clone();
        let mark = match origin {
            Origin::Background => "",
            Origin::Manual => "m",
        };
        // Writing to a String cannot fail.
        let _ = write!(token, "/{mark}{}", self.last);
        ClaimToken(token.into())
    }
}

/// A part of a token: plain ASCII, at most 64 bytes, without the separators.
pub fn ascii(part: &str) -> String {
    part.chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || "._-".contains(c) {
                c
            } else {
                '_'
            }
        })
        .take(64)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_fit_their_column_and_never_repeat() {
        let mut tokens = Tokens::new(&"ж/@".repeat(99), &"h".repeat(300), u64::MAX);
        tokens.last = u64::MAX - 2;
        let (one, two) = (tokens.next(Origin::Background), tokens.next(Origin::Manual));
        assert!(
            one.as_str().is_ascii() && two.as_str().len() <= MAX_TOKEN,
            "{two:?}"
        );
        assert_ne!(one, two);
        assert_eq!(one.as_str().matches(['/', '@']).count(), 3);
    }
}
