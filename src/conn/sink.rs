//! The receiver of a connection's frames, and the results of a decode call.

use std::ops::ControlFlow;

use super::Pool;
use crate::codec::{FrameBounds, Kind, Skipped};
use crate::error::FrameError;
use crate::timer::Stamp;

/// Receiver of frames. It also provides the framing, the time and the pool.
pub(crate) trait FrameSink {
    /// Returns the codec that decodes the bytes.
    fn kind(&self) -> &Kind;
    /// Handles a frame.
    fn frame(&mut self, frame: &[u8]) -> Flow;
    /// Records the bounds of the next frame. Called only if the connection is recorded.
    fn recorded(&mut self, bounds: FrameBounds) {
        let _ = bounds;
    }
    /// Handles a frame that is too long. The bytes of this frame are dropped.
    fn skipped(&mut self, skipped: Skipped) -> Flow;
    /// Counts `bytes` that the codec skips between frames.
    fn filler(&mut self, bytes: u64) {
        let _ = bytes;
    }
    /// Counts a cut frame. `partial` contains the bytes of the frame that have arrived and are not
    /// skipped. Called once per frame.
    fn split(&mut self, partial: &[u8]) {
        let _ = partial;
    }
    /// Records that a partial frame has an oversized buffer, for a later
    /// [`Assembler::trim`](super::Assembler::trim). The frame keeps the buffer until then, because
    /// the next bytes will probably need it.
    fn buffer_is_oversized(&mut self);
    /// Returns the current time.
    fn now(&self) -> Stamp;
    /// Returns the pool of the buffers.
    fn pool(&mut self) -> &mut Pool;
}

/// Reply of a sink to a frame: continue decoding, or stop after the frame.
pub(crate) type Flow = ControlFlow<()>;

/// Result of a decode call.
#[derive(Debug)]
pub(crate) enum Delivery {
    /// All bytes are decoded, except those of a partial frame.
    NeedMore,
    /// The sink stopped the delivery. Undelivered bytes may remain in the buffer.
    Stopped,
    /// The bytes are invalid. The error is boxed, so that the result fits into registers.
    Failed(Box<Failed>),
}

/// Failure of a decode call.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) error: FrameError,
    /// Number of undelivered bytes, including the invalid frame.
    pub(crate) undecoded: usize,
}

impl Delivery {
    pub(super) fn failed(error: FrameError, undecoded: usize) -> Self {
        Self::Failed(Box::new(Failed { error, undecoded }))
    }
}

/// Converts the flow after a decode call that has decoded all its bytes: `NeedMore` if decoding may
/// continue, `Stopped` if not.
impl From<Flow> for Delivery {
    fn from(flow: Flow) -> Self {
        match flow {
            Flow::Continue(()) => Self::NeedMore,
            Flow::Break(()) => Self::Stopped,
        }
    }
}
