//! The entries of the slab: connections, listeners and datagram sockets.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use super::dial::Dial;
use super::prepare::Preparation;
use super::timeouts::Timeouts;
#[cfg(any(test, feature = "tls"))]
use super::transport::Filter;
use super::udp::ReceiveFailures;
use crate::addr::Addr;
#[cfg(unix)]
use crate::addr::UnixAddr;
use crate::codec::Framing;
use crate::config::{Config, Limits};
use crate::conn::{Assembler, Credit, State, WriteQueue};
use crate::datagram::{DatagramQueue, Route};
use crate::event::CloseReason;
#[cfg(unix)]
use crate::os::UnixDatagramSocket;
use crate::os::{Listener, Stream, Udp};
use crate::proxy_header::{ProxyHeader, ProxyProtocol};
use crate::stats::{ConnCounts, ConnStats};
use crate::timer::{Stamp, TimerId};
#[cfg(feature = "tls")]
use crate::tls::TlsServer;

/// One entry of the slab. Connections are stored in place. The other kinds are boxed, so that they
/// do not make every entry larger.
#[derive(Debug)]
pub(crate) enum Entry {
    Conn(Connection),
    Listener(Box<ListenerEntry>),
    Udp(Box<UdpEntry>),
    #[cfg(unix)]
    UnixDatagram(Box<UnixDatagramEntry>),
}

/// Evaluates `$result` with `$name` bound to the entry of any kind.
macro_rules! of_any_kind {
    ($entry:expr, $name:ident => $result:expr) => {
        match $entry {
            Entry::Conn($name) => $result,
            Entry::Listener($name) => $result,
            Entry::Udp($name) => $result,
            #[cfg(unix)]
            Entry::UnixDatagram($name) => $result,
        }
    };
}

pub(super) use of_any_kind;

/// One TCP or Unix stream connection. An idle connection usually owns no memory other than this
/// struct. It owns more memory if it needs an [`Extension`] (such as a TLS session), the address of
/// a Unix peer, or the state of a user's codec.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) framing: Framing,
    /// The read side. A dispatch moves the assembler out and leaves an empty one in its place.
    pub(crate) assembler: Assembler,
    /// Output that the kernel has not taken; `None` if there is none.
    pub(crate) write_queue: Option<Box<WriteQueue>>,
    /// Parts that few connections have.
    extension: Option<Box<Extension>>,
    pub(crate) counts: ConnCounts,
    pub(crate) peer: Addr,
    pub(crate) socket: Stream,
    /// The timer that checks the timeouts; `None` if no timeout is configured.
    pub(crate) timeout_check: Option<TimerId>,
    /// The time of the last read or write; only of the last read if [`Extras::last_write`] is set.
    /// Maintained only while a timeout is configured.
    pub(super) last_activity: Stamp,
    pub(crate) generation: NonZeroU32,
    pub(crate) state: State,
    /// Lower 32 bits of the number of reads.
    reads_low: u32,
}

/// The parts that few connections have. An open TLS connection has only a filter, so the filter is
/// stored in place, and the extras are not.
#[derive(Debug, Default)]
struct Extension {
    extras: Option<Box<Extras>>,
    /// The transport filter through which the bytes pass, if there is one.
    #[cfg(any(test, feature = "tls"))]
    filter: Option<Filter>,
}

/// The fields of a connection that only its connect, its close or a rare option needs.
#[derive(Debug, Default)]
pub(crate) struct Extras {
    /// The reason of the close, once there is one.
    pub(crate) reason: Option<CloseReason>,
    /// Bytes of output that were discarded.
    pub(crate) unsent_bytes: u64,
    /// Bytes of input that were discarded.
    pub(crate) undecoded_bytes: u64,
    /// The timer of the next connect attempt, of the stage in progress or of the close.
    pub(crate) deadline: Option<TimerId>,
    /// True if the connection ends with a reset.
    pub(crate) reset: bool,
    /// True if the connection ends without a close of its socket.
    pub(crate) is_detached: bool,
    /// The connect in progress.
    pub(crate) dial: Option<Box<Dial>>,
    /// The preparation, until its last stage is done.
    pub(super) preparation: Option<Box<Preparation>>,
    /// The header of the PROXY protocol with which the connection began.
    pub(crate) proxied: Option<Box<ProxyHeader>>,
    /// True if `on_refused` reports the end of the connection, and not `on_close`.
    pub(super) is_refused: bool,
    /// True if the socket was opened outside the reactor.
    pub(crate) adopted: bool,
    /// The credit, if the handler limits delivery by credit.
    pub(crate) credit: Option<Credit>,
    /// The time of the last write. It is set only if a read-idle timeout is configured, because
    /// that timeout does not count writes.
    pub(super) last_write: Option<Stamp>,
    /// Number of undecoded bytes for which `on_peek` waits, unless the stream ends earlier; `None`
    /// if the handler does not peek.
    pub(super) peek_len: Option<usize>,
    /// Upper 32 bits of the number of reads.
    reads_high: u32,
    /// The limits of this connection, if they differ from the configuration.
    pub(super) limits: Option<Box<(Limits, Timeouts)>>,
}

/// A listening socket.
#[derive(Debug)]
pub(crate) struct ListenerEntry {
    pub(crate) socket: Listener,
    pub(crate) framing: Framing,
    /// The rules for headers of the PROXY protocol; `None` if connections have no header.
    pub(super) proxy: Option<Arc<ProxyProtocol>>,
    /// The number that the program gave the listener.
    pub(crate) key: u64,
    /// The TLS configuration, and true if clients may also connect without TLS.
    #[cfg(feature = "tls")]
    pub(super) tls: Option<(TlsServer, bool)>,
    /// Number of consecutive accepts that were rejected or aborted.
    pub(crate) rejected: u32,
    pub(crate) generation: NonZeroU32,
    pub(crate) state: State,
}

/// A UDP socket.
#[derive(Debug)]
pub(crate) struct UdpEntry {
    pub(crate) socket: Udp,
    /// The connected peer. The kernel may hold datagrams of other senders, which arrived before the
    /// connect and are not delivered.
    pub(crate) peer: Option<SocketAddr>,
    /// Route back to the sender of the datagram being delivered, if its destination is known.
    pub(crate) reply: Option<Route>,
    /// The rules for headers of the PROXY protocol; `None` if datagrams have no header.
    pub(crate) proxy: Option<Arc<ProxyProtocol>>,
    /// Number of consecutive failed receives.
    pub(crate) failures: ReceiveFailures,
    pub(crate) queue: DatagramQueue,
    /// Number of bytes of the queue that the memory budget currently counts.
    pub(crate) counted_bytes: usize,
    /// Largest queue size since the last trim, in bytes.
    pub(crate) queue_peak: usize,
    /// True if the socket is in the list of sockets whose queues may be trimmed.
    pub(crate) is_grown: bool,
    /// True if the last send failed with "connection refused" for an earlier datagram. The first
    /// datagram of the queue is then sent once more.
    pub(crate) was_refused: bool,
    /// True if the program has taken a duplicate of the socket, so that it receives nothing more.
    pub(crate) is_detached: bool,
    pub(crate) generation: NonZeroU32,
    pub(crate) state: State,
}

impl UdpEntry {
    /// Returns true if the socket is readable, and neither paused, detached nor closed.
    pub(crate) fn may_receive(&self) -> bool {
        self.state.may_receive() && !self.is_detached
    }
}

/// A Unix datagram socket.
#[cfg(unix)]
#[derive(Debug)]
pub(crate) struct UnixDatagramEntry {
    pub(crate) socket: UnixDatagramSocket,
    /// The sender of the last datagram. It is kept because the next datagram usually has the same
    /// sender.
    pub(crate) from: UnixAddr,
    /// The connected peer. The kernel may hold datagrams of other senders, which arrived before the
    /// connect and are not delivered.
    pub(crate) peer: Option<UnixAddr>,
    /// Number of consecutive failed receives.
    pub(crate) failures: ReceiveFailures,
    /// True if a send failed because the queue of the connected peer was full, until
    /// `on_unix_writable` is called.
    pub(crate) was_full: bool,
    pub(crate) generation: NonZeroU32,
    pub(crate) state: State,
}

impl Extras {
    /// Returns true if a connection that has just opened needs none of these fields, so that they
    /// can be freed.
    pub(crate) fn is_empty(&self) -> bool {
        self.reason.is_none()
            && self.credit.is_none()
            && self.limits.is_none()
            && self.peek_len.is_none()
            && self.proxied.is_none()
            && self.last_write.is_none()
            && !self.is_detached
            && (self.unsent_bytes, self.undecoded_bytes) == (0, 0)
            && self.reads_high == 0
    }

    /// Records the reason of the close. The first reason is kept, with one exception: an error, an
    /// abort or a deadline replaces an earlier plain close.
    pub(crate) fn set_reason(&mut self, reason: CloseReason) {
        let is_close =
            |reason: &CloseReason| matches!(reason, CloseReason::Local | CloseReason::Peer);
        match &self.reason {
            Some(first) if !is_close(first) || is_close(&reason) => {}
            _ => self.reason = Some(reason),
        }
    }
}

impl Entry {
    pub(crate) fn generation(&self) -> NonZeroU32 {
        of_any_kind!(self, entry => entry.generation)
    }

    pub(crate) fn state_mut(&mut self) -> &mut State {
        self.head_mut().1
    }

    /// Returns the generation and the state, which all kinds have. Connections are checked first,
    /// because nearly all entries are connections.
    #[inline]
    pub(crate) fn head_mut(&mut self) -> (NonZeroU32, &mut State) {
        match self {
            Self::Conn(conn) => (conn.generation, &mut conn.state),
            other => other.socket_head_mut(),
        }
    }

    #[cold]
    fn socket_head_mut(&mut self) -> (NonZeroU32, &mut State) {
        of_any_kind!(self, entry => (entry.generation, &mut entry.state))
    }
}

impl Connection {
    pub(crate) fn new(
        socket: Stream,
        peer: Addr,
        framing: Framing,
        generation: NonZeroU32,
        state: State,
    ) -> Self {
        Self {
            framing,
            assembler: Assembler::default(),
            write_queue: None,
            extension: None,
            counts: ConnCounts::default(),
            reads_low: 0,
            peer,
            socket,
            timeout_check: None,
            last_activity: Stamp::default(),
            generation,
            state,
        }
    }

    /// Returns the own limits of the connection. If it has no own limits, returns the limits of the
    /// configuration.
    pub(crate) fn limits(&self, config: &Config) -> Limits {
        self.own_limits()
            .map_or_else(|| config.limits(), |(limits, _)| *limits)
    }

    /// Returns the own limits and timeouts of the connection, if it has any.
    pub(super) fn own_limits(&self) -> Option<&(Limits, Timeouts)> {
        self.extras_ref()?.limits.as_deref()
    }

    /// Returns the extras; allocates them if there are none.
    pub(crate) fn extras(&mut self) -> &mut Extras {
        let extension = self.extension.get_or_insert_default();
        extension.extras.get_or_insert_default()
    }

    /// Returns the extras, if there are any.
    pub(crate) fn extras_ref(&self) -> Option<&Extras> {
        self.extension.as_ref()?.extras.as_deref()
    }

    /// Returns the extras, if there are any.
    pub(crate) fn extras_mut(&mut self) -> Option<&mut Extras> {
        self.extension.as_mut()?.extras.as_deref_mut()
    }

    /// Frees the extras of an open connection if it needs none of them.
    pub(super) fn free_extras(&mut self) {
        let Some(extension) = &mut self.extension else {
            return;
        };
        extension.extras.take_if(|extras| extras.is_empty());
        #[cfg(any(test, feature = "tls"))]
        if extension.filter.is_some() {
            return;
        }
        if extension.extras.is_none() {
            self.extension = None;
        }
    }

    /// Takes the extras of a connection that has ended, and removes its filter.
    pub(super) fn take_extras(&mut self) -> Box<Extras> {
        let extension = self.extension.take();
        let extras = extension.and_then(|extension| extension.extras);
        extras.unwrap_or_default()
    }

    /// Returns the filter, if there is one.
    #[cfg(any(test, feature = "tls"))]
    pub(super) fn filter(&self) -> Option<&Filter> {
        self.extension.as_ref()?.filter.as_ref()
    }

    /// Returns the filter and the socket, if there is a filter.
    #[cfg(any(test, feature = "tls"))]
    pub(super) fn filter_and_socket(&mut self) -> Option<(&mut Filter, &mut Stream)> {
        let filter = self.extension.as_mut()?.filter.as_mut()?;
        Some((filter, &mut self.socket))
    }

    /// Adds a filter. From now on, all bytes pass through it.
    #[cfg(any(test, feature = "tls"))]
    pub(super) fn install_filter(&mut self, filter: Filter) {
        self.extension.get_or_insert_default().filter = Some(filter);
        self.state.set_filtered();
    }

    /// Returns the credit, if the handler limits delivery by credit.
    pub(crate) fn credit(&mut self) -> Option<&mut Credit> {
        self.extras_mut()?.credit.as_mut()
    }

    /// Returns the capacity of the buffers of the connection, in bytes.
    pub(crate) fn held_bytes(&self) -> usize {
        let queue = self.write_queue.as_ref();
        let queued = queue.map_or(0, |queue| queue.held_bytes());
        self.assembler.capacity() + queued + super::transport::held_bytes(self)
    }

    /// Returns true if output sent during the dispatch of the connection may be collected in the
    /// batch: sending is allowed, the write queue is empty, and the connection is open and has no
    /// own limits.
    pub(crate) fn batches_output(&self) -> bool {
        self.write_queue.is_none() && self.state.batches_output()
    }

    /// Records the time of a write. The fast path skips this call if there is no filter and the
    /// kernel takes the whole batch. The same dispatch has then already recorded the time of a
    /// read.
    pub(super) fn stamp_write(&mut self, now: Stamp) {
        let extras = self.extras_mut();
        match extras.and_then(|extras| extras.last_write.as_mut()) {
            Some(last_write) => *last_write = now,
            None => self.last_activity = now,
        }
    }

    #[inline]
    pub(crate) fn count_read(&mut self) {
        self.reads_low = self.reads_low.wrapping_add(1);
        if self.reads_low == 0 {
            self.carry_reads();
        }
    }

    fn carry_reads(&mut self) {
        self.extras().reads_high += 1;
    }

    /// Returns the statistics of the connection, without the counts of a dispatch in progress.
    pub(crate) fn stats(&self, callback_time: Duration) -> ConnStats {
        let unwritten = super::transport::unwritten_len(self);
        let reads_high = self.extras_ref().map_or(0, |extras| extras.reads_high);
        ConnStats {
            reads: u64::from(reads_high) << 32 | u64::from(self.reads_low),
            read_bytes: self.counts.read_bytes,
            written_bytes: self.counts.written_bytes.saturating_sub(unwritten as u64),
            frames_in: self.counts.frames_in,
            frames_out: self.counts.frames_out,
            callback_time,
        }
    }

    /// Returns the number of bytes in the write queue.
    pub(crate) fn queued_bytes(&self) -> usize {
        self.write_queue.as_ref().map_or(0, |queue| queue.len())
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::os::sim::Script;

    #[test]
    fn an_entry_takes_at_most_136_bytes() {
        // With debug assertions, a mio socket also stores its poll. In tests, the type of a stream
        // has one more variant, which needs one more word.
        let of_debug = if cfg!(debug_assertions) { 24 } else { 8 };
        let len = size_of::<Entry>();
        assert!(len <= 136 + of_debug, "an entry takes {len} bytes");
    }

    #[test]
    fn reads_are_counted_beyond_32_bits() {
        let mut conn = Connection::new(
            Script::new().stream(),
            SocketAddr::from(([127, 0, 0, 1], 1)).into(),
            Framing::raw(),
            NonZeroU32::MIN,
            State::default(),
        );
        for round in 1..=2 {
            conn.reads_low = u32::MAX;
            let before = conn.stats(Duration::ZERO).reads;
            conn.count_read();
            assert_eq!(conn.stats(Duration::ZERO).reads, before + 1);
            assert_eq!(before + 1, round << 32);
        }
    }
}
