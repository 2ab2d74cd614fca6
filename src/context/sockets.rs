//! Addresses, options and statistics of sockets.

use std::io;
use std::net::SocketAddr;

use super::Context;
use crate::addr::Addr;
use crate::error::Gone;
use crate::handler::Handler;
use crate::id::{ConnId, SocketId};
use crate::os::SocketRef;
use crate::stats::{ConnStats, Stats};

impl<H: Handler> Context<'_, H> {
    /// The address of a TCP connection's peer, until `on_close` has returned. While connecting: the
    /// address being tried. No system call.
    ///
    /// # Errors
    ///
    /// `NotConnected` for a stale id; `Unsupported` for a Unix socket, whose address
    /// [`peer_addr`](Context::peer_addr) tells.
    pub fn peer_inet_addr(&self, conn: ConnId) -> io::Result<SocketAddr> {
        self.engine.conn(conn.0)?.peer.inet().ok_or_else(not_inet)
    }

    /// The address of any connection's peer, as [`peer_inet_addr`](Context::peer_inet_addr).
    ///
    /// # Errors
    ///
    /// [`Gone`] for a stale id.
    pub fn peer_addr(&self, conn: ConnId) -> Result<Addr, Gone> {
        self.engine.conn(conn.0).map(|conn| conn.peer.clone())
    }

    /// The local address of a connection, a listener or a UDP socket, asked of the kernel.
    ///
    /// # Errors
    ///
    /// What the kernel answered, or `NotConnected` for a stale id or a closed socket; `Unsupported`
    /// for a Unix socket, whose address [`local_addr`](Context::local_addr) tells.
    pub fn local_inet_addr(&self, socket: impl Into<SocketId>) -> io::Result<SocketAddr> {
        self.local_addr(socket)?.inet().ok_or_else(not_inet)
    }

    /// The local address of any socket, asked of the kernel.
    ///
    /// # Errors
    ///
    /// As for [`local_inet_addr`](Context::local_inet_addr), for all kinds of sockets.
    pub fn local_addr(&self, socket: impl Into<SocketId>) -> io::Result<Addr> {
        self.engine.local_addr(socket.into())
    }

    /// The options of a live socket, to read and to set.
    ///
    /// # Errors
    ///
    /// `NotConnected` for a stale id or a closed socket.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use unstick::{ConnId, Context, Handler, Keepalive};
    /// # fn f<H: Handler>(cx: &mut Context<'_, H>, conn: ConnId) -> std::io::Result<()> {
    /// cx.socket(conn)?.set_keepalive(Some(Keepalive::new().idle(Duration::from_secs(60))))
    /// # }
    /// ```
    pub fn socket(&self, socket: impl Into<SocketId>) -> io::Result<SocketRef<'_>> {
        SocketRef::new(self.engine.options(socket.into())?)
    }

    /// The options that [`socket`](Context::socket) has no call for: the one place where another
    /// crate's type, [`socket2::SockRef`], stands in this one's interface.
    ///
    /// Leave alone what the reactor relies on: that the socket does not block.
    ///
    /// # Errors
    ///
    /// `NotConnected` for a stale id or a closed socket.
    ///
    /// # Examples
    ///
    /// ```
    /// # use unstick::{ConnId, Context, Handler};
    /// # fn f<H: Handler>(cx: &mut Context<'_, H>, conn: ConnId) -> std::io::Result<()> {
    /// cx.socket_options(conn)?.set_out_of_band_inline(true)
    /// # }
    /// ```
    pub fn socket_options(&self, socket: impl Into<SocketId>) -> io::Result<socket2::SockRef<'_>> {
        self.engine.options(socket.into())
    }

    /// What a connection has carried so far.
    ///
    /// # Errors
    ///
    /// [`Gone`] for a stale id.
    pub fn conn_stats(&self, conn: ConnId) -> Result<ConnStats, Gone> {
        self.engine.conn_stats(conn.0)
    }

    /// What the reactor has done so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.engine.stats()
    }
}

pub(crate) fn not_inet() -> io::Error {
    io::Error::new(
        io::ErrorKind::Unsupported,
        "a Unix socket has no such address",
    )
}
