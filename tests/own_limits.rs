//! Watermarks and timeouts of single connections (`Context::set_limits`).

mod common;

use std::io::ErrorKind;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use common::{Event, Probe, client, drive, frame, idle, listening, open, open_narrow, read_slowly};
use common::{deposit, read_u32_frame};
use unstick::{CloseReason, Config, ConnId, Framing, Limits, Reactor, SendError, Sent};

const TIMEOUT: Duration = Duration::from_millis(200);

/// Changes the limits of one connection.
fn set(reactor: &mut Reactor<Probe>, conn: ConnId, change: impl FnOnce(&mut Limits)) {
    reactor.with(|_, cx| {
        let mut limits = cx.limits(conn).expect("the connection is open");
        change(&mut limits);
        cx.set_limits(conn, limits).expect("the limits are valid");
        assert_eq!(cx.limits(conn), Ok(limits));
    });
}

fn closes(reactor: &Reactor<Probe>) -> Vec<(ConnId, &CloseReason)> {
    let closes = reactor.handler().closes().into_iter();
    closes
        .map(|(conn, closed)| (conn, &closed.reason))
        .collect()
}

/// Waits until the client receives the FIN, drops the client, and waits for the close. A closing
/// connection ends when its peer has ended its side too, or at `close_deadline`.
fn drive_to_fin(reactor: &mut Reactor<Probe>, client: TcpStream) {
    client
        .set_nonblocking(true)
        .expect("non-blocking mode can be set");
    drive(reactor, |_| client.peek(&mut [0]).is_ok());
    drop(client);
    drive(reactor, |reactor| reactor.stats().closed == 1);
}

fn drive_until(reactor: &mut Reactor<Probe>, end: Instant) {
    drive(reactor, |_| Instant::now() > end);
}

#[test]
fn set_limits_adds_an_idle_timeout() {
    let (mut reactor, addr) = listening(Probe::silent(), Config::default(), Framing::length_u32());
    let (_other, _) = open(&mut reactor, addr);
    let (client, conn) = open(&mut reactor, addr);
    let before = Instant::now();
    set(&mut reactor, conn, |limits| {
        limits.idle_timeout = Some(TIMEOUT)
    });
    drive_to_fin(&mut reactor, client);
    assert!(
        before.elapsed() >= TIMEOUT,
        "the connection was closed before its timeout"
    );
    let closes = closes(&reactor);
    assert!(matches!(closes[..], [(closed, CloseReason::IdleTimeout)] if closed == conn));
}

#[test]
fn set_limits_removes_the_idle_timeout() {
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

/// The second timeout replaces the first one and starts when it is set.
#[test]
fn set_limits_restarts_the_idle_timeout() {
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
    assert!(
        before.elapsed() >= 2 * TIMEOUT,
        "the connection was closed before its timeout"
    );
}

#[test]
fn set_limits_frame_deadline_ends_a_trickle() {
    let (mut reactor, addr) = listening(Probe::silent(), Config::default(), Framing::length_u32());
    let (mut client, conn) = open(&mut reactor, addr);
    // The frame begins before the deadline is set, but the deadline starts when it is set.
    deposit(&mut reactor, &mut client, conn, &[0, 0, 0, 9, 1]);
    idle(&mut reactor);
    let before = Instant::now();
    set(&mut reactor, conn, |limits| {
        limits.frame_deadline = Some(TIMEOUT)
    });
    drive_to_fin(&mut reactor, client);
    assert!(
        before.elapsed() >= TIMEOUT,
        "the connection was closed before its timeout"
    );
    assert!(matches!(closes(&reactor)[0].1, CloseReason::FrameDeadline));
}

#[test]
fn set_limits_write_stall_timeout_aborts() {
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

/// The entry still exists in `on_close`, so the limits are accepted, but no timer is set.
#[test]
fn set_limits_in_on_close_leaves_no_timer() {
    let probe = Probe::new(|cx, event| {
        if let Event::Close(conn, _) = event {
            let mut limits = cx
                .limits(*conn)
                .expect("the entry exists until on_close returns");
            limits.idle_timeout = Some(TIMEOUT);
            cx.set_limits(*conn, limits).expect("the limits are valid");
        }
    });
    let (mut reactor, addr) = listening(probe, Config::default(), Framing::length_u32());
    let (_client, conn) = open(&mut reactor, addr);
    reactor.with(|_, cx| cx.abort(conn));
    idle(&mut reactor);
    assert_eq!(closes(&reactor).len(), 1);
    assert_eq!(reactor.next_turn_in(), None, "no work and no timer is left");
}

#[test]
fn set_limits_while_connecting_applies_once_open() {
    let (held, addr) = common::silent();
    let mut reactor = Reactor::new(Probe::silent()).expect("the reactor is created");
    let pending = reactor.connect(addr, Framing::line(), ());
    set(&mut reactor, pending, |limits| {
        limits.idle_timeout = Some(TIMEOUT)
    });
    drive_until(&mut reactor, Instant::now() + 2 * TIMEOUT);
    assert!(
        closes(&reactor).is_empty(),
        "the idle timeout does not apply during a connect"
    );
    drop(held);

    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port is available");
    let addr = listener.local_addr().expect("the socket is bound");
    let conn = reactor.connect(addr, Framing::line(), ());
    set(&mut reactor, conn, |limits| {
        limits.idle_timeout = Some(TIMEOUT)
    });
    let (server, _) = listener.accept().expect("the client connects");
    drive_to_fin(&mut reactor, server);
    let closes = closes(&reactor);
    assert!(matches!(closes[..], [(closed, CloseReason::IdleTimeout)] if closed == conn));
}

/// Sends frames of 1,000 bytes until `send` does not return `Queued`. Returns the number of frames
/// that were queued, and the last result.
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
fn set_limits_applies_to_one_connection_only() {
    let (mut reactor, addr) = listening(Probe::silent(), Config::default(), Framing::length_u32());
    let (mut client, conn) = open(&mut reactor, addr);
    let (_other, other) = open(&mut reactor, addr);
    set(&mut reactor, conn, |limits| {
        limits.write_low_bytes = 2_000;
        limits.write_high_bytes = 5_000;
        limits.write_queue_bytes_max = 7_000;
    });
    let (count, last) = send_on(&mut reactor, conn);
    assert!(matches!((count, last), (5, Ok(Sent::AboveHigh))));
    let refused = reactor.with(|_, cx| {
        let _ = cx.send(conn, &[7; 996]);
        cx.send(conn, &[7; 996])
    });
    assert!(matches!(refused, Err(SendError::Full)), "{refused:?}");
    assert!(send_on(&mut reactor, other).0 > 100);
    let bytes = read_slowly(&mut reactor, &mut client, 7_000);
    assert_eq!(bytes.len(), 7_000);
    let drained_count = reactor
        .handler()
        .count(|event| matches!(event, Event::Drained(drained) if *drained == conn));
    assert_eq!(drained_count, 1);
}

/// Output of a connection with its own limits is never batched. Replies sent within `on_frame` go
/// to the write queue, so the connection's own high watermark counts them.
#[test]
fn set_limits_high_watermark_stops_reading() {
    let probe = Probe::new(|cx, event| match event {
        Event::Open(conn, _) => {
            let mut limits = cx.limits(*conn).expect("the connection is open");
            limits.write_low_bytes = 0;
            limits.write_high_bytes = 1_000;
            cx.set_limits(*conn, limits).expect("the limits are valid");
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
        std::io::Write::write_all(&mut client, &question).expect("the write succeeds");
    }
    drive(&mut reactor, |reactor| reactor.stats().frames_in == 3);
    for round in 0..3 {
        assert_eq!(read_u32_frame(&mut client), [round; 2_000]);
    }
    let is_drained = |event: &Event| matches!(event, Event::Drained(_));
    drive(&mut reactor, |reactor| {
        reactor.handler().count(is_drained) == 3
    });
}

#[test]
fn set_limits_with_invalid_values_changes_nothing() {
    let mut config = Config::default();
    config.memory_bytes_max = 1 << 20;
    let (mut reactor, addr) = listening(Probe::silent(), config, Framing::length_u32());
    let (_client, conn) = open(&mut reactor, addr);
    reactor.with(|_, cx| {
        let before = cx.limits(conn).expect("the connection is open");
        let mut limits = before;
        limits.write_low_bytes = limits.write_high_bytes + 1;
        let error = cx.set_limits(conn, limits).expect_err("low exceeds high");
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert_eq!(cx.limits(conn), Ok(before));
        let mut limits = before;
        limits.write_low_bytes = (1 << 20) + 1;
        limits.write_high_bytes = limits.write_low_bytes;
        let error = cx
            .set_limits(conn, limits)
            .expect_err("low exceeds memory_bytes_max");
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert_eq!(cx.limits(conn), Ok(before));
        cx.abort(conn);
    });
    idle(&mut reactor);
    reactor.with(|_, cx| assert!(cx.limits(conn).is_err(), "the connection is closed"));
}
