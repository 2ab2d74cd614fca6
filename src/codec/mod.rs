//! Framing: where one message ends and the next begins.
//!
//! A codec looks at bytes and answers with ranges of them; it keeps none, copies none and allocates
//! nothing. It knows nothing of sockets or connections. One file per framing.

#![cfg_attr(
    not(test),
    warn(clippy::arithmetic_side_effects, clippy::indexing_slicing)
)]

use std::fmt;
use std::ops::Range;

use crate::error::FrameError;
use crate::memory::Buf;

mod compose;
mod decoder;
mod delimited;
mod erased;
mod fixed;
mod framing;
mod header_body;
mod length;
mod length_field;
mod line;
mod name;
mod netstring;
mod raw;
mod varint;

pub use framing::Framing;
pub use length_field::LengthField;
pub use name::ParseFramingError;

pub(crate) use compose::put_all;
pub(crate) use decoder::{BuiltinCodec, Decoder, Lookahead};
pub(crate) use erased::{AnyState, ErasedCodec, ErasedState};
pub(crate) use framing::{Kind, with_builtin};
pub(crate) use length::{Length, LengthU32};

/// What a codec saw in the bytes it was shown.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// A whole frame.
    Frame {
        /// Where its payload lies; within `0..consumed`.
        frame: Range<usize>,
        /// How many bytes the frame took with its header and its delimiter; at least 1.
        consumed: usize,
    },
    /// Bytes that are no frame and are dropped; at least 1, and it may be more than are there yet.
    Skip {
        /// How many.
        bytes: u64,
    },
    /// A frame that is too long is dropped, and the handler is told of it. Where its end was looked
    /// for, its beginning may have gone before by `SkipPart`.
    SkipFrame {
        /// How many bytes, with header and delimiter; at least 1, and it may be more than are there
        /// yet.
        bytes: u64,
        /// The length of its payload, in bytes.
        len: u64,
        /// The largest payload allowed.
        limit: u64,
    },
    /// The beginning of a frame that is too long already, and whose end is not here yet, is
    /// dropped.
    SkipPart {
        /// How many bytes; at least 1, and fewer than were shown: what is left says that a frame is
        /// unfinished.
        bytes: usize,
    },
    /// No frame yet: show it again when there are this many bytes or more. More than were shown.
    ///
    /// Where the codec knows how long the frame will be, that length is the best answer: a long
    /// frame is then read straight into a buffer of its own.
    Need(usize),
}

/// A framing of one's own: a resumable scanner over a connection's bytes, and its reverse.
///
/// A codec is configuration, shared by all connections that use it. What it must remember of one
/// connection between two looks, such as how far it searched for a delimiter, is its
/// [`State`](Codec::State).
///
/// The contract of [`decode`](Codec::decode), which ends a connection with
/// [`FrameError::Contract`] where it is broken:
///
/// 1. `bytes` begins at the first byte of a frame and is never empty. It only grows from one call
///    to the next, until a `Frame` or one of the skips took bytes off its front.
/// 2. `Frame` has `1 <= consumed <= bytes.len()`, and its range lies within `0..consumed`.
/// 3. `Skip` and `SkipFrame` have `bytes >= 1`; `SkipPart` has `1 <= bytes < bytes.len()`.
/// 4. `Need(n)` has `n > bytes.len()`.
/// 5. An error is final: the connection delivers nothing after it.
///
/// An error closes without an answer. What deserves one, as a bad request of HTTP does, is no error
/// but a frame like others: the handler sees what it is, answers, and
/// [closes](crate::Context::close).
///
/// # Examples
///
/// Frames that end with a NUL byte, searched without looking at a byte twice:
///
/// ```
/// use unstick::{Codec, FrameError, Framing, Out, Step};
///
/// struct NulEnded;
///
/// impl Codec for NulEnded {
///     type State = usize; // how far this frame was searched
///
///     fn decode(&self, searched: &mut usize, bytes: &[u8]) -> Result<Step, FrameError> {
///         if let Some(more) = bytes[*searched..].iter().position(|&byte| byte == 0) {
///             let end = *searched + more;
///             *searched = 0;
///             return Ok(Step::Frame { frame: 0..end, consumed: end + 1 });
///         }
///         if bytes.len() > 4096 {
///             return Err(FrameError::TooLong { len: bytes.len() as u64, limit: 4096 });
///         }
///         *searched = bytes.len();
///         Ok(Step::Need(bytes.len() + 1))
///     }
///
///     fn encode(&self, payload: &[u8], out: &mut Out<'_>) -> Result<(), FrameError> {
///         if payload.contains(&0) {
///             return Err(FrameError::Unencodable("a NUL byte inside"));
///         }
///         out.put(payload);
///         out.put(&[0]);
///         Ok(())
///     }
/// }
///
/// let framing = Framing::custom(NulEnded);
/// # assert_eq!(framing.to_string(), "custom");
/// ```
pub trait Codec {
    /// What is remembered of one connection. It is reset by nobody but the codec.
    type State: Default;

    /// Looks for the next frame in `bytes`.
    ///
    /// # Errors
    ///
    /// Whatever makes the rest of the stream meaningless. The connection is closed with it.
    fn decode(&self, state: &mut Self::State, bytes: &[u8]) -> Result<Step, FrameError>;

    /// Looks at what is left when the stream has ended; `rest` is never empty.
    ///
    /// `Need` means that the rest is a frame cut short: it is dropped and counted in
    /// [`Closed::undecoded_bytes`](crate::Closed). That is what the default answers.
    ///
    /// # Errors
    ///
    /// As for [`decode`](Codec::decode).
    fn finish(&self, state: &mut Self::State, rest: &[u8]) -> Result<Step, FrameError> {
        let _ = state;
        Ok(Step::Need(rest.len().saturating_add(1)))
    }

    /// Writes `payload` as one frame. After an error nothing that was put is sent.
    ///
    /// # Errors
    ///
    /// [`FrameError::TooLong`] or [`FrameError::Unencodable`] for a payload that would not come out
    /// of [`decode`](Codec::decode) as it went in.
    fn encode(&self, payload: &[u8], out: &mut Out<'_>) -> Result<(), FrameError>;

    /// How many bytes to leave free in front of a payload that is written in place, for
    /// [`encode_in_place`](Codec::encode_in_place) to put its header there. None by default.
    fn headroom(&self) -> usize {
        0
    }

    /// Makes a frame of what was put so far: [`headroom`](Codec::headroom) zeros and a payload behind them.
    /// It may change those bytes and put more; after an error nothing of it is sent.
    ///
    /// The default copies the payload out and [encodes](Codec::encode) it.
    ///
    /// # Errors
    ///
    /// As for [`encode`](Codec::encode).
    fn encode_in_place(&self, out: &mut Out<'_>) -> Result<(), FrameError> {
        let payload = out
            .bytes()
            .get(self.headroom()..)
            .unwrap_or_default()
            .to_vec();
        out.clear();
        self.encode(&payload, out)
    }
}

/// Where an encoder writes its bytes.
pub struct Out<'a> {
    buf: &'a mut Buf,
    /// Where this frame begins in the buffer.
    start: usize,
    /// A payload that is left out, and where in the buffer it would stand.
    suppressed: Option<(&'a [u8], Option<usize>)>,
}

impl<'a> Out<'a> {
    #[inline]
    pub(crate) fn new(buf: &'a mut Buf) -> Self {
        let start = buf.len();
        Self::since(buf, start)
    }

    /// Goes on with a frame that begins at `start`.
    #[inline]
    fn since(buf: &'a mut Buf, start: usize) -> Self {
        Self {
            buf,
            start,
            suppressed: None,
        }
    }

    /// Leaves `payload` out where it is put as it is.
    fn leaving_out(buf: &'a mut Buf, payload: &'a [u8]) -> Self {
        Self {
            suppressed: Some((payload, None)),
            ..Self::new(buf)
        }
    }

    /// What was put so far for this frame.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.buf.bytes().get(self.start..).unwrap_or_default()
    }

    /// What was put so far for this frame, to be changed.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.buf
            .bytes_mut()
            .get_mut(self.start..)
            .unwrap_or_default()
    }

    /// Appends bytes.
    #[inline]
    pub fn put(&mut self, bytes: &[u8]) {
        if let Some((payload, place @ None)) = &mut self.suppressed
            && std::ptr::eq(*payload, bytes)
        {
            *place = Some(self.buf.len());
            return;
        }
        self.buf.put(bytes);
    }

    /// Appends `len` zeros, and gives them to be filled.
    pub fn put_zeros(&mut self, len: usize) -> &mut [u8] {
        self.buf.put_zeros(len)
    }

    /// Puts bytes in front of what was put so far.
    fn put_before(&mut self, bytes: &[u8]) {
        self.put(bytes);
        self.bytes_mut().rotate_right(bytes.len());
    }

    fn clear(&mut self) {
        self.buf.truncate(self.start);
    }
}

impl fmt::Debug for Out<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Out").finish_non_exhaustive()
    }
}

impl Step {
    /// Holds an answer for `shown` bytes to the contract of [`Codec`].
    #[inline(always)]
    pub(crate) fn check(self, shown: usize) -> Result<Self, FrameError> {
        let broken = match &self {
            Self::Frame { frame, consumed } => {
                if *consumed == 0 || *consumed > shown || frame.end > *consumed {
                    "a frame outside of the bytes it was shown"
                } else if frame.start > frame.end {
                    "a range that ends before it begins"
                } else {
                    return Ok(self);
                }
            }
            Self::Need(need) if *need > shown => return Ok(self),
            Self::Need(_) => "a need of no more than it was shown",
            Self::Skip { bytes: 0 } | Self::SkipFrame { bytes: 0, .. } => "a skip of nothing",
            Self::SkipPart { bytes } if *bytes == 0 || *bytes >= shown => {
                "a part that is nothing, or all that it was shown"
            }
            Self::Skip { .. } | Self::SkipFrame { .. } | Self::SkipPart { .. } => return Ok(self),
        };
        Err(FrameError::Contract(broken))
    }
}

/// A frame that was too long, and was skipped: see
/// [`Framing::skip_too_long`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Skipped {
    /// The length of its payload, in bytes.
    pub len: u64,
    /// The largest payload allowed, in bytes.
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

/// The longest payload of a built-in framing, and what becomes of a longer one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limit {
    pub(crate) len: usize,
    pub(crate) skips: bool,
}

impl Limit {
    pub(crate) const fn of(len: usize) -> Self {
        Self { len, skips: false }
    }

    /// The answer to a frame with a payload of `len` bytes, `bytes` with all that belongs to it.
    ///
    /// Inlined, so that the answer of a codec stays in registers: only the error is made elsewhere.
    #[inline(always)]
    fn exceeded(self, len: u64, bytes: u64) -> Result<Step, FrameError> {
        if self.skips {
            let limit = self.len as u64;
            return Ok(Step::SkipFrame { bytes, len, limit });
        }
        Err(FrameError::too_long(len, self.len))
    }

    /// The answer to `shown` bytes of a frame whose end was looked for up to `to`, and which the
    /// first `content` of them, payload for sure, take over the limit.
    #[cold]
    #[inline(never)]
    fn exceeded_without_end(
        self,
        scanned: &mut ScanState,
        content: usize,
        to: usize,
        shown: usize,
    ) -> Result<Step, FrameError> {
        if !self.skips {
            let len = scanned.dropped.saturating_add(content as u64);
            return Err(FrameError::too_long(len, self.len));
        }
        let bytes = content.min(shown.saturating_sub(1));
        scanned.to = to.saturating_sub(bytes);
        if bytes == 0 {
            return Ok(Step::Need(shown.saturating_add(1)));
        }
        scanned.dropped = scanned.dropped.saturating_add(bytes as u64);
        Ok(Step::SkipPart { bytes })
    }

    /// Of the bytes that come behind `held` ones of a frame whose end is looked for, those to look
    /// at: as many as make it too long for sure, or all.
    #[inline]
    fn clip<'a>(self, scanned: &ScanState, held: usize, more: &'a [u8]) -> &'a [u8] {
        match self.left(scanned, held) {
            left if more.len() <= left => more,
            left => clip_at(more, left.saturating_add(1)),
        }
    }

    /// What no end was found in, of those bytes.
    #[inline]
    fn without_end(self, scanned: &ScanState, held: usize, clipped: &[u8]) -> Lookahead {
        if clipped.len() > self.left(scanned, held) {
            return Lookahead::Look(clipped.len());
        }
        Lookahead::Inside
    }

    /// What their end was found in: the first `len` of those bytes belong to the frame, its payload
    /// is the first `payload_len` of all, and its delimiter stands at `to`.
    #[inline]
    fn with_end(
        self,
        scanned: &mut ScanState,
        to: usize,
        payload_len: usize,
        len: usize,
    ) -> Lookahead {
        if scanned.dropped.saturating_add(payload_len as u64) > self.len as u64 {
            scanned.to = to;
            return Lookahead::Look(len);
        }
        *scanned = ScanState::default();
        Lookahead::Ends { len, payload_len }
    }

    /// How many bytes the payload may still have behind `held` ones.
    #[inline]
    fn left(self, scanned: &ScanState, held: usize) -> usize {
        let left = (self.len as u64).saturating_sub(scanned.dropped);
        usize::try_from(left).map_or(usize::MAX, |left| left.saturating_sub(held))
    }

    fn check_payload(self, len: usize) -> Result<(), FrameError> {
        if len > self.len {
            return Err(FrameError::too_long(len as u64, self.len));
        }
        Ok(())
    }
}

/// Bytes of a frame that may become too long, of which so many make it that.
#[cold]
fn clip_at(more: &[u8], enough: usize) -> &[u8] {
    let len = more.len().min(enough.max(OVERRUN_MAX));
    more.get(..len).unwrap_or_default()
}

/// Up to so many bytes are held of a frame beyond the longest one, while its end is looked for.
const OVERRUN_MAX: usize = 1024;

/// What the built-in codecs remember of the frame at the front of a connection's bytes.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ScanState {
    /// How far its bytes were searched for its end.
    pub(crate) to: usize,
    /// Payload that was dropped from its front, as it is too long and is skipped.
    pub(crate) dropped: u64,
}

#[cfg(test)]
thread_local! {
    /// Bytes searched on this thread; tests hold it against the bytes received.
    pub(crate) static SCANNED_BYTES: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// Counts bytes that a delimiter is looked for in.
#[cfg(test)]
fn count_scanned(bytes: usize) {
    SCANNED_BYTES.with(|count| count.set(count.get() + bytes as u64));
}

#[cfg(not(test))]
#[inline]
fn count_scanned(_: usize) {}
