//! Length by a function: the program computes the length of a frame from its first bytes.

use std::fmt;
use std::sync::Arc;

use super::{BuiltinCodec, Codec, Limit, Out, ScanState, Step};
use crate::error::FrameError;

/// Length of a frame, or the number of bytes that are needed to compute it: the result of the
/// function of [`Framing::length_fn`](super::Framing::length_fn).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FrameLen {
    /// The function needs more bytes than it received. The value is the number of bytes that it
    /// needs at least, from the start of the frame.
    ///
    /// A value above [`frame_len_max`](super::Framing::frame_len_max) ends the stream with
    /// [`FrameError::TooLong`]. A value that does not exceed the number of bytes that the function
    /// received ends the stream with [`FrameError::Contract`].
    Need(usize),
    /// The frame has this many bytes in total, including its header; at least 1. A length of zero
    /// ends the stream with [`FrameError::Malformed`].
    Total(u64),
}

/// Function that returns the length of a frame. The argument begins at the first byte of the frame.
pub(super) type LenFn = dyn Fn(&[u8]) -> Result<FrameLen, FrameError> + Send + Sync;

/// Codec of [`Framing::length_fn`](super::Framing::length_fn).
#[derive(Clone)]
pub(crate) struct LengthFn {
    pub(super) frame_len: Arc<LenFn>,
    pub(super) limit: Limit,
}

impl LengthFn {
    /// Calls the user's function and checks its result. The function receives no bytes beyond the
    /// limit, so that its result does not depend on the cuts of the stream. With a limit of zero,
    /// it receives one byte.
    fn frame_len(&self, bytes: &[u8]) -> Result<FrameLen, FrameError> {
        let limit = self.limit.len;
        let start = bytes.get(..limit.max(1)).unwrap_or(bytes);
        match (self.frame_len)(start)? {
            FrameLen::Need(need) if need <= start.len() => Err(FrameError::Contract(
                "the function of `length_fn` returned `Need` for bytes that it had received",
            )),
            FrameLen::Need(need) if need > limit => Err(FrameError::too_long(need as u64, limit)),
            FrameLen::Total(0) => Err(FrameError::Malformed("the length of the frame is zero")),
            len => Ok(len),
        }
    }
}

impl BuiltinCodec for LengthFn {}

impl Codec for LengthFn {
    type State = ScanState;

    fn decode(&self, scanned: &mut ScanState, bytes: &[u8]) -> Result<Step, FrameError> {
        let whole_len = match scanned.whole_len() {
            Some(len) => len,
            // An earlier call of the function returned `Need(scanned.to)`.
            None if bytes.len() < scanned.to => return Ok(Step::Need(scanned.to)),
            None => match self.frame_len(bytes)? {
                FrameLen::Total(len) => len,
                FrameLen::Need(need) => {
                    scanned.to = need;
                    return Ok(Step::Need(need));
                }
            },
        };
        self.limit.whole_frame(scanned, Some(whole_len), bytes)
    }

    fn encode(&self, payload: &[u8], out: &mut Out<'_>) -> Result<(), FrameError> {
        self.limit.check_whole_frame(self, payload)?;
        out.put(payload);
        Ok(())
    }

    fn encode_in_place(&self, out: &mut Out<'_>) -> Result<(), FrameError> {
        self.limit.check_whole_frame(self, out.bytes())
    }
}

impl fmt::Debug for LengthFn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LengthFn")
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Buf;

    fn codec(
        limit: usize,
        frame_len: impl Fn(&[u8]) -> Result<FrameLen, FrameError> + Send + Sync + 'static,
    ) -> LengthFn {
        LengthFn {
            frame_len: Arc::new(frame_len),
            limit: Limit::of(limit),
        }
    }

    fn decode(codec: &LengthFn, bytes: &[u8]) -> Result<Step, FrameError> {
        codec.decode(&mut ScanState::default(), bytes)
    }

    /// Returns the length of a frame whose header has two bytes. The second byte is the number of
    /// bytes after the header.
    fn second_byte(bytes: &[u8]) -> Result<FrameLen, FrameError> {
        Ok(match bytes {
            [_, len, ..] => FrameLen::Total(2 + u64::from(*len)),
            _ => FrameLen::Need(2),
        })
    }

    #[test]
    fn length_function_gives_the_frame_with_its_header() {
        let codec = codec(100, second_byte);
        assert_eq!(decode(&codec, b"t").ok(), Some(Step::Need(2)));
        assert_eq!(decode(&codec, b"t\x03").ok(), Some(Step::Need(5)));
        let (frame, consumed) = (0..5, 5);
        let step = decode(&codec, b"t\x03abcrest");
        assert_eq!(step.ok(), Some(Step::Frame { frame, consumed }));
        assert!(matches!(
            decode(&codec, b"t\x63"),
            Err(FrameError::TooLong {
                len: 101,
                limit: 100
            })
        ));
    }

    #[test]
    fn length_function_that_breaks_its_contract_is_an_error() {
        for need in [0, 1, 2] {
            let codec = codec(100, move |_| Ok(FrameLen::Need(need)));
            let step = decode(&codec, b"ab");
            assert!(matches!(step, Err(FrameError::Contract(_))), "{step:?}");
        }
        let zero = codec(100, |_| Ok(FrameLen::Total(0)));
        let step = decode(&zero, b"a");
        assert!(matches!(step, Err(FrameError::Malformed(_))), "{step:?}");
    }

    #[test]
    fn length_function_receives_no_more_bytes_than_the_limit() {
        let long = [7; 20];
        let greedy = |bytes: &[u8]| {
            assert!(bytes.len() <= 8);
            Ok(FrameLen::Need(bytes.len() + 1))
        };
        for (limit, skips) in [(8, false), (8, true), (0, false), (0, true)] {
            let mut codec = codec(limit, greedy);
            codec.limit.skips = skips;
            let Err(error) = decode(&codec, &long) else {
                panic!("the function finds no length within the limit of {limit} bytes");
            };
            assert!(matches!(error, FrameError::TooLong { .. }), "{error}");
        }
        for len in [9, u64::MAX] {
            let mut codec = codec(8, move |_| Ok(FrameLen::Total(len)));
            let step = decode(&codec, &long);
            assert!(matches!(step, Err(FrameError::TooLong { limit: 8, .. })));
            codec.limit.skips = true;
            let (bytes, limit) = (len, 8);
            let skipped = Step::SkipFrame { bytes, len, limit };
            assert_eq!(decode(&codec, &long).ok(), Some(skipped));
        }
    }

    #[test]
    fn payload_that_contradicts_its_length_function_is_unencodable() {
        let codec = codec(10, second_byte);
        let encode = |payload: &[u8]| {
            let mut buf = Buf::default();
            codec.encode(payload, &mut Out::new(&mut buf))
        };
        encode(b"t\x03abc").expect("the payload has the length that the function returns");
        for payload in [&b""[..], b"t", b"t\x03ab", b"t\x03abcd"] {
            let error = encode(payload)
                .expect_err("the payload does not have the length that the function returns");
            assert!(matches!(error, FrameError::Unencodable(_)), "{error}");
        }
        for payload in [&b"t\x09"[..], &[9; 11]] {
            let error = encode(payload).expect_err("the length exceeds the limit");
            assert!(matches!(error, FrameError::TooLong { .. }), "{error}");
        }
    }
}
