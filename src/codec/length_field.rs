//! A length field anywhere in a header, counting what the protocol says it counts.

use super::{Codec, Out, Scanned, Step};
use crate::error::FrameError;

/// Describes a header with a length in it, for
/// [`Framing::length_field`](super::Framing::length_field).
///
/// ```text
///    offset        width
///   |------|----------------------|----------------------------|
///   | ...  | length               | ...                        |
///   |------|----------------------|----------------------------|
///                                  `-- length + adjustment ----'
/// ```
///
/// What follows the field is as long as the field says, plus the adjustment. The frame that is
/// delivered is what follows the field, or all of it with
/// [`keep_header`](LengthField::keep_header).
///
/// # Examples
///
/// Two bytes of magic, then three bytes of length, lowest first, that count the whole frame:
///
/// ```
/// use unstick::{Framing, LengthField};
///
/// let header = LengthField::new(3).little_endian().leading(b"\xCA\xFE").adjustment(-5);
/// let framing = Framing::length_field(header);
/// # assert_eq!(framing.to_string(), "length-field");
/// ```
#[derive(Debug, Clone)]
pub struct LengthField {
    width: u8,
    is_little: bool,
    leading: Box<[u8]>,
    adjustment: i64,
    keeps_header: bool,
    pub(crate) frame_len_max: usize,
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
            adjustment: 0,
            keeps_header: false,
            frame_len_max: super::Framing::FRAME_LEN_MAX,
        }
    }

    /// The lowest byte of the length comes first.
    #[must_use]
    pub fn little_endian(mut self) -> Self {
        self.is_little = true;
        self
    }

    /// Bytes that stand before the field. They are written as given; what a peer writes there is
    /// not compared: with [`keep_header`](LengthField::keep_header) it can be looked at.
    #[must_use]
    pub fn leading(mut self, bytes: &[u8]) -> Self {
        self.leading = Box::from(bytes);
        self
    }

    /// Added to the length to get the number of bytes that follow the field: minus the header's
    /// length where the field counts the header too, the length of a trailer that it leaves out.
    #[must_use]
    pub fn adjustment(mut self, bytes: i64) -> Self {
        self.adjustment = bytes;
        self
    }

    /// Delivers frames with their header, and expects payloads with one at `send`, whose length
    /// field is filled in.
    #[must_use]
    pub fn keep_header(mut self) -> Self {
        self.keeps_header = true;
        self
    }

    fn header_len(&self) -> usize {
        self.leading.len().saturating_add(usize::from(self.width))
    }

    /// How many bytes follow the field, where it holds `value`.
    fn body_len(&self, value: u64) -> Result<usize, FrameError> {
        let len = value
            .checked_add_signed(self.adjustment)
            .ok_or(if self.adjustment < 0 {
                FrameError::Malformed("a length that is less than what it counts")
            } else {
                FrameError::too_long(u64::MAX, self.frame_len_max)
            })?;
        self.check_limit(len)?;
        // A frame that ends beyond what can be counted is too long for any limit.
        let body_len = usize::try_from(len).ok();
        body_len
            .filter(|len| len.checked_add(self.header_len()).is_some())
            .ok_or_else(|| FrameError::too_long(len, self.frame_len_max))
    }

    /// The limit counts what is delivered: the header too, where it is kept.
    fn check_limit(&self, body_len: u64) -> Result<(), FrameError> {
        let kept = if self.keeps_header {
            self.header_len() as u64
        } else {
            0
        };
        let len = body_len.saturating_add(kept);
        if len > self.frame_len_max as u64 {
            return Err(FrameError::too_long(len, self.frame_len_max));
        }
        Ok(())
    }

    fn field_of(&self, body_len: usize) -> Result<[u8; 8], FrameError> {
        let len = body_len as u64;
        self.check_limit(len)?;
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
            _ => Err(FrameError::TooLong {
                len,
                limit: field_max.saturating_add_signed(self.adjustment),
            }),
        }
    }
}

/// The codec that a [`LengthField`] describes.
#[derive(Debug, Clone)]
pub(crate) struct Headed(pub(crate) LengthField);

impl Codec for Headed {
    type State = Scanned;

    fn decode(&self, _: &mut Scanned, bytes: &[u8]) -> Result<Step, FrameError> {
        let Self(header) = self;
        let header_len = header.header_len();
        let Some(field) = bytes.get(header.leading.len()..header_len) else {
            return Ok(Step::Need(header_len));
        };
        let push = |value: u64, byte: &u8| value << 8 | u64::from(*byte);
        let value = match header.is_little {
            true => field.iter().rev().fold(0, push),
            false => field.iter().fold(0, push),
        };
        let end = header_len.saturating_add(header.body_len(value)?);
        if bytes.len() < end {
            return Ok(Step::Need(end));
        }
        let start = if header.keeps_header { 0 } else { header_len };
        Ok(Step::Frame {
            frame: start..end,
            consumed: end,
        })
    }

    fn encode(&self, payload: &[u8], out: &mut Out<'_>) -> Result<(), FrameError> {
        let Self(header) = self;
        let header_len = header.header_len();
        let (leading, body) = match header.keeps_header {
            false => (&*header.leading, payload),
            true => match payload.split_at_checked(header_len) {
                Some((front, body)) => (front.split_at(header.leading.len()).0, body),
                None => return Err(FrameError::Unencodable("it is shorter than its header")),
            },
        };
        let mut field = header.field_of(body.len())?;
        let unused = 8_usize.saturating_sub(usize::from(header.width));
        out.put(leading);
        if header.is_little {
            field.reverse();
            out.put(field.split_at(usize::from(header.width)).0);
        } else {
            out.put(field.split_at(unused).1);
        }
        out.put(body);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::Buf;

    fn encode(codec: &LengthField, payload: &[u8]) -> Result<Vec<u8>, FrameError> {
        let mut buf = Buf::default();
        Headed(codec.clone()).encode(payload, &mut Out::new(&mut buf))?;
        Ok(buf.bytes().to_vec())
    }

    fn decode(codec: &LengthField, bytes: &[u8]) -> Result<Vec<u8>, FrameError> {
        match Headed(codec.clone()).decode(&mut Scanned(0), bytes)? {
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
                    let codec = Headed(LengthField::new(width).adjustment(adjustment));
                    let bytes = &value.to_be_bytes()[8 - usize::from(width)..];
                    let body = i128::from(value) + i128::from(adjustment);
                    let step = codec.decode(&mut Scanned(0), bytes);
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
        let short = LengthField::new(1).adjustment(4);
        assert!(matches!(
            encode(&short, b"abc"),
            Err(FrameError::Unencodable(_))
        ));
        assert_eq!(encode(&short, b"abcd").expect("it fits"), b"\x00abcd");
    }
    #[test]
    fn the_limit_counts_a_kept_header_and_tells_it() {
        let mut codec = LengthField::new(2).leading(b"??").keep_header();
        codec.frame_len_max = 6;
        assert_eq!(
            decode(&codec, b"??\0\x02ab").expect("at the limit").len(),
            6
        );
        assert_eq!(encode(&codec, b"??\0\0ab").expect("at the limit").len(), 6);
        for result in [decode(&codec, b"??\0\x03abc"), encode(&codec, b"??\0\0abc")] {
            assert!(matches!(
                result,
                Err(FrameError::TooLong { len: 7, limit: 6 })
            ));
        }
        codec.frame_len_max = 3;
        for result in [decode(&codec, b"??\0\0"), encode(&codec, b"??\0\0")] {
            assert!(
                matches!(result, Err(FrameError::TooLong { len: 4, limit: 3 })),
                "the header alone is over the limit"
            );
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
        let mut codec = LengthField::new(8).leading(b"?");
        codec.frame_len_max = usize::MAX;
        for keeps_header in [false, true] {
            codec.keeps_header = keeps_header;
            let error = decode(&codec, b"?\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF").expect_err("too long");
            assert!(matches!(error, FrameError::TooLong { .. }), "{error}");
        }
    }
}
