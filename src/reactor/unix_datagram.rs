//! Serving a Unix datagram socket.

use std::io;

use super::Reactor;
use super::clock::Since;
use crate::addr::UnixAddr;
use crate::conn::State;
use crate::context::Context;
use crate::datagram::UnixDatagram;
use crate::handler::Handler;
use crate::id::UnixDatagramId;

impl<H: Handler> Reactor<H> {
    pub(super) fn serve_unix_datagram(&mut self, id: UnixDatagramId) {
        self.tell_writable(id);
        let slot_len = self.engine.config.datagram_len_max.saturating_add(1);
        for _ in 0..self.engine.config.datagram_budget {
            let Self {
                engine,
                handler,
                sessions,
                recv_batch,
                ..
            } = self;
            let Ok(entry) = engine.unix_datagram_mut(id) else {
                return;
            };
            if !entry.flags.intersects(State::READABLE) || entry.flags.intersects(State::PAUSED) {
                return;
            }
            let [slot] = recv_batch.slots();
            let (len, from) = match entry.socket.recv_from(&mut slot[..slot_len]) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    entry.flags.remove(State::READABLE);
                    return;
                }
                Err(error) => {
                    // It was told before what is queued, for which there is no other edge.
                    engine.note_datagram_error(id, &error);
                    continue;
                }
            };
            // Most come from the sender of the one before: its name is kept, not made anew.
            if !entry.from.is_std(&from) {
                entry.from = UnixAddr::from_std(&from);
            }
            let from = std::mem::take(&mut entry.from);
            // The slot has room for a byte more than is allowed: it tells truncation.
            let data = &slot[..len.min(slot_len - 1)];
            engine.stats.datagrams_in += 1;
            engine.stats.datagram_bytes_in += data.len() as u64;
            engine.stats.datagrams_truncated += u64::from(len >= slot_len);
            let datagram = UnixDatagram {
                from: &from,
                data,
                truncated: len >= slot_len,
            };
            let since = Since::now(engine);
            handler.on_unix_datagram(&mut Context { engine, sessions }, id, datagram);
            since.end(engine, "on_unix_datagram", Some(id.into()));
            if let Ok(entry) = self.engine.unix_datagram_mut(id) {
                entry.from = from;
            }
        }
        self.engine.queue(id.0);
    }

    /// A connected peer that had no room was waited for.
    fn tell_writable(&mut self, id: UnixDatagramId) {
        let Self {
            engine,
            handler,
            sessions,
            ..
        } = self;
        if let Ok(entry) = engine.unix_datagram_mut(id)
            && entry.flags.set(State::WRITABLE, false)
            && std::mem::take(&mut entry.was_full)
        {
            let since = Since::now(engine);
            handler.on_unix_writable(&mut Context { engine, sessions }, id);
            since.end(engine, "on_unix_writable", Some(id.into()));
        }
    }
}
