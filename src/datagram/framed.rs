//! Frames in datagrams.

use std::error::Error;
use std::iter::FusedIterator;
use std::net::SocketAddr;
use std::{fmt, io};

use super::Datagram;
use crate::codec::{AnyState, CheckedStep, Framing, Kind, Skip, SkipKind, Skipped};
use crate::error::FrameError;

impl<'a> Datagram<'a> {
    /// Returns the frame of a datagram that consists of exactly one frame. Use this method for
    /// protocols that also frame their messages over UDP.
    ///
    /// Datagrams are independent: a fault of one datagram does not affect the next, even from the
    /// same sender. Bytes that [`skip_between`](Framing::skip_between) skips may surround the
    /// frame. Bytes that a custom codec skips are a fault.
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
    ///
    ///     fn on_datagram(&mut self, cx: &mut Context<'_, Self>, udp: UdpId, got: Datagram<'_>) {
    ///         match got.frame(&self.framing) {
    ///             Ok(frame) => {
    ///                 let answer = self.framer.frame(&frame.to_ascii_uppercase());
    ///                 let answer = answer.expect("the answer fits the framing");
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
        let frames = DatagramFrames::new(framing, self.data, self.truncated);
        frames.only().map_err(|fault| DatagramError {
            from: self.from,
            fault,
        })
    }

    /// Returns an iterator over all frames of the datagram, in order. Use this method for protocols
    /// that put several records into a datagram.
    ///
    /// An empty datagram has no frames. With [`Framing::raw`], every datagram is one frame, even an
    /// empty datagram. If the datagram ends inside a frame, the last item is
    /// [`DatagramFault::Cut`]. With
    /// [`unterminated_last_frame`](Framing::unterminated_last_frame), the last record is a frame
    /// even if its delimiter is missing. For a [truncated](Datagram::truncated) datagram, the
    /// iterator returns the whole frames, and [`DatagramFault::Truncated`] as the last item.
    ///
    /// If bytes are invalid, the fault is the last item. There are two exceptions, after which the
    /// next frames follow: a frame that the framing [skips](Framing::skip_too_long) because it is
    /// too long, and bytes that a custom codec skips. Each of them is one `Err` item.
    ///
    /// # Examples
    ///
    /// ```
    /// use unstick::{Datagram, Framing};
    ///
    /// fn metrics(datagram: &Datagram<'_>) -> Vec<String> {
    ///     let framing = Framing::line().unterminated_last_frame();
    ///     let lines = datagram.frames(&framing).filter_map(|line| match line {
    ///         Ok(line) => Some(String::from_utf8_lossy(line).into_owned()),
    ///         Err(fault) => {
    ///             log::debug!("a datagram from {}: {fault}", datagram.from);
    ///             None
    ///         }
    ///     });
    ///     lines.collect()
    /// }
    /// # use unstick::{ConnId, Context, Handler, Reactor, UdpId};
    /// # struct Collect(Vec<String>);
    /// # impl Handler for Collect {
    /// #     type Session = ();
    /// #     fn on_datagram(&mut self, _: &mut Context<'_, Self>, _: UdpId, got: Datagram<'_>) {
    /// #         self.0.extend(metrics(&got));
    /// #     }
    /// # }
    /// # let mut reactor = Reactor::new(Collect(Vec::new())).expect("a reactor");
    /// # let udp = reactor.bind_udp("127.0.0.1:0").expect("a free port");
    /// # let peer = std::net::UdpSocket::bind("127.0.0.1:0").expect("a free port");
    /// # peer.connect(reactor.local_inet_addr(udp).expect("bound")).expect("loopback");
    /// # peer.send(b"a:1|c\nb:2|c").expect("loopback");
    /// # while reactor.stats().datagrams_in == 0 { reactor.turn(None).expect("a turn"); }
    /// # assert_eq!(reactor.handler().0, ["a:1|c", "b:2|c"]);
    /// ```
    pub fn frames(&self, framing: &Framing) -> DatagramFrames<'a> {
        DatagramFrames::new(framing, self.data, self.truncated)
    }
}

#[cfg(unix)]
impl<'a> super::UnixDatagram<'a> {
    /// Returns an iterator over all frames of the datagram: see [`Datagram::frames`].
    pub fn frames(&self, framing: &Framing) -> DatagramFrames<'a> {
        DatagramFrames::new(framing, self.data, self.truncated)
    }
}

/// Iterator over the frames of a datagram: see [`Datagram::frames`].
pub struct DatagramFrames<'a> {
    framing: Framing,
    state: AnyState,
    /// Bytes that are not decoded yet; `None` after the last item.
    undecoded: Option<&'a [u8]>,
    truncated: bool,
}

impl<'a> DatagramFrames<'a> {
    fn new(framing: &Framing, data: &'a [u8], truncated: bool) -> Self {
        Self {
            framing: framing.clone(),
            state: AnyState::default(),
            undecoded: Some(data),
            truncated,
        }
    }

    /// Returns the frame, or a fault if the datagram does not consist of exactly one frame.
    fn only(mut self) -> Result<&'a [u8], DatagramFault> {
        if self.truncated {
            return Err(DatagramFault::Truncated);
        }
        let frame = self.next().unwrap_or(Err(DatagramFault::Cut))?;
        let bytes = self.undecoded.map_or(0, <[u8]>::len);
        match self.next() {
            None => Ok(frame),
            Some(_) => Err(DatagramFault::LeftOver { bytes }),
        }
    }

    /// Ends the iteration with a fault.
    fn fail(&mut self, fault: DatagramFault) -> Option<Result<&'a [u8], DatagramFault>> {
        self.undecoded = None;
        Some(Err(fault))
    }

    /// Drops the bytes of a skip. Returns the fault to report, or `None` if the skip is not a
    /// fault.
    fn skip(&mut self, undecoded: &'a [u8], skip: Skip) -> Option<DatagramFault> {
        let len = usize::try_from(skip.bytes).unwrap_or(usize::MAX);
        let len = len.min(undecoded.len());
        self.undecoded = undecoded.get(len..);
        match skip.kind {
            SkipKind::Frame(Skipped { len, limit }) => {
                Some(FrameError::TooLong { len, limit }.into())
            }
            SkipKind::Filler if matches!(self.framing.kind(), Kind::Custom(_)) => {
                Some(DatagramFault::Skipped { bytes: len })
            }
            // Filler of `skip_between` is not a fault, and `Part` is reported when its frame ends.
            SkipKind::Filler | SkipKind::Part => None,
        }
    }
}

impl<'a> Iterator for DatagramFrames<'a> {
    type Item = Result<&'a [u8], DatagramFault>;

    fn next(&mut self) -> Option<Self::Item> {
        let framing = self.framing.clone();
        let mut has_ended = false;
        loop {
            let undecoded = self.undecoded?;
            let is_raw = matches!(framing.kind(), Kind::Raw(_));
            if is_raw || undecoded.is_empty() {
                self.undecoded = None;
                return match (self.truncated, is_raw) {
                    (true, _) => Some(Err(DatagramFault::Truncated)),
                    (false, true) => Some(Ok(undecoded)),
                    (false, false) => None,
                };
            }
            match self.state.step(framing.kind(), undecoded, has_ended) {
                CheckedStep::Frame { payload, after, .. } => {
                    self.undecoded = Some(after);
                    return Some(Ok(payload));
                }
                CheckedStep::Need(_) if self.truncated => {
                    return self.fail(DatagramFault::Truncated);
                }
                CheckedStep::Need(_) if has_ended => return self.fail(DatagramFault::Cut),
                CheckedStep::Need(_) => has_ended = true,
                CheckedStep::Skip(skip) => {
                    if let Some(fault) = self.skip(undecoded, skip) {
                        return Some(Err(fault));
                    }
                }
                CheckedStep::Failed(error) => return self.fail(FrameError::from(error).into()),
            }
        }
    }
}

impl FusedIterator for DatagramFrames<'_> {}

impl fmt::Debug for DatagramFrames<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DatagramFrames")
            .field("framing", &self.framing)
            .field("undecoded_len", &self.undecoded.map_or(0, <[u8]>::len))
            .finish_non_exhaustive()
    }
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

/// Fault of a datagram that should consist of frames.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum DatagramFault {
    /// The datagram exceeds [`Config::datagram_len_max`](crate::Config::datagram_len_max).
    Truncated,
    /// The datagram ends inside a frame, or contains no frame.
    Cut,
    /// Bytes follow the frame.
    LeftOver {
        /// Number of bytes after the frame.
        bytes: usize,
    },
    /// Some bytes belong to no frame. A custom codec skipped them with
    /// [`Step::Skip`](crate::Step::Skip), for example because of a wrong checksum.
    Skipped {
        /// Number of skipped bytes.
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

impl fmt::Display for DatagramFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated => {
                f.write_str("the datagram is longer than datagram_len_max, so its end is lost")
            }
            Self::Cut => f.write_str("the datagram ends before its frame is complete"),
            Self::LeftOver { bytes } => write!(f, "{bytes} bytes follow the frame of the datagram"),
            Self::Skipped { bytes } => {
                write!(f, "{bytes} bytes of the datagram belong to no frame")
            }
            Self::Frame(error) => error.fmt(f),
        }
    }
}

impl Error for DatagramFault {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Frame(error) => error.source(),
            _ => None,
        }
    }
}

impl fmt::Display for DatagramError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a datagram from {}: {}", self.from, self.fault)
    }
}

impl Error for DatagramError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.fault.source()
    }
}

/// Converts to an error of the kind `InvalidData`.
impl From<DatagramError> for io::Error {
    fn from(error: DatagramError) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Details;
    use super::*;
    use crate::codec::{Codec, Out, Step};

    fn sent_by(from: SocketAddr, data: &[u8], truncated: bool) -> Datagram<'_> {
        Datagram {
            from,
            data,
            truncated,
            details: Details::NONE,
            proxied: None,
        }
    }

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
                let datagram = sent_by(from, data, truncated);
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
            let datagram = sent_by(from, data, truncated);
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

    /// Returns the frames and faults of a datagram.
    fn all(framing: &Framing, data: &[u8], truncated: bool) -> Vec<String> {
        let from = "192.0.2.1:7".parse().expect("an address");
        let datagram = sent_by(from, data, truncated);
        let frames = datagram.frames(framing);
        let frames = frames.map(|item| match item {
            Ok(frame) => format!("+{}", frame.escape_ascii()),
            Err(fault) => format!("{fault:?}"),
        });
        frames.collect()
    }

    #[test]
    fn frames_of_a_datagram_end_with_a_typed_fault() {
        let line = Framing::line();
        let last = Framing::line().unterminated_last_frame();
        let crlf = Framing::line_crlf().unterminated_last_frame();
        let set = Framing::delimiters(&[b";", b";;;"]).unterminated_last_frame();
        let beats = last.clone().skip_between(b"\r\n");
        let u8 = Framing::length_u8();
        let cases: [(&Framing, &[u8], &[&str]); 13] = [
            (&line, b"", &[]),
            (&line, b"a\nb\n", &["+a", "+b"]),
            (&line, b"a\nb", &["+a", "Cut"]),
            (&last, b"a\nb", &["+a", "+b"]),
            (&last, b"a\n\r", &["+a", "+"]),
            (&crlf, b"a\r\nb", &["+a", "+b"]),
            (&set, b"a;b;;", &["+a", "+b", "+"]),
            (&set, b"a;b;;;c;", &["+a", "+b", "+c"]),
            (&beats, b"\r\n\r\na\n\n\nb\r\n", &["+a", "+b"]),
            (&beats, b"\r\n\r\n", &[]),
            (&u8, b"\x01a\0\x01b", &["+a", "+", "+b"]),
            (&u8, b"\x01a\x02b", &["+a", "Cut"]),
            (&Framing::raw(), b"", &["+"]),
        ];
        for (framing, data, expected) in cases {
            assert_eq!(all(framing, data, false), expected, "{framing}");
        }
        assert_eq!(all(&last, b"a\nb", true), ["+a", "Truncated"]);
        assert_eq!(all(&last, b"a\n", true), ["+a", "Truncated"]);
        assert_eq!(all(&Framing::raw(), b"a", true), ["Truncated"]);
        let bare = all(&crlf, b"a\r\nb\r", false);
        assert!(bare[1].starts_with("Frame(Malformed"), "{bare:?}");

        let short = u8.frame_len_max(1);
        let too_long = "Frame(TooLong { len: 2, limit: 1 })";
        let data = b"\x01a\x02ab\x01b";
        assert_eq!(all(&short, data, false), ["+a", too_long]);
        let skipping = short.skip_too_long();
        assert_eq!(all(&skipping, data, false), ["+a", too_long, "+b"]);
        assert_eq!(all(&skipping, b"\x02a", false), [too_long]);
    }

    /// A frame is `$`, a digit, and that digit again as its checksum. Other bytes are skipped, and
    /// so is a frame with a bad checksum.
    struct Checked;

    impl Codec for Checked {
        type State = ();

        fn decode(&self, (): &mut (), bytes: &[u8]) -> Result<Step, FrameError> {
            Ok(match *bytes {
                [b'$', a, b, ..] if a == b => Step::Frame {
                    frame: 1..2,
                    consumed: 3,
                },
                [b'$', _, _, ..] => Step::Skip { bytes: 3 },
                [b'$', ..] => Step::Need(3),
                _ => Step::Skip { bytes: 1 },
            })
        }

        fn encode(&self, _: &[u8], _: &mut Out<'_>) -> Result<(), FrameError> {
            Err(FrameError::Unencodable("not tested"))
        }
    }

    #[test]
    fn bytes_that_a_codec_skips_in_a_datagram_are_a_fault() {
        let framing = Framing::custom(Checked);
        let skipped = |bytes| format!("Skipped {{ bytes: {bytes} }}");
        let items = all(&framing, b"x$11$12$33", false);
        assert_eq!(items, [&skipped(1), "+1", &skipped(3), "+3"]);

        let from = "192.0.2.1:7".parse().expect("an address");
        let truncated = false;
        for (data, bytes) in [(&b"x$11"[..], 1), (b"$12", 3)] {
            let datagram = sent_by(from, data, truncated);
            let error = datagram.frame(&framing).expect_err("not exactly one frame");
            assert!(
                matches!(error.fault, DatagramFault::Skipped { bytes: it } if it == bytes),
                "{error}"
            );
        }
    }
}
