//! Unix datagram sockets.

use std::io;

use super::Context;
use crate::addr::UnixAddr;
use crate::handler::Handler;
use crate::id::UnixDatagramId;
use crate::os::OwnedSocket;

/// Unix datagram sockets.
impl<H: Handler> Context<'_, H> {
    /// Opens a Unix datagram socket, bound to `addr`. With `None` the socket is not bound, so it
    /// can only send.
    ///
    /// # Errors
    ///
    /// * `AddrInUse`: the path exists: see [`UnixAddr`].
    /// * `Other`: a shutdown has reached the phase [`Close`](crate::ShutdownPhase::Close).
    /// * Any other error of the system.
    pub fn bind_unix_datagram(&mut self, addr: Option<&UnixAddr>) -> io::Result<UnixDatagramId> {
        self.engine.bind_unix_datagram(addr)
    }

    /// Adopts a Unix datagram socket: std's `UnixDatagram`, or a descriptor. The mode of the socket
    /// changes as described at [`adopt_listener`](Context::adopt_listener).
    ///
    /// # Errors
    ///
    /// The socket is closed in case of an error.
    ///
    /// * `InvalidInput`: the socket is not a Unix datagram socket.
    /// * `Other`: a shutdown has reached the phase [`Close`](crate::ShutdownPhase::Close).
    /// * Any other error of the system.
    pub fn adopt_unix_datagram(
        &mut self,
        socket: impl Into<OwnedSocket>,
    ) -> io::Result<UnixDatagramId> {
        self.engine.adopt_unix_datagram(socket.into())
    }

    /// Connects a Unix datagram socket to `peer`. From then on the socket receives from `peer`
    /// only, and sends to `peer` by default. Datagrams of other senders that the kernel has queued
    /// already are dropped, and counted in
    /// [`Stats::datagrams_filtered`](crate::Stats::datagrams_filtered).
    ///
    /// # Errors
    ///
    /// * `NotConnected`: the socket is closed.
    /// * Any other error of the system.
    pub fn connect_unix_datagram(
        &mut self,
        socket: UnixDatagramId,
        peer: &UnixAddr,
    ) -> io::Result<()> {
        self.engine.connect_unix_datagram(socket, peer)
    }

    /// Sends one datagram on a Unix socket, to `to` or to the connected peer.
    ///
    /// The datagram is sent at once, by one system call. The reactor queues nothing. The kernel
    /// either puts the datagram into the receiver's queue or reports an error, so no datagram is
    /// lost.
    ///
    /// # Errors
    ///
    /// An error means that nothing was sent.
    ///
    /// * `WouldBlock`: the receiver's queue is full. For a connected peer, wait for
    ///   [`on_unix_writable`](Handler::on_unix_writable). For another receiver the system has no
    ///   such event: try again later.
    /// * `NotFound`, `ConnectionRefused`: no socket has this address, or its socket was closed.
    /// * `NotConnected`: the socket is closed, or `to` is `None` and the socket has no peer.
    /// * Any other error of the system.
    pub fn send_unix_datagram(
        &mut self,
        socket: UnixDatagramId,
        to: Option<&UnixAddr>,
        data: impl AsRef<[u8]>,
    ) -> io::Result<()> {
        self.engine.send_unix_datagram(socket, to, data.as_ref())
    }

    /// Closes a Unix datagram socket. The file of its path, if it has one, is not removed. Does
    /// nothing if the socket is closed.
    pub fn close_unix_datagram(&mut self, socket: UnixDatagramId) {
        if self.engine.unix_datagram_mut(socket).is_ok() {
            self.engine.end_socket(socket.0);
        }
    }
}
