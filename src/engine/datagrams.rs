//! Datagrams on their way out: queued by `send_to`, sent at the end of the turn at the latest.

use std::net::SocketAddr;
use std::{fmt, io};

use super::throttle::Trouble;
use super::{Engine, UdpEntry};
use crate::buffer::Pool;
use crate::conn::Flags;
use crate::cutmap::EventKind;
use crate::datagram::DatagramQueue;
use crate::error::{Gone, SendError};
use crate::token::UdpId;

/// So many queued bytes are sent before more is received: the answers to a batch of long datagrams
/// would be more than a queue may hold.
const FLUSH_LEN: usize = 128 * 1024;

impl Engine {
    /// Queues a datagram; it is sent at the end of the turn at the latest.
    pub(crate) fn send_datagram(
        &mut self,
        id: UdpId,
        to: Option<SocketAddr>,
        data: &[u8],
    ) -> Result<(), SendError> {
        let limit = self.config.datagram_queue_len_max;
        let is_memory_full = self.is_memory_full();
        let Self {
            entries,
            pool,
            stats,
            recorder,
            ..
        } = self;
        let entry = entries.udp_mut(id)?;
        if entry.flags.intersects(Flags::CLOSING | Flags::DEAD) {
            return Err(SendError::Closing);
        }
        if is_memory_full || !entry.queue.push(to, data, limit) {
            stats.datagrams_dropped += 1;
            if entry.flags.intersects(Flags::OBSERVED) {
                recorder.note_datagram(id, EventKind::DatagramDropped, data.len());
            }
            return Err(SendError::Full);
        }
        recount(entry, pool);
        self.flush_later(id.0);
        Ok(())
    }

    /// Counts a socket's queue as it is now.
    pub(crate) fn recount_datagrams(&mut self, id: UdpId) {
        if let Ok(entry) = self.entries.udp_mut(id) {
            recount(entry, &mut self.pool);
        }
    }

    /// Sends queued datagrams until the kernel takes no more; answers the first error, which has
    /// cost one datagram at most and ended nothing.
    pub(crate) fn flush_datagrams(&mut self, id: UdpId) -> Result<Option<io::Error>, Gone> {
        let Self {
            entries,
            stats,
            driver,
            recorder,
            ..
        } = self;
        let token = id.0.to_poll();
        let entry = entries.udp_mut(id)?;
        let is_observed = entry.flags.intersects(Flags::OBSERVED);
        let mut record = |kind, queue: &DatagramQueue, count| {
            recorder.stamp();
            for len in queue.lens().take(count) {
                recorder.note_datagram(id, kind, len);
            }
        };
        while entry.flags.intersects(Flags::WRITABLE) && !entry.queue.is_empty() {
            match entry.udp.send(&entry.queue) {
                Ok(count) => {
                    if is_observed {
                        record(EventKind::DatagramSent, &entry.queue, count);
                    }
                    stats.datagrams_out += count as u64;
                    stats.datagram_bytes_out += entry.queue.pop(count) as u64;
                    entry.refused = false;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if let Err(error) = entry.udp.await_room(driver, token, true) {
                        return Ok(Some(error));
                    }
                    entry.flags.remove(Flags::WRITABLE);
                }
                Err(error) => {
                    // A refusal is about an earlier datagram, sent to a port that nobody has
                    // (udp(7)). This one has not gone yet, and is tried once more.
                    let is_earlier =
                        error.kind() == io::ErrorKind::ConnectionRefused && !entry.refused;
                    entry.refused = is_earlier;
                    if !is_earlier {
                        if is_observed {
                            record(EventKind::DatagramDropped, &entry.queue, 1);
                        }
                        stats.datagrams_dropped += 1;
                        entry.queue.pop(1);
                    }
                    return Ok(Some(error));
                }
            }
        }
        if entry.queue.is_empty()
            && let Err(error) = entry.udp.await_room(driver, token, false)
        {
            return Ok(Some(error));
        }
        if entry.flags.intersects(Flags::CLOSING) && entry.queue.is_empty() {
            self.kill_socket(id.0);
        }
        Ok(None)
    }

    /// Whether a socket may be given its next datagram: it is there and was not closed.
    pub(crate) fn wants_datagrams(&mut self, id: UdpId) -> bool {
        let stops = Flags::CLOSING | Flags::DEAD;
        self.entries
            .udp_mut(id)
            .is_ok_and(|entry| !entry.flags.intersects(stops))
    }

    /// Whether so much is queued that it is time to send it, and to receive no more before.
    pub(crate) fn has_many_datagrams(&mut self, id: UdpId) -> bool {
        let many = FLUSH_LEN.min(self.config.datagram_queue_len_max / 2);
        self.entries
            .udp_mut(id)
            .is_ok_and(|entry| entry.queue.queued_bytes() > many)
    }

    /// Counts an error of a datagram socket and logs it, but not every time.
    pub(crate) fn note_datagram_error(&mut self, id: impl fmt::Display, error: &io::Error) {
        self.stats.datagram_errors += 1;
        if let Some(left_out) = self.throttle.pass(Trouble::Datagram, self.now) {
            log::warn!("{id}: {error}{left_out}");
        }
    }
}

fn recount(entry: &mut UdpEntry, pool: &mut Pool) {
    let now = entry.queue.queued_bytes();
    let before = std::mem::replace(&mut entry.counted_bytes, now);
    pool.count(before, now);
}
