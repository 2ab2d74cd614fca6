//! The socket of a connection.

use std::io::{self, IoSlice, Read, Write};
#[cfg(unix)]
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::time::Duration;

use mio::net::TcpStream;
#[cfg(unix)]
use mio::net::UnixStream;
use socket2::{SockRef, Socket};

#[cfg(any(test, feature = "sim"))]
use super::sim::SimSocket;
use super::{Os, OwnedSocket, SHORT_READ_EMPTIES, local_addr, retry, to_addr};
use crate::addr::Addr;
use crate::cutmap::Segments;
use crate::id::PollToken;

/// Value of the flag `MSG_NOSIGNAL` (sys/socket.h), which prevents `SIGPIPE`. If the value is
/// unknown, slices are written one by one. Windows has no such signal. Apple's systems have a
/// socket option instead. socket2 sets the option, and accepted sockets inherit it from their
/// listener (XNU's `sonewconn_internal`).
const NO_SIGNAL: Option<i32> = {
    if cfg!(any(target_os = "linux", target_os = "android")) {
        Some(0x4000)
    } else if cfg!(target_os = "freebsd") {
        Some(0x2_0000)
    } else if cfg!(any(
        target_os = "netbsd",
        target_os = "openbsd",
        target_os = "dragonfly"
    )) {
        Some(0x400)
    } else if cfg!(any(windows, target_vendor = "apple")) {
        Some(0)
    } else {
        None
    }
};

/// The socket of a connection: one variant per type of socket.
#[derive(Debug)]
pub(crate) enum Stream {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(UnixStream),
    /// No socket: the connect failed at once, or the socket was closed or detached.
    None,
    #[cfg(any(test, feature = "sim"))]
    Sim(SimSocket),
}

impl Stream {
    pub(crate) fn register(&mut self, os: &Os, token: PollToken) -> io::Result<()> {
        match self {
            Self::Tcp(tcp) => os.real_poller()?.register(tcp, token),
            #[cfg(unix)]
            Self::Unix(unix) => os.real_poller()?.register(unix, token),
            Self::None => Ok(()),
            #[cfg(any(test, feature = "sim"))]
            Self::Sim(sim) => os.sim().register(*sim, token),
        }
    }

    /// Makes the next wait report the current readiness of a registered socket again.
    pub(crate) fn reregister(&mut self, os: &Os, token: PollToken) -> io::Result<()> {
        match self {
            Self::Tcp(tcp) => os.real_poller()?.reregister(tcp, token),
            #[cfg(unix)]
            Self::Unix(unix) => os.real_poller()?.reregister(unix, token),
            Self::None => Ok(()),
            #[cfg(any(test, feature = "sim"))]
            Self::Sim(sim) => sim.rearm(),
        }
    }

    /// Deregisters and closes the socket.
    pub(crate) fn close(&mut self, os: &Os) {
        match self {
            Self::Tcp(tcp) => os.poller().deregister(tcp),
            #[cfg(unix)]
            Self::Unix(unix) => os.poller().deregister(unix),
            Self::None => {}
            #[cfg(any(test, feature = "sim"))]
            Self::Sim(sim) => sim.close(),
        }
        *self = Self::None;
    }

    /// Deregisters the socket and returns it; `None` if there is none.
    pub(crate) fn detach(&mut self, os: &Os) -> Option<OwnedSocket> {
        match std::mem::replace(self, Self::None) {
            Self::Tcp(mut tcp) => {
                os.poller().deregister(&mut tcp);
                Some(tcp.into())
            }
            #[cfg(unix)]
            Self::Unix(mut unix) => {
                os.poller().deregister(&mut unix);
                Some(unix.into())
            }
            Self::None => None,
            #[cfg(all(unix, any(test, feature = "sim")))]
            Self::Sim(sim) => sim.detach(),
            #[cfg(all(not(unix), any(test, feature = "sim")))]
            Self::Sim(sim) => {
                sim.close();
                None
            }
        }
    }

    /// Closes the socket with a reset, so that the kernel keeps no data for it. A Unix socket has
    /// no reset, so it is only closed.
    pub(crate) fn reset(&mut self, os: &Os) {
        #[cfg(any(test, feature = "sim"))]
        if let Self::Sim(sim) = self {
            sim.reset();
        }
        if let Self::Tcp(tcp) = self {
            // If this call fails, the kernel has already dropped the connection and its send queue.
            let _ = SockRef::from(&*tcp).set_linger(Some(Duration::ZERO));
        }
        self.close(os);
    }

    /// Reads once. `buf` must not be empty: the result 0 would look like the end of the stream.
    #[inline]
    pub(crate) fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        debug_assert!(
            !buf.is_empty(),
            "`buf` must not be empty, because the result 0 means the end of the stream"
        );
        match self {
            Self::Tcp(tcp) => retry(|| tcp.read(buf)),
            #[cfg(unix)]
            Self::Unix(unix) => retry(|| unix.read(buf)),
            Self::None => Err(io::ErrorKind::NotConnected.into()),
            #[cfg(any(test, feature = "sim"))]
            Self::Sim(sim) => retry(|| sim.read(buf)),
        }
    }

    /// Writes once, without raising `SIGPIPE`. For TCP, std passes `MSG_NOSIGNAL` or the system's
    /// counterpart. For Unix sockets std does so only since Rust 1.90.
    #[inline]
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(tcp) => retry(|| tcp.write(bytes)),
            #[cfg(unix)]
            Self::Unix(unix) => retry(|| match NO_SIGNAL {
                Some(flags) => unix.try_io(|| SockRef::from(&*unix).send_with_flags(bytes, flags)),
                None => unix.write(bytes),
            }),
            Self::None => Err(io::ErrorKind::NotConnected.into()),
            #[cfg(any(test, feature = "sim"))]
            Self::Sim(sim) => retry(|| sim.write(bytes)),
        }
    }

    /// Writes several slices with one call, without raising `SIGPIPE`. The standard call, `writev`,
    /// raises the signal if the peer has closed the connection and the program does not ignore the
    /// signal (signal(7)).
    ///
    /// `try_io` reports a `WouldBlock` to mio. On Windows, mio needs this report to deliver the
    /// next edge.
    pub(crate) fn write_gathered(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let Some(flags) = NO_SIGNAL else {
            return self.write(slices.first().map_or(&[], |slice| slice));
        };
        let send = |socket: SockRef<'_>| socket.send_vectored_with_flags(slices, flags);
        match self {
            Self::Tcp(tcp) => retry(|| tcp.try_io(|| send(SockRef::from(&*tcp)))),
            #[cfg(unix)]
            Self::Unix(unix) => retry(|| unix.try_io(|| send(SockRef::from(&*unix)))),
            Self::None => Err(io::ErrorKind::NotConnected.into()),
            #[cfg(any(test, feature = "sim"))]
            Self::Sim(sim) => {
                let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
                retry(|| sim.write(&bytes))
            }
        }
    }

    /// Returns and clears the pending error of the socket.
    pub(crate) fn take_error(&self) -> io::Result<Option<io::Error>> {
        #[cfg(any(test, feature = "sim"))]
        if let Self::Sim(sim) = self {
            return Ok(sim.take_error());
        }
        self.options()?.take_error()
    }

    /// Returns true if a read would return bytes. The bytes stay unread.
    pub(crate) fn has_unread(&self) -> bool {
        match self {
            Self::Tcp(tcp) => retry(|| tcp.peek(&mut [0])).is_ok_and(|len| len > 0),
            #[cfg(unix)]
            Self::Unix(unix) => {
                let socket = SockRef::from(unix);
                retry(|| socket.peek(&mut [MaybeUninit::uninit()])).is_ok_and(|len| len > 0)
            }
            Self::None => false,
            #[cfg(any(test, feature = "sim"))]
            Self::Sim(sim) => sim.has_unread(),
        }
    }

    /// Sends the FIN.
    pub(crate) fn shutdown_write(&self) -> io::Result<()> {
        #[cfg(any(test, feature = "sim"))]
        if let Self::Sim(sim) = self {
            return sim.shutdown_write();
        }
        self.options()?.shutdown(Shutdown::Write)
    }

    /// Returns true if a read that returned fewer bytes than requested has emptied the socket. A
    /// read of a Unix socket also stops at bytes that carry a descriptor (unix(7), SCM_RIGHTS).
    pub(crate) fn short_read_empties(&self) -> bool {
        match self {
            Self::Tcp(_) | Self::None => SHORT_READ_EMPTIES,
            #[cfg(unix)]
            Self::Unix(_) => false,
            // The simulated poll behaves like epoll on every system.
            #[cfg(any(test, feature = "sim"))]
            Self::Sim(sim) => !sim.is_unix(),
        }
    }

    /// Checks the progress of a connect. Returns `Ok(None)` while the connect is pending, the
    /// address of the peer after success, and the error after a failure.
    ///
    /// The kernel may connect a socket to itself if the target is a free ephemeral port. Such a
    /// connect fails with `ConnectionRefused`, because no server listens on that port.
    pub(crate) fn connected(&self) -> io::Result<Option<Addr>> {
        #[cfg(any(test, feature = "sim"))]
        if let Self::Sim(sim) = self {
            return sim.connected();
        }
        let socket = self.options()?;
        if let Some(error) = socket.take_error()? {
            return Err(error);
        }
        let peer = match socket.peer_addr() {
            Ok(peer) => to_addr(&peer)?,
            Err(error) if error.kind() == io::ErrorKind::NotConnected => return Ok(None),
            Err(error) => return Err(error),
        };
        if matches!(self, Self::Tcp(_)) && local_addr(&socket)? == peer {
            // A reset leaves the port free for the server.
            let _ = socket.set_linger(Some(Duration::ZERO));
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        Ok(Some(peer))
    }

    pub(crate) fn local_addr(&self) -> io::Result<Addr> {
        #[cfg(any(test, feature = "sim"))]
        if let Self::Sim(sim) = self {
            return Ok(sim.local_addr());
        }
        local_addr(&*self.options()?)
    }

    /// Sets `TCP_NODELAY` of a TCP socket. Does nothing for other sockets, because they never delay
    /// writes.
    pub(crate) fn set_nodelay(&self, on: bool) -> io::Result<()> {
        match self {
            Self::Tcp(tcp) => tcp.set_nodelay(on),
            _ => Ok(()),
        }
    }

    pub(crate) fn options(&self) -> io::Result<SockRef<'_>> {
        match self {
            Self::Tcp(tcp) => Ok(SockRef::from(tcp)),
            #[cfg(unix)]
            Self::Unix(unix) => Ok(SockRef::from(unix)),
            Self::None => Err(io::ErrorKind::NotConnected.into()),
            #[cfg(any(test, feature = "sim"))]
            Self::Sim(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Returns the kernel's segment counts of a TCP connection on Linux.
    pub(crate) fn segments(&self, peer: &Addr) -> io::Result<Segments> {
        let local = self.local_addr()?;
        #[cfg(any(target_os = "linux", target_os = "android"))]
        if let (Self::Tcp(_), Some(local), Some(peer)) = (self, local.inet(), peer.inet()) {
            return super::tcp_info::of_connection(local, peer);
        }
        Err(io::Error::new(
            io::ErrorKind::Unsupported,
            format!("segment counts are not available for the connection from {local} to {peer}"),
        ))
    }
}

/// Converts a non-blocking socket.
impl TryFrom<Socket> for Stream {
    type Error = io::Error;

    fn try_from(socket: Socket) -> io::Result<Self> {
        #[cfg(unix)]
        if socket.local_addr()?.is_unix() {
            return Ok(Self::Unix(UnixStream::from_std(socket.into())));
        }
        Ok(Self::Tcp(TcpStream::from_std(socket.into())))
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use socket2::{Domain, Type};
    use std::net::SocketAddr;

    /// The kernel lets a socket connect to its own port, as in a simultaneous open (RFC 9293, 3.5).
    #[test]
    fn a_connection_to_itself_counts_as_refused() {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket can be opened");
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        socket.bind(&any.into()).expect("a port is free");
        let own = socket.local_addr().expect("the socket is bound");
        socket
            .connect(&own)
            .expect("the kernel lets a socket connect to itself");
        socket.set_nonblocking(true).expect("the option can be set");
        let stream = Stream::try_from(socket).expect("the socket is a TCP socket");
        let error = stream.connected().expect_err("no server listens there");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }
}
