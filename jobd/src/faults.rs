//! Where the tests make jobd fail: it dies or freezes at a named point, or goes on without one of its guards.
//!
//! The macros expand to nothing, or to the guard itself, without the cargo feature `faults`; only the
//! program `jobd-faulty` has it, which nobody ships. There the environment says what happens:
//!
//! - `JOBD_CRASH_AT=POINT[:N]`: SIGKILL to itself, the N-th time that it passes there with rows in hand;
//! - `JOBD_STOP_AT=POINT[:N]`: SIGSTOP instead;
//! - `JOBD_PLANT=BUG`: that guard is left out.

/// Passes a named point, with as many rows in hand as `$rows` says (one, if nothing is said).
macro_rules! crash_point {
    ($point:literal) => {
        $crate::faults::crash_point!($point, 1)
    };
    ($point:expr, $rows:expr) => {
        #[cfg(feature = "faults")]
        $crate::faults::armed::pass($point, $rows);
    };
}

/// Passes `start-…`, `finish-…`, `retry-…` and `release-…` with what a batch has of each.
macro_rules! batch_point {
    ($when:literal, $batch:expr) => {
        $crate::faults::crash_point!(concat!("start-", $when), $batch.starts.len());
        $crate::faults::crash_point!(concat!("finish-", $when), $batch.finishes.len());
        $crate::faults::crash_point!(concat!("retry-", $when), $batch.retries.len());
        $crate::faults::crash_point!(concat!("release-", $when), $batch.releases.len());
    };
}

/// Whether the bug of this name is planted: never.
#[cfg(not(feature = "faults"))]
macro_rules! planted {
    ($bug:literal) => {
        false
    };
}

/// Whether the bug of this name is planted.
#[cfg(feature = "faults")]
macro_rules! planted {
    ($bug:literal) => {
        $crate::faults::armed::is_planted($bug)
    };
}

/// A condition of a statement. Where the bug of this name is planted, what stands there instead.
#[cfg(not(feature = "faults"))]
macro_rules! guard {
    ($bug:literal, $guard:expr, $instead:expr) => {
        $guard
    };
}

/// A condition of a statement. Where the bug of this name is planted, what stands there instead.
#[cfg(feature = "faults")]
macro_rules! guard {
    ($bug:literal, $guard:expr, $instead:expr) => {
        if $crate::faults::armed::is_planted($bug) {
            ($instead).into()
        } else {
            $guard
        }
    };
}

pub(crate) use {batch_point, crash_point, guard, planted};

#[cfg(feature = "faults")]
pub mod armed {
    //! What the environment asks for.

    use std::env;
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::thread;
    use std::time::Duration;

    use rustix::process::{Signal, getpid, kill_process};

    /// A point to die or to freeze at, the `nth` time.
    struct Trap {
        point: String,
        nth: u64,
        signal: Signal,
        passed: AtomicU64,
    }

    static TRAPS: LazyLock<Vec<Trap>> = LazyLock::new(|| {
        let set = [
            ("JOBD_CRASH_AT", Signal::KILL),
            ("JOBD_STOP_AT", Signal::STOP),
        ];
        let trap = |(name, signal)| {
            let value = env::var(name).ok()?;
            let (point, nth) = value.split_once(':').unwrap_or((&value, "1"));
            Some(Trap {
                point: point.to_owned(),
                nth: nth.parse().expect("a number behind the colon"),
                signal,
                passed: AtomicU64::new(0),
            })
        };
        set.into_iter().filter_map(trap).collect()
    });

    static PLANT: LazyLock<Option<String>> = LazyLock::new(|| env::var("JOBD_PLANT").ok());

    /// For the signal to reach every thread.
    const SETTLING: Duration = Duration::from_millis(50);

    /// Passes a point. Without a row in hand there is nothing to lose, and it does not count.
    pub fn pass(point: &str, rows: usize) {
        for trap in TRAPS.iter().filter(|trap| trap.point == point && rows > 0) {
            if trap.passed.fetch_add(1, Ordering::SeqCst) + 1 == trap.nth {
                kill_process(getpid(), trap.signal).expect("a signal to ourselves");
                thread::sleep(SETTLING);
            }
        }
    }

    /// Whether this bug is planted.
    pub fn is_planted(bug: &str) -> bool {
        PLANT.as_deref() == Some(bug)
    }
}
