//! A UDP socket.

use std::io;
use std::net::SocketAddr;

use mio::net::UdpSocket;
use socket2::{SockRef, Socket};

#[cfg(test)]
use super::sim::SimSocket;
use super::udp_batch::{Batcher, Wanted, send_marked};
use super::{Os, local_addr, retry};
use crate::addr::Addr;
use crate::datagram::{DatagramQueue, Message, RecvBatch};
use crate::id::PollToken;

/// A bound UDP socket, connected to one peer or to none.
#[derive(Debug)]
pub(crate) enum Udp {
    Real(RealUdp),
    #[cfg(test)]
    Sim(SimSocket),
}

/// A UDP socket of the system.
#[derive(Debug)]
pub(crate) struct RealUdp {
    udp: UdpSocket,
    is_connected: bool,
    awaits_writable: bool,
    /// `None` if the socket needs only calls for one datagram without details.
    batcher: Option<Batcher>,
}

/// The result of a receive.
#[derive(Debug)]
pub(crate) struct Received {
    /// True if no datagram is left, so that the next datagram causes an event, as after
    /// `WouldBlock`.
    pub(crate) emptied: bool,
    /// Number of datagrams that the kernel dropped since the last report.
    pub(crate) dropped: u32,
}

impl Udp {
    /// Wraps a non-blocking socket. `in_batches` requests several datagrams per system call.
    pub(super) fn new(socket: Socket, in_batches: bool, wanted: Wanted) -> io::Result<Self> {
        let is_connected = socket.peer_addr().is_ok();
        let udp = UdpSocket::from_std(socket.into());
        let batcher = Batcher::new(&udp, in_batches, wanted)?;
        Ok(Self::Real(RealUdp {
            udp,
            is_connected,
            awaits_writable: false,
            batcher,
        }))
    }

    pub(crate) fn register(&mut self, os: &Os, token: PollToken) -> io::Result<()> {
        match self {
            Self::Real(real) => os.poller().register_datagrams(&mut real.udp, token),
            #[cfg(test)]
            Self::Sim(sim) => os.sim().register_datagrams(*sim, token),
        }
    }

    /// Enables or disables the event that reports that the socket is writable.
    pub(crate) fn await_writable(&mut self, os: &Os, token: PollToken, on: bool) -> io::Result<()> {
        match self {
            Self::Real(real) if real.awaits_writable != on => {
                os.poller().await_writable(&mut real.udp, token, on)?;
                real.awaits_writable = on;
            }
            Self::Real(_) => {}
            #[cfg(test)]
            Self::Sim(sim) => sim.await_writable(on),
        }
        Ok(())
    }

    pub(crate) fn deregister(&mut self, os: &Os) {
        match self {
            Self::Real(real) => os.poller().deregister(&mut real.udp),
            #[cfg(test)]
            Self::Sim(sim) => sim.close(),
        }
    }

    pub(crate) fn connect(&mut self, peer: SocketAddr) -> io::Result<()> {
        match self {
            Self::Real(real) => {
                real.udp.connect(peer)?;
                real.is_connected = true;
            }
            #[cfg(test)]
            Self::Sim(sim) => sim.connect_datagrams(peer.into()),
        }
        Ok(())
    }

    /// Receives about `datagrams_max` datagrams into `recv_batch`. The system call limits only the
    /// number of messages, and a message may contain up to 64 datagrams of one sender. So the
    /// number of messages is computed from the recent number of datagrams per message.
    pub(crate) fn receive(
        &mut self,
        recv_batch: &mut RecvBatch,
        datagrams_max: usize,
    ) -> io::Result<Received> {
        let (len, from) = match self {
            Self::Real(RealUdp {
                udp,
                batcher: Some(batcher),
                ..
            }) => return batcher.receive(udp, recv_batch, datagrams_max),
            Self::Real(RealUdp { udp, .. }) => {
                let [slot] = recv_batch.slots();
                retry(|| udp.recv_from(slot))?
            }
            #[cfg(test)]
            Self::Sim(sim) => {
                let [slot] = recv_batch.slots();
                retry(|| sim.recv_from_inet(slot))?
            }
        };
        recv_batch.push(Message::one(from, len));
        Ok(Received {
            emptied: false,
            dropped: 0,
        })
    }

    /// Sends the oldest datagrams of `queue`. Returns the number of datagrams that the kernel
    /// accepted. An error concerns the oldest datagram, or a datagram that was sent earlier.
    pub(crate) fn send(&mut self, queue: &DatagramQueue) -> io::Result<usize> {
        match self {
            Self::Real(real) => match &mut real.batcher {
                Some(batcher) => batcher.send(&real.udp, real.is_connected, queue),
                None => send_front(&real.udp, queue),
            },
            #[cfg(test)]
            Self::Sim(sim) => {
                let Some(front) = queue.front() else {
                    return Ok(0);
                };
                retry(|| sim.send_datagram(front.to.map(Addr::Inet), front.data)).map(|_| 1)
            }
        }
    }

    /// Returns the address of the connected peer, as the kernel reports it for its datagrams.
    pub(crate) fn peer_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Real(real) => real.udp.peer_addr(),
            #[cfg(test)]
            Self::Sim(sim) => {
                let peer = sim.datagram_peer().and_then(|peer| peer.inet());
                peer.ok_or_else(|| io::ErrorKind::NotConnected.into())
            }
        }
    }

    pub(crate) fn local_addr(&self) -> io::Result<Addr> {
        #[cfg(test)]
        if let Self::Sim(sim) = self {
            return Ok(sim.local_addr());
        }
        local_addr(&*self.options()?)
    }

    pub(crate) fn options(&self) -> io::Result<SockRef<'_>> {
        match self {
            Self::Real(real) => Ok(SockRef::from(&real.udp)),
            #[cfg(test)]
            Self::Sim(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

/// Sends the oldest datagram of `queue` alone and returns 1. Returns 0 if the queue is empty.
pub(super) fn send_front(udp: &UdpSocket, queue: &DatagramQueue) -> io::Result<usize> {
    let Some(front) = queue.front() else {
        return Ok(0);
    };
    let sent = match (front.to, front.marks) {
        (_, Some(marks)) => send_marked(udp, front, *marks),
        (Some(to), None) => retry(|| udp.send_to(front.data, to_family(udp, to))),
        (None, None) => retry(|| udp.send(front.data)),
    };
    sent.map(|_| 1)
}

/// Returns an IPv4 address in the form that the socket accepts. A Windows socket of IPv6 needs the
/// mapped form. Other systems accept both forms.
fn to_family(udp: &UdpSocket, to: SocketAddr) -> SocketAddr {
    match (to, cfg!(windows)) {
        (SocketAddr::V4(v4), true) if udp.local_addr().is_ok_and(|it| it.is_ipv6()) => {
            SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port())
        }
        _ => to,
    }
}
