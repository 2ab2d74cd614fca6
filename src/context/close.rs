//! Closing sockets, stopping the loop and shutting down.

use std::time::Duration;

use super::Context;
use crate::error::Gone;
use crate::event::CloseReason;
use crate::handler::Handler;
#[cfg(unix)]
use crate::id::UnixDatagramId;
use crate::id::{ConnId, ListenerId, UdpId};

impl<H: Handler> Context<'_, H> {
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
        self.engine.abort(conn.0, CloseReason::Aborted);
    }

    /// Stops listening. Connections that it accepted live on; those in its backlog are reset by
    /// the kernel.
    pub fn close_listener(&mut self, listener: ListenerId) {
        if self.engine.listener_mut(listener).is_ok() {
            self.engine.end_socket(listener.0);
        }
    }

    /// Closes a UDP socket once its queue is sent.
    pub fn close_udp(&mut self, socket: UdpId) {
        self.engine.close_udp(socket);
    }

    /// Closes a Unix datagram socket. Its file, if it has one, stays.
    #[cfg(unix)]
    pub fn close_unix_datagram(&mut self, socket: UnixDatagramId) {
        if self.engine.unix_datagram_mut(socket).is_ok() {
            self.engine.end_socket(socket.0);
        }
    }

    /// Ends gently: stops listening, closes every connection and socket, and lets
    /// [`Reactor::run`](crate::Reactor::run) return when all of them are gone. What is left at the
    /// deadline is aborted, and what it lost is counted. Nothing new is opened from now on: a
    /// connect fails, and is told of like any other.
    pub fn shutdown(&mut self, deadline: Duration) {
        self.engine.shutdown(deadline);
    }

    /// Whether a [`shutdown`](Context::shutdown) is under way or done: nothing new can be opened.
    #[must_use]
    pub fn is_shutting_down(&self) -> bool {
        self.engine.shutdown.is_shutting_down
    }

    /// Lets [`Reactor::run`](crate::Reactor::run) return when this turn is done. Nothing is closed:
    /// the reactor can be run again.
    pub fn stop(&mut self) {
        self.engine.shutdown.is_stopped = true;
    }
}
