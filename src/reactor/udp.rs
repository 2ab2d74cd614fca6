//! Serving a UDP socket: its datagrams in and out, and its errors.
//!
//! Datagrams are received into the reactor's one recv_batch, many at a time where the system can, and
//! handed out one by one. What a handler answers is queued, and goes out when a good deal has come
//! together, at the latest at the end.

use std::io;

use super::Reactor;
use super::clock::Since;
use crate::conn::State;
use crate::context::Context;
use crate::datagram::Datagram;
use crate::error::Gone;
use crate::handler::Handler;
use crate::id::UdpId;

impl<H: Handler> Reactor<H> {
    pub(super) fn serve_udp(&mut self, id: UdpId) {
        self.flush_udp(id);
        let mut left = self.engine.config.datagram_budget;
        while left > 0 {
            let Ok(entry) = self.engine.udp_mut(id) else {
                return;
            };
            if !entry.flags.intersects(State::READABLE)
                || entry
                    .flags
                    .intersects(State::CLOSING | State::DEAD | State::PAUSED)
            {
                return self.flush_udp(id);
            }
            match entry.udp.receive(&mut self.recv_batch, left) {
                Ok(received) => {
                    if received.emptied && !entry.flags.intersects(State::END_HINT) {
                        entry.flags.remove(State::READABLE);
                    }
                    left = left.saturating_sub(self.deliver(id));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    entry.flags.remove(State::READABLE | State::END_HINT);
                }
                Err(error) => {
                    left -= 1;
                    self.tell_datagram_error(id, error);
                }
            }
        }
        self.flush_udp(id);
        self.engine.queue(id.0);
    }

    /// Hands out what is in the recv_batch, and answers how many datagrams it was. Where the handler
    /// closes the socket, the rest is gone.
    fn deliver(&mut self, id: UdpId) -> usize {
        let mut count = 0;
        for index in 0..self.recv_batch.count() {
            count += self.deliver_message(id, index);
            if self.engine.has_many_datagrams(id) {
                self.flush_udp(id);
            }
            if !self.engine.wants_datagrams(id) {
                break;
            }
        }
        count
    }

    /// Hands out the datagrams of one message.
    fn deliver_message(&mut self, id: UdpId, index: usize) -> usize {
        let Self {
            engine,
            handler,
            sessions,
            recv_batch,
            ..
        } = self;
        let message = recv_batch.message(index);
        let is_observed = engine.is_observed(id);
        let len_max = engine.config.datagram_len_max;
        for whole in recv_batch.datagrams(index) {
            let datagram = Datagram {
                from: message.from,
                data: &whole[..whole.len().min(len_max)],
                truncated: whole.len() > len_max,
            };
            engine.stats.datagrams_in += 1;
            engine.stats.datagram_bytes_in += datagram.data.len() as u64;
            engine.stats.datagrams_truncated += u64::from(datagram.truncated);
            if is_observed {
                engine.record_received(id, datagram.data.len(), datagram.truncated);
            }
            let since = Since::now(engine);
            handler.on_datagram(&mut Context { engine, sessions }, id, datagram);
            since.end(engine, "on_datagram", Some(id.into()));
            if !engine.wants_datagrams(id) {
                break;
            }
        }
        message.count()
    }

    /// Sends a socket's queued datagrams. An error costs the datagram that it was about. A handler
    /// may answer an error with a datagram that fails too, so errors have a budget.
    pub(super) fn flush_udp(&mut self, id: UdpId) {
        for _ in 0..self.engine.config.datagram_budget {
            let flushed = self.engine.flush_datagrams(id);
            self.engine.recount_datagrams(id);
            match flushed {
                Ok(Some(error)) => self.tell_datagram_error(id, error),
                Ok(None) | Err(Gone) => return,
            }
        }
        self.engine.flush_later(id.0);
    }

    fn tell_datagram_error(&mut self, id: UdpId, error: io::Error) {
        let Self {
            engine,
            handler,
            sessions,
            ..
        } = self;
        engine.note_datagram_error(id, &error);
        let since = Since::now(engine);
        handler.on_datagram_error(&mut Context { engine, sessions }, id, error);
        since.end(engine, "on_datagram_error", Some(id.into()));
    }
}
