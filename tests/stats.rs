//! Counters of the reactor and of single connections.

mod common;

use std::time::Duration;

use common::{Event, Probe, deposit, idle, listening, open};
use unstick::{Config, Framing, Gone};

#[test]
fn conn_stats_count_reads_and_undecoded_bytes() {
    let (mut reactor, addr) = listening(Probe::silent(), Config::default(), Framing::line());
    let (mut glued, one) = open(&mut reactor, addr);
    let (mut cut, other) = open(&mut reactor, addr);
    let [before, _] = [one, other].map(|conn| {
        let stats = reactor.with(|_, cx| cx.conn_stats(conn).expect("the connection is open"));
        assert_eq!(stats.read_bytes, 0);
        assert_eq!(stats.frames_per_read().to_bits(), 0.0_f64.to_bits());
        stats.reads
    });
    deposit(&mut reactor, &mut glued, one, b"1\n2\n3\n4\n5\n6\nhalf");
    idle(&mut reactor);
    for part in [b"in ", b"fou", b"r p", b"ar\n"] {
        deposit(&mut reactor, &mut cut, other, part);
        idle(&mut reactor);
    }
    reactor.with(|_, cx| {
        let stats = cx.conn_stats(one).expect("the connection is open");
        assert_eq!((stats.frames_in, stats.read_bytes), (6, 16));
        let reads = stats.reads - before;
        assert!(
            (1..=2).contains(&reads),
            "{reads} reads, instead of one for all bytes and at most one that would block"
        );
        assert!(stats.frames_per_read() >= 2.0, "{stats:?}");
        assert_eq!(cx.undecoded_bytes(one), Ok(4));

        let stats = cx.conn_stats(other).expect("the connection is open");
        assert_eq!((stats.frames_in, stats.read_bytes), (1, 12));
        assert!(stats.reads_per_frame() >= 4.0, "{stats:?}");
        assert_eq!(cx.undecoded_bytes(other), Ok(0));

        let both = [one, other].map(|conn| cx.conn_stats(conn).map_or(0, |stats| stats.reads));
        assert_eq!(cx.stats().reads, both.iter().sum());
        cx.abort(other);
    });
    idle(&mut reactor);
    let closes = reactor.handler().closes();
    let [(_, closed)] = &closes[..] else {
        panic!("one close is expected: {closes:?}");
    };
    assert!(closed.stats.reads >= 4, "{closed:?}");
    reactor.with(|_, cx| assert_eq!(cx.undecoded_bytes(other), Err(Gone)));
}

#[test]
fn paused_connection_reports_undecoded_bytes() {
    let probe = Probe::new(|cx, event| {
        if let Event::Frame(conn, _) = event {
            cx.pause(*conn).expect("the connection is open");
        }
    });
    let (mut reactor, addr) = listening(probe, Config::default(), Framing::line());
    let (mut client, conn) = open(&mut reactor, addr);
    deposit(&mut reactor, &mut client, conn, b"1\n22\n333\n");
    for left in [7, 4, 0] {
        idle(&mut reactor);
        reactor.with(|_, cx| {
            assert_eq!(cx.undecoded_bytes(conn), Ok(left));
            cx.resume(conn).expect("the connection is open");
        });
    }
}

/// The connections of the second round reuse the slab keys of the first round. The new connections
/// must not keep the callback time of the first connections.
#[test]
fn callback_time_is_counted_for_each_connection() {
    const STEP: Duration = Duration::from_millis(5);
    let probe = Probe::new(|_, event| {
        if matches!(event, Event::Frame(_, frame) if frame == b"slow") {
            common::let_pass(STEP);
        }
    });
    let mut config = Config::default();
    config.slow_callback_min = Some(STEP);
    let (mut reactor, addr) = listening(probe, config, Framing::line());
    for round in 1..=2 {
        let (mut slow, one) = open(&mut reactor, addr);
        let (_quiet, other) = open(&mut reactor, addr);
        let quiet_at_first =
            reactor.with(|_, cx| cx.conn_stats(other).expect("the connection is open"));
        deposit(&mut reactor, &mut slow, one, b"slow\nslow\n");
        idle(&mut reactor);
        reactor.with(|_, cx| {
            let stats =
                [one, other].map(|conn| cx.conn_stats(conn).expect("the connection is open"));
            assert!(stats[0].callback_time >= 2 * STEP, "{stats:?}");
            assert_eq!(stats[1].callback_time, quiet_at_first.callback_time);
            let both = stats[0].callback_time + stats[1].callback_time;
            if round == 1 {
                assert_eq!(cx.stats().callback_time, both);
            } else {
                assert!(cx.stats().callback_time >= both + 2 * STEP, "{both:?}");
            }
            cx.abort(one);
            cx.abort(other);
        });
        idle(&mut reactor);
        let closes = reactor.handler().closes();
        let (_, closed) = closes
            .iter()
            .rfind(|(conn, _)| *conn == one)
            .expect("the connection is closed");
        assert!(closed.stats.callback_time >= 2 * STEP, "{closed:?}");
    }
}

#[test]
fn callback_time_starts_at_zero_for_a_reused_key() {
    let probe = Probe::new(|_, event| {
        if matches!(event, Event::Frame(..)) {
            common::let_pass(Duration::from_millis(200));
        }
    });
    let mut config = Config::default();
    config.slow_callback_min = Some(Duration::ZERO);
    let (mut reactor, addr) = listening(probe, config, Framing::line());
    let (mut client, first) = open(&mut reactor, addr);
    deposit(&mut reactor, &mut client, first, b"slow\n");
    idle(&mut reactor);
    let of_first = reactor.with(|_, cx| {
        cx.abort(first);
        cx.conn_stats(first)
            .expect("the connection is open")
            .callback_time
    });
    idle(&mut reactor);
    let in_all = reactor.stats().callback_time;
    let (_client, next) = open(&mut reactor, addr);
    let of_next = reactor.with(|_, cx| {
        cx.conn_stats(next)
            .expect("the connection is open")
            .callback_time
    });
    assert_eq!(of_next, reactor.stats().callback_time - in_all);
    assert!(of_first >= Duration::from_millis(200));
}

#[test]
fn timer_count_follows_set_fire_and_cancel() {
    let (mut reactor, _) = listening(Probe::silent(), Config::default(), Framing::raw());
    let minute = Duration::from_secs(60);
    let [one, other] = reactor.with(|_, cx| {
        assert_eq!(cx.stats().timers, 0);
        let timers = [cx.set_timer(minute, 1), cx.set_interval(minute, 2)];
        cx.set_timer(Duration::ZERO, 3);
        assert_eq!(cx.stats().timers, 3);
        timers
    });
    common::drive(&mut reactor, |reactor| reactor.stats().timers == 2);
    reactor.with(|_, cx| {
        assert!(cx.reset_timer(one, 2 * minute));
        assert_eq!(cx.stats().timers, 2);
        assert!(cx.cancel_timer(one) && cx.cancel_timer(other));
        assert_eq!(cx.stats().timers, 0);
    });
}

#[test]
fn ready_counts_entries_that_used_up_their_budget() {
    let mut config = Config::default();
    config.frame_budget = 2;
    let (mut reactor, addr) = listening(Probe::silent(), config, Framing::line());
    let (mut client, conn) = open(&mut reactor, addr);
    deposit(&mut reactor, &mut client, conn, b"1\n2\n3\n4\n5\n6\n7\n");
    idle(&mut reactor);
    assert_eq!(reactor.stats().ready, 0);
    assert_eq!(reactor.handler().frames().len(), 7);
    deposit(&mut reactor, &mut client, conn, b"1\n2\n3\n4\n5\n6\n7\n");
    common::drive(&mut reactor, |reactor| reactor.handler().frames().len() > 7);
    assert_eq!(
        (reactor.handler().frames().len(), reactor.stats().ready),
        (9, 1)
    );
}
