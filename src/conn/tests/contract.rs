//! An error is final, and a codec that breaks its contract is found out.

use super::naive::{encode, header, is_length, payload, payload_len_max};
use super::*;
use crate::buffer::Buf;
use crate::codec::{Codec, Out, Step};

/// A `g` is a frame of one byte. To three bytes that begin with an `h` it answers what it should
/// not; at the end of the stream, to an `e`.
struct Hostile {
    answer: fn(&[u8]) -> Step,
}

impl Codec for Hostile {
    type State = u32;

    fn decode(&self, looks: &mut u32, bytes: &[u8]) -> Result<Step, FrameError> {
        *looks += 1;
        assert!(*looks < 100, "it is asked for ever");
        Ok(match bytes[0] {
            b'h' if bytes.len() >= 3 => (self.answer)(bytes),
            b'h' | b'e' => Step::Need(bytes.len().max(2) + 1),
            _ => Step::Frame {
                frame: 0..1,
                consumed: 1,
            },
        })
    }

    fn finish(&self, looks: &mut u32, rest: &[u8]) -> Result<Step, FrameError> {
        *looks += 1;
        assert!(*looks < 100, "it is asked for ever");
        Ok((self.answer)(rest))
    }

    fn encode(&self, _: &[u8], _: &mut Out<'_>) -> Result<(), FrameError> {
        Ok(())
    }
}

#[expect(
    clippy::reversed_empty_ranges,
    reason = "one of the answers that are not allowed"
)]
const NOT_ALLOWED: [fn(&[u8]) -> Step; 15] = [
    |_| Step::Frame {
        frame: 0..0,
        consumed: 0,
    },
    |bytes| Step::Frame {
        frame: 0..1,
        consumed: bytes.len() + 1,
    },
    |_| Step::Frame {
        frame: 0..1,
        consumed: usize::MAX,
    },
    |_| Step::Frame {
        frame: 0..2,
        consumed: 1,
    },
    |bytes| Step::Frame {
        frame: 0..bytes.len() + 1,
        consumed: bytes.len(),
    },
    |_| Step::Frame {
        frame: 1..0,
        consumed: 1,
    },
    |_| Step::Frame {
        frame: usize::MAX..1,
        consumed: 1,
    },
    |bytes| Step::Need(bytes.len()),
    |_| Step::Need(1),
    |_| Step::Need(0),
    |_| Step::Skip { bytes: 0 },
    |_| Step::SkipFrame {
        bytes: 0,
        len: 2,
        limit: 1,
    },
    |_| Step::SkipPart { bytes: 0 },
    |bytes| Step::SkipPart { bytes: bytes.len() },
    |_| Step::SkipPart { bytes: usize::MAX },
];

#[test]
fn a_codec_that_breaks_its_contract_ends_the_stream_there() {
    for (index, answer) in NOT_ALLOWED.into_iter().enumerate() {
        for stream in [b"ghxxgg", b"gghxxe", b"ggggge"] {
            for split in 0..1_u32 << (stream.len() - 1) {
                for how in [AT_ONCE, ONE_BY_ONE] {
                    let plan = [Stage {
                        framing: Framing::custom(Hostile { answer }),
                        ..Stage::new("raw", 1, usize::MAX)
                    }];
                    let mut sink = Collect::new();
                    let read_len = |at: usize| 1 + (split >> at).trailing_zeros() as usize;
                    let outcome = deliver(&plan, stream, how, &mut sink, read_len);
                    let what = format!("answer {index} to {stream:?} split by {split:#b}");
                    let at = stream.iter().position(|byte| *byte != b'g');
                    assert_eq!(outcome.bad_at, at, "{what}");
                    assert_eq!(Some(outcome.frames.len()), at, "{what}");
                    assert!(
                        matches!(sink.error, Some(FrameError::Contract(_))),
                        "{what}: {:?}",
                        sink.error
                    );
                }
            }
        }
    }
}

#[test]
fn a_skip_of_all_that_could_ever_come_delivers_nothing_and_holds_nothing() {
    let answer = |_: &[u8]| Step::Skip { bytes: u64::MAX };
    let framing = Framing::custom(Hostile { answer });
    let mut sink = Collect::of(&framing);
    let mut inbound = Inbound::default();
    for piece in [b"gh", b"xx", b"gg", b"gg"] {
        let halt = inbound.ingest(piece, &mut sink);
        assert!(matches!(halt, Halt::Drained));
    }
    assert_eq!((sink.count, inbound.len()), (1, 0));
}

#[test]
fn a_length_over_the_limit_is_refused_by_the_header_alone() {
    let others = ["varint", "netstring", "field"];
    let names = FRAMINGS.into_iter().filter(|name| is_length(name));
    for name in names.chain(others) {
        let plan = Stage::all(name, 200);
        let first = encode(name, &payload(3));
        let stream = [&first[..], &header(name, 201)].concat();
        for read_len in 1..=stream.len() {
            let mut sink = Collect::new();
            let outcome = deliver(&plan, &stream, AT_ONCE, &mut sink, |_| read_len);
            assert_eq!(outcome.bad_at, Some(first.len()), "{name}");
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
fn nothing_behind_an_error_is_delivered() {
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
        let plan = Stage::all(name, 8);
        let good = encode(name, b"good");
        // `marked` sees the error as a part of the frame before it, unless that is the first.
        let first = if name == "marked" {
            vec![]
        } else {
            good.clone()
        };
        let stream = [&first[..], bad, &good.repeat(3)].concat();
        let frames = vec![b"good".to_vec(); usize::from(!first.is_empty())];
        for cut in 1..=stream.len() {
            for how in [AT_ONCE, ONE_BY_ONE] {
                let mut sink = Collect::new();
                let read_len = |at| if at == 0 { cut } else { usize::MAX };
                let outcome = deliver(&plan, &stream, how, &mut sink, read_len);
                assert_eq!(outcome.frames, frames, "{name} cut at {cut}");
                assert_eq!(outcome.bad_at, Some(first.len()), "{name} cut at {cut}");
            }
        }
    }
}

#[test]
fn a_payload_longer_than_its_length_field_can_tell_is_refused_whatever_the_limit() {
    for name in ["u8", "u16", "u24", "u16-le", "u24-le"] {
        let field_max = (1 << (8 * header(name, 0).len())) - 1;
        assert!(payload_len_max(name) == field_max || name.starts_with("u24"));
        let framing = codecs::framing(name).frame_len_max(usize::MAX);
        let mut buf = Buf::default();
        let payload = vec![0; field_max + 1];
        let error = framing
            .encode(&payload, &mut buf)
            .expect_err("one more than fits");
        assert!(
            matches!(error, FrameError::TooLong { .. }),
            "{name}: {error}"
        );
        assert!(buf.is_empty());
        framing
            .encode(&payload[1..], &mut buf)
            .expect("the largest fits");
    }
}
