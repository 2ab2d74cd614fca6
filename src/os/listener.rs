//! A listening socket.

use std::io;
use std::sync::Once;

use mio::net::TcpListener;
#[cfg(unix)]
use mio::net::UnixListener;
use socket2::{SockRef, Socket};

#[cfg(any(test, feature = "sim"))]
use super::sim::SimSocket;
use super::{Os, Stream, local_addr, retry, to_addr};
#[cfg(unix)]
use crate::addr::UnixAddr;
use crate::addr::{Addr, canonical};
use crate::id::PollToken;
use crate::log_target::LOG_TARGET;

/// A listening TCP or Unix socket.
#[derive(Debug)]
pub(crate) enum Listener {
    Tcp(TcpListener),
    #[cfg(unix)]
    Unix(UnixListener),
    #[cfg(any(test, feature = "sim"))]
    Sim(SimSocket),
}

/// Consequence of a failed accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AcceptFailure {
    /// No connection is left to accept. An event reports the next connection.
    WouldBlock,
    /// One connection ended before it was accepted and has left the backlog. Accept the next
    /// connection.
    Aborted,
    /// The error may concern one connection (accept(2), "Error handling"). But a security module or
    /// a sandbox may return it for every accept, and then no connection leaves the backlog.
    Rejected,
    /// Descriptors or memory ran out, the listener itself has failed, or the error is unknown. The
    /// backlog stays, and no event reports when accepting works again. Accept again after a pause,
    /// because immediate attempts would keep the processor busy.
    Exhausted,
}

impl Listener {
    pub(crate) fn register(&mut self, os: &Os, token: PollToken) -> io::Result<()> {
        match self {
            Self::Tcp(tcp) => os.real_poller()?.register(tcp, token),
            #[cfg(unix)]
            Self::Unix(unix) => os.real_poller()?.register(unix, token),
            #[cfg(any(test, feature = "sim"))]
            Self::Sim(sim) => os.sim().register(*sim, token),
        }
    }

    pub(crate) fn deregister(&mut self, os: &Os) {
        match self {
            Self::Tcp(tcp) => os.poller().deregister(tcp),
            #[cfg(unix)]
            Self::Unix(unix) => os.poller().deregister(unix),
            #[cfg(any(test, feature = "sim"))]
            Self::Sim(sim) => sim.close(),
        }
    }

    pub(crate) fn accept(&self) -> io::Result<(Stream, Addr)> {
        match self {
            Self::Tcp(tcp) => {
                let (stream, peer) = match retry(|| tcp.accept()) {
                    Err(error) if is_accept4_refused(&error) => {
                        return accept_portable(&SockRef::from(tcp), &error);
                    }
                    accepted => accepted?,
                };
                Ok((Stream::Tcp(stream), Addr::Inet(canonical(peer))))
            }
            #[cfg(unix)]
            Self::Unix(unix) => {
                let (stream, peer) = match retry(|| unix.accept()) {
                    Err(error) if is_accept4_refused(&error) => {
                        return accept_portable(&SockRef::from(unix), &error);
                    }
                    accepted => accepted?,
                };
                Ok((Stream::Unix(stream), UnixAddr::from_std(&peer).into()))
            }
            #[cfg(any(test, feature = "sim"))]
            Self::Sim(sim) => {
                let (stream, peer) = retry(|| sim.accept())?;
                Ok((Stream::Sim(stream), peer))
            }
        }
    }

    pub(crate) fn local_addr(&self) -> io::Result<Addr> {
        #[cfg(any(test, feature = "sim"))]
        if let Self::Sim(sim) = self {
            return Ok(sim.local_addr());
        }
        local_addr(&*self.options()?)
    }

    pub(crate) fn options(&self) -> io::Result<SockRef<'_>> {
        match self {
            Self::Tcp(tcp) => Ok(SockRef::from(tcp)),
            #[cfg(unix)]
            Self::Unix(unix) => Ok(SockRef::from(unix)),
            #[cfg(any(test, feature = "sim"))]
            Self::Sim(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

/// Converts a listening, non-blocking socket.
impl TryFrom<Socket> for Listener {
    type Error = io::Error;

    fn try_from(socket: Socket) -> io::Result<Self> {
        #[cfg(unix)]
        if socket.local_addr()?.is_unix() {
            return Ok(Self::Unix(UnixListener::from_std(socket.into())));
        }
        Ok(Self::Tcp(TcpListener::from_std(socket.into())))
    }
}

/// Returns true if an accept may have failed because the system or a sandbox does not allow
/// `accept4`, which mio calls on Linux. The kind `Unsupported` means `ENOSYS`, and in recent
/// versions of std also `EOPNOTSUPP`. Each error except `ENOSYS` may also concern a single
/// connection: the portable call then accepts the next one.
fn is_accept4_refused(error: &io::Error) -> bool {
    cfg!(any(target_os = "linux", target_os = "android"))
        && matches!(
            error.kind(),
            io::ErrorKind::Unsupported | io::ErrorKind::PermissionDenied
        )
}

/// Accepts with the portable call, `accept`. `error` is the error of `accept4`.
fn accept_portable(listener: &Socket, error: &io::Error) -> io::Result<(Stream, Addr)> {
    static WARNED: Once = Once::new();
    let (socket, peer) = retry(|| listener.accept_raw())?;
    WARNED.call_once(
        || log::warn!(target: LOG_TARGET, "accept4 failed ({error}); `accept` is called instead"),
    );
    socket.set_nonblocking(true)?;
    #[cfg(unix)]
    socket.set_cloexec(true)?;
    Ok((socket.try_into()?, to_addr(&peer)?))
}

impl AcceptFailure {
    /// Classifies the error of an accept.
    pub(crate) fn of(error: &io::Error) -> Self {
        use io::ErrorKind as Kind;
        match error.kind() {
            Kind::WouldBlock => Self::WouldBlock,
            Kind::ConnectionAborted | Kind::ConnectionReset => Self::Aborted,
            // mio's error for an address without a family. macOS accepts a connection that was
            // already reset, and reports no address for the connection (Go's syscall_bsd.go,
            // Accept).
            Kind::InvalidInput if error.raw_os_error().is_none() => Self::Aborted,
            Kind::ConnectionRefused
            | Kind::NetworkDown
            | Kind::NetworkUnreachable
            | Kind::HostUnreachable
            | Kind::TimedOut
            | Kind::PermissionDenied => Self::Rejected,
            // EPROTO, ENOPROTOOPT, EHOSTDOWN and ENONET have no `ErrorKind`. EOPNOTSUPP has one
            // only in recent versions of std.
            #[cfg(any(target_os = "linux", target_os = "android"))]
            _ if matches!(error.raw_os_error(), Some(71 | 92 | 112 | 64 | 95)) => Self::Rejected,
            _ => Self::Exhausted,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accept_without_an_address_concerns_one_connection() {
        let error = io::Error::from(io::ErrorKind::InvalidInput);
        assert_eq!(AcceptFailure::of(&error), AcceptFailure::Aborted);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn accept_errors_concern_one_connection_or_the_listener() {
        let of = |errno| AcceptFailure::of(&io::Error::from_raw_os_error(errno));
        // ECONNABORTED, ECONNRESET
        for errno in [103, 104] {
            assert_eq!(of(errno), AcceptFailure::Aborted, "errno {errno}");
        }
        // EPERM, EACCES, EPROTO, ENONET, EOPNOTSUPP, ENETDOWN, ENETUNREACH, ETIMEDOUT, EHOSTDOWN,
        // EHOSTUNREACH, ENOPROTOOPT
        for errno in [1, 13, 71, 64, 95, 100, 101, 110, 112, 113, 92] {
            assert_eq!(of(errno), AcceptFailure::Rejected, "errno {errno}");
        }
        // ENFILE, EMFILE, ENOBUFS, ENOMEM, EBADF, EINVAL
        for errno in [23, 24, 105, 12, 9, 22] {
            assert_eq!(of(errno), AcceptFailure::Exhausted, "errno {errno}");
        }
        assert_eq!(of(11), AcceptFailure::WouldBlock);
    }
}
