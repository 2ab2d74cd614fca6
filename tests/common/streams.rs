//! Random payloads, random streams, and random splits of them.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file uses only some of these helpers"
)]

use unstick::{Decoded, Deframer, Framer, Framing};

use super::common::Random;

/// Returns a random length: 0, 1, below 20, near a power of two, or up to 9,000.
pub fn payload_len(random: &mut Random) -> usize {
    match random.below(6) {
        0 => 0,
        1 => 1,
        2 | 3 => random.below(20),
        4 => (1 << random.below(13)) + random.below(3) - 1,
        _ => random.below(9000),
    }
}

/// Returns bytes that count upwards from a random one.
pub fn counting(len: usize, random: &mut Random) -> Vec<u8> {
    let first = random.bytes(1)[0];
    let bytes = (first..=u8::MAX).chain(0..=u8::MAX).cycle();
    bytes.take(len).collect()
}

/// Returns bytes that are `z`, except one in `rarity` on average, which is from the alphabet.
pub fn text(alphabet: &[u8], rarity: usize, len: usize, random: &mut Random) -> Vec<u8> {
    let mut bytes = vec![b'z'; len];
    let mut at = random.below(rarity);
    while at < len {
        bytes[at] = alphabet[random.below(alphabet.len())];
        at += 1 + random.below(2 * rarity - 1);
    }
    bytes
}

/// Returns a long payload with few bytes of the alphabet, or a short one with many.
pub fn payload(alphabet: &[u8], random: &mut Random) -> Vec<u8> {
    let (rarity, len) = match random.below(3) {
        0 => (1, random.below(6)),
        1 => (3, random.below(20)),
        _ => (10_000, payload_len(random)),
    };
    text(alphabet, rarity, len, random)
}

/// Returns bytes that no framing encoded: bytes with a meaning in the framing, or `z` bytes with
/// some of them in between.
pub fn garbage(alphabet: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = Vec::new();
    if random.below(2) == 0 {
        let (rarity, len) = (1 + random.below(8), random.below(2000));
        bytes = text(alphabet, rarity, len, random);
        for _ in 0..random.below(8).min(len) {
            bytes[random.below(len)] = random.bytes(1)[0];
        }
    } else {
        for _ in 0..random.below(12) {
            bytes.extend(vec![b'z'; payload_len(random)]);
            let len = random.below(4);
            bytes.extend(text(alphabet, 1, len, random));
        }
    }
    bytes
}

/// Changes, drops or doubles a few bytes, and truncates the end.
pub fn mutate(stream: &mut Vec<u8>, alphabet: &[u8], random: &mut Random) {
    for _ in 0..1 + random.below(4) {
        if stream.is_empty() {
            return;
        }
        // Half of the changes affect the first 8 bytes, which contain a header.
        let bound = [8.min(stream.len()), stream.len()][random.below(2)];
        let at = random.below(bound);
        match random.below(4) {
            0 => stream[at] = alphabet[random.below(alphabet.len())],
            1 => stream[at] ^= 1 << random.below(8),
            2 => drop(stream.remove(at)),
            _ => stream.insert(at, stream[at]),
        }
    }
    stream.truncate(stream.len() - random.below(10.min(stream.len() + 1)));
}

/// Splits a stream into pieces: single bytes, short ones, typical reads, or the whole stream.
pub fn pieces<'a>(stream: &'a [u8], random: &mut Random) -> Vec<&'a [u8]> {
    let len_max = match random.below(8) {
        // Splitting a long stream into single bytes takes long and shows little.
        0..3 if stream.len() < 10_000 => 1 + random.below(3),
        0..3 => 16,
        3 => 100,
        4 | 5 => 1500,
        6 => 70_000,
        _ => usize::MAX,
    };
    let mut pieces = Vec::new();
    let mut rest = stream;
    while !rest.is_empty() {
        let bound = rest.len().min(len_max);
        let len = if len_max == usize::MAX {
            bound
        } else {
            1 + random.below(bound)
        };
        let (piece, others) = rest.split_at(len);
        pieces.push(piece);
        rest = others;
    }
    pieces
}

/// Result of decoding a stream.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub frames: Vec<Vec<u8>>,
    /// Skipped frames: the number of frames before each, and its length.
    pub skipped: Vec<(usize, u64)>,
    /// Offset of each frame, and the offset after the last one.
    pub starts: Vec<usize>,
    /// Bytes left at the end; `None` after an error.
    pub rest: Option<Vec<u8>>,
}

/// Passes the pieces to a [`Deframer`] in turn through both of its inputs. Fails if the deframer is
/// called far more often than there are bytes.
pub fn deframe(framing: &Framing, pieces: &[&[u8]]) -> Seen {
    let mut deframer = Deframer::new(framing.clone());
    let mut seen = Seen::default();
    let len: usize = pieces.iter().map(|piece| piece.len()).sum();
    let mut calls_left = 2 * len + 3;
    let mut take_all = |deframer: &mut Deframer, has_ended: bool| {
        loop {
            calls_left = calls_left
                .checked_sub(1)
                .expect("every call makes progress");
            let start = usize::try_from(deframer.offset()).expect("the stream length fits usize");
            seen.starts.truncate(seen.frames.len());
            seen.starts.push(start);
            let decoded = match has_ended {
                false => deframer.decode(),
                true => deframer.decode_last(),
            };
            match decoded {
                Ok(Some(Decoded::Frame(frame))) => seen.frames.push(frame.to_vec()),
                Ok(Some(Decoded::Skipped(skipped))) => {
                    seen.skipped.push((seen.frames.len(), skipped.len));
                }
                Ok(Some(other)) => panic!("the test does not know {other:?}"),
                Ok(None) => return true,
                Err(_) => return false,
            }
        }
    };
    for (index, piece) in pieces.iter().enumerate() {
        if index % 2 == 0 {
            deframer.extend(piece);
        } else {
            let mut piece = *piece;
            while !piece.is_empty() {
                let space = deframer.spare_capacity_mut();
                let (now, later) = piece.split_at(piece.len().min(space.len()));
                space[..now.len()].copy_from_slice(now);
                deframer.advance(now.len());
                piece = later;
            }
        }
        if !take_all(&mut deframer, false) {
            return seen;
        }
    }
    if take_all(&mut deframer, true) {
        seen.rest = Some(deframer.rest().to_vec());
    }
    seen
}

/// Encodes one payload; returns `None` if the framing refuses it.
pub fn frame(framing: &Framing, payload: &[u8]) -> Option<Vec<u8>> {
    let mut framer = Framer::new(framing.clone());
    framer.frame(payload).ok().map(<[u8]>::to_vec)
}
