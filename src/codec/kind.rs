//! [`Kind`]: the codec of a framing.

use std::fmt;
use std::sync::Arc;

use super::between::Between;
use super::compose::unfinished_frame;
use super::delimited::Delimited;
use super::fixed::Fixed;
use super::header_body::HeaderBody;
use super::length::Length;
use super::length_field::LengthFieldCodec;
use super::length_fn::LengthFn;
use super::line::Line;
use super::netstring::Netstring;
use super::raw::Raw;
use super::varint::Varint;
use super::{Codec, ErasedCodec, Limit, Out, ScanState};
use crate::error::FrameError;
use crate::memory::Buf;

/// The codec of a [`Framing`](super::Framing), and its settings.
#[derive(Clone)]
pub(crate) enum Kind {
    Raw(Raw),
    Length(Length),
    Line(Line),
    Fixed(Fixed),
    Varint(Varint),
    Netstring(Netstring),
    // The following codecs are stored behind an `Arc`, so that a clone is cheap: each decode call
    // clones its codec.
    Delimited(Arc<Delimited>),
    LengthField(Arc<LengthFieldCodec>),
    HeaderBody(Arc<HeaderBody>),
    LengthFn(Arc<LengthFn>),
    Between(Arc<Between>),
    Custom(Arc<ErasedCodec>),
}

/// Evaluates `$builtin` with the codec of a built-in kind, or `$by_custom` with a custom codec. The
/// form with one expression evaluates this expression with either codec.
macro_rules! with_builtin {
    ($kind:expr, $codec:ident => $any:expr) => {
        with_builtin!($kind, $codec => $any, $codec => $any)
    };
    ($kind:expr, $codec:ident => $builtin:expr, $custom:ident => $by_custom:expr) => {
        match $kind {
            Kind::Raw($codec) => $builtin,
            Kind::Length($codec) => $builtin,
            Kind::Line($codec) => $builtin,
            Kind::Fixed($codec) => $builtin,
            Kind::Varint($codec) => $builtin,
            Kind::Netstring($codec) => $builtin,
            Kind::Delimited($codec) => $builtin,
            Kind::LengthField($codec) => $builtin,
            Kind::HeaderBody($codec) => $builtin,
            Kind::LengthFn($codec) => $builtin,
            Kind::Between($codec) => $builtin,
            Kind::Custom($custom) => $by_custom,
        }
    };
}
pub(crate) use with_builtin;

impl Kind {
    /// Returns true if `head`, the bytes of a partial frame, ends inside the header. The result is
    /// always false for a framing without a header, for a custom codec, and for [`LengthFn`]. This
    /// method does not call the function of `LengthFn`.
    pub(crate) fn is_header_cut(&self, head: &[u8]) -> bool {
        match self {
            Self::Length(codec) => head.len() < usize::from(codec.width),
            Self::Varint(_) => head.iter().all(|byte| byte & 0x80 != 0),
            Self::Netstring(_) => !head.contains(&b':'),
            Self::LengthField(codec) => head.len() < codec.field.header_len(),
            Self::HeaderBody(codec) => codec.is_header_cut(head),
            Self::Between(codec) => codec.frames().is_header_cut(head),
            Self::Raw(_) | Self::Line(_) | Self::Fixed(_) => false,
            Self::Delimited(_) | Self::LengthFn(_) | Self::Custom(_) => false,
        }
    }

    /// Returns true if a built-in codec with this state has skipped the beginning of a frame that
    /// is too long, but not yet its end.
    pub(super) fn is_skipping(&self, scanned: ScanState) -> bool {
        match self {
            Self::Line(_) | Self::Delimited(_) => scanned.dropped > 0,
            Self::Between(codec) => codec.frames().is_skipping(scanned),
            Self::Raw(_) | Self::Length(_) | Self::Fixed(_) | Self::Varint(_) => false,
            Self::Netstring(_) | Self::LengthField(_) | Self::HeaderBody(_) => false,
            Self::LengthFn(_) | Self::Custom(_) => false,
        }
    }

    /// Applies `change` to the frame limit. Does nothing for raw, fixed and custom framings.
    pub(super) fn change_limit(&mut self, change: &mut dyn FnMut(&mut Limit)) {
        match self {
            Self::Length(length) => {
                change(&mut length.limit);
                *length = Length::new(length.width, length.endian, length.limit);
            }
            Self::Line(line) => change(&mut line.limit),
            Self::Varint(varint) => change(&mut varint.limit),
            Self::Netstring(netstring) => change(&mut netstring.limit),
            Self::Delimited(codec) => change(&mut Arc::make_mut(codec).limit),
            Self::LengthField(codec) => change(&mut Arc::make_mut(codec).limit),
            Self::HeaderBody(codec) => Arc::make_mut(codec).change_limit(change),
            Self::LengthFn(codec) => change(&mut Arc::make_mut(codec).limit),
            Self::Between(codec) => Arc::make_mut(codec).frames_mut().change_limit(change),
            Self::Raw(_) | Self::Fixed(_) | Self::Custom(_) => {}
        }
    }

    /// Appends `payload` as one frame. After an error nothing is appended.
    #[inline(never)]
    pub(super) fn encode(&self, payload: &[u8], buf: &mut Buf) -> Result<(), FrameError> {
        let mut frame = unfinished_frame(buf);
        let out = &mut Out::new(&mut frame);
        with_builtin!(self, codec => codec.encode(payload, out))?;
        frame.disarm();
        Ok(())
    }
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        with_builtin!(self, codec => codec.fmt(f), _custom => f.write_str("Custom(..)"))
    }
}

#[cfg(test)]
mod tests {
    use crate::codec::{Framing, LengthField};

    #[test]
    fn header_is_cut_until_its_last_byte_is_received() {
        let field = LengthField::new(2).leading(b"?").following(b"!");
        let body_len = |_: &[u8]| Ok(9);
        let framings = [
            (Framing::length_u24(), &b"\0\0\x09"[..]),
            (Framing::varint(), b"\x80\x80\x01"),
            (Framing::netstring(), b"10:"),
            (Framing::length_field(field), b"?\0\x09!"),
            (Framing::header_body(Framing::line(), body_len), b"head\n"),
        ];
        for (framing, header) in framings {
            for len in 1..header.len() {
                assert!(framing.kind().is_header_cut(&header[..len]), "{framing}");
            }
            for after in [&b""[..], b"12345"] {
                let head = [header, after].concat();
                assert!(!framing.kind().is_header_cut(&head), "{framing}");
            }
        }
        for framing in [Framing::line(), Framing::fixed(9), Framing::raw()] {
            assert!(!framing.kind().is_header_cut(b"head"), "{framing}");
        }
    }
}
