//! [`Framing`]: the public type that selects the codec of a listener, connection or other stream.

use std::sync::Arc;

use super::compose::unfinished_frame;
use super::delimited::Delimited;
use super::erased::Boxed;
use super::fixed::Fixed;
use super::header_body::HeaderBody;
use super::kind::{Kind, with_builtin};
use super::length::{Endian, Length};
use super::length_field::{LengthField, LengthFieldCodec};
use super::length_fn::{FrameLen, LengthFn};
use super::line::Line;
use super::netstring::Netstring;
use super::output::Codecs;
use super::raw::Raw;
use super::varint::Varint;
use super::{Codec, Limit, Out};
use crate::error::FrameError;
use crate::memory::Buf;

/// Rule that divides a byte stream into frames: a built-in framing, or a custom [`Codec`].
///
/// A framing is one pointer, so cloning it is cheap. All connections that use a framing share it.
///
/// A framing applies to both directions. For a protocol whose replies are framed differently,
/// [`with_output`](Framing::with_output) combines two framings.
///
/// The payload of a frame is limited, by default to 1 MiB ([`Framing::FRAME_LEN_MAX`]). The limit
/// bounds the memory that one peer can make a connection hold. The default is enough for most
/// protocols, and small enough that thousands of peers may use all of it.
///
/// # Examples
///
/// The same payload, encoded with each framing:
///
/// ```
/// use unstick::{FrameError, FrameLen, Framer, Framing, LengthField};
///
/// fn framed(framing: Framing) -> Result<Vec<u8>, FrameError> {
///     Ok(Framer::new(framing).frame(b"hello")?.to_vec())
/// }
///
/// assert_eq!(framed(Framing::raw())?, b"hello");
/// assert_eq!(framed(Framing::fixed(5))?, b"hello");
/// assert_eq!(framed(Framing::line())?, b"hello\n");
/// assert_eq!(framed(Framing::line_crlf())?, b"hello\r\n");
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
/// // The header has two constant bytes and a one-byte length, which counts the header too.
/// let field = LengthField::new(1).leading(b"v1").adjustment(-3);
/// assert_eq!(framed(Framing::length_field(field))?, b"v1\x08hello");
///
/// // The payload begins with a one-byte header, which determines the length of the body.
/// let is_hello = |header: &[u8]| Ok(if header == b"h" { 4 } else { 0 });
/// assert_eq!(framed(Framing::header_body(Framing::fixed(1), is_hello))?, b"hello");
///
/// // A function computes the length of the whole payload.
/// assert_eq!(framed(Framing::length_fn(|_| Ok(FrameLen::Total(5))))?, b"hello");
/// # Ok::<(), FrameError>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Framing(pub(super) Arc<Codecs>);

impl Framing {
    /// Default maximum payload of a frame, in bytes: 1 MiB.
    /// [`frame_len_max`](Framing::frame_len_max) changes it.
    pub const FRAME_LEN_MAX: usize = 1 << 20;

    const LIMIT: Limit = Limit::of(Self::FRAME_LEN_MAX);

    /// Creates a framing without boundaries: the bytes of each read are delivered as one frame.
    ///
    /// The frames do not correspond to the messages that the peer sent. The frame limit only bounds
    /// the number of bytes that one call of `on_frame` gets.
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
    /// Use it for logs, NDJSON, Redis commands and other protocols whose peers send `\n` or `\r\n`.
    /// Do not use it if another program that reads the same bytes accepts only `\r\n` as a line
    /// end, as in SMTP: see [`line_crlf`](Framing::line_crlf).
    ///
    /// `send` appends `\n`. It rejects a payload that contains `\n` or ends with `\r`, because the
    /// peer would not decode the same payload. A partial line at the end of the stream is not
    /// delivered; its bytes are counted in [`Closed::undecoded_bytes`](crate::Closed). To deliver
    /// it, use [`unterminated_last_frame`](Framing::unterminated_last_frame).
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

    /// Creates a framing for lines that end with `\r\n`, and with nothing else.
    ///
    /// A `\r` without a `\n` after it, or a `\n` without a `\r` before it, is
    /// [`FrameError::Malformed`]. `send` appends `\r\n`. It rejects a payload that contains `\r` or
    /// `\n`.
    ///
    /// ```text
    ///   h e l l o \r \n . \r \n e v i l \n
    ///   |-------|       |                |
    ///     frame       frame          malformed
    /// ```
    ///
    /// Use it for SMTP, SIP, HTTP, IRC and other protocols whose lines are defined to end with
    /// `\r\n`, if another program reads the same bytes. If two programs disagree about the end of a
    /// line, a sender can hide lines from one of them. SMTP smuggling works this way. One server
    /// forwards `\n.\n` or `\r.\r` as text. The next server treats these bytes as the end of the
    /// message, and the text after them as a second message. [`line`](Framing::line) accepts a bare
    /// `\n` as a line end. [`delimiter(b"\r\n")`](Framing::delimiter) delivers a bare `\r` or `\n`
    /// as payload, so the program may forward it.
    ///
    /// The frame limit counts the line without `\r\n`. A partial line at the end of the stream is
    /// not delivered, as with [`line`](Framing::line).
    ///
    /// # Examples
    ///
    /// ```
    /// use unstick::{Deframer, FrameError, Framing};
    ///
    /// let mut deframer = Deframer::new(Framing::line_crlf());
    /// deframer.extend(b"DATA\r\ntext\n.\nMAIL FROM:<evil@example.org>\r\n");
    /// assert_eq!(deframer.next_frame()?, Some(&b"DATA"[..]));
    /// let error = deframer.next_frame().expect_err("the line contains a bare line feed");
    /// assert!(matches!(error.error, FrameError::Malformed(_)));
    /// # Ok::<(), unstick::DecodeError>(())
    /// ```
    pub fn line_crlf() -> Self {
        Self::of(Kind::Delimited(Arc::new(Delimited::strict_crlf(
            Self::LIMIT,
        ))))
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
    /// Use it for delimiters that are not line ends, such as a NUL byte. For lines, choose between
    /// [`line`](Framing::line), which accepts both line ends, and
    /// [`line_crlf`](Framing::line_crlf). The delimiter `\r\n` delivers a bare `\r` or `\n` as part
    /// of the frame. That is unsafe if the frame is passed on to a program that treats a bare `\r`
    /// or `\n` as a line end.
    ///
    /// `send` rejects a payload that contains the delimiter, or whose last bytes form a delimiter
    /// together with the appended delimiter. A partial frame at the end of the stream is not
    /// delivered; its bytes are counted in [`Closed::undecoded_bytes`](crate::Closed). To deliver
    /// it, use [`unterminated_last_frame`](Framing::unterminated_last_frame).
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
    /// The delimiter that begins first ends the frame. If several delimiters begin at one position,
    /// the longest of them ends the frame. If a longer delimiter may still be completed, the
    /// decoder waits for more bytes. At the end of the stream, it no longer waits, and the shorter
    /// delimiter ends the frame.
    ///
    /// ```text
    ///   o n e ; t w o ; ; ; t h r e e |       with the delimiters ";", ";;;" and "|"
    ///   |---|   |---|       |-------|
    ///   frame   frame         frame
    /// ```
    ///
    /// Use it for protocols that define several delimiters. For lines, [`line`](Framing::line) and
    /// [`line_crlf`](Framing::line_crlf) are safer. With `\r` and `\n` as separate delimiters, a
    /// sender can make line ends that other programs do not recognize.
    ///
    /// `send` appends the first delimiter that is not a prefix of another. It rejects a payload
    /// whose frame might end too early. Such a payload contains a delimiter, or its last bytes are
    /// the start of a delimiter. The appended delimiter or the next frame might complete that
    /// delimiter.
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
    /// A length with a leading zero is malformed. A frame that is too long is reported as soon as
    /// the digits received so far exceed the frame limit. With
    /// [`skip_too_long`](Framing::skip_too_long), it is reported when all digits have arrived.
    ///
    /// Specified in <https://cr.yp.to/proto/netstrings.txt>. Similar to Twisted's
    /// `NetstringReceiver`; SCGI uses netstrings.
    pub fn netstring() -> Self {
        Self::of(Kind::Netstring(Netstring { limit: Self::LIMIT }))
    }

    /// Creates a framing with a length field inside a header.
    ///
    /// The field is 1 to 8 bytes wide and may have any offset. The number of bytes after the field
    /// is its value plus a constant.
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
    /// Panics if the number of [stripped](LengthField::strip) bytes exceeds the length of the
    /// header by more than 1 MiB.
    pub fn length_field(header: LengthField) -> Self {
        let codec = LengthFieldCodec::new(header, Self::LIMIT);
        Self::of(Kind::LengthField(Arc::new(codec)))
    }

    /// Creates a framing for frames that consist of a header and a body.
    ///
    /// `header` is the framing of the header. `body_len` computes the number of body bytes from the
    /// header's payload.
    ///
    /// A [fixed](Framing::fixed) header suits binary protocols, in which a struct describes the
    /// body after it. A header that is a [line](Framing::line) or ends with a
    /// [delimiter](Framing::delimiter) suits text protocols.
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
    /// The delivered frame consists of header and body, including the length prefix or delimiter of
    /// the header. The frame limit counts all these bytes. `send` rejects a payload whose length
    /// differs from the length in its header.
    ///
    /// `body_len` is called exactly once for each header that a connection receives, when the
    /// header is complete, and once for each payload that is sent. Each call may therefore take one
    /// entry from a queue, for example from the queue of the requests whose replies are received.
    /// If a connection is [detached](crate::Context::detach) within a frame, the connection that
    /// adopts the bytes calls `body_len` for this header again.
    ///
    /// A header that exceeds its own limit, or the limit of the whole frame, closes the connection,
    /// even with [`skip_too_long`](Framing::skip_too_long): the length of the frame is then
    /// unknown. A [fixed](Framing::fixed) header has no limit.
    ///
    /// Similar to Swoole's `package_length_func`.
    ///
    /// # Panics
    ///
    /// Panics if `header` is [`raw`](Framing::raw), [`custom`](Framing::custom),
    /// [`length_fn`](Framing::length_fn) or another `header_body`. Also panics if `header` has the
    /// option [`skip_between`](Framing::skip_between): set this option on the framing that this
    /// function returns.
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

    /// Creates a framing for frames whose length a function computes from their first bytes.
    ///
    /// The function receives bytes that begin at the frame's first byte; bytes of the next frames
    /// may follow the frame. The function returns [`FrameLen::Total`] with the length of the whole
    /// frame, [`FrameLen::Need`] if it needs more bytes, or an error if the bytes are malformed.
    ///
    /// ```text
    ///   30 05 h e l l o        a tag, then the number of bytes after it
    ///   |-----|                Need(2), then Total(2 + 5)
    ///   |-------------|
    ///        frame
    /// ```
    ///
    /// The delivered frame is the whole frame with its header. `send` sends the payload unchanged.
    /// It calls the function with the payload, and rejects the payload if the result is not the
    /// length of the payload.
    ///
    /// The function is called when a frame's first byte is received. After [`FrameLen::Need`], it
    /// is called again when the needed bytes have arrived. Once it has returned the length, it is
    /// not called for that frame again. It is also called once for each payload that is sent.
    ///
    /// The function never receives more bytes than the frame limit; with a limit of zero, it
    /// receives one byte. A function that asks for only one more byte at each call may examine all
    /// earlier bytes again each time. Its work then grows with the square of the header length.
    /// Such a function should return an error if the header becomes too long.
    ///
    /// [`skip_too_long`](Framing::skip_too_long) skips a frame whose total length exceeds the
    /// limit. A header that exceeds the limit still ends the stream.
    ///
    /// Similar to Swoole's `package_length_func`.
    ///
    /// # Examples
    ///
    /// MQTT: a type byte, then the length of the remaining frame in one to four bytes of seven bits
    /// each.
    ///
    /// ```
    /// use unstick::{Deframer, FrameError, FrameLen, Framing};
    ///
    /// let mqtt = Framing::length_fn(|bytes| {
    ///     let mut rest = 0;
    ///     for index in 1..=4 {
    ///         let Some(byte) = bytes.get(index) else {
    ///             return Ok(FrameLen::Need(index + 1));
    ///         };
    ///         rest |= u64::from(byte & 0x7F) << (7 * (index - 1));
    ///         if byte & 0x80 == 0 {
    ///             return Ok(FrameLen::Total(1 + index as u64 + rest));
    ///         }
    ///     }
    ///     Err(FrameError::Malformed("the length has more than four bytes"))
    /// });
    /// let mut deframer = Deframer::new(mqtt);
    /// deframer.extend(b"\xC0\x00\x30\x05\x00\x01a"); // PINGREQ, and the start of a PUBLISH
    /// assert_eq!(deframer.next_frame()?, Some(&b"\xC0\x00"[..]));
    /// assert_eq!(deframer.next_frame()?, None);
    /// deframer.extend(b"hi");
    /// assert_eq!(deframer.next_frame()?, Some(&b"\x30\x05\x00\x01ahi"[..]));
    /// # Ok::<(), unstick::DecodeError>(())
    /// ```
    pub fn length_fn<F>(frame_len: F) -> Self
    where
        F: Fn(&[u8]) -> Result<FrameLen, FrameError> + Send + Sync + 'static,
    {
        let (frame_len, limit) = (Arc::new(frame_len), Self::LIMIT);
        Self::of(Kind::LengthFn(Arc::new(LengthFn { frame_len, limit })))
    }

    /// Creates a framing from a custom [`Codec`], which has its own limits.
    ///
    /// Similar to tokio-util's `Decoder` and `Encoder`, Netty's `ByteToMessageDecoder` and Go's
    /// `bufio.SplitFunc`.
    ///
    /// Each connection makes up to two allocations for the state of its codec. Built-in framings
    /// make none.
    pub fn custom<C>(codec: C) -> Self
    where
        C: Codec + Send + Sync + 'static,
        C::State: Send + 'static,
    {
        Self::of(Kind::Custom(Arc::new(Boxed(codec))))
    }

    /// Returns the framing with a length prefix of `width` bytes.
    fn length(width: u8, endian: Endian) -> Self {
        Self::of(Kind::Length(Length::new(width, endian, Self::LIMIT)))
    }

    /// Returns the framing with the codec `kind` for both directions.
    pub(super) fn of(kind: Kind) -> Self {
        Self(Arc::new(Codecs {
            input: kind,
            output: None,
        }))
    }

    /// Returns true if `self` and `other` are clones of one framing.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Replaces the codec of the input by the codec that `change` returns. Returns the new framing.
    pub(super) fn map_input(self, change: impl FnOnce(Kind) -> Kind) -> Self {
        let mut codecs = Arc::unwrap_or_clone(self.0);
        codecs.input = change(codecs.input);
        Self(Arc::new(codecs))
    }

    /// Returns the codec of the input.
    pub(crate) fn kind(&self) -> &Kind {
        &self.0.input
    }

    /// Appends `payload` as one frame. After an error nothing is appended.
    pub(crate) fn encode(&self, payload: &[u8], buf: &mut Buf) -> Result<(), FrameError> {
        match self.output() {
            Kind::Length(length) => length.encode_to(payload, buf),
            other => other.encode(payload, buf),
        }
    }

    /// Returns 1 more than the maximum payload length, if this framing uses a [4-byte big-endian
    /// length](Length::is_u32) in both directions. Returns zero for every other framing.
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
        // These codecs check or change the whole frame after the payload was put, so they need the
        // payload in the buffer.
        if let Kind::Delimited(_) | Kind::LengthField(_) | Kind::Between(_) | Kind::Custom(_) =
            self.output()
        {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn framing_is_one_pointer_wide() {
        assert_eq!(size_of::<Framing>(), size_of::<usize>());
    }
}
