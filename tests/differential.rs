//! Differential tests of the framings against references: other crates (tokio-util,
//! integer-encoding) or naive decoders. This crate and the reference must encode a payload to the
//! same bytes. They must decode a stream, cut at random offsets, to the same frames. Each reference
//! defines the intended differences ([`Reference::explains`]). Every other difference fails the
//! test.

mod common;
#[path = "common/naive.rs"]
mod naive;
#[path = "common/streams.rs"]
mod streams;

use bytes::BytesMut;
use integer_encoding::VarInt;
use tokio_util::codec::{AnyDelimiterCodec, AnyDelimiterCodecError, Decoder, Encoder};
use tokio_util::codec::{LengthDelimitedCodec, LinesCodec, LinesCodecError};
use unstick::{Framing, LengthField};

use common::Random;
use naive::{Field, Format, Limit};
use streams::{Seen, deframe, frame, garbage, mutate, payload, pieces};

/// Minimum number of stream bytes that one call of [`compare`] decodes.
const STREAM_BYTES: usize = 10_000_000;
/// Maximum frame length in this crate and in the reference. Some payloads are longer. Many payload
/// lengths are near a power of two, so the limit is a power of two.
const LIMIT: usize = 4096;

/// The decoder that returned an error while the other decoder continued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stopped {
    Ours,
    Theirs,
}

/// A reference implementation of one framing.
trait Reference {
    fn framing(&self) -> Framing;
    /// Returns the bytes that have a meaning in the framing.
    fn alphabet(&self) -> Vec<u8>;
    /// Encodes one frame; returns `None` if the payload must be rejected.
    fn encode(&self, payload: &[u8]) -> Option<Vec<u8>>;
    fn decode(&self, stream: &[u8], pieces: &[&[u8]]) -> Seen;

    fn payload(&self, random: &mut Random) -> Vec<u8> {
        payload(&self.alphabet(), random)
    }

    /// Converts a frame of this crate to the form that the reference returns.
    fn view(&self, frame: Vec<u8>) -> Vec<u8> {
        frame
    }

    /// Returns true if it is intended that only the decoder `stopped` fails at the first frame of
    /// `rest`.
    fn explains(&self, _rest: &[u8], _stopped: Stopped) -> bool {
        false
    }
}

/// Compares this crate with references on random streams; `make` creates a reference for each
/// stream.
fn compare<R: Reference>(first_seed: u64, make: impl Fn(&mut Random) -> R) {
    let (mut decoded, mut frames, mut errors, mut explained) = (0, 0, 0, 0);
    for seed in first_seed.. {
        let mut random = Random(seed);
        let reference = make(&mut random);
        let stream = stream(&reference, seed, &mut random);
        let pieces = pieces(&stream, &mut random);
        let mut ours = deframe(&reference.framing(), &pieces);
        for frame in &mut ours.frames {
            *frame = reference.view(std::mem::take(frame));
        }
        let theirs = reference.decode(&stream, &pieces);
        let stopped = assert_same(&reference, seed, &stream, &ours, &theirs);
        explained += usize::from(stopped.is_some());
        decoded += ours.starts.last().copied().unwrap_or_default();
        frames += ours.frames.len();
        errors += usize::from(ours.rest.is_none());
        if decoded >= STREAM_BYTES {
            break;
        }
    }
    assert!(frames > 200, "only {frames} frames were compared");
    println!("{decoded} bytes, {frames} frames, {errors} errors, {explained} explained");
}

/// Returns a random stream: whole frames, whole frames with a few bytes changed, or garbage. Checks
/// that this crate and the reference encode each frame to the same bytes.
fn stream(reference: &impl Reference, seed: u64, random: &mut Random) -> Vec<u8> {
    let (len, is_mutated) = match random.below(8) {
        0..3 => return garbage(&reference.alphabet(), random),
        3..6 => (random.below(6000), true),
        _ => (random.below(40_000), false),
    };
    let mut stream = Vec::new();
    for _ in 0..1000 {
        let payload = reference.payload(random);
        let theirs = reference.encode(&payload);
        let ours = frame(&reference.framing(), &payload);
        assert!(
            ours == theirs,
            "seed {seed}: {} is encoded as {} by this crate, and as {} by the reference",
            show(&payload),
            show(ours.as_deref().unwrap_or(b"(rejected)")),
            show(theirs.as_deref().unwrap_or(b"(rejected)")),
        );
        stream.extend(theirs.unwrap_or_default());
        if stream.len() > len {
            break;
        }
    }
    if is_mutated {
        mutate(&mut stream, &reference.alphabet(), random);
    }
    stream
}

/// Fails if the two results differ and the difference is not intended. Returns the decoder that
/// stopped if the difference is intended, and `None` if the results are equal.
fn assert_same(
    reference: &impl Reference,
    seed: u64,
    stream: &[u8],
    ours: &Seen,
    theirs: &Seen,
) -> Option<Stopped> {
    let both = ours.frames.iter().zip(&theirs.frames);
    let same = both.take_while(|(ours, theirs)| ours == theirs).count();
    let has_stopped = |seen: &Seen| seen.rest.is_none() && seen.frames.len() == same;
    let stopped = match (has_stopped(ours), has_stopped(theirs)) {
        (true, true) => return None,
        (true, false) => Stopped::Ours,
        (false, true) => Stopped::Theirs,
        (false, false) => {
            let lens = (ours.frames.len(), theirs.frames.len());
            assert!(lens == (same, same), "seed {seed}: frame {same} differs");
            assert!(
                ours.rest == theirs.rest,
                "seed {seed}: the undecoded bytes differ"
            );
            let skipped = (&ours.skipped, &theirs.skipped);
            assert!(
                skipped.0 == skipped.1,
                "seed {seed}: the skipped frames differ: {skipped:?}"
            );
            return None;
        }
    };
    let rest = &stream[ours.starts[same]..];
    assert!(
        reference.explains(rest, stopped),
        "seed {seed}, {:?}: only one decoder failed at frame {same}: {stopped:?}, at the bytes {}",
        reference.framing(),
        show(rest),
    );
    Some(stopped)
}

fn show(bytes: &[u8]) -> String {
    bytes[..bytes.len().min(60)].escape_ascii().to_string()
}

/// Result of one decode call of tokio-util.
enum DecodeResult {
    /// A frame, and the number of bytes consumed, including header and delimiter.
    Frame(Vec<u8>, usize),
    More,
    Error,
}

/// Passes the pieces to a decoder of tokio-util, and returns the frames that it decodes.
fn drive(
    stream: &[u8],
    pieces: &[&[u8]],
    mut decode: impl FnMut(&mut BytesMut) -> DecodeResult,
) -> Seen {
    let mut seen = Seen::default();
    let mut buf = BytesMut::new();
    let mut consumed = 0;
    for piece in pieces {
        buf.extend_from_slice(piece);
        loop {
            match decode(&mut buf) {
                // If the header is kept, the length field can claim a whole frame of 0 bytes.
                // tokio-util would return this frame forever, so it counts as an error.
                DecodeResult::Frame(_, 0) => return seen,
                DecodeResult::Frame(frame, len) => {
                    seen.frames.push(frame);
                    consumed += len;
                }
                DecodeResult::More => break,
                DecodeResult::Error => return seen,
            }
        }
    }
    seen.rest = Some(stream[consumed..].to_vec());
    seen
}

/// `LengthDelimitedCodec` of tokio-util: a length field before each payload.
struct Lengths {
    /// Name of the built-in framing; `None` for a [`LengthField`].
    name: Option<&'static str>,
    width: usize,
    is_little: bool,
    leading: Vec<u8>,
    adjustment: isize,
    keeps_header: bool,
}

impl Lengths {
    fn named(name: &'static str) -> Self {
        let bits = name.trim_start_matches('u').trim_end_matches("-le");
        let bits: usize = bits.parse().expect("the name contains the number of bits");
        Self {
            name: Some(name),
            width: bits / 8,
            is_little: name.ends_with("-le"),
            leading: Vec::new(),
            adjustment: 0,
            keeps_header: false,
        }
    }

    fn random(random: &mut Random) -> Self {
        let width = 1 + random.below(8);
        let leading = random.below(4);
        let header_len = isize::try_from(leading + width).expect("the header is short");
        Self {
            name: None,
            width,
            is_little: random.below(2) == 0,
            leading: random.bytes(leading),
            adjustment: [0, -header_len, -1, 1, 4, -20][random.below(6)],
            keeps_header: random.below(2) == 0,
        }
    }

    fn header_len(&self) -> usize {
        self.leading.len() + self.width
    }

    fn kept_len(&self) -> usize {
        if self.keeps_header {
            self.header_len()
        } else {
            0
        }
    }

    fn field_max(&self) -> u64 {
        u64::MAX >> (64 - 8 * self.width)
    }

    /// Returns the number of bytes delivered minus the value of the length field.
    fn delivered_adjustment(&self) -> isize {
        self.adjustment + isize::try_from(self.kept_len()).expect("the header is short")
    }

    fn codec(&self, adjustment: isize, limit: usize) -> LengthDelimitedCodec {
        let mut builder = LengthDelimitedCodec::builder();
        builder
            .length_field_offset(self.leading.len())
            .length_field_length(self.width)
            .length_adjustment(adjustment)
            .max_frame_length(limit);
        if self.is_little {
            builder.little_endian();
        }
        if self.keeps_header {
            builder.num_skip(0);
        }
        builder.new_codec()
    }
}

impl Reference for Lengths {
    fn framing(&self) -> Framing {
        let framing = if let Some(name) = self.name {
            name.parse().expect("the framing's name is valid")
        } else {
            let width = u8::try_from(self.width).expect("the width is at most 8 bytes");
            let mut field = LengthField::new(width)
                .leading(&self.leading)
                .adjustment(i64::try_from(self.adjustment).expect("the adjustment is small"));
            if self.is_little {
                field = field.little_endian();
            }
            if self.keeps_header {
                field = field.keep_header();
            }
            Framing::length_field(field)
        };
        framing.frame_len_max(LIMIT)
    }

    fn alphabet(&self) -> Vec<u8> {
        b"\0\0\0\0\0\0\0\0\x01\x02\x09\x11\x13\xFF".to_vec()
    }

    fn payload(&self, random: &mut Random) -> Vec<u8> {
        let len = self.kept_len() + streams::payload_len(random);
        let len = len.saturating_sub(random.below(2));
        // The payload starts with a kept header of any content: `encode` overwrites its length
        // field.
        streams::counting(len, random)
    }

    fn encode(&self, payload: &[u8]) -> Option<Vec<u8>> {
        let (leading, body) = if self.keeps_header {
            let (header, body) = payload.split_at_checked(self.header_len())?;
            (&header[..self.leading.len()], body)
        } else {
            (&self.leading[..], payload)
        };
        // tokio-util does not write the bytes before the length field, and expects a payload
        // without a header. Therefore the leading bytes are written here, and the header is
        // removed.
        let mut buf = BytesMut::from(leading);
        let mut codec = self.codec(self.adjustment, LIMIT - self.kept_len());
        codec
            .encode(bytes::Bytes::copy_from_slice(body), &mut buf)
            .ok()?;
        Some(buf.to_vec())
    }

    fn decode(&self, stream: &[u8], pieces: &[&[u8]]) -> Seen {
        let mut codec = self.codec(self.delivered_adjustment(), LIMIT);
        let beside = self.header_len() - self.kept_len();
        drive(stream, pieces, |buf| match codec.decode(buf) {
            Ok(Some(frame)) => DecodeResult::Frame(frame.to_vec(), beside + frame.len()),
            Ok(None) => DecodeResult::More,
            Err(_) => DecodeResult::Error,
        })
    }

    /// Returns true for two intended differences:
    ///
    /// * The reference compares the value of the length field with the limit, and with the largest
    ///   value of the field plus the adjustment. This crate compares the delivered length with the
    ///   limit.
    /// * If the header is delivered, the reference accepts a frame that ends within the header.
    ///   This crate rejects such a frame.
    fn explains(&self, rest: &[u8], stopped: Stopped) -> bool {
        let Some(field) = rest.get(self.leading.len()..self.header_len()) else {
            return false;
        };
        let mut field = field.to_vec();
        if self.is_little {
            field.reverse();
        }
        let push = |value: i128, byte: &u8| 256 * value + i128::from(*byte);
        let value = field.iter().fold(0, push);
        let limit = i128::try_from(LIMIT).expect("the value is small");
        let adjustment = i128::try_from(self.delivered_adjustment()).expect("the value is small");
        match stopped {
            Stopped::Theirs => value > limit.min(i128::from(self.field_max()) + adjustment),
            Stopped::Ours => {
                let kept = i128::try_from(self.kept_len()).expect("the value is small");
                value + adjustment > limit || value + adjustment < kept
            }
        }
    }
}

#[test]
fn big_endian_lengths_match_tokio_util() {
    for (index, name) in (0..).zip(["u8", "u16", "u24", "u32", "u64"]) {
        compare(1_000_000 * (index + 1), |_| Lengths::named(name));
    }
}

#[test]
fn little_endian_lengths_match_tokio_util() {
    for (index, name) in (0..).zip(["u16-le", "u24-le", "u32-le", "u64-le"]) {
        compare(10_000_000 + 1_000_000 * index, |_| Lengths::named(name));
    }
}

#[test]
fn length_fields_match_tokio_util() {
    compare(20_000_000, Lengths::random);
}

/// `LinesCodec` of tokio-util.
struct Lines;

/// Placeholder for a line that is not UTF-8. The reference rejects the line and continues with the
/// next line.
const NOT_UTF_8: &[u8] = b"\xFF";

impl Reference for Lines {
    fn framing(&self) -> Framing {
        Framing::line().frame_len_max(LIMIT)
    }

    fn alphabet(&self) -> Vec<u8> {
        b"\n\r\n\r\t \0a".to_vec()
    }

    /// Encodes a payload. The reference does not check payloads, so the payload counts as rejected
    /// if its encoding does not decode to the same payload.
    fn encode(&self, payload: &[u8]) -> Option<Vec<u8>> {
        let mut buf = BytesMut::new();
        let line = str::from_utf8(payload).expect("the alphabet is ASCII");
        LinesCodec::new()
            .encode(line, &mut buf)
            .expect("the codec accepts every payload");
        let back = self.decode(&buf, &[&buf]);
        (back.frames == [payload] && back.rest?.is_empty()).then(|| buf.to_vec())
    }

    fn decode(&self, stream: &[u8], pieces: &[&[u8]]) -> Seen {
        let mut codec = LinesCodec::new_with_max_length(LIMIT);
        drive(stream, pieces, |buf| {
            let before = buf.len();
            let line = codec.decode(buf);
            let len = before - buf.len();
            match line {
                Ok(Some(line)) => DecodeResult::Frame(line.into_bytes(), len),
                Ok(None) => DecodeResult::More,
                Err(LinesCodecError::Io(_)) => DecodeResult::Frame(NOT_UTF_8.to_vec(), len),
                Err(LinesCodecError::MaxLineLengthExceeded) => DecodeResult::Error,
            }
        })
    }

    fn view(&self, frame: Vec<u8>) -> Vec<u8> {
        match str::from_utf8(&frame) {
            Ok(_) => frame,
            Err(_) => NOT_UTF_8.to_vec(),
        }
    }

    /// Returns true if only the `\r` makes the line too long. The reference counts the `\r` of a
    /// line against the limit, and this crate does not.
    fn explains(&self, rest: &[u8], stopped: Stopped) -> bool {
        let len = rest.iter().position(|&byte| byte == b'\n');
        let line = &rest[..len.unwrap_or(rest.len())];
        stopped == Stopped::Theirs && line.len() == LIMIT + 1 && line.ends_with(b"\r")
    }
}

#[test]
fn lines_match_tokio_util() {
    compare(30_000_000, |_| Lines);
    let long = |len| [&vec![b'a'; len][..], b"\r\n"].concat();
    for (len, is_line) in [(LIMIT - 1, true), (LIMIT, true), (LIMIT + 1, false)] {
        let (stream, reference) = (long(len), Lines);
        for piece_len in [1, stream.len()] {
            let pieces: Vec<_> = stream.chunks(piece_len).collect();
            let ours = deframe(&reference.framing(), &pieces);
            let theirs = reference.decode(&stream, &pieces);
            assert_eq!(ours.rest.is_some(), is_line, "line of {len} bytes");
            let stopped = assert_same(&reference, 0, &stream, &ours, &theirs);
            let expected = (len == LIMIT).then_some(Stopped::Theirs);
            assert_eq!(stopped, expected, "line of {len} bytes");
        }
    }
}

/// `AnyDelimiterCodec` of tokio-util, with delimiters of one byte.
struct Delimiters(Vec<u8>);

impl Reference for Delimiters {
    fn framing(&self) -> Framing {
        let delimiters: Vec<&[u8]> = self.0.chunks(1).collect();
        Framing::delimiters(&delimiters).frame_len_max(LIMIT)
    }

    fn alphabet(&self) -> Vec<u8> {
        [&self.0[..], b"-"].concat()
    }

    /// Encodes a payload. The reference does not check payloads, so the payload counts as rejected
    /// if its encoding does not decode to the same payload.
    fn encode(&self, payload: &[u8]) -> Option<Vec<u8>> {
        let mut buf = BytesMut::new();
        let text = str::from_utf8(payload).expect("the alphabet is ASCII");
        let mut codec = AnyDelimiterCodec::new(self.0.clone(), self.0[..1].to_vec());
        codec
            .encode(text, &mut buf)
            .expect("the codec accepts every payload");
        let back = self.decode(&buf, &[&buf]);
        (back.frames == [payload] && back.rest?.is_empty()).then(|| buf.to_vec())
    }

    fn decode(&self, stream: &[u8], pieces: &[&[u8]]) -> Seen {
        let delimiters = self.0.clone();
        let mut codec = AnyDelimiterCodec::new_with_max_length(delimiters, Vec::new(), LIMIT);
        drive(stream, pieces, |buf| match codec.decode(buf) {
            Ok(Some(frame)) => DecodeResult::Frame(frame.to_vec(), frame.len() + 1),
            Ok(None) => DecodeResult::More,
            Err(AnyDelimiterCodecError::MaxChunkLengthExceeded) => DecodeResult::Error,
            Err(AnyDelimiterCodecError::Io(error)) => panic!("{error}"),
        })
    }
}

#[test]
fn one_byte_delimiters_match_tokio_util() {
    compare(40_000_000, |_| Delimiters(b"\0".to_vec()));
    compare(41_000_000, |random| {
        let mut delimiters = b";|,\t\n\x03".to_vec();
        delimiters.truncate(1 + random.below(6));
        Delimiters(delimiters)
    });
}

/// Varint lengths before payloads, read and written by the crate integer-encoding.
struct Varints;

impl Reference for Varints {
    fn framing(&self) -> Framing {
        Framing::varint().frame_len_max(LIMIT)
    }

    fn alphabet(&self) -> Vec<u8> {
        b"\0\x01\x02\x7F\x80\x81\xFF".to_vec()
    }

    fn encode(&self, payload: &[u8]) -> Option<Vec<u8>> {
        let header = payload.len().encode_var_vec();
        (payload.len() <= LIMIT).then(|| [&header, payload].concat())
    }

    fn decode(&self, stream: &[u8], _: &[&[u8]]) -> Seen {
        let mut seen = Seen::default();
        let mut rest = stream;
        loop {
            let is_cut = rest.len() < 10 && rest.iter().all(|byte| byte & 0x80 > 0);
            let field = u64::decode_var(rest);
            match field {
                None if is_cut => break,
                Some((len, header_len)) if len <= LIMIT as u64 => {
                    let len = usize::try_from(len).expect("the length is within the limit");
                    let Some(frame) = rest.get(header_len..header_len + len) else {
                        break;
                    };
                    seen.frames.push(frame.to_vec());
                    rest = &rest[header_len + len..];
                }
                _ => return seen,
            }
        }
        seen.rest = Some(rest.to_vec());
        seen
    }

    /// Returns true if a length is not in its shortest form: the reference accepts the length, and
    /// this crate does not.
    fn explains(&self, rest: &[u8], stopped: Stopped) -> bool {
        let field = u64::decode_var(rest);
        stopped == Stopped::Ours && field.is_some_and(|(len, bytes)| bytes > len.required_space())
    }
}

#[test]
fn varints_match_integer_encoding() {
    compare(50_000_000, |_| Varints);
}

/// The naive decoders of `common/naive.rs`, written from the specifications.
struct Naive {
    format: Format,
    limit: Limit,
    alphabet: Vec<u8>,
}

impl Naive {
    /// Creates a reference that skips frames over the limit or fails on them, chosen at random.
    fn new(format: Format, alphabet: &[u8], random: &mut Random) -> Self {
        let skips = random.below(2) == 0;
        Self {
            format,
            limit: Limit { len: LIMIT, skips },
            alphabet: alphabet.to_vec(),
        }
    }

    fn field(random: &mut Random) -> Self {
        let mut field = Field {
            leading: random.below(4),
            width: [1, 2, 3, 4, 5, 8][random.below(6)],
            following: random.below(4),
            is_little: random.below(2) == 0,
            adjustment: 0,
            strip: 0,
        };
        let header_len = field.header_len();
        field.adjustment = match random.below(4) {
            0 => 0,
            1 => i64::try_from(field.following).expect("the header is short"),
            2 => -i64::try_from(header_len).expect("the header is short"),
            _ => [-20, -1, 1, i64::MIN, i64::MAX][random.below(5)],
        };
        field.strip = [header_len, 0, random.below(header_len + 4)][random.below(3)];
        Self::new(Format::Field(field), b"\0\0\0\0\x01\x02\x09\xFF", random)
    }

    /// Chooses a set of delimiters. In most sets, a delimiter overlaps with another one or with
    /// itself.
    fn delimiters(random: &mut Random) -> Self {
        let sets: [&[&str]; 11] = [
            &[";;"],
            &["abab"],
            &["aab"],
            &["\r\n\r\n"],
            &["\n", "\r\n"],
            &["ab", "abc"],
            &["abcd", "c"],
            &[";", "a;b"],
            &["a", "aab"],
            &["abc", "bc", "c"],
            &["--=--", "--", "=", "-="],
        ];
        let set: Vec<Vec<u8>> = match sets.get(random.below(2 * sets.len())) {
            Some(set) => set.iter().map(|one| one.as_bytes().to_vec()).collect(),
            None => (0..=random.below(4))
                .map(|_| {
                    let len = 1 + random.below(4);
                    streams::text(b"ab", 1, len, random)
                })
                .collect(),
        };
        let alphabet = set.concat();
        Self::new(Format::Delimiters(set), &alphabet, random)
    }
}

impl Reference for Naive {
    fn framing(&self) -> Framing {
        self.format.framing(self.limit)
    }

    fn alphabet(&self) -> Vec<u8> {
        self.alphabet.clone()
    }

    fn payload(&self, random: &mut Random) -> Vec<u8> {
        match &self.format {
            Format::Fixed(len) => streams::counting(len + [0, 0, 1][random.below(3)], random),
            Format::HeaderBody(header_len) => {
                let mut header = random.bytes(*header_len);
                header[0] %= 4;
                let body_len =
                    naive::body_len(&header).expect("the first byte of the header is below 4");
                let len =
                    usize::try_from(body_len).expect("the body is short") + random.below(20) / 19;
                [header, streams::counting(len, random)].concat()
            }
            Format::Digits => {
                let payload = payload(&self.alphabet, random);
                [format!("{}:", payload.len()).as_bytes(), &payload].concat()
            }
            _ => payload(&self.alphabet, random),
        }
    }

    fn encode(&self, payload: &[u8]) -> Option<Vec<u8>> {
        let can_carry = self.format.can_carry(self.limit, payload);
        can_carry.then(|| self.format.encode(payload))
    }

    fn decode(&self, stream: &[u8], _: &[&[u8]]) -> Seen {
        let decoded = self.format.decode(self.limit, stream);
        let rest = stream[decoded.taken..].to_vec();
        Seen {
            frames: decoded.frames,
            skipped: decoded.skipped,
            rest: decoded.fault.is_none().then_some(rest),
            ..Seen::default()
        }
    }
}

#[test]
fn netstrings_match_the_naive_decoder() {
    compare(60_000_000, |random| {
        Naive::new(Format::Netstring, b"0123:,:,", random)
    });
}

#[test]
fn fixed_frames_match_the_naive_decoder() {
    compare(70_000_000, |random| {
        let len = [1, 2, 3, 7, 64, 4096][random.below(6)];
        Naive::new(Format::Fixed(len), b"ab", random)
    });
}

#[test]
fn earliest_then_longest_delimiter_ends_a_frame() {
    compare(80_000_000, Naive::delimiters);
}

#[test]
fn too_long_lines_match_the_naive_decoder() {
    compare(90_000_000, |random| {
        Naive::new(Format::Line, b"\n\r\n\r\t \0a", random)
    });
}

#[test]
fn strict_and_lax_varints_match_the_naive_decoder() {
    compare(100_000_000, |random| {
        let is_lax = random.below(2) == 0;
        Naive::new(
            Format::Varint { is_lax },
            b"\0\x01\x02\x7F\x80\x81\xFF",
            random,
        )
    });
}

#[test]
fn length_fields_at_any_offset_match_the_naive_decoder() {
    compare(110_000_000, Naive::field);
}

#[test]
fn header_body_frames_match_the_naive_decoder() {
    compare(120_000_000, |random| {
        let header_len = 1 + random.below(5);
        Naive::new(
            Format::HeaderBody(header_len),
            b"\0\x01\x02\x05?\xFE\xFF",
            random,
        )
    });
}

#[test]
fn strict_crlf_lines_match_the_naive_decoder() {
    compare(130_000_000, |random| {
        Naive::new(Format::LineCrlf, b"\n\r\r\n. ", random)
    });
}

#[test]
fn length_functions_match_the_naive_decoder() {
    compare(140_000_000, |random| {
        Naive::new(Format::Digits, b"0123:9", random)
    });
}

#[test]
fn frames_between_skipped_bytes_match_the_naive_decoder() {
    compare(150_000_000, |random| {
        let inner = [Format::Line, Format::Digits, Format::LineCrlf];
        let inner = Box::new(inner[random.below(3)].clone());
        let format = Format::Between(inner, b"~\n".to_vec());
        Naive::new(format, b"~\n\r1:~", random)
    });
}
