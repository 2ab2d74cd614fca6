//! The framing of requests: arrays of bulk strings, and inline commands.
//!
//! ```text
//! *2\r\n$4\r\nPING\r\n$2\r\nhi\r\n      an array of two bulk strings
//! PING hi\r\n                           the same command inline, as a person types it
//! ```
//!
//! A frame is one whole command. The codec finds its end, and [`Args`] iterates over its arguments.
//! Redis describes the format in its "Redis serialization protocol specification".

use memchr::memchr;
use unstick::{Codec, FrameError, Out, Step};

/// Maximum length of an inline command. Redis has the same limit.
const LINE_LEN_MAX: usize = 64 * 1024;
/// Maximum number of arguments of a command. Redis has the same limit.
const ARGS_MAX: usize = 1024 * 1024;
/// Maximum number of digits of a length.
const DIGITS_MAX: usize = 9;

/// The framing of RESP requests. Replies are sent as they are.
pub(crate) struct Requests {
    /// Maximum length of a command, in bytes.
    pub(crate) len_max: usize,
}

/// The part of an incomplete command that was checked already.
#[derive(Default)]
pub(crate) struct Checked {
    /// Offset of the first byte that was not checked.
    offset: usize,
    /// Number of arguments that were not checked; `None` before the header of the array.
    args: Option<usize>,
}

impl Requests {
    /// Searches for the end of an inline command.
    fn inline(&self, bytes: &[u8]) -> Result<Step, FrameError> {
        let limit = LINE_LEN_MAX.min(self.len_max);
        match memchr(b'\n', bytes.get(..limit).unwrap_or(bytes)) {
            Some(end) if end > 0 && bytes[end - 1] == b'\r' => Ok(Step::Frame {
                frame: 0..end - 1,
                consumed: end + 1,
            }),
            Some(_) => Err(FrameError::Malformed("a line does not end with CR LF")),
            None if bytes.len() >= limit => Err(too_long(bytes.len(), limit)),
            None => Ok(Step::Need(bytes.len() + 1)),
        }
    }
}

fn too_long(len: usize, limit: usize) -> FrameError {
    FrameError::TooLong {
        len: len as u64,
        limit: limit as u64,
    }
}

impl Codec for Requests {
    type State = Checked;

    fn decode(&self, checked: &mut Checked, bytes: &[u8]) -> Result<Step, FrameError> {
        loop {
            if checked.args == Some(0) {
                let consumed = std::mem::take(checked).offset;
                return Ok(Step::Frame {
                    frame: 0..consumed,
                    consumed,
                });
            }
            let rest = bytes.get(checked.offset..).unwrap_or_default();
            let Some(kind) = rest.first() else {
                return Ok(Step::Need(bytes.len() + 1));
            };
            if checked.args.is_none() && *kind != b'*' {
                return self.inline(rest);
            }
            let Some((number, len)) = header(rest)? else {
                return Ok(Step::Need(bytes.len() + 1));
            };
            match (checked.args, kind) {
                (None, _) if number <= ARGS_MAX => {
                    checked.args = Some(number);
                    checked.offset += len;
                }
                (Some(args), b'$') => {
                    let end = checked.offset + len + number + 2;
                    if end > self.len_max {
                        return Err(too_long(end, self.len_max));
                    }
                    if bytes.len() < end {
                        return Ok(Step::Need(end));
                    }
                    if bytes[end - 2..end] != *b"\r\n" {
                        return Err(FrameError::Malformed("a bulk string has a wrong length"));
                    }
                    checked.offset = end;
                    checked.args = Some(args - 1);
                }
                _ => return Err(FrameError::Malformed("expected '$', or too many arguments")),
            }
        }
    }

    fn encode(&self, reply: &[u8], out: &mut Out<'_>) -> Result<(), FrameError> {
        out.put(reply);
        Ok(())
    }
}

/// Parses a header: a byte for the kind, at most nine digits, and a line end. Returns the number
/// and the length of the header; `None` if the header is incomplete. A header is so short that a
/// loop is faster than `memchr`.
fn header(bytes: &[u8]) -> Result<Option<(usize, usize)>, FrameError> {
    let invalid = || Err(FrameError::Malformed("invalid length"));
    let mut number = 0;
    for at in 1..DIGITS_MAX + 2 {
        match bytes.get(at) {
            Some(digit @ b'0'..=b'9') => number = number * 10 + usize::from(digit - b'0'),
            Some(b'\r') if at > 1 => {
                return match bytes.get(at + 1) {
                    Some(b'\n') => Ok(Some((number, at + 2))),
                    Some(_) => invalid(),
                    None => Ok(None),
                };
            }
            Some(_) => return invalid(),
            None => return Ok(None),
        }
    }
    invalid()
}

/// The arguments of a command that [`Requests`] has checked.
#[derive(Clone)]
pub(crate) struct Args<'a> {
    rest: &'a [u8],
    is_inline: bool,
}

impl<'a> Args<'a> {
    pub(crate) fn new(frame: &'a [u8]) -> Self {
        let is_inline = frame.first() != Some(&b'*');
        let start = match header(frame) {
            Ok(Some((_, len))) if !is_inline => len,
            _ => 0,
        };
        Self {
            rest: &frame[start..],
            is_inline,
        }
    }
}

impl<'a> Iterator for Args<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.is_inline {
            let rest = self.rest.trim_ascii_start();
            let end = memchr(b' ', rest).unwrap_or(rest.len());
            let (arg, rest) = rest.split_at(end);
            self.rest = rest;
            return (!arg.is_empty()).then_some(arg);
        }
        let (len, start) = header(self.rest).ok()??;
        let arg = self.rest.get(start..start + len)?;
        self.rest = self.rest.get(start + len + 2..)?;
        Some(arg)
    }
}

#[cfg(test)]
mod tests {
    use unstick::{Framing, testkit::Cuts};

    use super::*;

    fn framing() -> Framing {
        Framing::custom(Requests { len_max: 1000 })
    }

    fn args(frame: &[u8]) -> Vec<&[u8]> {
        Args::new(frame).collect()
    }

    #[test]
    fn every_cut_of_commands_gives_the_same_frames() {
        let stream =
            b"*2\r\n$4\r\nECHO\r\n$3\r\na\r\n\r\nPING\r\n*0\r\n*1\r\n$0\r\n\r\nset  a b\r\n";
        let frames: [&[u8]; 5] = [
            b"*2\r\n$4\r\nECHO\r\n$3\r\na\r\n\r\n",
            b"PING",
            b"*0\r\n",
            b"*1\r\n$0\r\n\r\n",
            b"set  a b",
        ];
        Cuts::of(&framing())
            .stateful()
            .stream(stream)
            .expect(&frames)
            .check();
        assert_eq!(args(frames[0]), [&b"ECHO"[..], b"a\r\n"]);
        assert_eq!(args(frames[3]), [b""]);
        assert_eq!(args(frames[4]), [&b"set"[..], b"a", b"b"]);
        assert!(args(frames[2]).is_empty());
    }

    #[test]
    fn lengths_that_lie_and_long_commands_are_errors() {
        for stream in [
            &b"*1\r\n$2\r\nabcd\r\n"[..],
            b"*1\r\n:1\r\n",
            b"*1\r\n$-1\r\n",
            b"*1\r\n$990\r\n",
            b"*9999999999\r\n",
            b"PING\n",
        ] {
            Cuts::of(&framing())
                .stateful()
                .stream(stream)
                .expect_error()
                .check();
        }
    }

    #[test]
    fn error_of_a_long_line_names_the_limit_of_lines() {
        let requests = Requests { len_max: 16 << 20 };
        let line = [b'a'; LINE_LEN_MAX + 1];
        let failed = requests.decode(&mut Checked::default(), &line);
        let error = failed.expect_err("the line is too long").to_string();
        assert!(error.contains(&LINE_LEN_MAX.to_string()), "{error}");
    }
}
