//! Error types and results of sending.

use std::error::Error;
use std::sync::Arc;
use std::{fmt, io};

use crate::payload::Payload;

/// Reason why bytes are not a valid frame, or why a payload cannot be encoded as one.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum FrameError {
    /// The frame is longer than the framing allows.
    ///
    /// A decoder reports this error as soon as the header is received. A framing with a delimiter
    /// reports it as soon as the limit is exceeded.
    TooLong {
        /// Number of payload bytes that the header announces or that are passed to the encoder. For
        /// a framing with a delimiter: number of payload bytes received so far.
        len: u64,
        /// Maximum length of a payload, in bytes.
        limit: u64,
    },
    /// The bytes violate the rules of the framing.
    Malformed(&'static str),
    /// The framing cannot represent the payload, for example because the payload contains the
    /// delimiter.
    Unencodable(&'static str),
    /// The codec violated the contract of [`Codec`](crate::Codec): for example, it made no
    /// progress, or returned a range outside its input.
    Contract(&'static str),
    /// Error of a custom codec: see [`FrameError::other`].
    Other(Arc<dyn Error + Send + Sync>),
}

impl FrameError {
    /// Wraps an error of a custom codec.
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

    pub(crate) fn too_long(len: u64, limit: usize) -> Self {
        let limit = limit as u64;
        Self::TooLong { len, limit }
    }
}

/// Values of a label of metrics.
#[cfg(feature = "metrics")]
impl FrameError {
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::TooLong { .. } => "too_long",
            Self::Malformed(_) => "malformed",
            Self::Unencodable(_) => "unencodable",
            Self::Contract(_) => "contract",
            Self::Other(_) => "other",
        }
    }
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { len, limit } => {
                write!(f, "frame of {len} bytes exceeds the limit of {limit}")
            }
            Self::Malformed(what) => write!(f, "malformed frame: {what}"),
            Self::Unencodable(what) => write!(f, "payload cannot be encoded as a frame: {what}"),
            Self::Contract(what) => write!(f, "codec violates the Codec contract: {what}"),
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

/// Converts with [`FrameError::other`]. So the `?` operator can follow a `write!` to an
/// [`Out`](crate::Out), which itself cannot fail.
impl From<io::Error> for FrameError {
    fn from(error: io::Error) -> Self {
        Self::other(error)
    }
}

/// Converts to an error of the kind `InvalidData`.
impl From<FrameError> for io::Error {
    fn from(error: FrameError) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

/// A violation of the framing, with its offset in the stream.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DecodeError {
    /// Violation of the framing.
    pub error: FrameError,
    /// Offset of the invalid frame in the stream, in bytes.
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

/// Converts to an error of the kind `InvalidData`.
impl From<DecodeError> for io::Error {
    fn from(error: DecodeError) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

/// The connection or socket of an id is closed.
///
/// An id is never used again: it does not refer to a later connection in the same slot. This error
/// converts to an [`io::Error`] of the kind `NotConnected`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "the error needs no fields")]
pub struct Gone;

impl fmt::Display for Gone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the connection or socket of this id is closed")
    }
}

impl Error for Gone {}

impl From<Gone> for io::Error {
    fn from(gone: Gone) -> Self {
        Self::new(io::ErrorKind::NotConnected, gone)
    }
}

/// State of the write queue after a payload was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a sender that ignores `AboveHigh` grows the write queue up to its limit"]
#[non_exhaustive]
pub enum Sent {
    /// The payload was accepted, and the write queue is at or below its high watermark.
    Queued,
    /// The payload was accepted, and the write queue is above its high watermark. Stop sending
    /// until `on_drained`.
    AboveHigh,
}

/// Reason why a payload was not accepted. No part of the payload was queued.
#[derive(Debug)]
#[non_exhaustive]
pub enum SendError {
    /// The connection or socket of this id is closed. Stop sending to it.
    Gone,
    /// The connection or socket accepts no more output: it is closing, this side has half-closed
    /// it, or its connect or a write failed. [`on_close`](crate::Handler::on_close) reports the
    /// cause, for example an address of `connect` that is not valid.
    ///
    /// After a failed write, the frames that were received earlier are delivered before `on_close`.
    /// If the connection is paused while such frames wait, `on_close` follows after the connection
    /// is resumed.
    Closing,
    /// The payload would make the write queue exceed
    /// [`Config::write_queue_bytes_max`](crate::Config::write_queue_bytes_max), or the reactor's
    /// [`Config::memory_bytes_max`](crate::Config::memory_bytes_max) is used up. The peer need not
    /// be slow: the queue holds everything that one turn sends to the connection.
    ///
    /// For a connection, `on_drained` follows: send again then. A payload that alone exceeds the
    /// limit of the write queue is never accepted. If the queue is empty and memory is left, no
    /// `on_drained` follows such a payload. For a datagram no callback follows, and the datagram is
    /// dropped.
    Full,
    /// The payload cannot be encoded as a frame. Another attempt with this payload will fail too.
    Frame(FrameError),
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone => Gone.fmt(f),
            Self::Closing => f.write_str(
                "the connection or socket accepts no more output: it is closing, or its connect \
                 or a write failed",
            ),
            Self::Full => f.write_str("the output queue or the memory budget is full"),
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

/// Converts [`SendError::Gone`] to the kind `NotConnected`, [`Closing`](SendError::Closing) to
/// `BrokenPipe`, [`Full`](SendError::Full) to `WouldBlock` and [`Frame`](SendError::Frame) to
/// `InvalidInput`.
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

/// An owned payload that was not accepted, with the reason.
#[derive(Debug)]
#[non_exhaustive]
pub struct NotSent {
    /// Reason why the payload was not accepted.
    pub error: SendError,
    /// The unchanged payload.
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

/// Converts the contained [`SendError`] and drops the payload.
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

/// Failure to post a closure or a payload from another thread.
#[non_exhaustive]
pub enum PostError<F> {
    /// The queue of posts is full. The post is returned: try again later, or drop it.
    Full(F),
    /// The reactor was dropped. The post is returned.
    Closed(F),
    /// The post is queued, but the loop could not be woken. The post is handled with the next
    /// event, so do not post it again.
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
            Self::Full(_) => f.write_str("the queue of posts is full (posts_max)"),
            Self::Closed(_) => f.write_str("the reactor was dropped"),
            Self::Wake(error) => write!(
                f,
                "the post was queued, but the loop could not be woken: {error}"
            ),
        }
    }
}

impl<F> Error for PostError<F> {}

/// Failure of [`Remote::call`](crate::Remote::call).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CallError {
    /// The loop did not begin the closure in time. The closure did not run, and will not.
    Timeout,
    /// The reactor was dropped before it began the closure.
    Closed,
    /// The closure panicked.
    Panicked,
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Timeout => "the loop did not begin the call within its timeout",
            Self::Closed => "the reactor was dropped",
            Self::Panicked => "the called closure panicked",
        })
    }
}

impl Error for CallError {}

/// Converts [`CallError::Timeout`] to the kind `TimedOut`, [`Closed`](CallError::Closed) to
/// `BrokenPipe` and [`Panicked`](CallError::Panicked) to `Other`.
impl From<CallError> for io::Error {
    fn from(error: CallError) -> Self {
        let kind = match error {
            CallError::Timeout => io::ErrorKind::TimedOut,
            CallError::Closed => io::ErrorKind::BrokenPipe,
            CallError::Panicked => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

/// Returns an error of the kind `InvalidInput`.
pub(crate) fn invalid_input(error: impl Into<Box<dyn Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::CloseReason;

    /// Returns the texts of an error and of all its sources.
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
    fn error_chain_names_each_cause_exactly_once() {
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
            let text = chain.join(": ");
            assert_eq!(text.matches("refused").count(), 1, "{chain:?}");
        }
    }

    #[test]
    fn send_errors_convert_to_matching_io_error_kinds() {
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
