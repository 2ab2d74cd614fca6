//! Tests of the deframer.

use super::*;
use crate::codec::{Codec, Out, Step};
use crate::framed::Framer;

/// Reader of a byte slice. Each read returns at most the given number of bytes.
struct ShortReads<'a>(&'a [u8], usize);

impl Read for ShortReads<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = self.1.min(buf.len()).min(self.0.len());
        let (piece, rest) = self.0.split_at(len);
        buf[..len].copy_from_slice(piece);
        self.0 = rest;
        Ok(len)
    }
}

#[test]
fn frames_of_every_framing_are_the_same_for_every_read_length() {
    let framings = [
        Framing::line(),
        Framing::length_u8(),
        Framing::length_u24_le(),
        Framing::varint(),
        Framing::netstring(),
        Framing::fixed(40),
        Framing::delimiter(b"--"),
    ];
    for framing in framings {
        let mut framer = Framer::new(framing.clone());
        let mut stream = Vec::new();
        for index in 0..50_u8 {
            framer
                .write_frame(&mut stream, &[index | 0x40; 40])
                .expect("the payload fits");
        }
        for read_len in [1, 2, 3, 39, 41, 1000, usize::MAX] {
            let mut reader = ShortReads(&stream, read_len);
            let mut deframer = Deframer::new(framing.clone());
            for index in 0..50_u8 {
                let frame = deframer
                    .read_frame(&mut reader)
                    .expect("the bytes are valid");
                assert_eq!(
                    frame,
                    Some(&[index | 0x40; 40][..]),
                    "{framing}, reads of {read_len} bytes"
                );
            }
            assert_eq!(
                deframer
                    .read_frame(&mut reader)
                    .expect("the stream ends after a frame"),
                None
            );
            assert_eq!(deframer.offset(), stream.len() as u64);
        }
    }
}

#[test]
fn a_stream_that_ends_within_a_frame_is_an_unexpected_end() {
    let mut deframer = Deframer::new(Framing::length_u16());
    let error = deframer
        .read_frame(&mut &b"\x00\x05hell"[..])
        .expect_err("the stream ends within a frame");
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    assert_eq!(deframer.rest(), b"\x00\x05hell");
}

#[test]
fn error_is_final_and_reports_its_offset() {
    let mut deframer = Deframer::new(Framing::length_u8().frame_len_max(3));
    deframer.extend(b"\x01a\x04bcde\x01f");
    assert_eq!(
        deframer.next_frame().expect("the bytes are valid"),
        Some(&b"a"[..])
    );
    for _ in 0..3 {
        let DecodeError { error, offset } = deframer
            .next_frame()
            .expect_err("the frame exceeds the limit");
        assert!(matches!(error, FrameError::TooLong { len: 4, limit: 3 }));
        assert_eq!((offset, deframer.offset()), (2, 2));
        deframer.extend(b"\x01g");
    }
}

#[test]
fn length_in_a_header_reserves_no_memory() {
    let mut deframer = Deframer::new(Framing::length_u32().frame_len_max(1 << 30));
    deframer.extend(&(1_u32 << 30).to_be_bytes());
    assert_eq!(deframer.next_frame().expect("the bytes are valid"), None);
    assert!(deframer.spare_capacity_mut().len() <= READ_LEN);
    assert!(deframer.buf.capacity() <= 2 * READ_LEN);
}

#[test]
fn the_buffer_shrinks_step_by_step_after_a_burst() {
    let mut framer = Framer::new(Framing::length_u32());
    let long = framer
        .frame(&[1; 1 << 20])
        .expect("the payload fits")
        .to_vec();
    let short = framer.frame(&[2; 5000]).expect("the payload fits").to_vec();
    for reads in [false, true] {
        let mut deframer = Deframer::new(Framing::length_u32());
        let mut decode = |bytes: &[u8]| {
            for piece in bytes.chunks(4000) {
                if reads {
                    deframer.spare_capacity_mut()[..piece.len()].copy_from_slice(piece);
                    deframer.advance(piece.len());
                } else {
                    deframer.extend(piece);
                }
                while let Some(frame) = deframer.next_frame().expect("the bytes are valid") {
                    assert!([1 << 20, 5000].contains(&frame.len()));
                }
            }
            deframer.buf.capacity()
        };
        let large = decode(&long);
        assert!(large >= 1 << 20);
        for _ in 0..10 {
            assert_eq!(decode(&long), large, "a long frame keeps the capacity");
            (0..100).for_each(|_| {
                assert_eq!(decode(&short), large, "some short frames keep the capacity")
            });
        }
        let small = (0..20_000).map(|_| decode(&short)).last();
        assert!(
            small <= Some(2 * READ_LEN),
            "the capacity is still {small:?} bytes"
        );
    }
}

#[test]
fn the_buffer_shrinks_after_some_hundred_short_frames() {
    let mut framer = Framer::new(Framing::length_u32());
    let mut deframer = Deframer::new(Framing::length_u32());
    deframer.extend(framer.frame(&[1; 1 << 20]).expect("the payload fits"));
    assert!(
        deframer
            .next_frame()
            .expect("the bytes are valid")
            .is_some()
    );
    let mut steps = Vec::new();
    for index in 0..2000 {
        let before = deframer.buf.capacity();
        // This call adds no bytes, so it must not count towards the shrink.
        deframer.extend(b"");
        deframer.extend(b"\0\0\0\x02ok");
        assert_eq!(
            deframer.next_frame().expect("the bytes are valid"),
            Some(&b"ok"[..])
        );
        if deframer.buf.capacity() != before {
            steps.push((index, deframer.buf.capacity()));
        }
    }
    let frames_per_step = SHRINK * ALONE;
    let expected = [1 << 19, 1 << 17, 1 << 15, 1 << 13];
    let expected: Vec<_> = (1..)
        .map(|step| step * frames_per_step)
        .zip(expected)
        .collect();
    assert_eq!(steps, expected);
}

#[test]
fn shrink_to_fit_keeps_only_what_undelivered_bytes_need() {
    let mut framer = Framer::new(Framing::length_u32());
    let long = framer
        .frame(&[1; 1 << 20])
        .expect("the payload fits")
        .to_vec();
    for rest in [&b""[..], b"\0", b"\0\0\0\x05hel"] {
        let mut deframer = Deframer::new(Framing::length_u32());
        for _ in 0..2 {
            deframer.extend(&long);
            deframer.extend(rest);
            assert!(
                deframer
                    .next_frame()
                    .expect("the bytes are valid")
                    .is_some()
            );
            assert_eq!(deframer.next_frame().expect("the bytes are valid"), None);
            assert!(deframer.buf.capacity() >= 1 << 20);
            deframer.shrink_to_fit();
            assert_eq!(deframer.buf.capacity(), rest.len());
            assert_eq!(deframer.rest(), rest);
            deframer.extend(&b"\0\0\0\x05hello"[rest.len()..]);
            let frame = deframer.next_frame().expect("the bytes are valid");
            assert_eq!(frame, Some(&b"hello"[..]));
        }
        assert_eq!(deframer.offset(), 2 * (long.len() as u64 + 9));
    }
}

#[test]
fn a_new_framing_decodes_all_undelivered_bytes_at_once() {
    let mut deframer = Deframer::new(Framing::line());
    deframer.extend(b"a;b;");
    assert_eq!(deframer.next_frame().expect("the bytes are valid"), None);
    deframer.reframe(Framing::delimiter(b";"));
    assert_eq!(
        deframer.next_frame().expect("the bytes are valid"),
        Some(&b"a"[..])
    );
}

#[test]
fn the_framing_can_change_between_two_frames_of_one_read() {
    let mut deframer = Deframer::new(Framing::line());
    deframer.extend(b"binary please\n\x00\x02ok");
    assert_eq!(
        deframer.next_frame().expect("the bytes are valid"),
        Some(&b"binary please"[..])
    );
    deframer.reframe(Framing::length_u16());
    assert_eq!(
        deframer.next_frame().expect("the bytes are valid"),
        Some(&b"ok"[..])
    );
}

/// Codec of frames of ten bytes. It panics if it is called with fewer bytes than it asked for, or
/// if `finish` is called while a whole frame is left.
struct Ten;

impl Codec for Ten {
    type State = bool;

    fn decode(&self, has_asked: &mut bool, bytes: &[u8]) -> Result<Step, FrameError> {
        assert!(
            !*has_asked || bytes.len() >= 10,
            "the codec is called before the bytes that it needs have arrived"
        );
        *has_asked = bytes.len() < 10;
        if *has_asked {
            return Ok(Step::Need(10));
        }
        Ok(Step::Frame {
            frame: 0..10,
            consumed: 10,
        })
    }

    fn finish(&self, _: &mut bool, rest: &[u8]) -> Result<Step, FrameError> {
        assert!(
            rest.len() < 10,
            "finish is called while a whole frame is left"
        );
        Ok(Step::Frame {
            frame: 0..rest.len(),
            consumed: rest.len(),
        })
    }

    fn encode(&self, _: &[u8], _: &mut Out<'_>) -> Result<(), FrameError> {
        Ok(())
    }
}

#[test]
fn codec_is_called_again_once_the_needed_bytes_arrive() {
    let mut deframer = Deframer::new(Framing::custom(Ten));
    for byte in b"abcdefghi" {
        deframer.extend(&[*byte]);
        assert_eq!(deframer.next_frame().expect("the bytes are valid"), None);
    }
    deframer.extend(b"j0");
    let frame = deframer.next_frame().expect("the bytes are valid");
    assert_eq!(frame, Some(&b"abcdefghij"[..]));
    assert_eq!(deframer.next_frame().expect("the bytes are valid"), None);
}

#[test]
fn last_frame_returns_all_whole_frames_first() {
    let mut deframer = Deframer::new(Framing::custom(Ten));
    deframer.extend(b"0123456789abcdefghijklm");
    let mut lens = Vec::new();
    while let Some(frame) = deframer.last_frame().expect("the bytes are valid") {
        lens.push(frame.len());
    }
    assert_eq!(lens, [10, 10, 3]);

    let mut deframer = Deframer::new(Framing::length_u8());
    deframer.extend(b"\x01a\x01b\x05cut");
    assert_eq!(
        deframer.last_frame().expect("the bytes are valid"),
        Some(&b"a"[..])
    );
    assert_eq!(
        deframer.last_frame().expect("the bytes are valid"),
        Some(&b"b"[..])
    );
    assert_eq!(deframer.last_frame().expect("the bytes are valid"), None);
    assert_eq!(deframer.rest(), b"\x05cut");
}

/// Codec that skips a `.`, a length byte and that number of bytes. Any other byte is a frame.
struct Gaps;

impl Codec for Gaps {
    type State = ();

    fn decode(&self, (): &mut (), bytes: &[u8]) -> Result<Step, FrameError> {
        Ok(match *bytes {
            [b'.'] => Step::Need(2),
            [b'.', len, ..] => Step::Skip {
                bytes: 2 + u64::from(len),
            },
            _ => Step::Frame {
                frame: 0..1,
                consumed: 1,
            },
        })
    }

    fn encode(&self, _: &[u8], _: &mut Out<'_>) -> Result<(), FrameError> {
        Ok(())
    }
}

#[test]
fn skipped_bytes_are_dropped_for_every_read_length() {
    let stream = b"a.\x05xxxxxb.\0.\x03xxxc.\x09xxx";
    for read_len in 1..=stream.len() {
        let mut deframer = Deframer::new(Framing::custom(Gaps));
        let mut frames = Vec::new();
        for (index, piece) in stream.chunks(read_len).enumerate() {
            if index % 3 == 0 {
                deframer.spare_capacity_mut()[..piece.len()].copy_from_slice(piece);
                deframer.advance(piece.len());
            } else {
                deframer.extend(piece);
            }
            while let Some(frame) = deframer.next_frame().expect("the bytes are valid") {
                frames.extend_from_slice(frame);
            }
        }
        assert_eq!(frames, b"abc", "in reads of {read_len} bytes");
        assert_eq!(deframer.rest(), b"");
        assert_eq!(deframer.offset(), stream.len() as u64);
        let mut reader = ShortReads(stream, read_len);
        let mut deframer = Deframer::new(Framing::custom(Gaps));
        for frame in [b"a", b"b", b"c"] {
            let read = deframer
                .read_frame(&mut reader)
                .expect("the bytes are valid");
            assert_eq!(read, Some(&frame[..]));
        }
        let error = deframer
            .read_frame(&mut reader)
            .expect_err("the stream ends within skipped bytes");
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}

#[test]
fn a_stream_that_ends_in_a_skipped_frame_ends_unexpectedly() {
    for (framing, stream) in [
        (Framing::line(), &b"ok\nfar too lo"[..]),
        (Framing::length_u8(), b"\x02ok\xFFfar too lo"),
        (Framing::length_u8(), b"\x02ok\xFF"),
    ] {
        for read_len in 1..=stream.len() {
            let framing = framing.clone().frame_len_max(4).skip_too_long();
            let mut deframer = Deframer::new(framing);
            let mut reader = ShortReads(stream, read_len);
            let frame = deframer
                .read_frame(&mut reader)
                .expect("the bytes are valid");
            assert_eq!(frame, Some(&b"ok"[..]));
            let error = deframer
                .read_frame(&mut reader)
                .expect_err("the stream ends within a frame");
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        }
    }
}

#[test]
fn a_frame_skipped_at_the_end_of_the_stream_is_reported() {
    let framing = Framing::delimiters(&[b";", b";;;"]);
    let mut deframer = Deframer::new(framing.frame_len_max(3).skip_too_long());
    deframer.extend(b"ok;long;");
    let frame = deframer.decode().expect("the bytes are valid");
    assert_eq!(frame, Some(Decoded::Frame(b"ok")));
    assert_eq!(
        deframer.decode().expect("the bytes are valid"),
        None,
        "the `;` may be the start of `;;;`"
    );
    let skipped = Skipped { len: 4, limit: 3 };
    let last = deframer.decode_last().expect("the bytes are valid");
    assert_eq!(last, Some(Decoded::Skipped(skipped)));
    assert_eq!(deframer.decode_last().expect("the bytes are valid"), None);
    assert_eq!(deframer.rest(), b"");
}

#[test]
fn skipped_frames_are_reported_in_order_and_not_buffered() {
    let framing = Framing::line().frame_len_max(3).skip_too_long();
    let mut deframer = Deframer::new(framing);
    let mut lens = Vec::new();
    for piece in [&b"a\nlon"[..], &[b'g'; 1 << 20], b"\nb\nlong\r\n"] {
        deframer.extend(piece);
        while let Some(decoded) = deframer.decode().expect("the bytes are valid") {
            lens.push(match decoded {
                Decoded::Frame(frame) => frame.len() as u64,
                Decoded::Skipped(skipped) => skipped.len,
            });
        }
        assert!(deframer.rest().len() <= 3);
    }
    assert_eq!(lens, [1, (1 << 20) + 3, 1, 4]);
    assert_eq!(deframer.frames_skipped(), 2);
    let mut deframer = Deframer::new(Framing::varint().skip_too_long());
    deframer.extend(&[0x80; 20]);
    deframer.next_frame().expect_err("the varint is malformed");
    for _ in 0..1000 {
        deframer.extend(&[1; 1000]);
        deframer.spare_capacity_mut()[0] = 1;
        deframer.advance(1);
        deframer.next_frame().expect_err("the error is final");
        deframer.last_frame().expect_err("the error is final");
    }
    assert_eq!(deframer.rest(), [0x80; 20]);
    assert!(deframer.buf.capacity() <= 2 * READ_LEN);
}
