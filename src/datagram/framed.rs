//! Datagrams of exactly one frame.

use std::error::Error;
use std::net::SocketAddr;
use std::{fmt, io};

use super::Datagram;
use crate::codec::{AnyState, CheckedStep, Framing, Kind, Skip, SkipKind, Skipped};
use crate::error::FrameError;

impl<'a> Datagram<'a> {
    /// Returns the one frame of the datagram: for protocols that frame their messages over UDP too.
    ///
    /// Datagrams are independent: a fault of one does not affect the next, even from the same
    /// sender.
    ///
    /// # Errors
    ///
    /// [`DatagramError`] if the datagram is not exactly one frame.
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
    let (mut state, mut undecoded, mut has_ended) = (AnyState::default(), bytes, false);
    while !undecoded.is_empty() {
        match state.step(kind, undecoded, has_ended) {
            CheckedStep::Frame { payload, after, .. } => {
                return match after.len() {
                    0 => Ok(payload),
                    bytes => Err(DatagramFault::LeftOver { bytes }),
                };
            }
            CheckedStep::Need(_) if has_ended => break,
            CheckedStep::Need(_) => has_ended = true,
            CheckedStep::Skip(Skip { bytes, kind }) => {
                if let SkipKind::Frame(Skipped { len, limit }) = kind {
                    return Err(FrameError::TooLong { len, limit }.into());
                }
                let len = usize::try_from(bytes).unwrap_or(usize::MAX);
                undecoded = undecoded.get(len..).unwrap_or_default();
            }
            CheckedStep::Failed(error) => return Err(FrameError::from(error).into()),
        }
    }
    Err(DatagramFault::Cut)
}

/// Error of a datagram that is not exactly one frame.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DatagramError {
    /// Source address of the datagram.
    pub from: SocketAddr,
    /// Fault of the datagram.
    pub fault: DatagramFault,
}

/// Fault of a datagram that should be one frame.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum DatagramFault {
    /// The datagram exceeds [`Config::datagram_len_max`](crate::Config::datagram_len_max).
    Truncated,
    /// The datagram ends before its frame, or is empty.
    Cut,
    /// Bytes follow the frame.
    LeftOver {
        /// Number of these bytes.
        bytes: usize,
    },
    /// The bytes are not a valid frame, or the frame is too long.
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
                write!(f, "{bytes} bytes follow its frame")
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

/// An error of kind `InvalidData`.
impl From<DatagramError> for io::Error {
    fn from(error: DatagramError) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Details;
    use super::*;

    #[test]
    fn a_datagram_is_one_frame_or_an_error_with_its_source() {
        let from = "192.0.2.1:7".parse().expect("the text is an address");
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
            let framing: Framing = name.parse().expect("the text is the name of a framing");
            let frame = |data: &[u8], truncated| {
                let datagram = Datagram {
                    from,
                    data,
                    truncated,
                    details: Details::NONE,
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
                assert_eq!(frame(b"", false).expect("raw has empty frames"), b"");
                continue;
            }
            for cut in 0..whole.len() {
                let fault = frame(&whole[..cut], false).expect_err("the frame is cut");
                assert!(matches!(fault, DatagramFault::Cut), "{name}: {fault:?}");
            }
            let two = [whole, whole].concat();
            let Err(DatagramFault::LeftOver { bytes }) = frame(&two, false) else {
                panic!("{name}: a datagram with two frames must be an error");
            };
            assert_eq!(bytes, whole.len());
        }
        for framing in [Framing::length_u8(), Framing::length_u8().skip_too_long()] {
            let (data, truncated) = (&b"\x09abcdefghi"[..], false);
            let datagram = Datagram {
                from,
                data,
                truncated,
                details: Details::NONE,
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
