//! The decode loop: the frames of contiguous bytes, delivered one after the other.
//!
//! ```text
//!   | frame | frame | skipped | frame | partial frame |
//!   `---------------+-----------------'
//!                   |                 `-- End::Need: left to the caller
//!                   v
//!     FrameSink::frame, FrameSink::skipped
//! ```
//!
//! The [`Assembler`](super::Assembler) passes the bytes to the loop, and stores those that the loop
//! leaves undecoded.

use std::ops::ControlFlow;

use super::sink::{Flow, FrameSink};
use crate::codec::{CheckedStep, Decoder, Skip, SkipKind};
use crate::error::FrameError;

/// Reason for ending the loop before all bytes are decoded.
pub(super) enum End {
    /// The undecoded bytes are a partial frame of at least this many bytes.
    Need(usize),
    /// All bytes are decoded. The next `beyond >= 1` bytes of the stream must be skipped. `flow` is
    /// the reply of the sink to the skip.
    Skip { beyond: u64, flow: Flow },
    /// The sink stopped the delivery.
    Stopped,
    /// The undecoded bytes are invalid.
    Failed(FrameError),
}

/// Delivers or skips all frames of `undecoded`, and removes their bytes from `undecoded`. Returns
/// `Continue` if `undecoded` is then empty and the sink accepts another frame.
// This function and `deliver_next` are inlined, so that the loop over glued frames is one loop per
// codec, without calls.
#[inline(always)]
pub(super) fn deliver_all<S: FrameSink, D: Decoder>(
    undecoded: &mut &[u8],
    sink: &mut S,
    decoder: &mut D,
) -> ControlFlow<End> {
    while D::ACCEPTS_EMPTY || !undecoded.is_empty() {
        match deliver_next(undecoded, sink, decoder) {
            ControlFlow::Continue(()) => {}
            ControlFlow::Break(End::Need(_)) if undecoded.is_empty() => break,
            end => return end,
        }
    }
    ControlFlow::Continue(())
}

/// Handles the start of `undecoded`: delivers or skips a frame, or skips the filler before a frame.
/// Removes the handled bytes from `undecoded`. Returns `Continue` if the sink accepts another
/// frame.
#[inline(always)]
pub(super) fn deliver_next<S: FrameSink, D: Decoder>(
    undecoded: &mut &[u8],
    sink: &mut S,
    decoder: &mut D,
) -> ControlFlow<End> {
    loop {
        match decoder.step(undecoded) {
            CheckedStep::Frame { payload, after, .. } => {
                *undecoded = after;
                if let Some(bounds) = decoder.recorded() {
                    sink.recorded(bounds);
                }
                return sink.frame(payload).map_break(|()| End::Stopped);
            }
            CheckedStep::Need(need) => return ControlFlow::Break(End::Need(need)),
            CheckedStep::Skip(skip) => {
                let (here, end) = start_skip(skip, undecoded.len(), sink);
                *undecoded = &undecoded[here..];
                // The bytes after a skipped part of a frame belong to the same frame, so the loop
                // continues.
                if skip.kind != SkipKind::Part {
                    return end;
                }
            }
            CheckedStep::Failed(error) => return ControlFlow::Break(End::Failed(error.into())),
        }
    }
}

/// Starts a skip. Returns the number of skipped bytes among the `len` available bytes, and `Break`
/// if the loop ends.
#[cold]
fn start_skip<S: FrameSink>(skip: Skip, len: usize, sink: &mut S) -> (usize, ControlFlow<End>) {
    let flow = notify(&skip, sink);
    let (here, beyond) = split_skip(skip.bytes, len);
    match beyond {
        0 => (here, flow.map_break(|()| End::Stopped)),
        beyond => (here, ControlFlow::Break(End::Skip { beyond, flow })),
    }
}

/// Notifies the sink of a skip. Returns `Break` if the delivery must stop.
pub(super) fn notify<S: FrameSink>(skip: &Skip, sink: &mut S) -> Flow {
    match skip.kind {
        SkipKind::Frame(skipped) => return sink.skipped(skipped),
        SkipKind::Filler => sink.filler(skip.bytes),
        SkipKind::Part => {}
    }
    Flow::Continue(())
}

/// Splits a skip of `skip` bytes. Returns the number of skipped bytes among the `len` available
/// bytes, and the number of bytes to skip after them.
pub(super) fn split_skip(skip: u64, len: usize) -> (usize, u64) {
    let here = usize::try_from(skip).map_or(len, |skip| skip.min(len));
    (here, skip - here as u64)
}
