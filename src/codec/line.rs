//! Lines: a frame ends with `\n`, and a `\r` before the `\n` is not part of the frame. Also frames
//! that end with a delimiter of one byte. In these frames, a `\r` before the delimiter is kept.

use super::{BuiltinCodec, Codec, Limit, Lookahead, Out, ScanState, Step, count_scanned};
use crate::error::FrameError;
use crate::memory::GrowBuf;

/// Codec of [`Framing::line`](super::Framing::line), and of
/// [`Framing::delimiter`](super::Framing::delimiter) with one byte.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Line {
    /// Byte that ends a line.
    end: u8,
    /// True if a `\r` before `end` is part of the line end, and therefore stripped.
    strips_cr: bool,
    /// True if the bytes after the last `end` are delivered as a frame at the end of the stream.
    pub(crate) delivers_rest: bool,
    pub(crate) limit: Limit,
}

impl Codec for Line {
    type State = ScanState;

    #[inline(always)]
    fn decode(&self, scanned: &mut ScanState, bytes: &[u8]) -> Result<Step, FrameError> {
        // This function is inlined for the usual case: a new line, whose end is in `bytes`.
        if *scanned != ScanState::default() {
            return self.decode_on(scanned, bytes);
        }
        match self.find_end(bytes) {
            Some(end) => self.frame(0, bytes, end),
            None if bytes.len() <= self.limit.len => {
                scanned.to = bytes.len();
                Ok(Step::Need(bytes.len().saturating_add(1)))
            }
            _ => self.unfinished(scanned, bytes),
        }
    }

    fn finish(&self, scanned: &mut ScanState, rest: &[u8]) -> Result<Step, FrameError> {
        match self.decode(scanned, rest)? {
            Step::Need(_) if self.delivers_rest => {
                let len = self.payload(rest).len();
                let dropped = std::mem::take(scanned).dropped;
                self.limit.step_with_end(dropped, len, rest.len())
            }
            step => Ok(step),
        }
    }

    fn encode(&self, payload: &[u8], out: &mut Out<'_>) -> Result<(), FrameError> {
        self.check(payload)?;
        out.put(payload);
        out.put(&[self.end]);
        Ok(())
    }

    fn encode_in_place(&self, out: &mut Out<'_>) -> Result<(), FrameError> {
        self.check(out.bytes())?;
        out.put(&[self.end]);
        Ok(())
    }
}

impl BuiltinCodec for Line {
    #[inline(always)]
    fn ahead(&self, scanned: &mut ScanState, held: &GrowBuf, more: &[u8]) -> Lookahead {
        let more = self.limit.clip(scanned, held.len(), more);
        match self.find_end(more) {
            Some(at) => {
                let to = held.len().saturating_add(at);
                let len = match self.strips_cr && ends_with_cr(held, more, at) {
                    true => to.saturating_sub(1),
                    false => to,
                };
                self.limit.with_end(scanned, to, len, at.saturating_add(1))
            }
            None => {
                scanned.to = held.len().saturating_add(more.len());
                self.limit.without_end(scanned, held.len(), more)
            }
        }
    }
}

impl Line {
    pub(crate) const fn new(limit: Limit) -> Self {
        Self {
            end: b'\n',
            strips_cr: true,
            delivers_rest: false,
            limit,
        }
    }

    /// Returns a codec for frames that end with the byte `end`. A `\r` before `end` is not
    /// stripped.
    pub(crate) const fn ended_by(end: u8, limit: Limit) -> Self {
        Self {
            end,
            strips_cr: false,
            delivers_rest: false,
            limit,
        }
    }

    /// Returns the delimiter, or `None` if this is the codec of
    /// [`Framing::line`](super::Framing::line).
    pub(crate) fn delimiter(&self) -> Option<u8> {
        (!self.strips_cr).then_some(self.end)
    }

    #[inline(always)]
    fn find_end(&self, bytes: &[u8]) -> Option<usize> {
        let found = memchr::memchr(self.end, bytes);
        count_scanned(found.map_or(bytes.len(), |at| at.saturating_add(1)));
        found
    }

    /// Returns the payload of a complete or partial line, which is passed without its `end`.
    #[inline(always)]
    fn payload<'a>(&self, line: &'a [u8]) -> &'a [u8] {
        match line {
            [payload @ .., b'\r'] if self.strips_cr => payload,
            _ => line,
        }
    }

    /// Decodes a line that earlier calls have partly searched or partly dropped.
    #[inline(never)]
    fn decode_on(&self, scanned: &mut ScanState, bytes: &[u8]) -> Result<Step, FrameError> {
        let unseen = bytes.get(scanned.to..).unwrap_or_default();
        match self.find_end(unseen) {
            Some(at) => {
                let ScanState { to, dropped } = std::mem::take(scanned);
                self.frame(dropped, bytes, to.saturating_add(at))
            }
            None => self.unfinished(scanned, bytes),
        }
    }

    /// Returns the step for a line whose line end is at `end`. `dropped` bytes of this line were
    /// skipped before `bytes`.
    #[inline(always)]
    fn frame(&self, dropped: u64, bytes: &[u8], end: usize) -> Result<Step, FrameError> {
        let line = self.payload(bytes.get(..end).unwrap_or_default());
        let consumed = end.saturating_add(1);
        self.limit.step_with_end(dropped, line.len(), consumed)
    }

    /// Returns the step for bytes without a line end.
    #[inline(never)]
    fn unfinished(&self, scanned: &mut ScanState, bytes: &[u8]) -> Result<Step, FrameError> {
        // A `\r` at the end may belong to the line end, so it is not counted as payload yet.
        let (content, len) = (self.payload(bytes).len(), bytes.len());
        self.limit.step_without_end(scanned, content, len, len)
    }

    /// Checks that `decode` would return `payload` unchanged.
    fn check(&self, payload: &[u8]) -> Result<(), FrameError> {
        self.limit.check_payload(payload.len())?;
        if memchr::memchr(self.end, payload).is_some() {
            return Err(FrameError::Unencodable(match self.strips_cr {
                true => "the payload contains a line end",
                false => "the payload contains the delimiter",
            }));
        }
        if self.strips_cr && payload.ends_with(b"\r") {
            return Err(FrameError::Unencodable(
                "the payload ends with a carriage return",
            ));
        }
        Ok(())
    }
}

/// Returns true if a `\r` precedes the byte at offset `at` of `more`. The held bytes precede
/// `more`.
#[inline(always)]
fn ends_with_cr(held: &GrowBuf, more: &[u8], at: usize) -> bool {
    let before = match at.checked_sub(1) {
        Some(before) => more.get(before).copied(),
        None => held.last(),
    };
    before == Some(b'\r')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Buf;

    const LINE: Line = Line::new(Limit::of(4));

    fn decode(bytes: &[u8]) -> Result<Step, FrameError> {
        LINE.decode(&mut ScanState::default(), bytes)
    }

    #[test]
    fn line_strips_exactly_one_carriage_return() {
        assert_eq!(
            decode(b"ab\r\ncd").ok(),
            Some(Step::Frame {
                frame: 0..2,
                consumed: 4
            })
        );
        assert_eq!(
            decode(b"ab\r\r\n").ok(),
            Some(Step::Frame {
                frame: 0..3,
                consumed: 5
            })
        );
        assert_eq!(
            decode(b"a\rb\n").ok(),
            Some(Step::Frame {
                frame: 0..3,
                consumed: 4
            })
        );
        assert_eq!(
            decode(b"\n").ok(),
            Some(Step::Frame {
                frame: 0..0,
                consumed: 1
            })
        );
        assert_eq!(
            decode(b"\r\n").ok(),
            Some(Step::Frame {
                frame: 0..0,
                consumed: 2
            })
        );
    }

    #[test]
    fn frame_limit_counts_a_line_without_its_end() {
        assert_eq!(
            decode(b"abcd\n").ok(),
            Some(Step::Frame {
                frame: 0..4,
                consumed: 5
            })
        );
        assert_eq!(
            decode(b"abcd\r\n").ok(),
            Some(Step::Frame {
                frame: 0..4,
                consumed: 6
            })
        );
        assert_eq!(decode(b"abcd\r").ok(), Some(Step::Need(6)));
        for long in [&b"abcde\n"[..], b"abcde", b"abcde\r\n", b"abcd\r\r"] {
            assert!(matches!(
                decode(long),
                Err(FrameError::TooLong { limit: 4, .. })
            ));
        }
    }

    #[test]
    fn payload_that_would_decode_differently_is_unencodable() {
        for payload in [&b"a\nb"[..], b"ab\n", b"ab\r", b"abcde"] {
            let mut buf = Buf::default();
            LINE.encode(payload, &mut Out::new(&mut buf))
                .expect_err("the payload cannot be encoded as a line");
            assert!(buf.is_empty());
        }
        let mut buf = Buf::default();
        LINE.encode(b"a\rb", &mut Out::new(&mut buf))
            .expect("a \\r inside the line is payload");
        assert_eq!(buf.bytes(), b"a\rb\n");
    }
}
