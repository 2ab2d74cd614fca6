//! Opening listeners, connections and datagram sockets.

use std::io;
use std::net::ToSocketAddrs;

use super::Context;
use crate::addr::ToAddrs;
#[cfg(unix)]
use crate::addr::UnixAddr;
use crate::codec::Framing;
use crate::handler::Handler;
#[cfg(unix)]
use crate::id::UnixDatagramId;
use crate::id::{ConnId, ListenerId, UdpId};
use crate::os::{ConnectOptions, ListenOptions, OwnedSocket, UdpOptions};

impl<H: Handler> Context<'_, H> {
    /// Listens for connections, each of which begins with `framing`: on an address of TCP, or on a
    /// [`UnixAddr`]. Port 0 takes a free one: [`local_inet_addr`](Context::local_inet_addr)
    /// tells which.
    ///
    /// # Errors
    ///
    /// What resolving, binding or listening answered, for the last of the addresses.
    pub fn listen(&mut self, addr: impl ToAddrs, framing: Framing) -> io::Result<ListenerId> {
        self.listen_with(addr, framing, &ListenOptions::new())
    }

    /// [`listen`](Context::listen) with options of the socket: a port that several reactors share,
    /// for example.
    ///
    /// # Errors
    ///
    /// As there, and what setting an option answered.
    pub fn listen_with(
        &mut self,
        addr: impl ToAddrs,
        framing: Framing,
        options: &ListenOptions,
    ) -> io::Result<ListenerId> {
        self.engine.listen(addr, framing, options)
    }

    /// Opens a UDP socket.
    ///
    /// # Errors
    ///
    /// What resolving or binding answered, for the last of the addresses.
    pub fn bind_udp(&mut self, addr: impl ToSocketAddrs) -> io::Result<UdpId> {
        self.bind_udp_with(addr, &UdpOptions::new())
    }

    /// [`bind_udp`](Context::bind_udp) with options of the socket: broadcast and multicast groups,
    /// for example.
    ///
    /// # Errors
    ///
    /// As there, and what setting an option or joining a group answered.
    pub fn bind_udp_with(
        &mut self,
        addr: impl ToSocketAddrs,
        options: &UdpOptions,
    ) -> io::Result<UdpId> {
        self.engine.bind_udp(addr, options)
    }

    /// Connects a UDP socket: from then on it receives from `peer` only, and
    /// [`send_datagram`](Context::send_datagram) sends to it.
    ///
    /// # Errors
    ///
    /// What resolving or connecting answered; [`Gone`](crate::Gone) for a stale id.
    pub fn connect_udp(&mut self, socket: UdpId, peer: impl ToSocketAddrs) -> io::Result<()> {
        self.engine.connect_udp(socket, peer)
    }

    /// Connects to the first of the addresses that accepts: they are tried one after the other. A
    /// name is looked up before this returns, which may block; an address is not.
    ///
    /// Success is told by [`on_open`](Handler::on_open), every failure by
    /// [`on_close`](Handler::on_close), which gives the session back: a name that is not known, no
    /// descriptor left, and a refusal by the peer alike.
    pub fn connect(&mut self, addr: impl ToAddrs, framing: Framing, session: H::Session) -> ConnId {
        self.connect_with(addr, framing, session, &ConnectOptions::new())
    }

    /// [`connect`](Context::connect) with a timeout of its own and options of the socket: the
    /// address to connect from, for example. What setting an option answered is told by
    /// [`on_close`](Handler::on_close) too.
    pub fn connect_with(
        &mut self,
        addr: impl ToAddrs,
        framing: Framing,
        session: H::Session,
        options: &ConnectOptions,
    ) -> ConnId {
        let conn = self.engine.connect(addr, framing, options);
        self.sessions.put(conn.0.key(), session);
        conn
    }

    /// Takes in a socket that listens already, as [`listen`](Context::listen) makes one: std's
    /// `TcpListener` or `UnixListener`, or a descriptor that a parent handed down, such as systemd
    /// by `LISTEN_FDS`. From then on it is the reactor's: it does not block, no child inherits it,
    /// and it is closed with the listener.
    ///
    /// That it does not block is true for all who share the open socket, such as the parent that
    /// handed it down (fcntl(2), `O_NONBLOCK`).
    ///
    /// # Errors
    ///
    /// `InvalidInput` where it is no stream socket or does not listen, and what the system
    /// answered. The socket is closed then.
    ///
    /// # Examples
    ///
    /// ```
    /// # use unstick::{Context, Framing, Handler};
    /// # fn f<H: Handler>(cx: &mut Context<'_, H>) -> std::io::Result<()> {
    /// let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    /// cx.adopt_listener(listener, Framing::line())?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn adopt_listener(
        &mut self,
        listener: impl Into<OwnedSocket>,
        framing: Framing,
    ) -> io::Result<ListenerId> {
        self.engine.adopt_listener(listener.into(), framing)
    }

    /// Takes in a stream socket that is connected already: std's `TcpStream` or `UnixStream`, or a
    /// descriptor; as for [`adopt_listener`](Context::adopt_listener).
    ///
    /// It opens like one that [`connect`](Context::connect) made, with [`Origin::Adopted`]. Every
    /// failure is told by [`on_close`](Handler::on_close), which gives the session back:
    /// `InvalidInput` where it is no stream socket, `NotConnected` where it has no peer.
    ///
    /// [`Origin::Adopted`]: crate::Origin::Adopted
    pub fn adopt_stream(
        &mut self,
        stream: impl Into<OwnedSocket>,
        framing: Framing,
        session: H::Session,
    ) -> ConnId {
        let conn = self.engine.adopt_stream(stream.into(), framing);
        self.sessions.put(conn.0.key(), session);
        conn
    }

    /// Takes in a UDP socket that is bound already: std's `UdpSocket`, or a descriptor; as for
    /// [`adopt_listener`](Context::adopt_listener).
    ///
    /// # Errors
    ///
    /// `InvalidInput` where it is no UDP socket, and what the system answered. The socket is closed
    /// then.
    pub fn adopt_udp(&mut self, socket: impl Into<OwnedSocket>) -> io::Result<UdpId> {
        self.engine.adopt_udp(socket.into())
    }

    /// Opens a Unix datagram socket: bound to a path or a name, or, for one that only sends, not at
    /// all.
    ///
    /// # Errors
    ///
    /// What the system answered: `AddrInUse` for a path that exists, as [`UnixAddr`] says.
    #[cfg(unix)]
    pub fn bind_unix_datagram(&mut self, addr: Option<&UnixAddr>) -> io::Result<UnixDatagramId> {
        self.engine.bind_unix_datagram(addr)
    }

    /// Takes in a Unix datagram socket: std's `UnixDatagram`, or a descriptor; as for
    /// [`adopt_listener`](Context::adopt_listener).
    ///
    /// # Errors
    ///
    /// `InvalidInput` where it is none, and what the system answered. The socket is closed then.
    #[cfg(unix)]
    pub fn adopt_unix_datagram(
        &mut self,
        socket: impl Into<OwnedSocket>,
    ) -> io::Result<UnixDatagramId> {
        self.engine.adopt_unix_datagram(socket.into())
    }

    /// Connects a Unix datagram socket: from then on it receives from `peer` only, and sends to it
    /// by default.
    ///
    /// # Errors
    ///
    /// What the system answered; `NotConnected` for a stale id.
    #[cfg(unix)]
    pub fn connect_unix_datagram(
        &mut self,
        socket: UnixDatagramId,
        peer: &UnixAddr,
    ) -> io::Result<()> {
        self.engine.unix_datagram_mut(socket)?.socket.connect(peer)
    }
}
