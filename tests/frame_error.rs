//! `on_frame_error`: a last reply to malformed bytes, before the close.

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use common::{DEADLINE, Event, Probe, deposit, drive, listening, open};
use unstick::{
    CloseReason, Codec, Config, ConnId, Context, FrameError, Framing, LengthField, Out, Reactor,
    SendError, Step,
};

const REPLY: &[u8] = b"431 too large\r\n";

/// A codec that violates its contract at a `!`, and fails at a `?`.
struct Broken;

impl Codec for Broken {
    type State = ();

    fn decode(&self, (): &mut (), bytes: &[u8]) -> Result<Step, FrameError> {
        match bytes[0] {
            b'!' => Ok(Step::Need(0)),
            b'?' => Err(FrameError::other("a question")),
            _ => Ok(Step::Frame {
                frame: 0..1,
                consumed: 1,
            }),
        }
    }

    fn encode(&self, payload: &[u8], out: &mut Out<'_>) -> Result<(), FrameError> {
        out.put(payload);
        Ok(())
    }
}

/// Returns framings, each with malformed bytes and the offset of the malformed frame.
fn malformed() -> Vec<(Framing, &'static [u8], u64)> {
    let short = |framing: Framing| framing.frame_len_max(4);
    let field = LengthField::new(2).leading(b"v1").adjustment(-9);
    let rejects = |_: &[u8]| Err(FrameError::Malformed("unknown type"));
    vec![
        (short(Framing::line()), b"ok\nfar too long", 3),
        (short(Framing::delimiter(b"\r\n\r\n")), b"GET / HTTP/1.1", 0),
        (short(Framing::length_u8()), b"\x01a\x05", 2),
        (short(Framing::length_u16()), b"\xff\xff\xff", 0),
        (short(Framing::length_u24_le()), b"\xff\xff\xff", 0),
        (
            short(Framing::length_u32()),
            b"\0\0\0\x01a\xff\xff\xff\xff",
            5,
        ),
        (Framing::length_u64(), &[0xff; 8], 0),
        (Framing::varint(), &[0xff; 11], 0),
        (Framing::netstring(), b"1:a,05:", 4),
        (Framing::length_field(field), b"v1\0\x01", 0),
        (Framing::header_body(Framing::fixed(1), rejects), b"xyz", 0),
        (Framing::custom(Broken), b"ab!", 2),
        (Framing::custom(Broken), b"a?", 1),
    ]
}

/// Returns a probe that calls `react` in `on_frame_error`.
fn replying(react: impl Fn(&mut Context<'_, Probe>, ConnId) + Send + 'static) -> Probe {
    Probe::new(move |cx, event| {
        if let Event::FrameError(conn, _) = event {
            react(cx, *conn);
        }
    })
}

fn errors(reactor: &Reactor<Probe>) -> Vec<&FrameError> {
    let events = reactor.handler().events.iter();
    let errors = events.filter_map(|event| match event {
        Event::FrameError(_, error) => Some(error),
        _ => None,
    });
    errors.collect()
}

/// Checks that the peer receives `REPLY` and the end of the stream. Also checks that `on_close`
/// reports the frame error, at the offset `at`.
fn assert_replied(mut reactor: Reactor<Probe>, mut client: std::net::TcpStream, at: u64) {
    drive(&mut reactor, |it| {
        it.stats().written_bytes == REPLY.len() as u64
    });
    let mut received = Vec::new();
    let reader = std::thread::spawn(move || client.read_to_end(&mut received).map(|_| received));
    drive(&mut reactor, |it| it.stats().closed == 1);
    let received = reader.join().expect("the reader does not panic");
    assert_eq!(received.expect("the connection is not reset"), REPLY);
    let errors = errors(&reactor);
    assert_eq!(errors.len(), 1);
    let closed = reactor.handler().only_close();
    let CloseReason::Frame { error, offset } = &closed.reason else {
        panic!("{}", closed.reason);
    };
    assert_eq!((error.to_string(), *offset), (errors[0].to_string(), at));
    let last = reactor.handler().events.last();
    assert!(matches!(last, Some(Event::Close(..))), "{last:?}");
}

#[test]
fn every_framing_error_can_be_answered_before_the_close() {
    for (framing, bytes, at) in malformed() {
        for is_recorded in [false, true] {
            let probe = replying(|cx, conn| {
                let sent = cx.send_unframed(conn, REPLY);
                let _ = sent.expect("the connection is not closing yet");
            });
            let (mut reactor, addr) = listening(probe, Config::default(), framing.clone());
            let (mut client, conn) = open(&mut reactor, addr);
            if is_recorded {
                reactor
                    .with(|_, cx| cx.record(conn))
                    .expect("the connection is open");
            }
            deposit(&mut reactor, &mut client, conn, bytes);
            drive(&mut reactor, |it| !errors(it).is_empty());
            common::send_fin(&client);
            assert_replied(reactor, client, at);
        }
    }
}

/// The close discards unread input. Otherwise the kernel would send a reset, and the peer would
/// lose the reply.
#[test]
fn reply_to_a_malformed_frame_survives_unread_input() {
    let probe = replying(|cx, conn| {
        let _ = cx
            .send_unframed(conn, REPLY)
            .expect("the connection is not closing yet");
    });
    let mut config = Config::default();
    (config.read_len_max, config.read_budget_bytes) = (1000, 1000);
    let (mut reactor, addr) = listening(probe, config, Framing::line().frame_len_max(10));
    let (mut client, conn) = open(&mut reactor, addr);
    deposit(&mut reactor, &mut client, conn, &[b'a'; 100_000]);
    drive(&mut reactor, |it| !errors(it).is_empty());
    client
        .write_all(&[b'b'; 1000])
        .expect("the server still reads");
    common::send_fin(&client);
    assert_replied(reactor, client, 0);
}

/// A peer that never ends its side gets the reply, and is aborted at the close deadline.
#[test]
fn answered_peer_that_stays_is_aborted_at_close_deadline() {
    let probe = replying(|cx, conn| {
        let _ = cx
            .send_unframed(conn, REPLY)
            .expect("the connection is not closing yet");
    });
    let mut config = Config::default();
    config.close_deadline = Duration::from_millis(20);
    let (mut reactor, addr) = listening(probe, config, Framing::varint());
    let (mut client, conn) = open(&mut reactor, addr);
    deposit(&mut reactor, &mut client, conn, &[0xff; 11]);
    drive(&mut reactor, |it| it.stats().closed == 1);
    let reason = &reactor.handler().only_close().reason;
    assert!(matches!(reason, CloseReason::Frame { .. }), "{reason}");
    let mut received = [0; REPLY.len()];
    client.read_exact(&mut received).expect("the reply arrives");
    assert_eq!(received, REPLY);
}

/// Operations in the callback neither prevent the close nor change its reason.
#[test]
fn no_operation_in_on_frame_error_prevents_the_close() {
    type React = fn(&mut Context<'_, Probe>, ConnId);
    let reacts: [React; 11] = [
        |_, _| {},
        |cx, conn| cx.pause(conn).expect("the connection is open"),
        |cx, conn| cx.grant(conn, 0).expect("the connection is open"),
        |cx, conn| {
            cx.reframe(conn, Framing::raw())
                .expect("the connection is open")
        },
        |cx, conn| cx.peek(conn, 1).expect("the connection is open"),
        |cx, conn| cx.close(conn),
        |cx, conn| cx.half_close(conn).expect("the connection is open"),
        |cx, conn| cx.abort(conn),
        |cx, conn| {
            let limits = cx.limits(conn).expect("the connection is open");
            cx.set_limits(conn, limits).expect("the limits are valid");
        },
        |cx, _| cx.shutdown(DEADLINE),
        |cx, conn| {
            let error = cx.detach(conn).expect_err("the connection is closing");
            assert_eq!(error.kind(), ErrorKind::BrokenPipe);
        },
    ];
    for (index, react) in reacts.into_iter().enumerate() {
        let framing = Framing::line().frame_len_max(3);
        let (mut reactor, addr) = listening(replying(react), Config::default(), framing);
        let (mut client, conn) = open(&mut reactor, addr);
        deposit(&mut reactor, &mut client, conn, b"one\ntwo\nthree\nfour\n");
        drive(&mut reactor, |it| !errors(it).is_empty());
        let sent = reactor.with(|_, cx| cx.send(conn, b"late"));
        let is_refused = matches!(sent, Err(SendError::Closing | SendError::Gone));
        assert!(is_refused, "operation {index}: {sent:?}");
        // The result is ignored, because an abort has reset the client.
        let _ = client.shutdown(Shutdown::Write);
        drive(&mut reactor, |it| it.stats().closed == 1);
        let closed = reactor.handler().only_close();
        let is_frame = matches!(closed.reason, CloseReason::Frame { offset: 8, .. });
        assert!(is_frame, "operation {index}: {}", closed.reason);
        assert_eq!(reactor.handler().frames(), [b"one", b"two"]);
        assert_eq!(closed.undecoded_bytes, 11, "operation {index}");
    }
}

/// A framing that `on_frame_error` sets applies to the reply.
#[test]
fn reframe_in_on_frame_error_frames_the_reply() {
    let probe = replying(|cx, conn| {
        cx.reframe(conn, Framing::length_u8())
            .expect("the connection is open");
        let _ = cx
            .send(conn, &REPLY[1..])
            .expect("the connection is not closing yet");
    });
    let (mut reactor, addr) = listening(probe, Config::default(), Framing::line().frame_len_max(3));
    let (mut client, conn) = open(&mut reactor, addr);
    deposit(&mut reactor, &mut client, conn, b"three\n");
    drive(&mut reactor, |it| {
        it.stats().written_bytes == REPLY.len() as u64
    });
    let mut received = [0; REPLY.len()];
    client.read_exact(&mut received).expect("the reply arrives");
    assert_eq!(usize::from(received[0]), REPLY.len() - 1);
    assert_eq!(received[1..], REPLY[1..]);
}

#[test]
fn panic_in_on_frame_error_closes_only_its_connection() {
    let probe = replying(|_, _| panic!("panic raised by the handler"));
    let (mut reactor, addr) = listening(probe, Config::default(), Framing::line().frame_len_max(3));
    let (_other, _) = open(&mut reactor, addr);
    let (mut client, conn) = open(&mut reactor, addr);
    deposit(&mut reactor, &mut client, conn, b"three\n");
    let unwound = catch_unwind(AssertUnwindSafe(|| {
        drive(&mut reactor, |it| it.stats().closed == 1);
    }));
    unwound.expect_err("the panic leaves the turn");
    drive(&mut reactor, |it| it.stats().closed == 1);
    let (closed, report) = reactor.handler().closes()[0];
    assert_eq!(closed, conn);
    assert!(matches!(report.reason, CloseReason::HandlerPanicked));
    let error = client.read(&mut [0]).expect_err("the connection is reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}
