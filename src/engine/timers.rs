//! The timers: the handler's, and those of the engine itself.
//!
//! All count from the turn's one reading of the clock. A one-shot timer is its node in the wheel
//! and nothing else; an interval has its exact deadline and its period beside it, as ticks alone
//! would drift.

use std::time::Duration;

use super::Engine;
use crate::id::Token;
use crate::timer::{TimerId, tick_at_or_after, tick_passed};

/// What a timer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Task {
    /// The handler's, told to `on_timer`.
    User { key: u64 },
    /// A connection has taken too long to connect or to close.
    Deadline(Token),
    /// A connection's stamps are looked at, for its timeouts.
    Check(Token),
    /// Accepting is tried again.
    AcceptRetry,
    /// The pool gives back what it did not need.
    Trim,
    /// Memory was short for too long.
    Memory,
    /// The shutdown has taken too long.
    Shutdown,
}

/// What the wheel knows of a task: this byte, and a value of 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    User,
    Interval,
    Deadline,
    Check,
    AcceptRetry,
    Trim,
    Memory,
    Shutdown,
}

impl Task {
    #[inline]
    fn pack(self) -> (Kind, u64) {
        match self {
            Self::User { key } => (Kind::User, key),
            Self::Deadline(token) => (Kind::Deadline, token.to_bits()),
            Self::Check(token) => (Kind::Check, token.to_bits()),
            Self::AcceptRetry => (Kind::AcceptRetry, 0),
            Self::Trim => (Kind::Trim, 0),
            Self::Memory => (Kind::Memory, 0),
            Self::Shutdown => (Kind::Shutdown, 0),
        }
    }

    /// The task of a timer that fired; an interval has been looked up.
    #[inline]
    fn of(kind: Kind, value: u64) -> Self {
        match kind {
            Kind::User | Kind::Interval => Self::User { key: value },
            Kind::Deadline => Self::Deadline(Token::from_bits(value)),
            Kind::Check => Self::Check(Token::from_bits(value)),
            Kind::AcceptRetry => Self::AcceptRetry,
            Kind::Trim => Self::Trim,
            Kind::Memory => Self::Memory,
            Kind::Shutdown => Self::Shutdown,
        }
    }
}

/// What an interval is besides its node. `at` is its next deadline, exactly, from the epoch on.
#[derive(Debug)]
pub(super) struct Interval {
    key: u64,
    at: Duration,
    period: Duration,
}

impl Interval {
    /// The first deadline after `now` that is a whole number of periods after the last one: it does
    /// not drift, and those that were missed are left out.
    fn step(&mut self, now: Duration) -> Duration {
        let missed = now.saturating_sub(self.at).as_nanos() / self.period.as_nanos().max(1);
        let periods = u32::try_from(missed).unwrap_or(u32::MAX).saturating_add(1);
        self.at = self.at.saturating_add(self.period.saturating_mul(periods));
        self.at
    }
}

/// Which interval a timer is of.
fn interval_index(value: u64) -> usize {
    usize::try_from(value).expect("the index of an interval")
}

impl Engine {
    pub(crate) fn set_timer(&mut self, after: Duration, key: u64) -> TimerId {
        self.set_task(after, Task::User { key })
    }

    pub(crate) fn set_interval(&mut self, period: Duration, key: u64) -> TimerId {
        let at = self.since_epoch().saturating_add(period);
        let index = self.intervals.insert(Interval { key, at, period });
        self.insert_timer(at, Kind::Interval, index as u64)
    }

    /// Sets a timer anew, that has not ended. Answers whether it had not.
    pub(crate) fn reset_timer(&mut self, id: TimerId, after: Duration) -> bool {
        let at = self.since_epoch().saturating_add(after);
        let carried = self.wheel.reset(id, tick_at_or_after(at));
        if let Some((Kind::Interval, index)) = carried {
            self.intervals[interval_index(index)].at = at;
        }
        carried.is_some()
    }

    /// Ends a timer. Answers whether it had not ended.
    pub(crate) fn cancel_timer(&mut self, id: TimerId) -> bool {
        let carried = self.wheel.cancel(id);
        if let Some((Kind::Interval, index)) = carried {
            self.intervals.remove(interval_index(index));
        }
        carried.is_some()
    }

    pub(super) fn set_task(&mut self, after: Duration, task: Task) -> TimerId {
        let at = self.since_epoch().saturating_add(after);
        let (kind, value) = task.pack();
        self.insert_timer(at, kind, value)
    }

    fn insert_timer(&mut self, at: Duration, kind: Kind, value: u64) -> TimerId {
        if self.wheel.is_empty() {
            self.note_due_timers(); // Nobody turned it while it was empty.
        }
        self.wheel.insert(tick_at_or_after(at), kind, value)
    }

    /// Makes a snapshot of the timers that are due now. What is set from now on waits for the next
    /// one, also with a delay of zero.
    pub(crate) fn note_due_timers(&mut self) {
        self.wheel.advance(tick_passed(self.since_epoch()));
    }

    /// Takes the timer that was due first; one of the handler's as [`Task::User`]. An interval is
    /// set again.
    pub(crate) fn next_due(&mut self) -> Option<(TimerId, Task)> {
        let now = self.since_epoch();
        let Self {
            wheel, intervals, ..
        } = self;
        let mut interval_key = None;
        let (id, kind, value) = wheel.pop_due(|kind, index| {
            if kind != Kind::Interval {
                return None;
            }
            let interval = &mut intervals[interval_index(index)];
            interval_key = Some(interval.key);
            Some(tick_at_or_after(interval.step(now)))
        })?;
        Some((id, Task::of(kind, interval_key.unwrap_or(value))))
    }

    /// How long from the turn's time on the poll may wait for the next timer.
    #[inline]
    pub(crate) fn time_to_next_timer(&self) -> Option<Duration> {
        if self.wheel.is_empty() {
            return None;
        }
        let tick = self.wheel.next_tick()?;
        Some(Duration::from_millis(tick).saturating_sub(self.since_epoch()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::config::Config;
    use crate::engine::OUT_LEN_BASE;
    use crate::memory::Buf;
    use crate::os::sim::World;

    const MS: Duration = Duration::from_millis(1);

    /// An engine whose clock is the test's.
    struct Scripted {
        engine: Engine,
        epoch: Instant,
    }

    impl Scripted {
        fn new() -> Self {
            let engine = Engine::new(Config::default(), World::current().os()).expect("an engine");
            let epoch = engine.now;
            Self { engine, epoch }
        }

        /// The timers of a turn that begins so long after the epoch.
        fn turn(&mut self, at: Duration) -> Vec<(TimerId, u64)> {
            self.engine.set_now(self.epoch + at);
            self.engine.note_due_timers();
            let due = std::iter::from_fn(|| self.engine.next_due());
            due.map(|(id, task)| match task {
                Task::User { key } => (id, key),
                other => panic!("{other:?}"),
            })
            .collect()
        }
    }

    /// A small generator of numbers, seeded, so that a failure repeats.
    fn random(state: &mut u64, bound: u64) -> u64 {
        *state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963);
        (*state >> 20) % bound
    }

    /// How late each of 20,000 timers was, in turns that come when they do, up to 5 ms apart: a
    /// histogram that begins at zero and ends at a tick and a turn.
    #[test]
    fn no_timer_is_early_and_none_is_later_than_a_tick_and_a_turn() {
        const TURN_US: u64 = 5000;
        let mut state = 7;
        let mut scripted = Scripted::new();
        let (mut now, mut deadlines) = (Duration::ZERO, Vec::new());
        let mut late_us = Vec::new();
        while late_us.len() < 20_000 {
            for _ in 0..random(&mut state, 30) {
                let spread = 1 << random(&mut state, 32);
                let after = Duration::from_nanos(random(&mut state, spread));
                scripted.engine.set_timer(after, deadlines.len() as u64);
                deadlines.push(now + after);
            }
            now += Duration::from_micros(random(&mut state, TURN_US));
            for (_, key) in scripted.turn(now) {
                let deadline = deadlines[usize::try_from(key).expect("an index")];
                assert!(now >= deadline, "{:?} early", deadline - now);
                late_us.push((now - deadline).as_micros());
            }
        }
        late_us.sort_unstable();
        let turn_and_tick = u128::from(TURN_US) + 1000;
        assert!(*late_us.last().expect("some fired") <= turn_and_tick);
        let below_turn = late_us.partition_point(|late| *late <= u128::from(TURN_US));
        assert!(
            below_turn > 19_000,
            "few need the tick's rounding: {below_turn}"
        );
    }

    /// Periods that are no whole number of ticks, in turns that come late: each firing belongs to
    /// one deadline of the grid that the first one began, and is never before it.
    #[test]
    fn an_interval_keeps_to_its_grid_for_hours() {
        for period in [1500, 3333, 7000, 99_999].map(Duration::from_micros) {
            let mut state = 11;
            let mut scripted = Scripted::new();
            let id = scripted.engine.set_interval(period, 5);
            let (mut now, mut last) = (Duration::ZERO, 0);
            while now < Duration::from_secs(3600) {
                // Most turns are when the wheel asks for them, some much later.
                let wait = scripted.engine.time_to_next_timer().expect("it is set");
                now += wait;
                if random(&mut state, 10) == 0 {
                    now += Duration::from_micros(random(&mut state, 10_000_000));
                }
                for fired in scripted.turn(now) {
                    assert_eq!(fired, (id, 5));
                    let reached = now.as_nanos() / period.as_nanos();
                    assert!(reached > last, "fired twice for one deadline, or early");
                    last = reached;
                }
                let next = u32::try_from(last + 1).expect("an hour has fewer");
                assert!(now < period * next + MS, "it drifts: firing {next} is late");
            }
            assert!(scripted.engine.cancel_timer(id));
            assert!(scripted.engine.intervals.is_empty());
        }
    }

    #[test]
    fn an_interval_of_less_than_a_millisecond_fires_once_in_each() {
        for period in [0, 1, 300_000, 999_999].map(Duration::from_nanos) {
            let mut scripted = Scripted::new();
            let id = scripted.engine.set_interval(period, 5);
            for millis in 1..=20 {
                let quarters = (0..4).map(|quarter| millis * MS + quarter * MS / 4);
                let fired: Vec<_> = quarters.flat_map(|now| scripted.turn(now)).collect();
                assert_eq!(fired, [(id, 5)], "of {period:?} in millisecond {millis}");
            }
        }
    }

    #[test]
    fn the_shortest_and_the_longest_delays_are_kept() {
        let day = Duration::from_secs(86_400);
        let delays = [
            Duration::ZERO,
            Duration::from_nanos(1),
            25 * day,
            50 * day,
            Duration::MAX,
        ];
        let mut scripted = Scripted::new();
        scripted.turn(10 * MS);
        for (key, delay) in (0..).zip(delays) {
            scripted.engine.set_timer(delay, key);
            scripted.engine.set_interval(delay, 10 + key);
        }
        assert_eq!(scripted.turn(10 * MS), [], "not in the turn that set them");
        let keys = |fired: Vec<(TimerId, u64)>| {
            let mut keys: Vec<_> = fired.into_iter().map(|(_, key)| key).collect();
            keys.sort_unstable();
            keys
        };
        assert_eq!(keys(scripted.turn(11 * MS)), [0, 1, 10, 11]);
        for (days, key) in [(25, 2), (50, 3)] {
            let at = 10 * MS + days * day;
            let quick = [10, 11];
            assert_eq!(keys(scripted.turn(at - MS)).len(), 2, "{quick:?} only");
            let fired = keys(scripted.turn(at));
            assert!(fired.contains(&key) && fired.contains(&(10 + key)));
        }
        // No clock gets to the end of time; the timer that is set there is none that is due.
        assert!(!keys(scripted.turn(1_000_000 * day)).contains(&4));
    }

    /// It would be looked for where the wheel was left, turn after turn.
    #[test]
    fn the_first_timer_after_a_long_time_is_waited_for_at_once() {
        let mut scripted = Scripted::new();
        for hour in 1..5 {
            let now = Duration::from_secs(3600 * hour) + 7 * MS;
            scripted.engine.set_now(scripted.epoch + now);
            let id = match hour % 2 {
                0 => scripted.engine.set_timer(5 * MS, hour),
                _ => scripted.engine.set_interval(5 * MS, hour),
            };
            assert_eq!(scripted.engine.time_to_next_timer(), Some(5 * MS));
            assert_eq!(scripted.turn(now + 5 * MS), [(id, hour)]);
            scripted.engine.cancel_timer(id);
        }
    }

    #[test]
    fn a_timer_that_is_set_anew_fires_then_and_only_then() {
        let mut scripted = Scripted::new();
        let id = scripted.engine.set_timer(10 * MS, 1);
        assert!(scripted.engine.reset_timer(id, 500 * MS), "later");
        assert_eq!(scripted.turn(499 * MS), []);
        assert!(scripted.engine.reset_timer(id, 20 * MS), "later once more");
        assert!(scripted.engine.reset_timer(id, 5 * MS), "and earlier again");
        assert_eq!(scripted.turn(503 * MS), []);
        assert_eq!(scripted.turn(504 * MS), [(id, 1)]);
        assert!(!scripted.engine.reset_timer(id, MS), "it has ended");

        let id = scripted.engine.set_interval(10 * MS, 2);
        assert_eq!(scripted.turn(514 * MS), [(id, 2)]);
        assert!(scripted.engine.reset_timer(id, 3 * MS));
        assert_eq!(scripted.turn(517 * MS), [(id, 2)]);
        assert_eq!(scripted.turn(526 * MS), []);
        assert_eq!(scripted.turn(527 * MS), [(id, 2)], "a period after that");
        assert!(scripted.engine.cancel_timer(id));
        assert!(!scripted.engine.reset_timer(id, MS));
    }

    /// As for an idle timeout that each packet puts off.
    #[test]
    fn a_timer_that_is_put_off_by_every_packet_moves_a_few_times_only() {
        let mut scripted = Scripted::new();
        let id = scripted.engine.set_timer(1000 * MS, 1);
        let mut turns = 0;
        for packet in 1..=100_000_u64 {
            let now = Duration::from_micros(100 * packet);
            scripted.engine.set_now(scripted.epoch + now);
            if scripted.engine.time_to_next_timer() == Some(Duration::ZERO) {
                turns += 1;
                assert_eq!(scripted.turn(now), []);
            }
            assert!(scripted.engine.reset_timer(id, 1000 * MS));
        }
        assert!(turns <= 30, "the wheel asked for {turns} turns in 10 s");
        assert_eq!(scripted.turn(Duration::from_millis(10_999)), []);
        assert_eq!(scripted.turn(Duration::from_millis(11_000)), [(id, 1)]);
    }

    #[test]
    fn what_a_burst_needed_is_given_back_in_a_few_seconds_and_no_timer_stays() {
        let Scripted { mut engine, epoch } = Scripted::new();
        let held: Vec<_> = (0..1000).map(|_| engine.pool.take(64 * 1024)).collect();
        held.into_iter().for_each(|buf| engine.pool.put(buf));
        let base = engine.config.pool_bytes_max;
        assert!(engine.pool.is_over_base());
        engine.out = Buf::with_capacity(4 * OUT_LEN_BASE);
        for _ in 0..3 {
            engine.arm_trim(false);
            assert_eq!(engine.wheel.len(), 1, "one, however many turns there are");
        }
        while let Some(wait) = engine.time_to_next_timer() {
            let now = engine.since_epoch() + wait;
            assert!(now <= Duration::from_secs(5));
            engine.set_now(epoch + now);
            engine.note_due_timers();
            while let Some((_, task)) = engine.next_due() {
                assert_eq!(task, Task::Trim);
                engine.trim();
            }
            engine.arm_trim(false);
        }
        assert!(engine.pool.free_bytes() <= base, "of {base} bytes");
        assert_eq!(engine.out.capacity(), OUT_LEN_BASE);
    }
}
