//! Lines: a frame ends with `\n`, and a `\r` before it is not part of the frame.

use super::{Codec, Limit, Out, Scanned, Step, count_scanned};
use crate::error::FrameError;

/// See [`Framing::line`](super::Framing::line).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Line {
    pub(crate) limit: Limit,
}

impl Codec for Line {
    type State = Scanned;

    fn decode(&self, scanned: &mut Scanned, bytes: &[u8]) -> Result<Step, FrameError> {
        let limit = self.limit.len as u64;
        let unseen = bytes.get(scanned.to..).unwrap_or_default();
        let found = memchr::memchr(b'\n', unseen);
        count_scanned(found.map_or(unseen.len(), |at| at.saturating_add(1)));
        if let Some(at) = found {
            let end = scanned.to.saturating_add(at);
            let dropped = std::mem::take(scanned).dropped;
            let line = bytes.get(..end).unwrap_or_default();
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let consumed = end.saturating_add(1);
            let len = dropped.saturating_add(line.len() as u64);
            if len > limit {
                return self.limit.exceeded(len, consumed as u64);
            }
            return Ok(Step::Frame {
                frame: 0..line.len(),
                consumed,
            });
        }
        // A `\r` at the end may yet turn out to be half of the line's end.
        let line = bytes.strip_suffix(b"\r").unwrap_or(bytes);
        if scanned.dropped.saturating_add(line.len() as u64) > limit {
            let shown = bytes.len();
            return self
                .limit
                .exceeded_without_end(scanned, line.len(), shown, shown);
        }
        scanned.to = bytes.len();
        Ok(Step::Need(bytes.len().saturating_add(1)))
    }

    fn encode(&self, payload: &[u8], out: &mut Out<'_>) -> Result<(), FrameError> {
        self.check(payload)?;
        out.put(payload);
        out.put(b"\n");
        Ok(())
    }

    fn encode_in_place(&self, out: &mut Out<'_>) -> Result<(), FrameError> {
        self.check(out.bytes())?;
        out.put(b"\n");
        Ok(())
    }
}

impl Line {
    fn check(&self, payload: &[u8]) -> Result<(), FrameError> {
        self.limit.check_payload(payload.len())?;
        if memchr::memchr(b'\n', payload).is_some() {
            return Err(FrameError::Unencodable("a line end inside"));
        }
        if payload.ends_with(b"\r") {
            return Err(FrameError::Unencodable("a carriage return at the end"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::Buf;

    const LINE: Line = Line {
        limit: Limit::of(4),
    };

    fn decode(bytes: &[u8]) -> Result<Step, FrameError> {
        LINE.decode(&mut Scanned::default(), bytes)
    }

    #[test]
    fn one_carriage_return_is_stripped_and_no_more() {
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
    fn the_limit_counts_the_line_without_its_end() {
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
    fn a_payload_that_would_come_back_changed_is_refused() {
        for payload in [&b"a\nb"[..], b"ab\n", b"ab\r", b"abcde"] {
            let mut buf = Buf::default();
            LINE.encode(payload, &mut Out::new(&mut buf))
                .expect_err("refused");
            assert!(buf.is_empty());
        }
        let mut buf = Buf::default();
        LINE.encode(b"a\rb", &mut Out::new(&mut buf))
            .expect("a lone \\r inside is content");
        assert_eq!(buf.bytes(), b"a\rb\n");
    }
}
