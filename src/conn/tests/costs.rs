//! Tests of the costs of the read side: bytes scanned, bytes moved, bytes held.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::codecs::NulEnded;
use super::naive::{encode, header, is_length, payload, payload_len_max};
use super::*;
use crate::codec::{Codec, Out, SCANNED_BYTES, Step};
use crate::testkit::ReadSide;

/// Delivers a stream in reads of `read_len` bytes. Returns the numbers of bytes moved and of
/// frames.
fn moved_and_count(
    plan: &[Section],
    stream: &[u8],
    budget: usize,
    read_len: usize,
) -> (u64, usize) {
    let mode = Mode { budget, ..AT_ONCE };
    moved_and_count_as(plan, stream, mode, read_len)
}

fn moved_and_count_as(
    plan: &[Section],
    stream: &[u8],
    mode: Mode,
    read_len: usize,
) -> (u64, usize) {
    let mut sink = Collect::counting();
    let outcome = deliver(plan, stream, mode, &mut sink, |_| read_len);
    assert_eq!((outcome.left, outcome.error_offset), (0, None));
    (sink.pool.moved_bytes, sink.count)
}

#[expect(clippy::cast_precision_loss, reason = "the ratio needs no exact value")]
fn ratio(part: u64, whole: usize) -> f64 {
    part as f64 / whole as f64
}

#[test]
fn glued_frames_are_moved_at_most_once_if_each_one_stops() {
    for (name, count) in [
        ("u8", 1_000_000),
        ("line", 20_000),
        ("u64", 20_000),
        ("nul", 20_000),
    ] {
        let plan = Section::all(name, 1 << 20);
        let stream = encode(name, b"x").repeat(count);
        let at_once = moved_and_count(&plan, &stream, usize::MAX, usize::MAX);
        assert_eq!(at_once, (0, count), "{name}");
        let (moved, delivered) = moved_and_count(&plan, &stream, 1, usize::MAX);
        assert_eq!(delivered, count);
        assert!(
            moved <= stream.len() as u64,
            "{name}: {moved} bytes were moved"
        );
        for budget in [1024, 1] {
            // The end of each read cuts a frame, so the cut frame must be copied.
            let (moved, delivered) = moved_and_count(&plan, &stream, budget, 256 * 1024);
            assert_eq!(delivered, count);
            let ratio = ratio(moved, stream.len());
            assert!(ratio <= 1.01, "{name}: each byte is moved {ratio} times");
        }
    }
}

#[test]
fn a_long_frame_in_small_reads_is_moved_about_twice() {
    let names = FRAMINGS
        .into_iter()
        .filter(|name| payload_len_max(name) > 10_000);
    for name in names.filter(|name| *name != "raw") {
        let plan = Section::all(name, 1 << 20);
        let mut cases = vec![(10_000, 1, 3)];
        if payload_len_max(name) >= 1 << 20 && name != "marked" {
            cases.extend([(1 << 20, 1460, 3), (1 << 20, 65_536, 3)]);
        }
        for (len, read_len, count) in cases {
            let stream = encode(name, &payload(len)).repeat(count);
            let (moved, delivered) = moved_and_count(&plan, &stream, usize::MAX, read_len);
            assert_eq!(delivered, count);
            let ratio = ratio(moved, stream.len());
            let is_custom = ["nul", "marked", "tagged", "blocks"].contains(&name);
            assert!(
                ratio <= if is_custom { 2.25 } else { 2.0 },
                "{name}, frames of {len} bytes in reads of {read_len}: moved {ratio} times"
            );
        }
    }
}

/// A codec that waits for `need` bytes, finds that they are no frame, and skips the first `skip`
/// bytes.
struct Resync {
    need: usize,
    skip: u64,
}

impl Codec for Resync {
    type State = ();

    fn decode(&self, _: &mut (), bytes: &[u8]) -> Result<Step, FrameError> {
        if bytes.len() < self.need {
            return Ok(Step::Need(self.need));
        }
        Ok(Step::Skip { bytes: self.skip })
    }

    fn encode(&self, _: &[u8], _: &mut Out<'_>) -> Result<(), FrameError> {
        Err(FrameError::Unencodable("the codec has no frames"))
    }
}

/// The bytes after the skipped bytes are copied to complete the rejected frame, and again as the
/// start of the next frame. They are moved once more if the buffer grows.
#[test]
fn skips_after_false_frames_move_bytes_at_most_three_times() {
    for need in [8, 63, 64, 65, 100, 256, 300, 1085, 1088] {
        for skip in [1, 2, 3] {
            for read_len in [1, 2, 3, 20, 200, need] {
                let mut side = ReadSide::new(Framing::custom(Resync { need, skip }));
                let stream = vec![7; 20 * need];
                for read in stream.chunks(read_len) {
                    side.read(read, |_| ControlFlow::Continue(()))
                        .expect("the codec rejects no bytes");
                }
                let ratio = ratio(side.moved_bytes(), stream.len());
                assert!(
                    ratio <= 3.0,
                    "frames of {need} bytes, skips of {skip}, reads of {read_len}: moved {ratio} \
                     times"
                );
            }
        }
    }
}

/// Each byte is copied once, and again if the buffer is too small. A custom codec needs all bytes
/// in one buffer at each step, so some bytes after the frame are copied too.
#[test]
fn bytes_are_moved_at_most_twice_for_any_frame_and_read_length() {
    let lens = [
        1, 40, 60, 63, 64, 65, 123, 204, 252, 509, 513, 1020, 1024, 1500, 2047, 4097, 10_000,
    ];
    let read_lens = [
        1, 2, 22, 64, 65, 127, 256, 513, 1024, 1025, 1028, 1460, 2049, 4096, 65_536,
    ];
    for (name, ratio_max) in [
        ("u8", 2.0),
        ("u16", 2.0),
        ("u32", 2.0),
        ("varint", 2.0),
        ("netstring", 2.0),
        ("field", 2.0),
        ("line", 2.0),
        ("delimiters", 2.0),
        ("nul", 2.25),
    ] {
        let plan = Section::all(name, 1 << 20);
        for len in lens.into_iter().filter(|len| *len <= payload_len_max(name)) {
            for read_len in read_lens {
                let count = (8 * read_len.max(len) / len).clamp(4, 60);
                // The short first frame keeps the starts of later frames away from the starts of
                // reads.
                let first = encode(name, b"abc");
                let stream = [first, encode(name, &payload(len)).repeat(count)].concat();
                for budget in [usize::MAX, 1] {
                    let (moved, _) = moved_and_count(&plan, &stream, budget, read_len);
                    let ratio = ratio(moved, stream.len());
                    assert!(
                        ratio <= ratio_max,
                        "{name}, frames of {len} bytes in reads of {read_len}: moved {ratio} times"
                    );
                }
            }
        }
    }
}

#[test]
fn no_byte_is_scanned_twice_for_a_delimiter() {
    for name in ["line", "byte", "delimiter", "delimiters"] {
        no_byte_is_scanned_twice(name);
    }
}

fn no_byte_is_scanned_twice(name: &'static str) {
    let len_max = if name == "line" { 16 << 20 } else { 2 << 20 };
    let plan = Section::all(name, len_max);
    for (len, payload_max, read_len) in [
        (1 << 20, 1 << 20, 64),
        (len_max, len_max, 64),
        (10_000, 10_000, 1),
        (1 << 20, 30_000, 1460),
        (1 << 20, 3000, 64),
        (1 << 20, 3000, 1460),
        (1 << 20, 3000, 262_144),
        (1 << 20, 10, 262_144),
    ] {
        for (budget, direct) in [
            (usize::MAX, false),
            (usize::MAX, true),
            (1, false),
            (1, true),
        ] {
            let stream = encode(name, &payload(payload_max)).repeat(len / payload_max);
            SCANNED_BYTES.set(0);
            moved_and_count_as(&plan, &stream, Mode { budget, direct }, read_len);
            let scanned = SCANNED_BYTES.get();
            assert!(
                scanned >= stream.len() as u64,
                "SCANNED_BYTES counts each byte at least once"
            );
            let ratio = ratio(scanned, stream.len());
            assert!(
                ratio <= 1.1,
                "{name}, payloads of {payload_max} bytes: each byte is scanned {ratio} times"
            );
        }
    }
}

#[test]
fn the_state_of_a_custom_codec_survives_between_reads() {
    let scanned_bytes = Arc::new(AtomicUsize::new(0));
    let codec = NulEnded {
        scanned_bytes: Arc::clone(&scanned_bytes),
    };
    let plan = [Section {
        framing: Framing::custom(codec),
        ..Section::new("nul", 0, usize::MAX)
    }];
    for (payload_max, read_len) in [(100_000, 64), (3000, 64), (3000, 1460), (10, 65_536)] {
        for budget in [usize::MAX, 1] {
            let stream = encode("nul", &payload(payload_max)).repeat(400_000 / payload_max);
            moved_and_count(&plan, &stream, budget, read_len);
            let scanned = scanned_bytes.swap(0, Ordering::Relaxed);
            assert_eq!(scanned, stream.len(), "no byte is scanned twice");
        }
    }
}

/// Reads `bytes` on each of `count` connections. Returns the total capacity of their buffers.
fn held_by(count: usize, framing: &Framing, budget: usize, bytes: &[u8]) -> usize {
    let mut sink = Collect::counting_of(framing);
    let mut assemblers: Vec<Assembler> = (0..count).map(|_| Assembler::default()).collect();
    for assembler in &mut assemblers {
        sink.budget_left = budget;
        let mut outcome = assembler.ingest(bytes, &mut sink);
        while assembler.has_undelivered() {
            sink.budget_left = budget;
            outcome = assembler.resume(&mut sink);
        }
        assert!(!matches!(outcome, Delivery::Failed(_)));
    }
    let free = sink.pool.free_bytes();
    for assembler in &mut assemblers {
        assembler.clear(&mut sink.pool);
    }
    sink.pool.free_bytes() - free
}

/// The longest payload that would fit into memory with its header.
const LARGEST: u64 = usize::MAX as u64 - 20;

#[test]
fn a_thousand_headers_of_the_largest_frame_hold_64_bytes_each() {
    for name in FRAMINGS.into_iter().filter(|name| is_length(name)) {
        for limit in [1 << 20, usize::MAX] {
            let payload_max = (limit as u64).min(LARGEST);
            let largest = match header(name, 0).len() {
                8 => payload_max,
                width => payload_max.min((1 << (8 * width)) - 1),
            };
            holds_no_more_than_64_bytes_each(name, limit, largest);
        }
    }
    for name in ["varint", "netstring"] {
        holds_no_more_than_64_bytes_each(name, 1 << 20, 1 << 20);
        holds_no_more_than_64_bytes_each(name, usize::MAX, LARGEST.min(1 << 40));
    }
    holds_no_more_than_64_bytes_each("field", 1 << 20, 65_532);
    holds_no_more_than_64_bytes_each("kept", 1 << 20, 255);
}

fn holds_no_more_than_64_bytes_each(name: &str, limit: usize, largest: u64) {
    let framing = codecs::framing(name).frame_len_max(limit);
    let held = held_by(1000, &framing, usize::MAX, &header(name, largest));
    assert!(
        held <= 64_000,
        "{name}, limit {limit}: {held} bytes are held"
    );
}

#[test]
fn a_partial_frame_holds_a_few_times_the_bytes_received() {
    for (name, start) in [
        ("u32", header("u32", 1 << 30)),
        ("u64", header("u64", LARGEST.min(1 << 60))),
        ("u16", header("u16", 65_535)),
        ("line", vec![]),
        ("nul", vec![]),
        ("marked", b"<>".to_vec()),
    ] {
        let framing = codecs::framing(name).frame_len_max(usize::MAX);
        let long = if is_length(name) { 65_000 } else { 600_000 };
        for len in [1, 9, 63, 64, 65, 129, 1025, 20_000, long] {
            let factor_max = if len == 600_000 { 4 } else { 8 };
            let stream = [&start[..], &payload(len)].concat();
            let read_lens = [1, 7, 1000, usize::MAX].into_iter();
            for read_len in read_lens.filter(|read_len| len <= 20_000 || *read_len >= 1000) {
                let mut sink = Collect::counting_of(&framing);
                let mut assembler = Assembler::default();
                for piece in stream.chunks(read_len) {
                    let outcome = assembler.ingest(piece, &mut sink);
                    assert!(matches!(outcome, Delivery::NeedMore));
                }
                let free = sink.pool.free_bytes();
                assembler.clear(&mut sink.pool);
                let held = sink.pool.free_bytes() - free;
                assert!(
                    held <= factor_max * stream.len().max(9),
                    "{name}: {held} bytes are held for {} received bytes",
                    stream.len()
                );
            }
        }
    }
}

#[test]
fn direct_read_has_at_most_three_times_the_bytes_received() {
    let framing = codecs::framing("u32").frame_len_max(usize::MAX);
    let mut sink = Collect::counting_of(&framing);
    let mut assembler = Assembler::default();
    let start = [header("u32", 1 << 30), payload(20_000)].concat();
    let outcome = assembler.ingest(&start, &mut sink);
    assert!(matches!(outcome, Delivery::NeedMore));
    let spare = assembler.direct(1 << 20, &mut sink.pool);
    assert!(spare.is_some_and(|spare| spare.len() <= 3 * start.len()));
    let free = sink.pool.free_bytes();
    assembler.clear(&mut sink.pool);
    assert!(sink.pool.free_bytes() - free < 8 * start.len());
}

#[test]
fn a_connection_without_a_partial_frame_holds_no_buffer() {
    for name in FRAMINGS.into_iter().filter(|name| *name != "marked") {
        let stream = encode(name, b"abc").repeat(1000);
        for budget in [usize::MAX, 7, 1] {
            assert_eq!(
                held_by(3, &codecs::framing(name), budget, &stream),
                0,
                "{name}"
            );
        }
    }
}

/// Many bytes are kept when the delivery is stopped. After the delivery resumes, only a short
/// partial frame remains. Its buffer must be small, because the rest of the frame may arrive much
/// later.
#[test]
fn a_burst_that_ends_within_a_frame_leaves_a_small_buffer() {
    for name in ["line", "u32", "nul", "tagged"] {
        let mut stream = encode(name, b"abcdefgh").repeat(20_000);
        stream.truncate(stream.len() - 5);
        let held = held_by(10, &codecs::framing(name), 1024, &stream);
        assert!(
            held <= 10 * 64,
            "{name}: each connection holds {} bytes",
            held / 10
        );
    }
}

/// Codec that asks for 10 bytes and then for 100 bytes. It panics if it is called with fewer bytes
/// than it asked for.
struct Patient {
    calls: Arc<AtomicUsize>,
}

impl Codec for Patient {
    type State = usize;

    fn decode(&self, needed: &mut usize, bytes: &[u8]) -> Result<Step, FrameError> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        assert!(
            bytes.len() >= *needed,
            "the codec was called with {} bytes and needs {needed}",
            bytes.len()
        );
        *needed = match bytes.len() {
            ..10 => 10,
            10..100 => 100,
            _ => {
                *needed = 0;
                return Ok(Step::Frame {
                    frame: 0..100,
                    consumed: 100,
                });
            }
        };
        Ok(Step::Need(*needed))
    }

    fn encode(&self, payload: &[u8], out: &mut Out<'_>) -> Result<(), FrameError> {
        out.put(payload);
        Ok(())
    }
}

#[test]
fn codec_is_not_called_before_the_needed_bytes_arrive() {
    let calls = Arc::new(AtomicUsize::new(0));
    let plan = [Section {
        framing: Framing::custom(Patient {
            calls: Arc::clone(&calls),
        }),
        ..Section::new("raw", 0, usize::MAX)
    }];
    let stream = payload(10_000);
    for read_len in [1, 3, 9, 10, 11, 64, 99, 100, 101, 1000] {
        let (_, count) = moved_and_count(&plan, &stream, usize::MAX, read_len);
        assert_eq!(count, 100);
        let calls = calls.swap(0, Ordering::Relaxed);
        assert!(
            calls <= 300,
            "reads of {read_len} bytes: {calls} calls for 100 frames"
        );
    }
}

#[test]
fn a_buffer_is_reused_after_its_frame_is_delivered() {
    let framing = codecs::framing("u32");
    let mut sink = Collect::counting_of(&framing);
    let mut assembler = Assembler::default();
    let stream = encode("u32", &payload(100));
    let mut free = None;
    for _ in 0..100 {
        for piece in stream.chunks(60) {
            assembler.ingest(piece, &mut sink);
        }
        let after = sink.pool.free_bytes();
        assert_eq!(after, *free.get_or_insert(after));
    }
    assert_eq!(sink.count, 100);
}

#[test]
fn buffer_of_64_kib_is_kept_and_a_larger_one_is_returned() {
    for name in ["line", "byte", "delimiter", "u32"] {
        for (len, is_kept) in [(1000, true), (30_000, true), (70_000, false)] {
            let framing = codecs::framing(name);
            let mut sink = Collect::counting_of(&framing);
            let mut assembler = Assembler::default();
            let frame = encode(name, &payload(len));
            let (head, rest) = frame.split_at(len);
            assembler.ingest(head, &mut sink);
            let (capacity, free) = (assembler.capacity(), sink.pool.free_bytes());
            for _ in 0..3 {
                assembler.ingest(&[rest, &frame[..30]].concat(), &mut sink);
                assert_eq!(assembler.len(), 30, "{name}");
                let is_same = (assembler.capacity(), sink.pool.free_bytes()) == (capacity, free);
                assert_eq!(is_same, is_kept, "{name}, frames of {len} bytes");
                assert!(is_kept || assembler.capacity() <= 8 * 30, "{name}");
                assembler.ingest(&frame[30..len], &mut sink);
            }
            assert_eq!(sink.count, 3);
        }
    }
}

/// The buffer of the previous frame is kept, so most bytes are read directly into it. Only the
/// first and last bytes of a frame are copied, because they arrive in a read that other frames
/// share.
#[test]
fn frames_as_long_as_the_previous_frame_are_hardly_moved() {
    for name in ["line", "byte", "u32"] {
        let mut side = ReadSide::new(codecs::framing(name));
        let frame = encode(name, &payload(1 << 16));
        let stream = frame.repeat(11);
        let (mut count, mut moved_before) = (0, 0);
        for mut piece in stream.chunks(1460) {
            while !piece.is_empty() {
                let taken = side.read(piece, |_| {
                    count += 1;
                    ControlFlow::Continue(())
                });
                piece = &piece[taken.expect("the stream is valid")..];
            }
            if count == 0 {
                moved_before = side.moved_bytes();
            }
        }
        assert_eq!(count, 11, "{name}");
        let ratio = ratio(side.moved_bytes() - moved_before, 10 * frame.len());
        assert!(ratio < 0.4, "{name}: each byte is moved {ratio} times");
    }
}

/// The delivery stops after a frame. The bytes after it are kept, but do not fit into the buffer of
/// that frame.
#[test]
fn a_kept_buffer_is_replaced_if_the_kept_bytes_do_not_fit() {
    let framing = codecs::framing("u32");
    let frame = encode("u32", &payload(1000));
    let stream = frame.repeat(20);
    let mut sink = Collect::counting_of(&framing);
    let mut assembler = Assembler::default();
    assembler.ingest(&stream[..500], &mut sink);
    sink.budget_left = 1;
    let outcome = assembler.ingest(&stream[500..], &mut sink);
    assert!(matches!(outcome, Delivery::Stopped));
    let (held, free) = (assembler.capacity(), sink.pool.free_bytes());
    assert_eq!(
        (held, free),
        (32 * 1024, 1024),
        "both buffers belong to the pool"
    );
    assert_eq!(sink.pool.lent_bytes(), held);
}
