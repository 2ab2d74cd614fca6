//! What must come out of a stream, by decoders that are as plain as can be: each looks at the whole
//! rest of the stream, and remembers nothing. And streams to decode.

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
        "raw" | "blocks" => payload.to_vec(),
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

/// The length field alone.
pub(super) fn header(name: &str, len: u64) -> Vec<u8> {
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
        "u8" | "tagged" => 255,
        "blocks" => 3,
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
