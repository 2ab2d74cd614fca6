//! Marks and timeouts of single connections.

mod common;

use std::io::ErrorKind;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use common::{Event, Probe, client, drive, frame, idle, listening, open, open_narrow, read_slowly};
use common::{deposit, read_u32_frame};
use unstick::{CloseReason, Config, ConnId, Framing, Limits, Reactor, SendError, Sent};

const TIMEOUT: Duration = Duration::from_millis(200);

/// Changes one connection's limits.
fn set(reactor: &mut Reactor<Probe>, conn: ConnId, change: impl FnOnce(&mut Limits)) {
    reactor.with(|_, cx| {
        let mut limits = cx.limits(conn).expect("it is open");
        change(&mut limits);
        cx.set_limits(conn, limits).expect("they are sound");
        assert_eq!(cx.limits(conn), Ok(limits));
    });
}

fn closes(reactor: &Reactor<Probe>) -> Vec<(ConnId, &CloseReason)> {
    let closes = reactor.handler().closes().into_iter();
    closes
        .map(|(conn, closed)| (conn, &closed.reason))
        .collect()
}

/// Until the peer of one connection is told of its end, and ends too: the close waits for that.
fn drive_to_fin(reactor: &mut Reactor<Probe>, client: TcpStream) {
    client.set_nonblocking(true).expect("it can be set");
    drive(reactor, |_| client.peek(&mut [0]).is_ok());
    drop(client);
    drive(reactor, |reactor| reactor.stats().closed == 1);
}

fn drive_until(reactor: &mut Reactor<Probe>, end: Instant) {
    drive(reactor, |_| Instant::now() > end);
}

#[test]
fn a_connection_may_have_an_idle_timeout_where_the_others_have_none() {
    let (mut reactor, addr) = listening(Probe::silent(), Config::default(), Framing::length_u32());
    let (_other, _) = open(&mut reactor, addr);
    let (client, conn) = open(&mut reactor, addr);
    let before = Instant::now();
    set(&mut reactor, conn, |limits| {
        limits.idle_timeout = Some(TIMEOUT)
    });
    drive_to_fin(&mut reactor, client);
    assert!(before.elapsed() >= TIMEOUT, "it was closed early");
    let closes = closes(&reactor);
    assert!(matches!(closes[..], [(closed, CloseReason::IdleTimeout)] if closed == conn));
}

#[test]
fn a_connection_may_do_without_the_timeout_that_the_others_have() {
    let mut config = Config::default();
    config.idle_timeout = Some(TIMEOUT);
    let (mut reactor, addr) = listening(Probe::echo(), config, Framing::length_u32());
    let (leaving, other) = open(&mut reactor, addr);
    let (mut client, conn) = open(&mut reactor, addr);
    set(&mut reactor, conn, |limits| limits.idle_timeout = None);
    drive_to_fin(&mut reactor, leaving);
    drive_until(&mut reactor, Instant::now() + 3 * TIMEOUT);
    let closes = closes(&reactor);
    assert!(matches!(closes[..], [(closed, CloseReason::IdleTimeout)] if closed == other));
    deposit(&mut reactor, &mut client, conn, &frame("u32", b"alive"));
    idle(&mut reactor);
    assert_eq!(read_u32_frame(&mut client), b"alive");
}

/// The last change holds, and counts from its moment: nothing is left of the one before.
#[test]
fn a_timeout_that_is_set_again_counts_anew() {
    let (mut reactor, addr) = listening(Probe::silent(), Config::default(), Framing::length_u32());
    let (client, conn) = open(&mut reactor, addr);
    set(&mut reactor, conn, |limits| {
        limits.idle_timeout = Some(TIMEOUT)
    });
    drive_until(&mut reactor, Instant::now() + TIMEOUT / 2);
    let before = Instant::now();
    set(&mut reactor, conn, |limits| {
        limits.idle_timeout = Some(2 * TIMEOUT)
    });
    drive_to_fin(&mut reactor, client);
    assert!(before.elapsed() >= 2 * TIMEOUT, "it was closed early");
}

#[test]
fn a_frame_deadline_of_its_own_ends_a_connection_that_trickles() {
    let (mut reactor, addr) = listening(Probe::silent(), Config::default(), Framing::length_u32());
    let (mut client, conn) = open(&mut reactor, addr);
    // The frame began long before anybody asked for the time.
    deposit(&mut reactor, &mut client, conn, &[0, 0, 0, 9, 1]);
    idle(&mut reactor);
    let before = Instant::now();
    set(&mut reactor, conn, |limits| {
        limits.frame_deadline = Some(TIMEOUT)
    });
    drive_to_fin(&mut reactor, client);
    assert!(before.elapsed() >= TIMEOUT, "it was closed early");
    assert!(matches!(closes(&reactor)[0].1, CloseReason::FrameDeadline));
}

#[test]
fn a_write_stall_timeout_of_its_own_aborts_one_that_does_not_read() {
    let (mut reactor, addr) = listening(Probe::silent(), Config::default(), Framing::length_u32());
    let (_client, conn) = open_narrow(&mut reactor, addr);
    reactor.with(|_, cx| {
        for _ in 0..10 {
            assert!(cx.send(conn, &vec![7; 1 << 20]).is_ok());
        }
    });
    idle(&mut reactor);
    set(&mut reactor, conn, |limits| {
        limits.write_stall_timeout = Some(TIMEOUT)
    });
    drive(&mut reactor, |reactor| reactor.stats().closed == 1);
    assert!(matches!(closes(&reactor)[0].1, CloseReason::WriteStalled));
}

/// Its entry is still there, so that they are accepted; but it is watched no more.
#[test]
fn limits_set_in_on_close_leave_no_timer_behind() {
    let probe = Probe::new(|cx, event| {
        if let Event::Close(conn, _) = event {
            let mut limits = cx.limits(*conn).expect("it is there until this returns");
            limits.idle_timeout = Some(TIMEOUT);
            cx.set_limits(*conn, limits).expect("they are sound");
        }
    });
    let (mut reactor, addr) = listening(probe, Config::default(), Framing::length_u32());
    let (_client, conn) = open(&mut reactor, addr);
    reactor.with(|_, cx| cx.abort(conn));
    idle(&mut reactor);
    assert_eq!(closes(&reactor).len(), 1);
    assert_eq!(reactor.next_turn_in(), None, "nothing is left to be done");
}

#[test]
fn limits_set_while_connecting_hold_once_it_is_open() {
    let (held, addr) = common::silent();
    let mut reactor = Reactor::new(Probe::silent()).expect("a reactor");
    let pending = reactor.connect(addr, Framing::line(), ());
    set(&mut reactor, pending, |limits| {
        limits.idle_timeout = Some(TIMEOUT)
    });
    drive_until(&mut reactor, Instant::now() + 2 * TIMEOUT);
    assert!(
        closes(&reactor).is_empty(),
        "a connect has its own deadline"
    );
    drop(held);

    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = listener.local_addr().expect("it is bound");
    let conn = reactor.connect(addr, Framing::line(), ());
    set(&mut reactor, conn, |limits| {
        limits.idle_timeout = Some(TIMEOUT)
    });
    let (server, _) = listener.accept().expect("it connects");
    drive_to_fin(&mut reactor, server);
    let closes = closes(&reactor);
    assert!(matches!(closes[..], [(closed, CloseReason::IdleTimeout)] if closed == conn));
}

/// Sends 1,000 bytes at a time until it is answered something else than `Queued`.
fn send_on(reactor: &mut Reactor<Probe>, conn: ConnId) -> (usize, Result<Sent, SendError>) {
    reactor.with(|_, cx| {
        let mut count = 0;
        loop {
            match cx.send(conn, &[7; 996]) {
                Ok(Sent::Queued) => count += 1,
                other => return (count, other),
            }
        }
    })
}

#[test]
fn marks_of_its_own_hold_for_a_connection_and_no_other() {
    let (mut reactor, addr) = listening(Probe::silent(), Config::default(), Framing::length_u32());
    let (mut client, conn) = open(&mut reactor, addr);
    let (_other, other) = open(&mut reactor, addr);
    set(&mut reactor, conn, |limits| {
        limits.write_low_bytes = 2_000;
        limits.write_high_bytes = 5_000;
        limits.write_queue_bytes_max = 7_000;
    });
    let (count, answer) = send_on(&mut reactor, conn);
    assert!(matches!((count, answer), (5, Ok(Sent::AboveHigh))));
    let refused = reactor.with(|_, cx| {
        let _ = cx.send(conn, &[7; 996]);
        cx.send(conn, &[7; 996])
    });
    assert!(matches!(refused, Err(SendError::Full)), "{refused:?}");
    assert!(send_on(&mut reactor, other).0 > 100);
    let bytes = read_slowly(&mut reactor, &mut client, 7_000);
    assert_eq!(bytes.len(), 7_000);
    let told = reactor
        .handler()
        .count(|event| matches!(event, Event::Drained(drained) if *drained == conn));
    assert_eq!(told, 1);
}

/// The same from within `on_frame`, where output is gathered before it is written.
#[test]
fn marks_of_its_own_hold_for_answers_too_and_stop_the_reading() {
    let probe = Probe::new(|cx, event| match event {
        Event::Open(conn, _) => {
            let mut limits = cx.limits(*conn).expect("it is open");
            limits.write_low_bytes = 0;
            limits.write_high_bytes = 1_000;
            cx.set_limits(*conn, limits).expect("they are sound");
        }
        Event::Frame(conn, frame) => {
            assert!(matches!(cx.send(*conn, frame), Ok(Sent::AboveHigh)));
        }
        _ => {}
    });
    let (mut reactor, addr) = listening(probe, Config::default(), Framing::length_u32());
    let mut client = client(addr);
    for round in 0..3 {
        let question = frame("u32", &[round; 2_000]);
        std::io::Write::write_all(&mut client, &question).expect("it is taken");
    }
    drive(&mut reactor, |reactor| reactor.stats().frames_in == 3);
    for round in 0..3 {
        assert_eq!(read_u32_frame(&mut client), [round; 2_000]);
    }
    let told = |event: &Event| matches!(event, Event::Drained(_));
    drive(&mut reactor, |reactor| reactor.handler().count(told) == 3);
}

#[test]
fn limits_that_contradict_each_other_change_nothing() {
    let (mut reactor, addr) = listening(Probe::silent(), Config::default(), Framing::length_u32());
    let (_client, conn) = open(&mut reactor, addr);
    reactor.with(|_, cx| {
        let before = cx.limits(conn).expect("it is open");
        let mut limits = before;
        limits.write_low_bytes = limits.write_high_bytes + 1;
        let error = cx.set_limits(conn, limits).expect_err("nonsense");
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert_eq!(cx.limits(conn), Ok(before));
        cx.abort(conn);
    });
    idle(&mut reactor);
    reactor.with(|_, cx| assert!(cx.limits(conn).is_err(), "it is gone"));
}
