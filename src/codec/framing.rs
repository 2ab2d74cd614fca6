//! [`Framing`]: the public type that selects the codec of a listener, connection or other stream.

use std::fmt;
use std::sync::Arc;

use super::compose::unfinished_frame;
use super::delimited::Delimited;
use super::erased::Boxed;
use super::fixed::Fixed;
use super::header_body::HeaderBody;
use super::length::{Endian, Length};
use super::length_field::{Headed, LengthField};
use super::line::Line;
use super::netstring::Netstring;
use super::output::Codecs;
use super::raw::Raw;
use super::varint::Varint;
use super::{Codec, ErasedCodec, Limit, Out};
use crate::error::FrameError;
use crate::memory::Buf;

/// Rule that divides a byte stream into frames: a built-in framing, or a custom [`Codec`].
///
/// A framing is one pointer, so cloning it is cheap. All connections that use a framing share it.
///
/// A framing applies to both directions. [`with_output`](Framing::with_output) combines two of them
/// for a protocol whose replies are framed differently.
///
/// The payload of a frame is limited, by default to 1 MiB ([`Framing::FRAME_LEN_MAX`]). The limit
/// bounds the memory that one peer can make a connection hold. 1 MiB is enough for most protocols,
/// and small enough that thousands of peers may use all of it.
///
/// # Examples
///
/// One payload in each framing:
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
/// // Two bytes of header and one byte of length, which counts all three.
/// let field = LengthField::new(1).leading(b"v1").adjustment(-3);
/// assert_eq!(framed(Framing::length_field(field))?, b"v1\x08hello");
///
/// // The payload begins with a one-byte header, which determines the length of the body.
/// let is_hello = |header: &[u8]| Ok(if header == b"h" { 4 } else { 0 });
/// assert_eq!(framed(Framing::header_body(Framing::fixed(1), is_hello))?, b"hello");
/// # Ok::<(), FrameError>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Framing(pub(super) Arc<Codecs>);

#[derive(Clone)]
pub(crate) enum Kind {
    Raw(Raw),
    Length(Length),
    Line(Line),
    Fixed(Fixed),
    Varint(Varint),
    Netstring(Netstring),
    // Stored behind an `Arc`, so that `Kind` is small: a dispatch clones it.
    Delimited(Arc<Delimited>),
    LengthField(Arc<Headed>),
    HeaderBody(Arc<HeaderBody>),
    Custom(Arc<ErasedCodec>),
}

/// Evaluates `$builtin` with the codec of a built-in kind, or `$own` with a custom codec. One
/// expression may serve for both.
macro_rules! with_builtin {
    ($kind:expr, $codec:ident => $any:expr) => {
        with_builtin!($kind, $codec => $any, $codec => $any)
    };
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
    /// Default maximum payload of a frame, in bytes: 1 MiB.
    /// [`frame_len_max`](Framing::frame_len_max) changes it.
    pub const FRAME_LEN_MAX: usize = 1 << 20;

    const LIMIT: Limit = Limit::of(Self::FRAME_LEN_MAX);

    /// Creates a framing without boundaries: the bytes of each read are delivered as one frame.
    ///
    /// A frame says nothing about the messages that the peer sent. The frame limit only bounds the
    /// number of bytes that one call of `on_frame` gets.
    ///
    /// ```text
    ///   h e l l o w o     r l d       two messages, received in two reads
    ///   |-----------|     |---|
    ///       frame         frame
    /// ```
    ///
    /// Similar to Erlang's `{packet, raw}` and tokio-util's `BytesCodec`.
    pub fn raw() -> Self {
        Self::of(Kind::Raw(Raw {
            frame_len_max: Self::FRAME_LEN_MAX,
        }))
    }

    /// Creates a framing for lines that end with `\n`. A `\r` before the `\n` is stripped.
    ///
    /// ```text
    ///   h e l l o \r \n w o r l d \n
    ///   |-------|       |-------|
    ///     frame           frame
    /// ```
    ///
    /// `send` appends `\n`. It rejects a payload that contains `\n` or ends with `\r`, because the
    /// peer would decode something else. A partial line at the end of the stream is not delivered;
    /// its bytes are counted in [`Closed::undecoded_bytes`](crate::Closed).
    ///
    /// A line may contain any bytes; UTF-8 is not checked. The frame limit counts the line without
    /// `\n` and without a stripped `\r`.
    ///
    /// Similar to Netty's `LineBasedFrameDecoder`. Other libraries differ:
    ///
    /// * tokio-util's `LinesCodec`: its limit counts the `\r`, and it delivers a partial line at
    ///   the end of the stream.
    /// * Erlang's `{packet, line}` and asyncio's `readline`: the frame includes the line end.
    pub fn line() -> Self {
        Self::of(Kind::Line(Line::new(Self::LIMIT)))
    }

    /// Creates a framing with a 1-byte length prefix, for frames of up to 255 bytes.
    ///
    /// ```text
    ///   05 h e l l o 00
    ///   || |-------| ||
    ///   5    frame   0: an empty frame
    /// ```
    ///
    /// Similar to Erlang's `{packet, 1}` and Twisted's `Int8StringReceiver`.
    pub fn length_u8() -> Self {
        Self::length(1, Endian::Big)
    }

    /// Creates a framing with a 2-byte big-endian length prefix (network byte order), for frames of
    /// up to 65,535 bytes.
    ///
    /// ```text
    ///   00 05 h e l l o 00 00
    ///   |---| |-------| |---|
    ///     5     frame     0: an empty frame
    /// ```
    ///
    /// Similar to Erlang's `{packet, 2}` and Twisted's `Int16StringReceiver`. DNS over TCP uses it
    /// (RFC 1035, section 4.2.2).
    pub fn length_u16() -> Self {
        Self::length(2, Endian::Big)
    }

    /// Creates a framing with a 3-byte big-endian length prefix.
    ///
    /// ```text
    ///   00 00 05 h e l l o 00 00 00
    ///   |------| |-------| |------|
    ///      5       frame      0: an empty frame
    /// ```
    ///
    /// Similar to tokio-util's `LengthDelimitedCodec` with `length_field_length(3)`.
    pub fn length_u24() -> Self {
        Self::length(3, Endian::Big)
    }

    /// Creates a framing with a 4-byte big-endian length prefix.
    ///
    /// ```text
    ///   00 00 00 05 h e l l o 00 00 00 00
    ///   |---------| |-------| |---------|
    ///        5        frame        0: an empty frame
    /// ```
    ///
    /// Similar to Erlang's `{packet, 4}`, Twisted's `Int32StringReceiver` and tokio-util's
    /// `LengthDelimitedCodec` with its default settings.
    pub fn length_u32() -> Self {
        Self::length(4, Endian::Big)
    }

    /// Creates a framing with an 8-byte big-endian length prefix.
    ///
    /// ```text
    ///   00 00 00 00 00 00 00 05 h e l l o
    ///   |---------------------| |-------|
    ///              5              frame
    /// ```
    ///
    /// Similar to tokio-util's `LengthDelimitedCodec` with `length_field_length(8)`.
    pub fn length_u64() -> Self {
        Self::length(8, Endian::Big)
    }

    /// Creates a framing with a 2-byte little-endian length prefix.
    ///
    /// ```text
    ///   05 00 h e l l o 00 00
    ///   |---| |-------| |---|
    ///     5     frame     0: an empty frame
    /// ```
    ///
    /// Similar to tokio-util's `LengthDelimitedCodec` with `length_field_length(2)` and
    /// `little_endian()`.
    pub fn length_u16_le() -> Self {
        Self::length(2, Endian::Little)
    }

    /// Creates a framing with a 3-byte little-endian length prefix.
    ///
    /// ```text
    ///   05 00 00 h e l l o 00 00 00
    ///   |------| |-------| |------|
    ///      5       frame      0: an empty frame
    /// ```
    ///
    /// Similar to tokio-util's `LengthDelimitedCodec` with `length_field_length(3)` and
    /// `little_endian()`.
    pub fn length_u24_le() -> Self {
        Self::length(3, Endian::Little)
    }

    /// Creates a framing with a 4-byte little-endian length prefix.
    ///
    /// ```text
    ///   05 00 00 00 h e l l o 00 00 00 00
    ///   |---------| |-------| |---------|
    ///        5        frame        0: an empty frame
    /// ```
    ///
    /// Similar to tokio-util's `LengthDelimitedCodec` with `length_field_length(4)` and
    /// `little_endian()`.
    pub fn length_u32_le() -> Self {
        Self::length(4, Endian::Little)
    }

    /// Creates a framing with an 8-byte little-endian length prefix.
    ///
    /// ```text
    ///   05 00 00 00 00 00 00 00 h e l l o
    ///   |---------------------| |-------|
    ///              5              frame
    /// ```
    ///
    /// Similar to tokio-util's `LengthDelimitedCodec` with `length_field_length(8)` and
    /// `little_endian()`.
    pub fn length_u64_le() -> Self {
        Self::length(8, Endian::Little)
    }

    /// Creates a framing for frames of exactly `len` bytes. `send` rejects a payload of any other
    /// length.
    ///
    /// ```text
    ///   h e l l o w o r l d       with a length of 5
    ///   |-------| |-------|
    ///     frame     frame
    /// ```
    ///
    /// Similar to Netty's `FixedLengthFrameDecoder` and asyncio's `readexactly`.
    ///
    /// [`frame_len_max`](Framing::frame_len_max) has no effect: `len` is the limit.
    ///
    /// # Panics
    ///
    /// Panics if `len` is zero.
    pub fn fixed(len: usize) -> Self {
        assert!(len > 0, "the length of a fixed frame must not be zero");
        Self::of(Kind::Fixed(Fixed { frame_len: len }))
    }

    /// Creates a framing for frames that end with `delimiter`, which is not part of the frame.
    ///
    /// ```text
    ///   h e l l o ; ; w o r l d ; ;       with the delimiter ";;"
    ///   |-------|     |-------|
    ///     frame         frame
    /// ```
    ///
    /// `send` rejects a payload that contains the delimiter, or that completes one together with
    /// the delimiter that follows it. A partial frame at the end of the stream is not delivered;
    /// its bytes are counted in [`Closed::undecoded_bytes`](crate::Closed).
    ///
    /// Similar to Netty's `DelimiterBasedFrameDecoder` and Twisted's `LineOnlyReceiver` with a
    /// `delimiter`. Asyncio's `readuntil` includes the delimiter in the frame.
    ///
    /// # Panics
    ///
    /// Panics if `delimiter` is empty.
    pub fn delimiter(delimiter: &[u8]) -> Self {
        Self::delimiters(&[delimiter])
    }

    /// Creates a framing for frames that end with any of `delimiters`.
    ///
    /// The delimiter that begins first ends the frame; of several that begin at one position, the
    /// longest. If a longer delimiter may still be completed, the decoder waits for more bytes. At
    /// the end of the stream, the shorter one ends the frame.
    ///
    /// ```text
    ///   o n e ; t w o ; ; ; t h r e e |       with the delimiters ";", ";;;" and "|"
    ///   |---|   |---|       |-------|
    ///   frame   frame         frame
    /// ```
    ///
    /// `send` appends the first delimiter that is not a prefix of another. It rejects a payload
    /// whose frame might end earlier. Such a payload contains a delimiter, or the beginning of one
    /// that the appended delimiter or the next frame may complete.
    ///
    /// A partial frame at the end of the stream is not delivered, as with
    /// [`delimiter`](Framing::delimiter).
    ///
    /// Similar to Netty's `DelimiterBasedFrameDecoder` with several delimiters. If several begin at
    /// one position, Netty uses the first in its list. For one-byte delimiters, similar to
    /// tokio-util's `AnyDelimiterCodec`.
    ///
    /// # Panics
    ///
    /// Panics if `delimiters` is empty or contains an empty delimiter.
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
    pub fn delimiters(delimiters: &[&[u8]]) -> Self {
        Self::of(match delimiters {
            [[byte]] => Kind::Line(Line::ended_by(*byte, Self::LIMIT)),
            _ => Kind::Delimited(Arc::new(Delimited::new(delimiters, Self::LIMIT))),
        })
    }

    /// Creates a framing with a length prefix of variable width: LEB128, as in protobuf's delimited
    /// streams.
    ///
    /// Each byte holds seven bits of the length, the lowest first. The highest bit is set in every
    /// byte except the last.
    ///
    /// ```text
    ///   05 h e l l o AC 02 . . 300 bytes . .
    ///   || |-------| |---| |---------------|
    ///   5    frame    300        frame
    /// ```
    ///
    /// A length is malformed if it has more than 64 bits or does not have its shortest form. Other
    /// decoders accept longer forms; [`varint_lax`](Framing::varint_lax) does too.
    ///
    /// Similar to protobuf's `writeDelimitedTo`, prost's `encode_length_delimited` and Netty's
    /// `ProtobufVarint32FrameDecoder`.
    pub fn varint() -> Self {
        Self::of(Kind::Varint(Varint {
            limit: Self::LIMIT,
            is_lax: false,
        }))
    }

    /// Creates a [`varint`](Framing::varint) framing that accepts a length in any form of up to ten
    /// bytes, as other decoders do. `send` writes the shortest form.
    ///
    /// ```text
    ///   85 80 00 h e l l o
    ///   |------| |-------|
    ///      5       frame
    /// ```
    pub fn varint_lax() -> Self {
        Self::of(Kind::Varint(Varint {
            limit: Self::LIMIT,
            is_lax: true,
        }))
    }

    /// Creates a framing for netstrings: a length in decimal digits, `:`, the payload and `,`.
    ///
    /// ```text
    ///   5 : h e l l o , 0 : ,
    ///   |-| |-------|   |-|
    ///    5    frame      0: an empty frame
    /// ```
    ///
    /// A length with a leading zero is malformed. A frame is too long as soon as the digits
    /// received so far exceed the frame limit.
    ///
    /// Specified in <https://cr.yp.to/proto/netstrings.txt>. Similar to Twisted's
    /// `NetstringReceiver`; SCGI uses netstrings.
    pub fn netstring() -> Self {
        Self::of(Kind::Netstring(Netstring { limit: Self::LIMIT }))
    }

    /// Creates a framing with a length field inside a header.
    ///
    /// The field is 1 to 8 bytes wide and may have any offset. Its value may count more or fewer
    /// bytes than follow it.
    ///
    /// ```text
    ///   v 1 08 h e l l o       LengthField::new(1).leading(b"v1").adjustment(-3)
    ///   |-| || |-------|
    ///       8    frame
    /// ```
    ///
    /// [`LengthField`] documents the settings. It also lists the equivalents of Netty's
    /// `LengthFieldBasedFrameDecoder` and tokio-util's `LengthDelimitedCodec`.
    ///
    /// The frame limit counts the delivered bytes, regardless of the bytes that the field counts. A
    /// length is malformed if the frame would end inside its header, even if the header is kept. A
    /// length beyond 64 bits is too long for every limit.
    ///
    /// # Panics
    ///
    /// Panics if the header [strips](LengthField::strip) more than 1 MiB beyond itself.
    pub fn length_field(header: LengthField) -> Self {
        let codec = Headed::new(header, Self::LIMIT);
        Self::of(Kind::LengthField(Arc::new(codec)))
    }

    /// Creates a framing for frames that consist of a header and a body.
    ///
    /// `header` is the framing of the header. `body_len` computes the number of body bytes from the
    /// header's payload.
    ///
    /// A [fixed](Framing::fixed) header is a struct that describes the body after it. A header that
    /// is a [line](Framing::line) or ends with a [delimiter](Framing::delimiter) suits text
    /// protocols.
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
    /// The delivered frame is header and body, including the bytes of the header's own framing. The
    /// frame limit counts all of them. `send` rejects a payload whose length differs from the
    /// length in its header.
    ///
    /// A header that exceeds its own limit, or the limit of the whole frame, closes the connection.
    /// This is so even with [`skip_too_long`](Framing::skip_too_long), because the length of the
    /// frame is unknown.
    ///
    /// Similar to Swoole's `package_length_func`.
    ///
    /// # Panics
    ///
    /// Panics if `header` is [`raw`](Framing::raw), which has no end, [`custom`](Framing::custom),
    /// or itself a framing with header and body.
    ///
    /// # Examples
    ///
    /// ```
    /// use unstick::{FrameError, Framing};
    ///
    /// // A header with a type and a record count. The type determines the record size.
    /// let framing = Framing::header_body(Framing::fixed(3), |header| {
    ///     let count = u64::from(u16::from_be_bytes([header[1], header[2]]));
    ///     match header[0] {
    ///         b'p' => Ok(8 * count),
    ///         b'q' => Ok(24 * count),
    ///         _ => Err(FrameError::Malformed("unknown record type")),
    ///     }
    /// });
    /// # assert_eq!(framing.to_string(), "header-body");
    ///
    /// // A header line that ends with the length of the body.
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
    pub fn header_body<F>(header: Self, body_len: F) -> Self
    where
        F: Fn(&[u8]) -> Result<u64, FrameError> + Send + Sync + 'static,
    {
        let header = header.kind().clone();
        let codec = HeaderBody::new(header, Arc::new(body_len), Self::LIMIT);
        Self::of(Kind::HeaderBody(Arc::new(codec)))
    }

    /// Creates a framing from a custom [`Codec`], which has its own limits.
    ///
    /// Similar to tokio-util's `Decoder` and `Encoder`, Netty's `ByteToMessageDecoder` and Go's
    /// `bufio.SplitFunc`.
    ///
    /// Each connection makes one allocation for the state of its codec. Built-in framings make
    /// none.
    pub fn custom<C>(codec: C) -> Self
    where
        C: Codec + Send + Sync + 'static,
        C::State: Send + 'static,
    {
        Self::of(Kind::Custom(Arc::new(Boxed(codec))))
    }

    /// Sets the maximum payload of a frame, in bytes, for decoding and for encoding.
    ///
    /// A longer frame from the peer closes the connection with [`FrameError::TooLong`], unless such
    /// frames are [skipped](Framing::skip_too_long). The connection closes as soon as the header is
    /// received, or as soon as more than `bytes` bytes are received without a delimiter. `send`
    /// rejects a longer payload. Zero allows empty frames only.
    ///
    /// Some framings differ:
    ///
    /// * [`raw`](Framing::raw): the limit bounds the bytes that are delivered at once. Zero counts
    ///   as one, and `send` accepts any payload.
    /// * [`fixed`](Framing::fixed) and [`custom`](Framing::custom): this method has no effect.
    pub fn frame_len_max(self, bytes: usize) -> Self {
        let mut codecs = Arc::unwrap_or_clone(self.0);
        match &mut codecs.input {
            Kind::Raw(raw) => raw.frame_len_max = bytes.max(1),
            other => other.change_limit(&mut |limit| limit.len = bytes),
        }
        Self(Arc::new(codecs))
    }

    /// Skips frames that exceed the limit, and continues with the next frame. By default such a
    /// frame ends the stream.
    ///
    /// ```text
    ///   00 02 o k FF FF . . 65,535 bytes . . 00 03 y e s
    ///         |-| |------------------------|       |---|
    ///        frame    skipped, reported            frame
    /// ```
    ///
    /// Exactly that frame is skipped, whatever its length: by its number of bytes, or up to its
    /// delimiter. None of its bytes is stored.
    ///
    /// The callback [`on_skipped`](crate::Handler::on_skipped) reports the frame as soon as its
    /// length is known, in order with the delivered frames. If a header contains the length, that
    /// is before the payload arrives. A skipped frame counts as a frame for the budget and for
    /// [`Config::frame_deadline`](crate::Config::frame_deadline).
    ///
    /// Malformed input still ends the stream, because the start of the next frame is unknown.
    /// Examples are a length of more than 64 bits and a header that is itself too long. The comma
    /// after a skipped [`netstring`](Framing::netstring) is not checked.
    ///
    /// This method has no effect on [`raw`](Framing::raw) and [`fixed`](Framing::fixed), which have
    /// no frames that are too long. It has none on [`custom`](Framing::custom) either, because the
    /// codec has its own rules.
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
    pub fn skip_too_long(self) -> Self {
        let mut codecs = Arc::unwrap_or_clone(self.0);
        codecs.input.change_limit(&mut |limit| limit.skips = true);
        Self(Arc::new(codecs))
    }

    fn length(width: u8, endian: Endian) -> Self {
        Self::of(Kind::Length(Length::new(width, endian, Self::LIMIT)))
    }

    fn of(kind: Kind) -> Self {
        Self(Arc::new(Codecs {
            input: kind,
            output: None,
        }))
    }

    /// True if both are clones of one framing.
    #[inline]
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Returns the codec of the input.
    #[inline]
    pub(crate) fn kind(&self) -> &Kind {
        &self.0.input
    }

    /// Appends `payload` as one frame. After an error nothing is appended.
    #[inline]
    pub(crate) fn encode(&self, payload: &[u8], buf: &mut Buf) -> Result<(), FrameError> {
        match self.output() {
            Kind::Length(length) => length.encode_to(payload, buf),
            other => other.encode(payload, buf),
        }
    }

    /// Returns the exclusive upper bound of the payload lengths that this framing decodes and
    /// encodes with a [4-byte big-endian prefix](Length::u32_of). Zero for every other framing.
    pub(crate) fn u32_len_end(&self) -> usize {
        match self.kind() {
            Kind::Length(length) if length.is_u32() && self.0.output.is_none() => {
                length.payload_len_max.saturating_add(1)
            }
            _ => 0,
        }
    }

    /// Appends the header and trailer of `payload`, but not the payload. Returns the position in
    /// `buf` at which the payload belongs.
    ///
    /// Returns `None` and appends nothing if the codec needs the payload in the buffer.
    pub(crate) fn encode_around(
        &self,
        payload: &[u8],
        buf: &mut Buf,
    ) -> Result<Option<usize>, FrameError> {
        // These codecs read the whole frame after writing it.
        if let Kind::Delimited(_) | Kind::LengthField(_) | Kind::Custom(_) = self.output() {
            return Ok(None);
        }
        let mut frame = unfinished_frame(buf);
        let mut out = Out::leaving_out(&mut frame, payload);
        with_builtin!(self.output(), codec => codec.encode(payload, &mut out))?;
        let place = out.suppressed.and_then(|(_, place)| place);
        frame.disarm();
        Ok(place)
    }
}

impl Kind {
    /// True if the partial frame `head` ends inside its header. Always false for a framing without
    /// a header and for a custom codec.
    pub(crate) fn is_header_cut(&self, head: &[u8]) -> bool {
        match self {
            Self::Length(codec) => head.len() < usize::from(codec.width),
            Self::Varint(_) => head.iter().all(|byte| byte & 0x80 != 0),
            Self::Netstring(_) => !head.contains(&b':'),
            Self::LengthField(codec) => head.len() < codec.field.header_len(),
            Self::HeaderBody(codec) => codec.is_header_cut(head),
            Self::Raw(_) | Self::Line(_) | Self::Fixed(_) => false,
            Self::Delimited(_) | Self::Custom(_) => false,
        }
    }

    /// Applies `change` to the frame limit. Does nothing for raw, fixed and custom framings.
    pub(super) fn change_limit(&mut self, change: &mut dyn FnMut(&mut Limit)) {
        match self {
            Self::Length(length) => {
                change(&mut length.limit);
                *length = Length::new(length.width, length.endian, length.limit);
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
        let mut frame = unfinished_frame(buf);
        let out = &mut Out::new(&mut frame);
        with_builtin!(self, codec => codec.encode(payload, out))?;
        frame.disarm();
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
    fn header_is_cut_until_its_last_byte_is_received() {
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
            for after in [&b""[..], b"12345"] {
                let head = [header, after].concat();
                assert!(!framing.kind().is_header_cut(&head), "{framing}");
            }
        }
        for framing in [Framing::line(), Framing::fixed(9), Framing::raw()] {
            assert!(!framing.kind().is_header_cut(b"head"), "{framing}");
        }
    }

    #[test]
    fn framing_is_one_pointer_wide() {
        assert_eq!(size_of::<Framing>(), size_of::<usize>());
    }
}
