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

/// Maximum length of a line: an inline command, or a header. Redis has the same limit.
const LINE_LEN_MAX: usize = 64 * 1024;
/// Maximum number of arguments of a command. Redis has the same limit.
const ARGS_MAX: usize = 1024 * 1024;

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
    fn end_of_line(&self, line: &[u8]) -> Result<Option<usize>, FrameError> {
        let limit = LINE_LEN_MAX.min(self.len_max);
        match memchr(b'\n', line.get(..limit).unwrap_or(line)) {
            Some(end) if end > 0 && line[end - 1] == b'\r' => Ok(Some(end - 1)),
            Some(_) => Err(FrameError::Malformed("a line does not end with CR LF")),
            None if line.len() >= limit => Err(self.too_long(line.len())),
            None => Ok(None),
        }
    }

    fn too_long(&self, len: usize) -> FrameError {
        FrameError::TooLong {
            len: len as u64,
            limit: self.len_max as u64,
        }
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
            let Some(line) = self.end_of_line(rest)? else {
                return Ok(Step::Need(bytes.len() + 1));
            };
            let start = checked.offset;
            match (checked.args, rest[0]) {
                (None, b'*') => {
                    let args = number(&rest[1..line]).filter(|args| *args <= ARGS_MAX);
                    let invalid = FrameError::Malformed("invalid multibulk length");
                    checked.args = Some(args.ok_or(invalid)?);
                    checked.offset += line + 2;
                }
                (None, _) => {
                    return Ok(Step::Frame {
                        frame: 0..line,
                        consumed: line + 2,
                    });
                }
                (Some(args), b'$') => {
                    let len = number(&rest[1..line]).filter(|len| *len <= self.len_max);
                    let len = len.ok_or(FrameError::Malformed("invalid bulk length"))?;
                    let end = start + line + 2 + len + 2;
                    if end > self.len_max {
                        return Err(self.too_long(end));
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
                (Some(_), _) => return Err(FrameError::Malformed("expected '$'")),
            }
        }
    }

    fn encode(&self, reply: &[u8], out: &mut Out<'_>) -> Result<(), FrameError> {
        out.put(reply);
        Ok(())
    }
}

/// Parses a number of at most nine decimal digits.
fn number(digits: &[u8]) -> Option<usize> {
    if digits.is_empty() || digits.len() > 9 {
        return None;
    }
    digits.iter().try_fold(0, |number: usize, digit| {
        let digit = digit.is_ascii_digit().then(|| usize::from(digit - b'0'))?;
        Some(number * 10 + digit)
    })
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
        let array = memchr(b'\n', frame).map_or(&[][..], |end| &frame[end + 1..]);
        Self {
            rest: if is_inline { frame } else { array },
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
        let line = memchr(b'\r', self.rest)?;
        let len = number(self.rest.get(1..line)?)?;
        let arg = self.rest.get(line + 2..line + 2 + len)?;
        self.rest = self.rest.get(line + 2 + len + 2..)?;
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
}
