//! Decoding and encoding without a reactor, compared with tokio-util in one run.
//!
//! Each decode benchmark passes at least one mebibyte of frames to the decoder, split into reads as
//! a socket would deliver them. Every implementation does this work:
//!
//! * It copies each read once into a buffer, as the kernel would, and keeps its buffers between
//!   streams.
//! * It delivers each frame borrowed or reference-counted. Only `LinesCodec` of tokio-util copies
//!   each line, into a `String`, and checks that the line is UTF-8.
//! * It reads each payload byte with `touch`. This function is not inlined, because the position of
//!   its loop in the machine code can change the time by a seventh.
//! * It must return the expected sum of all payload bytes before it is measured.
//!
//! Three loops around memchr show the lower bound of the time. They have no frame length limit, and
//! they do not implement a codec.
//!
//! * `memchr` finds line ends in place and does not join a line that two reads share. A decoder
//!   that searches for line ends cannot be faster.
//! * `memchr_own` delivers every line whole. It has its own buffer, appends each read to the
//!   partial line, and moves only partial lines. A server would need one such buffer per
//!   connection.
//! * `memchr_shared` delivers every line whole. It reads into memory that all connections share, as
//!   the reactor does, and keeps partial lines in a vector. Compare the implementation `connection`
//!   with this loop.
//!
//! Criterion measures one implementation after the other, and the speed of the machine can change
//! in between. To compare implementations, run `cargo bench --bench decode -- ratios`. This command
//! interleaves the implementations and prints the ratios of their times.

use std::hint::black_box;
use std::ops::ControlFlow;
use std::time::Instant;

use bytes::BytesMut;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group};
use tokio_util::codec::{AnyDelimiterCodec, Decoder, Encoder, LengthDelimitedCodec, LinesCodec};
use unstick::testkit::ReadSide;
use unstick::{Deframer, Framer, Framing};

/// Minimum number of bytes decoded in one iteration; the last frame may exceed it.
const STREAM_LEN: usize = 1 << 20;
/// Length of a typical read from a busy socket, in bytes.
const READ_LEN: usize = 64 * 1024;
/// Maximum payload of a TCP segment over Ethernet, without options, in bytes.
const SEGMENT_LEN: usize = 1460;
const FRAME_LENS: [usize; 3] = [64, 1024, 64 * 1024];

#[inline(never)]
fn touch(payload: &[u8]) -> u8 {
    payload.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

/// Decodes in place in the read buffer, as a connection of the reactor does.
#[inline(never)]
fn by_connection(read_side: &mut ReadSide, reads: &[&[u8]]) -> u8 {
    let mut sum = 0_u8;
    for bytes in reads {
        let mut at = 0;
        while at < bytes.len() {
            let taken = read_side.read(&bytes[at..], |frame| {
                sum = sum.wrapping_add(touch(frame));
                ControlFlow::Continue(())
            });
            at += taken.expect("the stream holds valid frames");
        }
    }
    sum
}

#[inline(never)]
fn by_deframer(deframer: &mut Deframer, reads: &[&[u8]]) -> u8 {
    let mut sum = 0_u8;
    for bytes in reads {
        deframer.extend(bytes);
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
fn by_tokio_util<D>(decoder: &mut D, buf: &mut BytesMut, reads: &[&[u8]]) -> u8
where
    D: Decoder<Error: std::fmt::Debug>,
    D::Item: AsRef<[u8]>,
{
    let mut sum = 0_u8;
    for bytes in reads {
        buf.extend_from_slice(bytes);
        while let Some(frame) = decoder.decode(buf).expect("the stream holds valid frames") {
            sum = sum.wrapping_add(touch(frame.as_ref()));
        }
    }
    sum
}

#[inline(never)]
fn by_memchr(reads: &[&[u8]], read_buffer: &mut [u8]) -> u8 {
    let mut sum = 0_u8;
    for bytes in reads {
        let read = &mut read_buffer[..bytes.len()];
        read.copy_from_slice(bytes);
        let mut start = 0;
        for end in memchr::memchr_iter(b'\n', read) {
            sum = sum.wrapping_add(touch(&read[start..end]));
            start = end + 1;
        }
        sum = sum.wrapping_add(touch(&read[start..]));
    }
    sum
}

/// Finds lines with memchr and delivers each line whole. `buf` has space for one line and one read.
#[inline(never)]
fn by_memchr_own(reads: &[&[u8]], buf: &mut [u8]) -> u8 {
    let mut sum = 0_u8;
    let mut partial_len = 0;
    for bytes in reads {
        let end = partial_len + bytes.len();
        buf[partial_len..end].copy_from_slice(bytes);
        let mut start = 0;
        for at in memchr::memchr_iter(b'\n', &buf[partial_len..end]) {
            sum = sum.wrapping_add(touch(&buf[start..partial_len + at]));
            start = partial_len + at + 1;
        }
        if start > 0 {
            buf.copy_within(start..end, 0);
        }
        partial_len = end - start;
    }
    sum
}

/// Finds lines with memchr in a read buffer that connections share, and delivers each line whole.
/// Partial lines are copied to `partial_line`.
#[inline(never)]
fn by_memchr_shared(reads: &[&[u8]], read_buffer: &mut [u8], partial_line: &mut Vec<u8>) -> u8 {
    let mut sum = 0_u8;
    for bytes in reads {
        let read = &mut read_buffer[..bytes.len()];
        read.copy_from_slice(bytes);
        let mut rest = &*read;
        if !partial_line.is_empty() {
            let Some(at) = memchr::memchr(b'\n', rest) else {
                partial_line.extend_from_slice(rest);
                continue;
            };
            partial_line.extend_from_slice(&rest[..at]);
            sum = sum.wrapping_add(touch(partial_line));
            partial_line.clear();
            rest = &rest[at + 1..];
        }
        let mut start = 0;
        for at in memchr::memchr_iter(b'\n', rest) {
            sum = sum.wrapping_add(touch(&rest[start..at]));
            start = at + 1;
        }
        partial_line.extend_from_slice(&rest[start..]);
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
    let frame = framer.frame(&payload).expect("the payload is valid");
    let count = STREAM_LEN.div_ceil(frame.len());
    Stream {
        bytes: frame.repeat(count),
        sent_len: frame.len(),
        sum: (0..count).fold(0, |sum, _| sum.wrapping_add(touch(&payload))),
    }
}

/// An implementation: its name, and a function that decodes a stream and returns the payload sum.
type Implementation<'a> = (&'static str, Box<dyn FnMut() -> u8 + 'a>);

/// Returns all implementations of one framing.
fn implementations<'a>(
    name: &str,
    framing: &Framing,
    reads: &'a [&'a [u8]],
) -> Vec<Implementation<'a>> {
    let mut read_side = ReadSide::new(framing.clone());
    let mut deframer = Deframer::new(framing.clone());
    let mut buf = BytesMut::with_capacity(READ_LEN);
    let mut implementations: Vec<Implementation<'a>> = vec![
        (
            "connection",
            Box::new(move || by_connection(black_box(&mut read_side), reads)),
        ),
        (
            "deframer",
            Box::new(move || by_deframer(black_box(&mut deframer), reads)),
        ),
    ];
    let tokio_util: Option<Box<dyn FnMut() -> u8 + 'a>> = match name {
        "u32" => {
            let mut codec = LengthDelimitedCodec::new();
            Some(Box::new(move || by_tokio_util(&mut codec, &mut buf, reads)))
        }
        "line" => {
            let mut codec = LinesCodec::new();
            Some(Box::new(move || by_tokio_util(&mut codec, &mut buf, reads)))
        }
        "delimiter" | "two_delimiters" => {
            let set = [&b"\n"[..], b"\n\0"][usize::from(name != "delimiter")];
            let mut codec = AnyDelimiterCodec::new(set.into(), b"\n".into());
            Some(Box::new(move || by_tokio_util(&mut codec, &mut buf, reads)))
        }
        _ => None,
    };
    implementations.extend(tokio_util.map(|decode| ("tokio_util", decode)));
    if ["line", "delimiter"].contains(&name) {
        let mut read_buffer = vec![0; 2 * READ_LEN];
        implementations.push((
            "memchr",
            Box::new(move || by_memchr(black_box(reads), &mut read_buffer)),
        ));
        let mut read_buffer = vec![0; 2 * READ_LEN];
        implementations.push((
            "memchr_own",
            Box::new(move || by_memchr_own(black_box(reads), &mut read_buffer)),
        ));
        let (mut read_buffer, mut partial_line) = (vec![0; 2 * READ_LEN], Vec::new());
        implementations.push((
            "memchr_shared",
            Box::new(move || {
                by_memchr_shared(black_box(reads), &mut read_buffer, &mut partial_line)
            }),
        ));
    }
    implementations
}

/// Splits a stream into reads: of whole frames if `is_aligned`, otherwise of `SEGMENT_LEN` bytes.
fn reads_of(stream: &Stream, is_aligned: bool) -> Vec<&[u8]> {
    let read_len = match is_aligned {
        true => (READ_LEN / stream.sent_len).max(1) * stream.sent_len,
        false => SEGMENT_LEN,
    };
    stream.bytes.chunks(read_len).collect()
}

fn decode(c: &mut Criterion) {
    for (split, is_aligned) in [("aligned", true), ("segments", false)] {
        for (name, framing) in framings() {
            let mut group = c.benchmark_group(format!("decode/{split}/{name}"));
            for frame_len in FRAME_LENS {
                let stream = stream_of(&framing, frame_len);
                let reads = reads_of(&stream, is_aligned);
                group.throughput(Throughput::Bytes(stream.bytes.len() as u64));
                for (implementation, mut decode) in implementations(name, &framing, &reads) {
                    assert_eq!(
                        decode(),
                        stream.sum,
                        "the sum of the payload bytes is wrong"
                    );
                    group.bench_function(BenchmarkId::new(implementation, frame_len), |b| {
                        b.iter(&mut decode)
                    });
                }
            }
            group.finish();
        }
    }
}

/// Prints the connection's time divided by the time of each other implementation.
///
/// The implementations run alternately, so a change of the machine's speed affects all of them
/// alike. The time of an implementation is the 5th percentile of its runs.
fn ratios() {
    const RUNS: usize = 400;
    println!(
        "time of `connection` divided by the time of each other implementation (run alternately)"
    );
    for (split, is_aligned) in [("aligned", true), ("segments", false)] {
        for (name, framing) in framings() {
            for frame_len in FRAME_LENS {
                let stream = stream_of(&framing, frame_len);
                let reads = reads_of(&stream, is_aligned);
                let mut implementations = implementations(name, &framing, &reads);
                let mut times = vec![Vec::with_capacity(RUNS); implementations.len()];
                for _ in 0..RUNS {
                    for ((_, decode), times) in implementations.iter_mut().zip(&mut times) {
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
                        times[RUNS / 20]
                    })
                    .collect();
                print!("{split}/{name}/{frame_len}: {:.0} us", fast[0] * 1e6);
                for ((implementation, _), time) in implementations.iter().zip(&fast).skip(1) {
                    print!(", {implementation} {:.2}", fast[0] / time);
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
                b.iter(|| {
                    touch(
                        framer
                            .frame(black_box(&payload))
                            .expect("the payload is valid"),
                    )
                });
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
                            .expect("the payload is valid");
                        touch(&buf)
                    });
                }),
                "line" => group.bench_function(id, |b| {
                    let payload = str::from_utf8(&payload).expect("the payload is valid");
                    let mut codec = LinesCodec::new();
                    b.iter(|| {
                        buf.clear();
                        codec
                            .encode(black_box(payload), &mut buf)
                            .expect("the payload is valid");
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
