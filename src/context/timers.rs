//! Timers and the time of the turn.

use std::time::{Duration, Instant};

use super::Context;
use crate::handler::Handler;
use crate::timer::TimerId;

impl<H: Handler> Context<'_, H> {
    /// Sets a timer: `on_timer` is called with `key` once `after` has passed since
    /// [`now`](Context::now), never earlier; a millisecond and a turn later at most. Of those that
    /// are due in the same millisecond, the one that was set first fires first.
    pub fn set_timer(&mut self, after: Duration, key: u64) -> TimerId {
        self.engine.set_timer(after, key)
    }

    /// Sets a timer that fires again and again, each time a period after its own last deadline,
    /// so that it does not drift. Periods that pass while a turn lasts longer are left out, and of
    /// periods shorter than a millisecond, zero among them, all but one in each.
    pub fn set_interval(&mut self, period: Duration, key: u64) -> TimerId {
        self.engine.set_interval(period, key)
    }

    /// Sets a timer anew, under the same id and with the same key: it fires once `after` has passed
    /// since [`now`](Context::now), whatever it was set to; an interval goes on from there by its
    /// period. Answers false, and sets nothing, where it has ended: it was cancelled, or has fired
    /// and is no interval.
    ///
    /// To put a timer off costs next to nothing, so an idle timeout can be reset by every packet:
    /// it stays where it stands, and moves when its first deadline comes. Among those that are due
    /// in the same millisecond it has no fixed place.
    pub fn reset_timer(&mut self, timer: TimerId, after: Duration) -> bool {
        self.engine.reset_timer(timer, after)
    }

    /// Ends a timer. Answers whether it was still to fire.
    pub fn cancel_timer(&mut self, timer: TimerId) -> bool {
        self.engine.cancel_timer(timer)
    }

    /// The turn's one reading of the clock, or a later one by [`connect`](Context::connect), as
    /// looking a name up may block. Timers count from it.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.engine.now()
    }
}
