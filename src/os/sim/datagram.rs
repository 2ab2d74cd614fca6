//! Simulated UDP and Unix datagram sockets: boundaries, loss, truncation and refused datagrams.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;

use super::faults::Call;
use super::host::{Class, FIRST_HOST};
use super::poll::Ready;
use super::socket::{Kind, SimSocket};
use super::world::{Action, State, World};
use crate::addr::Addr;

/// Maximum payload of a UDP datagram over IPv4.
const LEN_MAX: usize = 65_507;

/// Maximum number of datagrams in the queue of a Unix socket: one more than the backlog
/// (`unix_recvq_full`), which is `net.unix.max_dgram_qlen`, 10 by default.
const UNIX_COUNT_MAX: usize = 11;

/// Linux's number of the error `EDESTADDRREQ`, of a UDP send without a destination. It has no
/// [`ErrorKind`].
const EDESTADDRREQ: i32 = 89;

/// A datagram on its way or in the queue of its receiver.
#[derive(Debug, Clone)]
pub(super) struct Datagram {
    /// Index of the sender.
    pub(super) sender: usize,
    from: Addr,
    data: Vec<u8>,
}

impl Datagram {
    pub(super) fn len(&self) -> usize {
        self.data.len()
    }
}

/// A datagram socket.
#[derive(Debug, Default)]
pub(super) struct Datagrams {
    /// Address that the socket is connected to.
    peer: Option<Addr>,
    queue: VecDeque<Datagram>,
    queued_bytes: usize,
    queued_bytes_max: usize,
    error: Option<ErrorKind>,
    /// True if sends block, because the test blocked them or because the queue of the peer was
    /// full.
    no_space: bool,
    /// Errors that the next sends return.
    failing: VecDeque<ErrorKind>,
}

impl Datagrams {
    pub(super) fn ready(&self) -> Ready {
        let has_failed = self.error.is_some();
        Ready::READABLE.only_if(!self.queue.is_empty())
            | Ready::WRITABLE.only_if(!self.no_space)
            | Ready::ENDED.only_if(has_failed)
    }
}

impl World {
    /// Binds a datagram socket of the first host.
    pub(crate) fn bind_datagram(self, addr: Addr) -> io::Result<SimSocket> {
        self.bind_datagram_of(FIRST_HOST, &addr)
    }

    pub(crate) fn bind_datagram_of(self, host: usize, addr: &Addr) -> io::Result<SimSocket> {
        self.with(|state| {
            let datagrams = Datagrams {
                queued_bytes_max: state.buffer_lens.1,
                ..Datagrams::default()
            };
            let kind = Kind::Datagrams(datagrams);
            let index = state.bind(host, addr, Class::Datagrams, kind)?;
            Ok(SimSocket { world: self, index })
        })
    }

    /// Returns the datagram socket that is bound to `addr`.
    pub(crate) fn datagram_socket(self, addr: impl Into<Addr>) -> SimSocket {
        let addr = addr.into();
        let index = self.with(|state| state.bound(FIRST_HOST, &addr, Class::Datagrams));
        let index = u32::try_from(index.expect("a datagram socket is bound to the address"))
            .expect("tests open few sockets");
        SimSocket { world: self, index }
    }
}

impl SimSocket {
    pub(crate) fn connect_datagrams(self, peer: Addr) -> io::Result<()> {
        self.with(|state, index| {
            if peer.inet().is_none() {
                state.connect_unix_datagrams(index, &peer)?;
            }
            state.datagrams(index).peer = Some(peer);
            Ok(())
        })
    }

    pub(crate) fn datagram_peer(self) -> Option<Addr> {
        self.with(|state, index| state.datagrams(index).peer.clone())
    }

    /// Makes the next sends of a datagram socket fail.
    pub(crate) fn fail_sends(self, kinds: impl IntoIterator<Item = ErrorKind>) {
        self.with(|state, index| state.datagrams(index).failing.extend(kinds));
    }

    /// Makes sends of a datagram socket block if `on` is true. Otherwise sends succeed again, and
    /// the poll reports a writable edge.
    pub(crate) fn block_sends(self, on: bool) {
        self.with(|state, index| {
            state.datagrams(index).no_space = on;
            if !on {
                state.edge(index, Ready::WRITABLE);
            }
        });
    }

    pub(crate) fn send_datagram(self, to: Option<Addr>, data: &[u8]) -> io::Result<usize> {
        self.with(|state, index| {
            let result = state.send_datagram(index, to, data);
            state.note(|| format!("socket {index} send {}: {result:?}", data.len()));
            result
        })
    }

    /// Receives one datagram. Bytes that do not fit into `buf` are lost.
    pub(crate) fn recv_datagram(self, buf: &mut [u8]) -> io::Result<(usize, Addr)> {
        self.with(|state, index| {
            let host = state.sockets[index].host;
            state.fault(host, Some(index), Call::Receive)?;
            let socket = state.datagrams(index);
            if let Some(kind) = socket.error.take() {
                return Err(kind.into());
            }
            let datagram = socket.queue.pop_front().ok_or(ErrorKind::WouldBlock)?;
            let Datagram { sender, from, data } = datagram;
            socket.queued_bytes -= data.len();
            let len = data.len().min(buf.len());
            buf[..len].copy_from_slice(&data[..len]);
            state.note(|| format!("socket {index} received {}", data.len()));
            state.unblock_senders(index);
            if from.inet().is_none() {
                // The kernel frees the memory of the datagram and wakes its sender (`sock_wfree`).
                state.edge(sender, Ready::WRITABLE);
            }
            Ok((len, from))
        })
    }

    pub(crate) fn recv_from_inet(self, buf: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        let (len, from) = self.recv_datagram(buf)?;
        Ok((
            len,
            from.inet().expect("only UDP sockets send to UDP sockets"),
        ))
    }

    #[cfg(unix)]
    pub(crate) fn recv_from_unix(
        self,
        buf: &mut [u8],
    ) -> io::Result<(usize, std::os::unix::net::SocketAddr)> {
        let (len, from) = self.recv_datagram(buf)?;
        let Addr::Unix(from) = from else {
            panic!("only Unix sockets send to Unix sockets");
        };
        // An empty path makes an unnamed address; abstract names are not simulated.
        let path = from
            .as_pathname()
            .unwrap_or_else(|| std::path::Path::new(""));
        let from = std::os::unix::net::SocketAddr::from_pathname(path)?;
        Ok((len, from))
    }
}

impl State {
    fn datagrams(&mut self, index: usize) -> &mut Datagrams {
        match &mut self.sockets[index].kind {
            Kind::Datagrams(datagrams) => datagrams,
            _ => panic!("socket {index} is not a datagram socket"),
        }
    }

    fn send_datagram(&mut self, from: usize, to: Option<Addr>, data: &[u8]) -> io::Result<usize> {
        let mut local = self.sockets[from].local.clone();
        let is_udp = local.inet().is_some();
        let host = self.sockets[from].host;
        self.fault(host, Some(from), Call::Send)?;
        let sender = self.datagrams(from);
        if let Some(kind) = sender.failing.pop_front() {
            return Err(kind.into());
        }
        if let Some(kind) = sender.error.take() {
            return Err(kind.into());
        }
        if data.len() > LEN_MAX {
            return Err(ErrorKind::InvalidInput.into());
        }
        if sender.no_space {
            return Err(ErrorKind::WouldBlock.into());
        }
        let is_connected = sender.peer.is_some();
        let is_to_peer = to.is_none();
        let Some(to) = to.or_else(|| sender.peer.clone()) else {
            return Err(if is_udp {
                io::Error::from_raw_os_error(EDESTADDRREQ)
            } else {
                self.undelivered(from, ErrorKind::NotConnected)
            });
        };
        if let (Addr::Inet(local), Addr::Inet(to)) = (&mut local, &to)
            && local.ip().is_unspecified()
        {
            local.set_ip(self.source_for(host, *to)?);
        }
        let target = self.bound(host, &to, Class::Datagrams);
        match target {
            Some(to) if !is_udp && self.is_of_another(to, &local) => {
                Err(self.undelivered(from, ErrorKind::PermissionDenied))
            }
            Some(to) if !is_udp && self.is_full(to, data.len()) => {
                self.datagrams(from).no_space = is_connected;
                Err(self.undelivered(from, ErrorKind::WouldBlock))
            }
            Some(to) => {
                let datagram = Datagram {
                    sender: from,
                    from: local,
                    data: data.to_vec(),
                };
                self.send(Action::Datagram { to, datagram });
                if is_udp {
                    // The network takes the datagram at once, which frees the send buffer again.
                    self.edge(from, Ready::WRITABLE);
                }
                Ok(data.len())
            }
            None if !is_udp => {
                if is_to_peer {
                    // The peer is closed. The socket then loses its peer and its queue
                    // (`unix_dgram_disconnected`).
                    self.datagrams(from).peer = None;
                    self.discard_datagrams(from);
                }
                Err(self.undelivered(from, ErrorKind::ConnectionRefused))
            }
            None => {
                self.refuse(from, &to);
                self.edge(from, Ready::WRITABLE);
                Ok(data.len())
            }
        }
    }

    /// Returns the error of a Unix datagram that was not delivered. The kernel frees the memory of
    /// the datagram, and so wakes its sender (`sock_wfree`).
    fn undelivered(&mut self, sender: usize, kind: ErrorKind) -> io::Error {
        self.edge(sender, Ready::WRITABLE);
        kind.into()
    }

    /// Returns the address that a socket is connected to.
    pub(super) fn datagram_peer(&mut self, index: usize) -> Option<Addr> {
        self.datagrams(index).peer.clone()
    }

    /// Reports to the sender that no socket received its datagram (ICMP port unreachable). Only a
    /// UDP socket that is connected to the destination receives the report (udp(7)).
    fn refuse(&mut self, sender: usize, to: &Addr) {
        if self.datagrams(sender).peer.as_ref() == Some(to) {
            self.send(Action::Refusal(sender));
        }
    }

    /// Returns true if a socket is connected to a peer that does not have the address `from`.
    fn is_of_another(&mut self, index: usize, from: &Addr) -> bool {
        let peer = self.datagrams(index).peer.as_ref();
        peer.is_some_and(|peer| peer != from)
    }

    /// Checks and prepares the connect of a Unix socket (`unix_dgram_connect`). If the socket has
    /// another peer, it loses the datagrams in its queue. This former peer gets an error if it is
    /// connected to the socket and the queue was not empty.
    fn connect_unix_datagrams(&mut self, index: usize, peer: &Addr) -> io::Result<()> {
        let local = self.sockets[index].local.clone();
        let target = self.bound(FIRST_HOST, peer, Class::Datagrams);
        let target = target.ok_or(ErrorKind::ConnectionRefused)?;
        if self.is_of_another(target, &local) {
            return Err(ErrorKind::PermissionDenied.into());
        }
        let socket = self.datagrams(index);
        let Some(former) = socket.peer.clone() else {
            return Ok(());
        };
        self.edge(index, Ready::WRITABLE);
        if former != *peer && !self.datagrams(index).queue.is_empty() {
            self.discard_datagrams(index);
            if let Some(former) = self.bound(FIRST_HOST, &former, Class::Datagrams)
                && former != index
                && self.datagrams(former).peer.as_ref() == Some(&local)
            {
                self.datagrams(former).error = Some(ErrorKind::ConnectionReset);
                self.edge(former, Ready::ENDED);
            }
        }
        Ok(())
    }

    /// Discards the queue of a socket, for example because the socket was closed. The senders of
    /// Unix datagrams get their memory back.
    pub(super) fn discard_datagrams(&mut self, index: usize) {
        let socket = self.datagrams(index);
        socket.queued_bytes = 0;
        for Datagram { sender, from, .. } in std::mem::take(&mut socket.queue) {
            if from.inet().is_none() {
                self.edge(sender, Ready::WRITABLE);
            }
        }
    }

    fn is_full(&mut self, index: usize, len: usize) -> bool {
        let is_unix = self.sockets[index].local.inet().is_none();
        let socket = self.datagrams(index);
        socket.queued_bytes + len > socket.queued_bytes_max
            || is_unix && socket.queue.len() >= UNIX_COUNT_MAX
    }

    pub(super) fn receive_datagram(&mut self, to: usize, datagram: Datagram) {
        let len = datagram.data.len();
        if self.sockets[to].is_closed || self.is_of_another(to, &datagram.from) {
            let to = self.sockets[to].local.clone();
            return self.refuse(datagram.sender, &to);
        }
        if self.is_full(to, len) {
            return;
        }
        let socket = self.datagrams(to);
        socket.queued_bytes += len;
        socket.queue.push_back(datagram);
        self.edge(to, Ready::READABLE);
    }

    pub(super) fn receive_refusal(&mut self, index: usize) {
        self.datagrams(index).error = Some(ErrorKind::ConnectionRefused);
        self.edge(index, Ready::ENDED);
    }

    /// Reports a writable edge to the senders that are connected to a Unix socket and wait for its
    /// queue.
    fn unblock_senders(&mut self, index: usize) {
        let local = self.sockets[index].local.clone();
        for sender in 0..self.sockets.len() {
            if let Kind::Datagrams(socket) = &mut self.sockets[sender].kind
                && local.inet().is_none()
                && socket.no_space
                && socket.peer.as_ref() == Some(&local)
            {
                socket.no_space = false;
                self.edge(sender, Ready::WRITABLE);
            }
        }
    }
}
