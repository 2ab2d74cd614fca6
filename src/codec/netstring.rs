//! Netstrings: the length in decimal digits, a colon, the payload, a comma.
//!
//! <https://cr.yp.to/proto/netstrings.txt>

use super::{BuiltinCodec, Codec, Limit, Out, ScanState, Step};
use crate::error::FrameError;

/// Maximum length of a header in bytes: the 20 digits of the largest 64-bit length, and a colon.
const HEADER_LEN_MAX: usize = 21;

/// Codec of [`Framing::netstring`](super::Framing::netstring).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Netstring {
    pub(crate) limit: Limit,
}

impl BuiltinCodec for Netstring {}

impl Codec for Netstring {
    type State = ScanState;

    fn decode(&self, _: &mut ScanState, bytes: &[u8]) -> Result<Step, FrameError> {
        let Some((value, colon)) = self.read_header(bytes)? else {
            return Ok(Step::Need(bytes.len().saturating_add(1)));
        };
        let start = colon.saturating_add(1);
        let value = match usize::try_from(value) {
            Ok(value) if value <= self.limit.len => value,
            _ => {
                let bytes = (start as u64).saturating_add(value).saturating_add(1);
                return self.limit.exceeded(value, bytes);
            }
        };
        let end = start.saturating_add(value);
        let Some(consumed) = end.checked_add(1) else {
            return self.limit.exceeded(value as u64, u64::MAX);
        };
        match bytes.get(end) {
            None => Ok(Step::Need(consumed)),
            Some(b',') => Ok(Step::Frame {
                frame: start..end,
                consumed,
            }),
            Some(_) => Err(FrameError::Malformed("no comma follows the payload")),
        }
    }

    fn encode(&self, payload: &[u8], out: &mut Out<'_>) -> Result<(), FrameError> {
        self.limit.check_payload(payload.len())?;
        let (header, first) = header_of(payload.len());
        out.put(header.split_at(first).1);
        out.put(payload);
        out.put(b",");
        Ok(())
    }

    /// Moves the payload towards the end of the buffer and inserts the header before it. No
    /// headroom is reserved, because the length of the header depends on the length of the payload.
    fn encode_in_place(&self, out: &mut Out<'_>) -> Result<(), FrameError> {
        let payload_len = out.bytes().len();
        self.limit.check_payload(payload_len)?;
        let (header, first) = header_of(payload_len);
        out.put_before(header.split_at(first).1);
        out.put(b",");
        Ok(())
    }
}

/// Returns an array that ends with the digits of a length and a colon, and the index of the first
/// digit.
fn header_of(payload_len: usize) -> ([u8; HEADER_LEN_MAX], usize) {
    let mut header = [b':'; HEADER_LEN_MAX];
    let (mut left, mut first) = (payload_len as u64, HEADER_LEN_MAX);
    let (digits, _) = header.split_at_mut(HEADER_LEN_MAX.saturating_sub(1));
    for (index, digit) in digits.iter_mut().enumerate().rev() {
        let [value, ..] = left.checked_rem(10).unwrap_or_default().to_le_bytes();
        *digit = b'0'.saturating_add(value);
        first = index;
        left /= 10;
        if left == 0 {
            break;
        }
    }
    (header, first)
}

impl Netstring {
    /// Returns the length at the start of `bytes` and the index of the colon after it, or `None` if
    /// the header is incomplete.
    ///
    /// A length over the limit is reported without waiting for further digits, which only make the
    /// length larger. If long frames are skipped, the codec waits for all digits, because the skip
    /// needs the exact length.
    fn read_header(&self, bytes: &[u8]) -> Result<Option<(u64, usize)>, FrameError> {
        let limit = self.limit.len;
        let mut value: u64 = 0;
        for (index, &byte) in bytes.iter().enumerate() {
            match byte {
                b'0'..=b'9' if index == 1 && value == 0 => {
                    return Err(FrameError::Malformed("the length has a leading zero"));
                }
                b'0'..=b'9' => {
                    let digit = u64::from(byte.saturating_sub(b'0'));
                    let longer = value.checked_mul(10).and_then(|ten| ten.checked_add(digit));
                    match longer {
                        Some(longer) if longer <= limit as u64 || self.limit.skips => {
                            value = longer;
                        }
                        _ => return Err(FrameError::too_long(longer.unwrap_or(u64::MAX), limit)),
                    }
                }
                b':' if index > 0 => {
                    return Ok(Some((value, index)));
                }
                _ => return Err(FrameError::Malformed("the length is not a decimal number")),
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Buf;

    const CODEC: Netstring = Netstring {
        limit: Limit::of(100),
    };

    fn decode(bytes: &[u8]) -> Result<Step, FrameError> {
        CODEC.decode(&mut ScanState::default(), bytes)
    }

    #[test]
    fn netstring_example_of_the_specification_is_decoded() {
        let step = decode(b"12:hello world!,").expect("the bytes are a netstring");
        assert_eq!(
            step,
            Step::Frame {
                frame: 3..15,
                consumed: 16
            }
        );
        assert_eq!(
            decode(b"0:,").ok(),
            Some(Step::Frame {
                frame: 2..2,
                consumed: 3
            })
        );
        assert_eq!(decode(b"12:hello").ok(), Some(Step::Need(16)));
        assert_eq!(decode(b"1").ok(), Some(Step::Need(2)));
    }

    #[test]
    fn malformed_netstrings_are_errors() {
        for bytes in [
            &b":"[..],
            b"a",
            b"-1:",
            b"01:a,",
            b"00:,",
            b"1:ab",
            b" 1:a,",
            b"1 :a,",
        ] {
            assert!(
                matches!(decode(bytes), Err(FrameError::Malformed(_))),
                "{bytes:?}"
            );
        }
        for bytes in [&b"101"[..], b"99999999999999999999999999999999", b"101:"] {
            assert!(
                matches!(decode(bytes), Err(FrameError::TooLong { .. })),
                "{bytes:?}"
            );
        }
    }

    #[test]
    fn netstring_lengths_of_every_digit_count_round_trip() {
        for len in [0, 1, 9, 10, 99, 100] {
            let mut buf = Buf::default();
            CODEC
                .encode(&vec![b','; len], &mut Out::new(&mut buf))
                .expect("the payload is within the limit");
            let end = buf.len();
            let step = decode(buf.bytes()).expect("the bytes are a frame");
            assert_eq!(
                step,
                Step::Frame {
                    frame: end - 1 - len..end - 1,
                    consumed: end
                }
            );
        }
        let mut buf = Buf::default();
        CODEC
            .encode(&[0; 101], &mut Out::new(&mut buf))
            .expect_err("the payload exceeds the limit");
        assert!(buf.is_empty());
    }

    #[test]
    fn netstring_end_beyond_u64_is_too_long_for_any_limit() {
        let codec = Netstring {
            limit: Limit::of(usize::MAX),
        };
        // The second header has 21 digits, one more than any 64-bit length.
        for header in [format!("{}:", usize::MAX), "9".repeat(21)] {
            let error = codec
                .decode(&mut ScanState::default(), header.as_bytes())
                .expect_err("the length exceeds every limit");
            assert!(matches!(error, FrameError::TooLong { .. }), "{error}");
        }
    }
}
