//! Serving a UDP socket: its datagrams in and out, and its errors.

use std::io;

use super::Reactor;
use crate::conn::Flags;
use crate::context::Context;
use crate::datagram::Datagram;
use crate::error::Gone;
use crate::handler::Handler;
use crate::token::UdpId;

impl<H: Handler> Reactor<H> {
    pub(super) fn serve_udp(&mut self, id: UdpId) {
        self.flush_udp(id);
        let slot_len = self.engine.config.datagram_len_max.saturating_add(1);
        for _ in 0..self.engine.config.datagram_budget {
            let Self {
                engine,
                handler,
                sessions,
                scratch,
                ..
            } = self;
            let Ok(entry) = engine.udp_mut(id) else {
                return;
            };
            if !entry.flags.intersects(Flags::READABLE)
                || entry.flags.intersects(Flags::CLOSING | Flags::DEAD)
            {
                return self.flush_udp(id);
            }
            match entry.udp.recv_from(&mut scratch[..slot_len]) {
                Ok((len, from)) => {
                    // The slot has room for a byte more than is allowed: it tells truncation.
                    let truncated = len >= slot_len;
                    let data = &scratch[..len.min(slot_len - 1)];
                    engine.stats.datagrams_in += 1;
                    engine.stats.datagram_bytes_in += data.len() as u64;
                    engine.stats.datagrams_truncated += u64::from(truncated);
                    let datagram = Datagram {
                        from,
                        data,
                        truncated,
                    };
                    handler.on_datagram(&mut Context { engine, sessions }, id, datagram);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    entry.flags.remove(Flags::READABLE);
                }
                Err(error) => self.tell_datagram_error(id, error),
            }
        }
        self.flush_udp(id);
        self.engine.queue(id.0);
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
        handler.on_datagram_error(&mut Context { engine, sessions }, id, error);
    }
}
