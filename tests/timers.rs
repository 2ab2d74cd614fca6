//! Timers never fire early, and never fire after they were cancelled.

mod common;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use common::{Event, Probe, Random, drive, listening};
use unstick::{Config, ConnId, Context, Framing, Handler, Reactor, TimerId};

/// Records each timer that fires.
#[derive(Default)]
struct Alarm {
    fired: Vec<(TimerId, u64, Instant)>,
    /// Number of firings that are left before the handler cancels the interval with key 0.
    interval_left: usize,
    /// Timers with key 1. The timer that fires first cancels the other one.
    pair: Vec<TimerId>,
}

impl Handler for Alarm {
    type Session = ();

    fn on_frame(&mut self, _: &mut Context<'_, Self>, _: ConnId, _: &mut (), _: &[u8]) {}

    fn on_timer(&mut self, cx: &mut Context<'_, Self>, timer: TimerId, key: u64) {
        self.fired.push((timer, key, Instant::now()));
        if key == 0 {
            self.interval_left -= 1;
            if self.interval_left == 0 {
                assert!(
                    cx.cancel_timer(timer),
                    "an interval exists until it is cancelled"
                );
            }
        }
        for other in self
            .pair
            .drain(..)
            .filter(|other| key == 1 && *other != timer)
        {
            assert!(
                cx.cancel_timer(other),
                "the other timer is due but has not fired"
            );
            assert!(
                !cx.cancel_timer(other),
                "a cancelled timer no longer exists"
            );
        }
    }
}

fn alarm() -> Reactor<Alarm> {
    Reactor::new(Alarm::default()).expect("the reactor is created")
}

#[test]
fn timer_fires_once_and_never_early() {
    let seed = 9;
    println!("seed {seed}");
    let mut random = Random(seed);
    let mut reactor = alarm();
    let mut set = HashMap::new();
    for key in 100..200 {
        let after = Duration::from_micros(random.below(50_000) as u64);
        let (timer, from) = reactor.with(|_, cx| (cx.set_timer(after, key), cx.now()));
        set.insert(timer, (key, from + after));
    }
    drive(&mut reactor, |reactor| reactor.handler().fired.len() >= 100);
    reactor
        .turn(Some(Duration::from_millis(60)))
        .expect("polling succeeds");
    let fired = &reactor.handler().fired;
    assert_eq!(fired.len(), 100);
    for (timer, key, at) in fired {
        let (expected_key, due) = set.remove(timer).expect("each timer fires once");
        assert_eq!(*key, expected_key);
        assert!(*at >= due, "{:?} early", due - *at);
    }
    let gone = fired[0].0;
    assert!(!reactor.with(|_, cx| cx.cancel_timer(gone)));
}

#[test]
fn interval_fires_until_cancelled_and_never_early() {
    const PERIOD: Duration = Duration::from_millis(3);
    let mut reactor = alarm();
    reactor.handler_mut().interval_left = 20;
    let (timer, from) = reactor.with(|_, cx| (cx.set_interval(PERIOD, 0), cx.now()));
    drive(&mut reactor, |reactor| reactor.handler().interval_left == 0);
    let turns = reactor.stats().turns;
    reactor.turn(Some(10 * PERIOD)).expect("polling succeeds");
    assert_eq!(reactor.stats().turns, turns + 1);
    let fired = &reactor.handler().fired;
    assert_eq!(fired.len(), 20, "a cancelled interval does not fire");
    for (index, (id, key, at)) in (1..).zip(fired) {
        assert_eq!((*id, *key), (timer, 0));
        assert!(*at >= from + PERIOD * index, "firing {index} was early");
    }
    assert!(!reactor.with(|_, cx| cx.cancel_timer(timer)));
}

#[test]
fn cancelled_timer_never_fires_even_if_due() {
    let mut reactor = alarm();
    let after = Duration::from_millis(5);
    let cancelled = reactor.with(|_, cx| cx.set_timer(after, 2));
    assert!(reactor.with(|_, cx| cx.cancel_timer(cancelled)));
    assert!(!reactor.with(|_, cx| cx.cancel_timer(cancelled)));

    let last = reactor.with(|alarm, cx| {
        alarm.pair = vec![cx.set_timer(after, 1), cx.set_timer(after, 1)];
        cx.set_timer(4 * after, 3)
    });
    drive(&mut reactor, |reactor| {
        reactor.handler().fired.iter().any(|(id, ..)| *id == last)
    });
    let fired = reactor.handler().fired.iter();
    let keys: Vec<_> = fired.map(|(_, key, _)| *key).collect();
    assert_eq!(keys, [1, 3]);
}

/// The timer becomes due while the program takes no turn. The next turn must not wait again.
#[test]
fn overdue_timer_fires_at_once_in_the_next_turn() {
    let mut reactor = alarm();
    let after = Duration::from_secs(1);
    reactor.with(|_, cx| cx.set_timer(after, 2));
    common::let_pass(after);
    let started = Instant::now();
    while reactor.handler().fired.is_empty() {
        reactor.turn(None).expect("polling succeeds");
    }
    assert!(
        started.elapsed() < after / 2,
        "the timer fired {:?} later",
        started.elapsed()
    );
}

/// A timer that sets a new timer without delay each time it fires.
#[test]
fn timer_that_sets_itself_fires_at_most_once_a_turn() {
    let probe = Probe::new(|cx, event| match event {
        Event::Timer(..) => {
            cx.set_timer(Duration::ZERO, 7);
        }
        Event::Frame(conn, frame) => drop(cx.send(*conn, frame)),
        _ => {}
    });
    assert_timers_do_not_block_frames(probe, Config::default(), |reactor| {
        reactor.with(|_, cx| cx.set_timer(Duration::ZERO, 7));
        1
    });
}

/// More timers are due in every turn than the budget allows.
#[test]
fn timer_budget_spreads_timers_over_turns() {
    const STORM: u64 = 5000;
    let mut config = Config::default();
    config.timer_budget = 10;
    let probe = Probe::new(|cx, event| match event {
        Event::Timer(_, key) => {
            cx.set_timer(Duration::from_nanos(1), *key);
        }
        Event::Frame(conn, frame) => drop(cx.send(*conn, frame)),
        _ => {}
    });
    assert_timers_do_not_block_frames(probe, config, |reactor| {
        reactor.with(|_, cx| {
            for key in 0..STORM {
                cx.set_timer(Duration::ZERO, key);
            }
        });
        10
    });
}

/// Sets timers with `begin`, which returns the maximum number of timers that a turn may fire. Runs
/// turns until a client has received a hundred echoes. Checks that a turn reached the maximum, and
/// that no turn exceeded the maximum.
fn assert_timers_do_not_block_frames(
    probe: Probe,
    config: Config,
    begin: impl FnOnce(&mut Reactor<Probe>) -> usize,
) {
    let (mut reactor, addr) = listening(probe, config, Framing::length_u32());
    let fired = |reactor: &Reactor<Probe>| {
        reactor
            .handler()
            .count(|event| matches!(event, Event::Timer(..)))
    };
    let fired_max = begin(&mut reactor);
    let client = std::thread::spawn(move || {
        let mut client = common::client(addr);
        for index in 0..100_u32 {
            let payload = index.to_be_bytes();
            assert_eq!(common::round_trip(&mut client, &payload), payload);
        }
    });
    let mut most = 0;
    while !client.is_finished() {
        reactor.handler_mut().events.clear();
        reactor
            .turn(Some(Duration::ZERO))
            .expect("polling succeeds");
        most = most.max(fired(&reactor));
    }
    assert_eq!(most, fired_max, "most timers of a turn");
    client.join().expect("the client receives every echo");
}
