//! Connections that leave a reactor with their socket, and continue in another one.

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use common::{Event, Probe, client, deposit, drive, listening, open, open_narrow, settle, silent};
use unstick::{
    CloseReason, Closed, Codec, Config, ConnId, Context, Detached, FrameError, Framing, Handler,
    Origin, Out, Reactor, Step,
};

/// Removes all recorded events. Returns the detached connection of each `on_close`. Panics if an
/// `on_close` has another reason.
fn detached(reactor: &mut Reactor<Probe>) -> Vec<Detached> {
    let events = std::mem::take(&mut reactor.handler_mut().events);
    let closed = events.into_iter().filter_map(|event| match event {
        Event::Close(_, closed) => Some(closed),
        _ => None,
    });
    let taken = closed.map(|closed| match closed.reason {
        CloseReason::Detached(detached) => detached,
        reason => panic!("{reason}"),
    });
    taken.collect()
}

/// Detaches a connection from outside of its callbacks.
fn detach(reactor: &mut Reactor<Probe>, conn: ConnId) -> Detached {
    let result = reactor.with(|_, cx| cx.detach(conn));
    result.expect("the connection is open");
    settle(reactor);
    detached(reactor).pop().expect("the connection is detached")
}

/// A handler that echoes each frame, and then detaches the connection.
#[derive(Default)]
struct Hop {
    frames: Vec<Vec<u8>>,
    moved: Vec<(Detached, u64)>,
    ends: usize,
    opens: usize,
}

impl Handler for Hop {
    /// Number of frames of the connection.
    type Session = u64;

    fn on_open(&mut self, _: &mut Context<'_, Self>, _: ConnId, _: &mut u64, _: Origin) {
        self.opens += 1;
    }

    fn on_frame(
        &mut self,
        cx: &mut Context<'_, Self>,
        conn: ConnId,
        count: &mut u64,
        bytes: &[u8],
    ) {
        self.frames.push(bytes.to_vec());
        *count += 1;
        let _ = cx.send(conn, bytes).expect("the queue has space");
        cx.detach(conn).expect("the connection is open");
        let refused = cx.send(conn, b"late");
        refused.expect_err("the connection is detached");
    }

    fn on_close(&mut self, _: &mut Context<'_, Self>, _: ConnId, count: u64, closed: Closed) {
        assert_eq!((closed.unsent_bytes, closed.undecoded_bytes), (0, 0));
        match closed.reason {
            CloseReason::Detached(detached) => self.moved.push((detached, count)),
            CloseReason::Peer => self.ends += 1,
            reason => panic!("{reason}"),
        }
    }
}

/// Writes a stream in short pieces, and then a FIN, from another thread.
fn write_in_pieces(to: &TcpStream, bytes: Vec<u8>) -> std::thread::JoinHandle<()> {
    let mut to = to.try_clone().expect("a descriptor is available");
    std::thread::spawn(move || {
        let mut rest = &bytes[..];
        for len in (1..=7).cycle() {
            // The 50 frames before the long frame leave in pieces of 1 to 7 bytes. Later pieces are
            // longer, so that the test does not take long.
            let len = if rest.len() > 607_025 { len } else { 100 * len };
            let (piece, after) = rest.split_at(len.min(rest.len()));
            to.write_all(piece).expect("the server reads");
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        let ended = to.shutdown(std::net::Shutdown::Write);
        ended.expect("the server reads up to the end");
    })
}

/// Each frame is delivered by a different reactor than the previous frame. The stream is sent in
/// short pieces, so headers and payloads are cut.
#[test]
fn stream_that_moves_after_each_frame_keeps_every_byte() {
    let mut hops: Vec<_> = (0..3)
        .map(|_| Reactor::new(Hop::default()).expect("the reactor is created"))
        .collect();
    let listener = hops[0].listen("127.0.0.1:0", Framing::length_u32());
    let listener = listener.expect("a free port is available");
    let addr = hops[0].local_inet_addr(listener).expect("it is bound");
    let mut far = client(addr);
    // One of the frames is longer than a read.
    let frames: Vec<Vec<u8>> = (0..100_u8)
        .map(|nth| {
            vec![
                nth;
                if nth == 50 {
                    600_000
                } else {
                    usize::from(nth) * 7 % 300
                }
            ]
        })
        .collect();
    let bytes: Vec<u8> = frames
        .iter()
        .flat_map(|it| common::frame("u32", it))
        .collect();
    let writer = write_in_pieces(&far, bytes.clone());
    let reader = std::thread::spawn(move || {
        let mut echoed = Vec::new();
        far.read_to_end(&mut echoed).map(|_| echoed)
    });
    let mut delivered = Vec::new();
    let deadline = std::time::Instant::now() + common::DEADLINE;
    while hops.iter().all(|hop| hop.handler().ends == 0) {
        assert!(
            std::time::Instant::now() < deadline,
            "the stream has stopped"
        );
        for nth in 0..hops.len() {
            let turn = hops[nth].turn(Some(Duration::from_millis(1)));
            turn.expect("polling succeeds");
            delivered.append(&mut hops[nth].handler_mut().frames);
            let moved = std::mem::take(&mut hops[nth].handler_mut().moved);
            for (detached, count) in moved {
                assert_eq!(count, delivered.len() as u64, "the session moves too");
                let next = &mut hops[(nth + 1) % 3];
                next.with(|_, cx| cx.adopt_detached(detached, Framing::length_u32(), count));
            }
        }
    }
    assert!(delivered == frames);
    let echoed = reader.join().expect("the reader does not panic");
    assert!(echoed.expect("an end, not a reset") == bytes);
    writer.join().expect("the writer does not panic");
    let opens: usize = hops.iter().map(|hop| hop.handler().opens).sum();
    assert_eq!(
        opens, 101,
        "on_open runs once for the accept, and once for each of 100 moves"
    );
}

/// The client reads nothing, so most of the output is still in the write queue.
#[test]
fn unsent_output_moves_with_a_detached_connection() {
    const LEN: usize = 4_000_000;
    let (mut reactor, addr) = listening(Probe::silent(), Config::default(), Framing::raw());
    let (mut far, conn) = open_narrow(&mut reactor, addr);
    let output: Vec<u8> = (0..=250).cycle().take(LEN).collect();
    let sent = reactor.with(|_, cx| cx.send(conn, &output));
    let _ = sent.expect("the queue has space");
    settle(&mut reactor);
    let moved = detach(&mut reactor, conn);
    assert!(moved.unsent.len() > LEN / 2, "{}", moved.unsent.len());
    assert!(output.ends_with(&moved.unsent));
    assert_eq!(reactor.stats().unsent_bytes, 0);
    assert_eq!(reactor.stats().held_bytes, 0, "its memory is free");

    let mut other = Reactor::new(Probe::silent()).expect("the reactor is created");
    let conn = other.with(|_, cx| {
        let conn = cx.adopt_detached(moved, Framing::raw(), ());
        let _ = cx.send(conn, b"end").expect("the queue has space");
        conn
    });
    drive(&mut other, |it| it.stats().connected == 1);
    let opened = &other.handler().events[0];
    assert!(matches!(opened, Event::Open(id, Origin::Adopted) if *id == conn));
    let received = common::read_slowly(&mut other, &mut far, LEN + 3);
    assert!(received[..LEN] == output);
    assert_eq!(received[LEN..], *b"end");
}

/// To skip a frame, a length framing counts bytes, and a delimiter framing searches for its
/// delimiter.
#[test]
fn skip_of_a_too_long_frame_continues_after_a_move() {
    for (framing, start, end) in [
        (Framing::length_u8(), &b"\x09abc"[..], &b"defghi\x02ok"[..]),
        (Framing::line(), b"abcdefgh", b"ij\nok\n"),
        (Framing::delimiter(b"\r\n"), b"abcdefgh\r", b"\nok\r\n"),
    ] {
        let framing = framing.frame_len_max(4).skip_too_long();
        let (mut reactor, addr) = listening(Probe::silent(), Config::default(), framing.clone());
        let (mut far, conn) = open(&mut reactor, addr);
        deposit(&mut reactor, &mut far, conn, start);
        settle(&mut reactor);
        let moved = detach(&mut reactor, conn);
        assert!(moved.is_skipping(), "{framing}: {moved:?}");
        far.write_all(end).expect("the kernel takes the bytes");
        reactor.with(|_, cx| cx.adopt_detached(moved, framing.clone(), ()));
        drive(&mut reactor, |it| it.stats().frames_in == 1);
        assert_eq!(reactor.handler().frames(), [b"ok"], "{framing}");
    }
}

/// Adopted output above the low watermark counts as output above the high watermark.
#[test]
fn unsent_output_above_low_watermark_holds_reads_after_a_move() {
    const LEN: usize = 4_000_000;
    let (mut reactor, addr) = listening(Probe::silent(), Config::default(), Framing::line());
    let (mut far, conn) = open_narrow(&mut reactor, addr);
    let mut moved = detach(&mut reactor, conn);
    moved.unsent = vec![b'x'; LEN];
    far.write_all(b"request\n")
        .expect("the kernel takes the bytes");
    // The unsent output is longer than the low watermark and shorter than the high watermark.
    let mut config = Config::default();
    config.write_high_bytes = 2 * LEN;
    config.write_queue_bytes_max = 2 * LEN;
    let reactor = Reactor::with_config(Probe::silent(), config);
    let mut other = reactor.expect("the reactor is created");
    other.with(|_, cx| cx.adopt_detached(moved, Framing::line(), ()));
    drive(&mut other, |it| it.stats().connected == 1);
    settle(&mut other);
    let is_drained = |event: &Event| matches!(event, Event::Drained(_));
    assert_eq!(other.stats().frames_in, 0);
    assert_eq!(other.handler().count(is_drained), 0);
    common::read_slowly(&mut other, &mut far, LEN);
    drive(&mut other, |it| it.stats().frames_in == 1);
    assert_eq!(other.handler().count(is_drained), 1);
}

/// A user's codec for frames that end with a NUL byte. It skips a frame of more than 4 bytes.
struct Nul;

impl Codec for Nul {
    /// Number of skipped bytes of the current frame, and number of searched bytes after the skipped
    /// bytes.
    type State = (u64, usize);

    fn decode(
        &self,
        (skipped, searched): &mut (u64, usize),
        bytes: &[u8],
    ) -> Result<Step, FrameError> {
        let found = bytes[*searched..].iter().position(|byte| *byte == 0);
        let Some(at) = found.map(|at| *searched + at) else {
            if bytes.len() <= 4 {
                *searched = bytes.len();
                return Ok(Step::Need(bytes.len() + 1));
            }
            // Keep two bytes, so that undelivered bytes and `searched` move with the connection.
            let bytes = bytes.len() - 2;
            *skipped += bytes as u64;
            *searched = 0;
            return Ok(Step::SkipPart { bytes });
        };
        let len = std::mem::take(skipped) + at as u64;
        *searched = 0;
        if len > 4 {
            let (bytes, limit) = (at as u64 + 1, 4);
            return Ok(Step::SkipFrame { bytes, len, limit });
        }
        Ok(Step::Frame {
            frame: 0..at,
            consumed: at + 1,
        })
    }

    fn encode(&self, _: &[u8], _: &mut Out<'_>) -> Result<(), FrameError> {
        Ok(())
    }
}

/// Detaches a connection while its framing skips a frame that is too long. If `reframed` is set,
/// this framing replaces the old one before the detach. Returns the client and the detached
/// connection.
fn moved_in_a_skip(framing: &Framing, reframed: Option<Framing>) -> (TcpStream, Detached) {
    let framing = framing.clone().frame_len_max(4).skip_too_long();
    let (mut reactor, addr) = listening(Probe::silent(), Config::default(), framing);
    let (mut far, conn) = open(&mut reactor, addr);
    deposit(&mut reactor, &mut far, conn, b"abcdefgh");
    settle(&mut reactor);
    if let Some(framing) = reframed {
        let result = reactor.with(|_, cx| cx.reframe(conn, framing));
        result.expect("the connection is open");
    }
    (far, detach(&mut reactor, conn))
}

/// A framing that is skipping a frame moves with the connection, and its state moves too.
#[test]
fn skip_of_another_framing_continues_after_a_move() {
    let custom = Framing::custom(Nul);
    let short = Framing::length_u8();
    for (framing, reframed, adopted, end) in [
        (&custom, None, &custom, &b"ij\0ok\0"[..]),
        (&custom, None, &short, b"ij\0\x02ok"),
        (&custom, Some(short.clone()), &short, b"ij\0\x02ok"),
        (&Framing::line(), Some(short.clone()), &short, b"ij\n\x02ok"),
        (&Framing::line(), None, &short, b"ij\n\x02ok"),
    ] {
        let context = format!("{framing}, {reframed:?}, {adopted}");
        let (mut far, mut moved) = moved_in_a_skip(framing, reframed);
        assert!(moved.is_skipping(), "{context}: {moved:?}");
        let mut hops = 0;
        let mut reactor = loop {
            let mut reactor = Reactor::new(Probe::silent()).expect("the reactor is created");
            let conn = reactor.with(|_, cx| cx.adopt_detached(moved, adopted.clone(), ()));
            drive(&mut reactor, |it| it.stats().connected == 1);
            if hops == 2 {
                break reactor;
            }
            hops += 1;
            moved = detach(&mut reactor, conn);
            assert!(moved.is_skipping(), "{context}: {moved:?}");
        };
        far.write_all(end).expect("the kernel takes the bytes");
        drive(&mut reactor, |it| it.stats().frames_in == 1);
        assert_eq!(reactor.handler().frames(), [b"ok"], "{context}");
    }
}

/// The former framing continues its skip at the first undelivered byte. If the program has removed
/// the undelivered bytes, the skip ends, and the new framing decodes the next bytes.
#[test]
fn skip_ends_if_the_program_takes_undelivered_bytes() {
    for framing in [Framing::custom(Nul), Framing::line()] {
        let (mut far, mut moved) = moved_in_a_skip(&framing, None);
        let mut reactor = Reactor::new(Probe::silent()).expect("the reactor is created");
        moved.undelivered.clear();
        reactor.with(|_, cx| cx.adopt_detached(moved, Framing::length_u8(), ()));
        far.write_all(b"\x02ok")
            .expect("the kernel takes the bytes");
        drive(&mut reactor, |it| it.stats().frames_in == 1);
        assert_eq!(reactor.handler().frames(), [b"ok"], "{framing}");
    }
}

#[test]
fn bytes_that_a_program_has_read_are_delivered_first() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let mut far = client(listener.local_addr().expect("it is bound"));
    let (near, _) = listener.accept().expect("the client has connected");
    let mut moved = Detached::new(near);
    moved.undelivered = b"one\ntw".to_vec();
    moved.unsent = b"hello\n".to_vec();
    assert!(!moved.is_skipping());
    let mut reactor = Reactor::new(Probe::echo()).expect("the reactor is created");
    reactor.with(|_, cx| cx.adopt_detached(moved, Framing::line(), ()));
    drive(&mut reactor, |it| it.stats().frames_in == 1);
    far.write_all(b"o\n").expect("the server reads");
    drive(&mut reactor, |it| it.stats().frames_out == 2);
    assert_eq!(reactor.handler().frames(), [b"one", b"two"]);
    let mut received = [0; 14];
    far.read_exact(&mut received).expect("the server writes");
    assert_eq!(&received, b"hello\none\ntwo\n");
}

#[test]
fn failed_adoption_counts_the_bytes_as_lost() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let mut moved = Detached::new(listener);
    moved.undelivered = b"12345".to_vec();
    moved.unsent = b"123".to_vec();
    let mut reactor = Reactor::new(Probe::silent()).expect("the reactor is created");
    reactor.with(|_, cx| cx.adopt_detached(moved, Framing::line(), ()));
    drive(&mut reactor, |it| it.stats().closed == 1);
    let closed = reactor.handler().only_close();
    assert!(matches!(closed.reason, CloseReason::ConnectFailed(_)));
    assert_eq!((closed.unsent_bytes, closed.undecoded_bytes), (3, 5));
    assert_eq!(reactor.stats().held_bytes, 0);
}

#[test]
fn close_before_the_open_sends_the_adopted_output() {
    let (mut reactor, addr) = listening(Probe::silent(), Config::default(), Framing::line());
    let (mut far, conn) = open(&mut reactor, addr);
    let mut moved = detach(&mut reactor, conn);
    moved.unsent = vec![7; 100_000];
    moved.undelivered = b"12345".to_vec();
    reactor.with(|_, cx| {
        let conn = cx.adopt_detached(moved, Framing::line(), ());
        cx.close(conn);
    });
    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        far.read_to_end(&mut bytes).map(|_| bytes.len())
    });
    drive(&mut reactor, |it| it.stats().closed == 2);
    let len = reader.join().expect("the reader does not panic");
    assert_eq!(len.expect("the stream ends without a reset"), 100_000);
    let events = &reactor.handler().events;
    let [Event::Close(_, closed)] = &events[..] else {
        panic!("not only on_close: {events:?}");
    };
    assert!(
        matches!(closed.reason, CloseReason::Local),
        "{}",
        closed.reason
    );
    assert_eq!((closed.unsent_bytes, closed.undecoded_bytes), (0, 5));
}

#[test]
fn only_an_open_connection_can_be_detached() {
    let (mut reactor, addr) = listening(Probe::silent(), Config::default(), Framing::line());
    let kind = |reactor: &mut Reactor<Probe>, conn| {
        let result = reactor.with(|_, cx| cx.detach(conn));
        result.expect_err("the connection is not open").kind()
    };
    let (_held, dead) = silent();
    let connecting = reactor.connect(dead, Framing::line(), ());
    assert_eq!(kind(&mut reactor, connecting), ErrorKind::NotConnected);
    reactor.with(|_, cx| cx.abort(connecting));

    let (_far, half_closed) = open(&mut reactor, addr);
    let result = reactor.with(|_, cx| cx.half_close(half_closed));
    result.expect("the connection is open");
    assert_eq!(kind(&mut reactor, half_closed), ErrorKind::BrokenPipe);
    reactor.with(|_, cx| cx.close(half_closed));
    assert_eq!(kind(&mut reactor, half_closed), ErrorKind::BrokenPipe);

    let (far, conn) = open(&mut reactor, addr);
    reactor.with(|_, cx| cx.detach(conn)).expect("it is open");
    assert_eq!(kind(&mut reactor, conn), ErrorKind::NotConnected, "twice");
    settle(&mut reactor);
    assert_eq!(kind(&mut reactor, conn), ErrorKind::NotConnected, "closed");
    drop(far);
}

/// The frames that follow a detach stay undelivered. When the new owner closes the socket, the peer
/// gets a FIN and not a reset.
#[test]
fn detach_in_a_callback_keeps_the_output_of_the_new_owner() {
    let probe = Probe::new(|cx, event| {
        if let Event::Frame(conn, _) = event {
            cx.detach(*conn).expect("the connection is open");
        }
    });
    let (mut reactor, addr) = listening(probe, Config::default(), Framing::line());
    let mut far = client(addr);
    far.write_all(b"one\ntwo\nthr").expect("the server reads");
    drive(&mut reactor, |it| it.stats().closed == 1);
    assert_eq!(reactor.handler().frames(), [b"one"]);
    let Some(Event::Close(_, closed)) = reactor.handler_mut().events.pop() else {
        panic!("the last event is not on_close");
    };
    let CloseReason::Detached(detached) = closed.reason else {
        panic!("the close reason is not Detached: {closed:?}");
    };
    assert_eq!(detached.undelivered, b"two\nthr");
    let mut owner = TcpStream::from(detached.socket);
    owner.set_nonblocking(false).expect("the mode can be set");
    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        far.read_to_end(&mut bytes).map(|_| bytes.len())
    });
    owner.write_all(b"head").expect("the client reads");
    owner.write_all(&[7; 200_000]).expect("the client reads");
    drop(owner);
    let len = reader.join().expect("the reader does not panic");
    assert_eq!(len.expect("the stream ends without a reset"), 200_004);
}

/// `detach` removes the socket from the poll of its reactor.
#[test]
fn detached_socket_makes_no_event_in_its_former_reactor() {
    let (mut reactor, addr) = listening(Probe::silent(), Config::default(), Framing::line());
    let (mut far, conn) = open(&mut reactor, addr);
    let moved = detach(&mut reactor, conn);
    let events = reactor.stats().events;
    far.write_all(b"hello").expect("the socket is open");
    let mut near = TcpStream::from(moved.socket);
    near.set_nonblocking(false).expect("the mode can be set");
    near.read_exact(&mut [0; 5]).expect("the bytes arrive");
    settle(&mut reactor);
    assert_eq!(reactor.stats().events, events);
}

/// The peer ends its side before the connection is detached. The reactor that adopts the connection
/// reports this end again.
#[test]
fn end_of_the_stream_is_reported_after_a_move_too() {
    let mut probe = Probe::silent();
    probe.keep_half_closed = true;
    let (mut reactor, addr) = listening(probe, Config::default(), Framing::line());
    let (mut far, conn) = open(&mut reactor, addr);
    far.write_all(b"last").expect("the socket is open");
    far.shutdown(std::net::Shutdown::Write)
        .expect("it is connected");
    let is_half_closed = |event: &Event| matches!(event, Event::HalfClose(_));
    drive(&mut reactor, |it| it.handler().count(is_half_closed) == 1);
    let moved = detach(&mut reactor, conn);
    reactor.with(|_, cx| cx.adopt_detached(moved, Framing::line(), ()));
    drive(&mut reactor, |it| it.handler().count(is_half_closed) == 1);
}

#[cfg(unix)]
#[test]
fn unix_stream_can_be_detached() {
    let (mut far, near) = std::os::unix::net::UnixStream::pair().expect("a pair");
    let mut reactor = Reactor::new(Probe::silent()).expect("the reactor is created");
    let conn = reactor.with(|_, cx| cx.adopt_stream(near, Framing::line(), ()));
    drive(&mut reactor, |it| it.stats().connected == 1);
    far.write_all(b"par").expect("the socket is open");
    drive(&mut reactor, |it| it.stats().read_bytes == 3);
    let moved = detach(&mut reactor, conn);
    assert_eq!(moved.undelivered, b"par");
    let near = std::os::unix::net::UnixStream::from(moved.socket);
    near.shutdown(std::net::Shutdown::Both)
        .expect("the socket is open");
    assert_eq!(far.read(&mut [0]).expect("an end"), 0);
}

/// A callback that calls `detach` and then panics closes its connection, like any other panic.
#[test]
fn panic_after_detach_closes_the_connection() {
    let probe = Probe::new(|cx, event| {
        if let Event::Frame(conn, _) = event {
            cx.detach(*conn).expect("the connection is open");
            panic!("a bug of the program");
        }
    });
    let (mut reactor, addr) = listening(probe, Config::default(), Framing::line());
    let (mut far, _) = open(&mut reactor, addr);
    far.write_all(b"one\n").expect("the server reads");
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        drive(&mut reactor, |it| it.stats().closed == 1);
    }));
    panicked.expect_err("the handler panics");
    drive(&mut reactor, |it| it.stats().closed == 1);
    let closed = reactor.handler().only_close();
    assert!(matches!(closed.reason, CloseReason::HandlerPanicked));
    let error = far.read(&mut [0]).expect_err("the peer sees a reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}
