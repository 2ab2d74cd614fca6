//! Sockets that somebody else made: this program, or the one that started it.

use std::io;

use socket2::{Domain, Socket, Type};

/// What std's sockets turn into, and what a parent hands down.
#[cfg(unix)]
pub(crate) use std::os::fd::OwnedFd as OwnedSocket;
#[cfg(windows)]
pub(crate) use std::os::windows::io::OwnedSocket;

use super::{Listener, Stream, Udp};

impl Listener {
    pub(crate) fn adopt(socket: OwnedSocket) -> io::Result<Self> {
        let socket = made_ready(socket, Type::STREAM)?;
        if !is_listening(&socket)? {
            return Err(invalid("the socket does not listen"));
        }
        socket.try_into()
    }
}

impl Stream {
    /// The socket has to be connected: `NotConnected` otherwise.
    pub(crate) fn adopt(socket: OwnedSocket) -> io::Result<Self> {
        let socket = made_ready(socket, Type::STREAM)?;
        socket.peer_addr()?;
        socket.try_into()
    }
}

impl Udp {
    pub(crate) fn adopt(socket: OwnedSocket, in_batches: bool) -> io::Result<Self> {
        let socket = made_ready(socket, Type::DGRAM)?;
        if socket.local_addr()?.is_unix() {
            return Err(invalid("a Unix datagram socket is not one of UDP"));
        }
        Self::new(socket, in_batches)
    }
}

/// Checks the kind, and makes the socket one that does not block and that no child inherits.
pub(super) fn made_ready(socket: OwnedSocket, kind: Type) -> io::Result<Socket> {
    let socket = Socket::from(socket);
    let domain = socket.local_addr()?.domain();
    if socket.r#type()? != kind || ![Domain::IPV4, Domain::IPV6, Domain::UNIX].contains(&domain) {
        return Err(invalid("the socket is of another kind"));
    }
    socket.set_nonblocking(true)?;
    #[cfg(unix)]
    socket.set_cloexec(true)?;
    // Elsewhere each write asks for it.
    #[cfg(target_vendor = "apple")]
    socket.set_nosigpipe(true)?;
    Ok(socket)
}

fn is_listening(socket: &Socket) -> io::Result<bool> {
    #[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
    return socket.is_listener();
    // Elsewhere the first accept tells.
    #[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
    Ok(socket.peer_addr().is_err())
}

pub(super) fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what)
}
