//! A codec that skips bytes between frames, such as heart-beats. Another codec decodes the frames.

use std::fmt;

use super::{BuiltinCodec, Codec, Kind, Lookahead, Out, ScanState, Step, with_builtin};
use crate::error::FrameError;
use crate::memory::GrowBuf;

/// Codec of [`Framing::skip_between`](super::Framing::skip_between).
#[derive(Clone)]
pub(crate) struct Between {
    /// Codec of the frames; never raw, custom or [`Between`].
    frames: Kind,
    /// Values of the bytes to skip; not empty.
    skipped: Vec<u8>,
}

impl Between {
    /// Returns `kind` with `bytes` as further bytes to skip. A raw or custom kind is returned
    /// unchanged.
    pub(super) fn of(kind: Kind, bytes: &[u8]) -> Kind {
        let mut between = match kind {
            Kind::Raw(_) | Kind::Custom(_) => return kind,
            Kind::Between(between) => std::sync::Arc::unwrap_or_clone(between),
            frames => Self {
                frames,
                skipped: Vec::new(),
            },
        };
        between.skipped.extend_from_slice(bytes);
        Kind::Between(between.into())
    }

    /// Returns the codec of the frames.
    pub(super) fn frames(&self) -> &Kind {
        &self.frames
    }

    pub(super) fn frames_mut(&mut self) -> &mut Kind {
        &mut self.frames
    }

    /// Returns a step that drops the leading bytes of `bytes` whose values are in `skipped`.
    /// Returns `None` if there are no such bytes, or if `bytes` begins inside a frame.
    fn skip(&self, scanned: &ScanState, bytes: &[u8]) -> Option<Step> {
        // A state other than the default belongs to a partial frame. A partial frame may also have
        // the default state. Such a frame begins with a byte that is not skipped, because an
        // earlier call removed the skipped bytes before the frame.
        if *scanned != ScanState::default() {
            return None;
        }
        let is_skipped = |byte: &&u8| self.skipped.contains(byte);
        let bytes = bytes.iter().take_while(is_skipped).count() as u64;
        (bytes > 0).then_some(Step::Skip { bytes })
    }

    /// Checks that the peer will not skip the first byte of `frame`, an encoded frame.
    fn check(&self, frame: &[u8]) -> Result<(), FrameError> {
        match frame.first() {
            Some(first) if self.skipped.contains(first) => Err(FrameError::Unencodable(
                "the frame begins with a byte that is skipped between frames",
            )),
            _ => Ok(()),
        }
    }
}

/// Returns the error if the codec of the frames is custom. This does not occur, because
/// [`Between::of`] returns a custom kind unchanged.
fn custom() -> FrameError {
    FrameError::Contract("the codec of `skip_between` is not a built-in codec")
}

impl BuiltinCodec for Between {
    fn ahead(&self, scanned: &mut ScanState, held: &GrowBuf, more: &[u8]) -> Lookahead {
        with_builtin!(
            &self.frames,
            codec => codec.ahead(scanned, held, more),
            _custom => Lookahead::Unknown
        )
    }
}

impl Codec for Between {
    type State = ScanState;

    fn decode(&self, scanned: &mut ScanState, bytes: &[u8]) -> Result<Step, FrameError> {
        if let Some(skip) = self.skip(scanned, bytes) {
            return Ok(skip);
        }
        with_builtin!(
            &self.frames,
            codec => codec.decode(scanned, bytes),
            _custom => Err(custom())
        )
    }

    fn finish(&self, scanned: &mut ScanState, rest: &[u8]) -> Result<Step, FrameError> {
        if let Some(skip) = self.skip(scanned, rest) {
            return Ok(skip);
        }
        with_builtin!(
            &self.frames,
            codec => codec.finish(scanned, rest),
            _custom => Err(custom())
        )
    }

    fn encode(&self, payload: &[u8], out: &mut Out<'_>) -> Result<(), FrameError> {
        with_builtin!(&self.frames, codec => codec.encode(payload, out))?;
        self.check(out.bytes())
    }

    fn headroom(&self) -> usize {
        with_builtin!(&self.frames, codec => codec.headroom())
    }

    fn encode_in_place(&self, out: &mut Out<'_>) -> Result<(), FrameError> {
        with_builtin!(&self.frames, codec => codec.encode_in_place(out))?;
        self.check(out.bytes())
    }
}

impl fmt::Debug for Between {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Between")
            .field("frames", &self.frames)
            .field("skipped", &self.skipped.escape_ascii().to_string())
            .finish()
    }
}
