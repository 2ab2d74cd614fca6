//! Sockets that were opened outside the reactor: by the program, or by the process that started it.

use std::io;

use socket2::{Domain, Socket, Type};

/// Owned handle of a socket. A socket of std converts into it, and a process can inherit it from
/// its parent.
#[cfg(unix)]
pub(crate) use std::os::fd::OwnedFd as OwnedSocket;
#[cfg(windows)]
pub(crate) use std::os::windows::io::OwnedSocket;

use super::{Listener, Os, Stream, Udp, UdpOptions};
use crate::error::invalid_input;

impl Listener {
    pub(crate) fn adopt(socket: OwnedSocket) -> io::Result<Self> {
        let socket = prepare(socket, Type::STREAM)?;
        if !is_listening(&socket)? {
            return Err(invalid_input(
                "the adopted socket is not a listening socket: call listen() on it first",
            ));
        }
        socket.try_into()
    }
}

impl Stream {
    /// Adopts a connected stream socket. Fails with `NotConnected` if the socket has no peer, and
    /// with `InvalidInput` if it is no stream socket. A simulated reactor adopts only the socket of
    /// a simulated connection that was detached.
    pub(crate) fn adopt(socket: OwnedSocket, os: &Os) -> io::Result<Self> {
        #[cfg(all(unix, any(test, feature = "sim")))]
        if let Os::Sim(poll) = os {
            return poll.world().adopt(&socket).map(Self::Sim);
        }
        os.real_poller()?;
        let socket = prepare(socket, Type::STREAM)?;
        socket.peer_addr()?;
        socket.try_into()
    }
}

impl Udp {
    /// Adopts a UDP socket. Of `options`, only the details of datagrams are applied to the socket.
    pub(crate) fn adopt(
        socket: OwnedSocket,
        options: &UdpOptions,
        in_batches: bool,
    ) -> io::Result<Self> {
        let socket = prepare(socket, Type::DGRAM)?;
        if socket.local_addr()?.is_unix() {
            return Err(invalid_input(
                "the socket is a Unix datagram socket, not a UDP socket",
            ));
        }
        Self::new(socket, in_batches, options.wanted)
    }
}

/// Checks the type and the address family of a socket, and makes the socket non-blocking. On Unix,
/// child processes do not inherit it.
pub(super) fn prepare(socket: OwnedSocket, kind: Type) -> io::Result<Socket> {
    let socket = Socket::from(socket);
    let domain = socket.local_addr()?.domain();
    if socket.r#type()? != kind || ![Domain::IPV4, Domain::IPV6, Domain::UNIX].contains(&domain) {
        return Err(invalid_input(
            "the adopted socket has the wrong type (stream or datagram), or its address family is \
             none of IPv4, IPv6 and Unix",
        ));
    }
    socket.set_nonblocking(true)?;
    #[cfg(unix)]
    socket.set_cloexec(true)?;
    // On Apple's systems, an option of the socket suppresses `SIGPIPE`: see `NO_SIGNAL` in
    // `stream.rs`.
    #[cfg(target_vendor = "apple")]
    socket.set_nosigpipe(true)?;
    Ok(socket)
}

fn is_listening(socket: &Socket) -> io::Result<bool> {
    #[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
    return socket.is_listener();
    // On other systems, socket2 cannot query if a socket listens. A socket without a peer counts as
    // listening. If it does not listen, the first accept fails.
    #[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
    Ok(socket.peer_addr().is_err())
}
