//! UDP sockets: opening them, and the queue of datagrams to send.
//!
//! `send_to` queues a datagram. The queue is flushed at the end of the turn, or earlier.

use std::net::{SocketAddr, ToSocketAddrs};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::{fmt, io};

use super::log_limit::warn_limited;
use super::open::first_ok;
use super::{Engine, Entry, UdpEntry};
use crate::conn::{Pool, State};
use crate::cutmap::EventKind;
use crate::datagram::{DatagramQueue, Marks};
use crate::error::{Gone, SendError};
use crate::id::UdpId;
use crate::os::{OwnedSocket, Udp, UdpOptions};
use crate::proxy_header::{ProxyError, ProxyProtocol};

/// Number of queued bytes above which the queue is sent before more datagrams are received. Without
/// this limit, the replies to a batch of long datagrams could exceed `datagram_queue_bytes_max`.
const FLUSH_LEN: usize = 128 * 1024;
/// Capacity above which a trim checks a queue, in bytes.
const QUEUE_LEN_BASE: usize = 64 * 1024;

/// The opening and the close of UDP sockets.
impl Engine {
    pub(crate) fn bind_udp(
        &mut self,
        addrs: impl ToSocketAddrs,
        options: &UdpOptions,
    ) -> io::Result<UdpId> {
        self.check_not_shutting_down()?;
        let in_batches = self.config.datagram_batches;
        let udp = first_ok(addrs.to_socket_addrs()?, |addr| {
            self.os.bind_udp(addr, options, in_batches)
        })?;
        self.add_udp(udp, options.proxy.clone())
    }

    pub(crate) fn adopt_udp(
        &mut self,
        socket: OwnedSocket,
        options: &UdpOptions,
    ) -> io::Result<UdpId> {
        self.check_not_shutting_down()?;
        let udp = Udp::adopt(socket, options, self.config.datagram_batches)?;
        self.add_udp(udp, options.proxy.clone())
    }

    /// Returns a duplicate of the socket. The entry receives nothing more, and is closed by the
    /// next flush.
    pub(crate) fn detach_udp(&mut self, id: UdpId) -> io::Result<OwnedSocket> {
        let entry = self.entries.udp_mut(id)?;
        if entry.is_detached || !entry.state.takes_datagrams() {
            return Err(Gone.into());
        }
        let socket = entry.socket.duplicate()?;
        entry.is_detached = true;
        self.flush_later(id.0);
        Ok(socket)
    }

    fn add_udp(&mut self, udp: Udp, proxy: Option<Arc<ProxyProtocol>>) -> io::Result<UdpId> {
        let peer = udp.peer_addr().ok();
        let token = self.add(|generation| {
            Entry::Udp(Box::new(UdpEntry {
                socket: udp,
                peer,
                reply: None,
                proxy,
                failures: ReceiveFailures::default(),
                queue: DatagramQueue::default(),
                counted_bytes: 0,
                queue_peak: 0,
                is_grown: false,
                was_refused: false,
                is_detached: false,
                generation,
                state: State::datagram_socket(),
            }))
        })?;
        Ok(UdpId(token))
    }

    pub(crate) fn connect_udp(&mut self, id: UdpId, peer: impl ToSocketAddrs) -> io::Result<()> {
        let entry = self.entries.udp_mut(id)?;
        first_ok(peer.to_socket_addrs()?, |peer| entry.socket.connect(peer))?;
        // The kernel may have completed the address: 0.0.0.0 means the loopback address.
        entry.peer = Some(entry.socket.peer_addr()?);
        Ok(())
    }

    /// Closes a UDP socket. The socket ends after its queue is sent.
    pub(crate) fn close_udp(&mut self, id: UdpId) {
        if let Ok(entry) = self.entries.udp_mut(id)
            && entry.state.close_datagrams()
        {
            self.flush_later(id.0);
        }
    }
}

/// The send queue of UDP sockets.
impl Engine {
    /// Queues a datagram. `to` is `None` if the connected peer is the receiver.
    pub(crate) fn send_datagram(
        &mut self,
        id: UdpId,
        to: Option<SocketAddr>,
        mut marks: Option<Marks>,
        data: &[u8],
    ) -> Result<(), SendError> {
        let limit = self.config.datagram_queue_bytes_max;
        let entry = self.entries.udp_mut(id)?;
        if !entry.state.takes_datagrams() {
            return Err(SendError::Closing);
        }
        if let Some(reply) = &entry.reply
            && to == Some(reply.to)
        {
            let marks = marks.get_or_insert_default();
            marks.source = marks.source.or_else(|| reply.source());
        }
        if self.memory.is_used_up() || !entry.queue.push(to, marks.as_ref(), data, limit) {
            self.telemetry.stats.datagrams_dropped += 1;
            if entry.state.is_recorded() {
                let recorder = self.telemetry.recorder.pass(self.timers.now);
                recorder.record_datagram(id, EventKind::DatagramDropped, data.len());
            }
            return Err(SendError::Full);
        }
        recount(entry, &mut self.memory.pool);
        if !entry.is_grown && entry.queue.capacity() > QUEUE_LEN_BASE {
            entry.is_grown = true;
            self.queues.grown_udp.push(id);
        }
        if entry.state.mark_to_flush() {
            self.queues.to_flush.push_back(id.0);
        }
        Ok(())
    }

    /// Sends queued datagrams until the kernel takes no more, then updates the memory budget.
    /// Sending stops at the first error, which is returned. So one call loses at most one datagram.
    pub(crate) fn flush_datagrams(&mut self, id: UdpId) -> Result<Option<io::Error>, Gone> {
        let entry = self.entries.udp_mut(id)?;
        let token = id.0.to_poll();
        let mut error = None;
        while error.is_none() && entry.state.is_writable() && !entry.queue.is_empty() {
            match entry.socket.send(&entry.queue) {
                Ok(count) => {
                    if entry.state.is_recorded() {
                        let recorder = self.telemetry.recorder.pass(self.os.now());
                        for len in entry.queue.lens().take(count) {
                            recorder.record_datagram(id, EventKind::DatagramSent, len);
                        }
                    }
                    let stats = &mut self.telemetry.stats;
                    stats.datagrams_out += count as u64;
                    stats.datagram_bytes_out += entry.queue.pop(count) as u64;
                    entry.was_refused = false;
                }
                Err(blocked) if blocked.kind() == io::ErrorKind::WouldBlock => {
                    match entry.socket.await_writable(&self.os, token, true) {
                        Ok(()) => _ = entry.state.write_would_block(),
                        Err(failed) => error = Some(failed),
                    }
                }
                Err(failed) => {
                    // "Connection refused" reports an earlier datagram that was sent to a port
                    // without a socket (udp(7)). The first datagram of the queue is not sent yet,
                    // so it is sent once more.
                    let is_earlier =
                        failed.kind() == io::ErrorKind::ConnectionRefused && !entry.was_refused;
                    entry.was_refused = is_earlier;
                    if !is_earlier {
                        if entry.state.is_recorded() {
                            let recorder = self.telemetry.recorder.pass(self.os.now());
                            let len = entry.queue.lens().next().unwrap_or_default();
                            recorder.record_datagram(id, EventKind::DatagramDropped, len);
                        }
                        self.telemetry.stats.datagrams_dropped += 1;
                        entry.queue.pop(1);
                    }
                    error = Some(failed);
                }
            }
        }
        if error.is_none() && entry.queue.is_empty() {
            error = entry.socket.await_writable(&self.os, token, false).err();
        }
        recount(entry, &mut self.memory.pool);
        if error.is_none() && entry.queue.is_empty() && entry.state.is_closing() {
            self.end_socket(id.0);
        }
        Ok(error)
    }

    /// Frees queue memory that a burst needed and that was not used since the last trim.
    pub(super) fn trim_datagrams(&mut self) {
        let (entries, grown) = (&mut self.entries, &mut self.queues.grown_udp);
        grown.retain(|id| {
            let Ok(entry) = entries.udp_mut(*id) else {
                return false;
            };
            let peak = std::mem::replace(&mut entry.queue_peak, entry.queue.queued_bytes());
            // Growth reserves up to four times the bytes in use.
            if entry.queue.is_empty() && entry.queue.capacity() > 4 * peak {
                entry.queue = DatagramQueue::default();
            }
            entry.is_grown = entry.queue.capacity() > QUEUE_LEN_BASE;
            entry.is_grown
        });
    }

    /// Returns the entry if a datagram of `from` may be delivered: the socket is open, and is
    /// connected to `from` or to no peer. A datagram of another sender is counted as filtered.
    pub(crate) fn receiver_of(&mut self, id: UdpId, from: &SocketAddr) -> Option<&mut UdpEntry> {
        let entry = self.entries.udp_mut(id).ok()?;
        if !entry.state.takes_datagrams() {
            return None;
        }
        if let Some(peer) = &entry.peer
            && !is_same_host_and_port(peer, from)
        {
            self.telemetry.stats.datagrams_filtered += 1;
            return None;
        }
        Some(entry)
    }

    /// Counts and logs a datagram that the PROXY protocol refuses.
    pub(crate) fn datagram_refused(&mut self, from: &SocketAddr, error: ProxyError) {
        self.telemetry.stats.datagrams_refused += 1;
        warn_limited!(self, Datagram => "dropped a datagram from {from}: {error}");
    }

    /// Returns true if the queue is so long that it must be sent before more datagrams are
    /// received.
    pub(crate) fn has_many_datagrams(&mut self, id: UdpId) -> bool {
        let many = FLUSH_LEN.min(self.config.datagram_queue_bytes_max / 2);
        let entry = self.entries.udp_mut(id);
        entry.is_ok_and(|entry| entry.queue.queued_bytes() > many)
    }

    /// Counts and logs an error of a datagram socket.
    pub(crate) fn datagram_failed(&mut self, id: impl fmt::Display, error: &io::Error) {
        self.telemetry.stats.datagram_errors += 1;
        warn_limited!(self, Datagram => "error on {id}: {error}");
    }
}

/// Number of consecutive failed receives after which the socket waits for its next event. Without
/// this limit, a receive that always fails would make a busy loop.
const RECEIVE_FAILURES_MAX: u8 = 16;

/// Number of consecutive failed receives of a datagram socket.
#[derive(Debug, Default)]
pub(crate) struct ReceiveFailures(u8);

impl ReceiveFailures {
    /// Resets the number of failures after a successful receive.
    pub(crate) fn clear(&mut self) {
        self.0 = 0;
    }

    /// Counts a failed receive. Returns `Break` if the socket must wait for its next event.
    /// "Connection refused" and "connection reset" reset the number, because each such error is
    /// reported once, for a datagram that was sent earlier.
    pub(crate) fn count(&mut self, error: &io::Error) -> ControlFlow<()> {
        let is_of_peer = matches!(
            error.kind(),
            io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset
        );
        self.0 = if is_of_peer { 0 } else { self.0 + 1 };
        if self.0 < RECEIVE_FAILURES_MAX {
            return ControlFlow::Continue(());
        }
        self.clear();
        ControlFlow::Break(())
    }
}

/// Returns true if a connected peer and a sender have the same host and port. The flow label of an
/// IPv6 address is not compared, because it belongs to a datagram and not to a peer.
fn is_same_host_and_port(peer: &SocketAddr, from: &SocketAddr) -> bool {
    let scope_of = |addr: &SocketAddr| match addr {
        SocketAddr::V4(_) => 0,
        SocketAddr::V6(addr) => addr.scope_id(),
    };
    peer == from
        || peer.port() == from.port()
            && peer.ip().to_canonical() == from.ip().to_canonical()
            && scope_of(peer) == scope_of(from)
}

/// Updates the memory budget with the current number of queued bytes.
fn recount(entry: &mut UdpEntry, pool: &mut Pool) {
    let now = entry.queue.queued_bytes();
    entry.queue_peak = entry.queue_peak.max(now);
    let before = std::mem::replace(&mut entry.counted_bytes, now);
    pool.count(before, now);
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::config::Config;
    use crate::engine::Task;
    use crate::os::UdpOptions;
    use crate::os::sim::World;

    /// Returns the capacity of the send queue after bursts of datagrams of a kilobyte. Each element
    /// of `bursts` is the number of datagrams of one burst. After each burst, the trim timer fires
    /// if it is set.
    fn held_after(bursts: &[usize]) -> usize {
        let mut engine = Engine::new(Config::default(), World::current().os())
            .expect("the simulated poll opens");
        let socket = engine.bind_udp("127.0.0.1:0", &UdpOptions::new());
        let socket = socket.expect("port 0 is free");
        let to = SocketAddr::from(([127, 0, 0, 1], 9));
        for burst in bursts {
            for _ in 0..*burst {
                let queued = engine.send_datagram(socket, Some(to), None, &[0; 1024]);
                queued.expect("the queue has space");
            }
            let error = engine.flush_datagrams(socket).expect("the socket is open");
            assert!(error.is_none(), "the flush failed: {error:?}");
            engine.arm_trim(false);
            while let Some(wait) = engine.timers.time_to_next() {
                engine.timers.set_now(engine.timers.now + wait);
                engine.timers.snapshot_due();
                if let Some((_, task, _)) = engine.timers.next_due() {
                    assert_eq!(task, Task::Trim);
                    engine.trim();
                }
            }
        }
        let entry = engine.entries.udp_mut(socket).expect("the socket is open");
        assert!(entry.queue.is_empty());
        let held = entry.queue.capacity();
        assert_eq!(entry.is_grown, held > QUEUE_LEN_BASE);
        engine.arm_trim(false);
        let is_armed = engine.timers.time_to_next().is_some();
        assert_eq!(is_armed, held > QUEUE_LEN_BASE);
        held
    }

    #[test]
    fn udp_queue_memory_of_a_burst_is_freed_if_unused() {
        assert!(
            held_after(&[900]) > 900 * 1024,
            "the capacity was used since the last trim"
        );
        assert!(
            held_after(&[900, 900, 900]) > 900 * 1024,
            "each burst uses the capacity again"
        );
        assert_eq!(
            held_after(&[900, 0]),
            0,
            "the capacity was not used since the last trim"
        );
        let reduced = held_after(&[900, 10, 10]);
        assert!(
            (1..QUEUE_LEN_BASE).contains(&reduced),
            "the capacity is {reduced} bytes"
        );
    }

    #[test]
    fn trim_keeps_queued_datagrams() {
        let mut engine = Engine::new(Config::default(), World::current().os())
            .expect("the simulated poll opens");
        let socket = engine.bind_udp("127.0.0.1:0", &UdpOptions::new());
        let socket = socket.expect("port 0 is free");
        for _ in 0..900 {
            let queued = engine.send_datagram(socket, None, None, &[0; 1024]);
            queued.expect("the queue has space");
        }
        let entry = engine.entries.udp_mut(socket).expect("the socket is open");
        // The state after the kernel has taken all datagrams except one.
        entry.queue.pop(899);
        engine.trim();
        engine.trim();
        let entry = engine.entries.udp_mut(socket).expect("the socket is open");
        assert_eq!(entry.queue.count(), 1);
    }
}
