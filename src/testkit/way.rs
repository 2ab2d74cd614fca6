//! The ways of passing a stream to a codec: directly, or as the input of a connection.

use std::cell::Cell;
use std::ops::ControlFlow;

use super::probe::{self, Outcome, Stride};
use super::read_side::ReadSide;
use crate::codec::{Framing, Kind};

/// Maximum number of times that received bytes may be copied with a built-in framing.
const MOVED_MAX: u64 = 2;
/// Maximum number of times that received bytes may be copied with a custom codec. Such a codec may
/// wait for a whole frame, and then skip only its first bytes. The bytes after them are copied to
/// complete that frame, and again as the start of the next frame. They are moved once more if the
/// buffer grows.
const MOVED_MAX_CUSTOM: u64 = 3;
/// Maximum capacity of a buffer, as a multiple of the bytes held.
const HELD_FACTOR: usize = 16;
/// Minimum number of held bytes for the check of the capacity; fewer bytes count as this many.
const HELD_MIN: usize = 1024;
/// Maximum capacity of a buffer that is kept after an earlier frame, in bytes.
const KEPT_LEN: usize = 64 * 1024;

/// Number of received bytes up to which the framing is replaced after each read. Later bytes are
/// not tested in this way, because each replacement repeats the search for the end of the frame.
const REFRAMED_LEN_MAX: usize = 1024;

/// Way of passing a stream to a codec.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// The codec, called directly.
    Alone,
    /// A connection that is not paused.
    Through,
    /// A connection whose buffer is shrunk after each read.
    Shrunk,
    /// A connection that is paused after each frame.
    Paused,
    /// A connection whose framing is replaced by an equal framing after each frame, and after each
    /// read of the first 1,024 bytes.
    Reframed,
}

impl Way {
    pub(super) const ALL: [Self; 5] = [
        Self::Alone,
        Self::Through,
        Self::Shrunk,
        Self::Paused,
        Self::Reframed,
    ];

    pub(super) fn describe(self) -> &'static str {
        match self {
            Self::Alone => "with the codec alone",
            Self::Through => "through a connection",
            Self::Shrunk => "through a connection whose buffer is shrunk after each read",
            Self::Paused => "through a connection that is paused after each frame",
            Self::Reframed => "through a connection that is reframed after each frame and read",
        }
    }

    /// Decodes a stream in pieces. `strides` are the frames of the uncut stream.
    ///
    /// # Errors
    ///
    /// A description of the rule that was broken: a rule of the contract, or of the use of memory.
    pub(super) fn decode(
        self,
        framing: &Framing,
        pieces: &[&[u8]],
        strides: &[Stride],
    ) -> Result<Outcome, String> {
        match self {
            Self::Alone => probe::decode(framing, pieces, strides),
            _ => self.decode_on_connection(framing, pieces),
        }
    }

    fn decode_on_connection(self, framing: &Framing, pieces: &[&[u8]]) -> Result<Outcome, String> {
        let mut side = ReadSide::new(framing.clone());
        let mut outcome = Outcome::default();
        let is_stopped = Cell::new(false);
        let mut take = |frame: &[u8]| {
            outcome.frames.push(frame.to_vec());
            if matches!(self, Self::Paused | Self::Reframed) {
                is_stopped.set(true);
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        };
        let mut received = 0;
        let mut pieces = pieces.iter().filter(|piece| !piece.is_empty());
        let mut unread: &[u8] = &[];
        let mut has_ended = false;
        let result = loop {
            if is_stopped.take() && self == Self::Reframed {
                side.reframe(framing.clone());
            }
            if unread.is_empty() && !side.has_undelivered() {
                match pieces.next() {
                    Some(piece) => {
                        unread = piece;
                        received += piece.len();
                    }
                    None if has_ended => break Ok(()),
                    None => {}
                }
            }
            let step = if side.has_undelivered() {
                side.resume(&mut take)
            } else if unread.is_empty() {
                side.end(&mut take).map(|ended| has_ended = ended)
            } else {
                let read = side.read(unread, &mut take);
                is_stopped.set(is_stopped.get() || received <= REFRAMED_LEN_MAX);
                read.map(|taken| unread = &unread[taken..])
            };
            if step.is_err() {
                break step;
            }
            self.check_capacity(&mut side, received)?;
        };
        outcome.is_error = result.is_err();
        outcome.taken = side.offset();
        outcome.frames_skipped = side.frames_skipped();
        self.check_moved(&side, framing, received)?;
        Ok(outcome)
    }

    /// Checks the capacity of the buffer after a step of [`Way::Through`] or [`Way::Shrunk`]. For
    /// [`Way::Shrunk`], shrinks the buffer first.
    fn check_capacity(self, side: &mut ReadSide, received: usize) -> Result<(), String> {
        let kept = match self {
            Self::Through => KEPT_LEN.min(HELD_FACTOR * received),
            Self::Shrunk => {
                side.shrink_to_fit();
                0
            }
            _ => return Ok(()),
        };
        let (capacity, held) = (side.capacity(), side.held_bytes());
        if capacity > kept.max(HELD_FACTOR * held.max(HELD_MIN)) {
            return Err(format!(
                "a buffer of {capacity} bytes is kept for only {held} bytes"
            ));
        }
        Ok(())
    }

    /// Checks the number of times that received bytes were copied.
    fn check_moved(
        self,
        side: &ReadSide,
        framing: &Framing,
        received: usize,
    ) -> Result<(), String> {
        let moved = side.moved_bytes();
        let moved_max = match framing.kind() {
            Kind::Custom(_) => MOVED_MAX_CUSTOM,
            _ => MOVED_MAX,
        };
        // Replacing the framing within a frame may copy the bytes of the frame once more.
        let moved_max = moved_max + u64::from(self == Self::Reframed);
        // Shrinking the buffer after each read copies its bytes each time, so there is no limit.
        if self != Self::Shrunk && moved > moved_max * received as u64 {
            return Err(format!(
                "{moved} bytes are copied for {received} received bytes"
            ));
        }
        Ok(())
    }
}
