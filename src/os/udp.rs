//! A UDP socket.

use std::io;
use std::net::SocketAddr;

use mio::net::UdpSocket;
use socket2::{SockRef, Socket};

use super::udp_batch::Batcher;
use super::{Poller, UdpOptions, retry};
use crate::addr::Addr;
use crate::datagram::{DatagramQueue, Message, RecvBatch};
use crate::id::PollToken;

/// A bound UDP socket, perhaps connected to one peer.
#[derive(Debug)]
pub(crate) struct Udp {
    udp: UdpSocket,
    is_connected: bool,
    awaits_writable: bool,
    /// None where the system cannot, or the program does not want it.
    batcher: Option<Batcher>,
}

/// What a receive brought.
#[derive(Debug)]
pub(crate) struct Received {
    /// There was no more: the next one makes an edge, as after `WouldBlock`.
    pub(crate) emptied: bool,
}

impl Udp {
    /// `in_batches` asks for many datagrams a system call, where the system can.
    pub(crate) fn bind(
        addr: SocketAddr,
        options: &UdpOptions,
        in_batches: bool,
    ) -> io::Result<Self> {
        Self::new(options.bind(addr)?, in_batches)
    }

    /// Of a socket that does not block.
    pub(super) fn new(socket: Socket, in_batches: bool) -> io::Result<Self> {
        let is_connected = socket.peer_addr().is_ok();
        let udp = UdpSocket::from_std(socket.into());
        let batcher = if in_batches {
            Batcher::new(&udp)?
        } else {
            None
        };
        Ok(Self {
            udp,
            is_connected,
            awaits_writable: false,
            batcher,
        })
    }

    pub(crate) fn register(&mut self, poller: &Poller, token: PollToken) -> io::Result<()> {
        poller.register_datagrams(&mut self.udp, token)
    }

    /// Asks for an event when there is room to send, as there was none; or for none any more.
    pub(crate) fn await_writable(
        &mut self,
        poller: &Poller,
        token: PollToken,
        on: bool,
    ) -> io::Result<()> {
        if self.awaits_writable != on {
            poller.await_writable(&mut self.udp, token, on)?;
            self.awaits_writable = on;
        }
        Ok(())
    }

    pub(crate) fn deregister(&mut self, poller: &Poller) {
        poller.deregister(&mut self.udp);
    }

    pub(crate) fn connect(&mut self, peer: SocketAddr) -> io::Result<()> {
        self.udp.connect(peer)?;
        self.is_connected = true;
        Ok(())
    }

    /// One receive into `recv_batch`, of about `datagrams_max`: a system call counts messages, and may
    /// bring up to 64 datagrams of one sender as one. How many it did lately is reckoned with.
    pub(crate) fn receive(
        &mut self,
        recv_batch: &mut RecvBatch,
        datagrams_max: usize,
    ) -> io::Result<Received> {
        let Self { udp, batcher, .. } = self;
        if let Some(batcher) = batcher {
            return batcher.receive(udp, recv_batch, datagrams_max);
        }
        let [slot] = recv_batch.slots();
        let (len, from) = retry(|| udp.recv_from(slot))?;
        recv_batch.push(Message::one(from, len));
        Ok(Received { emptied: false })
    }

    /// Sends the oldest datagrams of `queue`, as many as one call takes, and answers how many. An
    /// error is about the oldest one, or about one that was sent earlier.
    pub(crate) fn send(&mut self, queue: &DatagramQueue) -> io::Result<usize> {
        if queue.count() > 1
            && let Some(batcher) = &mut self.batcher
            && let Some(result) = batcher.send(&self.udp, self.is_connected, queue)
        {
            return result;
        }
        let Some((to, data)) = queue.front() else {
            return Ok(0);
        };
        let result = retry(|| match to {
            Some(to) => self.udp.send_to(data, to),
            None => self.udp.send(data),
        });
        if let Some(batcher) = &mut self.batcher {
            batcher.sent_one(&result);
        }
        result.map(|_| 1)
    }

    pub(crate) fn local_addr(&self) -> io::Result<Addr> {
        self.udp.local_addr().map(Addr::Inet)
    }

    pub(crate) fn options(&self) -> SockRef<'_> {
        SockRef::from(&self.udp)
    }
}
