//! Limits and back-pressure: frame length, budgets, pause, watermarks and the write queue.

mod common;

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use common::{
    DEADLINE, Event, Probe, client, deposit, drive, frame, idle, listening, open, open_narrow,
    read_slowly,
};
use socket2::SockRef;
use unstick::{
    CloseReason, Codec, Config, ConnId, Context, FrameError, Framing, Out, Reactor, SendError,
    Sent, Step,
};

fn frame_count(reactor: &Reactor<Probe>) -> usize {
    reactor.handler().frames().len()
}

fn drained_count(reactor: &Reactor<Probe>) -> usize {
    reactor
        .handler()
        .count(|event| matches!(event, Event::Drained(_)))
}

/// Number of connections. The descriptors of both ends fit a limit of 1,024.
const CONNECTIONS: usize = 400;

#[test]
fn header_of_the_largest_frame_allocates_no_frame_buffer() {
    let framing = Framing::length_u32();
    let (mut reactor, addr) = listening(Probe::silent(), Config::default(), framing);
    let mut clients: Vec<TcpStream> = (0..CONNECTIONS).map(|_| client(addr)).collect();
    let all = CONNECTIONS as u64;
    drive(&mut reactor, |reactor| reactor.stats().accepted == all);
    let header = u32::try_from(Framing::FRAME_LEN_MAX).expect("the limit of 1 MiB fits a u32");
    let grown = allocation_counter::measure(|| {
        for client in &mut clients {
            client
                .write_all(&header.to_be_bytes())
                .expect("the kernel accepts the bytes");
        }
        drive(&mut reactor, |reactor| {
            reactor.stats().read_bytes == 4 * all
        });
    });
    assert_eq!(
        reactor.stats().closed,
        0,
        "a length within the limit closes no connection"
    );
    let each = grown.bytes_max / all;
    assert!(
        each <= 256,
        "{each} bytes of memory per connection for a header of 4 bytes"
    );
}

#[test]
fn length_over_frame_len_max_closes_after_the_header() {
    for name in [
        "u8", "u16", "u24", "u32", "u64", "u16-le", "u24-le", "u32-le", "u64-le",
    ] {
        let framing: Framing = name.parse().expect("the framing's name is valid");
        let framing = framing.frame_len_max(200);
        let (mut reactor, addr) = listening(Probe::silent(), Config::default(), framing);
        let (mut client, conn) = open(&mut reactor, addr);
        let good = frame(name, b"good");
        let mut header = frame(name, &[0; 201]);
        header.truncate(header.len() - 201);
        let (last, cut) = header.split_last().expect("a header has at least one byte");
        deposit(&mut reactor, &mut client, conn, &[&good, cut].concat());
        idle(&mut reactor);
        assert!(
            reactor.with(|_, cx| cx.send(conn, b"")).is_ok(),
            "the connection is open"
        );
        deposit(&mut reactor, &mut client, conn, &[*last]);
        idle(&mut reactor);
        let sent = reactor.with(|_, cx| cx.send(conn, b""));
        assert!(matches!(sent, Err(SendError::Closing)), "{name}: {sent:?}");

        drop(client);
        drive(&mut reactor, |reactor| reactor.stats().closed == 1);
        let closed = reactor.handler().only_close();
        let CloseReason::Frame { error, offset } = &closed.reason else {
            panic!("{name}: {closed:?}");
        };
        assert!(
            matches!(
                error,
                FrameError::TooLong {
                    len: 201,
                    limit: 200
                }
            ),
            "{name}: {error:?}"
        );
        assert_eq!(*offset, good.len() as u64, "{name}");
        assert_eq!(closed.undecoded_bytes, header.len() as u64, "{name}");
        assert_eq!(reactor.handler().frames(), [b"good"], "{name}");
    }
}

#[test]
fn bytes_after_a_frame_error_are_counted_as_undecoded() {
    let framing = Framing::length_u32().frame_len_max(200);
    let (mut reactor, addr) = listening(Probe::silent(), Config::default(), framing);
    let (mut client, conn) = open(&mut reactor, addr);
    let good = frame("u32", b"good");
    let bad = 201_u32.to_be_bytes();
    let bytes = [&good[..], &good, &bad, &good, &good, &good].concat();
    deposit(&mut reactor, &mut client, conn, &bytes);
    idle(&mut reactor);
    // The connection is closing, so these frames are discarded.
    client
        .write_all(&good.repeat(10))
        .expect("the kernel accepts the bytes");
    drop(client);
    drive(&mut reactor, |reactor| reactor.stats().closed == 1);
    assert_eq!(reactor.handler().frames(), [b"good", b"good"]);
    let closed = reactor.handler().only_close();
    let CloseReason::Frame { offset, .. } = closed.reason else {
        panic!("{closed:?}");
    };
    assert_eq!(offset, 2 * good.len() as u64);
    assert_eq!(closed.undecoded_bytes, 4 + 3 * good.len() as u64);
    assert_eq!(reactor.stats().undecoded_bytes, closed.undecoded_bytes);
}

#[test]
fn codec_without_progress_closes_the_connection() {
    struct Stuck;

    impl Codec for Stuck {
        type State = u32;

        fn decode(&self, calls: &mut u32, bytes: &[u8]) -> Result<Step, FrameError> {
            *calls += 1;
            assert!(
                *calls < 100,
                "the codec was called 100 times without progress"
            );
            Ok(match bytes[0] {
                b'.' => Step::Frame {
                    frame: 0..1,
                    consumed: 1,
                },
                _ => Step::Skip { bytes: 0 },
            })
        }

        fn encode(&self, _: &[u8], _: &mut Out<'_>) -> Result<(), FrameError> {
            Ok(())
        }
    }

    let framing = Framing::custom(Stuck);
    let (mut reactor, addr) = listening(Probe::silent(), Config::default(), framing);
    client(addr)
        .write_all(b"..stuck..")
        .expect("the kernel accepts the bytes");
    drive(&mut reactor, |reactor| reactor.stats().closed == 1);
    let closed = reactor.handler().only_close();
    assert!(
        matches!(
            closed.reason,
            CloseReason::Frame {
                error: FrameError::Contract(_),
                offset: 2
            }
        ),
        "{closed:?}"
    );
    assert_eq!(closed.undecoded_bytes, 7);
    assert_eq!(frame_count(&reactor), 2);
}

/// Each turn delivers `frame_budget` frames of the flooding client, and every frame of the other
/// clients. The test counts turns instead of time, so it does not depend on the machine's speed.
#[test]
fn frame_budget_bounds_the_delay_by_a_flood_of_frames() {
    let mut config = Config::default();
    config.frame_budget = 16;
    let framing = Framing::length_u8();
    let (mut reactor, addr) = listening(Probe::silent(), config, framing);
    let (mut flooder, flooding) = open(&mut reactor, addr);
    let mut pingers: Vec<_> = (0..3).map(|_| open(&mut reactor, addr)).collect();
    deposit(&mut reactor, &mut flooder, flooding, &[0; 8000]);
    for turn in 1..=8000 / 16 {
        for (client, conn) in &mut pingers {
            deposit(&mut reactor, client, *conn, &frame("u8", b"ping"));
        }
        reactor.handler_mut().events.clear();
        reactor.turn(Some(DEADLINE)).expect("polling succeeds");
        let handler = reactor.handler();
        let frames_of = |wanted: ConnId| {
            handler.count(|event| matches!(event, Event::Frame(conn, _) if *conn == wanted))
        };
        assert_eq!(frames_of(flooding), 16, "turn {turn}");
        assert!(
            pingers.iter().all(|(_, conn)| frames_of(*conn) == 1),
            "turn {turn}"
        );
    }
}

#[test]
fn endless_line_closes_at_frame_len_max() {
    const SENT: usize = 64 << 20;
    let (mut reactor, addr) = listening(Probe::silent(), Config::default(), Framing::line());
    let mut client = client(addr);
    let writer = thread::spawn(move || {
        for _ in 0..SENT / 65_536 {
            client
                .write_all(&[b'x'; 65_536])
                .expect("the reactor reads or discards the bytes");
        }
    });
    let grown = allocation_counter::measure(|| {
        drive(&mut reactor, |reactor| reactor.stats().closed == 1);
    });
    writer.join().expect("the client wrote everything");
    assert_eq!(reactor.stats().read_bytes, SENT as u64);
    assert!(grown.bytes_max < 8 << 20, "{grown:?}");
    let closed = reactor.handler().only_close();
    let CloseReason::Frame { error, offset: 0 } = &closed.reason else {
        panic!("{closed:?}");
    };
    let limit = Framing::FRAME_LEN_MAX as u64;
    let FrameError::TooLong {
        len,
        limit: reported,
    } = error
    else {
        panic!("{error:?}");
    };
    assert!(*reported == limit && *len > limit, "{error:?}");
    // `undecoded_bytes` includes only the bytes read before the close. These bytes exceed the limit
    // by at most one read.
    let undecoded_max = limit + Config::default().read_len_max as u64;
    assert!(
        (limit + 1..=undecoded_max).contains(&closed.undecoded_bytes),
        "{closed:?}"
    );
    assert_eq!(frame_count(&reactor), 0);
}

type Stop = fn(&mut Context<'_, Probe>, ConnId);

#[test]
fn no_frame_is_delivered_after_pause_close_or_abort() {
    let stops: [Stop; 3] = [
        |cx, conn| cx.pause(conn).expect("the connection is open"),
        |cx, conn| cx.close(conn),
        |cx, conn| cx.abort(conn),
    ];
    for read_len_max in [1, 20, 4096] {
        for stop in stops {
            let mut config = Config::default();
            config.read_len_max = read_len_max;
            let probe = Probe::new(move |cx, event| {
                if let Event::Frame(conn, frame) = event
                    && frame == b"3"
                {
                    stop(cx, *conn);
                }
            });
            let (mut reactor, addr) = listening(probe, config, Framing::line());
            let (mut client, conn) = open(&mut reactor, addr);
            deposit(
                &mut reactor,
                &mut client,
                conn,
                b"1\n2\n3\n4\n5\n6\n7\n8\n9\n10\n",
            );
            idle(&mut reactor);
            assert_eq!(reactor.handler().frames(), [b"1", b"2", b"3"]);
        }
    }
}

#[test]
fn resume_delivers_pending_frames_without_further_input() {
    for read_len_max in [1, 5, 4096] {
        let mut config = Config::default();
        config.read_len_max = read_len_max;
        let probe = Probe::new(|cx, event| {
            if let Event::Frame(conn, _) = event {
                cx.pause(*conn).expect("the connection is open");
            }
        });
        let (mut reactor, addr) = listening(probe, config, Framing::line());
        let (mut client, conn) = open(&mut reactor, addr);
        deposit(&mut reactor, &mut client, conn, b"1\n2\n3\n4\n5\n");
        for count in 1..=5 {
            idle(&mut reactor);
            assert_eq!(frame_count(&reactor), count);
            reactor
                .with(|_, cx| cx.resume(conn))
                .expect("the connection is open");
        }
        idle(&mut reactor);
        assert_eq!(reactor.handler().frames(), [b"1", b"2", b"3", b"4", b"5"]);
    }
}

#[test]
fn pause_between_turns_stops_pending_frames_and_reads() {
    let mut config = Config::default();
    config.frame_budget = 1;
    let (mut reactor, addr) = listening(Probe::silent(), config, Framing::line());
    let (mut client, conn) = open(&mut reactor, addr);
    deposit(&mut reactor, &mut client, conn, b"1\n2\n3\n");
    reactor.turn(Some(DEADLINE)).expect("polling succeeds");
    assert_eq!(frame_count(&reactor), 1);
    reactor
        .with(|_, cx| cx.pause(conn))
        .expect("the connection is open");
    let reads = reactor.stats().reads;
    deposit(&mut reactor, &mut client, conn, b"4\n5\n");
    idle(&mut reactor);
    assert_eq!((frame_count(&reactor), reactor.stats().reads), (1, reads));
    reactor
        .with(|_, cx| cx.resume(conn))
        .expect("the connection is open");
    idle(&mut reactor);
    assert_eq!(reactor.handler().frames(), [b"1", b"2", b"3", b"4", b"5"]);
}

/// Returns a config with low write watermarks.
fn low_watermarks() -> Config {
    let mut config = Config::default();
    config.write_high_bytes = 64 * 1024;
    config.write_low_bytes = 16 * 1024;
    config.write_queue_bytes_max = 2 << 20;
    config
}

/// Number of bytes that [`send_above_high`] sends, headers included.
const FLOOD_LEN: usize = 1_000_000;

/// Sends [`FLOOD_LEN`] bytes, which exceed the high watermark and the kernel's buffers together.
fn send_above_high(cx: &mut Context<'_, Probe>, conn: ConnId) {
    let payload = [b'x'; 9996];
    for _ in 0..99 {
        let _ = cx.send(conn, &payload).expect("the queue has space");
    }
    assert!(matches!(cx.send(conn, &payload), Ok(Sent::AboveHigh)));
}

/// Returns a reactor whose handler replies with [`FLOOD_LEN`] bytes to each frame that starts with
/// `flood`. If the frame ends with `pause`, the handler also pauses the connection.
fn flooding(config: Config) -> (Reactor<Probe>, SocketAddr) {
    let probe = Probe::new(|cx, event| match event {
        Event::Frame(conn, frame) if frame.starts_with(b"flood") => {
            if frame.ends_with(b"pause") {
                cx.pause(*conn).expect("the connection is open");
            }
            send_above_high(cx, *conn);
        }
        _ => {}
    });
    listening(probe, config, Framing::length_u32())
}

#[test]
fn drained_write_queue_does_not_end_a_pause() {
    let (mut reactor, addr) = flooding(low_watermarks());
    let (mut client, conn) = open_narrow(&mut reactor, addr);
    let frames = [frame("u32", b"flood and pause"), frame("u32", b"2")].concat();
    deposit(&mut reactor, &mut client, conn, &frames);
    idle(&mut reactor);
    assert_eq!((frame_count(&reactor), drained_count(&reactor)), (1, 0));
    read_slowly(&mut reactor, &mut client, FLOOD_LEN);
    idle(&mut reactor);
    assert_eq!((frame_count(&reactor), drained_count(&reactor)), (1, 1));
    reactor
        .with(|_, cx| cx.resume(conn))
        .expect("the connection is open");
    idle(&mut reactor);
    assert_eq!((frame_count(&reactor), drained_count(&reactor)), (2, 1));
}

#[test]
fn resume_does_not_override_the_high_watermark() {
    let (mut reactor, addr) = flooding(low_watermarks());
    let (mut client, conn) = open_narrow(&mut reactor, addr);
    let frames = [frame("u32", b"flood"), frame("u32", b"2")].concat();
    deposit(&mut reactor, &mut client, conn, &frames);
    idle(&mut reactor);
    reactor
        .with(|_, cx| cx.resume(conn))
        .expect("the connection is open");
    idle(&mut reactor);
    reactor
        .with(|_, cx| cx.pause(conn))
        .expect("the connection is open");
    reactor
        .with(|_, cx| cx.resume(conn))
        .expect("the connection is open");
    idle(&mut reactor);
    assert_eq!((frame_count(&reactor), drained_count(&reactor)), (1, 0));
    read_slowly(&mut reactor, &mut client, FLOOD_LEN);
    idle(&mut reactor);
    assert_eq!((frame_count(&reactor), drained_count(&reactor)), (2, 1));
}

#[test]
fn on_drained_runs_once_per_high_watermark_crossing() {
    let probe = Probe::new(|cx, event| {
        if let Event::Drained(conn) = event {
            let queued = cx.queued_bytes(*conn).expect("the connection is open");
            assert!(
                queued <= 16 * 1024,
                "the queue of {queued} bytes exceeds the low watermark"
            );
            // This send stays below the high watermark, so it causes no second `on_drained`.
            let sent = cx.send(*conn, &[0; 96]);
            assert!(matches!(sent, Ok(Sent::Queued)), "{sent:?}");
        }
    });
    let (mut reactor, addr) = listening(probe, low_watermarks(), Framing::length_u32());
    let (mut client, conn) = open_narrow(&mut reactor, addr);
    for round in 0..5 {
        reactor.with(|_, cx| send_above_high(cx, conn));
        idle(&mut reactor);
        let queued = reactor
            .with(|_, cx| cx.queued_bytes(conn))
            .expect("the connection is open");
        assert!(
            queued > 16 * 1024,
            "the queue of only {queued} bytes is not above the low watermark"
        );
        assert_eq!(
            drained_count(&reactor),
            round,
            "on_drained runs only after the client has read"
        );
        read_slowly(&mut reactor, &mut client, FLOOD_LEN + 100);
        idle(&mut reactor);
        let queued = reactor
            .with(|_, cx| cx.queued_bytes(conn))
            .expect("the connection is open");
        assert_eq!((queued, drained_count(&reactor)), (0, round + 1));
    }
}

#[test]
fn on_drained_runs_once_if_a_write_fails_above_high() {
    let (mut reactor, addr) = flooding(low_watermarks());
    let (mut client, conn) = open_narrow(&mut reactor, addr);
    deposit(&mut reactor, &mut client, conn, &frame("u32", b"flood"));
    idle(&mut reactor);
    assert_eq!(drained_count(&reactor), 0);
    SockRef::from(&client)
        .set_linger(Some(Duration::ZERO))
        .expect("the option can be set");
    drop(client);
    drive(&mut reactor, |reactor| reactor.stats().closed == 1);
    let closed = reactor.handler().only_close();
    assert!(matches!(closed.reason, CloseReason::Io(_)), "{closed:?}");
    assert!(closed.unsent_bytes > 64 * 1024, "{closed:?}");
    let reported = closed.stats.written_bytes + closed.unsent_bytes;
    assert_eq!(
        reported, FLOOD_LEN as u64,
        "each byte was written or is counted as unsent"
    );
    assert_eq!(drained_count(&reactor), 1);
}

/// Sends more frames than the write queue can hold, then a short frame that still fits. Returns the
/// accepted frames.
fn send_until_full(cx: &mut Context<'_, Probe>, conn: ConnId) -> Vec<u8> {
    let mut accepted = Vec::new();
    let mut refused = 0;
    for index in 0..20 {
        let payload = [index; 996];
        let before = cx.queued_bytes(conn).expect("the connection is open");
        match cx.send(conn, &payload) {
            Ok(_) => accepted.extend(frame("u32", &payload)),
            Err(SendError::Full) => refused += 1,
            Err(error) => panic!("{error}"),
        }
        let after = cx.queued_bytes(conn).expect("the connection is open");
        assert!(after == before + 1000 || after == before);
        assert!(
            after <= 10_500,
            "{after} queued bytes exceed write_queue_bytes_max"
        );
    }
    assert_eq!((accepted.len(), refused), (10_000, 10));
    // A smaller payload still fits.
    let _ = cx.send(conn, b"fits").expect("the queue has space");
    accepted.extend(frame("u32", b"fits"));
    accepted
}

#[test]
fn send_to_a_full_write_queue_queues_nothing() {
    for from_a_callback in [true, false] {
        let mut config = Config::default();
        config.write_queue_bytes_max = 10_500;
        config.write_high_bytes = 8000;
        config.write_low_bytes = 4000;
        let probe = Probe::new(|cx, event| {
            if let Event::Frame(conn, _) = event {
                send_until_full(cx, *conn);
            }
        });
        let (mut reactor, addr) = listening(probe, config, Framing::length_u32());
        let (mut client, conn) = open(&mut reactor, addr);
        let expected: Vec<u8> = (0..10).flat_map(|i| frame("u32", &[i; 996])).collect();
        let expected = [expected, frame("u32", b"fits")].concat();
        if from_a_callback {
            deposit(&mut reactor, &mut client, conn, &frame("u32", b"go"));
        } else {
            let accepted = reactor.with(|_, cx| send_until_full(cx, conn));
            assert!(accepted == expected);
        }
        let received = read_slowly(&mut reactor, &mut client, expected.len());
        assert!(
            received == expected,
            "the client did not receive exactly the accepted payloads"
        );
        idle(&mut reactor);
        let queued = reactor.with(|_, cx| cx.queued_bytes(conn));
        assert_eq!((queued, drained_count(&reactor)), (Ok(0), 1));
    }
}

/// The high watermark equals the hard limit, so the queue never exceeds the high watermark.
/// `on_drained` must still follow a send that failed with `SendError::Full`.
#[test]
fn on_drained_follows_send_error_full_below_high_watermark() {
    for from_a_callback in [true, false] {
        let mut config = Config::default();
        config.write_queue_bytes_max = 1000;
        config.write_high_bytes = 1000;
        config.write_low_bytes = 100;
        let probe = Probe::new(|cx, event| {
            if let Event::Frame(conn, _) = event {
                send_twice(cx, *conn);
            }
        });
        let (mut reactor, addr) = listening(probe, config, Framing::length_u32());
        let (mut client, conn) = open(&mut reactor, addr);
        if from_a_callback {
            deposit(&mut reactor, &mut client, conn, &frame("u32", b"go"));
        } else {
            reactor.with(|_, cx| send_twice(cx, conn));
        }
        let expected = frame("u32", &[7; 600]);
        assert!(read_slowly(&mut reactor, &mut client, expected.len()) == expected);
        idle(&mut reactor);
        assert_eq!(drained_count(&reactor), 1);
    }
}

fn send_twice(cx: &mut Context<'_, Probe>, conn: ConnId) {
    assert!(matches!(cx.send(conn, &[7; 600]), Ok(Sent::Queued)));
    assert!(matches!(cx.send(conn, &[7; 600]), Err(SendError::Full)));
}

/// A line codec that first writes the payload to the output, and then checks the payload.
struct EncodesBeforeCheck;

impl Codec for EncodesBeforeCheck {
    type State = ();

    fn decode(&self, (): &mut (), bytes: &[u8]) -> Result<Step, FrameError> {
        let end = bytes.iter().position(|byte| *byte == b'\n');
        Ok(end.map_or(Step::Need(bytes.len() + 1), |end| Step::Frame {
            frame: 0..end,
            consumed: end + 1,
        }))
    }

    fn encode(&self, payload: &[u8], out: &mut Out<'_>) -> Result<(), FrameError> {
        out.put(payload);
        out.put(b"\n");
        if payload.contains(&b'\n') || payload.len() > 100 {
            return Err(FrameError::Unencodable("not a single short line"));
        }
        Ok(())
    }
}

#[test]
fn payload_that_cannot_be_encoded_queues_nothing() {
    fn assert_refused(cx: &mut Context<'_, Probe>, conn: ConnId) {
        for payload in [&b"two\nlines"[..], &[b'x'; 101]] {
            let before = cx.queued_bytes(conn);
            let sent = cx.send(conn, payload);
            assert!(matches!(sent, Err(SendError::Frame(_))), "{sent:?}");
            assert_eq!(cx.queued_bytes(conn), before);
        }
        let _ = cx.send(conn, b"fine").expect("the payload can be encoded");
    }
    for framing in [
        Framing::line().frame_len_max(100),
        Framing::custom(EncodesBeforeCheck),
    ] {
        let probe = Probe::new(|cx, event| {
            if let Event::Frame(conn, _) = event {
                assert_refused(cx, *conn);
            }
        });
        let (mut reactor, addr) = listening(probe, Config::default(), framing);
        let (mut client, conn) = open(&mut reactor, addr);
        reactor.with(|_, cx| assert_refused(cx, conn));
        deposit(&mut reactor, &mut client, conn, b"go\n");
        let received = read_slowly(&mut reactor, &mut client, 10);
        assert_eq!(received, b"fine\nfine\n");
    }
}

/// Returns a handshake of one line, followed by length-prefixed frames.
fn handshake_and_frames() -> Vec<u8> {
    let frames = [&b"a\nb"[..], b"", b"\n"].map(|payload| frame("u32", payload));
    [&b"HELLO\n"[..], &frames.concat()].concat()
}

fn for_read_sizes_and_budgets(mut test: impl FnMut(Config)) {
    for read_len_max in [1, 2, 7, 256 * 1024] {
        for frame_budget in [1, 1024] {
            let mut config = Config::default();
            config.read_len_max = read_len_max;
            config.frame_budget = frame_budget;
            test(config);
        }
    }
}

#[test]
fn reframe_in_on_frame_applies_to_the_following_bytes() {
    for_read_sizes_and_budgets(|config| {
        let probe = Probe::new(|cx, event| {
            if let Event::Frame(conn, frame) = event
                && frame == b"HELLO"
            {
                let _ = cx.send(*conn, b"OK").expect("the connection is open");
                cx.reframe(*conn, Framing::length_u32())
                    .expect("the connection is open");
                let _ = cx
                    .send(*conn, b"now\nframed")
                    .expect("the connection is open");
            }
        });
        let (mut reactor, addr) = listening(probe, config, Framing::line());
        let (mut client, conn) = open(&mut reactor, addr);
        deposit(&mut reactor, &mut client, conn, &handshake_and_frames());
        drive(&mut reactor, |reactor| frame_count(reactor) == 4);
        let expected = [&b"HELLO"[..], b"a\nb", b"", b"\n"];
        assert_eq!(reactor.handler().frames(), expected);
        let answer = [&b"OK\n"[..], &frame("u32", b"now\nframed")].concat();
        assert_eq!(read_slowly(&mut reactor, &mut client, answer.len()), answer);
    });
}

#[test]
fn reframe_outside_on_frame_applies_to_pending_bytes() {
    fn reframe_and_resume(cx: &mut Context<'_, Probe>, conn: ConnId) {
        cx.reframe(conn, Framing::length_u32())
            .expect("the connection is open");
        cx.resume(conn).expect("the connection is open");
    }
    for_read_sizes_and_budgets(|config| {
        for by_timer in [true, false] {
            let mut paused = None;
            let probe = Probe::new(move |cx, event| match event {
                Event::Frame(conn, frame) if frame == b"HELLO" => {
                    cx.pause(*conn).expect("the connection is open");
                    paused = Some(*conn);
                    if by_timer {
                        cx.set_timer(Duration::ZERO, 1);
                    }
                }
                Event::Timer(_, 1) => {
                    reframe_and_resume(cx, paused.expect("the frame `HELLO` stored the connection"))
                }
                _ => {}
            });
            let (mut reactor, addr) = listening(probe, config.clone(), Framing::line());
            let (mut client, conn) = open(&mut reactor, addr);
            deposit(&mut reactor, &mut client, conn, &handshake_and_frames());
            if !by_timer {
                idle(&mut reactor);
                assert_eq!(frame_count(&reactor), 1);
                reactor.with(|_, cx| reframe_and_resume(cx, conn));
            }
            drive(&mut reactor, |reactor| frame_count(reactor) == 4);
            let expected = [&b"HELLO"[..], b"a\nb", b"", b"\n"];
            assert_eq!(reactor.handler().frames(), expected);
        }
    });
}

#[test]
fn reframe_decodes_a_partial_frame_again() {
    let (mut reactor, addr) = listening(Probe::silent(), Config::default(), Framing::line());
    let (mut client, conn) = open(&mut reactor, addr);
    deposit(&mut reactor, &mut client, conn, b"\x03abc\x02de\x08f");
    idle(&mut reactor);
    assert_eq!(
        frame_count(&reactor),
        0,
        "no frame is delivered before the line is complete"
    );
    let reframed = reactor.with(|_, cx| cx.reframe(conn, Framing::length_u8()));
    reframed.expect("the connection is open");
    idle(&mut reactor);
    assert_eq!(reactor.handler().frames(), [&b"abc"[..], b"de"]);
    deposit(&mut reactor, &mut client, conn, b"\ng");
    idle(&mut reactor);
    assert_eq!(
        frame_count(&reactor),
        2,
        "no frame is delivered before the third frame is complete"
    );
    let reframed = reactor.with(|_, cx| cx.reframe(conn, Framing::line()));
    reframed.expect("the connection is open");
    idle(&mut reactor);
    assert_eq!(reactor.handler().frames()[2..], [b"\x08f"]);
}
