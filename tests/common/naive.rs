//! Simple reference decoders. Each call decodes the first frame of the remaining stream, and no
//! state is kept between calls. Tests compare the crate with these decoders.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file uses only some of these helpers"
)]

use unstick::{Codec, FrameError, FrameLen, Framing, LengthField, Out, Step};

/// Bytes before the length field of a header; a header uses the first `leading` of them.
const LEADING: &[u8] = b"magic";
/// Bytes after the length field of a header; a header uses the first `following` of them.
const FOLLOWING: &[u8] = b"flags";

/// A framing and its settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Format {
    Raw,
    Line,
    LineCrlf,
    Fixed(usize),
    Delimiters(Vec<Vec<u8>>),
    /// Lines or delimited frames; the last frame of the stream may lack its delimiter.
    Unterminated(Box<Self>),
    Length {
        width: u8,
        is_little: bool,
    },
    Field(Field),
    Varint {
        is_lax: bool,
    },
    Netstring,
    /// Header of the given length, and a body whose length [`body_len`] computes.
    HeaderBody(usize),
    /// Frames whose length the function [`digits_len`] computes.
    Digits,
    /// Frames of a format, with bytes to skip between them.
    Between(Box<Self>, Vec<u8>),
    /// The custom codec [`Tagged`].
    Tagged,
}

/// A length field in a header, with `leading` bytes before it and `following` bytes after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    pub leading: usize,
    pub width: u8,
    pub following: usize,
    pub is_little: bool,
    pub adjustment: i64,
    /// Number of bytes at the start of a frame that are not delivered. A [`LengthField`] strips the
    /// whole header by default.
    pub strip: usize,
}

/// Limit of the payload length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// Maximum payload length, in bytes.
    pub len: usize,
    /// True if longer frames are skipped; false if they are errors.
    pub skips: bool,
}

/// Result of decoding a stream.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Decoded {
    pub frames: Vec<Vec<u8>>,
    /// Skipped frames, each as the number of delivered frames before it and its payload length.
    pub skipped: Vec<(usize, u64)>,
    /// Number of bytes consumed: delivered frames, skipped bytes, and the dropped bytes of a
    /// partial frame over the limit.
    pub taken: usize,
    /// Error of the frame after the consumed bytes; `None` if there is no error.
    pub fault: Option<Fault>,
}

/// Kind of a decode error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    TooLong,
    Malformed,
}

/// Result of decoding the start of a stream.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    Frame {
        payload: Vec<u8>,
        len: usize,
    },
    /// Number of bytes to skip that belong to no frame.
    Skip(usize),
    /// A skipped frame that exceeds the limit. `len` is its whole length, with header and trailer.
    TooLong {
        payload: u64,
        len: usize,
    },
    /// A partial frame, or no bytes at all. The value is the number of its bytes that are dropped
    /// because the frame exceeds the limit.
    Cut(usize),
    Bad(Fault),
}

impl Fault {
    /// Returns the kind of an error. Panics for an error that no stream can cause.
    pub fn of(error: &FrameError) -> Self {
        match error {
            FrameError::TooLong { .. } => Self::TooLong,
            FrameError::Malformed(_) => Self::Malformed,
            error => panic!("no stream can cause this error: {error}"),
        }
    }
}

impl Format {
    /// Returns the crate's framing with these settings.
    pub fn framing(&self, limit: Limit) -> Framing {
        let framing = match self {
            Self::Raw => Framing::raw(),
            Self::Line => Framing::line(),
            Self::LineCrlf => Framing::line_crlf(),
            Self::Unterminated(inner) => inner.framing(limit).unterminated_last_frame(),
            Self::Digits => Framing::length_fn(digits_len),
            Self::Between(inner, bytes) => inner.framing(limit).skip_between(bytes),
            Self::Fixed(len) => Framing::fixed(*len),
            Self::Delimiters(all) => {
                Framing::delimiters(&all.iter().map(Vec::as_slice).collect::<Vec<_>>())
            }
            Self::Length { width, is_little } => {
                let order = if *is_little && *width > 1 { "-le" } else { "" };
                let name = format!("u{}{order}", 8 * width);
                name.parse().expect("the width is 1, 2, 3, 4 or 8 bytes")
            }
            Self::Field(field) => Framing::length_field(field.length_field()),
            Self::Varint { is_lax: false } => Framing::varint(),
            Self::Varint { is_lax: true } => Framing::varint_lax(),
            Self::Netstring => Framing::netstring(),
            Self::HeaderBody(len) => Framing::header_body(Framing::fixed(*len), body_len),
            Self::Tagged => Framing::custom(Tagged),
        };
        let framing = framing.frame_len_max(limit.len);
        match limit.skips {
            true => framing.skip_too_long(),
            false => framing,
        }
    }

    /// Decodes all items of a stream that has ended.
    pub fn decode(&self, limit: Limit, stream: &[u8]) -> Decoded {
        let mut decoded = Decoded::default();
        while decoded.take(self.first(limit, &stream[decoded.taken..]), stream.len()) {}
        decoded
    }

    /// Decodes the first item of `rest`, the remaining bytes of a stream that has ended.
    pub fn first(&self, limit: Limit, rest: &[u8]) -> Found {
        if rest.is_empty() {
            return Found::Cut(0);
        }
        match self {
            Self::Raw => frame(rest, 0, rest.len().min(limit.len.max(1)), 0),
            Self::Line => line(rest, limit),
            Self::LineCrlf => line_crlf(rest, limit),
            Self::Unterminated(inner) => match inner.first(limit, rest) {
                Found::Cut(_) => inner.last(limit, rest),
                found => found,
            },
            Self::Digits => digits_frame(rest, limit),
            Self::Between(_, bytes) if bytes.contains(&rest[0]) => Found::Skip(1),
            Self::Between(inner, _) => inner.first(limit, rest),
            Self::Fixed(len) => frame(rest, 0, *len, 0),
            Self::Delimiters(all) => delimited(rest, all, limit),
            Self::Length { width, is_little } => {
                let width = usize::from(*width);
                match rest.get(..width) {
                    Some(field) => counted(rest, width, number(field, *is_little), 0, limit),
                    None => Found::Cut(0),
                }
            }
            Self::Field(field) => field.first(limit, rest),
            Self::Varint { is_lax } => varint(rest, *is_lax, limit),
            Self::Netstring => netstring(rest, limit),
            Self::HeaderBody(header_len) => match rest.get(..*header_len).map(body_len) {
                None => Found::Cut(0),
                Some(Err(_)) => Found::Bad(Fault::Malformed),
                Some(Ok(len)) => counted(rest, 0, *header_len as u128 + u128::from(len), 0, limit),
            },
            Self::Tagged => tagged(rest),
        }
    }

    /// Decodes the last frame of a stream that ends without a delimiter.
    fn last(&self, limit: Limit, rest: &[u8]) -> Found {
        match self {
            Self::Line => limit.complete(rest.strip_suffix(b"\r").unwrap_or(rest), rest.len()),
            Self::LineCrlf
                if rest.ends_with(b"\r") && rest.len() <= limit.len.saturating_add(1) =>
            {
                Found::Bad(Fault::Malformed)
            }
            Self::LineCrlf | Self::Delimiters(_) => limit.complete(rest, rest.len()),
            other => panic!("{other:?} has no delimiter"),
        }
    }

    /// Returns true if the framing accepts the payload, and a receiver decodes it to
    /// [`delivered`](Self::delivered) whatever bytes follow. Always true for [`Self::Raw`],
    /// although the frames of `Raw` depend on the reads.
    pub fn can_carry(&self, limit: Limit, payload: &[u8]) -> bool {
        let is_short = payload.len() <= limit.len;
        match self {
            Self::Raw => true,
            Self::Line => is_short && !payload.contains(&b'\n') && !payload.ends_with(b"\r"),
            Self::LineCrlf => is_short && !payload.contains(&b'\n') && !payload.contains(&b'\r'),
            Self::Unterminated(inner) => inner.can_carry(limit, payload),
            Self::Digits => {
                let whole = Found::Frame {
                    payload: payload.to_vec(),
                    len: payload.len(),
                };
                !payload.is_empty() && digits_frame(payload, limit) == whole
            }
            Self::Between(inner, bytes) => {
                inner.can_carry(limit, payload)
                    && !inner
                        .encode(payload)
                        .first()
                        .is_some_and(|byte| bytes.contains(byte))
            }
            Self::Fixed(len) => payload.len() == *len,
            Self::Delimiters(all) => {
                let sent = [payload, ending(all)].concat();
                is_short && !(0..payload.len()).any(|at| may_begin(all, &sent[at..]))
            }
            Self::Length { width, .. } => is_short && fits(payload.len() as i128, *width),
            Self::Field(field) => is_short && field.can_carry(payload),
            Self::Varint { .. } | Self::Netstring => is_short,
            Self::HeaderBody(header_len) => {
                let claimed = payload.get(..*header_len).map(body_len);
                let body_len = payload.len().saturating_sub(*header_len) as u64;
                is_short && matches!(claimed, Some(Ok(len)) if len == body_len)
            }
            Self::Tagged => payload.len() < 256,
        }
    }

    /// Encodes a payload for which `can_carry` returns true.
    pub fn encode(&self, payload: &[u8]) -> Vec<u8> {
        let len = payload.len();
        let header = match self {
            Self::Length { width, is_little } => digits(len as i128, *width, *is_little),
            Self::Field(field) => return field.encode(payload),
            Self::Unterminated(inner) | Self::Between(inner, _) => return inner.encode(payload),
            Self::Varint { .. } => {
                let digits = (usize::BITS - len.leading_zeros()).div_ceil(7).max(1);
                let digit = |at: u32| (len >> (7 * at)).to_le_bytes()[0] % 128;
                let more = |at| if at + 1 < digits { 128 } else { 0 };
                (0..digits).map(|at| digit(at) + more(at)).collect()
            }
            Self::Netstring => format!("{len}:").into_bytes(),
            Self::Tagged => vec![b'f', len.to_le_bytes()[0]],
            _ => Vec::new(),
        };
        let trailer = match self {
            Self::Line => &b"\n"[..],
            Self::LineCrlf => b"\r\n",
            Self::Delimiters(all) => ending(all),
            Self::Netstring => b",",
            _ => b"",
        };
        [&header, payload, trailer].concat()
    }

    /// Returns the frame that a receiver decodes if this payload is sent.
    pub fn delivered(&self, payload: &[u8]) -> Vec<u8> {
        match self {
            Self::Field(field) => field.encode(payload)[field.strip..].to_vec(),
            Self::Between(inner, _) => inner.delivered(payload),
            _ => payload.to_vec(),
        }
    }
}

/// Returns the first delimiter that is not the start of a longer delimiter.
fn ending(all: &[Vec<u8>]) -> &[u8] {
    let ends = |one: &&Vec<u8>| {
        let mut others = all.iter();
        !others.any(|other| other.len() > one.len() && other.starts_with(one))
    };
    all.iter()
        .find(ends)
        .expect("the longest delimiter is not the start of another")
}

impl Decoded {
    /// Records an item of a stream of `stream_len` bytes. Returns true if decoding continues after
    /// the item.
    pub fn take(&mut self, found: Found, stream_len: usize) -> bool {
        let (len, goes_on) = match found {
            Found::Frame { payload, len } => {
                self.frames.push(payload);
                (len, true)
            }
            Found::TooLong { payload, len } => {
                self.skipped.push((self.frames.len(), payload));
                (len, true)
            }
            Found::Skip(len) => (len, true),
            Found::Cut(len) => (len, false),
            Found::Bad(fault) => {
                self.fault = Some(fault);
                (0, false)
            }
        };
        self.taken += len.min(stream_len - self.taken);
        goes_on
    }
}

impl Field {
    pub fn length_field(&self) -> LengthField {
        let field = LengthField::new(self.width)
            .leading(&LEADING[..self.leading])
            .following(&FOLLOWING[..self.following])
            .adjustment(self.adjustment);
        let field = match self.is_little {
            true => field.little_endian(),
            false => field,
        };
        match self.strip {
            0 => field.keep_header(),
            strip if strip == self.header_len() => field,
            strip => field.strip(strip),
        }
    }

    pub fn header_len(&self) -> usize {
        self.field_end() + self.following
    }

    fn field_end(&self) -> usize {
        self.leading + usize::from(self.width)
    }

    fn first(&self, limit: Limit, rest: &[u8]) -> Found {
        let Some(field) = rest.get(self.leading..self.field_end()) else {
            return Found::Cut(0);
        };
        let value =
            i128::try_from(number(field, self.is_little)).expect("the field has at most 64 bits");
        let end = value + i128::from(self.adjustment) + self.field_end() as i128;
        if end < self.strip.max(self.header_len()) as i128 {
            return Found::Bad(Fault::Malformed);
        }
        match u64::try_from(end) {
            Ok(end) => {
                let len = end - self.strip as u64;
                counted(rest, self.strip, u128::from(len), 0, limit)
            }
            // The end of the frame does not fit 64 bits, so the frame exceeds every limit. It is
            // reported with the largest length.
            Err(_) => limit.exceeded(u128::MAX, u128::MAX),
        }
    }

    fn can_carry(&self, payload: &[u8]) -> bool {
        let frame_len = self.strip + payload.len();
        frame_len >= self.header_len() && fits(self.value(frame_len), self.width)
    }

    /// Returns the value of the length field in a frame of `frame_len` bytes.
    fn value(&self, frame_len: usize) -> i128 {
        frame_len as i128 - self.field_end() as i128 - i128::from(self.adjustment)
    }

    /// Encodes a payload. The first `strip` bytes come from the settings, and are zero after the
    /// header; the receiver strips these bytes. All later bytes are the payload. The length field
    /// is written last, and overwrites the bytes at its offset.
    fn encode(&self, payload: &[u8]) -> Vec<u8> {
        let mut stripped = [
            &LEADING[..self.leading],
            &vec![0; usize::from(self.width)],
            &FOLLOWING[..self.following],
        ]
        .concat();
        stripped.resize(self.strip, 0);
        let mut frame = [&stripped, payload].concat();
        let value = self.value(frame.len());
        let digits = digits(value, self.width, self.is_little);
        frame[self.leading..self.field_end()].copy_from_slice(&digits);
        frame
    }
}

fn digits(value: i128, width: u8, is_little: bool) -> Vec<u8> {
    let mut digits = value.to_be_bytes()[16 - usize::from(width)..].to_vec();
    if is_little {
        digits.reverse();
    }
    digits
}

fn number(field: &[u8], is_little: bool) -> u128 {
    let mut digits = field.to_vec();
    if is_little {
        digits.reverse();
    }
    let push = |value, digit: &u8| 256 * value + u128::from(*digit);
    digits.iter().fold(0, push)
}

/// Returns true if a field of `width` bytes can hold the value.
fn fits(value: i128, width: u8) -> bool {
    (0..1 << (8 * width)).contains(&value)
}

/// Returns the body length of a [`Format::HeaderBody`]: `last * (first % 4)`, for the first and the
/// last byte of the header. A first byte `?` is an error, and a first byte 0xFF means [`u64::MAX`].
pub fn body_len(header: &[u8]) -> Result<u64, FrameError> {
    let count = u64::from(*header.last().expect("the header has at least one byte"));
    match header[0] {
        b'?' => Err(FrameError::Malformed("the type `?` is unknown")),
        0xFF => Ok(u64::MAX),
        unit => Ok(count * u64::from(unit % 4)),
    }
}

/// Decodes a frame whose header claims a payload of `len` bytes, and checks `len` against the
/// limit.
fn counted(rest: &[u8], header: usize, len: u128, trailer: usize, limit: Limit) -> Found {
    match usize::try_from(len) {
        Ok(len) if len <= limit.len && len.checked_add(header + trailer).is_some() => {
            frame(rest, header, len, trailer)
        }
        // A frame whose length does not fit usize exceeds every limit.
        _ => limit.exceeded(len, len + (header + trailer) as u128),
    }
}

impl Limit {
    /// Returns the result for a frame over the limit: `payload` is the length of its payload, and
    /// `len` is its whole length.
    fn exceeded(self, payload: u128, len: u128) -> Found {
        if !self.skips {
            return Found::Bad(Fault::TooLong);
        }
        Found::TooLong {
            payload: u64::try_from(payload).unwrap_or(u64::MAX),
            len: usize::try_from(len).unwrap_or(usize::MAX),
        }
    }

    /// Returns the result for a complete frame of `len` bytes, header and trailer included.
    fn complete(self, payload: &[u8], len: usize) -> Found {
        if payload.len() > self.len {
            return self.exceeded(payload.len() as u128, len as u128);
        }
        Found::Frame {
            payload: payload.to_vec(),
            len,
        }
    }

    /// Returns the result for a partial frame with at least `content` bytes of payload. If these
    /// bytes exceed the limit, and longer frames are skipped, the bytes are dropped. At least one
    /// byte of the frame stays, because it shows that the frame is incomplete.
    fn partial(self, rest: &[u8], content: usize) -> Found {
        match content <= self.len {
            true => Found::Cut(0),
            false if self.skips => Found::Cut(content.min(rest.len() - 1)),
            false => Found::Bad(Fault::TooLong),
        }
    }
}

fn frame(rest: &[u8], header: usize, len: usize, trailer: usize) -> Found {
    let end = header.saturating_add(len);
    match rest.get(header..end) {
        Some(payload) if rest.len() - end >= trailer => Found::Frame {
            payload: payload.to_vec(),
            len: end + trailer,
        },
        _ => Found::Cut(0),
    }
}

fn line(rest: &[u8], limit: Limit) -> Found {
    let end = rest.iter().position(|byte| *byte == b'\n');
    let line = &rest[..end.unwrap_or(rest.len())];
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    match end {
        Some(end) => limit.complete(line, end + 1),
        None => limit.partial(rest, line.len()),
    }
}

/// Decodes a line that ends with `\r\n`. A line with any other `\r` or `\n` is malformed. A line
/// over the limit is too long, even if a later byte of it is malformed. While a line is skipped, a
/// single `\r` or `\n` has no meaning.
fn line_crlf(rest: &[u8], limit: Limit) -> Found {
    let is_end = |at: &usize| match &rest[*at..] {
        [b'\r', b'\n', ..] | [b'\r'] => true,
        [b'\r' | b'\n', ..] => *at <= limit.len || !limit.skips,
        _ => false,
    };
    let end = (0..rest.len()).find(is_end);
    let line = &rest[..end.unwrap_or(rest.len())];
    match &rest[line.len()..] {
        [b'\r', b'\n', ..] => limit.complete(line, line.len() + 2),
        [] | [b'\r'] => limit.partial(rest, line.len()),
        _ if line.len() > limit.len => Found::Bad(Fault::TooLong),
        _ => Found::Bad(Fault::Malformed),
    }
}

/// Length function of a [`Format::Digits`]: decimal digits and a colon before the payload.
pub fn digits_len(bytes: &[u8]) -> Result<FrameLen, FrameError> {
    let digits = bytes
        .iter()
        .take_while(|byte| byte.is_ascii_digit())
        .count();
    match bytes.get(digits) {
        Some(b':') if digits > 0 => {
            let text = str::from_utf8(&bytes[..digits]).expect("digits are ASCII");
            let len: u64 = text
                .parse()
                .map_err(|_| FrameError::Malformed("more than 64 bits"))?;
            Ok(FrameLen::Total(len.saturating_add(digits as u64 + 1)))
        }
        Some(_) => Err(FrameError::Malformed("not a length")),
        None => Ok(FrameLen::Need(digits + 1)),
    }
}

fn digits_frame(rest: &[u8], limit: Limit) -> Found {
    let shown = &rest[..rest.len().min(limit.len.max(1))];
    let mut len = 0_u128;
    for (index, byte) in shown.iter().enumerate() {
        match byte {
            b'0'..=b'9' => len = (10 * len + u128::from(byte - b'0')).min(1 << 100),
            b':' if index > 0 && len <= u128::from(u64::MAX) => {
                let total = (len + index as u128 + 1).min(u128::from(u64::MAX));
                return counted(rest, 0, total, 0, limit);
            }
            _ => return Found::Bad(Fault::Malformed),
        }
    }
    match shown.len() < limit.len {
        true => Found::Cut(0),
        false => Found::Bad(Fault::TooLong),
    }
}

/// Decodes a frame that ends at the first delimiter; if several delimiters start at that offset,
/// the longest of them ends the frame. The bytes before the first possible start of a delimiter are
/// certainly payload, so they can exceed the limit before a delimiter arrives.
fn delimited(rest: &[u8], all: &[Vec<u8>], limit: Limit) -> Found {
    let longest = |start: &usize| {
        let here = all.iter().filter(|one| rest[*start..].starts_with(one));
        here.map(Vec::len).max()
    };
    let mut starts = 0..rest.len();
    let content = starts.clone().find(|start| may_begin(all, &rest[*start..]));
    let end = starts.find_map(|start| longest(&start).map(|len| (start, len)));
    match end {
        Some((start, len)) => limit.complete(&rest[..start], start + len),
        None => limit.partial(rest, content.unwrap_or(rest.len())),
    }
}

/// Returns true if the bytes start with a delimiter, or if a delimiter starts with the bytes.
fn may_begin(all: &[Vec<u8>], bytes: &[u8]) -> bool {
    all.iter()
        .any(|one| bytes.starts_with(one) || one.starts_with(bytes))
}

fn varint(rest: &[u8], is_lax: bool, limit: Limit) -> Found {
    let mut len = 0;
    for (index, byte) in rest.iter().enumerate() {
        len += u128::from(byte % 128) << (7 * index);
        let is_minimal = is_lax || *byte > 0 || index == 0;
        if len > u128::from(u64::MAX) || index == 9 && *byte > 1 || !is_minimal {
            return Found::Bad(Fault::Malformed);
        }
        if *byte < 128 {
            return counted(rest, index + 1, len, 0, limit);
        }
    }
    Found::Cut(0)
}

fn netstring(rest: &[u8], limit: Limit) -> Found {
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
        let len_max = if limit.skips {
            u64::MAX
        } else {
            limit.len as u64
        };
        if len > u128::from(len_max) {
            return Found::Bad(Fault::TooLong);
        }
        if index + 1 == rest.len() {
            return Found::Cut(0);
        }
    }
    Found::Bad(Fault::Malformed)
}

fn tagged(rest: &[u8]) -> Found {
    match *rest {
        [b'.', ..] => Found::Skip(1),
        [b's', high, low, ..] => Found::Skip(3 + 256 * usize::from(high) + usize::from(low)),
        [b'f', len, ..] => frame(rest, 2, usize::from(len), 0),
        [b's' | b'f', ..] => Found::Cut(0),
        _ => Found::Bad(Fault::Malformed),
    }
}

/// A custom codec with three tags. `f`, a length byte and a payload are a frame. `.` is skipped.
/// `s` and a two-byte length are skipped with that number of further bytes, which may extend far
/// beyond the buffer.
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
            _ => return Err(FrameError::Malformed("the tag is unknown")),
        })
    }

    fn encode(&self, payload: &[u8], out: &mut Out<'_>) -> Result<(), FrameError> {
        let Ok(len) = u8::try_from(payload.len()) else {
            return Err(FrameError::Unencodable(
                "the payload is longer than its length field can hold",
            ));
        };
        out.put(&[b'f', len]);
        out.put(payload);
        Ok(())
    }
}
