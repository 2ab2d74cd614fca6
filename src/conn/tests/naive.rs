//! What must come out of a stream, by decoders that are as plain as can be: each looks at the whole
//! rest of the stream, and remembers nothing. And streams to decode.

use super::codecs::DELIMITERS;
use super::{Outcome, Random, Stage};

enum Found {
    Frame { payload: Vec<u8>, len: usize },
    Skip(usize),
    More,
    Bad,
}

/// Decodes a stream that is there as a whole.
pub(super) fn decode(plan: &[Stage], stream: &[u8]) -> Outcome {
    let mut frames = Vec::new();
    let mut rest = stream;
    let mut stages = plan.iter();
    let mut stage = stages.next().expect("a plan has a stage");
    let mut stage_left = stage.frames;
    loop {
        if stage_left == 0 {
            stage = stages.next().expect("the last stage is endless");
            stage_left = stage.frames;
        }
        let mut found = first(stage, rest);
        if matches!(found, Found::More) {
            found = at_the_end(stage.name, rest);
        }
        let bad_at = match found {
            Found::Frame { payload, len } => {
                frames.push(payload);
                rest = &rest[len..];
                stage_left -= 1;
                continue;
            }
            Found::Skip(len) => {
                rest = &rest[len.min(rest.len())..];
                continue;
            }
            Found::More => None,
            Found::Bad => Some(stream.len() - rest.len()),
        };
        return Outcome {
            frames,
            left: if bad_at.is_none() { rest.len() } else { 0 },
            bad_at,
        };
    }
}

fn first(stage: &Stage, rest: &[u8]) -> Found {
    let Some(&tag) = rest.first() else {
        return Found::More;
    };
    let field = |at: usize| rest.get(at).map(|byte| usize::from(*byte));
    match (stage.name, tag) {
        ("raw", _) => frame(rest, 0, rest.len(), 0),
        ("line", _) => line(rest, stage.limit),
        ("fixed", _) => frame(rest, 0, 3, 0),
        ("delimiter", _) => delimited(rest, &[b"--"], stage.limit),
        ("delimiters", _) => delimited(rest, &DELIMITERS, stage.limit),
        ("varint", _) => varint(rest, stage.limit),
        ("netstring", _) => netstring(rest, stage.limit),
        ("field", _) => match (field(1), field(2)) {
            (Some(low), Some(high)) => match (low + 256 * high).checked_sub(3) {
                Some(len) if len <= stage.limit => frame(rest, 3, len, 0),
                _ => Found::Bad,
            },
            _ => Found::More,
        },
        ("kept" | "records", _) => match field(1) {
            Some(_) if stage.name == "records" && tag != b'r' => Found::Bad,
            Some(count) => {
                let len = if stage.name == "kept" {
                    count
                } else {
                    3 * count
                };
                match 2 + len <= stage.limit {
                    true => frame(rest, 0, 2 + len, 0),
                    false => Found::Bad,
                }
            }
            None => Found::More,
        },
        ("nul", _) => match position(rest, b"\0") {
            Some(end) => frame(rest, 0, end, 1),
            None => Found::More,
        },
        ("marked", _) if !(rest.starts_with(b"<>") || rest == b"<") => Found::Bad,
        ("marked", _) => match rest.get(2..).and_then(|rest| position(rest, b"<>")) {
            Some(len) => frame(rest, 2, len, 0),
            None => Found::More,
        },
        ("tagged", b'.') => Found::Skip(1),
        ("tagged", b's') => field(1).map_or(Found::More, |len| Found::Skip(2 + len)),
        ("tagged", b'S') => match (field(1), field(2)) {
            (Some(high), Some(low)) => Found::Skip(3 + 256 * high + low),
            _ => Found::More,
        },
        ("tagged", b'f') => field(1).map_or(Found::More, |len| frame(rest, 2, len, 0)),
        ("tagged", _) => Found::Bad,
        ("blocks", _) => frame(rest, 0, 3, 0),
        (name, _) => {
            let (width, is_little) = length_field(name);
            let Some(field) = rest.get(..width) else {
                return Found::More;
            };
            let digits: Vec<u8> = if is_little {
                field.iter().rev().copied().collect()
            } else {
                field.to_vec()
            };
            let len = digits
                .iter()
                .fold(0_u128, |len, digit| 256 * len + u128::from(*digit));
            match usize::try_from(len) {
                Ok(len) if len <= stage.limit => frame(rest, width, len, 0),
                _ => Found::Bad,
            }
        }
    }
}

/// What the rest of an ended stream is to a codec that has an opinion on it.
fn at_the_end(name: &str, rest: &[u8]) -> Found {
    match name {
        "marked" if rest.len() >= 2 => frame(rest, 2, rest.len() - 2, 0),
        "blocks" if !rest.is_empty() => frame(rest, 0, 1, 0),
        _ => Found::More,
    }
}

fn frame(rest: &[u8], header: usize, len: usize, trailer: usize) -> Found {
    match rest.get(header..header + len) {
        Some(payload) => Found::Frame {
            payload: payload.to_vec(),
            len: header + len + trailer,
        },
        None => Found::More,
    }
}

fn line(rest: &[u8], limit: usize) -> Found {
    let end = position(rest, b"\n");
    let mut payload = rest[..end.unwrap_or(rest.len())].to_vec();
    if payload.ends_with(b"\r") {
        payload.pop();
    }
    match end {
        _ if payload.len() > limit => Found::Bad,
        Some(end) => Found::Frame {
            payload,
            len: end + 1,
        },
        None => Found::More,
    }
}

/// The first delimiter ends it, and of those that begin there the longest.
fn delimited(rest: &[u8], delimiters: &[&[u8]], limit: usize) -> Found {
    for start in 0..rest.len() {
        let here = delimiters
            .iter()
            .filter(|one| rest[start..].starts_with(one));
        if let Some(len) = here.map(|one| one.len()).max() {
            return match start <= limit {
                true => frame(rest, 0, start, len),
                false => Found::Bad,
            };
        }
        if delimiters.iter().any(|one| one.starts_with(&rest[start..])) {
            return if start <= limit {
                Found::More
            } else {
                Found::Bad
            };
        }
    }
    if rest.len() <= limit {
        Found::More
    } else {
        Found::Bad
    }
}

fn varint(rest: &[u8], limit: usize) -> Found {
    let Some(last) = rest.iter().take(10).position(|byte| *byte < 128) else {
        return if rest.len() < 10 {
            Found::More
        } else {
            Found::Bad
        };
    };
    let digits = rest[..=last]
        .iter()
        .rev()
        .map(|byte| u128::from(byte % 128));
    let len = digits.fold(0, |len, digit| 128 * len + digit);
    match usize::try_from(len) {
        Ok(len) if len <= limit && (last == 0 || rest[last] > 0) => frame(rest, last + 1, len, 0),
        _ => Found::Bad,
    }
}

fn netstring(rest: &[u8], limit: usize) -> Found {
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let text = std::str::from_utf8(&rest[..digits]).expect("digits are ASCII");
    let has_leading_zero = digits > 1 && text.starts_with('0');
    let len: usize = match text.parse() {
        Ok(len) if len <= limit && !has_leading_zero => len,
        _ => return Found::Bad,
    };
    match (rest.get(digits), rest.get(digits + 1 + len)) {
        (Some(b':'), Some(b',')) => frame(rest, digits + 1, len, 1),
        (None | Some(b':'), None) => Found::More,
        _ => Found::Bad,
    }
}

fn position(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes
        .windows(wanted.len())
        .position(|window| window == wanted)
}

/// The bytes of a length field, and whether the lowest comes first.
fn length_field(name: &str) -> (usize, bool) {
    let bits = name.trim_start_matches('u').trim_end_matches("-le");
    let bits: usize = bits.parse().expect("the name of a length framing");
    (bits / 8, name.ends_with("-le"))
}

/// One frame, as a peer that knows nothing of this crate would send it.
pub(super) fn encode(name: &str, payload: &[u8]) -> Vec<u8> {
    match name {
        "raw" | "blocks" | "fixed" => payload.to_vec(),
        "kept" | "records" => delivered(name, payload),
        "delimiter" => [payload, b"--"].concat(),
        "delimiters" => [payload, b";;;"].concat(),
        "netstring" => [&header(name, payload.len() as u64), payload, b","].concat(),
        "line" => [payload, b"\n"].concat(),
        "nul" => [payload, b"\0"].concat(),
        "marked" => [b"<>", payload].concat(),
        "tagged" => {
            let len = u8::try_from(payload.len()).expect("a short payload");
            [&[b'f', len], payload].concat()
        }
        name => [&header(name, payload.len() as u64)[..], payload].concat(),
    }
}

/// What comes out of the frame of a payload: where the header is kept, header and payload.
pub(super) fn delivered(name: &str, payload: &[u8]) -> Vec<u8> {
    let count = |len: usize| u8::try_from(len).expect("a short payload");
    match name {
        "kept" => [&[b't', count(payload.len())], payload].concat(),
        "records" => {
            let records = payload.len() / 3;
            [&[b'r', count(records)], &payload[..3 * records]].concat()
        }
        _ => payload.to_vec(),
    }
}

/// What stands in front of a payload of that length.
pub(super) fn header(name: &str, len: u64) -> Vec<u8> {
    match name {
        "varint" => {
            let width = (64 - len.leading_zeros()).div_ceil(7).max(1);
            let digits = (0..width).map(|digit| (len >> (7 * digit)).to_le_bytes()[0] | 128);
            let mut field: Vec<u8> = digits.collect();
            *field.last_mut().expect("one digit at least") &= 127;
            return field;
        }
        "netstring" => return format!("{len}:").into_bytes(),
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

/// The longest payload that a frame of this framing can have here.
pub(super) fn payload_len_max(name: &str) -> usize {
    match name {
        "u8" | "tagged" | "kept" => 255,
        "blocks" | "fixed" => 3,
        "records" => 765,
        "field" => 65_532,
        "u16" | "u16-le" => 65_535,
        _ => usize::MAX,
    }
}

/// A payload that every framing lets through as it is.
pub(super) fn payload(len: usize) -> Vec<u8> {
    let mut payload = b"payload ".repeat(len.div_ceil(8));
    payload.truncate(len);
    payload
}

/// A stream of whole frames of up to `payload_max` bytes, at least `len` bytes of it.
pub(super) fn random_stream(
    name: &str,
    len: usize,
    payload_max: usize,
    random: &mut Random,
) -> Vec<u8> {
    let payload_max = payload_max.min(payload_len_max(name));
    let mut stream = Vec::new();
    while stream.len() < len {
        // Short ones and long ones are as frequent as each other.
        let bound = 1 + (payload_max >> random.below(16)).max(1);
        let payload = payload(random.below(bound).min(payload_max));
        stream.extend(encode(name, &payload));
        if name == "tagged" && random.below(3) == 0 {
            let skipped = random.below(3000);
            let field = u16::try_from(skipped)
                .expect("less than 3000")
                .to_be_bytes();
            stream.extend([&b"S"[..], &field, &vec![b'f'; skipped], b"."].concat());
        }
    }
    stream
}
