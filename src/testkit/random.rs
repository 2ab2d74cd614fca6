//! Random numbers for tests, the same in each run.

use std::time::Duration;

/// A generator of random numbers with a seed, so that a failure can be repeated.
///
/// The numbers depend only on the seed. They are the same on every machine and in every version of
/// a program. Do not use them for secrets.
#[derive(Debug, Clone)]
pub struct Random(pub(crate) u64);

impl Random {
    /// Creates a generator. Similar seeds give unrelated numbers.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns a number below `bound`. Returns 0 if `bound` is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        let bound = u64::try_from(bound).unwrap_or(u64::MAX);
        let number = self.next().checked_rem(bound).unwrap_or(0);
        usize::try_from(number).unwrap_or_default()
    }

    /// Returns true once in `count` calls on average. Always returns true if `count` is 0 or 1.
    pub fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    /// Returns one of the choices.
    ///
    /// # Panics
    ///
    /// If there is no choice.
    pub fn of<T: Clone>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())].clone()
    }

    /// Returns a time from zero to `max`, in whole microseconds.
    pub fn time(&mut self, max: Duration) -> Duration {
        let micros = u64::try_from(max.as_micros()).unwrap_or(u64::MAX - 1);
        Duration::from_micros(self.next() % (micros + 1))
    }

    /// Returns true in the given percentage of calls. Uses no random number if the percentage is 0.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn is_percent(&mut self, percent: u8) -> bool {
        percent > 0 && self.below(100) < usize::from(percent)
    }

    /// Returns the next number of the generator (SplitMix64, by Steele, Lea and Flood).
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}
