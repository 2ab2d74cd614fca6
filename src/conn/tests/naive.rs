//! Simple reference decoders, and the streams of the tests. A decoder gets all remaining bytes of
//! the stream and keeps no state.

use super::codecs::DELIMITERS;
use super::plain::{Fault, Field, Format, Found, Limit};
use super::{Outcome, Random, Section};

const MORE: Found = Found::Cut(0);
const BAD: Found = Found::Bad(Fault::Malformed);

/// Returns the expected outcome of a whole stream.
pub(super) fn decode(plan: &[Section], stream: &[u8]) -> Outcome {
    let mut frames = Vec::new();
    let mut rest = stream;
    let mut sections = plan.iter();
    let mut section = sections.next().expect("a plan has a section");
    let mut section_left = section.frames;
    loop {
        if section_left == 0 {
            section = sections
                .next()
                .expect("another section follows a section that ends");
            section_left = section.frames;
        }
        let mut found = first(section, rest);
        if found == MORE {
            found = at_the_end(section.name, rest);
        }
        let error_offset = match found {
            Found::Frame { payload, len } => {
                frames.push(payload);
                rest = &rest[len..];
                section_left -= 1;
                continue;
            }
            Found::Skip(len) => {
                rest = &rest[len.min(rest.len())..];
                continue;
            }
            Found::Cut(_) => None,
            Found::Bad(_) => Some(stream.len() - rest.len()),
            Found::TooLong { .. } => {
                unreachable!("the reference decoders do not skip frames that are too long")
            }
        };
        return Outcome {
            frames,
            left: if error_offset.is_none() {
                rest.len()
            } else {
                0
            },
            error_offset,
        };
    }
}

/// Returns the format for the shared plain decoder, or `None` if only this file can decode the
/// framing.
fn format(name: &str) -> Option<Format> {
    let set = |all: &[&[u8]]| {
        Format::Delimiters(all.iter().map(|delimiter| delimiter.to_vec()).collect())
    };
    Some(match name {
        "line" | "rest" => Format::Line,
        "line-crlf" => Format::LineCrlf,
        "beats" => Format::Between(Box::new(set(&[b"--"])), b"~+".to_vec()),
        "digits" => Format::Digits,
        "fixed" => Format::Fixed(3),
        "byte" => set(&[b";"]),
        "delimiter" => set(&[b"--"]),
        "delimiters" => set(&DELIMITERS),
        "varint" => Format::Varint { is_lax: false },
        "netstring" => Format::Netstring,
        "field" => Format::Field(Field {
            leading: 1,
            width: 2,
            following: 0,
            is_little: true,
            adjustment: -3,
            strip: 3,
        }),
        "kept" => Format::Field(Field {
            leading: 1,
            width: 1,
            following: 0,
            is_little: false,
            adjustment: 0,
            strip: 0,
        }),
        "tagged" => Format::Tagged,
        name if is_length(name) => {
            let (width, is_little) = length_field(name);
            let width = u8::try_from(width).expect("a length field has at most 8 bytes");
            Format::Length { width, is_little }
        }
        _ => return None,
    })
}

/// Returns the first frame of `rest`, or the reason why there is none.
fn first(section: &Section, rest: &[u8]) -> Found {
    let Some(&tag) = rest.first() else {
        return MORE;
    };
    if let Some(format) = format(section.name) {
        let (len, skips) = (section.limit, false);
        return format.first(Limit { len, skips }, rest);
    }
    let field = |at: usize| rest.get(at).map(|byte| usize::from(*byte));
    match (section.name, tag) {
        ("raw", _) => frame(rest, 0, rest.len()),
        ("records", tag) => match field(1) {
            Some(count) if tag == b'r' && 2 + 3 * count <= section.limit => {
                frame(rest, 0, 2 + 3 * count)
            }
            Some(_) => BAD,
            None => MORE,
        },
        ("nul", _) => match position(rest, b"\0") {
            Some(end) => Found::Frame {
                payload: rest[..end].to_vec(),
                len: end + 1,
            },
            None => MORE,
        },
        ("marked", _) if !(rest.starts_with(b"<>") || rest == b"<") => BAD,
        ("marked", _) => match rest.get(2..).and_then(|rest| position(rest, b"<>")) {
            Some(len) => frame(rest, 2, len),
            None => MORE,
        },
        ("blocks", _) => frame(rest, 0, 3),
        (name, _) => panic!("unknown framing {name}"),
    }
}

/// Returns the result for the bytes that are left at the end of the stream. Some codecs decode
/// them.
fn at_the_end(name: &str, rest: &[u8]) -> Found {
    match name {
        "marked" if rest.len() >= 2 => frame(rest, 2, rest.len() - 2),
        "blocks" if !rest.is_empty() => frame(rest, 0, 1),
        "rest" if !rest.is_empty() => Found::Frame {
            payload: rest.strip_suffix(b"\r").unwrap_or(rest).to_vec(),
            len: rest.len(),
        },
        _ => MORE,
    }
}

fn frame(rest: &[u8], header: usize, len: usize) -> Found {
    match rest.get(header..header + len) {
        Some(payload) => Found::Frame {
            payload: payload.to_vec(),
            len: header + len,
        },
        None => MORE,
    }
}

fn position(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes
        .windows(wanted.len())
        .position(|window| window == wanted)
}

/// Returns the width of a length field in bytes, and true if it is little-endian.
fn length_field(name: &str) -> (usize, bool) {
    let bits = name.trim_start_matches('u').trim_end_matches("-le");
    let bits: usize = bits.parse().expect("the name of a length framing");
    (bits / 8, name.ends_with("-le"))
}

/// Encodes one frame without the code of this crate.
pub(super) fn encode(name: &str, payload: &[u8]) -> Vec<u8> {
    match name {
        "raw" | "blocks" | "fixed" => payload.to_vec(),
        "kept" | "records" | "digits" => delivered(name, payload),
        "byte" => [payload, b";"].concat(),
        "delimiter" | "beats" => [payload, b"--"].concat(),
        "delimiters" => [payload, b";;;"].concat(),
        "netstring" => [&header(name, payload.len() as u64), payload, b","].concat(),
        "line" | "rest" => [payload, b"\n"].concat(),
        "line-crlf" => [payload, b"\r\n"].concat(),
        "nul" => [payload, b"\0"].concat(),
        "marked" => [b"<>", payload].concat(),
        "tagged" => {
            let len = u8::try_from(payload.len()).expect("the payload has at most 255 bytes");
            [&[b'f', len], payload].concat()
        }
        name => [&header(name, payload.len() as u64)[..], payload].concat(),
    }
}

/// Returns the frame that is delivered for a payload. If the framing keeps the header, the frame
/// includes the header.
pub(super) fn delivered(name: &str, payload: &[u8]) -> Vec<u8> {
    let count = |len: usize| u8::try_from(len).expect("the payload has at most 255 bytes");
    match name {
        "kept" => [&[b't', count(payload.len())], payload].concat(),
        "digits" => [format!("{}:", payload.len()).as_bytes(), payload].concat(),
        "records" => {
            let records = payload.len() / 3;
            [&[b'r', count(records)], &payload[..3 * records]].concat()
        }
        _ => payload.to_vec(),
    }
}

/// Returns the header of a payload of `len` bytes.
pub(super) fn header(name: &str, len: u64) -> Vec<u8> {
    match name {
        "varint" => {
            let width = (64 - len.leading_zeros()).div_ceil(7).max(1);
            let digits = (0..width).map(|digit| (len >> (7 * digit)).to_le_bytes()[0] | 128);
            let mut field: Vec<u8> = digits.collect();
            *field.last_mut().expect("a varint has at least one byte") &= 127;
            return field;
        }
        "netstring" | "digits" => return format!("{len}:").into_bytes(),
        "kept" => return vec![b't', len.to_le_bytes()[0]],
        "field" => return [b"M", &(len + 3).to_le_bytes()[..2]].concat(),
        _ => {}
    }
    let (width, is_little) = length_field(name);
    if is_little {
        len.to_le_bytes()[..width].to_vec()
    } else {
        len.to_be_bytes()[8 - width..].to_vec()
    }
}

pub(super) fn is_length(name: &str) -> bool {
    name.starts_with('u')
}

/// Returns the maximum length of a payload in the tests of a framing.
pub(super) fn payload_len_max(name: &str) -> usize {
    match name {
        "u8" | "tagged" | "kept" => 255,
        "blocks" | "fixed" => 3,
        "records" => 765,
        "field" => 65_532,
        "digits" => 999_999,
        "u16" | "u16-le" => 65_535,
        _ => usize::MAX,
    }
}

/// Returns a payload that every framing delivers unchanged.
pub(super) fn payload(len: usize) -> Vec<u8> {
    let mut payload = b"payload ".repeat(len.div_ceil(8));
    payload.truncate(len);
    payload
}

/// Returns a stream of whole frames with at least `len` bytes in total. Each payload has at most
/// `payload_max` bytes.
pub(super) fn random_stream(
    name: &str,
    len: usize,
    payload_max: usize,
    random: &mut Random,
) -> Vec<u8> {
    let payload_max = payload_max.min(payload_len_max(name));
    let mut stream = Vec::new();
    while stream.len() < len {
        // The random shift makes payloads of every order of magnitude frequent.
        let bound = 1 + (payload_max >> random.below(16)).max(1);
        let payload = payload(random.below(bound).min(payload_max));
        stream.extend(encode(name, &payload));
        if name == "beats" && random.below(3) == 0 {
            stream.extend(b"~+".repeat(random.below(3000)));
        }
        if name == "tagged" && random.below(3) == 0 {
            let skipped = random.below(3000);
            let field = u16::try_from(skipped)
                .expect("the length is below 3000")
                .to_be_bytes();
            stream.extend([&b"s"[..], &field, &vec![b'f'; skipped], b"."].concat());
        }
    }
    stream
}
