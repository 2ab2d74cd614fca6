//! Pausing, credit, limits and framing of a connection.

use std::io;

use super::Context;
use crate::codec::Framing;
use crate::config::Limits;
use crate::error::Gone;
use crate::handler::Handler;
use crate::id::{ConnId, SocketId};

/// Flow control, limits and framing of a connection.
impl<H: Handler> Context<'_, H> {
    /// Stops the input of a socket until [`resume`](Context::resume). Does nothing if the socket is
    /// paused already. Makes no system call.
    ///
    /// * A connection is not read, and no further frame is delivered. This pause is independent of
    ///   the pause above the high watermark. [`on_hangup`](Handler::on_hangup) reports a peer that
    ///   ends or resets the connection during the pause.
    /// * A listener accepts no connection. New connections wait in its backlog. If the backlog is
    ///   full, the kernel drops further connects.
    /// * A datagram socket delivers no datagram, except datagrams that the last system call has
    ///   already received. Further datagrams wait in the kernel's receive buffer. If this buffer is
    ///   full, the kernel drops further datagrams. The socket still sends.
    ///
    /// # Errors
    ///
    /// * [`Gone`]: the socket is closed.
    pub fn pause(&mut self, socket: impl Into<SocketId>) -> Result<(), Gone> {
        self.engine.pause(socket.into())
    }

    /// Ends a [`pause`](Context::pause). Input that arrived before and during the pause is
    /// delivered next. Does nothing if the socket is not paused.
    ///
    /// # Errors
    ///
    /// * [`Gone`]: the socket is closed.
    pub fn resume(&mut self, socket: impl Into<SocketId>) -> Result<(), Gone> {
        self.engine.resume(socket.into())
    }

    /// Grants a connection credit for `frames` more frames.
    ///
    /// The first grant turns credit on for the connection. From then on each delivered frame costs
    /// one credit. Without credit, nothing is delivered or read until the next grant. Makes no
    /// system call.
    ///
    /// * Grants add up. A total of `u64::MAX` turns credit off again.
    /// * A first grant of zero stops the connection before its next frame.
    /// * If the first grant is made in [`on_frame`](Handler::on_frame), the frame being delivered
    ///   is not counted. To count every frame, make the first grant in
    ///   [`on_open`](Handler::on_open).
    /// * Skipped frames and the end of the peer's side cost no credit. But without credit, the end
    ///   is not read, and `on_half_close` and `on_close` wait until the frames before it are
    ///   delivered. [`on_hangup`](Handler::on_hangup) reports the end at once: close the connection
    ///   there, unless the remaining frames are needed.
    ///
    /// Credit is independent of [`pause`](Context::pause) and of the pause above the high
    /// watermark: frames are delivered only if none of the three stops them.
    ///
    /// # Errors
    ///
    /// * [`Gone`]: the connection is closed.
    ///
    /// # Examples
    ///
    /// A broker that accepts four jobs at a time from each peer:
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
    ///     let _ = cx.grant(conn, 1); // allows one more job
    /// }
    /// ```
    #[doc(alias("active once", "rate limit", "credit"))]
    pub fn grant(&mut self, conn: ConnId, frames: u64) -> Result<(), Gone> {
        self.engine.grant(conn.0, frames)
    }

    /// Returns the limits of a connection: its own limits, or the limits of the
    /// [`Config`](crate::Config).
    ///
    /// # Errors
    ///
    /// * [`Gone`]: the connection is closed.
    pub fn limits(&self, conn: ConnId) -> Result<Limits, Gone> {
        Ok(self.engine.conn(conn.0)?.limits(&self.engine.config))
    }

    /// Sets own limits for a connection, which apply from now on.
    ///
    /// The timeouts start now, and the watermarks apply from the next send or write on. A timeout
    /// of `None` turns off the timeout of the configuration. A connection with own limits takes
    /// some memory for them. Its output is queued before it is written, which costs one copy per
    /// frame.
    ///
    /// # Errors
    ///
    /// An error changes nothing.
    ///
    /// * `InvalidInput`: a timeout, `frame_deadline` or `write_queue_bytes_max` is zero, or
    ///   `write_low_bytes <= write_high_bytes <= write_queue_bytes_max` does not hold, or
    ///   `write_low_bytes` exceeds [`Config::memory_bytes_max`](crate::Config::memory_bytes_max).
    ///   The error names the field.
    /// * `NotConnected`: the connection is closed.
    ///
    /// # Examples
    ///
    /// A client that has logged in may be silent for longer:
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

    /// Replaces the framing of a connection.
    ///
    /// The new framing applies from the next frame on, in both directions. It also decodes bytes
    /// that are read but not yet decoded. There is one exception: if a frame is being
    /// [skipped](Framing::skip_too_long), the former framing skips this frame to its end and
    /// reports it.
    ///
    /// # Errors
    ///
    /// * [`Gone`]: the connection is closed.
    pub fn reframe(&mut self, conn: ConnId, framing: Framing) -> Result<(), Gone> {
        self.engine.reframe(conn.0, framing)
    }

    /// Calls [`on_peek`](Handler::on_peek) once with the bytes of a connection that are read and
    /// not decoded yet. These bytes stay in the stream.
    ///
    /// No frame is decoded before `on_peek`. The reactor calls `on_peek` as soon as at least
    /// `len_min` of these bytes are read, or the peer ends its side. If `len_min` is zero,
    /// `on_peek` waits for no byte: it is called in this turn or in the next one. A repeated call
    /// replaces `len_min`.
    ///
    /// Use this method to choose the [framing](Context::reframe) by the first bytes of a
    /// connection. Another use is to reject bytes that a peer sent too early, such as plaintext
    /// after `STARTTLS`.
    ///
    /// * The bytes begin after the frame being delivered. They include all further bytes of the
    ///   same read, and the bytes of a partial frame. They do not include bytes that are still in
    ///   the kernel.
    /// * A connection that waits for `on_peek` holds at most `len_min` bytes and the bytes of one
    ///   read. All these bytes count as a partial frame for
    ///   [`Config::frame_deadline`](crate::Config::frame_deadline).
    /// * While the connection is paused, has no credit or is above its high watermark, `on_peek`
    ///   waits.
    /// * Nothing happens if the connection is closing.
    ///
    /// # Errors
    ///
    /// * [`Gone`]: the connection is closed.
    ///
    /// # Examples
    ///
    /// One port for two protocols. The first byte determines the protocol, and stays in the stream:
    ///
    /// ```
    /// use unstick::{ConnId, Context, Framing, Handler, Origin};
    ///
    /// struct TwoProtocols;
    ///
    /// impl Handler for TwoProtocols {
    ///     type Session = ();
    ///
    ///     fn on_open(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, _: &mut (), _: Origin) {
    ///         let _ = cx.peek(conn, 1);
    ///     }
    ///
    ///     fn on_peek(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, _: &mut (), b: &[u8]) {
    ///         let framing = match b.first() {
    ///             Some(b'{') => Framing::line(), // a JSON object per line
    ///             _ => Framing::length_u32(),    // binary messages
    ///         };
    ///         let _ = cx.reframe(conn, framing);
    ///     }
    ///
    /// }
    /// ```
    ///
    /// After `STARTTLS`, a client must wait for the reply of the server (RFC 3207). A server must
    /// not treat plaintext after `STARTTLS` as encrypted input:
    ///
    /// ```
    /// # use unstick::{ConnId, Context, Framing, Handler};
    /// # struct Smtp;
    /// # impl Handler for Smtp {
    /// # type Session = ();
    /// fn on_frame(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, _: &mut (), line: &[u8]) {
    ///     if line == b"STARTTLS" {
    ///         let _ = cx.peek(conn, 0);
    ///     }
    /// }
    ///
    /// fn on_peek(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, _: &mut (), bytes: &[u8]) {
    ///     if bytes.is_empty() {
    ///         let _ = cx.send(conn, b"220 Ready to start TLS");
    ///         let _ = cx.reframe(conn, Framing::raw());
    ///     } else {
    ///         let _ = cx.send(conn, b"554 Commands after STARTTLS");
    ///         cx.close(conn);
    ///     }
    /// }
    /// # }
    /// ```
    pub fn peek(&mut self, conn: ConnId, len_min: usize) -> Result<(), Gone> {
        self.engine.peek(conn.0, len_min)
    }

    /// Returns the number of bytes that were read from a connection, and that wait for delivery or
    /// for the end of their frame.
    ///
    /// Returns zero in callbacks that deliver the connection's own input, such as `on_frame`,
    /// because the remaining bytes of the read are still being decoded. [`peek`](Context::peek)
    /// passes these bytes to the handler.
    ///
    /// # Errors
    ///
    /// * [`Gone`]: the connection is closed.
    pub fn undecoded_bytes(&self, conn: ConnId) -> Result<usize, Gone> {
        Ok(self.engine.conn(conn.0)?.assembler.len())
    }
}
