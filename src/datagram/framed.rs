//! Datagrams that are frames, exactly one each.

use std::error::Error;
use std::net::SocketAddr;
use std::{fmt, io};

use super::Datagram;
use crate::codec::{AnyState, Framing, Kind, Step};
use crate::error::FrameError;

impl<'a> Datagram<'a> {
    /// The one frame that the datagram is: for protocols that frame their messages over UDP too.
    ///
    /// Each datagram stands for itself. What is wrong with one is no matter of the next, whoever
    /// sent it.
    ///
    /// # Errors
    ///
    /// [`DatagramError`]: whatever is not exactly one frame.
    ///
    /// # Examples
    ///
    /// ```
    /// use unstick::{Context, Datagram, Framer, Framing, Handler, UdpId};
    /// # use unstick::ConnId;
    ///
    /// struct Upper {
    ///     framing: Framing,
    ///     framer: Framer,
    /// }
    ///
    /// impl Handler for Upper {
    ///     type Session = ();
    /// #   fn on_frame(&mut self, _: &mut Context<'_, Self>, _: ConnId, _: &mut (), _: &[u8]) {}
    ///
    ///     fn on_datagram(&mut self, cx: &mut Context<'_, Self>, udp: UdpId, got: Datagram<'_>) {
    ///         match got.frame(&self.framing) {
    ///             Ok(frame) => {
    ///                 let answer = self.framer.frame(&frame.to_ascii_uppercase());
    ///                 let answer = answer.expect("it is as long as the request");
    ///                 let _ = cx.send_to(udp, got.from, answer);
    ///             }
    ///             Err(error) => log::debug!("{error}"),
    ///         }
    ///     }
    /// }
    /// # let framing = Framing::varint();
    /// # let mut reactor = unstick::Reactor::new(Upper {
    /// #     framer: Framer::new(framing.clone()),
    /// #     framing,
    /// # }).expect("a reactor");
    /// # let udp = reactor.bind_udp("127.0.0.1:0").expect("a free port");
    /// # let peer = std::net::UdpSocket::bind("127.0.0.1:0").expect("a free port");
    /// # peer.connect(reactor.local_inet_addr(udp).expect("bound")).expect("loopback");
    /// # peer.send(b"\x04cut").expect("loopback");
    /// # peer.send(b"\x02ok").expect("loopback");
    /// # while reactor.stats().datagrams_out == 0 { reactor.turn(None).expect("a turn"); }
    /// # let mut buf = [0; 9];
    /// # assert_eq!(peer.recv(&mut buf).expect("an answer"), 3);
    /// # assert_eq!(&buf[..3], b"\x02OK");
    /// ```
    pub fn frame(&self, framing: &Framing) -> Result<&'a [u8], DatagramError> {
        let result = match (self.truncated, framing.kind()) {
            (true, _) => Err(DatagramFault::Truncated),
            (false, Kind::Raw(_)) => Ok(self.data),
            (false, kind) => only_frame(kind, self.data),
        };
        result.map_err(|fault| DatagramError {
            from: self.from,
            fault,
        })
    }
}

fn only_frame<'a>(kind: &Kind, bytes: &'a [u8]) -> Result<&'a [u8], DatagramFault> {
    let (mut state, mut rest, mut has_ended) = (AnyState::default(), bytes, false);
    while !rest.is_empty() {
        let skipped = match state.checked_step(kind, rest, has_ended) {
            Ok(Step::Frame { frame, consumed }) => {
                return match rest.len() - consumed {
                    0 => Ok(&rest[frame]),
                    bytes => Err(DatagramFault::LeftOver { bytes }),
                };
            }
            Ok(Step::Need(_)) if has_ended => break,
            Ok(Step::Need(_)) => {
                has_ended = true;
                0
            }
            Ok(Step::Skip { bytes }) => usize::try_from(bytes).unwrap_or(usize::MAX),
            Ok(Step::SkipPart { bytes }) => bytes,
            Ok(Step::SkipFrame { len, limit, .. }) => {
                return Err(FrameError::TooLong { len, limit }.into());
            }
            Err(error) => return Err(error.into()),
        };
        rest = rest.get(skipped..).unwrap_or_default();
    }
    Err(DatagramFault::Cut)
}

/// A datagram that is not exactly one frame, and who sent it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DatagramError {
    /// The address that it says it is from.
    pub from: SocketAddr,
    /// What is wrong with it.
    pub fault: DatagramFault,
}

/// What is wrong with a datagram that should be one frame.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum DatagramFault {
    /// It was longer than [`Config::datagram_len_max`](crate::Config::datagram_len_max).
    Truncated,
    /// It ends before a frame does, or is empty.
    Cut,
    /// There is more behind the frame.
    LeftOver {
        /// How many bytes.
        bytes: usize,
    },
    /// It is no frame, or one that is too long.
    Frame(FrameError),
}

impl From<FrameError> for DatagramFault {
    fn from(error: FrameError) -> Self {
        Self::Frame(error)
    }
}

impl fmt::Display for DatagramError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a datagram from {}: ", self.from)?;
        match &self.fault {
            DatagramFault::Truncated => f.write_str("it is truncated"),
            DatagramFault::Cut => f.write_str("it ends before its frame does"),
            DatagramFault::LeftOver { bytes } => {
                write!(f, "{bytes} bytes are left over behind its frame")
            }
            DatagramFault::Frame(error) => error.fmt(f),
        }
    }
}

impl Error for DatagramError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.fault {
            DatagramFault::Frame(error) => error.source(),
            _ => None,
        }
    }
}

/// As `InvalidData`.
impl From<DatagramError> for io::Error {
    fn from(error: DatagramError) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_is_one_frame_or_an_error_that_names_its_sender() {
        let from = "192.0.2.1:7".parse().expect("an address");
        let limit = 5;
        let frames: [(&str, &[u8]); 9] = [
            ("raw", b"abc"),
            ("line", b"abc\r\n"),
            ("u8", b"\x03abc"),
            ("u32-le", b"\x03\0\0\0abc"),
            ("varint", b"\x03abc"),
            ("netstring", b"3:abc,"),
            ("fixed-3", b"abc"),
            ("delimiter-;", b"abc;"),
            ("delimiter-;|;abcde", b"abc;"),
        ];
        for (name, whole) in frames {
            let framing: Framing = name.parse().expect("a name");
            let frame = |data: &[u8], truncated| {
                let datagram = Datagram {
                    from,
                    data,
                    truncated,
                };
                let frame = datagram.frame(&framing.clone().frame_len_max(limit));
                frame.map(<[u8]>::to_vec).map_err(|error| {
                    assert_eq!(error.from, from);
                    assert!(
                        error
                            .to_string()
                            .starts_with("a datagram from 192.0.2.1:7: ")
                    );
                    error.fault
                })
            };
            assert_eq!(frame(whole, false).expect("one frame"), b"abc", "{name}");
            assert!(matches!(frame(whole, true), Err(DatagramFault::Truncated)));
            if name == "raw" {
                assert_eq!(frame(b"", false).expect("an empty one"), b"");
                continue;
            }
            for cut in 0..whole.len() {
                let fault = frame(&whole[..cut], false).expect_err("cut");
                assert!(matches!(fault, DatagramFault::Cut), "{name}: {fault:?}");
            }
            let two = [whole, whole].concat();
            let Err(DatagramFault::LeftOver { bytes }) = frame(&two, false) else {
                panic!("{name}: more than one");
            };
            assert_eq!(bytes, whole.len());
        }
        for framing in [Framing::length_u8(), Framing::length_u8().skip_too_long()] {
            let (data, truncated) = (&b"\x09abcdefghi"[..], false);
            let datagram = Datagram {
                from,
                data,
                truncated,
            };
            let fault = datagram
                .frame(&framing.frame_len_max(limit))
                .map_err(|error| error.fault);
            assert!(matches!(
                fault,
                Err(DatagramFault::Frame(FrameError::TooLong {
                    len: 9,
                    limit: 5
                }))
            ));
        }
    }
}
