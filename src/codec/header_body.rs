//! Header and body: a header of a fixed size, from which the program computes how long the body is.

use std::fmt;
use std::sync::Arc;

use super::{Codec, Out, Scanned, Step};
use crate::error::FrameError;

/// Computes the length of the body from the header.
pub(crate) type BodyLen = dyn Fn(&[u8]) -> Result<u64, FrameError> + Send + Sync;

/// See [`Framing::header_body`](super::Framing::header_body).
#[derive(Clone)]
pub(crate) struct HeaderBody {
    /// At least 1.
    pub(crate) header_len: usize,
    pub(crate) body_len: Arc<BodyLen>,
    pub(crate) frame_len_max: usize,
}

impl HeaderBody {
    /// The length of the whole frame.
    fn frame_len(&self, header: &[u8]) -> Result<usize, FrameError> {
        let len = (self.body_len)(header)?.checked_add(self.header_len as u64);
        match len.map(usize::try_from) {
            Some(Ok(len)) if len <= self.frame_len_max => Ok(len),
            _ => Err(FrameError::too_long(
                len.unwrap_or(u64::MAX),
                self.frame_len_max,
            )),
        }
    }
}

impl Codec for HeaderBody {
    type State = Scanned;

    fn decode(&self, _: &mut Scanned, bytes: &[u8]) -> Result<Step, FrameError> {
        let Some(header) = bytes.get(..self.header_len) else {
            return Ok(Step::Need(self.header_len));
        };
        let len = self.frame_len(header)?;
        if bytes.len() < len {
            return Ok(Step::Need(len));
        }
        Ok(Step::Frame {
            frame: 0..len,
            consumed: len,
        })
    }

    fn encode(&self, payload: &[u8], out: &mut Out<'_>) -> Result<(), FrameError> {
        let Some(header) = payload.get(..self.header_len) else {
            return Err(FrameError::Unencodable("it is shorter than its header"));
        };
        if self.frame_len(header)? != payload.len() {
            return Err(FrameError::Unencodable("its header tells another length"));
        }
        out.put(payload);
        Ok(())
    }
}

impl fmt::Debug for HeaderBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeaderBody")
            .field("header_len", &self.header_len)
            .field("frame_len_max", &self.frame_len_max)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::Buf;

    /// A struct of a type and a count of records of six bytes each.
    fn records() -> HeaderBody {
        let body_len = |header: &[u8]| match header[0] {
            1 => Ok(6 * u64::from(header[1])),
            _ => Err(FrameError::Malformed("no such type")),
        };
        HeaderBody {
            header_len: 2,
            body_len: Arc::new(body_len),
            frame_len_max: 600,
        }
    }

    #[test]
    fn the_header_tells_the_body_and_both_are_delivered() {
        let decode = |bytes: &[u8]| records().decode(&mut Scanned(0), bytes);
        assert_eq!(decode(b"\x01").ok(), Some(Step::Need(2)));
        assert_eq!(decode(b"\x01\x02").ok(), Some(Step::Need(14)));
        assert_eq!(
            decode(b"\x01\x00\x01").ok(),
            Some(Step::Frame {
                frame: 0..2,
                consumed: 2
            })
        );
        assert!(matches!(decode(b"\x02\x00"), Err(FrameError::Malformed(_))));
        assert!(matches!(
            decode(b"\x01\x64"),
            Err(FrameError::TooLong {
                len: 602,
                limit: 600
            })
        ));
    }

    #[test]
    fn a_payload_whose_header_tells_another_length_is_refused() {
        let encode = |payload: &[u8]| {
            let mut buf = Buf::default();
            records()
                .encode(payload, &mut Out::new(&mut buf))
                .map(|()| buf.len())
        };
        assert_eq!(encode(b"\x01\x01abcdef").ok(), Some(8));
        for payload in [&b"\x01"[..], b"\x01\x01abcde", b"\x01\x00a", b"\x07\x00"] {
            encode(payload).expect_err("refused");
        }
    }

    #[test]
    fn a_body_length_at_the_end_of_its_range_does_not_overflow() {
        let body_len = |_: &[u8]| Ok(u64::MAX);
        let codec = HeaderBody {
            header_len: 1,
            body_len: Arc::new(body_len),
            frame_len_max: usize::MAX,
        };
        let step = codec.decode(&mut Scanned(0), b"x");
        assert!(matches!(
            step,
            Ok(Step::Need(_)) | Err(FrameError::TooLong { .. })
        ));
    }

    #[test]
    fn a_frame_that_ends_beyond_what_can_be_counted_is_too_long_for_any_limit() {
        let codec = HeaderBody {
            header_len: 1,
            body_len: Arc::new(|_| Ok(u64::MAX)),
            frame_len_max: usize::MAX,
        };
        let error = codec.decode(&mut Scanned(0), b"h").expect_err("too long");
        assert!(matches!(error, FrameError::TooLong { .. }), "{error}");
    }
}
