//! Entry functions of the fuzz targets. `tests/fuzz.rs` also runs the functions with the committed
//! corpus, which checks them without a fuzzer.

#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    reason = "each user of this file uses only a part of it"
)]

pub mod input;
#[path = "../../common/naive.rs"]
pub mod naive;
mod proxied;

use std::ops::ControlFlow;

use unstick::testkit::ReadSide;
use unstick::{Decoded as Item, Deframer, Framer};

use input::Input;
use naive::{Decoded, Fault, Format, Found, Limit};
pub use proxied::proxied;

/// Maximum ratio of a buffer's capacity to the bytes it holds.
const HELD_FACTOR: usize = 16;
/// Maximum capacity that an almost empty buffer may keep for reuse, in bytes.
const KEPT_LEN: usize = 64 * 1024;

/// Name of a fuzz target and its entry function.
pub type Entry = (&'static str, fn(&[u8]));

/// The fuzz targets that need no simulated network: all except `tls` and `proxied_listener`.
pub const ENTRIES: [Entry; 7] = [
    ("lengths", lengths),
    ("delimiters", delimiters),
    ("numbers", numbers),
    ("cuts", cuts),
    ("connection", connection),
    ("round_trip", round_trip),
    ("proxied", proxied),
];

/// Tests length prefixes, length fields in a header, length functions, and framings of header and
/// body.
pub fn lengths(data: &[u8]) {
    let mut input = Input(data);
    let format = input.length();
    family(&format, &mut input);
}

/// Tests lines, single delimiters and sets of delimiters.
pub fn delimiters(data: &[u8]) {
    let mut input = Input(data);
    let format = input.delimiters();
    family(&format, &mut input);
}

/// Tests varints and netstrings.
pub fn numbers(data: &[u8]) {
    let mut input = Input(data);
    let format = input.number();
    family(&format, &mut input);
}

/// Compares a deframer with the reference decoder. The deframer gets the stream in one piece, in
/// two pieces, and byte by byte.
fn family(format: &Format, input: &mut Input<'_>) {
    let limit = input.limit();
    let cut = input.piece_len();
    let stream = &input.stream(format);
    let expected = format.decode(limit, stream);
    for lens in [&[usize::MAX][..], &[cut, usize::MAX], &[1]] {
        assert_eq!(deframe(format, limit, stream, lens), expected, "{format:?}");
    }
}

/// Compares a deframer and the read side of a connection with the reference decoder, for any
/// framing, any stream and any cuts. Also checks that the read side copies few bytes, and that its
/// buffer grows only with the bytes received.
pub fn cuts(data: &[u8]) {
    let mut input = Input(data);
    let format = input.format();
    let limit = input.limit();
    let lens = input.piece_lens();
    compare_cuts(&format, limit, &input.stream(&format), &lens);
}

/// Compares the results of a deframer and of the read side of a connection with the reference
/// decoder. The stream arrives in pieces whose lengths repeat the list `lens`.
pub fn compare_cuts(format: &Format, limit: Limit, stream: &[u8], lens: &[usize]) {
    let expected = format.decode(limit, stream);
    assert_eq!(
        deframe(format, limit, stream, lens),
        expected,
        "{format:?} {limit:?}"
    );

    let mut side = ReadSide::new(format.framing(limit));
    let mut decoded = Decoded::default();
    let mut take = |frame: &[u8]| {
        decoded.frames.push(frame.to_vec());
        ControlFlow::Continue(())
    };
    let mut at = 0;
    let mut lens = lens.iter().cycle();
    let result = loop {
        if at == stream.len() {
            break side
                .end(&mut take)
                .map(|ended| assert!(ended, "decoding of the stream is complete"));
        }
        let len = lens.next().map_or(1, |len| (*len).min(stream.len() - at));
        match side.read(&stream[at..at + len], &mut take) {
            Ok(taken) => {
                assert!(taken > 0, "a read consumed no bytes");
                at += taken;
            }
            Err(error) => break Err(error),
        }
        let kept = KEPT_LEN.min(HELD_FACTOR * at);
        assert!(
            side.capacity() <= kept.max(HELD_FACTOR * side.held_bytes().max(1024)),
            "{format:?}: the buffer of {} bytes is too large for {side:?}",
            side.capacity()
        );
    };
    decoded.fault = result.err().as_ref().map(Fault::of);
    decoded.taken = usize::try_from(side.offset()).expect("the stream length fits usize");
    assert_eq!(side.frames_skipped(), expected.skipped.len() as u64);
    decoded.skipped.clone_from(&expected.skipped);
    assert_eq!(decoded, expected, "{format:?} {limit:?}");
    let moved = side.moved_bytes();
    assert!(
        moved <= 3 * stream.len() as u64,
        "{format:?}: too many bytes were copied: {moved}"
    );
}

/// Tests the read side of a connection whose handler continues, pauses, reframes or closes after
/// each frame. The test resumes after each pause, and sometimes shrinks the buffer of the
/// connection.
pub fn connection(data: &[u8]) {
    let mut input = Input(data);
    let limit = input.limit();
    let formats: Vec<Format> = (0..=input.below(3)).map(|_| input.format()).collect();
    let lens = input.piece_lens();
    let actions: Vec<Action> = (0..=input.below(12))
        .map(|_| Action::of(&mut input))
        .collect();
    let stream = &input.stream(&formats[0]);

    let expected = expected_result(&formats, limit, &actions, stream);
    let mut handler = Script {
        formats: &formats,
        actions: &actions,
        current: 0,
        is_closed: false,
        frames: Vec::new(),
    };
    let mut side = ReadSide::new(formats[0].framing(limit));
    let mut at = 0;
    let mut lens = lens.iter().cycle();
    let mut current = 0;
    let result = loop {
        if handler.is_closed {
            break Ok(());
        }
        if current != handler.current {
            current = handler.current;
            side.reframe(formats[current % formats.len()].framing(limit));
        }
        if at % 3 == 0 {
            side.shrink_to_fit();
        }
        let result = if side.has_undelivered() {
            side.resume(|frame| handler.on_frame(frame))
        } else if at < stream.len() {
            let len = lens.next().map_or(1, |len| (*len).min(stream.len() - at));
            let read = side.read(&stream[at..at + len], |frame| handler.on_frame(frame));
            read.map(|taken| at += taken)
        } else {
            match side.end(|frame| handler.on_frame(frame)) {
                Ok(true) if current == handler.current => break Ok(()),
                result => result.map(drop),
            }
        };
        if let Err(error) = result {
            break Err(error);
        }
    };
    assert_eq!(side.frames_skipped(), expected.skipped.len() as u64);
    let decoded = Decoded {
        frames: handler.frames,
        skipped: expected.skipped.clone(),
        // After an error, the offset is the start of the invalid frame, whatever bytes follow.
        taken: usize::try_from(side.offset()).expect("the stream length fits usize"),
        fault: result.err().as_ref().map(Fault::of),
    };
    assert_eq!(decoded, expected, "{formats:?} {actions:?}");
}

/// Action of the handler after a frame.
#[derive(Debug, Clone, Copy)]
enum Action {
    Continue,
    Pause,
    Reframe,
    Close,
}

impl Action {
    fn of(input: &mut Input<'_>) -> Self {
        match input.byte() {
            0..100 => Self::Continue,
            100..180 => Self::Pause,
            180..250 => Self::Reframe,
            _ => Self::Close,
        }
    }
}

/// A handler that executes the next action after each frame.
struct Script<'a> {
    formats: &'a [Format],
    actions: &'a [Action],
    /// Number of reframes so far.
    current: usize,
    is_closed: bool,
    frames: Vec<Vec<u8>>,
}

impl Script<'_> {
    fn on_frame(&mut self, frame: &[u8]) -> ControlFlow<()> {
        assert!(
            !self.is_closed,
            "a frame was delivered to a closed connection"
        );
        let action = self.actions[self.frames.len() % self.actions.len()];
        self.frames.push(frame.to_vec());
        match action {
            Action::Continue => return ControlFlow::Continue(()),
            Action::Pause => {}
            Action::Reframe => self.current += 1,
            Action::Close => self.is_closed = true,
        }
        ControlFlow::Break(())
    }
}

/// Returns the result of the reference decoder if the handler executes the next action after each
/// frame.
fn expected_result(formats: &[Format], limit: Limit, actions: &[Action], stream: &[u8]) -> Decoded {
    let mut decoded = Decoded::default();
    let mut current = 0;
    loop {
        let format = &formats[current % formats.len()];
        let found = format.first(limit, &stream[decoded.taken..]);
        if matches!(found, Found::Frame { .. }) {
            match actions[decoded.frames.len() % actions.len()] {
                Action::Continue | Action::Pause => {}
                Action::Reframe => current += 1,
                Action::Close => {
                    decoded.take(found, stream.len());
                    return decoded;
                }
            }
        }
        if !decoded.take(found, stream.len()) {
            return decoded;
        }
    }
}

/// Tests that accepted payloads are decoded unchanged, whatever bytes follow them. Also tests that
/// only payloads that would change are rejected.
pub fn round_trip(data: &[u8]) {
    let mut input = Input(data);
    let format = input.format();
    let limit = input.limit();
    let lens = input.piece_lens();
    let mut framer = Framer::new(format.framing(limit));
    let mut stream = Vec::new();
    let mut expected = Vec::new();
    while !input.0.is_empty() {
        let len = input.piece_len() - 1;
        let payload = input.bytes(len);
        let framed = framer.frame(payload);
        assert_eq!(
            framed.is_ok(),
            format.can_carry(limit, payload),
            "{format:?} of {payload:?}: {framed:?}"
        );
        if let Ok(bytes) = framed {
            assert_eq!(bytes, format.encode(payload), "{format:?}");
            stream.extend_from_slice(bytes);
            expected.push(format.delivered(payload));
        }
    }
    let decoded = deframe(&format, limit, &stream, &lens);
    assert!(decoded.fault.is_none(), "{format:?}: {decoded:?}");
    assert_eq!(decoded.taken, stream.len(), "{format:?}");
    assert_eq!(decoded.frames, expected, "{format:?}");
}

/// Decodes a stream with a deframer, in pieces whose lengths repeat the list `lens`.
fn deframe(format: &Format, limit: Limit, stream: &[u8], lens: &[usize]) -> Decoded {
    let mut deframer = Deframer::new(format.framing(limit));
    let mut decoded = Decoded::default();
    let mut rest = stream;
    let mut lens = lens.iter().cycle();
    let error = 'stream: loop {
        let has_ended = rest.is_empty();
        let len = lens.next().map_or(1, |len| (*len).min(rest.len()));
        let (piece, others) = rest.split_at(len);
        rest = others;
        deframer.extend(piece);
        loop {
            let item = match has_ended {
                false => deframer.decode(),
                true => deframer.decode_last(),
            };
            match item {
                Ok(Some(Item::Frame(frame))) => decoded.frames.push(frame.to_vec()),
                Ok(Some(Item::Skipped(skipped))) => {
                    decoded.skipped.push((decoded.frames.len(), skipped.len));
                }
                Ok(Some(other)) => panic!("unexpected result {other:?}"),
                Ok(None) if has_ended => break 'stream None,
                Ok(None) => break,
                Err(error) => break 'stream Some(error),
            }
        }
    };
    decoded.taken = usize::try_from(deframer.offset()).expect("the stream length fits usize");
    decoded.fault = error.map(|error| Fault::of(&error.error));
    decoded
}
