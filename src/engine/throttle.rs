//! At most one log line a second for each kind of trouble, whatever a peer does.

use std::fmt;
use std::time::{Duration, Instant};

const PERIOD: Duration = Duration::from_secs(1);

/// What a line is about.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Trouble {
    Accept,
    Refused,
    Frame,
    Skipped,
    Datagram,
    Memory,
    Shed,
    Slow,
}

/// When each kind was last told of, and how often it was kept quiet since.
#[derive(Debug, Default)]
pub(crate) struct Throttle {
    kinds: [(Option<Instant>, u64); 8],
}

impl Throttle {
    /// Whether a line may be written now; if so, what it says of those that were left out.
    pub(crate) fn pass(&mut self, trouble: Trouble, now: Instant) -> Option<LeftOut> {
        let (last, left_out) = &mut self.kinds[trouble as usize];
        if last.is_some_and(|last| now.saturating_duration_since(last) < PERIOD) {
            *left_out += 1;
            return None;
        }
        *last = Some(now);
        Some(LeftOut(std::mem::take(left_out)))
    }
}

/// How many lines of a kind were left out before this one; the end of the line that is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LeftOut(u64);

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => Ok(()),
            count => write!(f, " ({count} more like it before)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_million_errors_are_one_line_a_second_and_none_is_uncounted() {
        let mut throttle = Throttle::default();
        let start = Instant::now();
        let mut lines = Vec::new();
        for error in 0..1_000_000 {
            let now = start + Duration::from_micros(3 * error);
            lines.extend(throttle.pass(Trouble::Frame, now));
        }
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[0].to_string(), "");
        assert!(lines[1].0 > 333_000);
        assert_eq!(
            throttle.pass(Trouble::Accept, start),
            Some(LeftOut(0)),
            "kinds are apart"
        );
    }
}
