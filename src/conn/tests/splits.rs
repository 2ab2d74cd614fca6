//! Tests that cut streams into reads: the delivered frames must not depend on the cuts.

use super::naive::{delivered, encode, header, payload, payload_len_max, random_stream};
use super::*;

/// Maximum length of a frame in the short streams of this file.
const LIMIT: usize = 200;

for_every_framing!(every_split_of_a_short_stream_gives_the_same_frames);
for_every_framing!(every_one_and_two_cuts_of_a_long_stream_give_the_same_frames);
for_every_framing!(a_short_read_before_a_long_one_gives_the_same_frames);
for_every_framing!(random_cuts_give_the_same_frames);
for_every_framing!(reframe_between_two_frames_keeps_the_bytes_after_it);
for_every_framing!(ten_thousand_glued_frames_are_delivered_one_by_one);
for_every_framing!(frame_received_byte_by_byte_is_one_frame);

fn every_split_of_a_short_stream_gives_the_same_frames(name: &'static str) {
    let mut sink = Collect::new();
    for (limit, stream) in short_streams(name) {
        let plan = Section::all(name, limit);
        Case::new(&plan, &stream).check_every_split(&mut sink);
    }
}

/// Returns streams of up to 16 bytes, each with its frame limit. They contain whole frames, a
/// partial frame at the end, or an invalid frame between valid ones.
fn short_streams(name: &str) -> Vec<(usize, Vec<u8>)> {
    let streams: &[(usize, &[u8])] = match name {
        "raw" => &[(LIMIT, b"0123456789abcdef"), (3, b"0123456789")],
        "line" => &[
            (LIMIT, b"a\r\n\n\r\n\r\r\nc\rd\n\r"),
            (LIMIT, b"a\nbcdefg\nhi"),
            (4, b"abcd\r\nabcde\na\n"),
            (4, b"abcd\n\nabcd\r\ra\n"),
        ],
        "byte" => &[
            (LIMIT, b";a\r;\n;;\r;b\nc;\r"),
            (4, b"abcd;;abcde;a;"),
            (4, b"abc\r;abcd\r;"),
        ],
        "fixed" => &[(LIMIT, b"abcdefghijkl"), (LIMIT, b"abcdef")],
        "delimiter" => &[
            (LIMIT, b"--a-----bcd-e--"),
            (LIMIT, b"abc--de-"),
            (4, b"abcd--abcde--"),
            (4, b"abcd-efg--a--"),
        ],
        "delimiters" => &[
            (LIMIT, b";a;;;;;b\r;\r\nc;;"),
            (LIMIT, b"a\r\r\nb;;;;"),
            (LIMIT, b"a;;\r"),
            (4, b"abcd;abcde;;;"),
            (4, b"abcd\refg;a;"),
        ],
        "varint" => &[
            (LIMIT, b"\x00\x02ab\x00\x01c\x05defgh\x02i"),
            (LIMIT, b"\x01a\x80\x00\x01b"),
            (LIMIT, b"\xc9\x01\x01b"),
            (LIMIT, b"\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x00"),
            (LIMIT, b"\x00\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x00"),
        ],
        "netstring" => &[
            (LIMIT, b"0:,1:a,3:b:,,0:,"),
            (LIMIT, b"10:abcdefghij,2:"),
            (LIMIT, b"0:,1:ab0:,"),
            (LIMIT, b"0:,01:a,0:,"),
            (LIMIT, b"0:,201:0:,"),
            (LIMIT, b"0:,:0:,"),
        ],
        "field" => &[
            (LIMIT, b"M\x03\0N\x05\0abM\x03\0M\x06\0c"),
            (LIMIT, b"M\x03\0M\x02\0M\x03\0"),
            (LIMIT, b"M\x03\0M\xcc\0M\x03\0"),
        ],
        "kept" => &[
            (LIMIT, b"t\0t\x02abu\0t\x01ct\x03d"),
            (LIMIT, b"t\0t\xc7t\0t\0"),
        ],
        "records" => &[
            (LIMIT, b"r\0r\x01abcr\0r\x02defg"),
            (LIMIT, b"r\0s\0r\0r\0"),
            (LIMIT, b"r\0r\x43r\0r\0"),
        ],
        "nul" | "marked" | "tagged" | "blocks" => short_custom_streams(name),
        "line-crlf" | "rest" | "beats" | "digits" => short_optional_streams(name),
        name => return short_length_streams(name),
    };
    streams
        .iter()
        .map(|(limit, stream)| (*limit, stream.to_vec()))
        .collect()
}

fn short_optional_streams(name: &str) -> &'static [(usize, &'static [u8])] {
    match name {
        "line-crlf" => &[
            (LIMIT, b"a\r\n\r\n\r\nbc\r\nd"),
            (LIMIT, b"a\r\n\r\nbc\r"),
            (LIMIT, b"a\r\n.\nb\r\n"),
            (LIMIT, b"a\r\n.\r.\r\n"),
            (LIMIT, b"a\r\n\r\r\n\r\n"),
            (LIMIT, b"\n\r\n"),
            (4, b"abcd\r\nabcde\r\n"),
            (4, b"abcd\r\nabcde\n"),
        ],
        "rest" => &[
            (LIMIT, b"a\r\n\nbc\rd"),
            (LIMIT, b"a\r\nbcdefg\nhi\r"),
            (LIMIT, b"a\n\r"),
            (LIMIT, b"abc\n"),
            (4, b"abcd\r\nabcd\r"),
        ],
        "beats" => &[
            (LIMIT, b"~+a--~~~bcd--+--"),
            (LIMIT, b"~~a~--~b-"),
            (4, b"~~~~~~abcd--~+"),
            (4, b"~abcd-efg--"),
        ],
        "digits" => &[
            (LIMIT, b"0:1:a3:b:,0:12:"),
            (LIMIT, b"10:abcdefghij2:"),
            (LIMIT, b"0:a:b0:"),
            (LIMIT, b"0::0:"),
            (LIMIT, b"0:199:0:"),
            (LIMIT, b"0:000000000001:a"),
            (4, b"0:2:ab1:a3:abc"),
            (4, b"0:0001:a"),
        ],
        name => unreachable!("{name} has no option"),
    }
}

fn short_custom_streams(name: &str) -> &'static [(usize, &'static [u8])] {
    match name {
        "nul" => &[(LIMIT, b"\0a\0\0bcd\0efghij\0"), (LIMIT, b"abc\0de")],
        "marked" => &[
            (LIMIT, b"<><>a<<>>bc<>d<"),
            (LIMIT, b"<>abcd<><>e<><"),
            (LIMIT, b"<>a<>b<c>d<>"),
        ],
        "tagged" => &[
            (LIMIT, b"f\0..f\x01as\0\0f\x02bcf\x01"),
            (LIMIT, b"s\0\x03f\x01.f\x01a.s\0\x02f."),
            (LIMIT, b"f\x01as\xff\xfff\x01b"),
            (LIMIT, b"s\0\x05f\x01af\0f\x01bs"),
            (LIMIT, b"f\0x?f\0f\0"),
        ],
        "blocks" => &[(LIMIT, b"abcdefghijklmn"), (LIMIT, b"abcdef")],
        name => unreachable!("{name} is built in"),
    }
}

fn short_length_streams(name: &str) -> Vec<(usize, Vec<u8>)> {
    let good = |lens: &[usize]| {
        let frames = lens.iter().map(|len| encode(name, &payload(*len)));
        frames.collect::<Vec<_>>().concat()
    };
    // A valid frame, an invalid header, and then bytes that look like valid frames. A valid frame
    // and a 64-bit header would have more than 16 bytes together, so this first frame is left out.
    let bad = |len: u64| {
        let first = if name.starts_with("u64") {
            Vec::new()
        } else {
            good(&[1])
        };
        [first, header(name, len), good(&[0, 1, 2])].concat()
    };
    let largest = u64::MAX >> (64 - 8 * header(name, 0).len());
    let longest = match name {
        "u8" | "u32" | "u64" | "u64-le" => 16,
        _ => 13,
    };
    let streams = [
        (longest, good(&[0, 1, 2, 3, 4, 5, 6])),
        (14, good(&[6, 6, 6])),
        (11, good(&[0, 0, 0, 0, 0, 0, 0])),
        (12, bad(LIMIT as u64 + 1)),
        (10, bad(largest)),
    ];
    let cut_short = |(len, mut stream): (usize, Vec<u8>)| {
        stream.truncate(len);
        (LIMIT, stream)
    };
    streams.map(cut_short).to_vec()
}

fn every_one_and_two_cuts_of_a_long_stream_give_the_same_frames(name: &'static str) {
    let mut sink = Collect::new();
    let mut random = Random(7);
    let plan = Section::all(name, 1 << 20);
    let mut stream = random_stream(name, 80, 30, &mut random);
    stream.extend(&encode(name, &payload(3))[..2]);
    let case = Case::new(&plan, &stream);
    let budgets = [usize::MAX, 1, 3];
    let modes = budgets.map(|budget| Mode { budget, ..AT_ONCE });
    for mode in modes {
        let bytewise = |_| 1;
        let describe_cuts = || "byte by byte".to_owned();
        case.check(mode, &mut sink, describe_cuts, bytewise);
        for_every_two_cuts(stream.len().min(100), |first, second| {
            let describe_cuts = || format!("{stream:?} cut at {first} and {second}");
            let read_len = two_cuts(first, second);
            case.check(mode, &mut sink, describe_cuts, read_len);
        });
    }
}

/// A decode step takes a limited number of new bytes while the length of a frame is unknown. The
/// long read has more bytes than that.
fn a_short_read_before_a_long_one_gives_the_same_frames(name: &'static str) {
    let mut sink = Collect::new();
    let plan = Section::all(name, 1 << 20);
    let lens = [3, 0, 20, 4000, 2, 1100].map(|len: usize| len.min(payload_len_max(name)));
    let stream = lens.map(|len| encode(name, &payload(len))).concat();
    // A stream of short frames is repeated until it is longer than 3000 bytes.
    let stream = stream.repeat(1 + 3000 / stream.len());
    let case = Case::new(&plan, &stream);
    for first in 1..stream.len().min(60) {
        for mode in MODES {
            let describe_cuts = || format!("cut at {first}");
            let read_len = two_cuts(first, stream.len());
            case.check(mode, &mut sink, describe_cuts, read_len);
        }
    }
}

fn random_cuts_give_the_same_frames(name: &'static str) {
    let mut sink = Collect::new();
    for seed in 0..16 {
        let mut random = Random(seed);
        let plan = Section::all(name, 1 << 20);
        let payload_max = [40, 3000, 100_000][random.below(3)];
        let stream_len = if matches!(name, "blocks" | "fixed") {
            5000
        } else {
            2 * payload_max
        };
        let mut stream = random_stream(name, stream_len, payload_max, &mut random);
        stream.truncate(stream.len() - random.below(4));
        let case = Case::new(&plan, &stream);
        for read_len_max in [2, 64, 1460, 65_536] {
            if payload_max >= 1000 * read_len_max {
                continue;
            }
            let mode = Mode {
                budget: if random.below(2) == 0 {
                    usize::MAX
                } else {
                    1 + random.below(20)
                },
                direct: random.below(2) == 0,
            };
            let read_len = |_| 1 + random.below(read_len_max);
            let describe_cuts = || format!("seed {seed}, reads of up to {read_len_max}");
            case.check(mode, &mut sink, describe_cuts, read_len);
        }
    }
}

/// The stream has two glued frames of the framing `name`, one frame of another framing, and again
/// frames of `name`. The framing `raw` is only the last framing of a stream, because it takes all
/// bytes.
fn reframe_between_two_frames_keeps_the_bytes_after_it(name: &'static str) {
    let mut sink = Collect::new();
    for other in FRAMINGS.into_iter().filter(|other| *other != "raw") {
        let section = |name, frames| Section::new(name, 1 << 20, frames);
        let plan = if name == "raw" {
            vec![section(other, 2), section(name, usize::MAX)]
        } else {
            vec![
                section(name, 2),
                section(other, 1),
                section(name, usize::MAX),
            ]
        };
        // The payload `<>` is a mark, which ends a `marked` frame before it.
        let first = if name == "raw" { other } else { name };
        let stream = [
            encode(first, b"abc"),
            encode(first, b"<>"),
            encode(other, b"<>a"),
            encode(name, b"abc"),
            encode(name, b"<>d"),
        ]
        .concat();
        let case = Case::new(&plan, &stream);
        for_every_two_cuts(stream.len(), |first, second| {
            for mode in MODES {
                let describe_cuts = || format!("{stream:?} cut at {first} and {second}");
                let read_len = two_cuts(first, second);
                case.check(mode, &mut sink, describe_cuts, read_len);
            }
        });
    }
}

/// Calls `test` with every pair of offsets at which a stream of `len` bytes can be cut. The offset
/// `len` is the end of the stream.
fn for_every_two_cuts(len: usize, mut test: impl FnMut(usize, usize)) {
    for first in 1..=len {
        for second in first..=len {
            test(first, second);
        }
    }
}

/// Returns the length of the read at an offset, for a stream that is cut at two offsets.
fn two_cuts(first: usize, second: usize) -> impl Fn(usize) -> usize {
    move |at| match at {
        0 => first,
        at if at < second => second - at,
        _ => usize::MAX,
    }
}

fn ten_thousand_glued_frames_are_delivered_one_by_one(name: &'static str) {
    let mut sink = Collect::new();
    let plan = Section::all(name, 1 << 20);
    let frames: Vec<Vec<u8>> = (0..10_000_u32)
        .map(|index| {
            let payload = format!("{:03}", index % 1000).into_bytes();
            encode(name, &payload)
        })
        .collect();
    let stream = frames.concat();
    for mode in MODES {
        let Outcome {
            frames,
            left,
            error_offset,
        } = deliver(&plan, &stream, mode, &mut sink, |_| usize::MAX);
        assert_eq!((left, error_offset), (0, None));
        if name == "raw" {
            assert!(frames.concat() == stream);
            continue;
        }
        assert_eq!(frames.len(), 10_000);
        for (index, frame) in frames.iter().enumerate() {
            let payload = format!("{:03}", index % 1000).into_bytes();
            assert_eq!(*frame, delivered(name, &payload));
        }
    }
}

fn frame_received_byte_by_byte_is_one_frame(name: &'static str) {
    let mut sink = Collect::new();
    let plan = Section::all(name, 1 << 20);
    let len = if matches!(name, "blocks" | "fixed") {
        3
    } else {
        255
    };
    let payload = payload(len);
    let stream = encode(name, &payload);
    let Outcome {
        frames,
        left,
        error_offset,
    } = deliver(&plan, &stream, AT_ONCE, &mut sink, |_| 1);
    assert_eq!((left, error_offset), (0, None));
    let frames = if name == "raw" {
        vec![frames.concat()]
    } else {
        frames
    };
    assert_eq!(frames, [delivered(name, &payload)]);
}

#[test]
fn encoded_frames_equal_the_reference_encoding() {
    for name in FRAMINGS {
        let payload = payload(if matches!(name, "blocks" | "fixed") {
            3
        } else {
            200
        });
        let mut buf = crate::memory::Buf::default();
        codecs::framing(name)
            .encode(&delivered(name, &payload), &mut buf)
            .expect("every framing can encode the payload");
        assert_eq!(buf.bytes(), encode(name, &payload), "{name}");
    }
}

/// A long frame is read directly into its buffer once enough of its bytes have arrived. The
/// delivered frames must be the same as without direct reads.
#[test]
fn direct_reads_of_long_frames_give_the_same_frames() {
    let mut sink = Collect::new();
    let names = [
        "u24",
        "u32",
        "u64",
        "u24-le",
        "u32-le",
        "u64-le",
        "varint",
        "netstring",
    ];
    for name in names {
        let plan = Section::all(name, 1 << 20);
        let lens = [3, 100_000, 0, 1 << 20, 40_000, 7, 65_536, 300_000, 2];
        let stream = lens.map(|len| encode(name, &payload(len))).concat();
        let case = Case::new(&plan, &stream);
        assert_eq!(case.expected.frames.len(), lens.len());
        for read_len_max in [16_385, 20_000, 65_536, 262_144] {
            let moved = [false, true].map(|direct| {
                sink.pool.moved_bytes = 0;
                let mode = Mode { direct, ..AT_ONCE };
                let describe_cuts = || format!("reads of {read_len_max}");
                let read_len = |_| read_len_max;
                case.check(mode, &mut sink, describe_cuts, read_len);
                sink.pool.moved_bytes
            });
            assert!(
                moved[1] < moved[0] * 3 / 4,
                "direct reads copy at least a quarter less: {moved:?}"
            );
        }
    }
}
