//! Tests of skipping: a notice replaces each frame over the limit, and all other frames are
//! delivered.

use super::super::DecodeInput;
use super::naive::{encode, payload, payload_len_max};
use super::*;
use crate::codec::{Codec, Out, SCANNED_BYTES, Step};

/// Framings that can skip frames.
const SKIPPING: [&str; 20] = [
    "line",
    "line-crlf",
    "beats",
    "digits",
    "u8",
    "u16",
    "u24",
    "u32",
    "u64",
    "u16-le",
    "u24-le",
    "u32-le",
    "u64-le",
    "byte",
    "delimiter",
    "delimiters",
    "varint",
    "netstring",
    "field",
    "records",
];

fn skipping(name: &'static str, limit: usize) -> [Section; 1] {
    let mut plan = Section::all(name, limit);
    plan[0].framing = plan[0].framing.clone().skip_too_long();
    plan
}

/// Returns the expected outcome: a notice replaces each frame that is longer than `limit`.
fn expected(name: &'static str, limit: usize, stream: &[u8]) -> Outcome {
    let mut outcome = naive::decode(&Section::all(name, usize::MAX), stream);
    assert_eq!(
        (outcome.left, outcome.error_offset),
        (0, None),
        "the stream has only whole frames"
    );
    for frame in &mut outcome.frames {
        if frame.len() > limit {
            let (len, limit) = (frame.len() as u64, limit as u64);
            *frame = Skipped { len, limit }.to_string().into_bytes();
        }
    }
    outcome
}

#[test]
fn every_split_skips_exactly_the_frames_that_are_too_long() {
    let mut sink = Collect::new();
    for name in SKIPPING {
        let lens: &[&[usize]] = match encode(name, b"").len() {
            0..3 => &[&[1, 4, 2], &[5, 0, 1], &[3, 3]],
            3..5 => &[&[4, 1], &[0, 3], &[8]],
            _ => &[&[3], &[4]],
        };
        for (lens, limit) in lens.iter().flat_map(|lens| [(lens, 0), (lens, 2)]) {
            let frames = lens
                .iter()
                .map(|len| encode(name, &payload(3 * len)[..*len]));
            let mut stream = frames.collect::<Vec<_>>().concat();
            if name == "records" {
                let frames = lens.iter().map(|len| encode(name, &payload(3 * (len / 3))));
                stream = frames.collect::<Vec<_>>().concat();
            }
            if name == "line" && stream.len() < 16 {
                stream.insert(stream.len() - 1, b'\r');
            }
            // A header of `digits` that exceeds the limit ends the stream.
            if stream.len() > 16 || (name, limit) == ("digits", 0) {
                continue;
            }
            let case = Case {
                plan: &skipping(name, limit),
                stream: &stream,
                expected: expected(name, limit, &stream),
            };
            case.check_every_split(&mut sink);
        }
    }
}

#[test]
fn random_cuts_skip_exactly_the_frames_that_are_too_long() {
    let mut sink = Collect::new();
    for name in SKIPPING {
        for seed in 0..12 {
            let mut random = Random(seed);
            let (len_max, limit) = [(40, 10), (5000, 1000), (200_000, 70_000)][random.below(3)];
            let len_max = len_max.min(payload_len_max(name));
            let mut stream = Vec::new();
            for _ in 0..20 {
                let bound = 1 + (len_max >> random.below(4));
                let mut payload = payload(random.below(bound));
                if name == "line" && random.below(2) == 0 {
                    payload.push(b'\r');
                }
                stream.extend(encode(name, &payload));
            }
            let case = Case {
                plan: &skipping(name, limit),
                stream: &stream,
                expected: expected(name, limit, &stream),
            };
            for read_len_max in [3, 1460, 65_536, 1 << 20] {
                if len_max.div_ceil(10_000) > read_len_max {
                    continue;
                }
                let mode = Mode {
                    budget: [usize::MAX, 1, 3][random.below(3)],
                    direct: random.below(2) == 0,
                };
                let read_len = |_| 1 + random.below(read_len_max);
                let describe_cuts = || format!("seed {seed}, reads of up to {read_len_max}");
                case.check(mode, &mut sink, describe_cuts, read_len);
            }
        }
    }
}

/// The buffers hold at most a few MiB while up to 1 GiB of a frame is skipped. At most a tenth of
/// the bytes is searched twice. If no frame is skipped, the stream fails shortly after the limit.
#[test]
fn endless_frame_holds_a_few_times_the_limit() {
    let reads = vec![b'z'; 1 << 16];
    for (name, first, count) in [
        ("line", &b"z"[..], 1 << 14),
        ("delimiter", b"z", 1 << 14),
        ("delimiters", b"z", 1 << 10),
        ("u64", &(1_u64 << 40).to_be_bytes(), 1 << 14),
        ("netstring", b"1099511627776:", 1 << 10),
    ] {
        let [section] = skipping(name, 1 << 20);
        let (mut sink, mut assembler) =
            (Collect::counting_of(&section.framing), Assembler::default());
        SCANNED_BYTES.set(0);
        let mut held = 0;
        for bytes in std::iter::once(first).chain((0..count).map(|_| &reads[..])) {
            let outcome = assembler.ingest(bytes, &mut sink);
            assert!(matches!(outcome, Delivery::NeedMore), "{name}: {outcome:?}");
            held = held.max(assembler.capacity() + sink.pool.free_bytes());
            assert!(
                assembler.unfinished_since().is_some(),
                "the frame deadline applies to a skipped frame"
            );
        }
        // The bytes are held until the frame exceeds the limit. While the buffer grows, a second
        // buffer is held.
        assert!(held <= 8 << 20, "{name}: {held} bytes are held");
        let received: u64 = count << 16;
        assert!(SCANNED_BYTES.get() <= received + received / 10, "{name}");
        let is_notified = sink.count == 1;
        assert_eq!(is_notified, matches!(name, "u64" | "netstring"), "{name}");

        let [ends] = Section::all(name, 1 << 20);
        let (mut sink, mut assembler) = (Collect::counting_of(&ends.framing), Assembler::default());
        let mut input = std::iter::once(first).chain(std::iter::repeat(&reads[..]));
        let (mut read, mut failed) = (0, false);
        while !failed {
            let bytes = input.next().expect("the input has no end");
            read += bytes.len();
            let outcome = assembler.ingest(bytes, &mut sink);
            failed = matches!(outcome, Delivery::Failed(_));
        }
        assert!(
            read <= (1 << 20) + (2 << 16),
            "{name}: the error came only after {read} bytes"
        );
    }
}

#[test]
fn skipped_frame_has_the_time_of_its_first_byte() {
    let at = |millis| Stamp::at(std::time::Duration::from_millis(millis));
    for (name, bytes) in [
        ("line", [&b"long"[..], b"er", b"and"]),
        ("u8", [b"\xFF", b"a", b"b"]),
    ] {
        let [section] = skipping(name, 1);
        let (mut assembler, mut sink) = (Assembler::default(), Collect::of(&section.framing));
        for (index, bytes) in (1..).zip(bytes) {
            sink.now = at(10 * index);
            assembler.ingest(bytes, &mut sink);
            assert_eq!(assembler.unfinished_since(), Some(at(10)), "{name}");
        }
    }
}

#[test]
fn frame_of_u64_max_bytes_is_skipped_without_end() {
    for (name, header) in [
        ("u64", &[0xFF; 8][..]),
        ("u64-le", &[0xFF; 8]),
        ("varint", b"\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x01"),
        ("netstring", b"18446744073709551615:"),
    ] {
        let [section] = skipping(name, 100);
        let (mut assembler, mut sink) = (Assembler::default(), Collect::of(&section.framing));
        for bytes in [header, &[0; 1000], b"\x01a", &[0; 1000]] {
            let outcome = assembler.ingest(bytes, &mut sink);
            assert!(matches!(outcome, Delivery::NeedMore));
        }
        let (len, limit) = (u64::MAX, 100);
        let notice = Skipped { len, limit }.to_string().into_bytes();
        assert_eq!(sink.frames, [notice], "{name}");
    }
}

#[test]
fn malformed_bytes_fail_even_if_long_frames_are_skipped() {
    for (name, bytes) in [
        ("varint", &[0xFF; 10][..]),
        ("varint", b"\x85\x00"),
        ("netstring", b"007:"),
        ("field", b"M\x02\x00"),
        ("records", b"x\x00"),
    ] {
        let [section] = skipping(name, 1);
        let (mut assembler, mut sink) = (Assembler::default(), Collect::of(&section.framing));
        let outcome = assembler.ingest(bytes, &mut sink);
        let Delivery::Failed(failed) = outcome else {
            panic!("{name}: {outcome:?}");
        };
        let error = failed.error;
        assert!(matches!(error, FrameError::Malformed(_)), "{name}: {error}");
    }
}

/// The codec must keep its state of the skipped frame when the buffer shrinks.
#[test]
fn frame_is_skipped_to_its_end_after_its_buffer_shrinks() {
    for framing in [
        Framing::line(),
        Framing::delimiter(b"\n"),
        Framing::delimiters(&[b"\n", b"\0"]),
        Framing::delimiter(b"x\n"),
    ] {
        let framing = framing.frame_len_max(4096).skip_too_long();
        let name = framing.to_string();
        let (mut assembler, mut sink) = (Assembler::default(), Collect::of(&framing));
        let (short, long) = (vec![b'a'; 3000], vec![b'b'; 5000]);
        for read in [
            &short[..],
            &[b"x\n", &long[..]].concat(),
            b"evilx\n",
            b"goodx\n",
        ] {
            assert!(matches!(
                assembler.ingest(read, &mut sink),
                Delivery::NeedMore
            ));
            assert_eq!(
                assembler.unfinished_since().is_some(),
                matches!(assembler.len(), 1..)
            );
            let is_notified = std::mem::take(&mut sink.is_oversized);
            let before = assembler.capacity();
            assembler.trim(&mut sink.pool);
            assert_eq!(assembler.capacity() < before, is_notified, "{name}");
        }
        let [first, second, third] = &sink.frames[..] else {
            panic!("{name}: {:?}", sink.frames);
        };
        assert!(first.starts_with(&short), "{name}");
        assert!(
            second.is_ascii() && second.starts_with(b"a frame"),
            "{name}"
        );
        assert!(third.starts_with(b"good"), "{name}");
    }
}

/// Covers three cases: the skipped frame starts in the read, in a partial frame before the read, or
/// in undelivered bytes.
#[test]
fn stop_at_a_skipped_frame_comes_before_the_end_of_the_frame() {
    let long = encode("u32", &payload(100));
    for (held_len, is_stopped_before) in [(0, false), (2, false), (0, true)] {
        let mut sink = Collect::of(&skipping("u32", 10)[0].framing);
        let mut assembler = Assembler::default();
        if is_stopped_before {
            sink.budget_left = 1;
            let first = [encode("u32", b"a"), long[..50].to_vec()].concat();
            assert!(matches!(
                assembler.ingest(&first, &mut sink),
                Delivery::Stopped
            ));
        } else if held_len > 0 {
            assembler.ingest(&long[..held_len], &mut sink);
        }
        sink.budget_left = 1;
        let outcome = match is_stopped_before {
            true => assembler.resume(&mut sink),
            false => assembler.ingest(&long[held_len..50], &mut sink),
        };
        assert!(
            matches!(outcome, Delivery::Stopped),
            "held_len: {held_len}, is_stopped_before: {is_stopped_before}"
        );
        assert_eq!(assembler.left_to_skip(), long.len() as u64 - 50);
    }
}

/// The direct reads cross the limit, so the codec drops the beginning of the frame. The bytes after
/// the dropped bytes belong to the same frame.
#[test]
fn frame_that_is_skipped_in_parts_counts_as_one_split_frame() {
    let framing = Framing::line().frame_len_max(100_000).skip_too_long();
    let (mut assembler, mut sink) = (Assembler::default(), Collect::of(&framing));
    assembler.ingest(&[b'z'; 30_000], &mut sink);
    let mut directs = 0;
    for _ in 0..20 {
        match assembler.direct(16_384, &mut sink.pool) {
            Some(spare) => {
                spare.fill(b'z');
                let len = spare.len();
                assembler.ingest_direct(len, &mut sink);
                directs += 1;
            }
            None => {
                assembler.ingest(&[b'z'; 16_384], &mut sink);
            }
        }
    }
    assert!(directs >= 4, "only {directs} direct reads");
    assert_eq!(sink.partial_lens, [30_000]);
    assembler.ingest(b"\nnext\nlast", &mut sink);
    assert_eq!((sink.count, &sink.partial_lens[..]), (2, &[30_000, 4][..]));
}

/// The new framing decodes the bytes again, but the bytes still belong to the same frame.
#[test]
fn reframe_within_a_partial_frame_counts_one_split_frame() {
    let former = Framing::length_u32();
    let (mut assembler, mut sink) = (Assembler::default(), Collect::of(&former));
    assembler.ingest(b"abc", &mut sink);
    assembler.reframe(&former);
    sink.framing = Framing::line();
    assert!(assembler.has_undelivered());
    assert!(matches!(assembler.resume(&mut sink), Delivery::NeedMore));
    assert_eq!(sink.partial_lens, [3]);
    assembler.ingest(b"d\nef", &mut sink);
    assert_eq!(sink.frames, [b"abcd"]);
    assert_eq!(sink.partial_lens, [3, 2]);
}

/// A user's codec of frames that end with a NUL byte. It skips a long frame in parts.
struct LongNul;

impl Codec for LongNul {
    type State = u64;

    fn decode(&self, dropped: &mut u64, bytes: &[u8]) -> Result<Step, FrameError> {
        let limit = 8;
        let found = bytes.iter().position(|byte| *byte == 0);
        let len = *dropped + found.unwrap_or(bytes.len()) as u64;
        Ok(match found {
            Some(at) if len > limit => {
                *dropped = 0;
                let bytes = at as u64 + 1;
                Step::SkipFrame { bytes, len, limit }
            }
            Some(at) => Step::Frame {
                frame: 0..at,
                consumed: at + 1,
            },
            None if len > limit && bytes.len() > 1 => {
                *dropped += bytes.len() as u64 - 1;
                Step::SkipPart {
                    bytes: bytes.len() - 1,
                }
            }
            None => Step::Need(bytes.len() + 1),
        })
    }

    fn encode(&self, payload: &[u8], out: &mut Out<'_>) -> Result<(), FrameError> {
        out.put(payload);
        out.put(b"\0");
        Ok(())
    }
}

/// The framing is replaced twice within a skipped frame, at each offset from the limit to the end
/// of the frame. The newest framing decodes the bytes after the frame.
#[test]
fn reframe_within_a_skipped_frame_keeps_the_rule_of_its_end() {
    let crlf = Framing::line_crlf();
    let set = Framing::delimiters(&[b";", b";;;"]);
    let framings = [
        (Framing::line(), &b"\n"[..]),
        (crlf.clone().skip_between(b"~"), b"\r\n"),
        (crlf, b"\r\n"),
        (Framing::delimiter(b"--"), b"--"),
        (set, b";;;"),
        (Framing::custom(LongNul), b"\0"),
    ];
    for (framing, end) in framings {
        let former = framing.frame_len_max(8).skip_too_long();
        let stream = [&[b'a'; 20][..], end, b"\x03new\x01x"].concat();
        for (at, piece_len) in (10..20 + end.len()).flat_map(|at| [1, 2, 99].map(|len| (at, len))) {
            for is_recorded in [false, true] {
                let context = format!("{former} at {at}, pieces of {piece_len}, {is_recorded}");
                let (mut assembler, mut sink) = (Assembler::default(), Collect::of(&former));
                assembler.ingest(&stream[..at], &mut sink);
                assert!(sink.frames.is_empty(), "{context}");
                assembler.reframe(&former);
                assembler.reframe(&Framing::line());
                sink.framing = Framing::length_u8();
                let mut read = at;
                for piece in stream[at..].chunks(piece_len) {
                    read += piece.len();
                    let outcome = match is_recorded {
                        true => assembler.record(DecodeInput::Bytes(piece), read as u64, &mut sink),
                        false => assembler.ingest(piece, &mut sink),
                    };
                    assert!(matches!(outcome, Delivery::NeedMore), "{context}");
                }
                let (len, limit) = (20, 8);
                let notice = Skipped { len, limit }.to_string().into_bytes();
                let frames = [&notice[..], b"new", b"x"];
                assert_eq!(sink.frames, frames, "{context}");
                assert!(assembler.is_empty(), "{context}");
                let first = 20 + end.len() as u64;
                if is_recorded {
                    assert_eq!(sink.offsets, [first, first + 4], "{context}");
                }
            }
        }
    }
}

/// A user's codec that skips bytes in parts, and fails at a `!`.
struct Moody;

impl Codec for Moody {
    type State = ();

    fn decode(&self, (): &mut (), bytes: &[u8]) -> Result<Step, FrameError> {
        match bytes.len() {
            _ if bytes.contains(&b'!') => Err(FrameError::Malformed("a `!`")),
            1 => Ok(Step::Need(2)),
            len => Ok(Step::SkipPart { bytes: len - 1 }),
        }
    }

    fn encode(&self, _: &[u8], _: &mut Out<'_>) -> Result<(), FrameError> {
        Ok(())
    }
}

/// The former framing also handles the end of the stream. An error of the former framing ends the
/// stream. The notice of the skipped frame may stop the delivery.
#[test]
fn former_framing_of_a_skip_sees_the_end_of_stream_and_stops() {
    let reframed = |framing: Framing, bytes: &[u8]| {
        let framing = framing.frame_len_max(2).skip_too_long();
        let (mut assembler, mut sink) = (Assembler::default(), Collect::of(&framing));
        assembler.ingest(bytes, &mut sink);
        assembler.reframe(&framing);
        assert!(!assembler.has_undelivered() && assembler.is_to_ingest());
        sink.framing = Framing::length_u8();
        (assembler, sink)
    };
    let set = Framing::delimiters(&[b";", b";;;"]);
    for (framing, count) in [
        (set, 1),
        (Framing::line().unterminated_last_frame(), 1),
        (Framing::line(), 0),
    ] {
        let (mut assembler, mut sink) = reframed(framing, b"abcd;");
        assert!(matches!(assembler.finish(&mut sink), Delivery::NeedMore));
        assert_eq!(sink.frames.len(), count);
        assert_eq!(assembler.is_empty(), count == 1);
    }

    let (mut assembler, mut sink) = reframed(Framing::custom(Moody), b"abcd");
    let outcome = assembler.ingest(b"e!fg", &mut sink);
    let Delivery::Failed(failed) = outcome else {
        panic!("the former framing accepted a `!`: {outcome:?}");
    };
    assert!(matches!(failed.error, FrameError::Malformed(_)));
    assert_eq!(
        failed.undecoded, 5,
        "the undecoded bytes begin with the last byte that was held"
    );

    let (mut assembler, mut sink) = reframed(Framing::line(), b"abcd");
    for bytes in [&b"e"[..], b"f\n\x01x", b"\x01y"] {
        assembler.hold(bytes, sink.now, &mut sink.pool);
        assert!(assembler.has_undelivered() && !assembler.is_to_ingest());
        if bytes.len() != 4 {
            assembler.resume(&mut sink);
        }
    }
    assert_eq!(sink.frames[1..], [b"x", b"y"], "the bytes held for a peek");

    let (mut assembler, mut sink) = reframed(Framing::line(), b"abcd");
    sink.budget_left = 1;
    let outcome = assembler.ingest(b"e\n\x01x\x01y", &mut sink);
    assert!(matches!(outcome, Delivery::Stopped));
    assert!(assembler.has_undelivered());
    sink.budget_left = 9;
    assembler.resume(&mut sink);
    assert_eq!(sink.frames[1..], [b"x", b"y"]);
}

#[test]
fn frame_after_a_skipped_part_of_it_breaks_the_contract() {
    struct Delivers;

    impl Codec for Delivers {
        type State = bool;

        fn decode(&self, was_cut: &mut bool, bytes: &[u8]) -> Result<Step, FrameError> {
            if std::mem::replace(was_cut, true) {
                let (frame, consumed) = (0..bytes.len(), bytes.len());
                return Ok(Step::Frame { frame, consumed });
            }
            Ok(Step::SkipPart { bytes: 1 })
        }

        fn encode(&self, _: &[u8], _: &mut Out<'_>) -> Result<(), FrameError> {
            Ok(())
        }
    }

    let mut sink = Collect::of(&Framing::custom(Delivers));
    let outcome = Assembler::default().ingest(b"abc", &mut sink);
    let Delivery::Failed(failed) = outcome else {
        panic!("a frame was delivered without its beginning: {outcome:?}");
    };
    assert!(matches!(failed.error, FrameError::Contract(_)));
}
