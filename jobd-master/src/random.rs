//! Random numbers from a seed, so that a test that failed can be repeated.

/// xorshift64*: small, quick, and the same everywhere.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    /// So many seeds, the same in every run, or the one in `JOBD_TEST_SEED`. Failures print theirs.
    pub(crate) fn seeds(count: u64) -> impl Iterator<Item = u64> {
        let given = std::env::var("JOBD_TEST_SEED").ok();
        let given: Option<u64> = given.and_then(|seed| seed.parse().ok());
        let first = given.unwrap_or(1);
        (0..if given.is_some() { 1 } else { count }).map(move |step| first + 2 * step)
    }

    /// A number below `limit`.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32) % limit
    }
}
