//! Timers and the time of the turn.

use std::time::{Duration, Instant};

use super::Context;
use crate::handler::Handler;
use crate::timer::TimerId;

/// Timers, and the time of the turn.
impl<H: Handler> Context<'_, H> {
    /// Sets a timer: [`on_timer`](Handler::on_timer) is called once with `key`, after `after` has
    /// passed since [`now`](Context::now).
    ///
    /// The timer never fires early. It fires at most one millisecond and one turn late, unless more
    /// than [`Config::timer_budget`](crate::Config::timer_budget) timers are due. With a delay of
    /// zero, the callback is called after the current callback has returned. Timers due in the same
    /// millisecond fire in the order in which they were set.
    pub fn set_timer(&mut self, after: Duration, key: u64) -> TimerId {
        self.engine.timers.set_timer(after, key)
    }

    /// Sets a periodic timer: [`on_timer`](Handler::on_timer) is called with `key` after each
    /// `period`.
    ///
    /// Each deadline is computed from the previous deadline, so the interval does not drift.
    /// Periods missed during a long turn are skipped. With a period below one millisecond,
    /// including zero, the timer fires at most once per millisecond.
    pub fn set_interval(&mut self, period: Duration, key: u64) -> TimerId {
        self.engine.timers.set_interval(period, key)
    }

    /// Sets the deadline of an existing timer to `after` from [`now`](Context::now). Its id and key
    /// are kept. An interval continues from the new deadline with its period.
    ///
    /// Returns false and changes nothing if the timer no longer exists: it was cancelled, or it is
    /// a one-shot timer and has fired.
    ///
    /// Postponing a timer is cheap, so an idle timeout can be reset for every packet. Only the new
    /// deadline is stored, and the timer is sorted again when its old deadline comes. Among timers
    /// due in the same millisecond, a reset timer has no fixed order.
    pub fn reset_timer(&mut self, timer: TimerId, after: Duration) -> bool {
        self.engine.timers.reset_timer(timer, after)
    }

    /// Cancels a timer. Returns false if it no longer exists: it was cancelled before, or it is a
    /// one-shot timer and has fired.
    pub fn cancel_timer(&mut self, timer: TimerId) -> bool {
        self.engine.timers.cancel_timer(timer)
    }

    /// Returns the time of the current turn, from which timers count.
    ///
    /// The time is set once per turn, at the end of the wait for events.
    /// [`Reactor::with`](crate::Reactor::with) sets it again, and so does
    /// [`connect`](Context::connect), because resolving a host name may block.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.engine.timers.now
    }
}
