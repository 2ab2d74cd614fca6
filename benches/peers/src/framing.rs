//! The length prefixes that the servers use: writing a prefix, and finding the first frame.
//!
//! ```text
//! U32     [length: 4 bytes, big-endian][payload]
//! Varint  [length: 1 to 10 bytes, 7 bits in each, lowest first][payload]
//! ```

/// Format of the length prefix of each payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// Four bytes, big-endian, as in many binary protocols.
    U32,
    /// LEB128, as message-io's `FramedTcp` writes it.
    Varint,
}

impl Framing {
    /// Returns the prefix of a payload of `payload_len` bytes.
    pub(crate) fn prefix(self, payload_len: usize) -> Vec<u8> {
        match self {
            Self::U32 => prefix_u32(payload_len).to_vec(),
            Self::Varint => prefix_varint(payload_len),
        }
    }
}

/// Returns the four-byte prefix of a payload.
///
/// # Panics
/// If the length does not fit into four bytes. The limits of a cell exclude such a length.
#[inline]
pub(crate) fn prefix_u32(payload_len: usize) -> [u8; 4] {
    u32::try_from(payload_len)
        .expect("a payload is shorter than 4 GiB")
        .to_be_bytes()
}

/// Returns the payload of the first frame in `bytes`, or `None` if the frame is not complete. The
/// frame is four bytes longer than its payload.
#[inline]
pub(crate) fn first_frame_u32(bytes: &[u8]) -> Option<&[u8]> {
    let (prefix, rest) = bytes.split_first_chunk::<4>()?;
    rest.get(..u32::from_be_bytes(*prefix) as usize)
}

fn prefix_varint(payload_len: usize) -> Vec<u8> {
    let mut rest = payload_len;
    let mut prefix = Vec::new();
    while rest >= 0x80 {
        prefix.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    prefix.push(rest as u8);
    prefix
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varint_is_lowest_seven_bits_first() {
        assert_eq!(Framing::Varint.prefix(0), [0]);
        assert_eq!(Framing::Varint.prefix(127), [127]);
        assert_eq!(Framing::Varint.prefix(128), [0x80, 1]);
        assert_eq!(Framing::Varint.prefix(300), [0xac, 2]);
    }

    #[test]
    fn frame_is_found_only_if_complete() {
        let bytes = [0, 0, 0, 2, 7, 8, 9];
        for cut in 0..6 {
            assert_eq!(first_frame_u32(&bytes[..cut]), None);
        }
        assert_eq!(first_frame_u32(&bytes[..6]), Some(&[7, 8][..]));
        assert_eq!(first_frame_u32(&bytes), Some(&[7, 8][..]));
    }
}
