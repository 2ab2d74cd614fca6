//! The interface between the decode loops and the codecs: a codec bound to its state, with checked
//! steps.

use super::step::{CheckedStep, check};
use super::{Codec, ErasedCodec, ErasedState, Kind, ScanState, with_builtin};
use crate::memory::GrowBuf;

/// A codec and its state of one connection.
pub(crate) trait Decoder {
    /// True if `step` accepts an empty slice and then returns `Need`. The decode loop then does not
    /// test for an empty slice after each frame.
    const ACCEPTS_EMPTY: bool = false;

    /// Decodes the start of `bytes`: one call of the codec.
    fn step<'a>(&mut self, bytes: &'a [u8]) -> CheckedStep<'a>;

    /// Searches `more` for the end of the partial frame `held`: see [`BuiltinCodec::ahead`].
    fn ahead(&mut self, held: &GrowBuf, more: &[u8]) -> Lookahead {
        let _ = (held, more);
        Lookahead::Unknown
    }

    /// Returns the bounds of the frame that the last step returned; `None` if the connection is not
    /// recorded.
    fn recorded(&self) -> Option<FrameBounds> {
        None
    }
}

/// Bounds of a frame in its stream.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct FrameBounds {
    /// Offset of the frame's first byte in the stream.
    pub(crate) offset: u64,
    /// Length of the frame in bytes, including header and trailer.
    pub(crate) len: usize,
    /// Number of bytes before the payload.
    pub(crate) header_len: usize,
    /// Number of bytes after the payload.
    pub(crate) trailer_len: usize,
}

/// Result of searching new bytes for the end of a partial frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lookahead {
    /// Unknown: only a decode step over all bytes of the frame finds its end.
    Unknown,
    /// All new bytes belong to the frame, and its end is not among them.
    Inside,
    /// A decode step is needed once this number of new bytes has been appended to the partial
    /// frame. The number is at least 1. The appended bytes may extend beyond the end of the frame,
    /// by fewer bytes than the longest delimiter has.
    StepAfter(usize),
    /// The new bytes contain the end of the frame.
    Ends {
        /// Number of new bytes that belong to the frame; at least 1.
        len: usize,
        /// Length of the payload, which begins at the first byte of the frame.
        payload_len: usize,
    },
}

/// Abilities of a built-in codec beyond [`Codec`].
pub(crate) trait BuiltinCodec: Codec<State = ScanState> {
    /// Searches for the end of a frame that begins in `held` and continues in `more`. Earlier calls
    /// have searched `held`. The search precedes the copy of `more`, so that bytes of the next
    /// frame are not copied.
    fn ahead(&self, scanned: &mut ScanState, held: &GrowBuf, more: &[u8]) -> Lookahead {
        let _ = (scanned, held, more);
        Lookahead::Unknown
    }

    /// Returns the codec itself. A call on an `Arc` returns the codec in the `Arc`.
    fn itself(&self) -> &Self {
        self
    }

    /// Binds the codec to its state of one connection.
    fn bind<'a>(&'a self, scanned: &'a mut ScanState) -> BoundCodec<'a, Self>
    where
        Self: Sized,
    {
        BoundCodec {
            codec: self,
            scanned,
        }
    }
}

/// A built-in codec and its state.
#[derive(Debug)]
pub(crate) struct BoundCodec<'a, C> {
    codec: &'a C,
    scanned: &'a mut ScanState,
}

impl<C: BuiltinCodec> Decoder for BoundCodec<'_, C> {
    #[inline(always)]
    fn step<'a>(&mut self, bytes: &'a [u8]) -> CheckedStep<'a> {
        check(bytes, self.codec.decode(self.scanned, bytes))
    }

    #[inline(always)]
    fn ahead(&mut self, held: &GrowBuf, more: &[u8]) -> Lookahead {
        self.codec.ahead(self.scanned, held, more)
    }
}

/// A user's codec and its state.
pub(crate) struct BoundCustom<'a> {
    pub(crate) codec: &'a ErasedCodec,
    pub(crate) state: &'a mut ErasedState,
}

impl Decoder for BoundCustom<'_> {
    fn step<'a>(&mut self, bytes: &'a [u8]) -> CheckedStep<'a> {
        check(bytes, self.codec.decode(self.state, bytes))
    }
}

/// Any codec and its state, selected at each step: for paths that need not be fast.
pub(crate) struct AnyDecoder<'a> {
    pub(crate) kind: &'a Kind,
    pub(crate) scanned: &'a mut ScanState,
    /// State of a user's codec.
    pub(crate) custom: &'a mut ErasedState,
    /// True once the stream has ended.
    pub(crate) has_ended: bool,
}

impl Decoder for AnyDecoder<'_> {
    fn step<'a>(&mut self, bytes: &'a [u8]) -> CheckedStep<'a> {
        let step = with_builtin!(self.kind, codec => match self.has_ended {
            false => codec.decode(self.scanned, bytes),
            true => codec.finish(self.scanned, bytes),
        }, custom => match self.has_ended {
            false => custom.decode(self.custom, bytes),
            true => custom.finish(self.custom, bytes),
        });
        check(bytes, step)
    }
}
