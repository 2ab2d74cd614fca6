//! Decoding over bytes in one place: frames are cut off their front and delivered there.
//!
//! What a codec answers is held to its contract here. Where the bytes come from, and what becomes
//! of those that are left, is the business of [`deframe`](super::deframe).

use std::ops::Range;

use super::sink::{Flow, Sink};
use crate::codec::{Decoder, Skipped, Step};
use crate::error::FrameError;

/// What ended a run over contiguous bytes before all of them were consumed.
pub(super) enum End {
    /// The rest is the head of a frame that needs that many bytes.
    Need(usize),
    /// Everything is consumed, and `beyond` bytes yet to come are to be skipped. Of one frame
    /// alone: there may be none.
    Skip {
        beyond: u64,
        flow: Flow,
    },
    Stopped,
    Failed(FrameError),
}

/// Delivers the frames of `rest`, one after the other, and takes them off its front. `None` when
/// nothing is left.
#[inline(always)]
pub(super) fn run<S, D>(rest: &mut &[u8], sink: &mut S, decode: &mut D) -> Option<End>
where
    S: Sink,
    D: Decoder,
{
    while D::MAY_SEE_NONE || !rest.is_empty() {
        match look(rest, decode) {
            Look::Frame { payload, behind } => {
                *rest = behind;
                if sink.frame(payload) == Flow::Stop {
                    return Some(End::Stopped);
                }
            }
            Look::Need(_) if rest.is_empty() => return None,
            Look::Need(need) => return Some(End::Need(need)),
            Look::Skip(step) => {
                let (here, end) = skip(step, rest.len(), sink);
                *rest = &rest[here..];
                match end {
                    End::Skip {
                        beyond: 0,
                        flow: Flow::Stop,
                    } => return Some(End::Stopped),
                    End::Skip { beyond: 0, .. } => {}
                    end => return Some(end),
                }
            }
            Look::Failed(error) => return Some(End::Failed(error)),
        }
    }
    None
}

/// Delivers or skips the first frame of `rest`, and no more, or drops the beginning of it; and
/// takes that off its front. `None` when the frame is delivered.
pub(super) fn run_once<S, D>(rest: &mut &[u8], sink: &mut S, decode: &mut D) -> Option<End>
where
    S: Sink,
    D: Decoder,
{
    loop {
        match look(rest, decode) {
            Look::Frame { payload, behind } => {
                *rest = behind;
                return match sink.frame(payload) {
                    Flow::Continue => None,
                    Flow::Stop => Some(End::Stopped),
                };
            }
            Look::Need(need) => return Some(End::Need(need)),
            Look::Skip(Step::SkipPart { bytes }) => *rest = &rest[bytes..],
            Look::Skip(step) => {
                let (here, end) = skip(step, rest.len(), sink);
                *rest = &rest[here..];
                return Some(end);
            }
            Look::Failed(error) => return Some(End::Failed(error)),
        }
    }
}

/// Of `skip` bytes, how many are among the `len` that are here, and how many come behind them.
pub(super) fn split_skip(skip: u64, len: usize) -> (usize, u64) {
    let here = usize::try_from(skip).map_or(len, |skip| skip.min(len));
    (here, skip - here as u64)
}

/// How many of the `len` bytes that are here are skipped, and what is to be skipped beyond them.
#[cold]
fn skip<S: Sink>(step: Step, len: usize, sink: &mut S) -> (usize, End) {
    let (bytes, flow) = match step {
        Step::SkipFrame { bytes, len, limit } => (bytes, sink.skipped(Skipped { len, limit })),
        Step::Skip { bytes } => (bytes, Flow::Continue),
        Step::SkipPart { bytes } => (bytes as u64, Flow::Continue),
        Step::Frame { .. } | Step::Need(_) => unreachable!("these two skip nothing"),
    };
    let (here, beyond) = split_skip(bytes, len);
    (here, End::Skip { beyond, flow })
}

/// What a codec answered, held to its contract.
enum Look<'a> {
    Frame { payload: &'a [u8], behind: &'a [u8] },
    Skip(Step),
    Need(usize),
    Failed(FrameError),
}

/// Asks the codec, once.
#[inline(always)]
fn look<'a, D>(bytes: &'a [u8], decode: &mut D) -> Look<'a>
where
    D: Decoder,
{
    match decode.decode(bytes) {
        Ok(Step::Frame { frame, consumed }) => {
            let Range { start, end } = frame;
            match split_frame(bytes, start, end, consumed) {
                Some((payload, behind)) => Look::Frame { payload, behind },
                None => Look::Failed(broken(start, end, consumed, bytes.len())),
            }
        }
        Ok(Step::Need(need)) if need > bytes.len() => Look::Need(need),
        Ok(step) => match step.check(bytes.len()) {
            Ok(step) => Look::Skip(step),
            Err(error) => Look::Failed(error),
        },
        Err(error) => Look::Failed(error),
    }
}

/// The payload of the first frame, and what stands behind that frame.
#[inline(always)]
fn split_frame(bytes: &[u8], start: usize, end: usize, consumed: usize) -> Option<(&[u8], &[u8])> {
    if consumed == 0 || end > consumed {
        return None;
    }
    let payload = bytes.get(start..end)?;
    Some((payload, bytes.get(consumed..)?))
}

/// What is wrong with a frame that breaks the contract.
#[cold]
#[inline(never)]
fn broken(start: usize, end: usize, consumed: usize, shown: usize) -> FrameError {
    let frame = start..end;
    let checked = Step::Frame { frame, consumed }.check(shown);
    checked.expect_err("a frame that cannot be cut out breaks the contract")
}
