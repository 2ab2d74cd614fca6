//! Peers of the connections of a reactor: the test calls them directly.

use std::io::{self, ErrorKind};

use super::host::FIRST_HOST;
use super::script::Script;
use super::socket::SimSocket;
use super::world::World;
use crate::addr::Addr;
use crate::os::{self, ConnectOptions, ListenOptions};

/// One end of a connection, which the test uses without a reactor.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SimPeer(pub(super) SimSocket);

/// A listener that the test uses without a reactor.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SimListener(SimSocket);

/// State of a raw peer's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PeerState {
    /// The connect is in progress.
    Connecting,
    /// The connect failed, for example with `ConnectionRefused`.
    Failed(ErrorKind),
    /// Both ends are open, or only this end has ended its side.
    Open,
    /// The FIN of the other end has arrived. Bytes that came before it can still be received.
    Ended,
    /// The other end has reset the connection, or the network has given it up.
    Reset,
    /// This end is closed.
    Closed,
}

impl World {
    /// Connects without a reactor. If the latency is zero, the result of the connect is known on
    /// return, unless the target does not respond or its backlog is full.
    pub(crate) fn connect(self, addr: impl Into<Addr>) -> SimPeer {
        self.connect_with(addr, &ConnectOptions::new())
    }

    /// Connects with options. The simulation uses only the local address and the buffer lengths.
    pub(crate) fn connect_with(self, addr: impl Into<Addr>, options: &ConnectOptions) -> SimPeer {
        let socket = self.connect_socket(FIRST_HOST, &addr.into(), options);
        SimPeer(socket.expect("the connect can begin"))
    }

    /// Connects from a host. The send buffer of the peer has no limit.
    pub(crate) fn connect_of(self, host: usize, addr: &Addr) -> io::Result<SimPeer> {
        let peer = SimPeer(self.connect_socket(host, addr, &ConnectOptions::new())?);
        peer.0.set_raw();
        Ok(peer)
    }

    /// Listens without a reactor.
    pub(crate) fn listen(self, addr: impl Into<Addr>) -> SimListener {
        self.listen_with(addr, &ListenOptions::new())
    }

    pub(crate) fn listen_with(self, addr: impl Into<Addr>, options: &ListenOptions) -> SimListener {
        let listener = self.listen_of(FIRST_HOST, &addr.into(), options);
        listener.expect("the address is free")
    }

    /// Listens on a host, without a reactor.
    pub(crate) fn listen_of(
        self,
        host: usize,
        addr: &Addr,
        options: &ListenOptions,
    ) -> io::Result<SimListener> {
        match self.bind_listener_of(host, addr, options, 1024)? {
            os::Listener::Sim(socket) => Ok(SimListener(socket)),
            other => panic!("the listener of a simulated world is simulated: {other:?}"),
        }
    }
}

impl SimListener {
    /// Accepts a connection. Returns `None` if the backlog is empty.
    pub(crate) fn accept(self) -> Option<SimPeer> {
        self.0.accept().ok().map(|(socket, _)| SimPeer(socket))
    }

    /// Accepts a connection. The send buffer of the peer has no limit.
    pub(crate) fn accept_raw(self) -> Option<SimPeer> {
        let peer = self.accept()?;
        peer.0.set_raw();
        Some(peer)
    }

    pub(crate) fn local_addr(self) -> Addr {
        self.0.local_addr()
    }

    pub(crate) fn close(self) {
        self.0.close();
    }
}

impl SimPeer {
    /// Sends as many bytes as the send buffer takes, and returns their number.
    pub(crate) fn send(self, bytes: &[u8]) -> usize {
        self.0.write(bytes).unwrap_or(0)
    }

    /// Returns the number of bytes that have not reached the receive buffer of the other end.
    pub(crate) fn unsent_len(self) -> usize {
        self.0.unsent_len()
    }

    /// Returns the state of the connection, as this end knows it.
    pub(crate) fn state(self) -> PeerState {
        self.0.peer_state()
    }

    pub(crate) fn local_addr(self) -> Addr {
        self.0.local_addr()
    }

    /// Receives at most `len` bytes that have arrived. The bytes that wait for space in the receive
    /// buffer are received too. The end of the stream or an error is left for a later read.
    pub(crate) fn recv_arrived(self, len: usize) -> Vec<u8> {
        let mut received = Vec::new();
        loop {
            let len = self.0.unread_len().min(len - received.len());
            let bytes = self.recv_up_to(len);
            if bytes.is_empty() {
                return received;
            }
            received.extend(bytes);
        }
    }

    /// Receives all available bytes.
    pub(crate) fn recv(self) -> Vec<u8> {
        self.recv_up_to(usize::MAX)
    }

    /// Receives at most `len` bytes.
    pub(crate) fn recv_up_to(self, len: usize) -> Vec<u8> {
        let mut received = Vec::new();
        while received.len() < len {
            let mut buf = [0; 4096];
            let buf_len = buf.len().min(len - received.len());
            match self.0.read(&mut buf[..buf_len]) {
                Ok(len) if len > 0 => received.extend_from_slice(&buf[..len]),
                _ => break,
            }
        }
        received
    }

    /// Reads at most one byte. The result `Ok(0)` is the end of the stream.
    pub(crate) fn read_end(self) -> io::Result<usize> {
        self.0.read(&mut [0])
    }

    /// Returns true if the connect has succeeded.
    pub(crate) fn is_connected(self) -> bool {
        matches!(self.0.connected(), Ok(Some(_)))
    }

    /// Ends this side with a FIN.
    pub(crate) fn shutdown(self) {
        let _ = self.0.shutdown_write();
    }

    /// Closes the connection with a reset.
    pub(crate) fn reset(self) {
        self.0.reset();
        self.0.close();
    }

    pub(crate) fn close(self) {
        self.0.close();
    }

    /// Returns the script of the socket at the other end, to inject faults into the reactor.
    pub(crate) fn faults(self) -> Script {
        self.0.with(|state, index| {
            let other = state.stream(index).peer.expect("the stream is connected");
            let index = u32::try_from(other).expect("tests open few sockets");
            let world = self.0.world;
            SimSocket { world, index }.script()
        })
    }
}
