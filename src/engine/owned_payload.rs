//! Payloads passed by value, which are queued without a copy.

use std::mem;

use super::Engine;
use super::write::{accepted, queue_full};
use crate::error::{NotSent, SendError, Sent};
use crate::id::Token;
use crate::memory::Buf;
use crate::payload::Payload;

/// Minimum length of a payload that is queued without a copy, in bytes. For a shorter payload, a
/// copy costs less than a segment of the write queue and its share of the vectored write.
const OWNED_LEN_MIN: usize = 16 * 1024;
/// Capacity reserved for the header and the trailer of a frame, in bytes.
const ENVELOPE_LEN: usize = 64;

/// The header and the trailer of an owned payload.
struct Envelope {
    /// The header, then the trailer.
    buf: Buf,
    header_len: usize,
}

impl Engine {
    /// Encodes `payload` as a frame and queues it. A payload is not copied if it is long enough and
    /// its framing allows it.
    pub(crate) fn send_owned(&mut self, token: Token, payload: Payload) -> Result<Sent, NotSent> {
        let sent = match self.encode_envelope(token, &payload) {
            Ok(Some(envelope)) => {
                let before = self.accepted_bytes(token);
                let sent = self.queue_owned(token, envelope, payload);
                self.record_send(token, before);
                return Ok(sent);
            }
            Ok(None) => self.send(token, &payload[..]),
            Err(error) => Err(error),
        };
        sent.map_err(|error| NotSent { error, payload })
    }

    /// Checks if a payload is accepted, and encodes its header and trailer. Returns `None` for a
    /// payload that must be copied.
    fn encode_envelope(
        &mut self,
        token: Token,
        payload: &[u8],
    ) -> Result<Option<Envelope>, SendError> {
        if payload.len() < OWNED_LEN_MIN {
            return Ok(None);
        }
        let queued = self.queued_bytes(token)?;
        let conn = self.entries.conn_mut(token)?;
        if conn.state.stops_sending() {
            return Err(SendError::Closing);
        }
        if self.memory.is_used_up() {
            self.await_memory(token);
            return Err(SendError::Full);
        }
        // The buffer is not taken from the pool, because after a panic of the codec the pool would
        // always count it as lent.
        let mut buf = mem::take(&mut self.active.envelope);
        buf.reserve(ENVELOPE_LEN);
        let header_len = conn.framing.encode_around(payload, &mut buf);
        let limit = conn.limits(&self.config).write_queue_bytes_max;
        let is_too_much = queued + buf.len() + payload.len() > limit;
        match header_len? {
            Some(_) if is_too_much => Err(queue_full(conn, queued)),
            header_len => Ok(header_len.map(|header_len| Envelope { buf, header_len })),
        }
    }

    /// Queues the header, the payload and the trailer of a frame.
    fn queue_owned(&mut self, token: Token, envelope: Envelope, payload: Payload) -> Sent {
        self.queue_batch(token);
        let conn = self.entries.conn_mut(token);
        let conn = conn.expect(
            "the connection is open, because the header and trailer were just encoded for it",
        );
        let (spares, pool) = (&mut self.memory.spare_queues, &mut self.memory.pool);
        let queue = spares.queue_of(&mut conn.write_queue, self.timers.stamp);
        let (header, trailer) = envelope.buf.bytes().split_at(envelope.header_len);
        queue.push(header, pool);
        queue.push_owned(payload, pool);
        queue.push(trailer, pool);
        self.active.envelope = envelope.buf;
        self.active.envelope.clear();
        let queued = queue.len();
        let sent = accepted(conn, queued, &self.config, &mut self.telemetry.stats);
        self.flush_later(token);
        sent
    }
}
