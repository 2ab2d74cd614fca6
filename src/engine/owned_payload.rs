//! Payloads passed by value, which are queued without a copy.

use super::Engine;
use super::write::{accepted, queue_full};
use crate::error::{NotSent, SendError, Sent};
use crate::id::Token;
use crate::payload::Payload;

/// Minimum length of a payload that is queued without a copy, in bytes. For a shorter payload, a
/// copy costs less than a segment of the write queue and its share of the vectored write.
const OWNED_LEN_MIN: usize = 16 * 1024;
/// Capacity reserved for the header and the trailer of a frame, in bytes.
const ENVELOPE_LEN: usize = 64;

impl Engine {
    /// Encodes `payload` as a frame and queues it. A payload is not copied if it is long enough and
    /// its framing allows it.
    pub(crate) fn send_owned(&mut self, token: Token, payload: Payload) -> Result<Sent, NotSent> {
        let sent = match self.encode_envelope(token, &payload) {
            Ok(Some(header_len)) => {
                let before = self.accepted_bytes(token);
                let sent = self.queue_owned(token, header_len, payload);
                self.record_send(token, before);
                return Ok(sent);
            }
            Ok(None) => self.send(token, &payload[..]),
            Err(error) => Err(error),
        };
        sent.map_err(|error| NotSent { error, payload })
    }

    /// Checks if a payload is accepted, and encodes its header and trailer into the envelope of the
    /// active connection. Returns the length of the header, or `None` for a payload that must be
    /// copied.
    fn encode_envelope(
        &mut self,
        token: Token,
        payload: &[u8],
    ) -> Result<Option<usize>, SendError> {
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
        // The envelope is cleared here and not after its use, because the codec may panic.
        let envelope = &mut self.active.envelope;
        envelope.clear();
        envelope.reserve(ENVELOPE_LEN);
        let header_len = conn.framing.encode_around(payload, envelope)?;
        let limit = conn.limits(&self.config).write_queue_bytes_max;
        let is_too_much = queued + envelope.len() + payload.len() > limit;
        match header_len {
            Some(_) if is_too_much => Err(queue_full(conn, queued)),
            header_len => Ok(header_len),
        }
    }

    /// Queues the header, the payload and the trailer of a frame. The envelope contains the header,
    /// of `header_len` bytes, and the trailer.
    fn queue_owned(&mut self, token: Token, header_len: usize, payload: Payload) -> Sent {
        self.queue_batch(token);
        let conn = self.entries.conn_mut(token);
        let conn = conn.expect(
            "the connection is open, because the header and trailer were just encoded for it",
        );
        let (spares, pool) = (&mut self.memory.spare_queues, &mut self.memory.pool);
        let queue = spares.queue_of(&mut conn.write_queue, self.timers.stamp);
        let (header, trailer) = self.active.envelope.bytes().split_at(header_len);
        queue.push(header, pool);
        queue.push_owned(payload, pool);
        queue.push(trailer, pool);
        let queued = queue.len();
        let sent = accepted(conn, queued, &self.config, &mut self.telemetry.stats);
        self.flush_later(token);
        sent
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::codec::Framing;
    use crate::config::Config;
    use crate::engine::Accepted;
    use crate::os::sim::{Script, World};

    /// The first payload is queued. The other payloads exceed the limit of the write queue, exceed
    /// the frame limit, or have a framing that must copy them.
    #[test]
    fn every_result_of_an_owned_send_keeps_the_envelope() {
        let config = Config::new()
            .write_low_bytes(0)
            .write_high_bytes(0)
            .write_queue_bytes_max(OWNED_LEN_MIN + 4);
        let mut engine =
            Engine::new(config, World::current().os()).expect("the simulated poll opens");
        let short = Framing::length_u32().frame_len_max(100);
        let copied = Framing::delimiter(b"--");
        let first = Framing::length_u32();
        let mut before = 0;
        for (framing, len) in [
            (first.clone(), OWNED_LEN_MIN),
            (first, OWNED_LEN_MIN + 1),
            (short, OWNED_LEN_MIN),
            (copied, OWNED_LEN_MIN),
        ] {
            let peer = SocketAddr::from(([127, 0, 0, 1], 1)).into();
            let stream = Script::new().stream();
            let name = framing.to_string();
            let Accepted::Conn(conn) = engine.admit(stream, peer, framing) else {
                panic!("the connection was not admitted");
            };
            let _ = engine.send_owned(conn.0, vec![b'z'; len].into());
            let capacity = engine.active.envelope.capacity();
            assert!(capacity > 0 && capacity >= before, "{name}, {len} bytes");
            before = capacity;
        }
    }
}
