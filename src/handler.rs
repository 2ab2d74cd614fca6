//! [`Handler`]: what a program does with its frames.

use std::io;

use crate::addr::Addr;
use crate::codec::Skipped;
use crate::context::Context;
use crate::datagram::Datagram;
#[cfg(unix)]
use crate::datagram::UnixDatagram;
use crate::error::SendError;
use crate::event::{Closed, Hangup, Origin, Refusal};
#[cfg(unix)]
use crate::id::UnixDatagramId;
use crate::id::{ConnId, ListenerId, UdpId};
use crate::timer::TimerId;

/// A program on a reactor: its state, and what it does when something happens.
///
/// The reactor owns the one handler and calls it, one callback at a time; nothing is shared, so
/// nothing needs `Rc`, `Arc`, `RefCell`, `Send` or `'static`. What a callback asks for by its
/// [`Context`] never calls another callback before it has returned.
///
/// What each connection has of its own is its [`Session`](Handler::Session). The callbacks about a
/// connection are given its session beside its id; `cx.session(other)` reaches the others.
///
/// The life of every connection, accepted or connected, is
/// `on_open (on_frame | on_skipped | on_drained)* on_half_close? on_drained* on_close`, or
/// `on_close` alone for one that never opened. `on_close` comes exactly once, and last. An
/// `on_hangup` may stand before what is left of it, while the connection is not read.
///
/// # Panics
///
/// A panic in a callback unwinds out of the turn that called it, and the reactor can be run again.
/// A connection whose callback panicked has lost its session: it is closed with
/// [`CloseReason::HandlerPanicked`], and its `on_close` is given a default one. Listeners and
/// datagram sockets go on; what was received together with the datagram in question is lost.
///
/// [`CloseReason::HandlerPanicked`]: crate::CloseReason::HandlerPanicked
///
/// # Examples
///
/// A server that counts each connection's lines:
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
pub trait Handler: Sized {
    /// What each connection has of its own. An accepted connection begins with the default;
    /// [`Context::connect`] is given one; [`on_close`](Handler::on_close) gets it back.
    type Session: Default;

    /// A whole frame came. `frame` is its payload, without header or delimiter, and is borrowed
    /// from the reactor's buffer: copy what is to be kept.
    fn on_frame(
        &mut self,
        cx: &mut Context<'_, Self>,
        conn: ConnId,
        session: &mut Self::Session,
        frame: &[u8],
    );

    /// A frame of a connection was too long, and is skipped, as its framing was
    /// [told to](crate::Framing::skip_too_long); the next one follows. Does nothing by default.
    fn on_skipped(
        &mut self,
        cx: &mut Context<'_, Self>,
        conn: ConnId,
        session: &mut Self::Session,
        skipped: Skipped,
    ) {
        let _ = (cx, conn, session, skipped);
    }

    /// A connection is open: it was accepted or adopted, or a connect succeeded. Does nothing by
    /// default.
    fn on_open(
        &mut self,
        cx: &mut Context<'_, Self>,
        conn: ConnId,
        session: &mut Self::Session,
        origin: Origin,
    ) {
        let _ = (cx, conn, session, origin);
    }

    /// A connection was accepted from `peer` and closed at once, as there are too many. It has no
    /// id, and no other callback comes for it. Does nothing by default.
    ///
    /// Closing the listener here, or [pausing](Context::pause) it, leaves who comes next in the
    /// backlog.
    fn on_refused(
        &mut self,
        cx: &mut Context<'_, Self>,
        listener: ListenerId,
        peer: &Addr,
        refusal: Refusal,
    ) {
        let _ = (cx, listener, peer, refusal);
    }

    /// A queue that was above its high mark ([`Sent::AboveHigh`](crate::Sent)) has come down to its
    /// low one: send on. Exactly once per crossing. Does nothing by default.
    fn on_drained(
        &mut self,
        cx: &mut Context<'_, Self>,
        conn: ConnId,
        session: &mut Self::Session,
    ) {
        let _ = (cx, conn, session);
    }

    /// The peer has ended its side and all its frames are delivered. What is sent still reaches
    /// it. Closes by default: output is flushed first.
    fn on_half_close(
        &mut self,
        cx: &mut Context<'_, Self>,
        conn: ConnId,
        session: &mut Self::Session,
    ) {
        let _ = session;
        cx.close(conn);
    }

    /// The peer has ended or reset a connection that is not read at present: it is paused, has no
    /// credit or is above its high mark. What the peer sent before may still wait to be delivered;
    /// it comes when the connection is read again, and then the end. A handler that has no use for
    /// it closes or aborts the connection. Does nothing by default.
    ///
    /// A connection that is read is never told of here: its frames come at once, and then
    /// [`on_half_close`](Handler::on_half_close) or [`on_close`](Handler::on_close). One that was
    /// reset, or that both sides have ended, and that has nothing left to deliver, is closed at
    /// once, paused or not.
    ///
    /// This relies on what the poll says of a socket that nobody reads: on Linux and the BSDs,
    /// macOS among them, it comes at once; elsewhere the connection has to be read again first.
    fn on_hangup(
        &mut self,
        cx: &mut Context<'_, Self>,
        conn: ConnId,
        session: &mut Self::Session,
        hangup: Hangup,
    ) {
        let _ = (cx, conn, session, hangup);
    }

    /// A connection has ended, or could not be opened ([`CloseReason::ConnectFailed`]). Its peer's
    /// address can be asked for until this returns; its socket is closed. Does nothing by default.
    ///
    /// [`CloseReason::ConnectFailed`]: crate::CloseReason::ConnectFailed
    fn on_close(
        &mut self,
        cx: &mut Context<'_, Self>,
        conn: ConnId,
        session: Self::Session,
        closed: Closed,
    ) {
        let _ = (cx, conn, session, closed);
    }

    /// A datagram came. Does nothing by default.
    ///
    /// Anybody can write any sender's address on a datagram. Two programs that answer whatever
    /// comes can so be made to answer each other for ever (CVE-2024-2169): answer nothing that
    /// comes from an address or a port that itself answers, let a reply be no request, and let it
    /// be no longer than the request.
    fn on_datagram(&mut self, cx: &mut Context<'_, Self>, socket: UdpId, datagram: Datagram<'_>) {
        let _ = (cx, socket, datagram);
    }

    /// A UDP socket told of an error: a datagram could not be sent, or the host of the connected
    /// peer refused an earlier one (`ConnectionRefused`). Windows tells of a refusal also where the
    /// socket is not connected, as `ConnectionReset` (recvfrom, WSAECONNRESET). The socket goes on.
    /// Does nothing by default.
    fn on_datagram_error(&mut self, cx: &mut Context<'_, Self>, socket: UdpId, error: io::Error) {
        let _ = (cx, socket, error);
    }

    /// A Unix datagram came. Does nothing by default.
    #[cfg(unix)]
    fn on_unix_datagram(
        &mut self,
        cx: &mut Context<'_, Self>,
        socket: UnixDatagramId,
        datagram: UnixDatagram<'_>,
    ) {
        let _ = (cx, socket, datagram);
    }

    /// A Unix datagram socket whose connected peer had no room may send again. Does nothing by
    /// default.
    #[cfg(unix)]
    fn on_unix_writable(&mut self, cx: &mut Context<'_, Self>, socket: UnixDatagramId) {
        let _ = (cx, socket);
    }

    /// A timer fired. `key` is what it was set with: a connection's id, for example, whose session
    /// [`Context::with_session`] reaches. Does nothing by default.
    fn on_timer(&mut self, cx: &mut Context<'_, Self>, timer: TimerId, key: u64) {
        let _ = (cx, timer, key);
    }

    /// A payload of another thread's [`Remote::send`](crate::Remote::send) was refused by its
    /// connection, and is given back: `error` says why, and `conn` may name nothing any more. Drops
    /// the payload by default.
    fn on_send_refused(
        &mut self,
        cx: &mut Context<'_, Self>,
        conn: ConnId,
        payload: Vec<u8>,
        error: SendError,
    ) {
        let _ = (cx, conn, payload, error);
    }
}
