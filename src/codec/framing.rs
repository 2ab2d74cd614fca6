//! [`Framing`]: the name of a codec, as it is given to a listener or a connection.

use std::error::Error;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::delimited::Delimited;
use super::fixed::Fixed;
use super::header_body::HeaderBody;
use super::length::{Endian, Length};
use super::length_field::{Headed, LengthField};
use super::line::Line;
use super::netstring::Netstring;
use super::raw::Raw;
use super::varint::Varint;
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
    Fixed(Fixed),
    Varint(Varint),
    Netstring(Netstring),
    // Behind a pointer of their own, as a dispatch takes a copy of the kind with it.
    Delimited(Arc<Delimited>),
    LengthField(Arc<Headed>),
    HeaderBody(Arc<HeaderBody>),
    Custom(Arc<dyn ErasedCodec>),
}

/// Evaluates an expression with the codec of a built-in kind, or another for a user's own.
macro_rules! with_builtin {
    ($kind:expr, $codec:ident => $builtin:expr, $custom:ident => $own:expr) => {
        match $kind {
            Kind::Raw($codec) => $builtin,
            Kind::Length($codec) => $builtin,
            Kind::Line($codec) => $builtin,
            Kind::Fixed($codec) => $builtin,
            Kind::Varint($codec) => $builtin,
            Kind::Netstring($codec) => $builtin,
            Kind::Delimited($codec) => $builtin,
            Kind::LengthField($codec) => $builtin,
            Kind::HeaderBody($codec) => $builtin,
            Kind::Custom($custom) => $own,
        }
    };
}
pub(crate) use with_builtin;

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
    ///
    /// A line is bytes, whether they are UTF-8 or not. The largest frame counts it without its end:
    /// without the `\r` too.
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

    /// Frames that are all `len` bytes long; `send` refuses any other length.
    ///
    /// The size is the limit: [`frame_len_max`](Framing::frame_len_max) changes nothing.
    ///
    /// # Panics
    ///
    /// If `len` is zero.
    #[must_use]
    pub fn fixed(len: usize) -> Self {
        assert!(len > 0, "a frame of no bytes would never end");
        Self::of(Kind::Fixed(Fixed { frame_len: len }))
    }

    /// Frames that end with `delimiter`, which is not part of them.
    ///
    /// ```text
    ///   k e y = v a l u e ; ; k e y ...
    ///   |---------------|       with the delimiter ";;"
    ///         frame
    /// ```
    ///
    /// `send` refuses a payload that has the delimiter inside, or would have it together with the
    /// delimiter behind it. What stands after the last delimiter when the peer ends is a frame cut
    /// short: it is not delivered, but counted.
    ///
    /// # Panics
    ///
    /// If the delimiter is empty.
    #[must_use]
    pub fn delimiter(delimiter: &[u8]) -> Self {
        Self::delimiters(&[delimiter])
    }

    /// Frames that end with any of `delimiters`: with the one that begins first, and of those that
    /// begin together with the longest. So while a longer one may still come, a shorter one that
    /// begins it is waited with; at the end of the stream it counts.
    ///
    /// `send` ends frames with the first of them that begins no longer one, and refuses a payload
    /// that might end earlier: with a delimiter inside, or with the beginning of one that goes on
    /// in the ending, or through the ending in the next frame. The rest is as for
    /// [`delimiter`](Framing::delimiter).
    ///
    /// # Panics
    ///
    /// If there is none, or one is empty.
    #[must_use]
    pub fn delimiters(delimiters: &[&[u8]]) -> Self {
        let delimited = Delimited::new(delimiters, Self::FRAME_LEN_MAX);
        Self::of(Kind::Delimited(Arc::new(delimited)))
    }

    /// A length of variable width in front: seven bits to a byte, the lowest first, each byte but
    /// the last with its highest bit set (LEB128; protobuf's delimited streams).
    ///
    /// ```text
    ///   05 h e l l o AC 02 ... 300 bytes ...
    ///   || |-------| |---| |-----------------|
    ///   5    frame    300         frame
    /// ```
    ///
    /// A length that is not written in its shortest form is malformed, which other decoders let
    /// through; so is one of more than 64 bits.
    #[must_use]
    pub fn varint() -> Self {
        Self::of(Kind::Varint(Varint {
            frame_len_max: Self::FRAME_LEN_MAX,
        }))
    }

    /// Netstrings: `5:hello,`. Leading zeros are malformed. A length is too long as soon as its
    /// digits so far are over the largest frame.
    #[must_use]
    pub fn netstring() -> Self {
        Self::of(Kind::Netstring(Netstring {
            frame_len_max: Self::FRAME_LEN_MAX,
        }))
    }

    /// A header with a length in it: at an offset, counting more or less than what follows, of any
    /// width from 1 to 8 bytes. See [`LengthField`].
    ///
    /// The largest frame counts what is delivered, whatever the field counts. A length of less than
    /// the adjustment takes off is malformed, also where the header is kept: no frame ends within
    /// its header.
    #[must_use]
    pub fn length_field(header: LengthField) -> Self {
        Self::of(Kind::LengthField(Arc::new(Headed(header))))
    }

    /// A header of `header_len` bytes, from which `body_len` computes how many bytes follow it: the
    /// classic cure with a fixed-size struct in front of the payload that it describes.
    ///
    /// ```text
    ///   | type | count |  record  |  record  | type | count | ...
    ///   |---------------------------------------|
    ///                  frame
    /// ```
    ///
    /// The frame is header and body; the largest frame counts both. `send` refuses a payload whose
    /// header tells another length than it has.
    ///
    /// # Panics
    ///
    /// If `header_len` is zero.
    ///
    /// # Examples
    ///
    /// ```
    /// use unstick::{FrameError, Framing};
    ///
    /// // A type, and a count of records whose size depends on it.
    /// let framing = Framing::header_body(3, |header| {
    ///     let count = u64::from(u16::from_be_bytes([header[1], header[2]]));
    ///     match header[0] {
    ///         b'p' => Ok(8 * count),
    ///         b'q' => Ok(24 * count),
    ///         _ => Err(FrameError::Malformed("no such type of record")),
    ///     }
    /// });
    /// # assert_eq!(framing.to_string(), "header-body");
    /// ```
    #[must_use]
    pub fn header_body<F>(header_len: usize, body_len: F) -> Self
    where
        F: Fn(&[u8]) -> Result<u64, FrameError> + Send + Sync + 'static,
    {
        assert!(header_len > 0, "a header of no bytes tells nothing");
        let (body_len, frame_len_max) = (Arc::new(body_len), Self::FRAME_LEN_MAX);
        let header_body = HeaderBody {
            header_len,
            body_len,
            frame_len_max,
        };
        Self::of(Kind::HeaderBody(Arc::new(header_body)))
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
    /// its header is there, or that many bytes without a delimiter; a longer payload is refused by
    /// `send`. Zero allows empty frames only. For [`raw`](Framing::raw) it bounds what is delivered
    /// at once, zero counts as one, and `send` takes any payload. [`fixed`](Framing::fixed) frames
    /// and a [`custom`](Framing::custom) codec are left as they are.
    #[must_use]
    pub fn frame_len_max(self, bytes: usize) -> Self {
        let mut kind = Arc::unwrap_or_clone(self.0);
        match &mut kind {
            Kind::Raw(raw) => raw.frame_len_max = bytes.max(1),
            Kind::Length(length) => *length = length.with_frame_len_max(bytes),
            Kind::Line(line) => line.frame_len_max = bytes,
            Kind::Varint(varint) => varint.frame_len_max = bytes,
            Kind::Netstring(netstring) => netstring.frame_len_max = bytes,
            Kind::Delimited(delimited) => {
                *delimited = Arc::new(delimited.with_frame_len_max(bytes));
            }
            Kind::LengthField(header) => Arc::make_mut(header).0.frame_len_max = bytes,
            Kind::HeaderBody(codec) => Arc::make_mut(codec).frame_len_max = bytes,
            Kind::Fixed(_) | Kind::Custom(_) => {}
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
        with_builtin!(
            self,
            codec => codec.encode(payload, out),
            custom => custom.encode_erased(payload, out)
        )
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
            Kind::Fixed(fixed) => write!(f, "fixed-{}", fixed.frame_len),
            Kind::Varint(_) => f.write_str("varint"),
            Kind::Netstring(_) => f.write_str("netstring"),
            Kind::Delimited(_) => f.write_str("delimited"),
            Kind::LengthField(_) => f.write_str("length-field"),
            Kind::HeaderBody(_) => f.write_str("header-body"),
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
            "varint" => Self::varint(),
            "netstring" => Self::netstring(),
            _ => return Err(ParseFramingError(())),
        })
    }
}

/// The text is not the short name of a framing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseFramingError(());

impl fmt::Display for ParseFramingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "expected raw, line, varint, netstring, u8, u16, u24, u32, u64, \
             u16-le, u24-le, u32-le or u64-le",
        )
    }
}

impl Error for ParseFramingError {}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        with_builtin!(self, codec => codec.fmt(f), _custom => f.write_str("Custom(..)"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_short_name_reads_back_as_it_was_written() {
        for name in
            "raw line u8 u16 u24 u32 u64 u16-le u24-le u32-le u64-le varint netstring".split(' ')
        {
            assert_eq!(name.parse::<Framing>().expect(name).to_string(), name);
        }
        "u7".parse::<Framing>().expect_err("no such framing");
    }

    #[test]
    fn a_framing_in_an_entry_is_one_pointer() {
        assert_eq!(size_of::<Framing>(), size_of::<usize>());
    }
}
