//! No framing: the bytes of each read are delivered as they are.

use super::{BuiltinCodec, Codec, Out, ScanState, Step};
use crate::error::FrameError;

/// Codec of [`Framing::raw`](super::Framing::raw).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Raw {
    /// Maximum number of bytes that are delivered at once; at least 1.
    pub(crate) frame_len_max: usize,
}

impl BuiltinCodec for Raw {}

impl Codec for Raw {
    type State = ScanState;

    fn decode(&self, _: &mut ScanState, bytes: &[u8]) -> Result<Step, FrameError> {
        let len = bytes.len().min(self.frame_len_max);
        Ok(Step::Frame {
            frame: 0..len,
            consumed: len,
        })
    }

    fn encode(&self, payload: &[u8], out: &mut Out<'_>) -> Result<(), FrameError> {
        out.put(payload);
        Ok(())
    }

    fn encode_in_place(&self, _: &mut Out<'_>) -> Result<(), FrameError> {
        Ok(())
    }
}
