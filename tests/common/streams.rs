//! Random payloads, random streams, and random splits of streams.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file uses only some of these helpers"
)]

use unstick::{Decoded, Deframer, Framer, Framing};

use super::common::Random;

/// Returns a random length: 0, 1, below 20, near a power of two, or below 9,000.
pub fn payload_len(random: &mut Random) -> usize {
    match random.below(6) {
        0 => 0,
        1 => 1,
        2 | 3 => random.below(20),
        4 => (1 << random.below(13)) + random.below(3) - 1,
        _ => random.below(9000),
    }
}

/// Returns `len` bytes: the first byte is random, and each later byte is the previous one plus 1,
/// modulo 256.
pub fn counting(len: usize, random: &mut Random) -> Vec<u8> {
    let first = random.bytes(1)[0];
    let bytes = (0..=u8::MAX).cycle().skip(first.into());
    bytes.take(len).collect()
}

/// Returns `len` bytes. On average, one of `rarity` bytes is from the alphabet; all other bytes are
/// `z`.
pub fn text(alphabet: &[u8], rarity: usize, len: usize, random: &mut Random) -> Vec<u8> {
    let mut bytes = vec![b'z'; len];
    let mut at = random.below(rarity);
    while at < len {
        bytes[at] = alphabet[random.below(alphabet.len())];
        at += 1 + random.below(2 * rarity - 1);
    }
    bytes
}

/// Returns a payload of any length with few bytes of the alphabet, or a short payload with many
/// bytes of the alphabet.
pub fn payload(alphabet: &[u8], random: &mut Random) -> Vec<u8> {
    let (rarity, len) = match random.below(3) {
        0 => (1, random.below(6)),
        1 => (3, random.below(20)),
        _ => (10_000, payload_len(random)),
    };
    text(alphabet, rarity, len, random)
}

/// Returns a stream that no framing encoded: `z` bytes mixed with bytes of the alphabet, and
/// at times with random bytes. The alphabet contains the bytes that have a meaning in the framing.
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

/// Changes, removes or duplicates a few bytes of a stream, and removes up to 9 bytes at its end.
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

/// Splits a stream into pieces of random lengths: from a few bytes to the whole stream.
pub fn pieces<'a>(stream: &'a [u8], random: &mut Random) -> Vec<&'a [u8]> {
    let len_max = match random.below(8) {
        // A long stream is not split into pieces of a few bytes: that takes long and finds little.
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
    /// Skipped frames, each as the number of delivered frames before it and its payload length.
    pub skipped: Vec<(usize, u64)>,
    /// Offset before the decode call of each frame, followed by the offset before the last call.
    pub starts: Vec<usize>,
    /// Undecoded bytes at the end of the stream; `None` after a decode error.
    pub rest: Option<Vec<u8>>,
}

/// Decodes a stream in pieces with a [`Deframer`]. Every second piece is written to the deframer's
/// spare capacity, and the other pieces are passed to `extend`. Fails after more than about two
/// decode calls per byte, because decoding then makes no progress.
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
                Ok(Some(other)) => panic!("unexpected result {other:?}"),
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

/// Encodes one payload; returns `None` if the framing rejects the payload.
pub fn frame(framing: &Framing, payload: &[u8]) -> Option<Vec<u8>> {
    let mut framer = Framer::new(framing.clone());
    framer.frame(payload).ok().map(<[u8]>::to_vec)
}
