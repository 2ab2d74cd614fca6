//! What a read side delivers to, and how a round of decoding ends.

use crate::codec::{Kind, Skipped};
use crate::error::FrameError;
use crate::memory::Pool;
use crate::timer::Stamp;

/// Takes the frames, tells the time and lends the pool.
pub(crate) trait Sink {
    /// The framing that the bytes are decoded by.
    fn kind(&self) -> &Kind;
    fn frame(&mut self, frame: &[u8]) -> Flow;
    /// A frame was too long. What of it is not here yet will be dropped.
    fn skipped(&mut self, skipped: Skipped) -> Flow;
    /// A frame is cut: only this much of it has come. Told once a frame, for the statistics.
    fn split(&mut self, head: &[u8]) {
        let _ = head;
    }
    /// What is left is kept in a buffer that is far larger than it, as the next bytes will most
    /// likely need it: see [`Assembler::trim`](super::Assembler::trim).
    fn buffer_is_oversized(&mut self);
    fn now(&self) -> Stamp;
    fn pool(&mut self) -> &mut Pool;
}

/// Whether decoding goes on after a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    Continue,
    Stop,
}

/// How a round of decoding ended.
#[derive(Debug)]
pub(crate) enum Delivery {
    /// All bytes were looked at; what is left is the head of a frame.
    NeedMore,
    /// The sink stopped it; undelivered bytes may be left.
    Stopped,
    /// The bytes are no frame. In a box, so that an answer fits into registers.
    Failed(Box<Failed>),
}

#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) error: FrameError,
    /// How many bytes, from the offending frame on, were not delivered.
    pub(crate) undecoded: usize,
}

impl Delivery {
    #[cold]
    pub(super) fn failed(error: FrameError, undecoded: usize) -> Self {
        Self::Failed(Box::new(Failed { error, undecoded }))
    }
}

/// How a round ends behind the last of its bytes.
impl From<Flow> for Delivery {
    #[inline(always)]
    fn from(flow: Flow) -> Self {
        match flow {
            Flow::Continue => Self::NeedMore,
            Flow::Stop => Self::Stopped,
        }
    }
}
