//! Limits of the process that a daemon raises for itself. It never lowers one.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// How many open files a daemon asks for: 4,096 connections, several hundred jobs with three
/// pipes each, the database. The usual soft limit of 1,024 is a courtesy to programs that use
/// `select`, which neither daemon does.
pub const WANTED_OPEN_FILES: u64 = 16_384;

/// Raises the soft limit of open files to [`WANTED_OPEN_FILES`], or to the hard limit where that
/// is lower, and returns what is in force now (`u64::MAX` for no limit at all).
///
/// Jobs inherit it. A refusal leaves everything as it was.
pub fn raise_open_files() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.map_or(WANTED_OPEN_FILES, |hard| hard.min(WANTED_OPEN_FILES));
    let in_force = current.unwrap_or(u64::MAX);
    if in_force >= wanted {
        return in_force;
    }
    let raised = Rlimit {
        current: Some(wanted),
        maximum,
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => wanted,
        Err(error) => {
            tracing::warn!(%error, "cannot raise the limit of open files above {in_force}");
            in_force
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_is_raised_and_never_lowered() {
        let before = getrlimit(Resource::Nofile);
        let in_force = raise_open_files();
        let after = getrlimit(Resource::Nofile);
        assert_eq!(after.current.unwrap_or(u64::MAX), in_force);
        assert_eq!(after.maximum, before.maximum);
        assert!(in_force >= before.current.unwrap_or(u64::MAX).min(WANTED_OPEN_FILES));
        assert_eq!(
            raise_open_files(),
            in_force,
            "a second call changes nothing"
        );
    }
}
