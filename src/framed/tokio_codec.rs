//! [`TokioCodec`]: decoders and encoders of the crate `tokio-util`, without tokio.

use std::fmt;
use std::io;
use std::iter::FusedIterator;

use bytes::BytesMut;
use tokio_util::codec::{Decoder, Encoder};

use crate::codec::Framing;
use crate::error::FrameError;

/// Runs a [`Decoder`] and [`Encoder`] of the crate `tokio-util` over the bytes of one connection.
///
/// A codec that was written for tokio works without a change, with typed items. Use a `TokioCodec`
/// as the [session](crate::Handler::Session) of a connection with [`Framing::raw`], and pass each
/// read to [`decode`](Self::decode). A `TokioCodec` can also decode the payloads of another
/// framing, and the datagrams of one peer. Requires the feature `tokio-util`. No runtime is
/// started: the codecs do no I/O.
///
/// Received bytes are copied into the buffer that the decoder takes its items from.
///
/// # Examples
///
/// ```
/// use tokio_util::codec::LinesCodec;
/// use unstick::{ConnId, Context, Framing, Handler, Reactor, TokioCodec};
///
/// /// The session of a connection: its codec.
/// struct Lines(TokioCodec<LinesCodec>);
///
/// impl Default for Lines {
///     fn default() -> Self {
///         Self(TokioCodec::new(LinesCodec::new_with_max_length(1000)))
///     }
/// }
///
/// struct Upper;
///
/// impl Handler for Upper {
///     type Session = Lines;
///
///     fn on_frame(
///         &mut self,
///         cx: &mut Context<'_, Self>,
///         conn: ConnId,
///         Lines(codec): &mut Lines,
///         bytes: &[u8],
///     ) {
///         let lines: Result<Vec<String>, _> = codec.decode(bytes).collect();
///         let Ok(lines) = lines else {
///             return cx.abort(conn); // a line is too long or not UTF-8
///         };
///         for line in lines {
///             if let Ok(bytes) = codec.encode(line.to_uppercase()) {
///                 let _ = cx.send(conn, bytes);
///             }
///         }
///     }
///
///     fn on_half_close(
///         &mut self,
///         cx: &mut Context<'_, Self>,
///         conn: ConnId,
///         Lines(codec): &mut Lines,
///     ) {
///         for last in codec.finish() {
///             log::info!("the last line has no line end: {last:?}");
///         }
///         cx.close(conn);
///     }
/// }
///
/// # fn main() -> std::io::Result<()> {
/// let mut reactor = Reactor::new(Upper)?;
/// let listener = reactor.listen("127.0.0.1:0", Framing::raw())?;
/// # use std::io::{Read, Write};
/// # let mut client = std::net::TcpStream::connect(reactor.local_inet_addr(listener)?)?;
/// # client.write_all(b"hello\nworld\n")?;
/// # while reactor.stats().written_bytes < 12 { reactor.turn(None)?; }
/// # let mut reply = [0; 12];
/// # client.read_exact(&mut reply)?;
/// # assert_eq!(&reply, b"HELLO\nWORLD\n");
/// # Ok(())
/// # }
/// ```
pub struct TokioCodec<C> {
    codec: C,
    /// Bytes that the decoder has not taken.
    input: BytesMut,
    /// Bytes of the item that was encoded last.
    output: BytesMut,
    buffer_len_max: usize,
    has_failed: bool,
}

impl<C> TokioCodec<C> {
    /// Creates the codec of one connection.
    pub fn new(codec: C) -> Self {
        Self {
            codec,
            input: BytesMut::new(),
            output: BytesMut::new(),
            buffer_len_max: Framing::FRAME_LEN_MAX,
            has_failed: false,
        }
    }

    /// Sets the maximum number of bytes that may wait for the rest of their item. Default: 1 MiB.
    ///
    /// Many decoders have their own limit. This maximum also bounds decoders without a limit.
    #[must_use]
    pub fn buffer_len_max(mut self, bytes: usize) -> Self {
        self.buffer_len_max = bytes;
        self
    }

    /// Returns the wrapped codec.
    pub fn codec(&self) -> &C {
        &self.codec
    }

    /// Returns the wrapped codec, for changing its settings.
    pub fn codec_mut(&mut self) -> &mut C {
        &mut self.codec
    }

    /// Returns the number of received bytes that the decoder has not taken.
    pub fn buffered_len(&self) -> usize {
        self.input.len()
    }

    /// Frees memory that holds no bytes. The codec of an idle connection then has no buffer.
    pub fn shrink_to_fit(&mut self) {
        self.output = BytesMut::new();
        self.input = BytesMut::from(&self.input[..]);
    }

    /// Passes received bytes to the decoder. Returns an iterator over the items that are complete.
    ///
    /// Items that the caller does not take are returned by the next call. An error of the decoder
    /// is the last item: all later bytes are dropped. The caller then closes the connection.
    ///
    /// If more than [`buffer_len_max`](Self::buffer_len_max) bytes wait for the rest of their item,
    /// the iterator returns an error of the kind `InvalidData`, converted to the decoder's error
    /// type.
    pub fn decode(&mut self, bytes: &[u8]) -> Items<'_, C>
    where
        C: Decoder,
    {
        if !self.has_failed {
            self.input.extend_from_slice(bytes);
        }
        Items {
            codec: self,
            is_end: false,
            is_done: false,
        }
    }

    /// Ends the stream. Returns an iterator over the items that were not taken, and over the last
    /// items that the decoder makes of the remaining bytes.
    pub fn finish(&mut self) -> Items<'_, C>
    where
        C: Decoder,
    {
        Items {
            codec: self,
            is_end: true,
            is_done: false,
        }
    }

    /// Encodes an item. Returns its bytes, to be passed to [`send`](crate::Context::send).
    ///
    /// # Errors
    ///
    /// The error of the encoder.
    pub fn encode<I>(&mut self, item: I) -> Result<&[u8], C::Error>
    where
        C: Encoder<I>,
    {
        self.output.clear();
        self.codec.encode(item, &mut self.output)?;
        Ok(&self.output)
    }
}

/// Creates the codec of one connection, with the default settings of the wrapped codec.
impl<C: Default> Default for TokioCodec<C> {
    fn default() -> Self {
        Self::new(C::default())
    }
}

impl<C: fmt::Debug> fmt::Debug for TokioCodec<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokioCodec")
            .field("codec", &self.codec)
            .field("buffered_len", &self.input.len())
            .finish_non_exhaustive()
    }
}

/// Iterator over decoded items: see [`TokioCodec::decode`].
#[must_use = "the items are decoded when the iterator is used"]
pub struct Items<'a, C> {
    codec: &'a mut TokioCodec<C>,
    is_end: bool,
    is_done: bool,
}

impl<C: Decoder> Iterator for Items<'_, C> {
    type Item = Result<C::Item, C::Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_done || self.codec.has_failed {
            return None;
        }
        let TokioCodec { codec, input, .. } = &mut *self.codec;
        let decoded = match self.is_end {
            true => codec.decode_eof(input),
            false => codec.decode(input),
        };
        let len = input.len();
        let error = match decoded {
            Ok(Some(item)) => return Some(Ok(item)),
            Ok(None) if len <= self.codec.buffer_len_max => {
                self.is_done = true;
                return None;
            }
            Ok(None) => {
                let error = FrameError::too_long(len as u64, self.codec.buffer_len_max);
                io::Error::from(error).into()
            }
            Err(error) => error,
        };
        self.codec.has_failed = true;
        self.codec.input = BytesMut::new();
        Some(Err(error))
    }
}

impl<C: Decoder> FusedIterator for Items<'_, C> {}

impl<C: fmt::Debug> fmt::Debug for Items<'_, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Items")
            .field("codec", &self.codec)
            .finish_non_exhaustive()
    }
}
