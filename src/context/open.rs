//! Opening listeners, connections and datagram sockets.

use std::io;
use std::net::ToSocketAddrs;

use super::Context;
use crate::addr::ToAddrs;
use crate::codec::Framing;
use crate::event::Detached;
use crate::handler::Handler;
use crate::id::{ConnId, ListenerId, UdpId};
use crate::os::{ConnectOptions, ListenOptions, OwnedSocket, UdpOptions};

/// Opening listeners, connections and datagram sockets.
impl<H: Handler> Context<'_, H> {
    /// Listens for TCP or Unix connections. Each accepted connection starts with `framing`.
    ///
    /// If `addr` resolves to several addresses, the first address that can be bound is used. So a
    /// listener at `localhost` may accept IPv6 alone, or IPv4 alone.
    /// [`listen_all`](Context::listen_all) listens at all addresses of a name. Port 0 selects a
    /// free port, which [`local_inet_addr`](Context::local_inet_addr) returns. Resolving a host
    /// name blocks.
    ///
    /// # Errors
    ///
    /// * Any error of resolving, binding or listening, for the last address tried. Its text names
    ///   the address, unless resolving failed. `AddrInUse` for a Unix path that exists: see
    ///   [`UnixAddr`](crate::UnixAddr).
    /// * `Other`: a shutdown has reached the phase [`Drain`](crate::ShutdownPhase::Drain).
    pub fn listen(&mut self, addr: impl ToAddrs, framing: Framing) -> io::Result<ListenerId> {
        self.listen_with(addr, framing, &ListenOptions::new())
    }

    /// Listens like [`listen`](Context::listen), with options of the socket, for example a port
    /// that several reactors share.
    ///
    /// # Errors
    ///
    /// * Same as [`listen`](Context::listen), and any error of setting an option.
    pub fn listen_with(
        &mut self,
        addr: impl ToAddrs,
        framing: Framing,
        options: &ListenOptions,
    ) -> io::Result<ListenerId> {
        self.engine.listen(addr, framing, options)
    }

    /// Listens at all addresses of a name, with one listener for each address. Returns the ids of
    /// the listeners in the order of the addresses.
    ///
    /// * If the port is 0, the system chooses one port for all addresses.
    /// * If there are IPv4 and IPv6 addresses, a listener at an IPv6 address accepts IPv6 only,
    ///   unless [`ListenOptions::only_v6`] is set.
    /// * An address is skipped if the system does not support its family, because no client can
    ///   reach it either. `[::1]` and `[::]` are also skipped if this host does not have them: IPv6
    ///   may be turned off. If no address is left, the call fails with the error of the last
    ///   skipped address.
    /// * An address that occurs twice counts once.
    ///
    /// # Errors
    ///
    /// No listener stays open in case of an error.
    ///
    /// * Any error of resolving, binding or listening, for the first address that fails. Its text
    ///   names the address, unless resolving failed.
    /// * `AddrInUse`: one of the addresses is in use. If the port is 0, several ports were tried.
    /// * `Other`: a shutdown has reached the phase [`Drain`](crate::ShutdownPhase::Drain).
    ///
    /// # Examples
    ///
    /// ```
    /// use unstick::{Context, Framing, Handler, ListenOptions};
    ///
    /// fn listen<H: Handler>(cx: &mut Context<'_, H>) -> std::io::Result<()> {
    ///     for id in cx.listen_all("localhost:0", Framing::line(), &ListenOptions::new())? {
    ///         println!("listening on {}", cx.local_addr(id)?); // [::1]:41234, 127.0.0.1:41234
    ///     }
    ///     Ok(())
    /// }
    /// ```
    pub fn listen_all(
        &mut self,
        addr: impl ToAddrs,
        framing: Framing,
        options: &ListenOptions,
    ) -> io::Result<Vec<ListenerId>> {
        self.engine.listen_all(addr, &framing, options)
    }

    /// Opens a UDP socket.
    ///
    /// If `addr` resolves to several addresses, the first address that can be bound is used. Port 0
    /// selects a free port, which [`local_inet_addr`](Context::local_inet_addr) returns. Resolving
    /// a host name blocks.
    ///
    /// If a socket is bound to a wildcard address such as `0.0.0.0`, a reply leaves from the
    /// address to which the request was sent: see [`send_to`](Context::send_to).
    ///
    /// # Errors
    ///
    /// * Any error of resolving or binding, for the last address tried.
    /// * `Other`: a shutdown has reached the phase [`Close`](crate::ShutdownPhase::Close).
    pub fn bind_udp(&mut self, addr: impl ToSocketAddrs) -> io::Result<UdpId> {
        self.bind_udp_with(addr, &UdpOptions::new())
    }

    /// Opens a UDP socket like [`bind_udp`](Context::bind_udp), with options of the socket, for
    /// example broadcast or multicast groups.
    ///
    /// # Errors
    ///
    /// * Same as [`bind_udp`](Context::bind_udp), and any error of setting an option or joining a
    ///   group.
    pub fn bind_udp_with(
        &mut self,
        addr: impl ToSocketAddrs,
        options: &UdpOptions,
    ) -> io::Result<UdpId> {
        self.engine.bind_udp(addr, options)
    }

    /// Connects a UDP socket to `peer`. From then on the socket receives from `peer` only, and
    /// [`send_datagram`](Context::send_datagram) sends to `peer`. Datagrams of other senders that
    /// the kernel has queued already are dropped, and counted in
    /// [`Stats::datagrams_filtered`](crate::Stats::datagrams_filtered).
    ///
    /// # Errors
    ///
    /// * Any error of resolving or connecting, for the last address tried.
    /// * `NotConnected`: the socket is closed.
    pub fn connect_udp(&mut self, socket: UdpId, peer: impl ToSocketAddrs) -> io::Result<()> {
        self.engine.connect_udp(socket, peer)
    }

    /// Opens a connection and returns its id at once. `session` becomes the session of the
    /// connection.
    ///
    /// If a name has several addresses, the attempts overlap (RFC 8305). IPv6 and IPv4 addresses
    /// alternate. The next address is tried 250 ms after the previous one, or as soon as an attempt
    /// fails. The first attempt that succeeds is used, and the other attempts are closed. At most 8
    /// attempts are pending; for a further attempt, the oldest one is closed. If this host lacks a
    /// descriptor or memory for a further attempt, the address is tried again later.
    ///
    /// Resolving a host name blocks; an IP or Unix address does not. Payloads sent before the
    /// connection is open are queued.
    ///
    /// [`on_open`](Handler::on_open) reports success. [`on_close`](Handler::on_close) reports every
    /// failure and returns the session: an unknown host name, no free descriptor, a refusal by the
    /// peer, [`Config::connections_max`](crate::Config::connections_max) or a shutdown. Port 0, a
    /// multicast or a broadcast address fails with `InvalidInput`. If a name has other addresses
    /// too, such an address is skipped.
    ///
    /// Some failures are known at once, for example an address that is not valid. `on_close` then
    /// comes at the end of this turn or of the next one. A [`send`](Context::send) before
    /// `on_close` fails with [`SendError::Closing`](crate::SendError::Closing), which does not
    /// contain the cause. So do not end the program at an error of the first `send`; `on_close` has
    /// the reason.
    pub fn connect(&mut self, addr: impl ToAddrs, framing: Framing, session: H::Session) -> ConnId {
        self.connect_with(addr, framing, session, &ConnectOptions::new())
    }

    /// Opens a connection like [`connect`](Context::connect), with a timeout and options of the
    /// socket, for example the local address.
    ///
    /// [`on_close`](Handler::on_close) also reports a failure to set an option.
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

    /// Adopts a listening socket: std's `TcpListener` or `UnixListener`, or a descriptor from a
    /// parent process, such as systemd's `LISTEN_FDS`.
    ///
    /// From then on the reactor owns the socket. It is set to non-blocking mode, is not inherited
    /// by child processes, and is closed with the listener. Non-blocking mode applies to every
    /// process that shares the open socket, including the parent (fcntl(2), `O_NONBLOCK`).
    ///
    /// # Errors
    ///
    /// The socket is closed in case of an error.
    ///
    /// * `InvalidInput`: the socket is not a stream socket or is not listening.
    /// * `Other`: a shutdown has reached the phase [`Drain`](crate::ShutdownPhase::Drain).
    /// * Any other error of the system.
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
        self.adopt_listener_with(listener, framing, &ListenOptions::new())
    }

    /// Adopts a listening socket like [`adopt_listener`](Context::adopt_listener), with options.
    ///
    /// Only options of the reactor apply, such as [`ListenOptions::key`] and
    /// [`proxy_protocol`](ListenOptions::proxy_protocol). Options of the socket itself, such as the
    /// backlog, are ignored: the program that opened the socket has set them.
    ///
    /// # Errors
    ///
    /// * Same as [`adopt_listener`](Context::adopt_listener).
    pub fn adopt_listener_with(
        &mut self,
        listener: impl Into<OwnedSocket>,
        framing: Framing,
        options: &ListenOptions,
    ) -> io::Result<ListenerId> {
        self.engine
            .adopt_listener(listener.into(), framing, options)
    }

    /// Adopts a connected stream socket: std's `TcpStream` or `UnixStream`, or a descriptor. The
    /// mode of the socket changes as described at [`adopt_listener`](Context::adopt_listener).
    ///
    /// [`on_open`](Handler::on_open) reports success with [`Origin::Adopted`].
    /// [`on_close`](Handler::on_close) reports every failure and returns the session:
    /// `InvalidInput` if the socket is not a stream socket, `NotConnected` if it has no peer.
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

    /// Adopts a connection that was [detached](Context::detach), with its undelivered and unsent
    /// bytes.
    ///
    /// [`on_open`](Handler::on_open) is the first callback, with [`Origin::Adopted`]. The
    /// undelivered bytes come before the bytes that are still in the socket, and `framing` decodes
    /// both. The unsent bytes are sent before any output from now on. A custom codec starts with a
    /// new state. A frame that [was being skipped](Detached::is_skipping) is skipped to its end, by
    /// the framing that began the skip. `framing` decodes the bytes after it.
    ///
    /// If the unsent bytes exceed [`Config::write_low_bytes`](crate::Config::write_low_bytes), the
    /// write queue counts as above the high watermark: the connection is not read
    /// ([`Config::read_above_high`](crate::Config::read_above_high) changes this), and
    /// [`on_drained`](Handler::on_drained) reports when the queue has drained. The hard limits,
    /// such as [`Config::write_queue_bytes_max`](crate::Config::write_queue_bytes_max), do not
    /// apply to the adopted bytes: all of them are kept.
    ///
    /// [`on_close`](Handler::on_close) reports every failure, as for
    /// [`adopt_stream`](Context::adopt_stream). The bytes then count as unsent and as undecoded. If
    /// [`close`](Context::close) is called before `on_open`, the unsent bytes are sent, the
    /// undelivered bytes count as undecoded, and `on_close` alone is called.
    ///
    /// [`Origin::Adopted`]: crate::Origin::Adopted
    ///
    /// # Examples
    ///
    /// A program has read the first bytes of a stream itself, and puts them back:
    ///
    /// ```
    /// use std::net::TcpStream;
    /// use unstick::{ConnId, Context, Detached, Framing, Handler};
    ///
    /// fn adopt<H: Handler>(cx: &mut Context<'_, H>, stream: TcpStream, read: &[u8]) -> ConnId {
    ///     let mut detached = Detached::new(stream);
    ///     detached.undelivered = read.to_vec();
    ///     cx.adopt_detached(detached, Framing::line(), H::Session::default())
    /// }
    /// ```
    pub fn adopt_detached(
        &mut self,
        detached: Detached,
        framing: Framing,
        session: H::Session,
    ) -> ConnId {
        let conn = self.engine.adopt_detached(detached, framing);
        self.sessions.put(conn.0.key(), session);
        conn
    }

    /// Adopts a bound UDP socket: std's `UdpSocket`, a descriptor from a parent process, or a
    /// socket that [`detach_udp`](Context::detach_udp) returned. The mode of the socket changes as
    /// described at [`adopt_listener`](Context::adopt_listener).
    ///
    /// A socket that is connected stays connected. Datagrams that wait in its receive buffer are
    /// delivered.
    ///
    /// # Errors
    ///
    /// The socket is closed in case of an error.
    ///
    /// * `InvalidInput`: the socket is not a UDP socket.
    /// * `Other`: a shutdown has reached the phase [`Close`](crate::ShutdownPhase::Close).
    /// * Any other error of the system.
    pub fn adopt_udp(&mut self, socket: impl Into<OwnedSocket>) -> io::Result<UdpId> {
        self.adopt_udp_with(socket, &UdpOptions::new())
    }

    /// Adopts a bound UDP socket like [`adopt_udp`](Context::adopt_udp), with options.
    ///
    /// Only options of the reactor apply: [`proxy_protocol`](UdpOptions::proxy_protocol), and the
    /// details of datagrams, such as `UdpOptions::destination`. Options of the socket itself, such
    /// as its groups and the lengths of its buffers, are ignored: the program that opened the
    /// socket has set them. `UdpOptions::count_overflows` also counts the datagrams that were
    /// dropped before the adoption.
    ///
    /// # Errors
    ///
    /// * Same as [`adopt_udp`](Context::adopt_udp).
    pub fn adopt_udp_with(
        &mut self,
        socket: impl Into<OwnedSocket>,
        options: &UdpOptions,
    ) -> io::Result<UdpId> {
        self.engine.adopt_udp(socket.into(), options)
    }
}
