//! Frames that are too long, on a framing that skips them: told in their order, and in step with
//! what comes behind, whatever the handler does meanwhile.

mod common;

use std::io::Write;
use std::time::Duration;

use common::{Event, Probe, drive, frame, listening, settle};
use unstick::{CloseReason, Config, ConnId, Context, FrameError, Framing, Reactor};

/// The largest frame of all that is sent here.
const LIMIT: usize = 10;
const NAMES: [&str; 5] = ["line", "u32", "varint", "netstring", "delimiter-;;"];

fn framing(name: &str) -> Framing {
    let framing: Framing = name.parse().expect("the name of a framing");
    framing.frame_len_max(LIMIT).skip_too_long()
}

fn sent(name: &str, payload: &[u8]) -> Vec<u8> {
    match name {
        "delimiter-;;" => [payload, b";;"].concat(),
        name => frame(name, payload),
    }
}

/// What came, frames as they are and others by the name of their callback.
fn story(reactor: &Reactor<Probe>) -> Vec<String> {
    let events = reactor.handler().events.iter();
    let tell = |event: &Event| match event {
        Event::Frame(_, frame) => Some(frame.escape_ascii().to_string()),
        Event::Skipped(_, skipped) => Some(format!("{} > {}", skipped.len, skipped.limit)),
        Event::HalfClose(_) => Some("end".to_owned()),
        Event::Close(_, closed) => Some(closed.reason.to_string()),
        _ => None,
    };
    events.filter_map(tell).collect()
}

/// `a`, one that is too long, and `b`.
fn stream(name: &str, len: usize) -> Vec<u8> {
    let frames = [&b"a"[..], &vec![b'z'; len], b"b"];
    frames.map(|payload| sent(name, payload)).concat()
}

#[test]
fn a_frame_that_is_too_long_is_told_between_the_others() {
    for name in NAMES {
        for (read_len_max, frame_budget) in [(1, 1024), (7, 1), (65_536, 1024), (65_536, 1)] {
            let mut config = Config::default();
            config.read_len_max = read_len_max;
            config.frame_budget = frame_budget;
            let (mut reactor, addr) = listening(Probe::silent(), config, framing(name));
            let mut client = common::client(addr);
            let bytes = stream(name, 3000);
            client.write_all(&bytes).expect("the kernel takes it");
            drive(&mut reactor, |reactor| reactor.stats().frames_in == 2);
            assert_eq!(story(&reactor), ["a", "3000 > 10", "b"], "{name}");
            assert_eq!(reactor.stats().frames_skipped, 1);
            drop(client);
            drive(&mut reactor, |reactor| reactor.stats().closed == 1);
            assert_eq!(reactor.stats().undecoded_bytes, 0, "{name}");
        }
    }
}

/// Does something when a frame is skipped, and records.
fn when_skipped(mut react: impl FnMut(&mut Context<'_, Probe>, ConnId) + Send + 'static) -> Probe {
    Probe::new(move |cx, event| {
        if let Event::Skipped(conn, _) = event {
            react(cx, *conn);
        }
    })
}

#[test]
fn a_pause_when_a_frame_is_skipped_holds_back_what_comes_behind_it() {
    for name in NAMES {
        for len in [11, 100_000] {
            let handler = when_skipped(|cx, conn| cx.pause(conn).expect("it is open"));
            let (mut reactor, addr) = listening(handler, Config::default(), framing(name));
            let mut client = common::client(addr);
            client.write_all(&stream(name, len)).expect("it is taken");
            drive(&mut reactor, |reactor| reactor.stats().frames_skipped == 1);
            settle(&mut reactor);
            let told = format!("{len} > 10");
            assert_eq!(story(&reactor), ["a", &told], "{name}");
            let conn = reactor
                .handler()
                .events
                .iter()
                .find_map(|event| match event {
                    Event::Skipped(conn, _) => Some(*conn),
                    _ => None,
                });
            reactor
                .with(|_, cx| cx.resume(conn.expect("it was told")))
                .expect("it is open");
            drive(&mut reactor, |reactor| reactor.stats().frames_in == 2);
            assert_eq!(story(&reactor), ["a", &told, "b"], "{name}");
        }
    }
}

#[test]
fn a_close_when_a_frame_is_skipped_delivers_nothing_more() {
    for name in NAMES {
        let handler = when_skipped(|cx, conn| cx.close(conn));
        let (mut reactor, addr) = listening(handler, Config::default(), framing(name));
        let mut client = common::client(addr);
        client.write_all(&stream(name, 3000)).expect("it is taken");
        drive(&mut reactor, |reactor| reactor.stats().frames_skipped == 1);
        drop(client);
        drive(&mut reactor, |reactor| reactor.stats().closed == 1);
        assert_eq!(story(&reactor), ["a", "3000 > 10", "closed by this side"]);
    }
}

#[test]
fn another_framing_begins_behind_the_frame_that_is_skipped() {
    for name in NAMES {
        for len in [11, 100_000] {
            let handler = when_skipped(|cx, conn| {
                cx.reframe(conn, Framing::length_u8()).expect("it is open");
            });
            let (mut reactor, addr) = listening(handler, Config::default(), framing(name));
            let mut client = common::client(addr);
            let long = sent(name, &vec![b'z'; len]);
            let bytes = [&long[..], b"\x03new"].concat();
            client.write_all(&bytes).expect("it is taken");
            drive(&mut reactor, |reactor| reactor.stats().frames_in == 1);
            assert_eq!(story(&reactor), [&format!("{len} > 10"), "new"], "{name}");
        }
    }
}

/// Every byte of a frame that is skipped is as good as none, for its deadline.
#[test]
fn a_frame_that_is_skipped_has_a_deadline_too() {
    for name in ["line", "u32"] {
        let mut config = Config::default();
        config.frame_deadline = Some(Duration::from_millis(50));
        let (mut reactor, addr) = listening(Probe::silent(), config, framing(name));
        let mut client = common::client(addr);
        let bytes = stream(name, 3000);
        client.write_all(&bytes[..200]).expect("it is taken");
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
fn a_frame_that_is_too_long_ends_the_stream_unless_it_is_to_be_skipped() {
    for name in NAMES {
        let framing: Framing = name.parse().expect("the name of a framing");
        let framing = framing.frame_len_max(LIMIT);
        let (mut reactor, addr) = listening(Probe::silent(), Config::default(), framing);
        let mut client = common::client(addr);
        client.write_all(&stream(name, 3000)).expect("it is taken");
        drop(client);
        drive(&mut reactor, |reactor| reactor.stats().closed == 1);
        assert_eq!(reactor.handler().frames(), [b"a"], "{name}");
        let closes = reactor.handler().closes();
        let CloseReason::Frame { error, offset } = &closes[0].1.reason else {
            panic!("{name}: {:?}", closes[0]);
        };
        assert!(
            matches!(error, FrameError::TooLong { limit: 10, .. }),
            "{error}"
        );
        assert_eq!(*offset, sent(name, b"a").len() as u64, "{name}");
    }
}
