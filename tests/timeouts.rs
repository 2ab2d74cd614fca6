//! Peers that are too slow, each in its way, and those that are only quiet.

mod common;

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use common::{Event, Probe, drive, frame, listening};
use unstick::{CloseReason, Closed, Config, Framing, Reactor};

const TIMEOUT: Duration = Duration::from_millis(200);

fn closes(reactor: &Reactor<Probe>) -> Vec<&Closed> {
    reactor
        .handler()
        .closes()
        .into_iter()
        .map(|(_, closed)| closed)
        .collect()
}

#[test]
fn a_connection_over_which_nothing_goes_is_closed_and_not_before_its_time() {
    let mut config = Config::default();
    config.idle_timeout = Some(TIMEOUT);
    let (mut reactor, addr) = listening(Probe::echo(), config, Framing::length_u32());
    let client = std::thread::spawn(move || {
        let before = Instant::now();
        let mut client = common::client(addr);
        assert_eq!(client.read(&mut [0]).expect("an end"), 0);
        before.elapsed()
    });
    drive(&mut reactor, |reactor| reactor.stats().closed == 1);
    let elapsed = client.join().expect("the client saw the end");
    assert!(elapsed >= TIMEOUT, "it was closed early");
    assert!(matches!(
        closes(&reactor)[0].reason,
        CloseReason::IdleTimeout
    ));
}

#[test]
fn a_connection_over_which_something_goes_is_not_idle() {
    let mut config = Config::default();
    config.idle_timeout = Some(TIMEOUT);
    let server = common::Server::start(Probe::echo(), config, Framing::length_u32());
    let mut client = server.connect();
    let end = Instant::now() + 3 * TIMEOUT;
    let mut rounds = 0;
    while Instant::now() < end {
        assert_eq!(
            common::round_trip(&mut client, b"still here"),
            b"still here"
        );
        rounds += 1;
    }
    drop(client);
    let (probe, _) = server.stop();
    assert_eq!(probe.frames().len(), rounds);
    let is_idle = |closed: &Closed| matches!(closed.reason, CloseReason::IdleTimeout);
    assert!(!probe.closes().iter().any(|(_, closed)| is_idle(closed)));
}

/// Nothing is ever answered, or nothing asked: one direction is enough.
#[test]
fn bytes_in_one_direction_keep_a_connection_from_being_idle() {
    for is_read in [true, false] {
        let mut config = Config::default();
        config.idle_timeout = Some(TIMEOUT);
        config.close_deadline = Duration::from_millis(1);
        let (mut reactor, addr) = listening(Probe::silent(), config, Framing::length_u32());
        let (mut client, conn) = common::open(&mut reactor, addr);
        let end = Instant::now() + 3 * TIMEOUT;
        let mut last = Instant::now();
        while Instant::now() < end {
            if is_read {
                client
                    .write_all(&frame("u32", b"one"))
                    .expect("it is taken");
            } else {
                let sent = reactor.with(|_, cx| cx.send(conn, b"one"));
                assert!(matches!(sent, Ok(unstick::Sent::Queued)));
            }
            reactor
                .turn(Some(Duration::from_millis(5)))
                .expect("the poll works");
            // A machine that held this thread up for as long has made the connection idle.
            if last.elapsed() >= TIMEOUT {
                break;
            }
            last = Instant::now();
        }
        if last.elapsed() < TIMEOUT {
            assert!(closes(&reactor).is_empty(), "read: {is_read}");
        }
    }
}

/// Half a frame each, and then a byte now and then: what is trickled in does not buy time.
#[test]
fn frames_that_are_begun_and_not_ended_cost_their_connections() {
    let mut config = Config::default();
    config.frame_deadline = Some(TIMEOUT);
    config.close_deadline = Duration::from_millis(1);
    let (mut reactor, addr) = listening(Probe::silent(), config, Framing::length_u32());
    let before = Instant::now();
    let mut clients: Vec<_> = (0..50).map(|_| common::client(addr)).collect();
    for client in &mut clients {
        client
            .write_all(&frame("u32", b"whole"))
            .expect("it is taken");
        client.write_all(&[0, 15, 0, 0]).expect("it is taken");
    }
    drive(&mut reactor, |reactor| {
        for client in &mut clients {
            // Too late for some of them.
            let _ = client.write(b"x");
        }
        reactor.stats().closed == 50
    });
    assert!(before.elapsed() >= TIMEOUT, "one was closed early");
    assert_eq!(reactor.handler().frames().len(), 50);
    for closed in closes(&reactor) {
        assert!(
            matches!(
                closed.reason,
                CloseReason::FrameDeadline | CloseReason::Io(_)
            ),
            "{closed:?}"
        );
        assert!(closed.undecoded_bytes >= 4);
    }
}

#[test]
fn a_quiet_connection_between_two_frames_has_no_deadline() {
    let mut config = Config::default();
    config.frame_deadline = Some(TIMEOUT / 4);
    let (mut reactor, addr) = listening(Probe::echo(), config, Framing::length_u32());
    let mut client = common::client(addr);
    client
        .write_all(&frame("u32", b"one"))
        .expect("it is taken");
    let end = Instant::now() + TIMEOUT;
    drive(&mut reactor, |_| Instant::now() > end);
    assert_eq!(common::read_u32_frame(&mut client), b"one");
    client
        .write_all(&frame("u32", b"two"))
        .expect("it is taken");
    drive(&mut reactor, |reactor| reactor.stats().frames_in == 2);
    assert!(closes(&reactor).is_empty());
}

/// While nobody reads a connection, its frame cannot come on.
#[test]
fn a_pause_does_not_count_against_a_frame() {
    let mut config = Config::default();
    config.frame_deadline = Some(TIMEOUT);
    let (mut reactor, addr) = listening(Probe::silent(), config, Framing::length_u32());
    let mut client = common::client(addr);
    client
        .write_all(&frame("u32", b"one"))
        .expect("it is taken");
    client.write_all(&[0, 0, 0, 3, b't']).expect("it is taken");
    drive(&mut reactor, |reactor| reactor.stats().read_bytes == 12);
    let conn = match reactor.handler().events[0] {
        Event::Open(conn, _) => conn,
        ref event => panic!("{event:?}"),
    };
    reactor.with(|_, cx| cx.pause(conn)).expect("it is open");
    let end = Instant::now() + 3 * TIMEOUT;
    drive(&mut reactor, |_| Instant::now() > end);
    reactor
        .with(|_, cx| cx.resume(conn))
        .expect("it is open still");
    client.write_all(b"wo").expect("it is taken");
    drive(&mut reactor, |reactor| reactor.stats().frames_in == 2);
    assert_eq!(reactor.handler().frames(), [b"one", b"two"]);
    assert!(closes(&reactor).is_empty());
}

#[test]
fn a_peer_that_takes_no_output_is_aborted_and_what_it_did_not_take_is_counted() {
    let mut config = Config::default();
    config.write_stall_timeout = Some(TIMEOUT);
    let probe = Probe::new(|cx, event| {
        if let Event::Open(conn, _) = event {
            for _ in 0..15 {
                assert!(cx.send(*conn, &vec![7; 1 << 20]).is_ok());
            }
        }
    });
    let (mut reactor, addr) = listening(probe, config, Framing::length_u32());
    let before = Instant::now();
    let client = common::client(addr);
    drive(&mut reactor, |reactor| reactor.stats().closed == 1);
    assert!(before.elapsed() >= TIMEOUT, "it was aborted early");
    let closed = closes(&reactor)[0];
    assert!(
        matches!(closed.reason, CloseReason::WriteStalled),
        "{closed:?}"
    );
    let sent = 15 * ((1 << 20) + 4);
    assert_eq!(closed.unsent_bytes + closed.stats.written_bytes, sent);
    assert!(closed.unsent_bytes > 0);
    drop(client);
}
