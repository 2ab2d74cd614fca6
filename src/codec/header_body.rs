//! Header and body: the header has its own framing, and the program computes the length of the body
//! from it.

use std::fmt;
use std::sync::Arc;

use super::{BuiltinCodec, Codec, Kind, Limit, Out, ScanState, Step, with_builtin};
use crate::error::FrameError;

/// Function that returns the length of the body, computed from the header's payload.
pub(crate) type BodyLen = dyn Fn(&[u8]) -> Result<u64, FrameError> + Send + Sync;

/// Codec of [`Framing::header_body`](super::Framing::header_body).
#[derive(Clone)]
pub(crate) struct HeaderBody {
    /// Codec of the header: see [`is_header_kind`]. This codec never skips. Its limit is
    /// `header_len_max` or the frame limit, whichever is smaller; a fixed header has no limit.
    header: Kind,
    /// Configured maximum payload of the header, in bytes.
    header_len_max: usize,
    body_len: Arc<BodyLen>,
    limit: Limit,
}

/// Returns true if `kind` may be the codec of a header. Such a codec finds the end of a frame and
/// skips no bytes. Its state does not conflict with the state of [`HeaderBody`].
fn is_header_kind(kind: &Kind) -> bool {
    match kind {
        Kind::Raw(_) | Kind::Custom(_) => false,
        Kind::HeaderBody(_) | Kind::LengthFn(_) | Kind::Between(_) => false,
        Kind::Length(_) | Kind::Varint(_) | Kind::Netstring(_) | Kind::LengthField(_) => true,
        Kind::Line(_) | Kind::Delimited(_) | Kind::Fixed(_) => true,
    }
}

impl HeaderBody {
    /// Creates a codec for frames whose header has the codec `header`.
    ///
    /// # Panics
    ///
    /// Panics if `header` is not a [kind of header](is_header_kind).
    pub(crate) fn new(mut header: Kind, body_len: Arc<BodyLen>, limit: Limit) -> Self {
        assert!(
            is_header_kind(&header),
            "the header of a header-body framing cannot be raw, custom, header-body or length-fn, \
             nor have skip_between"
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

    /// Applies `change` to the frame limit, and limits the header to the new frame limit.
    pub(crate) fn change_limit(&mut self, change: &mut dyn FnMut(&mut Limit)) {
        change(&mut self.limit);
        let header_len_max = self.header_len_max.min(self.limit.len);
        self.header
            .change_limit(&mut |limit| *limit = Limit::of(header_len_max));
    }

    /// Returns true if `head`, the bytes of a partial frame, ends within the header.
    pub(super) fn is_header_cut(&self, head: &[u8]) -> bool {
        let step = self.decode_header(&mut ScanState::default(), head, false);
        matches!(step, Ok(Step::Need(_)))
    }

    fn decode_header(
        &self,
        scanned: &mut ScanState,
        bytes: &[u8],
        has_ended: bool,
    ) -> Result<Step, FrameError> {
        with_builtin!(&self.header, codec => match has_ended {
            false => codec.decode(scanned, bytes),
            true => codec.finish(scanned, bytes),
        }, _custom => Err(FrameError::Contract("the codec of the header is not a built-in codec")))
    }

    fn decode_step(
        &self,
        scanned: &mut ScanState,
        bytes: &[u8],
        has_ended: bool,
    ) -> Result<Step, FrameError> {
        if let Some(len) = scanned.whole_len() {
            return self.limit.whole_frame(scanned, Some(len), bytes);
        }
        match self.decode_header(scanned, bytes, has_ended)? {
            Step::Frame { frame, consumed } => {
                let header = bytes.get(frame).unwrap_or_default();
                let len = (self.body_len)(header)?.checked_add(consumed as u64);
                self.limit.whole_frame(scanned, len, bytes)
            }
            Step::Need(need) => Ok(Step::Need(need)),
            _ => Err(FrameError::Contract(
                "the codec of the header returned a skip step",
            )),
        }
    }
}

impl BuiltinCodec for HeaderBody {}

impl Codec for HeaderBody {
    type State = ScanState;

    fn decode(&self, scanned: &mut ScanState, bytes: &[u8]) -> Result<Step, FrameError> {
        self.decode_step(scanned, bytes, false)
    }

    /// Decodes at the end of the stream. The end of the stream may complete the header, for example
    /// a last line without a line end. If bytes of the body are missing, returns `Need`.
    fn finish(&self, scanned: &mut ScanState, rest: &[u8]) -> Result<Step, FrameError> {
        self.decode_step(scanned, rest, true)
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

    /// Returns a codec with a two-byte header: a type, and the number of records. Each record has
    /// six bytes.
    fn records() -> HeaderBody {
        let body_len = |header: &[u8]| match header[0] {
            1 => Ok(6 * u64::from(header[1])),
            _ => Err(FrameError::Malformed("unknown type")),
        };
        let header = Kind::Fixed(Fixed { frame_len: 2 });
        HeaderBody::new(header, Arc::new(body_len), Limit::of(600))
    }

    #[test]
    fn header_gives_the_body_length_and_both_are_delivered() {
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

    /// The delimiters are `;` and `;;`. If a `;` is the last byte received, only the end of the
    /// stream shows that it ends the header.
    #[test]
    fn header_completed_by_end_of_stream_is_accepted() {
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
        assert_eq!(
            finish(b"ab;").ok(),
            Some(Step::Need(4)),
            "the stream ends before the body"
        );
        assert_eq!(
            finish(b"ab").ok(),
            Some(Step::Need(3)),
            "the stream ends within the header"
        );
        assert!(matches!(
            finish(b"abc;"),
            Err(FrameError::TooLong { len: 6, limit: 5 })
        ));
    }

    #[test]
    fn header_is_not_searched_again_while_its_body_arrives() {
        let header = Kind::Line(Line::new(Limit::of(100)));
        let codec = HeaderBody::new(header, Arc::new(|_: &[u8]| Ok(2)), Limit::of(200));
        let (mut scanned, bytes) = (ScanState::default(), [&[b'h'; 80][..], b"\n12"].concat());
        SCANNED_BYTES.set(0);
        for end in [40, 81, 82] {
            let step = codec
                .decode(&mut scanned, &bytes[..end])
                .expect("the bytes are valid");
            assert!(matches!(step, Step::Need(_)), "{step:?}");
        }
        let step = codec
            .decode(&mut scanned, &bytes)
            .expect("the bytes are valid");
        assert!(matches!(step, Step::Frame { consumed: 83, .. }), "{step:?}");
        assert_eq!(
            SCANNED_BYTES.get(),
            81,
            "no byte of the header is searched again"
        );
    }

    #[test]
    fn header_over_the_limit_is_an_error_even_when_skipping() {
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
    fn payload_that_contradicts_its_header_is_unencodable() {
        let encode = |payload: &[u8]| {
            let mut buf = Buf::default();
            records()
                .encode(payload, &mut Out::new(&mut buf))
                .map(|()| buf.len())
        };
        assert_eq!(encode(b"\x01\x01abcdef").ok(), Some(8));
        for payload in [&b"\x01"[..], b"\x01\x01abcde", b"\x01\x00a", b"\x07\x00"] {
            encode(payload).expect_err("the payload contradicts its header");
        }
        let error = encode(b"\x01\x64").expect_err("the frame exceeds the limit");
        assert!(
            matches!(error, FrameError::TooLong { len: 602, .. }),
            "{error}"
        );
    }

    #[test]
    fn frame_end_beyond_u64_is_too_long_for_any_limit() {
        let header = Kind::Fixed(Fixed { frame_len: 1 });
        let body_len = Arc::new(|_: &[u8]| Ok(u64::MAX));
        let codec = HeaderBody::new(header, body_len, Limit::of(usize::MAX));
        let error = codec
            .decode(&mut ScanState::default(), b"h")
            .expect_err("the frame exceeds every limit");
        assert!(matches!(error, FrameError::TooLong { .. }), "{error}");
    }
}
