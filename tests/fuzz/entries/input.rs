//! Converts the input of a fuzzer to settings and a stream; the settings come first.

use super::naive::{Field, Format, Limit};

/// Input byte that becomes a long stretch of equal bytes. Two stretches make a line so long that it
/// is read directly into its own buffer.
const STRETCH: u8 = 0xDF;
/// Length of a stretch, in bytes.
const STRETCH_LEN: usize = 3000;
/// Maximum number of stretches in a stream.
const STRETCHES_MAX: usize = 6;

/// The remaining input bytes. When all bytes are used up, each setting is read as 0.
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    pub fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((byte, rest)) => {
                self.0 = rest;
                *byte
            }
            None => 0,
        }
    }

    pub fn below(&mut self, bound: u8) -> u8 {
        self.byte() % bound
    }

    pub fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (bytes, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        bytes
    }

    pub fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    /// Reads a frame limit. Most limits are small, so that short streams exceed them.
    pub fn limit(&mut self) -> Limit {
        let len = match self.byte() {
            small @ 0..200 => usize::from(small),
            200..220 => 1000,
            220..250 => 1 << 20,
            _ => usize::MAX,
        };
        let skips = self.flag();
        Limit { len, skips }
    }

    /// Reads the length of a piece of the stream. A piece has at least one byte; most are short.
    pub fn piece_len(&mut self) -> usize {
        match self.byte() {
            short @ 0..192 => 1 + usize::from(short),
            long => usize::from(long - 191) * 300,
        }
    }

    /// Reads 1 to 8 lengths of pieces. The stream is cut into pieces of these lengths, in rotation.
    pub fn piece_lens(&mut self) -> Vec<usize> {
        (0..=self.below(8)).map(|_| self.piece_len()).collect()
    }

    pub fn length(&mut self) -> Format {
        match self.below(6) {
            0 => self.field(),
            1 => Format::HeaderBody(1 + usize::from(self.below(5))),
            2 => Format::Digits,
            3 => self.between(Self::length),
            _ => Format::Length {
                width: [1, 2, 3, 4, 8][usize::from(self.below(5))],
                is_little: self.flag(),
            },
        }
    }

    fn field(&mut self) -> Format {
        let mut field = Field {
            leading: usize::from(self.below(5)),
            width: 1 + self.below(8),
            following: usize::from(self.below(4)),
            is_little: self.flag(),
            adjustment: self.adjustment(),
            strip: 0,
        };
        let header_len = field.header_len();
        field.strip = match self.byte() {
            0..100 => header_len,
            100..150 => 0,
            other => usize::from(other) % (header_len + 4),
        };
        Format::Field(field)
    }

    fn adjustment(&mut self) -> i64 {
        match self.byte() {
            255 => i64::MAX,
            254 => i64::MIN,
            253 => -256,
            small => i64::from(small) - 126,
        }
    }

    pub fn delimiters(&mut self) -> Format {
        match self.below(8) {
            0 => return Format::Line,
            1 => return Format::LineCrlf,
            2 => return self.between(Self::delimiters),
            3 => {
                return match self.delimiters() {
                    Format::Between(..) | Format::Unterminated(_) => Format::LineCrlf,
                    inner => Format::Unterminated(Box::new(inner)),
                };
            }
            _ => {}
        }
        let one = |input: &mut Self| {
            // Most delimiters are short. Some are longer than the bytes that the decoder copies to
            // find a delimiter across two pieces.
            let (len, times) = match input.below(24) {
                short @ 0..20 => (1 + usize::from(short % 5), 1),
                long => (usize::from(long - 18), 30),
            };
            let mut one = input.bytes(len).repeat(times);
            // Only four different bytes occur, so that delimiters overlap themselves and each
            // other.
            one.iter_mut()
                .for_each(|byte| *byte = b"ab;\n"[usize::from(*byte % 4)]);
            one.resize(one.len().max(1), b'a');
            one
        };
        Format::Delimiters((0..=self.below(4)).map(|_| one(self)).collect())
    }

    /// Reads a format and the bytes that are skipped between its frames.
    fn between(&mut self, inner: fn(&mut Self) -> Format) -> Format {
        match inner(self) {
            between @ Format::Between(..) => between,
            inner => {
                let len = 1 + usize::from(self.below(3));
                let mut skipped = self.bytes(len).to_vec();
                skipped.push(b'\n');
                Format::Between(Box::new(inner), skipped)
            }
        }
    }

    /// Returns the remaining input as a stream. One input byte can become a delimiter, the start of
    /// a delimiter, or a long stretch of equal bytes, so that a fuzzer reaches these cases quickly.
    pub fn stream(&self, format: &Format) -> Vec<u8> {
        let mut stretches = 0..STRETCHES_MAX;
        let mut stream = Vec::with_capacity(self.0.len());
        for byte in self.0 {
            match (byte, format) {
                (&STRETCH, _) if stretches.next().is_some() => {
                    stream.resize(stream.len() + STRETCH_LEN, b'x');
                }
                (0xE0.., Format::Delimiters(all)) => {
                    let one = &all[usize::from(byte % 4) % all.len()];
                    let eighths = 1 + usize::from(byte / 4 % 8);
                    stream.extend(&one[..one.len() * eighths / 8]);
                }
                _ => stream.push(*byte),
            }
        }
        stream
    }

    pub fn number(&mut self) -> Format {
        match self.below(4) {
            0 => Format::Varint { is_lax: true },
            1 => Format::Varint { is_lax: false },
            _ => Format::Netstring,
        }
    }

    /// Reads any framing except `raw`, whose frames depend on the cuts of the stream.
    pub fn format(&mut self) -> Format {
        match self.below(8) {
            0..3 => self.length(),
            3 | 4 => self.delimiters(),
            5 => self.number(),
            6 => Format::Fixed(1 + usize::from(self.byte())),
            _ => Format::Tagged,
        }
    }
}
