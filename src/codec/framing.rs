//! [`Framing`]: the name of a codec, as it is given to a listener or a connection.

use std::fmt;
use std::sync::Arc;

use super::compose::UnfinishedFrame;
use super::delimited::Delimited;
use super::fixed::Fixed;
use super::header_body::HeaderBody;
use super::length::{Endian, Length};
use super::length_field::{Headed, LengthField};
use super::line::Line;
use super::netstring::Netstring;
use super::raw::Raw;
use super::varint::Varint;
use super::{Codec, ErasedCodec, Limit, Out};
use crate::error::FrameError;
use crate::memory::Buf;

/// How a stream of bytes is cut into frames: one of the built-in framings, or a codec of your own.
///
/// It is a cheap clone, one pointer, shared by all connections that use it.
///
/// Every framing has a largest frame, by default 1 MiB ([`Framing::FRAME_LEN_MAX`]). It bounds what
/// one peer can make a connection hold, so it is as large as most protocols need and small enough
/// that thousands of peers may use it up.
///
/// # Examples
///
/// The same payload, framed by each:
///
/// ```
/// use unstick::{FrameError, Framer, Framing, LengthField};
///
/// fn framed(framing: Framing) -> Result<Vec<u8>, FrameError> {
///     Ok(Framer::new(framing).frame(b"hello")?.to_vec())
/// }
///
/// assert_eq!(framed(Framing::raw())?, b"hello");
/// assert_eq!(framed(Framing::fixed(5))?, b"hello");
/// assert_eq!(framed(Framing::line())?, b"hello\n");
/// assert_eq!(framed(Framing::delimiter(b";;"))?, b"hello;;");
/// assert_eq!(framed(Framing::delimiters(&[b"\n", b"\r\n"]))?, b"hello\n");
/// assert_eq!(framed(Framing::length_u8())?, b"\x05hello");
/// assert_eq!(framed(Framing::length_u16())?, b"\x00\x05hello");
/// assert_eq!(framed(Framing::length_u24())?, b"\x00\x00\x05hello");
/// assert_eq!(framed(Framing::length_u32())?, b"\x00\x00\x00\x05hello");
/// assert_eq!(framed(Framing::length_u64())?, b"\x00\x00\x00\x00\x00\x00\x00\x05hello");
/// assert_eq!(framed(Framing::length_u16_le())?, b"\x05\x00hello");
/// assert_eq!(framed(Framing::length_u24_le())?, b"\x05\x00\x00hello");
/// assert_eq!(framed(Framing::length_u32_le())?, b"\x05\x00\x00\x00hello");
/// assert_eq!(framed(Framing::length_u64_le())?, b"\x05\x00\x00\x00\x00\x00\x00\x00hello");
/// assert_eq!(framed(Framing::varint())?, b"\x05hello");
/// assert_eq!(framed(Framing::netstring())?, b"5:hello,");
///
/// // A header of two bytes and a length of one, which counts the header too.
/// let field = LengthField::new(1).leading(b"v1").adjustment(-3);
/// assert_eq!(framed(Framing::length_field(field))?, b"v1\x08hello");
///
/// // The payload begins with a header of one byte, from which the rest is computed.
/// let is_hello = |header: &[u8]| Ok(if header == b"h" { 4 } else { 0 });
/// assert_eq!(framed(Framing::header_body(Framing::fixed(1), is_hello))?, b"hello");
/// # Ok::<(), FrameError>(())
/// ```
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

    const LIMIT: Limit = Limit::of(Self::FRAME_LEN_MAX);

    /// No framing: every read is handed on as it is, and says nothing about what the peer sent as
    /// one message. The largest frame only bounds how much one call of `on_frame` is given.
    ///
    /// ```text
    ///   h e l l o w o     r l d       sent as two messages, come in two reads
    ///   |-----------|     |---|
    ///       frame         frame
    /// ```
    ///
    /// Elsewhere: Erlang's `{packet, raw}`, tokio-util's `BytesCodec`.
    #[must_use]
    pub fn raw() -> Self {
        Self::of(Kind::Raw(Raw {
            frame_len_max: Self::FRAME_LEN_MAX,
        }))
    }

    /// Lines that end with `\n`. A `\r` before it is stripped.
    ///
    /// ```text
    ///   h e l l o \r \n w o r l d \n
    ///   |-------|       |-------|
    ///     frame           frame
    /// ```
    ///
    /// `send` ends the line with `\n`, and refuses a payload with a `\n` inside or a `\r` at its
    /// end, as it would come out of the peer's decoder as something else. What stands after the
    /// last `\n` when the peer ends is a line cut short: it is not delivered, but counted.
    ///
    /// A line is bytes, whether they are UTF-8 or not. The largest frame counts it without its end:
    /// without the `\r` too.
    ///
    /// Elsewhere: Netty's `LineBasedFrameDecoder`; tokio-util's `LinesCodec`, whose limit counts
    /// the `\r`, and which delivers a line cut short at the end; Erlang's `{packet, line}` and
    /// asyncio's `readline`, which leave the end in the frame.
    #[must_use]
    pub fn line() -> Self {
        Self::of(Kind::Line(Line::new(Self::LIMIT)))
    }

    /// A length of one byte in front: frames of up to 255 bytes.
    ///
    /// ```text
    ///   05 h e l l o 00
    ///   || |-------| ||
    ///   5    frame   0, and an empty frame
    /// ```
    ///
    /// Elsewhere: Erlang's `{packet, 1}`, Twisted's `Int8StringReceiver`.
    #[must_use]
    pub fn length_u8() -> Self {
        Self::length(1, Endian::Big)
    }

    /// A length of two bytes in front, the highest first ("network order").
    ///
    /// ```text
    ///   00 05 h e l l o 00 00
    ///   |---| |-------| |---|
    ///     5     frame     0, and an empty frame
    /// ```
    ///
    /// Elsewhere: Erlang's `{packet, 2}`, Twisted's `Int16StringReceiver`, DNS over TCP (RFC 1035,
    /// section 4.2.2).
    #[must_use]
    pub fn length_u16() -> Self {
        Self::length(2, Endian::Big)
    }

    /// A length of three bytes in front, the highest first.
    ///
    /// ```text
    ///   00 00 05 h e l l o 00 00 00
    ///   |------| |-------| |------|
    ///      5       frame      0, and an empty frame
    /// ```
    ///
    /// Elsewhere: tokio-util's `LengthDelimitedCodec` with `length_field_length(3)`.
    #[must_use]
    pub fn length_u24() -> Self {
        Self::length(3, Endian::Big)
    }

    /// A length of four bytes in front, the highest first.
    ///
    /// ```text
    ///   00 00 00 05 h e l l o 00 00 00 00
    ///   |---------| |-------| |---------|
    ///        5        frame        0, and an empty frame
    /// ```
    ///
    /// Elsewhere: Erlang's `{packet, 4}`, Twisted's `Int32StringReceiver`, tokio-util's
    /// `LengthDelimitedCodec` as it is made without settings.
    #[must_use]
    pub fn length_u32() -> Self {
        Self::length(4, Endian::Big)
    }

    /// A length of eight bytes in front, the highest first.
    ///
    /// ```text
    ///   00 00 00 00 00 00 00 05 h e l l o
    ///   |---------------------| |-------|
    ///              5              frame
    /// ```
    ///
    /// Elsewhere: tokio-util's `LengthDelimitedCodec` with `length_field_length(8)`.
    #[must_use]
    pub fn length_u64() -> Self {
        Self::length(8, Endian::Big)
    }

    /// A length of two bytes in front, the lowest first.
    ///
    /// ```text
    ///   05 00 h e l l o 00 00
    ///   |---| |-------| |---|
    ///     5     frame     0, and an empty frame
    /// ```
    ///
    /// Elsewhere: tokio-util's `LengthDelimitedCodec` with `length_field_length(2)`
    /// and `little_endian()`.
    #[must_use]
    pub fn length_u16_le() -> Self {
        Self::length(2, Endian::Little)
    }

    /// A length of three bytes in front, the lowest first.
    ///
    /// ```text
    ///   05 00 00 h e l l o 00 00 00
    ///   |------| |-------| |------|
    ///      5       frame      0, and an empty frame
    /// ```
    ///
    /// Elsewhere: tokio-util's `LengthDelimitedCodec` with `length_field_length(3)`
    /// and `little_endian()`.
    #[must_use]
    pub fn length_u24_le() -> Self {
        Self::length(3, Endian::Little)
    }

    /// A length of four bytes in front, the lowest first.
    ///
    /// ```text
    ///   05 00 00 00 h e l l o 00 00 00 00
    ///   |---------| |-------| |---------|
    ///        5        frame        0, and an empty frame
    /// ```
    ///
    /// Elsewhere: tokio-util's `LengthDelimitedCodec` with `length_field_length(4)`
    /// and `little_endian()`.
    #[must_use]
    pub fn length_u32_le() -> Self {
        Self::length(4, Endian::Little)
    }

    /// A length of eight bytes in front, the lowest first.
    ///
    /// ```text
    ///   05 00 00 00 00 00 00 00 h e l l o
    ///   |---------------------| |-------|
    ///              5              frame
    /// ```
    ///
    /// Elsewhere: tokio-util's `LengthDelimitedCodec` with `length_field_length(8)`
    /// and `little_endian()`.
    #[must_use]
    pub fn length_u64_le() -> Self {
        Self::length(8, Endian::Little)
    }

    /// Frames that are all `len` bytes long; `send` refuses any other length.
    ///
    /// ```text
    ///   h e l l o w o r l d       with a length of 5
    ///   |-------| |-------|
    ///     frame     frame
    /// ```
    ///
    /// Elsewhere: Netty's `FixedLengthFrameDecoder`, asyncio's `readexactly`.
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
    ///   h e l l o ; ; w o r l d ; ;       with the delimiter ";;"
    ///   |-------|     |-------|
    ///     frame         frame
    /// ```
    ///
    /// `send` refuses a payload that has the delimiter inside, or would have it together with the
    /// delimiter behind it. What stands after the last delimiter when the peer ends is a frame cut
    /// short: it is not delivered, but counted.
    ///
    /// Elsewhere: Netty's `DelimiterBasedFrameDecoder`, Twisted's `LineOnlyReceiver` with a
    /// `delimiter`, asyncio's `readuntil`, which leaves the delimiter in the frame.
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
    /// ```text
    ///   o n e ; t w o ; ; ; t h r e e |       with the delimiters ";", ";;;" and "|"
    ///   |---|   |---|       |-------|
    ///   frame   frame         frame
    /// ```
    ///
    /// `send` ends frames with the first of them that begins no longer one, and refuses a payload
    /// that might end earlier: with a delimiter inside, or with the beginning of one that goes on
    /// in the ending, or through the ending in the next frame. The rest is as for
    /// [`delimiter`](Framing::delimiter).
    ///
    /// Elsewhere: Netty's `DelimiterBasedFrameDecoder` with several, of which the one first in its
    /// list wins where they begin together; tokio-util's `AnyDelimiterCodec`, for delimiters of one
    /// byte.
    ///
    /// # Panics
    ///
    /// If there is none, or one is empty.
    ///
    /// # Examples
    ///
    /// ```
    /// use unstick::{Deframer, Framing};
    ///
    /// let mut deframer = Deframer::new(Framing::delimiters(&[b";", b";;;", b"|"]));
    /// deframer.extend(b"one;two;;;three|");
    /// for frame in [&b"one"[..], b"two", b"three"] {
    ///     assert_eq!(deframer.next_frame()?, Some(frame));
    /// }
    /// # Ok::<(), unstick::DecodeError>(())
    /// ```
    #[must_use]
    pub fn delimiters(delimiters: &[&[u8]]) -> Self {
        Self::of(match delimiters {
            [[byte]] => Kind::Line(Line::ended_by(*byte, Self::LIMIT)),
            _ => Kind::Delimited(Arc::new(Delimited::new(delimiters, Self::LIMIT))),
        })
    }

    /// A length of variable width in front: seven bits to a byte, the lowest first, each byte but
    /// the last with its highest bit set (LEB128; protobuf's delimited streams).
    ///
    /// ```text
    ///   05 h e l l o AC 02 . . 300 bytes . .
    ///   || |-------| |---| |---------------|
    ///   5    frame    300        frame
    /// ```
    ///
    /// A length that is not written in its shortest form is malformed, which other decoders let
    /// through; so is one of more than 64 bits.
    ///
    /// Elsewhere: protobuf's `writeDelimitedTo`, prost's `encode_length_delimited`, Netty's
    /// `ProtobufVarint32FrameDecoder`.
    #[must_use]
    pub fn varint() -> Self {
        Self::of(Kind::Varint(Varint {
            limit: Self::LIMIT,
            is_lax: false,
        }))
    }

    /// As [`varint`](Framing::varint), but a length may be written in any form of up to ten bytes,
    /// as other decoders take it. What is sent is in the shortest form.
    ///
    /// ```text
    ///   85 80 00 h e l l o
    ///   |------| |-------|
    ///      5       frame
    /// ```
    #[must_use]
    pub fn varint_lax() -> Self {
        Self::of(Kind::Varint(Varint {
            limit: Self::LIMIT,
            is_lax: true,
        }))
    }

    /// Netstrings: a length in decimal digits, `:`, the payload, `,`.
    ///
    /// ```text
    ///   5 : h e l l o , 0 : ,
    ///   |-| |-------|   |-|
    ///    5    frame      0, and an empty frame
    /// ```
    ///
    /// Leading zeros are malformed. A length is too long as soon as its digits so far are over the
    /// largest frame.
    ///
    /// Elsewhere: Twisted's `NetstringReceiver`, SCGI; <https://cr.yp.to/proto/netstrings.txt>.
    #[must_use]
    pub fn netstring() -> Self {
        Self::of(Kind::Netstring(Netstring { limit: Self::LIMIT }))
    }

    /// A header with a length in it: at an offset, counting more or less than what follows, of any
    /// width from 1 to 8 bytes.
    ///
    /// ```text
    ///   v 1 08 h e l l o       LengthField::new(1).leading(b"v1").adjustment(-3)
    ///   |-| || |-------|
    ///       8    frame
    /// ```
    ///
    /// [`LengthField`] tells the rest, and how the settings of Netty's
    /// `LengthFieldBasedFrameDecoder` and tokio-util's `LengthDelimitedCodec` are written here.
    ///
    /// The largest frame counts what is delivered, whatever the field counts. A length of less than
    /// the adjustment takes off is malformed, also where the header is kept: no frame ends within
    /// its header.
    #[must_use]
    pub fn length_field(header: LengthField) -> Self {
        let (field, limit) = (header, Self::LIMIT);
        Self::of(Kind::LengthField(Arc::new(Headed { field, limit })))
    }

    /// A header, framed by `header`, from which `body_len` computes how many bytes follow it.
    ///
    /// With a header of a [fixed](Framing::fixed) size it is the classic cure: a struct in front of
    /// the payload that it describes. With a [line](Framing::line) or a
    /// [delimiter](Framing::delimiter) it is what protocols in text do.
    ///
    /// ```text
    ///   | type | count |  record  |  record  | type | count | ...
    ///   |---------------------------------------|
    ///                  frame                           Framing::fixed(3)
    ///
    ///   p u t   k e y   5 \r \n h e l l o g e t ...
    ///   |-------------| |---| |-------|
    ///   |    header             body  |
    ///   |-----------------------------|
    ///                frame                             Framing::line()
    /// ```
    ///
    /// `body_len` is shown the payload of the header. The frame is header and body, with all that
    /// frames the header; the largest frame counts all of it. `send` refuses a payload whose header
    /// tells another length than it has. A header that is itself over its largest frame, or that
    /// of the whole, closes the connection also where frames are skipped, as it cannot be known how
    /// long its frame is.
    ///
    /// Elsewhere: Swoole's `package_length_func`.
    ///
    /// # Panics
    ///
    /// If the header's framing is [`raw`](Framing::raw), which has no end, a
    /// [`custom`](Framing::custom) one, or has a header and a body itself.
    ///
    /// # Examples
    ///
    /// ```
    /// use unstick::{FrameError, Framing};
    ///
    /// // A type, and a count of records whose size depends on it.
    /// let framing = Framing::header_body(Framing::fixed(3), |header| {
    ///     let count = u64::from(u16::from_be_bytes([header[1], header[2]]));
    ///     match header[0] {
    ///         b'p' => Ok(8 * count),
    ///         b'q' => Ok(24 * count),
    ///         _ => Err(FrameError::Malformed("no such type of record")),
    ///     }
    /// });
    /// # assert_eq!(framing.to_string(), "header-body");
    ///
    /// // A line that ends with the number of bytes behind it.
    /// let framing = Framing::header_body(Framing::line().frame_len_max(200), |line| {
    ///     let number = line.rsplit(|&byte| byte == b' ').next();
    ///     let number = number.and_then(|digits| str::from_utf8(digits).ok()?.parse().ok());
    ///     number.ok_or(FrameError::Malformed("no length at the end of the line"))
    /// });
    /// # let mut deframer = unstick::Deframer::new(framing);
    /// # deframer.extend(b"put key 5\r\nhelloget");
    /// # let frame = deframer.next_frame().expect("well-formed");
    /// # assert_eq!(frame, Some(&b"put key 5\r\nhello"[..]));
    /// ```
    #[must_use]
    pub fn header_body<F>(header: Self, body_len: F) -> Self
    where
        F: Fn(&[u8]) -> Result<u64, FrameError> + Send + Sync + 'static,
    {
        let header = Arc::unwrap_or_clone(header.0);
        let codec = HeaderBody::new(header, Arc::new(body_len), Self::LIMIT);
        Self::of(Kind::HeaderBody(Arc::new(codec)))
    }

    /// A codec of your own: see [`Codec`]. Its limits are its own too.
    ///
    /// Elsewhere: tokio-util's `Decoder` and `Encoder`, Netty's `ByteToMessageDecoder`, Go's
    /// `bufio.SplitFunc`.
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
    /// its header is there, or that many bytes without a delimiter, unless such frames are
    /// [skipped](Framing::skip_too_long); a longer payload is refused by `send`. Zero allows empty
    /// frames only. For [`raw`](Framing::raw) it bounds what is delivered at once, zero counts as
    /// one, and `send` takes any payload. [`fixed`](Framing::fixed) frames and a
    /// [`custom`](Framing::custom) codec are left as they are.
    #[must_use]
    pub fn frame_len_max(self, bytes: usize) -> Self {
        let mut kind = Arc::unwrap_or_clone(self.0);
        match &mut kind {
            Kind::Raw(raw) => raw.frame_len_max = bytes.max(1),
            other => other.change_limit(&mut |limit| limit.len = bytes),
        }
        Self::of(kind)
    }

    /// Skips frames that are too long, and goes on in step with the next; by default they end the
    /// stream.
    ///
    /// ```text
    ///   00 02 o k FF FF . . 65,535 bytes . . 00 03 y e s
    ///         |-| |------------------------|       |---|
    ///        frame    skipped, and told            frame
    /// ```
    ///
    /// Exactly that frame is skipped, whatever its length, and none of it is kept: by its count,
    /// or up to its delimiter. [`on_skipped`](crate::Handler::on_skipped) tells of it, in its order
    /// among the frames, as soon as its length is known: where a header tells it, before its bytes
    /// have come. It counts as a frame for the budget and for
    /// [`Config::frame_deadline`](crate::Config::frame_deadline).
    ///
    /// What is malformed ends the stream still, as nobody knows where the next frame begins: a
    /// length of more than 64 bits, for example, or a header that is itself too long. The comma
    /// behind a [`netstring`](Framing::netstring) that is skipped is not compared.
    ///
    /// [`raw`](Framing::raw) and [`fixed`](Framing::fixed) have no frames that are too long, and a
    /// [`custom`](Framing::custom) codec has a rule of its own: all three are left as they are.
    ///
    /// # Examples
    ///
    /// ```
    /// use unstick::{Decoded, Deframer, Framing};
    ///
    /// let framing = Framing::line().frame_len_max(5).skip_too_long();
    /// let mut deframer = Deframer::new(framing);
    /// deframer.extend(b"hello\nfar too long\nworld\n");
    /// let mut seen = Vec::new();
    /// while let Some(decoded) = deframer.decode()? {
    ///     seen.push(match decoded {
    ///         Decoded::Frame(line) => String::from_utf8_lossy(line).into_owned(),
    ///         Decoded::Skipped(skipped) => format!("({} bytes)", skipped.len),
    ///         _ => continue,
    ///     });
    /// }
    /// assert_eq!(seen, ["hello", "(12 bytes)", "world"]);
    /// # Ok::<(), unstick::DecodeError>(())
    /// ```
    #[must_use]
    pub fn skip_too_long(self) -> Self {
        let mut kind = Arc::unwrap_or_clone(self.0);
        kind.change_limit(&mut |limit| limit.skips = true);
        Self::of(kind)
    }

    fn length(width: u8, endian: Endian) -> Self {
        Self::of(Kind::Length(Length::new(width, endian, Self::LIMIT)))
    }

    fn of(kind: Kind) -> Self {
        Self(Arc::new(kind))
    }

    /// Whether it is a clone of the other.
    #[inline]
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    #[inline]
    pub(crate) fn kind(&self) -> &Kind {
        &self.0
    }

    /// Appends `payload` as one frame, or nothing.
    #[inline]
    pub(crate) fn encode(&self, payload: &[u8], buf: &mut Buf) -> Result<(), FrameError> {
        match self.kind() {
            Kind::Length(length) => length.encode_to(payload, buf),
            other => other.encode(payload, buf),
        }
    }

    /// All payloads that are shorter become frames by a [length](Length::u32_of) of four bytes in
    /// front, and come out of such frames: none, where this is another framing.
    pub(crate) fn u32_len_end(&self) -> usize {
        match self.kind() {
            Kind::Length(length) if length.is_u32() => length.payload_len_max().saturating_add(1),
            _ => 0,
        }
    }

    /// Appends what stands around `payload` in its frame, and answers where in `buf` it would stand
    /// itself; `None` where the framing has to have it in the frame, and nothing is appended.
    pub(crate) fn encode_around(
        &self,
        payload: &[u8],
        buf: &mut Buf,
    ) -> Result<Option<usize>, FrameError> {
        let before = buf.len();
        let mut out = Out::leaving_out(buf, payload);
        let encoded = match self.kind() {
            Kind::Raw(codec) => codec.encode(payload, &mut out),
            Kind::Length(codec) => codec.encode(payload, &mut out),
            Kind::Line(codec) => codec.encode(payload, &mut out),
            Kind::Fixed(codec) => codec.encode(payload, &mut out),
            Kind::Varint(codec) => codec.encode(payload, &mut out),
            Kind::Netstring(codec) => codec.encode(payload, &mut out),
            Kind::HeaderBody(codec) => codec.encode(payload, &mut out),
            // They look at the frame that they made.
            Kind::Delimited(_) | Kind::LengthField(_) | Kind::Custom(_) => return Ok(None),
        };
        let place = out.suppressed.and_then(|(_, place)| place);
        if encoded.is_err() {
            buf.truncate(before);
        }
        encoded.map(|()| place)
    }
}

impl Kind {
    /// Whether the head of a frame ends within its header. Where a frame has no header, and where
    /// only a user's codec could tell: no.
    pub(crate) fn is_header_cut(&self, head: &[u8]) -> bool {
        match self {
            Self::Length(codec) => head.len() < usize::from(codec.width()),
            Self::Varint(_) => head.iter().all(|byte| byte & 0x80 != 0),
            Self::Netstring(_) => !head.contains(&b':'),
            Self::LengthField(codec) => head.len() < codec.field.header_len(),
            Self::HeaderBody(codec) => codec.is_header_cut(head),
            Self::Raw(_) | Self::Line(_) | Self::Fixed(_) => false,
            Self::Delimited(_) | Self::Custom(_) => false,
        }
    }

    /// Changes the limit, where there is one that is changed like others.
    pub(super) fn change_limit(&mut self, change: &mut dyn FnMut(&mut Limit)) {
        match self {
            Self::Length(length) => {
                let mut limit = length.limit;
                change(&mut limit);
                *length = length.with_limit(limit);
            }
            Self::Line(line) => change(&mut line.limit),
            Self::Varint(varint) => change(&mut varint.limit),
            Self::Netstring(netstring) => change(&mut netstring.limit),
            Self::Delimited(codec) => change(&mut Arc::make_mut(codec).limit),
            Self::LengthField(codec) => change(&mut Arc::make_mut(codec).limit),
            Self::HeaderBody(codec) => Arc::make_mut(codec).change_limit(change),
            Self::Raw(_) | Self::Fixed(_) | Self::Custom(_) => {}
        }
    }

    #[inline(never)]
    fn encode(&self, payload: &[u8], buf: &mut Buf) -> Result<(), FrameError> {
        let unfinished = UnfinishedFrame::new(buf);
        let out = &mut Out::new(unfinished.buf);
        with_builtin!(
            self,
            codec => codec.encode(payload, out),
            custom => custom.encode_erased(payload, out)
        )?;
        unfinished.finish();
        Ok(())
    }
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        with_builtin!(self, codec => codec.fmt(f), _custom => f.write_str("Custom(..)"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_cut_until_its_last_byte_is_there() {
        let field = LengthField::new(2).leading(b"?").following(b"!");
        let body_len = |_: &[u8]| Ok(9);
        let framings = [
            (Framing::length_u24(), &b"\0\0\x09"[..]),
            (Framing::varint(), b"\x80\x80\x01"),
            (Framing::netstring(), b"10:"),
            (Framing::length_field(field), b"?\0\x09!"),
            (Framing::header_body(Framing::line(), body_len), b"head\n"),
        ];
        for (framing, header) in framings {
            for len in 1..header.len() {
                assert!(framing.kind().is_header_cut(&header[..len]), "{framing}");
            }
            for behind in [&b""[..], b"12345"] {
                let head = [header, behind].concat();
                assert!(!framing.kind().is_header_cut(&head), "{framing}");
            }
        }
        for framing in [Framing::line(), Framing::fixed(9), Framing::raw()] {
            assert!(!framing.kind().is_header_cut(b"head"), "{framing}");
        }
    }

    #[test]
    fn a_framing_in_an_entry_is_one_pointer() {
        assert_eq!(size_of::<Framing>(), size_of::<usize>());
    }
}
