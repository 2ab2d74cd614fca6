//! Timers: a hierarchical timing wheel.
//!
//! Time is an argument, counted in ticks of a millisecond since the wheel was made. Setting and
//! cancelling a timer takes constant time and, once the wheel was as full, no allocation. To put
//! one off is a store: it moves when its slot comes up.

#![expect(
    clippy::cast_possible_truncation,
    reason = "levels, slots and entries are small numbers by their construction, and an index is \
              checked where there come to be more of them"
)]

mod lists;
mod places;
mod wheel;

use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

pub(crate) use wheel::Wheel;

/// Names one timer of a reactor. Eight bytes, `Copy`, and good until it fired (a periodic one:
/// until it is cancelled).
///
/// A timer takes about 37 bytes of the reactor's memory, and at most 96; what was needed once is
/// kept for the next ones.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TimerId {
    index: u32,
    generation: NonZeroU32,
}

impl fmt::Debug for TimerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TimerId({}v{})", self.index, self.generation)
    }
}

/// The first tick at which that much time has passed: a timer is never early.
pub(crate) fn tick_at_or_after(elapsed: Duration) -> u64 {
    let millis = u64::from(elapsed.subsec_nanos().div_ceil(1_000_000));
    let seconds = elapsed.as_secs().saturating_mul(1000);
    seconds.saturating_add(millis)
}

/// The last tick that has passed by then.
pub(crate) fn tick_passed(elapsed: Duration) -> u64 {
    let seconds = elapsed.as_secs().saturating_mul(1000);
    seconds.saturating_add(u64::from(elapsed.subsec_millis()))
}

/// A moment in four bytes: milliseconds, counted over and over. Two moments can be compared that
/// are less than [`Stamp::SPAN_MAX`] apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Stamp(u32);

impl Stamp {
    /// The longest span that stamps can tell, with room for a late look: 48 days.
    const SPAN_MAX: u32 = u32::MAX - 100_000_000;

    pub(crate) fn at(elapsed: Duration) -> Self {
        Self(elapsed.as_millis() as u32)
    }

    /// Milliseconds from `earlier` to this.
    pub(crate) fn since(self, earlier: Self) -> u32 {
        self.0.wrapping_sub(earlier.0)
    }

    /// How far two stamps have to be apart for that much time to have passed for certain. A span
    /// longer than stamps can tell never passes.
    pub(crate) fn span(duration: Duration) -> Option<u32> {
        let millis = tick_at_or_after(duration).saturating_add(1);
        u32::try_from(millis)
            .ok()
            .filter(|millis| *millis <= Self::SPAN_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_rounded_up_for_deadlines_and_down_for_the_clock() {
        assert_eq!(tick_at_or_after(Duration::MAX), u64::MAX);
        assert_eq!(tick_at_or_after(Duration::from_nanos(1)), 1);
        assert_eq!(tick_passed(Duration::from_nanos(999_999)), 0);
        assert_eq!(tick_passed(Duration::MAX), tick_at_or_after(Duration::MAX));
    }

    #[test]
    fn stamps_compare_across_their_wrap_and_never_tell_too_much() {
        let at = |millis| Stamp::at(Duration::from_millis(millis));
        let wrap = u64::from(u32::MAX);
        assert_eq!(at(wrap + 5).since(at(wrap - 5)), 10);
        let span = Stamp::span(Duration::from_micros(1500)).expect("a short span");
        let (begin, end) = (Duration::from_micros(1999), Duration::from_micros(4000));
        assert!(
            Stamp::at(end).since(Stamp::at(begin)) >= span,
            "2 ms have passed"
        );
        let (begin, end) = (Duration::from_micros(1999), Duration::from_micros(3498));
        assert!(
            Stamp::at(end).since(Stamp::at(begin)) < span,
            "1.499 ms have passed"
        );
        for days in [49, 50, 1000] {
            assert_eq!(Stamp::span(Duration::from_secs(86_400 * days)), None);
        }
        assert_eq!(Stamp::span(Duration::MAX), None);
        assert!(Stamp::span(Duration::from_secs(86_400 * 25)).is_some());
    }
}
