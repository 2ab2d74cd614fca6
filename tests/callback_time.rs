//! Time in callbacks, measured where somebody asks for it.

mod common;

use std::time::Duration;

use common::{DEADLINE, Event, Probe, deposit, idle, listening, open};
use unstick::{Config, Framing, Reactor};

const STEP: Duration = Duration::from_millis(5);

/// Three lines to a handler that takes five milliseconds for each.
fn serve_three(slow_callback_min: Option<Duration>) -> Reactor<Probe> {
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
fn callbacks_are_not_measured_unless_asked_for() {
    let stats = serve_three(None).stats();
    assert_eq!(
        (stats.callback_time, stats.slow_callbacks),
        (Duration::ZERO, 0)
    );
}

#[test]
fn the_time_of_all_callbacks_is_added_up_and_the_slow_ones_are_counted() {
    let stats = serve_three(Some(STEP)).stats();
    assert!(stats.callback_time >= 3 * STEP, "{stats:?}");
    // Others may be slow too, on a machine that does something else meanwhile.
    assert!(stats.slow_callbacks >= 3, "{stats:?}");
}

#[test]
fn each_callback_is_measured_by_itself() {
    let stats = serve_three(Some(Duration::ZERO)).stats();
    // on_open, three times on_frame, on_close and on_timer.
    assert_eq!(stats.slow_callbacks, 6, "{stats:?}");
    let stats = serve_three(Some(DEADLINE)).stats();
    assert_eq!(stats.slow_callbacks, 0, "{stats:?}");
    assert!(stats.callback_time >= 3 * STEP, "{stats:?}");
}
