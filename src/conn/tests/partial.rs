//! Tests of partial frames and their buffers: the decode calls that start, continue and complete a
//! frame.

use super::naive::{encode, header, payload};
use super::*;
use crate::codec::{Codec, Out, Step};

/// Framings of each kind: with delimiters of one and of several bytes, with a length, and a custom
/// codec.
const NAMES: [&str; 6] = ["line", "delimiter", "delimiters", "u32", "varint", "nul"];

fn at(millis: u64) -> Stamp {
    Stamp::at(std::time::Duration::from_millis(millis))
}

#[test]
fn stop_after_a_cut_frame_keeps_the_bytes_after_it() {
    for name in NAMES {
        let framing = codecs::framing(name);
        let frame = encode(name, b"abcdef");
        for cut in 1..frame.len() {
            for after in [&b""[..], &frame[..1], &frame] {
                let (mut assembler, mut sink) = (Assembler::default(), Collect::of(&framing));
                assembler.ingest(&frame[..cut], &mut sink);
                sink.budget_left = 1;
                let outcome = assembler.ingest(&[&frame[cut..], after].concat(), &mut sink);
                assert!(matches!(outcome, Delivery::Stopped), "{name} cut at {cut}");
                assert_eq!(sink.frames, [b"abcdef"], "{name} cut at {cut}");
                assert_eq!(assembler.len(), after.len(), "{name} cut at {cut}");
                assert_eq!(assembler.has_undelivered(), !after.is_empty());
                assert_eq!(assembler.capacity() > 0, !after.is_empty());
            }
        }
    }
}

#[test]
fn partial_frame_after_a_cut_frame_has_the_time_of_its_read() {
    for name in NAMES {
        let (mut assembler, mut sink) = (Assembler::default(), Collect::of(&codecs::framing(name)));
        let frame = encode(name, b"abcdef");
        sink.now = at(5);
        assembler.ingest(&frame[..4], &mut sink);
        sink.now = at(10);
        assembler.ingest(&[&frame[4..], &frame[..4]].concat(), &mut sink);
        assert_eq!(assembler.unfinished_since(), Some(at(10)), "{name}");
    }
}

#[test]
fn sink_is_notified_once_of_each_cut_frame() {
    for name in NAMES {
        let frame = encode(name, b"abcdef");
        let stream = frame.repeat(30);
        for read_len in 1..3 * frame.len() {
            for budget in [1, 2, usize::MAX] {
                let mut sink = Collect::counting_of(&codecs::framing(name));
                let mut assembler = Assembler::default();
                for piece in stream.chunks(read_len) {
                    sink.budget_left = budget;
                    assembler.ingest(piece, &mut sink);
                    while assembler.has_undelivered() {
                        sink.budget_left = budget;
                        assembler.resume(&mut sink);
                    }
                }
                let starts = (0..stream.len()).step_by(frame.len());
                let is_cut =
                    |start: &usize| start / read_len != (start + frame.len() - 1) / read_len;
                assert_eq!(sink.count, 30, "{name}");
                assert_eq!(
                    sink.partial_lens.len(),
                    starts.filter(is_cut).count(),
                    "{name}, reads of {read_len} bytes"
                );
            }
        }
    }
}

/// The capacity of the buffer of a partial frame must not depend on the length in a header. It must
/// also not depend on the number of times that the buffer grew.
#[test]
fn direct_reads_keep_the_capacity_near_the_bytes_received() {
    for (name, start) in [("u32", header("u32", 1 << 30)), ("line", vec![])] {
        let framing = codecs::framing(name).frame_len_max(usize::MAX);
        for first_len in [20_000, 300_000] {
            let (mut assembler, mut sink) = (Assembler::default(), Collect::counting_of(&framing));
            let mut reads = 0;
            assembler.ingest(&[&start[..], &payload(first_len)].concat(), &mut sink);
            let factor_max = if first_len < 256 << 10 || name == "line" {
                4
            } else {
                2
            };
            assert!(assembler.capacity() <= factor_max * assembler.len());
            while assembler.len() < 8 << 20 {
                let before = assembler.len();
                match assembler
                    .direct(1 << 16, &mut sink.pool)
                    .map(|spare| spare.len())
                {
                    Some(len) => {
                        assembler.ingest_direct(len, &mut sink);
                        reads += len;
                    }
                    None => {
                        assembler.ingest(&[0; 1 << 16], &mut sink);
                    }
                }
                assert!(assembler.len() > before);
                assert!(assembler.capacity() <= 8 * before, "{name}");
            }
            assert!(
                reads > 4 << 20,
                "{name}: only {reads} bytes were read directly"
            );
            let moved = sink.pool.moved_bytes;
            assert!(
                moved <= assembler.len() as u64,
                "{name}: {moved} bytes were moved"
            );
        }
    }
}

/// The bytes are held in many steps, as while the handler peeks. The buffers that became too small
/// stay until the next decode step, and count in the limit too.
#[test]
fn held_bytes_keep_the_capacity_near_the_bytes_received() {
    let framing = codecs::framing("u32").frame_len_max(usize::MAX);
    for frame_len in (1000..100_000).step_by(997) {
        for piece_len in [100, 1460, 4000] {
            let (mut assembler, mut sink) = (Assembler::default(), Collect::counting_of(&framing));
            let start = [header("u32", frame_len as u64), payload(60)].concat();
            assembler.ingest(&start, &mut sink);
            while assembler.len() < frame_len {
                assembler.hold(&payload(piece_len), sink.now, &mut sink.pool);
                let (len, capacity) = (assembler.len(), assembler.capacity());
                assert!(
                    capacity <= 8 * len,
                    "{len} bytes of {frame_len} in buffers of {capacity}"
                );
            }
        }
    }
}

#[test]
fn a_direct_read_ends_where_the_frame_ends() {
    let framing = codecs::framing("u32");
    let frame = encode("u32", &payload(60_000));
    let (mut assembler, mut sink) = (Assembler::default(), Collect::counting_of(&framing));
    assembler.ingest(&frame[..30_000], &mut sink);
    let spare = assembler
        .direct(1 << 20, &mut sink.pool)
        .expect("the frame is long");
    assert_eq!(spare.len(), frame.len() - 30_000);
}

/// Codec that drops a leading `x` if a `!` follows, and fails at a leading `!`.
struct Picky;

impl Codec for Picky {
    type State = ();

    fn decode(&self, (): &mut (), bytes: &[u8]) -> Result<Step, FrameError> {
        match bytes {
            [b'x', b'!', ..] => Ok(Step::SkipPart { bytes: 1 }),
            [b'!', ..] => Err(FrameError::Malformed("a mark")),
            _ => Ok(Step::Need(bytes.len() + 1)),
        }
    }

    fn encode(&self, _: &[u8], _: &mut Out<'_>) -> Result<(), FrameError> {
        Ok(())
    }
}

/// The reactor reports all held bytes as undecoded. The `x` was dropped, so the assembler must not
/// hold it any more.
#[test]
fn bytes_dropped_before_an_error_are_not_held() {
    let (mut assembler, mut sink) = (Assembler::default(), Collect::of(&Framing::custom(Picky)));
    assembler.ingest(b"x", &mut sink);
    let Delivery::Failed(failed) = assembler.ingest(b"!", &mut sink) else {
        panic!("malformed bytes were accepted");
    };
    assert_eq!((failed.undecoded, assembler.len()), (1, 1));
}

#[test]
fn skip_by_length_keeps_its_end_after_a_reframe() {
    for name in NAMES {
        let skipping = codecs::framing("u32").frame_len_max(8).skip_too_long();
        let (mut assembler, mut sink) = (Assembler::default(), Collect::of(&skipping));
        assembler.ingest(&[header("u32", 20), payload(7)].concat(), &mut sink);
        assembler.reframe(&skipping);
        sink.framing = codecs::framing(name);
        let frame = encode(name, b"new");
        let part = encode(name, b"");
        let rest = [&part[..], &vec![b'z'; 13 - part.len()], &frame].concat();
        for piece in rest.chunks(2) {
            assert!(matches!(
                assembler.ingest(piece, &mut sink),
                Delivery::NeedMore
            ));
        }
        assert_eq!(sink.frames[1..], [b"new".to_vec()], "{name}");
    }
}

/// The second frame needs more than the kept buffer. The buffer is still reused, because the first
/// bytes of the frame fit into it.
#[test]
fn kept_buffer_is_reused_if_the_first_bytes_of_a_frame_fit() {
    let framing = codecs::framing("u32").frame_len_max(usize::MAX);
    let (mut assembler, mut sink) = (Assembler::default(), Collect::counting_of(&framing));
    let frame = encode("u32", &payload(4000));
    assembler.ingest(&frame[..2000], &mut sink);
    let kept = (assembler.capacity(), sink.pool.free_bytes());
    let head = [header("u32", 1 << 20), payload(100)].concat();
    assembler.ingest(&[&frame[2000..], &head].concat(), &mut sink);
    assert_eq!((assembler.capacity(), sink.pool.free_bytes()), kept);
}

#[test]
fn a_kept_buffer_too_small_for_the_next_frame_is_replaced() {
    let framing = codecs::framing("u32");
    let (mut assembler, mut sink) = (Assembler::default(), Collect::counting_of(&framing));
    let frame = encode("u32", &payload(50));
    assembler.ingest(&frame[..40], &mut sink);
    assert_eq!(assembler.capacity(), 64);
    let next = encode("u32", &payload(196));
    assembler.ingest(&[&frame[40..], &next[..40]].concat(), &mut sink);
    assert_eq!(assembler.capacity(), 256);
}

#[test]
fn skip_after_a_cut_header_has_the_time_of_the_header() {
    for name in ["u32", "varint", "netstring"] {
        let skipping = codecs::framing(name).frame_len_max(8).skip_too_long();
        let header = header(name, 1000);
        for cut in 1..header.len() {
            let (mut assembler, mut sink) = (Assembler::default(), Collect::of(&skipping));
            (sink.now, sink.budget_left) = (at(5), 1);
            assembler.ingest(&header[..cut], &mut sink);
            sink.now = at(10);
            let outcome = assembler.ingest(&[&header[cut..], b"abc"].concat(), &mut sink);
            assert!(matches!(outcome, Delivery::Stopped), "{name} cut at {cut}");
            assert_eq!(assembler.unfinished_since(), Some(at(5)), "{name}");
            assert!(!assembler.has_undelivered(), "{name} cut at {cut}");
        }
    }
}

/// The search offset of the previous framing must not be used by the new one.
#[test]
fn a_new_framing_searches_a_partial_frame_from_its_start() {
    let (mut assembler, mut sink) = (Assembler::default(), Collect::of(&Framing::line()));
    assembler.ingest(b"a;bc", &mut sink);
    assembler.reframe(&Framing::line());
    sink.framing = codecs::framing("byte");
    assert!(matches!(assembler.resume(&mut sink), Delivery::NeedMore));
    assert_eq!(
        (&sink.frames[..], assembler.len()),
        (&[b"a".to_vec()][..], 2)
    );
}

#[test]
fn partial_frame_after_a_direct_read_is_notified_as_cut() {
    let framing = codecs::framing("line").frame_len_max(usize::MAX);
    let (mut assembler, mut sink) = (Assembler::default(), Collect::counting_of(&framing));
    assembler.ingest(&payload(30_000), &mut sink);
    let spare = assembler.direct(4, sink.pool()).expect("the frame is long");
    spare.copy_from_slice(b"\nabc");
    assembler.ingest_direct(4, &mut sink);
    assert_eq!(
        (sink.count, sink.partial_lens.len(), assembler.len()),
        (1, 2, 3)
    );
}

#[test]
fn each_byte_copied_into_a_buffer_is_counted() {
    let (mut assembler, mut sink) = (Assembler::default(), Collect::of(&Framing::line()));
    assembler.ingest(b"ab", &mut sink);
    assembler.ingest(b"c\nde", &mut sink);
    assert_eq!(sink.pool.moved_bytes, 6);
}

#[test]
fn nothing_is_read_after_an_error() {
    let mut side = crate::testkit::ReadSide::new(Framing::line().frame_len_max(3));
    side.read(b"too long\n", |_| panic!("no frame is delivered"))
        .expect_err("the line exceeds the limit");
    for bytes in [&b"abc\n"[..], &[b'\n'; 100]] {
        let taken = side.read(bytes, |_| panic!("no frame is delivered after an error"));
        assert_eq!((taken.ok(), side.offset()), (Some(0), 0));
    }
}
