//! The timers of the handler and of the engine itself.
//!
//! All timers count from the time of the turn. A one-shot timer is a node of the wheel and needs no
//! other memory. An interval also stores its exact deadline and its period, because ticks alone
//! would drift.

use std::time::{Duration, Instant};

use slab::Slab;

use super::timeouts::Timeouts;
use crate::id::Token;
use crate::timer::{Stamp, TimerId, Wheel, tick_at_or_after, tick_passed};

/// The work to do when a timer fires. For each timer, the wheel stores the task and a 64-bit value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Task {
    /// Calls `on_timer` once; the value is the key.
    User,
    /// Calls `on_timer` once per period. The wheel stores the index of the interval, and
    /// [`next_due`](Timers::next_due) returns its key.
    Interval,
    /// Handles the deadline of a connect attempt, of a stage of a preparation, or of a close; the
    /// value is the token.
    Deadline,
    /// Checks the timeouts of a connection; the value is the token.
    Check,
    /// Retries the accepts of listeners that could not accept, for example for lack of descriptors.
    AcceptRetry,
    /// Frees memory that was not used since the last trim.
    Trim,
    /// Aborts connections, because the memory budget was used up for too long.
    Memory,
    /// Continues a shutdown whose current phase ends.
    Shutdown,
    /// Publishes the metrics.
    #[cfg(feature = "metrics")]
    Metrics,
    /// Ends the wait of a turn that reports a phase of the shutdown.
    PhaseReport,
}

/// The data of an interval that its node in the wheel cannot store.
#[derive(Debug)]
struct Interval {
    key: u64,
    /// The exact next deadline, as time since the epoch.
    at: Duration,
    period: Duration,
}

impl Interval {
    /// Moves to the first deadline after `now` that is a whole number of periods after the previous
    /// deadline. So an interval does not drift, and missed periods are skipped.
    fn step(&mut self, now: Duration) -> Duration {
        let missed = now.saturating_sub(self.at).as_nanos() / self.period.as_nanos().max(1);
        let periods = u32::try_from(missed).unwrap_or(u32::MAX).saturating_add(1);
        self.at = self.at.saturating_add(self.period.saturating_mul(periods));
        self.at
    }
}

/// Returns the index of an interval from the value in the wheel.
fn interval_index(value: u64) -> usize {
    usize::try_from(value)
        .expect("the wheel stores the index of the interval, which fits into usize")
}

/// The timing wheel, and the time of the turn.
#[derive(Debug)]
pub(crate) struct Timers {
    wheel: Wheel<Task>,
    intervals: Slab<Interval>,
    /// The time of tick 0 of the wheel.
    epoch: Instant,
    /// The time of the turn: the clock at the end of its wait. The clock is read again after a name
    /// look-up, and by `Reactor::with`.
    pub(crate) now: Instant,
    /// `now` in 32-bit milliseconds; maintained only if `keeps_stamp` is true.
    pub(crate) stamp: Stamp,
    /// True if a timeout is configured now or was configured earlier.
    keeps_stamp: bool,
    /// The timeouts of connections without own limits.
    pub(super) timeouts: Timeouts,
}

impl Timers {
    pub(super) fn new(now: Instant, timeouts: Timeouts) -> Self {
        Self {
            wheel: Wheel::new(),
            intervals: Slab::new(),
            epoch: now,
            now,
            stamp: Stamp::default(),
            keeps_stamp: timeouts.are_set(),
            timeouts,
        }
    }

    /// Returns the number of timers that are set.
    pub(crate) fn len(&self) -> usize {
        self.wheel.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.wheel.is_empty()
    }

    /// Returns the time of the turn since the epoch.
    pub(super) fn since_epoch(&self) -> Duration {
        self.now.saturating_duration_since(self.epoch)
    }

    /// Sets the time of the turn.
    pub(crate) fn set_now(&mut self, now: Instant) {
        self.now = now;
        if self.keeps_stamp {
            self.stamp = Stamp::at(self.since_epoch());
        }
    }

    /// Starts to maintain the 32-bit stamp, if it is not maintained yet.
    pub(super) fn keep_stamp(&mut self) {
        self.keeps_stamp = true;
        self.set_now(self.now);
    }

    /// Sets a one-shot timer for a task that concerns no connection.
    pub(super) fn set_task(&mut self, after: Duration, task: Task) -> TimerId {
        self.insert(after, task, 0)
    }

    /// Sets a one-shot timer for a task that concerns a connection.
    pub(super) fn set_conn_task(&mut self, after: Duration, task: Task, conn: Token) -> TimerId {
        self.insert(after, task, conn.to_bits())
    }

    fn insert(&mut self, after: Duration, task: Task, value: u64) -> TimerId {
        if self.wheel.is_empty() {
            // An empty wheel is not advanced by the turns, so it is advanced here.
            self.snapshot_due();
        }
        let at = self.since_epoch().saturating_add(after);
        self.wheel.insert(tick_at_or_after(at), task, value)
    }

    /// Cancels a timer of the engine, if it is set.
    pub(super) fn cancel(&mut self, timer: Option<TimerId>) {
        if let Some(timer) = timer {
            self.wheel.cancel(timer);
        }
    }

    /// Takes a snapshot of the timers that are due. A timer that is set later waits for the next
    /// snapshot, even if its delay is zero.
    pub(crate) fn snapshot_due(&mut self) {
        self.wheel.advance(tick_passed(self.since_epoch()));
    }

    /// Removes the first timer of the snapshot, and returns it with its task and value. An interval
    /// is set again, and the returned value is its key.
    pub(crate) fn next_due(&mut self) -> Option<(TimerId, Task, u64)> {
        let now = self.since_epoch();
        let mut interval_key = None;
        let (id, task, value) = self.wheel.pop_due(|task, index| {
            if task != Task::Interval {
                return None;
            }
            let interval = &mut self.intervals[interval_index(index)];
            interval_key = Some(interval.key);
            Some(tick_at_or_after(interval.step(now)))
        })?;
        Some((id, task, interval_key.unwrap_or(value)))
    }

    /// Returns the longest time to wait, counted from the time of the turn; `None` if no timer is
    /// set. The wait may end before the next timer is due, because the wheel moves a distant timer
    /// to lower levels in earlier turns.
    pub(crate) fn time_to_next(&self) -> Option<Duration> {
        if self.wheel.is_empty() {
            return None;
        }
        let tick = self.wheel.next_tick()?;
        Some(Duration::from_millis(tick).saturating_sub(self.since_epoch()))
    }

    /// Sets a one-shot timer of the handler.
    pub(crate) fn set_timer(&mut self, after: Duration, key: u64) -> TimerId {
        self.insert(after, Task::User, key)
    }

    /// Sets a timer of the handler that fires once per period.
    pub(crate) fn set_interval(&mut self, period: Duration, key: u64) -> TimerId {
        let at = self.since_epoch().saturating_add(period);
        let index = self.intervals.insert(Interval { key, at, period });
        self.insert(period, Task::Interval, index as u64)
    }

    /// Moves a timer to a new deadline; returns false if it no longer exists.
    pub(crate) fn reset_timer(&mut self, id: TimerId, after: Duration) -> bool {
        let at = self.since_epoch().saturating_add(after);
        let found = self.wheel.reset(id, tick_at_or_after(at));
        if let Some((Task::Interval, index)) = found {
            self.intervals[interval_index(index)].at = at;
        }
        found.is_some()
    }

    /// Cancels a timer; returns false if it no longer exists.
    pub(crate) fn cancel_timer(&mut self, id: TimerId) -> bool {
        let found = self.wheel.cancel(id);
        if let Some((Task::Interval, index)) = found {
            self.intervals.remove(interval_index(index));
        }
        found.is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::config::Config;
    use crate::engine::{BATCH_LEN_BASE, Engine};
    use crate::memory::Buf;
    use crate::os::sim::World;

    const MS: Duration = Duration::from_millis(1);

    /// An engine whose clock is set by the test.
    struct Clocked {
        engine: Engine,
        epoch: Instant,
    }

    impl Clocked {
        fn new() -> Self {
            let engine = Engine::new(Config::default(), World::current().os())
                .expect("the simulated poll opens");
            let epoch = engine.timers.now;
            Self { engine, epoch }
        }

        /// Runs the timers of a turn that begins `at` after the epoch. Returns their ids and keys.
        fn turn(&mut self, at: Duration) -> Vec<(TimerId, u64)> {
            self.engine.timers.set_now(self.epoch + at);
            self.engine.timers.snapshot_due();
            let due = std::iter::from_fn(|| self.engine.timers.next_due());
            due.map(|(id, task, key)| match task {
                Task::User | Task::Interval => (id, key),
                other => panic!("unexpected task: {other:?}"),
            })
            .collect()
        }
    }

    /// Returns a pseudo-random number below `bound`. `state` is the seed, so a failure repeats.
    fn random(state: &mut u64, bound: u64) -> u64 {
        *state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963);
        (*state >> 20) % bound
    }

    /// Measures the lateness of at least 20,000 timers, in turns that are less than 5 ms apart.
    #[test]
    fn timers_are_never_early_and_at_most_a_tick_and_turn_late() {
        const TURN_US: u64 = 5000;
        let mut state = 7;
        let mut clocked = Clocked::new();
        let (mut now, mut deadlines) = (Duration::ZERO, Vec::new());
        let mut late_us = Vec::new();
        while late_us.len() < 20_000 {
            for _ in 0..random(&mut state, 30) {
                let spread = 1 << random(&mut state, 32);
                let after = Duration::from_nanos(random(&mut state, spread));
                clocked
                    .engine
                    .timers
                    .set_timer(after, deadlines.len() as u64);
                deadlines.push(now + after);
            }
            now += Duration::from_micros(random(&mut state, TURN_US));
            for (_, key) in clocked.turn(now) {
                let deadline = deadlines[usize::try_from(key).expect("the key is an index")];
                assert!(
                    now >= deadline,
                    "the timer fired {:?} early",
                    deadline - now
                );
                late_us.push((now - deadline).as_micros());
            }
        }
        late_us.sort_unstable();
        let turn_and_tick = u128::from(TURN_US) + 1000;
        assert!(*late_us.last().expect("timers fired") <= turn_and_tick);
        let below_turn = late_us.partition_point(|late| *late <= u128::from(TURN_US));
        assert!(
            below_turn > 19_000,
            "only {below_turn} timers were at most a turn late"
        );
    }

    /// Three of the four periods are not whole numbers of ticks, and some turns come late. Each
    /// firing belongs to a different multiple of the period, and never comes before that multiple.
    #[test]
    fn intervals_do_not_drift() {
        for period in [1500, 3333, 7000, 99_999].map(Duration::from_micros) {
            let mut state = 11;
            let mut clocked = Clocked::new();
            let id = clocked.engine.timers.set_interval(period, 5);
            let (mut now, mut last) = (Duration::ZERO, 0);
            while now < Duration::from_secs(3600) {
                // Most turns come when the next timer is due. Some come much later.
                let wait = clocked
                    .engine
                    .timers
                    .time_to_next()
                    .expect("the interval is set");
                now += wait;
                if random(&mut state, 10) == 0 {
                    now += Duration::from_micros(random(&mut state, 10_000_000));
                }
                for fired in clocked.turn(now) {
                    assert_eq!(fired, (id, 5));
                    let reached = now.as_nanos() / period.as_nanos();
                    assert!(
                        reached > last,
                        "the interval fired early, or twice for one deadline"
                    );
                    last = reached;
                }
                let next = u32::try_from(last + 1).expect("an hour has fewer than 2^32 periods");
                assert!(
                    now < period * next + MS,
                    "the interval drifts: firing {next} is late"
                );
            }
            assert!(clocked.engine.timers.cancel_timer(id));
            assert!(clocked.engine.timers.intervals.is_empty());
        }
    }

    #[test]
    fn sub_millisecond_interval_fires_once_a_millisecond() {
        for period in [0, 1, 300_000, 999_999].map(Duration::from_nanos) {
            let mut clocked = Clocked::new();
            let id = clocked.engine.timers.set_interval(period, 5);
            for millis in 1..=20 {
                let quarters = (0..4).map(|quarter| millis * MS + quarter * MS / 4);
                let fired: Vec<_> = quarters.flat_map(|now| clocked.turn(now)).collect();
                assert_eq!(fired, [(id, 5)], "period {period:?}, millisecond {millis}");
            }
        }
    }

    #[test]
    fn zero_and_very_long_delays_are_kept() {
        let day = Duration::from_secs(86_400);
        let delays = [
            Duration::ZERO,
            Duration::from_nanos(1),
            25 * day,
            50 * day,
            Duration::MAX,
        ];
        let mut clocked = Clocked::new();
        clocked.turn(10 * MS);
        for (key, delay) in (0..).zip(delays) {
            clocked.engine.timers.set_timer(delay, key);
            clocked.engine.timers.set_interval(delay, 10 + key);
        }
        assert_eq!(
            clocked.turn(10 * MS),
            [],
            "no timer fires in the turn that set it"
        );
        let keys = |fired: Vec<(TimerId, u64)>| {
            let mut keys: Vec<_> = fired.into_iter().map(|(_, key)| key).collect();
            keys.sort_unstable();
            keys
        };
        assert_eq!(keys(clocked.turn(11 * MS)), [0, 1, 10, 11]);
        for (days, key) in [(25, 2), (50, 3)] {
            let at = 10 * MS + days * day;
            let quick = [10, 11];
            assert_eq!(
                keys(clocked.turn(at - MS)).len(),
                2,
                "only the intervals {quick:?} fire"
            );
            let fired = keys(clocked.turn(at));
            assert!(fired.contains(&key) && fired.contains(&(10 + key)));
        }
        // A timer with the longest delay is never due.
        assert!(!keys(clocked.turn(1_000_000 * day)).contains(&4));
    }

    /// An empty wheel is not advanced, so its tick is old. The wait for the next timer must be
    /// computed from the current tick.
    #[test]
    fn first_timer_after_idle_hours_has_the_right_wait() {
        let mut clocked = Clocked::new();
        for hour in 1..5 {
            let now = Duration::from_secs(3600 * hour) + 7 * MS;
            clocked.engine.timers.set_now(clocked.epoch + now);
            let id = match hour % 2 {
                0 => clocked.engine.timers.set_timer(5 * MS, hour),
                _ => clocked.engine.timers.set_interval(5 * MS, hour),
            };
            assert_eq!(clocked.engine.timers.time_to_next(), Some(5 * MS));
            assert_eq!(clocked.turn(now + 5 * MS), [(id, hour)]);
            clocked.engine.timers.cancel_timer(id);
        }
    }

    #[test]
    fn reset_timer_fires_only_at_its_last_deadline() {
        let mut clocked = Clocked::new();
        let id = clocked.engine.timers.set_timer(10 * MS, 1);
        assert!(
            clocked.engine.timers.reset_timer(id, 500 * MS),
            "the deadline becomes 500 ms"
        );
        assert_eq!(clocked.turn(499 * MS), []);
        assert!(
            clocked.engine.timers.reset_timer(id, 20 * MS),
            "the deadline becomes 20 ms"
        );
        assert!(
            clocked.engine.timers.reset_timer(id, 5 * MS),
            "the deadline becomes 5 ms"
        );
        assert_eq!(clocked.turn(503 * MS), []);
        assert_eq!(clocked.turn(504 * MS), [(id, 1)]);
        assert!(
            !clocked.engine.timers.reset_timer(id, MS),
            "the timer has fired"
        );

        let id = clocked.engine.timers.set_interval(10 * MS, 2);
        assert_eq!(clocked.turn(514 * MS), [(id, 2)]);
        assert!(clocked.engine.timers.reset_timer(id, 3 * MS));
        assert_eq!(clocked.turn(517 * MS), [(id, 2)]);
        assert_eq!(clocked.turn(526 * MS), []);
        assert_eq!(
            clocked.turn(527 * MS),
            [(id, 2)],
            "the interval fires one period after the reset deadline"
        );
        assert!(clocked.engine.timers.cancel_timer(id));
        assert!(!clocked.engine.timers.reset_timer(id, MS));
    }

    /// A program may reset an idle timeout for every packet, as this test does.
    #[test]
    fn timer_reset_by_every_packet_needs_few_turns() {
        let mut clocked = Clocked::new();
        let id = clocked.engine.timers.set_timer(1000 * MS, 1);
        let mut turns = 0;
        for packet in 1..=100_000_u64 {
            let now = Duration::from_micros(100 * packet);
            clocked.engine.timers.set_now(clocked.epoch + now);
            if clocked.engine.timers.time_to_next() == Some(Duration::ZERO) {
                turns += 1;
                assert_eq!(clocked.turn(now), []);
            }
            assert!(clocked.engine.timers.reset_timer(id, 1000 * MS));
        }
        assert!(turns <= 30, "the wheel asked for {turns} turns in 10 s");
        assert_eq!(clocked.turn(Duration::from_millis(10_999)), []);
        assert_eq!(clocked.turn(Duration::from_millis(11_000)), [(id, 1)]);
    }

    #[test]
    fn memory_of_a_burst_is_freed_and_the_trim_timer_ends() {
        let Clocked { mut engine, epoch } = Clocked::new();
        let held: Vec<_> = (0..1000)
            .map(|_| engine.memory.pool.take(64 * 1024))
            .collect();
        held.into_iter().for_each(|buf| engine.memory.pool.put(buf));
        let base = engine.config.pool_bytes_max;
        assert!(engine.memory.pool.is_over_base());
        engine.active.batch = Buf::with_capacity(4 * BATCH_LEN_BASE);
        for _ in 0..3 {
            engine.arm_trim(false);
            assert_eq!(engine.timers.len(), 1, "only one trim timer is set");
        }
        while let Some(wait) = engine.timers.time_to_next() {
            let now = engine.timers.since_epoch() + wait;
            assert!(now <= Duration::from_secs(5));
            engine.timers.set_now(epoch + now);
            engine.timers.snapshot_due();
            while let Some((_, task, _)) = engine.timers.next_due() {
                assert_eq!(task, Task::Trim);
                engine.trim();
            }
            engine.arm_trim(false);
        }
        assert!(
            engine.memory.pool.free_bytes() <= base,
            "the pool has more than {base} free bytes"
        );
        assert_eq!(engine.active.batch.capacity(), BATCH_LEN_BASE);
    }
}
