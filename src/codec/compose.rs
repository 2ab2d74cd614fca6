//! Encoding in place: the caller writes a payload into the output buffer, and the codec adds header
//! and trailer.

use std::io;

use super::{Codec, Framing, Kind, Out, with_builtin};
use crate::error::FrameError;
use crate::guard::ScopeGuard;
use crate::memory::Buf;

impl Framing {
    /// Appends one frame. `write` puts the payload directly into the buffer. After an error, the
    /// buffer has the content that it had before the call.
    pub(crate) fn encode_with(
        &self,
        buf: &mut Buf,
        write: impl FnOnce(&mut Out<'_>) -> Result<(), FrameError>,
    ) -> Result<(), FrameError> {
        let start = buf.len();
        let mut frame = unfinished_frame(buf);
        frame.put_zeros(with_builtin!(self.output(), codec => codec.headroom()));
        write(&mut Out::new(&mut frame))?;
        let out = &mut Out::since(&mut frame, start);
        with_builtin!(self.output(), codec => codec.encode_in_place(out))?;
        frame.disarm();
        Ok(())
    }
}

/// Returns a guard for a frame that is being appended to `buf`. The guard removes the appended
/// bytes if an error or a panic ends the function before the guard is disarmed.
pub(super) fn unfinished_frame<'a>(
    buf: &'a mut Buf,
) -> ScopeGuard<&'a mut Buf, impl FnMut(&mut &'a mut Buf)> {
    let start = buf.len();
    ScopeGuard::new(buf, move |buf| buf.truncate(start))
}

/// Appends all bytes and never fails; `flush` does nothing.
impl io::Write for Out<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.put(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::codec::LengthField;

    /// Codec with a one-byte header: 1 if the payload has more than 3 bytes, otherwise 0. The
    /// header has no length, so all bytes of the input are one frame.
    struct Flagged;

    impl Codec for Flagged {
        type State = ();

        fn decode(&self, (): &mut (), bytes: &[u8]) -> Result<super::super::Step, FrameError> {
            let len = bytes.len();
            Ok(super::super::Step::Frame {
                frame: 1..len,
                consumed: len,
            })
        }

        fn encode(&self, payload: &[u8], out: &mut Out<'_>) -> Result<(), FrameError> {
            if payload.is_empty() {
                return Err(FrameError::Unencodable("the payload is empty"));
            }
            out.put(&[u8::from(payload.len() > 3)]);
            out.put(payload);
            Ok(())
        }
    }

    fn framings() -> Vec<Framing> {
        let names = "raw line u8 u16 u24 u32 u64 u16-le u24-le u32-le u64-le varint varint-lax \
                     netstring fixed-3 delimiter-; delimiter-ab|abab";
        let named = names.split_ascii_whitespace();
        let mut framings: Vec<Framing> = named
            .map(|name| name.parse().expect("the short name is valid"))
            .collect();
        let field = LengthField::new(3)
            .leading(b"M")
            .following(b"!")
            .adjustment(2);
        let body_len = |header: &[u8]| Ok(u64::from(header[0] % 8));
        framings.extend([
            Framing::length_field(field.clone()),
            Framing::length_field(field.clone().strip(2)),
            Framing::length_field(field.clone().strip(7)),
            Framing::length_field(field.keep_header()),
            Framing::header_body(Framing::fixed(1), body_len),
            Framing::custom(Flagged),
        ]);
        let limits = [0, 2, 200, 1 << 20];
        framings
            .into_iter()
            .flat_map(|framing| limits.map(|limit| framing.clone().frame_len_max(limit)))
            .collect()
    }

    #[test]
    fn encode_with_gives_the_same_bytes_or_error_as_encode() {
        let long = [b'z'; 300];
        let payloads: [&[u8]; 14] = [
            b"",
            b"a",
            b"ab",
            b"abc",
            b"zab",
            b"a;b",
            b"a\nb",
            b"ab\r",
            b"\x03abc",
            b"\x04abc",
            &long[..127],
            &long[..128],
            &long[..255],
            &long,
        ];
        for framing in framings() {
            for payload in payloads {
                let mut expected = Buf::default();
                expected.put(b"before");
                let encoded = framing.encode(payload, &mut expected);
                let mut buf = Buf::default();
                buf.put(b"before");
                let (front, back) = payload.split_at(payload.len() / 2);
                let composed = framing.encode_with(&mut buf, |out| {
                    out.put(front);
                    assert_eq!(out.bytes(), front, "the writer sees only the payload");
                    out.put_zeros(back.len()).copy_from_slice(back);
                    Ok(())
                });
                let context = format!("{framing:?}, {}", payload.escape_ascii());
                match (encoded, composed) {
                    (Ok(()), Ok(())) => assert_eq!(buf.bytes(), expected.bytes(), "{context}"),
                    (Err(one), Err(other)) => {
                        assert_eq!(one.to_string(), other.to_string(), "{context}");
                        assert_eq!(buf.bytes(), b"before", "{context}");
                    }
                    both => {
                        panic!("{context}: only one of encode and encode_with succeeded: {both:?}")
                    }
                }
            }
        }
    }

    #[test]
    fn failed_encode_with_leaves_the_buffer_unchanged() {
        for framing in framings() {
            let mut buf = Buf::default();
            let result = framing.encode_with(&mut buf, |out| {
                write!(out, "{}", 17).expect("a write to Out never fails");
                Err(FrameError::other("no more"))
            });
            assert_eq!(
                result.expect_err("the writer failed").to_string(),
                "no more"
            );
            assert!(buf.is_empty());
        }
    }
}
