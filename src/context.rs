//! [`Context`]: what a callback may do.

mod observing;
mod sessions;

use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

#[cfg(unix)]
use crate::addr::UnixAddr;
use crate::addr::{Addr, ToAddrs};
use crate::codec::{Framing, Out, put_all};
use crate::config::Limits;
use crate::engine::{Engine, Written};
use crate::error::{FrameError, Gone, NotSent, SendError, Sent};
use crate::handler::Handler;
use crate::payload::Payload;
use crate::session::Sessions;
use crate::socket::{ConnectOptions, ListenOptions, OwnedSocket, SocketRef, UdpOptions};
use crate::stats::{ConnStats, Stats};
use crate::timer::TimerId;
#[cfg(unix)]
use crate::token::UnixDatagramId;
use crate::token::{ConnId, ListenerId, SocketId, UdpId};

/// A broadcast payload of this many bytes is shared. A shorter one costs less to copy.
const SHARED_LEN_MIN: usize = 16 * 1024;

/// What a callback may do: everything, to every connection, and nothing of it calls back before
/// the callback has returned.
pub struct Context<'a, H: Handler> {
    pub(crate) engine: &'a mut Engine,
    pub(crate) sessions: &'a mut Sessions<H::Session>,
}

impl<H: Handler> Context<'_, H> {
    /// Sends `payload` as one frame. It never blocks: the frame is queued, and written when this
    /// turn has gathered what goes the same way.
    ///
    /// All of it is accepted, or nothing. What is accepted is taken by the kernel, or counted in
    /// [`Closed::unsent_bytes`](crate::Closed); that the peer gets it is not claimed. A connection
    /// that is still connecting takes frames too, and sends them once it is open.
    ///
    /// # Errors
    ///
    /// * [`SendError::Gone`]: the id names nothing any more.
    /// * [`SendError::Closing`]: it was closed, or writing to it failed.
    /// * [`SendError::Full`]: the queue would be longer than
    ///   [`Config::write_queue_len_max`](crate::Config::write_queue_len_max), or all queues
    ///   together are at [`Config::memory_max`](crate::Config::memory_max). Wait for
    ///   [`on_drained`](Handler::on_drained).
    /// * [`SendError::Frame`]: the payload is too long for the framing, or cannot be framed.
    #[inline]
    pub fn send(&mut self, conn: ConnId, payload: &[u8]) -> Result<Sent, SendError> {
        self.engine.send(conn.0, payload)
    }

    /// [`send`](Context::send) for a payload that is given by value. One of 16 KiB or more is not
    /// copied, whatever becomes of it: it is queued as it is, and written together with what stands
    /// around it in its frame. With [`delimiter`](Framing::delimiter),
    /// [`length_field`](Framing::length_field) and [`custom`](Framing::custom) it is copied once,
    /// as with `send`.
    ///
    /// # Errors
    ///
    /// As for [`send`](Context::send), with the payload given back.
    ///
    /// # Examples
    ///
    /// One answer, shared by all who ask for it:
    ///
    /// ```
    /// # use unstick::{ConnId, Context, Handler};
    /// # use std::sync::Arc;
    /// # fn f<H: Handler>(cx: &mut Context<'_, H>, conn: ConnId, image: &Arc<[u8]>) {
    /// if let Err(refused) = cx.send_owned(conn, Arc::clone(image)) {
    ///     eprintln!("{} bytes not sent: {refused}", refused.payload.len());
    /// }
    /// # }
    /// ```
    pub fn send_owned(
        &mut self,
        conn: ConnId,
        payload: impl Into<Payload>,
    ) -> Result<Sent, NotSent> {
        self.engine.send_owned(conn.0, payload.into())
    }

    /// As [`send`](Context::send), with the payload in several parts: a header and a body from
    /// different places, for example. They are one frame.
    ///
    /// # Errors
    ///
    /// As for [`send`](Context::send).
    pub fn send_parts(&mut self, conn: ConnId, parts: &[&[u8]]) -> Result<Sent, SendError> {
        let len = parts.iter().map(|part| part.len()).sum();
        let write = |out: &mut Out<'_>| {
            put_all(parts, out);
            Ok(())
        };
        self.engine.send(conn.0, Written { len, write })
    }

    /// As [`send`](Context::send), with a payload that `write` puts where it is sent from: what the
    /// header says of its length is filled in afterwards, and nothing is copied.
    ///
    /// Where the length of the header depends on that of the payload
    /// ([`varint`](crate::Framing::varint), [`netstring`](crate::Framing::netstring)), the payload
    /// is moved by it; a [`custom`](crate::Framing::custom) codec that does not know of
    /// [this](crate::Codec::encode_in_place) is given a copy. Limits are looked at when all is
    /// written: it is `write` that bounds how much that is.
    ///
    /// # Errors
    ///
    /// As for [`send`](Context::send), and [`SendError::Frame`] with what `write` answered; nothing
    /// of it is sent then.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::io::Write;
    /// # use unstick::{ConnId, Context, Handler, SendError};
    /// # fn f<H: Handler>(cx: &mut Context<'_, H>, conn: ConnId) -> Result<(), SendError> {
    /// let temperature = 21.5;
    /// let _ = cx.send_with(conn, |out| {
    ///     write!(out, "{{\"celsius\":{temperature}}}")?;
    ///     Ok(())
    /// })?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn send_with<F>(&mut self, conn: ConnId, write: F) -> Result<Sent, SendError>
    where
        F: FnOnce(&mut Out<'_>) -> Result<(), FrameError>,
    {
        self.engine.send(conn.0, Written { len: 0, write })
    }

    /// Sends `payload` to each of `conns`, as [`send`](Context::send) does, and says how many
    /// accepted it. One of 16 KiB or more is copied once for all of them, but for framings that
    /// [`send_owned`](Context::send_owned) copies with.
    pub fn broadcast(&mut self, conns: impl IntoIterator<Item = ConnId>, payload: &[u8]) -> usize {
        let conns = conns.into_iter();
        if payload.len() < SHARED_LEN_MIN {
            return conns
                .filter(|conn| self.send(*conn, payload).is_ok())
                .count();
        }
        let shared = Payload::from(Arc::<[u8]>::from(payload));
        conns
            .filter(|conn| self.send_owned(*conn, shared.clone()).is_ok())
            .count()
    }

    /// Sends one datagram to `to`. It is queued, and sent when the callback has returned, at the
    /// latest at the end of the turn. A datagram that the kernel refuses is dropped, counted and
    /// told to [`on_datagram_error`](Handler::on_datagram_error).
    ///
    /// # Errors
    ///
    /// * [`SendError::Gone`]: the id names nothing any more.
    /// * [`SendError::Closing`]: the socket was closed.
    /// * [`SendError::Full`]: the queue would be longer than
    ///   [`Config::datagram_queue_len_max`](crate::Config::datagram_queue_len_max), or all queues
    ///   together are at [`Config::memory_max`](crate::Config::memory_max).
    pub fn send_to(&mut self, socket: UdpId, to: SocketAddr, data: &[u8]) -> Result<(), SendError> {
        self.engine.send_datagram(socket, Some(to), data)
    }

    /// Sends one datagram to the peer that the socket was connected to by
    /// [`connect_udp`](Context::connect_udp).
    ///
    /// # Errors
    ///
    /// As for [`send_to`](Context::send_to). That the socket has no peer is told by
    /// [`on_datagram_error`](Handler::on_datagram_error), as what the system says to it:
    /// `EDESTADDRREQ`, which has no [`io::ErrorKind`], or `NotConnected`.
    pub fn send_datagram(&mut self, socket: UdpId, data: &[u8]) -> Result<(), SendError> {
        self.engine.send_datagram(socket, None, data)
    }

    /// Listens for connections, each of which begins with `framing`: on an address of TCP, or on a
    /// [`UnixAddr`]. Port 0 takes a free one: [`local_addr`](Context::local_addr)
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
    /// What resolving or connecting answered; [`Gone`] for a stale id.
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

    /// Sends one datagram by a Unix socket, to `to` or to the connected peer. It is sent at once,
    /// by one system call, as the kernel puts it into the receiver's queue or says why it does not:
    /// nothing is lost in between, and nothing has to be queued here.
    ///
    /// # Errors
    ///
    /// What the system answered; nothing was sent then.
    ///
    /// * `WouldBlock`: the receiver's queue is full. For a connected peer
    ///   [`on_unix_writable`](Handler::on_unix_writable) tells when there is room; for another one
    ///   the system has no such event.
    /// * `NotFound`, `ConnectionRefused`: nobody has this address, or not any more.
    /// * `NotConnected`: no `to`, and no peer; or a stale id.
    #[cfg(unix)]
    pub fn send_unix_datagram(
        &mut self,
        socket: UnixDatagramId,
        to: Option<&UnixAddr>,
        data: &[u8],
    ) -> io::Result<()> {
        self.engine.send_unix_datagram(socket, to, data)
    }

    /// Closes a Unix datagram socket. Its file, if it has one, stays.
    #[cfg(unix)]
    pub fn close_unix_datagram(&mut self, socket: UnixDatagramId) {
        if self.engine.unix_datagram_mut(socket).is_ok() {
            self.engine.kill_socket(socket.0);
        }
    }

    /// Closes a connection gently. No further frame of it is delivered and nothing more is
    /// accepted for it; what is queued is flushed, then the peer is told of the end and given
    /// [`Config::close_deadline`](crate::Config::close_deadline) to end too. A connection that is
    /// still connecting ends at once.
    ///
    /// Closing what is closing or gone does nothing.
    pub fn close(&mut self, conn: ConnId) {
        let reason = self.engine.local_reason(conn.0);
        self.engine.close(conn.0, reason);
    }

    /// Ends this side of a connection, as `shutdown(SHUT_WR)` does: nothing more is accepted for
    /// it; what is queued is flushed, then the peer is told of the end. Its frames are delivered as
    /// before, and when it ends too the connection is closed. There is no deadline: it is the
    /// handler that waits for an answer.
    ///
    /// # Errors
    ///
    /// [`Gone`] for a stale id.
    pub fn half_close(&mut self, conn: ConnId) -> Result<(), Gone> {
        self.engine.half_close(conn.0)
    }

    /// Ends a connection at once and tells the peer by a reset. What is queued is lost and counted.
    ///
    /// Aborting what is gone does nothing.
    pub fn abort(&mut self, conn: ConnId) {
        self.engine.abort(conn.0, crate::CloseReason::Aborted);
    }

    /// Stops listening. Connections that it accepted live on; those in its backlog are reset by
    /// the kernel.
    pub fn close_listener(&mut self, listener: ListenerId) {
        if self.engine.listener_mut(listener).is_ok() {
            self.engine.kill_socket(listener.0);
        }
    }

    /// Closes a UDP socket once its queue is sent.
    pub fn close_udp(&mut self, socket: UdpId) {
        self.engine.close_udp(socket);
    }

    /// Stops a socket until [`resume`](Context::resume). No system call; pausing what is paused
    /// does nothing.
    ///
    /// * A connection is not read, and no further frame of it is delivered. That is apart from the
    ///   pause that a queue above its high mark makes. [`on_hangup`](Handler::on_hangup) tells of a
    ///   peer that goes meanwhile.
    /// * A listener accepts nobody: who comes waits in its backlog, and is refused by the kernel
    ///   where that is full.
    /// * A datagram socket receives nothing, but for what one system call has brought already: what
    ///   comes waits in the kernel's buffer, and is dropped where that is full. It still sends.
    ///
    /// # Errors
    ///
    /// [`Gone`] for a stale id.
    pub fn pause(&mut self, socket: impl Into<SocketId>) -> Result<(), Gone> {
        self.engine.pause(socket.into())
    }

    /// Ends a [`pause`](Context::pause). What came before and during it comes next.
    ///
    /// # Errors
    ///
    /// [`Gone`] for a stale id.
    pub fn resume(&mut self, socket: impl Into<SocketId>) -> Result<(), Gone> {
        self.engine.resume(socket.into())
    }

    /// Lets a connection be delivered `frames` more frames, by number. The first grant puts it
    /// under this rule: from then on each frame costs one, and with none left nothing is delivered
    /// and nothing read until the next grant. No system call.
    ///
    /// Grants add up. One of zero frames, on a connection that had none before, stops it before its
    /// first; `u64::MAX`, or what comes to that together, ends the rule. The frame whose
    /// [`on_frame`](Handler::on_frame) makes the first grant is not counted; to have every frame
    /// counted, make it in [`on_open`](Handler::on_open).
    ///
    /// It is apart from [`pause`](Context::pause), and from the pause that a queue above its high
    /// mark makes: frames come while none of the three stands in the way. The end of the peer's
    /// side is no frame and costs nothing, but it too waits while there is no credit.
    ///
    /// # Errors
    ///
    /// [`Gone`] for a stale id.
    ///
    /// # Examples
    ///
    /// A worker that takes four jobs at a time from each peer:
    ///
    /// ```
    /// use unstick::{ConnId, Context, Handler, Origin};
    ///
    /// struct Broker {
    ///     jobs: Vec<(ConnId, Vec<u8>)>,
    /// }
    ///
    /// impl Handler for Broker {
    ///     type Session = ();
    ///
    ///     fn on_open(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, _: &mut (), _: Origin) {
    ///         let _ = cx.grant(conn, 4);
    ///     }
    ///
    ///     fn on_frame(&mut self, _: &mut Context<'_, Self>, conn: ConnId, _: &mut (), f: &[u8]) {
    ///         self.jobs.push((conn, f.to_vec()));
    ///     }
    /// }
    ///
    /// fn done(cx: &mut Context<'_, Broker>, conn: ConnId, answer: &[u8]) {
    ///     let _ = cx.send(conn, answer);
    ///     let _ = cx.grant(conn, 1); // it may send one more
    /// }
    /// ```
    pub fn grant(&mut self, conn: ConnId, frames: u64) -> Result<(), Gone> {
        self.engine.grant(conn.0, frames)
    }

    /// The limits that hold for a connection: those of the [`Config`](crate::Config), or its own.
    ///
    /// # Errors
    ///
    /// [`Gone`] for a stale id.
    pub fn limits(&self, conn: ConnId) -> Result<Limits, Gone> {
        self.engine.limits(conn.0)
    }

    /// Gives a connection limits of its own, from now on: its timeouts begin to count now, its
    /// marks hold for what is sent next. A `None` ends a timeout that the configuration has.
    ///
    /// Memory for them is taken for this connection only. What it is sent is queued before it is
    /// written, which costs a copy for each frame.
    ///
    /// # Errors
    ///
    /// `InvalidInput` where `write_low <= write_high <= write_queue_len_max` does not hold, and
    /// `NotConnected` for a stale id; then nothing is changed.
    ///
    /// # Examples
    ///
    /// A peer that has logged in may be silent for longer:
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use unstick::{ConnId, Context, Handler};
    /// # fn f<H: Handler>(cx: &mut Context<'_, H>, conn: ConnId) -> std::io::Result<()> {
    /// let mut limits = cx.limits(conn)?;
    /// limits.idle_timeout = Some(Duration::from_secs(3600));
    /// cx.set_limits(conn, limits)
    /// # }
    /// ```
    pub fn set_limits(&mut self, conn: ConnId, limits: Limits) -> io::Result<()> {
        self.engine.set_limits(conn.0, limits)
    }

    /// Exchanges a connection's framing. The next frame, in either direction, is the first of the
    /// new one; bytes that are read already are kept and decoded by it.
    ///
    /// # Errors
    ///
    /// [`Gone`] for a stale id.
    pub fn reframe(&mut self, conn: ConnId, framing: Framing) -> Result<(), Gone> {
        self.engine.reframe(conn.0, framing)
    }

    /// The address of a TCP connection's peer, until `on_close` has returned. While connecting: the
    /// address being tried. No system call.
    ///
    /// # Errors
    ///
    /// `NotConnected` for a stale id; `Unsupported` for a Unix socket, whose address
    /// [`peer_name`](Context::peer_name) tells.
    pub fn peer_addr(&self, conn: ConnId) -> io::Result<SocketAddr> {
        self.engine.conn(conn.0)?.peer.inet().ok_or_else(not_inet)
    }

    /// The address of any connection's peer, as [`peer_addr`](Context::peer_addr).
    ///
    /// # Errors
    ///
    /// [`Gone`] for a stale id.
    pub fn peer_name(&self, conn: ConnId) -> Result<Addr, Gone> {
        self.engine.conn(conn.0).map(|conn| conn.peer.clone())
    }

    /// The local address of a connection, a listener or a UDP socket, asked of the kernel.
    ///
    /// # Errors
    ///
    /// What the kernel answered, or `NotConnected` for a stale id or a closed socket; `Unsupported`
    /// for a Unix socket, whose address [`local_name`](Context::local_name) tells.
    pub fn local_addr(&self, socket: impl Into<SocketId>) -> io::Result<SocketAddr> {
        self.local_name(socket)?.inet().ok_or_else(not_inet)
    }

    /// The local address of any socket, asked of the kernel.
    ///
    /// # Errors
    ///
    /// As for [`local_addr`](Context::local_addr), for all kinds of sockets.
    pub fn local_name(&self, socket: impl Into<SocketId>) -> io::Result<Addr> {
        self.engine.local_addr(socket.into())
    }

    /// Bytes that are accepted for a connection and not yet taken by the kernel.
    ///
    /// # Errors
    ///
    /// [`Gone`] for a stale id.
    pub fn queued_bytes(&self, conn: ConnId) -> Result<usize, Gone> {
        self.engine.queued_bytes(conn.0)
    }

    /// Bytes that were read from a connection and wait to be delivered, or for the rest of their
    /// frame. In the callbacks of its own frames zero: what is left of the read is being decoded.
    ///
    /// # Errors
    ///
    /// [`Gone`] for a stale id.
    pub fn undecoded_bytes(&self, conn: ConnId) -> Result<usize, Gone> {
        self.engine.undecoded_bytes(conn.0)
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

    /// Sets a timer: `on_timer` is called with `key` once `after` has passed since
    /// [`now`](Context::now), never earlier; a millisecond and a turn later at most. Of those that
    /// are due in the same millisecond, the one that was set first fires first.
    pub fn set_timer(&mut self, after: Duration, key: u64) -> TimerId {
        self.engine.set_timer(after, key)
    }

    /// Sets a timer that fires again and again, each time a period after its own last deadline,
    /// so that it does not drift. Periods that pass while a turn lasts longer are left out, and of
    /// periods shorter than a millisecond, zero among them, all but one in each.
    pub fn set_interval(&mut self, period: Duration, key: u64) -> TimerId {
        self.engine.set_interval(period, key)
    }

    /// Sets a timer anew, under the same id and with the same key: it fires once `after` has passed
    /// since [`now`](Context::now), whatever it was set to; an interval goes on from there by its
    /// period. Answers false, and sets nothing, where it has ended: it was cancelled, or has fired
    /// and is no interval.
    ///
    /// To put a timer off costs next to nothing, so an idle timeout can be reset by every packet:
    /// it stays where it stands, and moves when its first deadline comes. Among those that are due
    /// in the same millisecond it has no fixed place.
    pub fn reset_timer(&mut self, timer: TimerId, after: Duration) -> bool {
        self.engine.reset_timer(timer, after)
    }

    /// Ends a timer. Answers whether it was still to fire.
    pub fn cancel_timer(&mut self, timer: TimerId) -> bool {
        self.engine.cancel_timer(timer)
    }

    /// The turn's one reading of the clock, or a later one by [`connect`](Context::connect), as
    /// looking a name up may block. Timers count from it.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.engine.now
    }

    /// Lets [`Reactor::run`](crate::Reactor::run) return when this turn is done. Nothing is closed:
    /// the reactor can be run again.
    pub fn stop(&mut self) {
        self.engine.stopped = true;
    }

    /// Whether a [`shutdown`](Context::shutdown) is under way or done: nothing new can be opened.
    #[must_use]
    pub fn is_shutting_down(&self) -> bool {
        self.engine.shutting_down
    }

    /// Ends gently: stops listening, closes every connection and socket, and lets
    /// [`Reactor::run`](crate::Reactor::run) return when all of them are gone. What is left at the
    /// deadline is aborted, and what it lost is counted. Nothing new is opened from now on: a
    /// connect fails, and is told of like any other.
    pub fn shutdown(&mut self, deadline: Duration) {
        self.engine.shutdown(deadline);
    }
}

pub(crate) fn not_inet() -> io::Error {
    io::Error::new(
        io::ErrorKind::Unsupported,
        "a Unix socket has no such address",
    )
}

impl<H: Handler> fmt::Debug for Context<'_, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("engine", &self.engine)
            .finish_non_exhaustive()
    }
}
