//! A Unix datagram socket.

use std::io;
use std::os::unix::net::SocketAddr;

use mio::net::UnixDatagram as MioUnixDatagram;
use socket2::{Domain, SockRef, Socket, Type};

use super::{OwnedSocket, Poller, local_addr, retry, to_sock_addr};
use crate::addr::{Addr, UnixAddr};
use crate::id::PollToken;

/// A Unix datagram socket, perhaps bound, perhaps connected to one peer.
#[derive(Debug)]
pub(crate) struct UnixDatagramSocket {
    unix: MioUnixDatagram,
}

impl UnixDatagramSocket {
    /// Binds it, or leaves it unnamed.
    pub(crate) fn open(addr: Option<&UnixAddr>) -> io::Result<Self> {
        let socket = Socket::new(Domain::UNIX, Type::DGRAM, None)?;
        socket.set_nonblocking(true)?;
        if let Some(addr) = addr {
            socket.bind(&to_sock_addr(&Addr::Unix(addr.clone()))?)?;
        }
        Ok(Self {
            unix: MioUnixDatagram::from_std(socket.into()),
        })
    }

    pub(crate) fn adopt(socket: OwnedSocket) -> io::Result<Self> {
        let socket = super::adopt::made_ready(socket, Type::DGRAM)?;
        if !super::is_unix(&socket)? {
            return Err(super::adopt::invalid("it is no Unix socket"));
        }
        Ok(Self {
            unix: MioUnixDatagram::from_std(socket.into()),
        })
    }

    pub(crate) fn register(&mut self, poller: &Poller, token: PollToken) -> io::Result<()> {
        poller.register(&mut self.unix, token)
    }

    pub(crate) fn deregister(&mut self, poller: &Poller) {
        poller.deregister(&mut self.unix);
    }

    pub(crate) fn connect(&self, peer: &UnixAddr) -> io::Result<()> {
        self.options()
            .connect(&to_sock_addr(&Addr::Unix(peer.clone()))?)
    }

    /// Receives one datagram, as much of it as `buf` holds.
    pub(crate) fn recv_from(&self, buf: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        retry(|| self.unix.recv_from(buf))
    }

    /// Sends one datagram, to the connected peer if `to` is `None`. No signal comes of it, whoever
    /// is gone: Linux sends SIGPIPE for streams only, and std asks for none.
    pub(crate) fn send(&self, to: Option<&UnixAddr>, data: &[u8]) -> io::Result<usize> {
        let Some(to) = to else {
            return retry(|| self.unix.send(data));
        };
        if let Some(path) = to.as_pathname() {
            return retry(|| self.unix.send_to(data, path));
        }
        let to = to_sock_addr(&Addr::Unix(to.clone()))?;
        retry(|| self.options().send_to(data, &to))
    }

    pub(crate) fn local_addr(&self) -> io::Result<Addr> {
        local_addr(&self.options())
    }

    pub(crate) fn options(&self) -> SockRef<'_> {
        SockRef::from(&self.unix)
    }
}
