//! [`Framing`]: the name of a codec, as it is given to a listener or a connection.

use std::error::Error;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::length::{Endian, Length};
use super::line::Line;
use super::raw::Raw;
use super::{Codec, ErasedCodec, Out};
use crate::error::FrameError;

/// How a stream of bytes is cut into frames: one of the built-in framings, or a codec of your own.
///
/// It is a cheap clone, one pointer, shared by all connections that use it.
///
/// Every framing has a largest frame, by default 1 MiB ([`Framing::FRAME_LEN_MAX`]). It bounds what
/// one peer can make a connection hold, so it is as large as most protocols need and small enough
/// that thousands of peers may use it up.
#[derive(Clone, Debug)]
pub struct Framing(Arc<Kind>);

#[derive(Clone)]
pub(crate) enum Kind {
    Raw(Raw),
    Length(Length),
    Line(Line),
    Custom(Arc<dyn ErasedCodec>),
}

impl Framing {
    /// The largest payload of a frame unless [`frame_len_max`](Framing::frame_len_max) says
    /// otherwise: 1 MiB.
    pub const FRAME_LEN_MAX: usize = 1 << 20;

    /// No framing: every read is handed on as it is, and says nothing about what the peer sent as
    /// one message. The largest frame only bounds how much one call of `on_frame` is given.
    #[must_use]
    pub fn raw() -> Self {
        Self::of(Kind::Raw(Raw {
            frame_len_max: Self::FRAME_LEN_MAX,
        }))
    }

    /// Lines that end with `\n`. A `\r` before it is stripped.
    ///
    /// ```text
    ///   h e l l o \r \n     w o r l d \n
    ///   |-------|           |-------|
    ///     frame               frame
    /// ```
    ///
    /// `send` ends the line with `\n`, and refuses a payload with a `\n` inside or a `\r` at its
    /// end, as it would come out of the peer's decoder as something else. What stands after the
    /// last `\n` when the peer ends is a line cut short: it is not delivered, but counted.
    #[must_use]
    pub fn line() -> Self {
        Self::of(Kind::Line(Line {
            frame_len_max: Self::FRAME_LEN_MAX,
        }))
    }

    /// A length of one byte in front: frames of up to 255 bytes.
    #[must_use]
    pub fn length_u8() -> Self {
        Self::length(1, Endian::Big)
    }

    /// A length of two bytes in front, the highest first ("network order").
    #[must_use]
    pub fn length_u16() -> Self {
        Self::length(2, Endian::Big)
    }

    /// A length of three bytes in front, the highest first.
    #[must_use]
    pub fn length_u24() -> Self {
        Self::length(3, Endian::Big)
    }

    /// A length of four bytes in front, the highest first.
    ///
    /// ```text
    ///   00 00 00 05 h e l l o 00 00 00 00 ...
    ///   |---------| |-------| |---------|
    ///     length      frame     length of an empty frame
    /// ```
    #[must_use]
    pub fn length_u32() -> Self {
        Self::length(4, Endian::Big)
    }

    /// A length of eight bytes in front, the highest first.
    #[must_use]
    pub fn length_u64() -> Self {
        Self::length(8, Endian::Big)
    }

    /// A length of two bytes in front, the lowest first.
    #[must_use]
    pub fn length_u16_le() -> Self {
        Self::length(2, Endian::Little)
    }

    /// A length of three bytes in front, the lowest first.
    #[must_use]
    pub fn length_u24_le() -> Self {
        Self::length(3, Endian::Little)
    }

    /// A length of four bytes in front, the lowest first.
    #[must_use]
    pub fn length_u32_le() -> Self {
        Self::length(4, Endian::Little)
    }

    /// A length of eight bytes in front, the lowest first.
    #[must_use]
    pub fn length_u64_le() -> Self {
        Self::length(8, Endian::Little)
    }

    /// A codec of your own. Its limits are its own too.
    ///
    /// Each connection pays for its state with one allocation, which the built-in framings do not.
    #[must_use]
    pub fn custom<C>(codec: C) -> Self
    where
        C: Codec + Send + Sync + 'static,
        C::State: Send + 'static,
    {
        Self::of(Kind::Custom(Arc::new(codec)))
    }

    /// Sets the largest payload of a frame, in bytes, for decoding and for encoding.
    ///
    /// A longer frame from the peer closes the connection with [`FrameError::TooLong`] as soon as
    /// its header is there; a longer payload is refused by `send`. Zero allows empty frames only
    /// (for [`raw`](Framing::raw) it counts as one). A [`custom`](Framing::custom) codec is left
    /// as it is.
    #[must_use]
    pub fn frame_len_max(self, bytes: usize) -> Self {
        let mut kind = Arc::unwrap_or_clone(self.0);
        match &mut kind {
            Kind::Raw(raw) => raw.frame_len_max = bytes.max(1),
            Kind::Length(length) => *length = length.with_frame_len_max(bytes),
            Kind::Line(line) => line.frame_len_max = bytes,
            Kind::Custom(_) => {}
        }
        Self::of(kind)
    }

    fn length(width: u8, endian: Endian) -> Self {
        Self::of(Kind::Length(Length::new(
            width,
            endian,
            Self::FRAME_LEN_MAX,
        )))
    }

    fn of(kind: Kind) -> Self {
        Self(Arc::new(kind))
    }

    #[inline]
    pub(crate) fn kind(&self) -> &Kind {
        &self.0
    }

    #[inline]
    pub(crate) fn encode(&self, payload: &[u8], out: &mut Out<'_>) -> Result<(), FrameError> {
        match self.kind() {
            Kind::Length(length) => length.encode(payload, out),
            other => other.encode(payload, out),
        }
    }
}

impl Kind {
    #[inline(never)]
    fn encode(&self, payload: &[u8], out: &mut Out<'_>) -> Result<(), FrameError> {
        match self {
            Self::Raw(raw) => raw.encode(payload, out),
            Self::Length(length) => length.encode(payload, out),
            Self::Line(line) => line.encode(payload, out),
            Self::Custom(custom) => custom.encode_erased(payload, out),
        }
    }
}

/// The short name of the framing: `raw`, `line`, `u8`, `u16`, `u16-le` and so on, or `custom`.
impl fmt::Display for Framing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind() {
            Kind::Raw(_) => f.write_str("raw"),
            Kind::Line(_) => f.write_str("line"),
            Kind::Length(length) => {
                let is_little = length.endian() == Endian::Little && length.width() > 1;
                let order = if is_little { "-le" } else { "" };
                write!(f, "u{}{order}", 8 * u32::from(length.width()))
            }
            Kind::Custom(_) => f.write_str("custom"),
        }
    }
}

/// Reads the short name that [`Display`](fmt::Display) writes, for options and configuration files.
impl FromStr for Framing {
    type Err = ParseFramingError;

    fn from_str(name: &str) -> Result<Self, ParseFramingError> {
        Ok(match name {
            "raw" => Self::raw(),
            "line" => Self::line(),
            "u8" => Self::length_u8(),
            "u16" => Self::length_u16(),
            "u24" => Self::length_u24(),
            "u32" => Self::length_u32(),
            "u64" => Self::length_u64(),
            "u16-le" => Self::length_u16_le(),
            "u24-le" => Self::length_u24_le(),
            "u32-le" => Self::length_u32_le(),
            "u64-le" => Self::length_u64_le(),
            _ => return Err(ParseFramingError(())),
        })
    }
}

/// The text is not the short name of a framing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseFramingError(());

impl fmt::Display for ParseFramingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected raw, line, u8, u16, u24, u32, u64, u16-le, u24-le, u32-le or u64-le")
    }
}

impl Error for ParseFramingError {}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Raw(raw) => raw.fmt(f),
            Self::Length(length) => length.fmt(f),
            Self::Line(line) => line.fmt(f),
            Self::Custom(_) => f.write_str("Custom(..)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_short_name_reads_back_as_it_was_written() {
        for name in "raw line u8 u16 u24 u32 u64 u16-le u24-le u32-le u64-le".split(' ') {
            assert_eq!(name.parse::<Framing>().expect(name).to_string(), name);
        }
        "u7".parse::<Framing>().expect_err("no such framing");
    }

    #[test]
    fn a_framing_in_an_entry_is_one_pointer() {
        assert_eq!(size_of::<Framing>(), size_of::<usize>());
    }
}
