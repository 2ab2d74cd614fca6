//! Decoding and encoding without a reactor, compared with tokio-util in one run.
//!
//! Each decode benchmark feeds one mebibyte of frames in pieces, as a socket would deliver them.
//! Every implementation does the same work:
//!
//! * It copies each piece once into a buffer, as the kernel would, and keeps its buffers between
//!   streams.
//! * It hands out each frame borrowed or reference-counted, and never copies it.
//! * It reads each payload byte with `touch`. That function is not inlined, because the place of
//!   such a loop in the machine code changes its time by a seventh.
//! * It must compute the expected sum of all payload bytes before it is measured.
//!
//! Three loops around memchr show the lower bound. They have no frame length limit and keep no
//! codec contract.
//!
//! * `memchr` finds line ends in place and does not join a line that two reads share. A decoder
//!   that searches for line ends cannot be faster.
//! * `memchr_own` delivers every line whole. It has a buffer for itself, reads behind the partial
//!   line, and moves only partial lines. A server would need one such buffer per connection.
//! * `memchr_shared` delivers every line whole. It reads into memory that all connections share, as
//!   the reactor does, and keeps partial lines in a vector. Compare the reactor with this one.
//!
//! Criterion measures one implementation after the other, while the speed of the machine changes.
//! The argument `ratios` (`cargo bench --bench decode -- ratios`) interleaves them and prints only
//! ratios.

use std::hint::black_box;
use std::ops::ControlFlow;
use std::time::Instant;

use bytes::BytesMut;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group};
use tokio_util::codec::{AnyDelimiterCodec, Decoder, Encoder, LengthDelimitedCodec, LinesCodec};
use unstick::testkit::ReadSide;
use unstick::{Deframer, Framer, Framing};

/// Number of bytes decoded in one iteration.
const STREAM_LEN: usize = 1 << 20;
/// Length of a typical read from a busy socket, in bytes.
const READ_LEN: usize = 64 * 1024;
/// Payload of a TCP segment over Ethernet, in bytes.
const SEGMENT_LEN: usize = 1460;
const FRAME_LENS: [usize; 3] = [64, 1024, 64 * 1024];

#[inline(never)]
fn touch(payload: &[u8]) -> u8 {
    payload.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

/// Decodes in place in the read buffer, as a connection of the reactor does.
#[inline(never)]
fn by_connection(side: &mut ReadSide, pieces: &[&[u8]]) -> u8 {
    let mut sum = 0_u8;
    for piece in pieces {
        let mut at = 0;
        while at < piece.len() {
            let taken = side.read(&piece[at..], |frame| {
                sum = sum.wrapping_add(touch(frame));
                ControlFlow::Continue(())
            });
            at += taken.expect("the stream holds valid frames");
        }
    }
    sum
}

#[inline(never)]
fn by_deframer(deframer: &mut Deframer, pieces: &[&[u8]]) -> u8 {
    let mut sum = 0_u8;
    for piece in pieces {
        deframer.extend(piece);
        while let Some(frame) = deframer
            .next_frame()
            .expect("the stream holds valid frames")
        {
            sum = sum.wrapping_add(touch(frame));
        }
    }
    sum
}

#[inline(never)]
fn by_tokio_util<D>(decoder: &mut D, buf: &mut BytesMut, pieces: &[&[u8]]) -> u8
where
    D: Decoder<Error: std::fmt::Debug>,
    D::Item: AsRef<[u8]>,
{
    let mut sum = 0_u8;
    for piece in pieces {
        buf.extend_from_slice(piece);
        while let Some(frame) = decoder.decode(buf).expect("the stream holds valid frames") {
            sum = sum.wrapping_add(touch(frame.as_ref()));
        }
    }
    sum
}

#[inline(never)]
fn by_memchr(pieces: &[&[u8]], read_buffer: &mut [u8]) -> u8 {
    let mut sum = 0_u8;
    for piece in pieces {
        let read = &mut read_buffer[..piece.len()];
        read.copy_from_slice(piece);
        let mut start = 0;
        for end in memchr::memchr_iter(b'\n', read) {
            sum = sum.wrapping_add(touch(&read[start..end]));
            start = end + 1;
        }
        sum = sum.wrapping_add(touch(&read[start..]));
    }
    sum
}

/// Finds lines with memchr and delivers each line whole. `buf` has space for a line and a read.
#[inline(never)]
fn by_memchr_own(pieces: &[&[u8]], buf: &mut [u8]) -> u8 {
    let mut sum = 0_u8;
    let mut held = 0;
    for piece in pieces {
        let end = held + piece.len();
        buf[held..end].copy_from_slice(piece);
        let mut start = 0;
        for at in memchr::memchr_iter(b'\n', &buf[held..end]) {
            sum = sum.wrapping_add(touch(&buf[start..held + at]));
            start = held + at + 1;
        }
        if start > 0 {
            buf.copy_within(start..end, 0);
        }
        held = end - start;
    }
    sum
}

/// Finds lines with memchr in a read buffer that connections share, and delivers each line whole.
/// Partial lines are copied to `tail`.
#[inline(never)]
fn by_memchr_shared(pieces: &[&[u8]], read_buffer: &mut [u8], tail: &mut Vec<u8>) -> u8 {
    let mut sum = 0_u8;
    for piece in pieces {
        let read = &mut read_buffer[..piece.len()];
        read.copy_from_slice(piece);
        let mut rest = &*read;
        if !tail.is_empty() {
            let Some(at) = memchr::memchr(b'\n', rest) else {
                tail.extend_from_slice(rest);
                continue;
            };
            tail.extend_from_slice(&rest[..at]);
            sum = sum.wrapping_add(touch(tail));
            tail.clear();
            rest = &rest[at + 1..];
        }
        let mut start = 0;
        for at in memchr::memchr_iter(b'\n', rest) {
            sum = sum.wrapping_add(touch(&rest[start..at]));
            start = at + 1;
        }
        tail.extend_from_slice(&rest[start..]);
    }
    sum
}

fn framings() -> Vec<(&'static str, Framing)> {
    vec![
        ("u32", Framing::length_u32()),
        ("line", Framing::line()),
        ("delimiter", Framing::delimiter(b"\n")),
        ("two_delimiters", Framing::delimiters(&[b"\n", b"\0"])),
        ("long_delimiter", Framing::delimiter(b"\r\n\r\n")),
        ("varint", Framing::varint()),
        ("netstring", Framing::netstring()),
    ]
}

/// A stream of equal frames.
struct Stream {
    bytes: Vec<u8>,
    /// Length of each frame with its framing bytes.
    sent_len: usize,
    /// Expected sum of all payload bytes.
    sum: u8,
}

fn stream_of(framing: &Framing, frame_len: usize) -> Stream {
    let mut payload = vec![b'x'; frame_len];
    // The payload's sum is odd, so a missing or extra frame changes the sum of the stream.
    payload[0] = b'y';
    let mut framer = Framer::new(framing.clone());
    let frame = framer.frame(&payload).expect("valid payload");
    let count = STREAM_LEN.div_ceil(frame.len());
    Stream {
        bytes: frame.repeat(count),
        sent_len: frame.len(),
        sum: (0..count).fold(0, |sum, _| sum.wrapping_add(touch(&payload))),
    }
}

/// An implementation: its name, and a function that decodes a stream and returns the payload sum.
type Side<'a> = (&'static str, Box<dyn FnMut() -> u8 + 'a>);

/// Returns all implementations of one framing.
fn sides<'a>(name: &str, framing: &Framing, pieces: &'a [&'a [u8]]) -> Vec<Side<'a>> {
    let mut side = ReadSide::new(framing.clone());
    let mut deframer = Deframer::new(framing.clone());
    let mut buf = BytesMut::with_capacity(READ_LEN);
    let mut sides: Vec<Side<'a>> = vec![
        (
            "connection",
            Box::new(move || by_connection(black_box(&mut side), pieces)),
        ),
        (
            "deframer",
            Box::new(move || by_deframer(black_box(&mut deframer), pieces)),
        ),
    ];
    let tokio_util: Option<Box<dyn FnMut() -> u8 + 'a>> = match name {
        "u32" => {
            let mut codec = LengthDelimitedCodec::new();
            Some(Box::new(move || {
                by_tokio_util(&mut codec, &mut buf, pieces)
            }))
        }
        "line" => {
            let mut codec = LinesCodec::new();
            Some(Box::new(move || {
                by_tokio_util(&mut codec, &mut buf, pieces)
            }))
        }
        "delimiter" | "two_delimiters" => {
            let set = [&b"\n"[..], b"\n\0"][usize::from(name != "delimiter")];
            let mut codec = AnyDelimiterCodec::new(set.into(), b"\n".into());
            Some(Box::new(move || {
                by_tokio_util(&mut codec, &mut buf, pieces)
            }))
        }
        _ => None,
    };
    sides.extend(tokio_util.map(|decode| ("tokio_util", decode)));
    if ["line", "delimiter"].contains(&name) {
        let mut read_buffer = vec![0; 2 * READ_LEN];
        sides.push((
            "memchr",
            Box::new(move || by_memchr(black_box(pieces), &mut read_buffer)),
        ));
        let mut read_buffer = vec![0; 2 * READ_LEN];
        sides.push((
            "memchr_own",
            Box::new(move || by_memchr_own(black_box(pieces), &mut read_buffer)),
        ));
        let (mut read_buffer, mut tail) = (vec![0; 2 * READ_LEN], Vec::new());
        sides.push((
            "memchr_shared",
            Box::new(move || by_memchr_shared(black_box(pieces), &mut read_buffer, &mut tail)),
        ));
    }
    sides
}

/// Splits a stream into reads: reads of whole frames, or a cut after every `SEGMENT_LEN` bytes.
fn pieces_of(stream: &Stream, is_aligned: bool) -> Vec<&[u8]> {
    let piece_len = match is_aligned {
        true => (READ_LEN / stream.sent_len).max(1) * stream.sent_len,
        false => SEGMENT_LEN,
    };
    stream.bytes.chunks(piece_len).collect()
}

fn decode(c: &mut Criterion) {
    for (how, is_aligned) in [("aligned", true), ("segments", false)] {
        for (name, framing) in framings() {
            let mut group = c.benchmark_group(format!("decode/{how}/{name}"));
            for frame_len in FRAME_LENS {
                let stream = stream_of(&framing, frame_len);
                let pieces = pieces_of(&stream, is_aligned);
                group.throughput(Throughput::Bytes(stream.bytes.len() as u64));
                for (who, mut decode) in sides(name, &framing, &pieces) {
                    assert_eq!(
                        decode(),
                        stream.sum,
                        "the sum of the payload bytes is wrong"
                    );
                    group.bench_function(BenchmarkId::new(who, frame_len), |b| b.iter(&mut decode));
                }
            }
            group.finish();
        }
    }
}

/// Prints the connection's time divided by the time of each other implementation.
///
/// The implementations take turns, so a change of the machine's speed affects all of them alike.
/// Each time is the 5th percentile of its runs.
fn ratios() {
    const TURNS: usize = 400;
    println!(
        "time of `connection` divided by the time of each other implementation (all take turns)"
    );
    for (how, is_aligned) in [("aligned", true), ("segments", false)] {
        for (name, framing) in framings() {
            for frame_len in FRAME_LENS {
                let stream = stream_of(&framing, frame_len);
                let pieces = pieces_of(&stream, is_aligned);
                let mut sides = sides(name, &framing, &pieces);
                let mut times = vec![Vec::with_capacity(TURNS); sides.len()];
                for _ in 0..TURNS {
                    for ((_, decode), times) in sides.iter_mut().zip(&mut times) {
                        let begin = Instant::now();
                        let sum = decode();
                        times.push(begin.elapsed().as_secs_f64());
                        assert_eq!(sum, stream.sum, "the sum of the payload bytes is wrong");
                    }
                }
                let fast: Vec<f64> = times
                    .iter_mut()
                    .map(|times| {
                        times.sort_by(f64::total_cmp);
                        times[TURNS / 20]
                    })
                    .collect();
                print!("{how}/{name}/{frame_len}: {:.0} us", fast[0] * 1e6);
                for ((who, _), time) in sides.iter().zip(&fast).skip(1) {
                    print!(", {who} {:.2}", fast[0] / time);
                }
                println!();
            }
        }
    }
}

fn encode(c: &mut Criterion) {
    for (name, framing) in framings() {
        let mut group = c.benchmark_group(format!("encode/{name}"));
        for frame_len in FRAME_LENS {
            let payload = vec![b'x'; frame_len];
            group.throughput(Throughput::Bytes(frame_len as u64));
            let mut framer = Framer::new(framing.clone());
            group.bench_function(BenchmarkId::new("framer", frame_len), |b| {
                b.iter(|| touch(framer.frame(black_box(&payload)).expect("valid payload")));
            });
            let id = BenchmarkId::new("tokio_util", frame_len);
            let mut buf = BytesMut::new();
            match name {
                "u32" => group.bench_function(id, |b| {
                    let payload = bytes::Bytes::from(payload.clone());
                    let mut codec = LengthDelimitedCodec::new();
                    b.iter(|| {
                        buf.clear();
                        codec
                            .encode(black_box(payload.clone()), &mut buf)
                            .expect("valid payload");
                        touch(&buf)
                    });
                }),
                "line" => group.bench_function(id, |b| {
                    let payload = str::from_utf8(&payload).expect("valid payload");
                    let mut codec = LinesCodec::new();
                    b.iter(|| {
                        buf.clear();
                        codec
                            .encode(black_box(payload), &mut buf)
                            .expect("valid payload");
                        touch(&buf)
                    });
                }),
                _ => &mut group,
            };
        }
        group.finish();
    }
}

criterion_group!(benches, decode, encode);

fn main() {
    if std::env::args().any(|arg| arg == "ratios") {
        return ratios();
    }
    benches();
    Criterion::default().configure_from_args().final_summary();
}
