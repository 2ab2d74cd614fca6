//! TCP connections: end of stream, resets, failed connects and small buffers, and the callbacks for
//! each.

mod common;

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::{
    DEADLINE, Event, Probe, Random, Server, client, drive, frame, is_io, listening, refusing,
    reset, round_trip, settle, silent,
};
use unstick::{
    CloseReason, Closed, Config, ConnId, Context, Framing, Handler, Origin, Reactor, SendError,
    Sent,
};

const MIB: usize = 1 << 20;

fn u32_listening(probe: Probe) -> (Reactor<Probe>, SocketAddr) {
    listening(probe, Config::default(), Framing::length_u32())
}

/// Runs turns until `count` connections are closed.
fn drive_to_closed(reactor: &mut Reactor<Probe>, count: u64) {
    drive(reactor, |reactor| reactor.stats().closed == count);
}

fn is_open(event: &Event) -> bool {
    matches!(event, Event::Open(..))
}

fn is_half_close(event: &Event) -> bool {
    matches!(event, Event::HalfClose(_))
}

/// Returns the only close that a probe recorded, which must be its last event.
fn only_close(probe: &Probe) -> &Closed {
    assert!(matches!(probe.events.last(), Some(Event::Close(..))));
    probe.only_close()
}

// Tests of the end of a stream and of resets.

/// Data and a FIN cause one edge, and the read of the data is short. So the reactor must look for
/// the FIN itself. In every second round the data arrives on a registered, idle connection.
#[test]
fn fin_with_data_needs_no_further_traffic() {
    const ROUNDS: u64 = 100;
    const CLIENTS: u64 = 100;
    let (mut reactor, addr) = u32_listening(Probe::silent());
    for round in 0..ROUNDS {
        let mut clients: Vec<_> = (0..CLIENTS).map(|_| client(addr)).collect();
        if round % 2 == 0 {
            let accepted = (round + 1) * CLIENTS;
            drive(&mut reactor, |reactor| reactor.stats().accepted == accepted);
            settle(&mut reactor);
        }
        for client in &mut clients {
            client
                .write_all(&frame("u32", b"last words"))
                .expect("the write succeeds");
            common::send_fin(client);
        }
        drive_to_closed(&mut reactor, (round + 1) * CLIENTS);
    }
    assert_eq!(reactor.stats().frames_in, ROUNDS * CLIENTS);
    for (conn, closed) in reactor.handler().closes() {
        assert!(
            matches!(closed.reason, CloseReason::Peer),
            "{conn}: {closed:?}"
        );
    }
}

#[test]
fn frames_before_a_fin_are_delivered() {
    let (mut reactor, addr) = u32_listening(Probe::silent());
    let mut client = client(addr);
    let mut bytes: Vec<u8> = (0..5).flat_map(|n| frame("u32", &[n; 100])).collect();
    bytes.extend_from_slice(&frame("u32", &[9; 100])[..50]);
    client.write_all(&bytes).expect("the write succeeds");
    common::send_fin(&client);
    drive_to_closed(&mut reactor, 1);

    let probe = reactor.handler();
    let names: String = probe.events.iter().map(initial).collect();
    assert_eq!(names, "OFFFFFHC");
    let closed = only_close(probe);
    assert!(matches!(closed.reason, CloseReason::Peer), "{closed:?}");
    assert_eq!((closed.undecoded_bytes, closed.unsent_bytes), (50, 0));
}

fn initial(event: &Event) -> char {
    match event {
        Event::Open(..) => 'O',
        Event::Frame(..) => 'F',
        Event::Drained(_) => 'D',
        Event::HalfClose(_) => 'H',
        Event::Close(..) => 'C',
        _ => '?',
    }
}

/// The client sends three frames, `cut` bytes of a fourth frame, and a reset. The data arrives
/// before the connection is accepted, or while it is idle. In both cases the reactor delivers the
/// three frames and then reports one close.
#[test]
fn rst_after_partial_frame_reports_undecoded_bytes() {
    let whole: Vec<u8> = (0..3).flat_map(|n| frame("u32", &[n; 64])).collect();
    let fourth = frame("u32", &[3; 64]);
    for cut in 0..=64 {
        for is_accepted in [true, false] {
            let (mut reactor, addr) = u32_listening(Probe::silent());
            let mut client = client(addr);
            if is_accepted {
                drive(&mut reactor, |reactor| reactor.stats().accepted == 1);
                settle(&mut reactor);
            }
            client.write_all(&whole).expect("the write succeeds");
            client
                .write_all(&fourth[..cut])
                .expect("the write succeeds");
            reset(client);
            drive_to_closed(&mut reactor, 1);

            let probe = reactor.handler();
            assert_eq!(
                probe.frames(),
                [[0; 64], [1; 64], [2; 64]],
                "cut after {cut} bytes"
            );
            assert_eq!(
                probe.count(is_half_close),
                0,
                "a reset is not an end of stream"
            );
            let closed = only_close(probe);
            assert!(
                is_io(&closed.reason, ErrorKind::ConnectionReset),
                "{closed:?}"
            );
            assert_eq!(closed.undecoded_bytes, cut as u64);
        }
    }
}

/// After a reset by the peer, a write fails before the last frames of the peer are read. These
/// frames must still be delivered.
#[test]
fn reset_with_queued_output_delivers_earlier_frames() {
    let mut config = Config::default();
    config.write_high_bytes = 16 * MIB;
    let (mut reactor, addr) = listening(Probe::echo(), config, Framing::length_u32());
    let mut client = client(addr);
    let large = frame("u32", &vec![1; MIB]);
    client
        .set_nonblocking(true)
        .expect("non-blocking mode can be set");
    let mut rest = large.repeat(10);
    drive(&mut reactor, |reactor| {
        write_some(&mut client, &mut rest);
        rest.is_empty() && reactor.stats().frames_in == 10
    });
    settle(&mut reactor);
    assert!(
        reactor.stats().written_bytes < 10 * MIB as u64,
        "part of the output is still queued"
    );
    client
        .write_all(&frame("u32", b"last words"))
        .expect("the write succeeds");
    reset(client);
    drive_to_closed(&mut reactor, 1);

    let probe = reactor.handler();
    assert_eq!(probe.frames().last(), Some(&&b"last words"[..]));
    let closed = only_close(probe);
    assert!(
        matches!(&closed.reason, CloseReason::Io(_)),
        "the close reports the reset: {closed:?}"
    );
    assert_eq!(
        closed.unsent_bytes + closed.stats.written_bytes,
        10 * (MIB as u64 + 4),
        "each accepted byte is counted once; the reply to the last frame was not accepted"
    );
}

/// Writes as many bytes of `rest` as the kernel accepts now, and removes them from `rest`.
fn write_some(client: &mut TcpStream, rest: &mut Vec<u8>) {
    match client.write(rest) {
        Ok(len) => {
            rest.drain(..len);
        }
        Err(error) if error.kind() == ErrorKind::WouldBlock => {}
        Err(error) => panic!("the write fails: {error}"),
    }
}

#[test]
fn half_closed_peer_receives_ten_megabytes() {
    const ROUNDS: usize = 10;
    let answer = Random(4).bytes(MIB);
    let expected = frame("u32", &answer).repeat(10);
    let probe = Probe::new(move |cx, event| {
        if let Event::Frame(conn, _) = event {
            for _ in 0..10 {
                let _ = cx.send(*conn, &answer).expect("the write queue has space");
            }
        }
    });
    let server = Server::start(probe, Config::default(), Framing::length_u32());
    for _ in 0..ROUNDS {
        let mut client = server.connect();
        client
            .write_all(&frame("u32", b"go"))
            .expect("the write succeeds");
        common::send_fin(&client);
        let mut got = Vec::new();
        client
            .read_to_end(&mut got)
            .expect("the connection is not reset");
        assert!(
            got == expected,
            "received {} of {} bytes",
            got.len(),
            expected.len()
        );
    }
    let (probe, stats) = server.stop();
    assert_eq!((stats.closed, stats.unsent_bytes), (ROUNDS as u64, 0));
    for (_, closed) in probe.closes() {
        assert!(matches!(closed.reason, CloseReason::Peer), "{closed:?}");
    }
}

/// Closing a socket that has unread input makes the kernel send a reset, which can destroy the
/// reply on its way. So a closing connection continues to read, and discards its input.
#[test]
fn reply_before_close_survives_unread_input() {
    let answer = Random(5).bytes(MIB);
    let expected = frame("u32", &answer).repeat(4);
    let probe = Probe::new(move |cx, event| {
        if let Event::Frame(conn, _) = event {
            for _ in 0..4 {
                let _ = cx.send(*conn, &answer).expect("the write queue has space");
            }
            cx.close(*conn);
        }
    });
    let server = Server::start(probe, Config::default(), Framing::length_u32());
    let mut client = server.connect();
    let mut sending = client.try_clone().expect("a descriptor is available");
    sending
        .write_all(&frame("u32", &[7; 1000]).repeat(100))
        .expect("the write succeeds");
    let is_done = Arc::new(AtomicBool::new(false));
    let sender = {
        let is_done = Arc::clone(&is_done);
        thread::spawn(move || {
            while !is_done.load(Ordering::Relaxed) {
                sending
                    .write_all(&frame("u32", &[7; 1000]).repeat(100))
                    .expect("the connection is not reset");
            }
            common::send_fin(&sending);
        })
    };
    let mut got = Vec::new();
    client
        .read_to_end(&mut got)
        .expect("the connection is not reset");
    assert!(
        got == expected,
        "received {} of {} bytes",
        got.len(),
        expected.len()
    );
    is_done.store(true, Ordering::Relaxed);
    sender.join().expect("the sender thread does not panic");

    let (probe, _) = server.stop();
    assert_eq!(probe.frames().len(), 1, "no frame is delivered after close");
    let closed = only_close(&probe);
    assert!(matches!(closed.reason, CloseReason::Local), "{closed:?}");
    assert_eq!(closed.unsent_bytes, 0);
}

#[test]
fn abort_sends_a_reset_and_counts_lost_bytes() {
    let probe = Probe::new(|cx, event| {
        if let Event::Frame(conn, frame) = event {
            let _ = cx.send(*conn, frame).expect("the write queue has space");
            cx.abort(*conn);
            assert!(matches!(cx.send(*conn, frame), Err(SendError::Closing)));
        }
    });
    let (mut reactor, addr) = u32_listening(probe);
    let mut client = client(addr);
    client
        .write_all(&frame("u32", b"question").repeat(2))
        .expect("the write succeeds");
    drive_to_closed(&mut reactor, 1);

    let error = client
        .read(&mut [0; 100])
        .expect_err("the stream ends with a reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    let probe = reactor.handler();
    assert_eq!(probe.frames().len(), 1, "no frame is delivered after abort");
    let closed = only_close(probe);
    assert!(matches!(closed.reason, CloseReason::Aborted), "{closed:?}");
    assert_eq!((closed.unsent_bytes, closed.undecoded_bytes), (12, 12));
}

/// A reset during a close is reported instead of a regular close.
#[test]
fn reset_during_a_close_reports_unsent_bytes() {
    let probe = Probe::new(|cx, event| {
        if let Event::Frame(conn, _) = event {
            for _ in 0..10 {
                let _ = cx
                    .send(*conn, &[0; MIB])
                    .expect("the write queue has space");
            }
            cx.close(*conn);
        }
    });
    let (mut reactor, addr) = u32_listening(probe);
    let mut client = client(addr);
    client
        .write_all(&frame("u32", b"go"))
        .expect("the write succeeds");
    drive(&mut reactor, |reactor| reactor.stats().frames_in == 1);
    settle(&mut reactor);
    reset(client);
    drive_to_closed(&mut reactor, 1);
    let closed = only_close(reactor.handler());
    assert!(matches!(&closed.reason, CloseReason::Io(_)), "{closed:?}");
    assert!(closed.unsent_bytes > 0);
    assert_eq!(
        closed.unsent_bytes + closed.stats.written_bytes,
        10 * (MIB as u64 + 4)
    );
}

/// The client stays silent until it receives the FIN. So no event triggers the flush of the output.
#[test]
fn close_outside_a_callback_is_flushed_at_once() {
    let mut config = Config::default();
    config.close_deadline = DEADLINE;
    let (mut reactor, addr) = listening(Probe::silent(), config, Framing::length_u32());
    for (is_half, last_word) in [
        (false, Some(b"bye")),
        (false, None),
        (true, Some(b"bye")),
        (true, None),
    ] {
        let mut client = client(addr);
        let accepted = reactor.stats().accepted + 1;
        drive(&mut reactor, |reactor| reactor.stats().accepted == accepted);
        settle(&mut reactor);
        let Some(&Event::Open(conn, _)) = reactor.handler().events.last() else {
            panic!("the last event is not on_open");
        };
        reactor.with(|_, cx| {
            if let Some(word) = last_word {
                let _ = cx.send(conn, word).expect("the connection is open");
            }
            if is_half {
                cx.half_close(conn).expect("the connection is open");
            } else {
                cx.close(conn);
            }
        });
        settle(&mut reactor);
        client
            .set_read_timeout(Some(Duration::from_secs(1)))
            .expect("the timeout can be set");
        let mut got = Vec::new();
        client
            .read_to_end(&mut got)
            .expect("the stream ends without a reset");
        assert_eq!(got, last_word.map_or(Vec::new(), |word| frame("u32", word)));
        drop(client);
        drive_to_closed(&mut reactor, accepted);
    }
    for (_, closed) in reactor.handler().closes() {
        assert!(matches!(closed.reason, CloseReason::Local), "{closed:?}");
    }
}

/// A peer that does not end its side loses its connection after `close_deadline`.
#[test]
fn close_without_a_fin_ends_at_close_deadline() {
    let probe = Probe::new(|cx, event| {
        if let Event::Frame(conn, frame) = event {
            let _ = cx.send(*conn, frame).expect("the write queue has space");
            cx.close(*conn);
        }
    });
    let mut config = Config::default();
    config.close_deadline = Duration::from_millis(50);
    let (mut reactor, addr) = listening(probe, config, Framing::length_u32());
    let mut client = client(addr);
    client
        .write_all(&frame("u32", b"ping"))
        .expect("the write succeeds");
    let started = Instant::now();
    drive_to_closed(&mut reactor, 1);
    assert!(started.elapsed() >= Duration::from_millis(50));
    let closed = only_close(reactor.handler());
    assert!(
        matches!(closed.reason, CloseReason::CloseTimeout),
        "{closed:?}"
    );
    assert_eq!((closed.unsent_bytes, closed.stats.written_bytes), (0, 8));
}

/// The write side failed and the peer is silent, so no further event can arrive. The reactor must
/// close the connection itself.
#[test]
fn failed_write_closes_the_connection() {
    let (mut reactor, addr) = u32_listening(Probe::silent());
    let _silent = client(addr);
    drive(&mut reactor, |reactor| reactor.stats().accepted == 1);
    let Some(&Event::Open(conn, _)) = reactor.handler().events.first() else {
        panic!("the first event is not on_open");
    };
    settle(&mut reactor);
    reactor.with(|_, cx| {
        let options = cx.socket_options(conn).expect("the connection is open");
        options
            .shutdown(Shutdown::Write)
            .expect("the connection is open");
        let _ = cx
            .send(conn, b"in vain")
            .expect("the end of the write side is not known yet");
    });
    drive_to_closed(&mut reactor, 1);
    let closed = only_close(reactor.handler());
    if cfg!(windows) {
        // WSAESHUTDOWN, which has no `ErrorKind` yet.
        let code = match &closed.reason {
            CloseReason::Io(error) => error.raw_os_error(),
            _ => None,
        };
        assert_eq!(code, Some(10058), "{closed:?}");
    } else {
        assert!(is_io(&closed.reason, ErrorKind::BrokenPipe), "{closed:?}");
    }
    assert_eq!(closed.unsent_bytes, 11);
}

// Tests of writing.

/// The reactor writes at once, and does not wait for writability first.
#[test]
fn reply_is_written_in_the_turn_of_its_request() {
    let (mut reactor, addr) = u32_listening(Probe::echo());
    let mut client = client(addr);
    for round in 1..=3 {
        client
            .write_all(&frame("u32", b"ping"))
            .expect("the write succeeds");
        while reactor.stats().frames_in < round {
            reactor.turn(Some(DEADLINE)).expect("polling succeeds");
        }
        assert_eq!(reactor.stats().written_bytes, 8 * round);
    }
}

#[test]
fn slow_reader_gets_every_byte() {
    let answer = Random(6).bytes(MIB);
    let expected = answer.clone();
    let probe = Probe::new(move |cx, event| match event {
        Event::Open(conn, _) => {
            let options = cx.socket_options(*conn).expect("the connection is open");
            options
                .set_send_buffer_size(4096)
                .expect("the buffer size can be set");
        }
        Event::Frame(conn, _) => {
            for part in answer.chunks(10_000) {
                let _ = cx.send(*conn, part).expect("the write queue has space");
            }
        }
        _ => {}
    });
    let server = Server::start(probe, Config::default(), Framing::raw());
    let mut client = server.connect();
    client.write_all(b"go").expect("the write succeeds");
    let mut got = Vec::new();
    let mut random = Random(7);
    while got.len() < expected.len() {
        let mut buf = [0; 1500];
        let wanted = 1 + random.below(buf.len());
        let len = client.read(&mut buf[..wanted]).expect("more bytes arrive");
        assert!(len > 0, "the stream ended after {} bytes", got.len());
        got.extend_from_slice(&buf[..len]);
    }
    assert!(got == expected);
    drop(client);
    let (_, stats) = server.stop();
    assert!(stats.writes > 10, "the send buffer was small: {stats:?}");
    assert_eq!(stats.unsent_bytes, 0);
}

/// A peer sends requests and reads no replies. At the high watermark the reactor stops reading this
/// peer. Other connections are not affected.
#[test]
fn write_queue_of_a_peer_that_does_not_read_is_bounded() {
    const FRAME_LEN: usize = 1000;
    let config = Config::default();
    let (high, bound) = (
        config.write_high_bytes,
        config.write_high_bytes + FRAME_LEN + 4,
    );
    // Maximum length of the write queue so far. The current length is no proof, because the kernel
    // may accept bytes at any time.
    let peak = Arc::new(AtomicUsize::new(0));
    let seen = peak.clone();
    let echo = Probe::new(move |cx, event| {
        if let Event::Frame(conn, frame) = event {
            let _ = cx.send(*conn, frame);
            // After a failed send the connection may be closed.
            let queued = cx.queued_bytes(*conn).unwrap_or(0);
            seen.fetch_max(queued, Ordering::Relaxed);
        }
    });
    let server = Server::start(echo, config, Framing::length_u32());
    let deaf = server.connect();
    let writer = {
        let mut deaf = deaf.try_clone().expect("a descriptor is available");
        // Writes until the main thread shuts the socket down.
        thread::spawn(move || while deaf.write_all(&frame("u32", &[1; FRAME_LEN])).is_ok() {})
    };
    let mut pingers: Vec<_> = (0..100).map(|_| server.connect()).collect();
    let started = Instant::now();
    let mut rounds_left = 20_u8;
    while rounds_left > 0 {
        for pinger in &mut pingers {
            assert_eq!(round_trip(pinger, &[rounds_left; 10]), [rounds_left; 10]);
        }
        match peak.load(Ordering::Relaxed) > high {
            true => rounds_left -= 1,
            false => assert!(
                started.elapsed() < DEADLINE,
                "the write queue never reaches the high watermark"
            ),
        }
    }
    let peak = peak.load(Ordering::Relaxed);
    assert!(peak <= bound, "the write queue held {peak} bytes");
    deaf.shutdown(Shutdown::Both)
        .expect("the connection is open");
    writer
        .join()
        .expect("the thread ends when its socket is shut down");
    drop((deaf, pingers));
    server.stop();
}

/// Runs in a child process in which SIGPIPE ends the process, as in a host program written in C.
/// Without `sigpipe::reset`, Rust's runtime ignores the signal.
#[test]
#[cfg(unix)]
fn write_to_a_reset_peer_raises_no_sigpipe() {
    if !common::is_child() {
        let output = common::rerun("write_to_a_reset_peer_raises_no_sigpipe")
            .output()
            .expect("the test binary starts again");
        assert!(output.status.success(), "{output:?}");
        return;
    }
    sigpipe::reset();
    let mut probe = Probe::silent();
    probe.keep_half_closed = true;
    let (mut reactor, addr) = u32_listening(probe);
    for round in 1..=10 {
        let client = client(addr);
        common::send_fin(&client);
        drive(&mut reactor, |reactor| {
            reactor.handler().count(is_half_close) == round
        });
        let conn = match reactor.handler().events.last() {
            Some(Event::HalfClose(conn)) => *conn,
            event => panic!("the last event is not on_half_close: {event:?}"),
        };
        // After a FIN and a reset, the next write fails with EPIPE.
        reset(client);
        reactor.with(|_, cx| {
            for _ in 0..3 {
                let _ = cx
                    .send(conn, b"in vain")
                    .expect("the reset is not known yet");
            }
            if round % 2 == 0 {
                let sent = cx.send_owned(conn, vec![0; 20_000]);
                let _ = sent.expect(
                    "the reset is not known yet; an owned payload makes the write a vectored one",
                );
            }
        });
        drive_to_closed(&mut reactor, round as u64);
        let closes = reactor.handler().closes();
        let (_, closed) = closes.last().expect("the connection is closed");
        assert!(is_io(&closed.reason, ErrorKind::BrokenPipe), "{closed:?}");
    }
}

#[test]
fn nodelay_is_set_unless_configured_otherwise() {
    for nodelay in [true, false] {
        let mut config = Config::default();
        assert!(config.nodelay, "nodelay is the default");
        config.nodelay = nodelay;
        let probe = Probe::new(move |cx, event| {
            if let Event::Open(conn, _) = event {
                let options = cx.socket_options(*conn).expect("the connection is open");
                assert_eq!(
                    options.tcp_nodelay().expect("the option can be read"),
                    nodelay
                );
            }
        });
        let (mut reactor, addr) = listening(probe, config, Framing::length_u32());
        reactor.connect(addr, Framing::length_u32(), ());
        drive(&mut reactor, |reactor| {
            reactor.handler().count(is_open) == 2
        });
    }
}

// Tests of connecting.

/// A handler that records `on_open`, and `on_close` with the session.
#[derive(Default)]
struct Dialer {
    opened: Vec<(ConnId, SocketAddr)>,
    closed: Vec<(ConnId, String, Closed)>,
}

impl Handler for Dialer {
    type Session = String;

    fn on_frame(&mut self, _: &mut Context<'_, Self>, _: ConnId, _: &mut String, _: &[u8]) {
        panic!("the peer sends nothing");
    }

    fn on_open(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, _: &mut String, _: Origin) {
        let peer = cx.peer_inet_addr(conn).expect("the connection is open");
        self.opened.push((conn, peer));
    }

    fn on_close(&mut self, _: &mut Context<'_, Self>, conn: ConnId, session: String, why: Closed) {
        self.closed.push((conn, session, why));
    }
}

fn dialer() -> Reactor<Dialer> {
    let mut config = Config::default();
    config.connect_deadline = Duration::from_millis(50);
    Reactor::with_config(Dialer::default(), config).expect("the reactor is created")
}

/// Runs turns until the connect fails, checks that no other callback ran, and returns the close.
fn failure(mut reactor: Reactor<Dialer>, conn: ConnId) -> Closed {
    drive(&mut reactor, |reactor| !reactor.handler().closed.is_empty());
    settle(&mut reactor);
    let mut dialer = reactor.into_handler();
    assert_eq!(dialer.opened, [], "the connection never opened");
    assert_eq!(
        dialer.closed.len(),
        1,
        "one connect causes one close: {:?}",
        dialer.closed
    );
    let (closed_conn, session, closed) = dialer.closed.remove(0);
    assert_eq!(closed_conn, conn);
    assert_eq!(session, "mine", "on_close returns the session");
    closed
}

fn connect_error(closed: &Closed) -> &io::Error {
    match &closed.reason {
        CloseReason::ConnectFailed(error) => error,
        reason => panic!("expected a failed connect, got {reason:?}"),
    }
}

#[test]
fn refused_connect_closes_once_with_the_os_error() {
    let (_held, addr) = refusing();
    let mut reactor = dialer();
    let conn = reactor.connect(addr, Framing::raw(), "mine".to_owned());
    let closed = failure(reactor, conn);
    assert_eq!(connect_error(&closed).kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn connect_without_an_answer_times_out() {
    let (_held, addr) = silent();
    let mut reactor = dialer();
    let conn = reactor.connect(addr, Framing::raw(), "mine".to_owned());
    let sent = reactor.with(|_, cx| cx.send(conn, b"early"));
    assert!(
        matches!(sent, Ok(Sent::Queued)),
        "output is queued until the connection opens"
    );
    let closed = failure(reactor, conn);
    assert_eq!(connect_error(&closed).kind(), ErrorKind::TimedOut);
    assert_eq!(closed.unsent_bytes, 5);
}

#[test]
fn connect_to_an_empty_address_list_fails() {
    let mut reactor = dialer();
    let nowhere: &[SocketAddr] = &[];
    let conn = reactor.connect(nowhere, Framing::raw(), "mine".to_owned());
    let closed = failure(reactor, conn);
    assert_eq!(connect_error(&closed).kind(), ErrorKind::InvalidInput);
}

/// Resolvers reject a label of more than 63 octets without a query (RFC 1035, section 2.3.4).
#[test]
fn connect_to_an_unknown_name_fails() {
    let mut reactor = dialer();
    let name = format!("{}.invalid:1", "x".repeat(64));
    let conn = reactor.connect(name, Framing::raw(), "mine".to_owned());
    let closed = failure(reactor, conn);
    connect_error(&closed);
}

#[test]
fn connection_closed_while_connecting_never_opens() {
    let (_held, silent) = silent();
    // This listener accepts. So the socket may be connected when it is closed, but `on_open` was
    // not called.
    let (_listening, accepting) = u32_listening(Probe::silent());
    for addr in [silent, accepting] {
        let mut reactor = dialer();
        let conn = reactor.connect(addr, Framing::raw(), "mine".to_owned());
        reactor.with(|_, cx| cx.close(conn));
        let closed = failure(reactor, conn);
        assert!(matches!(closed.reason, CloseReason::Local), "{closed:?}");

        let mut reactor = dialer();
        let conn = reactor.connect(addr, Framing::raw(), "mine".to_owned());
        reactor.with(|_, cx| cx.abort(conn));
        let closed = failure(reactor, conn);
        assert!(matches!(closed.reason, CloseReason::Aborted), "{closed:?}");
    }
}

#[test]
fn connect_continues_with_the_next_address() {
    let (_held, refusing) = refusing();
    let (mut listening, accepting) = u32_listening(Probe::silent());
    let mut reactor = dialer();
    let addrs = [refusing, refusing, accepting];
    let conn = reactor.connect(&addrs[..], Framing::length_u32(), "mine".to_owned());
    let sent = reactor.with(|_, cx| cx.send(conn, b"early"));
    assert!(
        matches!(sent, Ok(Sent::Queued)),
        "output is queued until the connection opens"
    );
    drive(&mut reactor, |reactor| !reactor.handler().opened.is_empty());
    assert_eq!(reactor.handler().opened, [(conn, accepting)]);
    drive(&mut listening, |reactor| reactor.stats().frames_in == 1);
    assert_eq!(listening.handler().frames(), [b"early"]);

    let mut reactor = dialer();
    let addrs = [refusing, refusing];
    let conn = reactor.connect(&addrs[..], Framing::raw(), "mine".to_owned());
    let closed = failure(reactor, conn);
    assert_eq!(connect_error(&closed).kind(), ErrorKind::ConnectionRefused);
}
