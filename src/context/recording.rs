//! What a callback asks of the recordings for a cut map.

use std::io;

use super::Context;
use crate::cutmap::{Recording, Segments};
use crate::error::Gone;
use crate::handler::Handler;
use crate::id::{ConnId, SocketId};

impl<H: Handler> Context<'_, H> {
    /// Records what happens to a socket from now on, for a [cut map](crate::cutmap). A connection
    /// that is observed from inside of one of its own callbacks is recorded from its next read on.
    ///
    /// It ends with [`stop_recording`](Context::stop_recording), or with the socket. Observing what is
    /// observed, or a listener, changes nothing.
    ///
    /// # Errors
    ///
    /// [`Gone`] for a stale id.
    pub fn record(&mut self, socket: impl Into<SocketId>) -> Result<(), Gone> {
        self.engine.record(socket.into(), true)
    }

    /// Ends [`record`](Context::record) for one socket. What was recorded of it stays until it is
    /// [taken](Context::take_recording).
    ///
    /// # Errors
    ///
    /// [`Gone`] for a stale id.
    pub fn stop_recording(&mut self, socket: impl Into<SocketId>) -> Result<(), Gone> {
        self.engine.record(socket.into(), false)
    }

    /// Observes all that is open, and all that is opened from now on.
    pub fn record_all(&mut self) {
        self.engine.record_all(true);
    }

    /// Observes nothing any more, and nothing that is opened from now on.
    pub fn stop_recording_all(&mut self) {
        self.engine.record_all(false);
    }

    /// Takes what was recorded so far. Whoever is observed still is; the next recording begins now.
    pub fn take_recording(&mut self) -> Recording {
        self.engine.take_recording()
    }

    /// What the kernel counts of a connection's segments, on Linux. One question to it, by a socket
    /// that is opened for it: nothing for every turn.
    ///
    /// # Errors
    ///
    /// `NotConnected` for a stale id or a closed socket, what the system answered, and
    /// `Unsupported` on other systems.
    pub fn segments(&self, conn: ConnId) -> io::Result<Segments> {
        self.engine.segments(conn.0)
    }
}
