//! What becomes of a job whose process has ended. Pure.

use crate::launcher::End;

/// Why a job ended, as the column `reason` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Reason {
    /// Its process exited with another code than 0.
    Exit,
    /// A signal that was not ours ended it.
    Signal,
    /// It was stopped because it took too long.
    Timeout,
    /// It was stopped because it wrote nothing for too long.
    Idle,
    /// It was stopped because somebody asked for that.
    Cancelled,
    /// Its worker died, or was cut off, and nobody knows how it ended.
    Orphaned,
    /// It could never be started.
    Spawn,
    /// It was stopped because its worker could not keep it.
    Drained,
}

impl Reason {
    /// Whether an exit code of 0 says nothing against it: programs often exit so when they are told to end, and a job that
    /// was out of time had not done its work. One that comes to a good end while its worker shuts down has.
    pub fn outdoes_success(self) -> bool {
        matches!(self, Self::Timeout | Self::Idle)
    }

    /// The word in the column.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exit => "exit",
            Self::Signal => "signal",
            Self::Timeout => "timeout",
            Self::Idle => "idle",
            Self::Cancelled => "cancelled",
            Self::Orphaned => "orphaned",
            Self::Spawn => "spawn",
            Self::Drained => "drained",
        }
    }
}

/// Why a job ended that ended so; `None` where it ended well.
pub fn reason(end: &End) -> Option<Reason> {
    match (end.code, end.cause) {
        (_, Some(cause)) if cause.outdoes_success() => Some(cause),
        (Some(0), _) => None,
        (_, Some(cause)) => Some(cause),
        (Some(_), None) => Some(Reason::Exit),
        (None, None) => Some(Reason::Signal),
    }
}
