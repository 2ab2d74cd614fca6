//! Short names of framings, for command-line options and configuration files.

use std::error::Error;
use std::fmt;
use std::str::FromStr;

use super::length::Endian;
use super::{Framing, Kind};

/// Writes the short name of the framing:
///
/// * `raw`, `line`, `line-crlf`, `netstring`, `varint` or `varint-lax`
/// * `u8`, `u16`, `u24`, `u32` or `u64` for a big-endian length prefix
/// * `u16-le`, `u24-le`, `u32-le` or `u64-le` for a little-endian length prefix
/// * `fixed-` and the length in bytes, such as `fixed-64`
/// * `delimiter-` and the delimiters, escaped and separated by `|`, such as `delimiter-\r\n\r\n`
/// * `length-field`, `header-body`, `length-fn` or `custom`
///
/// The name does not contain limits, other options, or the output codec of
/// [`Framing::with_output`].
impl fmt::Display for Framing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.kind().write_name(f)
    }
}

impl Kind {
    fn write_name(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Raw(_) => f.write_str("raw"),
            Self::Line(line) => match line.delimiter() {
                Some(byte) => write_delimiters(f, [&[byte][..]]),
                None => f.write_str("line"),
            },
            Self::Length(length) => {
                let is_little = length.endian == Endian::Little && length.width > 1;
                let order = if is_little { "-le" } else { "" };
                write!(f, "u{}{order}", 8 * u32::from(length.width))
            }
            Self::Fixed(fixed) => write!(f, "fixed-{}", fixed.frame_len),
            Self::Varint(varint) if varint.is_lax => f.write_str("varint-lax"),
            Self::Varint(_) => f.write_str("varint"),
            Self::Netstring(_) => f.write_str("netstring"),
            Self::Delimited(codec) if codec.is_strict_crlf => f.write_str("line-crlf"),
            Self::Delimited(codec) => write_delimiters(f, codec.delimiters()),
            Self::LengthField(_) => f.write_str("length-field"),
            Self::HeaderBody(_) => f.write_str("header-body"),
            Self::LengthFn(_) => f.write_str("length-fn"),
            Self::Between(codec) => codec.frames().write_name(f),
            Self::Custom(_) => f.write_str("custom"),
        }
    }
}

fn write_delimiters<'a>(
    f: &mut fmt::Formatter<'_>,
    delimiters: impl IntoIterator<Item = &'a [u8]>,
) -> fmt::Result {
    for (index, delimiter) in delimiters.into_iter().enumerate() {
        f.write_str(if index == 0 { "delimiter-" } else { "|" })?;
        let escaped = delimiter.escape_ascii().to_string();
        f.write_str(&escaped.replace('|', "\\x7c"))?;
    }
    Ok(())
}

/// Parses the short name that [`Display`](fmt::Display) writes.
///
/// The names `length-field`, `header-body`, `length-fn` and `custom` are rejected, because they do
/// not contain the settings of the framing.
impl FromStr for Framing {
    type Err = ParseFramingError;

    fn from_str(name: &str) -> Result<Self, ParseFramingError> {
        Ok(match name {
            "raw" => Self::raw(),
            "line" => Self::line(),
            "line-crlf" => Self::line_crlf(),
            "u8" => Self::length_u8(),
            "u16" => Self::length_u16(),
            "u24" => Self::length_u24(),
            "u32" => Self::length_u32(),
            "u64" => Self::length_u64(),
            "u16-le" => Self::length_u16_le(),
            "u24-le" => Self::length_u24_le(),
            "u32-le" => Self::length_u32_le(),
            "u64-le" => Self::length_u64_le(),
            "varint" => Self::varint(),
            "varint-lax" => Self::varint_lax(),
            "netstring" => Self::netstring(),
            _ => return parse_parameter(name).ok_or(ParseFramingError(())),
        })
    }
}

/// Parses a name with a parameter: `fixed-` or `delimiter-`.
fn parse_parameter(name: &str) -> Option<Framing> {
    if let Some(len) = name.strip_prefix("fixed-") {
        let is_number = len.bytes().all(|digit| digit.is_ascii_digit());
        let len = len.parse().ok().filter(|len| is_number && *len > 0)?;
        return Some(Framing::fixed(len));
    }
    let delimiters = name.strip_prefix("delimiter-")?.split('|');
    let delimiters: Vec<Vec<u8>> = delimiters.map(unescape).collect::<Option<_>>()?;
    let delimiters: Vec<&[u8]> = delimiters.iter().map(Vec::as_slice).collect();
    Some(Framing::delimiters(&delimiters))
}

/// Decodes `text`, which has the form that [`slice::escape_ascii`] writes, and returns the bytes.
/// Returns `None` if `text` is malformed or empty.
fn unescape(text: &str) -> Option<Vec<u8>> {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((&first, others)) = rest.split_first() {
        let (byte, others) = match (first, others) {
            (b'\\', [b'x', high, low, others @ ..]) => {
                let digit = |byte: &u8| char::from(*byte).to_digit(16);
                let byte = digit(high)? << 4 | digit(low)?;
                (u8::try_from(byte).ok()?, others)
            }
            (b'\\', [b'n', others @ ..]) => (b'\n', others),
            (b'\\', [b'r', others @ ..]) => (b'\r', others),
            (b'\\', [b't', others @ ..]) => (b'\t', others),
            (b'\\', [escaped @ (b'\\' | b'\'' | b'"'), others @ ..]) => (*escaped, others),
            (b'\\', _) => return None,
            plain => plain,
        };
        bytes.push(byte);
        rest = others;
    }
    (!bytes.is_empty()).then_some(bytes)
}

/// Error for a text that is not the short name of a framing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseFramingError(());

impl fmt::Display for ParseFramingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "unknown framing: expected raw, line, line-crlf, varint, varint-lax, netstring, u8, \
             u16, u24, u32, u64, u16-le, u24-le, u32-le, u64-le, fixed-LENGTH or delimiter-BYTES",
        )
    }
}

impl Error for ParseFramingError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_short_name_round_trips() {
        let names = "raw line line-crlf u8 u16 u24 u32 u64 u16-le u24-le u32-le u64-le varint \
                     varint-lax \
                     netstring fixed-1 fixed-4096 delimiter-; delimiter-\\r\\n\\r\\n \
                     delimiter-;|,,|\\x00\\xff|\\x7c delimiter-\\\\n\\'\\\"-";
        for name in names.split_ascii_whitespace() {
            assert_eq!(name.parse::<Framing>().expect(name).to_string(), name);
        }
        let framing = Framing::delimiters(&[b"\r\n", b"\0|\\"]);
        assert_eq!(framing.to_string(), r"delimiter-\r\n|\x00\x7c\\");
        let all: Vec<u8> = (0..=255).collect();
        let name = Framing::delimiter(&all).to_string();
        assert_eq!(
            name.parse::<Framing>()
                .expect("the short name is valid")
                .to_string(),
            name
        );
    }

    #[test]
    fn unknown_short_name_is_rejected() {
        let names =
            r"u7 U8 fixed fixed-0 fixed--1 fixed-+1 fixed-x delimiter delimiter- delimiter-a|";
        let escapes = r"delimiter-\ delimiter-\x delimiter-\x+1 delimiter-\q custom length-field";
        let names = names.split(' ').chain(escapes.split(' '));
        for name in names.chain(["", "line "]) {
            assert!(name.parse::<Framing>().is_err(), "{name}");
        }
    }
}
