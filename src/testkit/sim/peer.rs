//! Peers without a reactor: a test sends and receives their bytes.

use std::marker::PhantomData;
use std::rc::Rc;
use std::{fmt, io};

use crate::addr::Addr;
use crate::os::sim::{PeerState, SimListener, SimPeer, SimSocket};

/// Length of the buffer for a received datagram. No datagram is longer.
const DATAGRAM_LEN_MAX: usize = 65_535;

/// One end of a simulated connection that the test uses directly, without a reactor and a framing.
///
/// [`Simulation::connect`](super::Simulation::connect) and [`PeerListener::accept`] create it. All
/// copies of a `Peer` are the same end. Bytes arrive at the other end while the simulation runs.
#[derive(Clone, Copy)]
pub struct Peer {
    peer: SimPeer,
    /// A peer is used on the thread of its simulation only.
    thread: PhantomData<Rc<()>>,
}

impl Peer {
    pub(super) fn new(peer: SimPeer) -> Self {
        Self {
            peer,
            thread: PhantomData,
        }
    }

    /// Sends bytes. The peer buffers any number of bytes until the other end has space for them.
    /// Bytes that are sent after the end of this side are discarded.
    pub fn send(self, bytes: &[u8]) {
        self.peer.send(bytes);
    }

    /// Returns the number of sent bytes that have not reached the receive buffer of the other end.
    /// They are on their way, or the buffer is full.
    #[must_use]
    pub fn unsent_len(self) -> usize {
        self.peer.unsent_len()
    }

    /// Receives all bytes that have arrived. The result is empty if there are none.
    ///
    /// A peer that does not receive bytes is a slow reader: its receive buffer fills up, and then
    /// the writes of the other end would block.
    #[must_use]
    pub fn recv(self) -> Vec<u8> {
        self.recv_up_to(usize::MAX)
    }

    /// Receives at most `len` of the bytes that have arrived.
    #[must_use]
    pub fn recv_up_to(self, len: usize) -> Vec<u8> {
        self.peer.recv_arrived(len)
    }

    /// Returns the state of the connection, as this end knows it.
    #[must_use]
    pub fn state(self) -> PeerState {
        self.peer.state()
    }

    /// Returns the address of this end.
    #[must_use]
    pub fn local_addr(self) -> Addr {
        self.peer.local_addr()
    }

    /// Ends this side with a FIN, after the bytes that were sent. Bytes of the other end still
    /// arrive.
    pub fn half_close(self) {
        self.peer.shutdown();
    }

    /// Closes this end. The bytes that were sent still arrive, followed by a FIN. If bytes have
    /// arrived that were not received, the close sends a reset instead (RFC 1122, 4.2.2.13).
    pub fn close(self) {
        self.peer.close();
    }

    /// Closes the connection with a reset. Bytes that are on their way are lost.
    pub fn reset(self) {
        self.peer.reset();
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (addr, state) = (self.local_addr(), self.state());
        write!(f, "Peer({addr}, {state:?})")
    }
}

/// A simulated listener that the test uses directly, without a reactor.
///
/// [`Simulation::listen`](super::Simulation::listen) creates it.
#[derive(Clone, Copy)]
pub struct PeerListener {
    listener: SimListener,
    thread: PhantomData<Rc<()>>,
}

impl PeerListener {
    pub(super) fn new(listener: SimListener) -> Self {
        Self {
            listener,
            thread: PhantomData,
        }
    }

    /// Accepts a connection. Returns `None` if no connection waits.
    #[must_use]
    pub fn accept(self) -> Option<Peer> {
        self.listener.accept_raw().map(Peer::new)
    }

    /// Returns the address of the listener.
    #[must_use]
    pub fn local_addr(self) -> Addr {
        self.listener.local_addr()
    }

    /// Closes the listener. Connections that were not accepted are reset, and later connects are
    /// refused.
    pub fn close(self) {
        self.listener.close();
    }
}

impl fmt::Debug for PeerListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerListener({})", self.local_addr())
    }
}

/// A simulated datagram socket that the test uses directly, without a reactor.
///
/// [`Simulation::bind_datagrams`](super::Simulation::bind_datagrams) creates it.
#[derive(Clone, Copy)]
pub struct DatagramPeer {
    socket: SimSocket,
    thread: PhantomData<Rc<()>>,
}

impl DatagramPeer {
    pub(super) fn new(socket: SimSocket) -> Self {
        Self {
            socket,
            thread: PhantomData,
        }
    }

    /// Sends a datagram.
    ///
    /// # Errors
    ///
    /// The error that a real system returns, for example `InvalidInput` for a datagram that is too
    /// long, or `ConnectionRefused` for a Unix address that no socket has. UDP datagrams to a
    /// closed port are lost without an error.
    pub fn send_to(self, addr: impl Into<Addr>, data: &[u8]) -> io::Result<()> {
        self.socket.send_datagram(Some(addr.into()), data)?;
        Ok(())
    }

    /// Receives a datagram and its source. Returns `None` if no datagram has arrived, or if the
    /// receive fails.
    #[must_use]
    pub fn recv(self) -> Option<(Addr, Vec<u8>)> {
        let mut data = vec![0; DATAGRAM_LEN_MAX];
        let (len, from) = self.socket.recv_datagram(&mut data).ok()?;
        data.truncate(len);
        Some((from, data))
    }

    /// Returns the address of the socket.
    #[must_use]
    pub fn local_addr(self) -> Addr {
        self.socket.local_addr()
    }
}

impl fmt::Debug for DatagramPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DatagramPeer({})", self.local_addr())
    }
}
