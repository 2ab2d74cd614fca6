//! A length field anywhere in a header, counting what the protocol says it counts.

use super::{BuiltinCodec, Codec, Limit, Out, ScanState, Step};
use crate::error::FrameError;

/// Describes a header with a length in it, for
/// [`Framing::length_field`](super::Framing::length_field).
///
/// ```text
///   | leading | field | following |           body            | next frame ..
///                     `---------- length + adjustment --------'
///   `-------- stripped -----------'---- delivered as frame ---'
/// ```
///
/// What comes behind the field is as long as the field says, plus the adjustment. The frame that is
/// delivered is all of it without its header, or without as many bytes as
/// [`strip`](LengthField::strip) says.
///
/// # The same in other libraries
///
/// | there | here |
/// |---|---|
/// | Netty `LengthFieldBasedFrameDecoder(max, lengthFieldOffset, lengthFieldLength, lengthAdjustment, initialBytesToStrip)` | `LengthField::new(lengthFieldLength).leading(&[0; lengthFieldOffset]).adjustment(lengthAdjustment).strip(initialBytesToStrip)`; `max` counts the stripped bytes too |
/// | Netty `failFast = false` | [`skip_too_long`](super::Framing::skip_too_long) |
/// | tokio-util `LengthDelimitedCodec::builder()` with `length_field_offset(o)`, `length_field_length(w)`, `length_adjustment(a)` | `LengthField::new(w).leading(&[0; o]).adjustment(a)` |
/// | the same with `num_skip(s)` | with `.strip(s)`, and an adjustment of `a + s - (o + w)`: there the length counts from behind the skipped bytes |
/// | Erlang `{packet, 1}`, `{packet, 2}`, `{packet, 4}` | [`length_u8`](super::Framing::length_u8), [`length_u16`](super::Framing::length_u16), [`length_u32`](super::Framing::length_u32) |
/// | Twisted `Int8StringReceiver`, `Int16StringReceiver`, `Int32StringReceiver` | the same three |
/// | protobuf `writeDelimitedTo`, Netty `ProtobufVarint32FrameDecoder` | [`varint`](super::Framing::varint) |
///
/// # Examples
///
/// Two bytes of magic, then three bytes of length, lowest first, that count the whole frame:
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
/// A length, a type and four bytes of flags behind it, all of it delivered, and the length counting
/// only what follows the flags:
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
pub struct LengthField {
    width: u8,
    is_little: bool,
    leading: Box<[u8]>,
    following: Box<[u8]>,
    adjustment: i64,
    /// Bytes taken off the front; the header where it is none.
    strip: Option<usize>,
}

impl LengthField {
    /// A length of `width` bytes, the highest first, at the front, that counts what follows it.
    ///
    /// # Panics
    ///
    /// Unless the width is 1 to 8.
    #[must_use]
    pub fn new(width: u8) -> Self {
        assert!((1..=8).contains(&width), "a length field has 1 to 8 bytes");
        Self {
            width,
            is_little: false,
            leading: Box::default(),
            following: Box::default(),
            adjustment: 0,
            strip: None,
        }
    }

    /// The lowest byte of the length comes first.
    #[must_use]
    pub fn little_endian(mut self) -> Self {
        self.is_little = true;
        self
    }

    /// Bytes of the header that stand before the field: as many as its offset. They are written as
    /// given; what a peer writes there is not compared: with
    /// [`keep_header`](LengthField::keep_header) it can be looked at.
    #[must_use]
    pub fn leading(mut self, bytes: &[u8]) -> Self {
        self.leading = Box::from(bytes);
        self
    }

    /// Bytes of the header that stand behind the field, as [`leading`](LengthField::leading) before
    /// it. They belong to what the length counts.
    #[must_use]
    pub fn following(mut self, bytes: &[u8]) -> Self {
        self.following = Box::from(bytes);
        self
    }

    /// Added to the length to get the number of bytes that come behind the field: minus the
    /// header's length where the field counts the header too, the length of a trailer that it
    /// leaves out.
    #[must_use]
    pub fn adjustment(mut self, bytes: i64) -> Self {
        self.adjustment = bytes;
        self
    }

    /// Takes this many bytes off the front of each frame, in place of its header.
    ///
    /// What is not stripped of the header is delivered, and expected at the front of the payloads
    /// at `send`, where the length is filled in. What is stripped of the body is sent as zeros. A
    /// frame that is shorter than this is malformed.
    #[must_use]
    pub fn strip(mut self, bytes: usize) -> Self {
        self.strip = Some(bytes);
        self
    }

    /// Delivers frames with their header, and expects payloads with one at `send`, whose length
    /// field is filled in: `strip(0)`.
    #[must_use]
    pub fn keep_header(self) -> Self {
        self.strip(0)
    }

    /// Where the field ends.
    fn field_end(&self) -> usize {
        self.leading.len().saturating_add(usize::from(self.width))
    }

    pub(super) fn header_len(&self) -> usize {
        self.field_end().saturating_add(self.following.len())
    }

    fn stripped(&self) -> usize {
        self.strip.unwrap_or_else(|| self.header_len())
    }

    /// The length of a whole frame whose field holds `value`, at least what is stripped of it;
    /// `None` where it is more than can be counted.
    fn frame_len(&self, value: u64) -> Result<Option<u64>, FrameError> {
        let behind = value.checked_add_signed(self.adjustment);
        let len = behind.and_then(|len| len.checked_add(self.field_end() as u64));
        let is_too_short = match len {
            Some(len) => len < self.stripped().max(self.header_len()) as u64,
            None => behind.is_none() && self.adjustment < 0,
        };
        match is_too_short {
            true => Err(FrameError::Malformed(
                "a length that is less than what it counts",
            )),
            false => Ok(len),
        }
    }

    /// The field of a frame of `frame_len` bytes, at least those of its header.
    fn field_of(&self, frame_len: usize) -> Result<[u8; 8], FrameError> {
        let len = frame_len.saturating_sub(self.field_end()) as u64;
        let adjustment = self.adjustment.unsigned_abs();
        let value = if self.adjustment < 0 {
            len.checked_add(adjustment)
        } else {
            let value = len.checked_sub(adjustment);
            Some(value.ok_or(FrameError::Unencodable("it is shorter than the adjustment"))?)
        };
        let unused_bits = 64_u32.saturating_sub(u32::from(self.width).saturating_mul(8));
        let field_max = u64::MAX.checked_shr(unused_bits).unwrap_or_default();
        match value {
            Some(value) if value <= field_max => Ok(value.to_be_bytes()),
            // Told in bytes of payload, as every limit is.
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

/// The codec that a [`LengthField`] describes.
#[derive(Debug, Clone)]
pub(crate) struct Headed {
    pub(crate) field: LengthField,
    pub(crate) limit: Limit,
}

impl BuiltinCodec for Headed {}

impl Codec for Headed {
    type State = ScanState;

    fn decode(&self, _: &mut ScanState, bytes: &[u8]) -> Result<Step, FrameError> {
        let Self { field, limit } = self;
        let field_end = field.field_end();
        let Some(value) = bytes.get(field.leading.len()..field_end) else {
            return Ok(Step::Need(field_end));
        };
        let push = |value: u64, byte: &u8| value << 8 | u64::from(*byte);
        let value = match field.is_little {
            true => value.iter().rev().fold(0, push),
            false => value.iter().fold(0, push),
        };
        // Checked as u64, before the length is trusted with anything.
        let (whole, start) = (field.frame_len(value)?, field.stripped());
        let len = whole.map(|whole| whole.saturating_sub(start as u64));
        let end = match (len, whole.map(usize::try_from)) {
            (Some(len), Some(Ok(end))) if len <= limit.len as u64 => end,
            _ => return limit.exceeded(len.unwrap_or(u64::MAX), whole.unwrap_or(u64::MAX)),
        };
        if bytes.len() < end {
            return Ok(Step::Need(end));
        }
        Ok(Step::Frame {
            frame: start..end,
            consumed: end,
        })
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
            return Err(FrameError::Unencodable("it is shorter than its header"));
        }
        let mut value = field.field_of(frame.len())?;
        let width = usize::from(field.width);
        let value = if field.is_little {
            value.reverse();
            value.split_at(width).0
        } else {
            value.split_at(8_usize.saturating_sub(width)).1
        };
        // Of the header, what is stripped is as configured, and the rest is the payload's.
        let (leading, rest) = frame.split_at_mut(field.leading.len());
        let (place, following) = rest.split_at_mut(width);
        place.copy_from_slice(value);
        let parts = [
            (leading, &field.leading, stripped),
            (
                following,
                &field.following,
                stripped.saturating_sub(field_end),
            ),
        ];
        for (place, bytes, stripped) in parts {
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

    fn headed(field: &LengthField) -> Headed {
        with_limit(field, 1 << 20)
    }

    fn with_limit(field: &LengthField, limit: usize) -> Headed {
        Headed {
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
            step => panic!("{step:?}"),
        }
    }

    #[test]
    fn the_shapes_that_other_libraries_document_are_read_and_written() {
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
            assert_eq!(encode(&codec, hello).expect("it fits"), bytes);
            assert_eq!(decode(&codec, bytes).expect("a frame"), hello);
            let kept = codec.keep_header();
            assert_eq!(decode(&kept, bytes).expect("a frame"), bytes);
            assert_eq!(encode(&kept, bytes).expect("it fits"), bytes);
        }
    }

    #[test]
    fn a_kept_header_has_its_length_filled_in_and_nothing_else_changed() {
        let codec = LengthField::new(2).leading(&[0, 0]).keep_header();
        let sent = encode(&codec, b"\xAB\xCD??body").expect("it fits");
        assert_eq!(sent, b"\xAB\xCD\x00\x04body");
        assert!(matches!(
            encode(&codec, b"abc"),
            Err(FrameError::Unencodable(_))
        ));
    }

    #[test]
    fn every_width_and_adjustment_holds_at_every_edge() {
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
    fn a_body_that_the_field_cannot_tell_is_refused() {
        let codec = LengthField::new(1);
        assert_eq!(encode(&codec, &[7; 255]).expect("it fits").len(), 256);
        assert!(matches!(
            encode(&codec, &[7; 256]),
            Err(FrameError::TooLong {
                len: 256,
                limit: 255
            })
        ));
        // Of the 255 bytes and the 4 in front of them, which belong to the payload?
        let field = LengthField::new(1).leading(b"?").following(b"!!");
        for (field, largest) in [
            (field.clone(), 253),
            (field.clone().strip(1), 256),
            (field.clone().strip(7), 250),
            (field.clone().adjustment(-7), 246),
            (field.clone().adjustment(7), 260),
            (field.keep_header(), 257),
        ] {
            encode(&field, &vec![7; largest]).expect("it fits");
            let error = encode(&field, &vec![7; largest + 1]).expect_err("one byte more");
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
        assert_eq!(encode(&short, b"abcd").expect("it fits"), b"\x00abcd");
    }

    #[test]
    fn the_limit_counts_a_kept_header_and_tells_it() {
        let field = LengthField::new(2).leading(b"??").keep_header();
        let encode = |limit, payload: &[u8]| {
            let mut buf = Buf::default();
            with_limit(&field, limit).encode(payload, &mut Out::new(&mut buf))
        };
        let decode = |limit, bytes: &[u8]| {
            let step = with_limit(&field, limit).decode(&mut ScanState::default(), bytes);
            step.map(drop)
        };
        decode(6, b"??\0\x02ab").expect("at the limit");
        encode(6, b"??\0\0ab").expect("at the limit");
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

    /// The examples in the documentation of Netty's `LengthFieldBasedFrameDecoder`: offset, width,
    /// adjustment and bytes to strip, and what becomes of the bytes.
    #[test]
    fn whatever_netty_strips_is_stripped() {
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
                decode(&field, &stream).expect("a frame"),
                frame,
                "{field:?}"
            );
            assert_eq!(
                encode(&field, &frame).expect("it fits"),
                stream,
                "{field:?}"
            );
        }
        let of_its_header = of(1, 1, 2, 4).following(b"??");
        let sent = encode(&of_its_header, b"abc").expect("it fits");
        assert_eq!(sent, b"\xCA\x03??abc");
        let part = of(1, 1, 2, 3).following(b"?!");
        let sent = encode(&part, b"+abc").expect("it fits");
        assert_eq!(sent, b"\xCA\x03?+abc");
        for short in [of(0, 1, 0, 4), of(0, 1, 0, 0).following(b"abc")] {
            assert!(matches!(
                decode(&short, b"\x02ab"),
                Err(FrameError::Malformed(_))
            ));
        }
    }

    #[test]
    fn a_body_comes_back_with_the_largest_adjustment_of_either_sign() {
        for adjustment in [i64::MIN, i64::MIN + 1, -1, 0, 3] {
            let codec = LengthField::new(8).adjustment(adjustment);
            let sent = encode(&codec, b"abc").expect("it fits");
            assert_eq!(decode(&codec, &sent).expect("a frame"), b"abc");
        }
        let codec = LengthField::new(8).adjustment(i64::MAX);
        encode(&codec, b"abc").expect_err("shorter than the adjustment");
    }

    #[test]
    fn a_frame_that_ends_beyond_what_can_be_counted_is_too_long_for_any_limit() {
        let field = LengthField::new(8).leading(b"?");
        let bytes = b"?\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF";
        for field in [field.clone(), field.keep_header()] {
            let codec = with_limit(&field, usize::MAX);
            let step = codec.decode(&mut ScanState::default(), bytes);
            let error = step.expect_err("too long");
            assert!(matches!(error, FrameError::TooLong { .. }), "{error}");
        }
    }
}
