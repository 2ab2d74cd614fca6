//! Framing: the boundaries of messages in a stream of bytes.
//!
//! To decode, a codec receives bytes and returns ranges of them. A built-in codec keeps no bytes,
//! copies none and allocates nothing. No codec knows sockets or connections. There is one file per
//! codec.

#![cfg_attr(
    not(test),
    warn(clippy::arithmetic_side_effects, clippy::indexing_slicing)
)]

use std::fmt;

use crate::error::FrameError;
use crate::memory::Buf;

mod between;
mod compose;
mod decoder;
mod delimited;
mod erased;
mod fixed;
mod framing;
mod header_body;
mod kind;
mod length;
mod length_field;
mod length_fn;
mod line;
mod name;
mod netstring;
mod options;
mod output;
mod raw;
mod step;
mod varint;

pub use framing::Framing;
pub use length_field::LengthField;
pub use length_fn::FrameLen;
pub use name::ParseFramingError;
pub use step::{Skipped, Step};

pub(crate) use decoder::{AnyDecoder, BoundCustom, BuiltinCodec, Decoder, FrameBounds, Lookahead};
pub(crate) use erased::{AnyState, ErasedCodec, ErasedState};
pub(crate) use kind::{Kind, with_builtin};
pub(crate) use length::{Length, LengthU32};
pub(crate) use step::{CheckedStep, Skip, SkipKind, StepError};

/// A user's own framing: a resumable scanner over the bytes of a connection, and its encoder.
///
/// A codec is configuration, shared by all connections that use it. The [`State`](Codec::State) is
/// the data that the codec keeps for one connection between two calls, such as the offset up to
/// which it searched.
///
/// Rules 1 and 5 of this contract are promises of the caller. Rules 2 to 4 are for
/// [`decode`](Codec::decode) and [`finish`](Codec::finish): a codec that breaks them ends the
/// connection with [`FrameError::Contract`].
///
/// 1. `bytes` is never empty. It begins at the first byte that no earlier `Frame` or skip has
///    removed, and only grows until the next `Frame` or skip.
/// 2. `Frame` has `1 <= consumed <= bytes.len()`, and its range lies within `0..consumed`.
/// 3. `Skip` and `SkipFrame` have `bytes >= 1`; `SkipPart` has `1 <= bytes < bytes.len()`. A frame
///    whose beginning was skipped by `SkipPart` is never delivered as a `Frame`.
/// 4. `Need(n)` has `n > bytes.len()`.
/// 5. An error is final: the connection delivers nothing after it.
///
/// An error closes the connection, after
/// [`on_frame_error`](crate::Handler::on_frame_error) has had the chance to send a last reply. If
/// the stream can continue after an invalid message, return the message as a frame, or
/// [skip](Step::Skip) bytes until the next frame: the guide has a codec for
/// [finding the next frame again](crate::guide::protocols#finding-the-next-frame-again).
///
/// The payload is a slice of the bytes, so it cannot contain values that were parsed. Header fields
/// that the program needs, such as a type, are part of the payload: its range begins before them.
/// [`encode`](Codec::encode) then gets a payload that begins with the same fields.
///
/// # Examples
///
/// A codec for frames that end with a NUL byte. Its state makes sure that no byte is searched
/// twice:
///
/// ```
/// use unstick::{Codec, FrameError, Framing, Out, Step};
///
/// struct NulEnded;
///
/// impl Codec for NulEnded {
///     type State = usize; // number of bytes of this frame that were searched
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
///             return Err(FrameError::Unencodable("the payload contains a NUL byte"));
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
    /// State of one connection. It starts with the default value, and only the codec changes it.
    type State: Default;

    /// Searches `bytes` for the next frame.
    ///
    /// # Errors
    ///
    /// An error if the bytes are malformed or a frame is too long. The error closes the connection,
    /// because the start of the next frame is unknown.
    fn decode(&self, state: &mut Self::State, bytes: &[u8]) -> Result<Step, FrameError>;

    /// Decodes the bytes that remain at the end of the stream; `rest` is never empty.
    ///
    /// `Need` means that the remaining bytes are a partial frame. The reactor drops these bytes and
    /// counts them in [`Closed::undecoded_bytes`](crate::Closed). The default implementation
    /// returns `Need`.
    ///
    /// After a `Frame` or a skip, the method is called again with the remaining bytes. The calls
    /// end when the method returns `Need` or an error, or when no byte is left. The rules of
    /// `decode` apply, and a skip may be longer than `rest`. Before the first call of `finish`,
    /// `decode` has returned `Need` for `rest`, or for the first bytes of `rest`. A datagram ends
    /// with its last byte, so [`Datagram::frames`](crate::Datagram::frames) calls this method too.
    ///
    /// # Errors
    ///
    /// The errors of [`decode`](Codec::decode).
    fn finish(&self, state: &mut Self::State, rest: &[u8]) -> Result<Step, FrameError> {
        let _ = state;
        Ok(Step::Need(rest.len().saturating_add(1)))
    }

    /// Appends `payload` as one frame to `out`. After an error, the bytes that the codec appended
    /// are removed and not sent.
    ///
    /// # Errors
    ///
    /// [`FrameError::TooLong`] or [`FrameError::Unencodable`] if [`decode`](Codec::decode) would
    /// not return the payload unchanged.
    fn encode(&self, payload: &[u8], out: &mut Out<'_>) -> Result<(), FrameError>;

    /// Returns the number of bytes to reserve before a payload that is written in place.
    /// [`encode_in_place`](Codec::encode_in_place) writes the header there. The default is 0.
    fn headroom(&self) -> usize {
        0
    }

    /// Encodes the bytes in `out` as one frame. On entry, `out` contains
    /// [`headroom`](Codec::headroom) zeros and then the payload. The method may change these bytes
    /// and append more. After an error, no byte of the frame is sent.
    ///
    /// The default implementation copies the payload and [encodes](Codec::encode) the copy.
    ///
    /// # Errors
    ///
    /// The errors of [`encode`](Codec::encode).
    fn encode_in_place(&self, out: &mut Out<'_>) -> Result<(), FrameError> {
        let payload = out
            .bytes()
            .get(self.headroom()..)
            .unwrap_or_default()
            .to_vec();
        out.buf.truncate(out.start);
        self.encode(&payload, out)
    }
}

/// Output buffer of an encoder, limited to the frame that is being encoded.
pub struct Out<'a> {
    buf: &'a mut Buf,
    /// Offset of this frame in the buffer.
    start: usize,
    /// Payload that `put` does not copy into the buffer. The second value is the offset at which
    /// the payload belongs; `None` until the encoder has put the payload.
    suppressed: Option<(&'a [u8], Option<usize>)>,
}

impl<'a> Out<'a> {
    pub(crate) fn new(buf: &'a mut Buf) -> Self {
        let start = buf.len();
        Self::since(buf, start)
    }

    /// Returns the output for a frame whose first bytes, from offset `start`, are already in `buf`.
    fn since(buf: &'a mut Buf, start: usize) -> Self {
        Self {
            buf,
            start,
            suppressed: None,
        }
    }

    /// Returns an output that does not copy `payload` into the buffer if the encoder passes this
    /// same slice to [`put`](Out::put).
    fn leaving_out(buf: &'a mut Buf, payload: &'a [u8]) -> Self {
        Self {
            suppressed: Some((payload, None)),
            ..Self::new(buf)
        }
    }

    /// Returns the bytes of this frame that were appended so far.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.buf.bytes().get(self.start..).unwrap_or_default()
    }

    /// Returns the bytes of this frame that were appended so far, for changing them.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.buf
            .bytes_mut()
            .get_mut(self.start..)
            .unwrap_or_default()
    }

    /// Appends `bytes` to the frame.
    pub fn put(&mut self, bytes: &[u8]) {
        if let Some((payload, place @ None)) = &mut self.suppressed
            && std::ptr::eq(*payload, bytes)
        {
            *place = Some(self.buf.len());
            return;
        }
        self.buf.put(bytes);
    }

    /// Appends `len` zero bytes, and returns them so that the encoder can overwrite them.
    pub fn put_zeros(&mut self, len: usize) -> &mut [u8] {
        self.buf.put_zeros(len)
    }

    /// Inserts `bytes` at the start of this frame.
    fn put_before(&mut self, bytes: &[u8]) {
        self.put(bytes);
        self.bytes_mut().rotate_right(bytes.len());
    }
}

impl fmt::Debug for Out<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Out").finish_non_exhaustive()
    }
}

/// Frame limit of a built-in framing, and the treatment of a frame that exceeds it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limit {
    /// Maximum length of a payload, in bytes.
    pub(crate) len: usize,
    /// True if a longer frame is skipped; false if it ends the stream with an error.
    pub(crate) skips: bool,
}

impl Limit {
    pub(crate) const fn of(len: usize) -> Self {
        Self { len, skips: false }
    }

    /// Returns the step for a frame whose payload of `len` bytes exceeds the limit. `bytes` is the
    /// length of the whole frame, including header and trailer.
    ///
    /// Inlined, so that the step of a codec stays in registers.
    #[inline(always)]
    fn exceeded(self, len: u64, bytes: u64) -> Result<Step, FrameError> {
        if self.skips {
            let limit = self.len as u64;
            return Ok(Step::SkipFrame { bytes, len, limit });
        }
        Err(FrameError::too_long(len, self.len))
    }

    /// Returns the step for a frame at the start of `bytes`. Its header has `header_len` bytes and
    /// holds `len`, the length of the payload. The frame has no trailer.
    #[inline(always)]
    fn step(self, header_len: usize, len: u64, bytes: &[u8]) -> Result<Step, FrameError> {
        // The peer chose the length, so it is checked before it is used.
        let end = match usize::try_from(len) {
            Ok(len) if len <= self.len => len.checked_add(header_len),
            _ => None,
        };
        let Some(end) = end else {
            return self.exceeded(len, len.saturating_add(header_len as u64));
        };
        if bytes.len() < end {
            return Ok(Step::Need(end));
        }
        Ok(Step::Frame {
            frame: header_len..end,
            consumed: end,
        })
    }

    /// Returns the step for a frame that is delivered with its header and has `len` bytes in total,
    /// at least 1. `len` is `None` if the length has more than 64 bits. `bytes` are the received
    /// bytes from the start of the frame. If the frame is incomplete, stores `len` in `scanned`.
    fn whole_frame(
        self,
        scanned: &mut ScanState,
        len: Option<u64>,
        bytes: &[u8],
    ) -> Result<Step, FrameError> {
        *scanned = ScanState::default();
        let Some(len) = len else {
            return self.exceeded(u64::MAX, u64::MAX);
        };
        let step = self.step(0, len, bytes);
        if matches!(step, Ok(Step::Need(_))) {
            scanned.dropped = len;
        }
        step
    }

    /// Checks that `payload` is exactly one frame of `codec`, which delivers its frames with their
    /// header.
    fn check_whole_frame<C>(self, codec: &C, payload: &[u8]) -> Result<(), FrameError>
    where
        C: Codec<State = ScanState>,
    {
        self.check_payload(payload.len())?;
        let step = match payload {
            [] => Step::Need(1),
            _ => codec.decode(&mut ScanState::default(), payload)?,
        };
        match step {
            Step::Frame { consumed, .. } if consumed == payload.len() => Ok(()),
            Step::SkipFrame { len, limit, .. } => Err(FrameError::TooLong { len, limit }),
            _ => Err(FrameError::Unencodable(
                "the payload length differs from the length in its first bytes",
            )),
        }
    }

    /// Returns the step for a frame whose delimiter was found. Its payload consists of `dropped`
    /// bytes that were skipped earlier, and of the first `len` bytes in the buffer.
    #[inline(always)]
    fn step_with_end(self, dropped: u64, len: usize, consumed: usize) -> Result<Step, FrameError> {
        let whole = dropped.saturating_add(len as u64);
        if whole > self.len as u64 {
            return self.exceeded(whole, consumed as u64);
        }
        Ok(Step::Frame {
            frame: 0..len,
            consumed,
        })
    }

    /// Returns the step for a frame whose end was not found. The codec received `bytes_len` bytes
    /// and searched them up to offset `to`. The first `content` bytes are certainly payload.
    #[inline(never)]
    fn step_without_end(
        self,
        scanned: &mut ScanState,
        content: usize,
        to: usize,
        bytes_len: usize,
    ) -> Result<Step, FrameError> {
        let len = scanned.dropped.saturating_add(content as u64);
        let is_exceeded = len > self.len as u64;
        if is_exceeded && !self.skips {
            return Err(FrameError::too_long(len, self.len));
        }
        let bytes = match is_exceeded {
            true => content.min(bytes_len.saturating_sub(1)),
            false => 0,
        };
        scanned.to = to.saturating_sub(bytes);
        if bytes == 0 {
            return Ok(Step::Need(bytes_len.saturating_add(1)));
        }
        scanned.dropped = scanned.dropped.saturating_add(bytes as u64);
        Ok(Step::SkipPart { bytes })
    }

    /// Returns the first bytes of `more`, to be searched for the end of a frame. `held` is the
    /// number of bytes of this frame that arrived before `more`.
    ///
    /// The result is all of `more`, or is long enough for the frame to exceed the limit.
    fn clip<'a>(self, scanned: &ScanState, held: usize, more: &'a [u8]) -> &'a [u8] {
        match self.left(scanned, held) {
            left if more.len() <= left => more,
            left => clip_at(more, left.saturating_add(1)),
        }
    }

    /// Returns the lookahead for bytes from [`clip`](Limit::clip) that do not contain the end of
    /// the frame.
    fn without_end(self, scanned: &ScanState, held: usize, clipped: &[u8]) -> Lookahead {
        if clipped.len() > self.left(scanned, held) {
            return Lookahead::StepAfter(clipped.len());
        }
        Lookahead::Inside
    }

    /// Returns the lookahead for bytes that contain the end of the frame. The first `len` of these
    /// bytes belong to the frame. Without the part that was dropped earlier, the payload has
    /// `payload_len` bytes, and the delimiter begins at offset `to`.
    fn with_end(
        self,
        scanned: &mut ScanState,
        to: usize,
        payload_len: usize,
        len: usize,
    ) -> Lookahead {
        if scanned.dropped.saturating_add(payload_len as u64) > self.len as u64 {
            scanned.to = to;
            return Lookahead::StepAfter(len);
        }
        *scanned = ScanState::default();
        Lookahead::Ends { len, payload_len }
    }

    /// Returns the number of bytes that the payload may have in addition to `held` bytes.
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

/// Returns the start of `more`, at most `max(enough, OVERRUN_MAX)` bytes. `enough` is the number of
/// bytes with which the frame exceeds the limit.
fn clip_at(more: &[u8], enough: usize) -> &[u8] {
    let len = more.len().min(enough.max(OVERRUN_MAX));
    more.get(..len).unwrap_or_default()
}

/// Maximum number of bytes beyond the limit that are held while the end of a frame is searched.
const OVERRUN_MAX: usize = 1024;

/// State of a built-in codec for the frame that begins at the first byte not yet consumed.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ScanState {
    /// Offset up to which the frame was searched for its end. For [`Framing::length_fn`]: number of
    /// bytes that the user's function needs for its next call.
    pub(crate) to: usize,
    /// Number of payload bytes that were dropped because the frame is too long and is skipped. For
    /// a framing that computes the length with a user's function: the length of the whole frame,
    /// see [`ScanState::whole_len`].
    pub(crate) dropped: u64,
}

impl ScanState {
    /// Returns the length of the whole frame, or `None` if the user's function has not computed it.
    /// The length is stored in `dropped`, which is free because a framing with such a function
    /// drops no part of a frame.
    fn whole_len(self) -> Option<u64> {
        (self.dropped > 0).then_some(self.dropped)
    }
}

#[cfg(test)]
thread_local! {
    /// Number of bytes searched on this thread. Tests compare it with the number of bytes received.
    pub(crate) static SCANNED_BYTES: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// Adds to the number of bytes that were searched for a delimiter.
#[cfg(test)]
fn count_scanned(bytes: usize) {
    SCANNED_BYTES.with(|count| count.set(count.get() + bytes as u64));
}

#[cfg(not(test))]
fn count_scanned(_: usize) {}
