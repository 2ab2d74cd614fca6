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

/// A datagram socket.
#[derive(Debug, Default)]
pub(super) struct Datagrams {
    /// Address that the socket is connected to.
    peer: Option<Addr>,
    queue: VecDeque<(Addr, Vec<u8>)>,
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
        Ready::READABLE.only_if(!self.queue.is_empty() || has_failed)
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
    pub(crate) fn connect_datagrams(self, peer: Addr) {
        self.with(|state, index| state.datagrams(index).peer = Some(peer));
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
            let (from, data) = socket.queue.pop_front().ok_or(ErrorKind::WouldBlock)?;
            socket.queued_bytes -= data.len();
            let len = data.len().min(buf.len());
            buf[..len].copy_from_slice(&data[..len]);
            state.note(|| format!("socket {index} received {}", data.len()));
            state.unblock_senders(index);
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
        let Some(to) = to.or_else(|| sender.peer.clone()) else {
            return Err(ErrorKind::NotConnected.into());
        };
        if let (Addr::Inet(local), Addr::Inet(to)) = (&mut local, &to)
            && local.ip().is_unspecified()
        {
            local.set_ip(self.source_for(host, *to)?);
        }
        let target = self.bound(host, &to, Class::Datagrams);
        match target {
            Some(to) if !is_udp && self.is_full(to, data.len()) => {
                self.datagrams(from).no_space = is_connected;
                Err(ErrorKind::WouldBlock.into())
            }
            Some(to) => {
                self.send(Action::Datagram {
                    to,
                    sender: from,
                    from: local,
                    data: data.to_vec(),
                });
                Ok(data.len())
            }
            None if !is_udp => Err(ErrorKind::ConnectionRefused.into()),
            None => {
                // Only a connected UDP socket receives the report that a datagram was refused
                // (udp(7)).
                if is_connected {
                    self.send(Action::Refusal(from));
                }
                Ok(data.len())
            }
        }
    }

    /// Returns the address that a socket is connected to.
    pub(super) fn datagram_peer(&mut self, index: usize) -> Option<Addr> {
        self.datagrams(index).peer.clone()
    }

    fn is_full(&mut self, index: usize, len: usize) -> bool {
        let socket = self.datagrams(index);
        socket.queued_bytes + len > socket.queued_bytes_max
    }

    pub(super) fn receive_datagram(&mut self, to: usize, from: Addr, data: Vec<u8>) {
        let is_full = self.is_full(to, data.len());
        let is_closed = self.sockets[to].is_closed;
        let socket = self.datagrams(to);
        let is_filtered = socket.peer.as_ref().is_some_and(|peer| *peer != from);
        if is_full || is_closed || is_filtered {
            return;
        }
        socket.queued_bytes += data.len();
        socket.queue.push_back((from, data));
        self.edge(to, Ready::READABLE);
    }

    pub(super) fn receive_refusal(&mut self, index: usize) {
        self.datagrams(index).error = Some(ErrorKind::ConnectionRefused);
        self.edge(index, Ready::READABLE | Ready::ENDED);
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
