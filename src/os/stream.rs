//! A connection's socket.

use std::io::{self, IoSlice, Read, Write};
#[cfg(unix)]
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::time::Duration;

use mio::net::TcpStream;
#[cfg(unix)]
use mio::net::UnixStream;
use socket2::{SockRef, Socket};

#[cfg(unix)]
use super::is_unix;
use super::{ConnectOptions, Poller, SHORT_READ_EMPTIES, local_addr, retry, to_addr};
use crate::addr::Addr;
use crate::id::PollToken;

/// `MSG_NOSIGNAL` (sys/socket.h), where its value is known; elsewhere segments are written one by
/// one. Windows has no such signal, and Apple's systems have an option for it: socket2 sets it, and
/// accepted sockets have it from their listener (XNU's `sonewconn_internal`).
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

/// The closed set of sockets that a connection may have.
#[derive(Debug)]
pub(crate) enum Stream {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(UnixStream),
    /// Not there: a connect that failed at once, or a connection that is closed already.
    None,
    #[cfg(test)]
    Scripted(super::Script),
}

impl Stream {
    /// Begins to connect; the end of it is told by an event.
    pub(crate) fn connect(addr: &Addr, options: &ConnectOptions) -> io::Result<Self> {
        options.connect(addr)?.try_into()
    }

    pub(crate) fn register(&mut self, poller: &Poller, token: PollToken) -> io::Result<()> {
        match self {
            Self::Tcp(tcp) => poller.register(tcp, token),
            #[cfg(unix)]
            Self::Unix(unix) => poller.register(unix, token),
            Self::None => Ok(()),
            #[cfg(test)]
            Self::Scripted(_) => Ok(()),
        }
    }

    /// Deregisters and closes.
    pub(crate) fn close(&mut self, poller: &Poller) {
        match self {
            Self::Tcp(tcp) => poller.deregister(tcp),
            #[cfg(unix)]
            Self::Unix(unix) => poller.deregister(unix),
            Self::None => {}
            #[cfg(test)]
            Self::Scripted(_) => {}
        }
        *self = Self::None;
    }

    /// Closes so that the peer is told by a reset and the kernel keeps nothing for it. A Unix
    /// socket has no reset: its peer sees an end.
    pub(crate) fn reset(&mut self, poller: &Poller) {
        if let Self::Tcp(tcp) = self {
            // Where the option is refused the connection is gone already, and so is its queue.
            let _ = SockRef::from(&*tcp).set_linger(Some(Duration::ZERO));
        }
        self.close(poller);
    }

    /// One read. Never with an empty `buf`: the answer would look like the end.
    #[inline]
    pub(crate) fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        debug_assert!(
            !buf.is_empty(),
            "an empty read looks like the end of the stream"
        );
        match self {
            Self::Tcp(tcp) => retry(|| tcp.read(buf)),
            #[cfg(unix)]
            Self::Unix(unix) => retry(|| unix.read(buf)),
            Self::None => Err(io::ErrorKind::NotConnected.into()),
            #[cfg(test)]
            Self::Scripted(script) => retry(|| script.read(buf)),
        }
    }

    /// One write. Of TCP std sends it with `MSG_NOSIGNAL`, or what the system has for it; of a Unix
    /// socket only since Rust 1.90, and before that by write(2), which raises `SIGPIPE`.
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
            #[cfg(test)]
            Self::Scripted(script) => retry(|| script.write(bytes)),
        }
    }

    /// One gathered write. The standard one, `writev`, would raise `SIGPIPE` where the peer has
    /// gone and the program has left that signal at its default (signal(7)): this one does not. By
    /// `try_io`, as mio has to see a `WouldBlock` to wait for the next edge where the system's poll
    /// has none of its own (Windows).
    pub(crate) fn write_gathered(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(tcp) => retry(|| match NO_SIGNAL {
                Some(flags) => {
                    tcp.try_io(|| SockRef::from(&*tcp).send_vectored_with_flags(slices, flags))
                }
                None => tcp.write(slices.first().map_or(&[], |slice| slice)),
            }),
            #[cfg(unix)]
            Self::Unix(unix) => retry(|| match NO_SIGNAL {
                Some(flags) => {
                    unix.try_io(|| SockRef::from(&*unix).send_vectored_with_flags(slices, flags))
                }
                None => unix.write(slices.first().map_or(&[], |slice| slice)),
            }),
            Self::None => Err(io::ErrorKind::NotConnected.into()),
            #[cfg(test)]
            Self::Scripted(script) => {
                let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
                retry(|| script.write(&bytes))
            }
        }
    }

    /// The error that the socket has met, and nobody has been told of.
    pub(crate) fn take_error(&self) -> io::Result<Option<io::Error>> {
        match self {
            Self::Tcp(tcp) => tcp.take_error(),
            #[cfg(unix)]
            Self::Unix(unix) => unix.take_error(),
            Self::None => Err(io::ErrorKind::NotConnected.into()),
            #[cfg(test)]
            Self::Scripted(script) => Ok(script.take_error()),
        }
    }

    /// Whether a read would give bytes. Nothing is taken.
    pub(crate) fn has_unread(&self) -> bool {
        match self {
            Self::Tcp(tcp) => retry(|| tcp.peek(&mut [0])).is_ok_and(|len| len > 0),
            #[cfg(unix)]
            Self::Unix(unix) => {
                let socket = SockRef::from(unix);
                retry(|| socket.peek(&mut [MaybeUninit::uninit()])).is_ok_and(|len| len > 0)
            }
            Self::None => false,
            #[cfg(test)]
            Self::Scripted(script) => script.has_unread(),
        }
    }

    /// Sends the FIN.
    pub(crate) fn shutdown_write(&self) -> io::Result<()> {
        match self {
            Self::Tcp(tcp) => tcp.shutdown(Shutdown::Write),
            #[cfg(unix)]
            Self::Unix(unix) => unix.shutdown(Shutdown::Write),
            Self::None => Err(io::ErrorKind::NotConnected.into()),
            #[cfg(test)]
            Self::Scripted(script) => {
                script.shutdown_write();
                Ok(())
            }
        }
    }

    /// Whether a read that gave fewer bytes than asked for has emptied the socket. A Unix socket
    /// also stops at bytes that came with a descriptor, whoever reads them (unix(7), SCM_RIGHTS).
    #[inline]
    pub(crate) fn short_read_empties(&self) -> bool {
        match self {
            Self::Tcp(_) | Self::None => SHORT_READ_EMPTIES,
            #[cfg(unix)]
            Self::Unix(_) => false,
            // So that a script is read alike on every system.
            #[cfg(test)]
            Self::Scripted(_) => true,
        }
    }

    /// Asks how a connect stands: `Ok(None)` while it is under way, the peer's address when it is
    /// done, the error when it failed. A connection to itself, which the kernel may make when a
    /// free ephemeral port is connected to, counts as refused: nobody listens there.
    pub(crate) fn connected(&self) -> io::Result<Option<Addr>> {
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
            // By a reset, which leaves the port free for the server that is to have it.
            let _ = socket.set_linger(Some(Duration::ZERO));
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        Ok(Some(peer))
    }

    pub(crate) fn local_addr(&self) -> io::Result<Addr> {
        local_addr(&*self.options()?)
    }

    /// Means nothing to a Unix socket, which delays nothing.
    pub(crate) fn set_nodelay(&self, on: bool) -> io::Result<()> {
        match self {
            Self::Tcp(tcp) => tcp.set_nodelay(on),
            #[cfg(unix)]
            Self::Unix(_) => Ok(()),
            Self::None => Err(io::ErrorKind::NotConnected.into()),
            #[cfg(test)]
            Self::Scripted(_) => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    pub(crate) fn options(&self) -> io::Result<SockRef<'_>> {
        match self {
            Self::Tcp(tcp) => Ok(SockRef::from(tcp)),
            #[cfg(unix)]
            Self::Unix(unix) => Ok(SockRef::from(unix)),
            Self::None => Err(io::ErrorKind::NotConnected.into()),
            #[cfg(test)]
            Self::Scripted(_) => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

/// Of a socket that does not block.
impl TryFrom<Socket> for Stream {
    type Error = io::Error;

    fn try_from(socket: Socket) -> io::Result<Self> {
        #[cfg(unix)]
        if is_unix(&socket)? {
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

    /// The kernel lets a socket connect to its own port, as two that open at the same time
    /// (RFC 9293, 3.5): a client of a free ephemeral port may so be given itself as the server.
    #[test]
    fn a_connection_to_itself_counts_as_refused() {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        socket.bind(&any.into()).expect("a free port");
        let own = socket.local_addr().expect("it is bound");
        socket.connect(&own).expect("the kernel allows it");
        socket.set_nonblocking(true).expect("the option can be set");
        let stream = Stream::try_from(socket).expect("it is of TCP");
        let error = stream.connected().expect_err("nobody listens there");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }
}
