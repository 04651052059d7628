//! Keeps workers out of step: what many of them do for the same reason, each does at a moment of its own.

use std::time::Duration;

/// Pauses between tries to reach somebody whom many others miss at the same moment: back-off with full
/// jitter. Pure; the caller draws the fraction.
#[derive(Debug, Default)]
pub struct Pauses {
    failures: u32,
}

impl Pauses {
    /// The next pause: somewhere within `base` when a link was lost, and after further failures somewhere
    /// within twice that, so that tries follow each other every `base` on average.
    pub fn next(&mut self, base: Duration, fraction: f64) -> Duration {
        let window = if self.failures == 0 { base } else { base * 2 };
        self.failures = self.failures.saturating_add(1);
        window.mul_f64(fraction.clamp(0.0, 1.0))
    }

    /// A try has succeeded.
    pub fn succeeded(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fractions of a printed seed (splitmix64).
    fn fractions(seed: u64) -> impl Iterator<Item = f64> {
        let mut state = seed;
        std::iter::repeat_with(move || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            let bits = u32::try_from((z ^ (z >> 31)) >> 32).unwrap();
            f64::from(bits) / f64::from(u32::MAX)
        })
    }

    /// When each of 2,000 workers is back that lost their master at 0, in seconds, if it can be reached
    /// again from `back` on.
    fn returns(seed: u64, base: Duration, back: f64) -> Vec<f64> {
        let mut fractions = fractions(seed);
        let mut worker = || {
            let (mut pauses, mut now) = (Pauses::default(), 0.0);
            loop {
                now += pauses.next(base, fractions.next().unwrap()).as_secs_f64();
                if now >= back {
                    return now - back;
                }
            }
        };
        (0..2_000).map(|_| worker()).collect()
    }

    #[test]
    fn two_thousand_workers_do_not_return_at_once() {
        let base = Duration::from_secs(10);
        for (seed, back) in [(1, 0.0), (2, 3.0), (3, 60.0), (4, 3_600.0)] {
            let returns = returns(seed, base, back);
            let mut per_second = [0_u32; 21];
            for at in &returns {
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "at most 20"
                )]
                let second = *at as usize;
                per_second[second] += 1;
            }
            let mean = returns.iter().sum::<f64>() / 2_000.0;
            let most = per_second.iter().max().unwrap();
            println!(
                "seed {seed}, away for {back} s: back after {mean:.1} s on average, at most {most} in a second: {per_second:?}"
            );
            // All at once would be 2,000 in the first of them.
            assert!(*most <= 300, "seed {seed}: {per_second:?}");
            assert!(mean < 8.0, "seed {seed}: {mean}");
        }
    }

    #[test]
    fn a_try_that_succeeds_begins_anew() {
        let mut pauses = Pauses::default();
        let base = Duration::from_secs(10);
        let all = |pauses: &mut Pauses| [0.5, 0.5, 1.0].map(|f| pauses.next(base, f).as_secs());
        assert_eq!(all(&mut pauses), [5, 10, 20]);
        pauses.succeeded();
        assert_eq!(all(&mut pauses), [5, 10, 20]);
    }
}
