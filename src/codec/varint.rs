//! Varint length prefix (LEB128): each byte holds seven bits of the length, the lowest bits first.
//! Protobuf's delimited streams use this prefix.

use super::{BuiltinCodec, Codec, Limit, Out, ScanState, Step};
use crate::error::FrameError;

/// Maximum length of a 64-bit varint in bytes.
const FIELD_LEN_MAX: usize = 10;

/// Codec of [`Framing::varint`](super::Framing::varint) and
/// [`Framing::varint_lax`](super::Framing::varint_lax).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Varint {
    pub(crate) limit: Limit,
    /// True if a length may have more bytes than its shortest form.
    pub(crate) is_lax: bool,
}

impl BuiltinCodec for Varint {}

impl Codec for Varint {
    type State = ScanState;

    fn decode(&self, _: &mut ScanState, bytes: &[u8]) -> Result<Step, FrameError> {
        let Some((value, len)) = read_field(bytes, self.is_lax)? else {
            return Ok(Step::Need(bytes.len().saturating_add(1)));
        };
        self.limit.step(len, value, bytes)
    }

    fn encode(&self, payload: &[u8], out: &mut Out<'_>) -> Result<(), FrameError> {
        self.limit.check_payload(payload.len())?;
        let (field, len) = field_of(payload.len());
        out.put(field.split_at(len).0);
        out.put(payload);
        Ok(())
    }

    /// Moves the payload towards the end of the buffer and inserts the length field before it. No
    /// headroom is reserved, because the width of the field depends on the length of the payload.
    fn encode_in_place(&self, out: &mut Out<'_>) -> Result<(), FrameError> {
        let payload_len = out.bytes().len();
        self.limit.check_payload(payload_len)?;
        let (field, len) = field_of(payload_len);
        out.put_before(field.split_at(len).0);
        Ok(())
    }
}

/// Returns a buffer with the varint of a length, and the number of bytes used.
fn field_of(payload_len: usize) -> ([u8; FIELD_LEN_MAX], usize) {
    let (mut field, mut len) = ([0; FIELD_LEN_MAX], 0_usize);
    let mut left = payload_len as u64;
    for place in &mut field {
        let [low, ..] = left.to_le_bytes();
        left >>= 7;
        len = len.saturating_add(1);
        if left == 0 {
            *place = low & 0x7F;
            break;
        }
        *place = low | 0x80;
    }
    (field, len)
}

/// Returns the varint at the start of `bytes` and its number of bytes, or `None` if the varint is
/// incomplete.
///
/// The varint must have its shortest form unless `is_lax` is true. If one length had several forms,
/// two decoders could disagree about the same bytes. A varint of more than 64 bits is always
/// malformed.
fn read_field(bytes: &[u8], is_lax: bool) -> Result<Option<(u64, usize)>, FrameError> {
    let mut value: u64 = 0;
    for (index, &byte) in bytes.iter().take(FIELD_LEN_MAX).enumerate() {
        let len = index.saturating_add(1);
        let is_last = byte & 0x80 == 0;
        if len == FIELD_LEN_MAX && byte > 1 {
            return Err(FrameError::Malformed("the varint has more than 64 bits"));
        }
        if is_last && byte == 0 && index > 0 && !is_lax {
            return Err(FrameError::Malformed(
                "the varint is not in its shortest form",
            ));
        }
        let shift = u32::try_from(index).unwrap_or_default().saturating_mul(7);
        value |= u64::from(byte & 0x7F)
            .checked_shl(shift)
            .unwrap_or_default();
        if is_last {
            return Ok(Some((value, len)));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Buf;

    fn decode(bytes: &[u8]) -> Result<Step, FrameError> {
        Varint {
            limit: Limit::of(usize::MAX),
            is_lax: false,
        }
        .decode(&mut ScanState::default(), bytes)
    }

    #[test]
    fn varint_of_up_to_three_bytes_is_whole_cut_or_malformed() {
        for input in 0..1_u32 << 24 {
            let bytes = input.to_be_bytes();
            let field = read_field(&bytes[1..], false);
            let last = bytes[1..].iter().position(|byte| byte & 0x80 == 0);
            match (field, last) {
                (Ok(None), None) => {}
                (Ok(Some((value, len))), Some(last)) => {
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
                        "only the shortest form is accepted"
                    );
                }
                (Err(FrameError::Malformed(_)), Some(last)) => {
                    assert!(last > 0 && bytes[1 + last] == 0);
                }
                _ => panic!("the result for {bytes:?} is wrong"),
            }
        }
    }

    #[test]
    fn endless_and_oversized_varints_are_errors() {
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
    fn lax_varint_accepts_longer_forms_of_up_to_ten_bytes() {
        let whole = |bytes: &[u8]| read_field(bytes, true).ok().flatten();
        assert_eq!(whole(b"\x85\x00"), Some((5, 2)));
        assert_eq!(whole(b"\x85\x80\x80\x00"), Some((5, 4)));
        let longest = [&[0x80; 9][..], b"\0"].concat();
        assert_eq!(whole(&longest), Some((0, 10)));
        for bytes in [[0x80; 10], [0xFF; 10]] {
            read_field(&bytes, true).expect_err("the varint has more than 64 bits");
        }
    }

    #[test]
    fn varint_lengths_at_the_edges_of_each_width_round_trip() {
        let codec = Varint {
            limit: Limit::of(1 << 20),
            is_lax: false,
        };
        for len in [0, 1, 127, 128, 16_383, 16_384, 1 << 20] {
            let payload = vec![7; len];
            let mut buf = Buf::default();
            codec
                .encode(&payload, &mut Out::new(&mut buf))
                .expect("the payload is within the limit");
            let end = buf.len();
            let step = codec
                .decode(&mut ScanState::default(), buf.bytes())
                .expect("the bytes are a frame");
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
            .expect_err("the payload exceeds the limit");
        assert!(buf.is_empty());
    }
}
