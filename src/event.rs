//! Values that callbacks receive: where a connection came from, how its peer left and why it ended.

use std::error::Error;
use std::{fmt, io};

use crate::error::FrameError;
use crate::id::ListenerId;

/// How a peer went, of whom [`Handler::on_hangup`](crate::Handler::on_hangup) tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Hangup {
    /// It has ended its side. It may still read: a request that ends with it may wait for its
    /// answer. Told once.
    Ended,
    /// It has reset the connection, or is unreachable: nobody reads any more. What was queued is
    /// lost, and `send` is refused.
    Reset,
}

/// Where an open connection came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// This listener accepted it.
    Accepted(ListenerId),
    /// [`Context::connect`](crate::Context::connect) made it.
    Connected,
    /// [`Context::adopt_stream`](crate::Context::adopt_stream) took it in.
    Adopted,
}

/// Why a connection ended.
#[derive(Debug)]
#[non_exhaustive]
pub enum CloseReason {
    /// The handler closed it: all output was taken by the kernel, and the peer ended too. Or it was
    /// closed before it had opened, and what was queued is counted as unsent.
    Local,
    /// The peer ended its side first; then this side was closed.
    Peer,
    /// The handler aborted it.
    Aborted,
    /// It never opened.
    ConnectFailed(io::Error),
    /// Reading from or writing to the socket failed: `ConnectionReset`, for example.
    Io(io::Error),
    /// The bytes from the peer were no frame.
    Frame {
        /// What was wrong with them.
        error: FrameError,
        /// Where in the stream the offending frame begins, in bytes from its start.
        offset: u64,
    },
    /// It was closed, and the deadline passed before the output was flushed and the peer ended.
    CloseTimeout,
    /// Nothing came or went for [`Config::idle_timeout`](crate::Config::idle_timeout).
    IdleTimeout,
    /// A frame was not whole by [`Config::frame_deadline`](crate::Config::frame_deadline).
    FrameDeadline,
    /// The peer took no output for
    /// [`Config::write_stall_timeout`](crate::Config::write_stall_timeout).
    WriteStalled,
    /// [`Config::memory_bytes_max`](crate::Config::memory_bytes_max) was used up for too long, and this was one
    /// of those that held the most of it.
    MemoryFull,
    /// The reactor shut down and the deadline for that passed.
    Shutdown,
    /// A callback about it panicked.
    HandlerPanicked,
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local => f.write_str("closed by this side"),
            Self::Peer => f.write_str("closed by the peer"),
            Self::Aborted => f.write_str("aborted"),
            Self::ConnectFailed(error) => write!(f, "connect failed: {error}"),
            Self::Io(error) => error.fmt(f),
            Self::Frame { error, offset } => write!(f, "{error}, at byte {offset} of the stream"),
            Self::CloseTimeout => f.write_str("the close deadline passed"),
            Self::IdleTimeout => f.write_str("nothing came or went for too long"),
            Self::FrameDeadline => f.write_str("a frame took too long to come"),
            Self::WriteStalled => f.write_str("the peer took no output for too long"),
            Self::MemoryFull => f.write_str("it held the most memory as that was used up"),
            Self::Shutdown => f.write_str("the shutdown deadline passed"),
            Self::HandlerPanicked => f.write_str("a callback panicked"),
        }
    }
}

/// An error to whoever still waited for something; on its own not each of them is one.
impl Error for CloseReason {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::ConnectFailed(error) | Self::Io(error) => error.source(),
            Self::Frame { error, .. } => error.source(),
            _ => None,
        }
    }
}

/// Why a connection was accepted only to be closed at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Refusal {
    /// There are [`Config::connections_max`](crate::Config::connections_max) already.
    Connections,
    /// Its address has
    /// [`Config::connections_per_addr_max`](crate::Config::connections_per_addr_max) already.
    ConnectionsPerAddr,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connections => "connections_max is reached",
            Self::ConnectionsPerAddr => "connections_per_addr_max is reached",
        })
    }
}

/// What is told of a connection when it has ended.
#[derive(Debug)]
#[non_exhaustive]
pub struct Closed {
    /// Why it ended.
    pub reason: CloseReason,
    /// Bytes that `send` accepted (with their framing) and the kernel did not take.
    pub unsent_bytes: u64,
    /// Bytes that were read and were not delivered in a frame. What the kernel held unread, and
    /// what came after [`close`](crate::Context::close), is not in it; nor is what was being
    /// delivered when the handler panicked.
    pub undecoded_bytes: u64,
    /// What the connection carried in its life.
    pub stats: crate::ConnStats,
}
