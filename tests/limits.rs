//! Nothing grows on a peer's word, nobody takes the others' turn, and what was stopped stays so.

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

/// As many as have room under a limit of 1,024 descriptors. What each costs is counted exactly.
const CONNECTIONS: usize = 400;

#[test]
fn headers_of_the_largest_frame_make_nothing_grow() {
    let framing = Framing::length_u32();
    let (mut reactor, addr) = listening(Probe::silent(), Config::default(), framing);
    let mut clients: Vec<TcpStream> = (0..CONNECTIONS).map(|_| client(addr)).collect();
    let all = CONNECTIONS as u64;
    drive(&mut reactor, |reactor| reactor.stats().accepted == all);
    let header = u32::try_from(Framing::FRAME_LEN_MAX).expect("1 MiB");
    let grown = allocation_counter::measure(|| {
        for client in &mut clients {
            client
                .write_all(&header.to_be_bytes())
                .expect("the kernel takes it");
        }
        drive(&mut reactor, |reactor| {
            reactor.stats().read_bytes == 4 * all
        });
    });
    assert_eq!(reactor.stats().closed, 0, "the length is allowed");
    let each = grown.bytes_max / all;
    assert!(each <= 256, "{each} bytes for a header of four");
}

#[test]
fn a_length_over_the_limit_closes_from_the_header_alone() {
    for name in [
        "u8", "u16", "u24", "u32", "u64", "u16-le", "u24-le", "u32-le", "u64-le",
    ] {
        let framing: Framing = name.parse().expect("the name of a framing");
        let framing = framing.frame_len_max(200);
        let (mut reactor, addr) = listening(Probe::silent(), Config::default(), framing);
        let (mut client, conn) = open(&mut reactor, addr);
        let good = frame(name, b"good");
        let mut header = frame(name, &[0; 201]);
        header.truncate(header.len() - 201);
        let (last, cut) = header.split_last().expect("a header has a byte");
        deposit(&mut reactor, &mut client, conn, &[&good, cut].concat());
        idle(&mut reactor);
        assert!(
            reactor.with(|_, cx| cx.send(conn, b"")).is_ok(),
            "it is open"
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
fn what_comes_behind_an_error_is_counted_and_never_delivered() {
    let framing = Framing::length_u32().frame_len_max(200);
    let (mut reactor, addr) = listening(Probe::silent(), Config::default(), framing);
    let (mut client, conn) = open(&mut reactor, addr);
    let good = frame("u32", b"good");
    let bad = 201_u32.to_be_bytes();
    let bytes = [&good[..], &good, &bad, &good, &good, &good].concat();
    deposit(&mut reactor, &mut client, conn, &bytes);
    idle(&mut reactor);
    // It is closing: this is discarded.
    client
        .write_all(&good.repeat(10))
        .expect("the kernel takes it");
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
fn a_codec_that_makes_no_progress_is_closed_for_it() {
    struct Stuck;

    impl Codec for Stuck {
        type State = u32;

        fn decode(&self, looks: &mut u32, bytes: &[u8]) -> Result<Step, FrameError> {
            *looks += 1;
            assert!(*looks < 100, "it is asked for ever");
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
        .expect("the kernel takes it");
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

/// By the order of turns, not by the clock: in each one the flooder gets its budget, and whoever
/// else has sent something gets it.
#[test]
fn a_flood_of_empty_frames_delays_nobody_by_more_than_its_budget() {
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
        reactor.turn(Some(DEADLINE)).expect("the poll works");
        let handler = reactor.handler();
        let of = |wanted: ConnId| {
            handler.count(|event| matches!(event, Event::Frame(conn, _) if *conn == wanted))
        };
        assert_eq!(of(flooding), 16, "turn {turn}");
        assert!(
            pingers.iter().all(|(_, conn)| of(*conn) == 1),
            "turn {turn}"
        );
    }
}

#[test]
fn a_line_that_never_ends_is_closed_at_its_limit_however_much_comes() {
    const SENT: usize = 64 << 20;
    let (mut reactor, addr) = listening(Probe::silent(), Config::default(), Framing::line());
    let mut client = client(addr);
    let writer = thread::spawn(move || {
        for _ in 0..SENT / 65_536 {
            client
                .write_all(&[b'x'; 65_536])
                .expect("it is read or discarded");
        }
    });
    let grown = allocation_counter::measure(|| {
        drive(&mut reactor, |reactor| reactor.stats().closed == 1);
    });
    writer.join().expect("all was written");
    assert_eq!(reactor.stats().read_bytes, SENT as u64);
    assert!(grown.bytes_max < 8 << 20, "{grown:?}");
    let closed = reactor.handler().only_close();
    let CloseReason::Frame { error, offset: 0 } = &closed.reason else {
        panic!("{closed:?}");
    };
    let limit = Framing::FRAME_LEN_MAX as u64;
    let FrameError::TooLong { len, limit: told } = error else {
        panic!("{error:?}");
    };
    assert!(*told == limit && *len > limit, "{error:?}");
    // Only what was read before it was closed counts, and that is one read over the limit at most.
    let most = limit + Config::default().read_len_max as u64;
    assert!(
        (limit + 1..=most).contains(&closed.undecoded_bytes),
        "{closed:?}"
    );
    assert_eq!(frame_count(&reactor), 0);
}

type Stop = fn(&mut Context<'_, Probe>, ConnId);

#[test]
fn no_frame_is_delivered_after_its_connection_was_paused_closed_or_aborted() {
    let stops: [Stop; 3] = [
        |cx, conn| cx.pause(conn).expect("it is open"),
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
fn a_resume_delivers_the_rest_with_no_further_traffic() {
    for read_len_max in [1, 5, 4096] {
        let mut config = Config::default();
        config.read_len_max = read_len_max;
        let probe = Probe::new(|cx, event| {
            if let Event::Frame(conn, _) = event {
                cx.pause(*conn).expect("it is open");
            }
        });
        let (mut reactor, addr) = listening(probe, config, Framing::line());
        let (mut client, conn) = open(&mut reactor, addr);
        deposit(&mut reactor, &mut client, conn, b"1\n2\n3\n4\n5\n");
        for count in 1..=5 {
            idle(&mut reactor);
            assert_eq!(frame_count(&reactor), count);
            reactor.with(|_, cx| cx.resume(conn)).expect("it is open");
        }
        idle(&mut reactor);
        assert_eq!(reactor.handler().frames(), [b"1", b"2", b"3", b"4", b"5"]);
    }
}

#[test]
fn a_pause_from_outside_stops_what_a_budget_left_over_and_all_reading() {
    let mut config = Config::default();
    config.frame_budget = 1;
    let (mut reactor, addr) = listening(Probe::silent(), config, Framing::line());
    let (mut client, conn) = open(&mut reactor, addr);
    deposit(&mut reactor, &mut client, conn, b"1\n2\n3\n");
    reactor.turn(Some(DEADLINE)).expect("the poll works");
    assert_eq!(frame_count(&reactor), 1);
    reactor.with(|_, cx| cx.pause(conn)).expect("it is open");
    let reads = reactor.stats().reads;
    deposit(&mut reactor, &mut client, conn, b"4\n5\n");
    idle(&mut reactor);
    assert_eq!((frame_count(&reactor), reactor.stats().reads), (1, reads));
    reactor.with(|_, cx| cx.resume(conn)).expect("it is open");
    idle(&mut reactor);
    assert_eq!(reactor.handler().frames(), [b"1", b"2", b"3", b"4", b"5"]);
}

/// A config with small marks.
fn low_marks() -> Config {
    let mut config = Config::default();
    config.write_high_bytes = 64 * 1024;
    config.write_low_bytes = 16 * 1024;
    config.write_queue_bytes_max = 2 << 20;
    config
}

const FLOOD_LEN: usize = 1_000_000;

/// Sends far beyond the high mark, and beyond what the kernel takes: [`FLOOD_LEN`] bytes.
fn send_above_high(cx: &mut Context<'_, Probe>, conn: ConnId) {
    let payload = [b'x'; 9996];
    for _ in 0..99 {
        let _ = cx.send(conn, &payload).expect("there is room");
    }
    assert!(matches!(cx.send(conn, &payload), Ok(Sent::AboveHigh)));
}

/// A reactor whose handler answers each `flood` by more than its peer takes.
fn flooding(config: Config) -> (Reactor<Probe>, SocketAddr) {
    let probe = Probe::new(|cx, event| match event {
        Event::Frame(conn, frame) if frame.starts_with(b"flood") => {
            if frame.ends_with(b"pause") {
                cx.pause(*conn).expect("it is open");
            }
            send_above_high(cx, *conn);
        }
        _ => {}
    });
    listening(probe, config, Framing::length_u32())
}

#[test]
fn draining_the_queue_does_not_undo_a_pause() {
    let (mut reactor, addr) = flooding(low_marks());
    let (mut client, conn) = open_narrow(&mut reactor, addr);
    let frames = [frame("u32", b"flood and pause"), frame("u32", b"2")].concat();
    deposit(&mut reactor, &mut client, conn, &frames);
    idle(&mut reactor);
    assert_eq!((frame_count(&reactor), drained_count(&reactor)), (1, 0));
    read_slowly(&mut reactor, &mut client, FLOOD_LEN);
    idle(&mut reactor);
    assert_eq!((frame_count(&reactor), drained_count(&reactor)), (1, 1));
    reactor.with(|_, cx| cx.resume(conn)).expect("it is open");
    idle(&mut reactor);
    assert_eq!((frame_count(&reactor), drained_count(&reactor)), (2, 1));
}

#[test]
fn a_resume_does_not_undo_the_stop_at_the_high_mark() {
    let (mut reactor, addr) = flooding(low_marks());
    let (mut client, conn) = open_narrow(&mut reactor, addr);
    let frames = [frame("u32", b"flood"), frame("u32", b"2")].concat();
    deposit(&mut reactor, &mut client, conn, &frames);
    idle(&mut reactor);
    reactor.with(|_, cx| cx.resume(conn)).expect("it is open");
    idle(&mut reactor);
    reactor.with(|_, cx| cx.pause(conn)).expect("it is open");
    reactor.with(|_, cx| cx.resume(conn)).expect("it is open");
    idle(&mut reactor);
    assert_eq!((frame_count(&reactor), drained_count(&reactor)), (1, 0));
    read_slowly(&mut reactor, &mut client, FLOOD_LEN);
    idle(&mut reactor);
    assert_eq!((frame_count(&reactor), drained_count(&reactor)), (2, 1));
}

#[test]
fn on_drained_comes_once_for_each_crossing_of_the_marks() {
    let probe = Probe::new(|cx, event| {
        if let Event::Drained(conn) = event {
            let queued = cx.queued_bytes(*conn).expect("it is open");
            assert!(queued <= 16 * 1024, "{queued} bytes are above the low mark");
            // Below the high mark, and so no crossing.
            let sent = cx.send(*conn, &[0; 96]);
            assert!(matches!(sent, Ok(Sent::Queued)), "{sent:?}");
        }
    });
    let (mut reactor, addr) = listening(probe, low_marks(), Framing::length_u32());
    let (mut client, conn) = open_narrow(&mut reactor, addr);
    for round in 0..5 {
        reactor.with(|_, cx| send_above_high(cx, conn));
        idle(&mut reactor);
        let queued = reactor
            .with(|_, cx| cx.queued_bytes(conn))
            .expect("it is open");
        assert!(queued > 16 * 1024, "the kernel took no more: {queued}");
        assert_eq!(drained_count(&reactor), round, "nothing was read");
        read_slowly(&mut reactor, &mut client, FLOOD_LEN + 100);
        idle(&mut reactor);
        let queued = reactor
            .with(|_, cx| cx.queued_bytes(conn))
            .expect("it is open");
        assert_eq!((queued, drained_count(&reactor)), (0, round + 1));
    }
}

#[test]
fn on_drained_comes_once_when_a_write_fails_above_the_high_mark() {
    let (mut reactor, addr) = flooding(low_marks());
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
    let told = closed.stats.written_bytes + closed.unsent_bytes;
    assert_eq!(told, FLOOD_LEN as u64, "each byte was taken or is counted");
    assert_eq!(drained_count(&reactor), 1);
}

/// Sends what fits and what does not; answers the bytes that are accepted.
fn send_until_full(cx: &mut Context<'_, Probe>, conn: ConnId) -> Vec<u8> {
    let mut accepted = Vec::new();
    let mut refused = 0;
    for index in 0..20 {
        let payload = [index; 996];
        let before = cx.queued_bytes(conn).expect("it is open");
        match cx.send(conn, &payload) {
            Ok(_) => accepted.extend(frame("u32", &payload)),
            Err(SendError::Full) => refused += 1,
            Err(error) => panic!("{error}"),
        }
        let after = cx.queued_bytes(conn).expect("it is open");
        assert!(after == before + 1000 || after == before);
        assert!(after <= 10_500, "{after} bytes are over the limit");
    }
    assert_eq!((accepted.len(), refused), (10_000, 10));
    // What still fits is taken.
    let _ = cx.send(conn, b"fits").expect("there is room for it");
    accepted.extend(frame("u32", b"fits"));
    accepted
}

#[test]
fn a_payload_refused_as_the_queue_is_full_leaves_nothing_in_it() {
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
        assert!(received == expected, "what was accepted, and nothing else");
        idle(&mut reactor);
        let queued = reactor.with(|_, cx| cx.queued_bytes(conn));
        assert_eq!((queued, drained_count(&reactor)), (Ok(0), 1));
    }
}

/// The high mark is the hard limit here, so that nothing is ever above it: still the one who was
/// told to wait is told when there is room.
#[test]
fn a_refusal_below_the_high_mark_is_followed_by_on_drained_too() {
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

/// Lines, which are put before they are looked at.
struct Hasty;

impl Codec for Hasty {
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
            return Err(FrameError::Unencodable("not one short line"));
        }
        Ok(())
    }
}

#[test]
fn a_payload_that_cannot_be_framed_leaves_nothing_in_the_queue() {
    fn refused(cx: &mut Context<'_, Probe>, conn: ConnId) {
        for payload in [&b"two\nlines"[..], &[b'x'; 101]] {
            let before = cx.queued_bytes(conn);
            let sent = cx.send(conn, payload);
            assert!(matches!(sent, Err(SendError::Frame(_))), "{sent:?}");
            assert_eq!(cx.queued_bytes(conn), before);
        }
        let _ = cx.send(conn, b"fine").expect("it can be framed");
    }
    for framing in [Framing::line().frame_len_max(100), Framing::custom(Hasty)] {
        let probe = Probe::new(|cx, event| {
            if let Event::Frame(conn, _) = event {
                refused(cx, *conn);
            }
        });
        let (mut reactor, addr) = listening(probe, Config::default(), framing);
        let (mut client, conn) = open(&mut reactor, addr);
        reactor.with(|_, cx| refused(cx, conn));
        deposit(&mut reactor, &mut client, conn, b"go\n");
        let received = read_slowly(&mut reactor, &mut client, 10);
        assert_eq!(received, b"fine\nfine\n");
    }
}

/// A handshake of one line, then frames with a length in front; all of it in one write.
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
fn a_reframe_in_on_frame_takes_the_bytes_behind_the_handshake() {
    for_read_sizes_and_budgets(|config| {
        let probe = Probe::new(|cx, event| {
            if let Event::Frame(conn, frame) = event
                && frame == b"HELLO"
            {
                let _ = cx.send(*conn, b"OK").expect("it is open");
                cx.reframe(*conn, Framing::length_u32())
                    .expect("it is open");
                let _ = cx.send(*conn, b"now\nframed").expect("it is open");
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
fn a_reframe_from_outside_takes_the_bytes_behind_the_handshake() {
    fn go_on(cx: &mut Context<'_, Probe>, conn: ConnId) {
        cx.reframe(conn, Framing::length_u32()).expect("it is open");
        cx.resume(conn).expect("it is open");
    }
    for_read_sizes_and_budgets(|config| {
        for by_timer in [true, false] {
            let mut paused = None;
            let probe = Probe::new(move |cx, event| match event {
                Event::Frame(conn, frame) if frame == b"HELLO" => {
                    cx.pause(*conn).expect("it is open");
                    paused = Some(*conn);
                    if by_timer {
                        cx.set_timer(Duration::ZERO, 1);
                    }
                }
                Event::Timer(_, 1) => go_on(cx, paused.expect("it was set by the handshake")),
                _ => {}
            });
            let (mut reactor, addr) = listening(probe, config.clone(), Framing::line());
            let (mut client, conn) = open(&mut reactor, addr);
            deposit(&mut reactor, &mut client, conn, &handshake_and_frames());
            if !by_timer {
                idle(&mut reactor);
                assert_eq!(frame_count(&reactor), 1);
                reactor.with(|_, cx| go_on(cx, conn));
            }
            drive(&mut reactor, |reactor| frame_count(reactor) == 4);
            let expected = [&b"HELLO"[..], b"a\nb", b"", b"\n"];
            assert_eq!(reactor.handler().frames(), expected);
        }
    });
}

#[test]
fn a_reframe_looks_anew_at_the_bytes_of_an_unfinished_frame() {
    let (mut reactor, addr) = listening(Probe::silent(), Config::default(), Framing::line());
    let (mut client, conn) = open(&mut reactor, addr);
    deposit(&mut reactor, &mut client, conn, b"\x03abc\x02de\x08f");
    idle(&mut reactor);
    assert_eq!(frame_count(&reactor), 0, "there is no line");
    let reframed = reactor.with(|_, cx| cx.reframe(conn, Framing::length_u8()));
    reframed.expect("it is open");
    idle(&mut reactor);
    assert_eq!(reactor.handler().frames(), [&b"abc"[..], b"de"]);
    deposit(&mut reactor, &mut client, conn, b"\ng");
    idle(&mut reactor);
    assert_eq!(frame_count(&reactor), 2, "it is cut short");
    let reframed = reactor.with(|_, cx| cx.reframe(conn, Framing::line()));
    reframed.expect("it is open");
    idle(&mut reactor);
    assert_eq!(reactor.handler().frames()[2..], [b"\x08f"]);
}
