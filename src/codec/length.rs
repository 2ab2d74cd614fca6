//! Length prefix: a field of fixed width holds the number of payload bytes.

use super::step::{CheckedStep, check};
use super::{BuiltinCodec, Codec, Decoder, Limit, Out, ScanState, Step};
use crate::error::FrameError;
use crate::memory::Buf;

/// Byte order of a length field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Endian {
    Big,
    Little,
}

impl Endian {
    /// Returns the number that is stored in `field`, which has at most 8 bytes.
    pub(super) fn read(self, field: &[u8]) -> u64 {
        let push = |value: u64, byte: &u8| value << 8 | u64::from(*byte);
        match self {
            Self::Big => field.iter().fold(0, push),
            Self::Little => field.iter().rev().fold(0, push),
        }
    }

    /// Writes `value` to `field`, which has at most 8 bytes. `value` must fit in `field`.
    pub(super) fn write(self, value: u64, field: &mut [u8]) {
        let unused_len = 8_usize.saturating_sub(field.len());
        match self {
            Self::Big => field.copy_from_slice(value.to_be_bytes().split_at(unused_len).1),
            Self::Little => field.copy_from_slice(value.to_le_bytes().split_at(field.len()).0),
        }
    }
}

/// Returns the largest number that a field of `width` bytes can hold; `width` is 1 to 8.
pub(super) fn field_max(width: u8) -> u64 {
    let unused_bits = 64_u32.saturating_sub(u32::from(width).saturating_mul(8));
    u64::MAX.checked_shr(unused_bits).unwrap_or_default()
}

/// Codec of a length prefix: see [`Framing::length_u32`](super::Framing::length_u32).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Length {
    /// Width of the length field, in bytes: 1, 2, 3, 4 or 8.
    pub(super) width: u8,
    pub(super) endian: Endian,
    pub(crate) limit: Limit,
    /// Maximum length of a payload to encode: the limit or the maximum of the field, whichever is
    /// smaller.
    pub(super) payload_len_max: usize,
}

impl Length {
    pub(crate) fn new(width: u8, endian: Endian, limit: Limit) -> Self {
        let field_max = usize::try_from(field_max(width)).unwrap_or(usize::MAX);
        Self {
            width,
            endian,
            limit,
            payload_len_max: limit.len.min(field_max),
        }
    }

    /// Returns true if the length field has 4 bytes and is big-endian, which is the most common
    /// form.
    #[inline(always)]
    pub(crate) fn is_u32(&self) -> bool {
        self.width == 4 && self.endian == Endian::Big
    }

    /// Returns the payload if `bytes` is exactly one frame with a [4-byte big-endian
    /// length](Length::is_u32). The frame limit is not checked.
    #[inline(always)]
    pub(crate) fn only_u32(bytes: &[u8]) -> Option<&[u8]> {
        let (field, payload) = bytes.split_first_chunk()?;
        let len = u64::from(u32::from_be_bytes(*field));
        (len == payload.len() as u64).then_some(payload)
    }

    /// Returns the length in the field at the start of `bytes`, or `None` if the field is
    /// incomplete.
    #[inline(always)]
    fn read_field(&self, bytes: &[u8]) -> Option<u64> {
        // A field of 4 bytes, the most common width, is read without a loop.
        if self.width == 4 {
            let field = *bytes.first_chunk()?;
            return Some(u64::from(match self.endian {
                Endian::Big => u32::from_be_bytes(field),
                Endian::Little => u32::from_le_bytes(field),
            }));
        }
        self.read_any_field(bytes)
    }

    #[inline(never)]
    fn read_any_field(&self, bytes: &[u8]) -> Option<u64> {
        let field = bytes.get(..usize::from(self.width))?;
        Some(self.endian.read(field))
    }

    /// Appends `payload` as one frame. After an error nothing is appended.
    pub(crate) fn encode_to(&self, payload: &[u8], buf: &mut Buf) -> Result<(), FrameError> {
        if payload.len() > self.payload_len_max {
            let len = payload.len() as u64;
            return Err(FrameError::too_long(len, self.payload_len_max));
        }
        if self.is_u32() {
            buf.put_with_header(Self::u32_of(payload), payload);
        } else {
            self.encode_by_parts(payload, &mut Out::new(buf));
        }
        Ok(())
    }

    /// Returns the header for `payload` in a framing with a [4-byte big-endian
    /// length](Length::is_u32). The length of `payload` must fit into 4 bytes.
    #[inline(always)]
    pub(crate) fn u32_of(payload: &[u8]) -> [u8; 4] {
        let [.., a, b, c, d] = (payload.len() as u64).to_be_bytes();
        [a, b, c, d]
    }

    #[inline(never)]
    fn encode_by_parts(&self, payload: &[u8], out: &mut Out<'_>) {
        let (len, width) = (payload.len() as u64, usize::from(self.width));
        match self.endian {
            Endian::Big => out.put(len.to_be_bytes().split_at(8_usize.saturating_sub(width)).1),
            Endian::Little => out.put(len.to_le_bytes().split_at(width).0),
        }
        out.put(payload);
    }

    /// Checks that a payload of `len` bytes can be encoded.
    fn check_payload(&self, len: usize) -> Result<(), FrameError> {
        Limit::of(self.payload_len_max).check_payload(len)
    }
}

/// [`Length`] with a [4-byte big-endian field](Length::is_u32). Width and byte order are known at
/// compile time, so they are not checked for each frame.
pub(crate) struct LengthU32(pub(crate) Limit);

impl Decoder for LengthU32 {
    const ACCEPTS_EMPTY: bool = true;

    #[inline(always)]
    fn step<'a>(&mut self, bytes: &'a [u8]) -> CheckedStep<'a> {
        let step = match bytes.first_chunk() {
            Some(field) => self.0.step(4, u32::from_be_bytes(*field).into(), bytes),
            None => Ok(Step::Need(4)),
        };
        check(bytes, step)
    }
}

impl BuiltinCodec for Length {}

impl Codec for Length {
    type State = ScanState;

    #[inline(always)]
    fn decode(&self, _: &mut ScanState, bytes: &[u8]) -> Result<Step, FrameError> {
        let header = usize::from(self.width);
        match self.read_field(bytes) {
            Some(len) => self.limit.step(header, len, bytes),
            None => Ok(Step::Need(header)),
        }
    }

    fn encode(&self, payload: &[u8], out: &mut Out<'_>) -> Result<(), FrameError> {
        self.check_payload(payload.len())?;
        self.encode_by_parts(payload, out);
        Ok(())
    }

    fn headroom(&self) -> usize {
        usize::from(self.width)
    }

    fn encode_in_place(&self, out: &mut Out<'_>) -> Result<(), FrameError> {
        let (field, payload) = out.bytes_mut().split_at_mut(self.headroom());
        self.check_payload(payload.len())?;
        self.endian.write(payload.len() as u64, field);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Buf;

    fn all() -> Vec<Length> {
        let endians = [Endian::Big, Endian::Little];
        let of = |width| endians.map(|endian| Length::new(width, endian, Limit::of(1 << 20)));
        [1, 2, 3, 4, 8].into_iter().flat_map(of).collect()
    }

    fn field_max(codec: Length) -> u64 {
        u64::MAX >> (64 - 8 * codec.width)
    }

    fn header(codec: Length, len: u64) -> Vec<u8> {
        let width = usize::from(codec.width);
        match codec.endian {
            Endian::Big => len.to_be_bytes()[8 - width..].to_vec(),
            Endian::Little => len.to_le_bytes()[..width].to_vec(),
        }
    }

    #[test]
    fn length_prefix_is_checked_at_every_edge() {
        let edges = [
            0,
            1,
            2,
            254,
            255,
            256,
            65_535,
            65_536,
            (1 << 24) - 1,
            1 << 31,
        ]
        .into_iter()
        .chain([u64::from(u32::MAX), 1 << 63, u64::MAX]);
        for len in edges {
            for codec in all().into_iter().filter(|codec| len <= field_max(*codec)) {
                for limit in [0, 1, 255, 65_535, 1 << 20, usize::MAX] {
                    let codec = Length {
                        limit: Limit::of(limit),
                        ..codec
                    };
                    let step = codec.decode(&mut ScanState::default(), &header(codec, len));
                    let total = len.checked_add(u64::from(codec.width));
                    let total = total.and_then(|total| usize::try_from(total).ok());
                    match total.filter(|_| len <= limit as u64) {
                        None => assert!(
                            matches!(step, Err(FrameError::TooLong { len: it, .. }) if it == len)
                        ),
                        Some(total) if len > 0 => {
                            assert_eq!(step.ok(), Some(Step::Need(total)))
                        }
                        Some(_) => assert!(matches!(step, Ok(Step::Frame { .. }))),
                    }
                }
            }
        }
    }

    #[test]
    fn partial_length_prefix_needs_all_of_its_bytes() {
        for codec in all() {
            let header = header(codec, 200);
            for cut in 0..header.len() {
                let step = codec
                    .decode(&mut ScanState::default(), &header[..cut])
                    .expect("a partial header is valid");
                assert_eq!(step, Step::Need(header.len()));
            }
        }
    }

    #[test]
    fn payload_over_the_field_or_the_limit_is_too_long() {
        for codec in all() {
            let limit = field_max(codec).min(1 << 20);
            let payload = vec![0; usize::try_from(limit + 1).unwrap()];
            let mut buf = Buf::default();
            let error = codec
                .encode(&payload, &mut Out::new(&mut buf))
                .expect_err("the payload exceeds the limit");
            assert!(
                matches!(error, FrameError::TooLong { limit: reported, .. } if reported == limit)
            );
            assert!(buf.is_empty());
            codec
                .encode(&payload[1..], &mut Out::new(&mut buf))
                .expect("the largest payload fits");
            let step = codec
                .decode(&mut ScanState::default(), buf.bytes())
                .expect("the frame decodes");
            let width = usize::from(codec.width);
            let end = buf.len();
            assert_eq!(
                step,
                Step::Frame {
                    frame: width..end,
                    consumed: end
                }
            );
        }
    }
}
