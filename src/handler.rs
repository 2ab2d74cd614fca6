//! [`Handler`]: the callbacks of a program.

use std::io;

use crate::addr::Addr;
use crate::codec::Skipped;
use crate::context::Context;
use crate::datagram::Datagram;
use crate::error::{FrameError, SendError};
use crate::event::{Closed, Hangup, Origin, Refusal};
use crate::id::{ConnId, ListenerId, UdpId};
use crate::shutdown::ShutdownPhase;
#[cfg(feature = "signals")]
use crate::signal::Signal;
use crate::timer::TimerId;
#[cfg(unix)]
use crate::{datagram::UnixDatagram, id::UnixDatagramId};

/// The application on a reactor: its state and its callbacks.
///
/// A reactor owns one handler and runs one callback at a time. So the handler needs no `Rc`, `Arc`,
/// `RefCell`, `Send` or `'static`. A [`Context`] method never calls another callback before the
/// current callback has returned.
///
/// [`Session`](Handler::Session) is the state of one connection. A callback about a connection
/// receives its id and its session. `cx.session(other)` returns the session of another connection.
///
/// # Order of callbacks
///
/// Every connection that opened gets its callbacks in this order: `on_open (on_frame | on_skipped |
/// on_peek | on_drained)* (on_half_close | on_frame_error)? on_drained* on_close`. A connection
/// that never opened gets `on_close` only. `on_close` is called exactly once and is the last
/// callback. `on_hangup` may come before the remaining callbacks, while the connection is not read.
/// `on_peek` may also follow `on_half_close`.
///
/// No callback is called when the [`Reactor`](crate::Reactor) is dropped. So connections that are
/// open at that time get no `on_close`: call [`Context::shutdown`] first.
///
/// # Panics
///
/// A panic in a callback unwinds out of [`Reactor::turn`](crate::Reactor::turn) or
/// [`run`](crate::Reactor::run). The reactor can be run again.
///
/// * A connection whose callback panicked has lost its session. It is closed with
///   [`CloseReason::HandlerPanicked`], and its `on_close` receives a default session.
/// * Listeners and datagram sockets stay open. Datagrams that were received together with the
///   datagram being delivered are lost.
///
/// [`CloseReason::HandlerPanicked`]: crate::CloseReason::HandlerPanicked
///
/// # Examples
///
/// A server that counts the lines of each connection:
///
/// ```
/// use unstick::{ConnId, Context, Handler};
///
/// struct Counter;
///
/// impl Handler for Counter {
///     type Session = u64;
///
///     fn on_frame(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, seen: &mut u64, _: &[u8]) {
///         *seen += 1;
///         let _ = cx.send(conn, format!("{seen} so far").as_bytes());
///     }
/// }
/// ```
#[expect(
    unused_variables,
    reason = "the default callbacks ignore their arguments"
)]
pub trait Handler: Sized {
    /// State of one connection, kept by the reactor.
    ///
    /// An accepted connection starts with the default value. A connected or adopted connection
    /// starts with the value that is passed to the call. [`on_close`](Handler::on_close) receives
    /// the session by value.
    type Session: Default;

    /// Receives one whole frame.
    ///
    /// `frame` is the payload, without header or delimiter, and may be empty. It borrows from the
    /// reactor's buffer, so copy any bytes that must outlive the callback. If this callback closes
    /// the connection, no further frame is delivered. If it pauses the connection, no further frame
    /// is delivered until the connection is resumed. The default drops the frame, for handlers that
    /// use only datagrams.
    fn on_frame(
        &mut self,
        cx: &mut Context<'_, Self>,
        conn: ConnId,
        session: &mut Self::Session,
        frame: &[u8],
    ) {
    }

    /// Reports a frame that is too long and is discarded.
    ///
    /// A framing with [`skip_too_long`](crate::Framing::skip_too_long) skips such frames, and so
    /// does a custom codec that returns [`Step::SkipFrame`](crate::Step::SkipFrame). Frames after
    /// the skipped frame are delivered normally. The default does nothing.
    fn on_skipped(
        &mut self,
        cx: &mut Context<'_, Self>,
        conn: ConnId,
        session: &mut Self::Session,
        skipped: Skipped,
    ) {
    }

    /// Reports that the peer's bytes are not a valid frame. The connection closes after this
    /// callback.
    ///
    /// The handler can send a last reply here, such as the `431` of an HTTP server or the
    /// `NOTIFICATION` of a BGP speaker. [`Context::send_unframed`] sends a reply that the framing
    /// does not cover. The reply reaches the peer even if unread input is left: the
    /// [close](Context::close) sends the queued output and the FIN, and then discards the input
    /// until the peer ends or [`Config::close_deadline`](crate::Config::close_deadline) passes.
    ///
    /// No further frame is delivered, and the handler cannot prevent the close.
    /// [`abort`](Context::abort) drops the reply and resets the connection.
    /// [`on_close`](Handler::on_close) follows once, with [`CloseReason::Frame`]. The default sends
    /// nothing.
    ///
    /// [`CloseReason::Frame`]: crate::CloseReason::Frame
    ///
    /// # Examples
    ///
    /// ```
    /// # use unstick::{ConnId, Context, FrameError, Handler};
    /// # struct Http;
    /// # impl Handler for Http {
    /// # type Session = ();
    /// fn on_frame_error(
    ///     &mut self,
    ///     cx: &mut Context<'_, Self>,
    ///     conn: ConnId,
    ///     _: &mut (),
    ///     error: &FrameError,
    /// ) {
    ///     let status = match error {
    ///         FrameError::TooLong { .. } => "431 Request Header Fields Too Large",
    ///         _ => "400 Bad Request",
    ///     };
    ///     let reply = format!("HTTP/1.1 {status}\r\nConnection: close\r\n\r\n");
    ///     let _ = cx.send_unframed(conn, reply.as_bytes());
    /// }
    /// # }
    /// ```
    fn on_frame_error(
        &mut self,
        cx: &mut Context<'_, Self>,
        conn: ConnId,
        session: &mut Self::Session,
        error: &FrameError,
    ) {
    }

    /// Receives the bytes that are read and not decoded yet, after a call of [`Context::peek`].
    ///
    /// The bytes stay in the stream and are decoded after this callback, with the framing that the
    /// connection then has. If the peer has ended its side, there may be fewer bytes than the
    /// requested number. To wait for more bytes, call [`Context::peek`] again with a larger number.
    /// The default does nothing.
    fn on_peek(
        &mut self,
        cx: &mut Context<'_, Self>,
        conn: ConnId,
        session: &mut Self::Session,
        bytes: &[u8],
    ) {
    }

    /// Reports that a connection is open.
    ///
    /// `origin` shows if the connection was accepted, connected or adopted. The default does
    /// nothing.
    fn on_open(
        &mut self,
        cx: &mut Context<'_, Self>,
        conn: ConnId,
        session: &mut Self::Session,
        origin: Origin,
    ) {
    }

    /// Reports an accepted connection that was closed before it opened, because of a limit or
    /// because the listener does not trust the peer: see [`Refusal`].
    ///
    /// `peer` is the address of the peer, or of the client that a header of the PROXY protocol
    /// announced. The connection has no id and gets no other callback. To leave further connections
    /// in the backlog, [pause](Context::pause) the listener here. The default does
    /// nothing.
    fn on_refused(
        &mut self,
        cx: &mut Context<'_, Self>,
        listener: ListenerId,
        peer: &Addr,
        refusal: Refusal,
    ) {
    }

    /// Reports that a write queue has drained: it was above the high watermark
    /// ([`Sent::AboveHigh`](crate::Sent)) or rejected a payload ([`SendError::Full`]), and is now
    /// at or below the low watermark. If the unsent bytes of an [adopted](Context::adopt_detached)
    /// connection exceed the low watermark, the queue counts as above the high watermark.
    ///
    /// Sending may continue. The callback is called once each time the queue drains. It is also
    /// called when memory is free again, for a connection whose output was rejected at
    /// [`Config::memory_bytes_max`](crate::Config::memory_bytes_max). If a failed write has emptied
    /// the queue, [`send`](Context::send) fails. The default does nothing.
    #[doc(alias("writable", "backpressure"))]
    fn on_drained(
        &mut self,
        cx: &mut Context<'_, Self>,
        conn: ConnId,
        session: &mut Self::Session,
    ) {
    }

    /// Reports that the peer has ended its side and all its frames are delivered.
    ///
    /// Output still reaches the peer. The default closes the connection, which sends the queued
    /// output first. So the default suits a handler that replies in
    /// [`on_frame`](Handler::on_frame).
    ///
    /// The default does not suit a handler that computes replies later. A peer may send its request
    /// and its FIN together. The default then closes the connection, and a `send` 100 ms later
    /// fails: with [`SendError::Gone`], or with [`SendError::Closing`] if earlier output is still
    /// queued. Such a handler overrides this callback. If the callback does not close the
    /// connection, the connection stays open for output until the handler closes it. No deadline
    /// ends the connection, so set [`Config::idle_timeout`](crate::Config::idle_timeout).
    ///
    /// # Examples
    ///
    /// The connection stays open while replies are missing. The last reply closes it:
    ///
    /// ```
    /// # use unstick::{ConnId, Context, Handler};
    /// struct Jobs;
    ///
    /// #[derive(Default)]
    /// struct Pending {
    ///     replies: usize,
    ///     has_ended: bool,
    /// }
    ///
    /// impl Handler for Jobs {
    ///     type Session = Pending;
    ///
    ///     fn on_frame(
    ///         &mut self,
    ///         _: &mut Context<'_, Self>,
    ///         _: ConnId,
    ///         pending: &mut Pending,
    ///         _: &[u8],
    ///     ) {
    ///         pending.replies += 1; // a thread computes the reply and posts it to `reply`
    ///     }
    ///
    ///     fn on_half_close(
    ///         &mut self,
    ///         cx: &mut Context<'_, Self>,
    ///         conn: ConnId,
    ///         pending: &mut Pending,
    ///     ) {
    ///         pending.has_ended = true;
    ///         if pending.replies == 0 {
    ///             cx.close(conn);
    ///         }
    ///     }
    /// }
    ///
    /// fn reply(cx: &mut Context<'_, Jobs>, conn: ConnId, payload: &[u8]) {
    ///     let _ = cx.send(conn, payload);
    ///     cx.with_session(conn, |cx, pending| {
    ///         pending.replies -= 1;
    ///         if pending.has_ended && pending.replies == 0 {
    ///             cx.close(conn); // after the reply is sent
    ///         }
    ///     });
    /// }
    /// ```
    fn on_half_close(
        &mut self,
        cx: &mut Context<'_, Self>,
        conn: ConnId,
        session: &mut Self::Session,
    ) {
        cx.close(conn);
    }

    /// Reports that the peer has ended or reset a connection that is currently not read.
    ///
    /// The connection is paused, has no credit, is above its high watermark, or waits for memory.
    /// Frames that the peer sent before may still wait. They are delivered when the connection is
    /// read again, followed by the end of the stream. A handler that does not need these frames
    /// closes or aborts the connection. The default does nothing.
    ///
    /// A connection that is being read never gets this callback. Its frames are delivered at once,
    /// followed by [`on_half_close`](Handler::on_half_close) or [`on_close`](Handler::on_close).
    /// After a reset, or after both sides have ended, a connection with nothing left to deliver is
    /// closed at once, even if it is paused.
    ///
    /// The callback depends on the events of the operating system for a socket that is not read.
    /// Linux and the BSDs, including macOS, report the end at once. Other systems report it when
    /// the connection is read again.
    fn on_hangup(
        &mut self,
        cx: &mut Context<'_, Self>,
        conn: ConnId,
        session: &mut Self::Session,
        hangup: Hangup,
    ) {
    }

    /// Reports that a connection has ended or could not be opened ([`CloseReason::ConnectFailed`]).
    ///
    /// The socket is closed, unless the reason is [`CloseReason::Detached`]: the handler then owns
    /// the open socket, and closes it when it drops the [`Detached`](crate::Detached). The peer's
    /// address is available until this callback returns. After that, calls with the id fail or do
    /// nothing. The default drops `closed`. This also closes a detached socket.
    ///
    /// [`CloseReason::ConnectFailed`]: crate::CloseReason::ConnectFailed
    /// [`CloseReason::Detached`]: crate::CloseReason::Detached
    fn on_close(
        &mut self,
        cx: &mut Context<'_, Self>,
        conn: ConnId,
        session: Self::Session,
        closed: Closed,
    ) {
    }

    /// Receives one datagram. The default does nothing.
    ///
    /// A sender can forge the source address of a datagram. With a forged address, two servers that
    /// reply to every datagram can be made to reply to each other forever (CVE-2024-2169). Do not
    /// reply to the address or port of a service that itself replies. Make sure that a reply is
    /// never a valid request and is not longer than the request.
    fn on_datagram(&mut self, cx: &mut Context<'_, Self>, socket: UdpId, datagram: Datagram<'_>) {}

    /// Reports an error of a UDP socket, which stays open.
    ///
    /// Either a datagram could not be sent, or the host of the connected peer rejected an earlier
    /// datagram (`ConnectionRefused`). Windows also reports a rejection on sockets that are not
    /// connected, as `ConnectionReset` (recvfrom, WSAECONNRESET). The default does nothing.
    ///
    /// If 16 consecutive receives fail, for example because a sandbox rejects the system call, the
    /// socket waits for its next datagram before it tries again.
    fn on_datagram_error(&mut self, cx: &mut Context<'_, Self>, socket: UdpId, error: io::Error) {}

    /// Receives one Unix datagram. The default does nothing.
    #[cfg(unix)]
    fn on_unix_datagram(
        &mut self,
        cx: &mut Context<'_, Self>,
        socket: UnixDatagramId,
        datagram: UnixDatagram<'_>,
    ) {
    }

    /// Reports an error of a Unix datagram socket, which stays open.
    ///
    /// A datagram could not be received. Linux reports `ConnectionReset` if the connected peer
    /// connects to another socket while the peer has unread datagrams. The peer has then lost these
    /// datagrams. An error of a send is not reported here, because [`Context::send_unix_datagram`]
    /// returns it. The default does nothing.
    ///
    /// If 16 consecutive receives fail, the socket waits for its next datagram before it tries
    /// again.
    #[cfg(unix)]
    fn on_unix_datagram_error(
        &mut self,
        cx: &mut Context<'_, Self>,
        socket: UnixDatagramId,
        error: io::Error,
    ) {
    }

    /// Reports that a Unix datagram socket may send to its connected peer again.
    ///
    /// Called if [`Context::send_unix_datagram`] to this peer returned `WouldBlock` before. The
    /// default does nothing.
    #[cfg(unix)]
    fn on_unix_writable(&mut self, cx: &mut Context<'_, Self>, socket: UnixDatagramId) {}

    /// Reports that a timer fired.
    ///
    /// `key` is the number that the timer was set with. If it is a connection's id,
    /// [`Context::with_session`] gives access to the session. The default does nothing.
    fn on_timer(&mut self, cx: &mut Context<'_, Self>, timer: TimerId, key: u64) {}

    /// Reports the start of a phase of the [shutdown](Context::shutdown).
    ///
    /// A phase of length zero is not reported, except for
    /// [`Close`](ShutdownPhase::Close), the last one. In the phase
    /// [`Drain`](ShutdownPhase::Drain), a handler can ask its clients to leave, or close idle
    /// connections.
    ///
    /// [`Close`](ShutdownPhase::Close) is reported after the listeners are closed, and before the
    /// connections and the other sockets are closed. So a handler can say goodbye: a message sent
    /// or [broadcast](Context::broadcast) in this callback is queued, and leaves before the
    /// connection ends its side. All connections and sockets are closed when the callback returns
    /// or panics. The default does nothing.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::collections::BTreeSet;
    /// use unstick::{ConnId, Context, Handler, ShutdownPhase};
    ///
    /// struct Chat {
    ///     members: BTreeSet<ConnId>,
    /// }
    ///
    /// impl Handler for Chat {
    ///     type Session = ();
    ///
    ///     fn on_shutdown(&mut self, cx: &mut Context<'_, Self>, phase: ShutdownPhase) {
    ///         if phase == ShutdownPhase::Close {
    ///             cx.broadcast(&self.members, "* the server is shutting down");
    ///         }
    ///     }
    /// }
    /// ```
    fn on_shutdown(&mut self, cx: &mut Context<'_, Self>, phase: ShutdownPhase) {}

    /// Reports a signal that [`Context::catch_signal`] catches.
    ///
    /// This is a normal callback of the loop, so it may do anything that other callbacks may. If
    /// one signal arrives several times before the callback, it is reported once. The order of
    /// different signals is not kept, as in signal(7). The default does nothing. Requires the
    /// feature `signals`.
    #[cfg(feature = "signals")]
    fn on_signal(&mut self, cx: &mut Context<'_, Self>, signal: Signal) {}

    /// Hands back a payload of [`Remote::send`](crate::Remote::send) that its connection did not
    /// accept.
    ///
    /// `error` is the reason. The connection of `conn` may be closed. The default drops the
    /// payload.
    fn on_send_refused(
        &mut self,
        cx: &mut Context<'_, Self>,
        conn: ConnId,
        payload: Vec<u8>,
        error: SendError,
    ) {
    }
}
