//! Timers: never early, and gone when they are cancelled.

mod common;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use common::{Event, Probe, Random, drive, listening};
use unstick::{Config, ConnId, Context, Framing, Handler, Reactor, TimerId};

/// Records when timers fire. Key 0 is an interval that is cancelled after a number of times; Of a
/// pair with key 1 the one that fires cancels the other.
#[derive(Default)]
struct Alarm {
    fired: Vec<(TimerId, u64, Instant)>,
    interval_left: usize,
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
                    "an interval lives until it is cancelled"
                );
            }
        }
        for other in self
            .pair
            .drain(..)
            .filter(|other| key == 1 && *other != timer)
        {
            assert!(cx.cancel_timer(other), "it is due, and has not fired");
            assert!(!cx.cancel_timer(other), "it is gone");
        }
    }
}

fn alarm() -> Reactor<Alarm> {
    Reactor::new(Alarm::default()).expect("a reactor")
}

#[test]
fn a_timer_fires_once_and_never_early() {
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
        .expect("the poll works");
    let fired = &reactor.handler().fired;
    assert_eq!(fired.len(), 100);
    for (timer, key, at) in fired {
        let (expected_key, due) = set.remove(timer).expect("it fires once");
        assert_eq!(*key, expected_key);
        assert!(*at >= due, "{:?} early", due - *at);
    }
    let gone = fired[0].0;
    assert!(!reactor.with(|_, cx| cx.cancel_timer(gone)));
}

#[test]
fn an_interval_fires_until_it_is_cancelled_and_never_early() {
    const PERIOD: Duration = Duration::from_millis(3);
    let mut reactor = alarm();
    reactor.handler_mut().interval_left = 20;
    let (timer, from) = reactor.with(|_, cx| (cx.set_interval(PERIOD, 0), cx.now()));
    drive(&mut reactor, |reactor| reactor.handler().interval_left == 0);
    let turns = reactor.stats().turns;
    reactor.turn(Some(10 * PERIOD)).expect("the poll works");
    assert_eq!(reactor.stats().turns, turns + 1);
    let fired = &reactor.handler().fired;
    assert_eq!(fired.len(), 20, "nothing comes after the cancel");
    for (index, (id, key, at)) in (1..).zip(fired) {
        assert_eq!((*id, *key), (timer, 0));
        assert!(*at >= from + PERIOD * index, "firing {index} was early");
    }
    assert!(!reactor.with(|_, cx| cx.cancel_timer(timer)));
}

#[test]
fn a_cancelled_timer_never_fires_not_even_in_the_turn_in_which_it_is_due() {
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

/// The program was elsewhere when its timer came due. The next turn does not wait for it anew.
#[test]
fn an_overdue_timer_fires_in_the_next_turn_at_once() {
    let mut reactor = alarm();
    let after = Duration::from_secs(1);
    reactor.with(|_, cx| cx.set_timer(after, 2));
    common::let_pass(after);
    let started = Instant::now();
    while reactor.handler().fired.is_empty() {
        reactor.turn(None).expect("the poll works");
    }
    assert!(
        started.elapsed() < after / 2,
        "{:?} later",
        started.elapsed()
    );
}

/// A timer that is set anew without a delay whenever it fires, for ever.
#[test]
fn a_timer_that_sets_itself_without_delay_fires_once_a_turn_and_frames_go_on() {
    let probe = Probe::new(|cx, event| match event {
        Event::Timer(..) => {
            cx.set_timer(Duration::ZERO, 7);
        }
        Event::Frame(conn, frame) => drop(cx.send(*conn, frame)),
        _ => {}
    });
    frames_go_on_beside(probe, Config::default(), |reactor| {
        reactor.with(|_, cx| cx.set_timer(Duration::ZERO, 7));
        1
    });
}

/// More timers are due than a turn may fire, all the time.
#[test]
fn a_storm_of_timers_is_spread_over_turns_and_frames_go_on() {
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
    frames_go_on_beside(probe, config, |reactor| {
        reactor.with(|_, cx| {
            for key in 0..STORM {
                cx.set_timer(Duration::ZERO, key);
            }
        });
        10
    });
}

/// A hundred frames are echoed, and no turn fires more timers than `begin` answers.
fn frames_go_on_beside(
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
    while !client.is_finished() {
        reactor.handler_mut().events.clear();
        reactor.turn(Some(Duration::ZERO)).expect("the poll works");
        assert!(fired(&reactor) <= fired_max, "in one turn");
    }
    client.join().expect("every frame is echoed");
}
