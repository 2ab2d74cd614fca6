//! Dispatch of a Unix datagram socket.

use std::io;

use super::{Callbacks, Reactor};
use crate::addr::UnixAddr;
use crate::datagram::UnixDatagram;
use crate::handler::Handler;
use crate::id::UnixDatagramId;

impl<H: Handler> Reactor<H> {
    /// Dispatches a Unix datagram socket: reports that it is writable, then receives and delivers.
    pub(super) fn dispatch_unix_datagram(&mut self, id: UnixDatagramId) {
        self.notify_writable(id);
        // The buffer is one byte longer than the limit, so that a longer datagram is recognized as
        // truncated.
        let slot_len = self.engine.config.datagram_len_max.saturating_add(1);
        for _ in 0..self.engine.config.datagram_budget {
            let entry = match self.engine.unix_datagram_mut(id) {
                Ok(entry) if entry.state.may_receive() => entry,
                _ => return,
            };
            let [slot] = self.recv_batch.slots();
            let (len, from) = match entry.socket.recv_from(&mut slot[..slot_len]) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    entry.state.read_would_block();
                    return;
                }
                Err(error) => {
                    // Receiving continues: more datagrams may be queued, and no further event would
                    // report them.
                    if entry.failures.count(&error).is_break() {
                        entry.state.read_would_block();
                    }
                    self.engine.datagram_failed(id, &error);
                    self.callbacks().unix_datagram_error(id, error);
                    continue;
                }
            };
            entry.failures.clear();
            // The address is converted only if the sender has changed, because the next datagram
            // usually has the same sender.
            if !entry.from.is_std(&from) {
                entry.from = UnixAddr::from_std(&from);
            }
            if entry.peer.as_ref().is_some_and(|peer| *peer != entry.from) {
                self.engine.telemetry.stats.datagrams_filtered += 1;
                continue;
            }
            let from = std::mem::take(&mut entry.from);
            let datagram = UnixDatagram {
                from: &from,
                data: &slot[..len.min(slot_len - 1)],
                truncated: len >= slot_len,
            };
            let stats = &mut self.engine.telemetry.stats;
            stats.datagrams_in += 1;
            stats.datagram_bytes_in += datagram.data.len() as u64;
            stats.datagrams_truncated += u64::from(datagram.truncated);
            let callbacks = Callbacks::new(&mut self.handler, &mut self.engine, &mut self.sessions);
            callbacks.unix_datagram(id, datagram);
            if let Ok(entry) = self.engine.unix_datagram_mut(id) {
                entry.from = from;
            }
        }
        self.engine.queue(id.0);
    }

    /// Calls `on_unix_writable` if the queue of the connected peer was full and has space again.
    fn notify_writable(&mut self, id: UnixDatagramId) {
        if let Ok(entry) = self.engine.unix_datagram_mut(id)
            && entry.state.take_writable()
            && std::mem::take(&mut entry.was_full)
        {
            self.callbacks().unix_writable(id);
        }
    }
}
