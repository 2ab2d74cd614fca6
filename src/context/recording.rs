//! Recording of sockets for a cut map.

use std::io;

use super::Context;
use crate::cutmap::{Recording, Segments};
use crate::error::Gone;
use crate::handler::Handler;
use crate::id::{ConnId, SocketId};

impl<H: Handler> Context<'_, H> {
    /// Starts the recording of a socket, for a [cut map](crate::cutmap).
    ///
    /// The recording starts with the next read if this is called in a callback of the connection
    /// itself. It ends with [`stop_recording`](Context::stop_recording) or when the socket closes.
    /// Does nothing for a listener or for a socket that is being recorded.
    ///
    /// # Errors
    ///
    /// * [`Gone`]: the socket is closed.
    pub fn record(&mut self, socket: impl Into<SocketId>) -> Result<(), Gone> {
        self.engine.record(socket.into(), true)
    }

    /// Stops the recording of one socket. Its events stay in the recording until
    /// [`take_recording`](Context::take_recording).
    ///
    /// # Errors
    ///
    /// * [`Gone`]: the socket is closed.
    pub fn stop_recording(&mut self, socket: impl Into<SocketId>) -> Result<(), Gone> {
        self.engine.record(socket.into(), false)
    }

    /// Starts the recording of all sockets that are open, and of all that are opened later.
    pub fn record_all(&mut self) {
        self.engine.record_all(true);
    }

    /// Stops the recording of all sockets, also of those opened later.
    pub fn stop_recording_all(&mut self) {
        self.engine.record_all(false);
    }

    /// Takes the events recorded so far. Recording continues, and the next recording starts empty.
    pub fn take_recording(&mut self) -> Recording {
        self.engine.take_recording()
    }

    /// Returns the kernel's segment counters of a TCP connection. Linux and Android only.
    ///
    /// The call opens a socket and makes one request to the kernel, so it is too slow for every
    /// turn.
    ///
    /// # Errors
    ///
    /// * `NotConnected`: the connection is closed.
    /// * `Unsupported`: another operating system, or a Unix socket.
    /// * Any other error of the system.
    pub fn segments(&self, conn: ConnId) -> io::Result<Segments> {
        let conn = self.engine.conn(conn.0)?;
        conn.socket.segments(&conn.peer)
    }
}
