//! Decoding without a reactor: the reverse of [`Framer`](crate::Framer).

use std::fmt;
use std::io::{self, Read};
use std::ops::Range;

use crate::codec::{AnyState, CheckedStep, Framing, Skip, SkipKind, Skipped};
use crate::error::{DecodeError, FrameError};
use crate::memory::Buf;

/// Spare capacity for a read while the length of the frame is unknown, in bytes.
const READ_LEN: usize = 8 * 1024;
/// Limit of the memory for a frame whose header claims a large length. The buffer gets space for at
/// most `GROWTH` times the bytes that it holds, but at least for [`READ_LEN`] more bytes. The
/// buffer then rounds its capacity up to a power of two.
const GROWTH: usize = 4;
/// Divisor of the capacity for shrinking. The buffer is shrunk to `capacity / SHRINK` if it was
/// never filled up to `capacity / SHRINK` while `SHRINK * capacity` bytes arrived.
const SHRINK: usize = 4;
/// Divisor of the capacity for counting short frames. If bytes arrive in an empty buffer, they add
/// at least `capacity / ALONE` to [`Deframer::since_filled`]. So the buffer shrinks after
/// `SHRINK * ALONE` (256) short frames that arrive alone. If the buffer fills up to
/// `capacity / SHRINK` in the meantime, the count starts again.
const ALONE: usize = 64;

/// An item that a [`Deframer`] found in its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Decoded<'a> {
    /// A frame, as the framing delivers it: usually without header and delimiter.
    Frame(&'a [u8]),
    /// Notice of a frame that was skipped because it is too long: see [`Framing::skip_too_long`].
    /// Bytes of the frame that arrive later are dropped.
    Skipped(Skipped),
}

/// Decoder of frames from bytes that arrive in pieces.
///
/// Bytes are read into [`spare_capacity_mut`](Deframer::spare_capacity_mut), or copied by
/// [`extend`](Deframer::extend). [`next_frame`](Deframer::next_frame) returns the frames as slices
/// of the buffer. The buffer grows with the bytes received, never by the length that a header
/// claims. It shrinks step by step if a burst made it much larger than later traffic needs. If no
/// traffic follows, it keeps its size: see [`shrink_to_fit`](Deframer::shrink_to_fit).
///
/// # Examples
///
/// ```
/// use unstick::{Deframer, Framing};
///
/// let mut deframer = Deframer::new(Framing::line());
/// let mut lines = Vec::new();
/// for piece in ["hel", "lo\nwo", "rld\nagain"] {
///     deframer.extend(piece.as_bytes());
///     while let Some(line) = deframer.next_frame()? {
///         lines.push(String::from_utf8_lossy(line).into_owned());
///     }
/// }
/// assert_eq!(lines, ["hello", "world"]);
/// assert_eq!(deframer.rest(), b"again");
/// # Ok::<(), unstick::DecodeError>(())
/// ```
pub struct Deframer {
    framing: Framing,
    /// Framing that replaces `framing` at the end of the frame that is being skipped.
    next_framing: Option<Framing>,
    state: AnyState,
    buf: Buf,
    /// Number of bytes that the partial frame at the start of `buf` needs; 0 if unknown.
    need: usize,
    /// Number of bytes that must be skipped when they arrive. While it is not 0, `buf` is empty.
    skip: u64,
    /// Number of bytes received so far. `buf` contains the last of them.
    received: u64,
    /// Number of bytes received since a large part of the buffer was filled. Bytes that arrived in
    /// an empty buffer count more: see [`ALONE`].
    since_filled: u64,
    frames_skipped: u64,
    filler_bytes: u64,
    /// The error that ended the stream.
    error: Option<FrameError>,
}

/// Result of decoding the start of the buffer.
enum Found {
    /// Position in the buffer of a frame that is already consumed.
    Frame(Range<usize>),
    Skipped(Skipped),
}

impl Deframer {
    /// Creates a deframer at the beginning of a stream.
    #[must_use]
    pub fn new(framing: Framing) -> Self {
        Self {
            framing,
            next_framing: None,
            state: AnyState::default(),
            buf: Buf::default(),
            need: 0,
            skip: 0,
            received: 0,
            since_filled: 0,
            frames_skipped: 0,
            filler_bytes: 0,
            error: None,
        }
    }

    /// Returns the next whole frame, or `None` if more bytes are needed.
    /// [Skipped](Framing::skip_too_long) frames are not returned, only
    /// [counted](Deframer::frames_skipped).
    ///
    /// # Errors
    ///
    /// The error and the stream offset of the invalid frame. The error is final: every later call
    /// returns it again, and later bytes are dropped. [`rest`](Deframer::rest) begins with the
    /// invalid frame.
    #[inline]
    pub fn next_frame(&mut self) -> Result<Option<&[u8]>, DecodeError> {
        let position = self.next_position(false)?;
        Ok(position.map(|position| self.buf.at(position)))
    }

    /// Returns the next frame of a stream that has ended. After the last whole frame, some framings
    /// return a frame that the end of the stream completes. Once this method returns `None`,
    /// [`rest`](Deframer::rest) returns the bytes that do not form a frame.
    ///
    /// # Errors
    ///
    /// The errors of [`next_frame`](Deframer::next_frame).
    pub fn last_frame(&mut self) -> Result<Option<&[u8]>, DecodeError> {
        // The codec must decode all whole frames before it is called with the end of the stream.
        let position = match self.next_position(false)? {
            None => self.next_position(true)?,
            position => position,
        };
        Ok(position.map(|position| self.buf.at(position)))
    }

    /// Returns the next whole frame or the notice of a skipped frame, in stream order. Returns
    /// `None` if more bytes are needed.
    ///
    /// # Errors
    ///
    /// The errors of [`next_frame`](Deframer::next_frame).
    pub fn decode(&mut self) -> Result<Option<Decoded<'_>>, DecodeError> {
        let found = self.decode_front(false)?;
        Ok(found.map(|found| self.decoded(found)))
    }

    /// Returns the next frame of a stream that has ended, or the notice of a skipped frame. Apart
    /// from the notices, it works like [`last_frame`](Deframer::last_frame).
    ///
    /// # Errors
    ///
    /// The errors of [`next_frame`](Deframer::next_frame).
    pub fn decode_last(&mut self) -> Result<Option<Decoded<'_>>, DecodeError> {
        let found = match self.decode_front(false)? {
            None => self.decode_front(true)?,
            found => found,
        };
        Ok(found.map(|found| self.decoded(found)))
    }

    /// Appends bytes of the stream. After an error, the bytes are dropped.
    pub fn extend(&mut self, bytes: &[u8]) {
        if self.error.is_none() {
            self.shrink();
            self.buf.put(bytes);
            self.count_received(bytes.len());
        }
    }

    /// Returns spare capacity to read into; it is never empty. Call [`advance`](Deframer::advance)
    /// with the number of bytes read.
    pub fn spare_capacity_mut(&mut self) -> &mut [u8] {
        self.shrink();
        let missing = self.need.saturating_sub(self.buf.len());
        let wanted = missing.min((GROWTH - 1) * self.buf.len()).max(READ_LEN);
        self.buf.reserve(wanted);
        &mut self.buf.spare_mut()[..wanted]
    }

    /// Appends the first `len` bytes of [`spare_capacity_mut`](Deframer::spare_capacity_mut), which
    /// were filled by a read.
    ///
    /// # Panics
    ///
    /// Panics if `len` exceeds the spare capacity.
    pub fn advance(&mut self, len: usize) {
        let spare_len = self.buf.spare_len();
        assert!(
            len <= spare_len,
            "advance() by {len} bytes exceeds the spare capacity of {spare_len} bytes"
        );
        if self.error.is_none() {
            self.buf.advance(len);
            self.count_received(len);
        }
    }

    /// Replaces the framing. Undelivered bytes are decoded with the new framing, except the bytes
    /// of a frame that is being skipped: the former framing skips that frame to its end. An earlier
    /// error stays.
    pub fn reframe(&mut self, framing: Framing) {
        if self.state.is_skipping(self.framing.kind()) {
            self.next_framing = Some(framing);
        } else {
            self.set_framing(framing);
        }
    }

    fn set_framing(&mut self, framing: Framing) {
        self.framing = framing;
        self.state = AnyState::default();
        self.need = 0;
    }

    /// Frees the memory that undelivered bytes do not need. Call it if the stream may be silent for
    /// long. The next bytes allocate again.
    pub fn shrink_to_fit(&mut self) {
        self.buf.shrink_to_fit();
        self.since_filled = 0;
    }

    /// Returns the undelivered bytes.
    #[must_use]
    pub fn rest(&self) -> &[u8] {
        self.buf.bytes()
    }

    /// Returns the offset in the stream of [`rest`](Deframer::rest).
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.received - self.buf.len() as u64
    }

    /// Returns the number of frames that were skipped because they are too long.
    #[must_use]
    pub fn frames_skipped(&self) -> u64 {
        self.frames_skipped
    }

    /// Returns the number of bytes that lie between frames and belong to no frame. These are the
    /// bytes of [`Framing::skip_between`], and bytes that a custom codec skips with
    /// [`Step::Skip`](crate::Step::Skip). The latter count when the codec returns the step.
    #[must_use]
    pub fn filler_bytes(&self) -> u64 {
        self.filler_bytes
    }

    /// Reads until a whole frame has arrived. Returns `None` at the end of the stream. Skipped
    /// frames are not returned.
    ///
    /// # Errors
    ///
    /// * The error of `reader`; `Interrupted` is retried. No bytes are lost: after `WouldBlock` or
    ///   `TimedOut` in the middle of a frame, the next call continues.
    /// * `UnexpectedEof` if the stream ends within a frame, or within bytes that are skipped.
    /// * `InvalidData` with a [`DecodeError`] if the bytes are not a frame.
    pub fn read_frame(&mut self, reader: &mut impl Read) -> io::Result<Option<&[u8]>> {
        let frame = loop {
            if let Some(frame) = self.next_position(false)? {
                break Some(frame);
            }
            let len = match reader.read(self.spare_capacity_mut()) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                result => result?,
            };
            if len == 0 {
                break self.next_position(true)?;
            }
            self.advance(len);
        };
        if frame.is_none() && (!self.buf.is_empty() || self.skip > 0) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(frame.map(|position| self.buf.at(position)))
    }

    fn decoded(&self, found: Found) -> Decoded<'_> {
        match found {
            Found::Frame(position) => Decoded::Frame(self.buf.at(position)),
            Found::Skipped(skipped) => Decoded::Skipped(skipped),
        }
    }

    /// Returns the position in the buffer of the next frame.
    #[inline]
    fn next_position(&mut self, has_ended: bool) -> Result<Option<Range<usize>>, DecodeError> {
        while let Some(found) = self.decode_front(has_ended)? {
            if let Found::Frame(position) = found {
                return Ok(Some(position));
            }
        }
        Ok(None)
    }

    /// Decodes the start of the buffer. Returns `None` if it holds no whole frame.
    fn decode_front(&mut self, has_ended: bool) -> Result<Option<Found>, DecodeError> {
        loop {
            if self.error.is_some() {
                return Err(self.failure());
            }
            let need = if has_ended { 1 } else { self.need.max(1) };
            if self.buf.len() < need {
                return Ok(None);
            }
            self.need = 0;
            let (kind, bytes) = (self.framing.kind(), self.buf.bytes());
            let step = match has_ended {
                false => self.state.step_then(kind, bytes, frame_or_other),
                true => frame_or_other(self.state.step(kind, bytes, true)),
            };
            match step {
                Ok((range, consumed)) => {
                    let position = self.buf.position_of(range);
                    self.buf.consume(consumed);
                    return Ok(Some(Found::Frame(position)));
                }
                Err(CheckedStep::Need(need)) => {
                    self.need = need;
                    return Ok(None);
                }
                Err(CheckedStep::Skip(Skip { bytes, kind })) => {
                    self.skip(bytes);
                    if kind != SkipKind::Part
                        && let Some(framing) = self.next_framing.take()
                    {
                        self.set_framing(framing);
                    }
                    match kind {
                        SkipKind::Frame(skipped) => {
                            self.frames_skipped += 1;
                            return Ok(Some(Found::Skipped(skipped)));
                        }
                        SkipKind::Filler => {
                            self.filler_bytes = self.filler_bytes.saturating_add(bytes);
                        }
                        SkipKind::Part => {}
                    }
                }
                Err(CheckedStep::Failed(error)) => self.error = Some(error.into()),
                Err(CheckedStep::Frame { .. }) => {
                    unreachable!("frame_or_other() must return a frame as Ok")
                }
            }
        }
    }

    #[cold]
    fn failure(&self) -> DecodeError {
        let error = self.error.clone();
        DecodeError {
            error: error.expect("failure() must be called after an error"),
            offset: self.offset(),
        }
    }

    /// Counts `len` bytes that were appended to the buffer.
    #[inline]
    fn count_received(&mut self, len: usize) {
        self.received += len as u64;
        let (held, capacity) = (self.buf.len(), self.buf.capacity());
        if held >= capacity / SHRINK {
            self.since_filled = 0;
        } else if held > len {
            self.since_filled += len as u64;
        } else if len > 0 {
            self.since_filled += len.max(capacity / ALONE) as u64;
        }
        self.drop_skipped();
    }

    /// Shrinks a buffer that a burst made large, once several times its capacity has arrived
    /// without filling a large part of the buffer.
    #[inline]
    fn shrink(&mut self) {
        let (len, capacity) = (self.buf.len(), self.buf.capacity());
        let is_due = self.since_filled >= (SHRINK * capacity) as u64;
        if is_due && capacity > 2 * READ_LEN && len < capacity / SHRINK {
            self.buf.reallocate(capacity / SHRINK);
            self.since_filled = 0;
        }
    }

    fn skip(&mut self, bytes: u64) {
        self.skip = bytes;
        self.drop_skipped();
    }

    fn drop_skipped(&mut self) {
        let len = self.buf.len();
        let skipped = usize::try_from(self.skip).map_or(len, |skip| skip.min(len));
        self.buf.consume(skipped);
        self.skip -= skipped as u64;
    }
}

/// Returns the range of the payload and the number of bytes consumed, or another step.
#[inline(always)]
fn frame_or_other(step: CheckedStep<'_>) -> Result<(Range<usize>, usize), CheckedStep<'_>> {
    match step {
        CheckedStep::Frame {
            range, consumed, ..
        } => Ok((range, consumed)),
        other => Err(other),
    }
}

impl fmt::Debug for Deframer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deframer")
            .field("framing", &self.framing)
            .field("rest_len", &self.rest().len())
            .field("offset", &self.offset())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
