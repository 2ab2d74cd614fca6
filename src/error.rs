//! Errors and reasons, all of them typed.

use std::error::Error;
use std::sync::Arc;
use std::{fmt, io};

use crate::payload::Payload;

/// Why bytes are no frame, or a payload cannot become one.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum FrameError {
    /// The frame is longer than the framing allows.
    ///
    /// On decoding it is told from the header alone, before a byte of the frame is kept; where only
    /// a delimiter tells the length, as soon as the limit is passed.
    TooLong {
        /// Bytes of payload that the header claims or that were given; for a framing that ends its
        /// frames with a delimiter, those seen so far.
        len: u64,
        /// The largest payload allowed, in bytes.
        limit: u64,
    },
    /// The bytes break the rules of the framing.
    Malformed(&'static str),
    /// The payload has no form under this framing: its delimiter is inside, for example.
    Unencodable(&'static str),
    /// The codec broke the contract of [`Codec`](crate::Codec): no progress, or a range outside of
    /// the bytes it was given.
    Contract(&'static str),
    /// An error of a codec that is not built in: see [`other`](FrameError::other).
    Other(Arc<dyn Error + Send + Sync>),
}

impl FrameError {
    /// An error of one's own, for codecs that are not built in.
    ///
    /// # Examples
    ///
    /// ```
    /// # use unstick::FrameError;
    /// let error = FrameError::other("the checksum does not match");
    /// assert_eq!(error.to_string(), "the checksum does not match");
    /// ```
    pub fn other(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Other(Arc::from(error.into()))
    }

    /// Out of line, so that the paths of the frames that are short enough stay short too.
    #[cold]
    #[inline(never)]
    pub(crate) fn too_long(len: u64, limit: usize) -> Self {
        Self::TooLong {
            len,
            limit: limit as u64,
        }
    }
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { len, limit } => {
                write!(f, "a frame of {len} bytes is over the limit of {limit}")
            }
            Self::Malformed(what) => write!(f, "malformed frame: {what}"),
            Self::Unencodable(what) => write!(f, "the payload cannot be framed: {what}"),
            Self::Contract(what) => write!(f, "the codec broke its contract: {what}"),
            Self::Other(error) => error.fmt(f),
        }
    }
}

impl Error for FrameError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Other(error) => error.source(),
            _ => None,
        }
    }
}

/// As [`other`](FrameError::other). It lets a `write!` to an [`Out`](crate::Out), which does not
/// fail, end with a `?`.
impl From<io::Error> for FrameError {
    fn from(error: io::Error) -> Self {
        Self::other(error)
    }
}

/// As `InvalidData`.
impl From<FrameError> for io::Error {
    fn from(error: FrameError) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

/// What is wrong with a stream of frames, and where.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DecodeError {
    /// What is wrong.
    pub error: FrameError,
    /// Where in the stream the offending frame begins, in bytes from its start.
    pub offset: u64,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, at byte {} of the stream", self.error, self.offset)
    }
}

impl Error for DecodeError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.error.source()
    }
}

/// As `InvalidData`.
impl From<DecodeError> for io::Error {
    fn from(error: DecodeError) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

/// The id names nothing any more: what it named is closed, whoever has its slot now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "there is nothing more to say")]
pub struct Gone;

impl fmt::Display for Gone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the id names nothing any more")
    }
}

impl Error for Gone {}

impl From<Gone> for io::Error {
    fn from(gone: Gone) -> Self {
        Self::new(io::ErrorKind::NotConnected, gone)
    }
}

/// What became of a payload that was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a sender that ignores the high mark grows its queue up to the hard limit"]
#[non_exhaustive]
pub enum Sent {
    /// Queued, and the queue is at or below its high mark.
    Queued,
    /// Queued, and the queue is above its high mark: send no more until `on_drained`.
    AboveHigh,
}

/// Why a payload was not accepted; nothing of it was queued.
#[derive(Debug)]
#[non_exhaustive]
pub enum SendError {
    /// The id names nothing any more. Stop sending to it.
    Gone,
    /// The connection takes no more output: it is closing, or its write side failed. Its
    /// `on_close` follows, after the frames that came before; where it is paused and has any, once
    /// it is resumed.
    Closing,
    /// The payload would take the queue over its hard limit, or the reactor's
    /// [`Config::memory_bytes_max`](crate::Config::memory_bytes_max) is used up. Try again after `on_drained`,
    /// which follows; but what does not fit into an empty queue never will. For a datagram nothing
    /// follows: it is dropped, as the network may drop it too.
    Full,
    /// The payload cannot be framed. Sending it again will not help.
    Frame(FrameError),
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone => Gone.fmt(f),
            Self::Closing => f.write_str("the connection is closing"),
            Self::Full => f.write_str("the queue is at its hard limit"),
            Self::Frame(error) => error.fmt(f),
        }
    }
}

impl Error for SendError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Frame(error) => error.source(),
            _ => None,
        }
    }
}

/// As `NotConnected` where the id is stale, `BrokenPipe` where the connection is closing,
/// `WouldBlock` where the queue is full, and `InvalidInput` for what cannot be framed.
impl From<SendError> for io::Error {
    fn from(error: SendError) -> Self {
        let kind = match &error {
            SendError::Gone => io::ErrorKind::NotConnected,
            SendError::Closing => io::ErrorKind::BrokenPipe,
            SendError::Full => io::ErrorKind::WouldBlock,
            SendError::Frame(_) => io::ErrorKind::InvalidInput,
        };
        Self::new(kind, error)
    }
}

/// A payload that was given, and not accepted.
#[derive(Debug)]
#[non_exhaustive]
pub struct NotSent {
    /// Why.
    pub error: SendError,
    /// The payload, given back.
    pub payload: Payload,
}

impl fmt::Display for NotSent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl Error for NotSent {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.error.source()
    }
}

/// As that of its [`SendError`]; the payload is dropped.
impl From<NotSent> for io::Error {
    fn from(not_sent: NotSent) -> Self {
        not_sent.error.into()
    }
}

impl From<Gone> for SendError {
    fn from(_: Gone) -> Self {
        Self::Gone
    }
}

impl From<FrameError> for SendError {
    fn from(error: FrameError) -> Self {
        Self::Frame(error)
    }
}

/// Why a closure or a payload was not posted; it is given back.
#[non_exhaustive]
pub enum PostError<F> {
    /// The queue is full. Try again later, or do without.
    Full(F),
    /// The reactor is gone.
    Closed(F),
    /// It is queued, but the loop could not be woken: it runs with the next event.
    Wake(io::Error),
}

impl<F> fmt::Debug for PostError<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full(_) => f.write_str("Full(..)"),
            Self::Closed(_) => f.write_str("Closed(..)"),
            Self::Wake(error) => f.debug_tuple("Wake").field(error).finish(),
        }
    }
}

impl<F> fmt::Display for PostError<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full(_) => f.write_str("the queue of posts is full"),
            Self::Closed(_) => f.write_str("the reactor is gone"),
            Self::Wake(error) => write!(f, "the loop could not be woken: {error}"),
        }
    }
}

impl<F> Error for PostError<F> {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::CloseReason;

    /// Its own text, and those of what it came from.
    fn chain(error: &dyn Error) -> Vec<String> {
        let mut texts = vec![error.to_string()];
        let mut source = error.source();
        while let Some(error) = source {
            texts.push(error.to_string());
            source = error.source();
        }
        texts
    }

    #[test]
    fn a_chain_of_errors_says_nothing_twice_and_leaves_nothing_out() {
        let inner = || io::Error::from(io::ErrorKind::ConnectionRefused);
        let frame = || FrameError::other(io::Error::other(inner()));
        let datagram = || crate::DatagramError {
            from: ([192, 0, 2, 1], 7).into(),
            fault: frame().into(),
        };
        let errors: [Box<dyn Error>; 9] = [
            Box::new(frame()),
            Box::new(datagram()),
            Box::new(io::Error::from(datagram())),
            Box::new(SendError::Frame(frame())),
            Box::new(io::Error::from(SendError::Frame(frame()))),
            Box::new(DecodeError {
                error: frame(),
                offset: 7,
            }),
            Box::new(CloseReason::Io(inner())),
            Box::new(CloseReason::ConnectFailed(inner())),
            Box::new(CloseReason::Frame {
                error: frame(),
                offset: 7,
            }),
        ];
        for error in errors {
            let chain = chain(&*error);
            let told = chain.join(": ");
            assert_eq!(told.matches("refused").count(), 1, "{chain:?}");
        }
    }

    #[test]
    fn what_was_not_sent_is_an_error_of_io_by_its_kind() {
        let too_long = || SendError::Frame(FrameError::too_long(2, 1));
        for (error, kind) in [
            (SendError::Gone, io::ErrorKind::NotConnected),
            (SendError::Closing, io::ErrorKind::BrokenPipe),
            (SendError::Full, io::ErrorKind::WouldBlock),
            (too_long(), io::ErrorKind::InvalidInput),
        ] {
            let text = error.to_string();
            let error = io::Error::from(error);
            assert_eq!((error.kind(), error.to_string()), (kind, text));
        }
        let not_sent = NotSent {
            error: SendError::Full,
            payload: vec![0].into(),
        };
        assert_eq!(io::Error::from(not_sent).kind(), io::ErrorKind::WouldBlock);
        let back = io::Error::from(FrameError::from(io::Error::from(Gone)));
        assert_eq!(back.to_string(), Gone.to_string());
    }
}
