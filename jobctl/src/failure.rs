//! Why a command did not do what was asked, sorted by exit code. Messages are lowercase, name the
//! thing and say what to try.

/// The exit code after Ctrl-C.
pub(crate) const INTERRUPTED: u8 = 130;

/// What is printed behind `jobctl: `, and the exit code that goes with it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// 1: a daemon or the database refused, or a job failed.
    #[error("{0}")]
    Refused(String),
    /// 2: the arguments or the config make no sense together.
    #[error("{0}")]
    Usage(String),
    /// 3: a daemon or the database cannot be reached, or went away.
    #[error("{0}")]
    Unreachable(String),
    /// 130: somebody pressed Ctrl-C.
    #[error("{0}")]
    Interrupted(String),
}

impl Failure {
    /// The same with more to say behind it.
    pub(crate) fn and(mut self, more: &str) -> Self {
        match &mut self {
            Self::Refused(text)
            | Self::Usage(text)
            | Self::Unreachable(text)
            | Self::Interrupted(text) => text.extend(["; ", more]),
        }
        self
    }

    /// The documented exit code.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Refused(_) => 1,
            Self::Usage(_) => 2,
            Self::Unreachable(_) => 3,
            Self::Interrupted(_) => INTERRUPTED,
        }
    }
}
