//! Timers: a hierarchical timing wheel.
//!
//! Callers pass the time in ticks: milliseconds since the wheel was created. Setting and cancelling
//! a timer take constant time. The memory of ended timers is used again before more is allocated.
//! Postponing a timer only stores its new deadline. The timer moves to another slot when the wheel
//! reaches its present slot.

#![expect(
    clippy::cast_possible_truncation,
    reason = "levels, slots and entries are small by construction, and indices are checked when \
              the wheel grows"
)]

mod lists;
mod places;
mod wheel;

use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

pub(crate) use wheel::Wheel;

/// Id of a timer: a `Copy` value of eight bytes. It is valid until the timer fires or is cancelled.
/// The id of a periodic timer is valid until the timer is cancelled.
///
/// A timer uses about 37 bytes of the reactor's memory, or about 96 if few timers are due near the
/// same time. The memory of an ended timer is kept for later timers.
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

/// Returns the first tick at or after `elapsed`, so that a timer never fires early.
pub(crate) fn tick_at_or_after(elapsed: Duration) -> u64 {
    let millis = u64::from(elapsed.subsec_nanos().div_ceil(1_000_000));
    let seconds = elapsed.as_secs().saturating_mul(1000);
    seconds.saturating_add(millis)
}

/// Returns the last tick at or before `elapsed`.
pub(crate) fn tick_passed(elapsed: Duration) -> u64 {
    let seconds = elapsed.as_secs().saturating_mul(1000);
    seconds.saturating_add(u64::from(elapsed.subsec_millis()))
}

/// Time in milliseconds as a 32-bit number, which wraps around after 49 days. Two stamps can be
/// compared if they are at most [`Stamp::SPAN_MAX`] apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Stamp(u32);

impl Stamp {
    /// Maximum span that can be measured with stamps, in milliseconds: 48 days. The 27 hours that
    /// remain until the number wraps around are a reserve for a late comparison.
    const SPAN_MAX: u32 = u32::MAX - 100_000_000;

    pub(crate) fn at(elapsed: Duration) -> Self {
        Self(elapsed.as_millis() as u32)
    }

    /// Returns the number of milliseconds from `earlier` to `self`.
    pub(crate) fn since(self, earlier: Self) -> u32 {
        self.0.wrapping_sub(earlier.0)
    }

    /// Returns the smallest difference of two stamps that proves that `duration` has passed.
    /// Returns `None` if the difference would exceed [`Stamp::SPAN_MAX`].
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
    fn ticks_round_up_for_deadlines_and_down_for_the_clock() {
        assert_eq!(tick_at_or_after(Duration::MAX), u64::MAX);
        assert_eq!(tick_at_or_after(Duration::from_nanos(1)), 1);
        assert_eq!(tick_passed(Duration::from_nanos(999_999)), 0);
        assert_eq!(tick_passed(Duration::MAX), tick_at_or_after(Duration::MAX));
    }

    #[test]
    fn stamps_compare_across_the_wrap_and_are_never_early() {
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
