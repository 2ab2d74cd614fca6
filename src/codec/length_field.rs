//! Length field inside a header: any offset, and a configurable meaning of its value.

use super::length::{Endian, field_max};
use super::{BuiltinCodec, Codec, Limit, Out, ScanState, Step};
use crate::error::FrameError;

/// Description of a header that contains a length field, for
/// [`Framing::length_field`](super::Framing::length_field).
///
/// ```text
///   | leading | field | following |           body            | next frame ..
///                     `---------- length + adjustment --------'
///   `-------- stripped -----------'---- delivered as frame ---'
/// ```
///
/// The number of bytes after the field is its value plus the adjustment. By default, the header is
/// stripped, and the remaining bytes are the delivered frame. [`strip`](LengthField::strip) sets
/// another number of bytes to strip.
///
/// # Equivalents in other libraries
///
/// | other library | unstick |
/// |---|---|
/// | Netty `LengthFieldBasedFrameDecoder(max, lengthFieldOffset, lengthFieldLength, lengthAdjustment, initialBytesToStrip)` | `LengthField::new(lengthFieldLength).leading(&[0; lengthFieldOffset]).adjustment(lengthAdjustment).strip(initialBytesToStrip)`; Netty's `max` counts the stripped bytes too |
/// | Netty `failFast = false` | [`skip_too_long`](super::Framing::skip_too_long) |
/// | tokio-util `LengthDelimitedCodec::builder()` with `length_field_offset(o)`, `length_field_length(w)`, `length_adjustment(a)` | `LengthField::new(w).leading(&[0; o]).adjustment(a)` |
/// | tokio-util with `num_skip(s)` in addition | `.strip(s)` in addition, and an adjustment of `a + s - (o + w)`: tokio-util's length counts from the end of the skipped bytes |
/// | Erlang `{packet, 1}`, `{packet, 2}`, `{packet, 4}` | [`length_u8`](super::Framing::length_u8), [`length_u16`](super::Framing::length_u16), [`length_u32`](super::Framing::length_u32) |
/// | Twisted `Int8StringReceiver`, `Int16StringReceiver`, `Int32StringReceiver` | [`length_u8`](super::Framing::length_u8), [`length_u16`](super::Framing::length_u16), [`length_u32`](super::Framing::length_u32) |
/// | protobuf `writeDelimitedTo`, Netty `ProtobufVarint32FrameDecoder` | [`varint`](super::Framing::varint) |
///
/// # Examples
///
/// Two magic bytes, then a 3-byte little-endian length that counts the whole frame:
///
/// ```text
///   CA FE 0A 00 00 h e l l o
///   |---| |------| |-------|
///            10      frame
/// ```
///
/// ```
/// use unstick::{Framer, Framing, LengthField};
///
/// let header = LengthField::new(3).little_endian().leading(b"\xCA\xFE").adjustment(-5);
/// let mut framer = Framer::new(Framing::length_field(header));
/// assert_eq!(framer.frame(b"hello")?, b"\xCA\xFE\x0A\x00\x00hello");
/// # Ok::<(), unstick::FrameError>(())
/// ```
///
/// A 2-byte length, a type byte and four bytes of flags. The length counts only the bytes after the
/// flags, and frames are delivered with their header:
///
/// ```text
///   00 05 T . . . . h e l l o
///   |---| |-------| |-------|
///     5                 5
///   |-----------------------|
///             frame
/// ```
///
/// ```
/// use unstick::{Deframer, Framing, LengthField};
///
/// let header = LengthField::new(2).following(&[0; 5]).adjustment(5).keep_header();
/// let mut deframer = Deframer::new(Framing::length_field(header));
/// deframer.extend(b"\x00\x05T....hello");
/// assert_eq!(deframer.next_frame()?, Some(&b"\x00\x05T....hello"[..]));
/// # Ok::<(), unstick::DecodeError>(())
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct LengthField {
    width: u8,
    endian: Endian,
    leading: Box<[u8]>,
    following: Box<[u8]>,
    adjustment: i64,
    /// Number of bytes to remove from the start of each frame; `None` for the length of the header.
    strip: Option<usize>,
}

impl LengthField {
    /// Describes a header that is only a big-endian length of `width` bytes. The length counts the
    /// bytes after the field.
    ///
    /// # Panics
    ///
    /// Panics if `width` is not 1 to 8.
    pub fn new(width: u8) -> Self {
        assert!(
            (1..=8).contains(&width),
            "the width of a length field must be 1 to 8 bytes"
        );
        Self {
            width,
            endian: Endian::Big,
            leading: Box::default(),
            following: Box::default(),
            adjustment: 0,
            strip: None,
        }
    }

    /// Sets the byte order of the field to little-endian: the lowest byte comes first.
    pub fn little_endian(mut self) -> Self {
        self.endian = Endian::Little;
        self
    }

    /// Sets the header bytes before the field. Their number is the offset of the field.
    ///
    /// `send` writes these bytes if they are stripped on delivery; otherwise the payload contains
    /// them. Received header bytes are not compared with `bytes`. To check them in the handler,
    /// call [`keep_header`](LengthField::keep_header), which delivers them.
    pub fn leading(mut self, bytes: &[u8]) -> Self {
        self.leading = Box::from(bytes);
        self
    }

    /// Sets the header bytes after the field. The [adjusted](LengthField::adjustment) length counts
    /// these bytes too.
    ///
    /// `send` writes these bytes if they are stripped on delivery; otherwise the payload contains
    /// them. Received header bytes are not compared with `bytes`.
    pub fn following(mut self, bytes: &[u8]) -> Self {
        self.following = Box::from(bytes);
        self
    }

    /// Sets the adjustment: a number that is added to the value of the field. The sum is the number
    /// of bytes after the field.
    ///
    /// If the field counts the header too, the adjustment is minus the length of the header up to
    /// the end of the field. If the field does not count a trailer, the adjustment is the length of
    /// the trailer.
    pub fn adjustment(mut self, bytes: i64) -> Self {
        self.adjustment = bytes;
        self
    }

    /// Sets the number of bytes to remove from the start of each frame. Default: the header.
    ///
    /// `bytes` is at most the length of the header plus 1 MiB, because `send` must reserve this
    /// number of bytes.
    ///
    /// Header bytes that are not stripped are delivered. `send` expects these bytes at the start of
    /// the payload, and fills in the length. If body bytes are stripped too, `send` writes zeros
    /// for them. A received frame that is shorter than `bytes` is malformed.
    pub fn strip(mut self, bytes: usize) -> Self {
        self.strip = Some(bytes);
        self
    }

    /// Delivers frames with their header. Same as `strip(0)`.
    ///
    /// `send` expects a payload that begins with a header, and fills in the length field.
    pub fn keep_header(self) -> Self {
        self.strip(0)
    }

    /// Returns the offset of the first byte after the field.
    fn field_end(&self) -> usize {
        self.leading.len().saturating_add(usize::from(self.width))
    }

    pub(super) fn header_len(&self) -> usize {
        self.field_end().saturating_add(self.following.len())
    }

    fn stripped(&self) -> usize {
        self.strip.unwrap_or_else(|| self.header_len())
    }

    /// Returns the length of a whole frame whose field holds `value`, or `None` if the length
    /// exceeds `u64`. Fails if the length is less than the length of the header or of the stripped
    /// bytes.
    fn frame_len(&self, value: u64) -> Result<Option<u64>, FrameError> {
        let after_field = value.checked_add_signed(self.adjustment);
        let len = after_field.and_then(|len| len.checked_add(self.field_end() as u64));
        let is_too_short = match len {
            Some(len) => len < self.stripped().max(self.header_len()) as u64,
            None => after_field.is_none() && self.adjustment < 0,
        };
        match is_too_short {
            true => Err(FrameError::Malformed(
                "the length is too small for the header and the stripped bytes",
            )),
            false => Ok(len),
        }
    }

    /// Returns the field value for a frame of `frame_len` bytes. `frame_len` is at least the length
    /// of the header.
    fn field_of(&self, frame_len: usize) -> Result<u64, FrameError> {
        let len = frame_len.saturating_sub(self.field_end()) as u64;
        let adjustment = self.adjustment.unsigned_abs();
        let value = if self.adjustment < 0 {
            len.checked_add(adjustment)
        } else {
            let value = len.checked_sub(adjustment);
            Some(value.ok_or(FrameError::Unencodable(
                "the payload is shorter than the adjustment of the length field",
            ))?)
        };
        let field_max = field_max(self.width);
        match value {
            Some(value) if value <= field_max => Ok(value),
            // Both numbers of the error count bytes of payload, as in every `TooLong`.
            _ => Err(FrameError::TooLong {
                len: frame_len.saturating_sub(self.stripped()) as u64,
                limit: field_max
                    .saturating_add_signed(self.adjustment)
                    .saturating_add(self.field_end() as u64)
                    .saturating_sub(self.stripped() as u64),
            }),
        }
    }
}

/// Maximum number of bytes that are stripped after the header. Each sent frame contains a zero for
/// each of these bytes, even if its payload is short.
const STRIPPED_BODY_MAX: usize = 1 << 20;

/// Codec that a [`LengthField`] describes.
#[derive(Debug, Clone)]
pub(crate) struct LengthFieldCodec {
    pub(crate) field: LengthField,
    pub(crate) limit: Limit,
}

impl LengthFieldCodec {
    /// Creates the codec that `field` describes.
    ///
    /// # Panics
    ///
    /// Panics if `field` strips too many bytes: see [`LengthField::strip`].
    pub(super) fn new(field: LengthField, limit: Limit) -> Self {
        let stripped_max = field.header_len().saturating_add(STRIPPED_BODY_MAX);
        assert!(
            field.stripped() <= stripped_max,
            "a length field cannot strip {} bytes: the maximum is {stripped_max}, which is 1 MiB \
             more than its header",
            field.stripped(),
        );
        Self { field, limit }
    }
}

impl BuiltinCodec for LengthFieldCodec {}

impl Codec for LengthFieldCodec {
    type State = ScanState;

    fn decode(&self, _: &mut ScanState, bytes: &[u8]) -> Result<Step, FrameError> {
        let Self { field, limit } = self;
        let field_end = field.field_end();
        let Some(value) = bytes.get(field.leading.len()..field_end) else {
            return Ok(Step::Need(field_end));
        };
        let start = field.stripped();
        match field.frame_len(field.endian.read(value))? {
            Some(whole) => limit.step(start, whole.saturating_sub(start as u64), bytes),
            None => limit.exceeded(u64::MAX, u64::MAX),
        }
    }

    fn encode(&self, payload: &[u8], out: &mut Out<'_>) -> Result<(), FrameError> {
        self.limit.check_payload(payload.len())?;
        out.put_zeros(self.headroom());
        out.put(payload);
        self.encode_in_place(out)
    }

    fn headroom(&self) -> usize {
        self.field.stripped()
    }

    fn encode_in_place(&self, out: &mut Out<'_>) -> Result<(), FrameError> {
        let Self { field, limit } = self;
        let (stripped, field_end) = (field.stripped(), field.field_end());
        let frame = out.bytes_mut();
        limit.check_payload(frame.len().saturating_sub(stripped))?;
        if frame.len() < field.header_len() {
            return Err(FrameError::Unencodable(
                "the payload is shorter than its header",
            ));
        }
        let value = field.field_of(frame.len())?;
        // The stripped part of the header comes from the configuration, the remaining part from the
        // payload.
        let (leading, rest) = frame.split_at_mut(field.leading.len());
        let (place, following) = rest.split_at_mut(usize::from(field.width));
        field.endian.write(value, place);
        let stripped_after = stripped.saturating_sub(field_end);
        for (place, bytes, stripped) in [
            (leading, &field.leading, stripped),
            (following, &field.following, stripped_after),
        ] {
            for (place, byte) in place.iter_mut().zip(bytes).take(stripped) {
                *place = *byte;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Buf;

    fn headed(field: &LengthField) -> LengthFieldCodec {
        with_limit(field, 1 << 20)
    }

    fn with_limit(field: &LengthField, limit: usize) -> LengthFieldCodec {
        LengthFieldCodec {
            field: field.clone(),
            limit: Limit::of(limit),
        }
    }

    fn encode(codec: &LengthField, payload: &[u8]) -> Result<Vec<u8>, FrameError> {
        let mut buf = Buf::default();
        headed(codec).encode(payload, &mut Out::new(&mut buf))?;
        Ok(buf.bytes().to_vec())
    }

    fn decode(codec: &LengthField, bytes: &[u8]) -> Result<Vec<u8>, FrameError> {
        match headed(codec).decode(&mut ScanState::default(), bytes)? {
            Step::Frame { frame, consumed } => {
                assert_eq!(consumed, bytes.len());
                Ok(bytes[frame].to_vec())
            }
            step => panic!("the bytes are not a frame: {step:?}"),
        }
    }

    #[test]
    fn headers_of_other_libraries_are_decoded_and_encoded() {
        let hello = b"HELLO, WORLD";
        let shapes: [(LengthField, &[u8]); 5] = [
            (LengthField::new(2), b"\x00\x0CHELLO, WORLD"),
            (LengthField::new(2).adjustment(-2), b"\x00\x0EHELLO, WORLD"),
            (
                LengthField::new(3).leading(b"\xCA\xFE"),
                b"\xCA\xFE\x00\x00\x0CHELLO, WORLD",
            ),
            (
                LengthField::new(2).leading(b"\xCA").adjustment(-3),
                b"\xCA\x00\x0FHELLO, WORLD",
            ),
            (
                LengthField::new(3).little_endian(),
                b"\x0C\x00\x00HELLO, WORLD",
            ),
        ];
        for (codec, bytes) in shapes {
            assert_eq!(encode(&codec, hello).expect("the payload fits"), bytes);
            assert_eq!(decode(&codec, bytes).expect("the bytes are a frame"), hello);
            let kept = codec.keep_header();
            assert_eq!(decode(&kept, bytes).expect("the bytes are a frame"), bytes);
            assert_eq!(encode(&kept, bytes).expect("the payload fits"), bytes);
        }
    }

    #[test]
    fn encode_changes_only_the_length_field_of_a_kept_header() {
        let codec = LengthField::new(2).leading(&[0, 0]).keep_header();
        let sent = encode(&codec, b"\xAB\xCD??body").expect("the payload fits");
        assert_eq!(sent, b"\xAB\xCD\x00\x04body");
        assert!(matches!(
            encode(&codec, b"abc"),
            Err(FrameError::Unencodable(_))
        ));
    }

    #[test]
    fn length_field_is_checked_for_every_width_and_adjustment() {
        let values = [
            0,
            1,
            2,
            255,
            256,
            65_535,
            1 << 31,
            u64::from(u32::MAX),
            1 << 63,
            u64::MAX,
        ];
        let adjustments = [0, 1, -1, -12, 12, i64::MAX, i64::MIN, i64::MIN + 1];
        for width in 1..=8_u8 {
            for value in values.map(|value| value & (u64::MAX >> (64 - 8 * u32::from(width)))) {
                for adjustment in adjustments {
                    let codec = headed(&LengthField::new(width).adjustment(adjustment));
                    let bytes = &value.to_be_bytes()[8 - usize::from(width)..];
                    let body = i128::from(value) + i128::from(adjustment);
                    let step = codec.decode(&mut ScanState::default(), bytes);
                    match body {
                        ..0 => assert!(matches!(step, Err(FrameError::Malformed(_)))),
                        0 => assert!(matches!(step, Ok(Step::Frame { .. }))),
                        1..=0x10_0000 => assert!(matches!(step, Ok(Step::Need(_)))),
                        _ => assert!(matches!(step, Err(FrameError::TooLong { .. }))),
                    }
                }
            }
        }
    }

    #[test]
    fn body_that_the_length_field_cannot_hold_is_rejected() {
        let codec = LengthField::new(1);
        assert_eq!(
            encode(&codec, &[7; 255]).expect("the payload fits").len(),
            256
        );
        assert!(matches!(
            encode(&codec, &[7; 256]),
            Err(FrameError::TooLong {
                len: 256,
                limit: 255
            })
        ));
        // The largest payload depends on the header bytes that the length counts, and on those that
        // the payload contains.
        let field = LengthField::new(1).leading(b"?").following(b"!!");
        for (field, largest) in [
            (field.clone(), 253),
            (field.clone().strip(1), 256),
            (field.clone().strip(7), 250),
            (field.clone().adjustment(-7), 246),
            (field.clone().adjustment(7), 260),
            (field.keep_header(), 257),
        ] {
            encode(&field, &vec![7; largest]).expect("the payload fits");
            let error = encode(&field, &vec![7; largest + 1])
                .expect_err("the payload has one byte too many");
            let FrameError::TooLong { len, limit } = error else {
                panic!("{field:?}: {error}");
            };
            let largest = largest as u64;
            assert_eq!((len, limit), (largest + 1, largest), "{field:?}");
        }
        let short = LengthField::new(1).adjustment(4);
        assert!(matches!(
            encode(&short, b"abc"),
            Err(FrameError::Unencodable(_))
        ));
        assert_eq!(
            encode(&short, b"abcd").expect("the payload fits"),
            b"\x00abcd"
        );
    }

    #[test]
    fn frame_limit_counts_a_kept_header() {
        let field = LengthField::new(2).leading(b"??").keep_header();
        let encode = |limit, payload: &[u8]| {
            let mut buf = Buf::default();
            with_limit(&field, limit).encode(payload, &mut Out::new(&mut buf))
        };
        let decode = |limit, bytes: &[u8]| {
            let step = with_limit(&field, limit).decode(&mut ScanState::default(), bytes);
            step.map(drop)
        };
        decode(6, b"??\0\x02ab").expect("the frame is at the limit");
        encode(6, b"??\0\0ab").expect("the frame is at the limit");
        for result in [decode(6, b"??\0\x03abc"), encode(6, b"??\0\0abc")] {
            assert!(matches!(
                result,
                Err(FrameError::TooLong { len: 7, limit: 6 })
            ));
        }
        for result in [decode(3, b"??\0\0"), encode(3, b"??\0\0")] {
            assert!(
                matches!(result, Err(FrameError::TooLong { len: 4, limit: 3 })),
                "the header alone is over the limit"
            );
        }
    }

    /// Examples from the documentation of Netty's `LengthFieldBasedFrameDecoder`. Each row has the
    /// offset, the width, the adjustment and the number of stripped bytes. The first bytes received
    /// and the first bytes delivered follow.
    #[test]
    fn netty_strip_examples_are_decoded_and_encoded() {
        let hello = |front: &[u8]| [front, b"HELLO, WORLD"].concat();
        let of = |offset: usize, width, adjustment, strip| {
            LengthField::new(width)
                .leading(&[0xCA, 0xFE][..offset])
                .adjustment(adjustment)
                .strip(strip)
        };
        let shapes: [(LengthField, &[u8], &[u8]); 9] = [
            (of(0, 2, 0, 0), b"\x00\x0C", b"\x00\x0C"),
            (of(0, 2, 0, 2), b"\x00\x0C", b""),
            (of(0, 2, -2, 0), b"\x00\x0E", b"\x00\x0E"),
            (
                of(2, 3, 0, 0),
                b"\xCA\xFE\x00\x00\x0C",
                b"\xCA\xFE\x00\x00\x0C",
            ),
            (
                of(0, 3, 2, 0),
                b"\x00\x00\x0C\xCA\xFE",
                b"\x00\x00\x0C\xCA\xFE",
            ),
            (of(1, 2, 1, 3), b"\xCA\x00\x0C\xFE", b"\xFE"),
            (of(1, 2, -3, 3), b"\xCA\x00\x10\xFE", b"\xFE"),
            (of(1, 2, 1, 1), b"\xCA\x00\x0C\xFE", b"\x00\x0C\xFE"),
            (of(0, 3, 2, 5), b"\x00\x00\x0C\x00\x00", b""),
        ];
        for (field, front, delivered) in shapes {
            let (stream, frame) = (hello(front), hello(delivered));
            assert_eq!(
                decode(&field, &stream).expect("the bytes are a frame"),
                frame,
                "{field:?}"
            );
            assert_eq!(
                encode(&field, &frame).expect("the payload fits"),
                stream,
                "{field:?}"
            );
        }
        let of_its_header = of(1, 1, 2, 4).following(b"??");
        let sent = encode(&of_its_header, b"abc").expect("the payload fits");
        assert_eq!(sent, b"\xCA\x03??abc");
        let part = of(1, 1, 2, 3).following(b"?!");
        let sent = encode(&part, b"+abc").expect("the payload fits");
        assert_eq!(sent, b"\xCA\x03?+abc");
        for short in [of(0, 1, 0, 4), of(0, 1, 0, 0).following(b"abc")] {
            assert!(matches!(
                decode(&short, b"\x02ab"),
                Err(FrameError::Malformed(_))
            ));
        }
    }

    #[test]
    fn length_field_with_extreme_adjustments_round_trips() {
        for adjustment in [i64::MIN, i64::MIN + 1, -1, 0, 3] {
            let codec = LengthField::new(8).adjustment(adjustment);
            let sent = encode(&codec, b"abc").expect("the payload fits");
            assert_eq!(
                decode(&codec, &sent).expect("the bytes are a frame"),
                b"abc"
            );
        }
        let codec = LengthField::new(8).adjustment(i64::MAX);
        encode(&codec, b"abc").expect_err("the payload is shorter than the adjustment");
    }

    #[test]
    fn length_field_end_beyond_u64_is_too_long_for_any_limit() {
        let field = LengthField::new(8).leading(b"?");
        let bytes = b"?\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF";
        for field in [field.clone(), field.keep_header()] {
            let codec = with_limit(&field, usize::MAX);
            let step = codec.decode(&mut ScanState::default(), bytes);
            let error = step.expect_err("the frame exceeds every limit");
            assert!(matches!(error, FrameError::TooLong { .. }), "{error}");
        }
    }
}
