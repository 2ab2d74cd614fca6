//! The framings of the tests, by name. Each custom codec has a property that no built-in framing
//! has.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::plain::{Tagged, digits_len};
use crate::codec::{Codec, Framing, LengthField, Out, Step};
use crate::error::FrameError;

/// Delimiters of the framing `delimiters`. After a `;`, the decoder must wait until it knows if
/// this `;` begins a `;;;`.
pub(super) const DELIMITERS: [&[u8]; 3] = [b";", b";;;", b"\r\n"];

/// Returns the framing with a name of the tests: a built-in framing or a codec of this file.
pub(super) fn framing(name: &str) -> Framing {
    match name {
        "fixed" => Framing::fixed(3),
        "byte" => Framing::delimiter(b";"),
        "delimiter" => Framing::delimiter(b"--"),
        "delimiters" => Framing::delimiters(&DELIMITERS),
        // The length field counts the whole frame, including the header of three bytes.
        "field" => {
            let header = LengthField::new(2).little_endian().leading(b"M");
            Framing::length_field(header.adjustment(-3))
        }
        "kept" => Framing::length_field(LengthField::new(1).leading(b"t").keep_header()),
        // The header is an `r` and the number of records. Each record has three bytes.
        "records" => Framing::header_body(Framing::fixed(2), |header| match header {
            [b'r', count] => Ok(3 * u64::from(*count)),
            _ => Err(FrameError::Malformed("unknown type")),
        }),
        "rest" => Framing::line().unterminated_last_frame(),
        "beats" => Framing::delimiter(b"--").skip_between(b"~+"),
        "digits" => Framing::length_fn(digits_len),
        "nul" => Framing::custom(NulEnded::default()),
        "marked" => Framing::custom(Marked),
        "tagged" => Framing::custom(Tagged),
        "blocks" => Framing::custom(Blocks),
        name => name
            .parse()
            .expect("the name is the short name of a framing"),
    }
}

/// Codec of frames that end with a NUL byte. The state is the offset up to which the frame was
/// searched.
#[derive(Debug, Default)]
pub(super) struct NulEnded {
    pub(super) scanned_bytes: Arc<AtomicUsize>,
}

impl Codec for NulEnded {
    type State = usize;

    fn decode(&self, searched: &mut usize, bytes: &[u8]) -> Result<Step, FrameError> {
        let found = bytes[*searched..].iter().position(|&byte| byte == 0);
        let scanned = found.map_or(bytes.len() - *searched, |at| at + 1);
        self.scanned_bytes.fetch_add(scanned, Ordering::Relaxed);
        if let Some(more) = found {
            let end = *searched + more;
            *searched = 0;
            return Ok(Step::Frame {
                frame: 0..end,
                consumed: end + 1,
            });
        }
        *searched = bytes.len();
        Ok(Step::Need(bytes.len() + 1))
    }

    fn encode(&self, payload: &[u8], out: &mut Out<'_>) -> Result<(), FrameError> {
        out.put(payload);
        out.put(b"\0");
        Ok(())
    }
}

/// Codec of frames that begin with `<>` and end before the next `<>`. The end of the stream ends
/// the last frame.
struct Marked;

impl Codec for Marked {
    type State = usize;

    fn decode(&self, searched: &mut usize, bytes: &[u8]) -> Result<Step, FrameError> {
        if !b"<>".starts_with(&bytes[..bytes.len().min(2)]) {
            return Err(FrameError::Malformed(
                "the frame does not begin with a mark",
            ));
        }
        let from = (*searched).max(2);
        let found = bytes.windows(2).skip(from).position(|pair| pair == b"<>");
        if let Some(more) = found {
            *searched = 0;
            return Ok(Step::Frame {
                frame: 2..from + more,
                consumed: from + more,
            });
        }
        // The last byte may be the first half of a mark.
        *searched = bytes.len() - 1;
        Ok(Step::Need(bytes.len() + 1))
    }

    fn finish(&self, searched: &mut usize, rest: &[u8]) -> Result<Step, FrameError> {
        *searched = 0;
        if rest.len() < 2 {
            return Ok(Step::Need(2));
        }
        Ok(Step::Frame {
            frame: 2..rest.len(),
            consumed: rest.len(),
        })
    }

    fn encode(&self, payload: &[u8], out: &mut Out<'_>) -> Result<(), FrameError> {
        out.put(b"<>");
        out.put(payload);
        Ok(())
    }
}

/// Codec of frames of three bytes. At the end of the stream, each remaining byte is a frame.
struct Blocks;

impl Codec for Blocks {
    type State = ();

    fn decode(&self, (): &mut (), bytes: &[u8]) -> Result<Step, FrameError> {
        if bytes.len() < 3 {
            return Ok(Step::Need(3));
        }
        Ok(Step::Frame {
            frame: 0..3,
            consumed: 3,
        })
    }

    fn finish(&self, (): &mut (), _: &[u8]) -> Result<Step, FrameError> {
        Ok(Step::Frame {
            frame: 0..1,
            consumed: 1,
        })
    }

    fn encode(&self, payload: &[u8], out: &mut Out<'_>) -> Result<(), FrameError> {
        out.put(payload);
        Ok(())
    }
}
