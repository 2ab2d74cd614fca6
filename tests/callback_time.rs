//! Callback time, which is measured only if `Config::slow_callback_min` is set.

mod common;

use std::time::Duration;

use common::{DEADLINE, Event, Probe, deposit, idle, listening, open};
use unstick::{Config, Framing, Reactor};

/// Time that the handler takes for each frame.
const STEP: Duration = Duration::from_millis(5);

/// Delivers three frames to a handler that sleeps for [`STEP`] in each `on_frame`. Then aborts the
/// connection, and lets a timer fire.
fn run_three_frames(slow_callback_min: Option<Duration>) -> Reactor<Probe> {
    let probe = Probe::new(|_, event| {
        if matches!(event, Event::Frame(..)) {
            common::let_pass(STEP);
        }
    });
    let mut config = Config::default();
    config.slow_callback_min = slow_callback_min;
    let (mut reactor, addr) = listening(probe, config, Framing::line());
    let (mut client, conn) = open(&mut reactor, addr);
    deposit(&mut reactor, &mut client, conn, b"1\n2\n3\n");
    idle(&mut reactor);
    assert_eq!(reactor.handler().frames(), [b"1", b"2", b"3"]);
    reactor.with(|_, cx| {
        cx.set_timer(Duration::ZERO, 1);
        cx.abort(conn);
    });
    idle(&mut reactor);
    let fired = |event: &Event| matches!(event, Event::Timer(..));
    common::drive(&mut reactor, |reactor| reactor.handler().count(fired) == 1);
    reactor
}

#[test]
fn callback_time_is_not_measured_by_default() {
    let stats = run_three_frames(None).stats();
    assert_eq!(
        (stats.callback_time, stats.slow_callbacks),
        (Duration::ZERO, 0)
    );
}

#[test]
fn callback_time_is_summed_and_slow_callbacks_are_counted() {
    let stats = run_three_frames(Some(STEP)).stats();
    assert!(stats.callback_time >= 3 * STEP, "{stats:?}");
    // On a busy machine, other callbacks can be slow too, so the count can exceed 3.
    assert!(stats.slow_callbacks >= 3, "{stats:?}");
}

#[test]
fn slow_callback_min_applies_to_each_callback_alone() {
    let stats = run_three_frames(Some(Duration::ZERO)).stats();
    // The six callbacks are `on_open`, three times `on_frame`, `on_close` and `on_timer`.
    assert_eq!(stats.slow_callbacks, 6, "{stats:?}");
    let stats = run_three_frames(Some(DEADLINE)).stats();
    assert_eq!(stats.slow_callbacks, 0, "{stats:?}");
    assert!(stats.callback_time >= 3 * STEP, "{stats:?}");
}
