//! Frames longer than the limit, in a framing that skips them: the order of `on_skipped` among the
//! frames, and a pause, close or reframe in this callback.

mod common;

use std::io::Write;
use std::time::Duration;

use common::{Event, Probe, drive, frame, listening, settle};
use unstick::{CloseReason, Config, ConnId, Context, FrameError, Framing, Reactor};

/// Maximum frame length in bytes.
const LIMIT: usize = 10;
const NAMES: [&str; 5] = ["line", "u32", "varint", "netstring", "delimiter-;;"];

fn framing(name: &str) -> Framing {
    let framing: Framing = name.parse().expect("the name is a known framing");
    framing.frame_len_max(LIMIT).skip_too_long()
}

fn sent(name: &str, payload: &[u8]) -> Vec<u8> {
    match name {
        "delimiter-;;" => [payload, b";;"].concat(),
        name => frame(name, payload),
    }
}

/// Returns the callbacks in order: a frame by its content, a skipped frame as `LENGTH > LIMIT`, a
/// half-close as `end`, and a close by its reason.
fn story(reactor: &Reactor<Probe>) -> Vec<String> {
    let events = reactor.handler().events.iter();
    let describe = |event: &Event| match event {
        Event::Frame(_, frame) => Some(frame.escape_ascii().to_string()),
        Event::Skipped(_, skipped) => Some(format!("{} > {}", skipped.len, skipped.limit)),
        Event::HalfClose(_) => Some("end".to_owned()),
        Event::Close(_, closed) => Some(closed.reason.to_string()),
        _ => None,
    };
    events.filter_map(describe).collect()
}

/// Encodes the frame `a`, a frame of `len` bytes that exceeds the limit, and the frame `b`.
fn stream(name: &str, len: usize) -> Vec<u8> {
    let frames = [&b"a"[..], &vec![b'z'; len], b"b"];
    frames.map(|payload| sent(name, payload)).concat()
}

#[test]
fn too_long_frame_is_skipped_in_stream_order() {
    for name in NAMES {
        for (read_len_max, frame_budget) in [(1, 1024), (7, 1), (65_536, 1024), (65_536, 1)] {
            let mut config = Config::default();
            config.read_len_max = read_len_max;
            config.frame_budget = frame_budget;
            let (mut reactor, addr) = listening(Probe::silent(), config, framing(name));
            let mut client = common::client(addr);
            let bytes = stream(name, 3000);
            client.write_all(&bytes).expect("the write succeeds");
            drive(&mut reactor, |reactor| reactor.stats().frames_in == 2);
            assert_eq!(story(&reactor), ["a", "3000 > 10", "b"], "{name}");
            assert_eq!(reactor.stats().frames_skipped, 1);
            drop(client);
            drive(&mut reactor, |reactor| reactor.stats().closed == 1);
            assert_eq!(reactor.stats().undecoded_bytes, 0, "{name}");
        }
    }
}

/// Returns a probe that also calls `react` for each skipped frame.
fn when_skipped(mut react: impl FnMut(&mut Context<'_, Probe>, ConnId) + Send + 'static) -> Probe {
    Probe::new(move |cx, event| {
        if let Event::Skipped(conn, _) = event {
            react(cx, *conn);
        }
    })
}

#[test]
fn pause_in_on_skipped_holds_back_later_frames() {
    for name in NAMES {
        for len in [11, 100_000] {
            let handler = when_skipped(|cx, conn| cx.pause(conn).expect("the connection is open"));
            let (mut reactor, addr) = listening(handler, Config::default(), framing(name));
            let mut client = common::client(addr);
            client
                .write_all(&stream(name, len))
                .expect("the write succeeds");
            drive(&mut reactor, |reactor| reactor.stats().frames_skipped == 1);
            settle(&mut reactor);
            let skipped = format!("{len} > 10");
            assert_eq!(story(&reactor), ["a", &skipped], "{name}");
            let conn = reactor
                .handler()
                .events
                .iter()
                .find_map(|event| match event {
                    Event::Skipped(conn, _) => Some(*conn),
                    _ => None,
                });
            reactor
                .with(|_, cx| cx.resume(conn.expect("on_skipped was called")))
                .expect("the connection is open");
            drive(&mut reactor, |reactor| reactor.stats().frames_in == 2);
            assert_eq!(story(&reactor), ["a", &skipped, "b"], "{name}");
        }
    }
}

#[test]
fn close_in_on_skipped_delivers_no_later_frame() {
    for name in NAMES {
        let handler = when_skipped(|cx, conn| cx.close(conn));
        let (mut reactor, addr) = listening(handler, Config::default(), framing(name));
        let mut client = common::client(addr);
        client
            .write_all(&stream(name, 3000))
            .expect("the write succeeds");
        drive(&mut reactor, |reactor| reactor.stats().frames_skipped == 1);
        drop(client);
        drive(&mut reactor, |reactor| reactor.stats().closed == 1);
        assert_eq!(story(&reactor), ["a", "3000 > 10", "closed by this side"]);
    }
}

#[test]
fn reframe_in_on_skipped_applies_to_the_next_frame() {
    for name in NAMES {
        for len in [11, 100_000] {
            let handler = when_skipped(|cx, conn| {
                cx.reframe(conn, Framing::length_u8())
                    .expect("the connection is open");
            });
            let (mut reactor, addr) = listening(handler, Config::default(), framing(name));
            let mut client = common::client(addr);
            let long = sent(name, &vec![b'z'; len]);
            let bytes = [&long[..], b"\x03new"].concat();
            client.write_all(&bytes).expect("the write succeeds");
            drive(&mut reactor, |reactor| reactor.stats().frames_in == 1);
            assert_eq!(story(&reactor), [&format!("{len} > 10"), "new"], "{name}");
        }
    }
}

/// Bytes of a skipped frame do not extend its deadline.
#[test]
fn skipped_frame_has_a_frame_deadline() {
    for name in ["line", "u32"] {
        let mut config = Config::default();
        config.frame_deadline = Some(Duration::from_millis(50));
        let (mut reactor, addr) = listening(Probe::silent(), config, framing(name));
        let mut client = common::client(addr);
        let bytes = stream(name, 3000);
        client.write_all(&bytes[..200]).expect("the write succeeds");
        drive(&mut reactor, |reactor| {
            let _ = client.write_all(b"z");
            reactor.stats().closed == 1
        });
        let closes = reactor.handler().closes();
        let reason = &closes[0].1.reason;
        assert!(
            matches!(reason, CloseReason::FrameDeadline),
            "{name}: {reason}"
        );
    }
}

#[test]
fn too_long_frame_closes_unless_skipped() {
    for name in NAMES {
        let framing: Framing = name.parse().expect("the name is a known framing");
        let framing = framing.frame_len_max(LIMIT);
        let (mut reactor, addr) = listening(Probe::silent(), Config::default(), framing);
        let mut client = common::client(addr);
        client
            .write_all(&stream(name, 3000))
            .expect("the write succeeds");
        drop(client);
        drive(&mut reactor, |reactor| reactor.stats().closed == 1);
        assert_eq!(reactor.handler().frames(), [b"a"], "{name}");
        let closes = reactor.handler().closes();
        let CloseReason::Frame { error, offset } = &closes[0].1.reason else {
            panic!("{name}: no frame error: {:?}", closes[0]);
        };
        assert!(
            matches!(error, FrameError::TooLong { limit: 10, .. }),
            "{error}"
        );
        assert_eq!(*offset, sent(name, b"a").len() as u64, "{name}");
    }
}
