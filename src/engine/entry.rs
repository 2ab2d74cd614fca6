//! The entries of the slab.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::time::Duration;

use super::flow::Credit;
use super::timeouts::Timeouts;
use crate::addr::Addr;
#[cfg(unix)]
use crate::addr::UnixAddr;
use crate::codec::Framing;
use crate::config::{Config, Limits};
use crate::conn::{Assembler, State, WriteQueue};
use crate::datagram::DatagramQueue;
use crate::event::CloseReason;
use crate::id::Token;
#[cfg(unix)]
use crate::os::UnixDatagramSocket;
use crate::os::{ConnectOptions, Listener, Stream, Udp};
use crate::stats::{ConnCounts, ConnStats};
use crate::timer::{Stamp, TimerId};

/// What a token names. Connections stand in the slab itself; the few others are boxed, so that
/// they do not make every entry larger.
#[derive(Debug)]
pub(crate) enum Entry {
    Conn(Connection),
    Listener(Box<ListenerEntry>),
    Udp(Box<UdpEntry>),
    #[cfg(unix)]
    UnixDatagram(Box<UnixDatagramEntry>),
}

/// One TCP connection. Idle, this is all it costs.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) framing: Framing,
    /// Not here while it is active: see [`Active`](super::Active).
    pub(crate) assembler: Assembler,
    /// What the kernel refused, while there is any.
    pub(crate) write_queue: Option<Box<WriteQueue>>,
    /// What most connections do not have for most of their life.
    pub(crate) extras: Option<Box<Extras>>,
    pub(crate) stats: ConnCounts,
    pub(crate) peer: Addr,
    pub(crate) stream: Stream,
    /// The timer that looks at its timeouts, where any are set.
    pub(crate) check: Option<TimerId>,
    /// When bytes last went in or out, as far as anybody wants to know.
    pub(crate) active: Stamp,
    pub(crate) generation: NonZeroU32,
    pub(crate) flags: State,
    /// Calls of read, but for every 2^32 of them.
    reads: u32,
}

/// The parts of a connection that belong to its beginning and its end.
#[derive(Debug, Default)]
pub(crate) struct Extras {
    /// Why it is ending.
    pub(crate) reason: Option<CloseReason>,
    /// Output that was given up, in bytes.
    pub(crate) unsent_bytes: u64,
    /// Input that was given up, in bytes.
    pub(crate) undecoded_bytes: u64,
    /// The deadline for connecting or closing.
    pub(crate) deadline: Option<TimerId>,
    /// It ends with a reset.
    pub(crate) reset: bool,
    /// How to go on if the connect under way fails.
    pub(crate) dial: Option<Box<Dial>>,
    /// Somebody else had opened it.
    pub(crate) adopted: bool,
    /// The frames that it may still be delivered, where the handler grants them by number.
    pub(crate) credit: Option<Credit>,
    /// Calls of read, by 2^32.
    reads_high: u32,
    /// Limits of its own.
    pub(super) limits: Option<(Limits, Timeouts)>,
}

/// A connect to a list of addresses.
#[derive(Debug)]
pub(crate) struct Dial {
    /// Those that were not tried yet.
    pub(crate) addrs: VecDeque<Addr>,
    pub(crate) options: ConnectOptions,
    /// When the last of them has to have answered, from the epoch on.
    pub(crate) until: Duration,
}

#[derive(Debug)]
pub(crate) struct ListenerEntry {
    pub(crate) listener: Listener,
    pub(crate) framing: Framing,
    pub(crate) generation: NonZeroU32,
    pub(crate) flags: State,
}

#[derive(Debug)]
pub(crate) struct UdpEntry {
    pub(crate) udp: Udp,
    pub(crate) queue: DatagramQueue,
    /// As how many bytes the queue was last counted.
    pub(crate) counted_bytes: usize,
    /// The most that was since the last trim.
    pub(crate) queue_peak: usize,
    /// It stands in the list of those whose queues may be trimmed.
    pub(crate) is_grown: bool,
    /// Sending the front of the queue told of an earlier datagram's refusal.
    pub(crate) refused: bool,
    pub(crate) generation: NonZeroU32,
    pub(crate) flags: State,
}

#[cfg(unix)]
#[derive(Debug)]
pub(crate) struct UnixDatagramEntry {
    pub(crate) socket: UnixDatagramSocket,
    /// Whom the last datagram was from.
    pub(crate) from: UnixAddr,
    /// The connected peer had no room for a datagram.
    pub(crate) was_full: bool,
    pub(crate) generation: NonZeroU32,
    pub(crate) flags: State,
}

impl Extras {
    /// Whether nothing is in it that the connection still needs once it is open.
    pub(crate) fn is_empty(&self) -> bool {
        self.reason.is_none() && self.credit.is_none() && self.limits.is_none()
    }

    /// Notes why the connection ends. The first reason stands; but what was wrong with the stream
    /// or the socket, an abort and a deadline say more than the close that came before them.
    pub(crate) fn give_reason(&mut self, reason: CloseReason) {
        let is_close =
            |reason: &CloseReason| matches!(reason, CloseReason::Local | CloseReason::Peer);
        match &self.reason {
            Some(given) if !is_close(given) || is_close(&reason) => {}
            _ => self.reason = Some(reason),
        }
    }
}

impl Entry {
    #[inline]
    pub(crate) fn generation(&self) -> NonZeroU32 {
        match self {
            Self::Conn(conn) => conn.generation,
            Self::Listener(listener) => listener.generation,
            Self::Udp(udp) => udp.generation,
            #[cfg(unix)]
            Self::UnixDatagram(socket) => socket.generation,
        }
    }

    #[inline]
    pub(crate) fn flags_mut(&mut self) -> &mut State {
        self.head_mut().1
    }

    /// What all kinds have: the generation and the flags.
    #[inline]
    pub(crate) fn head_mut(&mut self) -> (NonZeroU32, &mut State) {
        match self {
            Self::Conn(conn) => (conn.generation, &mut conn.flags),
            other => other.rare_head_mut(),
        }
    }

    /// The same of what is most likely no connection.
    #[cold]
    pub(super) fn rare_head_mut(&mut self) -> (NonZeroU32, &mut State) {
        match self {
            Self::Conn(conn) => (conn.generation, &mut conn.flags),
            Self::Listener(listener) => (listener.generation, &mut listener.flags),
            Self::Udp(udp) => (udp.generation, &mut udp.flags),
            #[cfg(unix)]
            Self::UnixDatagram(socket) => (socket.generation, &mut socket.flags),
        }
    }
}

impl Connection {
    pub(crate) fn new(
        stream: Stream,
        peer: Addr,
        framing: Framing,
        generation: NonZeroU32,
        flags: State,
    ) -> Self {
        Self {
            framing,
            assembler: Assembler::default(),
            write_queue: None,
            extras: None,
            stats: ConnCounts::default(),
            reads: 0,
            peer,
            stream,
            check: None,
            active: Stamp::default(),
            generation,
            flags,
        }
    }

    /// The limits that hold for it.
    #[inline]
    pub(crate) fn limits(&self, config: &Config) -> Limits {
        match self
            .extras
            .as_ref()
            .and_then(|extras| extras.limits.as_ref())
        {
            Some((limits, _)) => *limits,
            None => config.limits(),
        }
    }

    pub(crate) fn extras(&mut self) -> &mut Extras {
        self.extras.get_or_insert_default()
    }

    /// Bytes of the buffers that it holds.
    pub(crate) fn held_bytes(&self) -> usize {
        let write_queue = self.write_queue.as_ref();
        self.assembler.capacity() + write_queue.map_or(0, |write_queue| write_queue.held_bytes())
    }

    /// Whether what it is sent while it is served may be gathered: nothing stops it, and nothing is
    /// queued before it.
    #[inline]
    pub(crate) fn gathers(&self) -> bool {
        const OTHERWISE: State = State::STOPS_SENDING.or(State::OWN_LIMITS);
        self.write_queue.is_none() && !self.flags.intersects(OTHERWISE)
    }

    /// Whether it needs no look at it, neither to be sent something while it is served nor after a
    /// frame: what it is sent is gathered, and its frames are not counted.
    #[inline]
    pub(crate) fn is_plain(&self) -> bool {
        self.write_queue.is_none() && !self.flags.intersects(State::NOT_PLAIN)
    }

    /// Whether all that there is to do is to read it and to decode what that gives.
    #[inline]
    pub(super) fn is_plain_to_read(&self) -> bool {
        const OTHERWISE: State = State::NOT_PLAIN.or(State::CONNECTING);
        self.flags.intersects(State::READABLE)
            && !self.flags.intersects(OTHERWISE)
            && self.write_queue.is_none()
            && self.assembler.is_to_ingest()
    }

    /// What is [watched](super::slab::Entries::watch) while it is active: a plain connection by
    /// its name; one that is plain but for being observed by nobody's, as frames may follow each
    /// other at once there, and sends may not.
    #[inline]
    pub(super) fn watched_as(&self, token: Token) -> Option<Token> {
        if self.is_plain() {
            return Some(token);
        }
        self.watched_if_observed()
    }

    #[cold]
    fn watched_if_observed(&self) -> Option<Token> {
        let looks_again = self.write_queue.is_some() || self.flags.intersects(State::LOOKS_AGAIN);
        (!looks_again).then_some(Token::NONE)
    }

    #[inline]
    pub(crate) fn count_read(&mut self) {
        self.reads = self.reads.wrapping_add(1);
        if self.reads == 0 {
            self.carry_reads();
        }
    }

    #[cold]
    fn carry_reads(&mut self) {
        self.extras().reads_high += 1;
    }

    /// What it has carried, as far as its entry knows.
    pub(crate) fn stats(&self, callback_time: Duration) -> ConnStats {
        let reads_high = self.extras.as_ref().map_or(0, |extras| extras.reads_high);
        ConnStats {
            reads: u64::from(reads_high) << 32 | u64::from(self.reads),
            read_bytes: self.stats.read_bytes,
            written_bytes: self.stats.written_bytes,
            frames_in: self.stats.frames_in,
            frames_out: self.stats.frames_out,
            callback_time,
        }
    }

    pub(crate) fn queued_bytes(&self) -> usize {
        self.write_queue
            .as_ref()
            .map_or(0, |write_queue| write_queue.len())
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::os::sim::Script;

    #[test]
    fn an_idle_connection_costs_no_more_than_136_bytes() {
        // Where debug assertions are on, mio's sockets are larger: they know their poll. And in
        // tests a stream has one kind more, which costs a word.
        let of_debug = if cfg!(debug_assertions) { 24 } else { 8 };
        let len = size_of::<Entry>();
        assert!(len <= 136 + of_debug, "an entry has {len} bytes");
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
            conn.reads = u32::MAX;
            let before = conn.stats(Duration::ZERO).reads;
            conn.count_read();
            assert_eq!(conn.stats(Duration::ZERO).reads, before + 1);
            assert_eq!(before + 1, round << 32);
        }
    }
}
