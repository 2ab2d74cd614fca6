//! `peek` and `on_peek`: the bytes that are read and not decoded yet.

mod common;

use std::io::{Read, Write};
use std::time::Duration;

use common::{Event, FRAMINGS, Probe, deposit, drive, frame, listening, open, settle};
use unstick::{CloseReason, Config, ConnId, Context, Framing, Gone, Reactor};

fn peeks(reactor: &Reactor<Probe>) -> Vec<&[u8]> {
    let events = reactor.handler().events.iter();
    let peeks = events.filter_map(|event| match event {
        Event::Peek(_, bytes) => Some(&bytes[..]),
        _ => None,
    });
    peeks.collect()
}

/// Returns a probe that peeks at `len_min` bytes of each new connection.
fn peeks_at_open(len_min: usize) -> Probe {
    Probe::new(move |cx, event| {
        if let Event::Open(conn, _) = event {
            cx.peek(*conn, len_min).expect("the connection is open");
        }
    })
}

/// Returns a probe that chooses one of two framings by the first byte, which stays in the stream.
fn detects() -> Probe {
    Probe::new(|cx, event| match event {
        Event::Open(conn, _) => cx.peek(*conn, 1).expect("the connection is open"),
        Event::Peek(conn, bytes) => {
            let framing = match bytes[0] {
                b'{' => Framing::line(),
                _ => Framing::length_u32(),
            };
            cx.reframe(*conn, framing).expect("the connection is open");
        }
        _ => {}
    })
}

#[test]
fn first_byte_decides_between_two_framings() {
    let streams: [(&[u8], &[&[u8]]); 2] = [
        (b"{\"a\": 1}\n{\"b\": 2}\n", &[b"{\"a\": 1}", b"{\"b\": 2}"]),
        (b"\0\0\0\x02ab\0\0\0\x01c", &[b"ab", b"c"]),
    ];
    for (stream, frames) in streams {
        for cut in 1..=stream.len() {
            let (mut reactor, addr) = listening(detects(), Config::default(), Framing::raw());
            let (mut client, conn) = open(&mut reactor, addr);
            deposit(&mut reactor, &mut client, conn, &stream[..cut]);
            drive(&mut reactor, |it| it.stats().read_bytes == cut as u64);
            client.write_all(&stream[cut..]).expect("the server reads");
            drive(&mut reactor, |it| it.stats().frames_in == 2);
            assert_eq!(reactor.handler().frames(), frames, "cut at {cut}");
            assert_eq!(peeks(&reactor), [&stream[..cut]], "cut at {cut}");
        }
    }
}

/// If bytes follow `STARTTLS` in one read, `on_peek` receives them before they are decoded.
#[test]
fn bytes_after_the_current_frame_are_visible_at_once() {
    for after in [&b""[..], b"M", b"MAIL FROM:<a>\r\nRCPT"] {
        for is_recorded in [false, true] {
            let probe = Probe::new(|cx, event| match event {
                Event::Frame(conn, line) if line == b"STARTTLS" => {
                    cx.peek(*conn, 0).expect("the connection is open");
                }
                Event::Peek(conn, bytes) if bytes.is_empty() => {
                    let _ = cx.send(*conn, b"220").expect("the queue has space");
                }
                Event::Peek(conn, _) => {
                    let _ = cx.send(*conn, b"554").expect("the queue has space");
                    cx.close(*conn);
                }
                _ => {}
            });
            let (mut reactor, addr) = listening(probe, Config::default(), Framing::line());
            let (mut client, conn) = open(&mut reactor, addr);
            if is_recorded {
                reactor
                    .with(|_, cx| cx.record(conn))
                    .expect("the connection is open");
            }
            let stream = [b"EHLO b\r\nSTARTTLS\r\n", after].concat();
            deposit(&mut reactor, &mut client, conn, &stream);
            drive(&mut reactor, |it| !peeks(it).is_empty());
            assert_eq!(peeks(&reactor), [after]);
            assert_eq!(reactor.handler().frames(), [&b"EHLO b"[..], b"STARTTLS"]);
            drive(&mut reactor, |it| it.stats().written_bytes == 4);
            let mut answer = [0; 4];
            client.read_exact(&mut answer).expect("the answer arrives");
            let expected = if after.is_empty() { b"220\n" } else { b"554\n" };
            assert_eq!(&answer, expected);
        }
    }
}

/// The handler peeks in `on_open` and after each frame. The stream is cut at each offset in turn.
/// No byte may be lost or repeated.
#[test]
fn peek_before_each_frame_keeps_the_stream() {
    for name in FRAMINGS {
        let stream: Vec<u8> = (0..5).flat_map(|n| frame(name, &[b'a' + n; 9])).collect();
        for cut in 1..=stream.len() {
            let probe = Probe::new(|cx, event| match event {
                Event::Open(conn, _) | Event::Frame(conn, _) => {
                    cx.peek(*conn, 3).expect("the connection is open");
                }
                _ => {}
            });
            let framing: Framing = name.parse().expect("the short name is valid");
            let (mut reactor, addr) = listening(probe, Config::default(), framing);
            let (mut client, conn) = open(&mut reactor, addr);
            deposit(&mut reactor, &mut client, conn, &stream[..cut]);
            drive(&mut reactor, |it| it.stats().read_bytes == cut as u64);
            client.write_all(&stream[cut..]).expect("the server reads");
            common::send_fin(&client);
            drive(&mut reactor, |it| it.stats().closed == 1);
            let frames = reactor.handler().frames().concat();
            let all: Vec<u8> = (0..5).flat_map(|n| [b'a' + n; 9]).collect();
            assert_eq!(frames, all, "{name}, cut at {cut}");
            let closed = reactor.handler().only_close();
            assert_eq!(closed.undecoded_bytes, 0, "{name}, cut at {cut}");
        }
    }
}

/// Tests a frame of 200,000 bytes, which is read directly into its buffer, and a frame that is
/// skipped and not stored.
#[test]
fn peek_inside_a_long_or_skipped_frame_keeps_the_stream() {
    let framing = Framing::length_u32().frame_len_max(300_000).skip_too_long();
    for len in [200_000, 400_000] {
        let (mut reactor, addr) = listening(Probe::silent(), Config::default(), framing.clone());
        let (mut client, conn) = open(&mut reactor, addr);
        let stream = [frame("u32", &vec![7; len]), frame("u32", b"next")].concat();
        let mut sent = 0;
        for (step, wanted) in [(100_000, 1), (50_000, 120_000), (50_000, 0)] {
            deposit(&mut reactor, &mut client, conn, &stream[sent..sent + step]);
            sent += step;
            drive(&mut reactor, |it| it.stats().read_bytes == sent as u64);
            let peeked = reactor.with(|_, cx| cx.peek(conn, wanted));
            peeked.expect("the connection is open");
            settle(&mut reactor);
        }
        client.write_all(&stream[sent..]).expect("the server reads");
        common::send_fin(&client);
        drive(&mut reactor, |it| it.stats().closed == 1);
        let lens: Vec<_> = reactor
            .handler()
            .frames()
            .iter()
            .map(|frame| frame.len())
            .collect();
        match len {
            200_000 => {
                assert_eq!(lens, [200_000, 4]);
                let peeks: Vec<_> = peeks(&reactor).iter().map(|bytes| bytes.len()).collect();
                assert_eq!(peeks, [100_000, 150_000, 200_000]);
            }
            _ => assert_eq!(lens, [4]),
        }
    }
}

#[test]
fn peek_waits_for_its_bytes_or_the_end() {
    let (mut reactor, addr) = listening(peeks_at_open(5), Config::default(), Framing::length_u8());
    let (mut client, conn) = open(&mut reactor, addr);
    for bytes in [b"\x01", b"a", b"\x01", b"b"] {
        deposit(&mut reactor, &mut client, conn, bytes);
        settle(&mut reactor);
    }
    assert!(peeks(&reactor).is_empty());
    assert!(reactor.handler().frames().is_empty());
    assert_eq!(reactor.with(|_, cx| cx.undecoded_bytes(conn)), Ok(4));
    common::send_fin(&client);
    drive(&mut reactor, |it| it.stats().closed == 1);
    assert_eq!(peeks(&reactor), [b"\x01a\x01b"]);
    assert_eq!(reactor.handler().frames(), [b"a", b"b"]);
    assert_eq!(reactor.with(|_, cx| cx.peek(conn, 0)), Err(Gone));
}

/// A handler may call `peek` again in `on_peek` to wait for more bytes.
#[test]
fn repeated_peek_sees_a_growing_stream() {
    let probe = Probe::new(|cx, event| match event {
        Event::Open(conn, _) => cx.peek(*conn, 1).expect("the connection is open"),
        Event::Peek(conn, bytes) if bytes.len() < 4 => {
            cx.peek(*conn, bytes.len() + 1)
                .expect("the connection is open");
        }
        _ => {}
    });
    let (mut reactor, addr) = listening(probe, Config::default(), Framing::line());
    let (mut client, conn) = open(&mut reactor, addr);
    for bytes in [b"a", b"b", b"c", b"\n"] {
        deposit(&mut reactor, &mut client, conn, bytes);
        settle(&mut reactor);
    }
    assert_eq!(peeks(&reactor), [&b"a"[..], b"ab", b"abc", b"abc\n"]);
    assert_eq!(reactor.handler().frames(), [b"abc"]);
}

/// Each peek is deducted from the frame budget. So a turn ends even if every `on_peek` calls
/// `peek`.
#[test]
fn endless_peeks_spend_the_frame_budget() {
    let probe = Probe::new(|cx, event| {
        if let Event::Open(conn, _) | Event::Peek(conn, _) = event {
            cx.peek(*conn, 0).expect("the connection is open");
        }
    });
    let mut config = Config::default();
    config.frame_budget = 3;
    let (mut reactor, addr) = listening(probe, config, Framing::line());
    let (_client, _) = open(&mut reactor, addr);
    let before = peeks(&reactor).len();
    for _ in 0..10 {
        reactor
            .turn(Some(Duration::ZERO))
            .expect("polling succeeds");
    }
    assert_eq!(peeks(&reactor).len() - before, 30);
    assert_eq!(
        reactor.stats().frames_in,
        0,
        "a peek does not count as a frame"
    );
}

#[test]
fn pause_and_credit_delay_a_peek() {
    type Change = fn(&mut Context<'_, Probe>, ConnId) -> Result<(), Gone>;
    let holds: [(Change, Change); 2] = [
        (|cx, conn| cx.pause(conn), |cx, conn| cx.resume(conn)),
        (|cx, conn| cx.grant(conn, 0), |cx, conn| cx.grant(conn, 1)),
    ];
    for (hold, release) in holds {
        let (mut reactor, addr) = listening(peeks_at_open(1), Config::default(), Framing::line());
        let (mut client, conn) = open(&mut reactor, addr);
        reactor
            .with(|_, cx| hold(cx, conn))
            .expect("the connection is open");
        deposit(&mut reactor, &mut client, conn, b"a\n");
        settle(&mut reactor);
        assert!(peeks(&reactor).is_empty());
        reactor
            .with(|_, cx| release(cx, conn))
            .expect("the connection is open");
        drive(&mut reactor, |it| it.stats().frames_in == 1);
        assert_eq!(peeks(&reactor), [b"a\n"]);
    }
}

/// If the first grant is made in `on_peek`, the next frame uses credit. A first grant in `on_frame`
/// is different: the current frame uses no credit.
#[test]
fn first_grant_in_on_peek_counts_the_next_frame() {
    let probe = Probe::new(|cx, event| match event {
        Event::Open(conn, _) => cx.peek(*conn, 1).expect("the connection is open"),
        Event::Peek(conn, _) => cx.grant(*conn, 1).expect("the connection is open"),
        _ => {}
    });
    let (mut reactor, addr) = listening(probe, Config::default(), Framing::line());
    let (mut client, conn) = open(&mut reactor, addr);
    deposit(&mut reactor, &mut client, conn, b"a\nb\n");
    settle(&mut reactor);
    assert_eq!(reactor.handler().frames(), [b"a"]);
}

/// The frame deadline closes a connection whose peer does not send the bytes that a peek waits for.
#[test]
fn bytes_of_a_peek_count_for_frame_deadline() {
    let mut config = Config::default();
    config.frame_deadline = Some(Duration::from_millis(50));
    config.close_deadline = Duration::from_millis(1);
    let (mut reactor, addr) = listening(peeks_at_open(5), config, Framing::line());
    let (mut client, conn) = open(&mut reactor, addr);
    deposit(&mut reactor, &mut client, conn, b"a\n");
    drive(&mut reactor, |it| it.stats().closed == 1);
    let reason = &reactor.handler().only_close().reason;
    assert!(matches!(reason, CloseReason::FrameDeadline), "{reason}");
    assert!(peeks(&reactor).is_empty());
}

#[test]
fn peek_while_connecting_takes_effect_once_connected() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port is available");
    let addr = listener.local_addr().expect("the listener is bound");
    let mut reactor = Reactor::new(Probe::silent()).expect("the reactor is created");
    let conn = reactor.connect(addr, Framing::line(), ());
    reactor
        .with(|_, cx| cx.peek(conn, 2))
        .expect("the connect is in progress");
    let (mut peer, _) = listener.accept().expect("the reactor connects");
    drive(&mut reactor, |it| it.stats().connected == 1);
    peer.write_all(b"hi\n").expect("the reactor reads");
    drive(&mut reactor, |it| it.stats().frames_in == 1);
    assert_eq!(peeks(&reactor), [b"hi\n"]);
}
