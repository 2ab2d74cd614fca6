//! Dispatch of a UDP socket: receiving, sending, and errors.
//!
//! Datagrams are received into the receive batch of the reactor, several per system call if the
//! system supports it. They are delivered one by one. Replies are queued and sent by the end of the
//! dispatch, or earlier if many are queued.

use std::io;

use super::{Callbacks, Reactor};
use crate::datagram::{Datagram, Details};
use crate::error::Gone;
use crate::guard::ScopeGuard;
use crate::handler::Handler;
use crate::id::UdpId;

impl<H: Handler> Reactor<H> {
    /// Dispatches a UDP socket: sends its queue, receives and delivers datagrams, and sends the
    /// replies.
    pub(super) fn dispatch_udp(&mut self, id: UdpId) {
        self.flush_udp(id);
        let mut left = self.engine.config.datagram_budget;
        while left > 0 {
            let entry = match self.engine.entries.udp_mut(id) {
                Ok(entry) if entry.may_receive() => entry,
                _ => return self.flush_udp(id),
            };
            match entry.socket.receive(&mut self.recv_batch, left) {
                Ok(received) => {
                    entry.failures.clear();
                    if received.emptied {
                        entry.state.short_read();
                    }
                    let stats = &mut self.engine.telemetry.stats;
                    stats.datagrams_overflowed += u64::from(received.dropped);
                    left = left.saturating_sub(self.deliver_datagrams(id));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    entry.state.read_would_block();
                }
                Err(error) => {
                    left -= 1;
                    if entry.failures.count(&error).is_break() {
                        entry.state.read_would_block();
                    }
                    self.report_datagram_error(id, error);
                }
            }
        }
        self.flush_udp(id);
        self.engine.queue(id.0);
    }

    /// Delivers the receive batch, and returns the number of its datagrams. If the handler closes
    /// the socket, the remaining datagrams of the batch are dropped.
    fn deliver_datagrams(&mut self, id: UdpId) -> usize {
        let mut count = 0;
        for index in 0..self.recv_batch.count() {
            count += self.deliver_message(id, index);
            if self.engine.has_many_datagrams(id) {
                self.flush_udp(id);
            }
        }
        count
    }

    /// Delivers the datagrams of one received message, and returns the number of these datagrams.
    fn deliver_message(&mut self, id: UdpId, index: usize) -> usize {
        let message = self.recv_batch.message(index);
        let details = self.recv_batch.details(index);
        let len_max = self.engine.config.datagram_len_max;
        // The guard is never disarmed, so it runs after a panic and after a return.
        let mut engine = ScopeGuard::new(&mut self.engine, |engine| {
            if details.is_some()
                && let Ok(entry) = engine.entries.udp_mut(id)
            {
                entry.reply = None;
            }
        });
        for whole in self.recv_batch.datagrams(index) {
            let Some(entry) = engine.receiver_of(id, &message.from) else {
                continue;
            };
            let (mut whole, mut proxied) = (whole, None);
            if let Some(policy) = &entry.proxy {
                match policy.split_datagram(&message.from, whole, &mut self.proxy_header) {
                    Ok(0) => {}
                    Ok(len) => (whole, proxied) = (&whole[len..], Some(&self.proxy_header)),
                    Err(error) => {
                        engine.datagram_refused(&message.from, error);
                        continue;
                    }
                }
            }
            let datagram = Datagram {
                from: message.from,
                data: &whole[..whole.len().min(len_max)],
                truncated: whole.len() > len_max,
                details: details.unwrap_or(Details::NONE),
                proxied,
            };
            if details.is_some() {
                entry.reply = Some(datagram.reply_route());
            }
            let is_recorded = entry.state.is_recorded();
            let stats = &mut engine.telemetry.stats;
            stats.datagrams_in += 1;
            stats.datagram_bytes_in += datagram.data.len() as u64;
            stats.datagrams_truncated += u64::from(datagram.truncated);
            if is_recorded {
                engine.record_received(id, datagram.data.len(), datagram.truncated);
            }
            let callbacks = Callbacks::new(&mut self.handler, &mut engine, &mut self.sessions);
            callbacks.datagram(id, datagram);
        }
        message.count()
    }

    /// Sends the queued datagrams of a socket. An error drops at most the datagram that it
    /// concerns. The number of errors has a budget, because the handler may reply to each error
    /// with a datagram that fails too.
    pub(super) fn flush_udp(&mut self, id: UdpId) {
        for _ in 0..self.engine.config.datagram_budget {
            match self.engine.flush_datagrams(id) {
                Ok(Some(error)) => self.report_datagram_error(id, error),
                Ok(None) | Err(Gone) => return,
            }
        }
        self.engine.flush_later(id.0);
    }

    fn report_datagram_error(&mut self, id: UdpId, error: io::Error) {
        self.engine.datagram_failed(id, &error);
        self.callbacks().datagram_error(id, error);
    }
}
