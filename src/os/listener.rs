//! A listening socket.

use std::io;

use mio::net::TcpListener;
#[cfg(unix)]
use mio::net::UnixListener;
use socket2::{SockRef, Socket};

#[cfg(unix)]
use super::is_unix;
use super::{ListenOptions, Poller, Stream, local_addr, retry};
use crate::addr::Addr;
#[cfg(unix)]
use crate::addr::UnixAddr;
use crate::id::PollToken;

/// A listening socket, of the internet or of this host.
#[derive(Debug)]
pub(crate) enum Listener {
    Tcp(TcpListener),
    #[cfg(unix)]
    Unix(UnixListener),
}

/// What a failed accept means for the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AcceptFailure {
    /// Nothing is left to accept; an event tells of the next one.
    WouldBlock,
    /// This one connection was lost before it was accepted (accept(2), "Error handling"): go on.
    ThisOne,
    /// Descriptors or memory ran out, or the listener itself is hurt. The backlog stays, no event
    /// tells when accepting works again, and trying at once would spin: try again later.
    Exhausted,
}

impl Listener {
    pub(crate) fn bind(addr: &Addr, options: &ListenOptions, backlog: u32) -> io::Result<Self> {
        options.listen(addr, backlog)?.try_into()
    }

    pub(crate) fn register(&mut self, poller: &Poller, token: PollToken) -> io::Result<()> {
        match self {
            Self::Tcp(tcp) => poller.register(tcp, token),
            #[cfg(unix)]
            Self::Unix(unix) => poller.register(unix, token),
        }
    }

    pub(crate) fn deregister(&mut self, poller: &Poller) {
        match self {
            Self::Tcp(tcp) => poller.deregister(tcp),
            #[cfg(unix)]
            Self::Unix(unix) => poller.deregister(unix),
        }
    }

    pub(crate) fn accept(&self) -> io::Result<(Stream, Addr)> {
        match self {
            Self::Tcp(tcp) => {
                let (stream, peer) = retry(|| tcp.accept())?;
                Ok((Stream::Tcp(stream), Addr::Inet(peer)))
            }
            #[cfg(unix)]
            Self::Unix(unix) => {
                let (stream, peer) = retry(|| unix.accept())?;
                Ok((Stream::Unix(stream), UnixAddr::from_std(&peer).into()))
            }
        }
    }

    pub(crate) fn local_addr(&self) -> io::Result<Addr> {
        local_addr(&self.options())
    }

    pub(crate) fn options(&self) -> SockRef<'_> {
        match self {
            Self::Tcp(tcp) => SockRef::from(tcp),
            #[cfg(unix)]
            Self::Unix(unix) => SockRef::from(unix),
        }
    }
}

/// Of a socket that listens and does not block.
impl TryFrom<Socket> for Listener {
    type Error = io::Error;

    fn try_from(socket: Socket) -> io::Result<Self> {
        #[cfg(unix)]
        if is_unix(&socket)? {
            return Ok(Self::Unix(UnixListener::from_std(socket.into())));
        }
        Ok(Self::Tcp(TcpListener::from_std(socket.into())))
    }
}

impl AcceptFailure {
    pub(crate) fn of(error: &io::Error) -> Self {
        use io::ErrorKind as Kind;
        match error.kind() {
            Kind::WouldBlock => Self::WouldBlock,
            Kind::ConnectionAborted
            | Kind::ConnectionReset
            | Kind::ConnectionRefused
            | Kind::NetworkDown
            | Kind::NetworkUnreachable
            | Kind::HostUnreachable
            | Kind::TimedOut
            | Kind::PermissionDenied => Self::ThisOne,
            // mio's word for an address of no kind: macOS accepts a connection that was reset
            // before, and has no address for it (Go's syscall_bsd.go, Accept).
            Kind::InvalidInput if error.raw_os_error().is_none() => Self::ThisOne,
            // EPROTO, ENOPROTOOPT, EHOSTDOWN, ENONET and EOPNOTSUPP have no kind of their own.
            #[cfg(any(target_os = "linux", target_os = "android"))]
            _ if matches!(error.raw_os_error(), Some(71 | 92 | 112 | 64 | 95)) => Self::ThisOne,
            _ => Self::Exhausted,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_without_an_address_is_no_fault_of_the_listener() {
        let error = io::Error::from(io::ErrorKind::InvalidInput);
        assert_eq!(AcceptFailure::of(&error), AcceptFailure::ThisOne);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn errors_of_one_connection_are_told_from_those_of_the_listener() {
        let of = |errno| AcceptFailure::of(&io::Error::from_raw_os_error(errno));
        // EPERM, EPROTO, ENONET, EOPNOTSUPP, ENETDOWN, ENETUNREACH, ECONNABORTED, ETIMEDOUT,
        // EHOSTDOWN, EHOSTUNREACH, ENOPROTOOPT
        for errno in [1, 71, 64, 95, 100, 101, 103, 110, 112, 113, 92] {
            assert_eq!(of(errno), AcceptFailure::ThisOne, "errno {errno}");
        }
        // ENFILE, EMFILE, ENOBUFS, ENOMEM, EBADF, EINVAL
        for errno in [23, 24, 105, 12, 9, 22] {
            assert_eq!(of(errno), AcceptFailure::Exhausted, "errno {errno}");
        }
        assert_eq!(of(11), AcceptFailure::WouldBlock);
    }
}
