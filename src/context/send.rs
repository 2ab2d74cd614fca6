//! Sending frames and datagrams.

use std::net::SocketAddr;
use std::sync::Arc;

use super::Context;
#[cfg(unix)]
use crate::addr::UnixAddr;
use crate::codec::{Out, put_all};
use crate::engine::InPlace;
use crate::error::{FrameError, Gone, NotSent, SendError, Sent};
use crate::handler::Handler;
#[cfg(unix)]
use crate::id::UnixDatagramId;
use crate::id::{ConnId, UdpId};
use crate::payload::Payload;
#[cfg(unix)]
use std::io;

/// A broadcast payload of this many bytes or more is shared by reference count; a shorter one is
/// cheaper to copy.
const SHARED_LEN_MIN: usize = 16 * 1024;

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
    ///   [`Config::write_queue_bytes_max`](crate::Config::write_queue_bytes_max), or all queues
    ///   together are at [`Config::memory_bytes_max`](crate::Config::memory_bytes_max). Wait for
    ///   [`on_drained`](Handler::on_drained).
    /// * [`SendError::Frame`]: the payload is too long for the framing, or cannot be framed.
    #[inline]
    pub fn send(&mut self, conn: ConnId, payload: &[u8]) -> Result<Sent, SendError> {
        self.engine.send(conn.0, payload)
    }

    /// [`send`](Context::send) for a payload that is given by value. One of 16 KiB or more is not
    /// copied, whatever becomes of it: it is queued as it is, and written together with what stands
    /// around it in its frame. With [`delimiter`](crate::Framing::delimiter),
    /// [`length_field`](crate::Framing::length_field) and [`custom`](crate::Framing::custom) it is copied once,
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
        self.engine.send(conn.0, InPlace { len, write })
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
        self.engine.send(conn.0, InPlace { len: 0, write })
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
    ///   [`Config::datagram_queue_bytes_max`](crate::Config::datagram_queue_bytes_max), or all queues
    ///   together are at [`Config::memory_bytes_max`](crate::Config::memory_bytes_max).
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

    /// Bytes that are accepted for a connection and not yet taken by the kernel.
    ///
    /// # Errors
    ///
    /// [`Gone`] for a stale id.
    pub fn queued_bytes(&self, conn: ConnId) -> Result<usize, Gone> {
        self.engine.queued_bytes(conn.0)
    }
}
