//! Framings as plain as can be: each looks at the whole rest of a stream, byte by byte, and
//! remembers nothing. What the crate finds in a stream is held against what they find.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file uses its own part of this"
)]

use unstick::{Codec, FrameError, Framing, LengthField, Out, Step};

/// A framing and its settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Format {
    Raw,
    Line,
    Fixed(usize),
    Delimiters(Vec<Vec<u8>>),
    Length {
        width: u8,
        is_little: bool,
    },
    Field(Field),
    Varint,
    Netstring,
    /// A header of that many bytes: see [`body_len`].
    HeaderBody(usize),
    /// A codec of one's own: see [`Tagged`].
    Tagged,
}

/// A length field in a header, behind that many other bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    pub leading: usize,
    pub width: u8,
    pub is_little: bool,
    pub adjustment: i64,
    pub keeps_header: bool,
}

/// What a stream comes to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Decoded {
    pub frames: Vec<Vec<u8>>,
    /// How many bytes were taken, up to the end of the last frame or skip.
    pub taken: usize,
    /// What is wrong behind them.
    pub fault: Option<Fault>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    TooLong,
    Malformed,
}

/// What the front of a stream is.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    Frame {
        payload: Vec<u8>,
        len: usize,
    },
    Skip(usize),
    /// The head of a frame, or nothing.
    Cut,
    Bad(Fault),
}

impl Fault {
    /// The kind of an error, where it is one that a stream may cause.
    pub fn of(error: &FrameError) -> Self {
        match error {
            FrameError::TooLong { .. } => Self::TooLong,
            FrameError::Malformed(_) => Self::Malformed,
            error => panic!("no stream may cause this: {error}"),
        }
    }
}

impl Format {
    /// The crate's framing for it.
    pub fn framing(&self, limit: usize) -> Framing {
        let framing = match self {
            Self::Raw => Framing::raw(),
            Self::Line => Framing::line(),
            Self::Fixed(len) => Framing::fixed(*len),
            Self::Delimiters(all) => {
                Framing::delimiters(&all.iter().map(Vec::as_slice).collect::<Vec<_>>())
            }
            Self::Length { width, is_little } => {
                let order = if *is_little && *width > 1 { "-le" } else { "" };
                let name = format!("u{}{order}", 8 * width);
                name.parse().expect("1, 2, 3, 4 or 8 bytes")
            }
            Self::Field(field) => Framing::length_field(field.length_field()),
            Self::Varint => Framing::varint(),
            Self::Netstring => Framing::netstring(),
            Self::HeaderBody(len) => Framing::header_body(Framing::fixed(*len), body_len),
            Self::Tagged => Framing::custom(Tagged),
        };
        framing.frame_len_max(limit)
    }

    /// Decodes a stream that is there as a whole, and has ended.
    pub fn decode(&self, limit: usize, stream: &[u8]) -> Decoded {
        let mut decoded = Decoded::default();
        loop {
            let rest = &stream[decoded.taken..];
            match self.first(limit, rest) {
                Found::Frame { payload, len } => {
                    decoded.frames.push(payload);
                    decoded.taken += len;
                }
                Found::Skip(len) => decoded.taken += len.min(rest.len()),
                Found::Cut => return decoded,
                Found::Bad(fault) => {
                    decoded.fault = Some(fault);
                    return decoded;
                }
            }
        }
    }

    /// What an ended stream begins with.
    pub fn first(&self, limit: usize, rest: &[u8]) -> Found {
        if rest.is_empty() {
            return Found::Cut;
        }
        match self {
            Self::Raw => frame(rest, 0, rest.len().min(limit.max(1)), 0),
            Self::Line => line(rest, limit),
            Self::Fixed(len) => frame(rest, 0, *len, 0),
            Self::Delimiters(all) => delimited(rest, all, limit),
            Self::Length { width, is_little } => {
                let field = Field {
                    leading: 0,
                    width: *width,
                    is_little: *is_little,
                    adjustment: 0,
                    keeps_header: false,
                };
                field.first(limit, rest)
            }
            Self::Field(field) => field.first(limit, rest),
            Self::Varint => varint(rest, limit),
            Self::Netstring => netstring(rest, limit),
            Self::HeaderBody(header_len) => match rest.get(..*header_len).map(body_len) {
                None => Found::Cut,
                Some(Err(_)) => Found::Bad(Fault::Malformed),
                Some(Ok(len)) => counted(rest, 0, *header_len as u128 + u128::from(len), 0, limit),
            },
            Self::Tagged => tagged(rest),
        }
    }

    /// Whether a payload has a form that comes out as it went in, whatever follows.
    pub fn can_carry(&self, limit: usize, payload: &[u8]) -> bool {
        let is_short = payload.len() <= limit;
        match self {
            Self::Raw => true,
            Self::Line => is_short && !payload.contains(&b'\n') && !payload.ends_with(b"\r"),
            Self::Fixed(len) => payload.len() == *len,
            Self::Delimiters(all) => {
                let ends = |one: &&Vec<u8>| {
                    let mut others = all.iter();
                    !others.any(|other| other.len() > one.len() && other.starts_with(one))
                };
                let ending = all.iter().find(ends).expect("the longest one");
                let sent = [payload, ending].concat();
                is_short && !(0..payload.len()).any(|at| may_begin(all, &sent[at..]))
            }
            Self::Length { width, .. } => is_short && fits(payload.len() as i128, *width),
            Self::Field(field) => field.can_carry(limit, payload),
            Self::Varint | Self::Netstring => is_short,
            Self::HeaderBody(header_len) => {
                let told = payload.get(..*header_len).map(body_len);
                let body_len = payload.len().saturating_sub(*header_len) as u64;
                is_short && matches!(told, Some(Ok(len)) if len == body_len)
            }
            Self::Tagged => payload.len() < 256,
        }
    }
}

impl Field {
    pub fn length_field(&self) -> LengthField {
        let field = LengthField::new(self.width)
            .leading(&b"magic and more"[..self.leading])
            .adjustment(self.adjustment);
        let field = if self.is_little {
            field.little_endian()
        } else {
            field
        };
        if self.keeps_header {
            field.keep_header()
        } else {
            field
        }
    }

    pub fn header_len(&self) -> usize {
        self.leading + usize::from(self.width)
    }

    fn first(&self, limit: usize, rest: &[u8]) -> Found {
        let header_len = self.header_len();
        let Some(field) = rest.get(self.leading..header_len) else {
            return Found::Cut;
        };
        let mut digits = field.to_vec();
        if self.is_little {
            digits.reverse();
        }
        let value = digits
            .iter()
            .fold(0, |value, digit| 256 * value + i128::from(*digit));
        let Ok(body_len) = u128::try_from(value + i128::from(self.adjustment)) else {
            return Found::Bad(Fault::Malformed);
        };
        if self.keeps_header {
            counted(rest, 0, header_len as u128 + body_len, 0, limit)
        } else {
            counted(rest, header_len, body_len, 0, limit)
        }
    }

    fn can_carry(&self, limit: usize, payload: &[u8]) -> bool {
        let kept = if self.keeps_header {
            self.header_len()
        } else {
            0
        };
        let value = payload.len() as i128 - kept as i128 - i128::from(self.adjustment);
        payload.len() >= kept && payload.len() <= limit && fits(value, self.width)
    }

    /// What comes out where that payload is accepted: where the header is kept, its field is
    /// filled in.
    pub fn delivered(&self, payload: &[u8]) -> Vec<u8> {
        let mut delivered = payload.to_vec();
        if self.keeps_header {
            let body_len = payload.len() as i128 - self.header_len() as i128;
            let mut digits = (body_len - i128::from(self.adjustment))
                .to_be_bytes()
                .to_vec();
            digits.drain(..16 - usize::from(self.width));
            if self.is_little {
                digits.reverse();
            }
            delivered[self.leading..self.header_len()].copy_from_slice(&digits);
        }
        delivered
    }
}

/// Whether a field of that many bytes can hold the number.
fn fits(value: i128, width: u8) -> bool {
    (0..1 << (8 * width)).contains(&value)
}

/// The body of a [`Format::HeaderBody`]: as long as its header's last byte says, in a unit that the
/// first one says; `?` begins no header.
pub fn body_len(header: &[u8]) -> Result<u64, FrameError> {
    let count = u64::from(*header.last().expect("it has a byte"));
    match header[0] {
        b'?' => Err(FrameError::Malformed("no such type")),
        0xFF => Ok(u64::MAX),
        unit => Ok(count * u64::from(unit % 4)),
    }
}

/// A frame whose length is told, and is not trusted.
fn counted(rest: &[u8], header: usize, len: u128, trailer: usize, limit: usize) -> Found {
    match usize::try_from(len) {
        // What ends beyond what can be counted is too long for any limit.
        Ok(len) if len <= limit && len.checked_add(header + trailer).is_some() => {
            frame(rest, header, len, trailer)
        }
        _ => Found::Bad(Fault::TooLong),
    }
}

fn frame(rest: &[u8], header: usize, len: usize, trailer: usize) -> Found {
    let end = header.saturating_add(len);
    match rest.get(header..end) {
        Some(payload) if rest.len() - end >= trailer => Found::Frame {
            payload: payload.to_vec(),
            len: end + trailer,
        },
        _ => Found::Cut,
    }
}

fn line(rest: &[u8], limit: usize) -> Found {
    let end = rest.iter().position(|byte| *byte == b'\n');
    let mut payload = rest[..end.unwrap_or(rest.len())].to_vec();
    if payload.ends_with(b"\r") {
        payload.pop();
    }
    match end {
        _ if payload.len() > limit => Found::Bad(Fault::TooLong),
        Some(end) => Found::Frame {
            payload,
            len: end + 1,
        },
        None => Found::Cut,
    }
}

/// The first delimiter ends it, and of those that begin there the longest. What is content however
/// the stream goes on may be too long before a delimiter is there.
fn delimited(rest: &[u8], all: &[Vec<u8>], limit: usize) -> Found {
    let longest = |start: &usize| {
        let here = all.iter().filter(|one| rest[*start..].starts_with(one));
        here.map(Vec::len).max()
    };
    let mut starts = 0..rest.len();
    let content = starts.clone().find(|start| may_begin(all, &rest[*start..]));
    let end = starts.find_map(|start| longest(&start).map(|len| (start, len)));
    match end {
        _ if content.unwrap_or(rest.len()) > limit => Found::Bad(Fault::TooLong),
        Some((start, _)) if start > limit => Found::Bad(Fault::TooLong),
        Some((start, len)) => frame(rest, 0, start, len),
        None => Found::Cut,
    }
}

/// Whether one of the delimiters is at the front of these bytes, or may be if more come.
fn may_begin(all: &[Vec<u8>], bytes: &[u8]) -> bool {
    all.iter()
        .any(|one| bytes.starts_with(one) || one.starts_with(bytes))
}

fn varint(rest: &[u8], limit: usize) -> Found {
    let mut len = 0;
    for (index, byte) in rest.iter().enumerate() {
        len += u128::from(byte % 128) << (7 * index);
        let is_minimal = *byte > 0 || index == 0;
        if len > u128::from(u64::MAX) || index == 9 && *byte > 1 || !is_minimal {
            return Found::Bad(Fault::Malformed);
        }
        if *byte < 128 {
            return counted(rest, index + 1, len, 0, limit);
        }
    }
    Found::Cut
}

fn netstring(rest: &[u8], limit: usize) -> Found {
    let mut len = 0;
    for (index, byte) in rest.iter().enumerate() {
        match byte {
            b'0'..=b'9' if index == 1 && rest[0] == b'0' => break,
            b'0'..=b'9' => len = 10 * len + u128::from(byte - b'0'),
            b':' if index > 0 => {
                let found = counted(rest, index + 1, len, 1, limit);
                let Found::Frame { len, .. } = found else {
                    return found;
                };
                return match rest[len - 1] {
                    b',' => found,
                    _ => Found::Bad(Fault::Malformed),
                };
            }
            _ => break,
        }
        if len > limit as u128 {
            return Found::Bad(Fault::TooLong);
        }
        if index + 1 == rest.len() {
            return Found::Cut;
        }
    }
    Found::Bad(Fault::Malformed)
}

fn tagged(rest: &[u8]) -> Found {
    match *rest {
        [b'.', ..] => Found::Skip(1),
        [b's', high, low, ..] => Found::Skip(3 + 256 * usize::from(high) + usize::from(low)),
        [b'f', len, ..] => frame(rest, 2, usize::from(len), 0),
        [b's' | b'f', ..] => Found::Cut,
        _ => Found::Bad(Fault::Malformed),
    }
}

/// `f`, a length and a payload is a frame; `.` is skipped, `s` and a length of two bytes with that
/// many bytes behind it too: it may be far beyond what is there.
#[derive(Debug)]
pub struct Tagged;

impl Codec for Tagged {
    type State = ();

    fn decode(&self, (): &mut (), bytes: &[u8]) -> Result<Step, FrameError> {
        Ok(match *bytes {
            [b'.', ..] => Step::Skip { bytes: 1 },
            [b's', high, low, ..] => Step::Skip {
                bytes: 3 + u64::from(u16::from_be_bytes([high, low])),
            },
            [b'f', len, ..] => {
                let end = 2 + usize::from(len);
                if bytes.len() < end {
                    return Ok(Step::Need(end));
                }
                Step::Frame {
                    frame: 2..end,
                    consumed: end,
                }
            }
            [b's', ..] => Step::Need(3),
            [b'f'] => Step::Need(2),
            _ => return Err(FrameError::Malformed("an unknown tag")),
        })
    }

    fn encode(&self, payload: &[u8], out: &mut Out<'_>) -> Result<(), FrameError> {
        let Ok(len) = u8::try_from(payload.len()) else {
            return Err(FrameError::Unencodable(
                "longer than its length field tells",
            ));
        };
        out.put(&[b'f', len]);
        out.put(payload);
        Ok(())
    }
}
