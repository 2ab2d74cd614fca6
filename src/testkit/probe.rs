//! A codec, asked directly and held to its contract.

use crate::codec::{AnyState, Framing, Step};

/// What a stream came to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Outcome {
    pub(super) frames: Vec<Vec<u8>>,
    /// How many bytes were taken: the rest is no whole frame, or an error.
    pub(super) taken: u64,
    pub(super) is_error: bool,
    pub(super) frames_skipped: u64,
}

/// One step of a codec through a stream that is there as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stride {
    /// Where the frame begins.
    pub(super) start: usize,
    /// With how many of its bytes the codec knows what it is: an answer but `Need`.
    pub(super) enough: usize,
}

/// Up to here every length is tried for the one that is enough; beyond, it is searched for.
const TRIED_LEN_MAX: usize = 300;
/// What a codec may look at again of a long frame: its header, and where it stopped searching.
const HEAD_LEN: usize = 64;
const FRONT_LEN: usize = 64;
/// The longest delimiter that a codec is lured with.
const LURE_LEN_MAX: usize = 8;

/// Decodes a stream in pieces. `Err` tells how the contract was broken.
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
            match step(framing, &mut state, &held, has_ended)? {
                Some(Step::Frame { frame, consumed }) => {
                    outcome.frames.push(held[frame].to_vec());
                    outcome.taken += consumed as u64;
                    held.drain(..consumed);
                }
                Some(Step::Skip { bytes }) => skip = bytes,
                Some(Step::SkipPart { bytes }) => skip = bytes as u64,
                Some(Step::SkipFrame { bytes, .. }) => {
                    outcome.frames_skipped += 1;
                    skip = bytes;
                }
                Some(Step::Need(more)) => {
                    let stride = strides.peek();
                    if let Some(stride) = stride.filter(|one| one.start as u64 == outcome.taken)
                        && more > stride.enough
                        && !has_ended
                    {
                        return Err(format!(
                            "it needs {more} bytes, where {} are enough",
                            stride.enough
                        ));
                    }
                    need = more;
                    break;
                }
                None => {
                    outcome.is_error = true;
                    return Ok(outcome);
                }
            }
        }
    }
    Ok(outcome)
}

/// One look. `None` is an error of the stream, `Err` one of the codec.
fn step(
    framing: &Framing,
    state: &mut AnyState,
    bytes: &[u8],
    has_ended: bool,
) -> Result<Option<Step>, String> {
    let len = bytes.len();
    let Ok(step) = state.step(framing.kind(), bytes, has_ended) else {
        return Ok(None);
    };
    let is_sound = match &step {
        Step::Frame { frame, consumed } => {
            (1..=len).contains(consumed) && frame.start <= frame.end && frame.end <= *consumed
        }
        Step::Skip { bytes } | Step::SkipFrame { bytes, .. } => *bytes > 0,
        Step::SkipPart { bytes } => (1..len).contains(bytes),
        Step::Need(need) => *need > len,
    };
    if is_sound {
        Ok(Some(step))
    } else {
        Err(format!("it answers {step:?} to {len} bytes"))
    }
}

/// Where the frames of a stream begin and with how many of its bytes each is known.
pub(super) fn strides(framing: &Framing, stream: &[u8]) -> Result<Vec<Stride>, String> {
    let mut strides = Vec::new();
    let mut start = 0;
    while let Some(rest) = stream.get(start..).filter(|rest| !rest.is_empty()) {
        let Some(enough) = enough_of(framing, rest)? else {
            break;
        };
        strides.push(Stride { start, enough });
        match first_look(framing, &rest[..enough])? {
            Some(Step::Frame { consumed, .. }) => start += consumed,
            Some(Step::Skip { bytes } | Step::SkipFrame { bytes, .. }) => {
                start =
                    usize::try_from(bytes).map_or(usize::MAX, |skip| start.saturating_add(skip));
            }
            // What follows a part of a frame is known by the codec's state alone.
            Some(Step::Need(_) | Step::SkipPart { .. }) | None => break,
        }
    }
    Ok(strides)
}

/// Looks at the first bytes of a stream.
fn first_look(framing: &Framing, bytes: &[u8]) -> Result<Option<Step>, String> {
    step(framing, &mut AnyState::default(), bytes, false)
}

fn is_enough(framing: &Framing, bytes: &[u8]) -> Result<bool, String> {
    Ok(!matches!(first_look(framing, bytes)?, Some(Step::Need(_))))
}

fn enough_of(framing: &Framing, rest: &[u8]) -> Result<Option<usize>, String> {
    if !is_enough(framing, rest)? {
        return Ok(None);
    }
    for len in 1..=rest.len().min(TRIED_LEN_MAX) {
        if is_enough(framing, &rest[..len])? {
            return Ok(Some(len));
        }
    }
    let (mut few, mut enough) = (TRIED_LEN_MAX, rest.len());
    while enough - few > 1 {
        let middle = few + (enough - few) / 2;
        if is_enough(framing, &rest[..middle])? {
            enough = middle;
        } else {
            few = middle;
        }
    }
    Ok(Some(enough))
}

/// Whether the codec looks again at bytes that it has searched for the end of a long frame: they
/// are exchanged for what ends the frame, and it must not notice.
pub(super) fn searches_again(
    framing: &Framing,
    stream: &[u8],
    strides: &[Stride],
) -> Result<bool, String> {
    for Stride { start, enough } in strides {
        let frame = &stream[*start..start + enough];
        let seen = enough - 1;
        if seen < HEAD_LEN + FRONT_LEN + LURE_LEN_MAX {
            continue;
        }
        for lure_len in 1..=LURE_LEN_MAX {
            let mut state = AnyState::default();
            let first = step(framing, &mut state, &frame[..seen], false)?;
            if first != Some(Step::Need(seen + 1)) {
                // It knows where the frame ends, and searches for nothing.
                break;
            }
            let lure = frame[enough - lure_len..].iter().cycle();
            let mut lured = frame.to_vec();
            let searched = &mut lured[HEAD_LEN..seen - FRONT_LEN];
            searched
                .iter_mut()
                .zip(lure)
                .for_each(|(byte, lure)| *byte = *lure);
            // What is looked at once more when the frame is whole, a checksum for one, may differ.
            if let Some(Step::Frame { consumed, .. }) = step(framing, &mut state, &lured, false)?
                && let Some(Step::Frame { consumed: all, .. }) = first_look(framing, frame)?
                && consumed < all
            {
                return Ok(true);
            }
        }
    }
    Ok(false)
}
