//! Fixed-length frames: all frames have the same number of bytes.

use super::{BuiltinCodec, Codec, Out, ScanState, Step};
use crate::error::FrameError;

/// Codec of [`Framing::fixed`](super::Framing::fixed).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fixed {
    /// Length of every frame in bytes; at least 1.
    pub(crate) frame_len: usize,
}

impl BuiltinCodec for Fixed {}

impl Codec for Fixed {
    type State = ScanState;

    fn decode(&self, _: &mut ScanState, bytes: &[u8]) -> Result<Step, FrameError> {
        if bytes.len() < self.frame_len {
            return Ok(Step::Need(self.frame_len));
        }
        Ok(Step::Frame {
            frame: 0..self.frame_len,
            consumed: self.frame_len,
        })
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

impl Fixed {
    fn check(&self, payload: &[u8]) -> Result<(), FrameError> {
        match payload.len() == self.frame_len {
            true => Ok(()),
            false => Err(FrameError::Unencodable(
                "the payload length differs from the fixed frame length",
            )),
        }
    }
}
