//! Tests of invalid frames and payloads: an error is final, and no frame after it is delivered.

use super::naive::{encode, header, is_length, payload, payload_len_max};
use super::*;
use crate::memory::Buf;

#[test]
fn length_over_the_limit_fails_without_a_byte_of_the_body() {
    let others = ["varint", "netstring", "field"];
    let names = FRAMINGS.into_iter().filter(|name| is_length(name));
    for name in names.chain(others) {
        let plan = Section::all(name, 200);
        let first = encode(name, &payload(3));
        let stream = [&first[..], &header(name, 201)].concat();
        for read_len in 1..=stream.len() {
            let mut sink = Collect::new();
            let outcome = deliver(&plan, &stream, AT_ONCE, &mut sink, |_| read_len);
            assert_eq!(outcome.error_offset, Some(first.len()), "{name}");
            assert_eq!(outcome.frames, [payload(3)], "{name}");
            assert!(
                matches!(
                    sink.error,
                    Some(FrameError::TooLong {
                        len: 201,
                        limit: 200
                    })
                ),
                "{name}: {:?}",
                sink.error
            );
        }
    }
}

#[test]
fn frames_after_an_error_are_not_delivered() {
    for (name, bad) in [
        ("line", &b"a line too long\n"[..]),
        ("u8", b"\xff"),
        ("u32", b"\xff\xff\xff\xff"),
        ("u64-le", b"\0\0\0\0\0\0\0\x80"),
        ("delimiter", b"a frame too long--"),
        ("delimiters", b"a frame too long;"),
        ("varint", b"\x80\x00"),
        ("netstring", b"04:"),
        ("field", b"M\x02\x00"),
        ("tagged", b"?"),
        ("marked", b"?"),
    ] {
        let plan = Section::all(name, 8);
        let good = encode(name, b"good");
        // A `marked` frame ends only at the next mark. Invalid bytes after a `marked` frame would
        // therefore be a part of that frame.
        let first = if name == "marked" {
            vec![]
        } else {
            good.clone()
        };
        let stream = [&first[..], bad, &good.repeat(3)].concat();
        let frames = vec![b"good".to_vec(); usize::from(!first.is_empty())];
        for cut in 1..=stream.len() {
            for mode in [AT_ONCE, ONE_BY_ONE] {
                let mut sink = Collect::new();
                let read_len = |at| if at == 0 { cut } else { usize::MAX };
                let outcome = deliver(&plan, &stream, mode, &mut sink, read_len);
                assert_eq!(outcome.frames, frames, "{name} cut at {cut}");
                assert_eq!(
                    outcome.error_offset,
                    Some(first.len()),
                    "{name} cut at {cut}"
                );
            }
        }
    }
}

#[test]
fn payload_too_long_for_its_length_field_is_an_error() {
    for name in ["u8", "u16", "u24", "u16-le", "u24-le"] {
        let field_max = (1 << (8 * header(name, 0).len())) - 1;
        assert!(payload_len_max(name) == field_max || name.starts_with("u24"));
        let framing = codecs::framing(name).frame_len_max(usize::MAX);
        let mut buf = Buf::default();
        let payload = vec![0; field_max + 1];
        let error = framing
            .encode(&payload, &mut buf)
            .expect_err("the payload has one byte too many");
        assert!(
            matches!(error, FrameError::TooLong { .. }),
            "{name}: {error}"
        );
        assert!(buf.is_empty());
        framing
            .encode(&payload[1..], &mut buf)
            .expect("the largest payload fits");
    }
}
