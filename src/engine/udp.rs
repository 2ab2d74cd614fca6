//! Datagrams on their way out: queued by `send_to`, sent at the end of the turn at the latest.

use std::net::SocketAddr;
use std::{fmt, io};

use super::log_limit::LogTopic;
use super::{Engine, UdpEntry};
use crate::conn::{Pool, State};
use crate::cutmap::EventKind;
use crate::datagram::DatagramQueue;
use crate::error::{Gone, SendError};
use crate::id::UdpId;

/// So many queued bytes are sent before more is received: the answers to a batch of long datagrams
/// would be more than a queue may hold.
const FLUSH_LEN: usize = 128 * 1024;
/// A queue that holds no more memory than this keeps it for good.
const QUEUE_LEN_BASE: usize = 64 * 1024;

impl Engine {
    /// Queues a datagram; it is sent at the end of the turn at the latest.
    pub(crate) fn send_datagram(
        &mut self,
        id: UdpId,
        to: Option<SocketAddr>,
        data: &[u8],
    ) -> Result<(), SendError> {
        let limit = self.config.datagram_queue_bytes_max;
        let is_memory_full = self.is_memory_full();
        let Self {
            entries,
            pool,
            stats,
            recorder,
            grown,
            ..
        } = self;
        let entry = entries.udp_mut(id)?;
        if entry.flags.intersects(State::CLOSING | State::DEAD) {
            return Err(SendError::Closing);
        }
        if is_memory_full || !entry.queue.push(to, data, limit) {
            stats.datagrams_dropped += 1;
            if entry.flags.intersects(State::RECORDED) {
                recorder.note_datagram(id, EventKind::DatagramDropped, data.len());
            }
            return Err(SendError::Full);
        }
        recount(entry, pool);
        if !entry.is_grown && entry.queue.capacity() > QUEUE_LEN_BASE {
            entry.is_grown = true;
            grown.push(id);
        }
        self.flush_later(id.0);
        Ok(())
    }

    /// Counts a socket's queue as it is now.
    pub(crate) fn recount_datagrams(&mut self, id: UdpId) {
        if let Ok(entry) = self.entries.udp_mut(id) {
            recount(entry, &mut self.pool);
        }
    }

    /// Gives back the memory of queues that a burst has made long, where it was not needed since
    /// the last time.
    pub(super) fn trim_datagrams(&mut self) {
        let Self { entries, grown, .. } = self;
        grown.retain(|id| {
            let Ok(entry) = entries.udp_mut(*id) else {
                return false;
            };
            let peak = std::mem::replace(&mut entry.queue_peak, entry.queue.queued_bytes());
            // Growing makes up to four times of what is needed.
            if entry.queue.is_empty() && entry.queue.capacity() > 4 * peak {
                entry.queue = DatagramQueue::default();
            }
            entry.is_grown = entry.queue.capacity() > QUEUE_LEN_BASE;
            entry.is_grown
        });
    }

    /// Sends queued datagrams until the kernel takes no more; answers the first error, which has
    /// cost one datagram at most and ended nothing.
    pub(crate) fn flush_datagrams(&mut self, id: UdpId) -> Result<Option<io::Error>, Gone> {
        let Self {
            entries,
            stats,
            poller,
            recorder,
            ..
        } = self;
        let token = id.0.to_poll();
        let entry = entries.udp_mut(id)?;
        let is_observed = entry.flags.intersects(State::RECORDED);
        let mut record = |kind, queue: &DatagramQueue, count| {
            recorder.stamp();
            for len in queue.lens().take(count) {
                recorder.note_datagram(id, kind, len);
            }
        };
        while entry.flags.intersects(State::WRITABLE) && !entry.queue.is_empty() {
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
                    if let Err(error) = entry.udp.await_room(poller, token, true) {
                        return Ok(Some(error));
                    }
                    entry.flags.remove(State::WRITABLE);
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
            && let Err(error) = entry.udp.await_room(poller, token, false)
        {
            return Ok(Some(error));
        }
        if entry.flags.intersects(State::CLOSING) && entry.queue.is_empty() {
            self.kill_socket(id.0);
        }
        Ok(None)
    }

    /// Whether a socket may be given its next datagram: it is there and was not closed.
    pub(crate) fn wants_datagrams(&mut self, id: UdpId) -> bool {
        let stops = State::CLOSING | State::DEAD;
        self.entries
            .udp_mut(id)
            .is_ok_and(|entry| !entry.flags.intersects(stops))
    }

    /// Whether so much is queued that it is time to send it, and to receive no more before.
    pub(crate) fn has_many_datagrams(&mut self, id: UdpId) -> bool {
        let many = FLUSH_LEN.min(self.config.datagram_queue_bytes_max / 2);
        self.entries
            .udp_mut(id)
            .is_ok_and(|entry| entry.queue.queued_bytes() > many)
    }

    /// Counts an error of a datagram socket and logs it, but not every time.
    pub(crate) fn note_datagram_error(&mut self, id: impl fmt::Display, error: &io::Error) {
        self.stats.datagram_errors += 1;
        if let Some(suppressed) = self.log_limit.pass(LogTopic::Datagram, self.now) {
            log::warn!("{id}: {error}{suppressed}");
        }
    }
}

fn recount(entry: &mut UdpEntry, pool: &mut Pool) {
    let now = entry.queue.queued_bytes();
    entry.queue_peak = entry.queue_peak.max(now);
    let before = std::mem::replace(&mut entry.counted_bytes, now);
    pool.count(before, now);
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::time::Instant;

    use super::*;
    use crate::config::Config;
    use crate::engine::Task;
    use crate::os::UdpOptions;

    /// What the queue of a socket holds after so many bursts of so many datagrams of a kilobyte,
    /// one after each trim.
    fn held_after(bursts: &[usize]) -> usize {
        let mut engine = Engine::new(Config::default(), Instant::now).expect("an engine");
        let socket = engine.bind_udp("127.0.0.1:0", &UdpOptions::new());
        let socket = socket.expect("a free port");
        let peer = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let to = peer.local_addr().expect("it is bound");
        for burst in bursts {
            for _ in 0..*burst {
                let queued = engine.send_datagram(socket, Some(to), &[0; 1024]);
                queued.expect("there is room");
            }
            let error = engine.flush_datagrams(socket).expect("it is open");
            assert!(error.is_none(), "{error:?}");
            engine.arm_trim(false);
            while let Some(wait) = engine.time_to_next_timer() {
                engine.set_now(engine.now + wait);
                engine.note_due_timers();
                if let Some((_, task)) = engine.next_due() {
                    assert_eq!(task, Task::Trim);
                    engine.trim();
                }
            }
        }
        let entry = engine.udp_mut(socket).expect("it is open");
        assert!(entry.queue.is_empty());
        let held = entry.queue.capacity();
        assert_eq!(entry.is_grown, held > QUEUE_LEN_BASE);
        engine.arm_trim(false);
        let is_armed = engine.time_to_next_timer().is_some();
        assert_eq!(is_armed, held > QUEUE_LEN_BASE);
        held
    }

    #[test]
    fn a_socket_gives_back_what_a_burst_of_datagrams_needed_and_not_what_each_does() {
        assert!(held_after(&[900]) > 900 * 1024, "just needed");
        assert!(held_after(&[900, 900, 900]) > 900 * 1024, "needed again");
        assert_eq!(held_after(&[900, 0]), 0, "not needed since");
        let little = held_after(&[900, 10, 10]);
        assert!((1..QUEUE_LEN_BASE).contains(&little), "{little} bytes");
    }

    #[test]
    fn what_waits_for_room_is_kept_where_the_memory_of_a_burst_is_given_back() {
        let mut engine = Engine::new(Config::default(), Instant::now).expect("an engine");
        let socket = engine.bind_udp("127.0.0.1:0", &UdpOptions::new());
        let socket = socket.expect("a free port");
        for _ in 0..900 {
            let queued = engine.send_datagram(socket, None, &[0; 1024]);
            queued.expect("there is room");
        }
        let entry = engine.udp_mut(socket).expect("it is open");
        // The kernel took all but one.
        entry.queue.pop(899);
        engine.trim();
        engine.trim();
        let entry = engine.udp_mut(socket).expect("it is open");
        assert_eq!(entry.queue.count(), 1);
    }
}
