//! Waiting for conditions. Must not be used to sleep a guessed time.

use std::time::{Duration, Instant};

/// How long most conditions may take before a test is called failed: far above what a loaded
/// machine needs, so that only a real hang reaches it.
pub const PATIENCE: Duration = Duration::from_secs(30);

const BETWEEN_PROBES: Duration = Duration::from_millis(10);

/// Asks `probe` until it answers `Some`, and returns that.
///
/// # Panics
/// When `limit` has passed; `what` then says what was waited for.
pub async fn until<T>(what: &str, limit: Duration, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(
            begun.elapsed() < limit,
            "waited {limit:?} in vain for {what}"
        );
        tokio::time::sleep(BETWEEN_PROBES).await;
    }
}
