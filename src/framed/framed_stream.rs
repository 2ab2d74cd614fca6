//! Frames over a blocking stream.

use std::io::{self, Read, Write};

use super::deframer::Deframer;
use crate::codec::Framing;
use crate::error::invalid_input;
use crate::memory::Buf;

/// Frames over a blocking stream: a std socket, a file or a serial line. The type is meant for
/// tools and tests. For many connections at once, use a [`Reactor`](crate::Reactor).
///
/// A timeout of the stream loses no bytes. The next [`receive`](FramedStream::receive) continues a
/// partial frame. [`flush`](FramedStream::flush) continues a frame that was sent in part.
///
/// Each direction keeps a buffer as large as its traffic needed: see
/// [`shrink_to_fit`](FramedStream::shrink_to_fit).
///
/// Use a [`Deframer`] and a [`Framer`](crate::Framer) for a pair of pipes, such as those of a child
/// process.
///
/// # Examples
///
/// ```
/// use std::net::{TcpListener, TcpStream};
/// use unstick::{FramedStream, Framing};
///
/// # fn main() -> std::io::Result<()> {
/// let listener = TcpListener::bind("127.0.0.1:0")?;
/// let stream = TcpStream::connect(listener.local_addr()?)?;
/// let mut client = FramedStream::new(stream, Framing::line());
/// let mut server = FramedStream::new(listener.accept()?.0, Framing::line());
///
/// client.send(b"hello")?;
/// assert_eq!(server.receive()?, Some(&b"hello"[..]));
/// drop(client);
/// assert_eq!(server.receive()?, None);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct FramedStream<S> {
    stream: S,
    deframer: Deframer,
    framing: Framing,
    /// Encoded frames that the stream has not taken.
    unsent: Buf,
}

impl<S> FramedStream<S> {
    /// Creates frames over `stream`, with one framing for both directions.
    #[must_use]
    pub fn new(stream: S, framing: Framing) -> Self {
        Self {
            stream,
            deframer: Deframer::new(framing.clone()),
            framing,
            unsent: Buf::default(),
        }
    }

    /// Replaces the framing of both directions. Bytes that were read and not delivered are decoded
    /// with the new framing. [`Deframer::reframe`] describes the exception: a frame that is being
    /// skipped.
    pub fn reframe(&mut self, framing: Framing) {
        self.deframer.reframe(framing.clone());
        self.framing = framing;
    }

    /// Returns the stream, for example to set its options or to shut it down.
    /// [`receive`](FramedStream::receive) does not see bytes that are read from the stream
    /// directly.
    pub fn stream(&self) -> &S {
        &self.stream
    }

    /// Returns the stream mutably, for example to set the timeout of a serial port. Bytes written
    /// to the stream directly may end up in the middle of an unsent frame.
    pub fn stream_mut(&mut self) -> &mut S {
        &mut self.stream
    }

    /// Returns the number of encoded bytes that the stream has not taken: 0, except after an error
    /// of [`send`](FramedStream::send) or [`flush`](FramedStream::flush).
    pub fn unsent_bytes(&self) -> usize {
        self.unsent.len()
    }

    /// Frees the memory that undelivered bytes and unsent frames do not need. Call it if the stream
    /// may be silent for long. The next frame of either direction allocates again.
    pub fn shrink_to_fit(&mut self) {
        self.deframer.shrink_to_fit();
        self.unsent.shrink_to_fit();
    }

    /// Returns the stream, and the bytes that were read and not delivered. Unsent bytes are lost.
    #[must_use]
    pub fn into_inner(self) -> (S, Vec<u8>) {
        let rest = self.deframer.rest().to_vec();
        (self.stream, rest)
    }
}

impl<S: Write> FramedStream<S> {
    /// Sends one frame. Returns when the stream has taken the whole frame.
    ///
    /// # Errors
    ///
    /// * `InvalidInput` with a [`FrameError`](crate::FrameError) if the framing cannot carry the
    ///   payload. No byte of the payload is sent.
    /// * The error of the stream. The unsent part of the frame is kept: after `WouldBlock` or
    ///   `TimedOut`, [`flush`](FramedStream::flush) or the next `send` continues the frame. Do not
    ///   send the frame again.
    pub fn send(&mut self, payload: &[u8]) -> io::Result<()> {
        let encoded = self.framing.encode(payload, &mut self.unsent);
        encoded.map_err(invalid_input)?;
        self.flush()
    }

    /// Writes the unsent bytes, and flushes the stream.
    ///
    /// # Errors
    ///
    /// The error of the stream; a write that fails with `Interrupted` is retried. `WriteZero` if
    /// the stream accepts no byte.
    pub fn flush(&mut self) -> io::Result<()> {
        while !self.unsent.is_empty() {
            match self.stream.write(self.unsent.bytes()) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(len) => self.unsent.consume(len),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.stream.flush()
    }
}

impl<S: Read> FramedStream<S> {
    /// Waits for one frame. Returns `None` if the peer has ended its stream.
    ///
    /// # Errors
    ///
    /// The errors of [`Deframer::read_frame`].
    pub fn receive(&mut self) -> io::Result<Option<&[u8]>> {
        self.deframer.read_frame(&mut self.stream)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stream that transfers at most `len_max` bytes per call. Every other call times out.
    struct Slow {
        bytes: Vec<u8>,
        len_max: usize,
        is_late: bool,
    }

    impl Slow {
        fn time_out(&mut self) -> io::Result<()> {
            self.is_late = !self.is_late;
            match self.is_late {
                true => Err(io::ErrorKind::WouldBlock.into()),
                false => Ok(()),
            }
        }
    }

    impl Read for Slow {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            self.time_out()?;
            let len = self.len_max.min(buf.len()).min(self.bytes.len());
            let taken: Vec<u8> = self.bytes.drain(..len).collect();
            buf[..len].copy_from_slice(&taken);
            Ok(len)
        }
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.time_out()?;
            let len = self.len_max.min(bytes.len());
            self.bytes.extend_from_slice(&bytes[..len]);
            Ok(len)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A stream that interrupts every other call, and accepts at most `spare_len` bytes in total.
    struct Interrupting {
        input: &'static [u8],
        output: Vec<u8>,
        spare_len: usize,
        flushes: usize,
        is_interrupted: bool,
    }

    impl Interrupting {
        fn interrupt(&mut self) -> io::Result<()> {
            self.is_interrupted = !self.is_interrupted;
            match self.is_interrupted {
                true => Err(io::ErrorKind::Interrupted.into()),
                false => Ok(()),
            }
        }
    }

    impl Read for Interrupting {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            self.interrupt()?;
            self.input.read(buf)
        }
    }

    impl Write for Interrupting {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.interrupt()?;
            let len = self.spare_len.min(bytes.len());
            self.spare_len -= len;
            self.output.extend_from_slice(&bytes[..len]);
            Ok(len)
        }

        fn flush(&mut self) -> io::Result<()> {
            self.flushes += 1;
            Ok(())
        }
    }

    #[test]
    fn interrupted_writes_are_retried_and_a_full_stream_fails() {
        let interrupting = Interrupting {
            input: b"hi\n\x03abcrest",
            output: Vec::new(),
            spare_len: 9,
            flushes: 0,
            is_interrupted: false,
        };
        let mut stream = FramedStream::new(interrupting, Framing::line());
        stream.send(b"one").expect("the frame fits");
        assert_eq!(
            stream.receive().expect("the input begins with a line"),
            Some(&b"hi"[..])
        );
        stream.reframe(Framing::length_u8());
        assert_eq!(
            stream.receive().expect("the input begins with a frame"),
            Some(&b"abc"[..])
        );
        stream.send(b"two").expect("the frame fits");
        assert_eq!(stream.stream().flushes, 2);
        let error = stream
            .send(b"three")
            .expect_err("the stream accepts only the length of the frame");
        assert_eq!(error.kind(), io::ErrorKind::WriteZero);
        assert_eq!(stream.unsent_bytes(), 5);
        let (stream, rest) = stream.into_inner();
        assert_eq!(stream.output, b"one\n\x03two\x05");
        assert_eq!(rest, b"rest");
    }

    #[test]
    fn shrink_to_fit_frees_both_buffers_of_a_silent_stream() {
        let taking = Interrupting {
            input: b"\0\x05hello\0\x02",
            output: Vec::new(),
            spare_len: usize::MAX,
            flushes: 0,
            is_interrupted: false,
        };
        let mut stream = FramedStream::new(taking, Framing::length_u16());
        stream.send(&[1; 60_000]).expect("the frame fits");
        assert_eq!(
            stream.receive().expect("the input begins with a frame"),
            Some(&b"hello"[..])
        );
        assert!(stream.unsent.capacity() > 60_000);
        stream.shrink_to_fit();
        assert_eq!(stream.unsent.capacity(), 0);
        assert_eq!(
            stream.deframer.rest(),
            b"\0\x02",
            "the bytes of the partial frame are kept"
        );

        stream.stream_mut().spare_len = 3;
        stream
            .send(b"hi")
            .expect_err("the stream accepts only a part of the frame");
        stream.shrink_to_fit();
        stream.stream_mut().spare_len = 100;
        stream.send(b"again").expect("the frame fits");
        assert!(stream.stream.output.ends_with(b"\0\x02hi\0\x05again"));
    }

    #[test]
    fn a_timeout_in_the_middle_of_a_frame_loses_nothing() {
        for len_max in [1, 3, 1000] {
            let bytes = Vec::new();
            let (is_late, framing) = (false, Framing::length_u16());
            let slow = Slow {
                bytes,
                len_max,
                is_late,
            };
            let mut stream = FramedStream::new(slow, framing);
            let is_late = |error: &io::Error| error.kind() == io::ErrorKind::WouldBlock;
            for payload in [&b"one"[..], b"", b"three"] {
                let mut sent = stream.send(payload);
                while sent.as_ref().is_err_and(is_late) {
                    assert!(stream.unsent_bytes() > 0 || payload.is_empty());
                    sent = stream.flush();
                }
                sent.expect("the send fails only with `WouldBlock`, which is retried");
            }
            let too_long = stream
                .send(&[0; 65_536])
                .expect_err("the payload is too long for a length field of two bytes");
            assert_eq!(too_long.kind(), io::ErrorKind::InvalidInput);
            assert_eq!(stream.unsent_bytes(), 0);
            assert_eq!(stream.stream().bytes, b"\0\x03one\0\0\0\x05three");
            let mut frames = Vec::new();
            loop {
                match stream.receive() {
                    Ok(Some(frame)) => frames.push(frame.to_vec()),
                    Ok(None) => break,
                    Err(error) => assert!(is_late(&error), "{error}"),
                }
            }
            assert_eq!(frames, [&b"one"[..], b"", b"three"]);
        }
    }
}
