//! Sending frames and datagrams.

use std::borrow::Borrow;
use std::sync::Arc;

use super::Context;
use crate::codec::Out;
use crate::datagram::Route;
use crate::engine::{InPlace, Unframed};
use crate::error::{FrameError, Gone, NotSent, SendError, Sent};
use crate::handler::Handler;
use crate::id::{ConnId, UdpId};
use crate::payload::Payload;

/// Length in bytes from which a broadcast payload is shared by reference count. A shorter payload
/// is cheaper to copy.
const SHARED_LEN_MIN: usize = 16 * 1024;

/// Sending frames and datagrams.
impl<H: Handler> Context<'_, H> {
    /// Sends `payload` as one frame: bytes or text. Never blocks.
    ///
    /// The frame is queued. It is written with the other output of the connection, at the end of
    /// the connection's dispatch or of the turn. The payload is accepted completely or not at all.
    /// Accepted bytes are taken by the kernel or counted in
    /// [`Closed::unsent_bytes`](crate::Closed::unsent_bytes); delivery to the peer is not
    /// guaranteed. A connection that is still connecting queues frames and sends them once it is
    /// open.
    ///
    /// # Errors
    ///
    /// * [`SendError::Gone`]: the connection is closed. Stop sending to it.
    /// * [`SendError::Closing`]: the connection is closing, its write half has ended, or a write
    ///   failed. `on_close` follows.
    /// * [`SendError::Full`]: the write queue would exceed
    ///   [`Config::write_queue_bytes_max`](crate::Config::write_queue_bytes_max), or
    ///   [`Config::memory_bytes_max`](crate::Config::memory_bytes_max) is used up. Wait for
    ///   [`on_drained`](Handler::on_drained). A single frame longer than `write_queue_bytes_max` is
    ///   never accepted. If the write queue is empty when such a frame is refused, no `on_drained`
    ///   follows.
    /// * [`SendError::Frame`]: the payload is too long for the framing, or the framing cannot
    ///   represent it. Another attempt will fail too. [`send_unframed`](Context::send_unframed)
    ///   sends bytes that need no framing.
    #[inline]
    pub fn send(&mut self, conn: ConnId, payload: impl AsRef<[u8]>) -> Result<Sent, SendError> {
        self.engine.send(conn.0, payload.as_ref())
    }

    /// Sends `bytes` without any framing, in order with the frames of the connection.
    ///
    /// Use it for a message that the framing cannot express. Examples are the single byte that
    /// answers a PostgreSQL `SSLRequest`, or an HTTP reply on a connection whose requests end with
    /// a delimiter. If all output is framed differently, use
    /// [`Framing::with_output`](crate::Framing::with_output) instead.
    ///
    /// Limits, watermarks, statistics and recording apply as for [`send`](Context::send), and the
    /// bytes count as one payload. Empty `bytes` send nothing. The framing does not check the
    /// bytes, so the caller must make sure that the peer understands them.
    ///
    /// # Errors
    ///
    /// * Same as [`send`](Context::send), except [`SendError::Frame`].
    ///
    /// # Examples
    ///
    /// A server accepts the login frame of a GPS tracker with a single byte (Teltonika, codec 8):
    ///
    /// ```
    /// # use unstick::{ConnId, Context, Handler};
    /// # struct Trackers;
    /// # impl Handler for Trackers {
    /// # type Session = bool;
    /// fn on_frame(
    ///     &mut self,
    ///     cx: &mut Context<'_, Self>,
    ///     conn: ConnId,
    ///     is_known: &mut bool,
    ///     frame: &[u8],
    /// ) {
    ///     if !*is_known {
    ///         *is_known = frame.len() == 15; // the IMEI, after a length of two bytes
    ///         let _ = cx.send_unframed(conn, &[u8::from(*is_known)]);
    ///     }
    /// }
    /// # }
    /// ```
    pub fn send_unframed(
        &mut self,
        conn: ConnId,
        bytes: impl AsRef<[u8]>,
    ) -> Result<Sent, SendError> {
        self.engine.send(conn.0, Unframed(bytes.as_ref()))
    }

    /// Sends an owned payload as one frame.
    ///
    /// A payload of 16 KiB or more is queued without a copy and written together with its header
    /// and trailer. The following framings copy the payload once, like [`send`](Context::send):
    /// [`length_field`](crate::Framing::length_field), [`custom`](crate::Framing::custom),
    /// [`line_crlf`](crate::Framing::line_crlf), a [`delimiter`](crate::Framing::delimiter) of
    /// several bytes, several [`delimiters`](crate::Framing::delimiters), and any framing with
    /// [`skip_between`](crate::Framing::skip_between).
    ///
    /// # Errors
    ///
    /// * Same as [`send`](Context::send); [`NotSent`] returns the payload.
    ///
    /// # Examples
    ///
    /// One image, shared by all clients that request it:
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

    /// Sends a payload that consists of several parts as one frame, for example a header and a body
    /// that are stored separately.
    ///
    /// # Errors
    ///
    /// * Same as [`send`](Context::send).
    pub fn send_parts(&mut self, conn: ConnId, parts: &[&[u8]]) -> Result<Sent, SendError> {
        let len = parts.iter().map(|part| part.len()).sum();
        let write = |out: &mut Out<'_>| {
            parts.iter().for_each(|part| out.put(part));
            Ok(())
        };
        self.engine.send(conn.0, InPlace { len, write })
    }

    /// Sends a payload that `write` appends directly to the output buffer, so that it is not
    /// copied. The header is completed after `write` has returned.
    ///
    /// If the size of the header depends on the length of the payload
    /// ([`varint`](crate::Framing::varint), [`netstring`](crate::Framing::netstring)), the payload
    /// is moved once. A [`custom`](crate::Framing::custom) codec without its own
    /// [`encode_in_place`](crate::Codec::encode_in_place) gets a copy of the payload. Limits are
    /// checked after `write` returns, so `write` itself must bound the length.
    ///
    /// # Errors
    ///
    /// * Same as [`send`](Context::send).
    /// * [`SendError::Frame`]: also any error that `write` returns. Nothing is sent.
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
        self.engine.send(conn.0, InPlace { len: 0, write })
    }

    /// Sends `payload` to each of `conns`, like [`send`](Context::send). Returns the number of
    /// connections that accepted it.
    ///
    /// A connection is skipped if [`send`](Context::send) to it fails, for example because it is
    /// closing or its write queue is full. The guide shows how to treat
    /// [slow readers](crate::guide::how_to#slow-readers-in-a-broadcast).
    ///
    /// The payload is written at the end of the turn. So all broadcasts of one turn must fit into
    /// [`Config::write_queue_bytes_max`](crate::Config::write_queue_bytes_max), even if each
    /// connection reads fast.
    ///
    /// A payload of 16 KiB or more is copied once for all connections, except with the framings for
    /// which [`send_owned`](Context::send_owned) makes a copy.
    ///
    /// # Examples
    ///
    /// A chat sends a line to all members but its author:
    ///
    /// ```
    /// # use std::collections::BTreeSet;
    /// # use unstick::{ConnId, Context, Handler};
    /// # fn f<H: Handler>(cx: &mut Context<'_, H>, members: &BTreeSet<ConnId>, author: ConnId) {
    /// cx.broadcast(members.iter().filter(|it| **it != author), "good morning");
    /// # }
    /// ```
    pub fn broadcast<I>(&mut self, conns: I, payload: impl AsRef<[u8]>) -> usize
    where
        I: IntoIterator<Item: Borrow<ConnId>>,
    {
        let payload = payload.as_ref();
        let conns = conns.into_iter().map(|conn| *conn.borrow());
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

    /// Sends one datagram to `to`: a [`SocketAddr`](std::net::SocketAddr), or a [`Route`].
    ///
    /// A reply is a datagram to the sender of a request, on the same socket. It is sent inside of
    /// [`on_datagram`](Handler::on_datagram), or later along a stored
    /// [`Datagram::reply_route`](crate::Datagram::reply_route). On Linux and Android, with the
    /// feature `udp-batch`, a reply leaves from the address to which its request was sent. If that
    /// is a multicast or broadcast address, and in all other cases, the system chooses the local
    /// address.
    ///
    /// The datagram is queued. It is sent after the callback has returned, at the latest at the end
    /// of the turn. If the send buffer of the socket is full, the datagram is sent later. If the
    /// kernel rejects the datagram, it is dropped, counted in
    /// [`Stats::datagrams_dropped`](crate::Stats::datagrams_dropped) and reported to
    /// [`on_datagram_error`](Handler::on_datagram_error).
    ///
    /// # Errors
    ///
    /// * [`SendError::Gone`]: the socket is closed.
    /// * [`SendError::Closing`]: the socket is closing.
    /// * [`SendError::Full`]: the queue would exceed
    ///   [`Config::datagram_queue_bytes_max`](crate::Config::datagram_queue_bytes_max), or
    ///   [`Config::memory_bytes_max`](crate::Config::memory_bytes_max) is used up. The datagram is
    ///   dropped.
    pub fn send_to(
        &mut self,
        socket: UdpId,
        to: impl Into<Route>,
        data: impl AsRef<[u8]>,
    ) -> Result<(), SendError> {
        let Route { to, marks } = to.into();
        self.engine
            .send_datagram(socket, Some(to), marks, data.as_ref())
    }

    /// Sends one datagram to the peer of a socket connected by
    /// [`connect_udp`](Context::connect_udp).
    ///
    /// If the socket has no peer, [`on_datagram_error`](Handler::on_datagram_error) reports the
    /// system's error: `EDESTADDRREQ`, which has no [`ErrorKind`](std::io::ErrorKind), or
    /// `NotConnected`.
    ///
    /// # Errors
    ///
    /// * Same as [`send_to`](Context::send_to).
    pub fn send_datagram(
        &mut self,
        socket: UdpId,
        data: impl AsRef<[u8]>,
    ) -> Result<(), SendError> {
        self.engine.send_datagram(socket, None, None, data.as_ref())
    }

    /// Returns the number of bytes, including framing, that were accepted for a connection and that
    /// the kernel has not taken yet. With TLS, bytes that are encrypted already do not count.
    ///
    /// # Errors
    ///
    /// * [`Gone`]: the connection is closed.
    pub fn queued_bytes(&self, conn: ConnId) -> Result<usize, Gone> {
        self.engine.queued_bytes(conn.0)
    }
}
