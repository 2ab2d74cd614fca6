//! A UDP socket.

use std::io;
use std::net::SocketAddr;

use mio::net::UdpSocket;
use socket2::SockRef;

use super::{Driver, UdpOptions, retry};
use crate::token::PollToken;

/// A bound UDP socket, perhaps connected to one peer.
#[derive(Debug)]
pub(crate) struct Udp {
    udp: UdpSocket,
}

impl Udp {
    pub(crate) fn bind(addr: SocketAddr, options: &UdpOptions) -> io::Result<Self> {
        let socket = options.bind(addr)?;
        Ok(Self {
            udp: UdpSocket::from_std(socket.into()),
        })
    }

    pub(crate) fn register(&mut self, driver: &Driver, token: PollToken) -> io::Result<()> {
        driver.register(&mut self.udp, token)
    }

    pub(crate) fn deregister(&mut self, driver: &Driver) {
        driver.deregister(&mut self.udp);
    }

    pub(crate) fn connect(&self, peer: SocketAddr) -> io::Result<()> {
        self.udp.connect(peer)
    }

    /// Receives one datagram, as much of it as `buf` holds.
    pub(crate) fn recv_from(&self, buf: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        retry(|| self.udp.recv_from(buf))
    }

    /// Sends one datagram, to the connected peer if `to` is `None`.
    pub(crate) fn send(&self, to: Option<SocketAddr>, data: &[u8]) -> io::Result<usize> {
        retry(|| match to {
            Some(to) => self.udp.send_to(data, to),
            None => self.udp.send(data),
        })
    }

    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.udp.local_addr()
    }

    pub(crate) fn options(&self) -> SockRef<'_> {
        SockRef::from(&self.udp)
    }
}
