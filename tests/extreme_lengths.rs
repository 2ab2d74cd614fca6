//! Lengths, limits, adjustments and strips at the bounds of integer types. No framing overflows.

mod common;
#[path = "fuzz/entries/lib.rs"]
mod entries;

use std::io::Write;

use common::{Probe, listening, open, settle};
use entries::naive::{Field, Format, Limit};
use unstick::{Config, Framer, Framing, LengthField};

/// Returns lengths near `limit` and near the bounds of integers of 8, 16, 24, 32 and 64 bits.
fn extreme_lengths(limit: usize) -> impl Iterator<Item = u64> {
    let limit = limit as u64;
    let edges = [0, 1, 2, 255, 1 << 16, 1 << 24, 1 << 31, 1 << 32, 1 << 63];
    let edges = edges.into_iter().chain([limit, u64::MAX]);
    edges.flat_map(|edge| [edge.wrapping_sub(1), edge, edge.wrapping_add(1)])
}

const LIMITS: [usize; 5] = [0, 1, 255, 1 << 20, usize::MAX];

/// Decodes a stream, and compares the result with the result of the reference decoder.
fn compare(format: &Format, limit: Limit, stream: &[u8]) {
    for lens in [&[usize::MAX][..], &[1]] {
        entries::compare_cuts(format, limit, stream, lens);
    }
}

/// Encodes three payloads. Checks that the framer accepts a payload exactly if the reference
/// accepts it.
fn compare_encoders(format: &Format, limit: Limit) {
    let mut framer = Framer::new(format.framing(limit));
    for payload in [&b""[..], b"a", &[7; 300]] {
        let is_encoded = framer.frame(payload).is_ok();
        assert_eq!(
            is_encoded,
            format.can_carry(limit, payload),
            "{format:?} {limit:?}: {} bytes",
            payload.len()
        );
        let in_place = framer.frame_parts(&[payload, b""]).is_ok();
        assert_eq!(is_encoded, in_place, "{format:?} {limit:?}");
    }
}

/// Returns the low `width` bytes of a length.
fn field(len: u64, width: u8, is_little: bool) -> Vec<u8> {
    let mut bytes = len.to_be_bytes()[8 - usize::from(width)..].to_vec();
    if is_little {
        bytes.reverse();
    }
    bytes
}

/// Tests length fields of every width, with several other settings, limits and extreme lengths.
#[test]
fn length_fields_do_not_overflow_at_any_extreme() {
    let adjustments = [0, 300, -300, i64::MAX, i64::MIN, i64::MIN + 9];
    for (width, adjustment) in (1..=8).flat_map(|width| adjustments.map(|it| (width, it))) {
        for (leading, following, is_little) in [(0, 0, false), (3, 2, true)] {
            let header_len = leading + usize::from(width) + following;
            for strip in [0, header_len, header_len + 400] {
                let format = Format::Field(Field {
                    leading,
                    width,
                    following,
                    is_little,
                    adjustment,
                    strip,
                });
                for (len, skips) in LIMITS.into_iter().flat_map(|it| [(it, false), (it, true)]) {
                    let limit = Limit { len, skips };
                    compare_encoders(&format, limit);
                    for len in extreme_lengths(limit.len) {
                        let field = field(len, width, is_little);
                        let stream = [&b"abc"[..leading], &field, b"12345"].concat();
                        compare(&format, limit, &stream);
                    }
                }
            }
        }
    }
}

#[test]
fn length_prefixes_do_not_overflow_at_any_extreme() {
    for (len, skips) in LIMITS.into_iter().flat_map(|it| [(it, false), (it, true)]) {
        let limit = Limit { len, skips };
        for len in extreme_lengths(limit.len) {
            for (width, is_little) in [1, 2, 3, 4, 8]
                .into_iter()
                .flat_map(|it| [(it, false), (it, true)])
            {
                let stream = [&field(len, width, is_little)[..], b"12345"].concat();
                compare(&Format::Length { width, is_little }, limit, &stream);
            }
            let digits = format!("{len}:12345").into_bytes();
            compare(&Format::Netstring, limit, &digits);
            compare(&Format::Digits, limit, &digits);
            let mut varint = Vec::new();
            let mut left = len;
            while left > 127 {
                varint.push(128 | left.to_le_bytes()[0]);
                left >>= 7;
            }
            varint.extend([left.to_le_bytes()[0], b'1', b'2']);
            compare(&Format::Varint { is_lax: false }, limit, &varint);
            compare(&Format::HeaderBody(1), limit, b"\xFF123");
        }
    }
}

/// Sends and receives with extreme but valid settings. No input forms a frame, and nothing panics.
#[test]
fn extreme_length_fields_do_not_panic_on_a_connection() {
    for (adjustment, strip) in [(i64::MIN, 1 << 20), (i64::MAX, 0), (i64::MIN, 0)] {
        for width in [1, 8] {
            let field = LengthField::new(width).adjustment(adjustment).strip(strip);
            let framing = Framing::length_field(field).frame_len_max(usize::MAX);
            let (mut reactor, addr) = listening(Probe::silent(), Config::default(), framing);
            let (mut client, conn) = open(&mut reactor, addr);
            reactor.with(|_, cx| {
                for payload in [&b""[..], b"a", b"123456789"] {
                    let _ = cx.send(conn, payload);
                    let _ = cx.send_parts(conn, &[payload]);
                    let _ = cx.send_owned(conn, vec![7; 100_000]);
                }
            });
            client
                .write_all(&[0xFF; 100])
                .expect("the client is connected");
            settle(&mut reactor);
            assert_eq!(reactor.stats().frames_in, 0);
        }
    }
}
