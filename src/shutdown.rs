//! The phases of a shutdown, as a program plans them and as `on_shutdown` reports them.

use std::time::Duration;

use crate::setters::setters;

/// A phase of a shutdown, reported by [`Handler::on_shutdown`](crate::Handler::on_shutdown).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum ShutdownPhase {
    /// The reactor works as before. [`Context::is_shutting_down`] returns true, so a health check
    /// fails, and the balancer sends new connections elsewhere.
    ///
    /// [`Context::is_shutting_down`]: crate::Context::is_shutting_down
    Unready,
    /// The listeners accept the connections that wait in their backlogs, and are then closed. Open
    /// connections and datagram sockets work as before. The phase ends early if no connection and
    /// no listener is left.
    Drain,
    /// Every connection and socket is closed. A connection first sends its queued output, which
    /// includes the messages sent in [`on_shutdown`](crate::Handler::on_shutdown). No connection or
    /// socket can be opened.
    Close,
}

/// The lengths of the phases of a shutdown, for [`Context::shutdown`](crate::Context::shutdown).
///
/// A `Duration` converts to a plan without the first two phases. That is enough for a program
/// without a balancer.
///
/// | phase | default length | when it ends |
/// |---|---|---|
/// | [`Unready`](ShutdownPhase::Unready) | zero | `unready_time` has passed |
/// | [`Drain`](ShutdownPhase::Drain) | zero | `drain_time` has passed, or no connection and no listener is left |
/// | [`Close`](ShutdownPhase::Close) | `close_time` | all is closed; the rest is aborted after `close_time` |
///
/// A phase of length zero is skipped, except for the last one. Choose `unready_time` longer than
/// the balancer needs to notice a failed health check. The sum of the three times must be shorter
/// than the time after which the system kills the program, such as systemd's `TimeoutStopSec` or
/// the `terminationGracePeriodSeconds` of Kubernetes.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use unstick::ShutdownPlan;
///
/// // The balancer checks the health every 2 seconds, and needs 3 failures.
/// let plan = ShutdownPlan::new(Duration::from_secs(5))
///     .unready_time(Duration::from_secs(8))
///     .drain_time(Duration::from_secs(15));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShutdownPlan {
    unready_time: Duration,
    drain_time: Duration,
    close_time: Duration,
}

impl ShutdownPlan {
    /// Creates a plan whose only phase is [`Close`](ShutdownPhase::Close). With a `close_time` of
    /// zero, the connections are aborted at most one millisecond and one turn later.
    #[must_use]
    pub fn new(close_time: Duration) -> Self {
        Self {
            unready_time: Duration::ZERO,
            drain_time: Duration::ZERO,
            close_time,
        }
    }

    setters! {
        /// Sets the length of the phase [`Unready`](ShutdownPhase::Unready). Default: zero.
        unready_time(time: Duration) => unready_time = time;

        /// Sets the maximum length of the phase [`Drain`](ShutdownPhase::Drain). Default: zero.
        drain_time(time: Duration) => drain_time = time;
    }

    /// Returns the ends of the three phases, as time since the start of the shutdown.
    pub(crate) fn ends(self) -> [Duration; 3] {
        let drain = self.unready_time.saturating_add(self.drain_time);
        [
            self.unready_time,
            drain,
            drain.saturating_add(self.close_time),
        ]
    }

    /// Returns a plan in which each phase ends at the earlier of its ends in the two plans.
    pub(crate) fn or_earlier(self, other: Self) -> Self {
        let [a, b] = [self.ends(), other.ends()];
        let [unready, drain, close] = [0, 1, 2].map(|phase| a[phase].min(b[phase]));
        Self {
            unready_time: unready,
            drain_time: drain - unready,
            close_time: close - drain,
        }
    }
}

/// A plan without the phases `Unready` and `Drain`.
impl From<Duration> for ShutdownPlan {
    fn from(close_time: Duration) -> Self {
        Self::new(close_time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn earlier_shutdown_plan_ends_each_phase_first() {
        let secs = Duration::from_secs;
        let long = ShutdownPlan::new(secs(3))
            .unready_time(secs(10))
            .drain_time(secs(20));
        let short = ShutdownPlan::new(secs(40)).unready_time(secs(5));
        assert_eq!(long.ends(), [secs(10), secs(30), secs(33)]);
        let both = long.or_earlier(short);
        assert_eq!(both.ends(), [secs(5), secs(5), secs(33)]);
        assert_eq!(both, short.or_earlier(long));
        let now = ShutdownPlan::from(Duration::ZERO);
        assert_eq!(long.or_earlier(now), now);
        let endless = ShutdownPlan::new(Duration::MAX).unready_time(Duration::MAX);
        assert_eq!(endless.or_earlier(long), long);
    }
}
