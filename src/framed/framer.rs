//! Encoding without a reactor: the reverse of [`Deframer`](crate::Deframer).

use std::fmt;
use std::io::{self, Write};

use crate::codec::{Framing, Out};
use crate::error::{FrameError, invalid_input};
use crate::memory::Buf;

/// Encoder of payloads into frames.
///
/// The buffer grows to the longest frame, and is kept until
/// [`shrink_to_fit`](Framer::shrink_to_fit).
///
/// # Examples
///
/// ```
/// use unstick::{Framer, Framing};
///
/// let mut framer = Framer::new(Framing::length_u16());
/// assert_eq!(framer.frame(b"hello")?, b"\x00\x05hello");
/// # Ok::<(), unstick::FrameError>(())
/// ```
pub struct Framer {
    framing: Framing,
    buf: Buf,
}

impl Framer {
    /// Creates a framer for one direction of a stream.
    #[must_use]
    pub fn new(framing: Framing) -> Self {
        Self {
            framing,
            buf: Buf::default(),
        }
    }

    /// Returns the bytes of one frame, which are valid until the next call.
    ///
    /// # Errors
    ///
    /// A [`FrameError`] if the framing cannot carry the payload: usually
    /// [`TooLong`](FrameError::TooLong) or [`Unencodable`](FrameError::Unencodable).
    pub fn frame(&mut self, payload: &[u8]) -> Result<&[u8], FrameError> {
        self.buf.clear();
        self.framing.encode(payload, &mut self.buf)?;
        Ok(self.buf.bytes())
    }

    /// Returns the bytes of one frame whose payload is passed in several parts.
    ///
    /// # Errors
    ///
    /// The errors of [`frame`](Framer::frame).
    pub fn frame_parts(&mut self, parts: &[&[u8]]) -> Result<&[u8], FrameError> {
        self.frame_with(|out| {
            parts.iter().for_each(|part| out.put(part));
            Ok(())
        })
    }

    /// Returns the bytes of one frame whose payload `write` puts directly into the buffer; the
    /// header is filled in afterwards. See also [`Context::send_with`](crate::Context::send_with).
    ///
    /// # Errors
    ///
    /// The errors of [`frame`](Framer::frame), or the error that `write` returned.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::io::Write;
    /// use unstick::{FrameError, Framer, Framing};
    ///
    /// let mut framer = Framer::new(Framing::length_u16());
    /// let frame = framer.frame_with(|out| {
    ///     write!(out, "{} + {}", 1, 2)?;
    ///     Ok(())
    /// })?;
    /// assert_eq!(frame, b"\x00\x051 + 2");
    /// # Ok::<(), FrameError>(())
    /// ```
    pub fn frame_with<F>(&mut self, write: F) -> Result<&[u8], FrameError>
    where
        F: FnOnce(&mut Out<'_>) -> Result<(), FrameError>,
    {
        self.buf.clear();
        self.framing.encode_with(&mut self.buf, write)?;
        Ok(self.buf.bytes())
    }

    /// Writes one frame. This is one call of `write` if the writer accepts the whole frame.
    ///
    /// # Errors
    ///
    /// * The error of `writer`. A part of the frame may have been written.
    /// * `InvalidInput` with a [`FrameError`] if the framing cannot carry the payload. No byte was
    ///   written.
    pub fn write_frame(&mut self, writer: &mut impl Write, payload: &[u8]) -> io::Result<()> {
        writer.write_all(self.frame(payload).map_err(invalid_input)?)
    }

    /// Frees the buffer. The next frame allocates again.
    pub fn shrink_to_fit(&mut self) {
        self.buf = Buf::default();
    }

    /// Replaces the framing, from the next frame on.
    pub fn reframe(&mut self, framing: Framing) {
        self.framing = framing;
    }
}

impl fmt::Debug for Framer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Framer")
            .field("framing", &self.framing)
            .finish_non_exhaustive()
    }
}
