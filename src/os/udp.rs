//! A UDP socket.

use std::io;
use std::net::SocketAddr;

use mio::net::UdpSocket;
use socket2::{SockRef, Socket};

#[cfg(any(test, feature = "sim"))]
use super::sim::SimSocket;
use super::udp_batch::{Batcher, Wanted, send_marked};
use super::{Os, OwnedSocket, local_addr, retry};
use crate::addr::Addr;
use crate::datagram::{DatagramQueue, Message, RecvBatch};
use crate::id::PollToken;

/// A bound UDP socket, connected to one peer or to none.
#[derive(Debug)]
pub(crate) enum Udp {
    Real(RealUdp),
    #[cfg(any(test, feature = "sim"))]
    Sim(SimSocket),
}

/// A UDP socket of the system.
#[derive(Debug)]
pub(crate) struct RealUdp {
    udp: UdpSocket,
    is_connected: bool,
    /// True if this IPv6 socket accepts an IPv4 destination only if it is mapped into IPv6.
    maps_v4: bool,
    awaits_writable: bool,
    /// `None` if the socket needs only calls for one datagram without details.
    batcher: Option<Batcher>,
}

/// True if an IPv6 socket accepts IPv4 destinations in both forms: as IPv4, and mapped into IPv6.
/// The BSDs and Windows accept only the mapped form.
const TAKES_BOTH_FAMILIES: bool = cfg!(any(target_os = "linux", target_os = "android"));

/// The result of a receive.
#[derive(Debug)]
pub(crate) struct Received {
    /// True if an event will report the next datagram or a pending error, as after `WouldBlock`.
    pub(crate) emptied: bool,
    /// Number of datagrams that the kernel dropped since the last report.
    pub(crate) dropped: u32,
}

impl Udp {
    /// Wraps a non-blocking socket. `in_batches` requests several datagrams per system call.
    pub(super) fn new(socket: Socket, in_batches: bool, wanted: Wanted) -> io::Result<Self> {
        let is_connected = socket.peer_addr().is_ok();
        let maps_v4 = !TAKES_BOTH_FAMILIES && socket.local_addr()?.is_ipv6();
        let udp = UdpSocket::from_std(socket.into());
        let batcher = Batcher::new(&udp, in_batches, wanted)?;
        Ok(Self::Real(RealUdp {
            udp,
            is_connected,
            maps_v4,
            awaits_writable: false,
            batcher,
        }))
    }

    pub(crate) fn register(&mut self, os: &Os, token: PollToken) -> io::Result<()> {
        match self {
            Self::Real(real) => os.real_poller()?.register_datagrams(&mut real.udp, token),
            #[cfg(any(test, feature = "sim"))]
            Self::Sim(sim) => os.sim().register_datagrams(*sim, token),
        }
    }

    /// Enables or disables the event that reports that the socket is writable.
    pub(crate) fn await_writable(&mut self, os: &Os, token: PollToken, on: bool) -> io::Result<()> {
        match self {
            Self::Real(real) if real.awaits_writable != on => {
                os.real_poller()?.await_writable(&mut real.udp, token, on)?;
                real.awaits_writable = on;
            }
            Self::Real(_) => {}
            #[cfg(any(test, feature = "sim"))]
            Self::Sim(sim) => sim.await_writable(on)?,
        }
        Ok(())
    }

    pub(crate) fn deregister(&mut self, os: &Os) {
        match self {
            Self::Real(real) => os.poller().deregister(&mut real.udp),
            #[cfg(any(test, feature = "sim"))]
            Self::Sim(sim) => sim.close(),
        }
    }

    pub(crate) fn connect(&mut self, peer: SocketAddr) -> io::Result<()> {
        match self {
            Self::Real(real) => {
                real.udp.connect(to_family(peer, real.maps_v4))?;
                real.is_connected = true;
            }
            #[cfg(any(test, feature = "sim"))]
            Self::Sim(sim) => sim.connect_datagrams(peer.into())?,
        }
        Ok(())
    }

    /// Receives datagrams into `recv_batch`: at most about `datagrams_max` if the socket uses
    /// batches, otherwise one message. The system call limits only the number of messages, and a
    /// message may contain up to 64 datagrams of one sender. So the number of messages is computed
    /// from the recent number of datagrams per message.
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
            #[cfg(any(test, feature = "sim"))]
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
                None => send_front(&real.udp, queue, real.maps_v4),
            },
            #[cfg(any(test, feature = "sim"))]
            Self::Sim(sim) => {
                let Some(front) = queue.front() else {
                    return Ok(0);
                };
                retry(|| sim.send_datagram(front.to.map(Addr::Inet), front.data)).map(|_| 1)
            }
        }
    }

    /// Returns the address of the connected peer. Its datagrams have this source address.
    pub(crate) fn peer_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Real(real) => real.udp.peer_addr(),
            #[cfg(any(test, feature = "sim"))]
            Self::Sim(sim) => {
                let peer = sim.datagram_peer().and_then(|peer| peer.inet());
                peer.ok_or_else(|| io::ErrorKind::NotConnected.into())
            }
        }
    }

    pub(crate) fn local_addr(&self) -> io::Result<Addr> {
        #[cfg(any(test, feature = "sim"))]
        if let Self::Sim(sim) = self {
            return Ok(sim.local_addr());
        }
        local_addr(&*self.options()?)
    }

    /// Returns another descriptor of the socket. Fails for a simulated socket, which has no
    /// descriptor.
    pub(crate) fn duplicate(&self) -> io::Result<OwnedSocket> {
        Ok(self.options()?.try_clone()?.into())
    }

    pub(crate) fn options(&self) -> io::Result<SockRef<'_>> {
        match self {
            Self::Real(real) => Ok(SockRef::from(&real.udp)),
            #[cfg(any(test, feature = "sim"))]
            Self::Sim(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

/// Sends the oldest datagram of `queue` alone and returns 1. Returns 0 if the queue is empty.
pub(super) fn send_front(
    udp: &UdpSocket,
    queue: &DatagramQueue,
    maps_v4: bool,
) -> io::Result<usize> {
    let Some(mut front) = queue.front() else {
        return Ok(0);
    };
    front.to = front.to.map(|to| to_family(to, maps_v4));
    let sent = match (front.to, front.marks) {
        (_, Some(marks)) => send_marked(udp, front, *marks),
        (Some(to), None) => retry(|| udp.send_to(front.data, to)),
        (None, None) => retry(|| udp.send(front.data)),
    };
    sent.map(|_| 1)
}

/// Returns a destination in the form that the socket accepts. If `maps_v4` is true, an IPv4 address
/// is mapped into IPv6 (RFC 4291, 2.5.5.2).
fn to_family(to: SocketAddr, maps_v4: bool) -> SocketAddr {
    match to {
        SocketAddr::V4(v4) if maps_v4 => {
            SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port())
        }
        _ => to,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ipv4_destinations_are_mapped_into_ipv6() {
        for (to, mapped) in [
            ("192.0.2.1:7", "[::ffff:192.0.2.1]:7"),
            ("[2001:db8::1]:7", "[2001:db8::1]:7"),
            ("[fe80::1%3]:7", "[fe80::1%3]:7"),
        ] {
            let to: SocketAddr = to.parse().expect("a valid address");
            assert_eq!(to_family(to, false), to);
            assert_eq!(Ok(to_family(to, true)), mapped.parse());
        }
    }
}
