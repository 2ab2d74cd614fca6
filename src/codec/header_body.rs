//! Header and body: a header that is framed itself, from which the program computes how long the
//! body is.

use std::fmt;
use std::sync::Arc;

use super::{BuiltinCodec, Codec, Kind, Limit, Out, ScanState, Step, with_builtin};
use crate::error::FrameError;

/// Computes the length of the body from the header.
pub(crate) type BodyLen = dyn Fn(&[u8]) -> Result<u64, FrameError> + Send + Sync;

/// See [`Framing::header_body`](super::Framing::header_body).
#[derive(Clone)]
pub(crate) struct HeaderBody {
    /// One that does not skip, and is not raw, custom or of this kind. Its limit is its own or that
    /// of the whole frame, the smaller one.
    header: Kind,
    /// The largest payload of a header that was asked for.
    header_len_max: usize,
    body_len: Arc<BodyLen>,
    limit: Limit,
}

/// What the front of a frame says of it.
enum Front {
    /// The header's payload ends at `header_end`; header and body have `len` bytes together, or
    /// more than can be counted.
    Header { header_end: usize, len: Option<u64> },
    /// The header needs that many bytes.
    Cut(usize),
}

impl HeaderBody {
    /// # Panics
    ///
    /// If nothing ends the header, or that needs a state of its own.
    pub(crate) fn new(mut header: Kind, body_len: Arc<BodyLen>, limit: Limit) -> Self {
        assert!(
            !matches!(header, Kind::Raw(_) | Kind::Custom(_) | Kind::HeaderBody(_)),
            "a header must have a framing that ends it"
        );
        let mut header_len_max = usize::MAX;
        header.change_limit(&mut |limit| header_len_max = limit.len);
        let mut codec = Self {
            header,
            header_len_max,
            body_len,
            limit,
        };
        codec.change_limit(&mut |_| {});
        codec
    }

    pub(crate) fn change_limit(&mut self, change: &mut dyn FnMut(&mut Limit)) {
        change(&mut self.limit);
        let header_len_max = self.header_len_max.min(self.limit.len);
        self.header
            .change_limit(&mut |limit| *limit = Limit::of(header_len_max));
    }

    /// Whether the header is not whole yet.
    pub(super) fn is_header_cut(&self, head: &[u8]) -> bool {
        let scanned = &mut ScanState::default();
        let step = with_builtin!(
            &self.header,
            codec => codec.decode(scanned, head),
            _custom => return false
        );
        matches!(step, Ok(Step::Need(_)))
    }

    fn front(
        &self,
        scanned: &mut ScanState,
        bytes: &[u8],
        has_ended: bool,
    ) -> Result<Front, FrameError> {
        let step = with_builtin!(&self.header, codec => match has_ended {
            false => codec.decode(scanned, bytes),
            true => codec.finish(scanned, bytes),
        }, _custom => {
            Err(FrameError::Contract("a header with a codec of its own"))
        })?;
        match step {
            Step::Frame { frame, consumed } => {
                let header_end = frame.end;
                let header = bytes.get(frame).unwrap_or_default();
                let len = (self.body_len)(header)?.checked_add(consumed as u64);
                Ok(Front::Header { header_end, len })
            }
            Step::Need(need) => Ok(Front::Cut(need)),
            _ => Err(FrameError::Contract("a header that is skipped")),
        }
    }

    fn look(
        &self,
        scanned: &mut ScanState,
        bytes: &[u8],
        has_ended: bool,
    ) -> Result<Step, FrameError> {
        let (header_end, len) = match self.front(scanned, bytes, has_ended)? {
            Front::Header { header_end, len } => (header_end, len),
            Front::Cut(need) => return Ok(Step::Need(need)),
        };
        let end = match len.map(usize::try_from) {
            Some(Ok(end)) if end <= self.limit.len => end,
            _ => {
                let len = len.unwrap_or(u64::MAX);
                return self.limit.exceeded(len, len);
            }
        };
        if bytes.len() < end {
            // Decoder again, the header's end is found at once.
            scanned.to = header_end;
            return Ok(Step::Need(end));
        }
        Ok(Step::Frame {
            frame: 0..end,
            consumed: end,
        })
    }
}

impl BuiltinCodec for HeaderBody {}

impl Codec for HeaderBody {
    type State = ScanState;

    fn decode(&self, scanned: &mut ScanState, bytes: &[u8]) -> Result<Step, FrameError> {
        self.look(scanned, bytes, false)
    }

    /// A header may end with the stream only, and a body of no bytes with it.
    fn finish(&self, scanned: &mut ScanState, rest: &[u8]) -> Result<Step, FrameError> {
        self.look(scanned, rest, true)
    }

    fn encode(&self, payload: &[u8], out: &mut Out<'_>) -> Result<(), FrameError> {
        self.check(payload)?;
        out.put(payload);
        Ok(())
    }

    fn encode_in_place(&self, out: &mut Out<'_>) -> Result<(), FrameError> {
        self.check(out.bytes())
    }
}

impl HeaderBody {
    fn check(&self, payload: &[u8]) -> Result<(), FrameError> {
        self.limit.check_payload(payload.len())?;
        let front = match payload {
            [] => Front::Cut(1),
            _ => self.front(&mut ScanState::default(), payload, false)?,
        };
        match front {
            Front::Header { len, .. } if len == Some(payload.len() as u64) => Ok(()),
            Front::Header { len, .. } if len.is_none_or(|len| len > self.limit.len as u64) => {
                let len = len.unwrap_or(u64::MAX);
                Err(FrameError::too_long(len, self.limit.len))
            }
            Front::Header { .. } => Err(FrameError::Unencodable("its header tells another length")),
            Front::Cut(_) => Err(FrameError::Unencodable("it is shorter than its header")),
        }
    }
}

impl fmt::Debug for HeaderBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeaderBody")
            .field("header", &self.header)
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::SCANNED_BYTES;
    use crate::codec::delimited::Delimited;
    use crate::codec::fixed::Fixed;
    use crate::codec::line::Line;
    use crate::memory::Buf;

    /// A struct of a type and a count of records of six bytes each.
    fn records() -> HeaderBody {
        let body_len = |header: &[u8]| match header[0] {
            1 => Ok(6 * u64::from(header[1])),
            _ => Err(FrameError::Malformed("no such type")),
        };
        let header = Kind::Fixed(Fixed { frame_len: 2 });
        HeaderBody::new(header, Arc::new(body_len), Limit::of(600))
    }

    #[test]
    fn the_header_tells_the_body_and_both_are_delivered() {
        let decode = |bytes: &[u8]| records().decode(&mut ScanState::default(), bytes);
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

    /// `;` ends a header at the end of the stream only: before, `;;` may come.
    #[test]
    fn a_header_that_only_the_end_of_the_stream_ends_is_whole_there() {
        let body_len = |header: &[u8]| Ok(header.len() as u64 - 1);
        let header = Kind::Delimited(Arc::new(Delimited::new(&[b";", b";;"], Limit::of(9))));
        let codec = HeaderBody::new(header, Arc::new(body_len), Limit::of(5));
        let (mut scanned, bytes) = (ScanState::default(), b"a;");
        let step = codec.decode(&mut scanned, bytes);
        assert_eq!(step.ok(), Some(Step::Need(3)));
        assert_eq!(
            codec.finish(&mut scanned, bytes).ok(),
            Some(Step::Frame {
                frame: 0..2,
                consumed: 2
            })
        );
        let finish = |rest: &[u8]| codec.finish(&mut ScanState::default(), rest);
        assert_eq!(finish(b"ab;").ok(), Some(Step::Need(4)), "no body");
        assert_eq!(finish(b"ab").ok(), Some(Step::Need(3)), "no header");
        assert!(matches!(
            finish(b"abc;"),
            Err(FrameError::TooLong { len: 6, limit: 5 })
        ));
    }

    #[test]
    fn no_byte_of_a_header_is_searched_again_while_its_body_comes() {
        let header = Kind::Line(Line::new(Limit::of(100)));
        let codec = HeaderBody::new(header, Arc::new(|_: &[u8]| Ok(2)), Limit::of(200));
        let (mut scanned, bytes) = (ScanState::default(), [&[b'h'; 80][..], b"\n12"].concat());
        SCANNED_BYTES.set(0);
        for end in [40, 81, 82] {
            let step = codec.decode(&mut scanned, &bytes[..end]).expect("no fault");
            assert!(matches!(step, Step::Need(_)), "{step:?}");
        }
        let step = codec.decode(&mut scanned, &bytes).expect("no fault");
        assert!(matches!(step, Step::Frame { consumed: 83, .. }), "{step:?}");
        assert_eq!(SCANNED_BYTES.get(), 81 + 2, "its end is looked at anew");
    }

    #[test]
    fn a_header_that_is_too_long_is_an_error_also_where_it_was_to_be_skipped() {
        let (len, skips) = (3, true);
        let limit = Limit { len, skips };
        let header = Kind::Line(Line::new(limit));
        let limit = Limit { len: 9, skips };
        let codec = HeaderBody::new(header, Arc::new(|_: &[u8]| Ok(0)), limit);
        for bytes in [&b"long\n"[..], b"longer"] {
            let step = codec.decode(&mut ScanState::default(), bytes);
            assert!(
                matches!(step, Err(FrameError::TooLong { limit: 3, .. })),
                "{step:?}"
            );
        }
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
        let error = encode(b"\x01\x64").expect_err("it would be too long");
        assert!(
            matches!(error, FrameError::TooLong { len: 602, .. }),
            "{error}"
        );
    }

    #[test]
    fn a_body_length_at_the_end_of_its_range_does_not_overflow() {
        let body_len = |_: &[u8]| Ok(u64::MAX);
        let header = Kind::Fixed(Fixed { frame_len: 1 });
        let codec = HeaderBody::new(header, Arc::new(body_len), Limit::of(usize::MAX));
        let step = codec.decode(&mut ScanState::default(), b"x");
        assert!(matches!(
            step,
            Ok(Step::Need(_)) | Err(FrameError::TooLong { .. })
        ));
    }

    #[test]
    fn a_frame_that_ends_beyond_what_can_be_counted_is_too_long_for_any_limit() {
        let header = Kind::Fixed(Fixed { frame_len: 1 });
        let body_len = Arc::new(|_: &[u8]| Ok(u64::MAX));
        let codec = HeaderBody::new(header, body_len, Limit::of(usize::MAX));
        let error = codec
            .decode(&mut ScanState::default(), b"h")
            .expect_err("too long");
        assert!(matches!(error, FrameError::TooLong { .. }), "{error}");
    }
}
