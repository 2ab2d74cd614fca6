//! Detaching a connection from a reactor with its socket, and adopting a detached connection.
//!
//! A detached connection ends like any other, at the end of the turn. By then, the dispatch has put
//! back the read side, which holds the bytes that were read and not delivered. The reap takes these
//! bytes, the write queue and the socket.

use std::io;

use super::Engine;
use crate::codec::Framing;
use crate::conn::Action;
use crate::error::SendError;
use crate::event::{CloseReason, Detached};
use crate::id::{ConnId, Token};

impl Engine {
    /// Ends a connection and keeps its socket open. The reap reports the socket as the reason of
    /// the close. Fails if the connection is not open, is closing, or has a filter.
    pub(crate) fn detach(&mut self, token: Token) -> io::Result<()> {
        let conn = self.entries.conn(token)?;
        if conn.state.is_opening() || conn.state.is_dead() {
            return Err(io::ErrorKind::NotConnected.into());
        }
        let has_reason = conn.extras_ref().is_some_and(|it| it.reason.is_some());
        if conn.state.stops_sending() || has_reason {
            return Err(SendError::Closing.into());
        }
        if super::transport::has_filter(conn) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        self.queue_batch(token);
        let conn = self.entries.conn_mut(token)?;
        conn.extras().is_detached = true;
        if conn.state.end() == Action::Reap {
            self.queues.to_reap.push_back(token);
        }
        Ok(())
    }

    /// Takes the socket and the bytes of a detached connection. Returns them as the reason of the
    /// close; `None` if the connection was not detached.
    pub(super) fn take_detached(&mut self, token: Token) -> Option<CloseReason> {
        let conn = self.entries.conn_mut(token).ok()?;
        let extras = conn.extras_ref()?;
        // If the handler panicked after `detach`, the reason is already `HandlerPanicked`, and the
        // socket is closed.
        if !extras.is_detached || extras.reason.is_some() {
            return None;
        }
        let mut detached = Detached::new(conn.socket.detach(&self.os)?);
        // The header of the PROXY protocol is copied, because the reap needs the header too: the
        // connection was counted under the address in the header.
        detached.proxied = conn.extras().proxied.clone();
        let pool = &mut self.memory.pool;
        if let Some(mut queue) = conn.write_queue.take() {
            detached.unsent = queue.to_vec();
            queue.clear(pool);
            self.memory.spare_queues.put(Some(queue));
        }
        (detached.undelivered, detached.skip) = conn.assembler.take(&conn.framing, pool);
        Some(CloseReason::Detached(detached))
    }

    /// Adopts the socket of a detached connection with its bytes. Every failure is reported by
    /// `on_close`, and then the bytes count as lost.
    pub(crate) fn adopt_detached(&mut self, detached: Detached, framing: Framing) -> ConnId {
        let Detached {
            socket,
            undelivered,
            unsent,
            skip,
            proxied,
        } = detached;
        let token = self.insert_connecting(framing);
        let (memory, now) = (&mut self.memory, self.timers.stamp);
        if let Ok(conn) = self.entries.conn_mut(token) {
            conn.extras().proxied = proxied;
            let content = (&undelivered[..], skip);
            conn.assembler.put(content, now, &mut memory.pool);
            if !unsent.is_empty() {
                let spares = &mut memory.spare_queues;
                let queue = spares.queue_of(&mut conn.write_queue, now);
                queue.push(&unsent, &mut memory.pool);
            }
            // Adopted output above the low watermark counts as above the high watermark. So
            // `on_drained` is called when this output has drained. The handler has not sent this
            // output on this connection, and gets no other report about it.
            if unsent.len() > self.config.write_low_bytes {
                conn.state.above_high();
            }
        }
        let begun = self.begin_adopt(token, socket);
        self.end_if_failed(token, begun)
    }
}
