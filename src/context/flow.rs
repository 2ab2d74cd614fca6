//! Pausing, credit, limits and framing of a connection.

use std::io;

use super::Context;
use crate::codec::Framing;
use crate::config::Limits;
use crate::error::Gone;
use crate::handler::Handler;
use crate::id::{ConnId, SocketId};

impl<H: Handler> Context<'_, H> {
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
    /// `InvalidInput` where `write_low_bytes <= write_high_bytes <= write_queue_bytes_max` does not hold, and
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

    /// Bytes that were read from a connection and wait to be delivered, or for the rest of their
    /// frame. In the callbacks of its own frames zero: what is left of the read is being decoded.
    ///
    /// # Errors
    ///
    /// [`Gone`] for a stale id.
    pub fn undecoded_bytes(&self, conn: ConnId) -> Result<usize, Gone> {
        self.engine.undecoded_bytes(conn.0)
    }
}
