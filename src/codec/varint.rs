//! Varint length prefix: seven bits of the length to a byte, the lowest first (LEB128), as in
//! protobuf's delimited streams.

use super::{Codec, Out, Scanned, Step};
use crate::error::FrameError;

/// The most bytes that a length of 64 bits takes.
const FIELD_LEN_MAX: usize = 10;

/// See [`Framing::varint`](super::Framing::varint).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Varint {
    pub(crate) frame_len_max: usize,
}

/// What stands at the front of some bytes.
enum Field {
    Whole { value: u64, len: usize },
    Cut,
}

impl Codec for Varint {
    type State = Scanned;

    fn decode(&self, _: &mut Scanned, bytes: &[u8]) -> Result<Step, FrameError> {
        let Field::Whole { value, len } = read_field(bytes)? else {
            return Ok(Step::Need(bytes.len().saturating_add(1)));
        };
        let end = match usize::try_from(value) {
            Ok(value) if value <= self.frame_len_max => value.checked_add(len),
            _ => None,
        };
        let Some(end) = end else {
            return Err(FrameError::too_long(value, self.frame_len_max));
        };
        if bytes.len() < end {
            return Ok(Step::Need(end));
        }
        Ok(Step::Frame {
            frame: len..end,
            consumed: end,
        })
    }

    fn encode(&self, payload: &[u8], out: &mut Out<'_>) -> Result<(), FrameError> {
        if payload.len() > self.frame_len_max {
            return Err(FrameError::too_long(
                payload.len() as u64,
                self.frame_len_max,
            ));
        }
        let mut left = payload.len() as u64;
        loop {
            let [low, ..] = left.to_le_bytes();
            left >>= 7;
            if left == 0 {
                out.put(&[low & 0x7F]);
                break;
            }
            out.put(&[low | 0x80]);
        }
        out.put(payload);
        Ok(())
    }
}

/// Reads a length. It has one form only: the shortest. A longer one would let two peers disagree
/// on what they saw, and an endless one would never end.
fn read_field(bytes: &[u8]) -> Result<Field, FrameError> {
    let mut value: u64 = 0;
    for (index, &byte) in bytes.iter().take(FIELD_LEN_MAX).enumerate() {
        let len = index.saturating_add(1);
        let is_last = byte & 0x80 == 0;
        if len == FIELD_LEN_MAX && byte > 1 {
            return Err(FrameError::Malformed("a varint of more than 64 bits"));
        }
        if is_last && byte == 0 && index > 0 {
            return Err(FrameError::Malformed("a varint that is not the shortest"));
        }
        let shift = u32::try_from(index).unwrap_or_default().saturating_mul(7);
        value |= u64::from(byte & 0x7F)
            .checked_shl(shift)
            .unwrap_or_default();
        if is_last {
            return Ok(Field::Whole { value, len });
        }
    }
    Ok(Field::Cut)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::Buf;

    fn decode(bytes: &[u8]) -> Result<Step, FrameError> {
        Varint {
            frame_len_max: usize::MAX,
        }
        .decode(&mut Scanned(0), bytes)
    }

    #[test]
    fn every_input_of_up_to_three_bytes_is_a_length_or_an_error_or_cut() {
        for input in 0..1_u32 << 24 {
            let bytes = input.to_be_bytes();
            let field = read_field(&bytes[1..]);
            let last = bytes[1..].iter().position(|byte| byte & 0x80 == 0);
            match (field, last) {
                (Ok(Field::Cut), None) => {}
                (Ok(Field::Whole { len, value }), Some(last)) => {
                    assert_eq!(len, last + 1);
                    let (mut again, mut left, mut at) = ([0; 3], value, 0);
                    while left > 0x7F {
                        again[at] = (left & 0x7F).to_le_bytes()[0] | 0x80;
                        (left, at) = (left >> 7, at + 1);
                    }
                    again[at] = left.to_le_bytes()[0];
                    assert_eq!(
                        again[..=at],
                        bytes[1..=last + 1],
                        "the shortest form, no other"
                    );
                }
                (Err(FrameError::Malformed(_)), Some(last)) => {
                    assert!(last > 0 && bytes[1 + last] == 0);
                }
                _ => panic!("{bytes:?}"),
            }
        }
    }

    #[test]
    fn endless_and_too_large_lengths_are_errors() {
        assert!(matches!(decode(&[0x80; 10]), Err(FrameError::Malformed(_))));
        assert!(matches!(decode(&[0xFF; 10]), Err(FrameError::Malformed(_))));
        assert!(matches!(decode(&[0xFF; 9]).ok(), Some(Step::Need(10))));
        let largest = [&[0xFF; 9][..], &[0x01]].concat();
        assert!(matches!(
            decode(&largest),
            Err(FrameError::TooLong { len: u64::MAX, .. })
        ));
    }

    #[test]
    fn lengths_at_the_edges_of_each_width_come_back() {
        let codec = Varint {
            frame_len_max: 1 << 20,
        };
        for len in [0, 1, 127, 128, 16_383, 16_384, 1 << 20] {
            let payload = vec![7; len];
            let mut buf = Buf::default();
            codec
                .encode(&payload, &mut Out::new(&mut buf))
                .expect("within the limit");
            let end = buf.len();
            let step = codec.decode(&mut Scanned(0), buf.bytes()).expect("a frame");
            assert_eq!(
                step,
                Step::Frame {
                    frame: end - len..end,
                    consumed: end
                }
            );
        }
        let mut buf = Buf::default();
        codec
            .encode(&vec![7; (1 << 20) + 1], &mut Out::new(&mut buf))
            .expect_err("too long");
        assert!(buf.is_empty());
    }
}
