//! Flow control by credit: `Context::grant` limits the frames that a connection delivers.

mod common;

use std::time::Duration;

use common::{DEADLINE, Event, Probe, deposit, drive, frame, idle, listening, open};
use unstick::{Config, ConnId, Framing, Reactor};

const TEN_LINES: &[u8] = b"0\n1\n2\n3\n4\n5\n6\n7\n8\n9\n";

/// Returns a handler that grants each connection credit for `frames` frames in `on_open`.
fn granting(frames: u64) -> Probe {
    Probe::new(move |cx, event| {
        if let Event::Open(conn, _) = event {
            cx.grant(*conn, frames).expect("the connection is open");
        }
    })
}

fn grant(reactor: &mut Reactor<Probe>, conn: ConnId, frames: u64) {
    let granted = reactor.with(|_, cx| cx.grant(conn, frames));
    granted.expect("the connection is open");
    idle(reactor);
}

fn frame_count(reactor: &Reactor<Probe>) -> usize {
    reactor.handler().frames().len()
}

fn half_close_count(reactor: &Reactor<Probe>) -> usize {
    let is_half_close = |event: &Event| matches!(event, Event::HalfClose(_));
    reactor.handler().count(is_half_close)
}

#[test]
fn granted_credit_is_the_number_of_frames_delivered() {
    for read_len_max in [1, 3, 4096] {
        for frame_budget in [1, 2, 1000] {
            let mut config = Config::default();
            config.read_len_max = read_len_max;
            config.frame_budget = frame_budget;
            let (mut reactor, addr) = listening(granting(3), config, Framing::line());
            let (mut client, conn) = open(&mut reactor, addr);
            deposit(&mut reactor, &mut client, conn, TEN_LINES);
            idle(&mut reactor);
            assert_eq!(frame_count(&reactor), 3);
            grant(&mut reactor, conn, 0);
            assert_eq!(frame_count(&reactor), 3);
            grant(&mut reactor, conn, 1);
            grant(&mut reactor, conn, 4);
            assert_eq!(frame_count(&reactor), 8);
            grant(&mut reactor, conn, 100);
            assert_eq!(frame_count(&reactor), 10);
            let lines = TEN_LINES.split(|byte| *byte == b'\n');
            assert!(lines.take(10).eq(reactor.handler().frames()));
        }
    }
}

#[test]
fn connection_without_credit_is_not_read() {
    let (mut reactor, addr) = listening(granting(0), Config::default(), Framing::line());
    let (mut client, conn) = open(&mut reactor, addr);
    deposit(&mut reactor, &mut client, conn, TEN_LINES);
    idle(&mut reactor);
    assert_eq!((frame_count(&reactor), reactor.stats().reads), (0, 0));
    grant(&mut reactor, conn, 1);
    assert_eq!(reactor.stats().reads, 1);
    deposit(&mut reactor, &mut client, conn, TEN_LINES);
    idle(&mut reactor);
    assert_eq!((frame_count(&reactor), reactor.stats().reads), (1, 1));
}

/// The handler grants one more frame in each `on_frame`, so delivery never stops.
#[test]
fn credit_granted_in_on_frame_applies_to_the_next_frame() {
    let probe = Probe::new(|cx, event| {
        if let Event::Open(conn, _) | Event::Frame(conn, _) = event {
            cx.grant(*conn, 1).expect("the connection is open");
        }
    });
    let (mut reactor, addr) = listening(probe, Config::default(), Framing::line());
    let (mut client, conn) = open(&mut reactor, addr);
    deposit(&mut reactor, &mut client, conn, TEN_LINES);
    reactor.turn(Some(DEADLINE)).expect("polling succeeds");
    assert_eq!(frame_count(&reactor), 10);
}

#[test]
fn first_grant_in_on_frame_does_not_count_that_frame() {
    for granted in [0, 2] {
        let probe = Probe::new(move |cx, event| match event {
            Event::Frame(conn, frame) if frame == b"1" => {
                cx.grant(*conn, granted).expect("the connection is open");
            }
            _ => {}
        });
        let (mut reactor, addr) = listening(probe, Config::default(), Framing::line());
        let (mut client, conn) = open(&mut reactor, addr);
        deposit(&mut reactor, &mut client, conn, TEN_LINES);
        idle(&mut reactor);
        let expected = 2 + usize::try_from(granted).expect("the number is small");
        assert_eq!(frame_count(&reactor), expected);
    }
}

/// A skipped frame uses no credit, so the first grant counts all frames after it.
#[test]
fn first_grant_in_on_skipped_counts_from_the_next_frame() {
    let probe = Probe::new(|cx, event| {
        if let Event::Skipped(conn, _) = event {
            cx.grant(*conn, 2).expect("the connection is open");
        }
    });
    let framing = Framing::line().frame_len_max(3).skip_too_long();
    let (mut reactor, addr) = listening(probe, Config::default(), framing);
    let (mut client, conn) = open(&mut reactor, addr);
    let bytes = [b"too long\n", TEN_LINES].concat();
    deposit(&mut reactor, &mut client, conn, &bytes);
    idle(&mut reactor);
    assert_eq!(frame_count(&reactor), 2);
}

#[test]
fn credit_of_u64_max_removes_the_credit_limit() {
    // The first case makes one grant; the second case makes two grants whose sum saturates.
    for grants in [&[u64::MAX][..], &[u64::MAX - 1, 2]] {
        let (mut reactor, addr) = listening(granting(0), Config::default(), Framing::line());
        let (mut client, conn) = open(&mut reactor, addr);
        for frames in grants {
            grant(&mut reactor, conn, *frames);
        }
        deposit(&mut reactor, &mut client, conn, TEN_LINES);
        idle(&mut reactor);
        assert_eq!(frame_count(&reactor), 10);
        // The next grant limits the credit again.
        grant(&mut reactor, conn, 1);
        deposit(&mut reactor, &mut client, conn, TEN_LINES);
        idle(&mut reactor);
        assert_eq!(frame_count(&reactor), 11);
    }
}

#[test]
fn pause_and_missing_credit_stop_frames_independently() {
    let (mut reactor, addr) = listening(granting(0), Config::default(), Framing::line());
    let (mut client, conn) = open(&mut reactor, addr);
    deposit(&mut reactor, &mut client, conn, TEN_LINES);
    reactor
        .with(|_, cx| cx.pause(conn))
        .expect("the connection is open");
    grant(&mut reactor, conn, 2);
    assert_eq!(frame_count(&reactor), 0);
    reactor
        .with(|_, cx| cx.resume(conn))
        .expect("the connection is open");
    idle(&mut reactor);
    assert_eq!(frame_count(&reactor), 2);
    reactor
        .with(|_, cx| cx.pause(conn))
        .expect("the connection is open");
    reactor
        .with(|_, cx| cx.resume(conn))
        .expect("the connection is open");
    idle(&mut reactor);
    assert_eq!(frame_count(&reactor), 2);
}

#[test]
fn end_of_stream_waits_for_frames_but_needs_no_credit() {
    let (mut reactor, addr) = listening(granting(1), Config::default(), Framing::line());
    let (mut client, conn) = open(&mut reactor, addr);
    deposit(&mut reactor, &mut client, conn, b"1\n2\n");
    common::send_fin(&client);
    idle(&mut reactor);
    assert_eq!((frame_count(&reactor), half_close_count(&reactor)), (1, 0));
    grant(&mut reactor, conn, 2);
    drive(&mut reactor, |reactor| reactor.stats().closed == 1);
    assert_eq!((frame_count(&reactor), half_close_count(&reactor)), (2, 1));
}

#[test]
fn credit_can_be_granted_while_connecting() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port is available");
    let addr = listener.local_addr().expect("the listener is bound");
    let mut reactor = Reactor::new(Probe::silent()).expect("the reactor is created");
    let conn = reactor.connect(addr, Framing::line(), ());
    reactor
        .with(|_, cx| cx.grant(conn, 2))
        .expect("the connection exists");
    let (mut server, _) = listener.accept().expect("the client connects");
    drive(&mut reactor, |reactor| reactor.stats().connected == 1);
    deposit(&mut reactor, &mut server, conn, TEN_LINES);
    idle(&mut reactor);
    assert_eq!(frame_count(&reactor), 2);
}

/// A connection without credit is not read, so the peer cannot complete its frame. Therefore the
/// frame deadline must not close the connection.
#[test]
fn frame_deadline_does_not_run_without_credit() {
    let timeout = Duration::from_millis(200);
    let mut config = Config::default();
    config.frame_deadline = Some(timeout);
    let (mut reactor, addr) = listening(granting(1), config, Framing::length_u32());
    let (mut client, conn) = open(&mut reactor, addr);
    let mut bytes = frame("u32", b"one");
    bytes.extend(&frame("u32", b"two")[..5]);
    deposit(&mut reactor, &mut client, conn, &bytes);
    let end = std::time::Instant::now() + 3 * timeout;
    drive(&mut reactor, |_| std::time::Instant::now() > end);
    grant(&mut reactor, conn, 1);
    deposit(&mut reactor, &mut client, conn, b"wo");
    drive(&mut reactor, |reactor| reactor.stats().frames_in == 2);
    assert_eq!(reactor.handler().frames(), [b"one", b"two"]);
    assert_eq!(reactor.stats().closed, 0);
}
