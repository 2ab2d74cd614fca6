//! Options of a [`Framing`], which apply to most of the framings.

use std::sync::Arc;

use super::between::Between;
use super::{Framing, Kind};

impl Framing {
    /// Sets the maximum payload of a frame, in bytes, for decoding and for encoding.
    ///
    /// A longer frame from the peer closes the connection with
    /// [`TooLong`](crate::FrameError::TooLong), unless such frames are
    /// [skipped](Framing::skip_too_long). The connection closes as soon as the header is received,
    /// or as soon as more than `bytes` bytes are received without a delimiter. `send` rejects a
    /// longer payload. Zero allows only empty payloads.
    ///
    /// Some framings differ:
    ///
    /// * [`raw`](Framing::raw): the limit bounds the bytes that are delivered at once. Zero counts
    ///   as one, and `send` accepts any payload.
    /// * [`fixed`](Framing::fixed) and [`custom`](Framing::custom): this method has no effect.
    #[doc(alias("max_frame_length", "max_length"))]
    pub fn frame_len_max(self, bytes: usize) -> Self {
        self.map_input(|mut kind| {
            match &mut kind {
                Kind::Raw(raw) => raw.frame_len_max = bytes.max(1),
                other => other.change_limit(&mut |limit| limit.len = bytes),
            }
            kind
        })
    }

    /// Skips frames that exceed the limit, and continues with the next frame. By default such a
    /// frame ends the stream.
    ///
    /// ```text
    ///   00 02 o k FF FF . . 65,535 bytes . . 00 03 y e s
    ///         |-| |------------------------|       |---|
    ///        frame    skipped, reported            frame
    /// ```
    ///
    /// Only the bytes of this frame are skipped: the number of bytes that its length field
    /// announces, or all bytes up to its delimiter. The skipped bytes are not stored.
    ///
    /// The callback [`on_skipped`](crate::Handler::on_skipped) reports the frame as soon as its
    /// length is known, in order with the delivered frames. If a header contains the length, the
    /// callback runs before the payload arrives. A skipped frame counts as a frame for the budget
    /// and for [`Config::frame_deadline`](crate::Config::frame_deadline).
    ///
    /// The stream still ends if the start of the next frame is unknown. Examples are malformed
    /// bytes, a header that is itself too long, and a [`varint`](Framing::varint) or
    /// [`netstring`](Framing::netstring) whose length has more than 64 bits. Some bytes of a
    /// skipped frame are not checked: the comma after a netstring, and bare `\r` and `\n` beyond
    /// the limit in a line of [`line_crlf`](Framing::line_crlf).
    ///
    /// This method has no effect on [`raw`](Framing::raw) and [`fixed`](Framing::fixed), whose
    /// frames are never too long. It has no effect on [`custom`](Framing::custom) either, because a
    /// custom codec has its own limits.
    ///
    /// # Examples
    ///
    /// ```
    /// use unstick::{Decoded, Deframer, Framing};
    ///
    /// let framing = Framing::line().frame_len_max(5).skip_too_long();
    /// let mut deframer = Deframer::new(framing);
    /// deframer.extend(b"hello\nfar too long\nworld\n");
    /// let mut seen = Vec::new();
    /// while let Some(decoded) = deframer.decode()? {
    ///     seen.push(match decoded {
    ///         Decoded::Frame(line) => String::from_utf8_lossy(line).into_owned(),
    ///         Decoded::Skipped(skipped) => format!("({} bytes)", skipped.len),
    ///         _ => continue,
    ///     });
    /// }
    /// assert_eq!(seen, ["hello", "(12 bytes)", "world"]);
    /// # Ok::<(), unstick::DecodeError>(())
    /// ```
    pub fn skip_too_long(self) -> Self {
        self.map_input(|mut kind| {
            kind.change_limit(&mut |limit| limit.skips = true);
            kind
        })
    }

    /// Delivers the bytes after the last delimiter as a frame when the stream or datagram ends. By
    /// default they are dropped and counted in [`Closed::undecoded_bytes`](crate::Closed).
    ///
    /// ```text
    ///   o n e \n t w o (end of the stream)
    ///   |---|    |---|
    ///   frame    frame
    /// ```
    ///
    /// Use this option for sources that do not end their last record, such as log files and
    /// statistics in datagrams. Do not use it if a truncated record is worse than a missing record:
    /// the last bytes of a peer that crashed in the middle of a record are delivered too.
    ///
    /// The option applies to [`line`](Framing::line), [`line_crlf`](Framing::line_crlf),
    /// [`delimiter`](Framing::delimiter) and [`delimiters`](Framing::delimiters), and has no effect
    /// on other framings. No unterminated frame is delivered if the connection is reset, or if no
    /// bytes follow the last delimiter. The frame limit applies.
    ///
    /// The last bytes may end with an incomplete delimiter, which is then delivered as payload.
    /// There are two exceptions: `line` strips a `\r` at the end, and in `line_crlf` a `\r` at the
    /// end is malformed.
    ///
    /// Similar to the treatment of the last line by tokio-util's `LinesCodec` and by
    /// [`std::io::BufRead::lines`].
    ///
    /// # Examples
    ///
    /// ```
    /// use unstick::{Deframer, Framing};
    ///
    /// let mut deframer = Deframer::new(Framing::line().unterminated_last_frame());
    /// deframer.extend(b"one\ntwo");
    /// assert_eq!(deframer.next_frame()?, Some(&b"one"[..]));
    /// assert_eq!(deframer.next_frame()?, None);
    /// assert_eq!(deframer.last_frame()?, Some(&b"two"[..]));
    /// assert_eq!(deframer.last_frame()?, None);
    /// # Ok::<(), unstick::DecodeError>(())
    /// ```
    pub fn unterminated_last_frame(self) -> Self {
        self.map_input(|mut kind| {
            kind.deliver_rest();
            kind
        })
    }

    /// Skips bytes between frames: all bytes whose value occurs in `bytes`, in any number and
    /// order.
    ///
    /// ```text
    ///   o n e \0 \n \n t w o \0       delimiter(b"\0").skip_between(b"\n")
    ///   |---|          |---|
    ///   frame          frame
    /// ```
    ///
    /// Use this option for heart-beats: pass `b"\n"` for STOMP, and `b"\r\n"` for SIP, whose
    /// heart-beats are `\r\n` and `\r\n\r\n`.
    ///
    /// Skipped bytes are not delivered, do not count for the frame limit, and start no
    /// [`frame_deadline`](crate::Config::frame_deadline). They do count as input for
    /// [`idle_timeout`](crate::Config::idle_timeout). [`Stats::filler_bytes`](crate::Stats) is the
    /// number of skipped bytes.
    ///
    /// With this option, `send` rejects a payload whose frame would begin with a byte of `bytes`,
    /// because the peer would skip that byte. With `line().skip_between(b"\n")`, empty lines are
    /// skipped. A second call adds further bytes to skip; an empty slice changes nothing. The
    /// method has no effect on [`raw`](Framing::raw), which has no frames. It has no effect on
    /// [`custom`](Framing::custom) either: such a codec can return
    /// [`Step::Skip`](crate::Step::Skip) itself.
    ///
    /// # Examples
    ///
    /// ```
    /// use unstick::{Deframer, Framing};
    ///
    /// let mut deframer = Deframer::new(Framing::delimiter(b"\0").skip_between(b"\n"));
    /// deframer.extend(b"\n\none\0\ntwo\n\0\n");
    /// assert_eq!(deframer.next_frame()?, Some(&b"one"[..]));
    /// assert_eq!(deframer.next_frame()?, Some(&b"two\n"[..]));
    /// assert_eq!(deframer.next_frame()?, None);
    /// assert_eq!(deframer.rest(), b"");
    /// assert_eq!(deframer.filler_bytes(), 4);
    /// # Ok::<(), unstick::DecodeError>(())
    /// ```
    pub fn skip_between(self, bytes: &[u8]) -> Self {
        match bytes {
            [] => self,
            _ => self.map_input(|kind| Between::of(kind, bytes)),
        }
    }
}

impl Kind {
    /// Makes the codec deliver the bytes after the last delimiter as a frame.
    fn deliver_rest(&mut self) {
        match self {
            Self::Line(codec) => codec.delivers_rest = true,
            Self::Delimited(codec) => Arc::make_mut(codec).delivers_rest = true,
            Self::Between(codec) => Arc::make_mut(codec).frames_mut().deliver_rest(),
            Self::Raw(_) | Self::Length(_) | Self::Fixed(_) | Self::Varint(_) => {}
            Self::Netstring(_) | Self::LengthField(_) | Self::HeaderBody(_) => {}
            Self::LengthFn(_) | Self::Custom(_) => {}
        }
    }
}
