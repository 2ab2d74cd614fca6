//! Closing sockets, stopping the loop and shutting down.

use std::io;

use super::Context;
use crate::error::Gone;
use crate::event::CloseReason;
use crate::handler::Handler;
use crate::id::{ConnId, ListenerId, UdpId};
use crate::os::OwnedSocket;
use crate::shutdown::{ShutdownPhase, ShutdownPlan};

/// Closing sockets, stopping the loop and shutting down.
impl<H: Handler> Context<'_, H> {
    /// Closes a connection gracefully.
    ///
    /// * No further frame is delivered, and `send` fails with
    ///   [`SendError::Closing`](crate::SendError::Closing).
    /// * The queued output is sent, followed by the FIN.
    /// * Input is discarded until the peer ends its side too. After
    ///   [`Config::close_deadline`](crate::Config::close_deadline) the connection is aborted.
    ///
    /// [`on_close`](Handler::on_close) comes when both sides have ended, or at the deadline: a peer
    /// that does not end its side delays `on_close` by 10 s, unless the deadline is changed. So
    /// free a resource that other clients wait for, such as a nickname, when you call `close`, and
    /// not only in `on_close`. To wait a shorter time for one peer, set the
    /// [`close_deadline`](crate::Limits#structfield.close_deadline) of its
    /// [limits](Context::set_limits) first. [`abort`](Context::abort) does not wait at all.
    ///
    /// A connection that is not open yet, or is in a TLS handshake, ends at once, and its queued
    /// output counts as unsent. Does nothing if the connection is closing or closed.
    ///
    /// # Examples
    ///
    /// A chat frees the nickname of a client at once, whichever side ends the connection:
    ///
    /// ```
    /// use std::collections::HashMap;
    /// use unstick::{Closed, ConnId, Context, Handler};
    ///
    /// struct Chat {
    ///     members: HashMap<String, ConnId>,
    /// }
    ///
    /// impl Chat {
    ///     fn kick(&mut self, cx: &mut Context<'_, Self>, name: &str) {
    ///         if let Some(conn) = self.members.remove(name) {
    ///             let _ = cx.send(conn, "you were removed from this room");
    ///             cx.with_session(conn, |_, name| *name = None); // nothing is left to free
    ///             cx.close(conn);
    ///         }
    ///     }
    /// }
    ///
    /// impl Handler for Chat {
    ///     type Session = Option<String>; // the nickname
    ///
    ///     fn on_close(
    ///         &mut self,
    ///         _: &mut Context<'_, Self>,
    ///         _: ConnId,
    ///         name: Option<String>,
    ///         _: Closed,
    ///     ) {
    ///         if let Some(name) = name {
    ///             self.members.remove(&name);
    ///         }
    ///     }
    /// }
    /// ```
    pub fn close(&mut self, conn: ConnId) {
        let reason = self.engine.local_reason(conn.0);
        self.engine.close(conn.0, reason);
    }

    /// Ends the write half of a connection, like `shutdown(SHUT_WR)`.
    ///
    /// The queued output is sent, followed by the FIN, and `send` fails with
    /// [`SendError::Closing`](crate::SendError::Closing). Frames of the peer are still delivered.
    /// The connection closes when the peer ends its side too. There is no deadline, because only
    /// the handler knows how long to wait for a reply. Does nothing if this side has ended already.
    ///
    /// # Errors
    ///
    /// * [`Gone`]: the connection is closed.
    pub fn half_close(&mut self, conn: ConnId) -> Result<(), Gone> {
        self.engine.half_close(conn.0)
    }

    /// Ends a connection at once with a reset.
    ///
    /// Queued output is lost and counted in [`Closed::unsent_bytes`](crate::Closed::unsent_bytes).
    /// If a [duplicate](Context::detach) of the socket is open, the reset is sent when
    /// the last duplicate is closed. Does nothing if the connection is closed.
    pub fn abort(&mut self, conn: ConnId) {
        self.engine.abort(conn.0, CloseReason::Aborted);
    }

    /// Ends a connection without closing its socket. The socket, the undelivered input and the
    /// unsent output become a [`Detached`](crate::Detached), for another reactor or for code
    /// without a reactor.
    ///
    /// * No further frame is delivered, and `send` fails with
    ///   [`SendError::Gone`](crate::SendError::Gone) or [`Closing`](crate::SendError::Closing).
    /// * At the end of the turn, [`on_close`](Handler::on_close) takes the session. The reason of
    ///   the close is [`CloseReason::Detached`]. It contains the socket, the bytes that were read
    ///   and not delivered, and the output that the kernel has not taken. From this call on, no
    ///   byte is lost or duplicated. The counts of lost bytes are zero, except for a partial frame
    ///   that was discarded when the peer ended its side.
    /// * If the handler drops the `Detached`, the socket is closed.
    ///
    /// [`adopt_detached`](Context::adopt_detached) continues the connection, in any reactor. The
    /// following move with the connection:
    ///
    /// * the socket, in non-blocking mode and with its options, such as `TCP_NODELAY`
    /// * the undelivered input and the unsent output
    /// * the header of the PROXY protocol that [`proxied`](Context::proxied) returns
    /// * the skip of a frame that is too long: see
    ///   [`Detached::is_skipping`](crate::Detached::is_skipping)
    ///
    /// The following do not move. The adopted connection starts without them, or with their
    /// defaults:
    ///
    /// * the id and the statistics
    /// * a [pause](Context::pause), and the credit of [`grant`](Context::grant)
    /// * its own [limits](Context::set_limits)
    /// * a pending [`peek`](Context::peek)
    /// * the watermark state: `adopt_detached` sets it from the unsent bytes
    /// * the running times of timeouts and of [`Config::frame_deadline`]: they begin again
    /// * the state of a custom codec, except while it skips a frame
    ///
    /// [`Config::frame_deadline`]: crate::Config::frame_deadline
    ///
    /// # Duplicates
    ///
    /// A duplicate of a connection's socket is the same open socket with another descriptor.
    /// [`socket_options`](Context::socket_options) can create a duplicate. A duplicate may also be
    /// older than the adoption of the socket. `close` and `half_close` send a FIN, after which no
    /// duplicate can send. After `abort`, the close of the last duplicate resets the connection,
    /// and output that was written to a duplicate may be lost. So use a duplicate only to set
    /// options or to wait. To move a connection, detach it.
    ///
    /// # Errors
    ///
    /// The connection is unchanged in case of an error.
    ///
    /// * `NotConnected`: the connection is closed, not open yet, or in a TLS handshake.
    /// * `BrokenPipe`: this side has ended or is closing, a write failed, or the peer sent a
    ///   malformed frame.
    /// * `Unsupported`: the bytes pass through a transport filter, such as TLS, so the socket alone
    ///   is useless.
    ///
    /// # Examples
    ///
    /// One reactor accepts, and moves each connection to another thread after its first line:
    ///
    /// ```
    /// use unstick::{CloseReason, Closed, ConnId, Context, Framing, Handler, Remote};
    ///
    /// struct Worker;
    ///
    /// impl Handler for Worker {
    ///     type Session = String; // the first line
    ///
    /// }
    ///
    /// struct Front {
    ///     worker: Remote<Worker>,
    /// }
    ///
    /// impl Handler for Front {
    ///     type Session = String;
    ///
    ///     fn on_frame(
    ///         &mut self,
    ///         cx: &mut Context<'_, Self>,
    ///         conn: ConnId,
    ///         first: &mut String,
    ///         line: &[u8],
    ///     ) {
    ///         *first = String::from_utf8_lossy(line).into_owned();
    ///         let _ = cx.detach(conn);
    ///     }
    ///
    ///     fn on_close(
    ///         &mut self,
    ///         _: &mut Context<'_, Self>,
    ///         _: ConnId,
    ///         first: String,
    ///         closed: Closed,
    ///     ) {
    ///         if let CloseReason::Detached(detached) = closed.reason {
    ///             let _ = self.worker.post(move |_, cx| {
    ///                 cx.adopt_detached(detached, Framing::line(), first);
    ///             });
    ///         }
    ///     }
    /// }
    /// ```
    pub fn detach(&mut self, conn: ConnId) -> io::Result<()> {
        self.engine.detach(conn.0)
    }

    /// Takes a UDP socket out of the reactor, without the loss of a datagram. Returns the socket,
    /// for another reactor or another process.
    ///
    /// * From this call on, the reactor receives nothing more. Datagrams that arrive wait in the
    ///   receive buffer of the socket.
    /// * Datagrams that the reactor has received before this call are still delivered, and the
    ///   handler can reply to them. For these replies, the id stays valid until the end of the
    ///   turn.
    /// * Queued datagrams are sent by this reactor, as at [`close_udp`](Context::close_udp).
    ///
    /// The result is a duplicate: another descriptor of the same socket, in non-blocking mode.
    /// [`adopt_udp`](Context::adopt_udp) adopts it in any reactor. The socket keeps its options,
    /// its groups and its connected peer. The options of the reactor do not move:
    /// [`adopt_udp_with`](Context::adopt_udp_with) sets them. On Linux with the feature
    /// `udp-batch`, a receive from the socket may return several datagrams of one sender
    /// (`UDP_GRO`, udp(7)). A reactor with this feature splits them.
    ///
    /// # Errors
    ///
    /// The socket is unchanged in case of an error.
    ///
    /// * `NotConnected`: the socket is closing, closed or detached.
    /// * `Unsupported`: the socket is simulated.
    /// * Any other error of the system, for example if no descriptor is free.
    ///
    /// # Examples
    ///
    /// A socket moves to the reactor of another thread:
    ///
    /// ```
    /// use unstick::{Context, Handler, Remote, UdpId};
    ///
    /// fn move_to<H: Handler + 'static>(
    ///     cx: &mut Context<'_, H>,
    ///     udp: UdpId,
    ///     other: &Remote<H>,
    /// ) -> std::io::Result<()> {
    ///     let socket = cx.detach_udp(udp)?;
    ///     let adopt = |_: &mut H, cx: &mut Context<'_, H>| drop(cx.adopt_udp(socket));
    ///     other.post(adopt).map_err(|error| std::io::Error::other(error.to_string()))
    /// }
    /// ```
    pub fn detach_udp(&mut self, socket: UdpId) -> io::Result<OwnedSocket> {
        self.engine.detach_udp(socket)
    }

    /// Closes a listener.
    ///
    /// Connections that it accepted stay open. The kernel resets connections that wait in its
    /// backlog. Does nothing if the listener is closed.
    pub fn close_listener(&mut self, listener: ListenerId) {
        if self.engine.entries.listener_mut(listener).is_ok() {
            self.engine.end_socket(listener.0);
        }
    }

    /// Closes a UDP socket after its queued datagrams are sent.
    ///
    /// No further datagram is received or accepted for sending. Does nothing if the socket is
    /// closing or closed.
    pub fn close_udp(&mut self, socket: UdpId) {
        self.engine.close_udp(socket);
    }

    /// Shuts down gracefully: closes all listeners, connections and sockets.
    ///
    /// `plan` is the time for the close, or a [`ShutdownPlan`] with more phases for a program
    /// behind a balancer. [`on_shutdown`](Handler::on_shutdown) reports the start of each phase.
    /// [`Reactor::run`](crate::Reactor::run) returns when all is closed. When the time for the
    /// close has passed, the remaining connections are aborted, and their lost bytes are counted.
    /// With a time of zero, these connections are aborted at most one millisecond and one turn
    /// later.
    ///
    /// Each connection is closed as by [`close`](Context::close), which waits for the peer. So a
    /// single peer that does not end its side delays the end until the close time has passed.
    ///
    /// A second call cannot extend a phase: the earliest end of each phase applies. So code that
    /// needs an end by a certain time can rely on that time. To allow more time, use longer times
    /// in the first call.
    ///
    /// Connections stay open until `on_shutdown` has reported the phase
    /// [`Close`](ShutdownPhase::Close), in this turn or in the next one. So the handler can send a
    /// last message in that callback.
    ///
    /// From the phase `Close` on, no connection or socket can be opened: a connect fails and is
    /// reported to [`on_close`](Handler::on_close). From the phase [`Drain`](ShutdownPhase::Drain)
    /// on, no listener can be opened.
    ///
    /// # Examples
    ///
    /// A server behind a balancer. Its health check fails as soon as the shutdown begins:
    ///
    /// ```
    /// use std::time::Duration;
    /// use unstick::{ConnId, Context, Framing, Handler, Reactor, ShutdownPhase, ShutdownPlan};
    ///
    /// struct Server;
    ///
    /// impl Handler for Server {
    ///     type Session = ();
    ///
    ///     fn on_frame(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, _: &mut (), _: &[u8]) {
    ///         let health: &[u8] = match cx.is_shutting_down() {
    ///             false => b"ready",
    ///             true => b"ending",
    ///         };
    ///         let _ = cx.send(conn, health);
    ///     }
    ///
    ///     fn on_shutdown(&mut self, _: &mut Context<'_, Self>, phase: ShutdownPhase) {
    ///         println!("shutting down: {phase:?}");
    ///     }
    /// }
    ///
    /// let mut reactor = Reactor::new(Server)?;
    /// reactor.listen("127.0.0.1:0", Framing::line())?;
    /// # let [unready, drain, close] = [5, 5, 5].map(Duration::from_millis);
    /// # let _ = "
    /// let [unready, drain, close] = [8, 15, 5].map(Duration::from_secs);
    /// # ";
    /// let plan = ShutdownPlan::new(close).unready_time(unready).drain_time(drain);
    /// reactor.with(|_, cx| cx.shutdown(plan)); // or `reactor.shutdown_on_signals(plan)?`
    /// reactor.run()?;
    /// # std::io::Result::Ok(())
    /// ```
    pub fn shutdown(&mut self, plan: impl Into<ShutdownPlan>) {
        self.engine.shutdown(plan.into());
    }

    /// Returns true from the start of a [shutdown](Context::shutdown), in every phase. A health
    /// check should then fail.
    #[must_use]
    pub fn is_shutting_down(&self) -> bool {
        self.shutdown_phase().is_some()
    }

    /// Returns the current phase of the [shutdown](Context::shutdown); `None` if no shutdown has
    /// begun.
    ///
    /// A phase is current before [`on_shutdown`](Handler::on_shutdown) reports it. The phase
    /// [`Close`](ShutdownPhase::Close) is the last one. In this phase no connection can be opened.
    /// So a client must not try to open a lost connection again.
    #[must_use]
    pub fn shutdown_phase(&self) -> Option<ShutdownPhase> {
        self.engine.shutdown.phase()
    }

    /// Makes [`Reactor::run`](crate::Reactor::run) return at the end of this turn. Nothing is
    /// closed, and the reactor can be run again. Has no effect if `run` has not begun.
    pub fn stop(&mut self) {
        self.engine.shutdown.is_stopped = true;
    }
}
