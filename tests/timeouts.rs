//! Timeouts for slow and idle peers.

mod common;

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use common::{Event, Probe, drive, frame, listening};
use unstick::{CloseReason, Closed, Config, ConnId, Framing, Reactor};

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
fn idle_timeout_closes_but_not_early() {
    let mut config = Config::default();
    config.idle_timeout = Some(TIMEOUT);
    let (mut reactor, addr) = listening(Probe::echo(), config, Framing::length_u32());
    let client = std::thread::spawn(move || {
        let before = Instant::now();
        let mut client = common::client(addr);
        assert_eq!(
            client
                .read(&mut [0])
                .expect("the stream ends without a reset"),
            0
        );
        before.elapsed()
    });
    drive(&mut reactor, |reactor| reactor.stats().closed == 1);
    let elapsed = client.join().expect("the client thread does not panic");
    assert!(
        elapsed >= TIMEOUT,
        "the connection was closed before its timeout"
    );
    assert!(matches!(
        closes(&reactor)[0].reason,
        CloseReason::IdleTimeout
    ));
}

#[test]
fn traffic_prevents_the_idle_timeout() {
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

/// Only the peer sends in the first case, and only this side in the second case.
#[test]
fn traffic_in_one_direction_prevents_the_idle_timeout() {
    for peer_sends in [true, false] {
        let mut config = Config::default();
        config.idle_timeout = Some(TIMEOUT);
        config.close_deadline = Duration::from_millis(1);
        let (mut reactor, addr) = listening(Probe::silent(), config, Framing::length_u32());
        let (mut client, conn) = common::open(&mut reactor, addr);
        let end = Instant::now() + 3 * TIMEOUT;
        let mut last = Instant::now();
        while Instant::now() < end {
            if peer_sends {
                client
                    .write_all(&frame("u32", b"one"))
                    .expect("the write succeeds");
            } else {
                let sent = reactor.with(|_, cx| cx.send(conn, b"one"));
                assert!(matches!(sent, Ok(unstick::Sent::Queued)));
            }
            reactor
                .turn(Some(Duration::from_millis(5)))
                .expect("polling succeeds");
            // If the machine delayed this thread for the whole timeout, the connection was idle.
            if last.elapsed() >= TIMEOUT {
                break;
            }
            last = Instant::now();
        }
        if last.elapsed() < TIMEOUT {
            assert!(closes(&reactor).is_empty(), "peer sends: {peer_sends}");
        }
    }
}

/// An idle timeout would never end this connection, because the server writes all the time.
#[test]
fn silent_peer_is_closed_while_the_server_writes() {
    let probe = Probe::new(|cx, event| {
        if let Event::Open(conn, _) = event {
            cx.set_interval(Duration::from_millis(10), conn.to_bits());
        }
        if let Event::Timer(_, conn) = event {
            let conn = ConnId::from_bits(*conn).expect("the key is an id");
            let _ = cx.send(conn, b"news");
        }
    });
    let mut config = Config::default();
    config.read_idle_timeout = Some(TIMEOUT);
    config.close_deadline = Duration::from_millis(1);
    let (mut reactor, addr) = listening(probe, config, Framing::length_u32());
    let begin = Instant::now();
    let (_client, _) = common::open(&mut reactor, addr);
    drive(&mut reactor, |reactor| reactor.stats().closed == 1);
    let reason = &closes(&reactor)[0].reason;
    assert!(matches!(reason, CloseReason::ReadIdleTimeout), "{reason}");
    assert!(begin.elapsed() >= TIMEOUT);
    assert!(reactor.stats().frames_out > 1, "the server wrote");
}

/// Each client sends a partial frame and then single bytes. These bytes must not extend the
/// deadline.
#[test]
fn frame_deadline_closes_trickling_peers() {
    let mut config = Config::default();
    config.frame_deadline = Some(TIMEOUT);
    config.close_deadline = Duration::from_millis(1);
    let (mut reactor, addr) = listening(Probe::silent(), config, Framing::length_u32());
    let before = Instant::now();
    let mut clients: Vec<_> = (0..50).map(|_| common::client(addr)).collect();
    for client in &mut clients {
        client
            .write_all(&frame("u32", b"whole"))
            .expect("the write succeeds");
        client
            .write_all(&[0, 15, 0, 0])
            .expect("the write succeeds");
    }
    drive(&mut reactor, |reactor| {
        for client in &mut clients {
            // The write fails if the connection is closed already.
            let _ = client.write(b"x");
        }
        reactor.stats().closed == 50
    });
    assert!(
        before.elapsed() >= TIMEOUT,
        "a connection was closed before its deadline"
    );
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
fn frame_deadline_does_not_run_between_frames() {
    let mut config = Config::default();
    config.frame_deadline = Some(TIMEOUT / 4);
    let (mut reactor, addr) = listening(Probe::echo(), config, Framing::length_u32());
    let mut client = common::client(addr);
    client
        .write_all(&frame("u32", b"one"))
        .expect("the write succeeds");
    let end = Instant::now() + TIMEOUT;
    drive(&mut reactor, |_| Instant::now() > end);
    assert_eq!(common::read_u32_frame(&mut client), b"one");
    client
        .write_all(&frame("u32", b"two"))
        .expect("the write succeeds");
    drive(&mut reactor, |reactor| reactor.stats().frames_in == 2);
    assert!(closes(&reactor).is_empty());
}

/// A paused connection is not read, so the peer cannot complete its partial frame.
#[test]
fn frame_deadline_does_not_run_during_a_pause() {
    let mut config = Config::default();
    config.frame_deadline = Some(TIMEOUT);
    let (mut reactor, addr) = listening(Probe::silent(), config, Framing::length_u32());
    let mut client = common::client(addr);
    client
        .write_all(&frame("u32", b"one"))
        .expect("the write succeeds");
    client
        .write_all(&[0, 0, 0, 3, b't'])
        .expect("the write succeeds");
    drive(&mut reactor, |reactor| reactor.stats().read_bytes == 12);
    let conn = match reactor.handler().events[0] {
        Event::Open(conn, _) => conn,
        ref event => panic!("the first event is not on_open: {event:?}"),
    };
    reactor
        .with(|_, cx| cx.pause(conn))
        .expect("the connection is open");
    let end = Instant::now() + 3 * TIMEOUT;
    drive(&mut reactor, |_| Instant::now() > end);
    reactor
        .with(|_, cx| cx.resume(conn))
        .expect("the connection is still open");
    client.write_all(b"wo").expect("the write succeeds");
    drive(&mut reactor, |reactor| reactor.stats().frames_in == 2);
    assert_eq!(reactor.handler().frames(), [b"one", b"two"]);
    assert!(closes(&reactor).is_empty());
}

#[test]
fn write_stall_timeout_aborts_and_counts_unsent_bytes() {
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
    assert!(
        before.elapsed() >= TIMEOUT,
        "the connection was aborted before its timeout"
    );
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
