//! How the read side of a connection asks a codec.

use super::{Codec, ScanState, Step};
use crate::error::FrameError;
use crate::memory::Buf;

/// A codec together with what it remembers of a connection.
pub(crate) trait Decoder {
    /// Whether it may be shown no bytes at all, and needs some then: nobody has to look whether
    /// there are any behind each frame.
    const MAY_SEE_NONE: bool = false;

    /// Looks for the next frame: see [`Codec::decode`].
    fn decode(&mut self, bytes: &[u8]) -> Result<Step, FrameError>;

    /// See [`BuiltinCodec::ahead`].
    fn ahead(&mut self, held: &Buf, more: &[u8]) -> Lookahead {
        let _ = (held, more);
        Lookahead::Unknown
    }
}

impl<F> Decoder for F
where
    F: FnMut(&[u8]) -> Result<Step, FrameError>,
{
    #[inline(always)]
    fn decode(&mut self, bytes: &[u8]) -> Result<Step, FrameError> {
        self(bytes)
    }
}

/// What bytes mean to a frame that is unfinished without them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lookahead {
    /// Only a look at all bytes of the frame can tell.
    Unknown,
    /// They all belong to it, and do not end it.
    Inside,
    /// It is worth a look with so many of them, at least one. What of these is behind the frame is
    /// less than the longest delimiter.
    Look(usize),
    /// They end it.
    Ends {
        /// How many of them belong to it, at least one.
        len: usize,
        /// The length of its payload, which begins where the frame does.
        payload_len: usize,
    },
}

/// What a built-in codec can do beside [`Codec`].
pub(crate) trait BuiltinCodec: Codec<State = ScanState> {
    /// Looks for the end of a frame in bytes that are not yet where its beginning is held, so that
    /// none is copied there that does not belong to it. The codec has looked at all that is held,
    /// or ahead at it.
    fn ahead(&self, scanned: &mut ScanState, held: &Buf, more: &[u8]) -> Lookahead {
        let _ = (scanned, held, more);
        Lookahead::Unknown
    }

    /// The codec, whatever pointer it is behind.
    fn itself(&self) -> &Self {
        self
    }

    fn asked<'a>(&'a self, scanned: &'a mut ScanState) -> BoundCodec<'a, Self>
    where
        Self: Sized,
    {
        BoundCodec {
            codec: self,
            scanned,
        }
    }
}

#[derive(Debug)]
pub(crate) struct BoundCodec<'a, C> {
    codec: &'a C,
    scanned: &'a mut ScanState,
}

impl<C: BuiltinCodec> Decoder for BoundCodec<'_, C> {
    #[inline(always)]
    fn decode(&mut self, bytes: &[u8]) -> Result<Step, FrameError> {
        self.codec.decode(self.scanned, bytes)
    }

    #[inline(always)]
    fn ahead(&mut self, held: &Buf, more: &[u8]) -> Lookahead {
        self.codec.ahead(self.scanned, held, more)
    }
}
