//! Payloads that are given by value, and queued without a copy.

use std::mem;

use super::Engine;
use super::write::{accepted, full};
use crate::conn::State;
use crate::error::{NotSent, SendError, Sent};
use crate::id::Token;
use crate::memory::Buf;
use crate::payload::Payload;

/// A shorter payload is copied: that costs less than a segment of its own, and than what it adds to
/// the gathered write.
const GIVEN_LEN_MIN: usize = 16 * 1024;
/// Room for what stands around a payload in its frame.
const AROUND_LEN: usize = 64;

/// What stands around a payload in its frame.
struct Around {
    buf: Buf,
    /// Where the payload stands in it.
    place: usize,
}

impl Engine {
    /// Encodes `payload` as a frame and queues it, without a copy where it is long enough and its
    /// framing allows it.
    pub(crate) fn send_owned(&mut self, token: Token, payload: Payload) -> Result<Sent, NotSent> {
        let sent = match self.around(token, &payload) {
            Ok(Some(around)) => {
                let before = self.accepted_bytes(token);
                let sent = self.queue_given(token, around, payload);
                self.record_send(token, before);
                return Ok(sent);
            }
            Ok(None) => self.send(token, &payload[..]),
            Err(error) => Err(error),
        };
        sent.map_err(|error| NotSent { error, payload })
    }

    /// Looks whether a payload is accepted, and what stands around it; `None` for one that is to be
    /// copied.
    fn around(&mut self, token: Token, payload: &[u8]) -> Result<Option<Around>, SendError> {
        if payload.len() < GIVEN_LEN_MIN {
            return Ok(None);
        }
        let queued = self.queued_bytes(token)?;
        let is_memory_full = self.is_memory_full();
        let Self {
            entries,
            active,
            config,
            ..
        } = self;
        let conn = entries.conn_mut(token)?;
        if conn.flags.intersects(State::STOPS_SENDING) {
            return Err(SendError::Closing);
        }
        if is_memory_full {
            self.refuse_for_memory(token);
            return Err(SendError::Full);
        }
        let framing = match active.is(token) {
            true => &active.framing,
            false => &conn.framing,
        };
        // Not one of the pool's: that would count as lent for ever where encoding panics.
        let mut buf = mem::take(&mut self.around);
        buf.reserve(AROUND_LEN);
        let place = framing.encode_around(payload, &mut buf);
        let limit = conn.limits(config).write_queue_bytes_max;
        let is_too_much = queued + buf.len() + payload.len() > limit;
        match place? {
            Some(_) if is_too_much => Err(full(conn, queued)),
            place => Ok(place.map(|place| Around { buf, place })),
        }
    }

    fn queue_given(&mut self, token: Token, around: Around, payload: Payload) -> Sent {
        self.queue_gathered(token);
        let Self {
            entries,
            pool,
            spare_queues,
            to_flush,
            config,
            stats,
            stamp,
            ..
        } = self;
        let conn = entries.conn_mut(token).expect("it was just looked at");
        let write_queue = conn
            .write_queue
            .get_or_insert_with(|| spare_queues.take(*stamp));
        let (head, end) = around.buf.bytes().split_at(around.place);
        write_queue.push(head, pool);
        write_queue.push_given(payload, pool);
        write_queue.push(end, pool);
        self.around = around.buf;
        self.around.clear();
        let queued = write_queue.len();
        if !conn.flags.intersects(State::TO_FLUSH) {
            conn.flags.insert(State::TO_FLUSH);
            to_flush.push_back(token);
        }
        accepted(conn, queued, config, stats)
    }
}
