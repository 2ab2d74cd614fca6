//! A listening socket.

use std::io;
use std::net::SocketAddr;

use mio::net::TcpListener;
use socket2::SockRef;

use super::{Driver, ListenOptions, Stream, retry};
use crate::token::PollToken;

/// A listening TCP socket.
#[derive(Debug)]
pub(crate) struct Listener {
    tcp: TcpListener,
}

/// What a failed accept means for the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AcceptFailure {
    /// Nothing is left to accept; an event tells of the next one.
    Drained,
    /// This one connection was lost before it was accepted (accept(2), "Error handling"): go on.
    ThisOne,
    /// Descriptors or memory ran out, or the listener itself is hurt. The backlog stays, no event
    /// tells when accepting works again, and trying at once would spin: try again later.
    Exhausted,
}

impl Listener {
    pub(crate) fn bind(
        addr: SocketAddr,
        options: &ListenOptions,
        backlog: i32,
    ) -> io::Result<Self> {
        let socket = options.listen(addr, backlog)?;
        Ok(Self {
            tcp: TcpListener::from_std(socket.into()),
        })
    }

    pub(crate) fn register(&mut self, driver: &Driver, token: PollToken) -> io::Result<()> {
        driver.register(&mut self.tcp, token)
    }

    pub(crate) fn deregister(&mut self, driver: &Driver) {
        driver.deregister(&mut self.tcp);
    }

    pub(crate) fn accept(&self) -> io::Result<(Stream, SocketAddr)> {
        retry(|| self.tcp.accept()).map(|(tcp, peer)| (tcp.into(), peer))
    }

    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    pub(crate) fn options(&self) -> SockRef<'_> {
        SockRef::from(&self.tcp)
    }
}

impl AcceptFailure {
    pub(crate) fn of(error: &io::Error) -> Self {
        use io::ErrorKind as Kind;
        match error.kind() {
            Kind::WouldBlock => Self::Drained,
            Kind::ConnectionAborted
            | Kind::ConnectionReset
            | Kind::ConnectionRefused
            | Kind::NetworkDown
            | Kind::NetworkUnreachable
            | Kind::HostUnreachable
            | Kind::TimedOut
            | Kind::PermissionDenied => Self::ThisOne,
            // EPROTO, ENOPROTOOPT, EHOSTDOWN, ENONET and EOPNOTSUPP have no kind of their own.
            #[cfg(target_os = "linux")]
            _ if matches!(error.raw_os_error(), Some(71 | 92 | 112 | 64 | 95)) => Self::ThisOne,
            _ => Self::Exhausted,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(of(11), AcceptFailure::Drained);
    }
}
