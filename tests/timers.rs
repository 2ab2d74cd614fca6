//! Timers: never early, and gone when they are cancelled.

mod common;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use common::{Random, drive};
use unstick::{ConnId, Context, Handler, Reactor, TimerId};

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
