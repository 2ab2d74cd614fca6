//! One decode step of a codec, and the check that the codec keeps the contract of
//! [`Codec`](super::Codec).
//!
//! A raw [`Step`] stays inside [`codec`](super). All decode loops take [`CheckedStep`]s, which only
//! [`check`] creates.

use std::fmt;
use std::ops::Range;

use crate::error::FrameError;

/// Result of one call of [`Codec::decode`](super::Codec::decode).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// A whole frame.
    Frame {
        /// Range of the payload; within `0..consumed`.
        frame: Range<usize>,
        /// Number of bytes that the frame takes, with header and delimiter; at least 1.
        consumed: usize,
    },
    /// Bytes to drop that do not belong to a frame. The reactor counts them in
    /// [`Stats::filler_bytes`](crate::Stats), and a deframer in
    /// [`Deframer::filler_bytes`](crate::Deframer). In a datagram, these bytes are reported as
    /// [`DatagramFault::Skipped`](crate::DatagramFault::Skipped).
    ///
    /// The guide has a codec for
    /// [finding the next frame again](crate::guide::protocols#finding-the-next-frame-again).
    Skip {
        /// Number of bytes to drop; at least 1. The number may exceed `bytes.len()`. The bytes that
        /// have not arrived are then dropped when they arrive.
        bytes: u64,
    },
    /// A frame to drop because it is too long. The handler is notified. If the codec searches for
    /// the end of a frame, earlier `SkipPart` steps may have dropped the beginning of this frame.
    SkipFrame {
        /// Number of bytes to drop, including header and delimiter; at least 1. The number may
        /// exceed `bytes.len()`. The bytes that have not arrived are then dropped when they arrive.
        bytes: u64,
        /// Length of the payload, in bytes.
        len: u64,
        /// Maximum length of a payload, in bytes.
        limit: u64,
    },
    /// The beginning of a frame to drop: the frame is too long already, and its end has not
    /// arrived. Further `SkipPart` steps may follow, and `SkipFrame` drops the last part. If the
    /// program replaces the framing before that `SkipFrame`, this codec still decodes up to the end
    /// of the frame.
    SkipPart {
        /// Number of bytes to drop; at least 1 and less than `bytes.len()`. At least one byte must
        /// remain, because the remaining bytes show that a frame is incomplete.
        bytes: usize,
    },
    /// No whole frame yet: decode again when at least this many bytes of the frame have arrived.
    /// The number exceeds `bytes.len()`.
    ///
    /// If the codec knows the length of the whole frame, it should return this length: a long frame
    /// is then read directly into its own buffer.
    Need(usize),
}

/// Notice of a frame that was skipped because it is too long: see
/// [`Framing::skip_too_long`](crate::Framing::skip_too_long).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Skipped {
    /// Length of the payload, in bytes.
    pub len: u64,
    /// Maximum length of a payload, in bytes.
    pub limit: u64,
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { len, limit } = self;
        write!(
            f,
            "a frame of {len} bytes, over the limit of {limit}, was skipped"
        )
    }
}

/// One decode step that keeps the contract. Only [`check`] creates it.
#[derive(Debug)]
pub(crate) enum CheckedStep<'a> {
    /// A whole frame at the start of the bytes.
    ///
    /// ```text
    ///   | header |  payload  | trailer |  after
    ///   0     range.start  range.end  consumed
    /// ```
    Frame {
        payload: &'a [u8],
        /// Position of `payload` in the decoded bytes: `range.start <= range.end <= consumed`.
        range: Range<usize>,
        /// `1 <= consumed <= bytes.len()`.
        consumed: usize,
        /// The bytes after the frame: `bytes[consumed..]`.
        after: &'a [u8],
    },
    /// No whole frame yet. The value is the number of bytes needed for the next step. It exceeds
    /// `bytes.len()`.
    Need(usize),
    /// Bytes to drop.
    Skip(Skip),
    /// The codec failed. The error is boxed, so that a step stays in registers.
    Failed(Box<StepError>),
}

/// Bytes that are dropped and not delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Skip {
    /// Number of bytes, `>= 1`. It may exceed `bytes.len()`, except for [`SkipKind::Part`].
    pub(crate) bytes: u64,
    pub(crate) kind: SkipKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SkipKind {
    /// Bytes between frames.
    Filler,
    /// A frame that is too long, up to its end.
    Frame(Skipped),
    /// The beginning of a frame that is too long. At least one more byte of this frame is in the
    /// buffer.
    Part,
}

/// Failure of a decode step. It is final for the stream.
#[derive(Debug)]
pub(crate) enum StepError {
    /// The codec rejected the bytes.
    Stream(FrameError),
    /// The codec broke its contract.
    Contract { step: Step, breach: &'static str },
}

impl From<Box<StepError>> for FrameError {
    fn from(error: Box<StepError>) -> Self {
        match *error {
            StepError::Stream(error) => error,
            StepError::Contract { breach, .. } => Self::Contract(breach),
        }
    }
}

/// Checks the step that a codec returned for `bytes`. This is the whole check of the contract,
/// except for one rule that `ErasedState` checks: no `Frame` follows a `SkipPart`.
// Inlined, so that the step of a built-in codec stays in registers in the loop over glued frames.
// The rare steps are checked out of line, because inlining them would add a jump table to that
// loop.
#[inline(always)]
pub(super) fn check(bytes: &[u8], step: Result<Step, FrameError>) -> CheckedStep<'_> {
    match step {
        Ok(Step::Frame { frame, consumed }) => {
            let Range { start, end } = frame;
            if 0 < consumed
                && end <= consumed
                && let Some(payload) = bytes.get(start..end)
                && let Some(after) = bytes.get(consumed..)
            {
                return CheckedStep::Frame {
                    payload,
                    range: start..end,
                    consumed,
                    after,
                };
            }
            let frame = start..end;
            CheckedStep::Failed(broken(Step::Frame { frame, consumed }))
        }
        Ok(Step::Need(need)) if need > bytes.len() => CheckedStep::Need(need),
        Ok(step) => match check_skip(step, bytes.len()) {
            Ok(skip) => CheckedStep::Skip(skip),
            Err(error) => CheckedStep::Failed(error),
        },
        Err(error) => CheckedStep::Failed(rejected(error)),
    }
}

/// Checks a skip step that a codec returned for `bytes_len` bytes. This is the part of [`check`]
/// for steps that are neither a frame nor a valid `Need`.
#[inline(never)]
fn check_skip(step: Step, bytes_len: usize) -> Result<Skip, Box<StepError>> {
    let (bytes, kind) = match step {
        Step::Skip { bytes } if bytes >= 1 => (bytes, SkipKind::Filler),
        Step::SkipFrame { bytes, len, limit } if bytes >= 1 => {
            (bytes, SkipKind::Frame(Skipped { len, limit }))
        }
        Step::SkipPart { bytes } if 1 <= bytes && bytes < bytes_len => {
            (bytes as u64, SkipKind::Part)
        }
        step => return Err(broken(step)),
    };
    Ok(Skip { bytes, kind })
}

/// Returns the error of a step that breaks the contract.
#[inline(never)]
fn broken(step: Step) -> Box<StepError> {
    let breach = match &step {
        Step::Frame { frame, .. } if frame.start > frame.end => {
            "the range of the frame ends before it starts"
        }
        Step::Frame { consumed: 0, .. } => "`consumed` of the frame is zero",
        Step::Frame { frame, consumed } if frame.end > *consumed => {
            "the range of the frame exceeds `consumed`"
        }
        Step::Frame { .. } => "`consumed` of the frame exceeds the bytes passed to the codec",
        Step::Need(_) => "`Need` does not exceed the number of bytes passed to the codec",
        Step::Skip { .. } | Step::SkipFrame { .. } => "`Skip` or `SkipFrame` of zero bytes",
        Step::SkipPart { .. } => "`SkipPart` of zero bytes, or of all bytes passed to the codec",
    };
    Box::new(StepError::Contract { step, breach })
}

#[inline(never)]
fn rejected(error: FrameError) -> Box<StepError> {
    Box::new(StepError::Stream(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_sound(step: Step) -> bool {
        !matches!(check(b"abc", Ok(step)), CheckedStep::Failed(_))
    }

    #[test]
    fn a_frame_lies_within_the_bytes_that_it_consumes() {
        let is_sound = |frame: Range<usize>, consumed| is_sound(Step::Frame { frame, consumed });
        for (start, end, consumed) in [(0, 0, 1), (0, 3, 3), (1, 2, 3), (2, 2, 2)] {
            assert!(is_sound(start..end, consumed), "{start}..{end}, {consumed}");
        }
        let max = usize::MAX;
        for (start, end, consumed) in [
            (0, 0, 0),
            (0, 1, 4),
            (0, 2, 1),
            (2, 1, 3),
            (0, max, max),
            (max, 1, 1),
        ] {
            assert!(
                !is_sound(start..end, consumed),
                "{start}..{end}, {consumed}"
            );
        }
    }

    #[test]
    fn need_exceeds_the_bytes_passed_and_a_skip_drops_some() {
        let frame = |bytes| {
            let (len, limit) = (9, 8);
            Step::SkipFrame { bytes, len, limit }
        };
        for step in [
            Step::Need(4),
            Step::Skip { bytes: u64::MAX },
            frame(1),
            Step::SkipPart { bytes: 2 },
        ] {
            assert!(is_sound(step.clone()), "{step:?}");
        }
        for step in [
            Step::Need(3),
            Step::Need(0),
            Step::Skip { bytes: 0 },
            frame(0),
            Step::SkipPart { bytes: 0 },
            Step::SkipPart { bytes: 3 },
        ] {
            assert!(!is_sound(step.clone()), "{step:?}");
        }
    }
}
