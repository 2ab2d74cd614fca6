//! A Unix datagram socket.

use std::io;
use std::os::unix::net::SocketAddr;

use mio::net::UnixDatagram as MioUnixDatagram;
use socket2::{Domain, SockRef, Type};

use super::options::new_nonblocking;
#[cfg(any(test, feature = "sim"))]
use super::sim::SimSocket;
use super::{Os, OwnedSocket, adopt, local_addr, retry, to_addr, to_sock_addr};
use crate::addr::{Addr, UnixAddr};
use crate::error::invalid_input;
use crate::id::PollToken;

/// A Unix datagram socket, bound or unnamed, connected to one peer or to none.
#[derive(Debug)]
pub(crate) enum UnixDatagramSocket {
    Real(MioUnixDatagram),
    #[cfg(any(test, feature = "sim"))]
    Sim(SimSocket),
}

impl UnixDatagramSocket {
    /// Opens a socket. A socket without an address stays unnamed.
    pub(super) fn open(addr: Option<&UnixAddr>) -> io::Result<Self> {
        let socket = new_nonblocking(Domain::UNIX, Type::DGRAM)?;
        if let Some(addr) = addr {
            socket.bind(&to_sock_addr(&Addr::Unix(addr.clone()))?)?;
        }
        Ok(Self::Real(MioUnixDatagram::from_std(socket.into())))
    }

    pub(crate) fn adopt(socket: OwnedSocket) -> io::Result<Self> {
        let socket = adopt::prepare(socket, Type::DGRAM)?;
        if !socket.local_addr()?.is_unix() {
            return Err(invalid_input("the socket is not a Unix socket"));
        }
        Ok(Self::Real(MioUnixDatagram::from_std(socket.into())))
    }

    pub(crate) fn register(&mut self, os: &Os, token: PollToken) -> io::Result<()> {
        match self {
            Self::Real(unix) => os.real_poller()?.register(unix, token),
            #[cfg(any(test, feature = "sim"))]
            Self::Sim(sim) => os.sim().register(*sim, token),
        }
    }

    pub(crate) fn deregister(&mut self, os: &Os) {
        match self {
            Self::Real(unix) => os.poller().deregister(unix),
            #[cfg(any(test, feature = "sim"))]
            Self::Sim(sim) => sim.close(),
        }
    }

    pub(crate) fn connect(&self, peer: &UnixAddr) -> io::Result<()> {
        let peer = Addr::Unix(peer.clone());
        #[cfg(any(test, feature = "sim"))]
        if let Self::Sim(sim) = self {
            return sim.connect_datagrams(peer);
        }
        self.options()?.connect(&to_sock_addr(&peer)?)
    }

    /// Returns the address of the connected peer; `None` if there is no peer.
    pub(crate) fn peer_addr(&self) -> Option<UnixAddr> {
        let peer = match self {
            Self::Real(unix) => to_addr(&SockRef::from(unix).peer_addr().ok()?).ok(),
            #[cfg(any(test, feature = "sim"))]
            Self::Sim(sim) => sim.datagram_peer(),
        };
        peer?.unix().cloned()
    }

    /// Receives one datagram. Bytes that do not fit into `buf` are lost.
    pub(crate) fn recv_from(&self, buf: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        match self {
            Self::Real(unix) => retry(|| unix.recv_from(buf)),
            #[cfg(any(test, feature = "sim"))]
            Self::Sim(sim) => retry(|| sim.recv_from_unix(buf)),
        }
    }

    /// Sends one datagram, to the connected peer if `to` is `None`. The send raises no signal,
    /// because Linux sends `SIGPIPE` for streams only.
    pub(crate) fn send(&self, to: Option<&UnixAddr>, data: &[u8]) -> io::Result<usize> {
        let unix = match self {
            Self::Real(unix) => unix,
            #[cfg(any(test, feature = "sim"))]
            Self::Sim(sim) => {
                return retry(|| sim.send_datagram(to.cloned().map(Addr::Unix), data));
            }
        };
        let Some(to) = to else {
            return retry(|| unix.send(data));
        };
        if let Some(path) = to.as_pathname() {
            return retry(|| unix.send_to(data, path));
        }
        let to = to_sock_addr(&Addr::Unix(to.clone()))?;
        retry(|| SockRef::from(unix).send_to(data, &to))
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
            Self::Real(unix) => Ok(SockRef::from(unix)),
            #[cfg(any(test, feature = "sim"))]
            Self::Sim(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}
