//! Values that callbacks receive: the origin of a connection, a peer's hang-up, the reason for a
//! close or a refusal, and a detached socket.

use std::error::Error;
#[cfg(unix)]
use std::os::fd::OwnedFd as OwnedSocket;
#[cfg(windows)]
use std::os::windows::io::OwnedSocket;
use std::{fmt, io};

use crate::conn::UnfinishedSkip;
use crate::error::FrameError;
use crate::id::ListenerId;
use crate::proxy_header::{ProxyError, ProxyHeader};
#[cfg(feature = "tls")]
use crate::tls::TlsError;

/// A peer's way of leaving, as reported by [`Handler::on_hangup`](crate::Handler::on_hangup).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Hangup {
    /// The peer has ended its side and may still read, for example the reply to its last request.
    /// Reported at most once per connection.
    Ended,
    /// The peer has reset the connection or is unreachable, so it reads nothing more. The queued
    /// output is lost, and `send` fails.
    Reset,
}

/// Origin of an open connection.
///
/// # Examples
///
/// Two protocols on one reactor, each with its own listener and session:
///
/// ```
/// use unstick::{ConnId, Context, Framing, Handler, ListenOptions, Origin, Reactor};
///
/// const CONTROL: u64 = 1;
///
/// /// A session of each protocol.
/// enum Session {
///     Telemetry { values: u64 },
///     Control,
/// }
///
/// impl Default for Session {
///     fn default() -> Self {
///         Self::Telemetry { values: 0 }
///     }
/// }
///
/// struct Gateway;
///
/// impl Handler for Gateway {
///     type Session = Session;
///
///     fn on_open(
///         &mut self,
///         _: &mut Context<'_, Self>,
///         _: ConnId,
///         session: &mut Session,
///         origin: Origin,
///     ) {
///         if let Origin::Accepted { key: CONTROL, .. } = origin {
///             *session = Session::Control;
///         }
///     }
///
///     fn on_frame(
///         &mut self,
///         cx: &mut Context<'_, Self>,
///         conn: ConnId,
///         session: &mut Session,
///         frame: &[u8],
///     ) {
///         match session {
///             Session::Telemetry { values } => *values += 1,
///             Session::Control => drop(cx.send(conn, frame)),
///         }
///     }
/// }
///
/// # fn main() -> std::io::Result<()> {
/// let mut reactor = Reactor::new(Gateway)?;
/// reactor.listen("127.0.0.1:0", Framing::length_u16())?;
/// let control = ListenOptions::new().key(CONTROL);
/// reactor.with(|_, cx| cx.listen_with("127.0.0.1:0", Framing::line(), &control))?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// A listener accepted the connection.
    Accepted {
        /// The listener.
        listener: ListenerId,
        /// The key of the listener: see [`ListenOptions::key`](crate::ListenOptions::key).
        key: u64,
    },
    /// [`Context::connect`](crate::Context::connect) opened the connection.
    Connected,
    /// [`Context::adopt_stream`](crate::Context::adopt_stream) or
    /// [`Context::adopt_detached`](crate::Context::adopt_detached) adopted the connection.
    Adopted,
}

/// Reason for the end of a connection.
///
/// [`Local`](CloseReason::Local) and [`Peer`](CloseReason::Peer) are orderly ends: each side ended
/// its stream. A proxy then ends its other connection with
/// [`Context::close`](crate::Context::close). After any other reason, bytes of either side may be
/// lost. A proxy then ends its other connection with [`Context::abort`](crate::Context::abort), as
/// the example `proxy` does.
#[derive(Debug)]
#[non_exhaustive]
pub enum CloseReason {
    /// The handler closed the connection: the kernel took all output, and the peer ended its side
    /// too. Also used for a connection that the handler closed before it opened. Its queued output
    /// then counts as unsent.
    Local,
    /// The peer ended its side first, and the handler then closed the connection.
    Peer,
    /// The handler aborted the connection.
    Aborted,
    /// The connection did not begin with a valid header of the PROXY protocol: see
    /// [`ListenOptions::proxy_protocol`](crate::ListenOptions::proxy_protocol). It never opened.
    ProxyHeader(ProxyError),
    /// The handler [detached](crate::Context::detach) the connection. Its socket is still open, and
    /// belongs to the handler now.
    Detached(Detached),
    /// The connection never opened. The error is the error of the attempt that failed last.
    ConnectFailed(io::Error),
    /// A read or write on the socket failed, for example with `ConnectionReset`.
    Io(io::Error),
    /// The peer's bytes are not a valid frame.
    Frame {
        /// Violation of the framing.
        error: FrameError,
        /// Offset of the invalid frame in the peer's stream, in bytes.
        offset: u64,
    },
    /// [`Config::close_deadline`](crate::Config::close_deadline) passed. By then the output was not
    /// sent completely, or the peer had not ended its side.
    CloseTimeout,
    /// No bytes were received or sent for [`Config::idle_timeout`](crate::Config::idle_timeout).
    /// The connection was then closed, so `on_close` comes up to
    /// [`Config::close_deadline`](crate::Config::close_deadline) after the timeout.
    IdleTimeout,
    /// No bytes were received for
    /// [`Config::read_idle_timeout`](crate::Config::read_idle_timeout). The connection was then
    /// closed, so `on_close` comes up to
    /// [`Config::close_deadline`](crate::Config::close_deadline) after the timeout.
    ReadIdleTimeout,
    /// A frame was not complete within [`Config::frame_deadline`](crate::Config::frame_deadline).
    /// The connection was then closed, so `on_close` comes up to
    /// [`Config::close_deadline`](crate::Config::close_deadline) after the timeout.
    FrameDeadline,
    /// The peer accepted no output for
    /// [`Config::write_stall_timeout`](crate::Config::write_stall_timeout).
    WriteStalled,
    /// [`Config::memory_bytes_max`](crate::Config::memory_bytes_max) was used up for too long, and
    /// this connection was one of those that held the most memory.
    MemoryFull,
    /// The reactor shut down, and the deadline of the shutdown passed.
    Shutdown,
    /// A callback about this connection panicked.
    HandlerPanicked,
    /// The TLS session failed: the peer violated the protocol, or a certificate was not accepted.
    /// This side has sent the alert, unless the peer sent one. If
    /// [`on_open`](crate::Handler::on_open) was not called, the handshake failed.
    ///
    /// The alert is the last record of the session. So output that was not written before the alert
    /// is lost. This includes the replies to frames that were received in one read with the
    /// violation.
    #[cfg(feature = "tls")]
    Tls(TlsError),
    /// The peer ended its side without a TLS `close_notify`, so later bytes may be missing: an
    /// attacker can cut a stream, but cannot forge its end. A peer that ends its side during the
    /// handshake is reported with this reason too.
    #[cfg(feature = "tls")]
    TlsTruncated,
    /// The TLS handshake was not complete within
    /// [`Config::tls_handshake_timeout`](crate::Config::tls_handshake_timeout).
    #[cfg(feature = "tls")]
    TlsHandshakeTimeout,
}

/// Values of labels of metrics.
#[cfg(feature = "metrics")]
impl CloseReason {
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Peer => "peer",
            Self::Aborted => "aborted",
            Self::ProxyHeader(_) => "proxy_header",
            Self::Detached(_) => "detached",
            Self::ConnectFailed(_) => "connect_failed",
            Self::Io(_) => "io",
            Self::Frame { .. } => "frame",
            Self::CloseTimeout => "close_timeout",
            Self::IdleTimeout => "idle_timeout",
            Self::ReadIdleTimeout => "read_idle_timeout",
            Self::FrameDeadline => "frame_deadline",
            Self::WriteStalled => "write_stalled",
            Self::MemoryFull => "memory_full",
            Self::Shutdown => "shutdown",
            Self::HandlerPanicked => "handler_panicked",
            #[cfg(feature = "tls")]
            Self::Tls(_) => "tls",
            #[cfg(feature = "tls")]
            Self::TlsTruncated => "tls_truncated",
            #[cfg(feature = "tls")]
            Self::TlsHandshakeTimeout => "tls_handshake_timeout",
        }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local => f.write_str("closed by this side"),
            Self::Peer => f.write_str("closed by the peer"),
            Self::ProxyHeader(error) => error.fmt(f),
            Self::Aborted => f.write_str("aborted by this side"),
            Self::Detached(_) => f.write_str("detached from the reactor by this side"),
            Self::ConnectFailed(error) => write!(f, "connect failed: {error}"),
            Self::Io(error) => error.fmt(f),
            Self::Frame { error, offset } => write!(f, "{error}, at byte {offset} of the stream"),
            Self::CloseTimeout => f.write_str("close_deadline passed before both sides closed"),
            Self::IdleTimeout => f.write_str("idle_timeout passed without input or output"),
            Self::ReadIdleTimeout => f.write_str("read_idle_timeout passed without input"),
            Self::FrameDeadline => f.write_str("frame_deadline passed before a frame was complete"),
            Self::WriteStalled => f.write_str("write_stall_timeout passed without any output"),
            Self::MemoryFull => f.write_str("aborted to free memory: memory_bytes_max was used up"),
            Self::Shutdown => f.write_str("the shutdown deadline passed before both sides closed"),
            Self::HandlerPanicked => f.write_str("a callback about this connection panicked"),
            #[cfg(feature = "tls")]
            Self::Tls(error) => error.fmt(f),
            #[cfg(feature = "tls")]
            Self::TlsTruncated => f.write_str("the peer ended the stream without close_notify"),
            #[cfg(feature = "tls")]
            Self::TlsHandshakeTimeout => f.write_str("tls_handshake_timeout passed"),
        }
    }
}

/// A program can pass the reason on as an error, for example to code that waits for a reply. Some
/// reasons, such as [`CloseReason::Local`], are a normal end.
impl Error for CloseReason {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::ConnectFailed(error) | Self::Io(error) => error.source(),
            Self::Frame { error, .. } => error.source(),
            #[cfg(feature = "tls")]
            Self::Tls(error) => error.source(),
            _ => None,
        }
    }
}

/// Reason for closing an accepted connection before it opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Refusal {
    /// [`Config::connections_max`](crate::Config::connections_max) connections are open.
    Connections,
    /// [`Config::connections_per_addr_max`](crate::Config::connections_per_addr_max) connections
    /// from one IP address are open. The address is that of the peer, or of the client that a
    /// header of the PROXY protocol announced.
    ConnectionsPerAddr,
    /// The peer is not trusted, and the listener [requires] a header of the PROXY protocol.
    ///
    /// [requires]: crate::ProxyProtocol::required
    UntrustedProxy,
    /// [`Config::preparing_max`](crate::Config::preparing_max) connections are in a TLS handshake,
    /// or exchange other bytes that are not frames.
    Preparing,
}

/// Values of a label of metrics.
#[cfg(feature = "metrics")]
impl Refusal {
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::ConnectionsPerAddr => "connections_per_addr",
            Self::UntrustedProxy => "untrusted_proxy",
            Self::Preparing => "preparing",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connections => "connections_max is reached",
            Self::ConnectionsPerAddr => "connections_per_addr_max is reached",
            Self::UntrustedProxy => "the peer is not trusted to send a PROXY header",
            Self::Preparing => "preparing_max is reached",
        })
    }
}

/// An open socket without a reactor, and the bytes that its reactor held.
///
/// [`Context::detach`](crate::Context::detach) creates it.
/// [`Context::adopt_detached`](crate::Context::adopt_detached) continues the stream, in the same
/// reactor or in another one. A program that continues without a reactor first writes
/// [`unsent`](Self::unsent) and handles [`undelivered`](Self::undelivered). Then it uses the
/// socket.
#[derive(Debug)]
#[non_exhaustive]
pub struct Detached {
    /// The socket, in non-blocking mode. It converts to std's `TcpStream` or `UnixStream` with
    /// [`From`].
    pub socket: OwnedSocket,
    /// Bytes that were read and not delivered as part of a frame, including their framing. Empty if
    /// the bytes of all reads were delivered.
    pub undelivered: Vec<u8>,
    /// Output that `send` accepted and the kernel has not taken, including its framing. The first
    /// byte may be inside a frame, because the kernel may have taken a part of it.
    pub unsent: Vec<u8>,
    /// Skip that continues at the first byte of `undelivered`.
    pub(crate) skip: UnfinishedSkip,
    pub(crate) proxied: Option<Box<ProxyHeader>>,
}

impl Detached {
    /// Creates a value for a socket that was not in a reactor before.
    /// [`undelivered`](Self::undelivered) and [`unsent`](Self::unsent) are empty: set them if the
    /// program has read bytes or still has output.
    pub fn new(socket: impl Into<OwnedSocket>) -> Self {
        Self {
            socket: socket.into(),
            undelivered: Vec::new(),
            unsent: Vec::new(),
            skip: UnfinishedSkip::None,
            proxied: None,
        }
    }

    /// Returns true if the stream continues inside bytes that are being skipped: usually a frame
    /// that [is too long](crate::Framing::skip_too_long), or else bytes that a custom codec skips
    /// with [`Step`](crate::Step).
    ///
    /// [`Context::adopt_detached`](crate::Context::adopt_detached) continues this skip, whatever
    /// framing it is called with. The skip needs the bytes of [`undelivered`](Self::undelivered):
    /// if bytes were removed there, the rest of the skipped bytes may be decoded as frames. A
    /// program that continues without a reactor has to find the end of the skipped bytes itself.
    #[must_use]
    pub fn is_skipping(&self) -> bool {
        !matches!(self.skip, UnfinishedSkip::None)
    }
}

/// Final report about a connection, passed to [`Handler::on_close`](crate::Handler::on_close).
#[derive(Debug)]
#[non_exhaustive]
pub struct Closed {
    /// Reason for the end.
    pub reason: CloseReason,
    /// Number of bytes that `send` accepted and the kernel did not take, including framing.
    pub unsent_bytes: u64,
    /// Number of bytes that were read and not delivered as part of a frame.
    ///
    /// It does not include bytes that are still in the kernel, input after
    /// [`close`](crate::Context::close), or the frame that was being delivered when the handler
    /// panicked.
    pub undecoded_bytes: u64,
    /// Totals over the life of the connection.
    pub stats: crate::ConnStats,
}
