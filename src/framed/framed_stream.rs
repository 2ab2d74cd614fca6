//! [`FramedStream`]: frames over a stream that blocks.

use std::io::{self, Read, Write};

use super::deframer::Deframer;
use super::framer::invalid_input;
use crate::codec::Framing;
use crate::memory::Buf;

/// Frames over anything that reads or writes and blocks: a std socket, a file, a serial line. For
/// tools and tests; many connections at once are what a [`Reactor`](crate::Reactor) is for.
///
/// Where the stream has a timeout, nothing is lost by it: a frame that has come in part is read on
/// by the next [`receive`](FramedStream::receive), and one that has gone in part is kept, and
/// written on by [`flush`](FramedStream::flush).
///
/// Each direction keeps a buffer as large as its traffic asked for: see
/// [`shrink_to_fit`](FramedStream::shrink_to_fit).
///
/// A pair of pipes, such as those of a child process, is a [`Deframer`] for the one and a
/// [`Framer`](crate::Framer) for the other.
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
    /// Frames that the stream has not taken yet.
    unsent: Buf,
}

impl<S> FramedStream<S> {
    /// Frames over `stream`, the same in both directions.
    #[must_use]
    pub fn new(stream: S, framing: Framing) -> Self {
        Self {
            stream,
            deframer: Deframer::new(framing.clone()),
            framing,
            unsent: Buf::default(),
        }
    }

    /// Exchanges the framing of both directions. Bytes that are read already are kept.
    pub fn reframe(&mut self, framing: Framing) {
        self.deframer.reframe(framing.clone());
        self.framing = framing;
    }

    /// The stream, for its options and its end. Bytes that are read from it are missed by
    /// [`receive`](FramedStream::receive).
    pub fn stream(&self) -> &S {
        &self.stream
    }

    /// As [`stream`](FramedStream::stream), for what has to change it: the timeout of a serial
    /// port, for example. Bytes that are written to it may come into the middle of an unsent frame.
    pub fn stream_mut(&mut self) -> &mut S {
        &mut self.stream
    }

    /// Bytes of frames that the stream has not taken yet: none but after an error of
    /// [`send`](FramedStream::send) or [`flush`](FramedStream::flush).
    pub fn unsent_bytes(&self) -> usize {
        self.unsent.len()
    }

    /// Gives back the memory that bytes not handed out and frames unsent do not need: for a stream
    /// that may be silent for long. The next frame of either direction allocates anew.
    pub fn shrink_to_fit(&mut self) {
        self.deframer.shrink_to_fit();
        self.unsent.shrink_to_fit();
    }

    /// Gives the stream back, and the bytes that were read and not handed out. What is unsent is
    /// lost.
    #[must_use]
    pub fn into_inner(self) -> (S, Vec<u8>) {
        let rest = self.deframer.rest().to_vec();
        (self.stream, rest)
    }
}

impl<S: Write> FramedStream<S> {
    /// Sends one frame, and returns when the stream has taken all of it.
    ///
    /// # Errors
    ///
    /// * `InvalidInput` with a [`FrameError`](crate::FrameError), where the framing cannot carry
    ///   the payload, and nothing of it is sent.
    /// * What the stream answered. The frame is kept: after a `WouldBlock` or a `TimedOut`,
    ///   [`flush`](FramedStream::flush) writes on, and so does the next `send`. Not to be sent
    ///   again.
    pub fn send(&mut self, payload: &[u8]) -> io::Result<()> {
        let encoded = self.framing.encode(payload, &mut self.unsent);
        encoded.map_err(invalid_input)?;
        self.flush()
    }

    /// Writes what is unsent, and flushes the stream.
    ///
    /// # Errors
    ///
    /// What the stream answered; `Interrupted` is retried. `WriteZero` where it takes no more.
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
    /// Waits for one frame; `None` when the peer has ended its side.
    ///
    /// # Errors
    ///
    /// As for [`Deframer::read_frame`].
    pub fn receive(&mut self) -> io::Result<Option<&[u8]>> {
        self.deframer.read_frame(&mut self.stream)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes or gives some bytes, and times out every other time.
    struct Slow {
        bytes: Vec<u8>,
        piece: usize,
        is_late: bool,
    }

    impl Slow {
        fn wait(&mut self) -> io::Result<()> {
            self.is_late = !self.is_late;
            match self.is_late {
                true => Err(io::ErrorKind::WouldBlock.into()),
                false => Ok(()),
            }
        }
    }

    impl Read for Slow {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            self.wait()?;
            let len = self.piece.min(buf.len()).min(self.bytes.len());
            let piece: Vec<u8> = self.bytes.drain(..len).collect();
            buf[..len].copy_from_slice(&piece);
            Ok(len)
        }
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.wait()?;
            let len = self.piece.min(bytes.len());
            self.bytes.extend_from_slice(&bytes[..len]);
            Ok(len)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Interrupts every other call, and takes so many bytes and no more.
    struct Interrupting {
        input: &'static [u8],
        output: Vec<u8>,
        room: usize,
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
            let len = self.room.min(bytes.len());
            self.room -= len;
            self.output.extend_from_slice(&bytes[..len]);
            Ok(len)
        }

        fn flush(&mut self) -> io::Result<()> {
            self.flushes += 1;
            Ok(())
        }
    }

    #[test]
    fn interrupted_calls_are_made_again_and_a_stream_that_takes_no_more_is_an_error() {
        let interrupting = Interrupting {
            input: b"hi\n\x03abcrest",
            output: Vec::new(),
            room: 9,
            flushes: 0,
            is_interrupted: false,
        };
        let mut stream = FramedStream::new(interrupting, Framing::line());
        stream.send(b"one").expect("there is room");
        assert_eq!(stream.receive().expect("a line"), Some(&b"hi"[..]));
        stream.reframe(Framing::length_u8());
        assert_eq!(stream.receive().expect("a frame"), Some(&b"abc"[..]));
        stream.send(b"two").expect("there is room");
        assert_eq!(stream.stream().flushes, 2);
        let error = stream.send(b"three").expect_err("room for its length only");
        assert_eq!(error.kind(), io::ErrorKind::WriteZero);
        assert_eq!(stream.unsent_bytes(), 5);
        let (stream, rest) = stream.into_inner();
        assert_eq!(stream.output, b"one\n\x03two\x05");
        assert_eq!(rest, b"rest");
    }

    #[test]
    fn a_stream_that_falls_silent_can_be_left_without_a_buffer() {
        let taking = Interrupting {
            input: b"\0\x05hello\0\x02",
            output: Vec::new(),
            room: usize::MAX,
            flushes: 0,
            is_interrupted: false,
        };
        let mut stream = FramedStream::new(taking, Framing::length_u16());
        stream.send(&[1; 60_000]).expect("there is room");
        assert_eq!(stream.receive().expect("a frame"), Some(&b"hello"[..]));
        assert!(stream.unsent.capacity() > 60_000);
        stream.shrink_to_fit();
        assert_eq!(stream.unsent.capacity(), 0);
        assert_eq!(stream.deframer.rest(), b"\0\x02", "not handed out");

        stream.stream_mut().room = 3;
        stream.send(b"hi").expect_err("no room for all of it");
        stream.shrink_to_fit();
        stream.stream_mut().room = 100;
        stream.send(b"again").expect("there is room");
        assert!(stream.stream.output.ends_with(b"\0\x02hi\0\x05again"));
    }

    #[test]
    fn a_timeout_in_the_middle_of_a_frame_loses_nothing() {
        for piece in [1, 3, 1000] {
            let bytes = Vec::new();
            let (is_late, framing) = (false, Framing::length_u16());
            let slow = Slow {
                bytes,
                piece,
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
                sent.expect("no other error");
            }
            let too_long = stream.send(&[0; 65_536]).expect_err("a field of two bytes");
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
