//! Where events are written while a socket is observed: a ring of bounded length.

use std::time::{Duration, Instant};

use super::{Event, EventKind, Recording};
use crate::id::{SocketId, Token, UdpId};
use crate::os::Clock;

/// A ring of events. Invariant: `oldest < events.len()`, or both are zero; `oldest` is zero until
/// the ring is full.
#[derive(Debug)]
pub(crate) struct Recorder {
    clock: Clock,
    began: Instant,
    /// The latest time that anybody read from the clock, and how long that is from the beginning.
    latest: Instant,
    at: Duration,
    len_max: usize,
    events: Vec<Event>,
    /// Where the oldest event stands, and the next one goes.
    oldest: usize,
    overwritten: u64,
    /// How many datagrams each UDP socket that is open has sent and received since it was observed
    /// first. There are few such sockets.
    datagrams: Vec<(UdpId, u64, u64)>,
}

impl Recorder {
    /// Without an event it owns no memory.
    pub(crate) fn new(clock: Clock, len_max: usize) -> Self {
        let now = clock.now();
        Self {
            clock,
            began: now,
            latest: now,
            at: Duration::ZERO,
            len_max,
            events: Vec::new(),
            oldest: 0,
            overwritten: 0,
            datagrams: Vec::new(),
        }
    }

    /// Counts time from now on, unless there are events already.
    pub(crate) fn begin(&mut self) {
        self.stamp();
        if self.events.is_empty() {
            self.began = self.latest;
            self.at = Duration::ZERO;
        }
    }

    /// Takes note that it is at least this late.
    #[inline]
    pub(crate) fn pass(&mut self, now: Instant) {
        if now > self.latest {
            self.latest = now;
            self.at = now.saturating_duration_since(self.began);
        }
    }

    /// Reads the clock.
    #[inline]
    pub(crate) fn stamp(&mut self) {
        self.pass(self.clock.now());
    }

    /// Records what happened to a connection.
    #[inline]
    pub(crate) fn note(&mut self, conn: Token, kind: EventKind, offset: u64, len: u64) {
        self.push(Event {
            socket: SocketId::Conn(crate::ConnId(conn)),
            at: self.at,
            kind,
            offset,
            len,
        });
    }

    /// Records what happened to a datagram, with the next number of its direction.
    pub(crate) fn note_datagram(&mut self, socket: UdpId, kind: EventKind, len: usize) {
        let index = self.datagrams.iter().position(|(id, ..)| *id == socket);
        let index = index.unwrap_or_else(|| {
            self.datagrams.push((socket, 0, 0));
            self.datagrams.len() - 1
        });
        let (_, sent, received) = &mut self.datagrams[index];
        let number = match kind {
            EventKind::DatagramSent | EventKind::DatagramDropped => sent,
            _ => received,
        };
        let offset = *number;
        *number += 1;
        self.push(Event {
            socket: SocketId::Udp(socket),
            at: self.at,
            kind,
            offset,
            len: len as u64,
        });
    }

    /// A UDP socket is gone, and its id names nothing any more.
    #[cold]
    pub(crate) fn forget(&mut self, socket: UdpId) {
        self.datagrams.retain(|(id, ..)| *id != socket);
    }

    /// How many UDP sockets it has counts of.
    #[cfg(test)]
    pub(crate) fn socket_count(&self) -> usize {
        self.datagrams.len()
    }

    /// The events in their order. What comes next begins anew; datagrams are counted on.
    pub(crate) fn take(&mut self) -> Recording {
        let datagrams = std::mem::take(&mut self.datagrams);
        let empty = Self {
            datagrams,
            ..Self::new(self.clock, self.len_max)
        };
        let mut full = std::mem::replace(self, empty);
        full.events.rotate_left(full.oldest);
        Recording {
            began: full.began,
            events: full.events,
            overwritten: full.overwritten,
        }
    }

    #[inline]
    fn push(&mut self, event: Event) {
        if self.events.len() < self.len_max {
            self.events.push(event);
        } else {
            self.overwrite(event);
        }
    }

    fn overwrite(&mut self, event: Event) {
        self.overwritten += 1;
        if let Some(oldest) = self.events.get_mut(self.oldest) {
            *oldest = event;
            self.oldest = (self.oldest + 1) % self.events.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Generations;

    fn token() -> Token {
        let generation = Generations::new().take();
        Token::new(0, generation)
    }

    #[test]
    fn a_full_ring_keeps_the_newest_in_order_and_counts_the_rest() {
        for len_max in [0, 1, 2, 7, 100] {
            let mut recorder = Recorder::new(Clock::Real, len_max);
            for offset in 0..20 {
                recorder.note(token(), EventKind::Read, offset, 1);
            }
            let recording = recorder.take();
            let offsets: Vec<_> = recording.events().iter().map(|one| one.offset).collect();
            let kept = len_max.min(20);
            assert_eq!(offsets, (20 - kept as u64..20).collect::<Vec<_>>());
            assert_eq!(recording.overwritten(), 20 - kept as u64);
        }
    }

    #[test]
    fn time_never_runs_backwards() {
        let mut recorder = Recorder::new(Clock::Real, 9);
        let now = Instant::now();
        let later = now + Duration::from_secs(1);
        for now in [later, now] {
            recorder.pass(now);
            recorder.note(token(), EventKind::Read, 0, 1);
        }
        let recording = recorder.take();
        assert_eq!(recording.events()[0].at, recording.events()[1].at);
    }

    #[test]
    fn each_direction_of_each_udp_socket_counts_its_own_datagrams() {
        let mut generations = Generations::new();
        let mut id = |key| UdpId(Token::new(key, generations.take()));
        let (one, other) = (id(0), id(1));
        let mut recorder = Recorder::new(Clock::Real, 9);
        recorder.note_datagram(one, EventKind::DatagramSent, 5);
        recorder.note_datagram(other, EventKind::DatagramSent, 5);
        recorder.note_datagram(one, EventKind::DatagramDropped, 5);
        recorder.note_datagram(one, EventKind::DatagramReceived, 5);
        let recording = recorder.take();
        let (sent, received) = recording.datagrams(one);
        let numbers: Vec<_> = sent.iter().map(|event| event.offset).collect();
        assert_eq!((numbers, received.len()), (vec![0, 1], 1));
    }
}
