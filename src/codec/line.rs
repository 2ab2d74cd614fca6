//! Lines: a frame ends with `\n`, and a `\r` before it is not part of the frame.

use super::{Ahead, Builtin, Codec, Limit, Out, Scanned, Step, count_scanned};
use crate::buffer::Buf;
use crate::error::FrameError;

/// See [`Framing::line`](super::Framing::line).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Line {
    pub(crate) limit: Limit,
}

impl Codec for Line {
    type State = Scanned;

    #[inline(always)]
    fn decode(&self, scanned: &mut Scanned, bytes: &[u8]) -> Result<Step, FrameError> {
        // What is usual is inlined: nothing of the line was seen before, and its end is here.
        if *scanned != Scanned::default() {
            return self.decode_on(scanned, bytes);
        }
        match find_end(bytes) {
            Some(end) => self.frame(0, bytes, end),
            None => self.unfinished(scanned, bytes),
        }
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

impl Builtin for Line {
    #[inline(always)]
    fn ahead(&self, scanned: &mut Scanned, held: &Buf, more: &[u8]) -> Ahead {
        let more = self.limit.clip(scanned, held.len(), more);
        match find_end(more) {
            Some(at) => {
                scanned.to = held.len().saturating_add(at);
                Ahead::Look(at.saturating_add(1))
            }
            None => {
                scanned.to = held.len().saturating_add(more.len());
                self.limit.without_end(scanned, held.len(), more)
            }
        }
    }
}

impl Line {
    /// Decodes a line whose beginning was searched before, or dropped.
    #[inline(never)]
    fn decode_on(&self, scanned: &mut Scanned, bytes: &[u8]) -> Result<Step, FrameError> {
        let unseen = bytes.get(scanned.to..).unwrap_or_default();
        // It was found already where it lay ahead.
        let found = match unseen.first() {
            Some(b'\n') => {
                count_scanned(1);
                Some(0)
            }
            _ => find_end(unseen),
        };
        match found {
            Some(at) => {
                let Scanned { to, dropped } = std::mem::take(scanned);
                self.frame(dropped, bytes, to.saturating_add(at))
            }
            None => self.unfinished(scanned, bytes),
        }
    }

    /// The line ends with the `\n` at `end`, and `dropped` bytes of it were before those shown.
    #[inline(always)]
    fn frame(&self, dropped: u64, bytes: &[u8], end: usize) -> Result<Step, FrameError> {
        let line = bytes.get(..end).unwrap_or_default();
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let consumed = end.saturating_add(1);
        let len = dropped.saturating_add(line.len() as u64);
        if len > self.limit.len as u64 {
            return self.limit.exceeded(len, consumed as u64);
        }
        Ok(Step::Frame {
            frame: 0..line.len(),
            consumed,
        })
    }

    /// No end is among the bytes shown.
    #[inline(never)]
    fn unfinished(&self, scanned: &mut Scanned, bytes: &[u8]) -> Result<Step, FrameError> {
        // A `\r` at the end may yet turn out to be half of the line's end.
        let line = bytes.strip_suffix(b"\r").unwrap_or(bytes);
        if scanned.dropped.saturating_add(line.len() as u64) > self.limit.len as u64 {
            let shown = bytes.len();
            return self
                .limit
                .exceeded_without_end(scanned, line.len(), shown, shown);
        }
        scanned.to = bytes.len();
        Ok(Step::Need(bytes.len().saturating_add(1)))
    }

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

#[inline(always)]
fn find_end(bytes: &[u8]) -> Option<usize> {
    let found = memchr::memchr(b'\n', bytes);
    count_scanned(found.map_or(bytes.len(), |at| at.saturating_add(1)));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

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
