//! Fixed bugs of the framings. The test of a bug is named after the bug, and a comment above it
//! describes the bug.

mod common;

use std::io::Write;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{Event, Probe, deposit, drive, listening, open, settle};
use unstick::testkit::ReadSide;
use unstick::{
    CloseReason, Codec, Config, Deframer, FrameError, FramedStream, Framer, Framing, LengthField,
    Out, Skipped, Step,
};

/// Returns a framing of a header line and a body, and the number of calls of its `body_len`
/// function.
fn counted_header_body() -> (Framing, Arc<AtomicUsize>) {
    let calls = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&calls);
    let framing = Framing::header_body(Framing::line(), move |header| {
        counter.fetch_add(1, Ordering::Relaxed);
        Ok(header.len() as u64)
    });
    (framing, calls)
}

// The function of `header_body` was called again for the same header if the body came later. A
// function with a state, such as a queue of requests, then returned the length of another body.
#[test]
fn header_body_called_its_function_twice_for_a_cut_body() {
    let stream = b"abc\nABC\nde\r\nDEfghij\nFGHIJ";
    for cut in 0..=stream.len() {
        let pieces = [&stream[..cut], &stream[cut..]];
        let (framing, calls) = counted_header_body();
        let mut deframer = Deframer::new(framing);
        let mut frames = 0;
        for piece in pieces {
            deframer.extend(piece);
            while deframer
                .next_frame()
                .expect("the stream is valid")
                .is_some()
            {
                frames += 1;
            }
        }
        assert!(
            deframer
                .last_frame()
                .expect("the stream is valid")
                .is_none()
        );
        assert_eq!(frames, calls.load(Ordering::Relaxed), "cut at {cut}");
        assert_eq!(frames, 4);

        let (framing, calls) = counted_header_body();
        let mut side = ReadSide::new(framing);
        let mut take = |_: &[u8]| ControlFlow::Break(());
        for piece in pieces {
            for byte in piece {
                side.read(&[*byte], &mut take).expect("the stream is valid");
                side.resume(&mut take).expect("the stream is valid");
            }
        }
        assert!(side.end(&mut take).expect("the stream is valid"));
        assert_eq!(calls.load(Ordering::Relaxed), 4, "byte by byte");
    }

    let (framing, calls) = counted_header_body();
    let (mut reactor, addr) = listening(Probe::silent(), Config::default(), framing);
    let (mut client, conn) = open(&mut reactor, addr);
    reactor.with(|_, cx| cx.record(conn).expect("the connection is open"));
    for piece in [&b"abc\nA"[..], b"B", b"Cd"] {
        deposit(&mut reactor, &mut client, conn, piece);
        settle(&mut reactor);
    }
    assert_eq!(reactor.handler().frames(), [b"abc\nABC"]);
    assert_eq!(calls.load(Ordering::Relaxed), 1);
}

/// After `Need`, the function of `length_fn` is not called again before the needed bytes have
/// arrived.
#[test]
fn length_fn_is_called_once_for_the_bytes_it_asked_for() {
    let seen = Arc::new(AtomicUsize::new(0));
    let last = Arc::clone(&seen);
    let framing = Framing::length_fn(move |bytes| {
        let before = last.swap(bytes.len(), Ordering::Relaxed);
        assert!(
            before == 0 || bytes.len() >= 3,
            "called with {} bytes after Need(3)",
            bytes.len()
        );
        match bytes {
            [_, _, len, ..] => {
                last.store(0, Ordering::Relaxed);
                Ok(unstick::FrameLen::Total(3 + u64::from(*len)))
            }
            _ => Ok(unstick::FrameLen::Need(3)),
        }
    });
    let stream = b"ab\x02xycd\0ef\x01z";
    let mut deframer = Deframer::new(framing.clone());
    let mut side = ReadSide::new(framing);
    let mut frames = Vec::new();
    for byte in stream {
        let frame = |frame: &[u8]| {
            frames.push(frame.to_vec());
            ControlFlow::Continue(())
        };
        side.read(&[*byte], frame).expect("the stream is valid");
    }
    assert_eq!(frames, [&b"ab\x02xy"[..], b"cd\0", b"ef\x01z"]);
    seen.store(0, Ordering::Relaxed);
    for byte in stream {
        deframer.extend(&[*byte]);
        if let Some(frame) = deframer.next_frame().expect("the stream is valid") {
            assert_eq!(frame, frames.remove(0));
        }
    }
    assert!(frames.is_empty());
}

/// Returns true if the event reports a skipped line of 23 bytes with a limit of 8 bytes.
fn is_skipped_line(event: &Event) -> bool {
    let Event::Skipped(_, skipped) = event else {
        return false;
    };
    matches!(
        skipped,
        Skipped {
            len: 23,
            limit: 8,
            ..
        }
    )
}

// A new framing ended the skip of a line that is too long. So the end of that line was delivered as
// a frame, and `on_skipped` was not called.
#[test]
fn reframe_within_a_skipped_line_delivered_the_end_of_the_line() {
    let framing = Framing::line().frame_len_max(8).skip_too_long();
    for next in [framing.clone(), Framing::length_u8()] {
        let rest = match next.to_string().as_str() {
            "u8" => &b"bbb\n\x04good"[..],
            _ => b"bbb\ngood\n",
        };
        let (mut reactor, addr) = listening(Probe::silent(), Config::default(), framing.clone());
        let (mut client, conn) = open(&mut reactor, addr);
        deposit(&mut reactor, &mut client, conn, &[b'a'; 20]);
        settle(&mut reactor);
        reactor.with(|_, cx| {
            cx.reframe(conn, next.clone())
                .expect("the connection is open")
        });
        settle(&mut reactor);
        deposit(&mut reactor, &mut client, conn, rest);
        drive(&mut reactor, |it| it.stats().frames_in > 0);
        settle(&mut reactor);
        assert_eq!(reactor.handler().frames(), [b"good"]);
        assert_eq!(reactor.handler().count(is_skipped_line), 1);

        let mut deframer = Deframer::new(framing.clone());
        deframer.extend(&[b'a'; 20]);
        assert!(
            deframer
                .next_frame()
                .expect("a skipped frame is not an error")
                .is_none()
        );
        deframer.reframe(Framing::raw());
        deframer.reframe(next.clone());
        deframer.extend(rest);
        assert_eq!(
            deframer.next_frame().expect("the stream is valid"),
            Some(&b"good"[..])
        );
        assert_eq!(deframer.frames_skipped(), 1);
        assert_eq!(deframer.next_frame().expect("the stream is valid"), None);

        let mut side = ReadSide::new(framing.clone());
        let mut frames = Vec::new();
        let mut take = |frame: &[u8]| {
            frames.push(frame.to_vec());
            ControlFlow::Continue(())
        };
        side.read(&[b'a'; 20], &mut take)
            .expect("a skipped frame is not an error");
        side.reframe(next.clone());
        side.read(rest, &mut take).expect("the stream is valid");
        assert_eq!((frames, side.frames_skipped()), (vec![b"good".to_vec()], 1));
    }

    let input = [&[b'a'; 20][..], b"bbb\n\x04good"].concat();
    let mut pieces = Pieces(vec![input[20..].to_vec(), input[..20].to_vec()]);
    pieces.0.insert(1, Vec::new());
    let mut stream = FramedStream::new(pieces, framing);
    stream
        .receive()
        .expect_err("the read would block inside the line");
    stream.reframe(Framing::length_u8());
    assert_eq!(
        stream.receive().expect("the stream is valid"),
        Some(&b"good"[..])
    );
}

// A reframe in `on_peek` ended the skip of a line that is too long. The end of that line was then
// delivered as a frame.
#[test]
fn reframe_in_on_peek_forgot_a_skipped_line() {
    let framing = Framing::line().frame_len_max(8).skip_too_long();
    let next = framing.clone();
    let probe = Probe::new(move |cx, event| {
        if let Event::Peek(conn, _) = event {
            let reframed = cx.reframe(*conn, next.clone());
            reframed.expect("the connection is open");
        }
    });
    let (mut reactor, addr) = listening(probe, Config::default(), framing);
    let (mut client, conn) = open(&mut reactor, addr);
    deposit(&mut reactor, &mut client, conn, &[b'a'; 20]);
    settle(&mut reactor);
    reactor.with(|_, cx| cx.peek(conn, 0).expect("the connection is open"));
    settle(&mut reactor);
    assert_eq!(
        reactor.handler().count(|it| matches!(it, Event::Peek(..))),
        1
    );
    deposit(&mut reactor, &mut client, conn, b"bbb\ngood\n");
    drive(&mut reactor, |it| it.stats().frames_in > 0);
    settle(&mut reactor);
    assert_eq!(reactor.handler().frames(), [b"good"]);
    assert_eq!(reactor.handler().count(is_skipped_line), 1);
}

/// A reader that removes and returns the last piece at each read. For an empty piece, the read
/// would block, unless it is the only piece left. Without a piece, the stream has ended.
struct Pieces(Vec<Vec<u8>>);

impl std::io::Read for Pieces {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let piece = self.0.pop().unwrap_or_default();
        if piece.is_empty() && !self.0.is_empty() {
            return Err(std::io::ErrorKind::WouldBlock.into());
        }
        buf[..piece.len()].copy_from_slice(&piece);
        Ok(piece.len())
    }
}

// `Framing::line` accepts a bare `\n` as a line end. So a sender could hide a second message in a
// message that a relay passed on. No built-in framing rejected a bare `\n`.
#[test]
fn smtp_smuggling_passed_as_lines() {
    for (smuggled, rest) in [
        (&b"DATA\r\n\n.\nMAIL\r\n"[..], 9),
        (b"DATA\r\n\r.\rMAIL\r\n", 9),
    ] {
        for name in ["line-crlf", "line"] {
            let framing: Framing = name.parse().expect("the short name is valid");
            let (mut reactor, addr) = listening(Probe::silent(), Config::default(), framing);
            let (mut client, _) = open(&mut reactor, addr);
            client.write_all(smuggled).expect("the client is connected");
            if name == "line" {
                drive(&mut reactor, |it| it.stats().frames_in > 1);
                continue;
            }
            common::send_fin(&client);
            drive(&mut reactor, |it| it.stats().closed == 1);
            assert_eq!(reactor.handler().frames(), [b"DATA"]);
            let closed = reactor.handler().only_close();
            assert!(
                matches!(
                    closed.reason,
                    CloseReason::Frame {
                        error: FrameError::Malformed(_),
                        offset: 6
                    }
                ),
                "{closed:?}"
            );
            assert_eq!(closed.undecoded_bytes, rest);
        }
    }
    for payload in [
        &b"\n"[..],
        b"\r",
        b"a\rb",
        b"a\nb",
        b"a\r\nb",
        b"a\r",
        b"\na",
    ] {
        let mut framer = Framer::new(Framing::line_crlf());
        let error = framer
            .frame(payload)
            .expect_err("the payload contains a line end");
        assert!(matches!(error, FrameError::Unencodable(_)), "{error}");
        let error = framer.frame_parts(&[payload, b""]);
        error.expect_err("the payload contains a line end");
    }
}

// `send` reserved the stripped bytes of a `length_field` before each frame. An extreme number
// caused a panic: "attempt to add with overflow". Such a number is now rejected when the framing is
// created.
#[test]
fn length_field_overflowed_with_an_extreme_strip() {
    let strip_max = 1 + (1 << 20);
    for strip in [
        strip_max + 1,
        usize::MAX / 2,
        18_446_744_073_709_551_614,
        usize::MAX,
    ] {
        let field = LengthField::new(1).adjustment(i64::MIN).strip(strip);
        let result = catch_unwind(AssertUnwindSafe(|| Framing::length_field(field)));
        let message = result.expect_err("the number of stripped bytes is too large");
        let message = message
            .downcast_ref::<String>()
            .expect("the panic message is a formatted string");
        assert!(message.contains("cannot strip"), "{message}");
    }
    let mut framer = Framer::new(Framing::length_field(LengthField::new(4).strip(strip_max)));
    assert!(framer.frame(b"a").is_ok());
}

// Heart-beats counted as the start of the next frame: they started its deadline and were delivered
// with it.
#[test]
fn heart_beats_were_part_of_the_next_frame() {
    let mut config = Config::default();
    config.frame_deadline = Some(std::time::Duration::from_millis(60));
    let stomp = Framing::delimiter(b"\0")
        .frame_len_max(4)
        .skip_between(b"\n");
    let sip = Framing::header_body(Framing::delimiter(b"\r\n\r\n"), |_| Ok(0));
    let sip = sip.skip_between(b"\r\n");
    for (framing, beat, frame, delivered) in [
        (stomp, &b"\n"[..], &b"beat\0"[..], &b"beat"[..]),
        (sip, b"\r\n", b"INVITE\r\n\r\n", b"INVITE\r\n\r\n"),
    ] {
        let (mut reactor, addr) = listening(Probe::silent(), config.clone(), framing);
        let (mut client, conn) = open(&mut reactor, addr);
        let begin = std::time::Instant::now();
        let mut beats = 0;
        let deadline = config.frame_deadline.expect("the deadline is set");
        while beats == 0 || begin.elapsed() < 3 * deadline {
            deposit(&mut reactor, &mut client, conn, beat);
            settle(&mut reactor);
            beats += beat.len() as u64;
            common::let_pass(std::time::Duration::from_millis(15));
        }
        assert_eq!(reactor.with(|_, cx| cx.undecoded_bytes(conn)), Ok(0));
        client.write_all(frame).expect("the client is connected");
        drive(&mut reactor, |it| it.stats().frames_in == 1);
        assert_eq!(reactor.handler().frames(), [delivered]);
        assert_eq!(reactor.stats().closed, 0);
        assert_eq!(reactor.stats().filler_bytes, beats);
    }
}

// The last record of a stream that ends without a delimiter was lost, because no framing could
// deliver it.
#[test]
fn last_record_without_its_delimiter_was_lost() {
    for (framing, frames, undecoded) in [
        (Framing::line(), &[&b"See me"[..]][..], 10),
        (
            Framing::line().unterminated_last_frame(),
            &[b"See me", b"See me not"],
            0,
        ),
    ] {
        for cut in 0..=17 {
            let (mut reactor, addr) =
                listening(Probe::silent(), Config::default(), framing.clone());
            let (mut client, conn) = open(&mut reactor, addr);
            let stream = b"See me\nSee me not";
            for piece in [&stream[..cut], &stream[cut..]] {
                deposit(&mut reactor, &mut client, conn, piece);
                settle(&mut reactor);
            }
            common::send_fin(&client);
            drive(&mut reactor, |it| it.stats().closed == 1);
            assert_eq!(reactor.handler().frames(), frames);
            assert_eq!(reactor.handler().only_close().undecoded_bytes, undecoded);
        }
    }
}

/// A codec that delivers no frame. It drops the first byte with `SkipPart`, and skips the following
/// bytes, up to a NUL byte, as filler.
struct DropThenFill;

impl Codec for DropThenFill {
    type State = bool;

    fn decode(&self, has_dropped: &mut bool, bytes: &[u8]) -> Result<Step, FrameError> {
        if !*has_dropped {
            *has_dropped = bytes.len() > 1;
            return Ok(match *has_dropped {
                true => Step::SkipPart { bytes: 1 },
                false => Step::Need(2),
            });
        }
        Ok(match bytes.iter().position(|byte| *byte == 0) {
            Some(at) => Step::Skip {
                bytes: 1 + at as u64,
            },
            None => Step::Need(bytes.len() + 1),
        })
    }

    fn encode(&self, _: &[u8], _: &mut Out<'_>) -> Result<(), FrameError> {
        Err(FrameError::Unencodable("the codec has no frames"))
    }
}

// Filler that the former framing skipped after a reframe was not counted.
#[test]
fn filler_of_a_former_framing_was_not_counted() {
    let mut side = ReadSide::new(Framing::custom(DropThenFill));
    let mut frames = Vec::new();
    let mut take = |frame: &[u8]| {
        frames.push(frame.to_vec());
        ControlFlow::Continue(())
    };
    side.read(b"ab", &mut take).expect("the bytes are valid");
    side.reframe(Framing::line());
    side.read(b"c\0x\n", &mut take)
        .expect("the bytes are valid");
    assert_eq!((frames, side.filler_bytes()), (vec![b"x".to_vec()], 3));
}
