//! The framings alone: a megabyte of frames decoded in pieces as they come from a socket, and
//! payloads encoded, without a socket.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use unstick::{Deframer, Framer, Framing};

/// What is decoded in one iteration, in bytes.
const STREAM_LEN: usize = 1 << 20;
/// A read that empties a busy socket, and one that finds a single segment.
const PIECES: [usize; 2] = [64 * 1024, 1460];

fn framings() -> Vec<(&'static str, Framing)> {
    vec![
        ("u32", Framing::length_u32()),
        ("varint", Framing::varint()),
        ("netstring", Framing::netstring()),
        ("line", Framing::line()),
        ("delimiter", Framing::delimiter(b"\r\n\r\n")),
        ("two_delimiters", Framing::delimiters(&[b"\n", b"\0"])),
    ]
}

fn stream_of(framing: &Framing, frame_len: usize) -> Vec<u8> {
    let mut framer = Framer::new(framing.clone());
    let payload = vec![b'x'; frame_len];
    let mut stream = Vec::new();
    while stream.len() < STREAM_LEN {
        framer
            .write_frame(&mut stream, &payload)
            .expect("every framing carries letters");
    }
    stream
}

fn decode(c: &mut Criterion) {
    for piece_len in PIECES {
        let mut group = c.benchmark_group(format!("decode_in_pieces_of_{piece_len}"));
        for (name, framing) in framings() {
            for frame_len in [64, 1024, 64 * 1024] {
                let stream = stream_of(&framing, frame_len);
                group.throughput(Throughput::Bytes(stream.len() as u64));
                let id = BenchmarkId::new(name, frame_len);
                group.bench_function(id, |b| {
                    b.iter(|| {
                        let mut deframer = Deframer::new(framing.clone());
                        for piece in stream.chunks(piece_len) {
                            deframer.extend(piece);
                            while let Some(frame) = deframer.next_frame().expect("a frame") {
                                black_box(frame);
                            }
                        }
                    });
                });
            }
        }
        group.finish();
    }
}

fn encode(c: &mut Criterion) {
    let mut group = c.benchmark_group("encode");
    for (name, framing) in framings() {
        for frame_len in [64, 1024, 64 * 1024] {
            let payload = vec![b'x'; frame_len];
            let mut framer = Framer::new(framing.clone());
            group.throughput(Throughput::Bytes(frame_len as u64));
            let id = BenchmarkId::new(name, frame_len);
            group.bench_function(id, |b| {
                b.iter(|| {
                    black_box(framer.frame(black_box(&payload)).expect("it is carried"));
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, decode, encode);
criterion_main!(benches);
