//! Hostile input for framings of every kind: no panic, no loop without progress, and memory bounded
//! by the bytes received, not by a claimed length.

mod common;
#[path = "common/streams.rs"]
mod streams;

use allocation_counter::measure;
use unstick::{Codec, Deframer, FrameError, FrameLen, Framing, LengthField, Out, Step};

use common::{FRAMINGS, Random};
use streams::{deframe, frame, garbage, mutate, payload, pieces};

/// The part of a deframer's maximum memory that does not depend on the received bytes. It consists
/// of spare capacity for one read after a partial frame, rounded up, and the old buffer during
/// growth.
const BASE_BYTES: u64 = 3 * 8 * 1024;
/// Maximum memory of a deframer per byte received, in bytes. A buffer grows to four times the bytes
/// that it holds, rounded up to a power of two, so to less than eight times. While its bytes are
/// copied, the smaller old buffer exists too.
const GROWTH_MAX: u64 = 15;

/// Returns framings of every kind, each with five length limits, and the bytes with a meaning in
/// that framing.
fn framings() -> Vec<(Framing, &'static [u8])> {
    let mut framings: Vec<(Framing, &[u8])> = FRAMINGS
        .into_iter()
        .filter(|name| name.starts_with('u'))
        .map(|name| {
            (
                name.parse().expect("the framing's name is valid"),
                &b"\0\0\0\0\x01\x02\x7F\xFF"[..],
            )
        })
        .collect();
    let field = LengthField::new(4).leading(b"??");
    let body_len = |header: &[u8]| match header[0] {
        0xFF => Ok(u64::MAX),
        0xFE => Err(FrameError::Malformed("no such type")),
        _ => Ok(u64::from(header[1]) << (header[0] % 64)),
    };
    framings.extend([
        (Framing::raw(), &b"\0"[..]),
        (Framing::line(), b"\r\n\r\n\0"),
        (Framing::varint(), b"\0\x01\x7F\x80\xFF\xFF"),
        (Framing::netstring(), b"0123456789::::,,,,-+ "),
        (Framing::fixed(13), b"\0"),
        (Framing::fixed(usize::MAX), b"\0"),
        (Framing::delimiter(b"abab"), b"ab"),
        (Framing::delimiters(&[b"\n", b"\r\n", b"\r\n\r\n"]), b"\r\n"),
        (Framing::delimiters(&[b"a", b"aaaaaaab"]), b"ab"),
        (
            Framing::length_field(field.clone().adjustment(-6)),
            b"\0\0\0\x05\x06\xFF",
        ),
        (
            Framing::length_field(field.clone().adjustment(i64::MAX)),
            b"\0\x01\xFF",
        ),
        (
            Framing::length_field(field.adjustment(i64::MIN).keep_header()),
            b"\0\x80\xFF",
        ),
        (
            Framing::header_body(Framing::fixed(2), body_len),
            b"\0\x01\x05\x3F\xFE\xFF",
        ),
        (
            Framing::length_fn(erratic_len),
            b"\0\x01\x05\x3F\xFD\xFE\xFF",
        ),
        (
            Framing::length_fn(erratic_len).skip_between(b"\0\xFF"),
            b"\0\x01\x05\x3F\xFD\xFE\xFF",
        ),
        (Framing::line_crlf(), b"\r\n\r\n\0"),
        (
            Framing::line()
                .skip_between(b"\n~")
                .unterminated_last_frame(),
            b"\r\n~\0",
        ),
        (Framing::custom(Erratic), b"\0\x01\x02\x03\x04\x05\x06\x07"),
    ]);
    let limits = [0, 1, 100, 1 << 20, usize::MAX];
    let with_limits = |(framing, alphabet): (Framing, _)| {
        limits.map(|limit| (framing.clone().frame_len_max(limit), alphabet))
    };
    framings.into_iter().flat_map(with_limits).collect()
}

/// Length function whose input selects the result.
fn erratic_len(bytes: &[u8]) -> Result<FrameLen, FrameError> {
    match bytes {
        [0xFF, ..] => Ok(FrameLen::Total(u64::MAX)),
        [0xFE, ..] => Err(FrameError::Malformed("no such type")),
        [0xFD, ..] => Ok(FrameLen::Need(usize::MAX)),
        [shift, len, ..] => Ok(FrameLen::Total(u64::from(*len) << (shift % 64))),
        _ => Ok(FrameLen::Need(2)),
    }
}

/// A codec whose input selects the step that it returns; most steps break the contract.
struct Erratic;

impl Codec for Erratic {
    type State = ();

    fn decode(&self, (): &mut (), bytes: &[u8]) -> Result<Step, FrameError> {
        let at = usize::from(*bytes.get(1).unwrap_or(&1));
        Ok(match bytes[0] {
            0 => Step::Need(at),
            1 => Step::Need(usize::MAX),
            2 => Step::Skip { bytes: at as u64 },
            3 => Step::Skip { bytes: u64::MAX },
            4 => Step::Frame {
                frame: at..1,
                consumed: 1,
            },
            5 => Step::Frame {
                frame: 0..at,
                consumed: usize::MAX,
            },
            6 => Step::Frame {
                frame: 0..usize::MAX,
                consumed: at,
            },
            7 => return Err(FrameError::other("custom error")),
            _ => Step::Frame {
                frame: 1..1,
                consumed: 1,
            },
        })
    }

    fn finish(&self, (): &mut (), rest: &[u8]) -> Result<Step, FrameError> {
        self.decode(&mut (), rest)
    }

    fn encode(&self, payload: &[u8], out: &mut Out<'_>) -> Result<(), FrameError> {
        out.put(&[8]);
        out.put(payload);
        Ok(())
    }
}

fn stream(framing: &Framing, alphabet: &[u8], random: &mut Random) -> Vec<u8> {
    let mut stream = match random.below(3) {
        0 => {
            let len = random.below(2000);
            random.bytes(len)
        }
        1 => garbage(alphabet, random),
        _ => {
            let mut stream = Vec::new();
            for _ in 0..random.below(8) {
                let payload = payload(alphabet, random);
                stream.extend(frame(framing, &payload).unwrap_or(payload));
            }
            stream
        }
    };
    mutate(&mut stream, alphabet, random);
    stream
}

/// [`deframe`] fails after too many calls, so a loop without progress fails the test.
#[test]
fn hostile_bytes_never_panic_or_loop_a_deframer() {
    for (framing, alphabet) in framings() {
        for seed in 0..60 {
            let mut random = Random(seed);
            let stream = stream(&framing, alphabet, &mut random);
            let seen = deframe(&framing, &pieces(&stream, &mut random));
            let delivered: usize = seen.frames.iter().map(Vec::len).sum();
            let rest = seen.rest.map_or(0, |rest| rest.len());
            assert!(
                delivered + rest <= stream.len(),
                "{framing:?}, seed {seed}: a byte was delivered twice"
            );
        }
    }
}

#[test]
fn deframer_memory_is_bounded_by_the_bytes_received() {
    for (framing, alphabet) in framings() {
        for seed in 0..20 {
            let mut random = Random(seed);
            let stream = stream(&framing, alphabet, &mut random);
            let pieces = pieces(&stream, &mut random);
            let used = measure(|| {
                let mut deframer = Deframer::new(framing.clone());
                for (index, piece) in pieces.iter().enumerate() {
                    if index % 2 == 0 {
                        deframer.extend(piece);
                    } else {
                        let space = deframer.spare_capacity_mut();
                        let len = piece.len().min(space.len());
                        space[..len].copy_from_slice(&piece[..len]);
                        deframer.advance(len);
                        deframer.extend(&piece[len..]);
                    }
                    while let Ok(Some(_)) = deframer.next_frame() {}
                }
                while let Ok(Some(_)) = deframer.last_frame() {}
            });
            assert!(
                used.bytes_max <= BASE_BYTES + GROWTH_MAX * stream.len() as u64,
                "{framing:?}, seed {seed}: {} bytes of memory for {} received bytes",
                used.bytes_max,
                stream.len(),
            );
        }
    }
}

/// The deframer gets a header with a very large length. Then the test requests spare capacity.
#[test]
fn large_claimed_length_allocates_no_memory() {
    let headers: [(Framing, &[u8]); 5] = [
        (Framing::length_u32(), b"\x7F\xFF\xFF\xFF"),
        (Framing::length_u64(), b"\x7F\xFF\xFF\xFF\xFF\xFF\xFF\xF0"),
        (Framing::varint(), b"\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x7F"),
        (Framing::netstring(), b"9000000000000000000:"),
        (
            Framing::header_body(Framing::fixed(1), |_| Ok(1 << 62)),
            b"x",
        ),
    ];
    // Only the first length fits a 32-bit `usize`.
    let count = if usize::BITS < 64 { 1 } else { 5 };
    for (framing, header) in headers.into_iter().take(count) {
        let framing = framing.frame_len_max(usize::MAX);
        let used = measure(|| {
            let mut deframer = Deframer::new(framing.clone());
            deframer.extend(header);
            assert_eq!(
                deframer
                    .next_frame()
                    .expect("the length is within the limit"),
                None
            );
            assert!(!deframer.spare_capacity_mut().is_empty());
            assert_eq!(
                deframer
                    .last_frame()
                    .expect("a partial frame at the end is not an error"),
                None
            );
        });
        assert!(used.bytes_max <= BASE_BYTES, "{framing}: {used:?}");
    }
}
