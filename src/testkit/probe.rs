//! Direct calls of a codec, and checks of its contract.

use crate::codec::{AnyState, CheckedStep, Framing, Skip, SkipKind, StepError};

/// Result of decoding a stream.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Outcome {
    pub(super) frames: Vec<Vec<u8>>,
    /// Number of bytes consumed. The remaining bytes are a partial frame, or invalid.
    pub(super) taken: u64,
    pub(super) is_error: bool,
    pub(super) frames_skipped: u64,
}

/// A frame or a skipped part of a stream, found by decoding the uncut stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stride {
    /// Offset of its first byte in the stream.
    pub(super) start: usize,
    /// Minimum number of bytes for which the codec returns a step other than `Need`.
    pub(super) enough: usize,
}

/// Maximum length that is tried one by one to find `Stride::enough`. A larger length is found by
/// bisection.
const TRIED_LEN_MAX: usize = 300;
/// Number of bytes at the start of a long frame that a codec may read again: the header.
const FIRST_LEN: usize = 64;
/// Number of bytes at the end of a long frame that a codec may read again, because its search
/// stopped there.
const LAST_LEN: usize = 64;
/// Maximum length of a delimiter that [`searches_again`] tries.
const DELIMITER_LEN_MAX: usize = 8;

/// Decodes a stream in pieces.
///
/// # Errors
///
/// A description of the breach of the contract.
pub(super) fn decode(
    framing: &Framing,
    pieces: &[&[u8]],
    strides: &[Stride],
) -> Result<Outcome, String> {
    let mut outcome = Outcome::default();
    let (mut state, mut held) = (AnyState::default(), Vec::new());
    let (mut need, mut skip) = (1, 0_u64);
    let ends = pieces.iter().map(|_| false).chain([true]);
    let mut strides = strides.iter().peekable();
    for (piece, has_ended) in pieces.iter().chain([&&b""[..]]).zip(ends) {
        held.extend_from_slice(piece);
        if has_ended {
            need = 1;
        }
        loop {
            let here = usize::try_from(skip).map_or(held.len(), |skip| skip.min(held.len()));
            held.drain(..here);
            skip -= here as u64;
            outcome.taken += here as u64;
            if held.is_empty() || held.len() < need {
                break;
            }
            need = 1;
            while strides
                .next_if(|one| (one.start as u64) < outcome.taken)
                .is_some()
            {}
            let consumed = match step(framing, &mut state, &held, has_ended)? {
                Some(CheckedStep::Frame {
                    payload, consumed, ..
                }) => {
                    outcome.frames.push(payload.to_vec());
                    consumed
                }
                Some(CheckedStep::Skip(Skip { bytes, kind })) => {
                    outcome.frames_skipped += u64::from(matches!(kind, SkipKind::Frame(_)));
                    skip = bytes;
                    0
                }
                Some(CheckedStep::Need(more)) => {
                    if let Some(stride) = strides.peek()
                        && stride.start as u64 == outcome.taken
                        && more > stride.enough
                        && !has_ended
                    {
                        let enough = stride.enough;
                        return Err(format!(
                            "the codec returns Need({more}), but {enough} bytes are enough"
                        ));
                    }
                    need = more;
                    break;
                }
                Some(CheckedStep::Failed(_)) | None => {
                    outcome.is_error = true;
                    return Ok(outcome);
                }
            };
            outcome.taken += consumed as u64;
            held.drain(..consumed);
        }
    }
    Ok(outcome)
}

/// Performs one step. Returns `None` if the codec reports an error of the stream.
///
/// # Errors
///
/// A description of the breach of the contract.
fn step<'a>(
    framing: &Framing,
    state: &mut AnyState,
    bytes: &'a [u8],
    has_ended: bool,
) -> Result<Option<CheckedStep<'a>>, String> {
    match state.step(framing.kind(), bytes, has_ended) {
        CheckedStep::Failed(error) => match *error {
            StepError::Stream(_) => Ok(None),
            StepError::Contract { step, .. } => Err(format!(
                "the codec returns {step:?} for {} bytes",
                bytes.len()
            )),
        },
        step => Ok(Some(step)),
    }
}

/// Returns the frames and the skipped parts of an uncut stream.
pub(super) fn strides(framing: &Framing, stream: &[u8]) -> Result<Vec<Stride>, String> {
    let mut strides = Vec::new();
    let mut start = 0;
    while let Some(left) = stream.get(start..).filter(|left| !left.is_empty()) {
        let Some(enough) = enough_of(framing, left)? else {
            break;
        };
        strides.push(Stride { start, enough });
        match first_step(framing, &left[..enough])? {
            Some(CheckedStep::Frame { consumed, .. }) => start += consumed,
            // Without the codec's state, the bytes after a part of a frame cannot be decoded.
            Some(CheckedStep::Skip(skip)) if skip.kind != SkipKind::Part => {
                let len = usize::try_from(skip.bytes);
                start = len.map_or(usize::MAX, |len| start.saturating_add(len));
            }
            _ => break,
        }
    }
    Ok(strides)
}

/// Returns the first decode step for the start of a stream.
fn first_step<'a>(framing: &Framing, bytes: &'a [u8]) -> Result<Option<CheckedStep<'a>>, String> {
    step(framing, &mut AnyState::default(), bytes, false)
}

fn is_enough(framing: &Framing, bytes: &[u8]) -> Result<bool, String> {
    let step = first_step(framing, bytes)?;
    Ok(!matches!(step, Some(CheckedStep::Need(_))))
}

fn enough_of(framing: &Framing, left: &[u8]) -> Result<Option<usize>, String> {
    if !is_enough(framing, left)? {
        return Ok(None);
    }
    for len in 1..=left.len().min(TRIED_LEN_MAX) {
        if is_enough(framing, &left[..len])? {
            return Ok(Some(len));
        }
    }
    let (mut few, mut enough) = (TRIED_LEN_MAX, left.len());
    while enough - few > 1 {
        let middle = few + (enough - few) / 2;
        if is_enough(framing, &left[..middle])? {
            enough = middle;
        } else {
            few = middle;
        }
    }
    Ok(Some(enough))
}

/// Returns true if the codec searches the bytes of a long frame twice for its end. After the first
/// search these bytes are replaced by copies of the frame's last bytes. A codec that now finds an
/// earlier end has searched them again.
pub(super) fn searches_again(
    framing: &Framing,
    stream: &[u8],
    strides: &[Stride],
) -> Result<bool, String> {
    for Stride { start, enough } in strides {
        let frame = &stream[*start..start + enough];
        let seen = enough - 1;
        if seen < FIRST_LEN + LAST_LEN + DELIMITER_LEN_MAX {
            continue;
        }
        for delimiter_len in 1..=DELIMITER_LEN_MAX {
            let mut state = AnyState::default();
            let first = step(framing, &mut state, &frame[..seen], false)?;
            if !matches!(first, Some(CheckedStep::Need(need)) if need == seen + 1) {
                // The codec knows the length of the frame and does not search.
                break;
            }
            let delimiter = frame[enough - delimiter_len..].iter().cycle();
            let mut changed = frame.to_vec();
            let searched = &mut changed[FIRST_LEN..seen - LAST_LEN];
            for (byte, copy) in searched.iter_mut().zip(delimiter) {
                *byte = *copy;
            }
            // Only an earlier end is a failure. A codec may also reject the changed frame, for
            // example because of a checksum.
            let second = step(framing, &mut state, &changed, false)?;
            if let Some(CheckedStep::Frame { consumed, .. }) = second
                && let Some(CheckedStep::Frame { consumed: all, .. }) = first_step(framing, frame)?
                && consumed < all
            {
                return Ok(true);
            }
        }
    }
    Ok(false)
}
